"""What an operator can set of the health service, in TOML, with defaults in one place: here."""

import sys
import typing
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fastcache import config
from fastcache.errors import ConfigurationError
from fastcache.health.decide import Pace

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]

# Two profiles: the reference one is gentle, the fast one finds a dead node in about a second.
PROFILES = {
    "reference": Pace(interval=30.0, suspect_interval=2.0, timeout=5.0, down_after=3, up_after=2),
    "fast": Pace(interval=0.3, suspect_interval=0.3, timeout=0.3, down_after=3, up_after=2),
}
# Handed over as files by the service manager; never printed.
SECRETS = ("admin-key", "node-password")
# Settings of before that mean nothing any more, and what is so instead: a file may still have them.
RETIRED = {
    "strict-moves": 'slots move in strict mode as in any other; placement = "manual" has them wait for you'
}


class StaticMember(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """A node or proxy that is known without registering itself."""

    id: str
    host: str
    port: Port = 0
    unix_socket: str = ""
    rack: str = ""
    weight: Annotated[int, Meta(ge=0, le=100_000)] = 100


class Settings(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """Every setting of the health service."""

    cluster: Annotated[
        str, Meta(description="Name of the cluster; a topology of another one is refused.")
    ] = "fastcache"
    bind: Annotated[str, Meta(description="Address on which HTTP is served.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port of HTTP.")] = 8080
    sentinel_port: Annotated[
        Port, Meta(description="Port on which Sentinel clients are told a healthy proxy; 0 for none.")
    ] = 0
    advertise: Annotated[
        str, Meta(description="URL under which others reach this service; of <bind> and <port> when empty.")
    ] = ""
    tls_cert_file: Annotated[
        str, Meta(description="The service's certificate and its chain (PEM): HTTP is under TLS then.")
    ] = ""
    tls_key_file: Annotated[str, Meta(description="The key of the certificate (PEM).")] = ""
    tls_ca_cert_file: Annotated[
        str, Meta(description="Certificates of those who sign the members' and etcd's certificates (PEM).")
    ] = ""
    tls_cluster: Annotated[
        bool, Meta(description="Whether nodes and proxies are asked under TLS, and etcd by its https URL.")
    ] = False
    dir: Annotated[str, Meta(description="Directory in which membership and epochs are kept.")] = (
        "/var/lib/fastcache/health"
    )
    log_format: Annotated[Literal["console", "json"], Meta(description="How log lines look.")] = "console"
    profile: Annotated[
        Literal["reference", "fast"],
        Meta(description="reference: a check every 30 s; fast: a dead node is found in about a second."),
    ] = "reference"
    interval: Annotated[
        Seconds | None, Meta(description="Seconds between two checks of one node; the profile's when unset.")
    ] = None
    suspect_interval: Annotated[
        Seconds | None, Meta(description="Seconds between checks of a node that gave cause for doubt.")
    ] = None
    timeout: Annotated[Seconds | None, Meta(description="Seconds after which a check has failed.")] = None
    down_after: Annotated[
        Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="Failures in a row that mean: down.")
    ] = None
    up_after: Annotated[
        Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="Successes in a row that mean: up again.")
    ] = None
    virtual_nodes: Annotated[
        int, Meta(ge=1, le=10_000, description="Virtual nodes on the ring of a node of weight 100.")
    ] = 150
    replicas: Annotated[
        int, Meta(ge=0, le=7, description="Copies of every slot besides its main, with the flag replication.")
    ] = 0
    replica_placement: Annotated[
        Literal["ring", "pairs"],
        Meta(
            description="ring: copies on the next nodes of the ring; pairs: nodes that hold the same slots."
        ),
    ] = "ring"
    pairs: Annotated[
        tuple[tuple[str, ...], ...],
        Meta(
            description="Ids of the nodes of each pair, its usual main first; made by themselves when empty."
        ),
    ] = ()
    replace_after: Annotated[
        Seconds,
        Meta(description="Seconds for which a node may be down before its copies are made elsewhere."),
    ] = 600.0
    placement: Annotated[
        Literal["auto", "manual"],
        Meta(description="auto: slots move to a node that joins; manual: only by POST /rebalance/start."),
    ] = "auto"
    move_slots: Annotated[
        int, Meta(ge=1, le=16384, description="Slots that move at once from one node to another.")
    ] = 1024
    move_share: Annotated[
        float,
        Meta(
            ge=0.001,
            le=1,
            description="Part of the time in which steps of moves may be felt while clients ask: "
            "with less, moves begin further apart.",
        ),
    ] = 0.005
    settle: Annotated[
        float,
        Meta(ge=0, le=600, description="Seconds of quiet among joining nodes before the first placement."),
    ] = 1.0
    flags: Annotated[
        tuple[str, ...],
        Meta(
            description="Features that a new cluster begins with: replication, strict, or names of your own. "
            "In a running one: POST /flags."
        ),
    ] = ()
    store: Annotated[
        Literal["sqlite", "etcd"],
        Meta(description="sqlite: this service is alone; etcd: one leads of several."),
    ] = "sqlite"
    etcd_endpoint: Annotated[str, Meta(description="URL of etcd.")] = "http://127.0.0.1:2379"
    lease: Annotated[
        Seconds, Meta(description="Seconds after which a leader that is silent has lost the lead (etcd).")
    ] = 5.0
    registration: Annotated[
        bool, Meta(description="Whether nodes and proxies may join by themselves; false: only those listed.")
    ] = True
    admin_key: Annotated[
        str, Meta(description="Key that changes need in X-Admin-Key; none is asked for when empty.")
    ] = ""
    node_password: Annotated[str, Meta(description="Password that checks give to nodes and proxies.")] = ""
    nodes: Annotated[tuple[StaticMember, ...], Meta(description="Nodes that need not register.")] = ()
    proxies: Annotated[tuple[StaticMember, ...], Meta(description="Proxies that need not register.")] = ()

    @property
    def pace(self) -> Pace:
        """The profile with what was set besides it."""
        base = PROFILES[self.profile]
        interval = self.interval or base.interval
        return Pace(
            interval=interval,
            suspect_interval=min(self.suspect_interval or base.suspect_interval, interval),
            timeout=self.timeout or base.timeout,
            down_after=self.down_after or base.down_after,
            up_after=self.up_after or base.up_after,
        )

    @property
    def url(self) -> str:
        """Where others reach this service."""
        host = f"[{self.bind}]" if ":" in self.bind else self.bind
        scheme = "https" if self.tls_cert_file else "http"
        return self.advertise.rstrip("/") or f"{scheme}://{host}:{self.port}"


