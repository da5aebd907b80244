"""A rebalance as operators see it: stream of progress, metrics, list of events; and budgets that are kept."""

import json
import os
import re
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.cluster.test_moves import Watched, eventually

KEYS = 3000
VALUE_BYTES = 1000


class Stream(threading.Thread):
    """Server-sent events of /rebalance/stream, as a dashboard reads them."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.seen: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        with urllib.request.urlopen(f"{self.url}/rebalance/stream", timeout=120) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            for line in answer:
                if line.startswith(b"data: "):
                    self.seen.append(json.loads(line[6:]))


def metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = (re.fullmatch(r"(\w*rebalance\w*(?:{[^}]*})?) ([0-9.e+-]+)", line) for line in lines)
    return {match[1]: float(match[2]) for match in found if match}


def fill(world: Watched, keys: int) -> None:
    """So many keys, of which half are to move."""
    pipe = world.nodes.client("a").pipeline(transaction=False)
    for number in range(keys):
        pipe.set(f"key:{number}", os.urandom(VALUE_BYTES))  # It would be squeezed on its way otherwise.
    pipe.execute()


def read(world: Watched, present: int, absent: int) -> None:
    """So many reads that find their key and so many that do not, at whoever has its slot."""
    found = [world.read(f"key:{number}") for number in range(present)]
    found += [world.read(f"missing:{number}") for number in range(absent)]
    assert found.count(None) == absent


def test_a_rebalance_is_told_while_it_runs_and_afterwards(tmp_path: Path) -> None:
    world = Watched(tmp_path)
    try:
        world.begin()
        fill(world, KEYS)
        read(world, present=90, absent=10)
        url = world.service.url
        assert metrics(url)["rebalance_in_progress"] == 0
        stream = Stream(url)
        # A budget of bytes makes it last, so that it can be looked at: about 1.5 MB are to move.
        wish = {"weights": {"b": 100}, "megabytesPerSecond": 0.5}
        assert world.service.ask("POST", "/rebalance/start", wish)[0] == 202
        eventually(lambda: metrics(url)["rebalance_in_progress"] == 1, "it is in progress")
        eventually(lambda: any(one["moves"] for one in stream.seen), "the stream tells of moves")
        eventually(lambda: metrics(url)["rebalance_keys_total"] > 0, "it is estimated")
        eventually(lambda: 'fastcache_rebalance_hit_rate{when="normal"}' in metrics(url), "reads are counted")
        read(world, present=30, absent=10)
        during = metrics(url)
        assert during["fastcache_rebalance_pace_bytes_per_second"] == 500_000
        eventually(lambda: world.told()["state"] == "idle" and world.mains() == {"a", "b"}, "it ends")
        after = metrics(url)
        there = world.nodes.client("b").dbsize()
        assert after["rebalance_in_progress"] == 0
        assert after["rebalance_keys_moved"] == there > KEYS / 4
        assert abs(after["rebalance_keys_total"] - there) < KEYS / 5, "as estimated, or about that"
        assert after["rebalance_duration_seconds"] > 1
        assert after["fastcache_rebalance_slots_left"] == 0
        eventually(lambda: stream.seen[-1]["state"] == "idle", "the stream tells of the end")
        moved = [one["slotsMoved"] for one in stream.seen if one["state"] == "running"]
        assert moved == sorted(moved), "progress goes forward"
        assert after['fastcache_rebalance_hit_rate{when="normal"}'] == 0.9
        assert after['fastcache_rebalance_hit_rate{when="during"}'] == 0.75
        assert after["fastcache_rebalance_hit_rate_dip_expected"] == 0, "there is room for all of it"
        assert 0 < after["fastcache_rebalance_p99_normal_seconds"] < 60
        kinds = [kind for kind in world.events() if kind.startswith(("rebalance", "move-"))]
        assert (kinds[0], kinds[-1]) == ("rebalance-started", "rebalance-done")
        begun, gone = kinds.count("move-begun"), kinds.count("move-given-up")
        # A machine with other work to do may take a node for dead: then it is begun again, and both are told.
        assert (begun - gone, after["fastcache_rebalance_given_up"]) == (1, gone)
        assert (kinds.count("move-flipped"), kinds.count("move-done")) == (1, 1)
    finally:
        world.end()


def test_a_budget_of_bytes_is_kept_at_every_moment(tmp_path: Path) -> None:
    world, budget = Watched(tmp_path), 400_000
    try:
        world.begin()
        fill(world, KEYS)
        taker = world.nodes.client("b")
        wish = {"weights": {"b": 100}, "megabytesPerSecond": budget / 1e6}
        # What is known of the bytes: that many values of that size are there, whoever counts.
        began, seen = time.monotonic(), list[tuple[float, int]]()
        assert world.service.ask("POST", "/rebalance/start", wish)[0] == 202
        deadline = began + 240
        while world.told()["state"] != "idle" or world.mains() != {"a", "b"}:
            come = taker.dbsize() * VALUE_BYTES
            seen.append((time.monotonic() - began, come))
            assert seen[-1][0] < deadline - began, world.told()
            time.sleep(0.05)
        # A tenth of a second's worth may have been saved up, and what is in a piece is sent whole.
        slack = budget / 10 + 64_000
        assert [(at, come) for at, come in seen if come > budget * at + slack] == []
        told, there = world.told(), taker.dbsize() * VALUE_BYTES
        assert there > KEYS * VALUE_BYTES / 4
        assert told["bytesMoved"] >= there, "all that came is counted"
        assert told["bytesMoved"] <= budget * told["seconds"] + slack, "as the service counts and measures"
        assert told["bytesMoved"] <= budget * seen[-1][0] + slack, "and as the clock on the wall does"
        print(f"{told['bytesMoved']} bytes in {told['seconds']} s, {seen[-1][0]:.1f} s on the wall")
    finally:
        world.end()


def test_answers_that_take_longer_than_the_budget_slow_it_down_and_shorter_ones_let_it_go_again(
    tmp_path: Path,
) -> None:
    world = Watched(tmp_path)
    try:
        world.begin()
        fill(world, 2 * KEYS)

        def pace() -> float:
            return metrics(world.service.url)["fastcache_rebalance_pace_bytes_per_second"]

        # No node answers within a microsecond: whatever the machine, that is too slow.
        wish = {"weights": {"b": 100}, "megabytesPerSecond": 0.8, "p99Ms": 0.001}
        assert world.service.ask("POST", "/rebalance/start", wish)[0] == 202
        eventually(lambda: pace() == 500_000, "it is as slow as it may become")
        eventually(lambda: metrics(world.service.url)["fastcache_rebalance_p99_seconds"] > 0, "and says why")
        assert world.told()["state"] == "running", "it has slowed down while there was something to copy"
        # And none takes a minute, for then it would be taken for dead.
        assert world.service.ask("POST", "/rebalance/start", {"p99Ms": 60_000})[0] == 202
        eventually(lambda: pace() == 800_000, "it goes as fast as its megabytes allow")
        eventually(lambda: world.told()["state"] == "idle" and world.mains() == {"a", "b"}, "it ends")
        told = world.told()
        assert told["seconds"] > told["bytesMoved"] / 800_000 - 0.2
    finally:
        world.end()
