"""How a lean process is started: which command, and how its settings reach it unseen.

Two kinds of callers: `fastcache node` and `fastcache proxy` replace themselves by the lean process, the
embedded cluster starts many.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from fastcache import _core

NODE = Path(__file__).with_name("lean.py")
PROXY = Path(__file__).with_name("proxy.py")


def command(name: str, settings_descriptor: int, program: Path = NODE) -> list[str]:
    """The arguments of a lean process. `name` is what `ps` shows, such as node-7001."""
    # -I: nothing from the environment or the current directory. -S: no site-packages, hence no `site`.
    # -X: less memory for line tables nobody will read.
    return [sys.executable, "-I", "-S", "-X", "no_debug_ranges", str(program), name, str(settings_descriptor)]


def sealed_settings(settings: Iterable[tuple[str, str]]) -> int:
    """A file in memory that holds the settings; whoever inherits the descriptor can read them."""
    descriptor = os.memfd_create("settings", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        for name, value in settings:
            file.write(f"{name}\0{value}\0".encode("utf-8", "surrogateescape"))
    return descriptor


def become(name: str, settings: Iterable[tuple[str, str]], program: Path = NODE) -> NoReturn:
    """Replace this process by the lean one; process id, environment and open sockets stay."""
    _core.start_small()
    arguments = command(name, sealed_settings(settings), program)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(arguments[0], arguments)