def load(path: Path) -> Settings:
    """Read and judge the file at `path`; what it says in vain is told on standard error."""
    table = config.read(path)
    for key in RETIRED.keys() & table.keys():
        print(f"{path}: '{key}' has no effect any more: {RETIRED[key]}", file=sys.stderr)
    return judged(table, str(path), config.credentials(SECRETS))


def judged(table: dict[str, object], origin: str, credentials: typing.Mapping[str, str]) -> Settings:
    """Turn a TOML table into settings, or say what is wrong with it."""
    known = [field.encode_name for field in msgspec.structs.fields(Settings)]
    table = {key: value for key, value in table.items() if key not in RETIRED}
    for key in table:
        if key not in known:
            raise ConfigurationError(f"{origin}: there is no setting '{key}'", config.nearest(key, known))
    secrets = {name: value for name, value in credentials.items() if name in SECRETS}
    try:
        settings = msgspec.convert(table | secrets, Settings)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{origin}: {error}") from None
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        raise ConfigurationError(f"{origin}: tls-cert-file and tls-key-file go together")
    for kind in (settings.nodes, settings.proxies):
        ids = [member.id for member in kind]
        if twice := next((name for name in ids if ids.count(name) > 1), None):
            raise ConfigurationError(f"{origin}: {twice} is listed twice")
    return settings


def rendered(settings: Settings) -> str:
    """All settings as TOML, each with what it is for; secrets stay unsaid."""
    blocks = []
    hints = typing.get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        name, value = field.encode_name, getattr(settings, field.name)
        help_text = described(hints[field.name])
        if name in SECRETS:
            line = f"# {name} is {'set' if value else 'not set'}; its value is not shown"
        elif name in {"nodes", "proxies"}:
            line = "\n".join(table(name, member) for member in value) or f"# [[{name}]]"
        elif value is None:
            line = f"# {name} is {getattr(settings.pace, field.name)} by the profile"
        else:
            line = f"{name} = {toml(value)}"
        blocks.append((name in {"nodes", "proxies"}, f"# {help_text}\n{line}\n"))
    # Tables must stand last: whatever follows one would belong to it.
    return "\n".join(text for _, text in sorted(blocks, key=lambda block: block[0]))


def described(hint: object) -> str:
    """The description that stands in the type of a setting."""
    metas = (meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta))
    return next((meta.description for meta in metas if meta.description), "")


def table(name: str, member: StaticMember) -> str:
    """One `[[nodes]]` table."""
    values = msgspec.to_builtins(member)
    return "\n".join([f"[[{name}]]", *(f"{key} = {toml(value)}" for key, value in values.items())])


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return config.toml_text(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value)
