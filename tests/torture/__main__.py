"""Torture a cluster: `python -m tests.torture --rounds 10 --seed 1 --faults kill,pause,cut` (as root).

Clients on several hosts read, write and count in strict mode while faults happen, drawn from the seed. After
each of them all heals, every client reads every key, and the history of every key is judged. One line of JSON
tells of each round. `--row R3` tries one promise by its count instead (rows.py).
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.torture.cluster import Cluster
from tests.torture.course import PACE, Outcome
from tests.torture.faults import FAULTS
from tests.torture.rows import PERSISTENT, ROWS, anything, judged

# A round of them takes its time, so they are asked for by name.
ASKED_FOR = {"clock", "disk"}


def torture(directory: Path, seed: int, rounds: int, kinds: list[str], clients: int) -> Iterator[Outcome]:
    """Rounds of faults drawn from some kinds."""
    cluster = Cluster(
        directory,
        pace=PACE,
        clocks="clock" in kinds,
        disks="disk" in kinds,
        node=PERSISTENT if {"disk", "wipe"} & set(kinds) else None,
    )
    return anything(cluster, seed, rounds, kinds, 0.02, clients)


def main() -> int:
    parser = argparse.ArgumentParser(description="Torture a cluster and judge what its clients saw.")
    parser.add_argument("--row", choices=ROWS, help="one promise, by its count")
    parser.add_argument("--rounds", type=int, help="faults; 10, or what the row has")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--faults", default=",".join(name for name in FAULTS if name not in ASKED_FOR))
    parser.add_argument("--clients", type=int, default=8)
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="fastcache-torture-"))
    if chosen.row:
        outcomes = judged(chosen.row, directory, chosen.seed, chosen.rounds)
    else:
        kinds = chosen.faults.split(",")
        outcomes = torture(directory, chosen.seed, chosen.rounds or 10, kinds, chosen.clients)
    print(f"# seed {chosen.seed}, files in {directory}", flush=True)
    passed = failed = 0
    for outcome in outcomes:
        failed += bool(outcome.broken)
        passed += not outcome.broken
        print(json.dumps(outcome.line()), flush=True)
    print(f"{passed} passed, {failed} failed")
    if not failed:
        shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
