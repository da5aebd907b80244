"""Decide which slots move, in which order, and what becomes of a move under way. Pure: values in, values out.

What must move is the ring's answer to the members as they are now, compared with who holds the slots: nothing
but members and topology must be remembered. A move is `copying`, then (with replication) `joined`: its giver
acknowledges nothing that the taker lacks; then `flipped` (its slots are the taker's), then gone from the
topology. docs/rebalancing.md has the protocol.

With replication the giver stays as a replica of what it gave, so whoever falls there is one who has
everything: roles.py, which decides first, puts it in the place of the other, and the move is over.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fastcache import _core
from fastcache.health import pairs
from fastcache.health.groups import Holders, groups_of, mask_of, ranges_of, slots_in, text_of
from fastcache.health.roles import Event
from fastcache.model import Health

Document = dict[str, Any]
COPYING, JOINED, FLIPPED = "copying", "joined", "flipped"
# What the two say of the stream once everything is copied.
STREAMING = "streaming"
# A giver is behind by no more than this when it hands over: what is left is sent while requests wait.
SMALL_LAG_RECORDS = 2000
SMALL_LAG_MS = 20


NONE: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be under way at once."""

    # Moves of one node, as giver and taker together.
    a_node: int = 1
    # Slots of one move.
    slots: int = 256


@dataclass(frozen=True, slots=True)
class Step:
    """Slots that one node gives another."""

    giver: str
    taker: str
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What a node says of a move that it takes part in."""

    state: str
    lag_records: int = 0
    lag_ms: int = 0
    copied: int = 0
    keys: int = 0
    bytes: int = 0
    # What the node has served since it began.
    requests: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """All that is known at one moment."""

    nodes: Mapping[str, Health]
    # Nodes whose process is surely gone, for their host has said so: one that is silent may serve others.
    dead: frozenset[str] = frozenset()
    # (node, id of the move) -> what it says.
    rows: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    # Moves whose giver has promised to keep the slots; and those for which it was too late.
    kept: frozenset[str] = frozenset()
    sent: frozenset[str] = frozenset()
    # Moves whose taker did not hear of the flip: nobody else has heard of it either.
    unheard: frozenset[str] = frozenset()
    # Whether slots have copies, which take the place of who falls.
    replicated: bool = False
    # Whether new moves may begin, and whether those that copy are to be given up.
    running: bool = True
    cancelled: bool = False
    # Whether the next move is to wait, for the sake of those who ask meanwhile.
    rests: bool = False


@dataclass(slots=True)
class Decision:
    """The moves and slots of the next topology, and what happened."""

    moves: list[Document]
    slots: list[Document]
    events: list[Event] = field(default_factory=list)
    # (giver, move): whom to ask to keep what it has not handed over yet.
    ask_to_keep: list[tuple[str, str]] = field(default_factory=list)

    def flip(self, move: Document, replicas: tuple[str, ...]) -> None:
        """The slots are the taker's, and these their replicas."""
        self.slots = with_main(self.slots, move["ranges"], move["to"], replicas)
        self.moves.append({**move, "state": FLIPPED})
        self.tell("move-flipped", move)

    def tell(self, kind: str, move: Document, **fields: object) -> None:
        """Remember what happened to a move."""
        slots = mask_of(move["ranges"]).bit_count()
        told = {"move": move["id"], "from": move["from"], "to": move["to"], "slots": slots, **fields}
        self.events.append(Event(kind, tuple(told.items())))


def mains_of(document: Document) -> dict[int, str]:
    """Who is the main of each slot."""
    return {
        slot: group.main for group in groups_of(document.get("slots", ())) for slot in slots_in(group.ranges)
    }


def target(document: Document, layout: str = "ring", named: Sequence[pairs.Pair] = ()) -> dict[int, str]:
    """Who should be the main of each slot, as the ring has it for these members and what they hold.

    A node of weight 0 keeps nothing. With nobody to take them, slots stay where they are.
    """
    if layout == "pairs" and document.get("replicas"):
        return mains_of({"slots": pairs.placed(document, document.get("slots", ()), named, keep_mains=False)})
    nodes = document.get("nodes", ())
    slots = document.get("slots", ())
    if not slots or not any(node["weight"] for node in nodes):
        return mains_of(document)
    members = [{name: node[name] for name in ("id", "host", "rack", "weight")} for node in nodes]
    answer = _core.place(
        msgspec.json.encode(members),
        msgspec.json.encode({"slots": [{**one, "replicas": [], "learners": []} for one in slots]}),
        virtual_nodes=document["virtual_nodes"],
    )
    return mains_of(msgspec.json.decode(answer))


