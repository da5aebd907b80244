"""A Redis that runs into the target, as a replica of it would get its data.

One thread listens to the source without pause: it keeps the RDB file that comes first on disk, and from the
stream of writes behind it the names of the keys that changed. Meanwhile the file is brought in; then every
key that changed since is fetched as it is now (DUMP), brought in whole or removed, until none is left. So any
command of the source is followed, scripts and transactions included, whatever the shape of the target; and
nothing the target answers can hold up the source.
"""

import contextlib
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from fastcache import _core
from fastcache.errors import FastCacheError
from fastcache.importer import Progress
from fastcache.importer.file import import_file
from fastcache.importer.target import Request, Target, refused

TIMEOUT_SECONDS = 30.0
ACK_SECONDS = 1.0
PIECE = 1 << 18
BATCH = 200
Key = tuple[int, bytes]


class Listener(threading.Thread):
    """The connection on which the source takes us for a replica."""

    def __init__(self, url: str, password: str | None, file: Path, progress: Progress) -> None:
        super().__init__(daemon=True, name="source")
        self.url, self.password, self.file, self.progress = url, password, file, progress
        self.changed: dict[Key, None] = {}
        self.lock = threading.Lock()
        self.file_complete = threading.Event()
        self.stopping = threading.Event()
        self.error: FastCacheError | None = None
        self.socket: socket.socket | None = None
        self.run_id, self.offset = "?", -1
        self.stream = _core.ChangeStream()
        self.rest = b""

    # --- what the other thread asks ---------------------------------------------------------------

    def take(self, most: int) -> list[Key]:
        """Some keys that changed and were not taken since."""
        with self.lock:
            keys = [key for key, _ in zip(self.changed, range(most), strict=False)]
            for key in keys:
                del self.changed[key]
            self.progress.behind = len(self.changed)
            return keys

    def behind(self) -> int:
        with self.lock:
            return len(self.changed)

    def check(self) -> None:
        """Raise what ended the thread."""
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.stopping.set()
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        if self.is_alive():
            self.join(5)

    # --- the thread ---------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.connect()
            self.ask_for_everything()
            while not self.stopping.is_set():
                try:
                    self.listen()
                except (OSError, EOFError):
                    if not self.stopping.is_set():
                        self.reconnect()
        except FastCacheError as error:
            self.error = error
        except (OSError, EOFError, ValueError) as error:
            if not self.stopping.is_set():
                self.error = FastCacheError(
                    f"the source at {self.url} cannot be followed: {error or 'it hung up'}"
                )
        finally:
            self.file_complete.set()

    def connect(self) -> None:
        parts = urlsplit(self.url)
        plain = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), TIMEOUT_SECONDS)
        host = parts.hostname or "127.0.0.1"
        secure = parts.scheme == "rediss"
        self.socket = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
        )
        self.rest = b""
        if self.password:
            user = [parts.username] if parts.username else []
            self.expect("AUTH", *user, self.password, wanted="+OK")
        self.expect("PING", wanted="+PONG")
        self.expect("REPLCONF", "listening-port", "0", wanted="+OK")
        self.expect("REPLCONF", "capa", "psync2", wanted="+OK")

    @property
    def wire(self) -> socket.socket:
        """The connection that is there."""
        if self.socket is None:
            raise EOFError
        return self.socket

    def send(self, *words: str) -> None:
        self.wire.sendall(packed(*(word.encode() for word in words)))

    def receive(self) -> bytes:
        piece = self.wire.recv(PIECE)
        if not piece:
            raise EOFError
        return piece

    def line(self) -> str:
        """One line; empty ones only keep the connection alive while the source prepares its file."""
        while True:
            while b"\n" not in self.rest:
                self.rest += self.receive()
            found, _, self.rest = self.rest.partition(b"\n")
            if text := found.decode("utf-8", "replace").strip():
                return text

    def expect(self, *words: str, wanted: str) -> str:
        self.send(*words)
        answer = self.line()
        if not answer.startswith(wanted):
            raise FastCacheError(
                f"the source at {self.url} does not take us for a replica: {words[0]} was answered {answer}",
                "the user needs PSYNC and REPLCONF; a password is given with --source-password-file",
            )
        return answer

    def ask_for_everything(self) -> None:
        """The file of all keys as they are now, kept on disk."""
        answer = self.expect("PSYNC", "?", "-1", wanted="+FULLRESYNC")
        _, self.run_id, offset = answer.split()
        self.offset = int(offset)
        self.wire.settimeout(600)  # The source writes its file first, and says little meanwhile.
        head = self.line()
        if not head.startswith("$") or not head[1:].isdecimal():
            raise FastCacheError(
                f"the source at {self.url} sends its file in a way that is not known: {head}"
            )
        left = total = int(head[1:])
        self.progress.total_bytes = total
        with self.file.open("wb") as file:
            while left:
                piece = self.rest[:left] if self.rest else self.receive()
                self.rest, piece = (self.rest[len(piece) :] if self.rest else piece[left:]), piece[:left]
                file.write(piece)
                left -= len(piece)
        self.wire.settimeout(ACK_SECONDS)
        self.file_complete.set()

    def listen(self) -> None:
        """Read on in the stream, and tell the source how far we are."""
        last = 0.0
        while not self.stopping.is_set():
            piece, self.rest = self.rest, b""
            if not piece:
                try:
                    piece = self.receive()
                except TimeoutError:
                    piece = b""
            changed, asked = self.stream.feed(piece)
            self.note(changed)
            if asked or time.monotonic() - last > ACK_SECONDS:
                self.send("REPLCONF", "ACK", str(self.offset + self.stream.taken))
                last = time.monotonic()

    def note(self, changed: list[tuple[int | None, bytes]]) -> None:
        if not changed:
            return
        with self.lock:
            for database, key in changed:
                if database is None:
                    name = key.decode(errors="replace").upper()
                    raise FastCacheError(
                        f"the source ran {name}, which tells no keys to follow",
                        "empty the target as the source was, and run the import again",
                    )
                self.changed[database, key] = None
            self.progress.behind = len(self.changed)

    def reconnect(self) -> None:
        """Go on where the stream was cut, if the source still can."""
        deadline = time.monotonic() + 60
        position = self.offset + self.stream.taken
        while not self.stopping.is_set():
            try:
                self.connect()
                self.send("PSYNC", self.run_id, str(position + 1))
                answer = self.line()
            except (OSError, EOFError) as error:
                if time.monotonic() > deadline:
                    raise FastCacheError(f"the source at {self.url} is gone: {error}") from None
                self.stopping.wait(1)
                continue
            if not answer.startswith("+CONTINUE"):
                raise FastCacheError(
                    f"the connection to {self.url} was lost too long: it does not remember what came since",
                    "empty the target and run the import again; the source remembers repl-backlog-size bytes",
                )
            words = answer.split()
            self.run_id = words[1] if len(words) > 1 else self.run_id
            # A request that was cut short is sent again from its beginning.
            self.stream.cut()
            self.wire.settimeout(ACK_SECONDS)
            return


