"""A backup of a cluster with copies: restored into another shape in a drill, and damage that it finds."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from fastcache.errors import FastCacheError
from fastcache.importer.digest import Only, sum_of
from fastcache.runbook import snapshots
from fastcache.runbook.fleet import Fleet, Host, Member
from tests.cluster.embedded import PROGRAM, Embedded, free_ports

KEYS = 300


class Loopback:
    """Hands (fastcache/runbook/hands.py) on the embedded cluster, as far as a backup needs them."""

    def __init__(self, embedded: Embedded, nodes: list[dict[str, Any]]) -> None:
        self.health = f"http://127.0.0.1:{embedded.port_of('health')}"
        self.fleet = Fleet(
            "test",
            "fastcache",
            {"here": Host("here", "127.0.0.1", connection="local")},
            tuple(Member("node", one["id"], "here", one["host"], one["port"]) for one in nodes),
        )

    def http(self, method: str, path: str, body: object = None, *, seconds: float = 15.0) -> Any:
        from fastcache.client.health import call

        return call(self.health, method, path, body, seconds=seconds)

    def fetch(self, host: str, path: str, to: Path, *, seconds: float = 600.0) -> None:
        shutil.copy(path, to)

    def talk(self, member: Member, *, seconds: float = 10.0) -> Any:
        import contextlib

        client = redis.Redis(port=member.port, protocol=2, socket_timeout=seconds)

        class Talk:
            def say(self, *words: str) -> Any:
                return client.execute_command(*words)

        return contextlib.nullcontext(Talk())


def filled(embedded: Embedded) -> None:
    """Every type, some with times of expiry, over all slots."""
    client = redis.Redis(port=embedded.port_of("proxy"), socket_timeout=20)
    for number in range(KEYS):
        client.set(f"text:{number}", f"value {number}", ex=3000 if number % 2 else None)
    for number in range(20):
        client.rpush(f"list:{number}", *"abc")
        client.sadd(f"set:{number}", *range(200))
        client.hset(f"hash:{number}", mapping={f"f{n}": n for n in range(200)})
        client.zadd(f"scores:{number}", {"one": 1, "two": 2.5, "three": -7e12})
        client.xadd(f"stream:{number}", {"field": "value"}, id="5-1")
        client.set(b"bytes:%d\xff" % number, b"\x00\xff")


def call(*words: str) -> str:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=200)
    if done.returncode:
        raise FastCacheError(done.stderr + done.stdout)
    return done.stdout


def drill(backup: Path, scratch: Path) -> dict[str, Any]:
    import time

    shutil.rmtree(scratch, ignore_errors=True)
    cluster = snapshots.Throwaway(call, scratch, free_ports(40))
    return snapshots.drill(backup, cluster, 2, time.monotonic)


def test_a_drill_brings_all_back_and_finds_what_is_damaged(embedded: Embedded, tmp_path: Path) -> None:
    up = embedded.whole("--nodes", "3", "--proxies", "1", "--replicas", "1")
    assert up.returncode == 0, up.stderr
    filled(embedded)
    topology = Loopback(embedded, []).http("GET", "/topology")
    hands = Loopback(embedded, topology["nodes"])
    into = tmp_path / "backups"
    into.mkdir()
    found = snapshots.bring(hands, into, "fastcache-20261126T100000Z")  # type: ignore[arg-type]
    assert found.startswith(f"{KEYS + 120} entries"), "each entry once, though two nodes hold it"
    backup = snapshots.found_backup(hands.fleet, into, "")
    assert embedded.call("down").returncode == 0

    told = drill(backup, tmp_path / "one")
    assert told["well"], told
    assert told["restored"] == told["entries"] == KEYS + 120
    assert not (tmp_path / "one" / "record.json").exists()

    manifest = json.loads((backup / "manifest.json").read_text())
    file = backup / manifest["files"][0]["file"]
    whole = file.read_bytes()
    for damage, word in ((whole[: len(whole) // 2], "it was cut"), (whole[:-40] + b"x" * 40, "checksum")):
        file.write_bytes(damage)
        told = drill(backup, tmp_path / "two")
        assert not told["well"]
        assert word in told["wrong"], told
    # Cut, with a manifest that agrees: only reading to the end finds it.
    file.write_bytes(whole[: len(whole) - 64])
    manifest["files"][0] |= {"bytes": file.stat().st_size, "sha256": snapshots.sha256(file)}
    (backup / "manifest.json").write_text(json.dumps(manifest))
    told = drill(backup, tmp_path / "three")
    assert not told["well"]
    assert "damaged" in told["wrong"], told
    with pytest.raises(FastCacheError, match="damaged"):
        sum_of(file, Only())
