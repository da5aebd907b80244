"""Celery with a node as broker and store of results: queues, priorities, chords, retries, remote control."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.frameworks.conftest import PATIENCE, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

WORKER = ("celery", "-A", "tests.frameworks.celery_app", "worker", "--pool", "solo", "--loglevel", "INFO")


@pytest.fixture
def tasks(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The application, sending to this node."""
    monkeypatch.setenv("FRAMEWORKS_URL", url)
    return importlib.reload(importlib.import_module("tests.frameworks.celery_app"))


def test_tasks_run_by_priority_and_their_results_come_back(
    tasks: Any, url: str, program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    # All is sent before a worker is there: what runs first hangs on the queues alone.
    for word, priority in [("low", 9), ("middle", 3), ("high", 0), ("low again", 9)]:
        tasks.note.apply_async((word,), queue="later", priority=priority)
    tasks.note.apply_async(("other queue",), queue="urgent")
    worker = program(*WORKER, "-Q", "urgent,later")
    with redis.Redis.from_url(url, decode_responses=True) as client:
        until(lambda: client.llen("order") == 5 or worker.poll() is not None, "five tasks ran")
        order = client.lrange("order", 0, -1)
    later = [word for word in order if word != "other queue"]
    assert later == ["high", "middle", "low", "low again"]

    assert tasks.add.delay(2, 3).get(timeout=PATIENCE) == 5
    sums = [tasks.add.s(number, number) for number in range(10)]
    group = importlib.import_module("celery").chord(sums)(tasks.total.s())
    assert group.get(timeout=PATIENCE) == 90
    chain = tasks.add.s(1, 2) | tasks.add.s(10) | tasks.add.s(100)
    assert chain().get(timeout=PATIENCE) == 113
    assert tasks.stubborn.delay("tries").get(timeout=PATIENCE) == 3
    assert tasks.app.control.ping(timeout=5.0)
    active = tasks.app.control.inspect(timeout=5.0).stats()
    assert active
    assert all(figures["total"] for figures in active.values())


def test_a_task_for_later_waits_and_a_revoked_one_does_not_run(
    tasks: Any, url: str, program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    program(*WORKER, "-Q", "urgent,later")
    until(lambda: tasks.app.control.ping(timeout=1.0), "the worker answers")
    never = tasks.note.apply_async(("never",), countdown=3)
    never.revoke()
    soon = tasks.add.apply_async((20, 1), countdown=1)
    assert soon.get(timeout=PATIENCE) == 21
    until(lambda: never.state == "REVOKED", "the task is revoked")
    with redis.Redis.from_url(url) as client:
        assert client.llen("order") == 0
