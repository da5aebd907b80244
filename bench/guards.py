"""What safety costs: CPU time per request over TLS, and as a user whose rights are limited.

The load is redis-benchmark's, which speaks TLS and logs in. What is compared is the server's own CPU time.
"""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import processes, servers, tools
from bench.report import Verdicts, middle, paired, table
from bench.servers import OURS, Kind, Server

CALLS = 300_000
PIPELINES = (1, 16)
WORDS = {"GET": ["GET", "key:__rand_int__"], "SET": ["SET", "key:__rand_int__", "x" * 64]}
LIMITED = ["~key:*", "+@read", "+@write", "-@dangerous"]
# The most we may take of Redis' time over TLS.
TLS_BAR = 1.0


def microseconds(server: Server, words: list[str], pipeline: int, *options: str) -> float:
    """CPU time of the server for one request."""
    command = ["redis-benchmark", "-P", str(pipeline), "-c", "50", "-n", str(CALLS), "-r", "100000", "-q"]
    port = [] if "-p" in options else ["-p", str(server.port)]
    pinned = ["taskset", "-c", str(tools.GENERATOR_CORE), *command, *port, *options, *words]
    before = processes.cpu([server.pid]).seconds
    subprocess.run(pinned, check=True, capture_output=True, timeout=600)
    return (processes.cpu([server.pid]).seconds - before) / CALLS * 1e6


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    crt, key = directory / "bench.crt", directory / "bench.key"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    made += ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", str(key), "-out", str(crt)]
    subprocess.run(made, check=True, capture_output=True)
    return crt, key


def secure(kinds: list[Kind], port: int, rounds: int, verdicts: Verdicts) -> str:
    """Over TLS and in the clear, at every server that has TLS."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastcache-bench-")))
        crt, key = certificate(directory)
        running: list[tuple[Server, int]] = []
        for number, kind in enumerate(kinds):
            plain, secured = port + 2 * number, port + 2 * number + 1
            settings = {
                "tls-port": str(secured),
                "tls-cert-file": str(crt),
                "tls-key-file": str(key),
                "tls-ca-cert-file": str(crt),
                "tls-auth-clients": "no",
            }
            try:
                running.append((stack.enter_context(servers.running(kind, plain, settings)), secured))
            except RuntimeError as error:
                print(f"# {kind.name} is left out: {error}")  # Built without TLS.
        rows = []
        for name, words in WORDS.items():
            for pipeline in PIPELINES:
                clear: dict[str, list[float]] = {server.name: [] for server, _ in running}
                over: dict[str, list[float]] = {server.name: [] for server, _ in running}
                for _ in range(rounds):
                    for server, secured in running:
                        tls = ("--tls", "--insecure", "-p", str(secured))
                        clear[server.name].append(microseconds(server, words, pipeline))
                        over[server.name].append(microseconds(server, words, pipeline, *tls))
                for server, _ in running:
                    row = [f"{name}, {pipeline} at a time", server.name]
                    row += [f"{middle(each[server.name]):.2f}" for each in (clear, over)]
                    if server.name == "redis":
                        ratio = paired(over[OURS], over["redis"])
                        what = f"TLS, {name}, {pipeline} at a time, beside redis: {ratio:.2f}"
                        row += [f"{ratio:.2f}", verdicts.judge(what, ratio, TLS_BAR)]
                    rows.append([*row, *[""] * (6 - len(row))])
    head = ["requests", "server", "in the clear µs", "over TLS µs", "ours of this, TLS", ""]
    return table("CPU time per request over TLS", head, rows)


def limited(running: list[Server], rounds: int) -> str:
    """As the default user, and as one with a pattern of keys and categories of commands."""
    rows = []
    for server in running:
        server.ask("ACL", "SETUSER", "bench", "reset", "on", ">bench", *LIMITED)
    for name, words in WORDS.items():
        for server in running:
            as_user = ("--user", "bench", "-a", "bench")
            pairs = [
                (microseconds(server, words, 16), microseconds(server, words, 16, *as_user))
                for _ in range(rounds)
            ]
            free, bound = ([pair[at] for pair in pairs] for at in (0, 1))
            cost = paired(bound, free)
            rows.append([name, server.name, f"{middle(free):.2f}", f"{middle(bound):.2f}", f"{cost:.2f}"])
    for server in running:
        server.ask("ACL", "DELUSER", "bench")
    head = ["requests, 16 at a time", "server", "default user µs", "limited user µs", "ratio"]
    return table("CPU time per request of a user with limited rights", head, rows)
