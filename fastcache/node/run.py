"""From a configuration file to a serving node.

The judging is done here, in an ordinary Python process; then it becomes the lean one (daemon/lean.py),
which keeps the process id, so that a service manager sees one process from start to end.
"""

from pathlib import Path
from typing import NoReturn

from fastcache import config
from fastcache.daemon import launch


def serve(path: Path) -> NoReturn:
    """Judge the file at `path` and become the node it describes."""
    node = config.load_node(path)
    # CONFIG REWRITE writes the file it came from.
    launch.become(name(node), (*node.settings, ("config-file", str(path.absolute()))))


def name(node: config.NodeConfiguration) -> str:
    """What the process list and the log call this node."""
    # Where there is no plain port, that of TLS.
    return f"node-{node.get('tls-port') if node.get('port') == '0' else node.get('port')}"


def check(path: Path) -> str:
    """Judge the file at `path`; the sentence says what it is good for."""
    node = config.load_node(path)
    return f"{path} is good: {name(node)}, {len(node.settings)} settings"


def printed(path: Path | None) -> str:
    """Every setting with its value in force; with no file, the defaults."""
    return config.rendered(config.load_node(path).settings if path else ())
