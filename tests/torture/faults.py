"""What may happen to a cluster: each fault lasts as long as its `with`, and is over after it."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from tests.torture.cluster import PORT, Cluster, Fleet

Fault = Callable[[Fleet, str, str, random.Random], AbstractContextManager[None]]
HOUR = 3600


@contextmanager
def killed(
    fleet: Fleet, name: str, _other: str, _dice: random.Random, *, wiped: bool = False
) -> Iterator[None]:
    """A node loses its memory, or its disk too: only while another copy is in sync."""
    if not fleet.whole():
        yield
        return
    before = fleet.run_of(name) if isinstance(fleet, Cluster) else ""
    fleet.kill(name)
    if wiped and isinstance(fleet, Cluster):
        fleet.wipe(name)
    try:
        yield
    finally:
        fleet.start(name)
    # The next loss of memory waits until this one was noticed, and `whole` until it was made good.
    until = time.monotonic() + 30
    while isinstance(fleet, Cluster) and fleet.run_of(name) == before and time.monotonic() < until:
        time.sleep(0.1)


@contextmanager
def restarted(fleet: Fleet, name: str, other: str, dice: random.Random) -> Iterator[None]:
    """It is back at once."""
    with killed(fleet, name, other, dice):
        pass
    yield


@contextmanager
def wiped(fleet: Fleet, name: str, other: str, dice: random.Random) -> Iterator[None]:
    with killed(fleet, name, other, dice, wiped=True):
        yield


@contextmanager
def paused(fleet: Fleet, name: str, _other: str, _dice: random.Random) -> Iterator[None]:
    fleet.freeze(name)
    try:
        yield
    finally:
        fleet.thaw(name)


@contextmanager
def without_health(fleet: Fleet, _name: str, _other: str, _dice: random.Random) -> Iterator[None]:
    fleet.kill("health")
    try:
        yield
    finally:
        fleet.start("health")


@contextmanager
def parted(fleet: Fleet, name: str, other: str, _dice: random.Random) -> Iterator[None]:
    """Two nodes do not see each other."""
    fleet.hosts.part(name, other)
    try:
        yield
    finally:
        fleet.hosts.heal()


@contextmanager
def one_way(fleet: Fleet, name: str, other: str, dice: random.Random) -> Iterator[None]:
    fleet.hosts.cut(name, dice.choice([other, "health"]))
    try:
        yield
    finally:
        fleet.hosts.heal()


@contextmanager
def isolated(fleet: Fleet, name: str, _other: str, _dice: random.Random) -> Iterator[None]:
    """Alone, with half of the clients on its side."""
    others = [*fleet.names, "health", *fleet.client_hosts[1:]]
    fleet.hosts.isolate(name, others)
    for client in fleet.client_hosts[:1]:
        # Those clients are on its side of the cut, not on both.
        fleet.hosts.isolate(client, [one for one in fleet.names if one != name])
    try:
        yield
    finally:
        fleet.hosts.heal()


@contextmanager
def unseen(fleet: Fleet, name: str, _other: str, _dice: random.Random) -> Iterator[None]:
    """Everybody sees it but the health service."""
    fleet.hosts.part(name, "health")
    try:
        yield
    finally:
        fleet.hosts.heal()


@contextmanager
def slow(fleet: Fleet, name: str, _other: str, dice: random.Random) -> Iterator[None]:
    """A link of 200 ms, of 5 Mbit/s, or one that loses some packets."""
    kind = dice.choice(["late", "narrow", "lossy"])
    if kind == "late":
        fleet.hosts.delay(name, PORT, 200)
    elif kind == "narrow":
        fleet.hosts.narrow(name, "5mbit")
    else:
        fleet.hosts.lose(name, dice.choice([1, 5]))
    try:
        yield
    finally:
        fleet.hosts.heal()


@contextmanager
def clock_turned(fleet: Fleet, name: str, _other: str, dice: random.Random) -> Iterator[None]:
    """The clock of the day is an hour wrong."""
    assert isinstance(fleet, Cluster)
    fleet.turn_clock(name, dice.choice([HOUR, -HOUR]))
    try:
        yield
    finally:
        fleet.turn_clock(name, 0)


@contextmanager
def disk_full(fleet: Fleet, name: str, _other: str, _dice: random.Random) -> Iterator[None]:
    assert isinstance(fleet, Cluster)
    fleet.fill_disk(name)
    try:
        yield
    finally:
        fleet.clear_disk(name)


@contextmanager
def handed_over(fleet: Fleet, name: str, other: str, dice: random.Random) -> Iterator[None]:
    """In order; and then the old main is cut off, stands still, or gets its slots back."""
    assert isinstance(fleet, Cluster)
    hand_over(fleet, name)
    then = dice.choice(["isolate", "pause", "back"])
    if then == "back":
        hand_over(fleet, other)
        yield
    else:
        with FAULTS[then](fleet, name, other, dice):
            yield


def hand_over(fleet: Cluster, name: str) -> None:
    """Unless the service finds that it cannot: it serves nothing, or its copies are not in sync."""
    with suppress(OSError):
        fleet.ask("/switchover", {"node": name})


FAULTS: dict[str, Fault] = {
    "kill": killed,
    "restart": restarted,
    "pause": paused,
    "cut": parted,
    "one-way": one_way,
    "isolate": isolated,
    "unseen": unseen,
    "health": without_health,
    "slow": slow,
    "clock": clock_turned,
    "disk": disk_full,
    "wipe": wiped,
    "hand-over": handed_over,
}
