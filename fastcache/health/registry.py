"""Who is a member, what was last seen of each, and how that is told (D2, D3)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fastcache.health import decide
from fastcache.health.decide import Check, Judgement, Pace
from fastcache.model import Health

Kind = Literal["node", "proxy"]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:@-]{1,128}$")]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node or proxy as it registers and as it is kept."""

    id: Id
    host: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^\S+$")]
    port: Annotated[int, Meta(ge=0, le=65535)]
    unix: Annotated[str, Meta(max_length=100)] = ""
    rack: Annotated[str, Meta(max_length=128)] = ""
    weight: Annotated[int, Meta(ge=0, le=100_000)] = 100
    kind: Kind = "node"
    static: bool = False


class Told(msgspec.Struct, frozen=True, rename="camel"):
    """One member as the REST interface tells it."""

    node_id: str
    node_type: Literal["NODE", "PROXY"]
    host: str
    port: int
    status: Health
    last_check: str | None
    response_time_ms: float | None
    error_message: str | None


class Summary(msgspec.Struct, frozen=True, rename="camel"):
    """The cluster in numbers."""

    total_nodes: int
    healthy_nodes: int
    unhealthy_nodes: int
    unknown_nodes: int
    total_proxies: int
    healthy_proxies: int
    unhealthy_proxies: int
    unknown_proxies: int
    average_response_time_ms: float | None
    status: Literal["HEALTHY", "DEGRADED", "UNHEALTHY", "UNKNOWN"]
    last_check: str | None


class Outcome(Enum):
    """What a check did to a verdict."""

    SAME = "same"
    CHANGED = "changed"
    HELD = "held"  # It would have changed; others should be asked before it does.


@dataclass(slots=True)
class Record:
    """A member with what was last seen of it. `checked_at` is wall time, for people."""

    member: Member
    judgement: Judgement = field(default_factory=Judgement)
    checked_at: float | None = None
    check: Check | None = None
    checks: int = 0
    failed_checks: int = 0
    # Of these, how many did not wait for the interval's end, because it was reported or in doubt.
    hurried_checks: int = 0

    def told(self) -> Told:
        """For the REST interface."""
        check = self.check
        return Told(
            node_id=self.member.id,
            node_type="NODE" if self.member.kind == "node" else "PROXY",
            host=self.member.host,
            port=self.member.port,
            status=self.judgement.status,
            last_check=None if self.checked_at is None else timestamp(self.checked_at),
            response_time_ms=None if check is None or check.failure else round(check.milliseconds, 3),
            error_message=None if check is None or check.failure is None else check.error,
        )


class Registry:
    """All members by kind and id."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.records: dict[tuple[Kind, str], Record] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())

    def of_kind(self, kind: Kind) -> list[Record]:
        """Members of a kind, by id."""
        return sorted((r for r in self if r.member.kind == kind), key=lambda r: r.member.id)

    def find(self, member_id: str, kind: Kind | None = None) -> Record | None:
        """The member with this id; a node before a proxy."""
        kinds: Iterable[Kind] = (kind,) if kind else ("node", "proxy")
        return next((r for k in kinds if (r := self.records.get((k, member_id)))), None)

    def put(self, member: Member) -> bool:
        """Add or replace a member; says whether that changed anything. A new address has no past."""
        record = self.records.get((member.kind, member.id))
        if record is None:
            self.records[member.kind, member.id] = Record(member)
            return True
        if record.member == member:
            return False
        before = record.member
        record.member = member
        if (before.host, before.port, before.unix) != (member.host, member.port, member.unix):
            record.judgement = Judgement()
        return True

    def remove(self, member_id: str, kind: Kind) -> bool:
        """Forget a member; says whether there was one."""
        return self.records.pop((kind, member_id), None) is not None

    def observe(self, record: Record, check: Check, wall: float) -> Outcome:
        """Take in the result of a check, and say what came of it."""
        before = record.judgement
        record.check, record.checked_at = check, wall
        record.checks += 1
        record.failed_checks += check.failure is not None
        after = decide.after_check(before, check, self.pace)
        if before.status is Health.HEALTHY and after.status is Health.UNHEALTHY:
            # A refusal is certain; silence may be our own.
            others = (r.judgement for r in self if r is not record and r.member.kind == record.member.kind)
            held = decide.after_check(before, check, self.pace, hold=True)
            if check.failure in decide.SILENT and decide.looks_like_our_own_fault(held, (held, *others)):
                record.judgement = held
                return Outcome.HELD
        record.judgement = after
        return Outcome.SAME if after.status is before.status else Outcome.CHANGED

    def report(self, record: Record, reporter: str, at: float) -> None:
        """Take in a proxy's complaint."""
        record.judgement = decide.after_report(record.judgement, reporter, at, self.pace)

    def summary(self) -> Summary:
        """Count them."""
        count = {
            (kind, status): sum(r.member.kind == kind and r.judgement.status is status for r in self)
            for kind in ("node", "proxy")
            for status in Health
        }
        nodes = [r for r in self if r.member.kind == "node"]
        times = [r.check.milliseconds for r in nodes if r.check and not r.check.failure]
        checked = [r.checked_at for r in self if r.checked_at is not None]
        return Summary(
            total_nodes=len(nodes),
            healthy_nodes=count["node", Health.HEALTHY],
            unhealthy_nodes=count["node", Health.UNHEALTHY],
            unknown_nodes=count["node", Health.UNKNOWN],
            total_proxies=len(self.records) - len(nodes),
            healthy_proxies=count["proxy", Health.HEALTHY],
            unhealthy_proxies=count["proxy", Health.UNHEALTHY],
            unknown_proxies=count["proxy", Health.UNKNOWN],
            average_response_time_ms=round(sum(times) / len(times), 3) if times else None,
            status=overall(len(nodes), count["node", Health.HEALTHY], count["node", Health.UNHEALTHY]),
            last_check=timestamp(max(checked)) if checked else None,
        )


def overall(
    total: int, healthy: int, unhealthy: int
) -> Literal["HEALTHY", "DEGRADED", "UNHEALTHY", "UNKNOWN"]:
    """One word for all nodes."""
    if healthy == total:
        return "HEALTHY" if total else "UNKNOWN"
    if unhealthy == 0:
        return "UNKNOWN"
    return "DEGRADED" if healthy else "UNHEALTHY"


def timestamp(seconds: float) -> str:
    """Wall time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
