"""The process that a cache node is: it starts the core, obeys signals, and tells how it is.

Fifty of these may run on one machine, so it is run as `python -I -S lean.py` and imports nothing but the
core and modules compiled into the interpreter: no `os`, no `signal`, no `json`, no `logging`. The settings
were judged by the process before it (see launch.py) and arrive through an inherited file descriptor, as
`name NUL value NUL ...`: neither the argument list nor the environment may show a password.

    lean.py NAME SETTINGS_FD

Exit codes: 0 stopped in order, 1 could not start or the core ended by itself, 78 a bad setting.
"""

import _signal
import _thread
import gc
import posix
import sys
import time

sys.path.insert(0, __file__.rsplit("/", 3)[0])

import contextlib

from fastcache import _core

# How often the main thread wakes to compare heartbeats when nothing else asks for more.
TICK_SECONDS = 1.0
# How many ticks pass between two STATUS lines for the service manager.
TICKS_PER_STATUS = 5
# How long a node that is to stop waits until others have taken over, and how often it looks.
HAND_OVER_SECONDS = 10.0
HAND_OVER_TICK = 0.02
# Then who has not heard of it yet hears MOVED for a while; its request would be lost with the connection.
LINGER_SECONDS = 0.5

OK, FAILED, BAD_CONFIGURATION = 0, 1, 78

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastcache.daemon.follow import Follower


