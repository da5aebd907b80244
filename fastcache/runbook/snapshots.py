"""Snapshots of all nodes at once, backups off the hosts, restore, and the drill that proves both.

A backup is a directory with a snapshot of every node, the topology of that moment, and a manifest that says
how many entries there are and what their digest is. It has its name only when it is whole.
"""

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcache import _core
from fastcache.errors import FastCacheError, UsageError
from fastcache.importer.digest import Only, Sum, compare, node_of, sum_of, told_sum
from fastcache.runbook.fleet import Fleet, Member
from fastcache.runbook.hands import FASTCACHE, SECRETS, Hands, all_well, checked, together
from fastcache.runbook.operation import Operation, Step
from fastcache.runbook.rolling import pairs

TAKE_SECONDS = 600.0
RESTORE_SECONDS = 3600.0
MANIFEST, TOPOLOGY = "manifest.json", "topology.json"
VERSION = 1
STAMP = "%Y%m%dT%H%M%SZ"
#: Entries that expire while they are compared count on neither side.
MARGIN_SECONDS = 60
#: Files that are brought in at the same time.
SIDE_BY_SIDE = 4
UNFINISHED_DAYS = 1


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that a node has just taken."""

    node: str
    file: str
    entries: int
    size: int


def take(hands: Hands, node: Member) -> Taken:
    """Have a node take one, and wait until it is on disk."""
    with hands.talk(node, seconds=TAKE_SECONDS) as connection:
        told = pairs(connection.say("FASTCACHE", "SNAPSHOT"))
    file = str(told["file"])
    path = file if file.startswith("/") else f"{node.state}/{file}"
    return Taken(node.name, path, int(str(told["entries"])), int(str(told["bytes"])))


def snapshot(hands: Hands) -> Operation:
    """All nodes at the same time."""
    nodes = hands.fleet.nodes

    def act() -> str:
        taken = all_well(nodes, lambda one: take(hands, one), at_most=64)
        for one in taken:
            node = hands.fleet.find(one.node)
            command = f"{FASTCACHE} snapshot verify {shlex.quote(one.file)}"
            checked(
                hands.run(node.host, command, seconds=TAKE_SECONDS), f"{one.node}: its snapshot is damaged"
            )
        entries, size = sum(one.entries for one in taken), sum(one.size for one in taken)
        return f"{entries} entries, {size} bytes, all read back"

    step = Step(
        "snapshots", f"{len(nodes)} nodes take a snapshot each, and it is read back", act, gated=False
    )
    return Operation("snapshot", "Take a snapshot of every node now", (step,), needs_well=False)


# --- backup -----------------------------------------------------------------------------------------


def backup(hands: Hands, into: Path, keep: int) -> Operation:
    """Fresh snapshots of all nodes, brought here, verified, and the oldest backups removed."""
    if keep < 1:
        raise UsageError("a backup that is not kept is none: --keep 1 or more")
    fleet = hands.fleet
    name = f"{fleet.cluster}-{time.strftime(STAMP, time.gmtime())}"
    old = len(outdated(into, fleet.cluster, keep - 1))
    fetched = f"snapshots of {len(fleet.nodes)} nodes to {into / name}"
    kept = f"keep the {keep} newest, remove {old}"
    steps = (
        Step("bring", fetched, lambda: bring(hands, into, name), gated=False),
        Step("retain", kept, lambda: retain(into, fleet.cluster, keep), gated=False),
    )
    return Operation(
        "backup",
        f"Back up {fleet.cluster} to {into}",
        steps,
        {"into": str(into), "name": name},
        needs_well=False,
    )


def bring(hands: Hands, into: Path, name: str) -> str:
    """Take, fetch, read to the end, and only then give it its name."""
    part = into / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    nodes = hands.fleet.nodes
    for attempt in (1, 2):
        document = hands.http("GET", "/topology")
        taken = all_well(nodes, lambda one: take(hands, one), at_most=64)
        if hands.http("GET", "/topology")["epoch"] == document["epoch"]:
            break
        if attempt == 2:
            raise FastCacheError("slots change hands at the moment", "back up when 'fab status' is quiet")
    _core.Topology(json.dumps(document).encode()).save(part / TOPOLOGY)

    def one(item: Taken) -> dict[str, Any]:
        node = hands.fleet.find(item.node)
        target = part / f"{node.name}{Path(item.file).suffix}"
        hands.fetch(node.host, item.file, target)
        return {
            "file": target.name,
            "node": node.name,
            "bytes": target.stat().st_size,
            "sha256": sha256(target),
        }

    files = all_well(taken, one, at_most=SIDE_BY_SIDE)
    topology = _core.Topology.load(part / TOPOLOGY)
    total = Sum()
    for file in files:
        total += sum_of(part / file["file"], Only(topology))
    manifest = {
        "version": VERSION,
        "cluster": hands.fleet.cluster,
        "at": time.strftime(STAMP, time.gmtime()),
        "epoch": topology.epoch,
        "files": files,
        **total.told,
    }
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    part.rename(into / name)
    return f"{total.entries} entries, {sum(file['bytes'] for file in files)} bytes in {into / name}"


def sha256(file: Path) -> str:
    """Of a whole file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def backups(into: Path, cluster: str) -> list[Path]:
    """Whole backups of a cluster, the newest first."""
    if not into.is_dir():
        return []
    found = [
        one for one in into.iterdir() if one.name.startswith(f"{cluster}-") and (one / MANIFEST).is_file()
    ]
    return sorted((one for one in found if not one.name.endswith(".part")), reverse=True)


