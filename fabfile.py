"""The runbook: what an operator does to a fleet. `fab --list` names the tasks, docs/runbook explains each.

    fab status                                the lab (inventories/lab)
    fab rolling-restart -e production --plan  what it would do, and nothing else
    fab rolling-restart -e production         shows the plan, asks, does it

Thin tasks over plain functions (fastcache/runbook): here is only how they look at a terminal.
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import socket
import subprocess
import sys
import tempfile
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

from fastcache.errors import DEGRADED, FAILED, FastCacheError
from fastcache.runbook import audit as ledger_of_cluster
from fastcache.runbook import chaos as breaking
from fastcache.runbook import handover, moving, playbooks, replacing, rolling, snapshots, support
from fastcache.runbook import status as looking
from fastcache.runbook.fleet import Fleet
from fastcache.runbook.hands import Hands
from fastcache.runbook.machines import Machines
from fastcache.runbook.operation import Consent, Operation, Step, carry_out, ourselves
from fastcache.runbook.ssh import OverSsh, describe, program

PROJECT = Path(__file__).resolve().parent
#: For people and their logs; standard output is for results.
console = Console(stderr=True, highlight=False)

ENV = "inventory: a name below inventories/, or a path"
PLAN = "only show what would be done"
YES = "do it without asking"
FRESH = "begin anew, also where a run before was interrupted"
OUTPUT = "table or json"
SHARED: dict[str, Any] = {"env": "lab", "plan": False, "yes": False, "fresh": False, "output": "table"}
CHANGING = {"env": ENV, "plan": PLAN, "yes": YES, "fresh": FRESH, "output": OUTPUT}


class Terminal:
    """How a run is shown: the plan as a list, then a bar; without a terminal, lines."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Progress | None = None
        # Steps that are done.
        self.behind = 0
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
        self.behind = number - 1
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
            self.bar.update(self.bar.task_ids[0], completed=self.behind, description=escape(step.says))
        else:
            console.print(f"[{number}/{total}] {escape(step.says)}", soft_wrap=True, markup=False)

    def waiting(self, why: str, part: float = 0.0, /) -> None:
        if self.bar is not None:
            what = f"waiting: {escape(why)}"
            self.bar.update(self.bar.task_ids[0], completed=self.behind + min(part, 1.0), description=what)
        elif not self.quiet and why != self.last:
            console.print(f"      waiting: {escape(why)}", soft_wrap=True)
        self.last = why

    def end(self, step: Step, found: str) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.behind + 1, description="")
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


@functools.cache
def described(env: str) -> Fleet:
    """The fleet of an inventory; asked once, also for several tasks in a row."""
    return describe(PROJECT, env)


@contextlib.contextmanager
def reaching(env: str, *, echo: bool = True) -> Iterator[OverSsh]:
    """Hands on the fleet of an inventory, and the end of all connections."""
    with in_words():
        hands = OverSsh(PROJECT, described(env), echo=echo)
        try:
            yield hands
        finally:
            hands.close()


def changing(**about: str) -> Callable[[Callable[..., Operation]], Any]:
    """A task that changes something: the function makes its operation out of the hands and its own options.

    The options that all of them have are added here. `about`: what the others are for.
    """

    def made(make: Callable[..., Operation]) -> Any:
        own = list(inspect.signature(make).parameters.values())[1:]

        def run(_c: Context, **given: Any) -> None:
            env, output = given.pop("env"), given.pop("output")
            consent = Consent(*(given.pop(name) for name in ("plan", "yes", "fresh")))
            change(env, output, consent, lambda hands: make(hands, **given))

        # The shared ones come first: they have the same short flags everywhere.
        first = inspect.Parameter("c", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        shared = [first.replace(name=name, default=default) for name, default in SHARED.items()]
        named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*shared, *own)]
        run.__signature__ = inspect.Signature([first, *named])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = make.__name__, make.__doc__
        return task(help={**CHANGING, **about})(run)

    return made


