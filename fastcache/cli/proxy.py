"""`fastcache proxy`: one proxy in the foreground."""

from pathlib import Path

import click

from fastcache.errors import UsageError
from fastcache.proxy import run


@click.command()
@click.option("--config", "file", type=click.Path(dir_okay=False, path_type=Path), help="Its TOML file.")
@click.option(
    "--check-config", is_flag=True, help="Judge the file and stop: exit code 0, or 78 when it is bad."
)
@click.option(
    "--print-config", is_flag=True, help="Print every setting with its value and meaning, and stop."
)
def command(file: Path | None, check_config: bool, print_config: bool) -> None:
    """Run one proxy in the foreground, as a service manager does.

    SIGTERM lets it answer what has arrived and leave. SIGHUP has it become the program and the settings as
    they stand then, with all its connections.
    """
    if print_config:
        click.echo(run.printed(file), nl=False)
        return
    if file is None:
        raise UsageError(
            "which proxy? --config FILE is missing",
            "'fastcache proxy --print-config' prints a file to start from",
        )
    if check_config:
        click.echo(run.check(file))
        return
    run.serve(file)
