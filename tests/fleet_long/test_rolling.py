"""Another release by `fab rolling-upgrade` under load, and the way back: one story on lab hosts.

First with copies that follow, then in strict mode, where a write is answered only when the copies have it.
"""

from typing import Any

import pytest

from tests.fleet.lab import Lab, what_is_missing

from .runbook import Runbook

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 3
#: Two copies: while one host starts again, a write still has a copy that can confirm it.
SETTINGS_OF_ALL: dict[str, Any] = {"fastcache_replicas": 2}


def judged(lab: Lab, seen: dict[str, Any]) -> None:
    """Nobody was refused, and nobody waited long."""
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen
    # On the way of a request lie five programs, and a busy machine may let each of them oversleep.
    assert seen["gap"] <= 0.2 + 5 * seen["stall"], f"{seen}\n{lab.journals(until=seen['gap_ended'])}"


def forth_and_back(lab: Lab, fab: Runbook, what: str) -> None:
    """To the next release and back, each under load and judged by itself."""
    bundle = str(lab.scratch / "next") if (lab.scratch / "next").exists() else lab.next_release()
    for words in (("rolling-upgrade", "--bundle", bundle), ("rollback",)):
        seen: dict[str, Any] = {}
        with lab.load(seen):
            done = fab.json(*words, "--yes")
        print(f"{what}, {words[0]} under load: {seen}")
        assert done["outcome"] == "done"
        on_next = [lab.on(f"h{n}", "readlink /opt/fastcache/current").endswith("-next") for n in (1, 2, 3)]
        assert on_next == [words[0] == "rolling-upgrade"] * HOSTS
        lab.shares(HOSTS)
        judged(lab, seen)


def test_an_upgrade_and_its_way_back_are_noticed_by_nobody(lab: Lab) -> None:
    fab = Runbook(lab)
    assert fab.json("deploy", "--yes")["outcome"] == "done"
    forth_and_back(lab, fab, "copies follow")


def test_nor_are_they_in_strict_mode(lab: Lab) -> None:
    lab.settings["fastcache_strict"] = True
    fab = Runbook(lab, "strict")
    assert fab.json("deploy", "--yes")["outcome"] == "done"
    forth_and_back(lab, fab, "strict")
