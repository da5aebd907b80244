"""Every command of Redis is described by our node as Redis describes it, and counts its arguments alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.allowed import Allowed, unfinished
from tests.conformance.wire import SILENCE, Node, decode, plain

if TYPE_CHECKING:
    from tests.conformance.servers import Server

pytestmark = pytest.mark.xfail("table" in unfinished(), reason="not every family is whole yet", strict=False)

# What a wrong number of arguments would not stop, or what ends the connection or the server.
UNASKED = {"shutdown", "monitor", "sync", "psync", "quit", "reset", "debug", "client|reply", "client|pause"}
SUBSCRIBING = {"subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"}


def described(server: Server) -> dict[str, list[Any]]:
    """COMMAND INFO of every command and sub-command, flags and categories in order."""
    table: dict[str, list[Any]] = {}
    for row in decode(server.connect().ask("COMMAND")).value:
        _describe(row, table)
    return table


def _describe(row: Node, table: dict[str, list[Any]]) -> None:
    name, arity, flags, first, last, step, categories, tips, keys, children = row.value
    for child in children.value:
        _describe(child, table)
    table[name.value.decode()] = [
        arity.value,
        sorted(plain(flags)),
        (first.value, last.value, step.value),
        sorted(plain(categories)),
        sorted(plain(tips)),
        # Notes are sentences for people, each server has its own.
        [_without(b"notes", plain(spec)) for spec in keys.value],
    ]


def _without(name: bytes, fields: list[Any]) -> list[Any]:
    if name not in fields[::2]:
        return fields
    at = fields.index(name)
    return fields[:at] + fields[at + 2 :]


def test_every_command_of_redis_is_served_and_described_alike(
    redis: Server, ours: Server, allowed: Allowed
) -> None:
    expected, actual = described(redis), described(ours)
    parts = ["arity", "flags", "keys", "ACL categories", "tips", "key specifications"]
    wrong = []
    for name, row in sorted(expected.items()):
        if name not in actual:
            if not allowed.covers(f"table: served :: {name}"):
                wrong.append(f"{name}: not served")
            continue
        for part, one, other in zip(parts, row, actual[name], strict=True):
            if one != other and not allowed.covers(f"table: {part} :: {name}"):
                wrong.append(f"{name}: {part}\n    redis {one}\n    ours  {other}")
    wrong += [
        f"{name}: Redis 7.0 has no such command"
        for name in sorted(actual.keys() - expected.keys())
        if not allowed.covers(f"table: added :: {name}")
    ]
    if wrong:
        pytest.fail(f"{len(wrong)} differences\n" + "\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_wrong_number_of_arguments_is_refused_in_the_same_words(
    redis: Server, ours: Server, allowed: Allowed, protocol: int
) -> None:
    known = described(ours)
    wrong = []
    connections = [server.connect(protocol) for server in (redis, ours)]
    for name, row in sorted(described(redis).items()):
        if name in UNASKED or name not in known:
            continue
        arity = row[0]
        words = name.split("|")
        trials = [[*words, *["x"] * (size - len(words))] for size in range(len(words), abs(arity))]
        if arity > 0:
            trials.append([*words, *["x"] * (arity + 1 - len(words))])
        for trial in trials:
            one, other = (connection.ask(*trial) for connection in connections)
            assert SILENCE not in (one, other), trial
            if one != other and not allowed.covers(f"table: wrong arity :: {' '.join(trial)}"):
                wrong.append(f"{' '.join(trial)}\n    redis {one[:300]!r}\n    ours  {other[:300]!r}")
    if wrong:
        pytest.fail(f"{len(wrong)} differences\n" + "\n".join(wrong), pytrace=False)


def test_command_docs_tells_group_and_version(redis: Server, ours: Server, allowed: Allowed) -> None:
    documents = [_documents(server) for server in (redis, ours)]
    wrong = []
    for name, one in sorted(documents[0].items()):
        other = documents[1].get(name)
        if other is None:
            if not allowed.covers(f"table: served :: {name.decode()}"):
                wrong.append(f"{name.decode()}: no document")
            continue
        for part in (b"group", b"since"):
            different = one.get(part) != other.get(part)
            if different and not allowed.covers(f"table: docs {part.decode()} :: {name.decode()}"):
                wrong.append(f"{name.decode()}: {part.decode()} {one.get(part)} {other.get(part)}")
        if not other.get(b"summary"):
            wrong.append(f"{name.decode()}: no summary")
    if wrong:
        pytest.fail(f"{len(wrong)} differences\n" + "\n".join(wrong), pytrace=False)


def _documents(server: Server) -> dict[bytes, dict[bytes, Any]]:
    reply = server.connect(2).value("COMMAND", "DOCS")
    return {
        name: dict(zip(fields[::2], fields[1::2], strict=True))
        for name, fields in zip(reply[::2], reply[1::2], strict=True)
    }
