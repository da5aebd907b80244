"""`fastcache renew`: another program, the same connections."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option
from fastcache.embedded import renewal


@click.command()
@directory_option
def command(directory: Path) -> None:
    """Have the proxies become the program and the settings as they stand now; no request is lost.

    For an upgrade, or for a changed proxy.toml. Clients stay connected: they wait for as long as the program
    takes to start. A proxy that runs elsewhere does the same upon SIGHUP ('systemctl reload').
    """
    names = renewal.renew(directory)
    click.echo(f"Renewed: {', '.join(names)}.")
