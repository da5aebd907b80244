"""Slots to other nodes, nodes and hosts that come and go: rebalance, drain, add-node, remove-node.

The health service plans the moves and carries them out; here they are asked for, waited for and told of.
What moves is kept there, so a task that is killed loses nothing, and the same command waits for the rest.
"""

from collections.abc import Callable, Iterable
from typing import Any

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook.fleet import Member
from fastcache.runbook.hands import Hands, RefusedError, UnreachableError
from fastcache.runbook.operation import FAULT, Operation, Step, refuse_unless
from fastcache.runbook.playbooks import filled, proof
from fastcache.runbook.plays import playing

LOOK_SECONDS = 0.5
#: Slots that wait for somebody who is not well: so long without any progress, then the task stops.
STUCK_SECONDS = 120.0


def rebalance(hands: Hands, weights: dict[str, int]) -> Operation:
    """Every node gets its share by weight."""
    wanted = {hands.fleet.find(name).name: weight for name, weight in weights.items()}
    told = planned(hands, wanted)
    return Operation(
        "rebalance",
        f"Every node gets its share: {amount(told)}" if told["moves"] else "Every node has its share",
        moving_steps(hands, told, wanted),
        {name: str(weight) for name, weight in sorted(wanted.items())},
        hint="'fastcache rebalance status' tells what it waits for",
        undo="the same with the weights of before; 'fastcache rebalance cancel' ends it where it is",
        notes=costs(told),
    )


def drain(hands: Hands, node: str) -> Operation:
    """A node gives all it has to the others, and stays a member that holds nothing."""
    member = node_named(hands, node)
    told = planned(hands, {member.name: 0})
    return Operation(
        "drain",
        f"{member.name} gives its slots to the others: {amount(told)}" if told["moves"]
        else f"{member.name} holds no slots",
        moving_steps(hands, told, {member.name: 0}),
        {"node": member.name},
        hint="'fastcache rebalance status' tells what it waits for",
        undo=f"fab rebalance --weights {member.name}=100",
        notes=costs(told),
    )  # fmt: skip


def add_node(hands: Hands, host: str) -> Operation:
    """A host of the inventory becomes a member, and its share of the slots moves to it."""
    fleet = hands.fleet
    fleet.host(host)
    coming = [one for one in fleet.nodes if one.host == host]
    refuse_unless(
        bool(coming), f"{host} is not in the group nodes", "put it there, with its rack; then say this again"
    )
    known = {one["nodeId"] for one in hands.http("GET", "/health/nodes")}
    names = [one.name for one in coming]
    new = frozenset(one.name for one in fleet.members if one.host == host and one.name not in known)
    steps = [
        Step(
            f"add {host}", "make it a member, touching only hosts that must know",
            playing(hands, "playbooks/add_hosts.yml", "-e", f"new={host}"), gated=False,
        ),
        Step(
            "move slots", f"its share moves to {', '.join(names)} while everything serves",
            lambda: shared(hands, names), gated=False,
        ),
        Step("copies", "wait until every slot has its copies", lambda: filled(hands, "")),
        proof(hands),
    ]  # fmt: skip
    return Operation(
        "add-node",
        f"{', '.join(names)} on {host} join and get their share",
        tuple(steps),
        {"host": host},
        hint=f"what {host} has got so far is kept; run it again when it is mended",
        undo=f"fab remove-node --host {host}",
        without=new,
    )


def remove_node(hands: Hands, host: str) -> Operation:
    """The nodes of a host give up their slots, then the host leaves the cluster and is cleaned."""
    fleet = hands.fleet
    fleet.host(host)
    leaving = [one for one in fleet.nodes if one.host == host]
    deciding = [one.name for one in (*fleet.health, *fleet.etcd) if one.host == host]
    refuse_unless(
        not deciding,
        f"{host} runs {', '.join(deciding)}",
        "move that first: groups health and etcd, then 'fab deploy'",
    )
    refuse_unless(any(one.host != host for one in fleet.nodes), "no node would be left")
    wanted = {one.name: 0 for one in leaving}
    told = planned(hands, wanted)
    words = ("-e", f"gone={host}", "-e", f"confirm={fleet.cluster}")
    away = fleet.on(host)
    steps = [
        *moving_steps(hands, told, wanted),
        Step(
            "look", f"see that {', '.join(wanted)} hold nothing", lambda: empty(hands, wanted), gated=False
        ),
        Step(
            f"remove {host}", "keep clients away, forget its members, clean it",
            playing(hands, "playbooks/remove_hosts.yml", *words),
        ),
    ]  # fmt: skip
    return Operation(
        "remove-node",
        f"{host} leaves: {amount(told)} move to the others first",
        tuple(steps),
        {"host": host},
        hint="what has moved stays where it is; run it again when it is mended",
        undo=f"fab add-node --host {host}",
        notes=(*costs(told), f"Afterwards take {host} out of the inventory."),
        without=away,
    )


def node_named(hands: Hands, name: str) -> Member:
    """A node, and no other member."""
    member = hands.fleet.find(name)
    refuse_unless(member.kind == "node", f"{member.name} is no node: it holds no slots")
    return member


def planned(hands: Hands, weights: dict[str, int]) -> dict[str, Any]:
    """What would move; the health service works it out."""
    told: dict[str, Any] = hands.http("POST", "/rebalance/plan", {"weights": weights})
    return told


