"""The store of a health service that is alone: a SQLite file, durable before `save` returns."""

import fcntl
import os
import sqlite3
from pathlib import Path

from fastcache.errors import ConfigurationError, FastCacheError
from fastcache.health.store import DeposedError, Stored

KEPT_EPOCHS = 50
SCHEMA = """
create table if not exists topology (epoch integer primary key, document blob not null, at text not null);
create table if not exists members (one integer primary key check (one = 1), list blob not null);
create table if not exists ledger (one integer primary key check (one = 1), document blob not null);
create table if not exists audit (number integer primary key, entry blob not null);
create table if not exists orders (one integer primary key check (one = 1), body blob not null);
"""


class SqliteStore:
    """One file, one writer: a second service on the same directory is refused."""

    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(directory / "health.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"dir: {directory} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            raise FastCacheError(f"another health service uses {directory}") from None
        file = directory / "health.sqlite"
        try:
            self.base = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
            self.base.execute("pragma journal_mode = wal")
            self.base.execute("pragma synchronous = full")
            self.base.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise FastCacheError(
                f"{file} cannot be read: {error}",
                "Put it aside and start again: nodes and proxies register anew and tell the epoch they know.",
            ) from None

    def campaign(self) -> bool:
        """Alone, hence leader."""
        return True

    def leader(self) -> str:
        """Ourselves."""
        return self.url

    def epoch(self) -> int:
        """The highest epoch."""
        (last,) = self.base.execute("select coalesce(max(epoch), 0) from topology").fetchone()
        return int(last)

    def load(self) -> Stored | None:
        """The highest epoch."""
        row = self.base.execute("select epoch, document from topology order by epoch desc limit 1").fetchone()
        if row is None:
            return None
        members = self.base.execute("select list from members").fetchone()
        orders = self.base.execute("select body from orders").fetchone()
        return Stored(row[0], row[1], members[0] if members else b"[]", orders[0] if orders else b"")

    def save(self, stored: Stored, after: int) -> None:
        """In one transaction, with the epochs before kept for a while."""
        self.base.execute("begin immediate")
        try:
            last = self.epoch()
            if last != after or stored.epoch <= last:
                raise DeposedError(f"epoch {last} is saved, {after} was expected")
            self.base.execute(
                "insert into topology values (?, ?, datetime())", (stored.epoch, stored.topology)
            )
            self.base.execute("insert or replace into members values (1, ?)", (stored.members,))
            self.base.execute("insert or replace into orders values (1, ?)", (stored.orders,))
            # Epochs may have gaps, so the oldest are found by rank.
            self.base.execute(
                "delete from topology where epoch not in"
                " (select epoch from topology order by epoch desc limit ?)",
                (KEPT_EPOCHS,),
            )
            self.base.execute("commit")
        except BaseException:
            self.base.execute("rollback")
            raise

    def ledger(self) -> bytes:
        """The one row."""
        row = self.base.execute("select document from ledger").fetchone()
        return bytes(row[0]) if row else b""

    def keep_ledger(self, ledger: bytes, entry: tuple[int, bytes] | None) -> None:
        """In one transaction. A number that is there already is an error: no entry is ever written over."""
        self.base.execute("begin immediate")
        try:
            self.base.execute("insert or replace into ledger values (1, ?)", (ledger,))
            if entry:
                self.base.execute("insert into audit values (?, ?)", entry)
            self.base.execute("commit")
        except BaseException:
            self.base.execute("rollback")
            raise

    def entries(self, after: int, limit: int) -> list[bytes]:
        """By number."""
        rows = self.base.execute(
            "select entry from audit where number > ? order by number limit ?", (after, limit)
        )
        return [bytes(entry) for (entry,) in rows]

    def resign(self) -> None:
        """There is nobody to resign to."""

    def close(self) -> None:
        """Close the file and let another service have it."""
        self.base.close()
        os.close(self.lock)
