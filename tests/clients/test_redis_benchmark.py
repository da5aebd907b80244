"""redis-benchmark's default tests run without an error."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conformance.servers import Server

TESTS = (
    "ping_inline,ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,"
    "lrange_100,lrange_300,lrange_500,lrange_600,mset"
)


@pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")
@pytest.mark.parametrize("options", ["", "-P 16 -r 1000", "-3"], ids=["single", "pipelined", "resp3"])
def test_every_default_test_runs_without_error(node: Server, options: str) -> None:
    command = ["redis-benchmark", "-p", str(node.port), "-n", "2000", "-c", "20", "-q"]
    ended = subprocess.run(
        [*command, *options.split(), "-t", TESTS], capture_output=True, timeout=120, check=False
    )
    shown = ended.stdout.decode() + ended.stderr.decode()
    assert ended.returncode == 0, shown
    assert "rror" not in shown, shown
    assert "WARNING" not in shown, shown
    assert shown.count("requests per second") >= 19, shown
