"""Look whether a node or proxy answers PING. One connection each, kept open; nothing is judged here."""

import asyncio
import time
from collections.abc import Callable

from fastcache.health.decide import Check, Failure
from fastcache.health.registry import Member

PING = b"*1\r\n$4\r\nPING\r\n"
LONGEST_REPLY = 512


class Line(asyncio.Protocol):
    """A connection that carries one question at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[bytes] | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.received += data
        if b"\n" in self.received or len(self.received) > LONGEST_REPLY:
            reply, self.received = self.received, b""
            if self.answer and not self.answer.done():
                self.answer.set_result(reply)

    def connection_lost(self, _reason: Exception | None) -> None:
        self.transport = None
        if self.answer and not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the connection was closed"))

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    async def ask(self, question: bytes) -> bytes:
        """Send and wait for one line."""
        if not self.transport:
            raise ConnectionResetError("the connection was closed")
        self.answer = asyncio.get_running_loop().create_future()
        self.received = b""
        self.transport.write(question)
        return await self.answer

    def close(self) -> None:
        if self.transport:
            self.transport.abort()


class Prober:
    """Checks members, each on a line of its own."""

    def __init__(
        self, timeout: float, password: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timeout = timeout
        self.clock = clock
        self.greeting = b"" if not password else command("AUTH", password)
        self.lines: dict[tuple[str, str], Line] = {}

    async def check(self, member: Member) -> Check:
        """Ask once; every outcome is a value."""
        start = self.clock()
        failure: Failure | None = None
        error = ""
        try:
            async with asyncio.timeout(self.timeout):
                reply = await self.ping(member)
            if not reply.startswith(b"+PONG"):
                failure, error = Failure.ANSWER, reply.decode("utf-8", "replace").strip()[:200]
        except TimeoutError:
            failure, error = Failure.TIMEOUT, f"no answer in {self.timeout:g} s"
        except ConnectionRefusedError:
            failure, error = Failure.REFUSED, "connection refused"
        except ConnectionError:
            failure, error = Failure.CLOSED, "the connection was closed"
        except FileNotFoundError:
            failure, error = Failure.REFUSED, f"{member.unix} does not exist"
        except OSError as problem:
            failure, error = Failure.UNREACHABLE, str(problem.strerror or problem)
        at = self.clock()
        if failure is not None:
            self.forget(member)
        return Check(at, (at - start) * 1000, failure, error)

    async def ping(self, member: Member) -> bytes:
        """Over the line that is open, or a new one: a line from before a restart proves nothing."""
        line = self.lines.get((member.kind, member.id))
        if line is not None and line.open:
            try:
                return await line.ask(PING)
            except ConnectionError:
                pass
        line = await self.connect(member)
        self.lines[member.kind, member.id] = line
        return await line.ask(PING)

    async def connect(self, member: Member) -> Line:
        loop = asyncio.get_running_loop()
        if member.port:
            _, line = await loop.create_connection(Line, member.host, member.port)
        else:
            _, line = await loop.create_unix_connection(Line, member.unix)
        if self.greeting:
            try:
                await line.ask(self.greeting)  # What it thinks of the password shows in its answer to PING.
            except BaseException:
                line.close()
                raise
        return line

    def forget(self, member: Member) -> None:
        """Close the line to a member that failed, moved or left."""
        if line := self.lines.pop((member.kind, member.id), None):
            line.close()

    def close(self) -> None:
        """Close all lines."""
        for line in self.lines.values():
            line.close()
        self.lines.clear()


def command(*words: str) -> bytes:
    """A command as RESP."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)
