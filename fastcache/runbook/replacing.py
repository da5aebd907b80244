"""One host for another: replace-host, also where the old one is lost and will never answer again.

Who can still be spoken to gives its slots up in order and is cleaned. Of a host that is lost nothing is
asked: its copies have taken over already, the new host joins in the same move in which everybody forgets
the lost one, and copies are made anew. That order is decided here, by the plan, and shown in it.
"""

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook.hands import Hands, UnreachableError
from fastcache.runbook.moving import shared
from fastcache.runbook.operation import Operation, Step, refuse_unless
from fastcache.runbook.playbooks import filled, proof
from fastcache.runbook.plays import playing

#: Copies of a dead main take over within a second or, with the gentle profile, in a minute and a half.
TAKEN_OVER_SECONDS = 180.0
LOOK_SECONDS = 0.5
ADD, REMOVE = "playbooks/add_hosts.yml", "playbooks/remove_hosts.yml"


def replace_host(hands: Hands, old: str, new: str) -> Operation:
    """A host's place is taken by another, or by the same one made anew."""
    fleet = hands.fleet
    fleet.host(old)
    by = new or old
    fleet.host(by)
    deciding = [one.name for one in (*fleet.health, *fleet.etcd) if one.host == old and by != old]
    refuse_unless(
        not deciding,
        f"{old} runs {', '.join(deciding)}",
        "move that first: groups health and etcd, then 'fab deploy'",
    )
    lost = is_lost(hands, old)
    refuse_unless(
        not lost or by != old,
        f"{old} does not answer",
        "make it anew and have its SSH key in known_hosts, or name another host with --by",
    )
    names = [one.name for one in fleet.nodes if one.host == by]
    refuse_unless(
        bool(names) or not fleet.on(old) & {one.name for one in fleet.nodes},
        f"{by} is not in the group nodes",
        "put it there, with its rack; then say this again",
    )
    if by == old:
        steps = (joins(hands, by), fills(hands, by, ""), *shares(hands, names), proof(hands))
    elif lost:
        steps = (
            Step(
                "look",
                f"see that others serve what {old} served",
                lambda: taken_over(hands, old),
                gated=False,
            ),
            joins(hands, by, without=old),
            fills(hands, by, old),
            *shares(hands, names),
            proof(hands, lost=old),
        )
    else:
        words = ("-e", f"gone={old}", "-e", f"confirm={fleet.cluster}")
        steps = (
            joins(hands, by),
            fills(hands, by, old),
            Step(
                f"remove {old}", "its slots go to others, then it is cleaned", playing(hands, REMOVE, *words)
            ),
            *shares(hands, names),
            proof(hands, lost=old),
        )
    return Operation(
        "replace-host",
        f"{by} takes the place of {old}" + (", which is lost" if lost else ""),
        steps,
        {"old": old, "new": by},
        hint=f"what {by} has got so far is kept; run it again when it is mended",
        undo=f"fab replace-host --host {by} --by {old}" if new and not lost else "",
        notes=notes(hands, old, lost=lost) if new else (),
        needs_well=False,
        without=fleet.on(old) if new else frozenset(),
    )


def is_lost(hands: Hands, host: str) -> bool:
    """Whether a host is gone: it cannot be spoken to, and nothing on it serves."""
    try:
        hands.run(host, "true", seconds=15)
    except UnreachableError as error:
        here = hands.fleet.on(host)
        alive = [
            one["nodeId"]
            for one in hands.http("GET", "/health/nodes")
            if one["nodeId"] in here and one["status"] == "HEALTHY"
        ]
        if alive:
            raise UsageError(
                f"{error.message}, and yet {', '.join(alive)} on it serve",
                f"mend the way to {host}, so that it can hand over; or switch it off for good",
            ) from None
        return True
    return False


def notes(hands: Hands, old: str, *, lost: bool) -> tuple[str, ...]:
    """What the operator should know before, and what is left to do afterwards."""
    told = [f"Afterwards take {old} out of the inventory, then 'fab deploy'."]
    if lost:
        told.append(
            f"{old} does not answer. Should it ever come back: keep it off the network, and clean it."
        )
        if not hands.http("GET", "/replication")["replicas"]:
            told.append(f"There are no copies: what only {old} had is lost.")
    return tuple(told)


def joins(hands: Hands, host: str, without: str = "") -> Step:
    """The host becomes a member; in the same move everybody forgets `without`, which gets no task."""
    words = ["-e", f"new={host}"] + (["-e", f"without={without}"] if without else [])
    says = f"make {host} a member, touching only hosts that must know"
    if without:
        says += f"; they forget {without}"
    # Named apart: whoever was added beside a host that was lost only then has not made anybody forget it.
    name = f"add {host} and forget {without}" if without else f"add {host}"
    return Step(name, says, playing(hands, ADD, *words), gated=False)


def fills(hands: Hands, host: str, leaving: str) -> Step:
    """Every slot has its copies."""
    says = f"wait until the copies of {host} are in sync"
    return Step(f"fill {host}", says, lambda: filled(hands, leaving), gated=False)


def shares(hands: Hands, names: list[str]) -> tuple[Step, ...]:
    """Who is new, or came back empty, serves its part."""
    if not names:
        return ()
    says = f"{', '.join(names)} get their share while everything serves"
    return (Step("move slots", says, lambda: shared(hands, names)),)


def taken_over(hands: Hands, host: str) -> str:
    """Nothing may be forgotten of a node that is still the main of slots, while copies could take over."""
    here = hands.fleet.on(host)
    deadline = hands.now() + TAKEN_OVER_SECONDS
    while True:
        told = hands.http("GET", "/replication")
        held = {name: count for name, count in told["mains"].items() if name in here and count}
        if not held:
            return f"nothing is served by {host} any more"
        if not told["replicas"]:
            return f"{sum(held.values())} slots have no copy: others will serve them, empty"
        why = ", ".join(f"{name} is still the main of {count} slots" for name, count in held.items())
        if told["paused"]:
            raise FastCacheError(f"{why}, and failover is suspended", "'fab resume' lets copies take over")
        if hands.now() >= deadline:
            raise FastCacheError(
                f"{why}: no copy in sync takes over",
                f"'fab failover --node {next(iter(held))} --force' lets one take over that is behind",
            )
        hands.tell(why)
        hands.sleep(LOOK_SECONDS)
