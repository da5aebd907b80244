"""What `switchover`, `failover`, `pause` and `resume` share: whom they ask, and how a plan is shown."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastcache.client import health
from fastcache.embedded import record
from fastcache.errors import FastCacheError, UsageError

Command = Callable[..., None]


def service_options(command: Command) -> Command:
    """Which health service is asked, and with which key."""
    command = click.option(
        "--health",
        "url",
        metavar="URL",
        help="The health service, such as http://10.0.0.9:8080; that of the embedded cluster when not given.",
    )(command)
    return click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with the admin key of the health service.",
    )(command)


def service_of(url: str | None, directory: Path) -> str:
    """The health service that is meant."""
    if url:
        return url if "://" in url else f"http://{url}"
    for entry in record.read(directory):
        if entry.spec.kind == "health":
            return f"http://{entry.spec.endpoint}"
    raise UsageError(f"no cluster with a health service runs in {directory}", "say which one: --health URL")


def secret(file: Path | None) -> str:
    """The key in a file."""
    return file.read_text().strip() if file else ""


def hand_over(path: str, wish: dict[str, Any], url: str, key: str, *, yes: bool) -> None:
    """Show the plan, ask, carry it out, and say what came of it."""
    plan = health.call(url, "POST", path, {**wish, "plan": True}, key=key)["plan"]
    for step in plan:
        click.echo(f"  {step['old']} -> {step['new']}: {counted(step['slots'])}{losing(step)}")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing was changed: this is only the plan", "with --yes it is carried out")
        click.confirm("Carry it out?", abort=True)
    done = health.call(url, "POST", path, wish, key=key)
    heirs = ", ".join(sorted({one["new"] for one in done["to"]}))
    click.echo(
        f"{done['from']} has handed over to {heirs} in {done['seconds']:.2f} s (epoch {done['epoch']})."
    )


def counted(slots: int) -> str:
    return "1 slot" if slots == 1 else f"{slots} slots"


def losing(step: dict[str, Any]) -> str:
    """What a step would lose as far as is known."""
    return f", {step['lost']} writes not yet copied" if step.get("lost") else ""


def suspended(path: str, url: str, key: str) -> None:
    """Suspend or resume automatic failover."""
    told = health.call(url, "POST", path, {}, key=key)
    if told["paused"]:
        click.echo(
            "Automatic failover is paused: a main that falls stays the main. 'fastcache resume' ends it."
        )
    else:
        click.echo("Automatic failover is on.")


def checked(name: str) -> str:
    """A node's name as an operator gives it."""
    if not name or any(letter.isspace() for letter in name):
        raise FastCacheError(f"{name!r} is no name of a node", "'fastcache status' lists them")
    return name
