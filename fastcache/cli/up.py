"""`fastcache up`: a cluster on this machine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastcache import _core
from fastcache.cli.common import dir_argument, directory_option, ourselves, progress
from fastcache.embedded import cluster, plan
from fastcache.embedded.plan import ProcessSpec, Wish
from fastcache.errors import UsageError


def port_option(name: str, default: int, text: str) -> Callable[[Any], Any]:
    """An option that is a port; None when nothing is said."""
    return click.option(name, type=click.IntRange(1, plan.LAST_PORT), help=f"{text} [default: {default}]")


@click.command()
@click.option(
    "--nodes",
    type=click.IntRange(min=1, max=1000),
    help=f"How many cache nodes. [default: {plan.DEFAULT_NODES}]",
)
@click.option(
    "--proxies",
    type=click.IntRange(min=1, max=100),
    help=f"How many proxies. [default: one for {plan.NODES_PER_PROXY} nodes, at least {plan.FEWEST_PROXIES}]",
)
@click.option("--workers", type=click.IntRange(1, 64), help="Threads of each proxy. [default: 1]")
@port_option("--port", plan.DEFAULT_PORT, "Port of the whole cluster: HAProxy's.")
@port_option("--node-port", plan.DEFAULT_NODE_PORT, "Port of the first node; the others follow.")
@port_option("--proxy-port", plan.DEFAULT_PROXY_PORT, "Port of the first proxy; the others follow.")
@port_option("--health-port", plan.DEFAULT_HEALTH_PORT, "Port of the health service (HTTP).")
@port_option("--stats-port", plan.DEFAULT_STATS_PORT, "Port of HAProxy's page of statistics (HTTP).")
@click.option(
    "--profile",
    type=click.Choice(["fast", "reference"]),
    help="fast: a dead node is found in about a second; reference: checks every 30 s. [default: fast]",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, plan.MOST_REPLICAS),
    help="Copies of everything on other nodes, which take over when a node dies. [default: 0]",
)
@click.option(
    "--consistency",
    type=click.Choice(["eventual", "strict"]),
    help="strict: a write is acknowledged once its copies hold it too; needs --replicas. [default: eventual]",
)
@click.option("--only", type=click.Choice(["nodes"]), help="Nodes and nothing in front of them.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting for every node, such as maxmemory=100mb. Can be repeated.",
)
@directory_option
def command(only: str | None, settings: tuple[str, ...], directory: Path, **said: Any) -> None:
    """Start a cluster on this machine and return when it answers.

    With no options it is the reference cluster: 50 nodes, 5 proxies, the health service and HAProxy.
    Everything runs as processes of yours on the loopback interface; no root is needed. Called again, it
    starts what has ended meanwhile; after 'down', the cluster that was there, with what its nodes have kept.
    """
    balancer = shutil.which("haproxy") is not None
    pairs = tuple(pair(setting) for setting in settings)
    wish = Wish(settings=pairs, only_nodes=only == "nodes", balancer=balancer, **said)
    with progress("Starting") as moved:
        raised = cluster.up(wish, directory, moved)
    what = plan.told(raised.specs)
    if raised.note:
        click.echo(raised.note, err=True)
    if not raised.started:
        click.echo(f"{what} already run and answer (files in {directory}).")
    elif len(raised.started) < len(raised.specs):
        again = ", ".join(spec.name for spec in raised.started)
        click.echo(f"Started again: {again}. Now {what} answer.")
    else:
        click.echo(f"{what} answer after {raised.seconds:.2f} s (files in {directory}).")
    if not balancer and only is None:
        click.echo("HAProxy is not installed: clients talk to a proxy directly.")
    if _core.build_profile() == "debug":
        click.echo("This is a debug build: it checks itself and is slow. `make up` builds the fast one.")
    click.echo(how_to_talk(raised.specs, dir_argument(directory)))


def pair(setting: str) -> tuple[str, str]:
    """`name=value` in two."""
    name, equals, value = setting.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {setting}: must be NAME=VALUE", "for example --set maxmemory=100mb")
    return name, value


def how_to_talk(specs: tuple[ProcessSpec, ...], directory: str) -> str:
    """What the reader can do next, as commands to copy."""
    us = ourselves()
    client = "redis-cli" if shutil.which("redis-cli") else "any Redis client, such as redis-cli"
    ports = {kind: [one.endpoint.port for one in specs if one.kind == kind] for kind in plan.STAGES}
    door = (ports["balancer"] or ports["proxy"] or ports["node"])[0]
    talk = "talk to all nodes as to one Redis" if ports["proxy"] else "talk to a node as to Redis"
    commands = [(f"{client} -p {door} SET greeting hello", talk)]
    if ports["health"]:
        commands.append(
            (f"curl http://127.0.0.1:{ports['health'][0]}/health/summary", "what is known of them")
        )
    commands += [
        (f"{us} status{directory}", "how they are; --watch stays"),
        (f"{us} down{directory}", "stop them"),
    ]
    width = max(len(line) for line, _ in commands)
    shown = "\n".join(f"  {line:<{width}}   {why}" for line, why in commands)
    places = []
    for kind, name in (("node", "nodes"), ("proxy", "proxies")):
        if found := ports[kind]:
            places.append(f"{name} {found[0]}" if len(found) == 1 else f"{name} {found[0]}-{found[-1]}")
    for spec in specs:
        if spec.kind == "health":
            places.append(f"health service {spec.endpoint.port}")
        elif spec.kind == "balancer":
            places.append(f"HAProxy {', statistics '.join(str(one.port) for one in spec.endpoints)}")
    return f"\nPorts on 127.0.0.1: {'; '.join(places)}.\n\n{shown}\n"
