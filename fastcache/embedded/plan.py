"""Which processes an embedded cluster is made of. Pure: a wish becomes a list of specifications."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fastcache.config import Settings
from fastcache.errors import UsageError
from fastcache.model import Endpoint

LOOPBACK = "127.0.0.1"
# The reference cluster; a proxy for every ten nodes, and never fewer than two.
DEFAULT_NODES = 50
NODES_PER_PROXY = 10
FEWEST_PROXIES = 2
DEFAULT_NODE_PORT = 7001
DEFAULT_PROXY_PORT = 6382
DEFAULT_HEALTH_PORT = 8080
DEFAULT_PORT = 6380
DEFAULT_STATS_PORT = 8404
LAST_PORT = 65535
MOST_REPLICAS = 2
# The kernel takes no longer path for a Unix socket (108 bytes, less what HAProxy appends while it binds).
LONGEST_SOCKET_PATH = 90

# The order in which kinds start; they stop in the opposite one. A kind waits until all before it answer.
STAGES = ("node", "health", "proxy", "balancer")
# What a node is given that nobody else has.
OWN_TO_A_NODE = frozenset({"port", "bind", "unixsocket", "dir", "node-id", "health", "topology-file"})
# Settings for nodes that proxies need as well.
SHARED_WITH_PROXIES = frozenset(
    {"requirepass", "maxclients", "databases", "log-format", "proto-max-bulk-len"}
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for; None where nothing was said."""

    nodes: int | None = None
    node_port: int | None = None
    settings: Settings = ()
    proxies: int | None = None
    proxy_port: int | None = None
    workers: int | None = None
    health_port: int | None = None
    port: int | None = None
    stats_port: int | None = None
    profile: str | None = None
    replicas: int | None = None
    consistency: str | None = None
    only_nodes: bool = False
    # Whether HAProxy is there to be started.
    balancer: bool = True


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
        return self.directory / ("haproxy.cfg" if self.kind == "balancer" else f"{self.kind}.toml")

    @property
    def log(self) -> Path:
        """Where it writes what happens to it."""
        return self.directory / f"{self.kind}.log"

    @property
    def unix(self) -> str:
        """Its Unix socket; empty when it has none."""
        return dict(self.settings).get("unixsocket", "")

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All ports it listens on."""
        more = dict(self.settings).get("stats-port") if self.kind == "balancer" else None
        return (self.endpoint, Endpoint(self.endpoint.host, int(more))) if more else (self.endpoint,)


def cluster(wish: Wish, directory: Path) -> tuple[ProcessSpec, ...]:
    """The processes that fulfil `wish`, with their files under `directory`."""
    ports = run_of_ports("node", wish.nodes, DEFAULT_NODES, wish.node_port, DEFAULT_NODE_PORT)
    judge_copies(wish, len(ports))
    service = None if wish.only_nodes else health(wish, directory)
    url = f"http://{service.endpoint}" if service else ""
    specs = [node(port, directory, wish.settings, url) for port in ports]
    if service:
        specs.append(service)
        ports = run_of_ports(
            "proxy", wish.proxies, proxies_for(len(ports)), wish.proxy_port, DEFAULT_PROXY_PORT
        )
        of_proxies = (*wish.settings, *workers(wish.workers))
        specs += [proxy(port, directory, of_proxies, url) for port in ports]
        if wish.balancer:
            specs.append(balancer(wish, directory))
    taken: dict[Endpoint, str] = {}
    for spec in specs:
        for endpoint in spec.endpoints:
            other = taken.setdefault(endpoint, spec.name)
            if other != spec.name:
                raise UsageError(f"{other} and {spec.name} would both listen on port {endpoint.port}")
    return tuple(specs)


def again(wish: Wish, last: tuple[ProcessSpec, ...], directory: Path) -> tuple[ProcessSpec, ...]:
    """The cluster that ran here last, as far as nothing else is wished for: it finds its data again."""
    if not last or wish.only_nodes:
        return cluster(wish, directory)
    balanced = wish.balancer or not any(spec.kind == "balancer" for spec in last)
    if balanced and not differs(wish, last):
        return last
    of_kind = {kind: [spec for spec in last if spec.kind == kind] for kind in STAGES}
    unsaid: dict[str, Any] = {}
    for kind, count, port in (("node", "nodes", "node_port"), ("proxy", "proxies", "proxy_port")):
        if of_kind[kind]:
            unsaid |= {count: len(of_kind[kind]), port: of_kind[kind][0].endpoint.port}
    for spec in of_kind["health"]:
        copies = copies_of(spec)
        unsaid |= {"health_port": spec.endpoint.port, "profile": dict(spec.settings)["profile"]}
        unsaid["replicas"] = copies["replicas"] or None
        unsaid["consistency"] = copies["consistency"] if copies["replicas"] else None
    for spec in of_kind["proxy"][:1]:
        unsaid["workers"] = workers_of(spec)
    for spec in of_kind["balancer"]:
        stats = int(dict(spec.settings)["stats-port"])
        unsaid |= {"port": spec.endpoint.port, "stats_port": stats}
    for spec in of_kind["node"][:1]:
        unsaid["settings"] = tuple(pair for pair in spec.settings if pair[0] not in OWN_TO_A_NODE)
    said = {name: value for name, value in unsaid.items() if not getattr(wish, name)}
    return cluster(replace(wish, **said), directory)


def judge_copies(wish: Wish, nodes: int) -> None:
    """Refuse what could never be fulfilled."""
    if wish.replicas and wish.only_nodes:
        raise UsageError("--replicas needs the health service, which --only nodes leaves out")
    if wish.replicas and wish.replicas >= nodes:
        raise UsageError(f"{counted(wish.replicas, 'replica')} need {wish.replicas + 1} nodes at least")
    if wish.consistency == "strict" and not wish.replicas:
        raise UsageError("strict consistency needs copies: add --replicas 1")


def proxies_for(nodes: int) -> int:
    """How many proxies stand in front of so many nodes when nothing is said."""
    return max(FEWEST_PROXIES, nodes // NODES_PER_PROXY)


def run_of_ports(noun: str, wished: int | None, usual: int, first: int | None, usual_first: int) -> range:
    """Neighbouring ports, one for each process of a kind."""
    count = usual if wished is None else wished
    start = usual_first if first is None else first
    if start + count - 1 > LAST_PORT:
        raise UsageError(f"{counted(count, noun)} from port {start} on would pass port {LAST_PORT}")
    return range(start, start + count)


def placed(name: str, port: int, directory: Path, *, unix: bool) -> tuple[Path, dict[str, str]]:
    """Where a process of our own keeps its files and listens."""
    home = directory / name
    own = {"port": str(port), "bind": LOOPBACK}
    socket = str(home / "serving.sock")
    if unix and len(socket.encode()) <= LONGEST_SOCKET_PATH:
        own["unixsocket"] = socket
    return home, own


def node(port: int, directory: Path, settings: Settings, health_url: str = "") -> ProcessSpec:
    """A cache node on the loopback interface; with a health service it takes its part in a cluster."""
    name = f"node-{port}"
    chosen = dict(settings)
    home, own = placed(name, port, directory, unix=bool(health_url) and "unixsocket" not in chosen)
    own["dir"] = str(home)
    if health_url:
        own |= {"node-id": name, "health": health_url, "topology-file": str(home / "topology.json")}
    common = tuple((key, value) for key, value in settings if key not in own)
    return ProcessSpec(name, "node", Endpoint(LOOPBACK, port), home, (*own.items(), *common))


def proxy(port: int, directory: Path, settings: Settings, health_url: str) -> ProcessSpec:
    """A proxy that follows our health service."""
    name = f"proxy-{port}"
    home, own = placed(name, port, directory, unix=True)
    own |= {"health": health_url, "topology-file": str(home / "topology.json")}
    theirs = SHARED_WITH_PROXIES | {"workers"}
    shared = tuple((key, value) for key, value in settings if key in theirs)
    return ProcessSpec(name, "proxy", Endpoint(LOOPBACK, port), home, (*own.items(), *shared))


def workers(count: int | None) -> Settings:
    """The setting of proxies for so many workers; none when nothing is said, or what is usual."""
    return (("workers", str(count)),) if count and count > 1 else ()


def health(wish: Wish, directory: Path) -> ProcessSpec:
    """The health and topology service. Its members are listed in its file, see start.py."""
    port = DEFAULT_HEALTH_PORT if wish.health_port is None else wish.health_port
    home = directory / "health"
    own = {"port": str(port), "bind": LOOPBACK, "dir": str(home / "data"), "profile": wish.profile or "fast"}
    if wish.replicas:
        own |= {"replicas": str(wish.replicas), "flags": "replication"}
    if wish.consistency == "strict":
        own["flags"] += " strict"
    if password := dict(wish.settings).get("requirepass"):
        own["node-password"] = password
    return ProcessSpec("health", "health", Endpoint(LOOPBACK, port), home, tuple(own.items()))


def balancer(wish: Wish, directory: Path) -> ProcessSpec:
    """HAProxy, the one address for clients."""
    port = DEFAULT_PORT if wish.port is None else wish.port
    stats = DEFAULT_STATS_PORT if wish.stats_port is None else wish.stats_port
    interval = "30s" if wish.profile == "reference" else "1s"
    own = (("port", str(port)), ("stats-port", str(stats)), ("interval", interval))
    return ProcessSpec("haproxy", "balancer", Endpoint(LOOPBACK, port), directory / "haproxy", own)


def differs(wish: Wish, running: tuple[ProcessSpec, ...]) -> str:
    """Why the running processes are not what is wished for; empty when they are."""
    return next((reason for reason in differences(wish, running) if reason), "")


def differences(wish: Wish, running: tuple[ProcessSpec, ...]) -> Iterator[str]:
    """Everything that is not as wished for."""
    of_kind = {kind: [spec for spec in running if spec.kind == kind] for kind in STAGES}
    nodes = of_kind["node"]
    wanted = (("node", wish.nodes, wish.node_port), ("proxy", wish.proxies, wish.proxy_port))
    for kind, count, port in wanted:
        specs = of_kind[kind]
        if count is not None and count != len(specs):
            yield f"{counted(len(specs), kind)} already run, and {count} are wanted"
        first = specs[0].endpoint.port if specs else None
        if port is not None and port != first:
            yield f"the {plural(kind)} already run from port {first} on, and {port} is wanted"
    if wish.only_nodes and len(nodes) != len(running):
        yield "more than nodes already runs"
    for kind, port in (("health", wish.health_port), ("balancer", wish.port)):
        if port is not None and [spec.endpoint.port for spec in of_kind[kind]] != [port]:
            yield f"what runs has no {kind} on port {port}"
    for name, value in (("replicas", wish.replicas), ("consistency", wish.consistency)):
        if value is not None and any(value != copies_of(spec)[name] for spec in of_kind["health"]):
            yield f"what runs has {name} {copies_of(of_kind['health'][0])[name]}, and {value} is wanted"
    if wish.profile and any(("profile", wish.profile) not in spec.settings for spec in of_kind["health"]):
        yield "the health service already runs with another profile"
    if wish.workers and any(wish.workers != workers_of(spec) for spec in of_kind["proxy"]):
        yield "the proxies already run with another number of workers"
    if wish.settings and any(pair not in spec.settings for spec in nodes for pair in wish.settings):
        yield "the nodes already run with other settings"


def workers_of(spec: ProcessSpec) -> int:
    """How many workers a proxy has."""
    return int(dict(spec.settings).get("workers", "1"))


def copies_of(service: ProcessSpec) -> dict[str, int | str]:
    """What a health service was told of copies."""
    own = dict(service.settings)
    strict = "strict" in own.get("flags", "").split()
    return {"replicas": int(own.get("replicas", "0")), "consistency": "strict" if strict else "eventual"}


def plural(noun: str) -> str:
    """`nodes`, `proxies`, `processes`."""
    if noun.endswith("s"):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def counted(count: int, noun: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural(noun)}"


class OfAKind(Protocol):
    """A process of some kind: as it is planned, or as it was found."""

    @property
    def kind(self) -> str: ...


def told(processes: Sequence[OfAKind]) -> str:
    """What they are in words: `3 nodes, the health service, 2 proxies and HAProxy`."""
    count = {kind: sum(one.kind == kind for one in processes) for kind in STAGES}
    words = [counted(count["node"], "node")]
    words += ["the health service"] if count["health"] else []
    words += [counted(count["proxy"], "proxy")] if count["proxy"] else []
    words += ["HAProxy"] if count["balancer"] else []
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
