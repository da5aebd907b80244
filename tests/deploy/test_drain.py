"""HAProxy is told to keep clients from a server and to send them again, whatever its checks say meanwhile."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import load

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")
drain = load("roles/fastcache/library/fastcache_drain.py")
SETTINGS = """
global
    stats socket {path} level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
backend proxies
    default-server check inter 50ms rise 1 fall 1
    server one 127.0.0.1:{port}
"""


class Balancer:
    """HAProxy before one server, which is there or not."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "admin.sock")
        self.server = socket.create_server(("127.0.0.1", 0))
        port = self.server.getsockname()[1]
        (directory / "haproxy.cfg").write_text(SETTINGS.format(path=self.path, port=port))
        self.process = subprocess.Popen([str(HAPROXY), "-db", "-f", str(directory / "haproxy.cfg")])

    def told(self, state: str, seconds: float = 5) -> tuple[bool, str]:
        """What the module did, and what HAProxy says of the server then."""
        given = {
            "servers": ["one", "unknown"], "state": state, "backend": "proxies", "socket": self.path,
            "seconds": seconds,
        }  # fmt: skip
        changed = drain.tell(given, only_look=False)
        drain.wait(given, ["one"])
        return bool(changed), self.status()

    def status(self) -> str:
        return str(drain.status(self.path, "proxies")["one"]["status"])

    def until(self, status: str) -> None:
        deadline = time.monotonic() + 20
        while not Path(self.path).exists() or not self.status().startswith(status):
            assert time.monotonic() < deadline, status
            time.sleep(0.02)


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Balancer]:
    balancer = Balancer(tmp_path)
    try:
        yield balancer
    finally:
        balancer.process.kill()
        balancer.process.wait()
        balancer.server.close()


def test_a_server_is_drained_and_comes_back(balancer: Balancer) -> None:
    balancer.until("UP")
    assert balancer.told("drain") == (True, "DRAIN")
    assert balancer.told("drain") == (False, "DRAIN")
    assert balancer.told("ready") == (True, "UP")
    assert balancer.told("ready") == (False, "UP")


def test_one_that_was_called_down_while_it_was_drained_comes_back(balancer: Balancer) -> None:
    balancer.until("UP")
    balancer.told("drain")
    address = balancer.server.getsockname()
    balancer.server.close()
    balancer.until("DOWN")
    assert balancer.told("drain") == (False, "DOWN"), "it is drained still"
    assert balancer.told("ready", seconds=0)[0], "it was not told, for it is called DOWN and not DRAIN"
    balancer.server = socket.create_server(address)
    balancer.until("UP")
