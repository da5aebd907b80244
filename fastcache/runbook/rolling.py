"""Start every service again, in turns, while clients are served; on another release where wanted.

Health services first (those that follow, then the leader), then proxies, which the balancers drain before,
then nodes, which hand their slots over before. Behind each stands the gate of gate.py. At the end every node
gets its share of the slots back: the one that was last would serve none, and the others all.

A turn is one service, or with a rack's budget of several hosts (turns.py) the nodes, or the proxies, of
these hosts together.
"""

import csv
import io
import re
import shlex
from collections.abc import Callable, Iterable, Sequence

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook.fleet import Fleet, Member
from fastcache.runbook.gate import info_of
from fastcache.runbook.hands import Hands, RefusedError, UnreachableError, all_well, checked
from fastcache.runbook.operation import Operation, Step
from fastcache.runbook.plays import playing
from fastcache.runbook.turns import refused, turns

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
    within_reason(hands)
    steps = [
        Step(named(turn), says(hands, turn), restarting(hands, turn))
        for turn in in_turns(hands.fleet, members, leader_of(hands))
    ]
    return Operation(
        "rolling-restart",
        f"Start every service again, {pace(hands.fleet)}",
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
    within_reason(hands)
    target = f"{RELEASES}/{release}"
    leader = leader_of(hands)
    steps = []
    for hosts in turns(hosts_in_order(hands.fleet, leader), hands.fleet.racks, hands.fleet.budgets):
        names = ", ".join(hosts)
        turn = Step(
            f"{names}: use {release}",
            f"{names}: {CURRENT} points to {target}",
            linking(hands, hosts, target),
            gated=False,
        )
        here = [one for one in hands.fleet.members if one.host in hosts]
        renew = [
            Step(f"{named(group)}: {release}", says(hands, group), restarting(hands, group))
            for group in in_turns(hands.fleet, here, leader)
        ]
        steps += [turn, *renew]
    return (*steps, *levelling(hands, hands.fleet.members))


def pace(fleet: Fleet) -> str:
    """How many at a time, in words."""
    most = max(fleet.budgets.values(), default=1)
    return "one at a time" if most == 1 else f"up to {most} hosts of a rack at a time"


def within_reason(hands: Hands) -> None:
    """Fail where a rack's budget is larger than copies and racks can bear."""
    fleet = hands.fleet
    told = hands.http("GET", "/replication")
    wrong = refused(
        [one.host for one in fleet.nodes],
        {one.host for one in fleet.proxies},
        fleet.racks,
        fleet.budgets,
        int(told["replicas"]),
        # A rack that nobody has said is its host's own: nobody goes together with that one.
        pairs=told["placement"] == "pairs",
    )
    if wrong:
        raise UsageError("; ".join(wrong), "nothing was changed; 'fab preflight' judges the inventory")


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


def linking(hands: Hands, hosts: Iterable[str], target: str) -> Callable[[], str]:
    """Turn the links, each in one move: there is never a moment without a release."""

    def link(host: str) -> None:
        new = f"{CURRENT}.new"
        whole = shlex.quote(f"{target}/complete")
        command = f"test -e {whole} && ln -sfn {shlex.quote(target)} {new} && mv -T {new} {CURRENT}"
        checked(hands.run(host, command), f"{host}: the release could not be changed")

    def act() -> str:
        all_well(hosts, link)
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


def in_turns(fleet: Fleet, members: Iterable[Member], leader: str) -> list[tuple[Member, ...]]:
    """Who goes together: the nodes, or the proxies, of several hosts of a turn; everybody else alone."""
    ordered = in_order(members, leader)
    found: list[tuple[Member, ...]] = [(one,) for one in ordered if one.kind == "health"]
    for kind in ("proxy", "node"):
        mine = [one for one in ordered if one.kind == kind]
        for hosts in turns(list(dict.fromkeys(one.host for one in mine)), fleet.racks, fleet.budgets):
            here = tuple(one for one in mine if one.host in hosts)
            found += [here] if len(hosts) > 1 else [(one,) for one in here]
    return found


def named(turn: Iterable[Member]) -> str:
    """A turn's members, as its step is called."""
    return ", ".join(one.name for one in turn)


def hosts_in_order(fleet: Fleet, leader: str) -> list[str]:
    """The leader's host last, and its rack where racks go as a whole: a lead that moves once is enough."""
    racks = fleet.racks
    leading = {one.host for one in fleet.health if one.name == leader}
    with_it = {racks[name] for name in leading} if max(fleet.budgets.values(), default=1) > 1 else set()
    hosts = dict.fromkeys(one.host for one in fleet.members)
    return sorted(hosts, key=lambda name: (racks[name] in with_it, name in leading))


def leader_of(hands: Hands) -> str:
    """The name of the health service that leads."""
    found = hands.fleet.at(hands.http("GET", "/leader")["leader"])
    return found.name if found else ""


def says(hands: Hands, turn: Sequence[Member]) -> str:
    """A step as the plan shows it."""
    hosts = ", ".join(dict.fromkeys(one.host for one in turn))
    units = ", ".join(dict.fromkeys(one.unit for one in turn))
    many = len(turn) > 1
    if turn[0].kind == "proxy":
        them, serve = ("them", "they serve") if many else ("it", "it serves")
        drained = f"drain {them} at {len(hands.fleet.balancers)} balancers, " if hands.fleet.balancers else ""
        return f"{hosts}: {drained}restart {units}, wait until {serve}"
    if turn[0].kind == "node":
        their = "their" if many else "its"
        return f"{hosts}: hand {their} slots over, restart {units}, wait for {their} copies"
    return f"{hosts}: restart {units}"


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


def restarting(hands: Hands, turn: Sequence[Member]) -> Callable[[], str]:
    """The act of a turn's step."""
    kinds = {"node": restart_nodes, "proxy": restart_proxies, "health": restart_health}
    return lambda: kinds[turn[0].kind](hands, *turn)


def restart_health(hands: Hands, *members: Member) -> str:
    """The others go on leading, or one of them begins to."""
    for member in members:
        unit(hands, member, "restart")
    return "restarted"


def restart_proxies(hands: Hands, *proxies: Member) -> str:
    """Balancers send them nobody new, they end what they have, start again, and are sent clients again."""
    pairs = [(balancer, proxy.name) for balancer in hands.fleet.balancers for proxy in proxies]
    all_well(pairs, lambda pair: set_state(hands, *pair, "drain"))
    try:
        left = wait_drained(hands, hands.fleet.balancers, {proxy.name for proxy in proxies})
        all_well(proxies, lambda proxy: unit(hands, proxy, "restart"))
        all_well(proxies, lambda proxy: wait_ready(hands, proxy))
    finally:
        # Whatever went wrong with them: HAProxy's own checks keep clients from a proxy that does not serve.
        all_well(pairs, lambda pair: set_state(hands, *pair, "ready"))
    all_well(pairs, lambda pair: wait_up(hands, *pair))
    return f"restarted, {left} connections were moved" if left else "restarted"


def restart_nodes(hands: Hands, *nodes: Member) -> str:
    """Their copies take over first; without copies snapshots are taken, so that they come back warm."""
    told = hands.http("GET", "/replication")
    found = []
    if told["replication"] and told["replicas"]:
        found += [handed_over(hands, node) for node in nodes]
        stay_served(hands, nodes)
    elif not told["replicas"]:
        found += all_well(nodes, lambda node: snapshot_before(hands, node))
    all_well(nodes, lambda node: unit(hands, node, "restart"))
    all_well(nodes, lambda node: wait_ready(hands, node))
    return ", ".join([*found, "restarted"])


def handed_over(hands: Hands, node: Member) -> str:
    """A node's slots are with its copies, and for a while nobody waits for the copies that it holds."""
    wish = {"node": node.name, "leave": AWAY_SECONDS}
    done = hands.http("POST", "/switchover", wish, seconds=30)
    heirs = ", ".join(sorted({one["new"] for one in done["to"]}))
    if not heirs:
        return "it was the main of nothing"
    return f"handed over to {heirs} in {done['seconds']:.2f} s"


def stay_served(hands: Hands, leaving: Sequence[Member]) -> None:
    """Fail where slots would stop with the nodes that leave together: one handed them to the other."""
    if len(leaving) == 1:
        return
    mains = hands.http("GET", "/replication")["mains"]
    if kept := [f"{one.name} ({mains[one.name]} slots)" for one in leaving if mains.get(one.name)]:
        raise FastCacheError(
            f"these have no copies but on one another: {', '.join(kept)}; they were not restarted",
            "with fastcache_rack_budget of 1 they go host by host",
        )


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


def wait_drained(hands: Hands, balancers: Iterable[Member], names: set[str]) -> int:
    """Until their clients have gone, or for a while: those left are moved by the proxies as they stop."""
    deadline = hands.now() + DRAIN_SECONDS
    while True:
        left = 0
        for balancer in balancers:
            rows = servers(tell_balancer(hands, balancer, "show stat"))
            left += sum(int(rows[name]["scur"] or 0) for name in names & set(rows))
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
