"""How fast slots may be copied, so that nobody notices. Pure: figures in, figures out.

What is measured is how long nodes that take part in moves take to answer a question of ours: it waits in the
same queue as everybody's requests. While the slowest of a hundred answers takes longer than the budget
allows, copying is slowed down; when there is room it goes faster again, step by step.
"""

from collections import deque

# Answers that are looked at together: a few seconds of them.
WINDOW = 100
# With fewer nothing is decided.
ENOUGH = 20
# Bytes a second: where a budget of time begins, what it never falls below, and what it never exceeds.
BEGIN, LEAST, MOST = 50e6, 0.5e6, 1000e6
SLOWER, FASTER = 0.7, 1.1


class Pace:
    """The pace at this moment."""

    def __init__(self) -> None:
        self.answers: deque[float] = deque(maxlen=WINDOW)
        # Bytes a second that one node may copy; 0 for no limit.
        self.now = 0.0
        # Answers noted since the last change: a change must show before the next.
        self.fresh = 0

    def note(self, milliseconds: float) -> None:
        """How long an answer took."""
        self.answers.append(milliseconds)
        self.fresh += 1

    def p99(self) -> float:
        """What the 99th of a hundred answers took, ms."""
        ordered = sorted(self.answers)
        return ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)] if ordered else 0.0

    def next(self, most: float, p99_ms: float) -> int:
        """The pace from now on, with at most so many bytes a second and such answers (0: no limit)."""
        if not p99_ms:
            self.now = most
            return int(self.now)
        limit = most or MOST
        self.now = min(self.now or BEGIN, limit)
        if self.fresh >= ENOUGH:
            slow = self.p99() > p99_ms
            self.now = min(max(self.now * (SLOWER if slow else FASTER), LEAST), limit)
            self.fresh = 0
            if slow:
                self.answers.clear()
        return int(self.now)
