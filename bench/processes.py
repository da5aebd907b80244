"""What processes cost: CPU time, memory, and who listens where. Read from /proc."""

import ctypes
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_SCHED_SETATTR = 314  # x86-64
#: Ahead of whatever else the machine does (nice).
PREFERRED = -15


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time of some processes so far."""

    seconds: float
    user_ticks: int
    system_ticks: int


def cpu(pids: list[int]) -> Cpu:
    """CPU time of all threads of the processes."""
    nanoseconds = user = system = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # A thread that has just ended.
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        user += int(words[11])
        system += int(words[12])
    return Cpu(nanoseconds / 1e9, user, system)


def machine_busy() -> float:
    """Seconds of work of all cores together."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        if re.match(r"cpu\d", line):
            words = [int(word) for word in line.split()[1:]]
            ticks += words[0] + words[1] + words[2] + words[5] + words[6]
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> tuple[int, int]:
    """Resident and proportional set size in bytes."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, rest = line.split(":")
        values[name] = int(rest.split()[0]) * 1024
    return values["Rss"], values["Pss"]


def listeners(port: int) -> list[int]:
    """The processes that listen on a TCP port of this machine."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            files = Path(f"/proc/{process}/fd")
            if any(os.readlink(files / each) in inodes for each in os.listdir(files)):
                found.append(int(process))
    return found


def prefer(pid: int, nice: int = PREFERRED) -> None:
    """Shield a process from the machine's other work, as far as this user may.

    Each login is scheduled as one group, so a nice value alone does nothing against other
    logins; a short time slice lets the process run as soon as it has something to do.
    """
    with suppress(OSError):
        Path(f"/proc/{pid or 'self'}/autogroup").write_text(str(nice))
    threads = [int(each) for each in os.listdir(f"/proc/{pid}/task")] if pid else [0]
    for thread in threads:
        attributes = struct.pack("=IIQiIQQQII", 56, 0, 0, nice, 0, 100_000, 0, 0, 0, 0)
        LIBC.syscall(SYS_SCHED_SETATTR, ctypes.c_int(thread), attributes, ctypes.c_uint(0))
