"""A rebalance as operators see it: the stream of progress, metrics, and the list of events."""

import json
import os
import re
import threading
import urllib.request
from pathlib import Path
from typing import Any

from tests.cluster.test_moves import Watched, eventually

KEYS = 3000


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
    found = (re.fullmatch(r"(\w*rebalance\w*) ([0-9.e+-]+)", line) for line in lines)
    return {match[1]: float(match[2]) for match in found if match}


def test_a_rebalance_is_told_while_it_runs_and_afterwards(tmp_path: Path) -> None:
    world = Watched(tmp_path)
    try:
        world.begin()
        pipe = world.nodes.client("a").pipeline(transaction=False)
        for number in range(KEYS):
            pipe.set(f"key:{number}", os.urandom(1000))  # It would be squeezed on its way otherwise.
        pipe.execute()
        url = world.service.url
        assert metrics(url)["rebalance_in_progress"] == 0
        stream = Stream(url)
        # A budget of bytes makes it last, so that it can be looked at: about 1.5 MB are to move.
        wish = {"weights": {"b": 100}, "megabytesPerSecond": 0.5}
        assert world.service.ask("POST", "/rebalance/start", wish)[0] == 202
        eventually(lambda: metrics(url)["rebalance_in_progress"] == 1, "it is in progress")
        eventually(lambda: any(one["moves"] for one in stream.seen), "the stream tells of moves")
        eventually(lambda: metrics(url)["rebalance_keys_total"] > 0, "it is estimated")
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
        kinds = [kind for kind in world.events() if kind.startswith(("rebalance", "move-"))]
        assert (kinds[0], kinds[-1]) == ("rebalance-started", "rebalance-done")
        begun, gone = kinds.count("move-begun"), kinds.count("move-given-up")
        # A machine with other work to do may take a node for dead: then it is begun again, and both are told.
        assert (begun - gone, after["fastcache_rebalance_given_up"]) == (1, gone)
        assert (kinds.count("move-flipped"), kinds.count("move-done")) == (1, 1)
    finally:
        world.end()
