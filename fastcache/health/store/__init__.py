"""Where membership and epochs survive: SQLite for one service, etcd for several that elect a leader.

All methods may wait for a disk or the network: call them from a thread.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """What must not be lost. `members` is a JSON array, `topology` the canonical bytes of that epoch."""

    epoch: int
    topology: bytes
    members: bytes
    # What was set going (rebalance.py): JSON, empty when nothing ever was.
    orders: bytes = b""


class DeposedError(Exception):
    """Another service leads, or has written since: what was to be saved must not be published."""


class Store(Protocol):
    """What both stores can do."""

    def campaign(self) -> bool:
        """Become the leader or stay it; False while another one is."""

    def leader(self) -> str:
        """The URL of the service that leads; empty when none is known to."""

    def epoch(self) -> int:
        """The epoch of what was saved last; 0 in a new cluster."""

    def load(self) -> Stored | None:
        """What was saved last; None in a new cluster."""

    def save(self, stored: Stored, after: int) -> None:
        """Save durably, only if we lead and the saved epoch is still `after`; else raise DeposedError."""

    def ledger(self) -> bytes:
        """What is kept of operators (fastcache/ledger.py); empty in a new cluster."""

    def keep_ledger(self, ledger: bytes, entry: tuple[int, bytes] | None) -> None:
        """Save it durably, with one more entry of the audit, only if we lead; else raise DeposedError."""

    def entries(self, after: int, limit: int) -> list[bytes]:
        """Entries of the audit behind number `after`, the oldest first."""

    def resign(self) -> None:
        """Give up the lead, so that another need not wait for it to run out."""

    def close(self) -> None:
        """Let go of files and connections."""
