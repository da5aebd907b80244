"""What the reference cluster costs when nobody asks it anything: `python -m bench.idle`.

`fastcache up` with its own numbers of nodes and proxies, on other ports: how long until everything is ready,
and the processor time of each kind of process over half a minute, as a share of one core.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import processes, servers
from bench.report import Verdicts, table

READY_BAR, IDLE_BAR = 15.0, 5.0
SETTLE = 10.0


def pids_by_kind(directory: str) -> dict[str, list[int]]:
    """The processes of the cluster, by what they are."""
    words = [servers.fastcache(), "status", "--dir", directory, "-o", "json"]
    told = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=60).stdout)
    found: dict[str, list[int]] = {kind: [one["pid"] for one in told[kind]] for kind in ("nodes", "proxies")}
    for one in told["services"]:
        balancer = Path(f"/proc/{one['pid']}/comm").read_text().startswith("haproxy")
        found["HAProxy" if balancer else "health service"] = [one["pid"]]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="What the reference cluster costs while it is idle.")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--port", type=int, default=27600, help="HAProxy's; others up to 120 above")
    chosen = parser.parse_args()
    port, verdicts = chosen.port, Verdicts()
    with tempfile.TemporaryDirectory(prefix="fc-") as directory:
        ports = {"--port": port, "--health-port": port + 1, "--stats-port": port + 2}
        ports |= {"--proxy-port": port + 10, "--node-port": port + 20}
        words = [str(word) for pair in ports.items() for word in pair]
        try:
            began = time.monotonic()
            up = [servers.fastcache(), "up", "--dir", directory, *words]
            subprocess.run(up, check=True, stdout=subprocess.DEVNULL, timeout=120)
            ready = time.monotonic() - began
            time.sleep(SETTLE)
            kinds = pids_by_kind(directory)
            before = {kind: processes.cpu(pids).seconds for kind, pids in kinds.items()}
            busy, began = processes.machine_busy(), time.monotonic()
            time.sleep(chosen.seconds)
            passed = time.monotonic() - began
            shares = {
                kind: (processes.cpu(pids).seconds - before[kind]) / passed * 100
                for kind, pids in kinds.items()
            }
            machine = (processes.machine_busy() - busy) / passed * 100
        finally:
            down = [servers.fastcache(), "down", "--dir", directory]
            subprocess.run(down, check=False, stdout=subprocess.DEVNULL, timeout=60)
    whole = sum(shares.values())
    rows = [[f"{kind} ({len(kinds[kind])})", f"{share:.2f} %", "", ""] for kind, share in shares.items()]
    rows.append(
        ["all", f"{whole:.2f} %", f"<= {IDLE_BAR:g}", verdicts.judge(f"idle: {whole:.2f} %", whole, IDLE_BAR)]
    )
    rows.append(
        [
            "until ready",
            f"{ready:.1f} s",
            f"<= {READY_BAR:g}",
            verdicts.judge(f"ready: {ready:.1f} s", ready, READY_BAR),
        ]
    )
    print(table("The reference cluster, idle: processor time of one core", ["", "ours", "bar", ""], rows))
    print(f"\nAll work on the machine meanwhile: {machine:.0f} % of a core.")
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())
