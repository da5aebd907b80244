"""One HTTP request and its answer, with what is compiled into the interpreter: for lean processes.

The library's client would bring in the parsers of mail; a proxy asks one kind of server, its health
service, one short question at a time. Each request has a connection of its own.
"""

import _socket
import time

LONGEST_ANSWER = 64 << 20
CONNECT_SECONDS = 2.0


class AnswerError(OSError):
    """What came back is no answer, or not all of one."""


def exchange(
    place: str, method: str, target: str, seconds: float, *, body: str = "", headers: str = ""
) -> tuple[int, bytes]:
    """Status and body of one request to `host:port`; OSError when there is no answer within `seconds`."""
    host, _, port = place.rpartition(":")
    deadline = time.monotonic() + seconds
    connection = connected(host, int(port), min(CONNECT_SECONDS, seconds))
    try:
        content = body.encode()
        more = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if body else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{more}{headers}\r\n"
        connection.sendall(head.encode() + content)
        received: list[bytes] = []
        size = 0
        while True:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = connection.recv(1 << 16)
            if not chunk:
                return understood(b"".join(received))
            received.append(chunk)
            size += len(chunk)
            if size > LONGEST_ANSWER:
                raise AnswerError("the answer has no end")
    finally:
        connection.close()


def connected(host: str, port: int, seconds: float) -> _socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    last: OSError = AnswerError(f"{host} has no address")
    for family, kind, protocol, _, address in _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM):
        connection = _socket.socket(family, kind, protocol)
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
