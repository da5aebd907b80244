"""From a configuration file to a serving proxy, as node/run.py does it for nodes."""

from pathlib import Path
from typing import NoReturn

from fastcache.daemon import launch
from fastcache.proxy import settings


def serve(path: Path) -> NoReturn:
    """Judge the file at `path` and become the proxy it describes."""
    proxy = settings.load(path)
    launch.become(proxy.name, proxy.for_the_process(), launch.PROXY)


def check(path: Path) -> str:
    """Judge the file at `path`; the sentence says what it is good for."""
    proxy = settings.load(path)
    services, nodes = len(proxy.own["health"]), len(proxy.own["nodes"])
    return f"{path} is good: {proxy.name}, {services} health services and {nodes} static nodes"


def printed(path: Path | None) -> str:
    """Every setting with its value in force; with no file, the defaults."""
    return settings.rendered(settings.load(path) if path else None)
