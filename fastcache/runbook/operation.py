"""Carry a task out: plan, consent, lock, gate, step by step, audit; stop at the first step that is not
well.

A task is a list of steps with names. Which of them are done is kept on the cluster with the lock, so
whoever says the same again, from whatever machine, goes on behind the last one. The plan only reads.
"""

import contextlib
import getpass
import platform
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook import gate
from fastcache.runbook.hands import Hands, RefusedError, UnreachableError

LOCK_SECONDS = 120.0
GATE_SECONDS = 300.0
#: A cluster that is not well when a task begins gets this long: something may just have ended.
FIRST_GATE_SECONDS = 20.0
UNKNOWN_KEY, CONFLICT, FAULT = 401, 409, 500


@dataclass(frozen=True)
class Step:
    """One thing that is done. `act` says what came of it; `gated`: the cluster must be well after it."""

    name: str
    says: str
    act: Callable[[], str]
    gated: bool = True


@dataclass(frozen=True)
class Operation:
    """A task with its steps; `arguments` make two of them the same or not."""

    task: str
    says: str
    steps: tuple[Step, ...]
    arguments: dict[str, str] = field(default_factory=dict)
    #: What an operator does when a step failed, and how the whole is undone.
    hint: str = ""
    undo: str = ""
    #: Notes for the plan: what clients will notice.
    notes: tuple[str, ...] = ()
    #: The cluster must be well before the first step.
    needs_well: bool = True
    #: It may be done where no health service keeps a lock yet: the first deployment.
    founding: bool = False
    #: The hit rate must come back before the next step.
    warms: bool = False
    #: Members that are away on purpose while it runs.
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Consent:
    """How the operator wants it."""

    plan: bool = False
    yes: bool = False
    fresh: bool = False
    owner: str = ""
    gate_seconds: float = GATE_SECONDS
    lock_seconds: float = LOCK_SECONDS


@dataclass
class Report:
    """What came of it, for people and machines."""

    task: str
    steps: list[dict[str, str]]
    outcome: str = "planned"
    found: dict[str, Any] = field(default_factory=dict)


class Show(Protocol):
    """How a run is shown (fabfile.py: a terminal, or one JSON document)."""

    def plan(self, operation: Operation, done: frozenset[str]) -> None: ...
    def ask(self, question: str) -> bool: ...
    def begin(self, number: int, total: int, step: Step) -> None: ...
    def waiting(self, why: str, part: float = 0.0, /) -> None: ...
    def end(self, step: Step, found: str) -> None: ...
    def note(self, text: str) -> None: ...


class StoppedError(FastCacheError):
    """A task stopped before its end; the hint says what to do next."""


class LockedError(FastCacheError):
    """Somebody else changes the cluster."""


def ourselves() -> str:
    """Who the lock and the audit name: the person and the machine."""
    return f"{getpass.getuser()}@{platform.node() or 'localhost'}"


def carry_out(operation: Operation, hands: Hands, show: Show, consent: Consent) -> Report:
    """Show the plan and, with the operator's consent, do it."""
    known = ledger_of(hands, founding=operation.founding)
    done = steps_done(known, operation, consent)
    show.plan(operation, done)
    for line in news_of(known, operation, done):
        show.note(line)
    report = Report(operation.task, [{"name": step.name, "says": step.says} for step in operation.steps])
    if consent.plan:
        return report
    if not operation.steps:
        report.outcome = "nothing to do"
        return report
    if known and known["lock"]:
        raise LockedError(
            f"{known['lock']['owner']} holds the lock for {known['lock']['task']}",
            "wait for it; 'fab lock' shows it, 'fab lock --break' takes it away from a task that is dead",
        )
    if not consent.yes and not show.ask("Carry it out?"):
        report.outcome = "not wanted"
        return report
    if known is None:
        show.note("No health service keeps a lock yet: nobody else must be at it.")
        every_step(operation, hands, show, consent, Unlocked(hands, operation, consent), report)
    else:
        with holding(operation, hands, consent) as lock:
            every_step(operation, hands, show, consent, lock, report)
    return report


