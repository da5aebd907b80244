"""The lock, unfinished work and the audit chain: who may act, and was the record changed?"""

import msgspec
import pytest

from fastcache import ledger
from fastcache.ledger import BEGINNING, Entry, HeldError, Ledger, appended, wrong_in


def locked(owner: str = "ann@a", task: str = "rolling-restart", now: float = 1000.0) -> Ledger:
    return ledger.taken(Ledger(), owner, task, 60, now)


def test_a_lock_that_another_holds_is_refused_with_the_name_of_the_holder() -> None:
    with pytest.raises(HeldError, match="ann@a holds the lock for rolling-restart, for 50 seconds more"):
        ledger.taken(locked(), "bob@b", "deploy", 60, 1010.0)


def test_a_lock_that_ran_out_passes_to_the_next_and_the_first_holder_learns_it() -> None:
    after = ledger.taken(locked(), "bob@b", "deploy", 60, 1060.0)
    assert ledger.held(after, 1061.0)
    with pytest.raises(HeldError, match="passed to bob@b for deploy"):
        ledger.renewed(after, 1, 60, 1062.0)


def test_a_lock_that_ran_out_is_still_renewed_while_nobody_took_it() -> None:
    again = ledger.renewed(locked(), 1, 60, 1500.0)
    assert again.lock
    assert again.lock.until == 1560.0


def test_a_broken_lock_stops_its_holder() -> None:
    with pytest.raises(HeldError, match="broken or released"):
        ledger.renewed(ledger.broken(locked()), 1, 60, 1001.0)


def test_no_two_holders_have_the_same_token() -> None:
    second = ledger.taken(ledger.released(locked(), 1), "bob@b", "deploy", 60, 1001.0)
    assert second.lock
    assert second.lock.token == 2


def test_the_same_task_with_the_same_arguments_goes_on_where_it_stopped() -> None:
    now = ledger.begun(locked(), 1, {"only": ""}, 1000.0, fresh=False)
    now = ledger.stepped(now, 1, "node-a")
    now = ledger.released(ledger.ended(now, 1, "node-b does not serve"), 1)
    assert now.unfinished["rolling-restart"].stopped == "node-b does not serve"
    now = ledger.taken(now, "bob@b", "rolling-restart", 60, 2000.0)
    assert ledger.begun(now, 2, {"only": ""}, 2000.0, fresh=False).unfinished["rolling-restart"].done == (
        "node-a",
    )
    assert ledger.begun(now, 2, {"only": "h2"}, 2000.0, fresh=False).unfinished["rolling-restart"].done == ()
    assert ledger.begun(now, 2, {"only": ""}, 2000.0, fresh=True).unfinished["rolling-restart"].done == ()


def test_a_task_that_came_to_its_end_is_forgotten() -> None:
    now = ledger.begun(locked(), 1, {}, 1000.0, fresh=False)
    assert ledger.ended(now, 1, "").unfinished == {}


def chain(count: int) -> tuple[Ledger, list[Entry]]:
    now, entries = Ledger(), []
    for number in range(count):
        now, entry = appended(
            now, f"2026-11-26T10:00:{number:02}Z", ("ann@a", "deploy", "step", {"n": str(number)})
        )
        entries.append(entry)
    return now, entries


def test_a_whole_chain_holds() -> None:
    last, entries = chain(5)
    assert entries[0].before == BEGINNING
    assert wrong_in(entries, last, [(3, entries[2].hash)]) == ""
    assert wrong_in([], Ledger()) == ""


@pytest.mark.parametrize("field", ["at", "owner", "task", "event", "fields", "before"])
def test_a_changed_entry_is_found(field: str) -> None:
    last, entries = chain(5)
    value = {"n": "another"} if field == "fields" else "another"
    entries[2] = msgspec.structs.replace(entries[2], **{field: value})
    assert "entry 3 is not what was written" in wrong_in(entries, last)


def test_a_changed_entry_with_its_hash_made_anew_is_found_by_the_next() -> None:
    last, entries = chain(5)
    forged = msgspec.structs.replace(entries[2], owner="eve@e")
    entries[2] = msgspec.structs.replace(forged, hash=ledger.hash_of(forged))
    assert "entry 4 does not follow entry 3" in wrong_in(entries, last)


def test_entries_taken_out_are_found_wherever_they_were() -> None:
    last, entries = chain(5)
    assert "does not follow" in wrong_in(entries[:2] + entries[3:], last)
    assert "entries are missing there" in wrong_in(entries[:4], last)
    assert "entries are missing there" in wrong_in([], last)


def test_a_chain_written_anew_from_the_beginning_is_found_by_what_was_seen_before() -> None:
    _, entries = chain(5)
    seen = [(4, entries[3].hash)]
    forged_end, forged = Ledger(), []
    for number in range(6):
        forged_end, entry = appended(
            forged_end, "2026-11-26T11:00:00Z", ("eve@e", "deploy", "step", {"n": str(number)})
        )
        forged.append(entry)
    assert wrong_in(forged, forged_end) == ""
    assert "cut or written anew" in wrong_in(forged, forged_end, seen)
    assert "cut or written anew" in wrong_in([], Ledger(), seen)
