"""What Prometheus and Alertmanager are given: judged by promtool and amtool, alert rules tested over time."""

import shutil
from pathlib import Path

import pytest
import yaml

from .conftest import run

#: The alerts that users were promised; templates/fastcache.rules.yml.j2 may hold more.
PROMISED = {"CacheHitRateLow", "CacheNodeDown", "CacheMemoryHigh", "HotKeyDetected", "RebalanceStuck"}
CASES = Path(__file__).with_name("alerts.yml")


def rules_file(rendered: Path) -> Path:
    return next(rendered.glob("*/etc/prometheus/fastcache.rules.yml"))


def program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
    return found


def test_every_rule_has_a_test_and_an_action(rendered: Path) -> None:
    rules = yaml.safe_load(rules_file(rendered).read_text())["groups"][0]["rules"]
    names = {rule["alert"] for rule in rules}
    assert names >= PROMISED
    tested = {
        case["alertname"]
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert names == tested
    assert all(rule["annotations"]["action"] for rule in rules)


def test_alert_rules_do_what_they_say(rendered: Path, tmp_path: Path) -> None:
    cases = yaml.safe_load(CASES.read_text())
    cases["rule_files"] = [str(rules_file(rendered))]
    file = tmp_path / "alerts.yml"
    file.write_text(yaml.safe_dump(cases))
    run(program("promtool"), "test", "rules", file)


def test_prometheus_accepts_its_configuration(rendered: Path) -> None:
    file = next(rendered.glob("*/etc/prometheus/prometheus.yml"))
    run(program("promtool"), "check", "config", "--syntax-only", file)
    jobs = {job["job_name"] for job in yaml.safe_load(file.read_text())["scrape_configs"]}
    assert jobs == {"fastcache-health", "haproxy", "node-exporter", "etcd", "prometheus"}


def test_alertmanager_accepts_its_configuration(rendered: Path) -> None:
    run(program("amtool"), "check-config", next(rendered.glob("*/etc/prometheus/alertmanager.yml")))