class Log:
    """Structured lines on stdout: JSON for machines, `key=value` for people."""

    def __init__(self, name: str, json: bool) -> None:
        self.name = name
        self.json = json

    def write(self, level: str, event: str, **fields: object) -> None:
        seconds = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03}Z"
        fields = {"time": stamp, "level": level, "process": self.name, "event": event, **fields}
        if self.json:
            line = (
                "{" + ", ".join(f"{quoted(key)}: {as_json(value)}" for key, value in fields.items()) + "}\n"
            )
        else:
            extra = list(fields.items())[4:]
            line = f"{stamp} {level:<7} {self.name} {event}" + "".join(f" {k}={v}" for k, v in extra) + "\n"
        try:
            posix.write(1, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # Nobody reads any more; serving goes on.


def as_json(value: object) -> str:
    return str(value) if isinstance(value, int | float) else quoted(str(value))


def quoted(text: str) -> str:
    """A JSON string; written by hand because the json module would cost every node 100 KB."""
    characters = []
    for character in text:
        if character in '"\\':
            characters.append("\\" + character)
        elif character < " ":
            characters.append(f"\\u{ord(character):04x}")
        else:
            characters.append(character)
    return '"' + "".join(characters) + '"'


def settings_from(descriptor: int) -> list[tuple[str, str]]:
    """Read `name NUL value NUL ...` to its end."""
    parts = []
    posix.lseek(descriptor, 0, 0)
    while part := posix.read(descriptor, 65536):
        parts.append(part)
    posix.close(descriptor)
    words = b"".join(parts).decode("utf-8", "surrogateescape").split("\0")[:-1]
    return list(zip(words[::2], words[1::2], strict=True))


def watchdog_interval() -> float:
    """A third of the time after which the service manager gives up on us; 0 when it does not watch."""
    environment = posix.environ
    watched_process = environment.get(b"WATCHDOG_PID", b"")
    if watched_process and int(watched_process) != posix.getpid():
        return 0.0
    return int(environment.get(b"WATCHDOG_USEC", b"0")) / 3e6


def tell(state: str) -> None:
    """Speak to the service manager; that it does not listen is no reason to stop."""
    with contextlib.suppress(OSError):
        _core.notify(state)


class Signals:
    """What the service manager wants of us. Python notes it in its main thread, which waits in the core."""

    def __init__(self, *, renewable: bool = False) -> None:
        self.stop = 0
        self.renew = False
        for number in (_signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, self.note)
        # Nodes are not renewed: their settings change by CONFIG SET.
        _signal.signal(_signal.SIGHUP, self.note_renewal if renewable else _signal.SIG_IGN)

    def note(self, number: int, _frame: object) -> None:
        self.stop = number

    def note_renewal(self, _number: int, _frame: object) -> None:
        self.renew = True


def serve(
    node: _core.Node | _core.Proxy,
    signals: Signals,
    log: Log,
    renew: "Callable[[], None] | None" = None,
    more: "Callable[[], str]" = str,
    leave: "Callable[[], str] | None" = None,
) -> int:
    """Stay until the core has ended, feeding the watchdog only while the core's heartbeat rises. `renew` is
    called when a signal asks for it, and does not return when it could; `more` ends the STATUS line; `leave`
    hands over to others before we stop, and says why when it could not."""
    interval = watchdog_interval()
    tick = min(interval, TICK_SECONDS) if interval else TICK_SECONDS
    managed = b"NOTIFY_SOCKET" in posix.environ
    last_beat, ticks = -1, 0
    # The wait ends early when a signal comes.
    while not signals.stop and not node.wait(tick):
        if signals.renew and renew:
            signals.renew = False
            renew()
            ticks = 0
        if managed:
            beat = node.heartbeat()
            if beat != last_beat:
                last_beat = beat
                tell("WATCHDOG=1")
            if ticks % TICKS_PER_STATUS == 0:
                tell(status_line(node.stats()) + more())
            ticks += 1
    if signals.stop and leave:
        hand_over(node, signals, log, leave)
    if signals.stop:
        log.write("info", "stopping", signal=signals.stop)
        tell("STOPPING=1\nSTATUS=sending the replies that are due, then leaving")
        node.stop()
    if node.panicked():
        log.write("error", "the core ended by a fault of its own")
        return FAILED
    return OK


def hand_over(
    node: "_core.Node | _core.Proxy", signals: Signals, log: Log, leave: "Callable[[], str]"
) -> None:
    """Serve on until others have taken over, within bounds; a second signal ends that at once."""
    over = _thread.allocate_lock()
    over.acquire()
    said = [""]

    def ask() -> None:
        try:
            said[0] = leave()
        finally:
            over.release()

    number, signals.stop = signals.stop, 0
    tell("STATUS=handing over before it stops")
    began = time.monotonic()
    took = int(HAND_OVER_SECONDS * 1000)
    _thread.start_new_thread(ask, ())
    done, last_beat, until = False, -1, began + HAND_OVER_SECONDS
    while not signals.stop and time.monotonic() < until:
        beat = node.heartbeat()
        if beat != last_beat:
            last_beat = beat
            tell("WATCHDOG=1")
        if node.wait(HAND_OVER_TICK):
            break
        if not done and (done := over.acquire(blocking=False)):
            took = int((time.monotonic() - began) * 1000)
            until = time.monotonic() + (0 if said[0] else LINGER_SECONDS)
    why = said[0] if done else "not done in time"
    if why:
        log.write("info", "nobody takes over", why=why, ms=took)
    else:
        log.write("info", "handed over", ms=took)
    signals.stop = number


def status_line(stats: dict[str, int | float]) -> str:
    shown = ("connections", "clients", "entries", "memory_bytes", "epoch")
    return "STATUS=serving: " + ", ".join(f"{name} {stats[name]}" for name in shown if name in stats)


def follower_of(node: _core.Node, chosen: dict[str, str], log: Log) -> "Follower | None":
    """Who keeps a node of a cluster on the newest topology; the node has the best one at hand already."""
    if not chosen.get("health") and not chosen.get("topology-file"):
        return None
    # Only now: a node that belongs to no cluster stays as small as it was.
    from fastcache.daemon.follow import Follower  # noqa: PLC0415

    places = (url.removeprefix("http://").rstrip("/") for url in chosen.get("health", "").split())
    own = {"health": " ".join(places), "topology-file": chosen.get("topology-file", "")}
    own["authority"] = chosen.get("tls-ca-cert-file", "")
    follower = Follower(own, log, node.set_topology, keeps=False)
    follower.first("")
    if follower.topology:
        node.set_topology(follower.topology)
    return follower


def leaver(node: _core.Node, follower: "Follower", name: str) -> "Callable[[], str]":
    """How this node gives up its slots; empty when others have them, else why not."""

    def leave() -> str:
        node.leave()  # The health service believes only the node itself, and asks it.
        return follower.leave(f'{{"node": {quoted(name)}}}')

    return leave


def main(name: str, settings_descriptor: str) -> int:
    started = time.monotonic()
    settings = settings_from(int(settings_descriptor))
    chosen = dict(settings)
    log = Log(name, json=chosen.get("log-format", "console") == "json")
    try:
        node = _core.Node(settings)
    except ValueError as error:
        log.write("error", "bad setting", error=error)
        return BAD_CONFIGURATION
    port = chosen.get("port", "")
    own_name = chosen.get("node-id", "")
    signals = Signals()
    follower = follower_of(node, chosen, log)
    try:
        node.start()
    except OSError as error:
        log.write("error", "cannot start", port=port, error=error)
        return FAILED
    leave = None
    if follower and follower.services:
        _thread.start_new_thread(follower.follow, ())
        if own_name:
            leave = leaver(node, follower, own_name)
    # Nothing that lives now will ever be garbage, and nothing later makes cycles.
    del settings, chosen
    gc.collect()
    gc.disable()
    tell("READY=1\nSTATUS=serving")
    took = int((time.monotonic() - started) * 1000)
    log.write("info", "serving", port=port, pid=posix.getpid(), version=_core.version(), start_ms=took)
    _core.rest()
    code = serve(node, signals, log, leave=leave)
    log.write("info", "stopped")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
