"""A cluster in which time is a number: nodes replicate, health services decide, clients write and read.

What is real here: the verdicts (registry, decide), the roles (roles.assign), the evidence. What is a
model: nodes, network, store, and the order in which a health service acts, which is that of
health/act.py. Nodes crash and lose their memory, everybody pauses, messages are late or lost, links are
cut in one direction or in both. One seed is one history; `mutant` names a rule that somebody forgets.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastcache.health.decide import Check, Failure, Pace, next_check_in
from fastcache.health.evidence import Evidence, Report
from fastcache.health.groups import Document, first_to_hear, groups_of
from fastcache.health.registry import Member, Registry
from fastcache.health.roles import NodeView, View, assign
from fastcache.model import Health
from tests.history.linear import FOR_EVER, Operation
from tests.simulation.failover_node import SimulatedNode, by_slot

PACE = Pace(interval=0.3, suspect_interval=0.3, timeout=0.3, down_after=3, up_after=2)
SLOTS = 2
CLIENT_PATIENCE = 0.6


@dataclass
class Process:
    """What every simulated process has: a life, and whether it is stopped for the moment."""

    name: str
    life: int = 0
    alive: bool = True
    paused: bool = False
    waiting: list[tuple[int, Callable[[], None]]] = field(default_factory=list)


class Store:
    """What survives: the epoch, the document, and who leads until when."""

    def __init__(self, fenced: bool) -> None:
        self.document: Document = {"epoch": 0, "slots": [], "nodes": []}
        self.leader, self.until = "", 0.0
        self.fenced = fenced

    def campaign(self, name: str, now: float) -> bool:
        if self.leader != name and now < self.until:
            return False
        self.leader, self.until = name, now + 1.0
        return True

    def save(self, document: Document, after: int, name: str, now: float) -> bool:
        """Only for the leader, and only on top of the epoch it knew."""
        if self.fenced and (self.leader != name or now >= self.until or self.document["epoch"] != after):
            return False
        self.document = document
        return True


class World:
    """Everything, and the clock."""

    node_type: type[SimulatedNode] = SimulatedNode

    def __init__(
        self, seed: int, *, nodes: int = 3, copies: int = 1, mutant: str = "", services: int = 1
    ) -> None:
        self.dice = random.Random(seed)
        self.mutant = mutant
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = 0
        self.cut: set[tuple[str, str]] = set()
        self.loss = 0.0
        # Seconds that messages of a link take longer; the life of each process with which its messages died.
        self.slow: dict[tuple[str, str], float] = {}
        self.lost_with: dict[str, int] = {}
        # Told of every topology that is saved, before anybody hears of it.
        self.watchers: list[Callable[[Document, Document], None]] = []
        self.last: dict[tuple[str, str], float] = {}
        self.processes: dict[str, Process] = {}
        self.history: list[Operation] = []
        self.acknowledged: dict[tuple[int, int], str] = {}
        self.broken: list[str] = []
        self.published: dict[int, Document] = {}
        self.saved: dict[int, Document] = {}
        self.copies = copies
        # Who is away for longer is given up, and with it what it alone may hold.
        self.replace_after = 20.0
        self.store = Store(fenced=mutant != "store-not-fenced")
        self.nodes = {name: self.node_type(self, name) for name in "abcde"[:nodes]}
        self.services = [self.service(f"h{number}") for number in range(services)]
        self.clients = [Client(self, f"c{number}") for number in range(3)]
        self.values = 0

    def service(self, name: str) -> "Service":
        """A health service of this world."""
        return Service(self, name)

    # --- time and network ---------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.queue, (when, self.order, what))

    def later(self, owner: str, seconds: float, what: Callable[[], None]) -> None:
        """Something a process will do, unless it dies before; one that is stopped does it when it goes on."""
        process = self.processes[owner]
        life = process.life

        def due() -> None:
            if not process.alive or process.life != life:
                return
            if process.paused:
                process.waiting.append((life, what))
            else:
                what()

        self.at(self.now + seconds, due)

    def send(self, source: str, target: str, what: Callable[[], None], *, late: float = 0.0) -> bool:
        """Deliver in the order of sending, after a while, or never; says whether it was sent on its way.

        `late`: seconds for which this one is held up, so that others overtake it.
        """
        if (source, target) in self.cut or self.dice.random() < self.loss:
            return False
        slow = self.dice.random() < 0.01
        arrival = self.now + (self.dice.uniform(0.05, 0.25) if slow else self.dice.uniform(0.0003, 0.003))
        arrival += self.slow.get((source, target), 0.0)
        if late:
            arrival += late
        else:
            arrival = max(arrival, self.last.get((source, target), 0.0) + 1e-6)
            self.last[source, target] = arrival
        process = self.processes[target]
        life, born = process.life, self.processes[source].life

        def arrive() -> None:
            if not process.alive or process.life != life or self.lost_with.get(source, -1) >= born:
                return
            if process.paused:
                process.waiting.append((life, what))
            else:
                what()

        self.at(arrival, arrive)
        return True

    def run_until(self, when: float) -> None:
        while self.queue and self.queue[0][0] <= when:
            self.now, _, what = heapq.heappop(self.queue)
            what()
        self.now = when

    # --- faults -------------------------------------------------------------------------------------

    def pause(self, name: str, seconds: float) -> None:
        process = self.processes[name]
        if process.paused or not process.alive:
            return
        process.paused = True

        def go_on() -> None:
            process.paused = False
            waiting, process.waiting = process.waiting, []
            for life, what in waiting:
                if process.alive and process.life == life:
                    what()

        self.at(self.now + seconds, go_on)

    def crash(self, name: str, seconds: float, *, host: bool = False) -> None:
        """Memory is lost; what is on disk is there when it starts again.

        A whole `host` takes with it what its process had sent and nobody has received.
        """
        process = self.processes[name]
        if not process.alive:
            return
        if host:
            self.lost_with[name] = process.life
        process.alive = False
        process.life += 1
        process.waiting.clear()

        def start() -> None:
            process.alive = True
            node = self.nodes.get(name)
            if node:
                node.start()
            else:
                next(one for one in self.services if one.name == name).start()

        self.at(self.now + seconds, start)

    def safe_to_crash(self, name: str) -> bool:
        """Whether no single copy is lost: a second loss before the first is made good is not survivable."""
        return self.spared(name, self.store.document)

    def spared(self, name: str, document: Document) -> bool:
        """The same, by a topology."""
        runs = {node["id"]: node["run"] for node in document["nodes"]}
        groups = groups_of(document["slots"])
        whole = [
            one
            for one, node in self.nodes.items()
            if self.processes[one].alive and node.run == (runs.get(one) or node.run)
        ]
        return bool(groups) and all(
            group.main in whole
            and any(copy in whole and copy != name for copy in (group.main, *group.plain))
            and any(copy in whole for copy in group.plain)
            for group in groups
        )

    # --- what must hold -----------------------------------------------------------------------------

    def acknowledge(self, slot: int, epoch: int, name: str, replicas: tuple[str, ...]) -> None:
        """A strict write was acknowledged: one main at most can do that in an epoch, and never alone."""
        if not replicas:
            self.broken.append(f"{name} acknowledged slot {slot} alone in epoch {epoch}")
        other = self.acknowledged.setdefault((slot, epoch), name)
        if other != name:
            self.broken.append(f"{other} and {name} both acknowledged slot {slot} in epoch {epoch}")

    def obeyed(self, name: str, before: int, document: Document) -> None:
        """A node obeys a topology: there is one of each epoch, and nobody goes back."""
        epoch = document["epoch"]
        if self.published.setdefault(epoch, document) != document:
            self.broken.append(f"two topologies have epoch {epoch}")
        if epoch < before:
            self.broken.append(f"{name} went back from epoch {before} to {epoch}")


class Service:
    """A health service: checks, decides, saves, delivers, announces."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        world.processes[name] = Process(name)
        self.start()

    def start(self) -> None:
        self.leading = False
        self.publishing = False
        # While new mains hear of a topology first, nobody else is told of it.
        self.delivering = False
        self.document: Document = {"epoch": 0, "slots": [], "nodes": []}
        self.registry = Registry(PACE)
        self.evidence = Evidence()
        self.down_since: dict[str, float] = {}
        self.unwilling: dict[str, float] = {}
        for name in self.world.nodes:
            self.registry.put(Member(id=name, host=name, port=1))
            self.later(self.world.dice.random() * PACE.interval, self.checking(name))
        self.campaign()

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.world.later(self.name, seconds, what)

    def campaign(self) -> None:
        leads = self.world.store.campaign(self.name, self.world.now)
        if leads and not self.leading:
            self.document = self.world.store.document
        self.leading = leads
        self.later(0.25, self.campaign)

    # --- checks -------------------------------------------------------------------------------------

    def checking(self, name: str) -> Callable[[], None]:
        def check() -> None:
            world, began = self.world, self.world.now
            ended: list[bool] = []

            def end(failure: Failure | None, report: Report | None = None) -> None:
                if ended:
                    return
                ended.append(True)
                self.take(name, Check(world.now, (world.now - began) * 1000, failure, str(failure)), report)
                record = self.registry.find(name, "node")
                assert record
                pause = max(next_check_in(record.judgement, PACE, urgent=True) - (world.now - began), 0.0)
                self.later(pause, self.checking(name))

            node = world.nodes[name]
            if not world.processes[name].alive and (self.name, name) not in world.cut:
                self.later(0.001, lambda: end(Failure.REFUSED))
            else:
                world.send(self.name, name, lambda: self.asked(node, end))
            self.later(PACE.timeout, lambda: end(Failure.TIMEOUT))

        return check

    def asked(self, node: SimulatedNode, end: Callable[..., None]) -> None:
        """At the node: what it is at this moment."""
        report = node.report()
        self.world.send(node.name, self.name, lambda: end(None, report))

    def take(self, name: str, check: Check, report: Report | None) -> None:
        record = self.registry.find(name, "node")
        assert record
        self.registry.observe(record, check, self.world.now)
        if record.judgement.status is Health.UNHEALTHY:
            self.down_since.setdefault(name, self.world.now)
        else:
            self.down_since.pop(name, None)
        if report:
            self.evidence.take(report, self.document, self.world.now)
            secret = self.publishing and self.delivering
            if self.leading and report.epoch < self.document["epoch"] and not secret:
                self.tell(name, lambda _agreed: None)
        self.touch()

    def grant(self, main: str, copy: str, epoch: int) -> None:
        """A main asks to go on alone."""
        if any(g.main == main and copy in g.replicas for g in groups_of(self.document["slots"])):
            self.evidence.ask(main, copy, epoch)
            self.touch()

    # --- deciding and acting, in the order of act.py ------------------------------------------------

    def touch(self) -> None:
        if self.leading and not self.publishing:
            self.publishing = True
            self.later(0.005, self.publish)

    def view(self) -> View:
        nodes = {}
        for record in self.registry:
            name = record.member.id
            away = self.world.now - self.down_since.get(name, self.world.now)
            run = "" if self.world.mutant == "run-not-checked" else self.evidence.runs.get(name, "")
            unwilling = self.world.now < self.unwilling.get(name, 0.0)
            silent = record.judgement.failures > 0
            nodes[name] = NodeView(record.judgement.status, run, away, silent, unwilling)
        return View(
            nodes,
            self.evidence.links,
            self.evidence.received,
            self.evidence.grants(self.document["epoch"]),
            strict=True,
            copies=self.world.copies,
            replace_after=self.world.replace_after,
            patience=0.25,
            # Longer than the slowest copy of a slot, shorter than that of all.
            resync_patience=0.7,
            now=self.world.now,
        )

    def publish(self, asked: frozenset[str] = frozenset()) -> None:
        """Decide; ask who is to become a main whether it still is what we take it for; then save."""
        before = self.document
        view = self.view()
        if not before["slots"] and any(node.status is not Health.HEALTHY for node in view.nodes.values()):
            self.publishing = False
            return
        decision = assign(mutated_before(before, view, self.world.mutant), view, self.place)
        after = {
            "epoch": before["epoch"],
            "slots": mutated_after(decision.slots, self.world.mutant),
            "nodes": [{"id": name, "run": run} for name, run in sorted(decision.runs.items())],
        }
        if after == before:
            self.publishing = False
            return
        heirs = frozenset(first_to_hear(before, after))
        if not heirs <= asked:
            self.ask_heirs(heirs)
            return
        after["epoch"] += 1
        if self.world.mutant == "announce-before-save":
            self.document = after
            for name in self.world.nodes:
                self.tell(name, lambda _agreed: None)
        # A rule of the store only shows when something happens between deciding and saving.
        pause = 0.3 if self.world.mutant in {"announce-before-save", "store-not-fenced"} else 0.004
        self.later(self.world.dice.uniform(0.0, pause), lambda: self.save(before, after))

    def ask_heirs(self, heirs: frozenset[str]) -> None:
        """A last look before a promotion: what was seen at the last check may be over."""
        missing = set(heirs)

        def heard(name: str, report: Report) -> None:
            if name in missing:
                missing.discard(name)
                self.evidence.take(report, self.document, self.world.now)
                if not missing:
                    self.publish(heirs)

        def over() -> None:
            if missing:
                for name in missing:
                    self.unwilling[name] = self.world.now + 1.0
                missing.clear()
                self.publish(heirs)

        for name in sorted(heirs):
            node = self.world.nodes[name]

            def asked(node: SimulatedNode = node) -> None:
                report = node.report()
                self.world.send(node.name, self.name, lambda: heard(node.name, report))

            self.world.send(self.name, name, asked)
        self.later(0.1, over)

    def save(self, before: Document, after: Document) -> None:
        if not self.world.store.save(after, before["epoch"], self.name, self.world.now):
            self.leading = self.publishing = False
            self.document = self.world.store.document
            return
        if self.world.saved.setdefault(after["epoch"], after) is not after:
            self.world.broken.append(f"epoch {after['epoch']} was saved twice")
        for watcher in list(self.world.watchers):
            watcher(before, after)
        self.later(self.world.dice.uniform(0.0, 0.002), lambda: self.deliver(before, after))

    def deliver(self, before: Document, after: Document) -> None:
        """New mains hear first; whether they agree or do not answer, the others hear next."""
        self.document, self.delivering = after, True
        first = list(first_to_hear(before, after))
        missing = set(first)
        announced: list[bool] = []

        def heard(name: str) -> Callable[[bool], None]:
            def note(agreed: bool) -> None:
                missing.discard(name)
                if not agreed and self.document is after:
                    # It restarted this very moment: it never was the main, so all is as before.
                    # Whoever heard of it hears the next epoch; this one is told to nobody else.
                    self.document = {**before, "epoch": after["epoch"]}
                    announced.append(True)
                    self.publishing = False
                    self.touch()
                if not missing:
                    announce()

            return note

        def announce() -> None:
            if not announced:
                announced.append(True)
                for name in self.world.nodes:
                    self.tell(name, lambda _agreed: None)
                self.publishing = self.delivering = False

        for name in first:
            self.tell(name, heard(name))
        self.later(0.2 if first else 0.0, announce)

    def tell(self, name: str, then: Callable[[bool], None]) -> None:
        document, world = self.document, self.world

        def arrive() -> None:
            agreed = world.nodes[name].adopt(document)
            world.send(name, self.name, lambda: then(agreed))

        # Topologies reach a node by several ways, and one may be slow.
        late = world.dice.uniform(0.1, 1.5) if world.dice.random() < 0.05 else 0.0
        world.send(self.name, name, arrive, late=late)

    def place(self, slots: list[Document], away: frozenset[str]) -> list[Document]:
        """Mains stay; copies on the next nodes of the circle that are not away."""
        mains = by_slot(slots)
        names = sorted(self.world.nodes)
        placed = []
        for slot in range(SLOTS):
            held = mains.get(slot)
            main = held.main if held and held.main in names else names[slot % len(names)]
            start = names.index(main)
            circle = [names[(start + step) % len(names)] for step in range(1, len(names))]
            kept = [name for name in (held.copies if held else ()) if name not in away and name != main]
            fresh = [name for name in circle if name not in away and name not in kept]
            placed.append(
                {"main": main, "ranges": str(slot), "replicas": [*kept, *fresh][: self.world.copies]}
            )
        return placed


