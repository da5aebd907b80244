"""A node and its disk, as real processes: kill -9 under load, a full disk, logs that are torn or damaged.

With `appendonly yes` and `appendfsync always` nothing that was acknowledged is lost. FASTCACHE_DISK_ROUNDS=20
kills oftener than `make test` does; FASTCACHE_DISK_SEED repeats a run.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import PROGRAM, free_ports, until

ROUNDS = int(os.environ.get("FASTCACHE_DISK_ROUNDS", "3"))
SEED = int(os.environ.get("FASTCACHE_DISK_SEED", str(int(time.time()))))
ALWAYS = {"appendonly": "yes", "appendfsync": "always", "snapshot-interval": "1"}
WRITERS = 4


class Node:
    """One node that keeps its data in a directory."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.home, self.port = directory / "data", free_ports(1)
        self.file, self.log = directory / "node.toml", directory / "log"
        self.home.mkdir(exist_ok=True)
        lines = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.home), "log-format": "json"}
        lines |= ALWAYS | settings
        self.file.write_text("".join(f'{name} = "{value}"\n' for name, value in lines.items()))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and wait until it serves; how many seconds that took."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "node", "--config", self.file], stdout=log, stderr=subprocess.STDOUT
            )
        until(self.serves, "the node serves")
        return time.monotonic() - began

    def serves(self) -> bool:
        try:
            with self.client() as client:
                return int(client.dbsize()) >= 0
        except redis.RedisError:
            return False

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=20, decode_responses=True)

    def logs(self) -> list[Path]:
        return sorted(self.home.glob("*.fclog"))


@dataclass(eq=False)
class Writer(threading.Thread):
    """Writes values that are all different, and counts, until its node is gone."""

    node: Node
    name_of: str
    values: dict[str, int] = field(default_factory=dict)
    # What may be there although nobody said so: one write of each kind at most, when the connection broke.
    unknown: dict[str, int] = field(default_factory=dict)
    counted: int = 0
    begun: int = 0
    number: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.node.client() as client:
            while True:
                self.number += 1
                key = f"{self.name_of}:{self.number % 50}"
                self.unknown = {key: self.number}
                self.begun += 1
                try:
                    client.set(key, self.number)
                    self.values[key] = self.number
                    client.incr(f"{self.name_of}:count")
                    self.counted += 1
                except redis.ResponseError:
                    self.refused += 1
                    self.begun -= 1

    def check(self, client: redis.Redis) -> None:
        """All that was acknowledged is there, or what came after it and nobody knows of."""
        for key, value in self.values.items():
            got = int(client.get(key) or 0)
            assert got == value or got == self.unknown.get(key), f"{key} is {got}, {value} was acknowledged"
        count = int(client.get(f"{self.name_of}:count") or 0)
        assert self.counted <= count <= self.begun, (
            f"{count}: {self.counted} acknowledged, {self.begun} begun"
        )
        self.counted = self.begun = count


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.kill()


def test_nothing_acknowledged_is_lost_when_a_node_is_killed_under_load(node: Node) -> None:
    print(f"FASTCACHE_DISK_SEED={SEED}")
    dice, acknowledged, slowest = random.Random(SEED), 0, 0.0
    before: list[Writer] = []
    for _ in range(ROUNDS):
        slowest = max(slowest, node.start())
        with node.client() as client:
            for writer in before:
                writer.check(client)
        writers = [Writer(node, f"w{number}") for number in range(WRITERS)]
        for writer, old in zip(writers, before, strict=False):
            writer.number, writer.values = old.number, dict(old.values)
            writer.counted = writer.begun = old.counted
            writer.values |= {key: value for key, value in old.unknown.items() if key not in old.values}
        with node.client() as client:
            for writer in writers:
                # What nobody knew of was looked at: from now on it counts as it is.
                writer.values = {key: int(client.get(key) or 0) for key in writer.values}
        for writer in writers:
            writer.start()
        time.sleep(dice.uniform(0.3, 2.5))
        node.kill()
        for writer in writers:
            writer.join(30)
        acknowledged += sum(writer.number for writer in writers)
        before = writers
    node.start()
    with node.client() as client:
        for writer in before:
            writer.check(client)
    print(f"{ROUNDS} kills, {acknowledged} writes, 0 lost, slowest start {slowest:.2f} s")


