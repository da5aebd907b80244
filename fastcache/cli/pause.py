"""`fastcache pause`: automatic failover is suspended."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option
from fastcache.cli.handover import secret, service_of, service_options, suspended


@click.command()
@service_options
@directory_option
def command(url: str | None, key_file: Path | None, directory: Path) -> None:
    """Suspend automatic failover, for work on hosts or network.

    A main that falls stays the main until 'resume'; 'switchover' and 'failover' still work."""
    suspended("/pause", service_of(url, directory), secret(key_file))