def change(env: str, output: str, consent: Consent, make: Callable[[Hands], Operation]) -> None:
    """Carry a task out, and show it as it was wished."""
    show = Terminal(quiet=output == "json")
    with reaching(env, echo=output != "json") as hands:
        began = time.monotonic()
        try:
            report = carry_out(make(hands), hands, show, consent)
        finally:
            show.close()
        seconds = time.monotonic() - began
        if output == "json":
            print(json.dumps({**dataclasses.asdict(report), "seconds": round(seconds, 2)}, indent=1))
        elif report.outcome == "done":
            console.print(f"[green]{report.task} is done[/] in {seconds:.0f} s.")
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


def say(lines: list[str]) -> None:
    """Lines as they are, to standard output."""
    out().print("\n".join(lines), markup=False, soft_wrap=True)


def print_state(found: dict[str, Any]) -> None:
    """What stands below the table of members."""
    lines = [f"{found['cluster']}: epoch {found['epoch']}, topology {found['digest'][:12] or 'unknown'}"]
    if lock := found.get("lock"):
        lines.append(f"locked by {lock['owner']} for {lock['task']}")
    for one in found.get("unfinished", ()):
        why = f": {one['stopped']}" if one["stopped"] else ""
        lines.append(f"unfinished: {one['task']} of {one['owner']}, {len(one['done'])} steps done{why}")
    lines += [f"{one['name']}: {one['why']}" for one in found["members"] if one.get("why")]
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


# --- what runs --------------------------------------------------------------------------------------


@changing(only="hosts or members, separated by commas")
def rolling_restart(hands: Hands, only: str = "") -> Operation:
    """Start every service again, one at a time, while clients are served."""
    return rolling.restart(hands, [name.strip() for name in only.split(",") if name.strip()])


@changing()
def deploy(hands: Hands) -> Operation:
    """From what the inventory says to a serving cluster; run again, it changes nothing."""
    return playbooks.deploy(hands)


@changing(bundle="directory of the bundle; dist/bundle, or FASTCACHE_BUNDLE")
def rolling_upgrade(hands: Hands, bundle: str = "") -> Operation:
    """To the release of the bundle, one service at a time, while clients are served."""
    place = Path(bundle or os.environ.get("FASTCACHE_BUNDLE") or PROJECT / "dist" / "bundle").absolute()
    os.environ["FASTCACHE_BUNDLE"] = str(place)  # for Ansible
    return playbooks.upgrade(hands, place)


@changing(release="its name; where one other is on all hosts, that one")
def rollback(hands: Hands, release: str = "") -> Operation:
    """Back to a release that is still on the hosts, one service at a time."""
    return playbooks.rollback(hands, release)


@changing(host="whose place is taken", by="by which host; by the same one made anew when not given")
def replace_host(hands: Hands, host: str, by: str = "") -> Operation:
    """Another host takes the place of one, lost or not; or the same one comes back with an empty disk."""
    return replacing.replace_host(hands, host, by)


@changing(secret="admin-key or requirepass")  # noqa: S106
def rotate_secrets(hands: Hands, secret: str) -> Operation:
    """Make a new secret and bring it to all hosts."""
    return playbooks.rotate(hands, secret)


@task(help={"env": ENV, "variables": "of Terraform, as host_count=4,suite=trixie", "yes": YES})
def machines(_c: Context, env: str = "lab", variables: str = "", yes: bool = False) -> None:
    """What Terraform would change about the machines of an environment; with --yes it is changed."""
    with in_words():
        given = dict(one.split("=", 1) for one in variables.split(",") if "=" in one)
        terraform = Machines(PROJECT / "terraform" / "environments" / env, **given)
        terraform.prepare()
        planned = terraform.plan()
        say([planned.text.strip()])
        if planned.changes and yes:
            terraform.apply()
            say([f"machines: {', '.join(sorted(terraform.outputs().get('hosts', {})))}"])
        elif planned.changes:
            say(["nothing was changed; with --yes it is"])


