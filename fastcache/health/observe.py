"""Ask nodes and proxies whether they answer PING and how their streams are, and bring them topologies.

One connection each for checks, kept open. Reports and errands go over others, so that a slow disk there is no
failed check. Nothing is judged here.
"""

import asyncio
import ssl
import time
from collections.abc import Callable

from fastcache.health.decide import Check, Failure
from fastcache.health.evidence import Report, row_from
from fastcache.health.registry import Member
from fastcache.health.resp import ErrorReply, Replies, Reply, pairs_of

PING = b"*1\r\n$4\r\nPING\r\n"
# A node with thousands of streams has much to say; more than this is no answer.
LONGEST_REPLY = 16 << 20


class Line(asyncio.Protocol):
    """A connection that carries one batch of questions at a time."""

    def __init__(self, ended: Callable[[], None] | None = None) -> None:
        # Told when the other side ends the connection while nothing is asked.
        self.ended = ended
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[list[Reply]] | None = None
        self.replies = Replies()
        self.wanted = 0
        # Whether it has answered questions about streams: older nodes cannot.
        self.mute = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self.replies.feed(data)
            if len(self.replies.received) > LONGEST_REPLY:
                raise ValueError("an answer without an end")
            if len(self.replies.complete) < self.wanted:
                return
        except ValueError as error:
            self.fail(ConnectionResetError(f"this is no answer: {error}"))
            self.close()
            return
        complete, self.replies.complete = self.replies.complete, []
        if self.answer and not self.answer.done():
            self.answer.set_result(complete)

    def connection_lost(self, _reason: Exception | None) -> None:
        ours, self.transport = self.transport is None, None
        asked = self.answer is not None and not self.answer.done()
        self.fail(ConnectionResetError("the connection was closed"))
        if self.ended and not ours and not asked:
            self.ended()

    def fail(self, error: Exception) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_exception(error)

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    async def ask(self, questions: bytes, count: int = 1) -> list[Reply]:
        """Send `count` questions at once and wait for as many replies."""
        return await self.begin(questions, count)

    async def ask_within(self, question: bytes, seconds: float) -> Reply:
        """The same with one question and a limit of time: one timer is all it takes."""
        answer = self.begin(question, 1)
        timer = asyncio.get_running_loop().call_later(seconds, self.fail, TimeoutError())
        try:
            return (await answer)[0]
        finally:
            timer.cancel()

    def begin(self, questions: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """Send questions; what comes back belongs to them."""
        if not self.transport:
            raise ConnectionResetError("the connection was closed")
        self.answer = asyncio.get_running_loop().create_future()
        self.replies = Replies()
        self.wanted = count
        self.transport.write(questions)
        return self.answer

    def close(self) -> None:
        if self.transport:
            self.transport.abort()
            self.transport = None


class Side:
    """A line for something else than checks, and whose turn it is."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.lock = asyncio.Lock()


class Prober:
    """Checks members, each on a line of its own."""

    def __init__(
        self,
        timeout: float,
        password: str = "",
        clock: Callable[[], float] = time.monotonic,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout = timeout
        # With it members are asked under TLS over TCP; Unix sockets stay as they are.
        self.tls = tls
        self.clock = clock
        self.greeting = b"" if not password else command("AUTH", password)
        self.lines: dict[tuple[str, str], Line] = {}
        # Told when a member ends the connection of its checks: it may have died this moment.
        self.on_end: Callable[[Member], None] = lambda _member: None
        self.sides: dict[tuple[str, str], Side] = {}

    async def check(self, member: Member) -> Check:
        """Ask once; every outcome is a value."""
        start = self.clock()
        failure: Failure | None = None
        error = ""
        try:
            reply = await self.ping(member)
            if reply != b"PONG":
                words = f"-{reply}" if isinstance(reply, ErrorReply) else repr(reply)
                failure, error = Failure.ANSWER, words[:200]
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

    async def ping(self, member: Member) -> Reply:
        """Over the line that is open, or a new one: a line from before a restart proves nothing."""
        began = self.clock()
        line = self.lines.get((member.kind, member.id))
        if line is not None and line.open:
            try:
                return await line.ask_within(PING, self.timeout)
            except ConnectionError:
                pass
        async with asyncio.timeout(max(began + self.timeout - self.clock(), 0.0)):
            line = await self.connect(member, lambda: self.on_end(member))
            self.lines[member.kind, member.id] = line
            return (await line.ask(PING))[0]

    async def report(self, member: Member) -> Report | None:
        """What a node says of itself and its streams, all of one moment; None when it cannot or does not."""
        side = self.side("report", member)
        try:
            async with asyncio.timeout(self.timeout), side.lock:
                line = await self.ready(side, member)
                if line.mute:
                    return None
                known, streams = await self.asked(line, REPORT, 2)
        except (TimeoutError, OSError):
            return None
        if isinstance(known, ErrorReply) or isinstance(streams, ErrorReply):
            line.mute = True
            return None
        return report_of(member.id, known, streams)

    async def tell(self, member: Member, *words: str | bytes, seconds: float = 0.0) -> Reply:
        """One command to a node; OSError or TimeoutError when no answer comes."""
        side = self.side("errand", member)
        async with asyncio.timeout(seconds or self.timeout), side.lock:
            line = await self.ready(side, member)
            return (await self.asked(line, command(*words), 1))[0]

    def side(self, purpose: str, member: Member) -> "Side":
        """The line beside that of the checks which a node has for a purpose."""
        return self.sides.setdefault((purpose, member.id), Side())

    async def ready(self, side: "Side", member: Member) -> Line:
        """Its line, connected."""
        if side.line is None or not side.line.open:
            side.line = await self.connect(member)
        return side.line

    async def asked(self, line: Line, questions: bytes, count: int) -> list[Reply]:
        """The answers; a line on which one is still due is of no use to the next."""
        try:
            return await line.ask(questions, count)
        except BaseException:
            line.close()
            raise

    async def connect(self, member: Member, ended: Callable[[], None] | None = None) -> Line:
        loop = asyncio.get_running_loop()
        if member.port:
            _, line = await loop.create_connection(
                lambda: Line(ended), member.host, member.port, ssl=self.tls
            )
        else:
            _, line = await loop.create_unix_connection(lambda: Line(ended), member.unix)
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
        for purpose in ("report", "errand"):
            if member.kind == "node" and (side := self.sides.pop((purpose, member.id), None)) and side.line:
                side.line.close()

    def close(self) -> None:
        """Close all lines."""
        for line in (*self.lines.values(), *(side.line for side in self.sides.values() if side.line)):
            line.close()
        self.lines.clear()
        self.sides.clear()


def command(*words: str | bytes) -> bytes:
    """A command as RESP."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode() if isinstance(word, str) else word
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


REPORT = command("FASTCACHE", "TOPOLOGY") + command("FASTCACHE", "STREAMS")


def report_of(node: str, known: Reply, streams: Reply) -> Report | None:
    """The answers to REPORT as a value; None when they are not what they should be."""
    try:
        told = pairs_of(known)
        rows = tuple(row_from(pairs_of(row)) for row in (streams if isinstance(streams, list) else ()))
        leaving = bool(told.get("leaving", 0))
        return Report(node, str(told.get("run", "")), int(told["epoch"]), rows, leaving)
    except (KeyError, TypeError, ValueError):
        return None
