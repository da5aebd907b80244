"""Several health services on a real etcd: one leads, the others follow, and a deposed one cannot write."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcache.health.store import DeposedError, Stored
from fastcache.health.store.etcd import EtcdStore
from tests.cluster.health_processes import HealthProcess, StandIn, etcd, until

pytestmark = pytest.mark.skipif(not shutil.which("etcd"), reason="etcd is not installed")
LEASE_SECONDS = 2


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with etcd(tmp_path_factory.mktemp("etcd")) as url:
        yield url


@pytest.fixture
def nodes() -> Iterator[list[StandIn]]:
    all_of_them = [StandIn() for _ in range(3)]
    yield all_of_them
    for node in all_of_them:
        node.close()


@pytest.fixture
def services(
    endpoint: str, nodes: list[StandIn], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[list[HealthProcess]]:
    listed = [{"id": f"n{i}", "host": "127.0.0.1", "port": node.port} for i, node in enumerate(nodes, 1)]
    settings = {
        "store": "etcd",
        "etcd-endpoint": endpoint,
        "lease": LEASE_SECONDS,
        "cluster": request.node.name,
        "nodes": listed,
    }
    all_of_them = [HealthProcess(tmp_path / f"health{n}", **settings) for n in range(3)]
    for service in all_of_them:
        service.launch()
    for service in all_of_them:
        service.ready()
    yield all_of_them
    for service in all_of_them:
        if service.process and service.process.poll() is None:
            service.process.send_signal(signal.SIGCONT)
            service.kill()


def leader_of(services: list[HealthProcess]) -> HealthProcess | None:
    leaders = [s for s in services if s.process and s.process.poll() is None and leads(s)]
    assert len(leaders) <= 1, "two services say that they lead"
    return leaders[0] if leaders else None


def leads(service: HealthProcess) -> bool:
    return service.ask("GET", "/primary")[0] == 200


def settled(services: list[HealthProcess]) -> HealthProcess:
    """The leader, once all serve one topology in which all nodes are up."""
    leader: HealthProcess = until("one leads", lambda: leader_of(services))

    def alike() -> bool:
        told = [service.topology() for service in services]
        return all(one == told[0] for one in told) and all(n["state"] == "up" for n in told[0]["nodes"])

    until("all serve the same", alike)
    return leader


def test_one_leads_and_only_it_checks_while_all_serve_the_topology(
    services: list[HealthProcess], nodes: list[StandIn]
) -> None:
    leader = settled(services)
    followers = [service for service in services if service is not leader]
    assert all(service.get("/leader")["leader"] == leader.url for service in followers)
    assert all(service.ask("GET", "/replica")[0] == 200 for service in followers)
    counted = len(nodes[0].asked)
    began = time.monotonic()
    until("some checks were made", lambda: len(nodes[0].asked) >= counted + 5)
    assert (len(nodes[0].asked) - counted) / (time.monotonic() - began) < 1.5 / 0.3, "followers check too"
    nodes[1].close()
    for service in services:
        until("all hear of it", lambda s=service: s.topology()["nodes"][1]["state"] == "down")


def test_a_change_asked_of_a_follower_is_sent_on_to_the_leader(services: list[HealthProcess]) -> None:
    leader = settled(services)
    follower = next(service for service in services if service is not leader)
    node = {"id": "n9", "host": "127.0.0.1", "port": 1}
    status, _, headers = follower.ask("POST", "/nodes", node)
    assert (status, headers["location"]) == (307, f"{leader.url}/nodes")
    assert leader.ask("POST", "/nodes", node)[0] == 201
    until("the follower knows", lambda: len(follower.topology()["nodes"]) == 4)


def test_a_follower_has_a_topology_when_the_leader_has_it_not_when_its_next_turn_comes(
    endpoint: str, nodes: list[StandIn], tmp_path: Path
) -> None:
    """Who asks a follower would send requests to the old main of a slot meanwhile."""
    listed = [{"id": f"n{i}", "host": "127.0.0.1", "port": node.port} for i, node in enumerate(nodes, 1)]
    settings = {"store": "etcd", "etcd-endpoint": endpoint, "lease": 80, "cluster": "news", "nodes": listed}
    leader, follower = (HealthProcess(tmp_path / f"health{n}", **settings) for n in range(2))
    try:
        for service in (leader, follower):
            service.launch()
            service.ready()
            # The second finds its leader in its first turn; its next one comes after twenty seconds.
            until("one leads", lambda: leads(leader))
        for number in range(3):
            began = time.monotonic()
            assert (
                leader.ask("POST", "/nodes", {"id": f"m{number}", "host": "127.0.0.1", "port": 1})[0] == 201
            )
            until("it knows", lambda known=4 + number: len(follower.topology()["nodes"]) == known)
            assert time.monotonic() - began < 10
    finally:
        for service in (leader, follower):
            service.kill()


def test_when_the_leader_dies_another_takes_over_with_all_it_knew(
    services: list[HealthProcess], nodes: list[StandIn]
) -> None:
    leader = settled(services)
    leader.ask("POST", "/proxies", {"id": "p1", "host": "127.0.0.1", "port": nodes[0].port})
    before = until("it is saved", lambda: (t := leader.topology())["proxies"] and t)
    began = time.monotonic()
    leader.kill()
    rest = [service for service in services if service is not leader]
    heir: HealthProcess = until("another leads", lambda: leader_of(rest))
    assert time.monotonic() - began < LEASE_SECONDS + 3
    after = heir.topology()
    assert after["epoch"] >= before["epoch"]
    assert (after["slots"], after["cluster"]) == (before["slots"], before["cluster"])
    assert [one["id"] for one in after["proxies"]] == ["p1"]
    nodes[2].close()
    until("it judges", lambda: heir.status("n3") == "UNHEALTHY")


def test_a_leader_that_leaves_in_order_is_followed_at_once(services: list[HealthProcess]) -> None:
    leader = settled(services)
    began = time.monotonic()
    assert leader.stop() == 0
    until("another leads", lambda: leader_of([s for s in services if s is not leader]))
    assert time.monotonic() - began < LEASE_SECONDS + 1


def test_a_leader_that_was_paused_cannot_raise_the_epoch_when_it_wakes(
    services: list[HealthProcess], nodes: list[StandIn]
) -> None:
    leader = settled(services)
    assert leader.process
    os.kill(leader.process.pid, signal.SIGSTOP)
    rest = [service for service in services if service is not leader]
    heir: HealthProcess = until("another leads", lambda: leader_of(rest))
    nodes[0].close()
    until("the heir judges", lambda: heir.topology()["nodes"][0]["state"] == "down")
    os.kill(leader.process.pid, signal.SIGCONT)

    def obeys() -> bool:
        return leader.get("/leader")["leader"] == heir.url and leader.topology() == heir.topology()

    until("the old one follows", obeys)


def test_only_the_holder_of_the_lead_can_save(endpoint: str) -> None:
    one = EtcdStore(endpoint, "fencing", "http://one", LEASE_SECONDS)
    two = EtcdStore(endpoint, "fencing", "http://two", LEASE_SECONDS)
    assert one.campaign()
    assert not two.campaign()
    assert two.leader() == "http://one"
    one.save(Stored(1, b"t1", b"[]"), after=0)
    with pytest.raises(DeposedError):
        two.save(Stored(2, b"t2", b"[]"), after=1)
    # The lease of the first runs out behind its back; its token no longer fits.
    one.lease.revoke()
    assert two.campaign()
    two.save(Stored(2, b"t2", b"[]"), after=1)
    with pytest.raises(DeposedError):
        one.save(Stored(2, b"other", b"[]"), after=1)
    with pytest.raises(DeposedError):
        two.save(Stored(3, b"t3", b"[]"), after=1)
    assert one.load() == Stored(2, b"t2", b"[]")
    assert one.epoch() == 2
    # Whoever was refused has let go of the lead: it must read again before it writes.
    assert one.campaign()
    assert not two.campaign()
    one.resign()
    assert two.campaign()