def outdated(into: Path, cluster: str, keep: int) -> list[Path]:
    """Those behind the newest `keep`."""
    return backups(into, cluster)[keep:]


def retain(into: Path, cluster: str, keep: int) -> str:
    """Remove what is behind the newest ones, and what runs left that never came to their end."""
    old = outdated(into, cluster, keep)
    limit = time.time() - UNFINISHED_DAYS * 86400
    old += [one for one in into.glob(f"{cluster}-*.part") if one.stat().st_mtime < limit]
    for one in old:
        shutil.rmtree(one)
    return f"{len(old)} removed"


def found_backup(fleet: Fleet, into: Path, name: str) -> Path:
    """The backup an operator names, or the newest."""
    known = backups(into, fleet.cluster)
    if not name:
        if not known:
            raise FastCacheError(f"there is no backup of {fleet.cluster} in {into}", "'fab backup' makes one")
        return known[0]
    for path in (Path(name), into / name):
        if (path / MANIFEST).is_file():
            return path
    raise UsageError(f"there is no backup {name}", f"known: {', '.join(one.name for one in known) or 'none'}")


def manifest_of(directory: Path) -> dict[str, Any]:
    """What a backup says of itself; every file is as it was written."""
    told: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    if told["version"] != VERSION:
        raise FastCacheError(f"{directory} is of version {told['version']}", "use the release that made it")
    for one in told["files"]:
        file = directory / one["file"]
        if not file.is_file():
            raise FastCacheError(f"{file} is missing", "take an older backup")
        if (size := file.stat().st_size) != one["bytes"]:
            raise FastCacheError(
                f"{file} has {size} bytes and should have {one['bytes']}: it was cut", "take an older backup"
            )
        if sha256(file) != one["sha256"]:
            raise FastCacheError(
                f"{file} is not what was backed up: its checksum is another", "take an older backup"
            )
    return told


# --- restore ----------------------------------------------------------------------------------------


def restore(hands: Hands, directory: Path, *, replace: bool) -> Operation:
    """A backup into the cluster, whatever its shape: through its proxies, some files side by side."""
    fleet = hands.fleet
    manifest = manifest_of(directory)
    if not fleet.proxies:
        raise UsageError("a restore goes through proxies, and the inventory has none")
    files = [one["file"] for one in manifest["files"]]
    before = keys_in(hands)
    batches = [files[start : start + SIDE_BY_SIDE] for start in range(0, len(files), SIDE_BY_SIDE)]
    steps = [
        Step(
            f"files {number + 1} of {len(batches)}",
            f"bring in {', '.join(batch)}",
            bringing_in(hands, directory, batch, number, replace=replace),
            gated=False,
        )
        for number, batch in enumerate(batches)
    ]
    steps.append(
        Step(
            "verify",
            "compare counts and digests with the backup's",
            lambda: verify(hands, directory),
            gated=False,
        )
    )
    notes = [f"{manifest['entries']} entries of {manifest['cluster']}, {manifest['at']}."]
    if before:
        kept = "are overwritten where the backup has them" if replace else "win over those of the backup"
        notes.append(f"The cluster holds {before} keys: they {kept} (--replace chooses).")
    return Operation(
        "restore",
        f"Restore {directory.name} into {fleet.cluster}",
        tuple(steps),
        {"backup": directory.name, "replace": str(replace)},
        hint="a restore may be run again: what is there already stays",
        undo="there is none but FLUSHALL: what was there before is not kept; take a 'fab backup' first",
        notes=tuple(notes),
    )


