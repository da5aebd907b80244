"""What a task may do to the world, as an interface: ssh.py does it, tests play it.

Whoever reads a task sees by these few methods all that it can touch. Many hosts are asked side by side, a
few at a time, and nothing is waited for without an end.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastcache.errors import FastCacheError
from fastcache.runbook.fleet import Fleet, Member

Result = TypeVar("Result")
Item = TypeVar("Item")
#: Hosts that are asked at the same time.
AT_MOST = 8
FASTCACHE = "/opt/fastcache/current/bin/fastcache"
SECRETS = "/etc/fastcache/secrets"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command on a host said."""

    code: int
    out: str
    err: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What a playbook said, and how often something changed, by host."""

    code: int
    text: str
    changed: dict[str, int]


class CommandError(FastCacheError):
    """A command on a host failed."""


class UnreachableError(FastCacheError):
    """A host or a service does not answer."""


class RefusedError(FastCacheError):
    """A service answered and refused; `status` is that of HTTP."""

    def __init__(self, message: str, status: int, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


class Talk(Protocol):
    """One connection to a node, proxy or balancer, with the password given."""

    def say(self, *words: str | bytes) -> Any:
        """The reply: bytes, int, None, lists of these. An error reply is a RefusedError."""


class Tell(Protocol):
    """Says how far a long step is, to whoever looks on: in words, and as a part of the whole."""

    def __call__(self, why: str, part: float = 0.0, /) -> object: ...


class Hands(Protocol):
    """Everything a task can do."""

    fleet: Fleet
    tell: Tell

    def run(self, host: str, command: str, *, stdin: bytes = b"", seconds: float = 60.0) -> Outcome:
        """A shell command as root."""

    def fetch(self, host: str, path: str, to: Path, *, seconds: float = 600.0) -> None:
        """A file of a host, brought here."""

    def send(self, host: str, content: Path, path: str, *, seconds: float = 600.0) -> None:
        """A file from here, brought to a host (root alone may read it)."""

    def http(self, method: str, path: str, body: object = None, *, seconds: float = 30.0) -> Any:
        """Ask the health service that leads; changes go with the admin key."""

    def talk(self, member: Member, *, seconds: float = 10.0) -> contextlib.AbstractContextManager[Talk]:
        """A connection to a member."""

    def play(self, playbook: str, *words: str, seconds: float = 3600.0) -> Played:
        """Run a playbook on the inventory; its output is passed on as it comes."""

    def forget_secrets(self) -> None:
        """They were changed: the next one who needs one reads it anew."""

    def secret(self, name: str) -> str:
        """A secret of the cluster."""

    def now(self) -> float:
        """Seconds of a clock that never jumps."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


def checked(outcome: Outcome, what: str, hint: str = "") -> str:
    """The output of a command that had to succeed."""
    if outcome.code:
        said = (outcome.err.strip() or outcome.out.strip()).splitlines()[-3:]
        raise CommandError(f"{what}: {' | '.join(said) or f'exit code {outcome.code}'}", hint)
    return outcome.out


def together(
    items: Iterable[Item], work: Callable[[Item], Result], *, at_most: int = AT_MOST
) -> list[tuple[Item, Result | FastCacheError]]:
    """Do the same for many, a few at a time; who fails is told beside those who did not."""
    listed = list(items)

    def safe(item: Item) -> Result | FastCacheError:
        try:
            return work(item)
        except FastCacheError as error:
            return error

    with ThreadPoolExecutor(max(1, min(at_most, len(listed)))) as pool:
        return list(zip(listed, pool.map(safe, listed), strict=True))


def all_well(
    items: Iterable[Item], work: Callable[[Item], Result], *, at_most: int = AT_MOST
) -> list[Result]:
    """Do the same for many; the first failure is raised, when all have had their turn."""
    results: list[Result] = []
    for _, result in together(items, work, at_most=at_most):
        if isinstance(result, FastCacheError):
            raise result
        results.append(result)
    return results


@contextlib.contextmanager
def after(undo: Callable[[], object]) -> Iterator[None]:
    """Undo something at the end, whatever happens between."""
    try:
        yield
    finally:
        undo()
