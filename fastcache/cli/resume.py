"""`fastcache resume`: automatic failover goes on."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option
from fastcache.cli.handover import secret, service_of, service_options, suspended


@click.command()
@service_options
@directory_option
def command(url: str | None, key_file: Path | None, directory: Path) -> None:
    """Let automatic failover go on after 'pause'."""
    suspended("/resume", service_of(url, directory), secret(key_file))