def keys_in(hands: Hands) -> int:
    """How many keys the cluster holds."""
    with hands.talk(hands.fleet.proxies[0]) as connection:
        return int(connection.say("DBSIZE"))


def bringing_in(
    hands: Hands, directory: Path, batch: list[str], number: int, *, replace: bool
) -> Callable[[], str]:
    """A few files side by side, each through a proxy of its own where there are enough."""

    def one(item: tuple[int, str]) -> str:
        index, file = item
        proxies = hands.fleet.proxies
        proxy = proxies[(number * SIDE_BY_SIDE + index) % len(proxies)]
        place = checked(
            hands.run(proxy.host, "mktemp -d /var/tmp/fastcache-restore.XXXXXX"), proxy.host
        ).strip()
        try:
            for name in (file, TOPOLOGY):
                hands.send(proxy.host, directory / name, f"{place}/{name}")
            command = (
                f"{FASTCACHE} restore {place}/{shlex.quote(file)} --topology {place}/{TOPOLOGY} "
                f"--to {url_of(hands.fleet, proxy)} --password-file {SECRETS}/requirepass"
                + (" --replace" if replace else "")
            )
            told = checked(
                hands.run(proxy.host, command, seconds=RESTORE_SECONDS), f"{file} through {proxy.name}"
            )
            return f"{file}: {' '.join(told.split())}"
        finally:
            hands.run(proxy.host, f"rm -rf {place}")

    return lambda: "; ".join(all_well(enumerate(batch), one, at_most=SIDE_BY_SIDE))


def url_of(fleet: Fleet, proxy: Member) -> str:
    """A proxy for a program on a host of the cluster; under TLS with what the program needs for it."""
    place = f"{proxy.address}:{proxy.port}"
    if not fleet.tls:
        return f"redis://{place}"
    options = {"--cacert": "ca", "--cert": "certificate", "--key": "key"}
    words = " ".join(f"{option} {shlex.quote(fleet.tls[file])}" for option, file in options.items())
    return f"rediss://{place} {words}"


def verify(hands: Hands, directory: Path) -> str:
    """Fresh snapshots of the cluster must hold what the backup holds. By digests, which nodes tell of
    themselves; where they differ, key by key, for a cluster may hold more than the backup."""
    moment = int((time.time() + MARGIN_SECONDS) * 1000)
    files = [directory / one["file"] for one in manifest_of(directory)["files"]]
    only = Only(_core.Topology.load(directory / TOPOLOGY), moment)
    wanted = sum_up(files, only)
    taken = all_well(hands.fleet.nodes, lambda one: take(hands, one), at_most=64)

    def tell(one: Taken) -> Sum:
        node = hands.fleet.find(one.node)
        command = (
            f"{FASTCACHE} snapshot digest {shlex.quote(one.file)} --topology {node.state}/{TOPOLOGY} "
            f"--living-at {moment}"
        )
        said = checked(hands.run(node.host, command, seconds=TAKE_SECONDS), f"{one.node}: its digest")
        return told_sum(json.loads(said))

    got = Sum()
    for told in all_well(taken, tell):
        got += told
    if got == wanted:
        return f"{got.entries} entries, digest {got.digest:032x}: the same as the backup's"
    scratch = directory / ".verify"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        after = []
        for one in taken:
            node = hands.fleet.find(one.node)
            after.append(scratch / f"{node.name}{Path(one.file).suffix}")
            hands.fetch(node.host, one.file, after[-1])
        now = _core.Topology(json.dumps(hands.http("GET", "/topology")).encode())
        found = compare(files, after, only, Only(now, moment))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if found.missing:
        raise FastCacheError(
            f"{len(found.missing)} of {wanted.entries} keys of the backup are not there: "
            f"{', '.join(found.missing[:3])} ...",
            "is maxmemory too small for them (evictions)? 'fab status' shows the memory",
        )
    return (
        f"{found.same} entries as in the backup, {len(found.different)} keys have another value now, "
        f"{got.entries - found.same - len(found.different)} are not of the backup"
    )


