"""A node is killed under load: what the requests for the other nodes' keys notice.

    python -m bench.loss [--rounds 5] [--rate 3000] [--seconds 4]

Four nodes and a proxy on one core. A generator at a fixed rate asks for keys of one node; beside it a client
asks for keys of another one, up to a thousand a second, which is then killed. Compared is the 99th percentile
of the generator's requests, before and after.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from bench import resp, tools
from bench.proxy import NODES, node, process, proxy, with_sockets
from bench.report import Verdicts, middle, table
from fastcache import _core

BAR = 1.10
KEYS = 10_000
CONNECTIONS = 50
VICTIM = NODES - 1


class Besides(threading.Thread):
    """A client that asks for keys of the node that is to die, and does not mind the errors."""

    def __init__(self, port: int, tag: str) -> None:
        super().__init__(daemon=True)
        self.port, self.tag = port, tag
        self.answers = self.errors = 0
        self.over = threading.Event()

    def run(self) -> None:
        with resp.Connection(("127.0.0.1", self.port)) as connection:
            while not self.over.wait(0.001):
                try:
                    connection.ask("SET", f"{{{self.tag}}}{self.answers}", "x")
                    self.answers += 1
                except resp.ServerError:
                    self.errors += 1


def tag_of(owner: int, first: int, directory: Path) -> str:
    """A tag whose slot is this node's."""
    slots: dict[int, str] = {}
    for group in json.loads(with_sockets(first, directory))["slots"]:
        for part in group["ranges"].split(","):
            low, _, high = part.partition("-")
            slots |= dict.fromkeys(range(int(low), int(high or low) + 1), group["main"])
    return next(tag for tag in map(str, range(100_000)) if slots[_core.slot_of(tag.encode())] == f"n{owner}")


def one_round(first: int, options: argparse.Namespace) -> tuple[int, int, int]:
    """The 99th percentile before and after the death, us, and how many requests failed besides."""
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        nodes = [
            stack.enter_context(process(node(first + at, directory), first + at, directory, f"node-{at}"))
            for at in range(NODES)
        ]
        door = first + 10
        stack.enter_context(process(proxy(door, first, directory, True), door, directory, "proxy"))
        besides = Besides(door, tag_of(VICTIM, first, directory))
        key = "{" + tag_of(0, first, directory) + "}key"
        tools.generator(
            "rgen", "-p", door, "-T", "set", "-k", key, "-c", 1, "-P", 16, "-s", "-n", KEYS, "-r", KEYS
        )
        besides.start()
        load = (
            "-T",
            "get",
            "-k",
            key,
            "-c",
            CONNECTIONS,
            "-r",
            KEYS,
            "-R",
            options.rate,
            "-t",
            options.seconds,
        )
        before = tools.generator("rgen", "-p", door, *load)["p99_us"]
        dies = threading.Timer(0.5, lambda: kill(nodes[VICTIM]))
        dies.start()
        after = tools.generator("rgen", "-p", door, *load)["p99_us"]
        besides.over.set()
        besides.join(10)
        if not besides.answers or not besides.errors:
            raise RuntimeError("the node did not die under load")
        return before, after, besides.errors


def kill(pid: int) -> None:
    """As a power cut does it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> int:
    """Measure, print, and say whether the bar was met."""
    parser = argparse.ArgumentParser(prog="bench.loss", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=3000)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--port", type=int, default=17800, help="first of some 20 ports to use")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    verdicts = Verdicts()
    rows, ratios = [], []
    for number in range(options.rounds):
        print(f"# round {number + 1} of {options.rounds}", file=sys.stderr)
        before, after, errors = one_round(options.port, options)
        ratios.append(after / before)
        rows.append([str(number + 1), str(before), str(after), f"{after / before:.2f}", str(errors), "", ""])
        time.sleep(0.5)
    ratio = middle(ratios)
    verdict = verdicts.judge(f"p99 of the other nodes' keys: {ratio:.2f}", ratio, BAR)
    rows.append(["middle", "", "", f"{ratio:.2f}", "", f"{BAR:.2f}", verdict])
    head = ["round", "p99 us before", "p99 us after", "ratio", "failed besides", "bar", ""]
    print(table("A node is killed: requests for the other nodes' keys", head, rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
