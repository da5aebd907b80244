"""A proxy becomes the program and the settings as they stand now, and no client notices. Lean, as lean.py is.

The new program first judges the configuration, in a process of its own: what would not start is told, and the
proxy goes on as it was. Then the core comes to rest and leaves its sockets open, and this process replaces
itself (`exec`) by the new program, which finds them by the descriptor that the environment names. The process
id stays, so whoever supervises it sees nothing; clients wait for as long as the program takes to start.

Whoever asked learns from the STATUS line what came of it: `renewed N times`, and `refused N` with the reason.
"""

import _signal
import posix

from fastcache import _core

ENVIRONMENT = b"FASTCACHE_HANDED_OVER"
# How often this process was renewed.
COUNT = b"FASTCACHE_RENEWED"
JUDGING_SECONDS = 60.0
TICK_SECONDS = 0.05
# Requests that are under way are waited for in the core, each time a moment; clients wait meanwhile.
ATTEMPTS = 5
PAUSE_SECONDS = 1.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcache.daemon.lean import Log


def left() -> int | None:
    """The descriptor that the program before us has left, when there was one."""
    # What is started from here is not that program's heir.
    number = posix.environ.pop(ENVIRONMENT, b"")
    return int(number) if number.isdigit() else None


class Renewals:
    """What became of the wishes to be renewed, for the STATUS line."""

    def __init__(self) -> None:
        said = posix.environ.pop(COUNT, b"")
        self.done = int(said) if said.isdigit() else 0
        self.refused = 0
        self.reason = ""

    def refuse(self, log: "Log", why: str, **more: object) -> None:
        self.refused += 1
        self.reason = why
        log.write("error", f"not renewed: {why}", **more)

    def __str__(self) -> str:
        said = f"renewed {self.done} times"
        return f"{said}, refused {self.refused} ({self.reason})" if self.refused else said


def renew(proxy: _core.Proxy, command: list[str], log: "Log", renewals: Renewals) -> None:
    """Become what `command` starts. Returns only when that cannot be, and the proxy serves on."""
    if not command[0]:
        renewals.refuse(log, "how it was started is not known")
        return
    if refusal := judged(proxy, [*command, "--check-config"]):
        renewals.refuse(log, "the new program refuses its configuration", reason=refusal)
        return
    for attempt in range(ATTEMPTS):
        try:
            descriptor = proxy.hand_over()
        except TimeoutError as error:
            log.write("warning", "not renewed yet", attempt=attempt + 1, of=ATTEMPTS, reason=error)
            if proxy.wait(PAUSE_SECONDS):
                return
            continue
        # Once more is not asked for while it begins; that outlives `exec`.
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
        log.write("info", "renewing", program=command[0])
        handed = {ENVIRONMENT: str(descriptor).encode(), COUNT: str(renewals.done + 1).encode()}
        posix.execve(command[0], command, {**posix.environ, **handed})
    renewals.refuse(log, "requests under way were not answered")


def judged(proxy: _core.Proxy, command: list[str]) -> str:
    """Why the new program refuses to start; empty when it would. The core serves meanwhile."""
    try:
        child = posix.posix_spawn(command[0], command, posix.environ)
    except OSError as error:
        return str(error)
    for _ in range(int(JUDGING_SECONDS / TICK_SECONDS)):
        ended, status = posix.waitpid(child, posix.WNOHANG)
        if ended:
            code = posix.waitstatus_to_exitcode(status)
            return f"exit code {code}" if code else ""
        proxy.wait(TICK_SECONDS)
    posix.kill(child, 9)
    posix.waitpid(child, 0)
    return f"no answer within {JUDGING_SECONDS:.0f} seconds"
