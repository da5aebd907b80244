"""The node beside redis-server and valkey-server: `python -m bench.node`, or `make bench-node`.

Everything runs in one go on this machine; the servers take turns within each round, so that what
else happens here meets all of them alike. README.md says how to read the tables.
"""

import argparse
import os
import platform
import signal
import sys
from contextlib import ExitStack

from bench import connections, footprint, guards, hits, latency, scripts, servers, speed
from bench.report import Verdicts

SECTIONS = ["speed", "scripts", "acl", "tls", "memory", "idle", "fleet", "latency", "hits", "connections"]


def main() -> int:
    """Measure, print, and say which bars were met."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # So that no server is left behind.
    kinds = servers.kinds(chosen.peers.split(",") if chosen.peers else None)
    versions = ", ".join(f"{kind.name} {kind.version}" for kind in kinds)
    print(f"## {versions}; {os.cpu_count()} cores, {platform.system()} {platform.release()}")
    verdicts = Verdicts()
    port, sections = chosen.port, chosen.sections.split(",")
    if {"speed", "scripts", "acl", "latency"} & set(sections):
        with ExitStack() as stack:
            running = [stack.enter_context(servers.running(kind, port + i)) for i, kind in enumerate(kinds)]
            if "speed" in sections:
                cells = (
                    chosen.cells.split(",") if chosen.cells else [*speed.BARS, "set/1/500/64", "get/1/500/64"]
                )
                show(speed.compare(running, cells, chosen.rounds, chosen.seconds, verdicts))
            if "scripts" in sections:
                show(scripts.compare(running, chosen.rounds, verdicts))
            if "acl" in sections:
                show(guards.limited(running, chosen.rounds))
            if "latency" in sections:
                show(latency.compare(running, chosen.rounds, chosen.seconds))
    if "tls" in sections:
        show(guards.secure(kinds, port, chosen.rounds, verdicts))
    if "memory" in sections:
        show(footprint.per_key(kinds, port, verdicts))
        show(footprint.per_entry(kinds, port, verdicts))
    if "idle" in sections:
        show(footprint.idle(kinds, port, verdicts))
    if "fleet" in sections:
        show(footprint.fleet(port + 10, verdicts))
    if "hits" in sections:
        show(hits.compare(kinds, port, verdicts))
    if "connections" in sections:
        show(connections.compare(kinds, port))
    print(f"\n{len(verdicts.met)} bars met, {len(verdicts.missed)} missed")
    for each in verdicts.missed:
        print(f"- missed: {each}")
    return 0


def show(text: str) -> None:
    """Print a section as soon as it is there."""
    print(text, flush=True)


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="bench.node", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"any of {','.join(SECTIONS)}")
    parser.add_argument("--cells", help="cells of `speed`, as get/16/50/64,lpush/16/50/64")
    parser.add_argument("--peers", help="only these peers: redis,valkey")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--port", type=int, default=17600, help="first of some 70 ports to use")
    chosen = parser.parse_args()
    unknown = set(chosen.sections.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
