"""How long replies take at a fixed rate, at which no server is at its limit.

A latency counts from the time a request was due, so a pause counts for all requests it delayed.
"""

import sys

from bench import tools
from bench.report import middle, table
from bench.servers import Server

RATES = [("get", 20_000), ("set", 20_000), ("get", 80_000), ("set", 80_000)]


def compare(running: list[Server], rounds: int, seconds: float) -> str:
    """Percentiles for each rate and server: medians of the rounds, and the worst of all."""
    rows = []
    for operation, rate in RATES:
        for server in running:
            print(f"# latency: {operation} at {rate}/s, {server.name}", file=sys.stderr)
            tools.fill(server.port, "set", 100_000)
            load = ("-T", operation, "-P", 1, "-c", 50, "-R", rate, "-t", seconds)
            results = [tools.generator("rgen", "-p", server.port, *load) for _ in range(rounds)]
            figures = [
                f"{middle([r[name] for r in results]):.0f}" for name in ("p50_us", "p99_us", "p999_us")
            ]
            reached = middle([result["rps"] for result in results])
            worst = max(result["max_us"] for result in results)
            rows.append([f"{operation} {rate}/s", server.name, f"{reached:.0f}", *figures, str(worst)])
    head = ["load", "server", "reached/s", "p50 us", "p99 us", "p99.9 us", "worst us"]
    return table("Latency at a fixed rate, 50 connections", head, rows)
