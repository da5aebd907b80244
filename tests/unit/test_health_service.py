"""Settings, composition and the SQLite store of the health service, without processes or sockets."""

import json
from pathlib import Path

import pytest

from fastcache import _core
from fastcache.errors import ConfigurationError, FastCacheError
from fastcache.health import compose
from fastcache.health.decide import Judgement
from fastcache.health.registry import Member, Record
from fastcache.health.settings import Settings, judged, rendered
from fastcache.health.store import DeposedError, Stored
from fastcache.health.store.sqlite import SqliteStore
from fastcache.model import Health

SHAPE = compose.Shape("shop", "c-1")


def records(count: int, status: Health = Health.HEALTHY) -> list[Record]:
    return [
        Record(Member(id=f"n{n}", host=f"h{n}", port=7001), Judgement(status)) for n in range(1, count + 1)
    ]


def composed(members: list[Record], before: compose.Document, **how: bool) -> compose.Document:
    return compose.compose(SHAPE, members, before, **({"place_now": True, "admit": True} | how))


def mains(document: compose.Document) -> dict[str, int]:
    topology = _core.Topology(json.dumps(document).encode())
    held: dict[str, int] = {}
    for slot in range(16384):
        for name in topology.holders(slot)[:1]:
            held[name] = held.get(name, 0) + 1
    return held


def test_nodes_share_the_slots_and_a_verdict_moves_none() -> None:
    first = composed(records(4), {})
    assert mains(first) == {"n1": 4096, "n2": 4096, "n3": 4096, "n4": 4096}
    second = composed([*records(3), Record(records(4)[3].member, Judgement(Health.UNHEALTHY))], first)
    assert second["slots"] == first["slots"]
    assert [node["state"] for node in second["nodes"]] == ["up", "up", "up", "down"]
    assert compose.differs(second, first)
    assert not compose.differs(composed(records(4), first), first)


def test_a_node_that_joins_leaves_slots_where_their_data_is() -> None:
    before = composed(records(3), {})
    for admit in (False, True):
        joined = composed(records(4), before, admit=admit)
        assert joined["slots"] == before["slots"]
        assert [node["id"] for node in joined["nodes"]] == ["n1", "n2", "n3", "n4"]


def test_an_operator_s_weight_outranks_that_of_the_member() -> None:
    shape = compose.Shape("shop", "c-1", weights=(("n2", 0),))
    document = compose.compose(shape, records(3), {}, place_now=True, admit=True)
    assert [node["weight"] for node in document["nodes"]] == [100, 0, 100]
    assert set(mains(document)) == {"n1", "n3"}


def test_slots_of_a_node_that_left_find_another_home_even_without_admission() -> None:
    before = composed(records(3), {})
    after = composed(records(2), before, admit=False)
    assert sum(mains(after).values()) == 16384
    assert set(mains(after)) == {"n1", "n2"}


def test_without_nodes_there_are_no_slots() -> None:
    assert composed([], composed(records(2), {}))["slots"] == []


def test_no_slots_are_placed_before_it_is_time() -> None:
    assert composed(records(3), {}, place_now=False)["slots"] == []


def test_sqlite_remembers_members_and_the_last_epoch(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, "http://me")
    assert store.load() is None
    store.save(Stored(1, b"one", b"[]"), after=0)
    store.save(Stored(5, b"five", b'["m"]', b"{}"), after=1)
    store.close()
    again = SqliteStore(tmp_path, "http://me")
    assert again.load() == Stored(5, b"five", b'["m"]', b"{}")
    assert again.epoch() == 5
    again.close()


@pytest.mark.parametrize(("epoch", "after"), [(2, 0), (1, 1), (3, 2)])
def test_sqlite_refuses_what_does_not_follow_the_last_epoch(tmp_path: Path, epoch: int, after: int) -> None:
    store = SqliteStore(tmp_path, "http://me")
    store.save(Stored(1, b"one", b"[]"), after=0)
    with pytest.raises(DeposedError):
        store.save(Stored(epoch, b"x", b"[]"), after=after)
    assert store.load() == Stored(1, b"one", b"[]")
    store.close()


def test_two_services_never_share_a_directory(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, "http://me")
    with pytest.raises(FastCacheError, match="another health service"):
        SqliteStore(tmp_path, "http://you")
    store.close()


def test_a_damaged_store_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "health.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(FastCacheError, match="cannot be read") as caught:
        SqliteStore(tmp_path, "http://me")
    assert "register anew" in caught.value.hint


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"intervall": 1}, "there is no setting 'intervall'"),
        ({"interval": -1}, "interval"),
        ({"profile": "quick"}, "profile"),
        ({"port": 70000}, "port"),
        ({"nodes": [{"id": "a", "host": "h", "prot": 1}]}, "prot"),
        ({"nodes": [{"id": "a", "host": "h"}, {"id": "a", "host": "h"}]}, "a is listed twice"),
    ],
)
def test_bad_settings_are_refused_by_name(table: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        judged(table, "health.toml", {})


def test_the_profile_is_the_base_of_what_is_set_besides() -> None:
    pace = judged({"profile": "fast", "timeout": 2, "down-after": 5}, "x", {}).pace
    assert (pace.interval, pace.timeout, pace.down_after, pace.up_after) == (0.3, 2, 5, 2)
    assert judged({"interval": 1}, "x", {}).pace.suspect_interval == 1


def test_printed_settings_are_a_file_that_means_the_same() -> None:
    import tomllib

    table = {"profile": "fast", "flags": ["replication"], "nodes": [{"id": "a", "host": "h", "port": 1}]}
    settings = judged(table, "x", {"admin-key": "secret-1"})
    text = rendered(settings)
    assert "secret-1" not in text
    assert judged(tomllib.loads(text), "x", {"admin-key": "secret-1"}) == settings
    assert judged(tomllib.loads(rendered(Settings())), "x", {}) == Settings()
