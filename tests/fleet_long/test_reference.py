"""The reference cluster, 50 nodes and 5 proxies on five hosts, serves redis-benchmark and the frameworks."""

import re
import sys

import pytest

from tests.fleet.lab import PROJECT, VIP, Lab, what_is_missing
from tests.frameworks.test_nodejs import installed_packages

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
ENVIRONMENT = "reference"
HOSTS, NODES, PROXIES = 5, 50, 5
#: Every test of redis-benchmark but PING, which asks nothing of nodes.
TESTS = (
    "set", "get", "incr", "lpush", "rpush", "lpop", "rpop", "sadd", "hset", "spop", "zadd", "zpopmin",
    "lrange_100", "lrange_300", "lrange_500", "lrange_600", "mset",
)  # fmt: skip


def test_five_bare_hosts_become_the_reference_cluster(lab: Lab) -> None:
    run = lab.play("site.yml")
    assert run.code == 0, run.text[-6000:]
    assert len(run.recap) == HOSTS + 1, "the hosts, and this machine"
    lab.shares(NODES)


def test_it_is_verified_and_a_second_run_changes_nothing(lab: Lab) -> None:
    assert lab.play("playbooks/verify.yml").code == 0
    units = "'fastcache-node@*' 'fastcache-proxy@*'"
    counted = f"systemctl list-units --plain --no-legend --state=running {units} | wc -l"
    told = [lab.on(f"h{number}", counted) for number in range(1, HOSTS + 1)]
    assert told == [str((NODES + PROXIES) // HOSTS)] * HOSTS
    run = lab.play("site.yml")
    assert run.code == 0, run.text[-6000:]
    assert run.changed() == 0, [line for line in run.text.splitlines() if line.startswith("changed")]


def test_redis_benchmark_runs_through_haproxy_without_an_error(lab: Lab) -> None:
    password = (lab.secrets / "requirepass").read_text().strip()
    words = ("-h", VIP, "-p", "6380", "-a", password, "-c", "50", "-n", "20000", "-r", "100000")
    said = lab.inside("redis-benchmark", *words, "-q", "-t", ",".join(TESTS)).replace(password, "*")
    print(said)
    # Lines end with the figures; before them stands what it showed meanwhile.
    rates = dict(re.findall(r"^(?:.*\r)?([A-Z][^:\r]*): ([0-9.]+) requests per second", said, re.MULTILINE))
    assert len(rates) >= len(TESTS), rates
    assert all(float(rate) > 0 for rate in rates.values()), rates
    assert not re.search(r"(?i)\berr(or)?\b|-(MOVED|ASK|TRYAGAIN|CLUSTERDOWN|CROSSSLOT)", said), said


def test_the_frameworks_work_on_it_unmodified(lab: Lab) -> None:
    installed_packages()  # Inside the lab's network there is no way to npm's registry.
    told = lab.inside(
        sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", f"{PROJECT}/tests/frameworks",
        FASTCACHE_TEST_FLEET=f"{VIP}:6380",
        FASTCACHE_TEST_FLEET_PASSWORD=str(lab.secrets / "requirepass"),
    )  # fmt: skip
    print(told)
    assert re.search(r"\b(\d{2,}) passed", told), "all of them, not some"
    skipped = [line for line in told.splitlines() if line.startswith("SKIPPED")]
    assert not [line for line in skipped if not re.search(r"Django's own cache|nodes are ours", line)], (
        skipped
    )


def test_it_is_well_afterwards(lab: Lab) -> None:
    run = lab.play("playbooks/verify.yml")
    assert run.code == 0, run.text[-6000:]
    lab.shares(NODES)