def test_a_torn_end_is_cut_and_damage_in_the_middle_is_told_and_no_wrong_value_is_served(node: Node) -> None:
    node.start()
    with node.client() as client:
        for number in range(400):
            client.set(f"k{number % 40}", f"{number:08d} {number * 'x'}")
    node.kill()
    last = node.logs()[-1]
    whole = last.read_bytes()
    # As a crash in the midst of a write leaves it.
    last.write_bytes(whole + whole[40 : 40 + 57])
    node.start()
    with node.client() as client:
        values = [client.get(f"k{key}") for key in range(40)]
    assert values == [f"{360 + key:08d} {(360 + key) * 'x'}" for key in range(40)]
    assert "not complete" in node.log.read_text()
    node.kill()
    largest = max(node.logs(), key=lambda path: path.stat().st_size)
    bytes_of = bytearray(largest.read_bytes())
    bytes_of[len(bytes_of) // 2] ^= 0x10
    largest.write_bytes(bytes_of)
    for snapshot in node.home.glob("*.fcsnap"):
        snapshot.unlink()
    node.start()
    with node.client() as client:
        for key in range(40):
            if value := client.get(f"k{key}"):
                number = int(value[:8])
                assert value == f"{number:08d} {number * 'x'}", "a value that was never written"
                assert number % 40 == key
        assert client.set("after", "1")
    assert "damage on disk" in node.log.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB under the node's directory, which needs root."""
    place = tmp_path / "data"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "fastcache-test", place], capture_output=True, timeout=20
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=False, timeout=20)


def value_of(number: int) -> str:
    """The log is compressed: what fills it must not be."""
    return random.Random(number).randbytes(1000).hex()


def test_a_full_disk_stops_writes_and_not_reads_and_room_sets_them_going_without_a_restart(
    small_disk: Path, tmp_path: Path
) -> None:
    node = Node(tmp_path, **{"snapshot-interval": "0"})
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (2 << 20))
    node.start()
    try:
        acknowledged: list[int] = []
        with node.client() as client:
            with pytest.raises(redis.ResponseError) as refused:
                for number in range(5000):
                    client.set(f"k{number}", value_of(number))
                    acknowledged.append(number)
            assert str(refused.value), "it says why"
            assert 100 < len(acknowledged) < 1500
            assert client.get("k7") == value_of(7), "reads go on"
            assert client.info("persistence")["aof_last_write_status"] == "err"
            with pytest.raises(redis.ResponseError):
                client.set("still", "no")
            filler.unlink()
            began = time.monotonic()

            def goes_on() -> bool:
                try:
                    return bool(client.set("again", "1"))
                except redis.ResponseError:
                    return False

            until(goes_on, "writes go on")
            resumed = time.monotonic() - began
            assert client.info("persistence")["aof_last_write_status"] == "ok"
        print(f"{len(acknowledged)} writes acknowledged, resumed {resumed:.2f} s after there was room")
        node.kill()
        node.start()
        with node.client() as client:
            assert all(client.get(f"k{number}") == value_of(number) for number in acknowledged)
            assert client.get("again") == "1"
            assert client.get("still") is None
    finally:
        node.kill()


@pytest.fixture
def standing_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system under the node's directory that can be made to stand still, which needs root."""
    place, image = tmp_path / "data", tmp_path / "image"
    place.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 64 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True, timeout=60)
        subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as failure:
        pytest.skip(f"a file system of its own cannot be mounted: {failure}")
    yield place
    # Whoever waits for a disk that stands still cannot even be killed.
    subprocess.run(["fsfreeze", "-u", place], check=False, capture_output=True, timeout=20)
    subprocess.run(["umount", "-l", place], check=False, timeout=20)


def test_a_disk_that_stands_still_stops_writes_within_the_limit_and_not_reads(
    standing_disk: Path, tmp_path: Path
) -> None:
    limit = 1.0
    node = Node(tmp_path, **{"snapshot-interval": "0", "appendfsync": "everysec", "log-delay-limit": "1000"})
    node.start()
    try:
        with node.client() as client:
            for number in range(100):
                client.set(f"k{number}", number)
            time.sleep(1.5)  # All of that is on disk.
            subprocess.run(["fsfreeze", "-f", standing_disk], check=True, timeout=20)
            began = time.monotonic()
            with pytest.raises(redis.ResponseError, match="the disk has not taken the log"):
                while time.monotonic() < began + 20:
                    client.incr("n")
                    time.sleep(0.005)
            refused = time.monotonic() - began
            assert client.get("k7") == "7", "reads go on"
            subprocess.run(["fsfreeze", "-u", standing_disk], check=True, timeout=20)

            def goes_on() -> bool:
                try:
                    return bool(client.incr("n"))
                except redis.ResponseError:
                    return False

            until(goes_on, "writes go on")
            counted = int(client.get("n") or 0)
            time.sleep(1.5)
        print(f"writes were refused {refused:.2f} s after the disk stood still, {counted} counted")
        # A batch waits for the second's end, and the machine for its turn.
        assert limit <= refused < limit + 3
        node.kill()
        node.start()
        with node.client() as client:
            assert int(client.get("n") or 0) >= counted
    finally:
        subprocess.run(["fsfreeze", "-u", standing_disk], check=False, capture_output=True, timeout=20)
        node.kill()
