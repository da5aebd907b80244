"""What the runbook decides, on a fleet of the imagination: lock, gate, order, interruption, plan."""

import msgspec
import pytest

from fastcache import ledger
from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook import audit, gate, handover, rolling, status
from fastcache.runbook.gate import Lookups, hit_rate, judge, look, warm
from fastcache.runbook.hands import Outcome, UnreachableError
from fastcache.runbook.operation import Consent, LockedError, Operation, StoppedError, carry_out

from .runbook_fleet import Quiet, World, steps

YES = Consent(yes=True, owner="ann@a", gate_seconds=30)


def did(world: World) -> list[str]:
    return [call.removeprefix("did ") for call in world.calls if call.startswith("did ")]


def operation(world: World, *names: str, fails: str = "", **how: object) -> Operation:
    return Operation("rolling-restart", "test", steps(world, *names, fails=fails), **how)  # type: ignore[arg-type]


# --- consent and plan -------------------------------------------------------------------------------


def test_steps_are_done_in_order_and_the_lock_is_given_back() -> None:
    world = World()
    report = carry_out(operation(world, "a", "b", "c"), world, Quiet(), YES)
    assert did(world) == ["a", "b", "c"]
    assert report.outcome == "done"
    assert world.kept.lock is None
    assert world.kept.unfinished == {}
    assert [entry.event for entry in world.chain] == ["begins", "step", "step", "step", "done"]


def test_a_plan_touches_nothing() -> None:
    world = World()
    report = carry_out(rolling.restart(world), world, Quiet(), Consent(plan=True, yes=True))
    assert report.outcome == "planned"
    assert len(report.steps) == 9
    assert world.changing() == []
    assert world.kept == ledger.Ledger()


def test_without_consent_nothing_is_touched() -> None:
    world, show = World(), Quiet(consents=False)
    report = carry_out(rolling.restart(world), world, show, Consent())
    assert report.outcome == "not wanted"
    assert "Carry it out?" in show.told
    assert world.changing() == []


# --- the lock ---------------------------------------------------------------------------------------


def test_a_lock_held_by_another_bars_and_names_its_holder() -> None:
    world = World()
    world.kept = ledger.taken(world.kept, "bob@b", "deploy", 60, world.time)
    with pytest.raises(LockedError, match="bob@b holds the lock for deploy") as caught:
        carry_out(operation(world, "a"), world, Quiet(), YES)
    assert "fab lock --break" in caught.value.hint
    assert did(world) == []


def test_a_lock_taken_between_plan_and_consent_bars_as_well() -> None:
    class Slow(Quiet):
        def ask(self, question: str) -> bool:
            world.kept = ledger.taken(world.kept, "bob@b", "deploy", 60, world.time)
            return True

    world = World()
    with pytest.raises(LockedError, match="bob@b"):
        carry_out(operation(world, "a"), world, Slow(), Consent(owner="ann@a"))
    assert did(world) == []


def test_an_expired_lock_bars_nobody() -> None:
    world = World()
    world.kept = ledger.taken(world.kept, "bob@b", "deploy", 60, world.time - 61)
    carry_out(operation(world, "a"), world, Quiet(), YES)
    assert did(world) == ["a"]


def test_a_task_whose_lock_was_broken_stops_before_its_next_step() -> None:
    world = World()
    listed = operation(world, "a", "b")

    def breaking(_world: World) -> None:
        world.kept = ledger.taken(ledger.broken(world.kept), "bob@b", "deploy", 60, world.time)

    first = listed.steps[0]
    act = first.act

    def act_and_lose() -> str:
        found = act()
        breaking(world)
        return found

    broken = msgspec_replace(listed, first, act_and_lose)
    with pytest.raises(FastCacheError, match="passed to bob@b"):
        carry_out(broken, world, Quiet(), YES)
    assert did(world) == ["a"]
    assert world.kept.lock
    assert world.kept.lock.owner == "bob@b", "the lock of the other one is not released"


def test_while_no_health_service_leads_the_task_waits_and_then_says_so() -> None:
    world = World()
    listed = operation(world, "a", "b")
    import dataclasses

    act = listed.steps[0].act

    def act_and_fall() -> str:
        found = act()
        world.down = True
        return found

    first = dataclasses.replace(listed.steps[0], act=act_and_fall, gated=False)
    begun = world.time
    with pytest.raises(UnreachableError, match="does not answer"):
        carry_out(dataclasses.replace(listed, steps=(first, listed.steps[1])), world, Quiet(), YES)
    assert world.time - begun >= 30
    assert did(world) == ["a"]
    assert world.kept.lock, "it could not be given back, and runs out by itself"


