"""Rolling changes of the runbook where racks have budgets of several hosts."""

import dataclasses

import pytest

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook import rolling
from fastcache.runbook.fleet import Fleet, Host, Member
from fastcache.runbook.hands import Outcome
from fastcache.runbook.operation import Consent, Operation, carry_out

from .runbook_fleet import Quiet, World

NAMES = ("h1", "h2", "h3", "h4")
RACK = {"h1": "r1", "h2": "r2", "h3": "r1", "h4": "r2"}
TWO = {"r1": 2, "r2": 2}
YES = Consent(yes=True, owner="ann@a", gate_seconds=30)


def fleet(budgets: dict[str, int]) -> Fleet:
    """Four hosts in two racks, a node and a proxy each; the health service of h2 leads."""
    address = {name: f"10.0.0.{number}" for number, name in enumerate(NAMES, 1)}

    def members(kind: str, port: int, hosts: tuple[str, ...] = NAMES) -> tuple[Member, ...]:
        return tuple(
            Member(kind, f"{kind}-{name}-{port}", name, address[name], port, RACK[name])  # type: ignore[arg-type]
            for name in hosts
        )

    return Fleet(
        "lab",
        "lab",
        {name: Host(name, address[name]) for name in NAMES},
        members("node", 7001),
        members("proxy", 6382),
        members("health", 8080, ("h1", "h2")),
        (Member("balancer", "client-h1-6380", "h1", address["h1"], 6380),),
        budgets=budgets,
    )


def apart() -> World:
    """Whoever leaves is followed by a node of the other rack."""
    heirs = {
        f"node-{one}-7001": f"node-{other}-7001"
        for one, other in zip(NAMES, ["h2", "h3", "h4", "h1"], strict=True)
    }
    return World(fleet=fleet(TWO), heirs=heirs)


def names(operation: Operation) -> list[str]:
    return [step.name for step in operation.steps]


def test_proxies_and_nodes_of_a_rack_start_again_together_and_health_services_never_do() -> None:
    operation = rolling.restart(apart())
    assert names(operation) == [
        "health-h1-8080", "health-h2-8080",
        "proxy-h1-6382, proxy-h3-6382", "proxy-h2-6382, proxy-h4-6382",
        "node-h1-7001, node-h3-7001", "node-h2-7001, node-h4-7001",
        "level",
    ]  # fmt: skip
    assert operation.says == "Start every service again, up to 2 hosts of a rack at a time"
    assert operation.steps[4].says == (
        "h1, h3: hand their slots over, restart fastcache-node@7001.service, wait for their copies"
    )


def test_a_release_goes_rack_by_rack_that_of_the_leader_last() -> None:
    steps = rolling.release_steps(apart(), "1.2.3")
    assert [step.name for step in steps] == [
        "h1, h3: use 1.2.3", "health-h1-8080: 1.2.3",
        "proxy-h1-6382, proxy-h3-6382: 1.2.3", "node-h1-7001, node-h3-7001: 1.2.3",
        "h4, h2: use 1.2.3", "health-h2-8080: 1.2.3",
        "proxy-h2-6382, proxy-h4-6382: 1.2.3", "node-h2-7001, node-h4-7001: 1.2.3",
        "level",
    ]  # fmt: skip


def test_with_budgets_of_one_every_service_goes_alone() -> None:
    assert all("," not in name for name in names(rolling.restart(World(fleet=fleet({})))))
    assert all("," not in name for name in names(rolling.restart(World(fleet=fleet({"r1": 1, "r2": 1})))))


def test_nodes_of_a_turn_all_hand_over_before_the_first_of_them_starts_again() -> None:
    world = apart()
    found = rolling.restart_nodes(world, world.fleet.nodes[0], world.fleet.nodes[2])
    did = world.changing()
    assert did[:2] == ["POST /switchover", "POST /switchover"]
    assert sorted(call.partition(":")[0] for call in did[2:]) == ["h1", "h3"]
    assert all("systemctl restart fastcache-node@7001" in call for call in did[2:])
    assert found.endswith("restarted")
    assert "handed over to node-h2-7001 in 0.01 s, handed over to node-h4-7001" in found


def test_nodes_that_only_have_one_another_are_not_started_again_together() -> None:
    world = apart()
    world.heirs = {"node-h1-7001": "node-h3-7001", "node-h3-7001": "node-h3-7001"}
    with pytest.raises(FastCacheError, match=r"node-h3-7001 \(10922 slots\); they were not restarted"):
        rolling.restart_nodes(world, world.fleet.nodes[0], world.fleet.nodes[2])
    assert not [call for call in world.calls if "systemctl restart" in call]


def test_proxies_of_a_turn_are_all_drained_before_and_all_sent_clients_after() -> None:
    for broken in (False, True):
        world = apart()
        if broken:
            world.says["systemctl restart"] = Outcome(1, "", "it would not start")
            with pytest.raises(FastCacheError, match="it would not start"):
                rolling.restart_proxies(world, world.fleet.proxies[0], world.fleet.proxies[2])
        else:
            rolling.restart_proxies(world, world.fleet.proxies[0], world.fleet.proxies[2])
        words = [call for call in world.changing() if "set server" in call or "systemctl" in call]
        kinds = ["drain" if "drain" in one else "ready" if "ready" in one else "restart" for one in words]
        assert kinds == ["drain", "drain", "restart", "restart", "ready", "ready"]
        assert len(set(words)) == len(words), "each of the two proxies"


def test_a_whole_restart_touches_the_racks_one_after_the_other() -> None:
    world = apart()
    operation = rolling.restart(world)
    carry_out(dataclasses.replace(operation, steps=operation.steps[:-1]), world, Quiet(), YES)
    restarts = [call.partition(":")[0] for call in world.calls if "systemctl restart fastcache-node" in call]
    assert [set(restarts[:2]), set(restarts[2:])] == [{"h1", "h3"}, {"h2", "h4"}]


def test_a_budget_that_copies_cannot_bear_is_refused_before_anything_is_done() -> None:
    world = World(fleet=fleet(TWO), replicas=2)
    with pytest.raises(UsageError, match="where 3 racks have nodes; 2 have"):
        rolling.restart(world)
    with pytest.raises(UsageError, match="where 3 racks have nodes; 2 have"):
        rolling.release_steps(world, "1.2.3")
    assert world.changing() == []


def test_pairs_may_stand_in_one_rack_so_no_hosts_go_together() -> None:
    world = World(fleet=fleet(TWO), placement="pairs")
    with pytest.raises(UsageError, match="both nodes of a pair may stand in one rack"):
        rolling.restart(world)
    assert rolling.restart(World(fleet=fleet({}), placement="pairs")).steps
