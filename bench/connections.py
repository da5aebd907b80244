"""Many connections: ten thousand that are idle, a storm of new ones, and readers that do not read."""

import sys
import time
from contextlib import ExitStack

from bench import processes, resp, servers
from bench.report import table
from bench.servers import Kind

IDLE = 10_000
STORM = 20_000
SLOW = 50
VALUE = 1 << 20


def compare(kinds: list[Kind], port: int) -> str:
    """The figures of each server, side by side."""
    if not servers.free_descriptors(IDLE + 1000):
        return "\n(connections: too few open files are allowed here)"
    figures = [of_one(kind, port) for kind in kinds]
    names = list(figures[0])
    rows = [[name, *(each[name] for each in figures)] for name in names]
    return table("Connections", ["", *(kind.name for kind in kinds)], rows)


def of_one(kind: Kind, port: int) -> dict[str, str]:
    """All figures of one server."""
    print(f"# connections: {kind.name}", file=sys.stderr)
    with servers.running(kind, port, {"maxclients": str(IDLE + 500)}) as server:
        return {**idle(server), **storm(server), **slow_readers(server)}


def idle(server: servers.Server) -> dict[str, str]:
    """Memory and CPU of connections that do nothing, and how a busy one fares among them."""
    before, _ = processes.memory(server.pid)
    with ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        opened = [stack.enter_context(resp.Connection(address)) for _ in range(IDLE)]
        for connection in opened:
            connection.ask("PING")
        memory, _ = processes.memory(server.pid)
        start, seconds = processes.cpu([server.pid]).seconds, 3.0
        time.sleep(seconds)
        cpu = (processes.cpu([server.pid]).seconds - start) / seconds
        begin = time.monotonic()
        for _ in range(2000):
            opened[-1].ask("PING")
        trip = (time.monotonic() - begin) / 2000 * 1e6
    return {
        f"bytes per idle connection, {IDLE:,}": f"{(memory - before) / IDLE:.0f}",
        "cores for idle connections": f"{cpu:.4f}",
        "us per PING among them": f"{trip:.0f}",
    }


def storm(server: servers.Server) -> dict[str, str]:
    """Connections that come, ask once and go: the server's CPU time for each."""
    start = processes.cpu([server.pid]).seconds
    for _ in range(STORM):
        with resp.Connection(("127.0.0.1", server.port)) as connection:
            connection.ask("PING")
    used = processes.cpu([server.pid]).seconds - start
    return {"CPU us per connection that comes and goes": f"{used / STORM * 1e6:.1f}"}


def slow_readers(server: servers.Server) -> dict[str, str]:
    """Clients that ask for much and do not read: what they cost, and whether others notice."""
    server.ask("SET", "long", b"x" * VALUE)
    before, _ = processes.memory(server.pid)
    with ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        for _ in range(SLOW):
            slow = stack.enter_context(resp.Connection(address))
            slow.socket.sendall(resp.request(["GET", "long"]) * 10)
        worst, asker = 0.0, stack.enter_context(resp.Connection(address))
        for _ in range(500):
            begin = time.monotonic()
            asker.ask("PING")
            worst = max(worst, time.monotonic() - begin)
        memory, _ = processes.memory(server.pid)
    return {
        f"MiB held for {SLOW} readers that asked for 10 MiB each": f"{(memory - before) / (1 << 20):.0f}",
        "worst PING meanwhile, ms": f"{worst * 1000:.1f}",
    }