def amount(told: dict[str, Any]) -> str:
    """How much that is, in words."""
    slots, keys, size = told["slots"], told["keys"], told["bytes"]
    return f"{slots} slots with about {keys} keys, {size / 2**20:.1f} MiB, about {told['seconds']:.0f} s"


def costs(told: dict[str, Any]) -> tuple[str, ...]:
    """What clients will notice."""
    if not told["moves"]:
        return ()
    return ("Clients are served all the while; writes to a slot pause for milliseconds as it changes hands.",)


def moving_steps(hands: Hands, told: dict[str, Any], weights: dict[str, int]) -> tuple[Step, ...]:
    """One step that moves, when anything is to move or moves already."""
    by_pair: dict[tuple[str, str], int] = {}
    for one in told["moves"]:
        pair = (one["from"], one["to"])
        by_pair[pair] = by_pair.get(pair, 0) + one["slots"]
    parts = [f"{count} slots from {giver} to {taker}" for (giver, taker), count in by_pair.items()]
    if copies := told.get("copies"):
        parts.append(f"{copies} copies of slots are made anew")
    if not parts:
        return ()
    says = ", ".join(parts)
    return (Step("move slots", says, lambda: moved(hands, weights)),)


def shared(hands: Hands, names: Iterable[str]) -> str:
    """New nodes get what is theirs, also where they were drained once."""
    return moved(hands, dict.fromkeys(names, 100) if weighed_nothing(hands, names) else {})


def weighed_nothing(hands: Hands, names: Iterable[str]) -> bool:
    """Whether a node would get nothing: it was drained before."""
    weights = {one["id"]: one["weight"] for one in hands.http("GET", "/topology")["nodes"]}
    return any(weights.get(name) == 0 for name in names)


def moved(hands: Hands, weights: dict[str, int]) -> str:
    """Move, and wait until nothing is left to move."""
    answering(hands, lambda: hands.http("POST", "/rebalance/start", {"weights": weights}))
    last: object = None
    since = hands.now()
    while True:
        told = answering(hands, lambda: hands.http("GET", "/rebalance"))
        if told["state"] == "paused":
            raise FastCacheError("somebody has paused it", "'fastcache rebalance resume' goes on with it")
        if told["state"] == "cancelled":
            raise FastCacheError("somebody has cancelled it", "what has moved stays where it is")
        if told["state"] != "running" and not told["moves"]:
            break
        copied = [one["copied"] for one in told["moves"]]
        far = (told["slotsMoved"], told["slotsLeft"], told.get("copiesLeft"), copied)
        if far != last:
            last, since = far, hands.now()
        waits = f" ({told['waits']})" if told.get("waits") else ""
        hands.tell(
            f"{told['slotsMoved']} of {told['slotsTotal']} slots moved, {told['keysMoved']} keys"
            f"{time_left(told)}{waits}",
            (told["slotsMoved"] + sum(copied)) / max(told["slotsTotal"], 1),
        )
        if hands.now() - since > STUCK_SECONDS:
            why = waits or ": the nodes say nothing of their moves"
            raise FastCacheError(
                f"nothing has moved for {STUCK_SECONDS:.0f} s{why}",
                "'fab status' shows who is not well; what has moved stays, and the rest goes on by itself",
            )
        hands.sleep(LOOK_SECONDS)
    if left := planned(hands, weights)["slots"]:
        raise FastCacheError(
            f"{left} slots are left where they do not belong", "'fab status' shows who is not well"
        )
    given_up = f", {told['givenUp']} moves begun again" if told.get("givenUp") else ""
    return f"{told['slotsMoved']} slots with {told['keysMoved']} keys in {told['seconds']:.1f} s{given_up}"


def time_left(told: dict[str, Any]) -> str:
    """How long it will take still, where that is known."""
    seconds = told.get("secondsLeft", 0)
    return f", about {seconds:.0f} s left" if seconds else ""


def answering(hands: Hands, ask: Callable[[], Any]) -> Any:
    """The answer, also when another health service takes the lead meanwhile."""
    deadline = hands.now() + STUCK_SECONDS
    while True:
        try:
            return ask()
        except (UnreachableError, RefusedError) as error:
            passing = not isinstance(error, RefusedError) or error.status >= FAULT
            if not passing or hands.now() >= deadline:
                raise
            hands.sleep(LOOK_SECONDS)


def empty(hands: Hands, names: Iterable[str]) -> str:
    """Whoever leaves must hold nothing."""
    wanted = set(names)
    held = sorted(
        {
            name
            for row in hands.http("GET", "/topology")["slots"]
            for name in (row["main"], *row.get("replicas", ()), *row.get("learners", ()))
            if name in wanted
        }
    )
    if held:
        raise FastCacheError(
            f"{', '.join(held)} still hold slots", "'fastcache rebalance status' tells what they wait for"
        )
    return f"{', '.join(sorted(wanted))} hold nothing" if wanted else "there was no node on it"


def weights_from(text: str) -> dict[str, int]:
    """`NODE=PERCENT,NODE=PERCENT`."""
    weights = {}
    for one in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = one.rpartition("=")
        if not name or not value.isdecimal() or int(value) > 100_000:
            raise UsageError(f"{one!r} is no NODE=PERCENT", "such as node-h3-7001=50, several by commas")
        weights[name] = int(value)
    return weights
