"""Bring an embedded cluster up, take it down, and say how it is."""

import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcache.client import health, probe
from fastcache.config import judged
from fastcache.embedded import ports, process, record
from fastcache.embedded.plan import STAGES, ProcessSpec, Wish, again, counted, differs, told
from fastcache.embedded.record import Running
from fastcache.embedded.start import start
from fastcache.errors import FastCacheError
from fastcache.model import Endpoint, Health

START_SECONDS = 30.0
STOP_SECONDS = 10.0
# So long nodes look for somebody to hand over to when all of a cluster goes.
HAND_OVER_SECONDS = 0.3
COPY_SECONDS = 15.0
PROBE_SECONDS = 1.0
PAUSE_SECONDS = 0.01
LINES_OF_LOG = 5
# How a node without a topology answers CLUSTER commands.
NO_CLUSTER = b"-ERR This instance has cluster support disabled"

# Called with how many of how many processes are done.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Raised:
    """What `up` found and did."""

    specs: tuple[ProcessSpec, ...]
    started: tuple[ProcessSpec, ...]
    seconds: float
    # What is not as it should be although everything answers.
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """How one process is."""

    name: str
    kind: str
    endpoint: Endpoint
    pid: int
    health: Health
    reason: str
    uptime_seconds: int
    info: dict[str, str]


def up(wish: Wish, directory: Path, progress: Progress) -> Raised:
    """Start what is wished for and does not run yet; return when all of it answers."""
    begun = time.monotonic()
    judged(dict(wish.settings), "--set", {})
    with record.exclusive(directory):
        known = record.read(directory)
        running = tuple(entry for entry in known if process.lives(entry.identity))
        if running:
            specs = tuple(entry.spec for entry in known)
            if difference := differs(wish, specs):
                raise FastCacheError(f"{difference} (in {directory})", "run 'fastcache down' first")
        else:
            specs = again(wish, record.last(directory), directory)
        alive = {entry.spec.name for entry in running}
        missing = tuple(spec for spec in specs if spec.name not in alive)
        ports.require_free(endpoint for spec in missing for endpoint in spec.endpoints)
        launch_all(specs, missing, running, directory, progress)
        record.remember(directory, specs)
        note = (await_topology(specs) or await_copies(specs)) if missing else ""
        return Raised(specs, missing, time.monotonic() - begun, note)


def launch_all(
    specs: tuple[ProcessSpec, ...],
    missing: tuple[ProcessSpec, ...],
    running: tuple[Running, ...],
    directory: Path,
    progress: Progress,
) -> None:
    """Start the missing processes stage by stage; when one fails, stop again what was started here."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    entries = {entry.spec.name: entry for entry in running}
    answering = len(running)
    try:
        for stage in STAGES:
            batch = [spec for spec in missing if spec.kind == stage]
            for spec in batch:
                children[spec.name] = child = start(spec, specs)
                if identity := process.identify(child.pid):
                    entries[spec.name] = Running(spec, identity)
            # Before anything can go wrong with waiting: what runs must be known to `down`.
            record.write(directory, tuple(entries[spec.name] for spec in specs if spec.name in entries))
            await_answers(batch, children, lambda done, base=answering: progress(base + done, len(specs)))  # type: ignore[misc]
            answering += len(batch)
    except BaseException:
        started = (entries[name].identity for name in children if name in entries)
        process.stop(started, STOP_SECONDS, HAND_OVER_SECONDS)
        record.write(directory, running)
        raise
    finally:
        for child in children.values():
            child.returncode = child.poll() or 0  # they are to outlive us; do not warn of it


def await_answers(
    batch: Iterable[ProcessSpec],
    children: dict[str, subprocess.Popen[bytes]],
    progress: Callable[[int], None],
) -> None:
    """Wait until every process of the batch answers; a process that ends instead is an error."""
    waiting = list(batch)
    total = len(waiting)
    deadline = time.monotonic() + START_SECONDS
    progress(0)
    while waiting:
        silent = []
        for spec in waiting:
            if answers(spec):
                continue
            if (code := children[spec.name].poll()) is not None:
                raise FastCacheError(
                    f"{spec.name} ended with code {code} instead of serving", last_words(spec)
                )
            silent.append(spec)
        waiting = silent
        progress(total - len(waiting))
        if waiting and time.monotonic() > deadline:
            names = ", ".join(spec.name for spec in waiting[:3])
            raise FastCacheError(f"{names}: no answer after {START_SECONDS:.0f} s", last_words(waiting[0]))
        if waiting:
            time.sleep(PAUSE_SECONDS)


def await_topology(specs: Iterable[ProcessSpec]) -> str:
    """Wait until every node knows its part in the cluster; what to say when that takes long."""
    specs = tuple(specs)
    waiting = [spec for spec in specs if spec.kind == "node" and any(one.kind == "health" for one in specs)]
    deadline = time.monotonic() + COPY_SECONDS
    while waiting := [spec for spec in waiting if alone(spec)]:
        if time.monotonic() > deadline:
            return f"{len(waiting)} nodes have not heard of the cluster yet, such as {waiting[0].name}."
        time.sleep(5 * PAUSE_SECONDS)
    return ""


def alone(spec: ProcessSpec) -> bool:
    """Whether a node serves every key itself, because no topology has reached it."""
    try:
        return probe.ask(spec.endpoint, "CLUSTER INFO", PROBE_SECONDS).startswith(NO_CLUSTER)
    except OSError:
        return True


def await_copies(specs: Iterable[ProcessSpec]) -> str:
    """Wait until every slot has a copy in sync, where copies are wanted; what to say when that takes long."""
    service = next(
        (spec for spec in specs if spec.kind == "health" and "replicas" in dict(spec.settings)), None
    )
    deadline = time.monotonic() + COPY_SECONDS
    while service:
        # It may be too busy to answer at once.
        told = replication(service.endpoint)
        if told and not told["slotsWithoutReplica"]:
            return ""
        if time.monotonic() > deadline:
            missing = told.get("slotsWithoutReplica", "Some")
            return f"{missing} slots have no copy in sync yet: 'fastcache status' tells how far it is."
        time.sleep(5 * PAUSE_SECONDS)
    return ""


def replication(service: Endpoint) -> dict[str, Any]:
    """What the health service says of mains and copies; nothing when it does not answer."""
    try:
        told: dict[str, Any] = health.call(f"http://{service}", "GET", "/replication", seconds=PROBE_SECONDS)
    except FastCacheError:
        return {}
    return told


def copies(directory: Path) -> dict[str, Any]:
    """The same of a cluster that runs; nothing where there is no replication."""
    service = next((entry.spec for entry in record.read(directory) if entry.spec.kind == "health"), None)
    told = replication(service.endpoint) if service else {}
    return told if told.get("replication") else {}


def answers(spec: ProcessSpec) -> bool:
    """Whether a process does what it is there for."""
    if spec.kind == "health":
        return probe.serves(spec.endpoint, "/readiness", PROBE_SECONDS)
    return probe.answers(spec.endpoint, PROBE_SECONDS)


def last_words(spec: ProcessSpec) -> str:
    """The end of a process' log, which usually says why."""
    try:
        lines = spec.log.read_text(errors="replace").splitlines()[-LINES_OF_LOG:]
    except OSError:
        lines = []
    return "\n".join([f"from {spec.log}:", *lines]) if lines else f"its log {spec.log} is empty"