def msgspec_replace(listed: Operation, first: object, act: object) -> Operation:
    import dataclasses

    fresh = dataclasses.replace(first, act=act)  # type: ignore[type-var]
    return dataclasses.replace(listed, steps=(fresh, *listed.steps[1:]))


def test_the_first_deployment_needs_no_lock_and_others_do() -> None:
    world = World(down=True)
    founding = operation(world, "a", founding=True, needs_well=False)
    with pytest.raises(UnreachableError):
        carry_out(operation(world, "a", needs_well=False), world, Quiet(), YES)
    ungated = [*founding.steps]
    import dataclasses

    founding = dataclasses.replace(
        founding, steps=tuple(dataclasses.replace(one, gated=False) for one in ungated)
    )
    assert carry_out(founding, world, Quiet(), YES).outcome == "done"


# --- stopping and going on --------------------------------------------------------------------------


def test_the_first_failing_step_stops_all_and_says_what_to_do_next() -> None:
    world = World()
    with pytest.raises(StoppedError) as caught:
        carry_out(operation(world, "a", "b", "c", fails="b", undo="fab rollback"), world, Quiet(), YES)
    assert "stopped at step 2 of 3, b: b broke" in caught.value.message
    for part in ("mend it", "'fab rolling-restart' again goes on", "to go back: fab rollback"):
        assert part in caught.value.hint
    assert did(world) == ["a"]
    assert world.kept.lock is None
    assert "b broke" in world.kept.unfinished["rolling-restart"].stopped
    assert world.chain[-1].event == "stopped"


def test_a_cluster_that_does_not_get_well_stops_the_task_at_that_step() -> None:
    world = World()

    def falls(now: World) -> None:
        now.unhealthy.add("node-h2-7001")

    listed = operation(world, "a", "b")
    import dataclasses

    act = listed.steps[0].act
    sick = dataclasses.replace(listed.steps[0], act=lambda: (falls(world), act())[1])
    with pytest.raises(
        StoppedError, match="step 1 of 2, a: not well after 30 s: node-h2-7001 is UNHEALTHY: refused"
    ):
        carry_out(dataclasses.replace(listed, steps=(sick, listed.steps[1])), world, Quiet(), YES)
    assert did(world) == ["a"]


def test_nothing_begins_on_a_cluster_that_is_not_well() -> None:
    world = World(unhealthy={"node-h3-7001"})
    with pytest.raises(StoppedError, match="did not begin, the cluster is not well"):
        carry_out(operation(world, "a"), world, Quiet(), YES)
    assert did(world) == []


def test_after_an_interruption_the_same_task_goes_on_behind_the_last_step() -> None:
    world = World()
    with pytest.raises(StoppedError):
        carry_out(operation(world, "a", "b", "c", fails="b"), world, Quiet(), YES)
    show = Quiet()
    carry_out(operation(world, "a", "b", "c"), world, show, Consent(yes=True, owner="bob@b"))
    assert did(world) == ["a", "b", "c"], "a was done once, b and c by the second run"
    assert "end a: done before" in show.told
    assert any("Goes on behind 1 steps that ann@a did" in line for line in show.told)


def test_an_operator_that_died_leaves_its_steps_to_the_next_when_the_lock_has_run_out() -> None:
    world = World()
    now = ledger.taken(world.kept, "ann@a", "rolling-restart", 60, world.time - 100)
    now = ledger.begun(now, now.token, {}, world.time - 100, fresh=False)
    world.kept = ledger.stepped(now, now.token, "a")
    carry_out(operation(world, "a", "b"), world, Quiet(), Consent(yes=True, owner="bob@b"))
    assert did(world) == ["b"]


def test_fresh_begins_anew_and_other_arguments_are_another_task() -> None:
    for how in ({"fresh": True}, {}):
        world = World()
        with pytest.raises(StoppedError):
            carry_out(operation(world, "a", "b", fails="b"), world, Quiet(), YES)
        arguments = {} if how else {"only": "h2"}
        again = operation(world, "a", "b", arguments=arguments)
        carry_out(again, world, Quiet(), Consent(yes=True, fresh=bool(how)))
        assert did(world) == ["a", "a", "b"]


def test_a_keyboard_interrupt_is_told_to_the_cluster() -> None:
    world = World()
    listed = operation(world, "a")
    import dataclasses

    def interrupted() -> str:
        raise KeyboardInterrupt

    cut = dataclasses.replace(listed, steps=(dataclasses.replace(listed.steps[0], act=interrupted),))
    with pytest.raises(StoppedError, match="was interrupted"):
        carry_out(cut, world, Quiet(), YES)
    assert world.kept.lock is None
    assert world.kept.unfinished["rolling-restart"].stopped == "interrupted by its operator"


