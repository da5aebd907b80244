"""The Celery application that test_celery.py sends tasks to; a worker runs it as a program of its own."""

from __future__ import annotations

import os

import redis
from celery import Celery
from kombu import Queue

URL = os.environ.get("FRAMEWORKS_URL", "redis://127.0.0.1:6379/0")

app = Celery("frameworks", broker=URL, backend=URL)
app.conf.update(
    task_queues=[Queue("urgent"), Queue("later")],
    task_default_queue="later",
    broker_transport_options={"priority_steps": [0, 3, 6, 9], "queue_order_strategy": "priority"},
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@app.task
def add(one: int, other: int) -> int:
    return one + other


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def note(word: str) -> None:
    """Leave a word in a list, so that the order of tasks can be seen."""
    with redis.Redis.from_url(URL) as client:
        client.rpush("order", word)


@app.task(bind=True, max_retries=3)
def stubborn(self: object, key: str) -> int:
    """Fail twice, then succeed."""
    with redis.Redis.from_url(URL) as client:
        tries = int(client.incr(key))
    if tries < 3:
        raise self.retry(countdown=0.1)  # type: ignore[attr-defined]
    return tries
