"""redis-py's own test suite against Redis and our node: what passes there must pass here.

    .venv/bin/python -m tests.conformance.redis_py_suite [--protocol 2|3] [--files F ...] [--target fleet]

Its source package carries the tests; it is fetched once into .venv/suites, with an environment of its
own. Every file is run on both servers; tests that pass on Redis and not on the node must stand in
redis_py_differences.toml, by name or by prefix, with a reason. `make test-redis-py` runs both protocols.
With `--target fleet` it is four nodes behind HAProxy and a proxy instead of a node, and what differs there on
purpose stands in redis_py_fleet.toml as well.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.conformance.fleet import Fleet, start_fleet
from tests.conformance.servers import Server, start_ours, start_redis

VERSION = "8.1.0"
HOME = Path(__file__).resolve().parents[2] / ".venv" / "suites"
LISTED = Path(__file__).with_name("redis_py_differences.toml")
OF_THE_FLEET = LISTED.with_name("redis_py_fleet.toml")
NEEDED = [
    "pytest", "pytest-asyncio", "pytest-timeout", "packaging", "numpy", "xxhash", "cryptography", "pybreaker",
    "redis-entraid", "aiohttp", "opentelemetry-api", "opentelemetry-sdk",
]  # fmt: skip
# Files that talk to a server; the rest of the suite tests redis-py alone, clusters, modules or TLS.
FILES = [
    "test_commands.py", "test_pipeline.py", "test_pubsub.py", "test_encoding.py", "test_lock.py",
    "test_monitor.py", "test_connection.py", "test_connection_pool.py",
    "test_client.py", "test_hash.py", "test_cache.py",
    "test_keyspace_notifications.py", "test_multiprocessing.py",
    "test_asyncio/test_commands.py", "test_asyncio/test_pipeline.py", "test_asyncio/test_pubsub.py",
    "test_asyncio/test_encoding.py", "test_asyncio/test_lock.py", "test_asyncio/test_monitor.py",
    "test_asyncio/test_connection.py", "test_asyncio/test_connection_pool.py", "test_asyncio/test_hash.py",
    "test_asyncio/test_keyspace_notifications.py",
]  # fmt: skip
SECONDS_A_FILE = 1800

Outcomes = dict[str, str]


def prepared() -> tuple[Path, Path]:
    """The unpacked source package and the Python that runs its tests; fetched when missing."""
    source, python = HOME / f"redis-{VERSION}", HOME / f"env-{VERSION}" / "bin" / "python"
    if not (source / "tests").is_dir():
        HOME.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=HOME) as scratch:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
            options = ["--no-deps", "--no-binary", "redis", "--dest", scratch]
            subprocess.run([*pip, "download", *options, f"redis=={VERSION}"], check=True)
            with tarfile.open(next(Path(scratch).glob("redis-*.tar.gz"))) as archive:
                archive.extractall(HOME, filter="data")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", str(source), *NEEDED], check=True)
    return source, python


def outcomes(server: Server, file: str, protocol: int, source: Path, python: Path) -> Outcomes:
    """How every test of a file ends on a server; a test that ran several times fails if one of them did."""
    report = server.directory / f"{Path(file).stem}-{'async' if 'asyncio' in file else 'sync'}-{protocol}.xml"
    url = f"redis://127.0.0.1:{server.port}/0"
    options = [f"--redis-url={url}", f"--protocol={protocol}", "--timeout=30", "--tb=line"]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, f"--junitxml={report}"]
    command.append(f"tests/{file}")
    log = report.with_suffix(".log")
    with log.open("wb") as output:
        try:
            subprocess.run(command, cwd=source, stdout=output, stderr=output, timeout=SECONDS_A_FILE)
        except subprocess.TimeoutExpired:
            print(f"  {file}: not done after {SECONDS_A_FILE} s on {server.name}")
    if not report.exists():
        print(f"  {file}: no report on {server.name}:\n{log.read_text(errors='replace')[-800:]}")
        return {}
    found: Outcomes = {}
    for test in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{file}::{test.get('name')}"
        ends = {part.tag for part in test}
        end = next((end for end in ("failure", "error", "skipped") if end in ends), "passed")
        if found.get(name) in (None, "passed"):
            found[name] = end
    return found


def listed(files: list[Path]) -> list[tuple[str, str]]:
    """Patterns of the tests that need not pass, and why."""
    entries = [entry for file in files for entry in tomllib.loads(file.read_text()).get("difference", [])]
    return [(entry["tests"], entry["reason"]) for entry in entries]


def main() -> int:
    """Run the suite; 1 when a test passes on Redis, fails on the node and is not listed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--protocol", type=int, choices=(2, 3), action="append")
    parser.add_argument("--files", nargs="+", default=FILES)
    parser.add_argument("--target", choices=("node", "fleet"), default="node")
    chosen = parser.parse_args()
    source, python = prepared()
    fleet = chosen.target == "fleet"
    patterns = listed([LISTED, OF_THE_FLEET] if fleet else [LISTED])
    used: set[str] = set()
    unexpected: list[str] = []
    passed = both = 0
    # A short name: the sockets of a cluster are in it.
    scratch = Path(tempfile.mkdtemp(prefix="fc-"))
    many = start_fleet(scratch) if fleet else None
    for protocol in chosen.protocol or (2, 3):
        for file in chosen.files:
            if not (source / "tests" / file).exists():
                continue
            servers = []
            for start, name in ((start_redis, "redis"), (start_ours, "ours")):
                directory = scratch / f"{name}-{protocol}-{file.replace('/', '-')}"
                directory.mkdir(parents=True)
                if many and name == "ours":
                    many.clean()
                    servers.append(replace(many, directory=directory))
                else:
                    servers.append(start(directory))
            with ThreadPoolExecutor(2) as pool:
                one, other = pool.map(lambda s: outcomes(s, file, protocol, source, python), servers)  # noqa: B023
            died = [server.name for server in servers if not server.alive()]
            for server in servers:
                if not isinstance(server, Fleet):
                    server.stop()
            lost = []
            for test, end in sorted(one.items()):
                if end != "passed":
                    continue
                passed += 1
                if other.get(test) == "passed":
                    both += 1
                    continue
                reasons = [pattern for pattern, _ in patterns if re.search(pattern, test)]
                used.update(reasons)
                if not reasons:
                    lost.append(f"{test} (RESP{protocol}: {other.get(test, 'not run')})")
            unexpected += lost
            ended = sum(end == "passed" for end in one.values())
            print(f"RESP{protocol} {file}: {ended} pass on Redis, {len(lost)} of them fail here unexpectedly")
            for line in [*lost, *(f"{name} died" for name in died)]:
                print(f"    {line}")
            sys.stdout.flush()
    if many:
        many.stop()
    stale = [pattern for pattern, _ in patterns if pattern not in used]
    if chosen.files == FILES and not chosen.protocol and stale:
        print("Stale entries: " + ", ".join(stale))
        unexpected += stale
    print(f"{both} of {passed} tests that pass on Redis pass here; {len(unexpected)} unexpected differences")
    if unexpected:
        print(f"Logs: {scratch}")
    else:
        shutil.rmtree(scratch)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
