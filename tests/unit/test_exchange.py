"""The small HTTP client of lean processes."""

import socket
import threading

import pytest

from fastcache.daemon.exchange import exchange


def answering(answer: bytes) -> tuple[str, list[bytes]]:
    """A server for one request; where it is, and what it will have been asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            asked.append(connection.recv(65536))
            for byte in answer:  # In the smallest pieces there are.
                connection.send(bytes([byte]))

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}", asked


def test_status_and_body_come_back_and_the_body_is_sent() -> None:
    place, asked = answering(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
    assert exchange(place, "POST", "/proxies", 5, body='{"id": "ü"}') == (201, b"ok")
    assert asked[0].startswith(b"POST /proxies HTTP/1.1\r\n")
    assert b"Content-Length: 12\r\n" in asked[0]


def test_a_body_in_chunks_is_put_together() -> None:
    place, _ = answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    )
    assert exchange(place, "GET", "/topology", 5) == (200, b"abcde")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"-ERR this is Redis\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
def test_what_is_no_whole_answer_is_an_error(answer: bytes) -> None:
    place, _ = answering(answer)
    with pytest.raises(OSError, match=r"HTTP|cut off"):
        exchange(place, "GET", "/", 5)


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        exchange(f"127.0.0.1:{listener.getsockname()[1]}", "GET", "/", 0.05)
