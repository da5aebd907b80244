"""The health service with replication: real service and store, stand-ins for nodes (stand_in_node.py)."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.health_processes import HealthProcess, until
from tests.cluster.stand_in_node import StandInNode


@pytest.fixture
def nodes() -> Iterator[dict[str, StandInNode]]:
    made = {name: StandInNode(name) for name in ("a", "b", "c")}
    yield made
    for node in made.values():
        node.kill()


@pytest.fixture
def service(tmp_path: Path, nodes: dict[str, StandInNode]) -> Iterator[HealthProcess]:
    members = [node.member() for node in nodes.values()]
    made = HealthProcess(
        tmp_path,
        nodes=members,
        replicas=1,
        flags=["replication", "strict"],
        settle=0,
        **{"replace-after": 5.0},
    ).start()
    try:
        until("copies in sync", lambda: whole(made), 60)
        yield made
    finally:
        if made.process and made.process.poll() is None:
            made.stop()


def whole(service: HealthProcess) -> bool:
    told = service.get("/replication")
    return told["slotsWithoutReplica"] == 0 and bool(told["streams"])


def held_by(topology: dict[str, Any], role: str) -> set[str]:
    return {name for group in topology["slots"] for name in group.get(role, [])}


def mains(topology: dict[str, Any]) -> set[str]:
    return {group["main"] for group in topology["slots"]}


def test_copies_are_learners_until_their_mains_say_that_they_are_in_sync(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    topology = service.topology()
    assert mains(topology) == held_by(topology, "replicas") == {"a", "b", "c"}
    assert not held_by(topology, "learners")
    assert all(group["main"] not in group["replicas"] for group in topology["slots"])
    assert {node["id"]: node["run"] for node in topology["nodes"]} == {"a": "a-0", "b": "b-0", "c": "c-0"}
    until(
        "everybody has it", lambda: {node.epoch for node in nodes.values()} == {service.topology()["epoch"]}
    )


def test_a_main_that_dies_is_replaced_and_its_heirs_hear_first(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    heirs = {group["replicas"][0] for group in service.topology()["slots"] if group["main"] == "a"}
    nodes["a"].kill()
    until("a is no main", lambda: "a" not in mains(service.topology()), 20)
    topology = service.topology()
    assert all(nodes[name].epoch >= topology["epoch"] for name in heirs), (
        "announced before its new mains had it"
    )
    (event,) = [one for one in service.get("/events") if one["event"] == "failover" and one["old"] == "a"][
        :1
    ] or [None]
    assert event["how"] == "automatic"
    # It returns with nothing, is filled, and is a copy of others.
    nodes["a"].restart()
    until("a is in sync", lambda: whole(service) and "a" in held_by(service.topology(), "replicas"), 15)
    assert "a" not in mains(service.topology())


def test_a_main_that_restarts_at_once_is_replaced_too(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    nodes["a"].kill()
    nodes["a"].restart()
    until("a is no main", lambda: "a" not in mains(service.topology()), 10)
    assert service.status("a") == "HEALTHY"


def test_a_main_whose_copy_is_gone_may_go_on_alone_and_its_copy_comes_back(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    (copy,) = {
        name
        for group in service.topology()["slots"]
        if group["main"] == "a"
        for name in group["replicas"][:1]
    } - {"c"} or {"b"}
    nodes["a"].broken[copy] = "connecting"

    def alone() -> bool:
        groups = [group for group in service.topology()["slots"] if group["main"] == "a"]
        return any(copy in group.get("learners", []) and copy not in group["replicas"] for group in groups)

    until("granted", alone)
    until("a knows", lambda: nodes["a"].epoch == service.topology()["epoch"])
    del nodes["a"].broken[copy]
    until("in sync again", lambda: whole(service), 10)


def test_a_grant_that_is_asked_for_comes_once_a_replica_that_lives_has_had_its_time(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    group = next(group for group in service.topology()["slots"] if group["main"] == "a")
    copy, epoch = group["replicas"][0], service.topology()["epoch"]
    nodes["a"].broken[copy] = "shed"
    status, told, _ = service.ask("POST", "/grants", {"node": "a", "replica": copy, "epoch": epoch})
    assert (status, told["granted"]) == (202, True)
    until("an epoch later", lambda: service.topology()["epoch"] > epoch, 15)
    assert (
        service.ask("POST", "/grants", {"node": "b", "replica": "b", "epoch": epoch})[1]["granted"] is False
    )


def test_a_switchover_holds_writes_tells_the_old_main_first_and_lets_go(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    status, told, _ = service.ask("POST", "/switchover", {"node": "a", "plan": True})
    assert status == 200
    assert sum(step["slots"] for step in told["plan"]) > 5000
    assert "a" in mains(service.topology()), "a plan changes nothing"
    for node in nodes.values():
        node.heard.clear()
    status, told, _ = service.ask("POST", "/switchover", {"node": "a"})
    assert status == 200, told
    assert "a" not in mains(service.topology())
    assert [words for _, words in nodes["a"].heard][:1] == ["CLIENT PAUSE 3000"]
    assert "CLIENT UNPAUSE" in [words for _, words in nodes["a"].heard]
    given_up = next(at for at, words in nodes["a"].heard if "TOPOLOGY SET" in words)
    for heir in {step["new"] for step in told["to"]}:
        heard, words = next(one for one in nodes[heir].heard if "TOPOLOGY SET" in one[1])
        assert given_up < heard
        assert words == "FASTCACHE TOPOLOGY SET RELIEVED a", "it need not wait for a lease"
    until("in sync again", lambda: whole(service), 10)
    events = [one for one in service.get("/events") if one["event"] == "failover"]
    assert {one["how"] for one in events} == {"switchover"}


def test_heirs_of_an_older_release_and_of_a_main_that_does_not_obey_are_told_no_more_than_before(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    for node in nodes.values():
        node.is_older = True
        node.heard.clear()
    assert service.ask("POST", "/switchover", {"node": "a"})[0] == 200
    assert "a" not in mains(service.topology())
    until("in sync again", lambda: whole(service), 10)
    for node in nodes.values():
        node.is_older = False
        node.heard.clear()
    nodes["b"].refuses = "ERR the disk is full"
    assert service.ask("POST", "/switchover", {"node": "b"})[0] == 200
    told = [words for node in nodes.values() for _, words in node.heard if "TOPOLOGY SET" in words]
    assert not [words for words in told if "RELIEVED" in words], told


def test_a_node_that_is_about_to_stop_serves_nothing_and_is_nobodys_copy_for_a_while(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    status, told, _ = service.ask("POST", "/switchover", {"node": "a", "leave": 2})
    assert status == 200, told
    for group in service.topology()["slots"]:
        assert group["main"] != "a"
        assert "a" not in group["replicas"]
    assert service.ask("POST", "/switchover", {"node": "a", "leave": 2})[0] == 200, (
        "it serves nothing already"
    )
    until("it stayed, and is waited for again", lambda: whole(service), 10)


def test_a_node_that_is_to_stop_is_believed_when_it_says_so_itself(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    assert service.ask("POST", "/leaving", {"node": "nobody"})[0] == 404
    status, told, _ = service.ask("POST", "/leaving", {"node": "a"})
    assert status == 409
    assert "a does not say that it is to stop" in str(told)
    assert "a" in mains(service.topology()), "anybody can ask"
    nodes["a"].is_leaving = True
    status, told, _ = service.ask("POST", "/leaving", {"node": "a"})
    assert status == 200, told
    topology = service.topology()
    assert "a" not in mains(topology) | held_by(topology, "replicas")
    # A copy that answers may be in sync in a moment: it is worth asking again.
    nodes["b"].acked, nodes["b"].is_leaving = {"c": 3}, True
    status, told, _ = service.ask("POST", "/leaving", {"node": "b"})
    assert status == 503, told
    assert "ask again" in told["error"]
    assert "b" in mains(service.topology())
    nodes["b"].acked = {}
    # When there is nobody left to take over, nothing is changed.
    nodes["b"].is_leaving = nodes["c"].is_leaving = True
    refused = [service.ask("POST", "/leaving", {"node": name})[0] for name in ("b", "c")]
    assert refused[-1] == 409
    assert mains(service.topology())


def test_a_switchover_that_would_lose_writes_is_refused_and_writes_go_on(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    nodes["a"].acked = {"b": 3, "c": 3}
    nodes["a"].heard.clear()
    status, told, _ = service.ask("POST", "/switchover", {"node": "a"})
    assert status == 409
    assert "did not catch up" in told["error"]
    assert "a" in mains(service.topology())
    assert [words for _, words in nodes["a"].heard][-1] == "CLIENT UNPAUSE"
    assert service.ask("POST", "/switchover", {"node": "nobody"})[0] == 409


def test_while_failover_is_paused_a_dead_main_stays_the_main_and_an_operator_still_can(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    assert service.ask("POST", "/pause", {})[1] == {"paused": True}
    nodes["a"].kill()
    until("a is down", lambda: service.status("a") == "UNHEALTHY", 10)
    time.sleep(0.5)  # Long enough for a decision.
    assert "a" in mains(service.topology())
    assert service.get("/replication")["slotsDown"] > 0
    status, told, _ = service.ask("POST", "/failover", {"node": "a"})
    assert status == 200, told
    assert "a" not in mains(service.topology())
    assert service.ask("POST", "/resume", {})[1] == {"paused": False}


def test_a_service_that_dies_and_returns_knows_who_is_the_main(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    service.ask("POST", "/pause", {})
    until("paused", lambda: "paused" in service.topology()["flags"])
    before = service.topology()
    service.kill()
    nodes["a"].kill()
    service.start()
    assert service.topology()["slots"] == before["slots"]
    until("a is down", lambda: service.status("a") == "UNHEALTHY", 10)
    assert "a" in mains(service.topology()), "the pause outlives the service"
    service.ask("POST", "/resume", {})
    until("a is replaced", lambda: "a" not in mains(service.topology()), 10)
    assert service.topology()["epoch"] > before["epoch"]


def test_replication_is_switched_on_and_off_in_a_running_cluster(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    before = mains(service.topology())
    service.ask("POST", "/flags", {"replication": False, "strict": False})
    until("no copies", lambda: not held_by(service.topology(), "replicas"))
    assert mains(service.topology()) == before
    service.ask("POST", "/flags", {"replication": True})
    until("copies", lambda: whole(service), 10)


def test_a_copy_whose_host_stays_away_is_made_elsewhere(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    nodes["c"].kill()
    until(
        "c holds nothing",
        lambda: (
            "c"
            not in mains(service.topology())
            | held_by(service.topology(), "replicas")
            | held_by(service.topology(), "learners")
        ),
        20,
    )
    until("a and b are each other's copies", lambda: whole(service), 10)


def test_both_gone_concerns_their_slots_alone(service: HealthProcess, nodes: dict[str, StandInNode]) -> None:
    nodes["a"].kill()
    nodes["b"].kill()
    until(
        "c serves what it has",
        lambda: (
            service.get("/replication")["slotsDown"] in range(1, 16384)
            and service.status("a") == "UNHEALTHY"
            and service.status("b") == "UNHEALTHY"
        ),
        10,
    )
    told = service.topology()
    assert "c" in mains(told)
    page = service.ask("GET", "/metrics")[1].decode()
    assert 'fastcache_failovers_total{how="automatic"}' in page
    assert "fastcache_slots_without_replica" in page


def test_a_heir_that_refuses_because_it_restarted_costs_an_epoch_and_nothing_else(
    service: HealthProcess, nodes: dict[str, StandInNode]
) -> None:
    for name in ("b", "c"):
        nodes[name].refuses = "STALERUN this node restarted"
    nodes["a"].kill()
    until("a is down", lambda: service.status("a") == "UNHEALTHY", 10)
    time.sleep(0.5)
    for name in ("b", "c"):
        nodes[name].refuses = ""
    until("a is replaced", lambda: "a" not in mains(service.topology()), 15)
    assert all(node.epoch <= service.topology()["epoch"] for node in nodes.values())
