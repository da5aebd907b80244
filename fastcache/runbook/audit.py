"""The audit chain as an operator reads it: fetched whole, checked, and compared with what was seen before.

A chain that somebody made anew holds in itself. So every operator's machine remembers the last entry that it
saw, and the next look finds that entry again, or says that the record was rewritten.
"""

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from fastcache import ledger
from fastcache.runbook.hands import Hands

PAGE = 1000
#: So many entries seen before are remembered.
REMEMBERED = 100


def memory(cluster: str) -> Path:
    """Where this machine remembers the entries it has seen of a cluster."""
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "fastcache" / "audit" / f"{cluster}.json"


def entries(hands: Hands) -> list[ledger.Entry]:
    """The whole chain."""
    found: list[ledger.Entry] = []
    while True:
        after = found[-1].number if found else 0
        page = hands.http("GET", f"/audit?after={after}&limit={PAGE}")
        found += msgspec.convert(page, list[ledger.Entry])
        if len(page) < PAGE:
            return found


def checked(hands: Hands, file: Path) -> dict[str, Any]:
    """The chain, and what is wrong with it; what is seen now is remembered where nothing is."""
    end = hands.http("GET", "/lock")
    chain = entries(hands)
    last = ledger.Ledger(number=end["number"], hash=end["hash"])
    seen = remembered(file)
    wrong = ledger.wrong_in(chain, last, seen)
    if not wrong and chain:
        known = dict(seen) | {chain[-1].number: chain[-1].hash}
        keep = sorted(known.items())[-REMEMBERED:]
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(keep))
        fresh.replace(file)
    return {"number": end["number"], "wrong": wrong, "entries": msgspec.to_builtins(chain)}


def remembered(file: Path) -> list[tuple[int, str]]:
    """Numbers and hashes that this machine saw before."""
    try:
        return [(int(number), str(known)) for number, known in json.loads(file.read_text())]
    except (OSError, ValueError):
        return []
