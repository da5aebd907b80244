"""Clients that ask without a pause and count what goes wrong: a plain socket each, nothing tried twice.

Every client writes keys of its own and reads them back, so a reply that is another's, or old, is found. A
lost connection fails the one request that was under way on it; then the client connects again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = 50
PATIENCE = 30.0
NUMBERS = itertools.count()


@dataclass
class Seen:
    """What the clients saw until now."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    # Failed requests by what `group` says of their key.
    failed_of: Counter[str] = field(default_factory=Counter)
    connections_lost: int = 0
    wrong: int = 0
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def percentile(self, share: float, *groups: str) -> float:
        """Of the answered requests of these groups (or of all), in milliseconds."""
        chosen = groups or tuple(self.seconds)
        times = sorted(one for group in chosen for one in self.seconds[group])
        return times[min(len(times) - 1, int(len(times) * share))] * 1000 if times else 0.0

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


class Client:
    """One connection and the request that is under way on it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.socket: socket.socket | None = None
        self.turn = 0
        self.key = ""
        self.written: dict[str, str | None] = {}
        self.sent = 0.0
        self.received = b""
        self.waiting = False


class Load(threading.Thread):
    """So many clients of a port, until the block ends; `seen` is what they saw."""

    def __init__(
        self, port: int, clients: int, *, pause: float = 0.002, group: Callable[[str], str] = lambda _key: ""
    ) -> None:
        super().__init__(daemon=True)
        self.port, self.pause, self.group = port, pause, group
        # Keys are its own alone: other loads may run beside it.
        self.name = f"load-{next(NUMBERS)}"
        self.clients = [Client(number) for number in range(clients)]
        self.seen = Seen()
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.trouble: BaseException | None = None
        #: Clients that had an answer.
        self.answered: set[int] = set()

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "the clients did not come to an end"
        if self.trouble:
            raise self.trouble

    def chapter(self) -> Seen:
        """What was seen since the last call."""
        with self.lock:
            seen, self.seen = self.seen, Seen()
        return seen

    def run(self) -> None:
        try:
            self.play()
        except BaseException as error:
            self.trouble = error

    def play(self) -> None:
        selector = selectors.DefaultSelector()
        due = [(0.0, client.number) for client in self.clients]
        under_way = 0
        end = 0.0
        while not self.ending.is_set() or (under_way and time.monotonic() < end):
            now = time.monotonic()
            if not self.ending.is_set():
                end = now + 10.0
                while due and due[0][0] <= now:
                    client = self.clients[heapq.heappop(due)[1]]
                    if self.ask(client, selector):
                        under_way += 1
                    else:
                        heapq.heappush(due, (now + 0.05, client.number))
            for key, _ in selector.select(0.002):
                client = key.data
                if self.hear(client, selector):
                    under_way -= 1
                    heapq.heappush(due, (time.monotonic() + self.pause, client.number))
        with self.lock:
            for client in self.clients:
                if client.waiting:
                    self.seen.failures["no answer within 10 s"] += 1
                if client.socket:
                    client.socket.close()
        selector.close()

    def ask(self, client: Client, selector: selectors.BaseSelector) -> bool:
        """Send the next request; false when nobody listens."""
        if client.socket is None:
            try:
                client.socket = socket.create_connection(("127.0.0.1", self.port), 10)
            except OSError:
                self.seen.failures["cannot connect"] += 1
                return False
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client.socket, selectors.EVENT_READ, client)
        client.key = f"{self.name}:{client.number}:{client.turn // 2 % KEYS}"
        if client.turn % 2:
            words = ("GET", client.key)
        else:
            words = ("SET", client.key, f"{client.number}:{client.turn}")
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        client.sent, client.waiting, client.received = time.monotonic(), True, b""
        with contextlib.suppress(OSError):  # Reading tells the same.
            client.socket.sendall(request.encode())
        return True

    def hear(self, client: Client, selector: selectors.BaseSelector) -> bool:
        """Take what has come; whether the request is over."""
        assert client.socket
        try:
            received = client.socket.recv(65536)
        except OSError:
            received = b""
        with self.lock:
            seen = self.seen
            if not received:
                selector.unregister(client.socket)
                client.socket.close()
                client.socket = None
                seen.connections_lost += 1
                # Between two requests nothing is lost with it, and the next one is due already.
                return client.waiting and self.fail(client, "connection lost")
            client.received += received
            if not whole(client.received):
                return False
            text = client.received.decode()
            if text.startswith("-"):
                return self.fail(client, " ".join(text.split()[:2]))
            self.judge(client, text)
            seen.requests += 1
            seen.seconds[self.group(client.key)].append(time.monotonic() - client.sent)
            client.turn += 1
            client.waiting = False
            self.answered.add(client.number)
            return True

    def fail(self, client: Client, why: str) -> bool:
        self.seen.failures[why] += 1
        self.seen.failed_of[self.group(client.key)] += 1
        client.written.pop(client.key, None)  # It may have been done or not.
        client.turn += 2 - client.turn % 2  # Whatever it was, the next one begins with a write.
        client.waiting = False
        return True

    def judge(self, client: Client, text: str) -> None:
        """A read must find what was written, or nothing, where a node has lost it."""
        if client.turn % 2 == 0:
            client.written[client.key] = f"{client.number}:{client.turn}"
            self.seen.wrong += text != "+OK\r\n"
        elif text not in {"$-1\r\n", "_\r\n"}:
            self.seen.wrong += text.split("\r\n")[1] != client.written.get(client.key)


def whole(reply: bytes) -> bool:
    head, end, rest = reply.partition(b"\r\n")
    if not end:
        return False
    if head.startswith(b"$") and head != b"$-1":
        return len(rest) >= int(head[1:]) + 2
    return True
