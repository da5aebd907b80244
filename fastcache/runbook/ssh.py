"""Hands for real: SSH by Fabric and Paramiko, Ansible as a program, services through channels inside SSH.

A host whose key is not known is refused, never taken in. Health services and nodes are spoken to through
the SSH connection to their own host, so this machine needs no way into the cluster's network, and secrets
stay on the hosts.
"""

import contextlib
import http.client
import itertools
import json
import logging
import os
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastcache.errors import FastCacheError, UsageError
from fastcache.health.resp import ErrorReply, Incomplete, parsed
from fastcache.runbook.fleet import Fleet, Host, Member, fleet_of
from fastcache.runbook.hands import (
    SECRETS,
    CommandError,
    Outcome,
    Played,
    RefusedError,
    Tell,
    UnreachableError,
    checked,
)
from fastcache.runbook.tls import Secured, context_of

CONNECT_SECONDS = 30
#: Reading an inventory takes seconds; on a machine that is busy with other things, minutes.
DESCRIBE_SECONDS = 600
#: Another leader, once more another, and once another key.
MOST_REDIRECTS = 4
#: How the admin key is said, and the status that says that it is not the right one.
KEY, UNKNOWN = "X-Admin-Key", 401
PIECE = 1 << 16
LOCAL = "local"
#: A dead path is noticed, and a long silence does not make firewalls forget us.
KEEPALIVE_SECONDS = 15


def describe(project: Path, environment: str) -> Fleet:
    """The fleet that inventories/<environment> (or a path) describes, as Ansible sees it."""
    inventory = inventory_of(project, environment)
    with tempfile.TemporaryDirectory(prefix="fastcache-") as scratch:
        into = Path(scratch) / "cluster.json"
        command = [
            program("ansible-playbook"),
            "-i",
            str(inventory),
            "playbooks/describe.yml",
            "-e",
            f"into={into}",
        ]
        try:
            done = subprocess.run(
                command,
                cwd=project,
                capture_output=True,
                text=True,
                check=False,
                timeout=DESCRIBE_SECONDS,
                env=plain_environment(),
            )
        except subprocess.TimeoutExpired:
            raise FastCacheError(
                f"Ansible did not read the inventory {environment} within {DESCRIBE_SECONDS} s",
                f"try it alone: ansible-inventory -i {inventory} --list",
            ) from None
        if not into.exists():
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise FastCacheError(
                f"the inventory {environment} cannot be read: {' | '.join(said[-3:]) or 'no hosts'}",
                "for the lab run 'make fleet'; for hosts of your own copy inventories/production",
            )
        return fleet_of(into.read_text(), environment)


def inventory_of(project: Path, environment: str) -> Path:
    """Where an inventory is: a name below inventories/, or a path."""
    for path in (project / "inventories" / environment, Path(environment)):
        if path.exists():
            return path
    known = ", ".join(sorted(one.name for one in (project / "inventories").iterdir() if one.is_dir()))
    raise UsageError(f"there is no inventory {environment}", f"known: {known}; or give a path")


