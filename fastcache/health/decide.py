"""Decide from checks and reports whether a node or proxy is up. Pure: values in, values out, time included.

One lost check is noise, several in a row are news. A proxy that was refused or waited in vain is a witness:
it counts like a failed check, but only beside a failed check of our own, so that a proxy cut off from a node
cannot take that node from everybody. When most nodes fall silent at once and nobody else complains, our own
network is the likelier culprit, and the verdicts are held.
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
    """What is known of one node or proxy. `falls` are the times at which it went down lately."""

    status: Health = Health.UNKNOWN
    since: float = 0.0
    successes: int = 0
    failures: int = 0
    last_failure: Failure | None = None
    reporters: tuple[tuple[str, float], ...] = ()
    falls: tuple[float, ...] = ()
    reason: str = "not checked yet"

    @property
    def doubtful(self) -> bool:
        """Whether the next check should not wait for a whole interval."""
        if self.status is Health.UNHEALTHY:
            return self.successes > 0
        return self.failures > 0 or bool(self.reporters)


# More successes than this are never asked of one that keeps falling.
MOST_EXTRA_SUCCESSES = 8


def after_check(before: Judgement, check: Check, pace: Pace, hold: bool = False) -> Judgement:
    """Judge anew after a check. `hold` keeps the verdict although the failures would suffice."""
    if check.failure is None:
        return after_success(before, check, pace)
    reporters = fresh(before.reporters, check.at, pace)
    failures = before.failures + 1
    evidence = failures + len(reporters)
    now = replace(before, successes=0, failures=failures, last_failure=check.failure, reporters=reporters)
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
    falls = recent_falls(before, check.at, pace)
    successes = before.successes + 1
    now = replace(before, successes=successes, failures=0, last_failure=None, reporters=(), falls=falls)
    if before.status is Health.HEALTHY:
        return replace(now, reason="answering")
    # One that fell again and again has to prove itself longer.
    needed = pace.up_after + min(max(len(falls) - 1, 0), MOST_EXTRA_SUCCESSES)
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


def looks_like_our_own_fault(all_judgements: Iterable[Judgement]) -> bool:
    """Whether most of those believed up have fallen silent at once, and no proxy complains of any of them."""
    believed = [one for one in all_judgements if one.status is Health.HEALTHY]
    silent = [one for one in believed if one.last_failure in SILENT]
    return len(silent) >= 3 and 2 * len(silent) > len(believed) and not any(one.reporters for one in believed)


def next_check_in(judgement: Judgement, pace: Pace) -> float:
    """Seconds until it should be checked again."""
    return pace.suspect_interval if judgement.doubtful else pace.interval
