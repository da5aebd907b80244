"""The process: settings to service, HTTP around it, signals, and word to the service manager."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import msgspec
import uvicorn
import uvloop

from fastcache import _core
from fastcache.errors import FastCacheError
from fastcache.health.act import Log, Service
from fastcache.health.http import application
from fastcache.health.observe import Prober
from fastcache.health.registry import timestamp
from fastcache.health.sentinel import SentinelFace, Talk
from fastcache.health.settings import Settings, load, rendered
from fastcache.health.store import Store
from fastcache.health.tls import Certificates

# How often the service manager hears that we are well when it asks for less.
TICK_SECONDS = 1.0
# How often it is looked whether certificates were replaced.
MIND_SECONDS = 2.0


class Server(uvicorn.Server):
    """Signals are ours: the service must stop its streams before the server waits for them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(path: Path) -> None:
    """Judge the file at `path` and serve until SIGTERM."""
    settings = load(path)
    more_files()
    try:
        uvloop.run(serve(settings))
    except OSError as error:
        raise FastCacheError(f"cannot serve on {settings.bind}:{settings.port}: {error.strerror}") from None


def check(path: Path) -> str:
    """Judge the file at `path`; the sentence says what it is good for."""
    settings = load(path)
    members = f"{len(settings.nodes)} nodes and {len(settings.proxies)} proxies listed"
    return f"{path} is good: {settings.url}, profile {settings.profile}, {members}"


def printed(path: Path | None) -> str:
    """Every setting with its value in force; with no file, the defaults."""
    return rendered(load(path) if path else Settings())


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    log = logger(settings.log_format, sys.stdout)
    certificates = Certificates(settings)
    listener = listening(settings)
    store = store_of(settings)
    prober = Prober(settings.pace.timeout, settings.node_password, tls=certificates.asking)
    service = Service(settings, store, prober, log)
    web = uvicorn.Config(
        application(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    web.load()
    web.ssl = certificates.serving
    server = Server(web)

    def stop() -> None:
        service.stopping.set()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    working = asyncio.create_task(service.run())
    keeping = asyncio.create_task(keep_manager_informed(service))
    minding = asyncio.create_task(mind(certificates, log))
    working.add_done_callback(lambda _task: stop())  # It ends only when told to, or by a fault of ours.
    log("info", "serving", url=settings.url, profile=settings.profile, store=settings.store, pid=os.getpid())
    face = SentinelFace(service)
    watching = asyncio.create_task(face.watch())
    sentinel = None
    try:
        if settings.sentinel_port:
            sentinel = await loop.create_server(lambda: Talk(face), settings.bind, settings.sentinel_port)
        await server.serve([listener])
    finally:
        stop()
        watching.cancel()
        if sentinel:
            sentinel.close()
        notify("STOPPING=1")
        keeping.cancel()
        minding.cancel()
        await working
        log("info", "stopped")


def store_of(settings: Settings) -> Store:
    """The store that the settings ask for; the library of the other is never loaded."""
    if settings.store == "etcd":
        from fastcache.health.store.etcd import Credentials, EtcdStore  # noqa: PLC0415

        files = (settings.tls_ca_cert_file, settings.tls_cert_file, settings.tls_key_file)
        tls = Credentials(*files) if settings.etcd_endpoint.startswith("https://") else None
        return EtcdStore(settings.etcd_endpoint, settings.cluster, settings.url, settings.lease, tls)
    from fastcache.health.store.sqlite import SqliteStore  # noqa: PLC0415

    return SqliteStore(Path(settings.dir), settings.url)


def listening(settings: Settings) -> socket.socket:
    """The socket of HTTP: one that cannot be had is an error before anything else has begun."""
    family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.bind, settings.port))
    listener.set_inheritable(True)
    return listener


async def keep_manager_informed(service: Service) -> None:
    """READY once there is something to serve, then the watchdog: it is fed only while this loop turns."""
    watched = int(os.environ.get("WATCHDOG_USEC", "0")) / 3e6
    while service.current is None and not service.leader_url:
        await asyncio.sleep(0.02)
    notify("READY=1")
    while True:
        summary = service.registry.summary()
        role = "leading" if service.leading else "following"
        notify(
            f"WATCHDOG=1\nSTATUS={role}, epoch {service.epoch}, "
            f"{summary.healthy_nodes} of {summary.total_nodes} nodes healthy"
        )
        await asyncio.sleep(min(watched, TICK_SECONDS) if watched else TICK_SECONDS)


async def mind(certificates: Certificates, log: Log) -> None:
    """Have certificates that were replaced in use."""
    while True:
        await asyncio.sleep(MIND_SECONDS)
        if news := certificates.refresh():
            log("info", "certificate", outcome=news)


def notify(state: str) -> None:
    """Speak to the service manager; that it does not listen is no reason to stop."""
    with contextlib.suppress(OSError):
        _core.notify(state)


def more_files() -> None:
    """Every member takes a connection: ask for as many as we may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def logger(style: str, out: TextIO) -> Log:
    """Structured lines: JSON for machines, `key=value` for people."""

    def write(level: str, event: str, **fields: object) -> None:
        stamp = timestamp(time.time())
        if style == "json":
            record = {"time": stamp, "level": level, "process": "health", "event": event, **fields}
            line = msgspec.json.encode(record).decode()
        else:
            extra = "".join(f" {name}={value}" for name, value in fields.items())
            line = f"{stamp} {level:<7} health {event}{extra}"
        with contextlib.suppress(OSError):  # Nobody reads any more; serving goes on.
            print(line, file=out, flush=True)

    return write
