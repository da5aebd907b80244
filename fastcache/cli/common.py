"""What several commands share: options, progress, and how to name ourselves."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fastcache.embedded.record import default_directory

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_directory,
    show_default="FASTCACHE_DIR, or fastcache in the user's state directory",
    help="Where the cluster keeps its record, configuration, logs and data.",
    callback=lambda _context, _option, path: path.absolute(),
)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere: a log needs no animation."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns: list[Any] = [TextColumn(what), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def ourselves() -> str:
    """How the reader can call this program again from where they are."""
    found = shutil.which("fastcache")
    program = Path(sys.argv[0]).absolute()
    if found and Path(found).resolve() == program.resolve():
        return "fastcache"
    relative = os.path.relpath(program)
    return str(program) if relative.startswith("..") else relative


def dir_argument(directory: Path) -> str:
    """`--dir D` where it is needed to find the same cluster again."""
    return "" if directory == default_directory() else f" --dir {directory}"
