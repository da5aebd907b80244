"""One question on one connection: is it there, and what does it say of itself?

Enough for readiness and status, and cheap for fifty servers at once. Real clients use a real library.
"""

import http.client
import socket
import time

from fastcache.model import Endpoint

# What a server that is up may answer to PING: it need not let us in to be there.
ANSWERS = (b"+PONG", b"-NOAUTH", b"-LOADING", b"-MASTERDOWN", b"-BUSY")
LONGEST_ANSWER = 1 << 20


def answers(endpoint: Endpoint, timeout: float) -> bool:
    """Whether a server of our protocol answers PING within `timeout` seconds."""
    try:
        return ask(endpoint, "PING", timeout).startswith(ANSWERS)
    except OSError:
        return False


def info(endpoint: Endpoint, timeout: float) -> dict[str, str]:
    """The fields of INFO; OSError when the server does not answer or refuses."""
    reply = ask(endpoint, "INFO", timeout)
    if not reply.startswith(b"$"):
        raise ConnectionError(reply.decode("utf-8", "replace").strip() or "no answer")
    lines = reply.decode("utf-8", "replace").splitlines()[1:]
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def serves(endpoint: Endpoint, path: str, timeout: float) -> bool:
    """Whether an HTTP server answers a GET with success."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ask(endpoint: Endpoint, command: str, timeout: float) -> bytes:
    """Send an inline command and return one reply as it came; OSError when none comes in time."""
    deadline = time.monotonic() + timeout
    with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout) as connection:
        connection.sendall(command.encode() + b"\r\n")
        reply = b""
        while not complete(reply):
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            received = connection.recv(65536)
            if not received:
                raise ConnectionError("the server closed the connection")
            reply += received
            if len(reply) > LONGEST_ANSWER:
                raise ConnectionError("this is no answer to " + command)
        return reply


def complete(reply: bytes) -> bool:
    """Whether a whole simple or bulk reply has arrived."""
    head, end, body = reply.partition(b"\r\n")
    if not end:
        return False
    if head.startswith(b"$") and head[1:].isdigit():
        return len(body) >= int(head[1:]) + 2
    return True
