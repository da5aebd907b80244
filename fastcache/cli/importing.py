"""`fastcache import`: the keys of a Redis or Valkey, from an RDB file or from a server that runs."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click

from fastcache.errors import DEGRADED, UsageError
from fastcache.importer import Progress

DEFAULT_TARGET = "redis://127.0.0.1:6380"
LINE_SECONDS = 5.0


def password_from(_context: click.Context, option: click.Parameter, path: Path | None) -> str | None:
    """The first line of a file; what stands in an argument list, everybody on the machine can read."""
    if path is None:
        return None
    lines = path.read_text().splitlines()
    if not lines or not lines[0]:
        raise UsageError(f"--{option.name}: {path} is empty")
    return lines[0]


def address(value: str) -> str:
    """The address, once it is known to be one; HOST:PORT is as good as redis://HOST:PORT."""
    url = value if "://" in value else f"redis://{value}"
    try:
        parts = urlsplit(url)
        good = parts.scheme == "unix" or (parts.scheme in ("redis", "rediss") and parts.port != 0)
    except ValueError:  # The port is no number, or too large.
        good = False
    if not good:
        raise UsageError(
            f"{value} is no address of a server",
            "say HOST:PORT, redis://HOST:PORT, rediss://... or unix://...",
        )
    return url


def address_from(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """What an option names."""
    return address(value)


password_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("import")
@click.argument("source")
@click.option(
    "--to",
    default=DEFAULT_TARGET,
    show_default=True,
    callback=address_from,
    help="A node, a proxy, or HAProxy: HOST:PORT or an address.",
)
@click.option(
    "--password-file", "password", type=password_file, callback=password_from, help="Of the target."
)
@click.option(
    "--source-password-file",
    "source_password",
    type=password_file,
    callback=password_from,
    help="Of the source.",
)
@click.option(
    "--replace", is_flag=True, help="Overwrite keys that are there; only for files, a server always does."
)
@click.option("--follow", is_flag=True, help="Go on following the server until interrupted.")
@click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the server's file is kept meanwhile.",
)
def command(
    *,
    source: str,
    to: str,
    password: str | None,
    source_password: str | None,
    replace: bool,
    follow: bool,
    scratch: Path | None,
) -> None:
    """Bring in the keys of SOURCE: an RDB file, or redis://HOST:PORT (rediss:// for TLS).

    From a file, keys that are there are kept; --replace overwrites them. A running server is followed until
    the target has caught up: stop its writers, wait for the end, and point clients here. An import that was
    interrupted can be run again. Exit code 3 when some keys could not be brought in.
    """
    from fastcache.importer.file import import_file
    from fastcache.importer.live import import_live
    from fastcache.importer.target import Target

    if "://" in source:
        address(source)
    for url in (to, source):
        if "://" in url and urlsplit(url).password:
            raise UsageError(
                "a password in an address can be read by everybody on this machine",
                "put it into a file and give --password-file or --source-password-file",
            )
    # A service manager, or whoever runs it in the background, ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = Progress()
    target = Target(to, password, progress)
    try:
        target.check()
        with telling(progress) as shown:
            if source.startswith(("redis://", "rediss://")):
                try:
                    import_live(
                        source, source_password, target, follow=follow, directory=scratch, shown=shown
                    )
                except KeyboardInterrupt:
                    if not follow or progress.stage != "following":
                        raise
            else:
                path = Path(source)
                if not path.is_file():
                    raise UsageError(f"{source} is no file, and no address such as redis://host:6379")
                import_file(path, target, replace=replace, shown=shown)
    finally:
        target.close()
    click.echo(summary(progress))
    for refusal in progress.refusals:
        click.echo(f"  not taken: {refusal}", err=True)
    if progress.refused:
        sys.exit(DEGRADED)


def summary(progress: Progress) -> str:
    """What was done, in a sentence."""
    parts = [f"{progress.keys - progress.removed} keys brought in"]
    if progress.kept:
        parts.append(f"{progress.kept} kept as they were (--replace overwrites them)")
    if progress.removed:
        parts.append(f"{progress.removed} removed again by the source")
    if progress.refused:
        parts.append(f"{progress.refused} not taken")
    return ", ".join(parts) + "."


@contextmanager
def telling(progress: Progress) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(progress.stage, total=None)
            yield lambda now: bar.update(
                task, description=told(now), completed=now.done_bytes, total=now.total_bytes or None
            )
        return
    last = time.monotonic()

    def line(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            part = f", {now.done_bytes / now.total_bytes:.0%} of the file" if now.total_bytes else ""
            click.echo(told(now) + part, err=True)

    yield line


def told(now: Progress) -> str:
    """How far it is, in a few words."""
    if now.stage == "following":
        return f"following: {now.keys} keys, {now.behind} behind"
    return f"{now.stage}: {now.keys} keys"
