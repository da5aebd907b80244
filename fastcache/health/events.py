"""What happened to the cluster, newest last: kept in memory and in a file, so that a restart does not forget.

The file `events.jsonl` holds a JSON object a line. It is cut to the newest lines when it has twice as many.
"""

import contextlib
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from fastcache.health.registry import timestamp

KEPT = 1000


class Events:
    """The list of events."""

    def __init__(self, directory: str) -> None:
        self.file = Path(directory) / "events.jsonl"
        self.recent: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.lines = 0
        with contextlib.suppress(OSError):
            for line in self.file.read_bytes().splitlines():
                self.lines += 1
                # A crash may have cut the last line.
                with contextlib.suppress(msgspec.DecodeError):
                    self.recent.append(msgspec.json.decode(line))
        self.number = int(self.recent[-1].get("number", 0)) if self.recent else 0

    def add(self, at: float, kind: str, fields: dict[str, object]) -> None:
        """Remember one. That the disk does not take it is no reason to stop."""
        self.number += 1
        event = {"number": self.number, "at": timestamp(at), "event": kind, **fields}
        self.recent.append(event)
        with contextlib.suppress(OSError):
            self.write(event)

    def write(self, event: dict[str, Any]) -> None:
        """Append it, or write the file anew when it has grown long."""
        self.lines += 1
        if self.lines > 2 * KEPT:
            fresh = self.file.with_suffix(".new")
            fresh.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in self.recent))
            fresh.replace(self.file)
            self.lines = len(self.recent)
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as out:
            out.write(msgspec.json.encode(event) + b"\n")

    def after(self, number: int) -> list[dict[str, Any]]:
        """Those that came after the one with this number."""
        return [event for event in self.recent if event["number"] > number]