def test_others_unfinished_work_is_told_before_consent() -> None:
    world, show = World(), Quiet()
    with pytest.raises(StoppedError):
        carry_out(operation(world, "a", fails="a"), world, Quiet(), YES)
    other = Operation("deploy", "test", steps(world, "x"))
    carry_out(other, world, show, YES)
    assert any("left rolling-restart unfinished" in line for line in show.told)


# --- the gate ---------------------------------------------------------------------------------------


def test_a_proxy_on_another_topology_is_not_well() -> None:
    world = World(behind={"proxy-h2-6382"})
    wrong = judge(look(world), world.fleet)
    assert len(wrong) == 1
    assert "proxy-h2-6382" in wrong[0]
    assert "epoch 7" in wrong[0]


def test_slots_without_their_copies_are_not_well() -> None:
    world = World()
    seen = look(world)
    stream = {"main": "a", "copy": "b", "inSync": 0, "joining": 3, "learning": 4}
    for change in ({"slotsWithoutReplica": 5}, {"slotsDown": 5}, {"streams": [stream]}):
        replication = {**seen.replication, **change}
        wrong = judge(gate.Seen(**{**vars(seen), "replication": replication}), world.fleet)
        assert len(wrong) == 1, wrong


def test_the_gate_waits_until_the_cluster_is_well() -> None:
    def heals(now: World) -> None:
        if now.time > 1003:
            now.unhealthy.clear()

    world, told = World(unhealthy={"node-h1-7001"}, ticks=heals), list[str]()
    gate.wait(world, 30, tell=told.append)
    assert 1003 < world.time < 1006
    assert "node-h1-7001 is UNHEALTHY" in told[0]


def test_the_gate_waits_until_reads_find_what_they_found_before() -> None:
    def reads(now: World) -> None:
        # Cold for ten seconds: half of the reads miss.
        cold = now.time < 1010
        now.hits += 500 if cold else 990
        now.misses += 500 if cold else 10

    world, told = World(ticks=reads), list[str]()
    gate.wait(world, 60, usual=0.99, tell=told.append)
    assert 1010 <= world.time < 1013
    assert "reads find 50.0% where they found 99.0% before" in told[0]


@pytest.mark.parametrize(
    ("usual", "now", "well"),
    [(None, 0.1, True), (0.9, None, True), (0.9, 0.81, True), (0.9, 0.8, False), (1.0, 0.95, True)],
)
def test_what_counts_as_warm(usual: float | None, now: float | None, well: bool) -> None:
    assert warm(usual, now) is well


def test_a_hit_rate_survives_a_node_that_counts_from_nought() -> None:
    before = Lookups({"a": 10_000, "b": 500}, {"a": 100, "b": 5})
    after = Lookups({"a": 900, "b": 600}, {"a": 100, "b": 5})
    assert hit_rate(before, after) == 1000 / 1100, "a counts from nought, b goes on"
    assert hit_rate(before, before) is None


# --- rolling ----------------------------------------------------------------------------------------


def test_the_leader_is_the_last_health_service_then_proxies_then_nodes() -> None:
    names = [step.name for step in rolling.restart(World()).steps]
    assert names[:2] == ["health-h1-8080", "health-h2-8080"], "h2 leads"
    assert [name.partition("-")[0] for name in names[2:]] == ["proxy"] * 3 + ["node"] * 3 + ["level"]


def test_a_proxy_is_drained_before_it_stops_and_gets_clients_again_also_when_it_fails() -> None:
    for broken in (False, True):
        world = World()
        if broken:
            world.says["systemctl restart"] = Outcome(1, "", "it would not start")
        proxy = world.fleet.proxies[0]
        if broken:
            with pytest.raises(FastCacheError, match="it would not start"):
                rolling.restart_proxies(world, proxy)
        else:
            rolling.restart_proxies(world, proxy)
        words = [call for call in world.changing() if "set server" in call or "systemctl" in call]
        kinds = ["drain" if "drain" in one else "ready" if "ready" in one else "restart" for one in words]
        assert kinds == ["drain", "restart", "ready"], words


def test_a_node_hands_over_before_it_starts_again() -> None:
    world = World()
    found = rolling.restart_nodes(world, world.fleet.nodes[0])
    assert world.changing()[0] == "POST /switchover"
    assert "systemctl restart fastcache-node@7001" in world.changing()[1]
    assert found == "handed over to node-h2-7001 in 0.01 s, restarted"


