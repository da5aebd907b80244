"""Who is the main of what: switchover, failover, and automatic failover suspended and resumed."""

from fastcache.errors import FastCacheError
from fastcache.runbook.hands import Hands
from fastcache.runbook.operation import Operation, Step


def hand_over(hands: Hands, node: str, to: str, *, orderly: bool, force: bool = False) -> Operation:
    """The copies of a node take over: in order, or at once. The health service plans it."""
    member = hands.fleet.find(node)
    heir = hands.fleet.find(to).name if to else ""
    task = "switchover" if orderly else "failover"
    wish: dict[str, object] = {"node": member.name, "to": heir}
    if not orderly:
        wish["force"] = force
    plan = hands.http("POST", f"/{task}", {**wish, "plan": True})["plan"]
    lost = sum(step.get("lost", 0) for step in plan)

    def act() -> str:
        done = hands.http("POST", f"/{task}", wish, seconds=30)
        heirs = ", ".join(sorted({one["new"] for one in done["to"]}))
        return f"{done['from']} handed over to {heirs} in {done['seconds']:.2f} s (epoch {done['epoch']})"

    says = ", ".join(f"{step['slots']} slots to {step['new']}" for step in plan)
    notes = [f"{lost} writes that are not copied yet would be lost."] if lost else []
    return Operation(
        task,
        f"{member.name} gives up its slots: {says}",
        (Step(f"{member.name}: hand over", says, act, gated=orderly),),
        {"node": member.name, "to": heir} | ({"force": str(force)} if not orderly else {}),
        undo=f"fab switchover --node {plan[0]['new']} --to {member.name}, once its copies are in sync",
        notes=tuple(notes),
        # A failover is for a cluster that is not well.
        needs_well=orderly,
    )


def suspend(hands: Hands, *, wanted: bool) -> Operation:
    """Automatic failover off, or on again."""
    task = "pause" if wanted else "resume"
    says = (
        "automatic failover is suspended: a main that falls stays the main"
        if wanted
        else "automatic failover is on"
    )

    def act() -> str:
        if bool(hands.http("POST", f"/{task}", {})["paused"]) is not wanted:
            raise FastCacheError("the health service did not change its mind", "look at its journal")
        return says

    already = bool(hands.http("GET", "/replication")["paused"]) is wanted
    steps = () if already else (Step(task, says, act, gated=False),)
    return Operation(task, says, steps, undo="fab resume" if wanted else "fab pause", needs_well=False)
