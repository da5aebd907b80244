"""How fast slots may move, so that nobody notices. Pure: figures in, figures out.

What is measured is how long nodes that take part in moves take to answer a question of ours: it waits in the
same queue as everybody's requests. While the slowest of a hundred answers takes longer than the budget
allows, copying is slowed down; when there is room it goes faster again, step by step.

Each step of a move is a new topology, which all nodes and proxies have to read. While clients ask, moves
begin so far apart that those who wait for that stay few (`move-share`), whatever it costs on these machines.
"""

from collections import deque

from fastcache.health.impact import slowest

# Answers that are looked at together: a few seconds of them.
WINDOW = 100
# With fewer nothing is decided.
ENOUGH = 20
# Bytes a second: where a budget of time begins, what it never falls below, and what it never exceeds.
BEGIN, LEAST, MOST = 50e6, 0.5e6, 1000e6
SLOWER, FASTER = 0.7, 1.1
# A node that serves so many requests a second has clients who would notice. Our own questions are fewer.
BUSY_REQUESTS = 200
# Seconds over which requests are counted, at least.
COUNTING = 0.1
# Seconds that the next move waits, at most.
MOST_REST = 5.0


class Pace:
    """The pace at this moment."""

    def __init__(self) -> None:
        # Seconds that steps have taken, each until everybody has its topology, since a move was begun last.
        self.steps = 0.0
        # Node -> (when its requests were counted, how many there had been, how many came in a second).
        self.counted: dict[str, tuple[float, int, float]] = {}
        self.answers: deque[float] = deque(maxlen=WINDOW)
        # Bytes a second that one node may copy; 0 for no limit.
        self.now = 0.0
        # Answers noted since the last change: a change must show before the next.
        self.fresh = 0

    def note(self, milliseconds: float) -> None:
        """How long an answer took."""
        self.answers.append(milliseconds)
        self.fresh += 1

    def note_step(self, seconds: float, *, begins: bool = False) -> None:
        """How long a step of moves took, until everybody had it; whether one begins by it."""
        self.steps = seconds + (0.0 if begins else self.steps)

    def note_requests(self, node: str, requests: int, at: float) -> None:
        """How many requests a node has served in its life."""
        since, before, rate = self.counted.get(node, (at, requests, 0.0))
        if requests < before:  # Another life.
            since, before = at, requests
        if at - since >= COUNTING:
            since, before, rate = at, requests, (requests - before) / (at - since)
        self.counted[node] = (since, before, rate)

    def rest(self, share: float) -> float:
        """Seconds from one move's beginning to the next's: steps may be felt in that part of the time."""
        if not any(rate >= BUSY_REQUESTS for _, _, rate in self.counted.values()):
            return 0.0
        return min(self.steps / share, MOST_REST)

    def p99(self) -> float:
        """What the 99th of a hundred answers took, ms."""
        return slowest(self.answers) or 0.0

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
