"""Clients that write and read without a pause, and what they saw: run inside a lab's network.

    python3 load.py HOST PORT PASSWORD_FILE CLIENTS [CA]    until SIGTERM, then one line of JSON

As every client library with a pool does, a client whose connection was closed connects again and repeats its
request, once. What still fails then, or is answered by an error, counts as failed; `gap` is the longest time
that a client went without an answer, `gap_ended` when (UTC, as in journals), `stall` the longest that this
machine let a waiting program oversleep meanwhile. Standard library only.
"""

import collections
import contextlib
import json
import re
import signal
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO


class Client(threading.Thread):
    """One client: SET and GET of its own keys, in turn."""

    def __init__(
        self, number: int, address: tuple[str, int], password: str, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(daemon=True)
        self.number, self.address, self.password, self.tls = number, address, password, tls
        self.requests, self.reconnects = 0, 0
        self.gap, self.gap_ended = 0.0, 0.0
        self.failures: collections.Counter[str] = collections.Counter()
        self.socket: socket.socket | None = None
        self.replies: BinaryIO | None = None
        self.stopping = False

    def run(self) -> None:
        answered = time.monotonic()
        while not self.stopping:
            key, value = f"load:{self.number}:{self.requests % 500}", f"value {self.requests}"
            for words in (("SET", key, value), ("GET", key)):
                failure = self.ask(words)
                self.requests += 1
                now = time.monotonic()
                if failure:
                    self.failures[failure] += 1
                    time.sleep(0.01)
                else:
                    if now - answered > self.gap:
                        self.gap, self.gap_ended = now - answered, time.time()
                    answered = now
            time.sleep(0.01)

    def ask(self, words: tuple[str, ...]) -> str | None:
        """What went wrong, or nothing. A read that finds nothing is a miss, which a cache may answer."""
        for attempt in (1, 2):
            try:
                if self.socket is None:
                    self.connect()
                reply = self.exchange(*words)
                return reply if reply.startswith("-") else None
            except OSError as error:
                self.close()
                self.reconnects += 1
                if attempt == 2:
                    return f"{type(error).__name__}: {error}"
        return None

    def connect(self) -> None:
        self.socket = socket.create_connection(self.address, 2)
        if self.tls:
            self.socket = self.tls.wrap_socket(self.socket, server_hostname=self.address[0])
        self.socket.settimeout(5)
        self.replies = self.socket.makefile("rb")
        self.exchange("AUTH", self.password)

    def exchange(self, *words: str) -> str:
        assert self.socket
        assert self.replies
        request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        self.socket.sendall(request.encode())
        line = self.replies.readline().decode()
        if not line.endswith("\r\n"):
            raise ConnectionResetError("closed before the answer")
        if line.startswith("$") and line != "$-1\r\n":
            self.replies.read(int(line[1:]) + 2)
        return line.strip()

    def close(self) -> None:
        if self.socket:
            with contextlib.suppress(OSError):
                self.socket.close()
        self.socket = None


def main() -> None:
    host, port, password_file, count, *authority = sys.argv[1:]
    password = Path(password_file).read_text().strip()
    # The file of the cluster's authority puts the clients under TLS.
    tls = ssl.create_default_context(cafile=authority[0]) if authority else None
    clients = [Client(number, (host, int(port)), password, tls) for number in range(int(count))]
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    for client in clients:
        client.start()
    stall = 0.0
    while not over.is_set():
        due = time.monotonic() + 0.01
        time.sleep(0.01)
        stall = max(stall, time.monotonic() - due)
    for client in clients:
        client.stopping = True
    for client in clients:
        client.join(10)
    failures: collections.Counter[str] = collections.Counter()
    for client in clients:
        for failure, count in client.failures.items():
            failures[re.sub(r"\b\d+ ms\b", "some ms", failure)] += count
    slowest = max(clients, key=lambda client: client.gap)
    print(
        json.dumps(
            {
                "requests": sum(client.requests for client in clients),
                "reconnects": sum(client.reconnects for client in clients),
                "failed": sum(failures.values()),
                "failures": failures,
                "gap": round(slowest.gap, 3),
                "gap_ended": time.strftime("%H:%M:%S", time.gmtime(slowest.gap_ended)),
                "stall": round(stall, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
