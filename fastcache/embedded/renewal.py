"""Proxies of an embedded cluster become the program and the settings as they stand now, with all clients.

A proxy does that by itself when it is told to (daemon/renewal.py), and its log says when it has.
"""

import signal
import time
from pathlib import Path

from fastcache.client import probe
from fastcache.embedded import process, record
from fastcache.embedded.cluster import PROBE_SECONDS, last_words
from fastcache.embedded.record import Running
from fastcache.errors import FastCacheError

RENEWAL_SECONDS = 60.0
PAUSE_SECONDS = 0.05


def renew(directory: Path) -> tuple[str, ...]:
    """Renew all proxies, one after another; their names."""
    with record.exclusive(directory):
        running = [entry for entry in record.read(directory) if process.lives(entry.identity)]
        proxies = [entry for entry in running if entry.spec.kind == "proxy"]
        if not proxies:
            raise FastCacheError(f"no proxy runs in {directory}", "start a cluster with 'fastcache up'")
        for entry in proxies:
            renew_one(entry)
        return tuple(entry.spec.name for entry in proxies)


def renew_one(entry: Running) -> None:
    """Have one proxy renewed, and wait until it is."""
    written = entry.spec.log.stat().st_size
    process.tell(entry.identity, signal.SIGHUP)
    deadline = time.monotonic() + RENEWAL_SECONDS
    while time.monotonic() < deadline:
        with entry.spec.log.open("rb") as log:
            log.seek(written)
            said = log.read().decode(errors="replace")
        if "serving on, renewed" in said and probe.answers(entry.spec.endpoint, PROBE_SECONDS):
            return
        if refusal := next((line for line in said.splitlines() if "not renewed:" in line), ""):
            raise FastCacheError(
                f"{entry.spec.name} goes on as it was: {refusal.partition('not renewed: ')[2]}", said.strip()
            )
        if not process.lives(entry.identity):
            break
        time.sleep(PAUSE_SECONDS)
    raise FastCacheError(f"{entry.spec.name} was not renewed", last_words(entry.spec))
