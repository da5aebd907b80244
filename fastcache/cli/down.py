"""`fastcache down`: the end of an embedded cluster."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option, progress
from fastcache.embedded import cluster


@click.command()
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=cluster.STOP_SECONDS,
    show_default=True,
    help="Seconds for every process to send the replies that are due; after them it is killed.",
)
@directory_option
def command(grace: float, directory: Path) -> None:
    """Stop the cluster that 'up' started.

    Configuration, logs and data stay.
    """
    with progress("Stopping") as moved:
        stopped, forced = cluster.down(directory, grace, moved)
    if not stopped:
        click.echo(f"Nothing runs in {directory}.")
        return
    click.echo(f"{stopped} {'process' if stopped == 1 else 'processes'} stopped.")
    if forced:
        click.echo(f"Ended by force, because they did not leave in time: {', '.join(forced)}.", err=True)
