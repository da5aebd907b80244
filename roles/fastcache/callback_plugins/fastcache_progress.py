"""What a run is doing, as a table of steps and hosts instead of a page for every task.

    ANSIBLE_STDOUT_CALLBACK=fastcache_progress ansible-playbook site.yml

A step is a play. On a terminal the table is drawn anew as things happen; elsewhere there is one line for each
step that is over. What fails is told in full, with host and task, in either case. `make fleet` uses it.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible.plugins.callback import CallbackBase
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

DOCUMENTATION = r"""
name: fastcache_progress
type: stdout
short_description: Steps and hosts as a table
description: One row for each play, one column for each host; failures in full.
extends_documentation_fragment: [default_callback]
"""

#: With more hosts than this a row tells how many are how far.
MOST_COLUMNS = 8
DRAWN_PER_SECOND = 8


@dataclass(slots=True)
class Cell:
    """One host in one step."""

    tasks: int = 0
    changed: int = 0
    running: bool = False
    failed: str = ""

    @property
    def state(self) -> str:
        if self.failed:
            return self.failed
        if self.running:
            return "running"
        return f"{self.changed} changed" if self.changed else "ok"

    @property
    def style(self) -> str:
        if self.failed:
            return "bold red"
        return "cyan" if self.running else "yellow" if self.changed else "green"


@dataclass(slots=True)
class Step:
    """One play."""

    name: str
    began: float
    seconds: float | None = None
    cells: dict[str, Cell] = field(default_factory=dict)

    def cell(self, host: str) -> Cell:
        return self.cells.setdefault(host, Cell())

    def end(self, now: float) -> None:
        self.seconds = now - self.began
        for cell in self.cells.values():
            cell.running = False

    def told(self) -> str:
        """The step in one line."""
        hosts = ", ".join(f"{name} {cell.state}" for name, cell in sorted(self.cells.items()))
        return f"{self.name} ({self.seconds or 0:.0f} s): {hosts}"


class Board:
    """All steps so far, those in which nothing was done for any host left out."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.task = ""

    def hosts(self) -> list[str]:
        return sorted({host for step in self.steps for host in step.cells}, key=natural)

    def drawn(self, now: float) -> Group:
        """The table, and what is being done at the moment."""
        hosts = self.hosts()
        table = Table(box=None, pad_edge=False)
        table.add_column("step", overflow="ellipsis", no_wrap=True)
        table.add_column("s", justify="right")
        by_host = len(hosts) <= MOST_COLUMNS
        for host in hosts if by_host else ["hosts"]:
            table.add_column(host, no_wrap=True)
        for step in self.steps:
            if step.cells:
                seconds = now - step.began if step.seconds is None else step.seconds
                cells = [shown(step.cells.get(host)) for host in hosts] if by_host else [counted(step)]
                table.add_row(step.name, f"{seconds:.0f}", *cells)
        return Group(table, Text(self.task, style="dim", no_wrap=True, overflow="ellipsis"))


def shown(cell: Cell | None) -> Text:
    return Text("-", style="dim") if cell is None else Text(cell.state, style=cell.style)


def counted(step: Step) -> Text:
    """How many hosts are in which state; changes by their number would be a state for every host."""
    states: dict[tuple[str, str], int] = {}
    for cell in step.cells.values():
        state = "changed" if cell.style == "yellow" else cell.state
        states[state, cell.style] = states.get((state, cell.style), 0) + 1
    parts = [(f"{count} {state}  ", style) for (state, style), count in sorted(states.items())]
    return Text.assemble(*parts)


def natural(name: str) -> tuple[str, int, str]:
    """h2 before h10, and this machine first."""
    word = name.rstrip("0123456789")
    number = name[len(word) :]
    return ("" if name == "localhost" else word, int(number or 0), name)


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Ansible's events to the board."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "fastcache_progress"

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.console = Console(soft_wrap=True)
        self.live: Live | None = None

    def get_renderable(self) -> Group:
        return self.board.drawn(time.monotonic())

    def step(self) -> Step:
        return self.board.steps[-1]

    def show(self) -> None:
        if self.console.is_terminal and self.live is None:
            self.live = Live(
                get_renderable=self.get_renderable, console=self.console, refresh_per_second=DRAWN_PER_SECOND
            )
            self.live.start()

    def end_step(self) -> None:
        if self.board.steps and self.step().seconds is None:
            self.step().end(time.monotonic())
            if self.live is None and self.step().cells:
                self.console.print(Text(self.step().told()))

    # --- what Ansible calls -------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.end_step()
        self.board.steps.append(Step(play.get_name().strip() or "unnamed", time.monotonic()))
        self.show()

    def v2_playbook_on_task_start(self, task: Any, **_: object) -> None:
        self.board.task = task.get_name().strip()

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.board.task = task.get_name().strip()

    def v2_runner_on_start(self, host: Any, *_: object) -> None:
        self.step().cell(host.get_name()).running = True

    def v2_runner_on_ok(self, result: Any) -> None:
        cell = self.done(result)
        cell.tasks += 1
        cell.changed += bool(result.is_changed())

    def v2_runner_on_skipped(self, result: Any) -> None:
        self.done(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        cell = self.done(result)
        if not ignore_errors:
            cell.failed = "FAILED"
            self.tell(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self.done(result).failed = "UNREACHABLE"
        self.tell(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self.end_step()
        self.board.task = ""
        if self.live is not None:
            self.live.stop()
        self.console.print(Text(summary(stats, stats.processed)))

    def done(self, result: Any) -> Cell:
        cell = self.step().cell(result.host.get_name())
        cell.running = False
        return cell

    def tell(self, result: Any) -> None:
        """A failure in full. What a task with no_log said, Ansible has taken out already."""
        said = result.result
        words = [str(said[key]).strip() for key in ("msg", "stderr", "stdout") if said.get(key)]
        place = f"{result.host.get_name()}: {result.task.get_name().strip()}"
        self.console.print(Text(f"\n{place}", style="bold red"))
        self.console.print(Text("\n".join(dict.fromkeys(words)) or "it failed and did not say why"))
        if path := result.task.get_path():
            self.console.print(Text(f"({path})", style="dim"))


def summary(stats: Any, hosts: Iterable[str]) -> str:
    """The end in one line."""
    counts = {host: stats.summarize(host) for host in hosts}
    bad = [host for host, count in counts.items() if count["failures"] or count["unreachable"]]
    changed = sum(count["changed"] for count in counts.values())
    if bad:
        names = ", ".join(sorted(bad, key=natural))
        return f"FAILED on {names}; when that is mended, run it again: it goes on from there."
    return (
        f"{len(counts)} hosts, {changed} things changed."
        if changed
        else f"{len(counts)} hosts, nothing to change."
    )
