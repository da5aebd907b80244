"""`fastcache down`: the end of an embedded cluster."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option, progress
from fastcache.embedded import cluster
from fastcache.embedded.plan import counted


@click.command()
@directory_option
def command(directory: Path) -> None:
    """Stop the cluster that 'up' started.

    Every process may first answer what has arrived; one that does not end within ten seconds is killed.
    Configuration, logs and data stay.
    """
    with progress("Stopping") as moved:
        stopped, forced = cluster.down(directory, moved)
    if not stopped:
        click.echo(f"Nothing runs in {directory}.")
        return
    click.echo(f"{stopped} {'process' if stopped == 1 else 'processes'} stopped.")
    if forced:
        click.echo(f"Ended by force, because they did not leave in time: {', '.join(forced)}.", err=True)
