"""A world for the health service in which time is a number: nodes die, hang and flap, links lose and part.

The judging code is the real one (registry and decide); what is simulated is the network, the proxies, and the
schedule of checks, which follows the same rule as the daemon's. One seed, one history.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fastcache.health.decide import Check, Failure, Pace, next_check_in
from fastcache.health.registry import Member, Outcome, Registry
from fastcache.model import Health

EPOCH = 1_700_000_000.0  # wall time at which every world begins


@dataclass
class SimulatedNode:
    """How one node is at the moment."""

    alive: bool = True
    hanging: bool = False
    reachable_by_us: bool = True
    reachable_by_proxies: bool = True


@dataclass
class World:
    """Nodes, proxies with traffic, and one health service."""

    seed: int
    pace: Pace
    nodes: int = 5
    proxies: int = 0
    loss: float = 0.0
    requests_per_second: float = 20.0
    now: float = 0.0
    trace: list[tuple[float, str, Health]] = field(default_factory=list)
    checks: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.registry = Registry(self.pace)
        self.state = {f"n{number}": SimulatedNode() for number in range(self.nodes)}
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = 0
        self.due: dict[str, int] = {}
        self.last_check: dict[str, float] = {}
        self.checking: set[str] = set()
        for name in self.state:
            self.registry.put(Member(id=name, host=name, port=1))
            self.checks[name] = []
            self.schedule_check(name, self.dice.random() * self.pace.interval)
        for number in range(self.proxies):
            self.registry.put(Member(id=f"p{number}", host="h", port=1, kind="proxy"))
            for name in self.state:
                self.at(self.dice.expovariate(self.requests_per_second), self.request(f"p{number}", name))

    # --- time ---------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> int:
        """Do something at a time; what was scheduled first comes first."""
        self.order += 1
        heapq.heappush(self.queue, (when, self.order, what))
        return self.order

    def run_until(self, when: float) -> None:
        """Let time pass."""
        while self.queue and self.queue[0][0] <= when:
            self.now, _, what = heapq.heappop(self.queue)
            what()
        self.now = when

    # --- checks, as the daemon makes them -----------------------------------------------------------

    def schedule_check(self, name: str, when: float) -> None:
        token = self.order + 1
        self.due[name] = token
        self.at(when, lambda: self.begin_check(name, token))

    def begin_check(self, name: str, token: int) -> None:
        if self.due[name] != token:
            return  # an earlier one took its place
        self.last_check[name] = self.now
        self.checks[name].append(self.now)
        self.checking.add(name)
        failure, after = self.outcome(name)
        began = self.now
        self.at(self.now + after, lambda: self.end_check(name, began, failure))

    def outcome(self, name: str) -> tuple[Failure | None, float]:
        """What a check that begins now will find, and how long it takes."""
        node = self.state[name]
        if not node.reachable_by_us or self.dice.random() < self.loss:
            return Failure.TIMEOUT, self.pace.timeout
        if not node.alive:
            return Failure.REFUSED, self.dice.uniform(0.0001, 0.002)
        if node.hanging:
            return Failure.TIMEOUT, self.pace.timeout
        return None, self.dice.uniform(0.0001, 0.005)

    def end_check(self, name: str, began: float, failure: Failure | None) -> None:
        self.checking.discard(name)
        record = self.registry.find(name, "node")
        assert record
        check = Check(self.now, (self.now - began) * 1000, failure, str(failure or ""))
        outcome = self.registry.observe(record, check, EPOCH + self.now)
        if outcome is Outcome.CHANGED:
            self.trace.append((self.now, name, record.judgement.status))
        if outcome is Outcome.HELD:
            for other in self.registry.of_kind("node"):
                if other.judgement.answered_at < record.judgement.failing_since:
                    self.hurry(other.member.id)
        self.schedule_check(name, max(self.now, began + next_check_in(record.judgement, self.pace)))

    # --- proxies ------------------------------------------------------------------------------------

    def request(self, proxy: str, name: str) -> Callable[[], None]:
        """A proxy sends a request to a node, reports when it fails, and sends the next one later."""

        def send() -> None:
            node = self.state[name]
            if not (node.alive and node.reachable_by_proxies) or node.hanging:
                self.report(proxy, name)
            self.at(self.now + self.dice.expovariate(self.requests_per_second), send)

        return send

    def report(self, proxy: str, name: str) -> None:
        """A report reaches the health service and brings the check forward."""
        record = self.registry.find(name, "node")
        assert record
        self.registry.report(record, proxy, self.now)
        self.hurry(name)

    def hurry(self, name: str) -> None:
        """Bring a check forward, but not closer to the last one than that of a suspect."""
        if name not in self.checking:
            earliest = self.last_check.get(name, -1e9) + self.pace.suspect_interval
            self.schedule_check(name, max(self.now, earliest))

    # --- questions ----------------------------------------------------------------------------------

    def status(self, name: str) -> Health:
        record = self.registry.find(name, "node")
        assert record
        return record.judgement.status

    def changed_at(self, name: str, status: Health, since: float) -> float | None:
        """When a node first got this verdict after a time."""
        return next(
            (at for at, who, what in self.trace if who == name and what is status and at >= since), None
        )

    def changes(self, name: str) -> int:
        return sum(who == name for _, who, _ in self.trace)
