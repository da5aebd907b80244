"""What rebalance, drain, add-node and remove-node decide."""

import dataclasses
from typing import Any

import pytest

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook import moving
from fastcache.runbook.fleet import Fleet, Host, Member
from fastcache.runbook.hands import Played, RefusedError, UnreachableError
from fastcache.runbook.operation import Consent, Operation, StoppedError, carry_out

from .runbook_fleet import Quiet, World, fleet

YES = Consent(yes=True, owner="ann@a", gate_seconds=30)
PLAN = {
    "moves": [
        {"from": "node-h1-7001", "to": "node-h2-7001", "slots": 400},
        {"from": "node-h1-7001", "to": "node-h2-7001", "slots": 100},
        {"from": "node-h1-7001", "to": "node-h3-7001", "slots": 500},
    ],
    "slots": 1000, "keys": 5000, "bytes": 1 << 20, "seconds": 3.0,
}  # fmt: skip


def state(word: str = "running", moved: int = 0, left: int = 0, **more: object) -> dict[str, Any]:
    return {
        "state": word, "slotsMoved": moved, "slotsLeft": left, "slotsTotal": moved + left,
        "keysMoved": 5 * moved, "moves": [], "seconds": 1.5, "givenUp": 0, "waits": "",
        "secondsLeft": left / 200, **more,
    }  # fmt: skip


ENDED = [state("running", 0, 1000), state("running", 500, 500), state("idle", 1000)]


def world(**about: Any) -> World:
    return World(planned=PLAN, moves=list(ENDED), **about)


def unproved(operation: Operation) -> Operation:
    """Without the last look through every door, which asks real nodes."""
    return dataclasses.replace(
        operation, steps=tuple(step for step in operation.steps if step.name != "verify")
    )


def grown() -> Fleet:
    """The fleet, and a fourth host that is in the inventory only."""
    three = fleet()
    node = Member("node", "node-h4-7001", "h4", "10.0.0.4", 7001, "r4")
    hosts = {**three.hosts, "h4": Host("h4", "10.0.0.4", user="ops", become=True)}
    return dataclasses.replace(three, hosts=hosts, nodes=(*three.nodes, node))


class Growing(World):
    """A world whose fourth node is not a member before the playbook has run."""

    def nodes(self) -> list[dict[str, Any]]:
        joined = any("add_hosts" in call for call in self.calls)
        return [one for one in super().nodes() if joined or one["nodeId"] != "node-h4-7001"]

    def summary(self) -> dict[str, int]:
        return {**super().summary(), "healthyNodes": len([n for n in self.nodes() if n["nodeId"][0] == "n"])}


# --- weights ----------------------------------------------------------------------------------------


def test_weights_are_read() -> None:
    assert moving.weights_from("") == {}
    assert moving.weights_from("h1=50, h2=0") == {"h1": 50, "h2": 0}


@pytest.mark.parametrize("text", ["h1", "h1=", "=5", "h1=x", "h1=-1", "h1=100001", "h1:50"])
def test_what_is_no_weight_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="no NODE=PERCENT"):
        moving.weights_from(text)


# --- moving -----------------------------------------------------------------------------------------


def test_a_plan_names_who_gives_what_to_whom_once() -> None:
    operation = moving.rebalance(world(), {"h1": 50})
    (step,) = operation.steps
    assert (
        step.says
        == "500 slots from node-h1-7001 to node-h2-7001, 500 slots from node-h1-7001 to node-h3-7001"
    )
    assert "1000 slots with about 5000 keys, 1.0 MiB, about 3 s" in operation.says
    assert operation.arguments == {"node-h1-7001": "50"}


def test_slots_move_and_are_waited_for() -> None:
    here = world()
    show = Quiet()
    carry_out(moving.drain(here, "h1"), here, show, YES)
    assert "POST /rebalance/start" in here.calls
    assert '{"node-h1-7001": 0}' in here.calls
    assert "end move slots: 1000 slots with 5000 keys in 1.5 s" in show.told
    assert "waiting: 500 of 1000 slots moved, 2500 keys, about 2 s left" in show.told
    assert 0.5 in show.parts


def test_nothing_to_move_is_nothing_to_do() -> None:
    here = World()
    assert carry_out(moving.rebalance(here, {}), here, Quiet(), YES).outcome == "nothing to do"
    assert here.changing() == []


def test_what_others_do_to_it_ends_the_task() -> None:
    for word in ("paused", "cancelled"):
        here = World(planned=PLAN, moves=[state("running", 1, 999), state(word, 1)])
        with pytest.raises(StoppedError, match=f"somebody has {word} it"):
            carry_out(moving.drain(here, "h1"), here, Quiet(), YES)


