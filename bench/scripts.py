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
        0.6,
    ),
    # redis-py's Lock, which is held: it is the only one of these that writes each time.
    "lock extended": (
        "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end "
        "local expiration = redis.call('pttl', KEYS[1]) if not expiration then expiration = 0 end "
        "if expiration < 0 then return 0 end local newttl = ARGV[2] "
        'if ARGV[3] == "0" then newttl = ARGV[2] + expiration end '
        "redis.call('pexpire', KEYS[1], newttl) return 1",
        ["lock"],
        ["token", "100", "0"],
        0.6,
    ),
    "fixed window": (
        "local current = redis.call('INCRBY', KEYS[1], ARGV[2]) if tonumber(current) == tonumber(ARGV[2]) "
        "then redis.call('EXPIRE', KEYS[1], ARGV[1]) end return current",
        ["window"],
        ["60", "1"],
        0.6,
    ),
    "moving window": (
        "local timestamp = tonumber(ARGV[1]) local limit = tonumber(ARGV[2]) "
        "local expiry = tonumber(ARGV[3]) local amount = tonumber(ARGV[4]) "
        "if amount > limit then return false end "
        "local entry = redis.call('lindex', KEYS[1], limit - amount) "
        "if entry and tonumber(entry) >= timestamp - expiry then return false end "
        "local entries = {} for i = 1, amount do entries[i] = timestamp end "
        "for i=1,#entries,5000 do "
        "redis.call('lpush', KEYS[1], unpack(entries, i, math.min(i+4999, #entries))) end "
        "redis.call('ltrim', KEYS[1], 0, limit - 1) redis.call('expire', KEYS[1], expiry) return true",
        ["window"],
        ["1700000000.5", "100", "60", "1"],
        0.6,
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
    server.ask("SET", "lock", "token", "EX", "1000")
    command = ["redis-benchmark", "-p", str(server.port), "-P", "16", "-c", "50", "-n", str(CALLS), "-q"]
    words = ["EVALSHA", digest.decode(), str(len(keys)), *keys, *arguments]
    before = processes.cpu([server.pid]).seconds
    pinned = ["taskset", "-c", str(tools.GENERATOR_CORE), *command, *words]
    subprocess.run(pinned, check=True, capture_output=True, timeout=600)
    return (processes.cpu([server.pid]).seconds - before) / CALLS * 1e6
