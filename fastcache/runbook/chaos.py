"""Break something on purpose and measure what clients notice: how long, how many requests, how many keys.

Every fault ends by itself: its undoing is left on the host as a systemd timer before it begins, so that
neither this machine nor the way to it need outlive it. Clients write and read all the while, through the
cluster's doors, and what was acknowledged is looked for afterwards.
"""

import contextlib
import shlex
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook import gate
from fastcache.runbook.fleet import Member
from fastcache.runbook.hands import Hands, RefusedError, checked
from fastcache.runbook.operation import Operation, Step

#: A cluster with one of these names may be broken without being named again.
PLAYGROUNDS = {"lab", "local"}
SETTLE_SECONDS = 120.0
CLIENTS = 4
SLOW_MS = 500
MEMORY = "10mb"
MARK = "fastcache-chaos"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a member, how it is undone, and in words."""

    says: str
    do: str
    undo: str


def pid_of(unit: str) -> str:
    """The main process of a unit, for the shell."""
    return f'"$(systemctl show --property MainPID --value {unit})"'


def fault(kind: str, member: Member) -> Fault:
    """The fault of a kind at a member."""
    unit = shlex.quote(member.unit)
    drop = (
        f"nft -f - <<'END'\ntable inet {MARK} {{\n"
        " chain input { type filter hook input priority -300; tcp dport 22 accept; tcp sport 22 accept;"
        ' iifname != "lo" drop; }\n'
        " chain output { type filter hook output priority -300; tcp sport 22 accept; tcp dport 22 accept;"
        ' oifname != "lo" drop; }\n}\nEND'
    )
    whole = f"nft delete table inet {MARK}"
    known = {
        "kill": Fault(f"kill {member.name} (SIGKILL)", f"systemctl kill --signal KILL {unit}", "true"),
        "freeze": Fault(
            f"freeze {member.name} (SIGSTOP)", f"kill -STOP {pid_of(unit)}", f"kill -CONT {pid_of(unit)}"
        ),
        "partition": Fault(f"cut {member.host} off the network, but for SSH", drop, whole),
        "slow": Fault(
            f"stop {member.name} for {SLOW_MS} ms of every second",
            f"systemd-run --quiet --collect --unit {MARK}-slow sh -c 'while :; do kill -STOP {pid_of(unit)};"
            f" sleep {SLOW_MS / 1000}; kill -CONT {pid_of(unit)}; sleep {1 - SLOW_MS / 1000}; done'",
            f"systemctl stop {MARK}-slow; kill -CONT {pid_of(unit)}",
        ),
        "cpu": Fault(
            f"keep every CPU of {member.host} busy",
            f'systemd-run --quiet --collect --unit {MARK}-cpu sh -c \'for i in $(seq "$(nproc)"); do'
            " while :; do :; done & done; wait'",
            f"systemctl stop {MARK}-cpu",
        ),
    }
    if kind not in known:
        raise UsageError(f"there is no fault {kind}", f"known: {', '.join([*known, 'memory'])}")
    return known[kind]


@dataclass
class Counted:
    """What the clients saw."""

    succeeded: int = 0
    failed: int = 0
    longest_gap: float = 0.0
    first_error: str = ""
    written: dict[str, str] = field(default_factory=dict)


class Clients:
    """Write and read back through the doors of the cluster, until told to stop."""

    def __init__(self, hands: Hands, doors: tuple[Member, ...]) -> None:
        self.hands, self.doors = hands, doors
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.counted = Counted()
        self.mark = uuid.uuid4().hex[:8]
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_about: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(30)

    def work(self, number: int) -> None:
        """One client: a door, the next one when that fails."""
        count, good = 0, time.monotonic()
        while not self.over.is_set():
            door = self.doors[(number + count) % len(self.doors)]
            with contextlib.suppress(FastCacheError), self.hands.talk(door, seconds=5) as connection:
                while not self.over.is_set():
                    count += 1
                    key, value = f"{MARK}:{self.mark}:{number}:{count % 200}", str(count)
                    try:
                        connection.say("SET", key, value, "EX", "3600")
                        if connection.say("GET", key) != value.encode():
                            raise RefusedError(f"{key} was not what was written", 500)
                    except FastCacheError as error:
                        self.note(error.message, key, None, good)
                        raise
                    good = self.note("", key, value, good)
                    self.over.wait(0.005)
            self.over.wait(0.05)

    def note(self, error: str, key: str, value: str | None, good: float) -> float:
        """Count a request; when this client was last answered."""
        now = time.monotonic()
        with self.lock:
            seen = self.counted
            if error:
                seen.failed += 1
                seen.first_error = seen.first_error or error
                # Whether it was done is not known: neither value may be looked for.
                seen.written.pop(key, None)
                return good
            seen.succeeded += 1
            seen.longest_gap = max(seen.longest_gap, now - good)
            if value is not None:
                seen.written[key] = value
            return now


def lost(hands: Hands, door: Member, written: dict[str, str]) -> int:
    """Acknowledged keys that are not there any more, or are older."""
    missing = 0
    with hands.talk(door, seconds=10) as connection:
        for key, value in written.items():
            missing += connection.say("GET", key) != value.encode()
        for key in written:
            connection.say("DEL", key)
    return missing


def chaos(hands: Hands, kind: str, victim: str, seconds: float, confirm: str) -> Operation:
    """A fault at a member for some seconds, with clients, and figures of what they saw."""
    fleet = hands.fleet
    member = fleet.find(victim) if victim else fleet.nodes[-1]
    if fleet.cluster not in PLAYGROUNDS and confirm != fleet.cluster:
        raise UsageError(
            f"{fleet.cluster} is no playground: chaos may cost its clients requests",
            f"--confirm {fleet.cluster} says that it is meant",
        )
    what = memory_fault(hands, member) if kind == "memory" else fault(kind, member)
    doors = tuple(one for one in (*fleet.balancers, *fleet.proxies) if one.host != member.host)
    if not doors:
        raise UsageError("clients need a proxy or balancer on a host that stays whole")
    return Operation(
        "chaos",
        f"{what.says}, for {seconds:.0f} s",
        (Step(f"{kind} {member.name}", what.says, acting(hands, what, member, doors, seconds)),),
        {"kind": kind, "victim": member.name, "seconds": f"{seconds:.0f}"},
        undo=f"on {member.host}: systemctl start {MARK}.service (it also runs by itself)",
    )


def memory_fault(hands: Hands, member: Member) -> Fault:
    """A node's memory limit falls, and returns to what it was."""
    with hands.talk(member) as connection:
        before = connection.say("CONFIG", "GET", "maxmemory")[1].decode()
    ask = (
        "/opt/fastcache/current/bin/python -c " + shlex.quote(
            "import redis,sys;redis.Redis(host=sys.argv[1],port=int(sys.argv[2]),"
            "password=open('/etc/fastcache/secrets/requirepass').read().strip())"
            ".config_set('maxmemory',sys.argv[3])"
        ) + f" {member.address} {member.port}"
    )  # fmt: skip
    return Fault(f"leave {member.name} {MEMORY} of memory", f"{ask} {MEMORY}", f"{ask} {before}")


