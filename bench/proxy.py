"""The proxy beside nutcracker (twemproxy), and the whole path through HAProxy: `make bench-proxy`.

Both proxies stand in front of the same four redis-servers, then ours in front of four nodes; compared is the
proxy's own CPU time per operation. Then the path client -> HAProxy -> proxy -> nodes, once over TCP and once
over Unix sockets: CPU time of HAProxy, proxy and nodes together. One core serves, another makes the load.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import peers, processes, tools
from bench.report import Verdicts, middle, paired, table
from bench.servers import fastcache, wait_until_answering

NODES = 4
KEYS = 100_000
CELLS = ("get/1/50", "set/1/50", "get/16/50", "get/100/50", "mget/1/50", "mget/16/50")
# The most we may take, against nutcracker.
BARS = {"get/1/50": 0.75, "get/16/50": 0.45, "get/100/50": 0.23, "mget/1/50": 0.75, "mget/16/50": 0.75}
PATH_BAR = 0.75


@dataclass(frozen=True, slots=True)
class Door:
    """Where load goes in, and the processes whose time counts."""

    name: str
    port: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    per_second: float
    microseconds: float
    p99: int


def measure(door: Door, cell: str, seconds: float) -> Sample:
    """One run of the generator through a door."""
    operation, pipeline, connections = cell.split("/")
    before = processes.cpu([*door.pids]).seconds
    load = ("-T", operation, "-P", pipeline, "-c", connections, "-d", 64, "-r", KEYS, "-t", seconds)
    result = tools.generator("rgen", "-p", door.port, *load)
    used = processes.cpu([*door.pids]).seconds - before
    return Sample(result["rps"], used / result["total_ops"] * 1e6, result["p99_us"])


@contextmanager
def process(command: list[str], port: int, directory: Path, name: str) -> Iterator[int]:
    """A program on the serving core while the block lasts; its process id."""
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        pinned = ["taskset", "-c", str(tools.SERVER_CORE), *command]
        started = subprocess.Popen(
            pinned, cwd=directory, stdout=output, stderr=output, start_new_session=True
        )
        try:
            # nutcracker answers no PING: that somebody listens must do.
            wait_until_listening(started, port) if name.startswith("nutcracker") else wait_until_answering(
                started, port, log
            )
            processes.prefer(started.pid)
            yield started.pid
        finally:
            started.terminate()
            try:
                started.wait(15)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def wait_until_listening(started: "subprocess.Popen[bytes]", port: int, limit: float = 20) -> None:
    """Return when the process listens on the port."""
    end = time.monotonic() + limit
    while started.pid not in processes.listeners(port):
        if started.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.02)


def redis(port: int, directory: Path) -> list[str]:
    """A redis-server that keeps nothing."""
    quiet = ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
    return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), *quiet]


def node(port: int, directory: Path) -> list[str]:
    """A node of ours with a Unix socket."""
    file = directory / f"node-{port}.toml"
    file.write_text(f'port = {port}\nbind = "127.0.0.1"\nunixsocket = "{directory}/n{port}.sock"\n')
    return [fastcache(), "node", "--config", str(file)]


def proxy(port: int, first: int, directory: Path, unix: bool) -> list[str]:
    """Our proxy in front of the four servers from port `first` on."""
    file = directory / f"proxy-{port}.toml"
    members = ", ".join(f'"n{at}=127.0.0.1:{first + at}"' for at in range(NODES))
    lines = [f"port = {port}", 'bind = "127.0.0.1"', f"nodes = [{members}]"]
    if unix:
        lines.append(f'unixsocket = "{directory}/p{port}.sock"')
        topology = directory / f"topology-{port}.json"
        topology.write_text(with_sockets(first, directory))
        lines[2] = f'topology-file = "{topology}"'
    file.write_text("\n".join(lines) + "\n")
    return [fastcache(), "proxy", "--config", str(file)]


def with_sockets(first: int, directory: Path) -> str:
    """The topology of the four nodes, with their Unix sockets."""
    import json  # noqa: PLC0415 - only here

    from fastcache import _core  # noqa: PLC0415 - the benchmark of peers alone needs no core

    members = [
        {"id": f"n{at}", "host": "127.0.0.1", "port": first + at, "unix": f"{directory}/n{first + at}.sock"}
        for at in range(NODES)
    ]
    slots = json.loads(_core.place(json.dumps(members).encode()))["slots"]
    return json.dumps({"epoch": 1, "nodes": members, "slots": slots})


def nutcracker(command: list[str], port: int, first: int, directory: Path) -> list[str]:
    """nutcracker in front of the same servers."""
    file = directory / "nutcracker.yml"
    servers = "".join(f"    - 127.0.0.1:{first + at}:1\n" for at in range(NODES))
    file.write_text(
        f"pool:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n"
        f"  preconnect: true\n  servers:\n{servers}"
    )
    return [
        *command,
        "-c",
        str(file),
        "-s",
        str(port + 1),
        "-v",
        "0",
        "-o",
        str(directory / "nutcracker.out"),
    ]


def haproxy(port: int, address: str, directory: Path) -> list[str]:
    """HAProxy in TCP mode in front of one proxy."""
    file = directory / f"haproxy-{port}.cfg"
    file.write_text(
        "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n"
        f"  timeout server 1h\nlisten x\n  bind 127.0.0.1:{port}\n  server p {address}\n"
    )
    return ["haproxy", "-db", "-f", str(file)]


def fill(port: int) -> None:
    """Give every key of the load a value."""
    tools.fill(port, "set", KEYS)


def beside_nutcracker(first: int, options: argparse.Namespace, verdicts: Verdicts) -> str:
    """Both proxies in front of four redis-servers, and ours in front of four nodes."""
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as name, ExitStack() as stack:
        directory = Path(name)

        def begin(command: list[str], port: int, label: str) -> int:
            return stack.enter_context(process(command, port, directory, label))

        doors = []
        for at in range(NODES):
            begin(redis(first + at, directory), first + at, f"redis-{at}")
            begin(node(first + 10 + at, directory), first + 10 + at, f"node-{at}")
        doors.append(
            Door("ours", first + 20, (begin(proxy(first + 20, first, directory, False), first + 20, "ours"),))
        )
        if command := peers.nutcracker_command():
            pid = begin(nutcracker(command, first + 22, first, directory), first + 22, "nutcracker")
            doors.append(Door("nutcracker", first + 22, (pid,)))
        own = proxy(first + 21, first + 10, directory, True)
        doors.append(Door("ours, our nodes, Unix", first + 21, (begin(own, first + 21, "ours-unix"),)))
        for door in doors:
            fill(door.port)
        return compared("Proxy: its own CPU time", doors, "nutcracker", BARS, options, verdicts)


def whole_path(first: int, options: argparse.Namespace, verdicts: Verdicts) -> str:
    """HAProxy, proxy and nodes together, over TCP and over Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as name, ExitStack() as stack:
        directory = Path(name)

        def begin(command: list[str], port: int, label: str) -> int:
            return stack.enter_context(process(command, port, directory, label))

        nodes = [begin(node(first + at, directory), first + at, f"node-{at}") for at in range(NODES)]
        doors = []
        for at, (label, unix) in enumerate((("Unix sockets", True), ("TCP", False))):
            front, back = first + 20 + at, first + 30 + at
            mine = begin(proxy(back, first, directory, unix), back, f"proxy-{at}")
            address = f"unix@{directory}/p{back}.sock" if unix else f"127.0.0.1:{back}"
            balancer = begin(haproxy(front, address, directory), front, f"haproxy-{at}")
            doors.append(Door(label, front, (balancer, mine, *nodes)))
        fill(doors[0].port)
        bars = dict.fromkeys(CELLS[:1], PATH_BAR)
        return compared("HAProxy, proxy and nodes together", doors, "TCP", bars, options, verdicts)


