"""`fastcache status`: how the embedded cluster is, as a table or as JSON."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from fastcache.cli.common import directory_option
from fastcache.embedded import cluster
from fastcache.embedded.cluster import Report
from fastcache.embedded.plan import STAGES
from fastcache.errors import DEGRADED, OK, UsageError
from fastcache.model import Health

WATCH_SECONDS = 1.0
# What the health service tells of mains and copies; empty without replication.
Copies = dict[str, Any]
COLOURS = {Health.HEALTHY: "green", Health.UNHEALTHY: "red", Health.UNKNOWN: "yellow"}


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@directory_option
def command(output: str, watch: bool, directory: Path) -> None:
    """Show how the cluster is; exit code 3 when a part of it is not well."""
    if watch and output == "json":
        raise UsageError("--watch shows a table; for JSON call status again")
    reports = cluster.report(directory)
    copies = cluster.copies(directory)
    if output == "json":
        click.echo(json.dumps(document(reports, copies), indent=1))
    elif watch:
        reports = keep_showing(directory, reports)
    else:
        console = Console()
        console.print(table(reports, copies))
        for report in reports:
            if report.reason:
                console.print(
                    f"[red]{report.name}[/]: {escape(report.reason)}", highlight=False, soft_wrap=True
                )
        console.print(cluster.summary(reports), highlight=False)
        if copies:
            console.print(in_words(copies), highlight=False, soft_wrap=True)
    well = all(report.health is Health.HEALTHY for report in reports) and whole(copies)
    sys.exit(OK if well else DEGRADED)


def whole(copies: Copies) -> bool:
    """Whether every slot is served, and has its copies where it should have some."""
    return not copies or not (copies["slotsWithoutReplica"] or copies["slotsDown"])


def in_words(copies: Copies) -> str:
    """Replication in one sentence."""
    kind = "strict" if copies["strict"] else "eventual"
    parts = [f"replication {kind}, {copies['replicas']} {'copy' if copies['replicas'] == 1 else 'copies'}"]
    if copies["slotsDown"]:
        parts.append(f"[red]{copies['slotsDown']} slots are not served: their main is down[/]")
    if copies["slotsWithoutReplica"]:
        parts.append(f"[yellow]{copies['slotsWithoutReplica']} slots have no copy in sync[/]")
    if whole(copies):
        parts.append("every slot has its copies in sync")
    if copies["paused"]:
        parts.append("[yellow]automatic failover is paused[/]")
    return "; ".join(parts)


def keep_showing(directory: Path, reports: tuple[Report, ...]) -> tuple[Report, ...]:
    """Refresh until the reader has seen enough; what was seen last is returned."""
    with Live(table(reports, cluster.copies(directory)), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(WATCH_SECONDS)
                reports = cluster.report(directory)
                live.update(table(reports, cluster.copies(directory)), refresh=True)
        except KeyboardInterrupt:
            return reports


def document(reports: tuple[Report, ...], copies: Copies) -> dict[str, object]:
    """The status as JSON; names of fields as the health service gives them."""
    well = [report for report in reports if report.health is Health.HEALTHY]
    of_kind = {kind: [report for report in reports if report.kind == kind] for kind in STAGES}
    return {
        "status": "ok" if len(well) == len(reports) and whole(copies) else "degraded",
        "nodes": [process(report) | holdings(report) for report in of_kind["node"]],
        "proxies": [process(report) | traffic(report) for report in of_kind["proxy"]],
        "services": [process(report) for report in (*of_kind["health"], *of_kind["balancer"])],
    } | ({"replication": copies} if copies else {})


def process(report: Report) -> dict[str, object]:
    """What is told of every process."""
    return {
        "nodeId": report.name,
        "nodeType": report.kind,
        "host": report.endpoint.host,
        "port": report.endpoint.port,
        "pid": report.pid,
        "status": report.health.value,
        "errorMessage": report.reason or None,
        "uptimeSeconds": report.uptime_seconds,
    }


def holdings(report: Report) -> dict[str, object]:
    """What a node holds, besides."""
    return {
        "keys": keys(report),
        "usedMemory": number(report, "used_memory"),
        "maxMemory": number(report, "maxmemory"),
        **traffic(report),
    }


def traffic(report: Report) -> dict[str, object]:
    """What clients do."""
    return {
        "connectedClients": number(report, "connected_clients"),
        "opsPerSecond": number(report, "instantaneous_ops_per_sec"),
    }


def roles(name: str, copies: Copies) -> tuple[str, str, str]:
    """Of how many slots a node is the main, of how many a copy, and how far its worst copy lags."""
    streams = copies.get("streams", [])
    held = sum(one["inSync"] for one in streams if one["copy"] == name)
    filling = sum(one["joining"] + one["learning"] for one in streams if one["copy"] == name)
    lags = [one["lagMs"] for one in streams if one["copy"] == name and one["lagMs"] is not None]
    return (
        counted(copies.get("mains", {}).get(name, 0)),
        counted(held) + (f" [yellow]+{filling}[/]" if filling else ""),
        f"{max(lags)} ms" if lags else "-",
    )


def table(reports: tuple[Report, ...], copies: Copies) -> Table:
    """One line a process."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "address", "state"):
        shown.add_column(column, no_wrap=True)
    for column in ("pid", "up", "keys", "memory", "clients", "op/s"):
        shown.add_column(column, justify="right")
    for column in ("main of", "copy of", "lag") if copies else ():
        shown.add_column(column, justify="right")
    for report in reports:
        shown.add_row(
            report.name,
            str(report.endpoint),
            f"[{COLOURS[report.health]}]{report.health.value}[/]",
            str(report.pid),
            duration(report.uptime_seconds),
            counted(keys(report) if report.kind == "node" else None),
            size(number(report, "used_memory") if report.kind == "node" else None),
            counted(number(report, "connected_clients")),
            counted(number(report, "instantaneous_ops_per_sec")),
            *((roles(report.name, copies) if report.kind == "node" else ("-", "-", "-")) if copies else ()),
        )
    return shown


def number(report: Report, field: str) -> int | None:
    """A whole number out of INFO; None when it was not said."""
    text = report.info.get(field, "")
    return int(text) if text.lstrip("-").isdecimal() else None


def keys(report: Report) -> int | None:
    """The keys of all databases together; INFO names only databases that hold some."""
    if not report.info:
        return None
    spaces = (value for name, value in report.info.items() if name.startswith("db") and name[2:].isdecimal())
    return sum(int(dict(part.split("=") for part in space.split(","))["keys"]) for space in spaces)


def counted(value: int | None) -> str:
    return "-" if value is None else f"{value:,}".replace(",", " ")


def size(value: int | None) -> str:
    """Bytes as people say them."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"


def duration(seconds: int) -> str:
    """`42s`, `3m10s`, `5h02m`, `12d04h`."""
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02}h"
    if hours:
        return f"{hours}h{m:02}m"
    return f"{m}m{s:02}s" if minutes else f"{s}s"
