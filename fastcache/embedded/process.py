"""Processes as the kernel knows them, so that never the wrong one is stopped.

A process id is reused as soon as its process has gone. With the time of its start and the boot it belongs
to, it is unique; and a signal goes through a pidfd, which cannot come to mean another process.
"""

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, and no later one with its number."""

    pid: int
    start_ticks: int
    boot: str


@cache
def boot() -> str:
    """Which boot of this machine it is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of a living process; None when there is none (a zombie has gone, too)."""
    try:
        # The name in parentheses may hold anything; what follows the last one is plain.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]), boot())


def lives(identity: Identity) -> bool:
    """Whether that very process still runs."""
    return identify(identity.pid) == identity


def age_seconds(identity: Identity) -> float:
    """How long ago it started."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return max(0.0, uptime - identity.start_ticks / os.sysconf("SC_CLK_TCK"))


def tell(identity: Identity, number: signal.Signals) -> None:
    """Send a signal to that very process; nothing happens when it has gone."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(identity.pid)
        try:
            if lives(identity):
                send(handle, number)
        finally:
            os.close(handle)


def stop(
    identities: Iterable[Identity], grace_seconds: float, hand_over_seconds: float | None = None
) -> list[Identity]:
    """Ask all to end, and end those by force that have not in time; the latter are returned.

    Nodes look for somebody who takes over; after `hand_over_seconds` a second signal says that nobody will.
    """
    with ExitStack() as stack:
        handles = {}
        for identity in identities:
            try:
                handle = os.pidfd_open(identity.pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, handle)
            # Looked at after the handle was opened: now both can only mean one process.
            if lives(identity):
                handles[handle] = identity
        for handle in handles:
            send(handle, signal.SIGTERM)
        left = list(handles)
        if hand_over_seconds is not None:
            left = await_end(left, min(hand_over_seconds, grace_seconds))
            for handle in left:
                send(handle, signal.SIGTERM)
        left = await_end(left, grace_seconds)
        for handle in left:
            send(handle, signal.SIGKILL)
        await_end(left, grace_seconds)
        return [handles[handle] for handle in left]


def send(handle: int, number: signal.Signals) -> None:
    """Signal the process behind `handle`; that it has just gone is what we want."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def await_end(handles: Iterable[int], seconds: float) -> list[int]:
    """Wait until all have ended; those that have not in time are returned."""
    waiting = set(handles)
    poller = select.poll()
    for handle in waiting:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while waiting and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(left * 1000):
            poller.unregister(handle)
            waiting.discard(handle)
    return sorted(waiting)
