"""Snapshots as an operator handles them: taken, looked at, restored; and data that outlives a stop."""

import json
from pathlib import Path

import redis

from tests.cluster.embedded import Embedded

KEYS = 60


def filled(embedded: Embedded) -> redis.Redis:
    client = redis.Redis(port=embedded.port_of("proxy"), socket_timeout=10, decode_responses=True)
    for number in range(KEYS):
        client.set(f"key:{number}", f"value {number}", ex=3000)
    client.rpush("list", "a", "b", "c")
    client.zadd("scores", {"one": 1, "two": 2.5})
    return client


def check(client: redis.Redis) -> None:
    assert client.dbsize() == KEYS + 2
    assert [client.get(f"key:{number}") for number in range(KEYS)] == [f"value {n}" for n in range(KEYS)]
    assert 0 < client.ttl("key:7") <= 3000
    assert client.lrange("list", 0, -1) == ["a", "b", "c"]
    assert client.zrange("scores", 0, -1, withscores=True) == [("one", 1.0), ("two", 2.5)]


def snapshots(embedded: Embedded) -> list[str]:
    return sorted(str(path) for path in embedded.directory.rglob("*.fcsnap"))


def test_snapshots_of_all_nodes_are_taken_judged_and_restored(embedded: Embedded, tmp_path: Path) -> None:
    up = embedded.whole("--nodes", "3", "--proxies", "1")
    assert up.returncode == 0, up.stderr
    client = filled(embedded)
    taken = embedded.call("snapshot", "take", "--all")
    assert taken.returncode == 0, taken.stderr
    files = snapshots(embedded)
    assert len(files) == 3, taken.stdout
    verified = embedded.call("snapshot", "verify", *files)
    assert verified.returncode == 0, verified.stdout + verified.stderr

    entries = []
    for file in files:
        exported = json.loads(embedded.call("snapshot", "export", file).stdout)
        assert {"version", "node", "timestamp", "statistics"} <= exported.keys()
        entries += exported["entries"]
    assert len(entries) == KEYS + 2
    entry = next(entry for entry in entries if entry["key"] == "key:7")
    assert entry["value"] == "value 7"
    assert {"createdAt", "updatedAt", "expiresAt"} <= entry.keys()

    client.flushall()
    target = f"redis://127.0.0.1:{embedded.port_of('proxy')}"
    restored = embedded.call("restore", *files, "--to", target)
    assert restored.returncode == 0, restored.stderr
    check(client)
    for entry in entries:
        told = client.execute_command("FASTCACHE", "ENTRY", entry["key"])
        told = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
        assert {name: told[name] for name in ("createdAt", "updatedAt")} == {
            name: entry[name] for name in ("createdAt", "updatedAt")
        }

    damaged = tmp_path / "damaged.fcsnap"
    whole = Path(files[0]).read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert embedded.call("snapshot", "verify", str(damaged)).returncode == 1
    client.flushall()
    # Every file is judged before the first key is sent.
    assert embedded.call("restore", files[1], str(damaged), "--to", target).returncode == 1
    assert client.dbsize() == 0


def test_what_was_written_is_there_after_down_and_up(embedded: Embedded) -> None:
    assert embedded.whole("--nodes", "3", "--proxies", "1").returncode == 0
    filled(embedded)
    assert embedded.call("down").returncode == 0
    up = embedded.call("up")  # The same cluster: what it was made of is remembered.
    assert up.returncode == 0, up.stderr
    assert "3 nodes, the health service, 1 proxy" in up.stdout
    check(redis.Redis(port=embedded.port_of("proxy"), socket_timeout=10, decode_responses=True))


def test_nodes_that_came_and_went_are_remembered_over_down_and_up(embedded: Embedded) -> None:
    assert embedded.whole("--nodes", "3", "--proxies", "1").returncode == 0
    filled(embedded)
    changes = (("add",), ("remove", f"node-{embedded.port}"))
    for change, nodes in zip(changes, (4, 3), strict=True):
        done = embedded.call("node", *change)
        assert done.returncode == 0, done.stderr
        assert embedded.call("down").returncode == 0
        up = embedded.call("up")
        assert up.returncode == 0, up.stderr
        assert f"{nodes} nodes, the health service, 1 proxy" in up.stdout
        check(redis.Redis(port=embedded.port_of("proxy"), socket_timeout=10, decode_responses=True))
    assert f"node-{embedded.port}" not in embedded.call("status").stdout
