"""Stock cluster clients go to the nodes directly, as they go to a Redis cluster."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
import redis
import redis.cluster

from tests.cluster.embedded import Embedded, free_ports, until

NODES = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three nodes that have taken their parts."""
    whole = Embedded(tmp_path_factory.mktemp("c"), free_ports(50))
    up = whole.whole("--nodes", str(NODES), "--proxies", "1")
    assert up.returncode == 0, up.stderr
    epochs = {told(whole, index)[b"epoch"] for index in range(NODES)}
    assert 0 not in epochs, "up returns when every node knows the cluster"
    until(lambda: len({told(whole, index)[b"epoch"] for index in range(NODES)}) == 1, "all obey the same")
    yield whole
    whole.call("down")


def told(cluster: Embedded, index: int = 0) -> dict[bytes, object]:
    """What a node says of its topology."""
    with redis.Redis(port=cluster.port + index, protocol=3) as node:
        answer: dict[bytes, object] = node.execute_command("FASTCACHE", "TOPOLOGY")
    return answer


def test_redis_pys_cluster_client_finds_every_key(cluster: Embedded) -> None:
    with redis.cluster.RedisCluster(host="127.0.0.1", port=cluster.port) as client:
        for number in range(300):
            assert client.set(f"direct:{number}", number)
        assert [client.get(f"direct:{number}") for number in (0, 77, 299)] == [b"0", b"77", b"299"]
        assert client.mget_nonatomic([f"direct:{number}" for number in range(5)]) == [
            str(number).encode() for number in range(5)
        ]
        pipeline = client.pipeline()
        for number in range(50):
            pipeline.incr(f"direct:{number}")
        assert pipeline.execute() == list(range(1, 51))
        assert client.dbsize(target_nodes=redis.cluster.RedisCluster.PRIMARIES) >= 300
        assert len(list(client.scan_iter("direct:*"))) == 300
        assert len(client.get_nodes()) == NODES


def test_redis_cli_follows_to_the_node_that_has_the_key(cluster: Embedded) -> None:
    if not shutil.which("redis-cli"):
        pytest.skip("redis-cli is not installed")

    def ask(*words: str) -> str:
        command = ["redis-cli", "-c", "-p", str(cluster.port), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    for number in range(20):
        assert ask("SET", f"cli:{number}", str(number)) == "OK"
        assert ask("GET", f"cli:{number}") == str(number)
    check = subprocess.run(
        ["redis-cli", "--cluster", "check", f"127.0.0.1:{cluster.port}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "[OK] All 16384 slots covered." in check.stdout, check.stdout


def test_a_node_sends_clients_on_and_proxies_are_served_slots_at_once(cluster: Embedded) -> None:
    with redis.Redis(port=cluster.port) as node, redis.Redis(port=cluster.port_of("proxy")) as proxy:
        answers = set()
        for number in range(50):
            try:
                node.set(f"plain:{number}", 1)
            except redis.exceptions.MovedError as error:
                answers.add((error.host, error.port))
        assert answers == {("127.0.0.1", cluster.port + index) for index in range(1, NODES)}
        with pytest.raises(redis.exceptions.ClusterCrossSlotError):
            node.mget([f"plain:{number}" for number in range(50)])
        assert proxy.mset({f"m:{number}": number for number in range(50)})
        assert proxy.mget([f"m:{number}" for number in range(50)]) == [str(n).encode() for n in range(50)]


def test_an_older_topology_is_refused_and_a_newer_one_kept_on_disk(cluster: Embedded) -> None:
    health = f"http://127.0.0.1:{cluster.port_of('health')}/topology"
    with urllib.request.urlopen(health, timeout=10) as answer:
        document = json.load(answer)
    with redis.Redis(port=cluster.port) as node:
        with pytest.raises(redis.ResponseError, match="STALE epoch 0 is older than"):
            node.execute_command("FASTCACHE", "TOPOLOGY", "SET", json.dumps(document | {"epoch": 0}))
        newer = document | {"epoch": document["epoch"] + 1000}
        assert node.execute_command("FASTCACHE", "TOPOLOGY", "SET", json.dumps(newer)) == b"OK"
        assert told(cluster)[b"epoch"] == newer["epoch"]
    kept = (cluster.directory / f"node-{cluster.port}" / "topology.json").read_text()
    assert json.loads(kept.splitlines()[0])["epoch"] == newer["epoch"]
