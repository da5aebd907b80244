"""Control groups of a host's own, so that limits inside it hold and hosts do not see one another.

With systemd as PID 1 of this machine nspawn gets a delegated scope and there is nothing to do. Elsewhere
(containers, build machines) all hosts would share one group, and a systemd that stops a unit would kill the
processes of that unit on every host; so the lab makes a group per host itself, below the caller's own.
"""

import contextlib
import json
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
LIMITING = ("memory", "pids", "cpu", "cpuacct", "blkio")
# A group competes with single processes as if it were one. A host is many: without this, a busy machine
# starves it until its watchdogs bark.
WEIGHT = {"cpu.shares": "8192", "cpu.weight": "800"}
SYSTEMD_RUNS_HERE = Path("/run/systemd/system").is_dir()


def names() -> tuple[str, ...]:
    if SYSTEMD_RUNS_HERE:
        return ()
    if (ROOT / "cgroup.controllers").exists():
        return ("unified",)
    return tuple(name for name in (*LIMITING, "systemd", "unified") if (ROOT / name).is_dir())


def own(controller: str) -> Path | None:
    """The caller's own group of a controller, from /proc/self/cgroup."""
    wanted = {"systemd": "name=systemd", "unified": ""}.get(controller, controller)
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == wanted:
            root = ROOT if (ROOT / "cgroup.controllers").exists() else ROOT / controller
            return root / path.lstrip("/")
    return None


def make(record: Path, machine: str) -> dict[str, Path]:
    """Make a machine's groups and write down where; a second call finds the same ones."""
    groups = recorded(record)
    if not groups:
        groups = {name: parent / f"fastcache-lab-{machine}" for name in names() if (parent := own(name))}
        record.write_text(json.dumps({name: str(path) for name, path in groups.items()}))
    for path in groups.values():
        path.mkdir(exist_ok=True)
        for file, weight in WEIGHT.items():
            if (path / file).exists():
                (path / file).write_text(weight)
    return groups


def recorded(record: Path) -> dict[str, Path]:
    if not record.exists():
        return {}
    return {name: Path(path) for name, path in json.loads(record.read_text()).items()}


def remove(record: Path) -> None:
    """Remove a dead machine's groups, the innermost first."""
    for path in recorded(record).values():
        for group in sorted(path.glob("**/"), key=lambda group: -len(group.parts)):
            with contextlib.suppress(OSError):
                group.rmdir()
