"""The lock, unfinished work and the audit chain of a cluster, as values: what is kept of its operators.

One operation changes a cluster at a time: whoever holds the lock. It runs out by itself, so that an
operator whose machine died bars nobody for ever; the work it left is remembered, and the same task goes on
behind the last step that was done. What was done stands in a chain: each entry carries the hash of the one
before, so none can be changed, taken out or put in without its being seen. Pure functions only: keeping is
the store's part, asking that of http.py.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

#: What the first entry of a chain carries as the hash of the one before.
BEGINNING = "0" * 64
LONGEST_LOCK_SECONDS = 86_400.0
#: Steps that an unfinished task remembers; a fleet of thousands of hosts has no more.
MOST_STEPS = 20_000

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Lock(msgspec.Struct, frozen=True, rename="camel"):
    """Who may change the cluster, and until when (seconds since 1970, by the leader's clock)."""

    owner: str
    task: str
    token: int
    since: float
    until: float


class Unfinished(msgspec.Struct, frozen=True, rename="camel"):
    """A task that was begun and is not over: with these arguments, by this owner, with these steps done."""

    task: str
    arguments: dict[str, str]
    owner: str
    since: float
    done: tuple[str, ...] = ()
    stopped: str = ""


class Ledger(msgspec.Struct, frozen=True, rename="camel"):
    """All of it but the entries of the chain, of which only the last one's number and hash are needed."""

    lock: Lock | None = None
    unfinished: dict[str, Unfinished] = {}
    token: int = 0
    number: int = 0
    hash: str = BEGINNING


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One line of the audit: who did what, when, and what came of it."""

    number: int
    at: str
    owner: str
    task: str
    event: str
    fields: dict[str, str]
    before: str
    hash: str


#: What happened, for the chain: owner, task, event, fields.
News = tuple[str, str, str, dict[str, str]]


class HeldError(Exception):
    """The lock is not this caller's; the message says whose it is."""


def held(ledger: Ledger, now: float) -> Lock | None:
    """The lock that is in force; none when it has run out."""
    return ledger.lock if ledger.lock and ledger.lock.until > now else None


def taken(ledger: Ledger, owner: str, task: str, seconds: float, now: float) -> Ledger:
    """The lock in other hands, unless somebody holds it."""
    if lock := held(ledger, now):
        raise HeldError(
            f"{lock.owner} holds the lock for {lock.task}, for {lock.until - now:.0f} seconds more "
            f"unless it is renewed"
        )
    token = ledger.token + 1
    lock = Lock(owner, task, token, now, now + min(seconds, LONGEST_LOCK_SECONDS))
    return msgspec.structs.replace(ledger, lock=lock, token=token)


def renewed(ledger: Ledger, token: int, seconds: float, now: float) -> Ledger:
    """The lock for a while longer. One that ran out is renewed as long as nobody has taken it."""
    lock = owned(ledger, token)
    until = now + min(seconds, LONGEST_LOCK_SECONDS)
    return msgspec.structs.replace(ledger, lock=msgspec.structs.replace(lock, until=until))


def released(ledger: Ledger, token: int) -> Ledger:
    """Nobody holds the lock any more."""
    owned(ledger, token)
    return msgspec.structs.replace(ledger, lock=None)


def broken(ledger: Ledger) -> Ledger:
    """The lock is taken from whoever holds it: its next renewal fails, and it stops before its next step."""
    return msgspec.structs.replace(ledger, lock=None)


def owned(ledger: Ledger, token: int) -> Lock:
    """The lock, if this token is that of its holder."""
    if ledger.lock is None:
        raise HeldError("the lock was broken or released: nobody holds it")
    if ledger.lock.token != token:
        raise HeldError(f"the lock has passed to {ledger.lock.owner} for {ledger.lock.task}")
    return ledger.lock


def begun(ledger: Ledger, token: int, arguments: dict[str, str], now: float, *, fresh: bool) -> Ledger:
    """The lock's task is under way. The same task with the same arguments goes on where it stopped."""
    lock = owned(ledger, token)
    before = ledger.unfinished.get(lock.task)
    if before and before.arguments == arguments and not fresh:
        going = msgspec.structs.replace(before, owner=lock.owner, stopped="")
    else:
        going = Unfinished(lock.task, arguments, lock.owner, now)
    return with_unfinished(ledger, lock.task, going)


def stepped(ledger: Ledger, token: int, step: str) -> Ledger:
    """One more step of the lock's task is done."""
    lock = owned(ledger, token)
    going = ledger.unfinished.get(lock.task)
    if going is None or step in going.done or len(going.done) >= MOST_STEPS:
        return ledger
    return with_unfinished(ledger, lock.task, msgspec.structs.replace(going, done=(*going.done, step)))


def ended(ledger: Ledger, token: int, stopped: str) -> Ledger:
    """The lock's task is over: forgotten when it came to its end, kept with the reason when it stopped."""
    lock = owned(ledger, token)
    going = ledger.unfinished.get(lock.task)
    if going is None:
        return ledger
    left = msgspec.structs.replace(going, stopped=stopped) if stopped else None
    return with_unfinished(ledger, lock.task, left)


def with_unfinished(ledger: Ledger, task: str, value: Unfinished | None) -> Ledger:
    """The ledger with one task's state changed, or the task forgotten."""
    rest = {name: one for name, one in ledger.unfinished.items() if name != task}
    return msgspec.structs.replace(ledger, unfinished=rest | ({task: value} if value else {}))


def appended(ledger: Ledger, at: str, news: News) -> tuple[Ledger, Entry]:
    """The ledger behind one more entry, and that entry."""
    entry = Entry(ledger.number + 1, at, *news, ledger.hash, "")
    entry = msgspec.structs.replace(entry, hash=hash_of(entry))
    return msgspec.structs.replace(ledger, number=entry.number, hash=entry.hash), entry


def hash_of(entry: Entry) -> str:
    """SHA-256 of everything in an entry but its own hash, in one order of the fields."""
    told: dict[str, Any] = msgspec.to_builtins(entry)
    del told["hash"]
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()


def wrong_in(
    entries: Sequence[Entry], last: Ledger | None = None, seen: Iterable[tuple[int, str]] = ()
) -> str:
    """What is wrong with a chain, in one sentence; empty when it holds.

    `last` is what the cluster says of its end; `seen` are numbers with hashes that somebody wrote down
    elsewhere: a chain that was made anew holds in itself and is found by those alone.
    """
    previous: Entry | None = None
    for entry in entries:
        if hash_of(entry) != entry.hash:
            return f"entry {entry.number} is not what was written: its hash is another"
        if previous is None and entry.number == 1 and entry.before != BEGINNING:
            return "entry 1 follows something: entries before it are gone"
        if previous and (entry.number != previous.number + 1 or entry.before != previous.hash):
            return (
                f"entry {entry.number} does not follow entry {previous.number}: one was changed or taken out"
            )
        previous = entry
    by_number = {entry.number: entry.hash for entry in entries}
    if last and last.number and by_number.get(last.number) != last.hash:
        return f"the end is not entry {last.number}, which the cluster wrote last: entries are missing there"
    first = entries[0].number if entries else 0
    for number, known in seen:
        if number >= first and by_number.get(number) != known:
            return (
                f"entry {number} is not the one that was seen here before: the chain was cut or written anew"
            )
    return ""
