"""The language of the case files, and the player that sends a case to a server.

A file in cases/ holds one family. A line `== title` opens a case: a fresh keyspace and fresh
connections. Every other line is a command as one would type it into redis-cli:

    SET key "a\\x00b" EX 10            send it, read one reply
    [b] > BLPOP queue 0               on connection b, do not wait for the reply
    [b] <                             now read that reply (`< 3`: three of them)
    [b] <?                            nothing must have arrived
    @sorted SMEMBERS key              a mark before the command says how to compare
    @raw "*1\\r\\n$4\\r\\nPING\\r\\n"       bytes as they stand

Words: `<x*70>` is seventy times x; `<1..600>` six hundred words; `<1..600,f#,v#>` the words
f1 v1 f2 v2 ...; `$name` what `@save=name` kept of an earlier reply; `$now+100` a Unix time,
`$nowms-5` the same in milliseconds.

Marks: `@sorted` (order of the outer elements does not matter), `@pairs` (order of field/value
pairs does not), `@leaves` (no order matters at any depth), `@near=2` (integers may differ by 2),
`@shape` (types and lengths only), `@kind` (type byte and first word of an error only),
`@replies=3` (this command has three replies), `@save=name`, `@gone` (repeat until the reply is :0,
for what happens in its own time), `@quiet` (the reply is not compared).
A title may end in [resp2] or [resp3] when a case makes sense in one protocol only.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.conformance.wire import Connection, Node, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MARKS = {"sorted", "pairs", "near", "shape", "kind", "replies", "save", "gone", "raw", "quiet", "leaves"}
SILENCE_PROBE = 0.05
# Through a proxy a request has not reached its node when the proxy has read it.
PASSAGE = 0.05
GONE_DEADLINE = 5.0
# What keeps keys on one node.
TAG = b"{t}"


@dataclass(frozen=True)
class Step:
    """One line of a case."""

    line: int
    text: str
    connection: str
    action: str  # ask, send, read, silent
    words: tuple[bytes, ...]
    marks: dict[str, str]

    @property
    def replies(self) -> int:
        return int(self.marks.get("replies", "1"))


@dataclass(frozen=True)
class Case:
    """A named sequence of commands that begins with an empty server."""

    family: str
    title: str
    protocols: tuple[int, ...]
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.family}: {self.title}"


class BadScriptError(Exception):
    """A case file that cannot be read; the text names file and line."""


def load(path: Path) -> list[Case]:
    """All cases of one file."""
    cases: list[Case] = []
    title = ""
    steps: list[Step] = []

    def finish() -> None:
        if not title:
            return
        protocols: tuple[int, ...] = (2, 3)
        name = title
        for number in (2, 3):
            if name.endswith(f"[resp{number}]"):
                protocols, name = (number,), name[: -len("[resp2]")].strip()
        cases.append(Case(path.stem, name, protocols, tuple(steps)))

    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        if text.startswith("== "):
            finish()
            title, steps = text[3:].strip(), []
        elif text and not text.startswith("#"):
            if not title:
                raise BadScriptError(f"{path.name}:{number}: a command before the first case")
            steps.append(_step(path, number, text))
    finish()
    titles = [case.title for case in cases]
    twice = {one for one in titles if titles.count(one) > 1}
    if twice:
        raise BadScriptError(f"{path.name}: two cases are called {sorted(twice)}")
    return cases


def _step(path: Path, number: int, text: str) -> Step:
    rest = text
    connection = "a"
    found = re.match(r"\[(\w+)\]\s*", rest)
    if found:
        connection, rest = found[1], rest[found.end() :]
    marks: dict[str, str] = {}
    while found := re.match(r"@(\w+)(?:=(\S+))?\s+", rest + " "):
        if found[1] not in MARKS:
            raise BadScriptError(f"{path.name}:{number}: no mark is called @{found[1]}")
        marks[found[1]] = found[2] or ""
        rest = rest[found.end() :]
    action = "ask"
    if rest.startswith("<?"):
        action, rest = "silent", ""
    elif found := re.fullmatch(r"<\s*(\d*)", rest):
        action, rest = "read", ""
        marks["replies"] = found[1] or "1"
    elif rest.startswith("> "):
        action, rest = "send", rest[2:]
    try:
        words = tuple(_words(rest))
    except ValueError as wrong:
        raise BadScriptError(f"{path.name}:{number}: {wrong}") from wrong
    return Step(number, text, connection, action, words, marks)


ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "a": b"\a", "b": b"\b"}


def _words(text: str) -> Iterator[bytes]:
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        if text[at] in "\"'":
            word, at = _quoted(text, at)
            yield word
            continue
        end = at
        while end < len(text) and not text[end].isspace():
            end += 1
        bare, at = text[at:end], end
        yield from _expand(bare)


def _quoted(text: str, at: int) -> tuple[bytes, int]:
    quote = text[at]
    at += 1
    word = b""
    while at < len(text):
        letter = text[at]
        if letter == quote:
            return word, at + 1
        if letter == "\\" and quote == '"':
            if text[at + 1] == "x":
                word += bytes.fromhex(text[at + 2 : at + 4])
                at += 4
                continue
            word += ESCAPES.get(text[at + 1], text[at + 1].encode())
            at += 2
            continue
        word += letter.encode()
        at += 1
    raise ValueError("a quote is not closed")


def _expand(word: str) -> Iterator[bytes]:
    if found := re.fullmatch(r"<(.+)\*(\d+)>", word):
        yield found[1].encode() * int(found[2])
    elif found := re.fullmatch(r"<(-?\d+)\.\.(-?\d+)((?:,[^,>]*)*)>", word):
        templates = found[3].split(",")[1:] or ["#"]
        for number in range(int(found[1]), int(found[2]) + 1):
            for template in templates:
                yield template.replace("#", str(number)).encode()
    else:
        yield word.encode()


@dataclass
class Answer:
    """What one server said to one step."""

    step: Step
    replies: list[bytes]


class Player:
    """Plays steps to one server and keeps its connections and saved words."""

    def __init__(
        self,
        open_connection: Any,
        started: float,
        through_proxy: bool = False,
        keys_of: Callable[[list[bytes]], set[bytes]] | None = None,
    ) -> None:
        self.open_connection = open_connection
        self.keys_of = keys_of
        self.through_proxy = through_proxy
        self.connections: dict[str, Connection] = {}
        self.saved: dict[str, bytes] = {}
        self.waiting: set[str] = set()
        self.started = started
        self.control: Connection = open_connection()

    def connection(self, name: str) -> Connection:
        if name not in self.connections:
            self.connections[name] = self.open_connection()
        return self.connections[name]

    def play(self, step: Step) -> Answer:
        """Carry out one step; the answer holds the replies it called for."""
        connection = self.connection(step.connection)
        if step.action == "silent":
            return Answer(step, [connection.read(SILENCE_PROBE)])
        if step.action in ("ask", "send"):
            connection.send_raw(self.request(step))
        if step.action == "send":
            self.waiting.add(step.connection)
            # Two round trips on another connection: the server has read what was sent before.
            self.control.ask("PING")
            self.control.ask("PING")
            if self.through_proxy:
                time.sleep(PASSAGE)
            return Answer(step, [])
        replies = [connection.read() for _ in range(step.replies)]
        deadline = time.monotonic() + GONE_DEADLINE
        while "gone" in step.marks and replies != [b":0\r\n"] and time.monotonic() < deadline:
            time.sleep(0.01)
            connection.send_raw(self.request(step))
            replies = [connection.read()]
        self.waiting.discard(step.connection)
        if "save" in step.marks:
            self.saved[step.marks["save"]] = _text(replies[0])
        return Answer(step, replies)

    def request(self, step: Step) -> bytes:
        """The bytes that the step sends to this server."""
        words = [self._filled(word) for word in step.words]
        if self.keys_of:
            # Whatever is called like a key gets the tag, so that both servers see the same request.
            keys = self.keys_of(words)
            words = [TAG + word if word in keys else word for word in words]
        return b"".join(words) if "raw" in step.marks else encode(words)

    def _filled(self, word: bytes) -> bytes:
        if not word.startswith(b"$") or len(word) == 1:
            return word
        found = re.fullmatch(rb"\$(now|nowms)([+-]\d+)?", word)
        if found:
            base = self.started * (1000 if found[1] == b"nowms" else 1)
            return b"%d" % (int(base) + int(found[2] or 0))
        return self.saved.get(word[1:].decode(), word)

    def leftovers(self) -> list[tuple[str, bytes]]:
        """The answer to a last PING on every connection: shows a reply too many or too few."""
        return [
            (name, connection.ask("PING"))
            for name, connection in self.connections.items()
            if name not in self.waiting and not connection.closed
        ]


def _text(reply: bytes) -> bytes:
    value = decode(reply).value
    while isinstance(value, list):
        value = value[0].value if value else b""
    return value if isinstance(value, bytes) else str(value).encode()


LENIENT = {"sorted", "pairs", "near", "shape", "kind", "leaves"}


def alike(marks: dict[str, str], one: bytes, other: bytes) -> bool:
    """Whether two replies agree, as the marks of their command ask."""
    if one == other or "quiet" in marks:
        return True
    return bool(LENIENT & marks.keys()) and nodes_alike(marks, decode(one), decode(other))


def nodes_alike(marks: dict[str, str], one: Node, other: Node) -> bool:
    """The same for decoded replies."""
    if "quiet" in marks:
        return True
    if "kind" in marks:
        return _kind(one) == _kind(other)
    return _canonical(one, marks) == _canonical(other, marks) or (
        "near" in marks and _near(one, other, int(marks["near"] or "1"))
    )


def _kind(node: Node) -> tuple[str, bytes]:
    return node.kind, node.value.split(b" ")[0] if node.kind == "-" else b""


def _canonical(node: Node, marks: dict[str, str]) -> Any:
    if "shape" in marks:
        return _shape(node)
    if "leaves" in marks:
        return sorted(_leaves(node), key=repr)
    if not isinstance(node.value, list):
        return node
    children = list(node.value)
    if node.kind == "%" or "pairs" in marks:
        couples = [tuple(children[at : at + 2]) for at in range(0, len(children), 2)]
        return Node(node.kind, sorted(couples, key=repr))
    if node.kind == "~" or "sorted" in marks:
        children.sort(key=repr)
    return Node(node.kind, children)


def _shape(node: Node) -> Any:
    if isinstance(node.value, list):
        return node.kind, [_shape(child) for child in node.value]
    return node.kind, node.value if node.kind == "-" else node.value is None


def _leaves(node: Node) -> list[Node]:
    if isinstance(node.value, list):
        return [leaf for child in node.value for leaf in _leaves(child)]
    return [node]


def _near(first: Node, second: Node, tolerance: int) -> bool:
    if first.kind != second.kind:
        return False
    if isinstance(first.value, list) and isinstance(second.value, list):
        return len(first.value) == len(second.value) and all(
            _near(one, other, tolerance) for one, other in zip(first.value, second.value, strict=True)
        )
    if first.value == second.value:
        return True
    try:
        return abs(int(first.value) - int(second.value)) <= tolerance
    except (TypeError, ValueError):
        return False
