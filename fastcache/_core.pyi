"""What rust/py offers to Python. The code is in rust/py/src; both must say the same."""

def version() -> str: ...
def build_profile() -> str:
    """Say "release", or "debug" for a build that checks itself and is slow."""

def node_settings() -> list[tuple[str, str, str, bool, str]]:
    """Name, kind, default, whether it can change at run time, and help of every setting of a node."""

def notify(state: str) -> bool:
    """Tell the service manager how we are (sd_notify); False when there is none."""

class Node:
    """A cache server inside this process, on a thread of its own."""

    def __init__(self, settings: list[tuple[str, str]]) -> None:
        """Judge the settings: ValueError("<setting>: <what is wrong>") for a bad one."""

    def start(self) -> None:
        """Bind, listen, run the event loop on its own thread; OSError when it cannot."""

    def stop(self) -> None:
        """Drain, then end the thread. A second call changes nothing."""

    def wait(self, timeout_seconds: float) -> bool:
        """True when the loop has ended; False after the time, or sooner when a signal came."""

    def heartbeat(self) -> int:
        """A number that rises while the loop lives."""

    def stats(self) -> dict[str, int | float]:
        """The counters by name."""
