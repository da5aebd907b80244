"""Ask a host about files only where they may differ from what was seen there when the run began.

The module of the same name (roles/fastcache/library) compares and writes. Here, files that all have the
content, permissions and owners that fastcache_look saw are not carried to the host at all. Secrets always
are: their fingerprints are no facts.
"""

import hashlib
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """fastcache_files, as tasks call it."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        seen = ((task_vars or {}).get("ansible_facts") or {}).get("fastcache_seen") or {}
        known = seen.get("files") or {}
        # Under another root something else is compared; whoever calls it wrongly hears of it from the module.
        files = [] if arguments.get("root", "/") != "/" else arguments.get("files") or []
        if isinstance(files, list) and files and all(as_seen(file, known) for file in files):
            return result | {"changed": False, "written": []}
        result |= self._execute_module(task_vars=task_vars)
        if written := result.get("written"):
            # What was seen of them is so no longer, nor is it in check mode for whoever asks again.
            left = {path: what for path, what in known.items() if path not in written}
            # Units may have to read them: whoever runs one goes and looks.
            result["ansible_facts"] = {"fastcache_seen": {**seen, "files": left, "units": {}}}
        return result


def as_seen(file: dict[str, Any], known: dict[str, dict[str, str]]) -> bool:
    """Whether the host has just this file; defaults are those of the module."""
    content = file.get("content")
    if file.get("secret") or not isinstance(content, str):
        return False
    text = content if content.endswith("\n") else content + "\n"
    return known.get(str(file.get("path"))) == {
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "mode": f"{int(str(file.get('mode', '0644')), 8):04o}",
        "owner": file.get("owner", "root"),
        "group": file.get("group", "root"),
    }
