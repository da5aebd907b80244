"""redis-cli as people use it: at a terminal, and with each of its modes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.conformance.wire import encode

if TYPE_CHECKING:
    from tests.conformance.servers import Server

pytestmark = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")


def cli(node: Server, *words: str, feed: bytes | None = None) -> str:
    """What redis-cli prints; it must end well."""
    command = ["redis-cli", "-p", str(node.port), *words]
    ended = subprocess.run(command, input=feed, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr.decode() + ended.stdout.decode()
    return ended.stdout.decode(errors="replace")


def for_a_while(node: Server, seconds: str, *words: str) -> str:
    """What redis-cli has printed when it is stopped after some seconds."""
    command = ["timeout", seconds, "redis-cli", "-p", str(node.port), *words]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).stdout.decode()


class Terminal:
    """redis-cli at a terminal of its own."""

    def __init__(self, node: Server, *words: str) -> None:
        self.text = ""
        self.port = node.port
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            # Whoever runs the tests in the background has these ignored, and the program would inherit that.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            # Without a size the line editor asks the terminal for its width, and nobody answers here.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            os.execvp("redis-cli", ["redis-cli", "-p", str(node.port), *words])

    def until(self, wanted: str) -> str:
        """Read until `wanted` has been shown; what came behind it is there for the next time."""
        deadline = time.monotonic() + 30
        while wanted not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{wanted!r} never came: {self.text[-500:]!r}"
            if select.select([self.screen], [], [], left)[0]:
                self.text += os.read(self.screen, 65536).decode(errors="replace")
        end = self.text.index(wanted) + len(wanted)
        seen, self.text = self.text[:end], self.text[end:]
        return seen

    def until_prompt(self) -> None:
        """Read until it asks for a line. What is typed before may be lost: it empties its input then."""
        self.until(f":{self.port}> ")

    def type(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def leave(self) -> None:
        self.type("\x03")
        os.close(self.screen)
        os.waitpid(self.pid, 0)


def test_a_session_at_the_terminal_starts_and_hints_at_arguments(node: Server) -> None:
    terminal = Terminal(node)
    terminal.until_prompt()
    terminal.type("SET greeting hello\r")
    terminal.until("OK")
    terminal.until_prompt()
    terminal.type("GET ")
    # The hint is drawn in grey behind what was typed; it comes from COMMAND DOCS.
    assert "key" in terminal.until("key")
    terminal.type("greeting\r")
    terminal.until('"hello"')
    terminal.until_prompt()
    terminal.type("HELP SET\r")
    terminal.until("since:")
    terminal.leave()


def test_a_session_in_resp3_shows_maps(node: Server) -> None:
    terminal = Terminal(node, "-3")
    terminal.until_prompt()
    terminal.type("HSET h field value\r")
    terminal.until("(integer) 1")
    terminal.until_prompt()
    terminal.type("HGETALL h\r")
    terminal.until('1# "field" => "value"')
    terminal.leave()


def test_bigkeys_names_the_biggest_of_each_type(node: Server) -> None:
    connection = node.connect()
    connection.pipeline(
        [("SET", f"s{number}", "v" * number) for number in range(1, 50)]
        + [
            ("RPUSH", "list", *range(40)),
            ("SADD", "set", *range(30)),
            ("HSET", "hash", "f", "v"),
            ("ZADD", "z", 1, "m"),
        ]
    )
    shown = cli(node, "--bigkeys")
    assert re.search(r"Biggest\s+string\s+found .*s49.* has 49 bytes", shown)
    assert re.search(r"Biggest\s+list\s+found .*list.* has 40 items", shown)
    assert "1 zsets with 1 members" in shown


def test_memkeys_measures_keys(node: Server) -> None:
    node.connect().pipeline([("SET", "small", "v"), ("SET", "large", "v" * 100_000)])
    assert re.search(r"Biggest\s+string\s+found .*large.* has 1\d{5} bytes", cli(node, "--memkeys"))


def test_scan_lists_every_key_once(node: Server) -> None:
    node.connect().pipeline([("SET", f"user:{number}", "v") for number in range(500)])
    listed = cli(node, "--scan", "--pattern", "user:*").split()
    assert sorted(listed) == sorted(f"user:{number}" for number in range(500))


def test_stat_shows_a_line_a_second(node: Server) -> None:
    node.connect().pipeline([("SET", f"k{number}", "v") for number in range(7)])
    terminal = Terminal(node, "--stat")
    terminal.until("keys")
    terminal.until("\n7    ")
    terminal.until("\n7    ")
    terminal.leave()


def test_pipe_loads_a_hundred_thousand_commands(node: Server) -> None:
    feed = b"".join(encode(["SET", f"key:{number}", "value"]) for number in range(100_000))
    assert "errors: 0, replies: 100000" in cli(node, "--pipe", feed=feed)
    assert node.connect().ask("DBSIZE") == b":100000\r\n"


def test_latency_is_measured(node: Server) -> None:
    shown = for_a_while(node, "1", "--raw", "--latency", "-i", "1")
    assert "(error)" not in shown


def test_keys_are_found_by_pattern_and_type_on_the_command_line(node: Server) -> None:
    assert cli(node, "SET", "a", "1").strip() == "OK"
    assert cli(node, "INCR", "a").strip() == "2"
    assert "redis_version:7.0.15" in cli(node, "INFO", "server")
    assert cli(node, "--no-auth-warning", "-n", "3", "DBSIZE").strip() == "0"
    assert cli(node, "--json", "-3", "HELLO", "3").startswith("{")
    assert cli(node, "-s", node.unix_socket, "PING").strip() == "PONG"


def test_monitor_shows_what_others_ask(node: Server) -> None:
    watching = Terminal(node, "MONITOR")
    watching.until("OK")
    node.connect().ask("SET", "watched", "value")
    watching.until('"SET" "watched" "value"')
    watching.leave()