def steps(document: Document, wanted: Mapping[int, str]) -> list[Step]:
    """What is still to move: who gives which slots to whom, largest first."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for slot, main in mains_of(document).items():
        if wanted.get(slot, main) != main:
            pairs.setdefault((main, wanted[slot]), []).append(slot)
    found = [Step(giver, taker, tuple(sorted(moved))) for (giver, taker), moved in pairs.items()]
    return sorted(found, key=lambda step: (-len(step.slots), step.giver, step.taker))


def due(document: Document) -> bool:
    """Whether slots should move without being asked: a node waits for some, or one is to give up its own."""
    # Asked several times a second: who holds anything, not what.
    holders = {group.main for group in groups_of(document.get("slots", ())) if group.ranges}
    return any((node["id"] in holders) != bool(node["weight"]) for node in document.get("nodes", ()))


def decided(document: Document, planned: Sequence[Step], view: View, limits: Limits) -> Decision:
    """Take every move one step further, and begin new ones. `planned` is what is still to move."""
    slots = list(document.get("slots", ()))
    decision = Decision([], slots)
    held: dict[str, int] = {}
    for group in groups_of(slots):
        held[group.main] = held.get(group.main, 0) | mask_of(group.ranges)
    for move in document.get("moves", ()):
        main = move["to"] if move["state"] == FLIPPED else move["from"]
        if view.replicated and mask_of(move["ranges"]) & ~held.get(main, 0):
            # Its copies have taken the place of whoever was the main.
            kind = "move-undone" if move["state"] == FLIPPED else "move-given-up"
            decision.tell(kind, move, why=f"{main} was replaced")
        else:
            carry_on(move, view, decision)
    if view.running and not view.cancelled and not view.rests:
        begin(document, planned, view, limits, decision)
    return decision


def carry_on(move: Document, view: View, decision: Decision) -> None:
    """What becomes of one move."""
    if move["state"] != FLIPPED:
        if why := given_up(move, view):
            decision.tell("move-given-up", move, why=why)
        else:
            advance(move, view, decision)
    elif view.replicated:
        hand_over_among_copies(move, view, decision)
    else:
        hand_over(move, view, decision)


def away(move: Document, view: View) -> list[str]:
    """Who of the two is down, or has left."""
    both = (move["from"], move["to"])
    return [name for name in both if view.nodes.get(name, Health.UNHEALTHY) is Health.UNHEALTHY]


def rows(move: Document, view: View) -> tuple[Row | None, Row | None]:
    """What giver and taker say."""
    return view.rows.get((move["from"], move["id"])), view.rows.get((move["to"], move["id"]))


def given_up(move: Document, view: View) -> str:
    """Why slots that are the giver's still stay with it; empty when nothing speaks for that."""
    gives, _ = rows(move, view)
    if gone := away(move, view):
        return f"{gone[0]} is down"
    if view.cancelled:
        return "cancelled"
    if move["state"] == JOINED and gives and gives.state in {"connecting", "copying"}:
        return "its stream broke, and the giver waits for it"
    return f"{move['to']} is silent" if move["id"] in view.unheard else ""


def advance(move: Document, view: View, decision: Decision) -> None:
    """A step towards the handing over."""
    gives, takes = rows(move, view)
    if move["state"] == JOINED:
        if gives and takes and gives.state == JOINED and takes.state == STREAMING:
            # The taker has whatever is acknowledged, and nothing is that it lacks.
            return decision.flip(move, (move["from"],))
    elif ready(gives, takes):
        if not view.replicated:
            return decision.flip(move, NONE)
        decision.moves.append({**move, "state": JOINED})
        return decision.tell("move-joined", move)
    decision.moves.append(move)
    return None


def over(move: Document, view: View, decision: Decision) -> bool:
    """Whether a flipped move has come to its end as it should."""
    gives, takes = rows(move, view)
    done = bool(takes and takes.state == "open")
    if done or (gives and gives.state == "handed" and move["to"] not in away(move, view)):
        decision.tell("move-done", move, keys=takes.keys if takes else 0)
        return True
    return False


def hand_over_among_copies(move: Document, view: View, decision: Decision) -> None:
    """Slots that are the taker's, and of which the giver is a replica."""
    if over(move, view, decision):
        return
    if away(move, view) == [move["from"]]:
        # What it acknowledged the taker has; and it acknowledges nothing that the taker does not.
        decision.tell("move-done", move, why=f"{move['from']} is down")
    else:
        decision.moves.append(move)