def test_a_node_without_copies_takes_a_snapshot_before_it_starts_again() -> None:
    world = World(replicas=0)
    assert rolling.restart_nodes(world, world.fleet.nodes[0]) == "snapshot of 3 entries, restarted"
    assert "POST /switchover" not in world.calls


def test_who_handed_over_gets_its_share_back_and_without_copies_there_is_none_to_get() -> None:
    world = World()
    rolling.restart(world).steps[-1].act()
    assert world.changing() == ["play playbooks/level.yml"]
    assert all(step.name != "level" for step in rolling.restart(World(replicas=0)).steps)
    assert all(step.name != "level" for step in rolling.restart(world, ["proxy-h1-6382"]).steps)


def test_a_name_that_is_no_name_of_a_release_is_refused() -> None:
    with pytest.raises(UsageError, match="no name of a release"):
        rolling.release_steps(World(), "../../etc")


def test_a_release_changes_host_by_host_the_leaders_last() -> None:
    steps = rolling.release_steps(World(), "1.2.3")
    links = [step for step in steps if ": use " in step.name]
    assert [step.name for step in links] == ["h1: use 1.2.3", "h3: use 1.2.3", "h2: use 1.2.3"]
    assert not any(step.gated for step in links), "the link alone changes nothing that runs"
    assert len(steps) > len(links)


def test_a_restart_can_be_of_some_hosts_only() -> None:
    names = [step.name for step in rolling.restart(World(), ["h3"]).steps]
    assert names == ["proxy-h3-6382", "node-h3-7001", "level"]
    with pytest.raises(UsageError, match="not in the inventory: h9"):
        rolling.restart(World(), ["h9"])


# --- the rest ---------------------------------------------------------------------------------------


def test_a_switchover_shows_the_health_services_plan_and_does_it() -> None:
    world = World()
    listed = handover.hand_over(world, "h1", "h3", orderly=True)
    assert "5461 slots to node-h3-7001" in listed.says
    assert world.changing() == []
    carry_out(listed, world, Quiet(), YES)
    assert "POST /switchover" in world.calls
    assert "fab switchover --node node-h3-7001 --to node-h1-7001" in listed.undo


def test_a_failover_is_for_a_cluster_that_is_not_well() -> None:
    world = World(unhealthy={"node-h1-7001"})
    listed = handover.hand_over(world, "h1", "", orderly=False)
    assert carry_out(listed, world, Quiet(), YES).outcome == "done"


def test_status_names_what_is_wrong_and_looks_only() -> None:
    world = World(unhealthy={"node-h2-7001"})
    found = status.status(world)
    assert not found["well"]
    assert "node-h2-7001 is UNHEALTHY" in found["wrong"][0]
    assert next(one for one in found["members"] if one["name"] == "node-h2-7001")["state"] == "UNHEALTHY"
    assert world.changing() == []


def test_status_of_a_cluster_without_a_health_service_says_so() -> None:
    found = status.status(World(down=True))
    assert not found["well"]
    assert "does not answer" in found["wrong"][0]


def test_an_audit_that_was_tampered_with_is_found(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "state" / "seen.json"
    world = World()
    carry_out(operation(world, "a", "b"), world, Quiet(), YES)
    assert audit.checked(world, file)["wrong"] == ""
    assert file.exists()
    whole = list(world.chain)
    world.chain[1] = msgspec.structs.replace(world.chain[1], owner="eve@e")
    assert "entry 2 is not what was written" in audit.checked(world, file)["wrong"]
    world.chain = whole[:-1]
    assert "entries are missing" in audit.checked(world, file)["wrong"]
    # The whole record written anew, with an end that fits.
    world.chain, world.kept = [], ledger.Ledger()
    for _ in range(6):
        world.note(world.kept, "forged", {})
    assert "written anew" in audit.checked(world, file)["wrong"]


def test_the_thread_that_renews_the_lock_takes_a_missing_leader_for_no_loss() -> None:
    import threading

    from fastcache.runbook.hands import RefusedError
    from fastcache.runbook.operation import Lock

    answers = [
        RefusedError("nobody leads", 503),
        UnreachableError("no answer"),
        None,
        RefusedError("passed on", 409),
    ]
    asked = threading.Event()

    class Service(World):
        def http(self, method: str, path: str, body: object = None, *, seconds: float = 30.0) -> object:
            answer = answers.pop(0)
            if not answers:
                asked.set()
            if answer:
                raise answer
            return {}

    lock = Lock(Service(), 1, frozenset(), 0.03)
    lock.thread.start()
    assert asked.wait(20)
    lock.thread.join(20)
    assert lock.lost == "passed on"
