"""What the hit rate loses when slots move: nothing, unless those who get them lack the room."""

from fastcache.health.cost import Size, dip

MOVED = [{"to": "b", "bytes": 300}, {"to": "b", "bytes": 100}, {"to": "c", "bytes": 200}]


def test_data_moves_along_so_nothing_is_missed() -> None:
    assert dip(MOVED, {"a": Size(bytes=1000), "b": Size(), "c": Size(used=50, most=250)}) == 0


def test_what_does_not_fit_is_missed_but_never_more_than_comes() -> None:
    sizes = {"a": Size(bytes=1000), "b": Size(used=200, most=500), "c": Size(used=900, most=100)}
    assert dip(MOVED, sizes) == (100 + 200) / 1000


def test_a_cluster_without_data_has_no_dip() -> None:
    assert dip([], {}) == 0
