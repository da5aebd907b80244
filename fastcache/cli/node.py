"""`fastcache node`: one cache node in the foreground; and nodes that come to a cluster or leave it."""

from pathlib import Path

import click

from fastcache.cli.common import directory_option
from fastcache.errors import UsageError
from fastcache.node import run

detach_option = click.option("--detach", is_flag=True, help="Return at once; the slots move meanwhile.")


@click.group(invoke_without_command=True)
@click.option("--config", "file", type=click.Path(dir_okay=False, path_type=Path), help="Its TOML file.")
@click.option(
    "--check-config", is_flag=True, help="Judge the file and stop: exit code 0, or 78 when it is bad."
)
@click.option(
    "--print-config", is_flag=True, help="Print every setting with its value and meaning, and stop."
)
@click.pass_context
def command(context: click.Context, file: Path | None, *, check_config: bool, print_config: bool) -> None:
    """Run one cache node in the foreground, as a service manager does.

    SIGTERM lets it answer what has arrived and leave. The commands below change which nodes a cluster has.
    """
    if context.invoked_subcommand is not None:
        return
    if print_config:
        click.echo(run.printed(file), nl=False)
        return
    if file is None:
        raise UsageError(
            "which node? --config FILE is missing",
            "'fastcache node --print-config' prints a file to start from",
        )
    if check_config:
        click.echo(run.check(file))
        return
    run.serve(file)


@command.command()
@click.option("--count", type=click.IntRange(1, 100), default=1, show_default=True, help="How many.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the first; the next free one if not given."
)
@detach_option
@directory_option
def add(*, count: int, port: int | None, detach: bool, directory: Path) -> None:
    """Start nodes in the cluster of this machine, and move their share of the slots to them."""
    from fastcache.cli import rebalance
    from fastcache.embedded import resize

    names = resize.add(directory, count, port)
    click.echo(f"{', '.join(names)}: started.")
    back = "; ".join(f"fastcache node remove {name}" for name in names)
    rebalance.go(resize.service_url(directory), "", {}, detach=detach, undo=back)


@command.command()
@click.argument("node")
@detach_option
@directory_option
@click.option("--health", "url", metavar="URL", help="The health service, if not that of --dir.")
@click.option(
    "--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="With its admin key."
)
def drain(node: str, *, detach: bool, directory: Path, url: str | None, key_file: Path | None) -> None:
    """Move all slots of NODE to the others; it goes on running, and gets none until it is weighed anew."""
    from fastcache.cli import rebalance
    from fastcache.cli.handover import secret, service_of

    rebalance.go(service_of(url, directory), secret(key_file), {node: 0}, detach=detach)


@command.command()
@click.argument("node")
@directory_option
def remove(node: str, *, directory: Path) -> None:
    """Have NODE of the cluster on this machine hand its slots over, then stop it and forget it."""
    from fastcache.cli import rebalance
    from fastcache.embedded import resize

    url = resize.service_url(directory)
    rebalance.go(url, "", {node: 0}, detach=False, undo="fastcache node add")
    rebalance.holds_nothing(url, node)
    resize.forget(directory, node)
    click.echo(f"{node} has left the cluster.")
