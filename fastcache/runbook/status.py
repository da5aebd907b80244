"""How the cluster is: status and verify, which change nothing but verify's own keys."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

from fastcache import _core
from fastcache.errors import FastCacheError
from fastcache.runbook import gate
from fastcache.runbook.fleet import Fleet, Member
from fastcache.runbook.hands import Hands, RefusedError, together

#: So many random keys miss a node's slots only when it has fewer than one in a thousand.
TRIES = 20_000


def status(hands: Hands) -> dict[str, Any]:
    """Everything that one look tells: members, slots, copies, lock, unfinished work, what is wrong."""
    seen = gate.look(hands)
    wrong = gate.judge(seen, hands.fleet)
    told: dict[str, Any] = {
        "cluster": hands.fleet.cluster,
        "epoch": seen.epoch,
        "digest": seen.digest,
        "members": [],
        "replication": seen.replication,
        "wrong": list(wrong),
        "well": not wrong,
    }
    if not seen.epoch:
        return told
    health = {one["nodeId"]: one for one in hands.http("GET", "/health/nodes")}
    infos = {one.name: info for one, info in together(hands.fleet.members, lambda one: about(hands, one))}
    told["members"] = [
        row(one, health.get(one.name, {}), infos[one.name], seen) for one in hands.fleet.members
    ]
    ledger = hands.http("GET", "/lock")
    told |= {"lock": ledger["lock"], "unfinished": ledger["unfinished"]}
    told["unknown"] = sorted(set(health) - {one.name for one in hands.fleet.members})
    return told


def about(hands: Hands, member: Member) -> dict[str, str]:
    """What a member says of itself."""
    if member.kind == "health":
        return {}
    with hands.talk(member, seconds=5) as connection:
        return gate.info_of(connection.say("INFO"))


def row(member: Member, health: dict[str, Any], info: Any, seen: gate.Seen) -> dict[str, Any]:
    """One member, as the table shows it."""
    told: dict[str, Any] = {
        "name": member.name,
        "kind": member.kind,
        "host": member.host,
        "port": member.port,
        "rack": member.rack,
    }
    if member.kind == "health":
        return told
    told["state"] = health.get("status", "UNKNOWN")
    told["why"] = health.get("errorMessage") or ""
    told["topology"] = seen.digests.get(gate.place(member), "")[:12]
    if isinstance(info, FastCacheError):
        told["why"] = told["why"] or info.message
        return told
    if member.kind == "node":
        told["main"] = seen.replication.get("mains", {}).get(member.name, 0)
        streams = seen.replication.get("streams", ())
        told["copy"] = sum(one["inSync"] for one in streams if one["copy"] == member.name)
        told["keys"] = sum(
            int(dict(part.split("=") for part in value.split(","))["keys"])
            for name, value in info.items()
            if name.startswith("db") and name[2:].isdecimal()
        )
        told["memory"] = int(info.get("used_memory", 0))
    told["clients"] = int(info.get("connected_clients", 0))
    told["ops"] = int(info.get("instantaneous_ops_per_sec", 0))
    told["version"] = info.get("fastcache_version") or info.get("redis_version", "")
    return told


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking one member as a client would."""

    name: str
    why: str = ""


def verify(hands: Hands, lost: str = "") -> dict[str, Any]:
    """Values written and read back: on every node, and for every node through every proxy and balancer.

    Nobody on the host `lost` is asked.
    """
    without = hands.fleet.on(lost)
    seen = gate.look(hands, without)
    wrong = list(gate.judge(seen, hands.fleet, without=without))
    if not seen.epoch:
        return {"well": False, "wrong": wrong, "asked": []}
    keys = keys_of_all(hands)
    nodes = [one for one in hands.fleet.nodes if one.host != lost]
    empty = [one.name for one in nodes if one.name not in keys]
    asked = [one for _, one in together(nodes, lambda one: ask(hands, one, keys, {one.name}))]
    doors = [one for one in (*hands.fleet.proxies, *hands.fleet.balancers) if one.host != lost]
    asked += [one for _, one in together(doors, lambda one: ask(hands, one, keys, set(keys)))]
    results = [one for one in asked if isinstance(one, Asked)]
    wrong += [f"{one.name} does not serve: {one.why}" for one in results if one.why]
    return {
        "well": not wrong,
        "wrong": wrong,
        "asked": [{"name": one.name, "well": not one.why} for one in results],
        "withoutSlots": empty,
        "keys": len(keys),
    }


def keys_of_all(hands: Hands) -> dict[str, str]:
    """A new key for every node that is the main of slots."""
    topology = _core.Topology(json.dumps(hands.http("GET", "/topology")).encode())
    missing = {one for slot in range(16384) for one in topology.holders(slot)[:1]}
    found: dict[str, str] = {}
    mark = uuid.uuid4().hex
    for number in range(TRIES):
        if not missing:
            break
        key = f"fastcache:canary:{mark}:{number}"
        owner = topology.node_of(key)
        if owner in missing:
            found[owner] = key
            missing.discard(owner)
    return found


def ask(hands: Hands, member: Member, keys: dict[str, str], of: set[str]) -> Asked:
    """SET, GET and DEL of the keys of these nodes through one member."""
    try:
        with hands.talk(member) as connection:
            for node in sorted(of & set(keys)):
                # Doors are asked side by side: each has keys of its own, in the same slot.
                key, value = f"{{{keys[node]}}}{member.name}", uuid.uuid4().hex
                connection.say("SET", key, value, "EX", "60")
                read = connection.say("GET", key)
                if read != value.encode():
                    return Asked(member.name, f"wrote {value} and read {read!r} (a key of {node})")
                if connection.say("DEL", key) != 1:
                    return Asked(
                        member.name, f"what was written was not there to be removed (a key of {node})"
                    )
    except RefusedError as error:
        return Asked(member.name, error.message.partition(": ")[2] or error.message)
    except FastCacheError as error:
        return Asked(member.name, error.message)
    return Asked(member.name)


def summary(fleet: Fleet) -> str:
    """One line of what the inventory has."""
    return f"{len(fleet.nodes)} nodes, {len(fleet.proxies)} proxies, {len(fleet.balancers)} balancers"
