"""Hosts made of network namespaces, and links between them that can be cut, slowed and made to lose.

Every host has an address of its own on a bridge in a namespace of ours; the machine's own network is not
touched. A cut is a rule of nftables at the receiving host that drops what comes from another: silence, as of
a pulled cable. A slow host is one whose connections are led through delay.py.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
NETWORK = "10.77.0"


def possible() -> bool:
    """Whether this machine lets us make hosts."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in ("ip", "nft"))


def call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


class Hosts:
    """Some hosts on one bridge."""

    def __init__(self, names: Iterable[str]) -> None:
        self.tag = f"fc{os.getpid()}"
        self.names = list(names)
        self.address = {name: f"{NETWORK}.{number}" for number, name in enumerate(self.names, 1)}
        self.hub = f"{self.tag}-hub"
        call("ip", "netns", "add", self.hub)
        call("ip", "-n", self.hub, "link", "add", "br0", "type", "bridge")
        call("ip", "-n", self.hub, "link", "set", "br0", "up")
        for number, name in enumerate(self.names, 1):
            space = self.space(name)
            call("ip", "netns", "add", space)
            call(
                "ip",
                "-n",
                space,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                f"p{number}",
                "netns",
                self.hub,
            )
            call("ip", "-n", self.hub, "link", "set", f"p{number}", "master", "br0", "up")
            call("ip", "-n", space, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
            call("ip", "-n", space, "link", "set", "eth0", "up")
            call("ip", "-n", space, "link", "set", "lo", "up")
            self.nft(name, "add table inet cut")
            self.nft(name, "add chain inet cut in { type filter hook input priority 0; }")
            self.nft(name, "add chain inet cut to { type nat hook prerouting priority -100; }")
        self.delays: dict[str, subprocess.Popen[bytes]] = {}

    def space(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def command(self, name: str, words: list[str]) -> list[str]:
        """The same command on a host."""
        return ["ip", "netns", "exec", self.space(name), *words]

    def nft(self, name: str, rule: str) -> None:
        call(*self.command(name, ["nft", rule]))

    def cut(self, source: str, target: str) -> None:
        """Nothing from `source` reaches `target` any more; the other way stays open."""
        self.nft(target, f"add rule inet cut in ip saddr {self.address[source]} drop")

    def part(self, one: str, other: str) -> None:
        self.cut(one, other)
        self.cut(other, one)

    def isolate(self, name: str, among: Iterable[str]) -> None:
        for other in among:
            if other != name:
                self.part(name, other)

    def lose(self, name: str, percent: int) -> None:
        """Of what comes to this host, some is lost."""
        self.nft(name, f"add rule inet cut in ip saddr {NETWORK}.0/24 numgen random mod 100 < {percent} drop")

    def narrow(self, name: str, rate: str) -> None:
        """What this host sends passes at this rate at most."""
        shape = ["rate", rate, "burst", "16kb", "latency", "400ms"]
        call(*self.command(name, ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *shape]))

    def delay(self, name: str, port: int, milliseconds: int) -> None:
        """New connections to this port wait so long with every byte, in both directions."""
        words = [sys.executable, "-m", "tests.torture.delay", str(port), str(milliseconds)]
        self.delays[name] = subprocess.Popen(self.command(name, words), stdout=subprocess.PIPE)
        stdout = self.delays[name].stdout
        assert stdout
        there = int(stdout.readline())
        self.nft(name, f"add rule inet cut to ip saddr {NETWORK}.0/24 tcp dport {port} redirect to :{there}")

    def heal(self) -> None:
        for name in self.names:
            self.nft(name, "flush chain inet cut in")
            self.nft(name, "flush chain inet cut to")
            words = self.command(name, ["tc", "qdisc", "del", "dev", "eth0", "root"])
            subprocess.run(words, capture_output=True, check=False)
        for process in self.delays.values():
            process.kill()
            process.wait()
        self.delays.clear()

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """This thread stands on a host: the sockets it makes are that host's."""
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.space(name)}", os.O_RDONLY)
        try:
            if libc.setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            libc.setns(home, CLONE_NEWNET)
            os.close(home)
            os.close(there)

    def close(self) -> None:
        self.heal()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", self.space(name)], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.hub], capture_output=True, check=False)
