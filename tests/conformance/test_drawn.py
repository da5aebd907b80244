"""No command is forgotten: each is drawn at random, or it is said here where it is tested instead.

(The fuzzer in rust/core/tests/fuzz.rs draws from the table itself and fails when it misses a row.)
"""

from fastcache import _core
from tests.conformance.random_commands import TEMPLATES

# Groups of commands about servers, connections and clients: what they answer is not a matter of keys alone.
ELSEWHERE = {"server", "cluster", "connection", "pubsub", "scripting", "transactions"}
UNDRAWN = {
    "dump": "test_payloads.py: payloads of Redis and ours differ in form",
    "restore": "test_payloads.py",
    "wait": "server.case: what it answers depends on replicas",
    "georadiusbymember_ro": "geo.case; it is GEORADIUSBYMEMBER without STORE",
    "pfselftest": "hyperloglog.case; it looks at no key",
}


def test_every_command_on_keys_is_drawn_at_random_or_accounted_for() -> None:
    drawn = {line.split()[0].lower() for text in TEMPLATES.values() for line in text.strip().splitlines()}
    missing = [
        f"{name} ({group})"
        for name, _, group, _, _ in _core.command_table()
        if "|" not in name and group not in ELSEWHERE and name not in drawn and name not in UNDRAWN
    ]
    assert not missing, f"neither in random_commands.TEMPLATES nor in UNDRAWN: {', '.join(missing)}"
    assert not drawn.intersection(UNDRAWN), "drawn after all: take it out of UNDRAWN"
