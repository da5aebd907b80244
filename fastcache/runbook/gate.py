"""Is the cluster well enough for the next step? Looking is one function, judging a pure one, waiting a
third.

Well means: the health service calls every node and proxy of the inventory healthy, every slot is served and
has its copies in sync, no slot is under way, everybody obeys the same topology (by its digest, as each has
it on its disk), and reads are answered from memory as often as before (the hit rate, measured).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastcache import _core
from fastcache.errors import FastCacheError
from fastcache.runbook.fleet import Fleet, Member
from fastcache.runbook.hands import Hands, together

POLL_SECONDS = 0.5
#: Fewer lookups than this say nothing about a hit rate.
FEWEST_LOOKUPS = 200
#: As warm as before, but for this part.
WARM_PART = 0.9
#: One line a service: its directory, then the digest of the topology it keeps.
DIGESTS = (
    "for f in /var/lib/fastcache/*/topology.json; do"
    ' [ -e "$f" ] && printf \'%s %s\\n\' "$(dirname "$f")" "$(tail -n 1 "$f")"; done; true'
)


@dataclass(frozen=True)
class Lookups:
    """Reads that found something, and that did not, by node."""

    hits: dict[str, int] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What was seen at one moment. `trouble`: who could not be asked."""

    summary: dict[str, Any] = field(default_factory=dict)
    unhealthy: tuple[str, ...] = ()
    replication: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    digest: str = ""
    moves: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    trouble: tuple[str, ...] = ()


def look(hands: Hands, without: frozenset[str] = frozenset()) -> Seen:
    """Ask the health service, and once every host on which not all are meant to be away: it may be lost."""
    fleet = hands.fleet
    try:
        summary = hands.http("GET", "/health/summary")
        unhealthy = tuple(
            f"{one['nodeId']} is {one['status']}"
            + (f": {one['errorMessage']}" if one["errorMessage"] else "")
            for one in hands.http("GET", "/health/nodes")
            if one["status"] != "HEALTHY"
        )
        replication = hands.http("GET", "/replication")
        document = hands.http("GET", "/topology")
    except FastCacheError as error:
        return Seen(trouble=(error.message,))
    topology = _core.Topology(json.dumps(document).encode())
    asked = {one.host for one in (*fleet.nodes, *fleet.proxies) if one.name not in without}
    digests, trouble = kept_digests(hands, asked)
    return Seen(
        summary,
        unhealthy,
        replication,
        topology.epoch,
        topology.digest,
        len(document.get("moves", ())),
        digests,
        trouble,
    )


