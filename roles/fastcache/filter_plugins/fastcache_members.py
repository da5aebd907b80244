"""Who is in the cluster, derived from the inventory: the one description of it.

`groups['nodes'] | fastcache_members(hostvars, 'node', first_port, count)` lists every node of every host with
its name, address, port and rack. Hosts may set count, first port, address and rack of their own.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def members(
    hosts: Iterable[str],
    hostvars: Mapping[str, Mapping[str, Any]],
    kind: str,
    first_port: int,
    count: int = 1,
) -> list[dict[str, Any]]:
    """All services of a kind, host by host as in the inventory; those of one host have ports in a row."""
    found: list[dict[str, Any]] = []
    for host in hosts:
        settings = hostvars[host]
        first = int(
            settings.get(f"fastcache_{kind}_first_port", settings.get(f"fastcache_{kind}_port", first_port))
        )
        found.extend(
            {
                "name": f"{kind}-{host}-{port}",
                "host": host,
                "address": address(host, hostvars),
                "port": port,
                "rack": str(settings.get("fastcache_rack", host)),
            }
            for port in range(first, first + int(settings.get(f"fastcache_{kind}_count", count)))
        )
    return found


def addresses(hosts: list[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where each of the hosts may come from: by the cluster's own network, and by the one that SSH uses."""
    found = set()
    for host in hosts:
        found |= {address(host, hostvars), str(hostvars[host].get("ansible_host", host))}
    return sorted(found)


def address(host: str, hostvars: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the rest of the cluster reaches a host; not always where SSH does."""
    settings = hostvars[host]
    return str(settings.get("fastcache_address", settings.get("ansible_host", host)))


def rack(host: str, hostvars: Mapping[str, Mapping[str, Any]]) -> str:
    """What fails together with a host; a host of which nothing is said fails alone."""
    return str(hostvars[host].get("fastcache_rack", host))


#: Secrets that an inventory may set instead of having them made.
SECRETS = ("fastcache_requirepass", "fastcache_admin_key")
SHORTEST_SECRET = 16
WELL_KNOWN = ("changeme", "password", "secret", "foobared", "fastcache", "default", "admin", "12345678")


def weak_secrets(hosts: list[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of secrets that an inventory sets and that somebody could guess."""
    found = set()
    for host in hosts:
        for name in SECRETS:
            if name not in hostvars[host]:
                continue
            value = str(hostvars[host][name])
            plain = value.lower()
            # A well-known word repeated or with little around it is no better than the word.
            if len(value) < SHORTEST_SECRET or any(
                word in plain and len(value) - len(word) * plain.count(word) < SHORTEST_SECRET
                for word in WELL_KNOWN
            ):
                found.add(name)
    return sorted(found)


def endpoint(member: Mapping[str, Any]) -> str:
    """A service as ADDRESS:PORT."""
    return f"{member['address']}:{member['port']}"


def url(member: Mapping[str, Any], scheme: str = "http") -> str:
    """Where a service speaks HTTP, or https."""
    return f"{scheme}://{endpoint(member)}"


class FilterModule:
    """Registers the filters with Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "fastcache_members": members,
            "fastcache_address": address,
            "fastcache_addresses": addresses,
            "fastcache_endpoint": endpoint,
            "fastcache_rack": rack,
            "fastcache_url": url,
            "fastcache_weak_secrets": weak_secrets,
        }
