"""Compose the topology that ought to be, from members, verdicts and the topology that is. Pure.

Slots stay where their data is: only those of a node that has left are placed anew here.
What should move is moves.py's; with replication (`with_roles`) roles.py says who takes over.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from fastcache import _core
from fastcache.health import pairs, roles
from fastcache.health.groups import mask_of
from fastcache.health.registry import Record
from fastcache.model import Health

STATES = {Health.HEALTHY: "up", Health.UNHEALTHY: "down", Health.UNKNOWN: "unknown"}
HEALTH = {state: health for health, state in STATES.items()}

Document = dict[str, Any]
REPLICATION, STRICT, PAUSED = "replication", "strict", "paused"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the configuration says of the topology."""

    cluster: str
    cluster_id: str
    flags: tuple[str, ...] = ()
    virtual_nodes: int = 150
    replicas: int = 0
    health: tuple[str, ...] = ()
    # `ring`: copies on the next nodes of the circle; `pairs`: nodes that hold the same slots, all of them.
    layout: str = "ring"
    pairs: tuple[tuple[str, ...], ...] = ()
    # Nodes whose weight an operator has changed.
    weights: tuple[tuple[str, int], ...] = ()


def compose(
    shape: Shape, records: Iterable[Record], before: Document, *, place_now: bool, admit: bool
) -> Document:
    """The topology as it should be, still with the epoch of `before`.

    `place_now`: slots may be placed at all. `admit`: nodes that hold no slots yet may get some.
    """
    members = sorted(records, key=lambda record: record.member.id)
    nodes = [described(record) for record in members if record.member.kind == "node"]
    weights = dict(shape.weights)
    nodes = [{**node, "weight": weights.get(node["id"], node["weight"])} for node in nodes]
    document: Document = {
        "cluster": {"id": shape.cluster_id, "name": shape.cluster},
        "epoch": before.get("epoch", 0),
        "flags": sorted(set(shape.flags)),
        "format": 1,
        "health": list(shape.health),
        "moves": before.get("moves", []),
        "nodes": nodes,
        "proxies": [described(record) for record in members if record.member.kind == "proxy"],
        "replicas": shape.replicas,
        "slots": before.get("slots", []),
        "virtual_nodes": shape.virtual_nodes,
    }
    if REPLICATION in shape.flags:
        return document
    if REPLICATION in before.get("flags", []):
        # Nobody keeps the copies up to date any more.
        document["slots"] = [{**one, "replicas": [], "learners": []} for one in document["slots"]]
    if place_now and (not document["slots"] or orphaned(document)):
        document["slots"] = placed(document, before, admit, keep_mains=True)
        if not before.get("slots"):
            document["moves"] = []
    return document


def with_roles(
    document: Document, before: Document, shape: Shape, view: roles.View, *, admit: bool
) -> tuple[Document, list[roles.Event]]:
    """The topology with its slots as replication wants them, and what was decided on the way."""
    if REPLICATION not in before.get("flags", []):
        # Copies from before replication was switched on hold nothing.
        before = {
            **before,
            "slots": [{**one, "replicas": [], "learners": []} for one in before.get("slots", [])],
        }
    holders = [node for node in document["nodes"] if node["weight"]]
    view = replace(view, copies=min(shape.replicas, max(len(holders) - 1, 0)))

    def place(slots: list[Document], away: frozenset[str]) -> list[Document]:
        nodes = [{**node, "weight": 0} if node["id"] in away else node for node in document["nodes"]]
        now = {**document, "nodes": nodes}
        if shape.layout == "pairs":
            return pairs.placed(now, slots, shape.pairs)
        return placed(now, {"slots": slots}, admit, keep_mains=True)

    decision = roles.assign(before, view, place)
    for node in document["nodes"]:
        if run := decision.runs.get(node["id"]):
            node["run"] = run
    document["slots"] = decision.slots
    return document, decision.events


def count(ranges: str) -> int:
    """How many slots a group has."""
    return mask_of(ranges).bit_count()


def holding(document: Document) -> set[str]:
    """Ids of all nodes that hold slots."""
    return {
        name
        for group in document.get("slots", [])
        for name in (group["main"], *group["replicas"], *group.get("learners", ()))
    }


def described(record: Record) -> Document:
    """A member as the topology lists it."""
    member = record.member
    return {
        "host": member.host,
        "id": member.id,
        "port": member.port,
        "rack": member.rack,
        "state": STATES[record.judgement.status],
        "unix": member.unix,
        "weight": member.weight,
    }


def orphaned(document: Document) -> bool:
    """Whether a node that has left was the main of any slot."""
    known = {node["id"] for node in document["nodes"]}
    return any(group["main"] not in known for group in document["slots"])


def placed(document: Document, before: Document, admit: bool, *, keep_mains: bool = False) -> list[Document]:
    """Slots placed on the nodes; without `admit`, nodes that hold none wait for an operator."""
    holders = holding(before)
    members = [
        {
            "id": node["id"],
            "host": node["host"],
            "rack": node["rack"],
            "weight": node["weight"] if admit or not holders or node["id"] in holders else 0,
        }
        for node in document["nodes"]
    ]
    if not any(member["weight"] for member in members):
        return []  # Nobody is left who could hold a slot.
    answer = _core.place(
        msgspec.json.encode(members),
        msgspec.json.encode({"slots": before.get("slots", [])}),
        virtual_nodes=document["virtual_nodes"],
        replicas=document["replicas"] if REPLICATION in document["flags"] else 0,
        keep_mains=keep_mains,
    )
    slots: list[Document] = msgspec.json.decode(answer)["slots"]
    return slots


def differs(one: Document, other: Document) -> bool:
    """Whether two topologies differ in more than the epoch."""
    return {**one, "epoch": 0} != {**other, "epoch": 0}
