"""The keyspace of a server in a form that can be compared: type, life time and content of every key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.conformance.wire import Connection, decode, plain

READERS: dict[bytes, tuple[str, ...]] = {
    b"string": ("GET", "{}"),
    b"list": ("LRANGE", "{}", "0", "-1"),
    b"hash": ("HGETALL", "{}"),
    b"set": ("SMEMBERS", "{}"),
    b"zset": ("ZRANGE", "{}", "0", "-1", "WITHSCORES"),
    b"stream": ("XINFO", "STREAM", "{}", "FULL", "COUNT", "0"),
}
EXPIRY_TOLERANCE_MS = 3000


@dataclass(frozen=True)
class KeyState:
    """One key as it is seen from outside."""

    kind: bytes
    encoding: bytes
    expires_in_ms: int
    content: Any


def keyspace(connection: Connection, strict: bool = True) -> dict[bytes, KeyState]:
    """Every key of the selected database; not strict: encodings that differ on purpose are not told apart."""
    keys = sorted(connection.value("KEYS", "*"))
    kinds = connection.pipeline(("TYPE", key) for key in keys)
    commands: list[tuple[bytes | str, ...]] = []
    for key, raw in zip(keys, kinds, strict=True):
        reader = READERS.get(plain(decode(raw)), ("EXISTS", "{}"))
        commands += [tuple(key if word == "{}" else word for word in reader)]
        commands += [("PTTL", key), ("OBJECT", "ENCODING", key)]
    answers = connection.pipeline(commands)
    state = {}
    for at, (key, raw) in enumerate(zip(keys, kinds, strict=True)):
        kind = plain(decode(raw))
        content, expiry, encoding = (plain(decode(answer)) for answer in answers[at * 3 : at * 3 + 3])
        if not strict and (kind == b"zset" or encoding in (b"int", b"embstr")):
            encoding = b""
        state[key] = KeyState(kind, encoding, expiry, _canonical(kind, content))
    return state


def _canonical(kind: bytes, content: Any) -> Any:
    if kind == b"set":
        return sorted(content)
    if kind == b"hash":
        return sorted(zip(content[::2], content[1::2], strict=True))
    return _timeless(content) if kind == b"stream" else content


def _timeless(content: Any) -> Any:
    """A stream as XINFO tells it, without the times at which consumers were heard of."""
    if isinstance(content, list):
        return [_timeless(part) for part in content]
    return 0 if isinstance(content, int) and content > 10**11 else content


def differences(one: dict[bytes, KeyState], other: dict[bytes, KeyState]) -> list[str]:
    """A line for every key on which two keyspaces disagree (redis first, ours second)."""
    lines = []
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key), other.get(key)
        if left is None or right is None:
            lines.append(f"key {key!r}: only on {'ours' if left is None else 'redis'}: {left or right}"[:300])
            continue
        if (left.kind, left.encoding, left.content) != (right.kind, right.encoding, right.content):
            lines.append(f"key {key!r}:\n    redis {left}\n    ours  {right}"[:1500])
        elif abs(left.expires_in_ms - right.expires_in_ms) > EXPIRY_TOLERANCE_MS:
            lines.append(
                f"key {key!r}: expires in {left.expires_in_ms} ms on redis, {right.expires_in_ms} ms on ours"
            )
    return lines
