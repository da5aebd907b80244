"""A node that is to stop asks for somebody to take over, again and again while there is time."""

import itertools

import pytest

from fastcache.daemon import follow
from fastcache.daemon.follow import Follower
from fastcache.daemon.lean import HAND_OVER_SECONDS, Log

BODY = '{"node": "a"}'
NOT_YET = (503, b'{"error": "any copy of a is not in sync"}')
DONE = (200, b"{}")


class World:
    """A clock that moves only while somebody waits, and services that answer as they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: "tuple[int, bytes] | Exception") -> None:
        self.now, self.asked, self.pauses = 1000.0, list[tuple[float, str, float]](), list[float]()
        # The last answer is given for ever.
        self.answers = itertools.chain(answers[:-1], itertools.repeat(answers[-1]))
        self.takes = 0.01
        monkeypatch.setattr(follow, "time", self)
        monkeypatch.setattr(follow, "exchange", self.exchange)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def exchange(
        self, place: str, method: str, target: str, seconds: float, *, body: str = ""
    ) -> tuple[int, bytes]:
        assert (method, target, body) == ("POST", "/leaving", BODY)
        assert seconds > 0
        self.asked.append((self.now - 1000, place, seconds))
        answer = next(self.answers)
        self.now += min(self.takes, seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer


def follower(*places: str) -> Follower:
    return Follower({"health": " ".join(places)}, Log("test", json=False), lambda _: None, keeps=False)


def test_somebody_takes_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, DONE)
    assert follower("h1:1", "h2:1").leave(BODY) == ""
    assert [place for _, place, _ in world.asked] == ["h1:1"]
    assert world.pauses == []


@pytest.mark.parametrize("trouble", [NOT_YET, ConnectionRefusedError(), TimeoutError(), (307, b"")])
def test_who_has_no_answer_yet_is_asked_again_and_ever_later(
    monkeypatch: pytest.MonkeyPatch, trouble: tuple[int, bytes] | Exception
) -> None:
    world = World(monkeypatch, *[trouble] * 12, DONE)
    assert follower("h1:1", "h2:1").leave(BODY) == ""
    assert [place for _, place, _ in world.asked] == ["h1:1", "h2:1"] * 6 + ["h1:1"]
    assert world.pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize("status", [404, 409])
def test_a_last_word_is_the_last(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    world = World(monkeypatch, (status, b"replication is off"))
    assert follower("h1:1", "h2:1").leave(BODY) == "replication is off"
    assert (len(world.asked), world.pauses) == (1, [])


@pytest.mark.parametrize("takes", [0.01, 0.7, 60.0])
def test_it_ends_in_time_and_says_why_nobody_took_over(monkeypatch: pytest.MonkeyPatch, takes: float) -> None:
    """However slow the answers are: the stop does not wait for longer than HAND_OVER_SECONDS."""
    world = World(monkeypatch, NOT_YET)
    world.takes = takes
    assert "any copy of a is not in sync" in follower("h1:1", "h2:1").leave(BODY)
    assert world.now - 1000 <= follow.LEAVE_SECONDS < HAND_OVER_SECONDS
    assert all(at + seconds <= follow.LEAVE_SECONDS + 0.001 for at, _, seconds in world.asked)
    if takes < 1:
        assert world.asked[-1][0] > follow.LEAVE_SECONDS - 3, "it has used its time"


def test_nobody_to_ask_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, DONE)
    assert follower().leave(BODY) == "no health service answers"
    assert (world.asked, world.pauses) == ([], [])
