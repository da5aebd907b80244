"""What is said of the streams from mains to their copies, and since when it has been so. Pure.

evidence.py keeps it, roles.py stands on it.
"""

from dataclasses import dataclass, replace

from fastcache.health.groups import mask_of

STREAMING = "streaming"
COPYING = "copying"


@dataclass(frozen=True, slots=True)
class Link:
    """What a main last said of the stream to one of its copies.

    `epoch` is the topology that the main obeyed then, `floor` its sequence number when it first spoke under
    that topology: once that much is acknowledged, nothing older is missing.
    """

    epoch: int
    state: str
    seq: int = 0
    acked: int = 0
    floor: int = 0
    lag_ms: int = 0
    # Since when, by the clock of whoever asks, the stream has not been `streaming`; 0 while it is.
    broken_since: float = 0.0
    # Since when it has, besides, brought the copy no further.
    stalled_since: float = 0.0
    run: str = ""
    lag_bytes: int = 0
    sent_bytes: int = 0
    # Slots, as bits, that came to the stream later and that the copy does not have yet; since when.
    lacks: int = 0
    lacking: tuple[tuple[int, float], ...] = ()

    @property
    def in_sync(self) -> bool:
        """Everything up to the floor has arrived, and what follows is under way."""
        return self.state == STREAMING and self.acked >= self.floor

    def holds(self, ranges: str) -> bool:
        """The same, of these slots."""
        return self.in_sync and not self.lacks & mask_of(ranges)

    def lacks_since(self, ranges: str) -> float | None:
        """Since when any of these slots is being copied."""
        return min((since for slots, since in self.lacking if slots & mask_of(ranges)), default=None)


def after_row(before: Link | None, row: Link, at: float) -> Link:
    """Take in what a main says now. A new topology or a new run of the main begins a new floor."""
    known = before if before and before.epoch == row.epoch and before.run == row.run else None
    broken = stalled = 0.0
    if row.state != STREAMING:
        broken = before.broken_since if before and before.broken_since else at
        advances = known and row.state == COPYING and row.sent_bytes > known.sent_bytes
        stalled = before.stalled_since if before and before.stalled_since and not advances else at
    lacking, fresh = [], row.lacks
    for slots, since in before.lacking if before else ():
        if still := slots & row.lacks:
            lacking.append((still, since))
            fresh &= ~still
    if fresh:
        lacking.append((fresh, at))
    return replace(
        row,
        floor=known.floor if known else row.seq,
        broken_since=broken,
        stalled_since=stalled,
        lacking=tuple(lacking),
    )
