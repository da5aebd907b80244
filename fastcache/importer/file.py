"""An RDB file into the target, read once from the beginning to the end."""

from collections.abc import Callable
from pathlib import Path

from fastcache import _core
from fastcache.errors import FastCacheError
from fastcache.importer import Progress
from fastcache.importer.target import Target, in_batches

PIECE = 1 << 20


def import_file(path: Path, target: Target, *, replace: bool, shown: Callable[[Progress], None]) -> None:
    """Bring every key of the file in; a file that cannot be read on is told with the place."""
    progress = target.progress
    progress.total_bytes = path.stat().st_size
    reader = _core.RdbFile()
    with path.open("rb") as file:
        while not reader.ended:
            piece = file.read(PIECE)
            if piece:
                reader.feed(piece)
            else:
                reader.retry()
            before = reader.taken
            try:
                in_batches(target, lambda limit: reader.take(limit, replace), lambda: shown(progress))
            except ValueError as error:
                raise damaged(path, reader.taken, str(error)) from None
            progress.done_bytes = reader.taken
            shown(progress)
            if not piece and not reader.ended and reader.taken == before:
                raise damaged(path, reader.taken, "it ends too early")


def damaged(path: Path, at: int, why: str) -> FastCacheError:
    """The sentence for a file that cannot be read on."""
    return FastCacheError(
        f"{path} cannot be read on from byte {at}: {why}",
        "keys before that are imported; redis-check-rdb tells more about the file" if at else "",
    )
