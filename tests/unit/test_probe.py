"""One question on one connection, with servers that behave badly on purpose."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from fastcache.client import probe
from fastcache.model import Endpoint

Serve = Callable[[list[bytes]], Endpoint]


@pytest.fixture
def server() -> Iterator[Serve]:
    """A server that answers its first client with the given pieces, then stays silent."""
    listeners: list[socket.socket] = []

    def serve(pieces: list[bytes]) -> Endpoint:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(1024)
            for piece in pieces:
                connection.sendall(piece)
            if pieces and pieces[-1] == b"":
                connection.close()
            listeners.append(connection)

        threading.Thread(target=answer, daemon=True).start()
        return Endpoint("127.0.0.1", listener.getsockname()[1])

    yield serve
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("reply", [b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n", b"-LOADING\r\n"])
def test_a_server_that_will_not_let_us_in_is_there_all_the_same(server: Serve, reply: bytes) -> None:
    assert probe.answers(server([reply]), timeout=5)


def test_a_reply_in_pieces_is_put_together(server: Serve) -> None:
    body = b"# Server\r\nredis_version:7.0.15\r\n\r\n# Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\n"
    reply = b"$%d\r\n%s\r\n" % (len(body), body)
    fields = probe.info(server([reply[:3], reply[3:20], reply[20:]]), timeout=5)
    assert fields == {"redis_version": "7.0.15", "db0": "keys=2,expires=0,avg_ttl=0"}


@pytest.mark.parametrize("pieces", [[], [b"+PO"], [b""], [b"HTTP/1.1 400 Bad Request\r\n"]])
def test_silence_half_an_answer_and_another_protocol_are_no_answer(
    server: Serve, pieces: list[bytes]
) -> None:
    assert not probe.answers(server(pieces), timeout=0.2)


def test_an_error_instead_of_info_is_told_in_the_servers_words(server: Serve) -> None:
    with pytest.raises(ConnectionError, match="NOAUTH"):
        probe.info(server([b"-NOAUTH Authentication required.\r\n"]), timeout=5)


def test_a_closed_port_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert not probe.answers(Endpoint("127.0.0.1", port), timeout=1)
