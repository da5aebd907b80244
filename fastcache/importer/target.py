"""The end that keys go to: requests in batches, sent again when the connection is lost.

A RESTORE may be run twice without harm, so a batch whose replies did not all come is sent again whole.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from fastcache.errors import FastCacheError
from fastcache.importer import Progress

Request = tuple[int | None, bytes, bytes]

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.2
# The target is not well for now: the same request may succeed soon.
PASSING = (
    "LOADING",
    "BUSY ",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "UNKNOWN outcome",
    "NOREPLICAS",
    "STALE",
)
# No request will succeed before somebody does something about it.
FATAL = {
    "OOM": "raise maxmemory, or choose a maxmemory-policy that evicts",
    "NOAUTH": "give the password with --password-file",
    "WRONGPASS": "give the right password with --password-file",
    "NOPERM": "the user needs RESTORE, DEL and SELECT",
    "READONLY": "this node is a replica: import through a proxy",
    "MOVED": "this node is part of a cluster: import through a proxy",
    "CROSSSLOT": "import through a proxy",
}


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files for a target under TLS: who signs its certificate, and our own where it asks for one."""

    authority: Path | None = None
    own: Path | None = None
    key: Path | None = None

    @property
    def options(self) -> dict[str, str]:
        """As redis-py calls them."""
        named = {"ssl_ca_certs": self.authority, "ssl_certfile": self.own, "ssl_keyfile": self.key}
        return {name: str(file) for name, file in named.items() if file}


class Target:
    """A connection to the target, made anew when it is lost."""

    def __init__(
        self, url: str, password: str | None, progress: Progress, certificates: Certificates | None = None
    ) -> None:
        self.url = url
        more: dict[str, Any] = dict(certificates.options) if certificates else {}
        self.client = redis.Redis.from_url(url, password=password, socket_timeout=PATIENCE_SECONDS, **more)
        self.progress = progress
        self.connection: Any = None
        self.database = 0

    def close(self) -> None:
        """Hang up."""
        self.hang_up()
        self.client.close()

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.disconnect()
            self.client.connection_pool.release(self.connection)
            self.connection = None

    def check(self) -> None:
        """Fail with a sentence when the target is not there or does not let us in."""
        try:
            self.client.ping()
        except redis.RedisError as error:
            raise refused(self.url, error) from None

    def bring(self, requests: Sequence[Request]) -> None:
        """Send requests and count what came of each; what fails in passing is tried for a minute."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        left = list(requests)
        while left:
            try:
                left = self.attempt(left)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self.hang_up()
                if time.monotonic() > deadline:
                    raise refused(self.url, error) from None
            if left:
                if time.monotonic() > deadline:
                    raise FastCacheError(
                        f"the target at {self.url} takes no keys: {self.last_error}",
                        "see how it is with 'fastcache status'; the import can be run again",
                    )
                time.sleep(PAUSE_SECONDS)

    last_error = ""

    def attempt(self, requests: list[Request]) -> list[Request]:
        """Send all at once; returns those to be sent again."""
        if self.connection is None:
            self.connection = self.client.connection_pool.get_connection()
            self.database = -1
        sent: list[Request | None] = []
        packed: list[bytes] = []
        for request in requests:
            if request[0] is not None and request[0] != self.database:
                packed.append(b"SELECT %d\r\n" % request[0])
                self.database = request[0]
                sent.append(None)
            packed.append(request[2])
            sent.append(request)
        self.connection.send_packed_command([b"".join(packed)])
        again = []
        refused_database = ""
        for one in sent:
            try:
                self.connection.read_response()
            except redis.ResponseError as error:
                text = answer(error)
                if one is None:
                    refused_database = text
                elif self.failed(one, text):
                    again.append(one)
            else:
                if one is None:
                    refused_database = ""
                elif refused_database:
                    self.database = -1
                    raise FastCacheError(f"the target has no such database: {refused_database}")
                else:
                    self.progress.keys += one[0] is not None
        return again

    def failed(self, request: Request, text: str) -> bool:
        """Count a refusal; whether the request is worth another try."""
        if text.startswith("BUSYKEY"):
            self.progress.kept += 1
            return False
        if text.startswith(PASSING):
            self.last_error = text
            return True
        for code, hint in FATAL.items():
            if text.startswith(code):
                raise FastCacheError(f"the target at {self.url} takes no keys: {text}", hint)
        self.progress.refuse("a library of functions" if request[0] is None else repr(request[1]), text)
        return False


def answer(error: redis.ResponseError) -> str:
    """The error as the server wrote it: redis-py takes known codes away."""
    text = str(error)
    codes: dict[type, str] = {
        redis.exceptions.BusyLoadingError: "LOADING ",
        redis.exceptions.OutOfMemoryError: "OOM ",
        redis.exceptions.AuthenticationError: "NOAUTH ",
        redis.exceptions.NoPermissionError: "NOPERM ",
        redis.exceptions.ReadOnlyError: "READONLY ",
        redis.exceptions.MovedError: "MOVED ",
        redis.exceptions.TryAgainError: "TRYAGAIN ",
        redis.exceptions.ClusterDownError: "CLUSTERDOWN ",
        redis.exceptions.MasterDownError: "MASTERDOWN ",
        redis.exceptions.ClusterCrossSlotError: "CROSSSLOT ",
    }
    for kind, code in codes.items():
        if isinstance(error, kind) and not text.startswith(code.strip()):
            return code + text
    return text


def refused(url: str, error: redis.RedisError) -> FastCacheError:
    """The sentence for a server that cannot be reached or does not let us in."""
    return FastCacheError(
        f"{url} cannot be used: {error}",
        "check that it runs and the address is right; a password is given in a file",
    )


def in_batches(target: Target, take: Callable[[int], list[Request]], shown: Callable[[], None]) -> None:
    """Bring what `take` yields until it yields nothing, in batches bounded by number and bytes."""
    while requests := take(MOST_REQUESTS):
        batch: list[Request] = []
        size = 0
        for request in requests:
            batch.append(request)
            size += len(request[2])
            if size > MOST_BYTES:
                target.bring(batch)
                batch, size = [], 0
        if batch:
            target.bring(batch)
        shown()


MOST_REQUESTS = 500
MOST_BYTES = 1 << 20
