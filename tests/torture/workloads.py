"""What clients do to keys: the kinds of values, how an operation is asked for, and what its answer says.

The first letter of a key names its kind. Every value is written once, so a history tells who read what.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Words = list[str]
# Done where the value is still the one that was read.
COMPARE_AND_SET = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0"
)


@dataclass(frozen=True)
class Refusal:
    """An error that a server answered with."""

    text: bytes


Reply = int | bytes | Refusal | list[Any] | None


@dataclass(frozen=True)
class Workload:
    """One kind of value."""

    # What it is before anybody wrote.
    initial: Any
    # Operations to draw from.
    operations: tuple[str, ...]


WORKLOADS = {
    "r": Workload(None, ("read", "read", "write", "write", "cas")),
    "n": Workload(0, ("read", "add")),
    "l": Workload((), ("read", "push")),
    "s": Workload(frozenset(), ("read", "put")),
    "x": Workload((), ("read", "append")),
    # Two registers that are written together.
    "m": Workload(None, ("read", "write")),
}
READS = {
    "r": lambda key: ["GET", key],
    "n": lambda key: ["GET", key],
    "l": lambda key: ["LRANGE", key, "0", "-1"],
    "s": lambda key: ["SMEMBERS", key],
    "x": lambda key: ["XRANGE", key, "-", "+"],
    "m": lambda key: ["MGET", f"{{{key}}}a", f"{{{key}}}b"],
}


def requests(key: str, kind: str, value: int | None, expected: int | None) -> list[Words]:
    """The requests of an operation; the last one's reply is its answer."""
    if kind == "read":
        return [READS[key[0]](key)]
    words = str(value)
    if kind == "write" and key[0] == "m":
        sets = [["SET", f"{{{key}}}{part}", words] for part in "ab"]
        return [["MULTI"], *sets, ["EXEC"]]
    return [
        {
            "write": ["SET", key, words],
            "cas": ["EVAL", COMPARE_AND_SET, "1", key, str(expected), words],
            "add": ["INCRBY", key, words],
            "push": ["RPUSH", key, words],
            "put": ["SADD", key, words],
            "append": ["XADD", key, "*", "v", words],
        }[kind]
    ]


def answer(key: str, kind: str, reply: Reply) -> Any:
    """What a reply says, as the model of the kind has it."""
    if kind == "cas":
        return reply == 1
    if kind in {"add", "push", "put"}:
        return reply
    if kind != "read":
        return None
    letter = key[0]
    if letter == "n":
        return int(text(reply) or 0)
    if letter == "r":
        return number(reply)
    entries: Sequence[Any] = reply if isinstance(reply, list) else []
    if letter == "m":
        both = [number(one) for one in entries]
        # Written together: whoever sees them apart has read what never was.
        return both[0] if len(set(both)) == 1 else tuple(both)
    if letter == "x":
        return tuple(number(fields[1]) for _, fields in entries)
    told = [number(one) for one in entries]
    return frozenset(told) if letter == "s" else tuple(told)


def text(reply: Any) -> bytes:
    return reply if isinstance(reply, bytes) else b""


def number(reply: Any) -> int | None:
    return int(reply) if isinstance(reply, bytes) else None
