"""What runs is remembered, and a record nobody understands is not guessed at."""

from pathlib import Path

import pytest

from fastcache.embedded import record
from fastcache.embedded.plan import Wish, cluster
from fastcache.embedded.process import Identity
from fastcache.errors import FastCacheError


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    specs = cluster(Wish(settings=(("maxmemory", "1mb"),)), tmp_path)
    running = tuple(record.Running(spec, Identity(100 + i, 5, "boot")) for i, spec in enumerate(specs))
    record.write(tmp_path, running)
    assert record.read(tmp_path) == running


def test_an_empty_record_is_no_record(tmp_path: Path) -> None:
    record.write(tmp_path, ())
    assert record.read(tmp_path) == ()
    assert not (tmp_path / record.FILE).exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 99, "processes": []}', '{"format": 1, "processes": [{}]}']
)
def test_a_record_that_is_not_ours_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE).write_text(text)
    with pytest.raises(FastCacheError, match="not a record we understand") as caught:
        record.read(tmp_path)
    assert "remove" in caught.value.hint


def test_two_at_once_do_not_work_in_one_directory(tmp_path: Path) -> None:
    with (
        record.exclusive(tmp_path),
        pytest.raises(FastCacheError, match="at work"),
        record.exclusive(tmp_path),
    ):
        pass


def test_the_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    with record.exclusive(tmp_path / "new" / "one"):
        assert (tmp_path / "new" / "one").stat().st_mode & 0o777 == 0o700


def test_the_default_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTCACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert record.default_directory() == Path("/state/fastcache")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/ones/do/not/count")
    assert record.default_directory() == Path.home() / ".local/state/fastcache"
    monkeypatch.setenv("FASTCACHE_DIR", "/mine")
    assert record.default_directory() == Path("/mine")
