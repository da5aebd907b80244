"""One node for the real clients, started as an operator starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.allowed import unfinished
from tests.conformance.servers import Server, ServerFailedError, start_ours

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        server = start_ours(tmp_path_factory.mktemp("clients"))
    except ServerFailedError as failure:
        if "node" in unfinished():
            pytest.skip(f"no node can be started yet: {failure}")
        pytest.fail(str(failure))
    yield server
    server.stop()


@pytest.fixture
def node(shared_node: Server) -> Iterator[Server]:
    """The node, empty."""
    shared_node.clean()
    yield shared_node
    shared_node.hang_up()
    assert shared_node.alive(), shared_node.log.read_text(errors="replace")[-3000:]
