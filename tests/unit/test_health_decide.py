"""The verdicts of the health service, as tables: what was seen, and what it means."""

import pytest

from fastcache.health.decide import (
    Check,
    Failure,
    Judgement,
    Pace,
    after_check,
    after_report,
    looks_like_our_own_fault,
    next_check_in,
)
from fastcache.health.settings import PROFILES
from fastcache.model import Health

REFERENCE = PROFILES["reference"]
UP, DOWN, UNKNOWN = Health.HEALTHY, Health.UNHEALTHY, Health.UNKNOWN

# `+` answered, `r` refused, `t` timed out; the verdict after each check.
RUNS = [
    ("+", [UP]),
    ("r", [UNKNOWN]),
    ("rrr", [UNKNOWN, UNKNOWN, DOWN]),
    ("+rr+rr", [UP] * 6),
    ("+rrr", [UP, UP, UP, DOWN]),
    ("+ttt", [UP, UP, UP, DOWN]),
    ("+rrr+", [UP, UP, UP, DOWN, DOWN]),
    ("+rrr++", [UP, UP, UP, DOWN, DOWN, UP]),
    ("+rrr+r++", [UP, UP, UP, DOWN, DOWN, DOWN, DOWN, UP]),
    ("+trt", [UP, UP, UP, DOWN]),
]


def run(signs: str, pace: Pace = REFERENCE, gap: float = 30.0) -> list[Judgement]:
    failures = {"r": Failure.REFUSED, "t": Failure.TIMEOUT, "+": None}
    seen, now = [], Judgement()
    for number, sign in enumerate(signs):
        now = after_check(now, Check(number * gap, 1.0, failures[sign], "connection refused"), pace)
        seen.append(now)
    return seen


@pytest.mark.parametrize(("signs", "verdicts"), RUNS, ids=[signs for signs, _ in RUNS])
def test_three_failures_mean_down_and_two_successes_mean_up_again(signs: str, verdicts: list[Health]) -> None:
    assert [judgement.status for judgement in run(signs)] == verdicts


def test_one_that_keeps_falling_has_to_prove_itself_longer() -> None:
    falls = run("+" + "rrr++++++++" * 3, gap=1.0)
    climbs, previous = [], Judgement()
    for judgement in falls:
        if judgement.status is UP and previous.status is DOWN:
            climbs.append(judgement.successes)
        previous = judgement
    assert climbs == [2, 4, 8]


def test_old_falls_are_forgotten() -> None:
    now = run("+rrr++rrr", gap=1.0)[-1]
    later = 9 + REFERENCE.flap_window + 1
    now = after_check(now, Check(later, 1.0), REFERENCE)
    assert after_check(now, Check(later + 1, 1.0), REFERENCE).status is UP


def test_witnesses_shorten_the_wait_but_never_suffice() -> None:
    now = run("+")[-1]
    for proxy in ("p1", "p2", "p3", "p4"):
        now = after_report(now, proxy, 10.0, REFERENCE)
    assert now.status is UP
    refused = Check(11.0, 1.0, Failure.REFUSED, "connection refused")
    assert after_check(now, refused, REFERENCE).status is DOWN
    assert after_check(now, Check(11.0, 1.0), REFERENCE).reporters == ()


def test_one_proxy_that_repeats_itself_is_one_witness_and_old_words_do_not_count() -> None:
    now = run("+")[-1]
    for at in (1.0, 2.0, 3.0):
        now = after_report(now, "p1", at, REFERENCE)
    refused = Check(4.0, 1.0, Failure.REFUSED, "connection refused")
    assert after_check(now, refused, REFERENCE).status is UP
    now = after_report(now, "p2", 5.0, REFERENCE)
    late = Check(5.0 + REFERENCE.report_window + 1, 1.0, Failure.REFUSED, "connection refused")
    assert after_check(now, late, REFERENCE).status is UP


def test_doubt_brings_the_next_check_forward() -> None:
    steady, doubtful = run("+")[-1], run("+r")[-1]
    assert next_check_in(steady, REFERENCE) == 30.0
    assert next_check_in(doubtful, REFERENCE) == 2.0
    assert next_check_in(after_report(steady, "p1", 1.0, REFERENCE), REFERENCE) == 2.0
    assert next_check_in(run("+rrr")[-1], REFERENCE) == 30.0
    assert next_check_in(run("+rrr+")[-1], REFERENCE) == 2.0


# Each word is one that is believed up: silent `t`, refusing `r`, a proxy complains `w`, answered since the
# first of them fell silent `a`, not asked since `u`.
@pytest.mark.parametrize(
    ("others", "ours"),
    [
        ("t t t t", True),
        ("t t t a", True),
        ("t t t a a a", False),  # half is not most
        ("t u u u", True),  # nobody else was asked: ask them first
        ("t a u u", True),  # one answer is too little
        ("t a a u u", True),  # so are two of five
        ("t a a u", False),  # most have answered
        ("t t a a u", True),  # the last one decides
        ("t t a a a u", False),
        ("t", False),  # there is nobody else to ask
        ("t t a", False),  # two are too few to tell when all were asked
        ("t t t tw", False),  # a witness sees the same as we do
        ("t r r r r", True),
        ("t a a a r r", False),
    ],
)
def test_when_most_fall_silent_at_once_the_fault_may_be_ours(others: str, ours: bool) -> None:
    kinds = {
        "t": Judgement(Health.HEALTHY, failures=2, last_failure=Failure.TIMEOUT, failing_since=10.0),
        "r": Judgement(Health.HEALTHY, failures=2, last_failure=Failure.REFUSED, failing_since=10.0),
        "a": Judgement(Health.HEALTHY, answered_at=11.0),
        "u": Judgement(Health.HEALTHY, answered_at=9.0),
    }
    everybody = [
        after_report(kinds[word[0]], "p1", 12.0, REFERENCE) if "w" in word else kinds[word[0]]
        for word in others.split()
    ]
    assert looks_like_our_own_fault(everybody[0], everybody) is ours


def test_a_held_verdict_falls_as_soon_as_it_is_no_longer_held() -> None:
    now = run("+tt")[-1]
    silent = Check(100.0, 1.0, Failure.TIMEOUT, "no answer in 5 s")
    now = after_check(now, silent, REFERENCE, hold=True)
    assert now.status is UP
    assert "held" in now.reason
    assert after_check(now, silent, REFERENCE).status is DOWN
