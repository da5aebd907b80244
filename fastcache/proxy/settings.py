"""What an operator can set of a proxy: the settings of the core that concern clients, and a few of its own.

The file is TOML like a node's. What the lean process cannot do cheaply is done here: JSON, the placement of
static nodes, the parts of a URL.
"""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastcache import _core, config
from fastcache.config import Settings
from fastcache.errors import ConfigurationError

# Settings of the core that mean something where no keys are kept.
OF_THE_CORE = (
    "port",
    "bind",
    "tls-port",
    "tls-cert-file",
    "tls-key-file",
    "tls-ca-cert-file",
    "tls-auth-clients",
    "tls-protocols",
    "tls-cluster",
    "unixsocket",
    "unixsocketperm",
    "node-id",
    "requirepass",
    "maxclients",
    "timeout",
    "tcp-keepalive",
    "tcp-backlog",
    "proto-max-bulk-len",
    "client-query-buffer-limit",
    "client-output-buffer-limit",
    "maxmemory-clients",
    "databases",
    "slowlog-log-slower-than",
    "slowlog-max-len",
    "protected-mode",
    "user",
    "aclfile",
    "auth-failure-limit",
    "shutdown-timeout",
    "loglevel",
    "log-format",
)


@dataclass(frozen=True, slots=True)
class Own:
    """A setting that only proxies have."""

    name: str
    default: str | tuple[str, ...]
    help: str
    secret: bool = False
    # Whether the core judges and obeys it; the others are for the process around it.
    of_the_core: bool = False


OWN = (
    Own("health", (), "URLs of the health services; the topology is followed there."),
    Own(
        "topology-file",
        "",
        "Where the last known topology is kept; a proxy that starts without a health service routes by it.",
    ),
    Own(
        "nodes",
        (),
        "Nodes as NAME=HOST:PORT, for a cluster without a health service. Every proxy needs the same list.",
    ),
    Own("advertise", "", "Host under which others reach this proxy; when set, it registers itself."),
    Own("here", (), "More names of this host: nodes there are reached through their Unix sockets."),
    Own(
        "failover-wait",
        "3000",
        "How long a request waits while the node of its slot is away and a replica may take its place,"
        " milliseconds; 0: it fails at once.",
        of_the_core=True,
    ),
    Own(
        "failover-buffer",
        "16777216",
        "Bytes of requests that may wait so at once; beyond them requests fail at once.",
        of_the_core=True,
    ),
    Own(
        "node-timeout",
        "5000",
        "How long a node may leave requests unanswered before its connection is given up, milliseconds.",
        of_the_core=True,
    ),
    Own("connect-timeout", "1000", "How long connecting to a node may take, milliseconds.", of_the_core=True),
    Own(
        "transactions",
        "relaxed",
        "relaxed: a transaction over several nodes is atomic at each of them; strict: it is refused.",
        of_the_core=True,
    ),
    Own(
        "workers",
        "1",
        "Threads that serve, each with clients and connections to nodes of its own; more than one where one"
        " core is not enough.",
        of_the_core=True,
    ),
    Own("admin-key", "", "Key that the health service asks of those that register.", secret=True),
)
KNOWN = (*OF_THE_CORE, *(own.name for own in OWN))


@dataclass(frozen=True, slots=True)
class ProxyConfiguration:
    """What one file says, judged."""

    core: Settings
    own: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """What the process list and the log call this proxy."""
        chosen = dict(self.core)
        port = chosen.get("port", "6379")
        return f"proxy-{port if port != '0' else chosen.get('tls-port', port)}"

    def for_the_process(self, again: Sequence[str] = ()) -> Settings:
        """All that the lean process gets; its own settings are told from the core's by a prefix. `again` is
        the command with which it replaces itself when it is to be renewed."""
        chosen = dict(self.core)
        identity = chosen.get("node-id") or self.name
        told = {
            "health": " ".join(host_and_port(url) for url in self.own["health"]),
            "topology-file": "".join(self.own["topology-file"]),
            "topology": static_topology(self.own["nodes"]).decode() if self.own["nodes"] else "",
            "here": " ".join(names_of_this_host(chosen, self.own)),
            "admin-key": "".join(self.own["admin-key"]),
            "identity": identity,
            "registration": self.registration(identity, chosen),
            "again": "\n".join(again),
        }
        return (*self.core, *options(self.own), *((f"proxy.{name}", value) for name, value in told.items()))

    def registration(self, identity: str, chosen: Mapping[str, str]) -> str:
        """The body of a registration; empty when there is to be none."""
        host = "".join(self.own["advertise"])
        if not host:
            return ""
        port, unix = int(chosen.get("port", "6379")), chosen.get("unixsocket", "")
        return json.dumps({"id": identity, "host": host, "port": port, "unix": unix})


