"""What runs, remembered in a file: cluster.json in the cluster's directory. What ran last: shape.json.

Written whole and renamed into place, so that a crash leaves the old one or the new one.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fastcache.embedded.plan import ProcessSpec
from fastcache.embedded.process import Identity
from fastcache.errors import FastCacheError
from fastcache.model import Endpoint

FILE = "cluster.json"
SHAPE = "shape.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was started, and as what."""

    spec: ProcessSpec
    identity: Identity


def default_directory() -> Path:
    """One cluster for each user, found from everywhere: FASTCACHE_DIR, or else the user's state directory."""
    if chosen := os.environ.get("FASTCACHE_DIR"):
        return Path(chosen).absolute()
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return home / "fastcache"


def read(directory: Path) -> tuple[Running, ...]:
    """What was started and not yet stopped; nothing where no cluster is."""
    try:
        text = (directory / FILE).read_text()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise FastCacheError(f"{directory / FILE}: cannot be read: {error.strerror}") from None
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']}, ours {FORMAT}")
        return tuple(revived(entry) for entry in document["processes"])
    except (ValueError, KeyError, TypeError) as error:
        hint = f"stop the processes that it names, then remove {directory / FILE}"
        raise FastCacheError(f"{directory / FILE} is not a record we understand: {error}", hint) from None


def revived(entry: dict[str, dict[str, object]]) -> Running:
    """One process out of its JSON."""
    return Running(planned(entry["spec"]), Identity(**entry["identity"]))  # type: ignore[arg-type]


def planned(entry: dict[str, object]) -> ProcessSpec:
    """What a process was started as, out of its JSON."""
    spec: dict[str, object] = dict(entry)
    spec["endpoint"] = Endpoint(**spec["endpoint"])  # type: ignore[arg-type]
    spec["directory"] = Path(str(spec["directory"]))
    spec["settings"] = tuple((str(name), str(value)) for name, value in spec["settings"])  # type: ignore[attr-defined]
    return ProcessSpec(**spec)  # type: ignore[arg-type]


def write(directory: Path, processes: tuple[Running, ...]) -> None:
    """Remember `processes` in the place of what was remembered; with none, forget."""
    file = directory / FILE
    if not processes:
        file.unlink(missing_ok=True)
        return
    put(file, {"format": FORMAT, "processes": [asdict(process) for process in processes]})


def put(file: Path, document: dict[str, object]) -> None:
    """A file, whole or not at all."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(document, indent=1, default=str) + "\n")
    fresh.replace(file)


def remember(directory: Path, specs: tuple[ProcessSpec, ...]) -> None:
    """Keep what the cluster is made of also when it is stopped: its data are of use to no other."""
    put(directory / SHAPE, {"format": FORMAT, "specs": [asdict(spec) for spec in specs]})


def last(directory: Path) -> tuple[ProcessSpec, ...]:
    """What the cluster was made of that ran here before; nothing where none was, or it cannot be told."""
    try:
        document = json.loads((directory / SHAPE).read_text())
        specs = tuple(planned(entry) for entry in document["specs"] if document["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    # A directory that was copied elsewhere: these would still be the old place's.
    return specs if all(spec.directory.is_relative_to(directory) for spec in specs) else ()


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Only one `up` or `down` at a time works in a directory. Nobody but its owner may look inside."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise FastCacheError(
            f"{directory}: cannot be used: {error.strerror}", "choose another with --dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FastCacheError(
                f"another 'fastcache up' or 'down' is at work in {directory}", "wait until it has finished"
            ) from None
        yield
