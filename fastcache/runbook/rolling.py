"""Start every service again, one at a time, while clients are served; on another release where wanted.

Health services first (those that follow, then the leader), then proxies, which the balancers drain before,
then nodes, which hand their slots over before. Behind each stands the gate of gate.py. At the end every node
gets its share of the slots back: the one that was last would serve none, and the others all.
"""

import csv
import io
import re
import shlex
from collections.abc import Callable, Iterable

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook.fleet import Fleet, Member
from fastcache.runbook.gate import info_of
from fastcache.runbook.hands import Hands, RefusedError, UnreachableError, all_well, checked
from fastcache.runbook.operation import Operation, Step
from fastcache.runbook.plays import playing

RELEASES = "/opt/fastcache/releases"
CURRENT = "/opt/fastcache/current"
#: A node that reads a large snapshot takes its time.
READY_SECONDS = 300.0
DRAIN_SECONDS = 10.0
UP_SECONDS = 60.0
#: For so long nobody waits for the copies of a node that is about to stop.
AWAY_SECONDS = 60
HAPROXY_SOCKET = "/run/haproxy/admin.sock"
BACKEND = "proxies"
#: HAProxy's runtime socket spoken to by what every host has: Python.
SAY = (
    "import socket,sys;s=socket.socket(socket.AF_UNIX);s.settimeout(5);s.connect(sys.argv[1]);"
    "s.sendall(sys.argv[2].encode()+b'\\n');print(b''.join(iter(lambda:s.recv(65536),b'')).decode())"
)
RELEASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def restart(hands: Hands, only: Iterable[str] = ()) -> Operation:
    """A rolling restart of all services, or of those of the hosts and members named."""
    members = chosen(hands.fleet, only)
    leader = leader_of(hands)
    steps = [Step(one.name, says(hands, one), restarting(hands, one)) for one in in_order(members, leader)]
    return Operation(
        "rolling-restart",
        "Start every service again, one at a time",
        (*steps, *levelling(hands, members)),
        {"only": ",".join(sorted(only))},
        hint="the services before it run; look at its journal: 'fab support-bundle'",
        notes=notes(hands, members),
        warms=True,
    )


def release_steps(hands: Hands, release: str) -> tuple[Step, ...]:
    """A rolling restart on another release, host by host: the link is turned, then services renewed."""
    if not RELEASE_NAME.fullmatch(release):
        raise UsageError(f"{release} is no name of a release", "'fab drift' shows those of each host")
    target = f"{RELEASES}/{release}"
    leader = leader_of(hands)
    steps = []
    for host in hosts_in_order(hands.fleet, leader):
        turn = Step(
            f"{host}: use {release}",
            f"{host}: {CURRENT} points to {target}",
            linking(hands, host, target),
            gated=False,
        )
        here = [one for one in hands.fleet.members if one.host == host]
        renew = [
            Step(f"{one.name}: {release}", says(hands, one), restarting(hands, one))
            for one in in_order(here, leader)
        ]
        steps += [turn, *renew]
    return (*steps, *levelling(hands, hands.fleet.members))


def levelling(hands: Hands, members: Iterable[Member]) -> tuple[Step, ...]:
    """Nodes that handed their slots over serve their share again; nothing is copied for it."""
    told = hands.http("GET", "/replication")
    if not (told["replication"] and told["replicas"] and any(one.kind == "node" for one in members)):
        return ()
    return (Step("level", "every node takes over its share again", playing(hands, "playbooks/level.yml")),)


def releases(hands: Hands, host: str) -> tuple[str, ...]:
    """Whole releases on a host, as they are named."""
    command = f'for d in {RELEASES}/*/; do [ -e "$d/complete" ] && basename "$d"; done; true'
    return tuple(hands.run(host, command, seconds=15).out.split())


def current_release(hands: Hands, host: str) -> str:
    """The release that a host uses; empty when there is none."""
    return hands.run(host, f"readlink {CURRENT}", seconds=15).out.strip().rpartition("/")[2]


def linking(hands: Hands, host: str, target: str) -> Callable[[], str]:
    """Turn the link in one move: there is never a moment without a release."""

    def act() -> str:
        new = f"{CURRENT}.new"
        whole = shlex.quote(f"{target}/complete")
        command = f"test -e {whole} && ln -sfn {shlex.quote(target)} {new} && mv -T {new} {CURRENT}"
        checked(hands.run(host, command), f"{host}: the release could not be changed")
        return target.rpartition("/")[2]

    return act


