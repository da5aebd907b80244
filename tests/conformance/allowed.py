"""Deliberate differences from Redis: differences.toml, a pattern and a reason each.

An entry that no comparison needed any more is stale and fails the run (test_stale.py), so the list
tells the truth about the node.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("differences.toml")


@dataclass
class Difference:
    """One allowed difference: where it may show and why it is meant."""

    where: str
    reason: str
    seen: int = 0
    # Whether it must show in a whole run.
    must_show: bool = True

    def covers(self, place: str) -> bool:
        return re.search(self.where, place) is not None


def unfinished() -> set[str]:
    """Families that the node does not serve whole yet (unfinished.toml)."""
    return set(tomllib.loads(FILE.with_name("unfinished.toml").read_text())["families"])


def unsuited() -> dict[str, str]:
    """Cases that are not played to a fleet ("family: title"), and why."""
    listed = tomllib.loads(FILE.with_name("fleet.toml").read_text()).get("unsuited", [])
    return {entry["case"]: entry["reason"] for entry in listed}


class Allowed:
    """The allow-list, counting what was used."""

    def __init__(self, entries: list[Difference]) -> None:
        self.entries = entries

    @classmethod
    def load(cls, path: Path = FILE, *, must_show: bool = True) -> Allowed:
        listed = tomllib.loads(path.read_text()).get("difference", [])
        return cls(
            [
                Difference(
                    entry["where"], entry["reason"], must_show=must_show and not entry.get("sometimes", False)
                )
                for entry in listed
            ]
        )

    def covers(self, place: str) -> bool:
        """Whether a difference at `place` ("family: title :: command") is meant."""
        for entry in self.entries:
            if entry.covers(place):
                entry.seen += 1
                return True
        return False

    def stale(self) -> list[str]:
        """Entries that nothing matched."""
        return [entry.where for entry in self.entries if entry.must_show and not entry.seen]
