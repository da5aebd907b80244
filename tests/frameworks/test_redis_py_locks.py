"""redis-py's locks, which are scripts."""

from __future__ import annotations

import threading

import pytest
import redis


def test_a_lock_is_held_by_one_extended_and_released_by_its_owner(url: str) -> None:
    client = redis.Redis.from_url(url)
    lock, other = client.lock("l", timeout=30), client.lock("l", timeout=30)
    assert lock.acquire(blocking=False)
    assert not other.acquire(blocking=False)
    assert lock.extend(10)
    assert 30_000 < client.pttl("l") <= 40_000
    assert lock.extend(5, replace_ttl=True)
    assert client.pttl("l") <= 5000
    assert lock.reacquire()
    assert client.pttl("l") > 5000
    other.local.token = b"somebody else"
    with pytest.raises(redis.exceptions.LockNotOwnedError):
        other.release()
    lock.release()
    with pytest.raises(redis.exceptions.LockError):
        lock.release()
    assert other.acquire(blocking=False)


def test_a_lock_keeps_threads_apart(url: str) -> None:
    client = redis.Redis.from_url(url)
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(10):
            with client.lock("l", timeout=60, sleep=0.001):
                inside += 1
                most = max(most, inside)
                client.incr("n")
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert client.get("n") == b"40"
