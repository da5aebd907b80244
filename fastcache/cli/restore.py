"""`fastcache restore`: the contents of snapshots into a running node or cluster, whatever its shape."""

import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from fastcache import _core
from fastcache.cli.importing import DEFAULT_TARGET, password_file, password_from, summary, telling
from fastcache.errors import DEGRADED, FastCacheError, UsageError
from fastcache.importer import Progress

READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--to", "url", default=DEFAULT_TARGET, show_default=True, help="A node, a proxy, or HAProxy.")
@click.option(
    "--password-file", "password", type=password_file, callback=password_from, help="Of the target."
)
@click.option(
    "--topology",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take of each file only what its node was the main of by this topology: nodes hold copies, too.",
)
@click.option("--replace", is_flag=True, help="Overwrite keys that are there.")
@click.option("--cacert", type=READABLE, help="With rediss://, who signs the target's certificate.")
@click.option("--cert", type=READABLE, help="Our own certificate, where the target asks for one.")
@click.option("--key", type=READABLE, help="The key of --cert.")
def command(
    *,
    files: tuple[Path, ...],
    url: str,
    password: str | None,
    topology: Path | None,
    replace: bool,
    cacert: Path | None,
    cert: Path | None,
    key: Path | None,
) -> None:
    """Bring the entries of snapshot FILES into a running node or cluster.

    Through a proxy every key goes to the node that owns it now, so the cluster may have another shape than
    when the snapshots were taken: give the newest file of each node. Every file is checked to its end before
    the first key is sent. Values come back with their times of expiry, creation and change. A restore that
    was interrupted can be run again.
    """
    from fastcache.importer.digest import Only, node_of
    from fastcache.importer.target import Certificates, Target, in_batches

    if urlsplit(url).password:
        raise UsageError("a password in an address can be read by everybody", "give --password-file")
    if (cacert or cert or key) and urlsplit(url).scheme != "rediss":
        raise UsageError("certificates are for a target under TLS", "say --to rediss://HOST:PORT")
    progress = Progress(stage="checking")
    for file in files:
        try:
            progress.total_bytes += json.loads(_core.snapshot_sum(file))["bytes"]
            _core.SnapshotFile(file).verify()
        except ValueError as error:
            raise FastCacheError(
                f"{file} is damaged: {error}", "nothing was changed; take the snapshot before it"
            ) from None
    only = Only(_core.Topology.load(topology) if topology else None)
    target = Target(url, password, progress, Certificates(cacert, cert, key))
    try:
        target.check()
        progress.stage = "restoring"
        with telling(progress) as shown:
            before = 0
            for file in files:
                opened = _core.SnapshotFile(file)

                def moved(opened: _core.SnapshotFile = opened, before: int = before) -> None:
                    progress.done_bytes = before + opened.taken
                    shown(progress)

                def take(
                    limit: int, opened: _core.SnapshotFile = opened, node: str = node_of(opened)
                ) -> list[tuple[int | None, bytes, bytes]]:
                    while requests := opened.take(limit, replace):
                        kept = [one for one in requests if only.counts(one[1], node, None)]
                        if kept:
                            return kept
                    return []

                in_batches(target, take, moved)
                before += opened.taken
    finally:
        target.close()
    click.echo(summary(progress))
    for refusal in progress.refusals:
        click.echo(f"  not taken: {refusal}", err=True)
    if progress.refused:
        sys.exit(DEGRADED)
