"""How each kind of process is started. A new kind is a function here and a stage in plan.py."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from fastcache import _core, config
from fastcache.daemon import launch
from fastcache.embedded import balancer
from fastcache.embedded.plan import ProcessSpec
from fastcache.errors import FastCacheError
from fastcache.proxy import run as proxy_run
from fastcache.proxy import settings as proxy_settings

# The log of the life before the last start is kept beside the present one.
LOG_OF_BEFORE = ".before"
# How much less the health service is preferred than nodes and proxies (nice).
GIVES_WAY = 5
HEADER = "# Written by 'fastcache up'; changes made here are lost."

Specs = tuple[ProcessSpec, ...]


def start(spec: ProcessSpec, specs: Specs) -> subprocess.Popen[bytes]:
    """Start the process, one of `specs`, and return at once; whether it answers is for the caller to see."""
    spec.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if spec.log.exists():
        spec.log.replace(spec.log.with_name(spec.log.name + LOG_OF_BEFORE))
    return KINDS[spec.kind](spec, specs)


def start_node(spec: ProcessSpec, _specs: Specs) -> subprocess.Popen[bytes]:
    """A lean process, directly: fifty of them are to answer within seconds."""
    write_configuration(spec, toml(spec.settings))
    # CONFIG REWRITE writes the file.
    return lean(spec, (*spec.settings, ("config-file", str(spec.configuration))), launch.NODE)


def start_proxy(spec: ProcessSpec, _specs: Specs) -> subprocess.Popen[bytes]:
    """A lean process as well."""
    write_configuration(spec, toml(spec.settings))
    judged = proxy_settings.judged(dict(spec.settings), spec.name, {})
    again = [sys.executable, "-c", proxy_run.PROGRAM, "proxy", "--config", str(spec.configuration)]
    return lean(spec, judged.for_the_process(again), launch.PROXY)


def start_health(spec: ProcessSpec, specs: Specs) -> subprocess.Popen[bytes]:
    """The service with all nodes and proxies listed: nobody needs to register."""
    write_health(spec, specs)
    program = "from fastcache.cli import main; main()"
    arguments = [sys.executable, "-c", program, "health", "--config", str(spec.configuration)]
    process = detached(arguments, spec.log, spec.directory)
    # On one machine with those who serve: it gives way to them. At once, so what it starts is like it.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + GIVES_WAY)
    return process


def write_health(spec: ProcessSpec, specs: Specs) -> None:
    """The file of the health service, with the members among `specs`."""
    # With all members listed there is nobody to wait for before slots are placed.
    special = {"port", "replicas", "flags"}
    texts = tuple(pair for pair in spec.settings if pair[0] not in special)
    own = dict(spec.settings)
    flags = ", ".join(config.toml_text(flag) for flag in own.get("flags", "").split())
    lines = [f"port = {spec.endpoint.port}", *toml(texts), "settle = 0"]
    lines += [f"replicas = {own.get('replicas', '0')}", f"flags = [{flags}]"]
    for table, kind in (("nodes", "node"), ("proxies", "proxy")):
        for member in (one for one in specs if one.kind == kind):
            lines += [f"[[{table}]]", f"id = {config.toml_text(member.name)}"]
            lines += [f"host = {config.toml_text(member.endpoint.host)}", f"port = {member.endpoint.port}"]
            lines += [f"unix-socket = {config.toml_text(member.unix)}"]
    write_configuration(spec, lines)


def start_balancer(spec: ProcessSpec, specs: Specs) -> subprocess.Popen[bytes]:
    """HAProxy in the foreground of its own session, after it has judged its configuration itself."""
    program = shutil.which("haproxy")
    if program is None:
        raise FastCacheError("haproxy is not installed any more", "install it, or run 'fastcache down' first")
    spec.configuration.write_text(balancer.configuration(spec, specs))
    judged = subprocess.run(
        [program, "-c", "-f", str(spec.configuration)], capture_output=True, text=True, check=False
    )
    if judged.returncode:
        raise FastCacheError(f"haproxy refuses {spec.configuration}", judged.stderr.strip())
    return detached([program, "-db", "-f", str(spec.configuration)], spec.log, spec.directory)


def write_configuration(spec: ProcessSpec, lines: Iterable[str]) -> None:
    """The file with which `fastcache node|proxy|health --config` would start the same process."""
    spec.configuration.touch(mode=0o600)
    spec.configuration.write_text("\n".join([HEADER, *lines]) + "\n")


def toml(settings: config.Settings) -> list[str]:
    """Settings as lines of TOML."""
    return [f"{name} = {config.toml_text(value)}" for name, value in settings]


def lean(spec: ProcessSpec, settings: config.Settings, program: Path) -> subprocess.Popen[bytes]:
    """A lean process with its settings in memory."""
    _core.start_small()
    descriptor = launch.sealed_settings(settings)
    try:
        arguments = launch.command(spec.name, descriptor, program)
        return detached(arguments, spec.log, spec.directory, inherited=(descriptor,))
    finally:
        os.close(descriptor)


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


KINDS: dict[str, Callable[[ProcessSpec, Specs], subprocess.Popen[bytes]]] = {
    "node": start_node,
    "health": start_health,
    "proxy": start_proxy,
    "balancer": start_balancer,
}