def program(name: str) -> str:
    """A program beside the Python that runs us, or on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FastCacheError(f"{name} is not installed", "pip install -r requirements.txt")
    return found


def plain_environment() -> dict[str, str]:
    """Output that is read by us has no colours."""
    return {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}


class OverSsh:
    """See hands.Hands."""

    def __init__(self, project: Path, fleet: Fleet, *, echo: bool = True) -> None:
        self.project, self.fleet, self.echo = project, fleet, echo
        self.connections: dict[str, Any] = {}
        self.opening: dict[str, threading.Lock] = {name: threading.Lock() for name in fleet.hosts}
        self.secrets: dict[str, str] = {}
        self.certificates: ssl.SSLContext | None = None
        self.leader: Member | None = None
        self.tell: Tell = lambda _text, _part=0.0: None

    def close(self) -> None:
        """Hang up everywhere."""
        for connection in self.connections.values():
            with contextlib.suppress(Exception):
                connection.close()
        self.connections.clear()

    # --- hosts --------------------------------------------------------------------------------------

    def connection(self, name: str) -> Any:
        """The SSH connection to a host, made when it is first needed or was lost."""
        host = self.fleet.host(name)
        with self.opening[name]:
            known = self.connections.get(name)
            if known is not None and known.is_connected:
                return known
            self.connections[name] = connected(host)
            return self.connections[name]

    def channel(self, name: str) -> Any:
        """A new session on a host."""
        for attempt in (1, 2):
            try:
                return self.connection(name).transport.open_session(timeout=CONNECT_SECONDS)
            except FastCacheError:
                raise
            except Exception as error:  # Paramiko has many kinds, of which all mean this.
                self.connections.pop(name, None)
                if attempt == 2:
                    raise UnreachableError(f"{name}: no session: {error}", "is the host up?") from None
        raise AssertionError

    def run(self, host: str, command: str, *, stdin: bytes = b"", seconds: float = 60.0) -> Outcome:
        """As root, by sudo where the account is another."""
        out = bytearray()
        code, err = self.stream(host, command, out.extend, stdin, seconds)
        return Outcome(code, out.decode("utf-8", "replace"), err)

    def stream(self, host: str, command: str, take: Any, stdin: bytes, seconds: float) -> tuple[int, str]:
        """Run a command and pass its output on as it comes; its exit code, and what it complained of."""
        if self.fleet.host(host).connection == LOCAL:
            return run_here(self.fleet.host(host), command, take, stdin, seconds)
        channel = self.channel(host)
        deadline = time.monotonic() + seconds
        err = bytearray()
        try:
            channel.settimeout(seconds)
            channel.exec_command(as_root(self.fleet.host(host), command))
            if stdin:
                channel.sendall(stdin)
            channel.shutdown_write()
            while True:
                idle = True
                while channel.recv_ready():
                    take(channel.recv(PIECE))
                    idle = False
                while channel.recv_stderr_ready():
                    err += channel.recv_stderr(PIECE)
                    idle = False
                if channel.eof_received and channel.exit_status_ready() and idle and not channel.recv_ready():
                    return channel.recv_exit_status(), err.decode("utf-8", "replace")
                if channel.closed and idle:
                    raise UnreachableError(
                        f"{host}: the connection was lost while a command ran: {command[:60]}"
                    )
                if time.monotonic() > deadline:
                    raise UnreachableError(f"{host}: no end within {seconds:.0f} s: {command[:60]}")
                if idle:
                    time.sleep(0.01)
        except OSError as error:
            raise UnreachableError(f"{host}: {error or 'no answer in time'}: {command[:60]}") from None
        finally:
            channel.close()

    def fetch(self, host: str, path: str, to: Path, *, seconds: float = 600.0) -> None:
        """Whole or not at all: it has its name when all of it is here."""
        part = to.with_name(to.name + ".part")
        with part.open("wb") as out:
            code, err = self.stream(host, f"cat -- {shlex.quote(path)}", out.write, b"", seconds)
            out.flush()
            os.fsync(out.fileno())
        if code:
            part.unlink()
            raise CommandError(f"{host}: {path} cannot be read: {err.strip()}")
        part.replace(to)

    def send(self, host: str, content: Path, path: str, *, seconds: float = 600.0) -> None:
        """Written by a shell that lets nobody else read it."""
        command = f"umask 077 && cat > {shlex.quote(path)}"
        outcome = self.run(host, command, stdin=content.read_bytes(), seconds=seconds)
        checked(outcome, f"{host}: {path} cannot be written")

    def secret(self, name: str) -> str:
        """A secret of the cluster, read from the first host that has it; it is written nowhere here."""
        if name not in self.secrets:
            self.secrets[name] = self.first_to_tell(f"cat {SECRETS}/{name}", f"the secret {name}").strip()
        return self.secrets[name]

    def tls(self) -> ssl.SSLContext:
        """What a connection under TLS stands on: the certificates of a host, read as secrets are."""
        if self.certificates is None:
            files = [self.fleet.tls[name] for name in ("ca", "certificate", "key")]
            command = " && echo '#' && ".join(f"cat {shlex.quote(file)}" for file in files)
            told = self.first_to_tell(command, "certificates")
            try:
                self.certificates = context_of(*told.split("#"))
            except (ValueError, OSError) as error:
                raise FastCacheError(
                    f"the certificates on the hosts are no good: {error}", "fab deploy brings them again"
                ) from None
        return self.certificates

    def first_to_tell(self, command: str, what: str) -> str:
        """What the first host that can says to a command; those that were reached before are asked first."""
        silent: UnreachableError | None = None
        for host in sorted(self.fleet.hosts, key=lambda name: name not in self.connections):
            try:
                outcome = self.run(host, f"({command}) 2>/dev/null", seconds=15)
            except UnreachableError as error:
                silent = silent or error  # One host that is lost keeps nobody from asking the others.
                continue
            if outcome.code == 0:
                return outcome.out
        raise silent or FastCacheError(f"no host has {what}", "is the cluster deployed? 'fab deploy'")

    def newer(self, name: str, host: str) -> str:
        """A secret as a host has it by now, when that is another than we know: it was changed meanwhile."""
        outcome = self.run(host, f"cat {SECRETS}/{name} 2>/dev/null", seconds=15)
        told = outcome.out.strip()
        if outcome.code or not told or told == self.secrets.get(name):
            return ""
        self.secrets[name] = told
        return told

    def forget_secrets(self) -> None:
        self.secrets.clear()
        self.certificates = None

    # --- services -----------------------------------------------------------------------------------

    def wire(self, member: Member, seconds: float) -> Any:
        """A connection to a member, under TLS where the cluster is: it behaves as a socket does."""
        wire = self.path(member, seconds)
        if not self.fleet.tls:
            return wire
        try:
            return Secured(wire, self.tls(), member.address)
        except OSError as error:
            wire.close()
            raise UnreachableError(
                f"{member.name} is not spoken to by TLS: {error or 'no answer in time'}",
                "was the cluster founded with fastcache_tls as the inventory says it?",
            ) from None

    def path(self, member: Member, seconds: float) -> Any:
        """The way to a member, through SSH to its host."""
        host = self.fleet.host(member.host)
        try:
            if host.connection == LOCAL:
                return socket.create_connection((member.address, member.port), seconds)
            transport = self.connection(member.host).transport
            channel = transport.open_channel(
                "direct-tcpip", (member.address, member.port), ("127.0.0.1", 0), timeout=seconds
            )
        except FastCacheError:
            raise
        except Exception as error:
            raise UnreachableError(f"{member.name} cannot be reached: {error}") from None
        channel.settimeout(seconds)
        return channel

    def http(self, method: str, path: str, body: object = None, *, seconds: float = 30.0) -> Any:
        """Whoever leads is asked; a follower names the leader."""
        headers = {"Content-Type": "application/json"}
        if method != "GET":
            headers[KEY] = self.secret("admin-key")
        data = None if body is None else json.dumps(body).encode()
        trouble: FastCacheError | None = None
        for first in self.services():
            member: Member | None = first
            for _ in range(MOST_REDIRECTS):
                if member is None:
                    break
                try:
                    status, told, elsewhere = self.exchange(member, method, path, data, headers, seconds)
                except UnreachableError as error:
                    trouble = error
                    break
                if status in {307, 308} and elsewhere:
                    member = self.fleet.at(elsewhere)
                    continue
                if status == UNKNOWN and KEY in headers and (key := self.newer("admin-key", member.host)):
                    # Rotated under our hands, maybe by ourselves: a lock that we hold stays ours.
                    headers[KEY] = key
                    continue
                if status >= 400:
                    refusal = RefusedError(f"{member.name}: {reason(told, status)}", status)
                    if status < 500:
                        raise refusal
                    trouble = refusal
                    break
                self.leader = member
                return told
        raise trouble or UnreachableError("the inventory has no health service", "see the group 'health'")

    def services(self) -> list[Member]:
        """The health services, first the one that answered last."""
        return sorted(self.fleet.health, key=lambda one: one is not self.leader)

    def exchange(
        self,
        member: Member,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        seconds: float,
    ) -> tuple[int, Any, str]:
        """One request: status, the JSON that came back, and where it was redirected to."""
        connection = http.client.HTTPConnection(member.address, member.port, timeout=seconds)
        connection.sock = self.wire(member, seconds)
        try:
            connection.request(method, path, data, headers)
            reply = connection.getresponse()
            text = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"{member.name} does not answer: {error or type(error).__name__}"
            ) from None
        finally:
            connection.close()
        try:
            told = json.loads(text) if text else None
        except ValueError:
            told = text.decode("utf-8", "replace")
        return reply.status, told, reply.headers.get("Location", "")

    @contextlib.contextmanager
    def talk(self, member: Member, *, seconds: float = 10.0) -> Iterator["Conversation"]:
        """With the password given."""
        wire = self.wire(member, seconds)
        conversation = Conversation(member.name, wire)
        try:
            conversation.say("AUTH", self.secret("requirepass"))
            yield conversation
        finally:
            wire.close()

    # --- this machine -------------------------------------------------------------------------------

    def play(self, playbook: str, *words: str, seconds: float = 3600.0) -> Played:
        """Its output goes to the terminal's error side as it comes, so that results can be piped."""
        inventory = inventory_of(self.project, self.fleet.environment)
        command = [program("ansible-playbook"), "-i", str(inventory), playbook, *words]
        process = subprocess.Popen(
            command, cwd=self.project, env=plain_environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        lines = []
        try:
            for line in process.stdout or ():
                lines.append(line)
                if self.echo:
                    sys.stderr.write(line)
        except BaseException:
            process.terminate()
            process.wait(30)
            raise
        finally:
            timer.cancel()
        text = "".join(lines)
        return Played(process.wait(), text, changes_in(text))

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Conversation:
    """See hands.Talk."""

    def __init__(self, name: str, wire: Any) -> None:
        self.name, self.wire, self.received = name, wire, b""

    def say(self, *words: str | bytes) -> Any:
        """Send a command and wait for its reply."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        try:
            self.wire.sendall(request)
            reply = self.reply()
        except OSError as error:
            raise UnreachableError(f"{self.name} does not answer: {error or 'in time'}") from None
        if isinstance(reply, ErrorReply):
            raise RefusedError(f"{self.name}: {reply}", 400)
        return reply

    def reply(self) -> Any:
        """The next reply."""
        while True:
            if self.received:
                with contextlib.suppress(Incomplete):
                    reply, end = parsed(self.received, 0, 0)
                    self.received = self.received[end:]
                    return reply
            piece = self.wire.recv(PIECE)
            if not piece:
                raise ConnectionError("it hung up")
            self.received += piece


def connected(host: Host) -> Any:
    """An SSH connection to a host whose key is known."""
    import fabric  # noqa: PLC0415  (half a second, and only who reaches out needs it)
    import paramiko  # noqa: PLC0415

    # Paramiko's threads log what we tell in words of our own.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    known_hosts, gateway = options_of(host)
    connection = fabric.Connection(
        host.address,
        user=host.user or None,
        port=host.port,
        gateway=gateway or None,
        connect_timeout=CONNECT_SECONDS,
        connect_kwargs={"banner_timeout": CONNECT_SECONDS, "auth_timeout": CONNECT_SECONDS}
        | ({"key_filename": host.key} if host.key else {}),
    )
    client = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    for file in known_hosts:
        if file.exists():
            client.load_host_keys(str(file)) if file == known_hosts[0] else client.load_system_host_keys(
                str(file)
            )
    try:
        connection.open()
        connection.transport.set_keepalive(KEEPALIVE_SECONDS)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise UnreachableError(
            f"{host.name} ({host.address}): {error or type(error).__name__}",
            hint_of(host, error, known_hosts),
        ) from None
    return connection


def options_of(host: Host) -> tuple[list[Path], str]:
    """Files of known host keys and the proxy command, out of what the inventory gives ssh."""
    given: dict[str, str] = {}
    words = shlex.split(host.arguments)
    for before, word in itertools.pairwise(words):
        if before == "-o":
            name, _, value = word.partition("=")
            given[name.lower()] = value
    files = [
        Path(name).expanduser() for name in shlex.split(given.get("userknownhostsfile", "~/.ssh/known_hosts"))
    ]
    return [*files, Path("/etc/ssh/ssh_known_hosts")], given.get("proxycommand", "")


def hint_of(host: Host, error: Exception, known_hosts: list[Path]) -> str:
    """What to do about a host that could not be reached."""
    text = str(error)
    if "not found in known_hosts" in text:
        return f"its key is not in {known_hosts[0]}: compare it on the host's console, then add it there"
    if "does not match" in text:
        return f"its key is another than {known_hosts[0]} says: is the host new, or is somebody in between?"
    return f"is the host up? try: ssh {host.user + '@' if host.user else ''}{host.address}"


def as_root(host: Host, command: str) -> str:
    """The command for the account that logs in."""
    return f"sudo -n sh -c {shlex.quote(command)}" if host.become else f"sh -c {shlex.quote(command)}"


def run_here(host: Host, command: str, take: Any, stdin: bytes, seconds: float) -> tuple[int, str]:
    """A command on this very machine (ansible_connection: local)."""
    become = host.become and os.geteuid() != 0
    words = ["sudo", "-n", "sh", "-c", command] if become else ["sh", "-c", command]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"{host.name}: no end within {seconds:.0f} s: {command[:60]}") from None
    take(done.stdout)
    return done.returncode, done.stderr.decode("utf-8", "replace")


def reason(told: Any, status: int) -> str:
    """What a service says is wrong."""
    if isinstance(told, dict) and "error" in told:
        return str(told["error"])
    return f"status {status}"


def changes_in(text: str) -> dict[str, int]:
    """How often something changed on each host, out of the recap of Ansible."""
    found = {}
    for line in text.rpartition("PLAY RECAP")[2].splitlines():
        host, separator, counts = line.partition(" : ")
        if separator:
            numbers = dict(word.split("=") for word in counts.split() if "=" in word)
            found[host.strip()] = int(numbers.get("changed", 0))
    return found
