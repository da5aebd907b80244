"""A Sentinel face: clients that find their server through Redis Sentinel find a healthy proxy.

All proxies are equal, so each client is told one of them as the master, the same one as long as it is
healthy (chosen by the client's address, so that clients spread), and the others as replicas. When the one
a client was told falls, `+switch-master` is published to it. Only what clients ask is answered.
"""

import asyncio
import fnmatch
import zlib
from collections.abc import Callable, Sequence

from fastcache.health.act import Service
from fastcache.health.registry import Record
from fastcache.model import Health

# Clients write this name when nobody told them another.
USUAL_NAME = "mymaster"
LONGEST_REQUEST = 16 * 1024
MOST_WORDS = 64
SWITCH = "+switch-master"

Reply = str | int | bytes | None | dict[str, str | int] | Sequence["Reply"]


class Simple(str):
    """A reply as a status line."""

    __slots__ = ()


class ErrorReply(str):
    """A reply as an error."""

    __slots__ = ()


class Push(tuple[Reply, ...]):
    """A reply that nobody asked for at this moment: a message, a subscription."""

    __slots__ = ()


def encoded(reply: Reply, three: bool) -> bytes:  # noqa: PLR0911
    """A reply as RESP2, or as RESP3."""
    if isinstance(reply, ErrorReply):
        return f"-{reply}\r\n".encode()
    if isinstance(reply, Simple):
        return f"+{reply}\r\n".encode()
    if isinstance(reply, int):
        return f":{reply}\r\n".encode()
    if reply is None:
        return b"_\r\n" if three else b"$-1\r\n"
    if isinstance(reply, str | bytes):
        data = reply.encode() if isinstance(reply, str) else reply
        return b"$%d\r\n%b\r\n" % (len(data), data)
    if isinstance(reply, dict):
        head = b"%%%d\r\n" % len(reply) if three else b"*%d\r\n" % (2 * len(reply))
        return head + b"".join(encoded(word, three) for pair in reply.items() for word in pair)
    head = b">%d\r\n" if three and isinstance(reply, Push) else b"*%d\r\n"
    return head % len(reply) + b"".join(encoded(item, three) for item in reply)


def request_in(received: bytes) -> tuple[list[str], bytes] | None:
    """The first request and what follows it; None while it is incomplete, ValueError for what is none."""
    if len(received) > LONGEST_REQUEST:
        raise ValueError("Protocol error: too big a request")
    line, end, rest = received.partition(b"\r\n")
    if not end:
        return None
    if not line.startswith(b"*"):
        return line.decode("utf-8", "replace").split(), rest
    words = []
    for _ in range(count(line[1:], MOST_WORDS)):
        head, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if not head.startswith(b"$"):
            raise ValueError("Protocol error: expected '$'")
        size = count(head[1:], LONGEST_REQUEST)
        if len(rest) < size + 2:
            return None
        words.append(rest[:size].decode("utf-8", "replace"))
        rest = rest[size + 2 :]
    return words, rest


def count(digits: bytes, most: int) -> int:
    """A number within its bound."""
    if not digits.isdigit() or len(digits) > 6 or int(digits) > most:
        raise ValueError("Protocol error: invalid length")
    return int(digits)


