"""`fastcache ring`: which node holds which slots, how evenly, and what a change would move."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fastcache.errors import FastCacheError, UsageError

Member = dict[str, Any]
Answer = dict[str, Any]
DEFAULT_HEALTH = "http://127.0.0.1:8080"


@click.command()
@click.option("--nodes", "count", type=click.IntRange(1, 60_000), help="Plan with N equal nodes instead.")
@click.option(
    "--topology",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A topology kept on disk instead of the one in force.",
)
@click.option(
    "--health", "url", default=DEFAULT_HEALTH, show_default=True, help="The health service to ask for it."
)
@click.option("--virtual-nodes", type=click.IntRange(1, 10_000), help="Virtual nodes of a normal node.")
@click.option("--replicas", type=click.IntRange(0, 7), help="Copies of every slot besides its main.")
@click.option("--add", multiple=True, metavar="ID[,host=H][,rack=R][,weight=W]", help="What if ID joined?")
@click.option("--remove", multiple=True, metavar="ID", help="What if ID left?")
@click.option("--weight", multiple=True, metavar="ID=W", help="What if ID weighed W per cent? 0 drains it.")
@click.option("--key", multiple=True, help="Tell which node holds this key.")
@click.option("-o", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(
    *,
    count: int | None,
    topology: Path | None,
    url: str,
    virtual_nodes: int | None,
    replicas: int | None,
    add: Sequence[str],
    remove: Sequence[str],
    weight: Sequence[str],
    key: Sequence[str],
    form: str,
) -> None:
    """Show which node holds how many slots, and what --add, --remove and --weight would move.

    Nothing is changed. Without --nodes or --topology the topology in force is asked of the health service.
    """
    from fastcache import _core

    if count is not None and topology is not None:
        raise UsageError("--nodes and --topology exclude each other")
    before = equal_nodes(count) if count else in_force(topology, url)
    points = virtual_nodes or before.get("virtual_nodes", 150)
    copies = before.get("replicas", 0) if replicas is None else replicas

    def place(members: list[Member], previous: Answer | None) -> Answer:
        known = None if previous is None else encoded(previous)
        answer: Answer = json.loads(
            _core.place(encoded(members), known, virtual_nodes=points, replicas=copies)
        )
        return answer

    try:
        if not before.get("slots"):
            before["slots"] = place(before["nodes"], None)["slots"]
        members = changed(before["nodes"], add, remove, weight)
        answer = place(members, before)
        placed = _core.Topology(encoded({"epoch": 0, "nodes": members, "slots": answer["slots"]}))
    except ValueError as error:
        raise UsageError(str(error)) from None
    result = summary(members, answer, hypothetical=bool(add or remove or weight))
    result["keys"] = [
        {"key": one, "slot": _core.slot_of(one), "holders": placed.holders(_core.slot_of(one))} for one in key
    ]
    if form == "json":
        click.echo(json.dumps(result | {"slots": answer["slots"]}, indent=2))
    else:
        show(result)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def equal_nodes(count: int) -> Answer:
    """A plan that begins with equal nodes, each on a host of its own."""
    return {"nodes": [node(f"node-{number:02}") for number in range(1, count + 1)]}


def node(name: str, **fields: object) -> Member:
    return {"id": name, "host": name, "port": 1, "rack": "", "weight": 100, **fields}


def in_force(file: Path | None, url: str) -> Answer:
    """The topology on disk, or that of the health service."""
    from fastcache import _core

    if file is not None:
        try:
            found: Answer = json.loads(_core.Topology.load(file).canonical())
        except ValueError as error:
            raise FastCacheError(str(error)) from None
        return found
    try:
        with urllib.request.urlopen(url.rstrip("/") + "/topology", timeout=5) as reply:  # noqa: S310
            answer: Answer = json.load(reply)
            return answer
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise FastCacheError(
            f"the health service at {url} cannot be asked: {reason}",
            "--health URL names another one; --nodes N plans without any; --topology FILE reads one on disk",
        ) from None


def changed(
    members: list[Member], add: Sequence[str], remove: Sequence[str], weight: Sequence[str]
) -> list[Member]:
    """The members after what was asked for."""
    by_id = {member["id"]: dict(member) for member in members}
    for name in remove:
        if by_id.pop(name, None) is None:
            raise UsageError(f"--remove {name}: there is no such node")
    for text in weight:
        name, _, value = text.partition("=")
        if name not in by_id:
            raise UsageError(f"--weight {text}: there is no node {name}")
        by_id[name]["weight"] = per_cent(text, value)
    for text in add:
        name, *pairs = text.split(",")
        if name in by_id:
            raise UsageError(f"--add {name}: there is such a node already")
        fields: dict[str, object] = {}
        for pair in pairs:
            field, _, value = pair.partition("=")
            if field not in {"host", "rack", "weight"}:
                raise UsageError(f"--add {text}: {field} is none of host, rack, weight")
            fields[field] = per_cent(text, value) if field == "weight" else value
        by_id[name] = node(name, **fields)
    return list(by_id.values())


def per_cent(text: str, value: str) -> int:
    """A weight that was typed in."""
    if not value.isdecimal() or int(value) > 100_000:
        raise UsageError(f"{text}: a weight is a whole number of per cent, 100 is normal")
    return int(value)


def summary(members: list[Member], answer: Answer, *, hypothetical: bool) -> Answer:
    """What is told of a placement, the same for people and for machines."""
    weights = sum(member["weight"] for member in members)
    nodes = []
    for member in sorted(members, key=lambda one: one["id"]):
        held = answer["loads"][member["id"]]
        fair = 16384 * member["weight"] / weights
        nodes.append(
            {
                "id": member["id"],
                "host": member["host"],
                "rack": member["rack"],
                "weight": member["weight"],
                "slots": held["main"],
                "fairShare": round(fair, 2),
                "replicaSlots": held["replica"],
                "gains": held["gained"],
                "loses": held["lost"],
            }
        )
    loads = [(one["slots"], one["fairShare"]) for one in nodes if one["weight"]]
    return {
        "hypothetical": hypothetical,
        "nodes": nodes,
        "busiestOverFairShare": round(max(slots / fair for slots, fair in loads), 4),
        "mostAboveFairShare": round(max(slots - fair for slots, fair in loads), 2),
        "slotsMoved": answer["moved"],
        "slotsMovedPart": round(answer["moved"] / 16384, 4),
        "copiesMade": answer["copied"],
    }


def show(result: Answer) -> None:
    """For people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    moving = result["hypothetical"]
    replicas = any(one["replicaSlots"] for one in result["nodes"])
    table = Table(box=None, header_style="bold")
    columns = ["node", "host", "rack", "weight", "slots", "fair share"]
    columns += ["replica slots"] * replicas + ["gains", "loses"] * moving
    for name in columns:
        table.add_column(name, justify="left" if name in {"node", "host", "rack"} else "right")
    for one in result["nodes"]:
        cells = [one["id"], one["host"], one["rack"] or "-", one["weight"], one["slots"], one["fairShare"]]
        cells += [one["replicaSlots"]] * replicas + [one["gains"], one["loses"]] * moving
        table.add_row(*(str(cell) for cell in cells))
    console.print(table)
    part = result["busiestOverFairShare"]
    click.echo(f"\nBusiest node: {part:.3f} of its fair share.")
    if moving:
        moved, share = result["slotsMoved"], result["slotsMovedPart"]
        click.echo(f"The change would move {moved} of 16384 slots ({share:.1%}).")
    for one in result["keys"]:
        main, *copies = one["holders"] or ["nobody"]
        also = f", replicas on {', '.join(copies)}" if copies else ""
        click.echo(f"Key {one['key']!r} is in slot {one['slot']}, held by {main}{also}.")
