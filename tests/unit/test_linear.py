"""The checker of histories is judged itself: by hand, and by the verdicts of Porcupine."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.history.linear import FOR_EVER, Operation, Verdict, judge, register
from tests.history.samples import as_json, sample

PORCUPINE = Path(__file__).parents[1] / "history" / "porcupine"
# One letter a seed, `o` for ok and `i` for illegal, as Porcupine v1.1.0 says; FASTCACHE_PORCUPINE=1 asks it.
KNOWN = (Path(__file__).parents[1] / "vectors" / "histories.txt").read_text().strip()


def read(start: float, end: float, output: object) -> Operation:
    return Operation("r", "x", "read", start, end, output=output)


def write(start: float, end: float, value: object) -> Operation:
    return Operation("w", "x", "write", start, end, value)


BY_HAND = [
    ([], Verdict.OK),
    ([write(0, 1, 1), read(2, 3, 1)], Verdict.OK),
    ([write(0, 1, 1), read(2, 3, None)], Verdict.ILLEGAL),  # a stale read
    ([write(0, 5, 1), read(1, 2, None), read(3, 4, 1)], Verdict.OK),  # it takes effect in between
    ([write(0, 5, 1), read(1, 2, 1), read(3, 4, None)], Verdict.ILLEGAL),  # seen, then unseen
    ([write(0, FOR_EVER, 1), read(1, 2, None), read(5, 6, 1)], Verdict.OK),  # late
    ([write(0, FOR_EVER, 1), read(5, 6, None)], Verdict.OK),  # or never
    ([write(0, 1, 1), write(2, FOR_EVER, 2), read(3, 4, 2), read(5, 6, 1)], Verdict.ILLEGAL),
    ([write(0, 1, 1), read(1, 2, None)], Verdict.OK),  # moments that touch overlap
    ([read(0, 1, 7)], Verdict.ILLEGAL),  # invented
    ([read(0, FOR_EVER, 7)], Verdict.OK),  # never answered: it says nothing
]


@pytest.mark.parametrize(("history", "verdict"), BY_HAND)
def test_verdicts_that_anyone_can_check(history: list[Operation], verdict: Verdict) -> None:
    assert register(history) is verdict


def test_lists_and_sets_are_judged_as_wholes() -> None:
    pushes = [Operation("c", "l", "push", 0, 1, 5, output=1), Operation("c", "l", "push", 2, FOR_EVER, 6)]
    for seen, verdict in [
        ((5,), "ok"),
        ((5, 6), "ok"),
        ((6,), "illegal"),
        ((), "illegal"),
        ((6, 5), "illegal"),
    ]:
        assert register([*pushes, read(3, 4, seen)], ()) == verdict
    assert register([Operation("c", "l", "push", 0, 1, 5, output=2)], ()) is Verdict.ILLEGAL
    stream = [Operation("c", "x", "append", 0, 1, 5), Operation("d", "x", "append", 0, 1, 6)]
    assert register([*stream, read(3, 4, (6, 5))], ()) is Verdict.OK
    assert register([*stream, read(3, 4, (6,))], ()) is Verdict.ILLEGAL
    puts = [Operation("c", "s", "put", 0, 1, 5, output=1), Operation("c", "s", "put", 2, 3, 6, output=1)]
    assert register([*puts, read(3, 4, frozenset({5, 6}))], frozenset()) is Verdict.OK
    assert register([*puts, read(4, 5, frozenset({5}))], frozenset()) is Verdict.ILLEGAL
    assert register([*puts, Operation("c", "s", "put", 4, 5, 6, output=1)], frozenset()) is Verdict.ILLEGAL


def test_what_was_never_answered_and_never_seen_takes_no_time() -> None:
    lost = [Operation("c", "x", "append", 0, FOR_EVER, number) for number in range(200)]
    told = [Operation("c", "x", "append", number, number + 0.5, 1000 + number) for number in range(200)]
    seen = tuple(range(1000, 1200))
    assert register([*lost, *told, read(300, 301, (*seen, 7))], (), seconds=5) is Verdict.OK
    assert register([*lost, *told, read(300, 301, seen[1:])], (), seconds=5) is Verdict.ILLEGAL
    # Where nothing is read at the end, what is not seen may have counted.
    pushes = [Operation("c", "l", "push", 0, FOR_EVER, 5), Operation("c", "l", "push", 1, 2, 6, output=2)]
    assert register(pushes, ()) is Verdict.OK
    assert register([*pushes, read(3, 4, (6,))], ()) is Verdict.ILLEGAL
    # A comparison that failed may tell of a write that nobody has read.
    compared = Operation("c", "x", "cas", 5, 6, 9, expected=1, output=False)
    assert register([write(0, 1, 1), write(2, FOR_EVER, 2), compared]) is Verdict.OK
    assert register([write(0, 1, 1), compared]) is Verdict.ILLEGAL


def test_keys_are_judged_one_by_one() -> None:
    history = [write(0, 1, 1), Operation("r", "y", "read", 2, 3, output=9)]
    assert judge(history) == {"x": Verdict.OK, "y": Verdict.ILLEGAL}


def test_what_takes_too_long_is_no_proof() -> None:
    hopeless = [write(0, 100, number) for number in range(40)] + [read(200, 201, -1)]
    assert register(hopeless, seconds=0.2) is Verdict.UNKNOWN


@pytest.mark.parametrize("first", range(0, len(KNOWN), 250))
def test_verdicts_are_those_of_porcupine(first: int) -> None:
    letters = {Verdict.OK: "o", Verdict.ILLEGAL: "i", Verdict.UNKNOWN: "?"}
    seeds = range(first, min(first + 250, len(KNOWN)))
    ours = "".join(letters[register(sample(seed), 0)] for seed in seeds)
    wrong = [seed for seed in seeds if ours[seed - first] != KNOWN[seed]]
    assert not wrong


def test_the_known_verdicts_are_a_fair_exam() -> None:
    assert len(KNOWN) >= 1000
    assert KNOWN.count("i") > len(KNOWN) // 10


@pytest.mark.skipif(
    not os.environ.get("FASTCACHE_PORCUPINE") or not shutil.which("go"),
    reason="asks Porcupine itself, which needs Go and its module proxy: FASTCACHE_PORCUPINE=1",
)
def test_porcupine_still_says_so(tmp_path: Path) -> None:
    program = tmp_path / "verdicts"
    subprocess.run(["go", "build", "-o", program, "."], cwd=PORCUPINE, check=True, timeout=600)
    histories = json.dumps([[as_json(one) for one in sample(seed)] for seed in range(len(KNOWN))])
    done = subprocess.run([program], input=histories, capture_output=True, text=True, check=True, timeout=600)
    assert "".join(word[0] for word in done.stdout.split()) == KNOWN
