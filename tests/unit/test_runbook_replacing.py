"""What replace-host decides, above all where the old host is lost and never answers again."""

import dataclasses
from typing import Any

import pytest

from fastcache.errors import UsageError
from fastcache.runbook import gate, replacing
from fastcache.runbook.fleet import Member
from fastcache.runbook.hands import Played
from fastcache.runbook.operation import Consent, StoppedError, carry_out
from fastcache.runbook.status import verify

from .runbook_fleet import Quiet, World
from .test_runbook_moving import ENDED, PLAN, grown

YES = Consent(yes=True, owner="ann@a", gate_seconds=30)


class Replacing(World):
    """h3 is replaced by h4, which is a member when the playbook has run; h3 is none any more then.

    Until `taken_over_at` h3's node is still the main of its slots.
    """

    def __init__(self, *, lost: bool = True, taken_over_at: float = 1003.0, **about: Any) -> None:
        super().__init__(fleet=grown(), planned=PLAN, moves=list(ENDED), **about)
        self.lost = {"h3"} if lost else set()
        self.unhealthy = {"node-h3-7001", "proxy-h3-6382"} if lost else set()
        self.taken_over_at = taken_over_at
        self.content: dict[bytes | str, bytes] = {}
        self.paused = False

    def gone(self) -> bool:
        return any("without=h3" in call or "gone=h3" in call for call in self.calls)

    def joined(self) -> bool:
        return any("add_hosts" in call for call in self.calls)

    def placing(self) -> tuple[Member, ...]:
        away = {"h3"} if self.gone() else set[str]()
        away |= set[str]() if self.joined() else {"h4"}
        return tuple(one for one in self.fleet.nodes if one.host not in away)

    def nodes(self) -> list[dict[str, Any]]:
        placed = {one.host for one in self.placing()}
        return [one for one in super().nodes() if one["nodeId"].split("-")[1] in placed]

    def summary(self) -> dict[str, int]:
        well = [one["nodeId"] for one in self.nodes() if one["status"] == "HEALTHY"]
        kinds = {"healthyNodes": "node-", "healthyProxies": "proxy-"}
        return {name: sum(one.startswith(kind) for one in well) for name, kind in kinds.items()}

    def replication(self) -> dict[str, Any]:
        held = {one.name: 4096 for one in self.placing()}
        if self.lost and self.time >= self.taken_over_at:
            held.pop("node-h3-7001", None)
        return {**super().replication(), "mains": held, "paused": self.paused}

    def say(self, *words: str | bytes) -> Any:
        if words[0] == "SET":
            assert isinstance(words[2], str)
            self.content[words[1]] = words[2].encode()
            return b"OK"
        if words[0] == "GET":
            return self.content[words[1]]
        if words[0] == "DEL":
            return int(self.content.pop(words[1], None) is not None)
        return super().say(*words)


def plays(world: World) -> list[str]:
    return [call for call in world.calls if call.startswith("play ")]


def names(world: World, old: str, new: str = "") -> list[str]:
    return [step.name for step in replacing.replace_host(world, old, new).steps]


def test_a_host_that_answers_gives_up_its_slots_and_is_cleaned_when_the_other_is_whole() -> None:
    world = Replacing(lost=False)
    assert names(world, "h3", "h4") == ["add h4", "fill h4", "remove h3", "move slots", "verify"]
    assert names(world, "h3") == ["add h3", "fill h3", "move slots", "verify"]
    operation = replacing.replace_host(world, "h3", "h4")
    assert operation.undo == "fab replace-host --host h4 --by h3"
    assert world.calls == ["h3: true"] * 3, "a plan only asks whether the host answers"
    assert carry_out(operation, world, Quiet(), YES).outcome == "done"
    assert plays(world) == [
        "play playbooks/add_hosts.yml -e new=h4",
        "play playbooks/remove_hosts.yml -e gone=h3 -e confirm=lab",
    ]


