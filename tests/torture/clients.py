"""Clients that read, write and count over real sockets, and note every operation with its times.

They follow MOVED as cluster clients do. What was surely not done is not noted; what may have been done and
was not answered is noted without an end. Every value is written once.
"""

import itertools
import random
import socket
import threading
import time

from tests.history.linear import FOR_EVER, Operation
from tests.torture.cluster import PORT, Cluster

SECONDS = 3.0
# Errors of a node that has not run the command.
NOT_RUN = (
    b"-MOVED",
    b"-CLUSTERDOWN",
    b"-NOREPLICAS",
    b"-TRYAGAIN",
    b"-LOADING",
    b"-READONLY",
    b"-BUSY",
    b"-STALE",
)


class Client(threading.Thread):
    """One client on one host, one operation after another."""

    numbers = itertools.count(1)

    def __init__(self, cluster: Cluster, host: str, seed: int, keys: list[str], pause: float) -> None:
        super().__init__(daemon=True)
        self.cluster, self.host, self.keys, self.pause = cluster, host, keys, pause
        self.dice = random.Random(seed)
        self.sockets: dict[str, socket.socket] = {}
        self.main: dict[str, str] = {}
        self.history: list[Operation] = []
        self.answered: list[tuple[float, str]] = []
        self.refused = 0
        self.ending = threading.Event()
        self.name = f"{host}-{seed}"

    def run(self) -> None:
        with self.cluster.hosts.on(self.host):
            while not self.ending.is_set():
                key = self.dice.choice(self.keys)
                self.operate(
                    key, self.dice.choice(["read", "write"] if key.startswith("r") else ["read", "add"])
                )
                time.sleep(self.dice.uniform(0, 2 * self.pause))
            for one in self.sockets.values():
                one.close()

    def operate(self, key: str, kind: str) -> bool:
        """One operation; says whether it was answered."""
        value = next(self.numbers) if kind == "write" else 1
        words = {"read": ["GET", key], "write": ["SET", key, str(value)], "add": ["INCR", key]}[kind]
        addresses = self.cluster.hosts.address
        at = self.main.get(key) or addresses[self.dice.choice(self.cluster.names)]
        start = time.monotonic()
        reply = self.ask(at, words)
        end = time.monotonic()
        if reply is None or reply.startswith(NOT_RUN):
            # Connection refused, or a refusal: surely not done.
            self.refused += 1
            self.main.pop(key, None)
            if reply and reply.startswith(b"-MOVED"):
                self.main[key] = reply.split()[2].decode().rpartition(":")[0]
            return False
        name = f"{self.name}.{len(self.history)}"
        number = value if kind != "read" else None
        if reply == b"" or reply.startswith(b"-"):
            # Sent, and nobody knows.
            self.main.pop(key, None)
            if kind != "read":
                self.history.append(Operation(name, key, kind, start, FOR_EVER, number))
            return False
        self.main[key] = at
        output = None if kind == "write" else number_in(reply)
        if kind == "read" and key.startswith("n"):
            output = output or 0
        self.history.append(Operation(name, key, kind, start, end, number, output=output))
        self.answered.append((end, kind))
        return True

    def ask(self, address: str, words: list[str]) -> bytes | None:
        """The reply; None when nothing was sent, empty when nothing came back."""
        try:
            connection = self.sockets.get(address) or socket.create_connection((address, PORT), 1.0)
        except OSError:
            return None
        self.sockets[address] = connection
        try:
            connection.settimeout(SECONDS)
            parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            reply = b""
            while not (reply.endswith(b"\r\n") and (not reply.startswith(b"$") or complete(reply))):
                data = connection.recv(4096)
                if not data:
                    raise ConnectionResetError
                reply += data
        except OSError:
            self.sockets.pop(address).close()
            return b""
        return reply


def complete(reply: bytes) -> bool:
    """Whether a whole bulk has arrived."""
    head, _, body = reply.partition(b"\r\n")
    return head == b"$-1" or len(body) >= int(head[1:]) + 2


def number_in(reply: bytes) -> int | None:
    """What a reply tells: a number, or nothing."""
    if reply.startswith(b":"):
        return int(reply[1:])
    return None if reply.startswith((b"$-1", b"_")) else int(reply.split(b"\r\n")[1])
