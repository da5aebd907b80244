"""What snapshots hold, as one number: equal contents have equal digests, whatever the shape of the cluster.

Each entry (key, database, kind, value, time of expiry) has a hash, and the digest is their sum: the order of
entries and the number of files do not matter, so the digests of nodes add up to that of their cluster. Where
nodes hold copies for each other, an entry counts only in the file of its slot's main.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcache import _core
from fastcache.errors import FastCacheError

BATCH = 1000
MODULUS = 1 << 128
#: Their order inside a value means nothing.
UNORDERED = {"set", "hash"}


@dataclass(frozen=True, slots=True)
class Sum:
    """How many entries, and their digest."""

    entries: int = 0
    digest: int = 0

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.entries + other.entries, (self.digest + other.digest) % MODULUS)

    @property
    def told(self) -> dict[str, Any]:
        """For JSON: the digest in hex."""
        return {"entries": self.entries, "digest": f"{self.digest:032x}"}


def told_sum(told: dict[str, Any]) -> Sum:
    """A sum from JSON."""
    return Sum(int(told["entries"]), int(told["digest"], 16))


@dataclass(frozen=True, slots=True)
class Only:
    """Which entries count: those of slots whose main the file's node is, and that live at a moment."""

    topology: _core.Topology | None = None
    living_at: int = 0

    def counts(self, key: bytes, node: str, expires: int | None) -> bool:
        """Whether an entry of `node`'s file counts."""
        if expires is not None and expires <= self.living_at:
            return False
        return self.topology is None or self.topology.node_of(key) == node


def sum_of(file: Path, only: Only) -> Sum:
    """What one snapshot holds; a damaged one is an error."""
    total = Sum()
    for _, number in hashes(file, only):
        total += Sum(1, number)
    return total


def hashes(file: Path, only: Only) -> Iterator[tuple[bytes, int]]:
    """Key (with its database) and hash of every entry that counts."""
    try:
        opened = _core.SnapshotFile(file)
        node = node_of(opened)
        while lines := opened.entries(BATCH):
            for line in lines:
                entry = json.loads(line)
                key = bytes_of(entry["key"])
                if only.counts(key, node, entry["expiresAt"]):
                    yield b"%d:%b" % (entry["database"], key), hash_of(entry)
    except ValueError as error:
        raise FastCacheError(f"{file} is damaged: {error}", "take the snapshot before it") from None


def node_of(opened: _core.SnapshotFile) -> str:
    """The id of the node that took a snapshot."""
    return str(json.loads(opened.about()).get("node", ""))


def bytes_of(told: Any) -> bytes:
    """A key as JSON tells it: text, or bytes that are no text."""
    if isinstance(told, str):
        return told.encode()
    import base64  # noqa: PLC0415

    return base64.b64decode(told["base64"])


def hash_of(entry: dict[str, Any]) -> int:
    """One entry's hash. Times of creation and change do not count."""
    value = entry["value"]
    if entry["type"] in UNORDERED and isinstance(value, list):
        value = sorted(value, key=json.dumps)
    content = [entry["database"], entry["key"], entry["type"], value, entry["expiresAt"]]
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16])


@dataclass(frozen=True, slots=True)
class Difference:
    """Entries of the first that are not in the second, or have another value there."""

    missing: tuple[str, ...]
    different: tuple[str, ...]
    same: int


def compare(first: Iterable[Path], then: Iterable[Path], before: Only, after: Only) -> Difference:
    """Key by key: is all that the first files hold in the second ones as well?"""
    wanted = {key: number for file in first for key, number in hashes(file, before)}
    different: list[str] = []
    same = 0
    for file in then:
        for key, number in hashes(file, after):
            expected = wanted.pop(key, None)
            if expected == number:
                same += 1
            elif expected is not None:
                different.append(shown(key))
    return Difference(tuple(sorted(map(shown, wanted))), tuple(sorted(different)), same)


def shown(key: bytes) -> str:
    """A key without its database, for people."""
    return key.partition(b":")[2].decode("utf-8", "backslashreplace")
