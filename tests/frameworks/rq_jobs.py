"""What RQ's workers run for test_rq.py."""

from __future__ import annotations


def add(one: int, other: int) -> int:
    return one + other


def fail() -> None:
    raise ValueError("as it should")
