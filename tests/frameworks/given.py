"""A fleet that serves already, in the place of the servers that these tests would start.

    FASTCACHE_TEST_FLEET=198.18.5.10:6380 FASTCACHE_TEST_FLEET_PASSWORD=secrets/reference/requirepass \\
        pytest tests/frameworks

names a balancer or a proxy of it, and the file with its password. **Whatever is in it is removed.** What
would go past that address, to nodes, is left out.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.fleet import LISTENED
from tests.conformance.servers import Server
from tests.conformance.wire import Connection

#: Clients that were stopped are noticed by nodes through HAProxy and a proxy.
SECONDS_TO_HEAR = 30


@dataclass
class Given(Server):
    """Somebody else's fleet: it is spoken to, and neither started nor stopped."""

    host: str = ""
    password: str = ""

    @property
    def address(self) -> tuple[str, int]:
        return (self.host, self.port)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    def connected(self) -> Connection:
        connection = Connection(self.address)
        if self.password:
            assert connection.ask("AUTH", self.password) == b"+OK\r\n"
        return connection

    def alive(self) -> bool:
        connection = self.connected()
        try:
            return connection.ask("PING") == b"+PONG\r\n"
        finally:
            connection.close()

    def clean(self) -> None:
        """Empty, and nobody listens any more."""
        connection = self.connected()
        assert connection.ask("FLUSHALL") == b"+OK\r\n"
        deadline = time.monotonic() + SECONDS_TO_HEAR
        while any(connection.value("PUBSUB", what) for what in LISTENED):
            assert time.monotonic() < deadline, "somebody listens to channels of this fleet"
            time.sleep(0.05)
        connection.close()

    def stop(self) -> None:
        self.hang_up()


def given() -> Given | None:
    """The fleet that the environment names."""
    named = os.environ.get("FASTCACHE_TEST_FLEET")
    if not named:
        return None
    host, _, port = named.rpartition(":")
    file = os.environ.get("FASTCACHE_TEST_FLEET_PASSWORD")
    password = Path(file).read_text().strip() if file else ""
    nobody = subprocess.Popen(["true"])
    nobody.wait()
    return Given("given", int(port), Path(), nobody, Path(os.devnull), host=host, password=password)
