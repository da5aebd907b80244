"""A secret of the cluster from its file on the controller, made where there is none yet.

ansible.builtin.password takes a lock for every look, and a run that is killed meanwhile leaves it: all later
runs would fail. It also writes in place, so that half a secret may stay. Here the file appears with its
content or not at all, the first who makes it is right, and a run that is killed leaves a draft that nobody
reads, at most.
"""

import contextlib
import os
import secrets
import string
import tempfile
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: fastcache_secret
short_description: Read a secret from a file, and make it first where there is none
description:
  - Several processes may ask at once, and any of them may be killed; all that are answered hear the same.
options:
  _terms:
    description: Files on the controller, one secret each.
    required: true
"""

EXAMPLES = r"""
- name: What clients say
  ansible.builtin.set_fact:
    said: "{{ lookup('fastcache_secret', '/srv/secrets/requirepass') }}"
"""

RETURN = r"""
_raw:
  description: The secrets.
  type: list
  elements: str
"""

LETTERS = string.ascii_letters + string.digits
LENGTH = 40


class LookupModule(LookupBase):  # type: ignore[misc]
    """fastcache_secret, as settings call it."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:  # noqa: ARG002
        return [secret_in(str(path)) for path in terms]


def secret_in(path: str) -> str:
    """What the file holds."""
    try:
        if not os.path.lexists(path):
            make(path)
        with open(path, encoding="utf-8") as file:
            secret = file.read().strip()
    except OSError as error:
        raise AnsibleError(f"{path}: the secret can be neither read nor made: {error.strerror}") from error
    if not secret:
        raise AnsibleError(f"{path} is empty: put the cluster's secret into it; of a new cluster, remove it")
    return secret


def make(path: str) -> None:
    """Let the file appear, for its owner alone, unless somebody else was first."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    # mkstemp lets nobody but the owner read it.
    handle, draft = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("".join(secrets.choice(LETTERS) for _ in range(LENGTH)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)
