"""`fastcache import`: contents of a real Redis come into a node and into a cluster, from a file and live."""

import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import PROGRAM, Embedded, until

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


class Source:
    """A real Redis."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:  # Not among the ports of the cluster beside us.
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.directory = directory
        options = ["--port", self.port, "--dir", directory, "--save", "", "--repl-diskless-sync-delay", "0"]
        self.process = subprocess.Popen(
            ["redis-server", *map(str, options), "--enable-debug-command", "yes"], stdout=subprocess.DEVNULL
        )
        self.client = redis.Redis(port=self.port)
        until(self.answers, "the source answers")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def fill(self) -> None:
        client, dice = self.client, random.Random(5)
        for number in range(300):
            client.set(f"string:{number}", "v" * dice.randrange(2000))
        client.mset({"number": 12345, "binary\xff": b"\x00\xff\r\n"})
        client.set("expiring", "v", ex=1000)
        client.rpush("list", *range(1000), "text" * 500)
        client.hset("small-hash", mapping={"f": "v", "n": 5})
        client.hset("large-hash", mapping={f"field:{number}": "v" * 100 for number in range(2000)})
        client.sadd("numbers", *range(100))
        client.sadd("set", *(f"m{number}" for number in range(1000)))
        client.zadd("small-zset", {"a": 1.5, "b": float("inf")})
        client.zadd("zset", {f"m{number}": number / 3 for number in range(1000)})
        client.pfadd("hll", *range(1000))
        client.geoadd("geo", (13.361389, 38.115556, "Palermo"))

    def save(self) -> Path:
        self.client.save()
        return self.directory / "dump.rdb"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    directory = tmp_path / "source"
    directory.mkdir()
    made = Source(directory)
    yield made
    made.process.kill()
    made.process.wait()


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([PROGRAM, "import", *map(str, words)], capture_output=True, text=True, timeout=180)


def contents(client: "redis.Redis") -> dict[bytes, object]:
    """Every key with its value, and whether it expires."""
    readers = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"none": lambda _: None,  # Removed since it was listed.
    }
    keys = list(client.scan_iter(count=1000))
    return {key: (readers[client.type(key)](key), client.ttl(key) > 0) for key in keys}


def test_a_file_comes_into_a_cluster_and_a_second_run_changes_nothing(
    embedded: Embedded, source: Source
) -> None:
    assert embedded.whole("--nodes", "3").returncode == 0
    source.fill()
    door = redis.Redis(port=embedded.port_of("balancer"), socket_timeout=20)
    until(door.ping, "the cluster answers")
    to = f"redis://127.0.0.1:{embedded.port_of('balancer')}"
    door.set("number", "mine")
    first = run(source.save(), "--to", to)
    assert first.returncode == 0, first.stderr
    assert f"{source.client.dbsize() - 1} keys brought in, 1 kept" in first.stdout
    assert door.get("number") == b"mine"
    second = run(source.save(), "--to", to, "--replace")
    assert f"{source.client.dbsize()} keys brought in." in second.stdout, second.stderr
    assert contents(door) == contents(source.client)


def test_a_cut_or_changed_file_is_told_with_the_place(
    embedded: Embedded, source: Source, tmp_path: Path
) -> None:
    assert embedded.up("--nodes", "1").returncode == 0
    source.fill()
    whole = source.save().read_bytes()
    to = f"redis://127.0.0.1:{embedded.port_of('node')}"
    for name, spoilt, sentence in (
        ("cut", whole[:-300], "it ends too early"),
        ("sum", whole[:-1] + bytes([whole[-1] ^ 1]), "checksum"),
        ("text", b"hello, I am no file of Redis", "no RDB file"),
    ):
        path = tmp_path / name
        path.write_bytes(spoilt)
        done = run(path, "--to", to)
        assert done.returncode == 1, done.stdout
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


def test_a_server_is_followed_until_the_target_has_caught_up(embedded: Embedded, source: Source) -> None:
    assert embedded.whole("--nodes", "3").returncode == 0
    source.fill()
    stopping = threading.Event()
    writes = 0

    def write() -> None:
        nonlocal writes
        client, dice = redis.Redis(port=source.port), random.Random(6)
        while not stopping.is_set():
            number = dice.randrange(400)
            with client.pipeline(transaction=dice.random() < 0.3) as pipeline:
                pipeline.incr("counter").set(f"string:{number}", dice.random()).rpush("list", writes)
                pipeline.delete(f"string:{dice.randrange(400)}").zincrby("zset", 1, f"m{number}")
                pipeline.eval("redis.call('HINCRBY', KEYS[1], 'n', 1)", 1, "scripted")
                pipeline.execute()
            writes += 1
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    to = f"redis://127.0.0.1:{embedded.port_of('balancer')}"
    program = [PROGRAM, "import", f"redis://127.0.0.1:{source.port}", "--to", to, "--follow"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    door = redis.Redis(port=embedded.port_of("balancer"), socket_timeout=20)
    try:
        until(lambda: int(door.get("counter") or 0) > 50, "the import follows")
        # A connection that is lost is taken up again where it was.
        source.client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        seen = int(door.get("counter") or 0)
        until(lambda: int(door.get("counter") or 0) > seen + 20, "the import goes on")
    finally:
        stopping.set()
        writer.join()
    until(lambda: contents(door) == contents(source.client), "the target has caught up")
    # Ctrl-C does the same, but is ignored where the tests run in the background.
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "keys brought in" in output
    assert source.client.get("counter") == b"%d" % writes


def test_what_cannot_be_followed_ends_in_a_sentence(embedded: Embedded, source: Source) -> None:
    assert embedded.up("--nodes", "1").returncode == 0
    to = f"redis://127.0.0.1:{embedded.port_of('node')}"
    source.fill()
    caught_up = run(f"redis://127.0.0.1:{source.port}", "--to", to)
    assert caught_up.returncode == 0, caught_up.stderr
    assert contents(redis.Redis(port=embedded.port_of("node"))) == contents(source.client)
    source.client.config_set("requirepass", "secret")
    refused = run(f"redis://127.0.0.1:{source.port}", "--to", to)
    assert refused.returncode == 1
    assert "password" in refused.stderr
    assert "Traceback" not in refused.stderr
    nobody = run(source.directory / "nothing.rdb", "--to", to)
    assert nobody.returncode == 2
    absent = run(f"redis://127.0.0.1:{source.port}", "--to", "redis://127.0.0.1:1")
    assert absent.returncode == 1
    spoken = run(f"redis://:secret@127.0.0.1:{source.port}", "--to", to)
    assert spoken.returncode == 2
    for nonsense in ("ftp://127.0.0.1:1", "127.0.0.1:port", "127.0.0.1:99999"):
        misspelt = run(f"redis://127.0.0.1:{source.port}", "--to", nonsense)
        assert misspelt.returncode == 2
        assert "Traceback" not in misspelt.stderr
        assert nonsense in misspelt.stderr
    source.client.config_set("requirepass", "")
    assert run(f"redis://127.0.0.1:{source.port}", "--to", to.removeprefix("redis://")).returncode == 0