def hand_over(move: Document, view: View, decision: Decision) -> None:
    """Slots that are the taker's, while only the giver may have all of them."""
    giver, taker, gone = move["from"], move["to"], away(move, view)
    gives, _ = rows(move, view)
    if over(move, view, decision):
        return
    if len(gone) == 2:
        decision.moves.append(move)  # Whoever comes back first says more.
    elif giver in gone and giver in view.nodes and giver not in view.dead:
        decision.moves.append(move)  # It may not have heard, and still serve.
    elif giver in gone:
        # The taker has what had come; the rest died with the giver, as all it held would have.
        decision.tell("move-done", move, why=f"{giver} is down")
    elif move["id"] in view.kept or (gives and gives.state == "kept"):
        # It has promised, so there is no other way, even if the taker is back.
        decision.slots = with_main(decision.slots, move["ranges"], giver)
        decision.tell("move-undone", move, why=f"{taker} was down")
    elif taker in gone and (move["id"] in view.sent or (gives and gives.state in {"sent", "handed", "gone"})):
        decision.tell("move-done", move, why=f"{taker} fell after it had everything")
    else:
        if taker in gone:
            decision.ask_to_keep.append((giver, move["id"]))
        decision.moves.append(move)


def ready(gives: Row | None, takes: Row | None) -> bool:
    """Whether so little is missing that the rest can be sent while requests wait."""
    return (
        gives is not None
        and takes is not None
        and gives.state == takes.state == STREAMING
        and gives.lag_records <= SMALL_LAG_RECORDS
        and gives.lag_ms <= SMALL_LAG_MS
    )


def begin(
    document: Document, planned: Sequence[Step], view: View, limits: Limits, decision: Decision
) -> None:
    """New moves, as many as the limits and the nodes' state allow."""
    busy: Counter[str] = Counter()
    taken: set[int] = set()
    ended = {str(dict(event.fields)["move"]) for event in decision.events if event.kind == "move-done"}
    for move in document.get("moves", ()):  # What was given up is not tried again in the same breath.
        if move["id"] in ended:
            continue
        busy.update((move["from"], move["to"]))
        taken.update(slots_in(move["ranges"]))
    number = 0
    for step in planned:
        well = all(view.nodes.get(name) is Health.HEALTHY for name in (step.giver, step.taker))
        free = all(busy[name] < limits.a_node for name in (step.giver, step.taker))
        slots = [slot for slot in step.slots if slot not in taken][: limits.slots]
        if not well or not free or not slots:
            continue
        number += 1
        move = {
            "id": f"m{document['epoch'] + 1}-{number}",
            "from": step.giver,
            "to": step.taker,
            "ranges": text_of(slots),
            "state": COPYING,
        }
        busy.update((step.giver, step.taker))
        decision.moves.append(move)
        decision.tell("move-begun", move)


def with_main(
    slots: Sequence[Document], ranges: str, main: str, replicas: tuple[str, ...] = NONE
) -> list[Document]:
    """The slots with another main for some of them, and these replicas.

    Other copies follow the old main, so they count no longer.
    """
    moved = mask_of(ranges)
    held: dict[tuple[str, Holders, Holders, Holders], int] = {}
    for group in groups_of(slots):
        others = tuple(name for name in group.copies if name != main and name not in replicas)
        mask = mask_of(group.ranges)
        for key, own in (
            ((group.main, group.replicas, group.learners, group.keepers), mask & ~moved),
            ((main, replicas, others, NONE), mask & moved),
        ):
            if own:
                held[key] = held.get(key, 0) | own
    return [
        {"main": holder, "ranges": ranges_of(own), "replicas": list(replicas)}
        | ({"learners": list(learners)} if learners else {})
        | ({"keepers": list(keepers)} if keepers else {})
        for (holder, replicas, learners, keepers), own in sorted(held.items())
    ]


def with_mains(slots: Sequence[Document], target: Mapping[int, str]) -> list[Document]:
    """The slots once all moves are over: who gave them up holds a copy."""
    now = list(slots)
    changes: dict[tuple[str, str], list[int]] = {}
    for slot, main in mains_of({"slots": slots}).items():
        if target.get(slot, main) != main:
            changes.setdefault((main, target[slot]), []).append(slot)
    for (giver, taker), moved in changes.items():
        now = with_main(now, text_of(moved), taker, (giver,))
    return now


def row_from(told: dict[str, Any]) -> tuple[str, Row]:
    """A row of FASTCACHE MOVES."""
    return str(told.get("move", "")), Row(
        state=str(told.get("state", "")),
        lag_records=int(told.get("lag-records", 0)),
        lag_ms=int(told.get("lag-ms", 0)),
        copied=int(told.get("copied", 0)),
        keys=int(told.get("keys", 0)),
        bytes=int(told.get("bytes", 0)),
        requests=int(told.get("requests", 0)),
    )