def down(directory: Path, grace_seconds: float, progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Stop all processes in the opposite order; how many there were, and which had to be ended by force."""
    if not (directory / record.FILE).exists():
        return 0, ()
    with record.exclusive(directory):
        running = [entry for entry in record.read(directory) if process.lives(entry.identity)]
        forced: list[str] = []
        stopped = 0
        for stage in reversed(STAGES):
            batch = {entry.identity: entry.spec.name for entry in running if entry.spec.kind == stage}
            # All go, the health service before the nodes: there is nobody to hand over to.
            hand_over = HAND_OVER_SECONDS if stage == "node" else None
            forced += [batch[identity] for identity in process.stop(batch, grace_seconds, hand_over)]
            stopped += len(batch)
            progress(stopped, len(running))
        record.write(directory, ())
        return stopped, tuple(forced)


def report(directory: Path) -> tuple[Report, ...]:
    """Ask every process how it is, all at once."""
    entries = record.read(directory)
    if not entries:
        raise FastCacheError(f"no cluster runs in {directory}", "start one with 'fastcache up'")
    with ThreadPoolExecutor(max_workers=min(16, len(entries))) as pool:
        return tuple(pool.map(examine, entries))


def examine(entry: Running) -> Report:
    """How one process is: whether it lives, answers, and what it says."""
    spec = entry.spec
    health, reason, fields, age = Health.UNHEALTHY, "", {}, 0
    if not process.lives(entry.identity):
        reason = f"has ended; see {spec.log}"
    else:
        age = int(process.age_seconds(entry.identity))
        try:
            if spec.kind in {"node", "proxy"}:
                fields = probe.info(spec.endpoint, PROBE_SECONDS)
                health = Health.HEALTHY
            elif answers(spec):
                health = Health.HEALTHY
            else:
                reason = "does not serve"
        except TimeoutError:
            reason = f"no answer within {PROBE_SECONDS:.0f} s"
        except OSError as error:
            reason = f"does not answer: {error.strerror or error}"
            if probe.answers(spec.endpoint, PROBE_SECONDS):
                # It is well, it only will not tell us more: a password is set.
                health, reason = Health.HEALTHY, ""
    return Report(spec.name, spec.kind, spec.endpoint, entry.identity.pid, health, reason, age, fields)


def summary(reports: tuple[Report, ...]) -> str:
    """`3 nodes, the health service and 2 proxies, all answer`, or `2 of 6 processes do not answer`."""
    ill = sum(report.health is not Health.HEALTHY for report in reports)
    if not ill:
        return f"{told(reports)}: all answer"
    return f"{ill} of {counted(len(reports), 'process')} {'does' if ill == 1 else 'do'} not answer"
