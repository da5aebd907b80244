"""Tell how far a rebalance is, for people and their tools. Nothing is decided here: rebalance.py moves."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from fastcache.health.forecast import rate
from fastcache.health.groups import mask_of
from fastcache.health.moves import FLIPPED, Row

if TYPE_CHECKING:
    from fastcache.health.rebalance import Rebalance

Document = dict[str, Any]
# Whoever follows it is told of changes so often.
TELL_SECONDS = 0.2


def told(rebalance: "Rebalance") -> dict[str, Any]:
    """How far it is at this moment."""
    orders, service, rows = rebalance.orders, rebalance.service, rebalance.rows
    under_way = [
        {
            "id": move["id"],
            "from": move["from"],
            "to": move["to"],
            "slots": mask_of(move["ranges"]).bit_count(),
            "state": state_of(move, rows),
            "copied": row.copied if (row := rows.get((move["to"], move["id"]))) else 0,
        }
        for move in rebalance.under_way
    ]
    active = orders.state in {"running", "paused"} or bool(under_way)
    now = time.time()
    left = sum(len(step.slots) for step in rebalance.steps(service.document)) if active else 0
    return {
        "state": orders.state,
        "epoch": service.epoch,
        "slotsMoved": orders.slots_moved,
        "slotsLeft": left,
        "slotsTotal": orders.slots_moved + left,
        "keysMoved": orders.keys_moved,
        "keysTotal": max(orders.keys_total, orders.keys_moved),
        "bytesMoved": orders.bytes_moved,
        "givenUp": orders.given_up,
        "seconds": round((orders.finished or now) - orders.started, 1) if orders.started else 0.0,
        "secondsLeft": round(left / rate(orders), 1) if active else 0.0,
        "weights": orders.weights,
        "budget": {
            "megabytesPerSecond": orders.megabytes,
            "p99Ms": orders.p99_ms,
            "share": rebalance.share,
        },
        "pace": {
            "megabytesPerSecond": round(rebalance.pace.now / 1e6, 2),
            "p99Ms": round(rebalance.pace.p99(), 2),
            "restSeconds": round(rebalance.pace.rest(rebalance.share), 2),
        },
        "impact": rebalance.cost.told(),
        "phase": orders.phase,
        "replicas": rebalance.replicas,
        "copiesLeft": rebalance.copies_left() if active and service.replication.on else 0,
        "waits": orders.waits,
        "moves": under_way,
    }


def state_of(move: Document, rows: Mapping[tuple[str, str], Row]) -> str:
    """The state of a move in a word: pending until the giver streams, sealed until the taker serves.

    `rows`: (node, move) -> what the node last said of it.
    """
    row = rows.get((move["from"], move["id"]))
    if move["state"] != FLIPPED:
        return "pending" if row is None or row.state == "connecting" else str(move["state"])
    taken = rows.get((move["to"], move["id"]))
    return "flipped" if taken and taken.state == "open" else "sealed"


async def stream(rebalance: "Rebalance") -> AsyncIterator[dict[str, Any]]:
    """How far it is, as often as that changes, until the service stops."""
    last: dict[str, Any] = {}
    while not rebalance.service.stopping.is_set():
        now = told(rebalance)
        if {**now, "seconds": 0, "secondsLeft": 0} != {**last, "seconds": 0, "secondsLeft": 0}:
            last = now
            yield now
        await asyncio.sleep(TELL_SECONDS)