@task(help={"env": ENV, "output": OUTPUT, "apply": "mend what can be mended without harm, then ask again"})
def preflight(_c: Context, env: str = "lab", output: str = "table", apply: bool = False) -> None:
    """What would be in the way of a deployment, each with its cure; nothing is changed without --apply."""
    with reaching(env, echo=False) as hands:
        found = playbooks.preflight(hands, apply=apply)

        def shown() -> None:
            made = table("host", "system", "python", "systemd", ">memory", ">free")
            for name, one in found["hosts"].items():
                sizes = (f"{one['memoryMb']} MiB", f"{one['freeMb']} MiB")
                made.add_row(name, one["system"], one["python"], one["state"], *sizes)
            out().print(made)
            say(found["applied"])
            say([f"NOT WELL: {line}" for line in found["wrong"]] or ["nothing is in the way"])

        told(found, output, shown, well=found["well"])


@task(help={"env": ENV, "output": OUTPUT})
def plan(_c: Context, env: str = "lab", output: str = "table") -> None:
    """What a deployment would change on which host, file by file; nothing is changed."""
    with reaching(env, echo=output != "json") as hands:
        found = playbooks.plan(hands)
        lines = [f"{host}: {count} changes" for host, count in found["changes"].items()]
        told(found, output, lambda: say(lines or ["nothing would change"]))


@task(help={"env": ENV, "output": OUTPUT})
def drift(_c: Context, env: str = "lab", output: str = "table") -> None:
    """Where hosts are not as the inventory says: files, services, releases, members, topologies."""
    with reaching(env, echo=False) as hands:
        found = playbooks.drift(hands)
        lines = [f"{host} uses {release or 'no release'}" for host, release in found["releases"].items()]
        lines += [f"NOT AS SAID: {line}" for line in found["wrong"]] or [
            "everything is as the inventory says"
        ]
        told(found, output, lambda: say(lines), well=found["well"])


# --- who holds what ---------------------------------------------------------------------------------


@changing(weights="NODE=PERCENT,...: 100 is a normal share, 0 none; those in force when not given")
def rebalance(hands: Hands, weights: str = "") -> Operation:
    """Move slots until every node has its share, while everything serves."""
    return moving.rebalance(hands, moving.weights_from(weights))


@changing(node="who gives up its slots, and gets no more")
def drain(hands: Hands, node: str) -> Operation:
    """Move all slots of a node to the others; it stays a member."""
    return moving.drain(hands, node)


@changing(host="a host of the inventory, in the group nodes")
def add_node(hands: Hands, host: str) -> Operation:
    """Make a host a member, touching only hosts that must know, and move its share of the slots to it."""
    return moving.add_node(hands, host)


@changing(host="the host that leaves")
def remove_node(hands: Hands, host: str) -> Operation:
    """Move the slots of a host to the others, then take it out of the cluster and clean it."""
    return moving.remove_node(hands, host)


# --- who is main ------------------------------------------------------------------------------------


@changing(node="who gives up its slots", to="only to this copy")
def switchover(hands: Hands, node: str, to: str = "") -> Operation:
    """Let the copies of a node take over in order, without losing a write."""
    return handover.hand_over(hands, node, to, orderly=True)


@changing(node="who gives up its slots", to="only to this copy", force="also to a copy that is not in sync")
def failover(hands: Hands, node: str, to: str = "", force: bool = False) -> Operation:
    """Let the copies of a node take over at once, whether it answers or not."""
    return handover.hand_over(hands, node, to, orderly=False, force=force)


@changing()
def pause(hands: Hands) -> Operation:
    """Suspend automatic failover, for work on hosts or network."""
    return handover.suspend(hands, wanted=True)


@changing()
def resume(hands: Hands) -> Operation:
    """Let automatic failover go on."""
    return handover.suspend(hands, wanted=False)


# --- the data ---------------------------------------------------------------------------------------


@changing()
def snapshot(hands: Hands) -> Operation:
    """Take a snapshot of every node at the same time, and read each back."""
    return snapshots.snapshot(hands)


