"""The command `fastcache`.

Each sub-command is a module beside this one and is imported only when it is called: `fastcache node`
must not wait for the libraries that draw tables.
"""

import sys
from importlib import import_module

import click

from fastcache.errors import FAILED, FastCacheError

# Name, and what `--help` says of it without importing it.
COMMANDS = {
    "up": "Start a cluster on this machine and return when it answers.",
    "down": "Stop the cluster that 'up' started.",
    "status": "Show how the cluster is; exit code 3 when a part of it is not well.",
    "renew": "Have the proxies become the program and settings as they stand now; no request is lost.",
    "node": "Run one cache node in the foreground; add, drain and remove nodes of a cluster.",
    "proxy": "Run one proxy in the foreground, as a service manager does.",
    "health": "Run the health and topology service in the foreground.",
    "import": "Bring in the keys of a Redis: from an RDB file, or from a server that runs.",
    "snapshot": "Take snapshots of nodes, and list, show, verify and export their files.",
    "restore": "Bring snapshots into a running node or cluster.",
    "switchover": "Let the copies of a node take over in order, without losing a write.",
    "failover": "Let the copies of a node take over at once.",
    "pause": "Suspend automatic failover.",
    "resume": "Let automatic failover go on.",
    "rebalance": "Move slots to where they belong, while everything serves.",
    "ring": "Show which node holds which slots, and what a change would move.",
}
# Commands whose name cannot be that of a module.
MODULES = {"import": "importing"}


class Commands(click.Group):
    """Sub-commands that are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"fastcache.cli.{MODULES.get(cmd_name, cmd_name)}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"There is no command '{args[0]}'.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastcache", message="fastcache %(version)s")
def root() -> None:
    """FastCache: a cache that speaks Redis' protocol, on one machine or on a fleet.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 degraded, 78 bad configuration.
    """


def main() -> None:
    """Run the command line; foreseen errors end as a sentence and an exit code, never as a stack trace."""
    try:
        root()
    except FastCacheError as error:
        click.echo(f"fastcache: {error.message}", err=True)
        if error.hint:
            click.echo("".join(f"  {line}\n" for line in error.hint.splitlines()), err=True, nl=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left, as `head` does
        sys.exit(FAILED)
