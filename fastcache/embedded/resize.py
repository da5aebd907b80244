"""Nodes come to a cluster that runs on this machine, and leave it, while it serves.

A node that leaves hands its slots over first. What is recorded, and the file of the health service, name the
nodes that belong to the cluster, so that a start after a crash finds them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from fastcache.client import health
from fastcache.embedded import ports, process, record
from fastcache.embedded.cluster import STOP_SECONDS, await_answers
from fastcache.embedded.plan import OWN_TO_A_NODE, ProcessSpec, node
from fastcache.embedded.record import Running
from fastcache.embedded.start import start, write_health
from fastcache.errors import FastCacheError, UsageError
from fastcache.model import Endpoint

if TYPE_CHECKING:
    import subprocess


def service_url(directory: Path) -> str:
    """The health service of the cluster."""
    for entry in record.read(directory):
        if entry.spec.kind == "health":
            return f"http://{entry.spec.endpoint}"
    raise UsageError(f"no cluster with a health service runs in {directory}", "start one with 'fastcache up'")


def add(directory: Path, count: int = 1, port: int | None = None) -> tuple[str, ...]:
    """Start nodes like those that run, on the next free ports, and have them join; their names."""
    url = service_url(directory)
    with record.exclusive(directory):
        entries = list(record.read(directory))
        nodes = [entry.spec for entry in entries if entry.spec.kind == "node"]
        if not nodes:
            raise UsageError(f"no node runs in {directory}", "start a cluster with 'fastcache up'")
        specs = [
            like(nodes[-1], number, directory, url) for number in next_ports(entries, nodes, count, port)
        ]
        children: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for spec in specs:
                children[spec.name] = child = start(spec, ())
                if identity := process.identify(child.pid):
                    entries.append(Running(spec, identity))
            await_answers(specs, children, lambda _done: None)
        except BaseException:
            process.stop((entry.identity for entry in entries if entry.spec.name in children), STOP_SECONDS)
            raise
        finally:
            for child in children.values():
                child.returncode = child.poll() or 0  # They are to outlive us.
        record.write(directory, tuple(entries))
        rewrite(directory, entries)
    for spec in specs:
        member = {"id": spec.name, "host": spec.endpoint.host, "port": spec.endpoint.port}
        health.call(url, "POST", "/nodes", {**member, "unix": spec.unix})
    return tuple(spec.name for spec in specs)


def next_ports(entries: list[Running], nodes: list[ProcessSpec], count: int, port: int | None) -> list[int]:
    """Ports for new nodes: behind the last one, past those that others have."""
    taken = {endpoint.port for entry in entries for endpoint in entry.spec.endpoints}
    first = port or max(spec.endpoint.port for spec in nodes) + 1
    free = [number for number in range(first, min(first + 1000, 65536)) if number not in taken]
    if port is None:
        free = [number for number in free if ports.is_free(Endpoint(nodes[0].endpoint.host, number))]
    if len(free) < count:
        raise FastCacheError(f"there are no {count} free ports from {first} on", "choose with --port")
    return free[:count]


def like(model: ProcessSpec, port: int, directory: Path, url: str) -> ProcessSpec:
    """A node set as `model` is, on another port."""
    shared = tuple(pair for pair in model.settings if pair[0] not in OWN_TO_A_NODE)
    return node(port, directory, shared, url)


def rewrite(directory: Path, entries: list[Running]) -> None:
    """What starts next, also after `down`, is made of these members; the health service's file lists them."""
    specs = tuple(entry.spec for entry in entries)
    record.remember(directory, specs)
    for spec in specs:
        if spec.kind == "health":
            write_health(spec, specs)


def forget(directory: Path, name: str) -> None:
    """Stop a node that holds nothing any more, and strike it off the record."""
    url = service_url(directory)
    with record.exclusive(directory):
        entries = list(record.read(directory))
        gone = [entry for entry in entries if entry.spec.name == name and entry.spec.kind == "node"]
        if not gone:
            raise UsageError(f"there is no node {name} in {directory}", "'fastcache status' lists them")
        rest = [entry for entry in entries if entry not in gone]
        rewrite(directory, rest)
        health.call(url, "DELETE", f"/nodes/{name}?listed=removed")
        process.stop((entry.identity for entry in gone), STOP_SECONDS)
        record.write(directory, tuple(rest))
