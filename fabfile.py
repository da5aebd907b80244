"""The runbook: what an operator does to a fleet. `fab --list` names the tasks, docs/runbook explains each.

    fab status                                the lab (inventories/lab)
    fab rolling-restart -e production --plan  what it would do, and nothing else
    fab rolling-restart -e production         shows the plan, asks, does it

Thin tasks over plain functions (fastcache/runbook): here is only how they look at a terminal.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fabric import task
from invoke import Context
from invoke.exceptions import Exit
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastcache.errors import DEGRADED, FastCacheError
from fastcache.runbook import audit as ledger_of_cluster
from fastcache.runbook import handover, rolling, snapshots
from fastcache.runbook import status as looking
from fastcache.runbook.hands import Hands
from fastcache.runbook.operation import Consent, Operation, Report, Step, carry_out, ourselves
from fastcache.runbook.ssh import OverSsh, describe

PROJECT = Path(__file__).resolve().parent
#: For people and their logs; standard output is for results.
console = Console(stderr=True, highlight=False)

ENV = "inventory: a name below inventories/, or a path"
PLAN = "only show what would be done"
YES = "do it without asking"
FRESH = "begin anew, also where a run before was interrupted"
OUTPUT = "table or json"
CHANGING = {"env": ENV, "plan": PLAN, "yes": YES, "fresh": FRESH, "output": OUTPUT}


class Terminal:
    """How a run is shown: the plan as a list, then a bar; without a terminal, lines."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Progress | None = None
        self.last = ""

    def plan(self, operation: Operation, done: frozenset[str]) -> None:
        if self.quiet:
            return
        console.print(f"[bold]{escape(operation.task)}[/]: {escape(operation.says)}")
        for number, step in enumerate(operation.steps, 1):
            mark = "[green]done before[/] " if step.name in done else ""
            console.print(f"  {number:3}. {mark}{escape(step.says)}", soft_wrap=True)
        if not operation.steps:
            console.print("  There is nothing to do.")
        for note in operation.notes:
            self.note(note)
        if operation.undo:
            console.print(f"  [dim]the way back: {escape(operation.undo)}[/]", soft_wrap=True)

    def ask(self, question: str) -> bool:
        if not sys.stdin.isatty():
            raise Exit("fab: nothing was changed: this is only the plan; with --yes it is carried out", 2)
        return console.input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}

    def begin(self, number: int, total: int, step: Step) -> None:
        if self.quiet:
            return
        if console.is_terminal:
            if self.bar is None:
                columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
                self.bar = Progress(
                    *columns, TextColumn("{task.description}"), console=console, transient=True
                )
                self.bar.add_task("", total=total)
                self.bar.start()
            self.bar.update(self.bar.task_ids[0], completed=number - 1, description=escape(step.says))
        else:
            console.print(f"[{number}/{total}] {escape(step.says)}", soft_wrap=True, markup=False)

    def waiting(self, why: str) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], description=f"waiting: {escape(why)}")
        elif not self.quiet and why != self.last:
            console.print(f"      waiting: {escape(why)}", soft_wrap=True)
        self.last = why

    def end(self, step: Step, found: str) -> None:
        if not self.quiet:
            console.print(f"  [green]ok[/] {escape(step.name)}: {escape(found or 'done')}", soft_wrap=True)

    def note(self, text: str) -> None:
        if not self.quiet:
            console.print(f"  [yellow]note:[/] {escape(text)}", soft_wrap=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Foreseen errors end as a sentence and an exit code."""
    try:
        yield
    except FastCacheError as error:
        lines = [f"fab: {error.message}", *(f"  {line}" for line in error.hint.splitlines())]
        raise Exit("\n".join(lines), error.exit_code) from None


@contextlib.contextmanager
def reaching(env: str, *, echo: bool = True) -> Iterator[OverSsh]:
    """Hands on the fleet of an inventory, and the end of all connections."""
    with in_words():
        hands = OverSsh(PROJECT, describe(PROJECT, env), echo=echo)
        try:
            yield hands
        finally:
            hands.close()


def change(
    env: str, plan: bool, yes: bool, fresh: bool, output: str, make: Callable[[Hands], Operation]
) -> None:
    """Carry a task out, and show it as it was wished."""
    show = Terminal(quiet=output == "json")
    with reaching(env, echo=output != "json") as hands:
        began = time.monotonic()
        operation = make(hands)
        report: Report | None = None
        try:
            report = carry_out(operation, hands, show, Consent(plan=plan, yes=yes, fresh=fresh))
        finally:
            show.close()
        if output == "json":
            told = {"task": report.task, "outcome": report.outcome, "steps": report.steps}
            print(json.dumps(told | {"seconds": round(time.monotonic() - began, 2)}, indent=1))
        elif report.outcome == "done":
            console.print(f"[green]{report.task} is done[/] in {time.monotonic() - began:.0f} s.")
        else:
            console.print(f"{report.task}: {report.outcome}.")


def told(value: Any, output: str, shown: Callable[[], None], *, well: bool = True) -> None:
    """A result as a table or as JSON; exit code 3 when something is not well."""
    if output == "json":
        print(json.dumps(value, indent=1))
    else:
        shown()
    if not well:
        raise Exit(code=DEGRADED)


def table(*columns: str) -> Table:
    """A plain table; numbers stand to the right."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    return made


def out() -> Console:
    """Results go to standard output, whole lines also where it is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


# --- looking ----------------------------------------------------------------------------------------


@task(help={"env": ENV, "output": OUTPUT})
def status(_c: Context, env: str = "lab", output: str = "table") -> None:
    """Show members, slots, copies, lock, unfinished work, and what is not well."""
    with reaching(env) as hands:
        found = looking.status(hands)

        def shown() -> None:
            made = table(
                "member", "state", "topology", ">main of", ">copy of", ">keys", ">memory", ">clients", ">op/s"
            )
            colours = {"HEALTHY": "green", "UNHEALTHY": "red"}
            for one in found["members"]:
                state = one.get("state", "")
                colour = colours.get(state, "yellow")
                cells = [one.get(name) for name in ("main", "copy", "keys", "memory", "clients", "ops")]
                if cells[3] is not None:
                    cells[3] = f"{int(str(cells[3])) / 2**20:.1f} MiB"
                made.add_row(
                    one["name"],
                    f"[{colour}]{state}[/]" if state else "",
                    one.get("topology", ""),
                    *("" if cell is None else str(cell) for cell in cells),
                )
            out().print(made)
            print_state(found)

        told(found, output, shown, well=found["well"])


def print_state(found: dict[str, Any]) -> None:
    """What stands below the table of members."""
    lines = [f"{found['cluster']}: epoch {found['epoch']}, topology {found['digest'][:12] or 'unknown'}"]
    if lock := found.get("lock"):
        lines.append(f"locked by {lock['owner']} for {lock['task']}")
    for one in found.get("unfinished", ()):
        why = f": {one['stopped']}" if one["stopped"] else ""
        lines.append(f"unfinished: {one['task']} of {one['owner']}, {len(one['done'])} steps done{why}")
    if found.get("unknown"):
        lines.append(f"not in the inventory: {', '.join(found['unknown'])}")
    lines += [f"NOT WELL: {one}" for one in found["wrong"]] or ["everything is well"]
    out().print("\n".join(map(escape, lines)), soft_wrap=True)


@task(help={"env": ENV, "output": OUTPUT})
def verify(_c: Context, env: str = "lab", output: str = "table") -> None:
    """Write and read back: on every node, and for every node through every proxy and balancer."""
    with reaching(env) as hands:
        found = looking.verify(hands)

        def shown() -> None:
            for one in found["asked"]:
                out().print(f"{'ok  ' if one['well'] else 'FAIL'} {one['name']}", markup=False)
            if found.get("withoutSlots"):
                out().print(f"without slots of their own: {', '.join(found['withoutSlots'])}", markup=False)
            for line in found["wrong"]:
                out().print(f"NOT WELL: {line}", markup=False, soft_wrap=True)
            if found["well"]:
                out().print("every node, proxy and balancer serves every shard")

        told(found, output, shown, well=found["well"])


@task(help={"env": ENV, "output": OUTPUT, "break_": "take it away from a task that is dead",
            "forget": "a task whose unfinished work is not gone on with", "yes": YES})  # fmt: skip
def lock(
    _c: Context,
    env: str = "lab",
    break_: bool = False,
    forget: str = "",
    yes: bool = False,
    output: str = "table",
) -> None:
    """Show who may change the cluster, and what was left unfinished; --break takes the lock away."""
    with reaching(env) as hands:
        if break_ or forget:
            wish = {"owner": ourselves(), "task": forget}
            what = f"forget the unfinished {forget}" if forget else "take the lock away"
            if not yes and not Terminal(quiet=False).ask(f"{what}?"):
                return
            hands.http("POST", "/lock/forget" if forget else "/lock/break", wish)
        found = hands.http("GET", "/lock")

        def shown() -> None:
            one = found["lock"]
            if one:
                left = one["until"] - found["now"]
                out().print(
                    f"{one['owner']} holds it for {one['task']}, {left:.0f} s unless renewed", markup=False
                )
            else:
                out().print("nobody holds it")
            for job in found["unfinished"]:
                why = f": {job['stopped']}" if job["stopped"] else ""
                line = f"unfinished: {job['task']} of {job['owner']}, {len(job['done'])} steps done{why}"
                out().print(line, markup=False, soft_wrap=True)

        told(found, output, shown)


@task(help={"env": ENV, "output": OUTPUT, "last": "so many entries are shown"})
def audit(_c: Context, env: str = "lab", last: int = 20, output: str = "table") -> None:
    """Show what was done to the cluster, and check that nobody changed the record."""
    with reaching(env) as hands:
        found = ledger_of_cluster.checked(hands, ledger_of_cluster.memory(hands.fleet.cluster))

        def shown() -> None:
            made = table(">", "when", "who", "task", "what", "details")
            for one in found["entries"][-last:]:
                details = ", ".join(f"{name}: {value}" for name, value in one["fields"].items() if value)
                made.add_row(
                    str(one["number"]), one["at"], one["owner"], one["task"], one["event"], escape(details)
                )
            out().print(made)
            verdict = (
                f"NOT WELL: {found['wrong']}"
                if found["wrong"]
                else f"the chain of {found['number']} entries holds"
            )
            out().print(verdict, markup=False, soft_wrap=True)

        told(found, output, shown, well=not found["wrong"])


# --- starting again ---------------------------------------------------------------------------------


@task(help={**CHANGING, "only": "hosts or members, separated by commas"})
def rolling_restart(
    _c: Context, env: str = "lab", only: str = "", plan: bool = False, yes: bool = False, fresh: bool = False,
    output: str = "table",
) -> None:  # fmt: skip
    """Start every service again, one at a time, while clients are served."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    change(env, plan, yes, fresh, output, lambda hands: rolling.restart(hands, names))


# --- who is main ------------------------------------------------------------------------------------


@task(help={**CHANGING, "node": "who gives up its slots", "to": "only to this copy"})
def switchover(
    _c: Context, node: str, env: str = "lab", to: str = "", plan: bool = False, yes: bool = False,
    fresh: bool = False, output: str = "table",
) -> None:  # fmt: skip
    """Let the copies of a node take over in order, without losing a write."""
    change(env, plan, yes, fresh, output, lambda hands: handover.hand_over(hands, node, to, orderly=True))


@task(help={**CHANGING, "node": "who gives up its slots", "to": "only to this copy",
            "force": "also to a copy that is not in sync: what it lacks is lost"})  # fmt: skip
def failover(
    _c: Context, node: str, env: str = "lab", to: str = "", force: bool = False, plan: bool = False,
    yes: bool = False, fresh: bool = False, output: str = "table",
) -> None:  # fmt: skip
    """Let the copies of a node take over at once, whether it answers or not."""
    change(
        env, plan, yes, fresh, output,
        lambda hands: handover.hand_over(hands, node, to, orderly=False, force=force),
    )  # fmt: skip


@task(help=CHANGING)
def pause(
    _c: Context,
    env: str = "lab",
    plan: bool = False,
    yes: bool = False,
    fresh: bool = False,
    output: str = "table",
) -> None:
    """Suspend automatic failover, for work on hosts or network."""
    change(env, plan, yes, fresh, output, lambda hands: handover.suspend(hands, wanted=True))


@task(help=CHANGING)
def resume(
    _c: Context,
    env: str = "lab",
    plan: bool = False,
    yes: bool = False,
    fresh: bool = False,
    output: str = "table",
) -> None:
    """Let automatic failover go on."""
    change(env, plan, yes, fresh, output, lambda hands: handover.suspend(hands, wanted=False))


# --- snapshots --------------------------------------------------------------------------------------


@task(help={**CHANGING, "show": "list the snapshots on the hosts instead"})
def snapshot(
    _c: Context, env: str = "lab", show: bool = False, plan: bool = False, yes: bool = False,
    fresh: bool = False, output: str = "table",
) -> None:  # fmt: skip
    """Take a snapshot of every node at the same time, and read each back."""
    if not show:
        change(env, plan, yes, fresh, output, snapshots.snapshot)
        return
    with reaching(env) as hands:
        found = snapshots.snapshots_of(hands)

        def shown() -> None:
            made = table("node", "file", "taken", ">entries", ">bytes")
            for one in found:
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.get("timestamp", 0) / 1000))
                name = Path(one.get("file", "")).name
                made.add_row(
                    one["node"],
                    name,
                    one.get("damage") or when,
                    str(one.get("entries", "")),
                    str(one.get("size", "")),
                )
            out().print(made)

        told(found, output, shown, well=not any("damage" in one for one in found))