def test_slots_that_do_not_move_are_not_waited_for_without_an_end() -> None:
    here = World(
        planned=PLAN,
        moves=[state("running", 10, 990, waits="node-h1-7001 and node-h2-7001 must both be well")],
    )
    began = here.time
    with pytest.raises(StoppedError, match="node-h1-7001 and node-h2-7001 must both be well"):
        carry_out(moving.drain(here, "h1"), here, Quiet(), YES)
    assert moving.STUCK_SECONDS <= here.time - began < moving.STUCK_SECONDS + 60


def test_another_leader_in_between_is_waited_for_and_a_refusal_is_not() -> None:
    here = world()
    silent = [UnreachableError("health-h1-8080 does not answer"), RefusedError("nobody leads", 503)]

    def ask() -> str:
        if silent:
            raise silent.pop()
        return "told"

    assert moving.answering(here, ask) == "told"

    def refuse() -> str:
        raise RefusedError("there is no node x", 409)

    with pytest.raises(RefusedError, match="no node x"):
        moving.answering(here, refuse)


def test_only_nodes_are_drained() -> None:
    with pytest.raises(UsageError, match="is no node"):
        moving.drain(world(), "proxy-h1-6382")


# --- hosts ------------------------------------------------------------------------------------------


def test_a_host_joins_gets_its_share_and_serves() -> None:
    here = Growing(fleet=grown(), planned=PLAN, moves=list(ENDED))
    operation = moving.add_node(here, "h4")
    assert [step.name for step in operation.steps] == ["add h4", "move slots", "copies", "verify"]
    assert operation.without == {"node-h4-7001"}
    here.behind = {"node-h4-7001"}
    here.ticks = lambda world: world.behind.discard("node-h4-7001")
    assert carry_out(unproved(operation), here, Quiet(), YES).outcome == "done"
    plays = [call for call in here.calls if call.startswith(("play", "POST /rebalance"))]
    assert plays == ["play playbooks/add_hosts.yml -e new=h4", "POST /rebalance/start"]


def test_a_host_that_was_drained_once_gets_its_weight_back() -> None:
    here = world()
    document = here.document()
    here.document = lambda: {  # type: ignore[method-assign]
        **document, "nodes": [{**one, "weight": 0} for one in document["nodes"]]
    }  # fmt: skip
    moving.shared(here, ["node-h1-7001"])
    assert '{"node-h1-7001": 100}' in here.calls


def test_a_host_without_a_node_does_not_join() -> None:
    four = dataclasses.replace(grown(), nodes=fleet().nodes)
    with pytest.raises(UsageError, match="h4 is not in the group nodes"):
        moving.add_node(World(fleet=four), "h4")


def test_a_host_gives_up_its_slots_before_it_is_cleaned() -> None:
    here = world()
    operation = moving.remove_node(here, "h3")
    assert [step.name for step in operation.steps] == ["move slots", "look", "remove h3"]
    # The world's placement does not change: whoever still holds slots is not cleaned.
    with pytest.raises(StoppedError, match="node-h3-7001 still hold slots"):
        carry_out(operation, here, Quiet(), YES)
    assert not any(call.startswith("play") for call in here.calls)


def test_a_host_that_holds_nothing_is_cleaned() -> None:
    here = World()
    document = here.document()
    here.document = lambda: {  # type: ignore[method-assign]
        **document, "slots": [{**row, "main": "node-h1-7001"} for row in document["slots"]]
    }  # fmt: skip
    operation = moving.remove_node(here, "h3")
    ungated = dataclasses.replace(
        operation,
        steps=tuple(dataclasses.replace(step, gated=False) for step in operation.steps),
        needs_well=False,
    )
    carry_out(ungated, here, Quiet(), YES)
    assert "play playbooks/remove_hosts.yml -e gone=h3 -e confirm=lab" in here.calls


def test_a_host_that_decides_or_the_last_one_is_refused() -> None:
    with pytest.raises(UsageError, match="h1 runs health-h1-8080"):
        moving.remove_node(world(), "h1")
    one = dataclasses.replace(fleet(), nodes=fleet().nodes[2:])
    with pytest.raises(UsageError, match="no node would be left"):
        moving.remove_node(world(fleet=one), "h3")


def test_a_playbook_that_fails_stops_before_slots_move() -> None:
    here = Growing(fleet=grown(), planned=PLAN, moves=list(ENDED))
    failed = 'fatal: [h4]: FAILED! => {"msg": "no bundle"}\n'
    here.plays["playbooks/add_hosts.yml"] = Played(2, failed, {})
    with pytest.raises(FastCacheError, match="h4: no bundle"):
        carry_out(moving.add_node(here, "h4"), here, Quiet(), YES)
    assert "POST /rebalance/start" not in here.calls
