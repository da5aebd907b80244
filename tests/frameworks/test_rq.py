"""RQ on a node: jobs, results, failures, dependencies, scheduling, several queues."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import redis
from rq import Queue, SimpleWorker
from rq.registry import FailedJobRegistry, ScheduledJobRegistry

from tests.frameworks import rq_jobs
from tests.frameworks.conftest import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


def test_jobs_run_in_order_of_queues_and_depend_on_each_other(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        high, low = Queue("high", connection=client), Queue("low", connection=client)
        slow = low.enqueue(rq_jobs.add, 1, 2)
        fast = high.enqueue(rq_jobs.add, 3, 4)
        after = low.enqueue(rq_jobs.add, 5, 6, depends_on=[slow, fast])
        wrong = low.enqueue(rq_jobs.fail)
        later = low.enqueue_in(timedelta(hours=1), rq_jobs.add, 7, 8)
        assert SimpleWorker([high, low], connection=client).work(burst=True)
        assert [job.return_value(refresh=True) for job in (slow, fast, after)] == [3, 7, 11]
        for job in (fast, slow):
            job.refresh()
        assert fast.ended_at
        assert slow.started_at
        assert fast.ended_at < slow.started_at
        assert wrong.get_status(refresh=True) == "failed"
        assert FailedJobRegistry(queue=low).get_job_ids() == [wrong.id]
        assert ScheduledJobRegistry(queue=low).get_job_ids() == [later.id]
        assert low.empty() == 0


def test_a_worker_of_its_own_takes_jobs_while_it_waits(
    url: str, program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    program("rq.cli", "worker", "--url", url, "--with-scheduler", "work")
    with redis.Redis.from_url(url) as client:
        queue = Queue("work", connection=client)
        until(lambda: client.scard("rq:workers") == 1, "the worker has come")
        jobs = [queue.enqueue(rq_jobs.add, number, 1) for number in range(20)]
        soon = queue.enqueue_in(timedelta(seconds=1), rq_jobs.add, 40, 2)
        until(lambda: all(job.is_finished for job in jobs), "twenty jobs ran")
        assert [job.return_value() for job in jobs] == list(range(1, 21))
        until(lambda: soon.is_finished, "the scheduled job ran")
        assert soon.return_value() == 42
