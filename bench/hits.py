"""Hit ratio of each eviction policy: the same requests, the same memory.

Two comparisons: every server with the same `maxmemory`, where one that packs keys tighter may keep
more of them; and with as many keys as Redis kept in that memory, where only the choice counts.
"""

import sys
from dataclasses import dataclass

from bench import servers, tools
from bench.report import Verdicts, table
from bench.servers import OURS, Kind

MAXMEMORY = 6 << 20
KEYS = 200_000
REQUESTS, FILLING = 500_000, 200_000
# A name for the table, the workload, and how steeply popularity falls with the rank.
WORKLOADS = [
    ("zipf 0.7", "zipf", 0.7),
    ("zipf 0.9", "zipf", 0.9),
    ("zipf 1.1", "zipf", 1.1),
    ("with scans", "scan", 0.9),
    ("shifting", "shift", 0.9),
    ("one-hit keys", "once", 0.9),
    ("loop and zipf", "loop", 0.9),
]
REDIS_POLICIES = ["allkeys-lru", "allkeys-lfu"]
OUR_POLICIES = ["allkeys-lru", "allkeys-lfu", "allkeys-s3fifo", "allkeys-sieve"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Share of requests that hit, and how many keys were there at the end."""

    ratio: float
    keys: int


def compare(kinds: list[Kind], port: int, verdicts: Verdicts) -> str:
    """All policies on all workloads."""
    by_name = {kind.name: kind for kind in kinds}
    redis = by_name.get("redis")
    head = ["workload", "memory as", *(f"redis {short(policy)}" for policy in REDIS_POLICIES)]
    head += [short(policy) for policy in OUR_POLICIES] + ["keys redis/ours", "best above redis"]
    rows = []
    for title, workload, skew in WORKLOADS:
        print(f"# hit ratio: {title}", file=sys.stderr)
        limit = {"maxmemory": str(MAXMEMORY)}
        theirs = (
            [replay(redis, port, policy, limit, workload, skew) for policy in REDIS_POLICIES] if redis else []
        )
        kept = max((outcome.keys for outcome in theirs), default=0)
        for how, ours_limit in (("maxmemory", limit), ("keys", {"maxentries": str(kept)})):
            if how == "keys" and not kept:
                continue
            outcomes = [
                replay(by_name[OURS], port, each, ours_limit, workload, skew) for each in OUR_POLICIES
            ]
            best, bar = max(o.ratio for o in outcomes), max((o.ratio for o in theirs), default=0.0)
            verdict = f"hit ratio, {title}, same {how}: {best:.3f} against {bar:.3f}"
            rows.append(
                [
                    title,
                    how,
                    *(f"{outcome.ratio:.3f}" for outcome in theirs or [Outcome(0, 0)] * 2),
                    *(f"{outcome.ratio:.3f}" for outcome in outcomes),
                    f"{kept}/{max(o.keys for o in outcomes)}",
                    verdicts.judge(verdict, best, bar, at_least=True),
                ]
            )
    return table("Hit ratio", head, rows)


def replay(kind: Kind, port: int, policy: str, limit: dict[str, str], workload: str, skew: float) -> Outcome:
    """One workload on a fresh server."""
    with servers.running(kind, port, {"maxmemory-policy": policy, **limit}) as server:
        parameters = ("-k", KEYS, "-n", REQUESTS, "-w", FILLING, "-z", skew)
        result = tools.generator("replay", "-p", port, "-W", workload, *parameters)
        keys = server.ask("DBSIZE")
        assert isinstance(keys, int)
        return Outcome(result["hits"] / result["requests"], keys)


def short(policy: str) -> str:
    """The policy without what all have in common."""
    return policy.removeprefix("allkeys-")
