"""As much of a Redis client as the benchmarks need, with nothing to install: one command, or many at once."""

import socket
from collections.abc import Sequence

Reply = bytes | int | None | list["Reply"]


class ServerError(Exception):
    """The server answered with an error."""


class Connection:
    """One connection to a server, over TCP or a Unix socket."""

    def __init__(self, address: tuple[str, int] | str, timeout: float = 10) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self.stream = self.socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.stream.close()
        self.socket.close()

    def ask(self, *words: str | bytes | int) -> Reply:
        """Send one command and return its reply."""
        self.socket.sendall(request(words))
        return self.read()

    def pipeline(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Reply]:
        """Send many commands at once and return their replies."""
        self.socket.sendall(b"".join(map(request, commands)))
        return [self.read() for _ in commands]

    def read(self) -> Reply:
        """Wait for the next reply."""
        line = self.stream.readline()
        if not line:
            raise ConnectionError("the server hung up")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise ServerError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.stream.read(length + 2)[:-2]
        if kind == b"*":
            return None if int(rest) < 0 else [self.read() for _ in range(int(rest))]
        return rest

    def info(self, section: str = "everything") -> dict[str, str]:
        """INFO as a dictionary."""
        text = self.ask("INFO", section)
        assert isinstance(text, bytes)
        lines = (line for line in text.decode().splitlines() if ":" in line)
        return dict(line.split(":", 1) for line in lines)


def request(words: Sequence[str | bytes | int]) -> bytes:
    """A command as it goes over the wire."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
