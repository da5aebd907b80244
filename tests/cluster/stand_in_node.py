"""A stand-in for a node, as far as the health service speaks with it: it takes topologies, tells of streams.

What it was told, and when, is kept; how its streams are is for the test to say. By default every copy of its
slots is in sync. Killed and started again, it has a new run.
"""

import contextlib
import json
import socket
import threading
import time
from typing import Any


class StandInNode:
    """One node on a port of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.life = 0
        self.topology: dict[str, Any] = {"epoch": 0, "slots": []}
        self.heard: list[tuple[float, str]] = []
        self.refuses = ""
        #: Of a release that knows fewer words.
        self.is_older = False
        self.is_leaving = False
        # Copies of ours that are not in sync: peer -> state.
        self.broken: dict[str, str] = {}
        self.acked: dict[str, int] = {}
        self.seq = 10
        self.port = 0
        self.open()

    @property
    def run(self) -> str:
        return f"{self.name}-{self.life}"

    @property
    def epoch(self) -> int:
        return int(self.topology["epoch"])

    def member(self) -> dict[str, object]:
        """As a health service lists it."""
        return {"id": self.name, "host": "127.0.0.1", "port": self.port}

    def open(self) -> None:
        """Listen, on the same port as before."""
        self.connections: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self.listener.getsockname()[1]
        self.accepting = threading.Thread(target=self.accept, args=(self.listener,), daemon=True)
        self.accepting.start()

    def kill(self) -> None:
        """As with kill -9: the port refuses, connections end."""
        self.end(self.listener)
        self.accepting.join()  # It may just have taken one in, which must end as well.
        for one in self.connections:
            self.end(one)

    @staticmethod
    def end(one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()

    def restart(self) -> None:
        """A new life with an empty memory."""
        self.life += 1
        self.open()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        try:
            stream = connection.makefile("rb")
            while line := stream.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int(stream.readline()[1:])
                    words.append(stream.read(size + 2)[:-2])
                connection.sendall(self.answer(words))
        except OSError:
            pass

    def answer(self, words: list[bytes]) -> bytes:
        command = b" ".join(words[:3]).decode().upper()
        if command == "FASTCACHE TOPOLOGY GET":
            return b"$-1\r\n"
        if command != "PING" and "STREAMS" not in command and command != "FASTCACHE TOPOLOGY":
            more = [word.decode() for word in words[4:]]
            self.heard.append((time.monotonic(), " ".join([command, *more])))
        if command.startswith("FASTCACHE TOPOLOGY SET"):
            if len(words) > 4 and self.is_older:
                return b"-ERR syntax error\r\n"
            return self.adopt(json.loads(words[3]))
        if command == "FASTCACHE TOPOLOGY":
            told = {"epoch": self.epoch, "id": self.name, "run": self.run}
            return mapped(told if self.is_older else {**told, "leaving": int(self.is_leaving)})
        if command == "FASTCACHE STREAMS":
            rows = list(self.rows())
            return b"*%d\r\n" % len(rows) + b"".join(mapped(row) for row in rows)
        return b"+PONG\r\n" if command == "PING" else b"+OK\r\n"

    def adopt(self, topology: dict[str, Any]) -> bytes:
        if self.refuses:
            return f"-{self.refuses}\r\n".encode()
        if topology["epoch"] < self.epoch:
            return f"-STALE epoch {topology['epoch']} is older than {self.epoch}\r\n".encode()
        self.topology = topology
        return b"+OK\r\n"

    def rows(self) -> Any:
        """A row for every copy of our slots, and for every main whose copy we are."""
        copies, mains = set(), set()
        for group in self.topology["slots"]:
            held = {*group["replicas"], *group.get("learners", [])}
            if group["main"] == self.name:
                copies |= held
            elif self.name in held:
                mains.add(group["main"])
        for peer in sorted(copies):
            state = self.broken.get(peer, "streaming")
            acked = self.acked.get(peer, self.seq if state == "streaming" else 0)
            yield {
                "peer": peer,
                "direction": "out",
                "state": state,
                "run": self.run,
                "seq": self.seq,
                "acked": acked,
            }
        for peer in sorted(mains):
            yield {"peer": peer, "direction": "in", "state": "streaming", "run": f"{peer}-0", "seq": self.seq}


def mapped(fields: dict[str, Any]) -> bytes:
    """A map in RESP2: names and values in turn."""
    out = [b"*%d\r\n" % (2 * len(fields))]
    for name, value in fields.items():
        out.append(bulk(name))
        out.append(b":%d\r\n" % value if isinstance(value, int) else bulk(value))
    return b"".join(out)


def bulk(text: str) -> bytes:
    data = text.encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)
