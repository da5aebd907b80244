"""`fastcache snapshot`: snapshots of nodes, taken and looked at."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from fastcache import _core
from fastcache.cli.common import directory_option
from fastcache.cli.importing import password_file, password_from
from fastcache.errors import FAILED, FastCacheError, UsageError
from fastcache.model import Endpoint

# A snapshot of a full node on a slow disk takes its time.
TAKE_SECONDS = 600.0
BATCH = 1000

file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Take snapshots of nodes, and look at their files.

    A node whose 'dir' is set takes them by itself (snapshot-interval) and keeps the last ones
    (snapshot-keep).
    """


@command.command()
@click.argument("node", required=False)
@click.option("--all", "everywhere", is_flag=True, help="Of all nodes of the cluster at the same time.")
@click.option("--health", help="http://HOST:PORT of the health service that knows the nodes; with --all.")
@click.option("--password-file", "password", type=password_file, callback=password_from, help="Of the nodes.")
@directory_option
def take(
    node: str | None, *, everywhere: bool, health: str | None, password: str | None, directory: Path
) -> None:
    """Have NODE (redis://HOST:PORT) take a snapshot, and wait until it is on disk.

    With --all every node of the cluster takes one at the same time: the embedded cluster in --dir, or the one
    that --health knows.
    """
    if bool(node) == everywhere:
        raise UsageError("name a node, such as redis://127.0.0.1:7001, or say --all")
    if health and not everywhere:
        raise UsageError("--health goes with --all")
    endpoints = [endpoint_of(node)] if node else nodes_of(health, directory)
    with ThreadPoolExecutor(max_workers=min(64, len(endpoints))) as pool:
        outcomes = list(pool.map(lambda one: take_of(one, password), endpoints))
    failed = 0
    for endpoint, (good, told) in zip(endpoints, outcomes, strict=True):
        click.echo(f"{endpoint}: {told}", err=not good)
        failed += not good
    if failed:
        click.echo(f"{failed} of {len(endpoints)} failed.", err=True)
        sys.exit(FAILED)


def endpoint_of(url: str) -> Endpoint:
    parts = urlsplit(url)
    if parts.scheme != "redis" or not parts.hostname:
        raise UsageError(f"{url} is no address such as redis://127.0.0.1:7001")
    return Endpoint(parts.hostname, parts.port or 7001)


def nodes_of(health: str | None, directory: Path) -> list[Endpoint]:
    """Where the nodes of a cluster are."""
    if health:
        from fastcache.client.health import call
        from fastcache.client.routing import view_of

        view = view_of(json.dumps(call(health, "GET", "/topology")).encode())
        found = [one.endpoint for one in view.nodes.values()]
    else:
        from fastcache.embedded import cluster

        found = [one.endpoint for one in cluster.report(directory) if one.kind == "node"]
    if not found:
        raise FastCacheError("the cluster has no nodes", "see 'fastcache status'")
    return found


def take_of(endpoint: Endpoint, password: str | None) -> tuple[bool, str]:
    """Whether a node took a snapshot, and what it says of it."""
    import redis

    client: Any = redis.Redis(
        host=endpoint.host, port=endpoint.port, password=password, socket_timeout=TAKE_SECONDS, protocol=3
    )
    try:
        told = {key.decode(): value for key, value in client.execute_command("FASTCACHE", "SNAPSHOT").items()}
    except redis.RedisError as error:
        return False, str(error)
    finally:
        client.close()
    name = told["file"].decode("utf-8", "surrogateescape")
    return True, f"{name}: {told['entries']} entries, {told['bytes']} bytes, {told['ms']} ms"


