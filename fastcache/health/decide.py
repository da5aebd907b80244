"""Decide from checks and reports whether a node or proxy is up. Pure: values in, values out, time included.

One lost check is noise, several in a row are news. A proxy that was refused or waited in vain is a witness:
it counts like a failed check, but only beside a failed check of our own, so that a proxy cut off from a node
cannot take that node from everybody. When most nodes fall silent at once and nobody else complains, our own
network is the likelier culprit, and verdicts are held until others have answered.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from fastcache.model import Health


class Failure(StrEnum):
    """How a check failed."""

    REFUSED = "refused"  # The host answers, the process does not: certain.
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    CLOSED = "closed"
    ANSWER = "answer"  # It answers, but not as a healthy one does.


# Failures that a fault of our own network would look like.
SILENT = frozenset({Failure.TIMEOUT, Failure.UNREACHABLE})


@dataclass(frozen=True, slots=True)
class Pace:
    """How often checks are made and how many it takes to change a verdict."""

    interval: float
    suspect_interval: float
    timeout: float
    down_after: int
    up_after: int

    @property
    def urgent_interval(self) -> float:
        """How soon one is asked again whose silence is no guess: it refused, or its connection ended."""
        return self.suspect_interval / 6

    @property
    def report_window(self) -> float:
        """How long a proxy's report counts."""
        return max(2 * self.suspect_interval + self.timeout, 1.0)

    @property
    def flap_window(self) -> float:
        """How long a fall is remembered."""
        return max(20 * self.interval, 30.0)


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found."""

    at: float
    milliseconds: float
    failure: Failure | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of one node or proxy.

    `failing_since` is when the first check of the present run of failures began, `answered_at` when it last
    answered, `falls` the times at which it went down lately.
    """

    status: Health = Health.UNKNOWN
    since: float = 0.0
    successes: int = 0
    failures: int = 0
    last_failure: Failure | None = None
    failing_since: float = 0.0
    answered_at: float = float("-inf")
    reporters: tuple[tuple[str, float], ...] = ()
    falls: tuple[float, ...] = ()
    reason: str = "not checked yet"

    @property
    def doubtful(self) -> bool:
        """Whether the next check should not wait for a whole interval."""
        if self.status is Health.UNHEALTHY:
            return self.successes > 0
        return self.failures > 0 or bool(self.reporters)


# What a flapping one has to show doubles with each fall, up to this many times.
MOST_DOUBLINGS = 4
# So many silent at once are hardly a coincidence.
MANY_SILENT = 3


def after_check(before: Judgement, check: Check, pace: Pace, hold: bool = False) -> Judgement:
    """Judge anew after a check. `hold` keeps the verdict although the failures would suffice."""
    if check.failure is None:
        return after_success(before, check, pace)
    reporters = fresh(before.reporters, check.at, pace)
    failures = before.failures + 1
    evidence = failures + len(reporters)
    began = check.at - check.milliseconds / 1000
    now = replace(
        before,
        successes=0,
        failures=failures,
        last_failure=check.failure,
        failing_since=before.failing_since if before.failures else began,
        reporters=reporters,
    )
    if before.status is Health.UNHEALTHY:
        return replace(now, reason=check.error or str(check.failure))
    if evidence < pace.down_after:
        return replace(now, reason=f"{check.error}: {evidence} of {pace.down_after} failures")
    if hold:
        return replace(now, reason=f"{check.error}: held, because most others are silent too")
    witnesses = f" and {len(reporters)} proxies" if reporters else ""
    return replace(
        now,
        status=Health.UNHEALTHY,
        since=check.at,
        falls=(*recent_falls(before, check.at, pace), check.at),
        reason=f"{check.error}: {failures} checks{witnesses} in a row",
    )


def after_success(before: Judgement, check: Check, pace: Pace) -> Judgement:
    """A check was answered. Reports end with it: we have seen for ourselves."""
    falls = recent_falls(before, check.at, pace) if before.falls else ()
    successes = before.successes + 1
    if before.status is Health.HEALTHY:
        # The most frequent outcome by far, made without the detour over `replace`.
        return Judgement(
            status=before.status,
            since=before.since,
            successes=successes,
            failing_since=before.failing_since,
            answered_at=check.at,
            falls=falls,
            reason="answering",
        )
    now = replace(
        before,
        successes=successes,
        failures=0,
        last_failure=None,
        answered_at=check.at,
        reporters=(),
        falls=falls,
    )
    # One that fell again and again has to prove itself longer.
    needed = pace.up_after << min(max(len(falls) - 1, 0), MOST_DOUBLINGS)
    if before.status is Health.UNKNOWN or successes >= needed:
        return replace(now, status=Health.HEALTHY, since=check.at, reason="answering")
    return replace(now, reason=f"answering again: {successes} of {needed} successes")


def after_report(before: Judgement, reporter: str, at: float, pace: Pace) -> Judgement:
    """A proxy could not get through. That changes no verdict by itself, it brings the check forward."""
    others = tuple(pair for pair in fresh(before.reporters, at, pace) if pair[0] != reporter)
    return replace(before, reporters=(*others, (reporter, at)))


def fresh(reporters: Iterable[tuple[str, float]], at: float, pace: Pace) -> tuple[tuple[str, float], ...]:
    """Reports that still count."""
    return tuple(pair for pair in reporters if at - pair[1] <= pace.report_window)


def recent_falls(judgement: Judgement, at: float, pace: Pace) -> tuple[float, ...]:
    """Falls that are still remembered."""
    return tuple(fall for fall in judgement.falls if at - fall <= pace.flap_window)


def looks_like_our_own_fault(suspect: Judgement, all_judgements: Iterable[Judgement]) -> bool:
    """Whether a suspect's silence may be that of our own network.

    Of those believed up, more are silent (or were not asked yet) than have answered since the suspect fell
    silent, and no proxy complains of any of them. Two silent ones are too few when everybody was asked.
    """
    believed = [one for one in all_judgements if one.status is Health.HEALTHY]
    silent = sum(one.last_failure in SILENT for one in believed)
    answered = sum(one.answered_at >= suspect.failing_since for one in believed)
    unasked = len(believed) - silent - answered
    complaints = any(one.reporters for one in believed)
    if complaints:
        return False
    if not unasked:
        return silent > answered and silent >= MANY_SILENT
    return silent + unasked > answered  # those who were not asked may yet be silent too


# Failures that come at once and that no slow network looks like.
CERTAIN = frozenset({Failure.REFUSED, Failure.CLOSED})


def next_check_in(judgement: Judgement, pace: Pace, *, urgent: bool = False) -> float:
    """Seconds until it should be checked again. `urgent`: somebody waits to take its place."""
    if not judgement.doubtful:
        return pace.interval
    falling = judgement.status is not Health.UNHEALTHY and judgement.last_failure in CERTAIN
    return pace.urgent_interval if urgent and falling else pace.suspect_interval
