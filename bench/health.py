"""What the health service costs: processor time for thousands of members, all checked every 5 seconds.

    python -m bench.health [--members 5000] [--interval 5] [--seconds 30]

All members are one stand-in on many connections, so that the service alone is measured. Processor time is
what counts: it does not change when the machine does other work beside it.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import cast

import uvloop

TICKS = os.sysconf("SC_CLK_TCK")


class StandIn(asyncio.Protocol):
    """Answers every PING."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclass of it.

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"+PONG\r\n" * data.count(b"PING"))


async def stand_in(ready: "asyncio.Future[int]") -> None:
    """Listen until cancelled."""
    server = await asyncio.get_running_loop().create_server(StandIn, "127.0.0.1", 0, backlog=10_000)
    ready.set_result(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def seconds_of(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_of(pid: int) -> int:
    """Proportional set size in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


async def measure(members: int, interval: float, seconds: float, port: int) -> None:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(stand_in(ready))
    target = await ready
    with tempfile.TemporaryDirectory() as directory:
        lines = [f"port = {port}", f'dir = "{directory}/data"', f"interval = {interval}", "settle = 0"]
        for number in range(members):
            lines += ["[[nodes]]", f'id = "n{number:05}"', 'host = "127.0.0.1"', f"port = {target}"]
        file = Path(directory, "health.toml")
        file.write_text("\n".join(lines))
        command = [
            sys.executable,
            "-c",
            "from fastcache.cli import main; main()",
            "health",
            "--config",
            str(file),
        ]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while await asyncio.to_thread(healthy, port) < members:
                await asyncio.sleep(0.1)
            print(f"{members} members healthy after {time.monotonic() - began:.1f} s")
            await asyncio.sleep(3 * interval)
            before, since = seconds_of(process.pid), time.monotonic()
            await asyncio.sleep(seconds)
            used, passed = seconds_of(process.pid) - before, time.monotonic() - since
            print(
                json.dumps(
                    {
                        "members": members,
                        "interval": interval,
                        "core_percent": round(100 * used / passed, 1),
                        "cpu_us_per_check": round(used / passed * interval / members * 1e6, 1),
                        "pss_kib": memory_of(process.pid),
                    }
                )
            )
        finally:
            process.terminate()
            process.wait()
            serving.cancel()


def healthy(port: int) -> int:
    """How many nodes are healthy; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/summary", timeout=5) as reply:
            count: int = json.load(reply)["healthyNodes"]
            return count
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, default=5000)
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=18080)
    chosen = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(measure(chosen.members, chosen.interval, chosen.seconds, chosen.port))


if __name__ == "__main__":
    main()
