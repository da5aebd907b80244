"""Two servers for the whole session: the real Redis and our node, and the list of allowed differences."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.conformance.allowed import FILE, Allowed, unfinished
from tests.conformance.fleet import start_fleet
from tests.conformance.servers import Server, ServerFailedError, redis_binary, start_ours, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption(
        "--conformance-commands", type=int, default=100_000, help="random commands sent to both servers"
    )
    group.addoption(
        "--conformance-target",
        choices=("node", "fleet"),
        default="node",
        help="what is compared with Redis: a node, or four nodes behind HAProxy and a proxy",
    )
    group.addoption("--conformance-seed", type=int, default=7015, help="seed of the random commands; 0: any")


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real redis-server."""
    if redis_binary() is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server 7.0 must be installed: conformance is proved against it")
        pytest.skip("redis-server 7.0 is not installed: nothing to compare with")
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fleet(request: pytest.FixtureRequest) -> bool:
    """Whether many nodes are compared as if they were one."""
    return bool(request.config.getoption("--conformance-target") == "fleet")


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory, fleet: bool) -> Iterator[Server]:
    """Our node, or our fleet."""
    if fleet:
        many = start_fleet(tmp_path_factory.mktemp("f"))
        yield many
        many.stop()
        return
    try:
        server = start_ours(tmp_path_factory.mktemp("ours"))
    except ServerFailedError as failure:
        if "node" in unfinished():
            pytest.skip(f"no node can be started yet: {failure}")
        pytest.fail(str(failure))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _connections_end_with_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("redis", "ours"):
        if name in request.fixturenames:
            server = request.getfixturevalue(name)
            server.hang_up()
            assert server.alive(), f"{name} died:\n{server.log.read_text(errors='replace')[-3000:]}"


@pytest.fixture(scope="session")
def allowed(fleet: bool) -> Allowed:
    """The differences that are meant."""
    if fleet:
        # A fleet plays the cases alone: what differs elsewhere on one node does not show.
        of_a_node = Allowed.load(FILE, must_show=False).entries
        return Allowed(of_a_node + Allowed.load(FILE.with_name("fleet.toml")).entries)
    return Allowed.load()
