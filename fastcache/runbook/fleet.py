"""The cluster as values, from the one description of it: the inventory, as describe.yml writes it down."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from fastcache.errors import FastCacheError, UsageError

Kind = Literal["node", "proxy", "health", "balancer", "etcd"]
UNITS = {"node": "fastcache-node@{}.service", "proxy": "fastcache-proxy@{}.service"}
SINGLE_UNITS = {"health": "fastcache-health.service", "balancer": "haproxy.service", "etcd": "etcd.service"}


@dataclass(frozen=True, slots=True)
class Host:
    """A host and the way to it."""

    name: str
    address: str
    port: int = 22
    user: str = ""
    become: bool = False
    key: str = ""
    arguments: str = ""
    connection: str = "ssh"


@dataclass(frozen=True, slots=True)
class Member:
    """One service of the cluster on one host."""

    kind: Kind
    name: str
    host: str
    address: str
    port: int
    rack: str = ""

    @property
    def unit(self) -> str:
        """What systemd calls it."""
        return SINGLE_UNITS.get(self.kind) or UNITS[self.kind].format(self.port)

    @property
    def state(self) -> str:
        """Its directory on its host."""
        last = self.kind if self.kind == "health" else f"{self.kind}-{self.port}"
        return f"/var/lib/fastcache/{last}"


@dataclass(frozen=True)
class Fleet:
    """Everything that the inventory says."""

    environment: str
    cluster: str
    hosts: dict[str, Host]
    nodes: tuple[Member, ...] = ()
    proxies: tuple[Member, ...] = ()
    health: tuple[Member, ...] = ()
    balancers: tuple[Member, ...] = ()
    etcd: tuple[Member, ...] = ()
    vip: str = ""
    #: How many hosts of each rack a change may take at once; one of those that are not named here.
    budgets: dict[str, int] = field(default_factory=dict)
    #: Where a host has the authority (ca), its certificate and its key; empty in a cluster without TLS.
    tls: dict[str, str] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> tuple[Member, ...]:
        """All that FastCache runs, in the order in which it starts."""
        return self.health + self.nodes + self.proxies

    @property
    def racks(self) -> dict[str, str]:
        """The rack of each host; one of which nothing is said fails alone."""
        return {one.host: one.rack or one.host for one in (*self.health, *self.proxies, *self.nodes)}

    def find(self, name: str) -> Member:
        """The member an operator names; a host with one node means that node."""
        for one in (*self.members, *self.balancers, *self.etcd):
            if one.name == name:
                return one
        here = [one for one in self.nodes if one.host == name]
        if len(here) == 1:
            return here[0]
        known = ", ".join(one.name for one in self.nodes)
        raise UsageError(f"there is no {name} in the inventory {self.environment}", f"nodes: {known}")

    def on(self, host: str) -> frozenset[str]:
        """The names of all that FastCache runs on a host."""
        return frozenset(one.name for one in self.members if one.host == host)

    def host(self, name: str) -> Host:
        """A host by name."""
        if name not in self.hosts:
            known = ", ".join(self.hosts)
            raise UsageError(
                f"there is no host {name} in the inventory {self.environment}", f"hosts: {known}"
            )
        return self.hosts[name]

    def at(self, url: str) -> Member | None:
        """The health service that advertises `url`."""
        parts = urlsplit(url)
        for one in self.health:
            if (one.address, one.port) == (parts.hostname, parts.port):
                return one
        return None


def fleet_of(text: str, environment: str) -> Fleet:
    """The fleet from what describe.yml wrote."""
    told = json.loads(text)
    hosts = {name: Host(name, **one) for name, one in told["hosts"].items()}
    if not hosts:
        raise FastCacheError(
            f"the inventory {environment} has no hosts",
            "for the lab run 'make fleet'; for hosts of your own copy inventories/production",
        )

    def members(kind: Kind, listed: str) -> tuple[Member, ...]:
        return tuple(
            Member(kind, one["name"], one["host"], one["address"], int(one["port"]), one["rack"])
            for one in told[listed]
        )

    return Fleet(
        environment,
        told["cluster"],
        hosts,
        members("node", "nodes"),
        members("proxy", "proxies"),
        members("health", "health"),
        members("balancer", "balancers"),
        members("etcd", "etcd"),
        told.get("vip") or "",
        told.get("rack_budgets") or {},
        told.get("tls") or {},
        {"node_maxmemory": told.get("node_maxmemory", "")},
    )