def acting(
    hands: Hands, what: Fault, member: Member, doors: tuple[Member, ...], seconds: float
) -> Callable[[], str]:
    """Begin, wait, undo, wait until well, look for what was written."""

    def act() -> str:
        with Clients(hands, doors) as clients:
            hands.sleep(2.0)
            inject(hands, what, member, seconds)
            began = hands.now()
            hands.sleep(seconds)
            seen = gate.wait(hands, SETTLE_SECONDS)
            whole = hands.now() - began
            hands.sleep(1.0)
        counted = clients.counted
        figures = {
            # From a client's last answer to its next one: that is what a failure costs.
            "chaos_test_node_failure_recovery_seconds": round(counted.longest_gap, 3),
            "chaos_test_data_loss_keys": lost(hands, doors[0], counted.written),
            "chaos_test_requests_failed_during_failover": counted.failed,
            "chaos_test_requests_succeeded_during_failover": counted.succeeded,
            "whole_again_seconds": round(whole, 1),
            "epoch": seen.epoch,
        }
        why = f" (first: {counted.first_error})" if counted.first_error else ""
        return ", ".join(f"{name} {value}" for name, value in figures.items()) + why

    return act


def inject(hands: Hands, what: Fault, member: Member, seconds: float) -> None:
    """The undoing first, as a timer of the host; then the fault."""
    script = shlex.quote(what.undo)
    timer = (
        f"systemctl stop {MARK}.timer 2>/dev/null; systemd-run --quiet --collect --unit {MARK}"
        f" --on-active {max(1, round(seconds))} --timer-property AccuracySec=100ms sh -c {script}"
    )
    checked(hands.run(member.host, timer, seconds=30), f"{member.host}: no timer for the undoing")
    checked(hands.run(member.host, what.do, seconds=30), f"{member.host}: {what.says}")


def told(found: str) -> dict[str, Any]:
    """The figures of a step, as numbers."""
    pairs = (part.rpartition(" ") for part in found.partition(" (first:")[0].split(", "))
    return {name: float(value) for name, _, value in pairs}