def ledger_of(hands: Hands, *, founding: bool) -> dict[str, Any] | None:
    """Lock and unfinished work as the cluster knows them; None where there is no cluster yet."""
    try:
        told: dict[str, Any] = hands.http("GET", "/lock")
    except UnreachableError:
        if founding:
            return None
        raise
    return told


def steps_done(known: dict[str, Any] | None, operation: Operation, consent: Consent) -> frozenset[str]:
    """Steps of this very task that an interrupted run has behind it."""
    if known is None or consent.fresh:
        return frozenset()
    for one in known["unfinished"]:
        if one["task"] == operation.task and one["arguments"] == operation.arguments:
            return frozenset(one["done"])
    return frozenset()


def news_of(known: dict[str, Any] | None, operation: Operation, done: frozenset[str]) -> list[str]:
    """What the operator should know of others' work before consenting."""
    told = []
    for one in known["unfinished"] if known else ():
        if known and known["lock"] and known["lock"]["task"] == one["task"]:
            continue  # it is under way
        why = f" ({one['stopped']})" if one["stopped"] else ""
        mine = one["task"] == operation.task
        if mine and done:
            told.append(
                f"Goes on behind {len(done)} steps that {one['owner']} did{why}; --fresh begins anew."
            )
        elif mine and one["arguments"] != operation.arguments:
            told.append(f"An unfinished {one['task']} of {one['owner']} had other arguments; it is replaced.")
        else:
            told.append(
                f"{one['owner']} left {one['task']} unfinished{why}; 'fab {one['task']}' goes on with it."
            )
    return told


class Lock:
    """The cluster's lock in our hands: renewed by a thread, and asked for before every step."""

    def __init__(self, hands: Hands, token: int, done: frozenset[str], seconds: float) -> None:
        self.hands, self.token, self.done, self.seconds = hands, token, done, seconds
        self.lost = ""
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.keep, name="lock", daemon=True)

    def keep(self) -> None:
        """Renew it until it is over or lost. A health service that is away for a moment is no loss.

        Nor is one that knows another key than its host: a new one is on its way to it, maybe by ourselves.
        """
        rest = self.seconds / 3
        while not self.over.wait(rest):
            rest = self.seconds / 3
            try:
                self.renew()
            except RefusedError as error:
                if not says_nothing(error):
                    self.lost = error.message
                    return
                rest = self.seconds / 12
            except FastCacheError:
                rest = self.seconds / 12

    def renew(self) -> None:
        """Hold it for longer, or learn that it is lost."""
        self.hands.http("POST", "/lock/renew", {"token": self.token, "seconds": self.seconds})

    def check(self) -> None:
        """Fail when it is not ours any more. It is asked for, not assumed."""
        if not self.lost:
            try:
                persist(self.hands, self.renew, self.seconds)
            except RefusedError as error:
                if says_nothing(error):
                    raise
                self.lost = error.message
        if self.lost:
            raise LockedError(
                f"the lock is lost: {self.lost}", "see 'fab lock' and 'fab audit' for who has it"
            )

    def step(self, name: str, found: str) -> None:
        """A step is done."""
        persist(
            self.hands,
            lambda: self.hands.http(
                "POST", "/lock/step", {"token": self.token, "step": name, "found": found[:1000]}
            ),
        )

    def release(self, stopped: str) -> None:
        """Give it back."""
        persist(
            self.hands,
            lambda: self.hands.http(
                "POST", "/lock/release", {"token": self.token, "stopped": stopped[:1000]}
            ),
        )


class Unlocked:
    """The stand-in for the lock where no health service is yet; what was done is noted when there is one."""

    def __init__(self, hands: Hands, operation: Operation, consent: Consent) -> None:
        self.hands, self.task = hands, operation.task
        self.owner = consent.owner or ourselves()
        self.done: frozenset[str] = frozenset()

    def check(self) -> None: ...

    def step(self, name: str, found: str) -> None:
        """Into the chain, if there is one by now."""
        fields = {"step": name} | ({"found": found[:1000]} if found else {})
        with contextlib.suppress(FastCacheError):
            self.hands.http(
                "POST", "/audit", {"owner": self.owner, "task": self.task, "event": "step", "fields": fields}
            )