def chosen(fleet: Fleet, only: Iterable[str]) -> tuple[Member, ...]:
    """All members, or those that are named or run on a host that is."""
    names = set(only)
    if not names:
        return fleet.members
    known = {one.name for one in fleet.members} | {one.host for one in fleet.members}
    if unknown := names - known:
        raise UsageError(
            f"not in the inventory: {', '.join(sorted(unknown))}", f"known: {', '.join(sorted(known))}"
        )
    return tuple(one for one in fleet.members if names & {one.name, one.host})


def in_order(members: Iterable[Member], leader: str) -> list[Member]:
    """Who decides first, the leader last of them; then proxies; then nodes, rack by rack."""
    rank = {"health": 0, "proxy": 1, "node": 2}
    return sorted(members, key=lambda one: (rank[one.kind], one.name == leader, one.rack, one.name))


def hosts_in_order(fleet: Fleet, leader: str) -> list[str]:
    """The leader's host last: a lead that moves once is enough."""
    hosts = list(dict.fromkeys(one.host for one in fleet.members))
    leading = {one.host for one in fleet.health if one.name == leader}
    return sorted(hosts, key=lambda name: name in leading)


def leader_of(hands: Hands) -> str:
    """The name of the health service that leads."""
    found = hands.fleet.at(hands.http("GET", "/leader")["leader"])
    return found.name if found else ""


def says(hands: Hands, member: Member) -> str:
    """A step as the plan shows it."""
    if member.kind == "proxy":
        drained = f"drain it at {len(hands.fleet.balancers)} balancers, " if hands.fleet.balancers else ""
        return f"{member.host}: {drained}restart {member.unit}, wait until it serves"
    if member.kind == "node":
        return f"{member.host}: hand its slots over, restart {member.unit}, wait for its copies"
    return f"{member.host}: restart {member.unit}"


def notes(hands: Hands, members: Iterable[Member]) -> tuple[str, ...]:
    """What clients will notice, for the plan."""
    told = hands.http("GET", "/replication")
    nodes = [one for one in members if one.kind == "node"]
    if not nodes:
        return ()
    if told["replication"] and told["replicas"]:
        return ("Nodes hand their slots over before: clients see pauses of milliseconds.",)
    return (
        "There are no copies: the keys of a node are away while it starts again, and come back from its "
        "snapshot and log where it keeps them.",
    )


def restarting(hands: Hands, member: Member) -> Callable[[], str]:
    """The act of one member's step."""
    kinds = {"node": restart_node, "proxy": restart_proxy, "health": restart_health}
    return lambda: kinds[member.kind](hands, member)


def restart_health(hands: Hands, member: Member) -> str:
    """The others go on leading, or one of them begins to."""
    unit(hands, member, "restart")
    return "restarted"


def restart_proxy(hands: Hands, member: Member) -> str:
    """Balancers send it nobody new, it ends what it has, starts again, and is sent clients again."""
    balancers = hands.fleet.balancers
    all_well(balancers, lambda one: set_state(hands, one, member.name, "drain"))
    try:
        left = wait_drained(hands, balancers, member.name)
        unit(hands, member, "restart")
        wait_ready(hands, member)
    finally:
        # Whatever went wrong with it: HAProxy's own checks keep clients from a proxy that does not serve.
        all_well(balancers, lambda one: set_state(hands, one, member.name, "ready"))
    all_well(balancers, lambda one: wait_up(hands, one, member.name))
    return f"restarted, {left} connections were moved" if left else "restarted"


def restart_node(hands: Hands, member: Member) -> str:
    """Its copies take over first; without copies a snapshot is taken, so that it comes back warm."""
    told = hands.http("GET", "/replication")
    found = []
    if told["replication"] and told["replicas"]:
        wish = {"node": member.name, "leave": AWAY_SECONDS}
        done = hands.http("POST", "/switchover", wish, seconds=30)
        heirs = ", ".join(sorted({one["new"] for one in done["to"]}))
        found.append(
            f"handed over to {heirs} in {done['seconds']:.2f} s" if heirs else "it was the main of nothing"
        )
    elif not told["replicas"]:
        found.append(snapshot_before(hands, member))
    unit(hands, member, "restart")
    wait_ready(hands, member)
    return ", ".join([*found, "restarted"])


