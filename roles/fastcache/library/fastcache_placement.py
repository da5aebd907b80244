#!/usr/bin/python
"""Ask the health service to change who serves which slots, and wait until that is so.

    state: away   copies on other hosts take over from these nodes, so that they may stop
    state: back   every slot has its copies in sync again, and these nodes serve their share of the slots
    flags         features of the running cluster are as given

All are asked by what is true in the topology, so an interrupted run is finished by the next, and one with
nothing to do changes nothing. Without replication there are no copies, and nothing is asked.
"""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from itertools import pairwise
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_placement
short_description: Let copies take over from nodes, or give these their share back
options:
  health:
    description: URLs of the health services; whichever of them leads is asked.
    type: list
    elements: str
    required: true
  nodes:
    description: Ids of the nodes.
    type: list
    elements: str
    default: []
  state:
    description: away before they stop, back when they run again.
    type: str
    choices: [away, back]
  flags:
    description: Features by name, each on or off.
    type: dict
  key_file:
    description: File on the host with the admin key of the health services.
    type: path
    default: /etc/fastcache/secrets/admin-key
  authority:
    description: Certificates of those who sign the health services', where these are reached by https.
    type: path
  seconds:
    description: How long to wait for it; copying much data takes a while.
    type: float
    default: 600
"""

EXAMPLES = r"""
- name: Let copies on other hosts take over
  fastcache_placement:
    state: away
    nodes: [node-h1-7001]
    health: ["http://198.18.0.11:8080"]
"""

RETURN = r"""
moved:
  description: What changed hands, as {from, to, slots}.
  type: list
  returned: always
"""

#: Between two looks at the cluster.
PAUSE = 0.25
#: No request takes longer; a switchover holds writes for three seconds at most.
REQUEST_SECONDS = 10

#: For so long nobody waits for the copies of a node that is about to stop.
LEAVE_SECONDS = 60

Document = dict[str, Any]


class NotYetError(Exception):
    """What was asked for is not so yet, and why; time may help."""


class Health:
    """The health service that leads."""

    def __init__(self, urls: list[str], key: str, authority: str | None = None) -> None:
        self.urls, self.key = urls, key
        there = authority is not None and os.path.exists(authority)
        self.tls = ssl.create_default_context(cafile=authority) if there else None

    def ask(self, path: str, body: Document | None = None) -> Any:
        """The leader's answer; a refusal is told in its own words."""
        failures = []
        for url in self.urls:
            try:
                leader = self.call(url + "/leader")["leader"]
                if not leader:
                    raise NotYetError("no health service leads at the moment")
                return self.call(leader + path, body)
            except OSError as error:
                failures.append(f"{url}: {getattr(error, 'reason', error)}")
        raise NotYetError("; ".join(failures) or "there is no health service")

    def call(self, url: str, body: Document | None = None) -> Any:
        request = urllib.request.Request(url, headers={"Content-Type": "application/json"})  # noqa: S310
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("X-Admin-Key", self.key)
        try:
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=REQUEST_SECONDS, context=self.tls
            ) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise NotYetError(said(error)) from None


def said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "health": {"type": "list", "elements": "str", "required": True},
            "nodes": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["away", "back"]},
            "flags": {"type": "dict"},
            "key_file": {"type": "path", "default": "/etc/fastcache/secrets/admin-key", "no_log": False},
            "authority": {"type": "path"},
            "seconds": {"type": "float", "default": 600},
        },
        required_one_of=[("state", "flags")],
        supports_check_mode=True,
    )
    given = module.params
    health = Health(given["health"], key_in(module), given["authority"])
    moved: list[Document] = []
    changed = False
    deadline = time.monotonic() + given["seconds"]
    while True:
        try:
            if given["flags"] and switch(health, given["flags"], module.check_mode):
                changed = True
            if module.check_mode:
                # What would be moved depends on what is true when it is done.
                break
            if given["state"] == "away":
                leave(health, given["nodes"], moved)
            elif given["state"] == "back":
                come_back(health, given["nodes"], moved)
            break
        except (NotYetError, OSError) as error:
            if module.check_mode:
                break  # There is no cluster yet: a plan for bare hosts.
            if time.monotonic() > deadline:
                module.fail_json(msg=explained(given, str(error)), moved=moved)
            time.sleep(PAUSE)
    module.exit_json(changed=changed or bool(moved), moved=moved)


