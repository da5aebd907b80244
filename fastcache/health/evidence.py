"""What nodes say of themselves and of their streams, and what of it still counts. Pure.

A report is what one node said at one moment: its run, the topology it obeys, a row for each stream. Reports
are kept as links (links.py) by main and copy; one that was made under another topology decides nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastcache.health.groups import Document, groups_of, mask_of
from fastcache.health.links import Link, after_row

# What we make of a copy that its main does not mention.
ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Row:
    """One stream as a node tells of it; `outgoing` where it is the main."""

    peer: str
    outgoing: bool
    state: str
    run: str = ""
    seq: int = 0
    acked: int = 0
    lag_ms: int = 0
    lag_bytes: int = 0
    sent_bytes: int = 0
    # Slots that came to the stream later and are being copied.
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node said at one moment."""

    node: str
    run: str
    epoch: int
    rows: tuple[Row, ...] = ()
    # It is to stop and serves on until its copies have taken over.
    leaving: bool = False


@dataclass(slots=True)
class Evidence:
    """The last reports of all nodes, in the form in which roles are decided."""

    runs: dict[str, str] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    received: dict[tuple[str, str], Link] = field(default_factory=dict)
    # (main, copy) -> the epoch under which the main asked to go on without it.
    asked: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, report: Report, topology: Document, now: float) -> bool:
        """Take in a report; says whether anything changed that a decision could stand on."""
        before = (self.runs.get(report.node), self.facts(report.node))
        self.runs[report.node] = report.run
        self.epochs[report.node] = report.epoch
        rows = {row.peer: row for row in report.rows if row.outgoing}
        expected = copies_of(report.node, topology)
        for peer in expected | set(rows):
            row = rows.get(peer) or Row(peer, True, ABSENT)
            fresh = Link(
                report.epoch,
                row.state,
                row.seq,
                row.acked,
                lag_ms=row.lag_ms,
                lag_bytes=row.lag_bytes,
                run=report.run,
                sent_bytes=row.sent_bytes,
                lacks=mask_of(row.lacks),
            )
            self.links[report.node, peer] = after_row(self.links.get((report.node, peer)), fresh, now)
        for row in report.rows:
            if not row.outgoing:
                self.received[report.node, row.peer] = Link(
                    report.epoch,
                    row.state,
                    row.seq,
                    row.acked,
                    lag_ms=row.lag_ms,
                    run=row.run,
                    lacks=mask_of(row.lacks),
                )
        self.forget_streams_that_ended(report, expected | set(rows))
        return before != (self.runs.get(report.node), self.facts(report.node))

    def facts(self, main: str) -> list[tuple[str, int, str, bool, bool, int]]:
        """What can change a decision, of the streams of one main."""
        return sorted(
            (peer, link.epoch, link.state, link.in_sync, bool(link.broken_since), link.lacks)
            for (name, peer), link in self.links.items()
            if name == main
        )

    def forget_streams_that_ended(self, report: Report, peers: Iterable[str]) -> None:
        """A node speaks of all its streams at once: what it no longer mentions is over."""
        still = set(peers)
        for key in [key for key in self.links if key[0] == report.node and key[1] not in still]:
            del self.links[key]
        incoming = {row.peer for row in report.rows if not row.outgoing}
        for key in [key for key in self.received if key[0] == report.node and key[1] not in incoming]:
            del self.received[key]

    def ask(self, main: str, peer: str, epoch: int) -> None:
        """A main wants to go on without a copy."""
        self.asked[main, peer] = max(epoch, self.asked.get((main, peer), -1))

    def grants(self, epoch: int) -> frozenset[tuple[str, str]]:
        """Requests made under this epoch: older ones were answered by it."""
        return frozenset(pair for pair, asked in self.asked.items() if asked == epoch)

    def forget(self, node: str) -> None:
        """A node has left."""
        self.runs.pop(node, None)
        self.epochs.pop(node, None)
        for table in (self.links, self.received, self.asked):
            for key in [key for key in table if node in key]:
                del table[key]


def copies_of(main: str, topology: Document) -> set[str]:
    """Everybody who should hold something that this node is the main of."""
    return {
        name for group in groups_of(topology.get("slots", ())) if group.main == main for name in group.copies
    }


def row_from(told: dict[str, Any]) -> Row:
    """A row of FASTCACHE STREAMS; fields we do not know are left alone."""
    return Row(
        peer=str(told.get("peer", "")),
        outgoing=str(told.get("direction", "")) == "out",
        state=str(told.get("state", "")),
        run=str(told.get("run", "")),
        seq=int(told.get("seq", 0)),
        acked=int(told.get("acked", 0)),
        lag_ms=int(told.get("lag-ms", 0)),
        lag_bytes=int(told.get("lag-bytes", 0)),
        sent_bytes=int(told.get("bytes", 0)),
        lacks=str(told.get("lacks", "")),
    )
