"""Tasks that are Ansible's work, under the runbook's lock, gate and record: deploy, upgrade, drift and
more.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook import gate, rolling
from fastcache.runbook.fleet import Fleet
from fastcache.runbook.hands import Hands, UnreachableError, together
from fastcache.runbook.operation import Operation, Step
from fastcache.runbook.plays import failures, played, playing
from fastcache.runbook.status import verify

#: Clocks further apart than this make times of expiry and the lock's end doubtful.
CLOCK_SECONDS = 2.0
#: Free space below which a host is told of, in MiB.
FREE_MB = 512
#: What every host tells of itself, a line each.
ASK = (
    "date +%s.%N; df -Pm /var/lib 2>/dev/null | awk 'NR==2{print $4}';"
    " awk '/MemTotal/{print int($2/1024)}' /proc/meminfo; . /etc/os-release; echo \"$ID $VERSION_ID\";"
    " python3 -c 'import sys;print(sys.version.split()[0])' 2>/dev/null || echo none;"
    " systemctl is-system-running 2>/dev/null || true"
)
SUPPORTED = {"debian 12", "debian 13"}


def proof(hands: Hands, lost: str = "") -> Step:
    """The last step of everything: clients are served, also without the host that is lost."""

    def act() -> str:
        found = verify(hands, lost)
        if not found["well"]:
            raise FastCacheError("; ".join(found["wrong"]), "'fab status' and 'fab verify' show more")
        return f"{len(found['asked'])} doors serve {found['keys']} shards"

    return Step("verify", "write and read back through every node, proxy and balancer", act, gated=False)


# --- before -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a host; `cure` is a command that mends it and can do no harm, where there is one."""

    says: str
    cure: str = ""


def preflight(hands: Hands, *, apply: bool = False) -> dict[str, Any]:
    """What would be in the way of a deployment, each with its cure. `apply`: what is safe is cured."""
    hosts, findings, wrong = asked(hands)
    applied: list[str] = []
    if apply:
        cures = [(host, one) for host, found in findings.items() for one in found if one.cure]
        for (host, one), outcome in together(
            cures, lambda item: hands.run(item[0], item[1].cure, seconds=300)
        ):
            why = outcome.message if isinstance(outcome, FastCacheError) else outcome.err.strip()
            well = not isinstance(outcome, FastCacheError) and outcome.code == 0
            applied.append(f"{host}: {one.cure}: {'done' if well else f'failed: {why}'}")
        if cures:
            hosts, findings, wrong = asked(hands)
    wrong += [f"{host}: {one.says}" for host, found in findings.items() for one in found]
    done = hands.play("playbooks/preflight.yml")
    if done.code:
        wrong += [message for _, message in failures(done.text)] or [
            "the inventory is refused: see the output of preflight.yml"
        ]
    wrong += alone(hands.fleet)
    return {"well": not wrong, "wrong": wrong, "hosts": hosts, "applied": applied}


def asked(hands: Hands) -> tuple[dict[str, dict[str, Any]], dict[str, list[Finding]], list[str]]:
    """What hosts tell of themselves, what is wrong with each, and who cannot be asked."""
    began = time.time()
    hosts: dict[str, dict[str, Any]] = {}
    findings: dict[str, list[Finding]] = {}
    wrong: list[str] = []
    for host, outcome in together(hands.fleet.hosts, lambda name: hands.run(name, ASK, seconds=30)):
        ended = time.time()
        if isinstance(outcome, FastCacheError):
            wrong.append(f"{outcome.message} ({outcome.hint})" if outcome.hint else outcome.message)
            continue
        hosts[host] = host_of(outcome.out)
        findings[host] = judged_host(hosts[host], began, ended)
    return hosts, findings, wrong


def host_of(text: str) -> dict[str, Any]:
    """A host's own account."""
    lines = [*text.splitlines(), "", "", "", "", "", ""]
    return {
        "clock": float(lines[0] or 0),
        "freeMb": int(lines[1] or 0),
        "memoryMb": int(lines[2] or 0),
        "system": lines[3],
        "python": lines[4],
        "state": lines[5],
    }


