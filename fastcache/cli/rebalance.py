"""`fastcache rebalance`: slots to where they belong, while everything serves."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from fastcache.cli.common import directory_option
from fastcache.cli.handover import counted, secret, service_of, service_options
from fastcache.client import health
from fastcache.errors import FastCacheError

LOOK_SECONDS = 0.2
# Slots that do not move for so long are reported instead of waited for.
STUCK_SECONDS = 60.0

output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)
weight_option = click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="NODE=PERCENT",
    help="Another weight for a node: 0 drains it, 100 is a normal share, 200 twice as much.",
)


replicas_option = click.option(
    "--replicas",
    type=click.IntRange(0, 7),
    help="Another number of copies of every slot, besides its main (with replication).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Move slots to where they belong: no request fails, and no write is lost.

    Slots move by themselves to a node that joins (placement = "auto") and away from one that is drained.
    """


def weights_from(texts: tuple[str, ...]) -> dict[str, int]:
    """`NODE=PERCENT`, several times."""
    weights = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if not name or not value.isdecimal() or int(value) > 100_000:
            raise click.BadParameter(f"{text!r} is no NODE=PERCENT", param_hint="--weight")
        weights[name] = int(value)
    return weights


@command.command()
@weight_option
@replicas_option
@output_option
@service_options
@directory_option
def plan(
    weights: tuple[str, ...],
    replicas: int | None,
    output: str,
    *,
    url: str | None,
    key_file: Path | None,
    directory: Path,
) -> None:
    """Show what would move, and how much that is."""
    body = {"weights": weights_from(weights), "replicas": replicas}
    told = health.call(service_of(url, directory), "POST", "/rebalance/plan", body, key=secret(key_file))
    if output == "json":
        click.echo(json.dumps(told, indent=1))
        return
    show_plan(told)
    if not told["moves"]:
        return
    click.echo("'fastcache rebalance start' moves them.")
    if told["hitRateDip"]:
        click.echo(
            f"About {told['hitRateDip']:.1%} of the data would be evicted: who gets it lacks the room."
        )
    else:
        click.echo("Keys keep their values: the hit rate stays as it is.")


def show_plan(told: dict[str, Any]) -> None:
    """What would move, and how much that is."""
    for one in told["moves"]:
        size = f"{one['keys']} keys, {megabytes(one['bytes'])}"
        click.echo(f"  {one['from']} -> {one['to']}: {counted(one['slots'])}, about {size}")
    if told["copies"]:
        click.echo(f"  {told['copies']} copies of slots are made anew.")
    if not told["moves"]:
        click.echo("No main has to move." if told["copies"] else "Nothing has to move.")
        return
    click.echo(
        f"{counted(told['slots'])} with about {told['keys']} keys ({megabytes(told['bytes'])}) move"
        f" in about {told['seconds']:.0f} s."
    )


@command.command()
@weight_option
@replicas_option
@click.option(
    "--max-mb", type=click.FloatRange(0, 100_000), help="Megabytes a second that one node may copy."
)
@click.option(
    "--max-p99", type=click.FloatRange(0, 60_000), help="Milliseconds that the 99th of 100 answers may take."
)
@click.option(
    "--max-share",
    type=click.FloatRange(0.001, 1),
    help="Part of the time in which steps of moves may be felt (usually 0.01); 1 if it is urgent.",
)
@click.option("--detach", is_flag=True, help="Return at once; 'status --watch' shows how far it is.")
@service_options
@directory_option
def start(
    weights: tuple[str, ...],
    replicas: int | None,
    *,
    max_mb: float | None,
    max_p99: float | None,
    max_share: float | None,
    detach: bool,
    url: str | None,
    key_file: Path | None,
    directory: Path,
) -> None:
    """Move slots until every node has its fair share.

    A budget holds until another is given; 0 takes back megabytes and milliseconds.
    """
    budget = {"replicas": replicas, "megabytesPerSecond": max_mb, "p99Ms": max_p99, "share": max_share}
    go(service_of(url, directory), secret(key_file), weights_from(weights), budget, detach=detach)


def ordered(verb: str, told: str) -> click.Command:
    """A command that is one request."""

    @service_options
    @directory_option
    def run(*, url: str | None, key_file: Path | None, directory: Path) -> None:
        state = health.call(
            service_of(url, directory), "POST", f"/rebalance/{verb}", {}, key=secret(key_file)
        )
        left = f" {counted(state['slotsLeft'])} are left." if state["slotsLeft"] else ""
        click.echo(told + left)

    run.__doc__ = {
        "pause": "Begin no more moves; those under way are finished.",
        "resume": "Go on with what was paused.",
        "cancel": "Give up what is being copied. Slots that have moved stay where they are.",
    }[verb]
    return click.command(verb)(run)


command.add_command(ordered("pause", "No more slots move until 'fastcache rebalance resume'."))
command.add_command(ordered("resume", "Slots move again."))
command.add_command(ordered("cancel", "No more slots move."))


@command.command()
@click.option("--watch", is_flag=True, help="Follow it with a progress bar until it has ended.")
@output_option
@service_options
@directory_option
def status(*, watch: bool, output: str, url: str | None, key_file: Path | None, directory: Path) -> None:
    """Show what moves, and how far it is."""
    service = service_of(url, directory)
    if watch and output == "text":
        watched(service)
        return
    if watch:
        for told in looks(service, secret(key_file)):
            click.echo(json.dumps(told))
        return
    told = health.call(service, "GET", "/rebalance", key=secret(key_file))
    click.echo(json.dumps(told, indent=1) if output == "json" else summary(told))