def says_nothing(error: RefusedError) -> bool:
    """Whether a refusal says nothing of the lock: nobody leads, or whoever leads knows another key."""
    return error.status >= FAULT or error.status == UNKNOWN_KEY


def persist(hands: Hands, act: Callable[[], Any], seconds: float = 30.0) -> None:
    """Do it again while no health service answers: one of them may be starting again at our own wish."""
    deadline = hands.now() + seconds
    while True:
        try:
            act()
        except (UnreachableError, RefusedError) as error:
            passing = not isinstance(error, RefusedError) or says_nothing(error)
            if not passing or hands.now() >= deadline:
                raise
            hands.sleep(0.5)
        else:
            return


@contextlib.contextmanager
def holding(operation: Operation, hands: Hands, consent: Consent) -> Iterator[Lock]:
    """The lock while the block runs. Whatever ends the block, the reason is told to the cluster."""
    wanted = {
        "owner": consent.owner or ourselves(),
        "task": operation.task,
        "seconds": consent.lock_seconds,
        "arguments": operation.arguments,
        "fresh": consent.fresh,
    }
    try:
        got = hands.http("POST", "/lock", wanted)
    except RefusedError as error:
        if error.status != CONFLICT:
            raise
        raise LockedError(error.message, "'fab lock' shows it; 'fab lock --break' takes it away") from None
    lock = Lock(hands, got["token"], frozenset(got["done"]), consent.lock_seconds)
    lock.thread.start()
    stopped = ""
    try:
        yield lock
    except FastCacheError as error:
        stopped = error.message
        raise
    except KeyboardInterrupt:
        stopped = "interrupted by its operator"
        raise StoppedError(
            f"{operation.task} was interrupted", f"'fab {operation.task}' again goes on where it stopped"
        ) from None
    except BaseException as error:
        stopped = f"{type(error).__name__}: {error}"
        raise
    finally:
        lock.over.set()
        # Whoever has the lock by now is not to be disturbed; the task's own failure outranks the release's.
        with contextlib.suppress(FastCacheError):
            lock.release(stopped)


def every_step(
    operation: Operation, hands: Hands, show: Show, consent: Consent, lock: Lock | Unlocked, report: Report
) -> None:
    """The steps that are left, each behind a gate."""
    usual = None
    hands.tell = show.waiting
    if operation.needs_well:
        try:
            gate.wait(hands, FIRST_GATE_SECONDS, without=operation.without, tell=show.waiting)
        except gate.NotWellError as error:
            raise StoppedError(
                f"{operation.task} did not begin, the cluster is not well: {error.message}",
                "nothing was changed; mend that first ('fab status', 'fab verify')",
            ) from None
    if operation.warms:
        usual = gate.usual_rate(hands)
    total = len(operation.steps)
    for number, step in enumerate(operation.steps, 1):
        told = report.steps[number - 1]
        if step.name in lock.done:
            told["found"] = "done before"
            show.end(step, "done before")
            continue
        lock.check()
        show.begin(number, total, step)
        try:
            found = step.act()
            if step.gated:
                gate.wait(
                    hands, consent.gate_seconds, usual=usual, without=operation.without, tell=show.waiting
                )
        except FastCacheError as error:
            report.outcome = told["found"] = f"failed: {error.message}"
            raise StoppedError(
                f"{operation.task} stopped at step {number} of {total}, {step.name}: {error.message}",
                next_for(operation, error),
            ) from None
        lock.step(step.name, found)
        told["found"] = found or "done"
        show.end(step, found)
    report.outcome = "done"


def next_for(operation: Operation, error: FastCacheError) -> str:
    """What to do after a step that failed."""
    lines = [error.hint, operation.hint, f"'fab {operation.task}' again goes on with the step that failed"]
    if operation.undo:
        lines.append(f"to go back: {operation.undo}")
    return "\n".join(line for line in lines if line)


def refuse_unless(holds: bool, message: str, hint: str = "") -> None:
    """Fail with a sentence when a condition of the task does not hold."""
    if not holds:
        raise UsageError(message, hint)
