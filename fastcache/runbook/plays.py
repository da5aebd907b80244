"""A playbook as a step of a task: run it, say what it changed, or the first thing that it failed at."""

import re
from collections.abc import Callable

from fastcache.errors import FastCacheError
from fastcache.runbook.hands import Hands, Played

#: A failure as Ansible prints it, up to the next empty line; and what it says of it, as YAML or as JSON.
FAILED_TASK = re.compile(r"^(?:fatal|failed): \[([^\]]+)\](.*(?:\n.+)*)", re.MULTILINE)
MESSAGE = re.compile(r'"msg": "((?:[^"\\]|\\.)*)"|^( +)msg: (.*(?:\n\2 +.*)*)', re.MULTILINE)


class PlaybookError(FastCacheError):
    """Ansible ended with a failure."""


def played(done: Played, playbook: str) -> Played:
    """What Ansible did, or the first thing it failed at."""
    if done.code:
        found = failures(done.text)
        why = ": ".join(found[0]) if found else " | ".join(done.text.strip().splitlines()[-3:])
        raise PlaybookError(
            f"{playbook}: {why}", "the output above has more; run it again when that is mended"
        )
    return done


def failures(text: str) -> list[tuple[str, str]]:
    """Hosts and why each failed, out of what Ansible printed."""
    found = []
    for host, said in FAILED_TASK.findall(text):
        if message := MESSAGE.search(said):
            words = message[1] if message[1] is not None else " ".join(message[3].split())
            found.append((host, words.strip("'\" ") if message[1] is None else words))
    return found


def playing(hands: Hands, playbook: str, *words: str) -> Callable[[], str]:
    """A step that is a playbook."""

    def act() -> str:
        done = played(hands.play(playbook, *words), playbook)
        changed = {host: count for host, count in done.changed.items() if count}
        return f"changed: {', '.join(f'{host} {count}' for host, count in changed.items()) or 'nothing'}"

    return act
