"""TLS inside a channel that is no socket, such as one through SSH.

`Secured` behaves as a connected socket does, as far as http.client and conversations with nodes need one.
What it takes from the other side is decrypted in memory; it waits only in the channel, whose time limit
holds therefore.
"""

import contextlib
import io
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")
PIECE = 1 << 16


def context_of(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    """Who is trusted, and who we say we are: nodes let in only who shows a certificate of the cluster."""
    context = ssl.create_default_context(cadata=authority)
    with in_memory(f"{certificate}\n{key}\n".encode()) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def in_memory(content: bytes) -> Iterator[str]:
    """A file that is on no disk: OpenSSL takes keys from files alone."""
    handle = os.memfd_create("fastcache-key")
    try:
        os.write(handle, content)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


class Secured:
    """A connection under TLS; the other side has shown a certificate for `name`, or this is not made."""

    def __init__(self, wire: Any, context: ssl.SSLContext, name: str) -> None:
        self.wire = wire
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.done(self.tls.do_handshake)

    def done(self, act: Callable[[], Result]) -> Result:
        """Do something that may have to wait for the other side."""
        while True:
            try:
                result = act()
            except ssl.SSLWantReadError:
                self.flush()
                piece = self.wire.recv(PIECE)
                self.incoming.write(piece) if piece else self.incoming.write_eof()
            except ssl.SSLError:
                # What is wrong with the other side's certificate, it is told.
                with contextlib.suppress(OSError):
                    self.flush()
                raise
            else:
                self.flush()
                return result

    def flush(self) -> None:
        """Send what is due."""
        if self.outgoing.pending:
            self.wire.sendall(self.outgoing.read())

    def sendall(self, content: Any) -> None:
        left = memoryview(content)
        while left:
            piece = left[:PIECE]
            left = left[self.done(lambda piece=piece: self.tls.write(piece)) :]  # type: ignore[misc]

    def recv(self, most: int) -> bytes:
        """Nothing when the other side has ended the connection in order."""
        try:
            return self.done(lambda: self.tls.read(most))
        except ssl.SSLZeroReturnError:
            return b""

    def settimeout(self, seconds: float | None) -> None:
        self.wire.settimeout(seconds)

    def makefile(self, *_: object) -> io.BufferedReader:
        """For http.client, which only reads it."""
        return io.BufferedReader(Reading(self))

    def close(self) -> None:
        """Hang up; nobody waits for the other side's farewell."""
        with contextlib.suppress(OSError, ValueError):
            self.tls.unwrap()
        with contextlib.suppress(OSError):
            self.flush()
        self.wire.close()


class Reading(io.RawIOBase):
    """A connection as a file to read from."""

    def __init__(self, connection: Secured) -> None:
        self.connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.connection.recv(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
