"""One HTTP request and its answer, with what is compiled into the interpreter: for lean processes.

The library's client would bring in the parsers of mail; a proxy asks one kind of server, its health
service, one short question at a time. Each request has a connection of its own; to a place that begins with
https:// it is under TLS, and the other side must have a certificate of those that were said to be trusted.
"""

import _socket
import time

LONGEST_ANSWER = 64 << 20
CONNECT_SECONDS = 2.0


SECURE = "https://"
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Trust:
    """Who is believed under TLS. The file is read for every connection: it may be replaced."""

    authority = ""


class AnswerError(OSError):
    """What came back is no answer, or not all of one."""


def exchange(
    place: str, method: str, target: str, seconds: float, *, body: str = "", headers: str = ""
) -> tuple[int, bytes]:
    """Status and body of one request to `host:port`; OSError when there is no answer within `seconds`."""
    secure, place = place.startswith(SECURE), place.removeprefix(SECURE)
    host, _, port = place.rpartition(":")
    deadline = time.monotonic() + seconds
    connection = connected(host, int(port), min(CONNECT_SECONDS, seconds))
    try:
        wire = Secure(connection, host) if secure else connection
        content = body.encode()
        more = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if body else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{more}{headers}\r\n"
        wire.sendall(head.encode() + content)
        received: list[bytes] = []
        size = 0
        while True:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = wire.recv(1 << 16)
            if not chunk:
                return understood(b"".join(received))
            received.append(chunk)
            size += len(chunk)
            if size > LONGEST_ANSWER:
                raise AnswerError("the answer has no end")
    finally:
        connection.close()


class Secure:
    """TLS over a connection, by the compiled module: the one on top of it brings in half the library."""

    def __init__(self, connection: _socket.socket, host: str) -> None:
        import _ssl  # noqa: PLC0415  (who speaks no TLS does not load it)

        context: Any = _ssl._SSLContext(_ssl.PROTOCOL_TLS_CLIENT)
        context.verify_mode = _ssl.CERT_REQUIRED
        context.check_hostname = True
        context.load_verify_locations(Trust.authority or None, None, None)
        self.ended = (_ssl.SSLZeroReturnError, _ssl.SSLEOFError)
        self.tls = context._wrap_socket(connection, False, host.strip("[]"))
        self.tls.do_handshake()

    def sendall(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            sent += self.tls.write(data[sent:])

    def recv(self, most: int) -> bytes:
        try:
            received: bytes = self.tls.read(most)
        except self.ended:
            return b""
        return received


class Connection(_socket.socket):
    """TLS wants to refer to it without keeping it, which the compiled class cannot have."""


def connected(host: str, port: int, seconds: float) -> _socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    last: OSError = AnswerError(f"{host} has no address")
    for family, kind, protocol, _, address in _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM):
        connection = Connection(family, kind, protocol)
        try:
            connection.settimeout(seconds)
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
        else:
            return connection
    raise last


def understood(answer: bytes) -> tuple[int, bytes]:
    """Status and body; the other side has closed, so that all of it is here or it is cut off."""
    head, end, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    words = status.split(b" ")
    if not end or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise AnswerError("this is not HTTP")
    fields = dict(line.lower().split(b":", 1) for line in lines if b":" in line)
    if fields.get(b"transfer-encoding", b"").strip() == b"chunked":
        body = unchunked(body)
    elif len(body) < int(fields.get(b"content-length", b"0")):
        raise AnswerError("the answer is cut off")
    return int(words[1]), body


def unchunked(body: bytes) -> bytes:
    """A body that came in pieces."""
    parts: list[bytes] = []
    while True:
        size, end, body = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16) if end else -1
        if length < 0 or len(body) < length:
            raise AnswerError("the answer is cut off")
        if length == 0:
            return b"".join(parts)
        parts.append(body[:length])
        body = body[length + 2 :]
