"""Snapshots of a million keys beside redis-server and valkey-server: `make bench-persistence`.

Saving and loading by the CPU time they take, that of children (peers fork) counted in, and how long a client
waits at worst meanwhile, at a fixed rate of reads: a latency counts from the time a request was due.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import processes, servers, tools
from bench.report import Verdicts, middle, table
from bench.servers import OURS, Kind, Server

COUNT = 1_000_000
SAVE_BAR, LOAD_BAR, PAUSE_BAR = 0.30, 0.40, 2.0  # CPU seconds, CPU seconds, ms.
RATE = 2000


def cpu(server: Server) -> float:
    """CPU seconds of a server and of its children that have ended."""
    words = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    children = (int(words[13]) + int(words[14])) / os.sysconf("SC_CLK_TCK")
    return processes.cpu([server.pid]).seconds + children


def settings(kind: Kind, directory: str) -> dict[str, str]:
    """Files in a directory, and none written but on demand."""
    return {"dir": directory} | ({"snapshot-interval": "0"} if kind.name == OURS else {})


def saved(server: Server) -> tuple[float, float]:
    """BGSAVE: CPU and wall seconds."""
    before, began = cpu(server), time.monotonic()
    server.ask("BGSAVE")
    while time.monotonic() - began < 60:
        time.sleep(0.02)
        told = server.info()
        if told["rdb_bgsave_in_progress"] == "0" and told["rdb_last_bgsave_status"] == "ok":
            break
    wall = time.monotonic() - began
    time.sleep(0.1)  # A child's time is known when it was waited for.
    return cpu(server) - before, wall


def pause(server: Server) -> float:
    """The longest that a read waits while a snapshot is taken, ms."""
    longest = 0.0

    def read() -> None:
        nonlocal longest
        load = ("-T", "get", "-P", 1, "-c", 4, "-R", RATE, "-t", 3, "-r", COUNT)
        longest = tools.generator("rgen", "-p", server.port, *load)["max_us"] / 1000

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(1)
    saved(server)
    reader.join()
    return longest


def loaded(kind: Kind, port: int, directory: str) -> tuple[float, float]:
    """From the start until all keys are there, less what an empty start takes: CPU, and wall until then."""
    with (
        tempfile.TemporaryDirectory(prefix="fastcache-bench-") as nothing,
        servers.running(kind, port, settings(kind, nothing)) as server,
    ):
        empty = cpu(server)
    began = time.monotonic()
    with servers.running(kind, port, settings(kind, directory)) as server:
        while server.info().get("loading", "0") != "0":
            time.sleep(0.01)
        wall, used = time.monotonic() - began, cpu(server)
        count = server.ask("DBSIZE")
        if count != COUNT:
            raise RuntimeError(f"{kind.name} has {count!r} of {COUNT} keys")
    return used - empty, wall


def measured(kind: Kind, port: int, rounds: int) -> dict[str, list[float]]:
    """All figures of one server."""
    figures: dict[str, list[float]] = {name: [] for name in ("save", "wall", "pause", "load", "up")}
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as directory:
        with servers.running(kind, port, settings(kind, directory)) as server:
            tools.fill(port, "set", COUNT, 64)
            for number in range(rounds):
                print(f"# save {number + 1}: {kind.name}", file=sys.stderr)
                used, wall = saved(server)
                figures["save"].append(used)
                figures["wall"].append(wall)
                figures["pause"].append(pause(server))
            told = server.info()
            if longest := told.get("snapshot_longest_slice_usec"):
                figures["slice"] = [int(longest) / 1000]
                figures["work"] = [int(told["snapshot_longest_slice_work_usec"]) / 1000]
        for number in range(rounds):
            print(f"# load {number + 1}: {kind.name}", file=sys.stderr)
            used, wall = loaded(kind, port, directory)
            figures["load"].append(used)
            figures["up"].append(wall)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.persistence", description="Snapshots of a million keys.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=17700)
    parser.add_argument("--peers", help="only these peers: redis,valkey")
    chosen = parser.parse_args()
    kinds = servers.kinds(chosen.peers.split(",") if chosen.peers else None)
    verdicts = Verdicts()
    rows = []
    for kind in kinds:
        figures = measured(kind, chosen.port, chosen.rounds)
        save, load, wait = (middle(figures[name]) for name in ("save", "load", "pause"))
        ours = kind.name == OURS
        # By the processor: what others take from this process is not the snapshot's doing.
        longest = figures["work"][0] if ours else None
        rows.append(
            [
                f"{kind.name} {kind.version}",
                f"{save:.2f}",
                verdicts.judge(f"save: {save:.2f} CPU s", save, SAVE_BAR) if ours else "",
                f"{middle(figures['wall']):.2f}",
                f"{load:.2f}",
                verdicts.judge(f"load: {load:.2f} CPU s", load, LOAD_BAR) if ours else "",
                f"{middle(figures['up']):.2f}",
                f"{wait:.1f}",
                "" if longest is None else f"{longest:.2f}",
                f"{figures['slice'][0]:.2f}" if ours else "",
                verdicts.judge(f"pause: {longest:.2f} ms", longest, PAUSE_BAR) if longest is not None else "",
            ]
        )
    head = [
        "server",
        "save, CPU s",
        f"<= {SAVE_BAR}",
        "wall s",
        "load, CPU s",
        f"<= {LOAD_BAR}",
        "until up, s",
    ]
    head += ["longest wait of a read, ms", "longest slice, ms of CPU", "of clock", f"<= {PAUSE_BAR}"]
    print(table(f"Snapshots of {COUNT:,} keys of 16 + 64 bytes", head, rows))
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())
