"""Frameworks that stand on Redis, unmodified, on a node: task queues, Django, rate limits."""
