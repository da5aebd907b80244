"""Clients that look for a Sentinel find a healthy proxy."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.sentinel

from tests.cluster.health_processes import HealthProcess, StandIn, free_port, until


@pytest.fixture
def proxies() -> Iterator[list[StandIn]]:
    all_of_them = [StandIn() for _ in range(3)]
    yield all_of_them
    for one in all_of_them:
        one.close()


@pytest.fixture
def service(proxies: list[StandIn], tmp_path: Path) -> Iterator[HealthProcess]:
    listed = [{"id": f"p{i}", "host": "127.0.0.1", "port": one.port} for i, one in enumerate(proxies)]
    settings = {"sentinel-port": free_port(), "cluster": "shop", "proxies": listed}
    one = HealthProcess(tmp_path, **settings).start()
    one.sentinel_port = settings["sentinel-port"]  # type: ignore[attr-defined]
    until("all are healthy", lambda: one.get("/health/summary")["healthyProxies"] == 3)
    yield one
    one.kill()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", ["shop", "mymaster"])
def test_a_client_is_told_a_healthy_proxy_and_another_one_when_it_falls(
    service: HealthProcess, proxies: list[StandIn], protocol: int, name: str
) -> None:
    port = service.sentinel_port  # type: ignore[attr-defined]
    sentinel = redis.sentinel.Sentinel([("127.0.0.1", port)], sentinel_kwargs={"protocol": protocol})
    host, first = sentinel.discover_master(name)
    assert host == "127.0.0.1"
    assert sentinel.discover_master(name) == (host, first), "the same as long as it is healthy"
    others = {address[1] for address in sentinel.discover_slaves(name)}
    assert {first, *others} == {one.port for one in proxies}
    next(one for one in proxies if one.port == first).close()
    until("another is told", lambda: sentinel.discover_master(name)[1] in others)
    with pytest.raises(redis.sentinel.MasterNotFoundError):
        sentinel.discover_master("nobody")


@pytest.mark.parametrize("protocol", [2, 3])
def test_whoever_listens_hears_of_the_switch(
    service: HealthProcess, proxies: list[StandIn], protocol: int
) -> None:
    port = service.sentinel_port  # type: ignore[attr-defined]
    client = redis.Redis(port=port, protocol=protocol, decode_responses=True)
    before = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop")
    listening = client.pubsub()
    listening.subscribe("+switch-master")
    until("subscribed", lambda: listening.get_message(timeout=1))
    next(one for one in proxies if str(one.port) == before[1]).close()
    message = until("it is told", lambda: listening.get_message(timeout=1))
    name, old_host, old_port, _, new_port = message["data"].split()
    assert (name, [old_host, old_port]) == ("shop", before)
    assert new_port in {str(one.port) for one in proxies}
    assert client.info()["redis_mode"] == "sentinel"


@pytest.mark.parametrize(
    "noise",
    [b"*-1\r\n", b"*99999999\r\n", b"*1\r\n$9999999\r\n", b"*1\r\n:5\r\n", b"x" * 20000, b"\x00\xff\r\n"],
)
def test_noise_gets_an_error_and_harms_nobody(service: HealthProcess, noise: bytes) -> None:
    port = service.sentinel_port  # type: ignore[attr-defined]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(noise)
        assert connection.recv(100).startswith(b"-")
    assert redis.Redis(port=port).ping()