def kept_digests(hands: Hands, hosts: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The digest of the topology that each service has on its disk, by its directory on its host."""
    found: dict[str, str] = {}
    trouble: list[str] = []
    for host, outcome in together(sorted(hosts), lambda name: hands.run(name, DIGESTS, seconds=15)):
        if isinstance(outcome, FastCacheError):
            trouble.append(outcome.message)
            continue
        for line in outcome.out.splitlines():
            directory, _, digest = line.partition(" ")
            found[f"{host}:{directory}"] = digest.strip().removeprefix("sha256:")
    return found, tuple(trouble)


def judge(seen: Seen, fleet: Fleet, *, without: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """What is not well, a sentence each. `without`: members that are meant to be away."""
    if seen.trouble:
        return seen.trouble
    wrong = [one for one in seen.unhealthy if one.partition(" ")[0] not in without]
    for kind, members in (("Nodes", fleet.nodes), ("Proxies", fleet.proxies)):
        expected = sum(one.name not in without for one in members)
        healthy = seen.summary.get(f"healthy{kind}", 0)
        if healthy < expected and not wrong:
            wrong.append(
                f"the health service calls {healthy} {kind.lower()} healthy, the inventory has {expected}"
            )
    if down := seen.replication.get("slotsDown", 0):
        wrong.append(f"{down} slots are not served: their main is down")
    if seen.replication.get("replicas", 0) and (alone := seen.replication.get("slotsWithoutReplica", 0)):
        wrong.append(f"{alone} slots have no copy in sync")
    if filling := sum(one["joining"] + one["learning"] for one in seen.replication.get("streams", ())):
        wrong.append(f"{filling} slots are still being copied")
    if seen.moves:
        wrong.append(f"{seen.moves} moves of slots are under way")
    return (*wrong, *of_another_mind(seen, fleet, without))


def of_another_mind(seen: Seen, fleet: Fleet, without: frozenset[str]) -> tuple[str, ...]:
    """Who does not have the topology that is in force."""
    members = [one for one in (*fleet.nodes, *fleet.proxies) if one.name not in without]
    other = [one.name for one in members if seen.digests.get(place(one)) != seen.digest]
    if not other:
        return ()
    return (f"not yet on topology {seen.digest[:12]} (epoch {seen.epoch}): {', '.join(other)}",)


def place(member: Member) -> str:
    """Where a member's topology is found among the digests."""
    return f"{member.host}:{member.state}"


def lookups(hands: Hands) -> Lookups:
    """The counters of all nodes that answer."""
    hits: dict[str, int] = {}
    misses: dict[str, int] = {}

    def ask(node: Member) -> None:
        with hands.talk(node) as connection:
            info = info_of(connection.say("INFO", "stats"))
        hits[node.name] = int(info.get("keyspace_hits", 0))
        misses[node.name] = int(info.get("keyspace_misses", 0))

    together(hands.fleet.nodes, ask)
    return Lookups(hits, misses)


def info_of(reply: bytes) -> dict[str, str]:
    """The fields of INFO."""
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def hit_rate(before: Lookups, after: Lookups) -> float | None:
    """The part of reads that found something between two looks; None when there were too few to tell.

    A node that started again counts from nought.
    """

    hits = misses = 0
    for name, now_hits in after.hits.items():
        then = (before.hits.get(name, 0), before.misses.get(name, 0))
        now = (now_hits, after.misses.get(name, 0))
        if sum(now) < sum(then):
            then = (0, 0)
        hits, misses = hits + now[0] - then[0], misses + now[1] - then[1]
    return hits / (hits + misses) if hits + misses >= FEWEST_LOOKUPS else None


def warm(usual: float | None, now: float | None) -> bool:
    """Whether reads find what they found before; without reads nobody misses anything."""
    return usual is None or now is None or now >= usual * WARM_PART


def usual_rate(hands: Hands, seconds: float = 2.0) -> float | None:
    """How often reads find something now, looked at for a while."""
    first = lookups(hands)
    hands.sleep(seconds)
    return hit_rate(first, lookups(hands))


class NotWellError(FastCacheError):
    """The cluster did not get well in time."""


def wait(
    hands: Hands,
    seconds: float,
    *,
    usual: float | None = None,
    without: frozenset[str] = frozenset(),
    tell: Callable[[str], object] = lambda _text: None,
) -> Seen:
    """Wait until the cluster is well and as warm as usual; NotWellError says what is not."""
    deadline = hands.now() + seconds
    before = lookups(hands) if usual is not None else Lookups()
    while True:
        seen = look(hands, without)
        wrong = judge(seen, hands.fleet, without=without)
        if not wrong and usual is not None:
            hands.sleep(POLL_SECONDS)
            after = lookups(hands)
            rate = hit_rate(before, after)
            if rate is not None:
                before = after
            if not warm(usual, rate):
                wrong = (f"reads find {rate:.1%} where they found {usual:.1%} before",)
        if not wrong:
            return seen
        tell(wrong[0])
        if hands.now() >= deadline:
            raise NotWellError(
                f"not well after {seconds:.0f} s: " + "; ".join(wrong), "'fab status' shows it"
            )
        hands.sleep(POLL_SECONDS)
