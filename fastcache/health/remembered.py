"""What nodes know of a topology, where the store has none: nothing is placed anew over data that is there.

It was lost, or another one is used from now on (etcd after SQLite). Nodes go on serving by what they know and
obey no other cluster; so the newest that one of them has is taken over.
"""

import asyncio
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcache.health.act import Service
    from fastcache.health.registry import Member


async def newest_known(service: "Service") -> bytes:
    """The topology of our cluster with the highest epoch that any node knows; empty when none knows any."""
    members = [record.member for record in service.registry.of_kind("node")]
    known = await asyncio.gather(*(known_by(service, member) for member in members))
    ours = [(epoch, body) for name, epoch, body in known if name == service.settings.cluster]
    for member, (name, epoch, _) in zip(members, known, strict=True):
        if epoch and name != service.settings.cluster:
            service.log("warning", "a node of another cluster", node=member.id, cluster=name, epoch=epoch)
    return max(ours, default=(0, b""))[1]


async def known_by(service: "Service", member: "Member") -> tuple[str, int, bytes]:
    """The cluster's name, the epoch and the document that a node obeys; nothing where it says nothing."""
    try:
        body = await service.prober.tell(member, "FASTCACHE", "TOPOLOGY", "GET")
    except (TimeoutError, OSError):
        return "", 0, b""
    if not isinstance(body, bytes):
        return "", 0, b""  # It knows none, or is too old to tell.
    document = json.loads(body)
    return (document["cluster"]["name"], document["epoch"], body) if document.get("slots") else ("", 0, b"")
