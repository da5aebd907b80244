"""From a configuration file to a serving proxy, as node/run.py does it for nodes."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from fastcache.daemon import launch
from fastcache.proxy import settings

# What the command `fastcache` is, where there is no such file.
PROGRAM = "from fastcache.cli import main; main()"


def serve(path: Path) -> NoReturn:
    """Judge the file at `path` and become the proxy it describes."""
    proxy = settings.load(path)
    launch.become(proxy.name, proxy.for_the_process(how_to_start(path)), launch.PROXY)


def how_to_start(path: Path) -> list[str]:
    """The command for a proxy with this file, by the program that this is: when it is renewed, whatever the
    same name leads to by then."""
    program = Path(sys.argv[0])
    # Not resolved: after an upgrade a link in it leads to another release.
    start = [str(program.absolute())] if os.access(program, os.X_OK) else [sys.executable, "-c", PROGRAM]
    return [*start, "proxy", "--config", str(path.absolute())]


def check(path: Path) -> str:
    """Judge the file at `path`; the sentence says what it is good for."""
    proxy = settings.load(path)
    services, nodes = len(proxy.own["health"]), len(proxy.own["nodes"])
    return f"{path} is good: {proxy.name}, {services} health services and {nodes} static nodes"


def printed(path: Path | None) -> str:
    """Every setting with its value in force; with no file, the defaults."""
    return settings.rendered(settings.load(path) if path else None)
