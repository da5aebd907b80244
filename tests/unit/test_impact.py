"""What moving slots costs those who ask, meanwhile and normally."""

from fastcache.health.impact import Impact, Lookups, hit_rate


def test_of_the_reads_in_between_some_found_their_key() -> None:
    before = {"a": Lookups(100, 100), "b": Lookups(5, 5)}
    after = {"a": Lookups(190, 110), "b": Lookups(5, 5)}
    assert hit_rate(before, after) == 0.9
    assert hit_rate(after, after) is None, "nobody has read anything"


def test_a_node_that_starts_anew_or_joins_counts_from_nothing() -> None:
    before = {"a": Lookups(100, 100)}
    assert hit_rate(before, {"a": Lookups(3, 1)}) == 0.75
    assert hit_rate(before, {"a": Lookups(100, 100), "new": Lookups(1, 3)}) == 0.25


def test_what_is_normal_ends_where_a_rebalance_begins_and_begins_where_the_last_one_ended() -> None:
    impact = Impact()
    assert (impact.normal, impact.during) == (None, None)
    impact.begin()
    impact.count({"a": Lookups(900, 100)})
    assert (impact.normal, impact.during) == (0.9, None)
    impact.count({"a": Lookups(905, 105)})
    impact.count({"b": Lookups(0, 10)})
    assert (impact.normal, impact.during) == (0.9, 0.25)
    impact.begin()
    assert impact.during is None
    impact.count({"a": Lookups(908, 105), "b": Lookups(0, 11)})
    assert impact.normal == 0.75


def test_how_long_answers_take_normally_is_kept_from_before() -> None:
    impact = Impact()
    impact.begin()
    assert impact.normal_ms is None
    for milliseconds in range(1, 301):
        impact.note(milliseconds)
    impact.begin()
    impact.note(10_000)
    assert impact.normal_ms == 300
