"""Replies of nodes as values. Only what the health service asks for: RESP2, and maps of RESP3.

Bytes are text in UTF-8 where they are; simple strings and bulks are `bytes`, errors are `ErrorReply`.
"""

from collections.abc import Iterator
from typing import Union

DEEPEST = 8

Reply = Union[bytes, int, None, "ErrorReply", list["Reply"]]


class ErrorReply(str):
    """An error as the node put it."""

    __slots__ = ()


class Incomplete(Exception):  # noqa: N818  (it is no error)
    """More bytes are needed."""


class Replies:
    """Turns bytes as they arrive into replies; ValueError for bytes that are none."""

    def __init__(self) -> None:
        self.received = b""
        self.complete: list[Reply] = []

    def feed(self, data: bytes) -> None:
        """Take in what arrived."""
        self.received += data
        while self.received:
            try:
                reply, end = parsed(self.received, 0, 0)
            except Incomplete:
                return
            self.received = self.received[end:]
            self.complete.append(reply)


def parsed(data: bytes, start: int, depth: int) -> tuple[Reply, int]:
    """The reply that begins at `start`, and where it ends."""
    end = data.find(b"\r\n", start)
    if end < 0:
        raise Incomplete
    kind, head, after = data[start : start + 1], data[start + 1 : end], end + 2
    if kind == b"+":
        return head, after
    if kind == b"-":
        return ErrorReply(head.decode("utf-8", "replace")), after
    if kind == b":":
        return int(head), after
    if kind == b"_":
        return None, after
    if kind == b"$":
        return bulk(data, int(head), after)
    if kind in {b"*", b"%", b"~"}:
        return several(data, int(head) * (2 if kind == b"%" else 1), after, depth)
    raise ValueError(f"a reply does not begin with {kind!r}")


def bulk(data: bytes, size: int, start: int) -> tuple[Reply, int]:
    """A string of a known size."""
    if size < 0:
        return None, start
    if len(data) < start + size + 2:
        raise Incomplete
    return data[start : start + size], start + size + 2


def several(data: bytes, count: int, start: int, depth: int) -> tuple[Reply, int]:
    """A list; no memory is taken for what is only announced."""
    if depth >= DEEPEST:
        raise ValueError("replies are nested too deeply")
    if count < 0:
        return None, start
    items: list[Reply] = []
    for _ in range(count):
        item, start = parsed(data, start, depth + 1)
        items.append(item)
    return items, start


def pairs_of(reply: Reply) -> dict[str, str | int]:
    """A map that came as a list of names and values."""
    if not isinstance(reply, list):
        raise TypeError("this is no map")
    return dict(zip(map(text, reply[::2]), values(reply[1::2]), strict=True))


def values(items: list[Reply]) -> Iterator[str | int]:
    """Values as text or number; lists are left out of a row."""
    for item in items:
        yield item if isinstance(item, int) else text(item)


def text(item: Reply) -> str:
    """A value as text."""
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item or "")
