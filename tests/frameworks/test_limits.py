"""The `limits` library (Flask-Limiter, slowapi) on a node: all its strategies, which are scripts."""

from __future__ import annotations

import time
from typing import Any

import pytest
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond, strategies
from limits.storage import storage_from_string

STRATEGIES = [
    strategies.FixedWindowRateLimiter,
    strategies.MovingWindowRateLimiter,
    strategies.SlidingWindowCounterRateLimiter,
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.__name__)
def test_no_more_than_the_limit_is_let_through(url: str, strategy: Any) -> None:
    storage = storage_from_string(url)
    assert storage.check()
    limiter, limit = strategy(storage), RateLimitItemPerMinute(5)
    if time.time() % 60 > 55:
        time.sleep(60 - time.time() % 60)  # A window that is about to end would let more through.
    assert [limiter.hit(limit, "ann") for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.hit(limit, "bob")
    assert not limiter.test(limit, "ann")
    stats = limiter.get_window_stats(limit, "ann")
    assert stats.remaining == 0
    assert stats.reset_time > time.time()
    limiter.clear(limit, "ann")
    assert limiter.hit(limit, "ann")
    storage.reset()


def test_a_window_passes(url: str) -> None:
    limiter = strategies.MovingWindowRateLimiter(storage_from_string(url))
    limit = RateLimitItemPerSecond(2, 1)
    assert [limiter.hit(limit, "ann") for _ in range(3)] == [True, True, False]
    deadline = time.monotonic() + 30
    while not limiter.test(limit, "ann"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
