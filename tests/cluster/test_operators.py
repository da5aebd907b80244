"""The lock and the audit of a real health service: kept over a restart, guarded, a chain that holds."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastcache import ledger
from fastcache.client.health import call
from fastcache.errors import FastCacheError
from tests.cluster.health_processes import HealthProcess, etcd, until

TAKING = {"owner": "ann@a", "task": "deploy", "seconds": 60}
KEY = "a key for the tests"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[HealthProcess]:
    process = HealthProcess(tmp_path, **{"admin-key": KEY}).start()
    yield process
    if process.process and process.process.poll() is None:
        process.kill()


def change(url: str, path: str, body: dict[str, Any]) -> Any:
    return call(url, "POST", path, body, key=KEY)


def chain(url: str) -> list[ledger.Entry]:
    return msgspec.convert(call(url, "GET", "/audit"), list[ledger.Entry])


def end(url: str) -> ledger.Ledger:
    told = call(url, "GET", "/lock")
    return ledger.Ledger(number=told["number"], hash=told["hash"])


def test_one_task_at_a_time_and_what_it_did_outlives_the_service(service: HealthProcess) -> None:
    url = service.url
    taken = change(url, "/lock", {**TAKING, "arguments": {"release": "1"}})
    assert taken["done"] == []
    with pytest.raises(FastCacheError, match="ann@a holds the lock for deploy"):
        change(url, "/lock", {"owner": "bob@b", "task": "drain", "seconds": 60})
    change(url, "/lock/step", {"token": taken["token"], "step": "h1", "found": "went well"})
    change(url, "/lock/release", {"token": taken["token"], "stopped": "h2 is down"})

    service.stop()
    service.start()
    left = call(url, "GET", "/lock")
    assert left["lock"] is None
    assert [(one["task"], one["done"], one["stopped"]) for one in left["unfinished"]] == [
        ("deploy", ["h1"], "h2 is down")
    ]
    again = change(url, "/lock", {**TAKING, "owner": "bob@b", "arguments": {"release": "1"}})
    assert again["done"] == ["h1"]
    change(url, "/lock/release", {"token": again["token"]})
    assert call(url, "GET", "/lock")["unfinished"] == []

    entries = chain(url)
    assert [entry.event for entry in entries] == ["begins", "step", "stopped", "goes on", "done"]
    assert ledger.wrong_in(entries, end(url)) == ""
    assert chain_in_the_log(service)[-1] == entries[-1].hash, "the journal has the end of the chain as well"


def chain_in_the_log(service: HealthProcess) -> list[str]:
    lines = service.log.read_text().splitlines()
    return [line.rpartition("hash=")[2] for line in lines if " audit " in line]


def test_a_lock_that_is_broken_stops_its_holder_and_stands_in_the_chain(service: HealthProcess) -> None:
    url = service.url
    token = change(url, "/lock", TAKING)["token"]
    change(url, "/lock/break", {"owner": "bob@b"})
    with pytest.raises(FastCacheError, match="broken"):
        change(url, "/lock/renew", {"token": token, "seconds": 60})
    assert [(one.owner, one.event) for one in chain(url)] == [("ann@a", "begins"), ("bob@b", "broken")]
    change(url, "/lock/forget", {"owner": "bob@b", "task": "deploy"})
    assert call(url, "GET", "/lock")["unfinished"] == []


def test_who_has_no_key_changes_nothing_and_bad_input_is_told(service: HealthProcess) -> None:
    for path in (
        "/lock",
        "/lock/renew",
        "/lock/step",
        "/lock/release",
        "/lock/break",
        "/lock/forget",
        "/audit",
    ):
        assert service.ask("POST", path, TAKING)[0] == 401, path
    for body in ({}, {**TAKING, "owner": ""}, {**TAKING, "seconds": 0}, {**TAKING, "owner": "a\nb"}, [1]):
        status, told, _ = service.ask("POST", "/lock", body, {"X-Admin-Key": KEY})
        assert status == 400, body
        assert told["error"]
    assert chain(service.url) == []


def test_a_record_that_was_changed_on_the_disk_is_found(service: HealthProcess, tmp_path: Path) -> None:
    url = service.url
    change(url, "/audit", {"owner": "ann@a", "task": "note", "event": "looked", "fields": {"at": "h1"}})
    change(url, "/audit", {"owner": "ann@a", "task": "note", "event": "looked", "fields": {"at": "h2"}})
    service.stop()
    with sqlite3.connect(tmp_path / "data" / "health.sqlite") as base:
        (entry,) = base.execute("select entry from audit where number = 1").fetchone()
        base.execute("update audit set entry = ? where number = 1", (entry.replace(b"h1", b"h9"),))
    base.close()
    service.start()
    assert "entry 1 is not what was written" in ledger.wrong_in(chain(url), end(url))


@pytest.mark.skipif(not shutil.which("etcd"), reason="etcd is not installed")
def test_several_services_share_one_lock_and_one_chain(tmp_path: Path) -> None:
    with etcd(tmp_path) as endpoint:
        settings = {"store": "etcd", "etcd-endpoint": endpoint, "lease": 2, "admin-key": KEY}
        both = [HealthProcess(tmp_path / f"health{n}", **settings) for n in (1, 2)]
        try:
            for one in both:
                one.start()
            urls = [one.url for one in both]
            token = change(urls[0], "/lock", TAKING)["token"]
            for number in range(12):
                change(urls[number % 2], "/lock/step", {"token": token, "step": f"s{number}"})
            leader = next(one for one in both if one.ask("GET", "/primary")[0] == 200)
            other = next(one for one in both if one is not leader)
            leader.kill()
            until("the other leads", lambda: other.ask("GET", "/primary")[0] == 200)
            with pytest.raises(FastCacheError, match="ann@a holds the lock"):
                change(other.url, "/lock", {**TAKING, "owner": "bob@b"})
            change(other.url, "/lock/release", {"token": token})
            entries = chain(other.url)
            assert [entry.number for entry in entries] == list(range(1, 15))
            assert ledger.wrong_in(entries, end(other.url)) == ""
            page = call(other.url, "GET", "/audit?after=3&limit=4")
            assert [one["number"] for one in page] == [4, 5, 6, 7]
        finally:
            for one in both:
                if one.process and one.process.poll() is None:
                    one.kill()
