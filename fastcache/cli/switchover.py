"""`fastcache switchover`: a main hands over in order, without losing a write."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option
from fastcache.cli.handover import checked, hand_over, secret, service_of, service_options


@click.command()
@click.argument("node")
@click.option(
    "--to", default="", metavar="NODE", help="Only to this copy; else each slot goes to its best copy."
)
@click.option(
    "--slots", default="", metavar="RANGES", help="Only these of its slots, such as 0-99,105; else all."
)
@click.option("--yes", is_flag=True, help="Carry the plan out without asking.")
@service_options
@directory_option
def command(
    node: str,
    *,
    to: str,
    slots: str,
    yes: bool,
    url: str | None,
    key_file: Path | None,
    directory: Path,
) -> None:
    """Let the copies of NODE take over its slots in order: nothing that was written is lost.

    NODE holds its writes until its copies have everything, then they are the mains and it becomes their copy.
    Clients see a pause of some milliseconds. The plan is shown first.
    """
    wish = {"node": checked(node), "to": to, "slots": slots}
    hand_over("/switchover", wish, service_of(url, directory), secret(key_file), yes=yes)
