"""`fastcache failover`: copies take over at once, whatever their main is doing."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option
from fastcache.cli.handover import checked, hand_over, secret, service_of, service_options


@click.command()
@click.argument("node")
@click.option(
    "--to", default="", metavar="NODE", help="Only to this copy; else each slot goes to its best copy."
)
@click.option("--force", is_flag=True, help="Also to a copy that is not in sync: what it lacks is lost.")
@click.option("--yes", is_flag=True, help="Carry the plan out without asking.")
@service_options
@directory_option
def command(
    node: str, *, to: str, force: bool, yes: bool, url: str | None, key_file: Path | None, directory: Path
) -> None:
    """Let the copies of NODE take over its slots at once, whether NODE answers or not.

    What NODE has not yet sent to them is lost. For a node that is well, use 'switchover'. The plan is
    shown first.
    """
    wish = {"node": checked(node), "to": to, "force": force}
    hand_over("/failover", wish, service_of(url, directory), secret(key_file), yes=yes)
