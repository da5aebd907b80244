"""Whether a history of one register could have happened one operation after another (linearizability).

The search is Wing and Gong's with Lowe's cache of what was tried. Whatever was answered must take effect
between its call and its return; what has no answer may take effect at any time after its call, or never.
Verdicts are fixed against Porcupine's in test_linear.py.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

FOR_EVER = float("inf")


class Verdict(StrEnum):
    """What came of the search."""

    OK = "ok"
    ILLEGAL = "illegal"
    UNKNOWN = "unknown"  # It took too long: no proof, hence a failure.


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client on one key.

    `kind`: read, write (`value`), cas (`expected`, `value`), add (`value`) to a number; push (`value`, the
    answer is the length) and append (to a stream) to a tuple; put (`value`, the answer is how many were new)
    into a set. `output`: what was answered; for a write nothing, for cas whether it was done. `end` is
    FOR_EVER where no answer came.
    """

    client: str
    key: str
    kind: str
    start: float
    end: float = FOR_EVER
    value: Any = None
    expected: Any = None
    output: Any = None

    @property
    def answered(self) -> bool:
        return self.end != FOR_EVER


def step(state: Any, one: Operation) -> tuple[bool, Any]:
    """Whether an operation could happen in this state with its answer, and the state after it."""
    if one.kind == "read":
        return state == one.output, state
    if one.kind == "write":
        return True, one.value
    if one.kind == "add":
        after = (state or 0) + one.value
        return not one.answered or one.output == after, after
    if one.kind == "cas":
        done = state == one.expected
        return not one.answered or one.output == done, one.value if done else state
    if one.kind in {"push", "append"}:
        after = (*state, one.value)
        return not one.answered or one.kind == "append" or one.output == len(after), after
    if one.kind == "put":
        return not one.answered or one.output == (one.value not in state), state | {one.value}
    raise ValueError(f"no kind of operation: {one.kind}")


class Entry:
    """A call or a return in the order of time, linked to its neighbours."""

    __slots__ = ("after", "before", "bit", "call", "one", "partner")

    def __init__(self, one: Operation, bit: int, call: bool) -> None:
        self.one, self.bit, self.call = one, bit, call
        self.before: Entry | None = None
        self.after: Entry | None = None
        self.partner: Entry | None = None

    def unlink(self) -> None:
        assert self.before
        self.before.after = self.after
        if self.after:
            self.after.before = self.before

    def relink(self) -> None:
        assert self.before
        self.before.after = self
        if self.after:
            self.after.before = self


def in_order(operations: Sequence[Operation]) -> Entry:
    """Calls and returns as a list; at the same moment calls come first, so that such operations overlap."""
    moments: list[tuple[float, int, int, Entry]] = []
    for number, one in enumerate(operations):
        call, back = Entry(one, 1 << number, True), Entry(one, 1 << number, False)
        call.partner = back
        moments += [(one.start, 0, number, call), (one.end, 1, number, back)]
    moments.sort(key=lambda moment: moment[:3])
    head = last = Entry(Operation("", "", "", 0.0), 0, True)
    for *_, entry in moments:
        last.after, entry.before = entry, last
        last = entry
    return head


def useful(operations: Sequence[Operation]) -> list[Operation]:
    """Those that bear on the verdict: without an answer, only what may have been seen by somebody."""
    seen: set[Any] = set()
    last_change = last_read = float("-inf")
    compared = False  # Such answers tell of a value without naming it.
    for one in operations:
        if not one.answered:
            continue
        seen |= set(one.output) if isinstance(one.output, tuple | frozenset) else {one.output}
        compared |= one.kind in {"cas", "add"}
        if one.kind == "read":
            last_read = max(last_read, one.start)
        else:
            last_change = max(last_change, one.end)

    def may_show(one: Operation) -> bool:
        if one.answered or one.kind == "add":
            return True
        if one.kind in {"write", "cas"}:
            return compared or one.value in seen
        # What was put into a list or a set is in whatever is read later, and counts in answers before.
        return one.kind != "read" and (one.value in seen or last_read < last_change)

    return [one for one in operations if may_show(one)]


def register(operations: Sequence[Operation], initial: Any = None, seconds: float = 60.0) -> Verdict:
    """Judge the history of one key."""
    head = in_order(useful(operations))
    state, done = initial, 0
    tried: set[tuple[int, Any]] = set()
    path: list[tuple[Entry, Any]] = []
    entry = head.after
    deadline, turns = time.monotonic() + seconds, 0
    while entry is not None:
        turns += 1
        if not turns % 4096 and time.monotonic() > deadline:
            return Verdict.UNKNOWN
        if entry.call:
            possible, after = step(state, entry.one)
            if possible and (done | entry.bit, after) not in tried:
                tried.add((done | entry.bit, after))
                path.append((entry, state))
                state, done = after, done | entry.bit
                entry.unlink()
                assert entry.partner
                entry.partner.unlink()
                entry = head.after
                continue
            entry = entry.after
            continue
        if not entry.one.answered:
            return Verdict.OK  # Only what was never answered is left.
        if not path:
            return Verdict.ILLEGAL
        entry, state = path.pop()
        done &= ~entry.bit
        assert entry.partner
        entry.partner.relink()
        entry.relink()
        entry = entry.after
    return Verdict.OK


def judge(history: Iterable[Operation], initial: Any = None, seconds: float = 60.0) -> dict[str, Verdict]:
    """Judge every key by itself; one register does not depend on another."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for one in history:
        by_key[one.key].append(one)
    return {key: register(operations, initial, seconds) for key, operations in by_key.items()}
