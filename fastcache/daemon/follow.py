"""How a lean process follows the topology: node and proxy alike.

Where it comes from, best first: the health service (followed for ever), the file in which the last one was
kept, a static list of nodes. A higher epoch always wins. A proxy has its topology kept here; a node's core
keeps its own, because topologies reach it by other ways too.
"""

import posix
import time

from fastcache import _core
from fastcache.daemon.exchange import Trust, exchange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastcache.daemon.lean import Log

# A question to the health service stays open so long; then it is asked anew.
POLL_SECONDS = 25
ANSWER_SECONDS = 5.0
# For the first topology at the start, when an older one is known or none.
FIRST_SECONDS = 2.0
PAUSE_SECONDS = 1.0
# The health service holds writes while copies catch up. Longer than this nobody waits to stop, however often
# it is asked; a stop ends soon after that in any case (HAND_OVER_SECONDS in lean.py).
LEAVE_SECONDS = 9.0
# Who has no copy to hand over to yet, or does not answer, is asked again after so long, then later.
AGAIN_SECONDS, AGAIN_AT_MOST = 0.1, 1.0
NOT_MODIFIED, OK, CREATED = 304, 200, 201
# To these there will be no other answer while we stop.
FINAL = {404, 409}


class Follower:
    """Keeps a node or a proxy on the newest topology, which it hands to `use`."""

    def __init__(
        self, own: dict[str, str], log: "Log", use: "Callable[[_core.Topology], object]", *, keeps: bool
    ) -> None:
        self.use = use
        self.keeps = keeps
        self.log = log
        self.services = own.get("health", "").split()
        Trust.authority = own.get("authority", "")
        self.file = own.get("topology-file", "")
        self.registration = own.get("registration", "")
        self.key = own.get("admin-key", "")
        self.topology: _core.Topology | None = None
        self.heard = True  # so that the first failure is told

    @property
    def epoch(self) -> int:
        """That of the topology in force; 0 when there is none."""
        return self.topology.epoch if self.topology else 0

    def first(self, static: str) -> None:
        """Have a topology before the first client comes, if there is one to be had."""
        if static:
            self.topology = _core.Topology(static.encode())
        if self.file:
            try:
                kept = _core.Topology.load(self.file)
            except (OSError, ValueError) as error:
                if exists(self.file):
                    self.log.write("error", "the kept topology is of no use", error=error)
            else:
                # A static list that was changed outranks the file that was kept by an older one.
                if not static or kept.epoch > 0:
                    self.topology = kept
        for place in self.services:
            try:
                status, body = exchange(place, "GET", "/topology", FIRST_SECONDS)
                if status == OK:
                    self.obey(_core.Topology(body), place)
                    return
            except (OSError, ValueError):
                continue

    def obey(self, topology: _core.Topology, origin: str) -> None:
        """Route by a topology, and keep it, unless it is older than that in force."""
        if self.topology and topology.epoch <= self.topology.epoch:
            return
        self.topology = topology
        self.use(topology)
        self.log.write("info", "topology", epoch=topology.epoch, nodes=len(topology.node_ids), origin=origin)
        if self.file and self.keeps:
            try:
                topology.save(self.file)
            except OSError as error:
                self.log.write("error", "the topology cannot be kept", file=self.file, error=error)

    def follow(self) -> None:
        """Ask the health services for ever, the next one when one does not answer."""
        while True:
            for place in self.services:
                self.follow_one(place)
            time.sleep(PAUSE_SECONDS)

    def follow_one(self, place: str) -> None:
        """Ask one service for news until it fails."""
        registered = not self.registration
        while True:
            try:
                registered = registered or self.register(place)
                target = f"/topology?after={self.epoch}&timeout={POLL_SECONDS}"
                status, body = exchange(place, "GET", target, POLL_SECONDS + ANSWER_SECONDS)
                if status == OK:
                    self.obey(_core.Topology(body), place)
                elif status != NOT_MODIFIED:
                    raise OSError(f"status {status}")
            except (OSError, ValueError) as error:
                if self.heard:
                    self.log.write("warning", "the health service does not answer", place=place, error=error)
                self.heard = False
                return
            if not self.heard:
                self.log.write("info", "the health service answers again", place=place)
            self.heard = True

    def leave(self, body: str, seconds: float = LEAVE_SECONDS) -> str:
        """Have copies take over what the node named in `body` is the main of; says why when they do not.

        Whoever has no answer yet is asked again while there is time: a copy may be about to be in sync, a
        health service about to lead.
        """
        deadline, pause = time.monotonic() + seconds, AGAIN_SECONDS
        while True:
            why, final = self.asked_to_leave(body, deadline)
            if final or not self.services or time.monotonic() + pause >= deadline:
                return why
            time.sleep(pause)
            pause = min(2 * pause, AGAIN_AT_MOST)

    def asked_to_leave(self, body: str, deadline: float) -> tuple[str, bool]:
        """Why nobody takes over, empty when somebody has, and whether that is the last word."""
        last = "no health service answers"
        for place in self.services:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                status, answer = exchange(place, "POST", "/leaving", left, body=body)
            except (OSError, ValueError):
                continue
            if status == OK:
                return "", True
            last = answer[:200].decode("utf-8", "replace")
            if status in FINAL:
                return last, True
            # Another one leads, or none of the copies is ready.
        return last, False

    def register(self, place: str) -> bool:
        """Make ourselves known; a refusal is told once and not repeated at this service."""
        body = f'{self.registration[:-1]}, "epoch": {self.epoch}}}'
        headers = f"X-Admin-Key: {self.key}\r\n" if self.key else ""
        status, answer = exchange(place, "POST", "/proxies", ANSWER_SECONDS, body=body, headers=headers)
        if status not in {OK, CREATED}:
            words = answer[:200].decode("utf-8", "replace")
            self.log.write("warning", "not registered", place=place, status=status, answer=words)
        return True


def exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True
