"""What the health service tells Prometheus. Gathered when it is asked for; nothing is counted twice."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from fastcache.health import progress
from fastcache.health.act import Service
from fastcache.model import Health


class ServiceCollector(Collector):
    """Turns the service's state into metrics."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics of this moment."""
        service = self.service
        summary = service.registry.summary()
        for name, help_text, value in (
            ("cluster_nodes_healthy", "Nodes that answer.", summary.healthy_nodes),
            ("cluster_nodes_total", "Nodes that are members.", summary.total_nodes),
            ("fastcache_proxies_healthy", "Proxies that answer.", summary.healthy_proxies),
            ("fastcache_proxies_total", "Proxies that are members.", summary.total_proxies),
            ("fastcache_topology_epoch", "The epoch that is published.", service.epoch),
            ("fastcache_health_leader", "1 when this health service leads.", int(service.leading)),
        ):
            yield GaugeMetricFamily(name, help_text, value)
        yield CounterMetricFamily(
            "fastcache_topology_updates", "Topologies published or taken over.", service.publishes
        )
        yield CounterMetricFamily(
            "fastcache_health_checks_too_soon",
            "Checks that began sooner after the last one of their member than the profile allows: none.",
            service.checks.too_soon,
        )
        yield from replication_metrics(service)
        yield from rebalance_metrics(service)
        slots = service.current.topology.slots_down() if service.current else 0
        yield GaugeMetricFamily("fastcache_slots_unavailable", "Slots whose main is down or missing.", slots)
        labels = ["kind", "id"]
        up = GaugeMetricFamily("fastcache_member_up", "1 healthy, 0 unhealthy, -1 not known.", labels=labels)
        seconds = GaugeMetricFamily(
            "fastcache_member_check_seconds", "How long the last answered check took.", labels=labels
        )
        checks = CounterMetricFamily("fastcache_health_checks", "Checks made.", labels=labels)
        hurried = CounterMetricFamily(
            "fastcache_health_checks_hurried",
            "Checks made before the interval's end, because of a report or a doubt.",
            labels=labels,
        )
        failures = CounterMetricFamily("fastcache_health_check_failures", "Checks failed.", labels=labels)
        values = {Health.HEALTHY: 1, Health.UNHEALTHY: 0, Health.UNKNOWN: -1}
        for record in service.registry:
            labelled = [record.member.kind, record.member.id]
            up.add_metric(labelled, values[record.judgement.status])
            checks.add_metric(labelled, record.checks)
            hurried.add_metric(labelled, record.hurried_checks)
            failures.add_metric(labelled, record.failed_checks)
            if record.check and not record.check.failure:
                seconds.add_metric(labelled, record.check.milliseconds / 1000)
        yield from (up, seconds, checks, hurried, failures)


def replication_metrics(service: Service) -> Iterator[Metric]:
    """What is known of mains and copies."""
    counts, told = service.replication.counts, service.replication.told()
    failovers = CounterMetricFamily(
        "fastcache_failovers", "Mains that were replaced, by what brought it about.", labels=["how"]
    )
    for how in ("automatic", "manual", "switchover"):
        failovers.add_metric([how], counts.failovers[how])
    yield failovers
    yield CounterMetricFamily(
        "fastcache_lost_writes",
        "Writes that a main had told of and its heir had not: what failovers lost, as far as was seen.",
        counts.lost_writes,
    )
    yield CounterMetricFamily(
        "fastcache_solo_grants", "Times a main was allowed to go on without a copy.", counts.grants
    )
    yield GaugeMetricFamily(
        "fastcache_slots_without_replica", "Slots with no copy in sync.", told["slotsWithoutReplica"]
    )
    yield GaugeMetricFamily(
        "fastcache_failover_paused", "1 while automatic failover is paused.", int(told["paused"])
    )
    labels = ["main", "replica"]
    lag = GaugeMetricFamily("fastcache_replication_lag_seconds", "Age of what a copy lacks.", labels=labels)
    behind = GaugeMetricFamily("fastcache_replication_lag_writes", "Writes that a copy lacks.", labels=labels)
    held = GaugeMetricFamily(
        "fastcache_replication_lag_bytes", "Bytes of writes that a copy lacks.", labels=labels
    )
    for one in told["streams"]:
        if one["lagMs"] is not None:
            lag.add_metric([one["main"], one["copy"]], one["lagMs"] / 1000)
            behind.add_metric([one["main"], one["copy"]], one["behind"])
            held.add_metric([one["main"], one["copy"]], one["lagBytes"])
    yield from (lag, behind, held)


def rebalance_metrics(service: Service) -> Iterator[Metric]:
    """How far slots have moved."""
    told = progress.told(service.rebalance)
    active = told["state"] in {"running", "paused"} or bool(told["moves"])
    for name, help_text, value in (
        ("rebalance_in_progress", "1 while slots move, or are to.", int(active)),
        ("rebalance_keys_moved", "Keys moved by the last rebalance so far.", told["keysMoved"]),
        (
            "rebalance_keys_total",
            "Keys that the last rebalance has to move, as estimated.",
            told["keysTotal"],
        ),
        ("rebalance_duration_seconds", "How long the last rebalance takes or took.", told["seconds"]),
        ("fastcache_rebalance_slots_left", "Slots that are still to move.", told["slotsLeft"]),
        (
            "fastcache_rebalance_pace_bytes_per_second",
            "What one node may copy; 0 for no limit.",
            told["pace"]["megabytesPerSecond"] * 1e6,
        ),
        (
            "fastcache_rebalance_p99_seconds",
            "What the 99th of a hundred answers took of nodes that take part.",
            told["pace"]["p99Ms"] / 1000,
        ),
        ("fastcache_rebalance_given_up", "Moves of the last rebalance that were given up.", told["givenUp"]),
    ):
        yield GaugeMetricFamily(name, help_text, value)
    yield from impact_metrics(told["impact"])


def impact_metrics(told: dict[str, float | None]) -> Iterator[Metric]:
    """What moving costs those who ask; nothing is said of what nobody has measured."""
    rates = GaugeMetricFamily(
        "fastcache_rebalance_hit_rate",
        "Part of the reads that found their key: while the last rebalance runs or ran, and before it.",
        labels=["when"],
    )
    for when, value in (("during", told["hitRate"]), ("normal", told["hitRateNormal"])):
        if value is not None:
            rates.add_metric([when], value)
    yield rates
    if (dip := told["hitRateDipExpected"]) is not None:
        yield GaugeMetricFamily(
            "fastcache_rebalance_hit_rate_dip_expected",
            "Part of all data that the plan of the last rebalance had to go, for want of room.",
            dip,
        )
    if (normal := told["p99MsNormal"]) is not None:
        yield GaugeMetricFamily(
            "fastcache_rebalance_p99_normal_seconds",
            "What the 99th of a hundred checks of nodes took before the last rebalance.",
            normal / 1000,
        )


class Metrics:
    """The page that Prometheus reads."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(ServiceCollector(service))

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