def snapshot_before(hands: Hands, member: Member) -> str:
    """A fresh snapshot of a node, where it keeps any."""
    try:
        with hands.talk(member, seconds=600) as connection:
            told = pairs(connection.say("FASTCACHE", "SNAPSHOT"))
    except RefusedError as error:
        return f"no snapshot ({error.message.partition(': ')[2]})"
    return f"snapshot of {told.get('entries')} entries"


def pairs(reply: object) -> dict[str, object]:
    """A map as RESP2 sends it: name, value, name, value."""
    assert isinstance(reply, list)  # noqa: S101  (the command answers so)
    texts = [item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def unit(hands: Hands, member: Member, verb: str) -> None:
    """systemctl, and what the journal says when it fails."""
    quoted = shlex.quote(member.unit)
    command = (
        f"systemctl reset-failed {quoted} 2>/dev/null; systemctl {verb} {quoted} || "
        f"{{ journalctl --unit {quoted} --lines 5 --no-pager --output cat >&2; exit 1; }}"
    )
    checked(
        hands.run(member.host, command, seconds=180),
        f"{member.host}: systemctl {verb} {member.unit}",
        f"on {member.host}: journalctl -u {member.unit}",
    )


def wait_ready(hands: Hands, member: Member) -> None:
    """Until it answers and has read what it keeps."""
    deadline = hands.now() + READY_SECONDS
    why = "no answer"
    while hands.now() < deadline:
        try:
            with hands.talk(member, seconds=5) as connection:
                if info_of(connection.say("INFO", "persistence")).get("loading", "0") == "0":
                    return
                why = "it is loading"
        except (UnreachableError, RefusedError) as error:
            why = error.message
        hands.sleep(0.1)
    raise FastCacheError(
        f"{member.name} does not serve after {READY_SECONDS:.0f} s: {why}",
        f"on {member.host}: journalctl -u {member.unit}",
    )


# --- HAProxy ----------------------------------------------------------------------------------------


def tell_balancer(hands: Hands, balancer: Member, words: str) -> str:
    """One command to HAProxy's runtime socket."""
    command = f"python3 -c {shlex.quote(SAY)} {HAPROXY_SOCKET} {shlex.quote(words)}"
    return checked(
        hands.run(balancer.host, command, seconds=15), f"{balancer.name}: HAProxy's runtime socket"
    )


def servers(text: str) -> dict[str, dict[str, str]]:
    """HAProxy's servers of our backend out of `show stat`."""
    rows = csv.DictReader(io.StringIO(text.lstrip("# \n")))
    found = [row for row in rows if row.get("pxname") == BACKEND]
    return {row["svname"]: row for row in found if row["svname"] not in {"FRONTEND", "BACKEND"}}


def set_state(hands: Hands, balancer: Member, name: str, state: str) -> None:
    """drain: nobody new; ready: as its checks say."""
    if name not in servers(tell_balancer(hands, balancer, "show stat")):
        return
    answer = tell_balancer(hands, balancer, f"set server {BACKEND}/{name} state {state}").strip()
    if answer:
        raise FastCacheError(f"{balancer.name}: HAProxy refused to {state} {name}: {answer}")


def wait_drained(hands: Hands, balancers: Iterable[Member], name: str) -> int:
    """Until its clients have gone, or for a while: those left are moved by the proxy as it stops."""
    deadline = hands.now() + DRAIN_SECONDS
    while True:
        left = 0
        for balancer in balancers:
            row = servers(tell_balancer(hands, balancer, "show stat")).get(name)
            left += int(row["scur"] or 0) if row else 0
        if not left or hands.now() >= deadline:
            return left
        hands.sleep(0.5)


def wait_up(hands: Hands, balancer: Member, name: str) -> None:
    """Until HAProxy sends it clients."""
    deadline = hands.now() + UP_SECONDS
    while True:
        row = servers(tell_balancer(hands, balancer, "show stat")).get(name)
        if row is None or row["status"].startswith("UP"):
            return
        if hands.now() >= deadline:
            raise FastCacheError(f"{balancer.name} calls {name} {row['status']} after {UP_SECONDS:.0f} s")
        hands.sleep(0.5)
