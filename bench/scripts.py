"""CPU time of a script, ours beside the peers': EVALSHA over 50 connections, 16 requests at a time.

The load is redis-benchmark's. What is compared is the server's own CPU time per call.
"""

import subprocess

from bench import processes, tools
from bench.report import Verdicts, middle, paired, table
from bench.servers import OURS, Server

CALLS = 200_000

# Each script with its keys and arguments, and the most we may take of Redis' time.
SCRIPTS: dict[str, tuple[str, list[str], list[str], float]] = {
    "three commands": (
        "redis.call('SET', KEYS[1], ARGV[1]) redis.call('INCR', KEYS[2]) return redis.call('GET', KEYS[1])",
        ["{s}a", "{s}b"],
        ["value"],
        1.0,
    ),
    "release of a lock": (
        "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end",
        ["lock"],
        ["token"],
        1.0,
    ),
    "fixed window": (
        "local current = redis.call('INCRBY', KEYS[1], ARGV[2]) if tonumber(current) == tonumber(ARGV[2]) "
        "then redis.call('EXPIRE', KEYS[1], ARGV[1]) end return current",
        ["window"],
        ["60", "1"],
        1.0,
    ),
}


def compare(running: list[Server], rounds: int, verdicts: Verdicts) -> str:
    """A table of microseconds per call, the servers taking turns within each round."""
    rows = []
    for name, (text, keys, arguments, bar) in SCRIPTS.items():
        times: dict[str, list[float]] = {server.name: [] for server in running}
        for _ in range(rounds):
            for server in running:
                times[server.name].append(microseconds(server, text, keys, arguments))
        row = [name, *(f"{middle(times[server.name]):.2f}" for server in running)]
        for server in running:
            if server.name != OURS:
                ratio = paired(times[OURS], times[server.name])
                judged = ""
                if server.name == "redis":
                    judged = " " + verdicts.judge(f"{name}: CPU beside redis", ratio, bar)
                row.append(f"{ratio:.2f}{judged}")
        rows.append(row)
    names = [server.name for server in running]
    head = ["script", *(f"{name} µs" for name in names), *(f"of {name}" for name in names if name != OURS)]
    return table("CPU time per EVALSHA, 16 at a time", head, rows)


def microseconds(server: Server, text: str, keys: list[str], arguments: list[str]) -> float:
    """CPU time of the server for one call."""
    digest = server.ask("SCRIPT", "LOAD", text)
    assert isinstance(digest, bytes)
    server.ask("FLUSHALL")
    command = ["redis-benchmark", "-p", str(server.port), "-P", "16", "-c", "50", "-n", str(CALLS), "-q"]
    words = ["EVALSHA", digest.decode(), str(len(keys)), *keys, *arguments]
    before = processes.cpu([server.pid]).seconds
    pinned = ["taskset", "-c", str(tools.GENERATOR_CORE), *command, *words]
    subprocess.run(pinned, check=True, capture_output=True, timeout=600)
    return (processes.cpu([server.pid]).seconds - before) / CALLS * 1e6