def compared(
    title: str,
    doors: list[Door],
    peer: str,
    bars: dict[str, float],
    options: argparse.Namespace,
    verdicts: Verdicts,
) -> str:
    """Measure every cell through every door, round by round, and say how the first one does."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    for number in range(options.rounds):
        for cell in options.cells:
            print(f"# {title}, round {number + 1} of {options.rounds}: {cell}", file=sys.stderr)
            for door in doors:
                samples.setdefault((cell, door.name), []).append(measure(door, cell, options.seconds))
    rows = []
    for cell in options.cells:
        for door in doors:
            mine = samples[cell, door.name]
            ratio, bar, verdict = "", "", ""
            if (other := samples.get((cell, peer))) and door.name != peer:
                value = paired([one.microseconds for one in mine], [one.microseconds for one in other])
                ratio = f"{value:.2f}"
                if door is doors[0] and cell in bars:
                    bar = f"{bars[cell]:.2f}"
                    verdict = verdicts.judge(f"{title}: {cell} against {peer}: {ratio}", value, bars[cell])
            cost = middle([one.microseconds for one in mine])
            rate = middle([one.per_second for one in mine]) / 1000
            late = middle([one.p99 for one in mine])
            rows.append([cell, door.name, f"{cost:.2f}", f"{rate:.0f}", f"{late:.0f}", ratio, bar, verdict])
    head = ["cell", "through", "CPU us/op", "k op/s", "p99 us", f"x {peer}", "bar", ""]
    return table(title, head, rows)


def main() -> int:
    """Measure, print, and say which bars were met."""
    parser = argparse.ArgumentParser(prog="bench.proxy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", default="proxy,path")
    parser.add_argument("--cells", type=lambda text: text.split(","), default=list(CELLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--port", type=int, default=17700, help="first of some 50 ports to use")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    verdicts = Verdicts()
    if "proxy" in options.sections:
        print(beside_nutcracker(options.port, options, verdicts), flush=True)
    if "path" in options.sections and shutil.which("haproxy"):
        print(whole_path(options.port, options, verdicts), flush=True)
    print(f"\n{len(verdicts.met)} bars met, {len(verdicts.missed)} missed")
    for each in verdicts.missed:
        print(f"- missed: {each}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
