"""Say beforehand what a rebalance would move, how long that takes and what it costs. Nothing is changed.

Where slots belong is worked out by moves.py; nodes are asked how much they hold (cost.py).
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastcache.health import compose, moves, pairs
from fastcache.health.cost import dip
from fastcache.health.groups import groups_of, mask_of, text_of

if TYPE_CHECKING:
    from fastcache.health.act import Service
    from fastcache.health.orders import Orders
    from fastcache.health.rebalance import Rebalance

Document = dict[str, Any]
# How fast slots move where nothing was measured yet.
USUAL_SLOTS_A_SECOND = 200.0


async def plan(
    rebalance: "Rebalance", weights: dict[str, int] | None = None, replicas: int | None = None
) -> dict[str, Any]:
    """What would move, with what it amounts to."""
    document = {**rebalance.service.document}
    wanted = {**rebalance.orders.weights, **(weights or {})}
    document["nodes"] = [
        {**node, "weight": wanted.get(node["id"], node["weight"])} for node in document.get("nodes", ())
    ]
    document["replicas"] = rebalance.replicas if replicas is None else replicas
    target = rebalance.target(document)
    found = moves.steps(document, target)
    held: dict[str, int] = {}
    for main in moves.mains_of(document).values():
        held[main] = held.get(main, 0) + 1
    names = sorted({name for step in found for name in (step.giver, step.taker)})
    asked = await asyncio.gather(*(rebalance.cost.size(name) for name in names))
    sizes = dict(zip(names, asked, strict=True))
    told: list[dict[str, Any]] = []
    for step in found:
        part = len(step.slots) / held[step.giver]
        keys, size = sizes[step.giver].keys, sizes[step.giver].bytes
        told.append(
            {
                "from": step.giver,
                "to": step.taker,
                "slots": len(step.slots),
                "ranges": text_of(step.slots),
                "keys": round(keys * part),
                "bytes": round(size * part),
            }
        )
    slots = sum(len(step.slots) for step in found)
    return {
        "moves": told,
        "copies": copies_to_make(rebalance.service, document, target),
        "slots": slots,
        "keys": sum(one["keys"] for one in told),
        "bytes": sum(one["bytes"] for one in told),
        "seconds": round(slots / rate(rebalance.orders), 1),
        "hitRateDip": dip(told, sizes),
    }


def copies_to_make(service: "Service", document: Document, target: Mapping[int, str]) -> int:
    """Copies of slots that would be made once their mains are where they belong."""
    if not service.replication.on or not document.get("slots"):
        return 0
    slots = moves.with_mains(document["slots"], target)
    if service.settings.replica_placement == "pairs":
        placed = pairs.placed(document, slots, service.settings.pairs)
    else:
        placed = compose.placed(document, {"slots": slots}, admit=True, keep_mains=True)
    held: dict[str, int] = {}
    for group in groups_of(document["slots"]):
        for name in (group.main, *group.copies):
            held[name] = held.get(name, 0) | mask_of(group.ranges)
    return sum(
        (mask_of(group.ranges) & ~held.get(name, 0)).bit_count()
        for group in groups_of(placed)
        for name in group.replicas
    )


def rate(orders: "Orders") -> float:
    """Slots a second, as measured in this rebalance or else by habit."""
    spent = (orders.finished or time.time()) - orders.started
    if orders.slots_moved and spent > 0:
        return max(orders.slots_moved / spent, 1.0)
    return USUAL_SLOTS_A_SECOND
