"""Whether a port is free, and if not, who has it."""

import itertools
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from fastcache.errors import FastCacheError
from fastcache.model import Endpoint

LISTENING = "0A"  # the state's number in /proc/net/tcp


def require_free(endpoints: Iterable[Endpoint]) -> None:
    """Raise when somebody already listens where we want to."""
    taken = [endpoint for endpoint in endpoints if not is_free(endpoint)]
    if not taken:
        return
    first = taken[0]
    others = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
    holder = holder_of(first.port)
    raise FastCacheError(
        f"port {first.port} is taken by {holder or 'another program'}{others}",
        "stop it, or choose other ports with --node-port, --proxy-port, --health-port, --port, --stats-port",
    )


def is_free(endpoint: Endpoint) -> bool:
    """Try it, as the only answer that is always right."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((endpoint.host, endpoint.port))
            attempt.listen(1)
        except OSError:
            return False
    return True


def holder_of(port: int) -> str:
    """The program that listens on `port`, as far as we may see: `redis-server (pid 812)`, or nothing."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and inodes & open_sockets(process):
            return f"{program(process)} (pid {process.name})"
    return ""


def open_sockets(process: Path) -> set[str]:
    """What the descriptors of a process point to; nothing where we may not look."""
    found = set()
    try:
        for descriptor in os.scandir(process / "fd"):
            found.add(os.readlink(descriptor.path))
    except OSError:
        pass
    return found


def program(process: Path) -> str:
    """What the process calls itself: our nodes by their name, others by their command."""
    try:
        words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        for before, word in itertools.pairwise(words):
            if before.endswith(("fastcache/daemon/lean.py", "fastcache/daemon/proxy.py")):
                return f"FastCache's {word}"
        return (process / "comm").read_text().strip()
    except OSError:
        return "a program"