class Source:
    """Fetches keys as they are now."""

    def __init__(self, url: str, password: str | None) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, password=password, socket_timeout=TIMEOUT_SECONDS)
        self.connection: Any = None
        self.by_database: dict[int, redis.Redis] = {}
        self.password = password

    def of(self, database: int) -> "redis.Redis":
        if database not in self.by_database:
            self.by_database[database] = redis.Redis.from_url(
                self.url, password=self.password, db=database, socket_timeout=TIMEOUT_SECONDS
            )
        return self.by_database[database]

    def requests(self, keys: list[Key], progress: Progress) -> list[Request]:
        """What makes the target's keys what they are here."""
        requests: list[Request] = []
        for database in sorted({database for database, _ in keys}):
            names = [key for number, key in keys if number == database]
            pipeline = self.of(database).pipeline(transaction=False)
            for name in names:
                pipeline.pttl(name)
                pipeline.dump(name)
            replies = pipeline.execute()
            for name, left, payload in zip(names, replies[::2], replies[1::2], strict=True):
                if payload is None:
                    progress.removed += 1
                    requests.append((database, name, packed(b"DEL", name)))
                else:
                    words = (b"RESTORE", name, b"%d" % max(0, left), payload, b"REPLACE")
                    requests.append((database, name, packed(*words)))
        return requests

    def close(self) -> None:
        self.client.close()
        for client in self.by_database.values():
            client.close()


def packed(*words: bytes) -> bytes:
    """A request as it is sent."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


def import_live(
    url: str,
    password: str | None,
    target: Target,
    *,
    follow: bool,
    directory: Path | None,
    shown: Callable[[Progress], None],
) -> None:
    """Bring everything in; return when the target has caught up, or with `follow` never by itself."""
    progress = target.progress
    source = Source(url, password)
    with tempfile.TemporaryDirectory(prefix="fastcache-import-", dir=directory) as scratch:
        file = Path(scratch) / "source.rdb"
        listener = Listener(url, password, file, progress)
        try:
            source.client.ping()
            progress.stage = "fetching"
            listener.start()
            while not listener.file_complete.wait(0.2):
                progress.done_bytes = file.stat().st_size if file.exists() else 0
                shown(progress)
            listener.check()
            progress.stage, progress.done_bytes = "bringing in", 0
            import_file(file, target, replace=True, shown=shown)
            file.unlink()
            progress.stage = "following"
            quiet = 0
            while follow or quiet < 2:
                listener.check()
                keys = listener.take(BATCH)
                if keys:
                    target.bring(source.requests(keys, progress))
                    quiet = 0
                else:
                    # What is on its way is not counted yet: wait for another second of silence.
                    quiet += 1
                    time.sleep(ACK_SECONDS)
                shown(progress)
        except redis.RedisError as error:
            raise refused(url, error) from None
        finally:
            listener.stop()
            source.close()
