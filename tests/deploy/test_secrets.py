"""Secrets that the toolkit makes: once, whole, for their owner alone, whoever is killed meanwhile."""

import multiprocessing
import os
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible.errors import AnsibleError

from .conftest import load

secret = load("roles/fastcache/lookup_plugins/fastcache_secret.py")


def asks_for_ever(path: str) -> None:
    while True:
        secret.secret_in(path)
        if path.endswith("made"):
            os.unlink(path)


def killed_while_asking(path: Path, seconds: float) -> None:
    process = multiprocessing.get_context("fork").Process(target=asks_for_ever, args=(str(path),))
    process.start()
    time.sleep(seconds)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "requirepass"
    first = secret.secret_in(str(file))
    assert len(first) == 40
    assert first.isalnum()
    assert secret.secret_in(str(file)) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == ["requirepass"]


def test_all_who_ask_at_once_hear_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        for number in range(50):
            told = set(threads.map(secret.secret_in, [str(tmp_path / f"secret-{number}")] * 16))
            assert len(told) == 1


def test_a_run_that_is_killed_while_it_asks_or_makes_leaves_nothing_that_stops_the_next(
    tmp_path: Path,
) -> None:
    kept = secret.secret_in(str(tmp_path / "kept"))
    for number in range(20):
        killed_while_asking(tmp_path / "kept", 0.002 * number)
        assert secret.secret_in(str(tmp_path / "kept")) == kept
        killed_while_asking(tmp_path / "made", 0.002 * number)
        assert len(secret.secret_in(str(tmp_path / "made"))) == 40


def test_an_empty_secret_is_told_and_not_taken(tmp_path: Path) -> None:
    (tmp_path / "admin-key").write_text("\n")
    with pytest.raises(AnsibleError, match="is empty: put the cluster's secret into it"):
        secret.secret_in(str(tmp_path / "admin-key"))


def test_where_no_secret_can_be_kept_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnsibleError, match="can be neither read nor made"):
        secret.secret_in(str(tmp_path / "file" / "admin-key"))
