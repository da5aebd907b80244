"""A script that does not end: others are told, whoever may ends it, and the node goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.conformance.servers import Server, start_ours, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conformance.wire import Connection

THRESHOLD = ("busy-reply-threshold", "100")
DEADLINE = 30.0
ENDLESS = "while true do end"


@pytest.fixture(params=[start_redis, start_ours], ids=["redis", "ours"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each server in turn: what is said here holds for both."""
    start: Callable[..., Server] = request.param
    server = start(tmp_path_factory.mktemp("scripts"), THRESHOLD)
    yield server
    server.stop()


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Our node alone, for what ends a Redis."""
    server = start_ours(tmp_path_factory.mktemp("scripts"), THRESHOLD, ("lua-memory-limit", "64mb"))
    yield server
    server.stop()


def wait_until_busy(server: Server) -> Connection:
    """A new connection, once it is told that a script keeps the server busy."""
    other = server.connect()
    until = time.monotonic() + DEADLINE
    while not other.ask("PING").startswith(b"-BUSY"):
        assert time.monotonic() < until, "the script has ended, or nobody is told that it runs"
        time.sleep(0.01)
    return other


def test_others_are_told_busy_and_may_kill_a_script_that_has_not_written(server: Server) -> None:
    running, waiting = server.connect(), server.connect()
    running.send("EVAL", ENDLESS, "0")
    other = wait_until_busy(server)
    assert waiting.ask("GET", "k").startswith(b"-BUSY Redis is busy running a script.")
    assert other.ask("SCRIPT", "KILL") == b"+OK\r\n"
    assert running.read().startswith(b"-ERR Script killed by user with SCRIPT KILL... script: ")
    assert other.ask("SET", "k", "v") == b"+OK\r\n"
    assert running.ask("GET", "k") == b"$1\r\nv\r\n"
    assert other.ask("SCRIPT", "KILL").startswith(b"-NOTBUSY")


def test_a_script_that_catches_errors_is_killed_all_the_same(server: Server) -> None:
    running = server.connect()
    running.send("EVAL", f"while true do pcall(function() {ENDLESS} end) end", "0")
    other = wait_until_busy(server)
    assert other.ask("SCRIPT", "KILL") == b"+OK\r\n"
    assert running.read().startswith(b"-ERR Script killed by user")


def test_a_script_that_has_written_is_not_killed(server: Server) -> None:
    running = server.connect()
    running.send("EVAL", "redis.call('SET', 'a', 1) for i = 1, 1e15 do if i % 1e7 == 0 then end end", "0")
    other = wait_until_busy(server)
    assert other.ask("SCRIPT", "KILL").startswith(b"-UNKILLABLE Sorry the script already executed write")
    other.send("SHUTDOWN", "NOSAVE")
    until = time.monotonic() + DEADLINE
    while server.alive():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_was_sent_meanwhile_is_answered_in_order(server: Server) -> None:
    running = server.connect()
    running.send("EVAL", ENDLESS, "0")
    running.send("ECHO", "behind")
    other = wait_until_busy(server)
    assert other.ask("SCRIPT", "KILL") == b"+OK\r\n"
    assert running.read().startswith(b"-ERR Script killed")
    assert running.read() == b"$6\r\nbehind\r\n"


@pytest.mark.parametrize(
    "script",
    [
        "return ('a'):rep(5000):find('(.-)(.-)(.-)(.-)(.-)b')",
        "local function f() return coroutine.wrap(function() while true do end end)() end"
        " while true do pcall(f) end",
    ],
)
def test_not_even_a_pattern_or_coroutines_keep_a_node(node: Server, script: str) -> None:
    running = node.connect()
    running.send("EVAL", script, "0")
    other = wait_until_busy(node)
    assert other.ask("SCRIPT", "KILL") == b"+OK\r\n"
    assert running.read(DEADLINE).startswith(b"-ERR ")
    assert other.ask("PING") == b"+PONG\r\n"


def test_a_memory_bomb_ends_in_an_error_and_its_memory_is_given_back(node: Server) -> None:
    before = node.resident_bytes()
    bomb = "local s = ('x'):rep(1e6) local t = {} while true do t[#t + 1] = s .. #t end"
    for _ in range(3):
        assert node.connect().ask("EVAL", bomb, "0").startswith(b"-ERR not enough memory")
    assert node.connect().ask("EVAL", "return 1", "0") == b":1\r\n"
    assert node.resident_bytes() - before < 128 << 20


# Holes that Redis' Lua had, by their numbers: what the scripts tried to reach, and what they come to here.
HOLES = {
    "CVE-2015-4335, bytecode": r"return loadstring('\27Lua\81\0\1\4\8\4\8\0' .. string.rep('\0', 200))",
    "CVE-2015-8080, struct": "return struct.unpack('>I2147483648', 'x')",
    "CVE-2018-11218, cmsgpack nested": r"return cmsgpack.unpack(string.rep('\145', 200000))",
    "CVE-2018-11218, cmsgpack packed": "local t = {} for i = 1, 1e5 do t = {t} end return cmsgpack.pack(t)",
    "CVE-2018-11219, struct": "return struct.pack('>I2147483648', '10')",
    "CVE-2020-14147, struct": "return struct.unpack('c2147483647', 'abc')",
    "CVE-2021-32626, stack": "local function f() return {pcall(f)} end return f()",
    "CVE-2021-32626, reply": "local t = {} for i = 1, 200000 do t = {t} end return t",
    "CVE-2021-32675, cjson nested": "return cjson.decode(string.rep('[', 200000))",
    "CVE-2022-24735, globals": "function redis.call() return 'mine' end",
    "CVE-2022-24735, replaced": "rawset(_G, 'tostring', function() return 'mine' end)",
    "CVE-2022-24834, cjson": r"return #cjson.encode(string.rep('\0', 2^19))",
    "CVE-2024-31449, bit": "return bit.tohex(65535, -2147483648)",
    "CVE-2024-46981, finalizers": "local p = newproxy(true) getmetatable(p).__gc = redis.call",
    "CVE-2025-46817, unpack": "return {unpack({0, 0}, 0, 2^31 - 1)}, {unpack({}, -2^31, 2^31 - 1)}",
    "CVE-2025-46818, strings": "getmetatable('').__index = function() return 'mine' end",
    "CVE-2025-46818, numbers": "debug.setmetatable(0, {__index = function() return 'mine' end})",
    "CVE-2025-46819, brackets": "return loadstring('return [' .. string.rep('=', 100000))",
    "CVE-2025-46819, long": "return loadstring('return [==[' .. string.rep(']=', 100000))",
    "CVE-2025-49844, parser": "for i = 1, 300 do loadstring('return ' .. string.rep('{', 150), "
    "string.rep('n', 4000) .. i) collectgarbage('step') end return 1",
}


@pytest.mark.parametrize("script", HOLES.values(), ids=HOLES.keys())
def test_known_holes_lead_nowhere(script: str, holed: Server) -> None:
    attacker, other = holed.connect(), holed.connect()
    reply = attacker.ask("EVAL", script, "0")
    assert b"mine" not in reply
    for _ in range(3):
        assert other.ask("EVAL", "return ('x'):upper() .. tostring(5) .. #ARGV", "0") == b"$3\r\nX50\r\n"
        assert other.ask("EVAL", "return redis.call('ECHO', 'safe')", "0") == b"$4\r\nsafe\r\n"
        assert other.ask("EVAL", "collectgarbage() return (5).x", "0").startswith(b"-ERR")
    assert holed.alive()


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node that all of them try, one after another: what one leaves behind the next would meet."""
    server = start_ours(tmp_path_factory.mktemp("holes"), ("lua-memory-limit", "128mb"))
    yield server
    assert server.alive()
    server.stop()
