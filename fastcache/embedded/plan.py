"""Which processes an embedded cluster is made of. Pure: a wish becomes a list of specifications."""

from dataclasses import dataclass
from pathlib import Path

from fastcache.config import Settings
from fastcache.errors import UsageError
from fastcache.model import Endpoint

LOOPBACK = "127.0.0.1"
DEFAULT_NODES = 3
DEFAULT_NODE_PORT = 7001
LAST_PORT = 65535

# The order in which kinds start; they stop in the opposite one. A kind waits until all before it answer.
STAGES = ("node",)


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for; None where nothing was said."""

    nodes: int | None = None
    node_port: int | None = None
    settings: Settings = ()


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: what it is called, where it answers, where it keeps its files, how it is set."""

    name: str
    kind: str
    endpoint: Endpoint
    directory: Path
    settings: Settings

    @property
    def configuration(self) -> Path:
        """The file from which the same process can be started by hand."""
        return self.directory / f"{self.kind}.toml"

    @property
    def log(self) -> Path:
        """Where it writes what happens to it."""
        return self.directory / f"{self.kind}.log"


def cluster(wish: Wish, directory: Path) -> tuple[ProcessSpec, ...]:
    """The processes that fulfil `wish`, with their files under `directory`."""
    count = DEFAULT_NODES if wish.nodes is None else wish.nodes
    first = DEFAULT_NODE_PORT if wish.node_port is None else wish.node_port
    if first + count - 1 > LAST_PORT:
        raise UsageError(f"{count} nodes from port {first} on would pass port {LAST_PORT}")
    return tuple(node(port, directory, wish.settings) for port in range(first, first + count))


def node(port: int, directory: Path, settings: Settings) -> ProcessSpec:
    """A cache node on the loopback interface."""
    name = f"node-{port}"
    home = directory / name
    own = {"port": str(port), "bind": LOOPBACK, "dir": str(home)}
    common = tuple((key, value) for key, value in settings if key not in own)
    return ProcessSpec(name, "node", Endpoint(LOOPBACK, port), home, (*own.items(), *common))


def differs(wish: Wish, running: tuple[ProcessSpec, ...]) -> str:
    """Why the running processes are not what is wished for; empty when they are."""
    nodes = [spec for spec in running if spec.kind == "node"]
    if wish.nodes is not None and wish.nodes != len(nodes):
        return f"{counted(len(nodes), 'node')} already run, and {wish.nodes} are wanted"
    first = nodes[0].endpoint.port if nodes else None
    if wish.node_port is not None and wish.node_port != first:
        return f"the nodes already run from port {first} on, and {wish.node_port} is wanted"
    if wish.settings and any(pair not in spec.settings for spec in nodes for pair in wish.settings):
        return "the nodes already run with other settings"
    return ""


def counted(count: int, noun: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
