"""Clients that operate on keys over real sockets, and note every operation with its times.

They follow MOVED as cluster clients do. What was surely not done is not noted; what may have been done and
was not answered is noted without an end, and its client goes on under another name.
"""

import io
import itertools
import random
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tests.history.linear import FOR_EVER, Operation
from tests.torture.cluster import PORT, Fleet
from tests.torture.workloads import WORKLOADS, Refusal, Reply, Words, answer, requests

SECONDS = 3.0
PATIENCE = 40.0
# Errors of a server that has not run the command.
NOT_RUN = (
    b"MOVED",
    b"CLUSTERDOWN",
    b"NOREPLICAS",
    b"TRYAGAIN",
    b"LOADING",
    b"READONLY",
    b"BUSY",
    b"STALE",
    b"EXECABORT",
    b"MASTERDOWN",
    b"MISCONF",
)


@dataclass
class Keys:
    """The keys in use, which change from round to round so that each history stays short."""

    kinds: list[str]
    round: int = 0

    def all(self) -> list[str]:
        return [f"{kind}.{self.round}" for kind in self.kinds]

    def turn(self) -> None:
        self.round += 1


class Client(threading.Thread):
    """One client on one host, one operation after another."""

    numbers = itertools.count(1)

    def __init__(
        self, fleet: Fleet, host: str, seed: int, keys: Keys, pause: float, only: str | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.fleet, self.host, self.keys, self.pause = fleet, host, keys, pause
        # A client that never asks another node, however long that one is silent.
        self.only = only
        self.dice = random.Random(seed)
        self.sockets: dict[str, tuple[socket.socket, io.BufferedReader]] = {}
        self.main: dict[str, str] = {}
        self.seen: dict[str, int | None] = {}
        # By key; those of a round are taken away when it is judged.
        self.history: defaultdict[str, list[Operation]] = defaultdict(list)
        self.count = 0
        # The key of the operation that is under way.
        self.busy: str | None = None
        # When what was answered, and refused: (time, kind, key).
        self.answered: list[tuple[float, str, str]] = []
        self.refused: list[tuple[float, str, str]] = []
        self.ending = threading.Event()
        self.name = f"{host}-{seed}"

    def run(self) -> None:
        with self.fleet.hosts.on(self.host):
            while not self.ending.is_set():
                key = self.dice.choice(self.keys.all())
                kinds = ("read",) if self.only else WORKLOADS[key[0]].operations
                self.busy = key
                self.operate(key, self.dice.choice(kinds))
                self.busy = None
                time.sleep(self.dice.uniform(0, 2 * self.pause))
            for one, _ in self.sockets.values():
                one.close()

    def operate(self, key: str, kind: str) -> bool:
        """One operation; says whether it was answered."""
        value = None if kind == "read" else 1 if kind == "add" else next(self.numbers)
        expected = self.seen.get(key) if kind == "cas" else None
        if kind == "cas" and expected is None:
            kind = "write"  # There is nothing to compare with yet.
        addresses = self.fleet.hosts.address
        at = self.main.get(key) or addresses[self.only or self.dice.choice(self.fleet.names)]
        asked = requests(key, kind, value, expected)
        start = time.monotonic()
        replies = self.ask(at, [*asked, *self.fleet.confirming(kind)])
        end = time.monotonic()
        refusals = [] if replies is None else [one for one in replies if isinstance(one, Refusal)]
        not_run = next((one.text for one in refusals if one.text.startswith(NOT_RUN)), None)
        if replies is None or not_run:
            # Connection refused, or a refusal: surely not done.
            self.refused.append((end, kind, key))
            self.main.pop(key, None)
            if not_run and not_run.startswith(b"MOVED") and not self.only:
                self.main[key] = not_run.split()[2].decode().rpartition(":")[0]
            return False
        self.count += 1
        name = f"{self.name}.{self.count}"
        if len(replies) < len(asked) or refusals or not self.fleet.confirmed(kind, replies):
            # Sent, and nobody knows.
            self.main.pop(key, None)
            if kind != "read":
                self.history[key].append(Operation(name, key, kind, start, FOR_EVER, value, expected))
            return False
        if not self.only:
            self.main[key] = at
        output = answer(key, kind, replies[len(asked) - 1])
        if key[0] == "r" and kind == "read":
            self.seen[key] = output
        self.history[key].append(Operation(name, key, kind, start, end, value, expected, output))
        self.answered.append((end, kind, key))
        return True

    def ask(self, address: str, words: list[Words]) -> list[Reply] | None:
        """The replies, as many as came back; None when nothing was sent."""
        try:
            connection, reader = self.sockets.get(address) or self.connect(address)
        except OSError:
            return None
        replies: list[Reply] = []
        try:
            connection.sendall(b"".join(map(encoded, words)))
            replies.extend(read_reply(reader) for _ in words)
        except (OSError, ValueError):
            connection.close()
            self.sockets.pop(address, None)
        return replies

    def connect(self, address: str) -> tuple[socket.socket, io.BufferedReader]:
        connection = socket.create_connection((address, PORT), 1.0)
        connection.settimeout(PATIENCE if self.only else SECONDS)
        self.sockets[address] = connection, connection.makefile("rb")
        return self.sockets[address]


def encoded(words: Words) -> bytes:
    parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"*{len(words)}\r\n{parts}".encode()


def read_reply(reader: io.BufferedReader) -> Any:
    """One reply of RESP2."""
    line = reader.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError
    head, rest = line[:1], line[1:-2]
    if head == b":":
        return int(rest)
    if head == b"-":
        return Refusal(rest)
    if head == b"*":
        return [read_reply(reader) for _ in range(int(rest))] if int(rest) >= 0 else None
    if head == b"$":
        length = int(rest)
        if length < 0:
            return None
        data = reader.read(length + 2)
        if len(data) < length + 2:
            raise ConnectionResetError
        return data[:-2]
    if head == b"+":
        return rest
    raise ValueError(f"no reply begins so: {line!r}")