def go(
    url: str,
    key: str,
    weights: dict[str, int],
    budget: dict[str, Any] | None = None,
    *,
    detach: bool,
    undo: str = "",
) -> None:
    """Show the plan, start, and wait for the end unless told not to; last, how it is undone."""
    budget = budget or {}
    plan = {"weights": weights, "replicas": budget.get("replicas")}
    planned = health.call(url, "POST", "/rebalance/plan", plan, key=key)
    if planned["moves"] or weights or not undo:
        show_plan(planned)  # Of a node that has only just come nothing is known yet.
    before = {one["id"]: one["weight"] for one in health.call(url, "GET", "/topology")["nodes"]}
    copies = health.call(url, "GET", "/rebalance")["replicas"]
    health.call(url, "POST", "/rebalance/start", {"weights": weights, **budget}, key=key)
    if detach:
        click.echo("Slots move now: 'fastcache rebalance status --watch' shows how far it is.")
    else:
        watched(url)
    back = [f"--weight {name}={before[name]}" for name in weights if before.get(name, 0) != weights[name]]
    back += [f"--replicas {copies}"] if plan["replicas"] not in {None, copies} else []
    if undo or back:
        click.echo(f"The way back: {undo or 'fastcache rebalance start ' + ' '.join(back)}")


def holds_nothing(url: str, node: str) -> None:
    """An error when a node still has slots."""
    held = [
        one["ranges"]
        for one in health.call(url, "GET", "/topology")["slots"]
        if node in (one["main"], *one["replicas"], *one.get("learners", ()))
    ]
    if held:
        raise FastCacheError(
            f"{node} still holds slots ({', '.join(held)[:60]}), so it was not stopped",
            "'fastcache rebalance status' tells what they wait for",
        )


class Bar(Protocol):
    """Something that shows progress."""

    def __call__(self, told: dict[str, Any]) -> None: ...


def looks(url: str, key: str = "") -> Iterator[dict[str, Any]]:
    """What the service tells of moves, again and again until nothing moves any more.

    One that is not answered is followed by the next: slots go on moving while a leader is replaced, or has
    too much to do.
    """
    answered = None
    while True:
        try:
            told = health.call(url, "GET", "/rebalance", key=key)
        except FastCacheError:
            if answered is None or time.monotonic() - answered > STUCK_SECONDS:
                raise
        else:
            answered = time.monotonic()
            yield told
            if not told["moves"] and told["state"] != "running":
                return
        time.sleep(LOOK_SECONDS)


def watched(url: str) -> None:
    """Show how far it is until nothing moves any more, and what it came to."""
    with bar() as show:
        told, last, since = {}, -1, time.monotonic()
        for told in looks(url):
            if not told["moves"] and told["state"] != "running":
                break
            show(told)
            if told["slotsLeft"] != last or told["moves"]:
                last, since = told["slotsLeft"], time.monotonic()
            if time.monotonic() - since > STUCK_SECONDS:
                raise FastCacheError(
                    f"nothing moves: {told['waits'] or 'the nodes do not answer'}",
                    "'fastcache status' tells how they are; it goes on by itself once they are well",
                )
    click.echo(summary(told))


@contextmanager
def bar() -> Iterator[Bar]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _told: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        TextColumn("slots"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.fields[what]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("slots", total=None, what="")

        def show(told: dict[str, Any]) -> None:
            partly = sum(one["copied"] for one in told["moves"])
            what = f"{told['keysMoved']} keys, {len(told['moves'])} moves under way{at_pace(told)}"
            progress.update(task, total=told["slotsTotal"], completed=told["slotsMoved"] + partly, what=what)

        yield show


def at_pace(told: dict[str, Any]) -> str:
    """How fast, where that is limited."""
    pace, text = told["pace"], ""
    if pace["megabytesPerSecond"]:
        text += f", at most {pace['megabytesPerSecond']:g} MB/s (answers: p99 {pace['p99Ms']:g} ms)"
    if pace.get("restSeconds"):
        text += f", begun {pace['restSeconds']:g} s apart for the sake of clients"
    return text


def summary(told: dict[str, Any]) -> str:
    """What a rebalance has come to, in a sentence or two."""
    moved = f"{counted(told['slotsMoved'])} with {told['keysMoved']} keys moved in {told['seconds']:.1f} s"
    if told["state"] == "paused":
        return (
            f"Paused: {moved}, {counted(told['slotsLeft'])} are left. 'fastcache rebalance resume' goes on."
        )
    if told["state"] == "running" or told["moves"]:
        left = f"{counted(told['slotsLeft'])} are left (about {told['secondsLeft']:.0f} s{at_pace(told)})"
        if told["copiesLeft"] and not told["slotsLeft"]:
            left = f"copies of {counted(told['copiesLeft'])} are being made"
        lines = [f"{moved}, {left}."]
        lines += [
            f"  {one['from']} -> {one['to']}: {counted(one['slots'])}, {one['state']}"
            for one in told["moves"]
        ]
        if told["waits"]:
            lines.append(f"  It waits: {told['waits']}.")
        return "\n".join(lines)
    given_up = f" {told['givenUp']} moves were given up and tried again." if told["givenUp"] else ""
    return f"{moved[0].upper()}{moved[1:]}.{given_up}" if told["seconds"] else "Nothing moves."


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
