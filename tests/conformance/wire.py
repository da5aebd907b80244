"""A raw RESP connection: argument lists go out, the exact bytes of one reply come back.

Conformance compares bytes, so this client decodes nothing on its own. `decode` turns the bytes of
a reply into a tree for the comparisons that cannot be byte by byte (unordered sets, times).
A server that hangs up or stays silent is an answer too: CLOSED and SILENCE stand for those.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CLOSED = b"<connection closed>"
SILENCE = b"<no reply>"
REPLY_DEADLINE = 5.0

Word = bytes | str | int | float


class Node(NamedTuple):
    """One piece of a reply: its RESP type byte and its value (text, or a list of pieces)."""

    kind: str
    value: Any


def encode(argv: Sequence[Word]) -> bytes:
    """The request bytes of one command."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in argv]
    parts = [b"*%d\r\n" % len(words)]
    parts.extend(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"".join(parts)


def reply_end(buffer: bytes | bytearray, start: int) -> int:
    """Where the reply that begins at `start` ends, or -1 while bytes are missing."""
    at = start
    missing = 1
    while missing:
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return -1
        kind = buffer[at]
        missing -= 1
        if kind in b"$=!":
            length = int(buffer[at + 1 : line_end])
            at = line_end + 2
            if length >= 0:
                at += length + 2
                if at > len(buffer):
                    return -1
            continue
        if kind in b"*~>":
            missing += max(0, int(buffer[at + 1 : line_end]))
        elif kind == 0x25:  # a map: two pieces an entry
            missing += 2 * int(buffer[at + 1 : line_end])
        elif kind == 0x7C:  # an attribute stands before the reply it describes
            missing += 2 * int(buffer[at + 1 : line_end]) + 1
        elif kind not in b"+-:_,#(":
            raise ValueError(f"no RESP reply begins with {bytes(buffer[at : at + 40])!r}")
        at = line_end + 2
    return at


def decode(raw: bytes) -> Node:
    """The tree of one whole reply."""
    node, end = _decode(raw, 0)
    if end != len(raw):
        raise ValueError(f"bytes after the reply: {raw[end : end + 40]!r}")
    return node


def _decode(raw: bytes, at: int) -> tuple[Node, int]:
    if raw in (CLOSED, SILENCE):
        return Node("!", raw), len(raw)
    line_end = raw.index(b"\r\n", at)
    kind = chr(raw[at])
    head = raw[at + 1 : line_end]
    at = line_end + 2
    if kind in "$=!":
        length = int(head)
        if length < 0:
            return Node(kind, None), at
        return Node(kind, raw[at : at + length]), at + length + 2
    if kind in "*~>%|":
        count = int(head)
        if count < 0:
            return Node(kind, None), at
        if kind in "%|":
            count *= 2
        children = []
        for _ in range(count):
            child, at = _decode(raw, at)
            children.append(child)
        if kind == "|":
            child, at = _decode(raw, at)
            children.append(child)
        return Node(kind, children), at
    if kind == ":":
        return Node(kind, int(head)), at
    return Node(kind, head), at


def plain(node: Node) -> Any:
    """The reply as Python values: text as bytes, maps and arrays as lists."""
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


class Connection:
    """One client connection. Nothing is sent on its own account."""

    def __init__(self, address: tuple[str, int] | str, timeout: float = REPLY_DEADLINE) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout = timeout
        self.buffer = bytearray()
        self.closed = False

    def send_raw(self, data: bytes) -> None:
        """Send exactly these bytes. A peer that has hung up shows when the reply is read."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def send(self, *argv: Word) -> None:
        """Send one command."""
        self.send_raw(encode(argv))

    def read(self, timeout: float | None = None) -> bytes:
        """The bytes of the next reply, or CLOSED, or SILENCE when none came in time."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            end = reply_end(self.buffer, 0) if self.buffer else -1
            if end >= 0:
                raw = bytes(self.buffer[:end])
                del self.buffer[:end]
                return raw
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return SILENCE
            if not self._receive():
                return CLOSED

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            self.closed = True
            return False
        self.buffer += data
        return True

    def ask(self, *argv: Word) -> bytes:
        """Send one command and return the bytes of its reply."""
        self.send(*argv)
        return self.read()

    def value(self, *argv: Word) -> Any:
        """Send one command and return its reply as Python values."""
        return plain(decode(self.ask(*argv)))

    def pipeline(self, commands: Iterable[Sequence[Word]]) -> list[bytes]:
        """Send all commands at once and return the bytes of their replies."""
        requests = [encode(argv) for argv in commands]
        data = memoryview(b"".join(requests))
        replies: list[bytes] = []
        at = 0
        deadline = time.monotonic() + max(self.timeout, 60.0)
        while len(replies) < len(requests):
            # Both ways at once: a server stops reading from a client that reads nothing.
            wanted = [self.socket] if data else []
            readable, writable, _ = select.select([self.socket], wanted, [], deadline - time.monotonic())
            if not readable and not writable:
                replies.extend([SILENCE] * (len(requests) - len(replies)))
                break
            if writable:
                try:
                    data = data[self.socket.send(data[: 1 << 16]) :]
                except (BrokenPipeError, ConnectionResetError):
                    data = data[:0]
            if readable and not self._receive():
                replies.extend([CLOSED] * (len(requests) - len(replies)))
                break
            while len(replies) < len(requests) and at < len(self.buffer):
                end = reply_end(self.buffer, at)
                if end < 0:
                    break
                replies.append(bytes(self.buffer[at:end]))
                at = end
            del self.buffer[:at]
            at = 0
        return replies

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        self.socket.close()
