"""What an operator, or a node that joined, has set going. It is kept with the topology and outlives whoever
leads; rebalance.py changes it and carries it out.
"""

from typing import Literal

import msgspec


class Orders(msgspec.Struct, forbid_unknown_fields=False):
    """What is to move, for whom, at what cost, and what has come of it so far."""

    state: Literal["idle", "running", "paused", "cancelled"] = "idle"
    # Nodes whose weight was changed here; 0 drains.
    weights: dict[str, int] = {}
    started: float = 0.0
    finished: float = 0.0
    slots_total: int = 0
    slots_moved: int = 0
    keys_total: int = 0
    keys_moved: int = 0
    bytes_moved: int = 0
    given_up: int = 0
    # With replication: first mains move, then copies follow to where the ring wants them.
    phase: Literal["mains", "copies"] = "mains"
    # The budget: megabytes a second that one node may send, and what the 99th of a hundred answers of a node
    # that takes part may take, ms. Zero for no limit.
    megabytes: float = 0.0
    p99_ms: float = 0.0
    # The part of the time in which steps may be felt; 0 for what the settings say.
    share: float = 0.0
    # Copies of every slot, when that was changed here; negative: as the configuration says.
    replicas: int = -1
    # Nodes that have joined since and wait for slots.
    newcomers: list[str] = []
    # What keeps it from going on; empty when nothing does.
    waits: str = ""

    def saved(self) -> bytes:
        """For the store."""
        return msgspec.json.encode(self)


def restored(body: bytes) -> Orders:
    """What the store had; without anything, nothing is to move."""
    return msgspec.json.decode(body, type=Orders) if body else Orders()