@task(help={"env": ENV, "output": OUTPUT})
def snapshot_list(_c: Context, env: str = "lab", output: str = "table") -> None:
    """Show the snapshots that lie on the hosts."""
    with reaching(env) as hands:
        found = snapshots.snapshots_of(hands)

        def shown() -> None:
            made = table("node", "file", "taken", ">entries", ">bytes")
            for one in found:
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.get("timestamp", 0) / 1000))
                cells = [Path(one.get("file", "")).name, one.get("damage") or when]
                made.add_row(one["node"], *cells, str(one.get("entries", "")), str(one.get("size", "")))
            out().print(made)

        told(found, output, shown, well=not any("damage" in one for one in found))


@changing(into="directory of backups: another disk, another machine", keep="so many stay")
def backup(hands: Hands, into: str = "", keep: int = 7) -> Operation:
    """Bring fresh snapshots of all nodes here, verify them, and remove the oldest backups."""
    return snapshots.backup(hands, kept_in(into), keep)


@changing(into="directory of backups", backup="its name; else the newest", replace="overwrite what is there")
def restore(hands: Hands, backup: str = "", into: str = "", replace: bool = False) -> Operation:
    """Bring a backup into the cluster, whatever its shape, and compare counts and digests."""
    directory = snapshots.found_backup(hands.fleet, kept_in(into), backup)
    return snapshots.restore(hands, directory, replace=replace)


DRILL = {
    "into": "directory of backups",
    "backup": "its name; else the newest",
    "port": "the first of 40 free ports",
    "nodes": "nodes of the throwaway cluster",
    "env": ENV,
    "output": OUTPUT,
}


@task(help=DRILL)
def restore_drill(
    _c: Context, env: str = "lab", backup: str = "", into: str = "", nodes: int = 2, port: int = 0,
    output: str = "table",
) -> None:  # fmt: skip
    """Restore the newest backup into a throwaway cluster here: does all come back, and how fast?"""
    with in_words(), tempfile.TemporaryDirectory(prefix="fastcache-drill-") as scratch:
        directory = snapshots.found_backup(described(env), kept_in(into), backup)
        cluster = snapshots.Throwaway(fastcache, Path(scratch) / "cluster", port or free_ports(40))
        found = snapshots.drill(directory, cluster, nodes, time.monotonic)
        told(found, output, lambda: say([f"{name}: {value}" for name, value in found.items()]))
        if not found["well"]:
            raise Exit(code=FAILED)


def fastcache(*words: str) -> str:
    """`fastcache WORDS` on this machine, for the drill."""
    done = subprocess.run(
        [program("fastcache"), *words], capture_output=True, text=True, check=False, timeout=3600
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-2:]
        raise FastCacheError(f"fastcache {words[0]}: {' '.join(said)}")
    return done.stdout


def free_ports(count: int) -> int:
    """The first of neighbouring ports that nobody listens on."""
    for first in range(26000, 32000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as attempt:
                    attempt.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise FastCacheError("no free ports for the drill", "name the first of 40 with --port")


def kept_in(into: str) -> Path:
    """Where backups are; beside the project unless it is said."""
    return Path(into).expanduser().absolute() if into else PROJECT / "backups"


# --- trouble ----------------------------------------------------------------------------------------


@task(help={"env": ENV, "output": OUTPUT, "into": "directory for the file; here when not given"})
def support_bundle(_c: Context, env: str = "lab", into: str = ".", output: str = "table") -> None:
    """Gather journals, settings and states of all hosts in one file, without secrets."""
    with reaching(env) as hands:
        found = support.bundle(hands, Path(into).expanduser())
        lines = [f"{found['file']}: {found['files']} files"]
        lines += [f"not gathered: {line}" for line in found["trouble"]]
        lines += [f"a secret was blotted out in {path}" for path in found["blotted"]]
        told(found, output, lambda: say(lines))


@changing(kind="kill, freeze, slow, partition, cpu or memory", victim="a member or host", seconds="how long",
          confirm="the cluster's name, where it is no playground")  # fmt: skip
def chaos(
    hands: Hands, kind: str = "kill", victim: str = "", seconds: float = 5.0, confirm: str = ""
) -> Operation:
    """Break something for some seconds, with clients, and tell what they noticed."""
    return breaking.chaos(hands, kind, victim, float(seconds), confirm)