def sum_up(files: list[Path], only: Only) -> Sum:
    """Several snapshots together."""
    total = Sum()
    for file in files:
        total += sum_of(file, only)
    return total


# --- the drill --------------------------------------------------------------------------------------


class Throwaway:
    """A cluster on this machine's loopback for a drill: `call` runs `fastcache ARGUMENTS`."""

    def __init__(self, call: Callable[..., str], directory: Path, ports: int) -> None:
        self.call, self.directory, self.ports = call, directory, ports

    def up(self, nodes: int) -> None:
        """A shape of its own: some nodes and a proxy; nothing is evicted."""
        ports = self.ports
        self.call(
            "up", "--dir", str(self.directory), "--nodes", str(nodes), "--proxies", "1",
            "--node-port", str(ports), "--proxy-port", str(ports + 20), "--health-port", str(ports + 30),
            "--port", str(ports + 31), "--stats-port", str(ports + 32),
            "--set", "maxmemory=0", "--set", "maxmemory-policy=noeviction", "--set", "snapshot-interval=0",
        )  # fmt: skip

    def down(self) -> None:
        self.call("down", "--dir", str(self.directory))


def drill(directory: Path, cluster: Throwaway, nodes: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Restore a backup into a throwaway cluster: how long it took, and whether all came back."""
    told: dict[str, Any] = {"backup": directory.name, "well": False}
    began = clock()
    try:
        manifest = manifest_of(directory)
        files = [directory / one["file"] for one in manifest["files"]]
        topology = directory / TOPOLOGY
        told |= {"taken": manifest["at"], "bytes": sum(one["bytes"] for one in manifest["files"])}
        whole = sum_up(files, Only(_core.Topology.load(topology)))
        if whole != told_sum(manifest):
            raise FastCacheError("the files do not hold what the manifest says", "take an older backup")
        for file in files:
            told.setdefault("nodes", []).append(node_of(_core.SnapshotFile(file)))
        try:
            cluster.up(nodes)
            begun = clock()
            cluster.call("restore", *map(str, files), "--topology", str(topology),
                         "--to", f"redis://127.0.0.1:{cluster.ports + 20}")  # fmt: skip
            told["restoreSeconds"] = round(clock() - begun, 2)
            moment = int((time.time() + MARGIN_SECONDS) * 1000)
            cluster.call("snapshot", "take", "--all", "--dir", str(cluster.directory))
            wanted = sum_up(files, Only(_core.Topology.load(topology), moment))
            got = sum_up(sorted(cluster.directory.rglob("*.fcsnap")), Only(None, moment))
        finally:
            cluster.down()
        told |= {"entries": manifest["entries"], "living": wanted.entries, "restored": got.entries}
        told["digest"] = f"{got.digest:032x}"
        if got != wanted:
            raise FastCacheError(
                f"{wanted.entries} entries should have come back, and {got.entries} did, or others"
            )
        told["well"] = True
    except FastCacheError as error:
        told["wrong"] = error.message
    told["seconds"] = round(clock() - began, 2)
    return told


def snapshots_of(hands: Hands) -> list[dict[str, Any]]:
    """What snapshots lie on the hosts, the newest first by node."""

    def one(node: Member) -> list[dict[str, Any]]:
        outcome = hands.run(node.host, f"{FASTCACHE} snapshot list {node.state} -o json", seconds=30)
        found: list[dict[str, Any]] = json.loads(checked(outcome, node.name) or "[]")
        return [{"node": node.name, **entry} for entry in found]

    listed: list[dict[str, Any]] = []
    for node, result in together(hands.fleet.nodes, one):
        listed += (
            [{"node": node.name, "damage": result.message}] if isinstance(result, FastCacheError) else result
        )
    return listed