@command.command("list")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_(directory: Path, output: str) -> None:
    """List the snapshots in DIRECTORY and in the directories of nodes in it, the newest first."""
    found: list[dict[str, Any]] = []
    for place in (directory, *sorted(one for one in directory.iterdir() if one.is_dir())):
        found += (outline(path) for _, path in _core.snapshots(place))
    if output == "json":
        click.echo(json.dumps(found, indent=1))
        return
    for one in found:
        if "damage" in one:
            click.echo(f"{one['file']}  DAMAGED: {one['damage']}")
        else:
            when = moment(one["timestamp"])
            click.echo(f"{one['file']}  {when}  {one['node']}  {one['entries']} entries  {one['size']} bytes")
    if not found:
        click.echo(f"There are no snapshots in {directory}.")


def outline(path: Path) -> dict[str, Any]:
    """What a snapshot says of itself."""
    outlined: dict[str, Any] = {"file": str(path), "size": path.stat().st_size}
    try:
        about: dict[str, Any] = json.loads(_core.SnapshotFile(path).about())
        total: dict[str, Any] = json.loads(_core.snapshot_sum(path))
        return outlined | about | total
    except ValueError as error:
        return outlined | {"damage": str(error)}


def moment(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


@command.command()
@file_argument
@click.option("--entries", type=click.IntRange(min=0), default=10, show_default=True, help="So many of them.")
def show(file: Path, entries: int) -> None:
    """Show what FILE is of, as JSON, and its first entries, a line each."""
    with telling_damage(file):
        opened = _core.SnapshotFile(file)
        told = json.loads(opened.about()) | json.loads(_core.snapshot_sum(file))
        click.echo(json.dumps(told, indent=1))
        for line in opened.entries(entries):
            click.echo(line)


@command.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def verify(files: tuple[Path, ...]) -> None:
    """Read FILES to the end and check every byte and every entry."""
    damaged = 0
    for file in files:
        try:
            count = _core.SnapshotFile(file).verify()
        except ValueError as error:
            damaged += 1
            click.echo(f"{file}: DAMAGED: {error}", err=True)
        else:
            click.echo(f"{file}: whole, {count} entries")
    if damaged:
        sys.exit(FAILED)


@command.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--topology",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Count an entry only in the file of the node that is its main by this topology.",
)
@click.option(
    "--living-at",
    type=click.IntRange(min=0),
    default=0,
    metavar="MS",
    help="Leave out what has expired then.",
)
def digest(files: tuple[Path, ...], topology: Path | None, living_at: int) -> None:
    """Tell how many entries FILES hold together and their digest, as JSON.

    Equal contents have equal digests, in whatever order and however many files. Clusters with copies need
    --topology: their nodes' files hold entries of other mains, too.
    """
    from fastcache.importer.digest import Only, Sum, sum_of

    only = Only(_core.Topology.load(topology) if topology else None, living_at)
    total = Sum()
    told = []
    for file in files:
        one = sum_of(file, only)
        total += one
        told.append({"file": str(file), **one.told})
    click.echo(json.dumps({**total.told, "files": told}, indent=1))


@command.command()
@file_argument
@click.option("--to", "target", type=click.Path(dir_okay=False, path_type=Path), help="A file; else output.")
def export(file: Path, target: Path | None) -> None:
    """Write all of FILE as one JSON document: what it is of, statistics, entries with their times."""
    with telling_damage(file), click.open_file(str(target or "-"), "w", encoding="utf-8") as out:
        opened = _core.SnapshotFile(file)
        about = json.dumps(json.loads(opened.about()), indent=1)
        out.write(about[:-2] + ',\n "entries": [')
        first = True
        for line in lines_of(opened):
            out.write("\n  " if first else ",\n  ")
            out.write(line)
            first = False
        out.write("\n ]\n}\n")


def lines_of(opened: _core.SnapshotFile) -> Iterator[str]:
    while lines := opened.entries(BATCH):
        yield from lines


@contextmanager
def telling_damage(file: Path) -> Iterator[None]:
    """Turn damage of a file into a sentence."""
    try:
        yield
    except ValueError as error:
        raise FastCacheError(
            f"{file} is damaged: {error}", "take the one before it: 'fastcache snapshot list'"
        ) from None
