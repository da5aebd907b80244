"""What rust/py offers to Python. The code is in rust/py/src; both must say the same."""

from os import PathLike
from pathlib import Path

def version() -> str: ...
def build_profile() -> str:
    """Say "release", or "debug" for a build that checks itself and is slow."""

def node_settings() -> list[tuple[str, str, str, bool, str]]:
    """Name, kind, default, whether it can change at run time, and help of every setting of a node."""

def command_table() -> list[tuple[str, str, str, str, str]]:
    """Name (sub-commands as parent|sub), arguments, group, since, and summary of every command."""

def rest() -> int:
    """The start is over: give the program text that only it needed back to the kernel; how many kilobytes."""

def start_small() -> bool:
    """Have this process, and those it starts or becomes, do without huge pages until they hold much."""

def notify(state: str) -> bool:
    """Tell the service manager how we are (sd_notify); False when there is none."""

class Node:
    """A cache server inside this process, on a thread of its own."""

    def __init__(self, settings: list[tuple[str, str]]) -> None:
        """Judge the settings: ValueError("<setting>: <what is wrong>") for a bad one."""

    def start(self) -> None:
        """Bind, listen, run the event loop on its own thread; OSError when it cannot."""

    def set_topology(self, topology: Topology) -> bool:
        """Obey this topology from now on, or from the start; an older one changes nothing."""

    def leave(self) -> None:
        """Tell who asks that this node is to stop, so that its copies take over before."""

    def stop(self) -> None:
        """Drain, then end the thread. A second call changes nothing."""

    def wait(self, timeout_seconds: float) -> bool:
        """True when the loop has ended; False after the time, or sooner when a signal came."""

    def panicked(self) -> bool:
        """Whether the loop ended by a fault of the core."""

    def heartbeat(self) -> int:
        """A number that rises while the loop lives."""

    def stats(self) -> dict[str, int | float]:
        """The counters by name."""

class Proxy:
    """A proxy inside this process, on a thread of its own."""

    def __init__(self, settings: list[tuple[str, str]]) -> None:
        """Judge the settings: ValueError("<setting>: <what is wrong>") for a bad one."""

    def start(self, left: int | None = None) -> None:
        """Bind, listen, run the event loop on its own thread; OSError when it cannot. `left` is what
        `hand_over` returned in the program that this process was before."""

    def hand_over(self) -> int:
        """End, leaving all connections open for the next program of this process: a descriptor of what there
        is. TimeoutError when requests under way are not answered in time; then it goes on serving."""

    def set_topology(self, topology: Topology, here: list[str]) -> bool:
        """Route by this topology from now on; `here` names the hosts whose Unix sockets can be reached."""

    def stop(self) -> None:
        """Drain, then end the thread. A second call changes nothing."""

    def wait(self, timeout_seconds: float) -> bool:
        """True when the loop has ended; False after the time, or sooner when a signal came."""

    def panicked(self) -> bool:
        """Whether the loop ended by a fault of the core."""

    def heartbeat(self) -> int:
        """A number that rises while the loop lives."""

    def trouble(self) -> int:
        """A number that rises when a node cannot be reached or turns requests away. Costs nothing to ask."""

    def trouble_after(self, seen: int, timeout_seconds: float) -> int:
        """The same number, once it is another than `seen`, or after so long."""

    def stats(self) -> dict[str, int | float]:
        """The counters by name."""

def slot_of(key: bytes | str) -> int:
    """Tell the slot of a key; text is taken as UTF-8."""

def place(
    members: bytes,
    previous: bytes | None = None,
    *,
    virtual_nodes: int = 150,
    replicas: int = 0,
    keep_mains: bool = False,
) -> bytes:
    """Place all slots on members, moving as little as possible. JSON in and out, see topology/plan.rs."""

class Topology:
    """A topology document that holds together; ValueError says why one does not."""

    def __init__(self, json: bytes) -> None: ...
    @staticmethod
    def load(path: str | PathLike[str]) -> Topology:
        """Read the one that was saved at `path`; ValueError when it is damaged or not there."""

    def save(self, path: str | PathLike[str]) -> None:
        """Keep it at `path`; the old file is replaced whole."""

    def canonical(self) -> bytes:
        """The bytes that everybody agrees on."""

    @property
    def epoch(self) -> int: ...
    @property
    def cluster_id(self) -> str: ...
    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hex."""

    @property
    def node_ids(self) -> list[str]:
        """Ids of all nodes, sorted."""

    def holders(self, slot: int) -> list[str]:
        """Ids of the main and then the replicas of a slot; empty when nobody holds it."""

    def node_of(self, key: bytes | str) -> str | None:
        """The id of the node that owns a key; None when its slot has no main."""

    def slots_down(self) -> int:
        """How many slots have no main, or one that is known to be down."""

class RdbFile:
    """Goes through an RDB file of Redis: bytes in, requests that bring its keys in out."""

    def __init__(self) -> None: ...
    def feed(self, piece: bytes) -> None:
        """Take bytes that follow those before."""

    def retry(self) -> None:
        """Look again at what is there: no more is coming."""

    def take(self, limit: int, replace: bool) -> list[tuple[int | None, bytes, bytes]]:
        """Database (None: a library of functions), key, request of the next keys; ValueError for garbage."""

    @property
    def ended(self) -> bool:
        """Whether the file is over, its checksum right."""

    @property
    def taken(self) -> int:
        """How many bytes are read for good."""

class SnapshotFile:
    """Goes through a snapshot file of a node; ValueError where it is damaged."""

    def __init__(self, path: str | PathLike[str]) -> None: ...
    def about(self) -> str:
        """What it is of, as JSON."""

    def take(self, limit: int, replace: bool) -> list[tuple[int | None, bytes, bytes]]:
        """Database, key, request of the next entries; none at the end."""

    def entries(self, limit: int) -> list[str]:
        """The next entries as JSON; none at the end."""

    def verify(self) -> int:
        """Pass over all that is left, checking it; how many entries the file holds."""

    @property
    def ended(self) -> bool:
        """Whether all was read, and is as it was written."""

    @property
    def taken(self) -> int:
        """Bytes of entries that were passed."""

def snapshots(directory: str | PathLike[str]) -> list[tuple[int, Path]]:
    """Number and path of the snapshots in a directory, the newest first."""

def snapshot_sum(path: str | PathLike[str]) -> str:
    """How much a snapshot says it holds, as JSON; read from its end alone."""

class ChangeStream:
    """Goes through what a Redis sends to its replicas, and tells which keys changed."""

    def __init__(self) -> None: ...
    def feed(self, piece: bytes) -> tuple[list[tuple[int | None, bytes]], bool]:
        """Database and key (or None and a command that no keys tell), and whether an answer is asked for."""

    def cut(self) -> None:
        """Forget a command that is not whole: the stream goes on behind the last whole one."""

    @property
    def taken(self) -> int:
        """How many bytes of the stream are read."""