def judged_host(told: dict[str, Any], began: float, ended: float) -> list[Finding]:
    """What is wrong with a host; its clock was read between two moments of ours."""
    wrong = []
    early, late = began - told["clock"], told["clock"] - ended
    if max(early, late) > CLOCK_SECONDS:
        way = "behind" if early > late else "ahead"
        says = f"its clock is {max(early, late):.0f} s {way}: run NTP; it may take minutes to set it"
        wrong.append(Finding(says, "timedatectl set-ntp true"))
    if told["freeMb"] < FREE_MB:
        says = f"{told['freeMb']} MiB are free in /var/lib: {FREE_MB} are needed at least"
        wrong.append(Finding(says, "apt-get clean && journalctl --quiet --vacuum-size=64M"))
    if told["system"] not in SUPPORTED:
        system = told["system"] or "nothing known"
        wrong.append(Finding(f"it runs {system}; tried are {', '.join(sorted(SUPPORTED))}"))
    if told["python"] in {"", "none"}:
        command = "apt-get install --yes --no-install-recommends python3"
        wrong.append(Finding(f"it has no python3: {command}", command))
    if told["state"] not in {"running", "degraded", "starting"}:
        wrong.append(Finding(f"systemd says {told['state'] or 'nothing'}: services are run by it"))
    return wrong


def alone(fleet: Fleet) -> list[str]:
    """Tiers that fall with one host."""
    wrong = []
    if len(fleet.health) == 2 and not fleet.etcd:
        wrong.append("two health services without etcd cannot agree who leads: name one, or a group etcd")
    if len(fleet.etcd) in {2, 4}:
        wrong.append(
            f"{len(fleet.etcd)} etcd hosts bear no more failures than one host less: use an odd number"
        )
    return wrong


def plan(hands: Hands) -> dict[str, Any]:
    """What a deployment would change, by host; no host is touched."""
    done = played(hands.play("playbooks/plan.yml", "--check", "--diff"), "playbooks/plan.yml")
    changed = {host: count for host, count in done.changed.items() if count and host != "localhost"}
    return {"changes": changed, "well": True}


def deploy(hands: Hands) -> Operation:
    """From what the inventory says to a serving cluster; what is so already is left alone."""
    steps = (
        Step("preflight", "judge the inventory before any host is touched",
             playing(hands, "playbooks/preflight.yml"), gated=False),
        Step("deploy", f"site.yml on {len(hands.fleet.hosts)} hosts, renewing what is out of date in turn",
             playing(hands, "site.yml")),
        proof(hands),
    )  # fmt: skip
    return Operation(
        "deploy",
        f"Deploy what inventories/{hands.fleet.environment} describes",
        steps,
        hint="a deployment may be run again at any time: it goes on where it stopped",
        undo="put the inventory back and deploy again; for the release 'fab rollback'",
        notes=("'fab plan' shows the files that would change.",),
        needs_well=False,
        founding=True,
    )


# --- releases ---------------------------------------------------------------------------------------


def upgrade(hands: Hands, bundle: Path) -> Operation:
    """The release of a bundle: laid beside the old one everywhere, then used host by host."""
    file = bundle / "manifest.json"
    if not file.is_file():
        raise UsageError(
            f"there is no bundle in {bundle}", "'make bundle' packs one; FASTCACHE_BUNDLE names another"
        )
    release = str(json.loads(file.read_text())["release"])
    hosts = list(dict.fromkeys(one.host for one in hands.fleet.members))
    used = {name: rolling.current_release(hands, name) for name in hosts}
    before = sorted(set(used.values()) - {release, ""})
    undo = f"fab rollback --release {before[0]}" if before else "fab rollback --release NAME"
    lacking = [name for name in hosts if release not in rolling.releases(hands, name)]
    stage = Step(
        f"stage {release}", f"lay it beside the old one on {', '.join(lacking) or 'no host: it is there'}",
        playing(hands, "playbooks/stage.yml") if lacking else lambda: "it was there", gated=False,
    )  # fmt: skip
    if all(name == release for name in used.values()):
        return Operation("rolling-upgrade", f"{release} is in use on every host", ())
    changing = rolling.release_steps(hands, release)
    return Operation(
        "rolling-upgrade",
        f"From {', '.join(before) or 'nothing'} to {release}, {rolling.pace(hands.fleet)}",
        (stage, *changing, proof(hands)),
        {"release": release},
        hint="hosts before it run the new release, the others the old one; both work together",
        undo=undo,
        notes=rolling.notes(hands, hands.fleet.members),
        warms=True,
    )


