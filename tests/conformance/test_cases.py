"""Every case of cases/ against Redis and our node: replies equal to the byte, keyspaces equal at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conformance.allowed import Allowed, unfinished, unsuited
from tests.conformance.script import Case, Player, Step, alike, load
from tests.conformance.state import differences, keyspace
from tests.conformance.wire import SILENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.servers import Server

CASES = [case for path in sorted(Path(__file__).with_name("cases").glob("*.case")) for case in load(path)]
LATER = unfinished()
UNSUITED = unsuited()
# What a fleet says of keys on several nodes: in a request, and in a script that did not name them.
SPREAD = (
    b"-CROSSSLOT",
    b"Script attempted to access a non local key in a cluster node",
    b"option of SORT denied in cluster mode",
)
RUNS = [
    pytest.param(
        case,
        protocol,
        id=f"{case.family}/{case.title}/resp{protocol}",
        marks=[pytest.mark.xfail(reason="this family is not whole yet", strict=False)]
        if case.family in LATER
        else [],
    )
    for case in CASES
    for protocol in case.protocols
]


@pytest.mark.parametrize(("case", "protocol"), RUNS)
def test_replies_equal_those_of_redis(
    case: Case, protocol: int, redis: Server, ours: Server, allowed: Allowed, fleet: bool
) -> None:
    if fleet and case.name in UNSUITED:
        pytest.skip(UNSUITED[case.name])
    wrong, spread = _played(case, protocol, redis, ours, allowed, fleet, None)
    if spread and not wrong:
        # Once more, with keys that share a node.
        wrong, spread = _played(case, protocol, redis, ours, allowed, fleet, keys_by_redis(redis))
    if wrong:
        pytest.fail(f"{len(wrong)} differences\n" + "\n".join(wrong), pytrace=False)
    if spread:
        pytest.skip(f"as in Redis up to line {spread.line}, which needs keys of several nodes: {spread.text}")


def _played(
    case: Case,
    protocol: int,
    redis: Server,
    ours: Server,
    allowed: Allowed,
    fleet: bool,
    keys_of: Callable[[list[bytes]], set[bytes]] | None,
) -> tuple[list[str], Step | None]:
    started = time.time()
    for server in (redis, ours):
        server.clean()
    players = [
        Player(lambda server=server: server.connect(protocol), started, fleet and server is ours, keys_of)
        for server in (redis, ours)
    ]
    wrong, spread = _play(case, players, allowed, fleet)
    unlike = differences(*(keyspace(server.connect()) for server in (redis, ours)))
    if unlike and not spread and not allowed.covers(f"{case.name} :: final state"):
        wrong += unlike
    for server in (redis, ours):
        server.hang_up()
    return wrong, spread


def keys_by_redis(redis: Server) -> Callable[[list[bytes]], set[bytes]]:
    """What Redis takes for keys in a request; nothing where it sees none."""

    connection = redis.connect()

    def keys_of(words: list[bytes]) -> set[bytes]:
        reply = connection.value("COMMAND", "GETKEYS", *words)
        keys = set(reply) if isinstance(reply, list) else set()
        if words[0].upper().startswith(b"SORT"):
            keys |= {word for word in words if b"*" in word}  # Patterns of keys.
        return keys

    return keys_of


def _play(case: Case, players: list[Player], allowed: Allowed, fleet: bool) -> tuple[list[str], Step | None]:
    """What was unlike; and the step that a fleet refused, because its keys lie on several nodes."""
    wrong: list[str] = []
    for step in case.steps:
        for one, other in zip(*(player.play(step).replies for player in players), strict=True):
            if (one == SILENCE) != (step.action == "silent"):
                wrong.append(f"line {step.line}: {step.text}\n    redis answered {one!r}: the case is wrong")
                return wrong, None
            if fleet and one != other and any(words in other[:200] for words in SPREAD):
                _put_back_settings(case, step, players)
                return wrong, step
            if not alike(step.marks, one, other) and not allowed.covers(f"{case.name} :: {step.text}"):
                wrong.append(_difference(step, one, other))
                if other == SILENCE:
                    # Every later reply would be one behind.
                    return wrong, None
    for (name, one), (_, other) in zip(*(player.leftovers() for player in players), strict=False):
        if one != other and not allowed.covers(f"{case.name} :: last PING"):
            wrong.append(f"last PING on connection {name}\n    redis {one!r}\n    ours  {other!r}")
    return wrong, None


def _put_back_settings(case: Case, last: Step, players: list[Player]) -> None:
    """What the rest of a case would set, which it has changed before."""
    for step in case.steps[case.steps.index(last) + 1 :]:
        if step.text.upper().startswith("CONFIG SET "):
            for player in players:
                player.play(step)


def _difference(step: Step, one: bytes, other: bytes) -> str:
    at = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    start = max(0, at - 100) if max(len(one), len(other)) > 600 else 0
    return (
        f"line {step.line}: {step.text[:200]}\n"
        f"    redis {'...' if start else ''}{one[start : start + 600]!r}\n"
        f"    ours  {'...' if start else ''}{other[start : start + 600]!r}"
    )
