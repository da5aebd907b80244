"""How fast slots are copied follows what nodes bear."""

from fastcache.health.pace import BEGIN, BUSY_REQUESTS, LEAST, MOST_REST, Pace


def asked(pace: Pace, milliseconds: float, count: int = 100) -> None:
    for _ in range(count):
        pace.note(milliseconds)


def test_without_a_budget_nothing_is_limited() -> None:
    pace = Pace()
    asked(pace, 500)
    assert pace.next(0, 0) == 0


def test_a_budget_of_bytes_holds_whatever_the_answers() -> None:
    pace = Pace()
    asked(pace, 0.1)
    assert pace.next(20e6, 0) == 20_000_000
    assert pace.next(20e6, 5) <= 20_000_000


def test_slow_answers_slow_it_down_and_quick_ones_let_it_go_again_but_never_to_nothing() -> None:
    pace = Pace()
    seen = []
    for _ in range(40):
        asked(pace, 9)
        seen.append(pace.next(0, 5))
    assert seen == sorted(seen, reverse=True)
    assert seen[0] < BEGIN
    assert seen[-1] == LEAST
    for _ in range(200):
        asked(pace, 1)
        seen.append(pace.next(100e6, 5))
    assert seen[-1] == 100_000_000


def test_what_was_slow_long_ago_counts_no_more() -> None:
    pace = Pace()
    pace.next(0, 5)
    before = pace.now
    asked(pace, 1, 99)
    pace.note(50)
    assert pace.p99() == 50
    asked(pace, 1, 101)
    assert pace.next(0, 5) > before


def test_a_change_must_show_before_the_next() -> None:
    pace = Pace()
    asked(pace, 9)
    once = pace.next(0, 5)
    assert pace.next(0, 5) == once


def served(pace: Pace, node: str, a_second: int, since: float = 0.0) -> None:
    for tenth in range(11):
        pace.note_requests(node, a_second * tenth // 10, since + tenth / 10)


def test_moves_begin_far_apart_while_clients_ask_and_at_once_while_nobody_does() -> None:
    pace = Pace()
    pace.note_step(0.02, begins=True)
    served(pace, "a", BUSY_REQUESTS // 2)
    assert pace.rest(0.01) == 0.0
    served(pace, "b", BUSY_REQUESTS * 2)
    assert round(pace.rest(0.01), 6) == 2.0
    served(pace, "b", 1, since=10)  # Another life, in which nobody asks.
    assert pace.rest(0.01) == 0.0


def test_the_rest_follows_what_the_steps_of_a_move_cost_and_has_an_end() -> None:
    pace = Pace()
    served(pace, "a", 10_000)
    assert pace.rest(0.01) == 0.0  # Nothing is known yet.
    for begins in (True, False, False):
        pace.note_step(0.01, begins=begins)
    assert round(pace.rest(0.01), 6) == 3.0
    assert round(pace.rest(1.0), 6) == 0.03
    pace.note_step(0.02, begins=True)
    assert round(pace.rest(0.01), 6) == 2.0
    pace.note_step(0.5)
    assert pace.rest(0.01) == MOST_REST