def mutated_before(document: Document, view: View, mutant: str) -> Document:
    """Rules of promotion that somebody forgets."""
    if mutant != "learner-promoted":
        return document
    gone = {name for name, node in view.nodes.items() if node.status is Health.UNHEALTHY}
    slots = [
        one
        if one["main"] not in gone
        else {**one, "replicas": [*one["replicas"], *one.get("learners", [])], "learners": []}
        for one in document["slots"]
    ]
    return {**document, "slots": slots}


def mutated_after(slots: list[Document], mutant: str) -> list[Document]:
    """Learners that become replicas in one step."""
    if mutant != "joined-in-one-step":
        return slots
    return [
        {**one, "learners": [name for name in one.get("learners", []) if name not in one["replicas"]]}
        for one in slots
    ]


class Client:
    """Reads, writes, compares and sets, one operation after another, and notes what it was told."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.number = 0
        self.busy = False
        self.resting = False
        self.seen: dict[int, Any] = {}
        world.processes[name] = Process(name)
        world.later(name, world.dice.random(), self.go)

    def go(self) -> None:
        if self.resting:
            return
        self.ask(
            self.world.dice.randrange(SLOTS),
            self.world.dice.choice(["read", "read", "write", "write", "cas"]),
        )

    def main_of(self, slot: int) -> str:
        """The main as some nodes know it that this client can reach; it is not always up to date."""
        cut, dice = self.world.cut, self.world.dice
        near = [
            node.document
            for name, node in self.world.nodes.items()
            if (self.name, name) not in cut and (name, self.name) not in cut
        ] or [self.world.store.document]
        document = max(
            dice.sample(near, min(len(near), dice.choice([1, 2, 3]))), key=lambda one: one["epoch"]
        )
        found = by_slot(document["slots"]).get(slot)
        return found.main if found else self.world.dice.choice(sorted(self.world.nodes))

    def ask(self, slot: int, kind: str, then: Callable[[bool], None] | None = None) -> None:
        world, start = self.world, self.world.now
        target = self.main_of(slot)
        world.values += 1
        value = None if kind == "read" else world.values
        expected = self.seen.get(slot) if kind == "cas" else None
        self.number += 1
        number = self.number
        ended: list[bool] = []

        def end(answer: str, output: Any = None) -> None:
            """`ok`, `refused` (surely not done), or `unknown`."""
            if ended:
                return
            ended.append(True)
            who = f"{self.name}.{number}"
            if answer == "ok":
                if kind != "cas":
                    self.seen[slot] = output if kind == "read" else value
                made = Operation(who, str(slot), kind, start, world.now, value, expected, output)
                world.history.append(made)
            elif answer == "unknown" and kind != "read":
                world.history.append(Operation(who, str(slot), kind, start, FOR_EVER, value, expected))
            if then:
                then(answer == "ok")
            else:
                world.later(self.name, world.dice.uniform(0.02, 0.15), self.go)

        def answer(what: str, output: Any = None) -> None:
            """At the node: the answer sets out."""
            world.send(target, self.name, lambda: end(what, output))

        node = world.nodes[target]
        sent = world.send(self.name, target, lambda: node.request(slot, kind, value, expected, answer))
        patience = CLIENT_PATIENCE if sent else 0.1
        world.later(self.name, patience, lambda: end("unknown" if sent else "refused"))

    def read_until_answered(self, slot: int) -> None:
        """After everything was healed: somebody must answer."""

        def then(done: bool) -> None:
            if not done:
                self.world.later(self.name, 0.1, lambda: self.ask(slot, "read", then))
            else:
                self.answered = True

        self.answered = False
        self.ask(slot, "read", then)
