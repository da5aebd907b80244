"""Keys that live for some seconds, watched: none may go a second early, none be served a second late."""

import random
import threading
import time
from dataclasses import dataclass, field

from tests.torture.clients import Client, Keys
from tests.torture.cluster import Fleet
from tests.torture.workloads import Refusal, Words

LEEWAY = 1.0
COUNT = 150


@dataclass
class Mortal:
    """A key, and between which moments its end is due."""

    key: str
    soonest: float
    latest: float


@dataclass(eq=False)
class Watcher(threading.Thread):
    """Gives keys their time, and looks at them until the last is over."""

    fleet: Fleet
    host: str
    seed: int
    looked: int = 0
    wrong: list[str] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.client = Client(self.fleet, self.host, self.seed, Keys([]), 0)
        self.dice = random.Random(self.seed)
        self.main: dict[str, str] = {}

    def ask(self, key: str, words: Words) -> object:
        """The reply of whoever has the key; a Refusal when nobody is found."""
        reply: object = Refusal(b"nobody answers")
        for _ in range(4):
            at = self.main.get(key) or self.fleet.hosts.address[self.dice.choice(self.fleet.names)]
            replies = self.client.ask(at, [words])
            reply = replies[0] if replies else Refusal(b"no answer")
            if not isinstance(reply, Refusal):
                self.main[key] = at
                return reply
            self.main.pop(key, None)
            if reply.text.startswith(b"MOVED"):
                self.main[key] = reply.text.split()[2].decode().rpartition(":")[0]
        return reply

    def run(self) -> None:
        with self.fleet.hosts.on(self.host):
            living: list[Mortal] = []
            number = 0
            while not self.ending.is_set() or living:
                while len(living) < COUNT and not self.ending.is_set():
                    number += 1
                    key, life = f"mortal{self.seed}.{number}", self.dice.uniform(1.5, 12.0)
                    before = time.monotonic()
                    reply = self.ask(key, ["SET", key, "x", "PX", str(int(life * 1000))])
                    if not isinstance(reply, Refusal):
                        living.append(Mortal(key, before + life, time.monotonic() + life))
                living = [one for one in living if self.look(one)]
                time.sleep(0.1)

    def look(self, one: Mortal) -> bool:
        """Whether it is to be looked at again."""
        before = time.monotonic()
        reply = self.ask(one.key, ["GET", one.key])
        after = time.monotonic()
        if isinstance(reply, Refusal):
            return before < one.latest + 10 * LEEWAY
        self.looked += 1
        if reply is None and after < one.soonest - LEEWAY:
            self.wrong.append(f"{one.key} went {one.soonest - after:.1f} s early")
        if reply is not None and before > one.latest + LEEWAY:
            self.wrong.append(f"{one.key} was served {before - one.latest:.1f} s late")
        return reply is not None and before < one.latest + 10 * LEEWAY
