"""The question that decides about success: what counts as an answer, and who is named when there is none."""

import http.server
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .conftest import load

canary = load("roles/fastcache/library/fastcache_canary.py")
Answer = Callable[[list[bytes]], bytes]


@contextmanager
def backend(answer: Answer) -> Iterator[int]:
    """A server that answers each request as `answer` says; its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while header := self.rfile.readline():
                words = []
                for _ in range(int(header[1:])):
                    length = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(length + 2)[:-2])
                self.wfile.write(answer(words))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def keeping(store: dict[bytes, bytes], takes: Callable[[bytes], bool] = lambda key: True) -> Answer:
    def answer(words: list[bytes]) -> bytes:
        if words[0] == b"AUTH":
            return b"+OK\r\n"
        if not takes(words[1]):
            return b"-MOVED 1 192.0.2.1:7001\r\n"
        if words[0] == b"SET":
            store[words[1]] = words[2]
            return b"+OK\r\n"
        if words[0] == b"GET":
            value = store[words[1]]
            return b"$%d\r\n%s\r\n" % (len(value), value)
        return b":%d\r\n" % (store.pop(words[1], None) is not None)

    return answer


def test_a_backend_that_keeps_what_it_is_given_passes_and_keeps_nothing_afterwards() -> None:
    store: dict[bytes, bytes] = {}
    with backend(keeping(store)) as port:
        canary.ask("127.0.0.1", port, 5, "secret")
    assert store == {}


def test_a_backend_that_gives_another_value_is_refused() -> None:
    def answer(words: list[bytes]) -> bytes:
        return b"+OK\r\n" if words[0] == b"SET" else b"$32\r\n" + b"x" * 32 + b"\r\n"

    with backend(answer) as port, pytest.raises(canary.RefusedError, match="and read x"):
        canary.ask("127.0.0.1", port, 1, None)


def test_a_node_is_asked_for_keys_of_its_own() -> None:
    taken: list[bytes] = []

    def takes(key: bytes) -> bool:
        return taken[-1:] == [key] or (len(taken) < 3 and key.endswith(b"0:0") and not taken.append(key))

    with backend(keeping({}, takes)) as port:
        canary.ask("127.0.0.1", port, 1, None)
    assert len(taken) == 1


def test_a_node_that_holds_nothing_yet_passes() -> None:
    with backend(keeping({}, lambda key: False)) as port:
        canary.ask("127.0.0.1", port, 1, None)


def test_a_node_without_a_topology_is_refused_in_its_own_words() -> None:
    refused = pytest.raises(canary.RefusedError, match="CLUSTERDOWN no topology")
    with backend(lambda words: b"-CLUSTERDOWN no topology\r\n") as port, refused:
        canary.ask("127.0.0.1", port, 1, None)


@contextmanager
def page(text: str) -> Iterator[dict[str, object]]:
    """A service that answers every question with this page, as the module is told of it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = {"address": "127.0.0.1", "port": server.server_address[1], "path": "/health"}
        yield place | {"holds": '"true"', "plain": False}
        server.shutdown()


def test_a_service_that_speaks_http_is_judged_by_what_its_page_holds() -> None:
    with page('{"health": "true"}') as place:
        canary.read(place, None)
    refused = pytest.raises(canary.RefusedError, match="/health holds no")
    with page('{"health": "false"}') as place, refused:
        canary.read(place, None)
