"""The load generators: built once from their C sources, run pinned to a core of their own."""

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bench import processes

HERE = Path(__file__).parent
BUILT = HERE.parent / "target" / "bench"
SERVER_CORE = 0
GENERATOR_CORE = 1 if (os.cpu_count() or 1) > 1 else 0


@functools.cache
def built(name: str) -> Path:
    """The program made from `name`.c, newer than its source."""
    source, program = HERE / f"{name}.c", BUILT / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILT.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", str(program), str(source), "-lm"], check=True)
    return program


def generator(name: str, *arguments: str | int | float, limit: float = 600) -> dict[str, Any]:
    """Run a generator to its end; what it printed."""
    command = ["taskset", "-c", str(GENERATOR_CORE), str(built(name)), *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=limit,
        start_new_session=True,
        preexec_fn=lambda: processes.prefer(0),
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[:300]}")
    result: dict[str, Any] = json.loads(done.stdout)
    if result.get("errors"):
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[:300]}")
    return result


def fill(port: int, operation: str, count: int, size: int = 64, ttl: int = 0) -> None:
    """Put `count` different keys, fields or members of `size` bytes into the server."""
    several = ("-c", 1, "-P", 16, "-w", 0, "-s", "-n", count, "-r", count, "-d", size)
    generator("rgen", "-p", port, "-T", operation, *several, *(("-x", ttl) if ttl else ()))