def rollback(hands: Hands, release: str) -> Operation:
    """A release that is still on the hosts; the one before when none is named."""
    hosts = list(dict.fromkeys(one.host for one in hands.fleet.members))
    here = {name: rolling.releases(hands, name) for name in hosts}
    used = {name: rolling.current_release(hands, name) for name in hosts}
    if not release:
        common = set.intersection(*(set(one) for one in here.values())) - set(used.values())
        if len(common) != 1:
            raise UsageError(
                f"which release? on all hosts are: {', '.join(sorted(common)) or 'none but the one in use'}",
                "fab rollback --release NAME",
            )
        release = common.pop()
    missing = [name for name in hosts if release not in here[name]]
    if missing:
        raise UsageError(
            f"{release} is not on {', '.join(missing)}", "'fab drift' shows the releases of each host"
        )
    return Operation(
        "rollback",
        f"Back to {release}, {rolling.pace(hands.fleet)}",
        (*rolling.release_steps(hands, release), proof(hands)),
        {"release": release},
        undo=f"fab rollback --release {next(iter(used.values()), 'NAME')}",
        notes=rolling.notes(hands, hands.fleet.members),
        warms=True,
    )


# --- what differs -----------------------------------------------------------------------------------


def drift(hands: Hands) -> dict[str, Any]:
    """Where hosts are not as the inventory says: files, services, releases, members, topologies."""
    fleet = hands.fleet
    told: dict[str, Any] = {"files": plan(hands)["changes"], "wrong": []}
    wrong: list[str] = [
        f"{host}: {count} files or settings are not as deployed" for host, count in told["files"].items()
    ]
    told["releases"] = {}
    for host, used in together(fleet.hosts, lambda name: rolling.current_release(hands, name)):
        told["releases"][host] = used.message if isinstance(used, FastCacheError) else used
    members = {one.host for one in fleet.members}
    used_by = {told["releases"][host] for host in members}
    if len(used_by) > 1:
        wrong.append(f"hosts use different releases: {', '.join(sorted(used_by))}")
    for host, outcome in together(sorted(members), lambda name: hands.run(name, FAILED_UNITS, seconds=15)):
        if isinstance(outcome, FastCacheError):
            wrong.append(outcome.message)
        elif outcome.out.split():
            wrong.append(f"{host}: units that do not run: {', '.join(outcome.out.split())}")
    try:
        known = {one["nodeId"] for one in hands.http("GET", "/health/nodes")}
        listed = {one.name for one in (*fleet.nodes, *fleet.proxies)}
        wrong += [f"{name} is in the cluster and not in the inventory" for name in sorted(known - listed)]
        wrong += [f"{name} is in the inventory and not in the cluster" for name in sorted(listed - known)]
        wrong += gate.of_another_mind(gate.look(hands), fleet, frozenset())
    except UnreachableError as error:
        wrong.append(error.message)
    return {**told, "wrong": wrong, "well": not wrong}


#: Of ours only: whatever else fails on a host is not the cluster's drift.
FAILED_UNITS = (
    "systemctl list-units --all --plain --no-legend 'fastcache-*' haproxy.service etcd.service 2>/dev/null"
    ' | awk \'$3 != "active" && $4 != "exited" && $2 == "loaded" {print $1}\''
)


# --- secrets ----------------------------------------------------------------------------------------


def rotate(hands: Hands, secret: str) -> Operation:
    """A new secret, brought to all hosts."""
    if secret not in {"admin-key", "requirepass"}:
        raise UsageError(f"there is no secret {secret}", "admin-key or requirepass")
    words = ["-e", f"secret={secret}"]
    notes: tuple[str, ...] = ("The old one is kept beside it, as *.previous.",)
    if secret == "requirepass":  # noqa: S105  (its name)
        words += ["-e", f"confirm={hands.fleet.cluster}"]
        notes += (
            "Clients are interrupted: all services start again at once, and the old password is refused.",
        )
    playbook = "playbooks/rotate_secrets.yml"
    says = f"make it, bring it to {len(hands.fleet.hosts)} hosts, renew the services"
    return Operation(
        "rotate-secrets",
        f"Make a new {secret} for {hands.fleet.cluster}",
        (Step(secret, says, secret_act(hands, playbook, words)), proof(hands)),
        {"secret": secret},
        undo=f"put secrets/{hands.fleet.cluster}/{secret}.previous in its place, then fab deploy",
        notes=notes,
    )


def secret_act(hands: Hands, playbook: str, words: list[str]) -> Callable[[], str]:
    """The playbook, and then the old secret is forgotten here as well."""
    act = playing(hands, playbook, *words)

    def rotated() -> str:
        try:
            return act()
        finally:
            # Also when it failed half way: nobody knows then which of the two is in force.
            hands.forget_secrets()

    return rotated


def filled(hands: Hands, leaving: str) -> str:
    """Everybody but who leaves is well, with all copies."""
    seen = gate.wait(hands, 3600.0, without=hands.fleet.on(leaving), tell=hands.tell)
    return f"topology {seen.digest[:12]}, epoch {seen.epoch}"
