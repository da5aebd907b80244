"""The cluster of failover_world.py, in which slots move while nodes and health services fall.

What is real here: roles, verdicts, and moves.decided. The order in which a health service acts is that of
act.py and rebalance.py. `target` says which node each slot is to have as its main; it changes now and then.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fastcache.health import moves
from fastcache.health.decide import Check
from fastcache.health.evidence import Report
from fastcache.health.groups import Document, first_to_hear, groups_of, mask_of
from fastcache.health.moves import FLIPPED, Limits, Row
from fastcache.health.roles import View, assign
from fastcache.model import Health
from tests.simulation.failover_node import SimulatedNode
from tests.simulation.failover_world import SLOTS, Service, World
from tests.simulation.moving_node import MovingNode

LOOK = 0.05


class MovingWorld(World):
    """Everything, and where slots are to be."""

    node_type: type[SimulatedNode] = MovingNode
    nodes: dict[str, Any]

    def __init__(self, seed: int, **options: Any) -> None:
        self.target: dict[int, str] = {}
        self.moved = 0
        # Streams of moves cannot begin before.
        self.torn_until = 0.0
        super().__init__(seed, **options)

    def service(self, name: str) -> "MovingService":
        return MovingService(self, name)

    def draw_target(self) -> None:
        """Slots are to be elsewhere."""
        self.target = {slot: self.dice.choice(sorted(self.nodes)) for slot in range(SLOTS)}
        for service in self.services:
            service.touch()

    def safe_to_crash(self, name: str) -> bool:
        """Not before anybody has heard of the flip that makes it dispensable: it may yet be taken back."""
        heard = max((node.document for node in self.nodes.values()), key=lambda one: int(one["epoch"]))
        return super().safe_to_crash(name) and all(
            self.spared(name, one) for one in (heard, *self.before_flips())
        )

    def before_flips(self) -> Iterator[Document]:
        """Topologies from before flips of which their givers have not heard.

        Should the answer of its taker not come, such a flip is taken back, even if the taker has heard of it.
        """
        for move in self.store.document.get("moves", ()):
            if move["state"] != FLIPPED:
                continue
            giver = self.nodes[move["from"]].document.get("moves", ())
            if not any((one["id"], one["state"]) == (move["id"], FLIPPED) for one in giver):
                yield max(
                    (
                        document
                        for document in self.saved.values()
                        for one in document.get("moves", ())
                        if one["id"] == move["id"] and one["state"] != FLIPPED
                    ),
                    key=lambda one: int(one["epoch"]),
                )

    def dispensable(self, name: str) -> bool:
        """Whether all that a node holds is held by another one that is there, whatever else is missing."""
        document = self.store.document
        runs = {node["id"]: node["run"] for node in document["nodes"]}
        whole = {
            one
            for one, node in self.nodes.items()
            if one != name and self.processes[one].alive and node.run == runs.get(one)
        }
        concerned = (one for one in groups_of(document["slots"]) if name in (one.main, *one.copies))
        return all(whole.intersection((one.main, *one.plain)) for one in concerned)

    def at_rest(self) -> bool:
        """Whether every slot is where it is to be, and nothing moves."""
        document = self.store.document
        mains = moves.mains_of(document)
        return not document.get("moves") and all(mains.get(s) == name for s, name in self.target.items())


class MovingService(Service):
    """A health service that moves slots as well."""

    world: MovingWorld

    def start(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.unheard: set[str] = set()
        super().start()
        self.look()

    # --- looking ------------------------------------------------------------------------------------

    def look(self) -> None:
        """While slots move both sides are asked often."""
        self.later(LOOK, self.look)
        listed = self.document.get("moves", ())
        if not self.leading or not listed:
            if self.leading and self.world.target and not self.world.at_rest():
                self.touch()
            return
        for name in sorted({name for move in listed for name in (move["from"], move["to"])}):
            node = self.world.nodes[name]

            def asked(node: MovingNode = node) -> None:
                rows = node.move_rows()
                self.world.send(node.name, self.name, lambda: self.hear(node.name, rows))

            self.world.send(self.name, name, asked)

    def hear(self, name: str, rows: dict[tuple[str, str], Row]) -> None:
        self.rows = {key: row for key, row in self.rows.items() if key[0] != name} | rows
        self.touch()

    def take(self, name: str, check: Check, report: Report | None) -> None:
        if report is None:
            self.hear(name, {})
        super().take(name, check, report)

    # --- deciding and acting ------------------------------------------------------------------------

    def view(self) -> View:
        moving: dict[tuple[str, str], int] = {}
        for move in self.document.get("moves", ()):
            if move["state"] != FLIPPED:
                pair = (move["from"], move["to"])
                moving[pair] = moving.get(pair, 0) | mask_of(move["ranges"])
        return replace(super().view(), moving=moving)

    def publish(self, asked: frozenset[str] = frozenset()) -> None:
        before = {"moves": [], **self.document}
        view = self.view()
        if not before["slots"] and any(node.status is not Health.HEALTHY for node in view.nodes.values()):
            self.publishing = False
            return
        decision = assign(before, view, self.place)
        after: Document = {
            "epoch": before["epoch"],
            "slots": decision.slots,
            "nodes": [{"id": name, "run": run} for name, run in sorted(decision.runs.items())],
            "moves": before["moves"],
        }
        heirs = frozenset(first_to_hear(before, after))
        if not heirs <= asked:
            self.ask_heirs(heirs)
            return
        self.move(after, view)
        if after == before:
            self.publishing = False
            return
        after["epoch"] += 1
        self.later(self.world.dice.uniform(0.0, 0.004), lambda: self.save(before, after))

    def move(self, document: Document, view: View) -> None:
        """Every move a step further."""
        known = moves.View(
            nodes={name: node.status for name, node in view.nodes.items()},
            rows=self.rows,
            unheard=frozenset(self.unheard),
            replicated=True,
        )
        planned = moves.steps(document, self.world.target) if document["slots"] else []
        decision = moves.decided(document, planned, known, Limits(1, 1))
        if self.world.mutant == "flipped-unjoined":
            decision = flipped_at_once(decision)
        document["slots"], document["moves"] = decision.slots, decision.moves
        self.unheard &= {move["id"] for move in decision.moves}

    def deliver(self, before: Document, after: Document) -> None:
        """New mains hear first; of a flip its taker must, and then its giver, before anybody else."""
        known = {one["id"] for one in before.get("moves", ()) if one["state"] == FLIPPED}
        flips = [one for one in after["moves"] if one["state"] == FLIPPED and one["id"] not in known]
        if not flips:
            super().deliver(before, after)
            return
        self.document, self.delivering = after, True
        takers = {one["to"] for one in flips}
        first = set(first_to_hear(before, after)) | takers
        missing, over = set(first), list[bool]()

        def revert() -> None:
            """No giver has heard of it, so all is as before, under the next epoch."""
            if not over and self.document is after:
                over.append(True)
                self.unheard |= {one["id"] for one in flips}
                self.document = {**before, "epoch": after["epoch"]}
                self.publishing = False
                self.touch()

        def heard(name: str) -> Callable[[bool], None]:
            def note(agreed: bool) -> None:
                if not agreed:
                    revert()
                missing.discard(name)
                if not missing and not over:
                    over.append(True)
                    self.tell_givers({one["from"] for one in flips})

            return note

        for name in sorted(first):
            self.tell(name, heard(name))
        self.later(0.2, revert)

    def tell_givers(self, givers: set[str]) -> None:
        """Then everybody else."""
        after, done = self.document, list[bool]()
        missing = set(givers)

        def announce() -> None:
            if not done and self.document is after:
                done.append(True)
                for name in self.world.nodes:
                    self.tell(name, lambda _agreed: None)
                self.publishing = self.delivering = False

        def heard(name: str) -> Callable[[bool], None]:
            def note(_agreed: bool) -> None:
                missing.discard(name)
                if not missing:
                    announce()

            return note

        for name in sorted(givers):
            self.tell(name, heard(name))
        self.later(0.2, announce)


def flipped_at_once(decision: moves.Decision) -> moves.Decision:
    """The giver never waits for the taker."""
    for move in list(decision.moves):
        if move["state"] == moves.JOINED:
            decision.moves.remove(move)
            decision.flip(move, (move["from"],))
    return decision
