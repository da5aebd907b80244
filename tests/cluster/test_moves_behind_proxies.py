"""A proxy is killed while slots move, at each state of a move: nothing acknowledged is lost, the move goes
on, and the proxy that is started again routes by the newest topology. test_moves_kills.py kills others.
"""

import time
from typing import Any

import pytest
import redis

from fastcache import _core
from fastcache.client import health
from tests.cluster.embedded import Embedded
from tests.cluster.test_moves import (
    CALM,
    COPIES,
    Load,
    events,
    eventually,
    fill,
    hurry,
    kill,
    mains,
    picture,
    service,
    state,
)
from tests.history.linear import Operation, Verdict

CLIENTS, PROXIES = 4, 2
MOMENTS = {"alone": ("copying", "sealed", "flipped"), "strict": ("copying", "joined", "sealed", "flipped")}


def order(cluster: Embedded, *, away: bool) -> None:
    """The last node gives its slots to the others, or gets its share back."""
    weights = {f"node-{cluster.port + 2}": 0 if away else 100}
    # So that copying is not over before it is seen.
    wish = {"weights": weights, "megabytesPerSecond": 20}
    health.call(service(cluster), "POST", "/rebalance/start", wish)


def met(cluster: Embedded, moment: str) -> bool:
    """Wait until a move is in that state; false when all were through before we saw it."""
    while (told := state(cluster))["state"] != "idle":
        if any(one["state"] == moment for one in told["moves"]):
            return True
        time.sleep(0.002)
    return False


def kept_epoch(cluster: Embedded, proxy: str) -> int:
    """The topology that a proxy obeys: it writes down each one that it begins to route by."""
    return int(_core.Topology.load(str(cluster.directory / proxy / "topology.json")).epoch)


def at_rest(cluster: Embedded, *, away: bool) -> bool:
    told = state(cluster)
    gone = f"node-{cluster.port + 2}" not in mains(cluster)
    return told["state"] == "idle" and not told["moves"] and gone == away


def read_all(load: Load) -> None:
    """The last look at every key, by a client who comes when everything is over."""
    with redis.Redis(port=load.port, socket_timeout=30) as client:
        for key in {one.key for one in load.history}:
            start = time.monotonic()
            found: Any = client.get(key)
            value = int(found) if found is not None else None
            load.history.append(Operation(f"last.{key}", key, "read", start, time.monotonic(), output=value))


@pytest.mark.parametrize("copies", MOMENTS)
def test_a_proxy_is_killed_at_each_state_of_a_move_and_nothing_acknowledged_is_lost(
    embedded: Embedded, copies: str
) -> None:
    wish = ("--nodes", "3", "--proxies", str(PROXIES), *COPIES[copies], *CALM)
    assert embedded.whole(*wish).returncode == 0
    client = redis.Redis(port=embedded.port_of("balancer"), socket_timeout=30)
    fill(client)
    before = picture(client)
    hurry(embedded)
    load = Load(embedded.port_of("balancer"), clients=CLIENTS)
    away, killed = False, 0
    try:
        for moment in MOMENTS[copies]:
            deadline = time.monotonic() + 240
            while True:
                away = not away
                order(embedded, away=away)
                if met(embedded, moment):
                    break
                assert time.monotonic() < deadline, f"no move was seen to be {moment}"
                eventually(lambda away=away: at_rest(embedded, away=away), "it is at rest")
            proxy = f"proxy-{embedded.port_of('proxy') + killed % PROXIES}"
            kill(embedded, proxy)
            killed += 1
            newest = int(state(embedded)["epoch"])
            again = embedded.call("up")
            assert again.returncode == 0, again.stderr
            assert kept_epoch(embedded, proxy) >= newest, "it starts with what was decided without it"
            eventually(lambda away=away: at_rest(embedded, away=away), f"{moment}: it goes on to its end")
            epoch = int(state(embedded)["epoch"])
            eventually(lambda p=proxy, e=epoch: kept_epoch(embedded, p) >= e, "it hears of the rest")
            # Nobody but that proxy says where the keys are.
            with redis.Redis(port=int(proxy.rpartition("-")[2]), socket_timeout=30) as direct:
                assert picture(direct) == before, moment
            print(f"{proxy} at {moment}: at rest in epoch {epoch}, {len(load.failed)} failed", flush=True)
    finally:
        load.end()
    # What was under way on it is lost with it, and what comes in while it dies: the sockets of its clients
    # are closed before those that it listens on.
    assert len(load.failed) <= killed * CLIENTS * 2, (load.failed, events(embedded))
    assert all("onnection" in one for one in load.failed), load.failed
    read_all(load)
    assert load.verdicts() == {Verdict.OK}
    assert picture(client) == before
    assert embedded.status()[0] == 0
