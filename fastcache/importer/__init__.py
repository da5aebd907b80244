"""Bring the keys of a Redis or Valkey in: from an RDB file (file.py), or from a server that runs (live.py).

Every key goes to the target as one RESTORE (target.py), so that it is there whole or not at all, and a run
that was interrupted can be run again. The target is any door of ours: a node, a proxy, HAProxy.
"""

from dataclasses import dataclass, field

# How many refused keys are told by name.
NAMED = 10


@dataclass(slots=True)
class Progress:
    """How far an import is; the same object is filled while it goes on."""

    done_bytes: int = 0
    total_bytes: int = 0
    keys: int = 0
    kept: int = 0
    removed: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    stage: str = "reading"
    behind: int = 0

    def refuse(self, what: str, why: str) -> None:
        """Count what the target did not take; the first ones are told by name."""
        self.refused += 1
        if len(self.refusals) < NAMED:
            self.refusals.append(f"{what}: {why}")