class SentinelFace:
    """Answers for one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.talks: set[Talk] = set()

    def healthy(self) -> list[Record]:
        """Proxies that may be told to clients."""
        proxies = self.service.registry.of_kind("proxy")
        return [one for one in proxies if one.judgement.status is Health.HEALTHY and one.member.port]

    def chosen(self, client: str) -> Record | None:
        """The proxy for a client: of those that are healthy the one its address is nearest to."""
        return max(
            self.healthy(),
            key=lambda one: (zlib.crc32(f"{client} {one.member.id}".encode()), one.member.id),
            default=None,
        )

    async def watch(self) -> None:
        """Tell clients that listen when their proxy changed."""
        while not self.service.stopping.is_set():
            news = self.service.news
            for talk in self.talks:
                talk.tell_of_a_switch()
            await news.wait()

    @property
    def names(self) -> list[str]:
        """What the one master is called."""
        return list(dict.fromkeys([self.service.settings.cluster, USUAL_NAME]))


class Talk(asyncio.Protocol):
    """One client."""

    def __init__(self, face: SentinelFace) -> None:
        self.face = face
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self.client = ""
        self.channels: list[str] = []
        self.patterns: list[str] = []
        self.told: Record | None = None
        self.three = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.client = str((transport.get_extra_info("peername") or ("",))[0])
        self.told = self.face.chosen(self.client)
        self.face.talks.add(self)

    def connection_lost(self, _reason: Exception | None) -> None:
        self.face.talks.discard(self)
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.received += data
        try:
            while found := request_in(self.received):
                words, self.received = found
                if words:
                    self.send(self.answer(words[0].upper(), words[1:]))
        except ValueError as error:
            self.send([ErrorReply(str(error))])
            if self.transport:
                self.transport.close()

    def send(self, replies: Sequence[Reply]) -> None:
        if self.transport:
            self.transport.write(b"".join(encoded(reply, self.three) for reply in replies))

    def answer(self, name: str, words: list[str]) -> list[Reply]:
        """Replies to one command; a subscription has one for each channel."""
        if name in {"SUBSCRIBE", "PSUBSCRIBE"}:
            return [self.subscribe(name.lower(), channel) for channel in words]
        if name == "SENTINEL" and words:
            return [self.sentinel(words[0].upper(), words[1:])]
        plain: dict[str, Callable[[], Reply]] = {
            "PING": lambda: (
                ["pong", ""] if (self.channels or self.patterns) and not self.three else Simple("PONG")
            ),
            "AUTH": lambda: Simple("OK"),
            "CLIENT": lambda: Simple("OK"),
            "SELECT": lambda: Simple("OK"),
            "COMMAND": list,
            "ROLE": lambda: ["sentinel", [self.face.service.settings.cluster]],
            "INFO": self.info,
            "HELLO": lambda: self.hello(words),
            "QUIT": lambda: Simple("OK"),
        }
        handler = plain.get(name)
        return [handler() if handler else ErrorReply(f"ERR unknown command '{name[:64]}'")]

    def hello(self, words: list[str]) -> Reply:
        """The version of the protocol, and who we say we are."""
        if words and words[0] not in {"2", "3"}:
            return ErrorReply("NOPROTO unsupported protocol version")
        self.three = words[0] == "3" if words else self.three
        proto = 3 if self.three else 2
        return {
            "server": "redis",
            "version": "7.0.15",
            "proto": proto,
            "id": 1,
            "mode": "sentinel",
            "role": "sentinel",
        }

    def info(self) -> Reply:
        """What clients look for."""
        one = self.face.chosen(self.client)
        address = f"{one.member.host}:{one.member.port}" if one else ""
        status = "ok" if one else "odown"
        others = max(len(self.face.healthy()) - 1, 0)
        return (
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:sentinel\r\n\r\n"
            "# Sentinel\r\nsentinel_masters:1\r\n"
            f"master0:name={self.face.service.settings.cluster},status={status},address={address},"
            f"slaves={others},sentinels=1\r\n"
        )

    def subscribe(self, kind: str, channel: str) -> Reply:
        """Confirm a subscription."""
        (self.channels if kind == "subscribe" else self.patterns).append(channel)
        return Push((kind, channel, len(self.channels) + len(self.patterns)))

    def sentinel(self, question: str, words: list[str]) -> Reply:  # noqa: PLR0911
        """The SENTINEL commands."""
        if question == "MASTERS":
            one = self.face.chosen(self.client)
            return [self.described(one, "master", name) for name in self.face.names]
        if question == "MYID":
            return self.face.service.cluster_id or "0" * 32
        if not words:
            return ErrorReply("ERR wrong number of arguments for 'sentinel' command")
        if words[0] not in self.face.names:
            unknown = ErrorReply("ERR No such master with that name")
            return None if question == "GET-MASTER-ADDR-BY-NAME" else unknown
        one = self.face.chosen(self.client)
        if question == "GET-MASTER-ADDR-BY-NAME":
            return [one.member.host, str(one.member.port)] if one else None
        if question == "MASTER":
            return self.described(one, "master", words[0])
        if question in {"REPLICAS", "SLAVES"}:
            return [
                self.described(other, "slave", words[0]) for other in self.face.healthy() if other is not one
            ]
        if question == "SENTINELS":
            return []
        if question == "CKQUORUM":
            return Simple("OK 1 usable Sentinels. Quorum and failover authorization can be reached")
        return ErrorReply(f"ERR unknown subcommand '{question[:64]}'")

    def described(self, one: Record | None, role: str, name: str) -> Reply:
        """A proxy as a Sentinel describes a server."""
        flags = role if one else f"{role},o_down"
        return {
            "name": name,
            "ip": one.member.host if one else "",
            "port": str(one.member.port) if one else "0",
            "runid": one.member.id if one else "",
            "flags": flags,
            "role-reported": role,
            "config-epoch": str(self.face.service.epoch),
            "num-slaves": str(max(len(self.face.healthy()) - 1, 0)),
            "num-other-sentinels": "0",
            "quorum": "1",
        }

    def tell_of_a_switch(self) -> None:
        """Publish when the proxy of this client is another one now."""
        before, now = self.told, self.face.chosen(self.client)
        self.told = now
        if now is None or before is None or before is now:
            return
        old, new = before.member, now.member
        message = f"{self.face.service.settings.cluster} {old.host} {old.port} {new.host} {new.port}"
        for channel in self.channels:
            if channel == SWITCH:
                self.send([Push(("message", SWITCH, message))])
        for pattern in self.patterns:
            if fnmatch.fnmatchcase(SWITCH, pattern):
                self.send([Push(("pmessage", pattern, SWITCH, message))])
