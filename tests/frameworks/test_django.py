"""Django's own Redis cache and django-redis on a node, sessions in the cache included."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = ["django.core.cache.backends.redis.RedisCache", "django_redis.cache.RedisCache"]


@pytest.fixture(params=BACKENDS)
def cache(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    from django.conf import settings
    from django.core.cache import caches
    from django.test.utils import override_settings

    if not settings.configured:
        settings.configure()
    with override_settings(
        CACHES={"default": {"BACKEND": request.param, "LOCATION": url}},
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
    ):
        yield caches["default"]
        caches.close_all()


def test_values_live_as_long_as_they_are_told(cache: Any) -> None:
    cache.set("a", {"any": ["value", 1, None]}, timeout=60)
    assert cache.get("a") == {"any": ["value", 1, None]}
    assert cache.get("none", "default") == "default"
    assert cache.add("a", 1) is False
    assert cache.add("b", 1) is True
    assert cache.incr("b", 41) == 42
    assert cache.decr("b") == 41
    with pytest.raises(ValueError, match="not found"):
        cache.incr("none")
    cache.set("short", 1, timeout=1)
    assert cache.touch("a", 120) is True
    assert cache.touch("none") is False
    time.sleep(1.2)  # A second is the shortest time that Django tells.
    assert cache.get("short") is None
    assert cache.has_key("a")


def test_many_at_once_versions_and_computed_values(cache: Any) -> None:
    assert not cache.set_many({f"k{number}": number for number in range(50)})
    assert cache.get_many(["k1", "k49", "none"]) == {"k1": 1, "k49": 49}
    cache.delete_many([f"k{number}" for number in range(40)])
    assert len(cache.get_many([f"k{number}" for number in range(50)])) == 10
    cache.set("v", "old", version=1)
    assert cache.incr_version("v") == 2
    assert cache.get("v", version=2) == "old"
    assert cache.get_or_set("computed", lambda: 7) == 7
    assert cache.get("computed") == 7
    cache.clear()
    assert cache.get("k49") is None


def test_sessions_are_kept_in_the_cache(cache: Any) -> None:
    from importlib import import_module

    store = import_module("django.contrib.sessions.backends.cache").SessionStore
    session = store()
    session["user"] = 7
    session.save()
    again = store(session.session_key)
    assert again["user"] == 7
    again.flush()
    assert store(session.session_key).get("user") is None


def test_what_only_django_redis_can(url: str, cache: Any) -> None:
    if not hasattr(cache, "ttl"):
        pytest.skip("Django's own cache has none of this")
    cache.set("t", 1, timeout=100)
    assert 98 <= cache.ttl("t") <= 100
    assert cache.persist("t")
    assert cache.ttl("t") is None
    assert cache.expire("t", timeout=50)
    cache.set_many({"x:1": 1, "x:2": 2, "y": 3})
    assert sorted(cache.keys("x:*")) == ["x:1", "x:2"]
    assert sorted(cache.iter_keys("x:*")) == ["x:1", "x:2"]
    assert cache.delete_pattern("x:*") == 2
    with cache.lock("lock", timeout=5):
        assert not cache.lock("lock", timeout=5).acquire(blocking=False)