def key_in(module: AnsibleModule) -> str:
    """The admin key; a plan for bare hosts does without."""
    try:
        with open(module.params["key_file"], encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        if module.check_mode:
            return ""
        module.fail_json(msg=f"no admin key here, run this on a host of the health service: {error}")
        raise


def explained(given: dict[str, Any], why: str) -> str:
    if given["state"] is None:
        return f"the cluster's features could not be switched: {why}"
    what = (
        "no copies could take over from" if given["state"] == "away" else "not whole again after the start:"
    )
    return (
        f"{what} {', '.join(given['nodes'])}: {why}. `fastcache status` and GET /replication tell more. "
        "To go on without copies, so that clients miss keys: -e fastcache_hand_over=false"
    )


def switch(health: Health, flags: dict[str, bool], only_look: bool) -> bool:
    """Features as wanted; says whether one was not."""
    now = set(health.ask("/topology")["flags"])
    wrong = {name: bool(wanted) for name, wanted in flags.items() if bool(wanted) != (name in now)}
    if wrong and not only_look:
        health.ask("/flags", wrong)
    return bool(wrong)


def leave(health: Health, nodes: list[str], moved: list[Document]) -> None:
    """Every slot of these nodes goes to a copy elsewhere."""
    told = health.ask("/replication")
    if not told["replication"] or not told["replicas"]:
        return
    for node in nodes:
        if node in involved(told):
            done = health.ask("/switchover", {"node": node, "leave": LEAVE_SECONDS})
            moved.extend({"from": node, "to": one["new"], "slots": one["slots"]} for one in done["to"])
    left = {node: count for node in nodes if (count := health.ask("/replication")["mains"].get(node))}
    if left:
        raise NotYetError(
            ", ".join(f"{count} slots of {node} have no copy in sync" for node, count in left.items())
        )


def involved(told: Document) -> set[str]:
    """Who serves slots or holds copies."""
    return set(told["mains"]) | {stream["copy"] for stream in told["streams"]}


def come_back(health: Health, nodes: list[str], moved: list[Document]) -> None:
    """Copies whole, then an even share for these nodes."""
    told = health.ask("/replication")
    if not told["replication"] or not told["replicas"]:
        return
    if told["slotsWithoutReplica"]:
        raise NotYetError(f"{told['slotsWithoutReplica']} slots have no copy in sync")
    step = next_step(health.ask("/topology"), nodes)
    while step is not None:
        giver, taker, slots = step
        health.ask("/switchover", {"node": giver, "to": taker, "slots": ranges(slots)})
        moved.append({"from": giver, "to": taker, "slots": len(slots)})
        following = next_step(health.ask("/topology"), nodes)
        if following == step:
            raise NotYetError(f"{giver} keeps slots that {taker} should have")
        step = following


def next_step(topology: Document, nodes: list[str]) -> tuple[str, str, list[int]] | None:
    """Who gives which slots to whom, so that the node that lacks most comes nearer to its share; pure.

    It takes what it holds copies of; where those who serve that have nothing to spare, they get as much from
    who has, first.
    """
    weights = {node["id"]: node.get("weight", 100) for node in topology["nodes"]}
    serving = dict.fromkeys(weights, 0)
    held: dict[tuple[str, str], list[int]] = {}
    for group in topology["slots"]:
        slots = slots_in(group["ranges"])
        serving[group["main"]] = serving.get(group["main"], 0) + len(slots)
        for copy in group["replicas"]:
            if copy not in group.get("learners", ()):
                held.setdefault((group["main"], copy), []).extend(slots)
    whole, heavy = sum(serving.values()), sum(weights.values())
    if not heavy:
        return None
    share = {node: whole * weight / heavy for node, weight in weights.items()}
    spare = {node: int(serving[node] - -(-share[node] // 1)) for node in weights}
    for taker in sorted(set(nodes) & set(weights), key=lambda node: serving[node] - share[node]):
        lack = int(share[taker]) - serving[taker]
        if lack > 0 and (way := way_to(taker, spare, held)):
            passed_on = min(len(held[pair]) for pair in pairwise(way))
            count = min(lack, spare[way[0]], passed_on)
            return way[0], way[1], sorted(held[way[0], way[1]])[:count]
    return None


def way_to(taker: str, spare: dict[str, int], held: dict[tuple[str, str], list[int]]) -> list[str]:
    """The shortest way from who has most to spare, each giving what the next holds copies of; or none."""
    ways = [[taker]]
    seen = {taker}
    while ways:
        longer = [
            [giver, *way]
            for way in ways
            for giver in sorted(spare, key=lambda node: (-spare[node], node))
            if giver not in seen and held.get((giver, way[0]))
        ]
        if rich := [way for way in longer if spare[way[0]] > 0]:
            return max(rich, key=lambda way: spare[way[0]])
        seen.update(way[0] for way in longer)
        ways = longer
    return []


def slots_in(text: str) -> list[int]:
    """The slots of `0-99,105`."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def ranges(slots: list[int]) -> str:
    """Slots as `0-99,105`."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and runs[-1][1] == slot - 1:
            runs[-1][1] = slot
        else:
            runs.append([slot, slot])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


if __name__ == "__main__":
    main()