def load(path: Path) -> ProxyConfiguration:
    """Read and judge the file at `path`."""
    own_secrets = [own.name for own in OWN if own.secret]
    return judged(config.read(path), str(path), config.credentials([*config.node_secrets(), *own_secrets]))


def judged(table: Mapping[str, object], origin: str, credentials: Mapping[str, str]) -> ProxyConfiguration:
    """Turn a TOML table into settings, or say what is wrong with it."""
    for key in table:
        if key not in KNOWN:
            raise ConfigurationError(
                f"{origin}: a proxy has no setting '{key}'",
                config.nearest(key, KNOWN, "fastcache proxy --print-config"),
            )
    core = config.judged({k: v for k, v in table.items() if k in OF_THE_CORE}, origin, credentials)
    given = {**credentials, **table}
    own = {one.name: words(one, given.get(one.name, one.default), origin) for one in OWN}
    try:
        _core.Proxy([*options(own)])
    except ValueError as error:
        raise ConfigurationError(f"{origin}: {error}") from None
    for url in own["health"]:
        try:
            host_and_port(url)
        except ValueError as error:
            raise ConfigurationError(f"{origin}: health: {url}: {error}") from None
    try:
        if own["nodes"]:
            _core.Topology(static_topology(own["nodes"]))
    except ValueError as error:
        raise ConfigurationError(f"{origin}: nodes: {error}") from None
    if not own["health"] and not own["nodes"] and not own["topology-file"]:
        raise ConfigurationError(
            f"{origin}: the proxy would know no nodes",
            'give health = ["http://HOST:8080"] or nodes = ["n1=HOST:7001", ...]',
        )
    return ProxyConfiguration(core, own)


def options(own: Mapping[str, tuple[str, ...]]) -> Settings:
    """Our own settings that the core obeys."""
    return tuple((one.name, "".join(own[one.name])) for one in OWN if one.of_the_core)


def words(setting: Own, value: object, origin: str) -> tuple[str, ...]:
    """The value of a setting of our own as a tuple; one of text has one part, or none when empty."""
    text = config.as_text(setting.name, value if not isinstance(value, tuple) else list(value), origin)
    if "\0" in text:
        raise ConfigurationError(f"{origin}: {setting.name}: holds a NUL character")
    if isinstance(setting.default, str):
        return (text,) if text else ()
    return tuple(text.split())


def host_and_port(url: str) -> str:
    """`http://host:8080` as `host:8080`; under TLS with its https://."""
    parts = urllib.parse.urlsplit(url)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    if not usual or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    place = f"{parts.hostname}:{parts.port or usual}"
    return f"https://{place}" if parts.scheme == "https" else place


def static_topology(nodes: tuple[str, ...]) -> bytes:
    """The topology of a list of nodes: everybody who has the same list finds the same owners."""
    members = []
    for text in nodes:
        name, equals, place = text.rpartition("=")
        host, colon, port = place.rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise ValueError(f"'{text}' must be NAME=HOST:PORT")
        members.append({"id": name if equals else place, "host": host.strip("[]"), "port": int(port)})
    slots = json.loads(_core.place(json.dumps(members).encode()))["slots"]
    return json.dumps({"epoch": 0, "nodes": members, "slots": slots}).encode()


def names_of_this_host(core: Mapping[str, str], own: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Hosts whose Unix sockets are ours to use: where we listen, and what we are told."""
    bound = [address.lstrip("-") for address in core.get("bind", "").split()]
    return sorted({*bound, *own["advertise"], *own["here"], "127.0.0.1", "::1", "localhost"})


def rendered(configuration: ProxyConfiguration | None) -> str:
    """All settings as TOML, each with what it is for; secrets stay unsaid."""
    blocks = []
    for one in OWN:
        value = configuration.own[one.name] if configuration else ()
        if one.secret:
            line = f"# {one.name} is {'set' if value else 'not set'}; its value is not shown"
        elif isinstance(one.default, str):
            line = f"{one.name} = {config.toml_text(''.join(value))}"
        else:
            line = f"{one.name} = [{', '.join(map(config.toml_text, value))}]"
        blocks.append(f"# {one.help}\n{line}\n")
    core = config.rendered(configuration.core if configuration else (), OF_THE_CORE)
    return "\n".join([*blocks, core])
