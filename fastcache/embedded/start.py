"""How each kind of process is started. A new kind is a function here and a stage in plan.py."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from fastcache import _core, config
from fastcache.daemon import launch
from fastcache.embedded.plan import ProcessSpec

# The log of the life before the last start is kept beside the present one.
LOG_OF_BEFORE = ".before"


def start(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    """Start the process and return at once; whether it answers is for the caller to see."""
    spec.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if spec.log.exists():
        spec.log.replace(spec.log.with_name(spec.log.name + LOG_OF_BEFORE))
    return KINDS[spec.kind](spec)


def start_node(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    """A lean process, directly: fifty of them are to answer within seconds."""
    write_configuration(spec)
    _core.start_small()
    descriptor = launch.sealed_settings(spec.settings)
    try:
        return detached(
            launch.command(spec.name, descriptor), spec.log, spec.directory, inherited=(descriptor,)
        )
    finally:
        os.close(descriptor)


def write_configuration(spec: ProcessSpec) -> None:
    """The file with which `fastcache node --config` would start the same node."""
    lines = [f"{name} = {config.toml_text(value)}" for name, value in spec.settings]
    header = "# Written by 'fastcache up'; changes made here are lost."
    spec.configuration.write_text("\n".join([header, *lines]) + "\n")


def detached(
    arguments: list[str], log: Path, directory: Path, inherited: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """A process that outlives us and our terminal, and writes to its log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            start_new_session=True,
            pass_fds=inherited,
        )


KINDS: dict[str, Callable[[ProcessSpec], subprocess.Popen[bytes]]] = {"node": start_node}
