"""Clusters for tests; whatever a test leaves running is stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.embedded import Embedded, free_ports


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    """Room for a cluster of up to fifty nodes; nothing runs yet."""
    cluster = Embedded(tmp_path / "cluster", free_ports(50))
    yield cluster
    cluster.call("down")
