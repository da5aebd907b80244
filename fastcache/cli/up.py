"""`fastcache up`: a cluster on this machine."""

import shutil
from pathlib import Path

import click

from fastcache import _core
from fastcache.cli.common import dir_argument, directory_option, ourselves, progress
from fastcache.embedded import cluster
from fastcache.embedded.plan import DEFAULT_NODE_PORT, DEFAULT_NODES, LAST_PORT, Wish, counted
from fastcache.errors import UsageError


@click.command()
@click.option(
    "--nodes", type=click.IntRange(min=1, max=1000), help=f"How many cache nodes. [default: {DEFAULT_NODES}]"
)
@click.option(
    "--node-port",
    type=click.IntRange(1, LAST_PORT),
    help=f"Port of the first node; the others follow. [default: {DEFAULT_NODE_PORT}]",
)
@click.option(
    "--only",
    type=click.Choice(["nodes"]),
    help="Leave out everything else. Nodes are all there is at present.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting for every node, such as maxmemory=100mb. Can be repeated.",
)
@directory_option
def command(
    nodes: int | None, node_port: int | None, only: str | None, settings: tuple[str, ...], directory: Path
) -> None:
    """Start a cluster on this machine and return when it answers.

    Everything runs as processes of yours on the loopback interface; no root is needed. Called again, it
    starts what has ended meanwhile.
    """
    del only
    wish = Wish(nodes, node_port, tuple(pair(setting) for setting in settings))
    with progress("Starting") as moved:
        raised = cluster.up(wish, directory, moved)
    count = counted(len(raised.specs), "node")
    if not raised.started:
        click.echo(f"{count} already run and answer (files in {directory}).")
    elif len(raised.started) < len(raised.specs):
        again = ", ".join(spec.name for spec in raised.started)
        click.echo(f"Started again: {again}. Now {count} answer.")
    else:
        click.echo(f"{count} answer after {raised.seconds:.2f} s (files in {directory}).")
    if _core.build_profile() == "debug":
        click.echo("This is a debug build: it checks itself and is slow. `make up` builds the fast one.")
    click.echo(how_to_talk([spec.endpoint.port for spec in raised.specs], dir_argument(directory)))


def pair(setting: str) -> tuple[str, str]:
    """`name=value` in two."""
    name, equals, value = setting.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {setting}: must be NAME=VALUE", "for example --set maxmemory=100mb")
    return name, value


def how_to_talk(ports: list[int], directory: str) -> str:
    """What the reader can do next, as commands to copy."""
    us = ourselves()
    client = "redis-cli" if shutil.which("redis-cli") else "any Redis client, such as redis-cli"
    commands = [
        (f"{client} -p {ports[0]} SET greeting hello", "talk to a node as to Redis"),
        (f"{us} status{directory}", "how they are; --watch stays"),
        (f"{us} down{directory}", "stop them"),
    ]
    width = max(len(line) for line, _ in commands)
    shown = "\n".join(f"  {line:<{width}}   {why}" for line, why in commands)
    span = f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]}-{ports[-1]}"
    return f"\nNodes listen on 127.0.0.1, {span}:\n\n{shown}\n"