def test_a_host_that_is_lost_is_forgotten_as_the_other_joins_and_nothing_is_asked_of_it() -> None:
    world, show = Replacing(), Quiet()
    operation = replacing.replace_host(world, "h3", "h4")
    assert "which is lost" in operation.says
    assert operation.undo == "", "there is no way back to a host that is lost"
    assert any("keep it off the network" in note for note in operation.notes)
    done = carry_out(operation, world, show, YES)
    assert done.outcome == "done"
    assert [step["name"] for step in done.steps] == [
        "look", "add h4 and forget h3", "fill h4", "move slots", "verify"
    ]  # fmt: skip
    assert plays(world) == ["play playbooks/add_hosts.yml -e new=h4 -e without=h3"]
    assert "waiting: node-h3-7001 is still the main of 4096 slots" in show.told
    assert not any(call.startswith("h3:") for call in world.calls), "a lost host is asked for nothing"
    asked = done.steps[-1]["found"]
    assert asked == "6 doors serve 3 shards", "three nodes, two proxies, the balancer; nobody on h3"
    assert world.kept.lock is None


def test_nothing_is_forgotten_while_no_copy_has_taken_over() -> None:
    world = Replacing(taken_over_at=1e9)
    with pytest.raises(StoppedError, match="no copy in sync takes over") as caught:
        carry_out(replacing.replace_host(world, "h3", "h4"), world, Quiet(), YES)
    assert "fab failover --node node-h3-7001 --force" in caught.value.hint
    assert plays(world) == []
    world = Replacing(taken_over_at=1e9)
    world.paused = True
    with pytest.raises(StoppedError, match="failover is suspended") as caught:
        carry_out(replacing.replace_host(world, "h3", "h4"), world, Quiet(), YES)
    assert "fab resume" in caught.value.hint


def test_without_copies_the_plan_says_what_is_lost_and_does_not_wait_for_it() -> None:
    world = Replacing(taken_over_at=1e9, replicas=0)
    operation = replacing.replace_host(world, "h3", "h4")
    assert any("what only h3 had is lost" in note for note in operation.notes)
    assert "others will serve them, empty" in operation.steps[0].act()


def test_a_host_that_fell_after_the_other_had_joined_is_forgotten_all_the_same() -> None:
    world = Replacing(lost=False)
    world.plays["playbooks/remove_hosts.yml"] = Played(
        2, 'fatal: [h3]: UNREACHABLE! => {"msg": "gone"}\n', {}
    )
    with pytest.raises(StoppedError, match="gone"):
        carry_out(replacing.replace_host(world, "h3", "h4"), world, Quiet(), YES)
    world.lost, world.unhealthy = {"h3"}, {"node-h3-7001", "proxy-h3-6382"}
    done = carry_out(replacing.replace_host(world, "h3", "h4"), world, Quiet(), YES)
    assert done.outcome == "done"
    assert plays(world)[-1] == "play playbooks/add_hosts.yml -e new=h4 -e without=h3"


def test_what_cannot_be_replaced_is_refused_with_a_way_out() -> None:
    world = Replacing()
    with pytest.raises(UsageError, match="h1 runs health-h1-8080"):
        replacing.replace_host(world, "h1", "h4")
    with pytest.raises(UsageError, match="h3 does not answer") as caught:
        replacing.replace_host(world, "h3", "")
    assert "--by" in caught.value.hint
    world.fleet = dataclasses.replace(world.fleet, nodes=world.fleet.nodes[:3])
    with pytest.raises(UsageError, match="h4 is not in the group nodes"):
        replacing.replace_host(world, "h3", "h4")


def test_a_host_that_serves_and_only_cannot_be_reached_is_not_lost() -> None:
    world = Replacing()
    world.unhealthy = {"proxy-h3-6382"}
    with pytest.raises(UsageError, match="and yet node-h3-7001 on it serve") as caught:
        replacing.replace_host(world, "h3", "h4")
    assert "mend the way to h3" in caught.value.hint


def test_the_gate_asks_no_host_that_is_meant_to_be_away() -> None:
    world = Replacing()
    world.calls.append("play playbooks/add_hosts.yml -e new=h4 -e without=h3")
    away = world.fleet.on("h3")
    assert away == {"node-h3-7001", "proxy-h3-6382"}
    seen = gate.look(world, away)
    assert seen.trouble == ()
    assert gate.judge(seen, world.fleet, without=away) == ()
    assert gate.look(world).trouble == ("h3: no route to host",)
    assert verify(world, "h3")["well"]
    assert not verify(world)["well"], "a host that is in the inventory and is not said to be lost is missed"
