#!/usr/bin/python
"""Write all configuration files of a service in one trip to the host.

`template` costs one module start (about 0.3 s of the host's CPU) for each file. A role here gives its
rendered files together; each is judged by the program that reads it before it takes the place of the old one,
also in check mode, so that a plan fails where the real run would.
"""

import difflib
import grp
import os
import pwd
import shlex
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_files
short_description: Write all configuration files of a service in one trip
options:
  files:
    description: The files in the order in which they are written.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where the file belongs.
        type: path
        required: true
      content:
        description: What it shall hold (a last newline is added); without it the file must not exist.
        type: str
      mode:
        description: Its permissions in octal.
        type: str
        default: "0644"
      owner:
        description: Its owner.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: root
      validate:
        description: Command that judges the file (%s) first; skipped until the program exists.
        type: str
      secret:
        description: Never show its content in a diff.
        type: bool
        default: false
  root:
    description: Write below this directory, without owners, to see what a deployment would write.
    type: path
    default: /
"""

EXAMPLES = r"""
- name: Write the configuration
  fastcache_files:
    files:
      - path: /etc/fastcache/node-7001.toml
        content: "{{ lookup('ansible.builtin.template', 'node.toml.j2') }}"
        mode: "0640"
        group: fastcache
        validate: /opt/fastcache/current/bin/fastcache node --check-config --config %s
"""

RETURN = r"""
written:
  description: Paths that were changed (in check mode, would be).
  type: list
  returned: always
"""

FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "no_log": False},
    "mode": {"type": "str", "default": "0644"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "validate": {"type": "str"},
    "secret": {"type": "bool", "default": False, "no_log": False},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": FILE},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    written: list[str] = []
    diffs: list[dict[str, str]] = []
    root = module.params["root"].rstrip("/")
    for given in module.params["files"]:
        file = {**given, "path": root + given["path"], "owned": not root}
        before = read(file["path"])
        after = wanted(file)
        if before != after:
            diffs.append(difference(file, before, after))
            if after is not None:
                judge(module, file, after)
            if not module.check_mode:
                replace(module, file, after)
            written.append(file["path"])
        elif after is not None and set_attributes(module, file):
            written.append(file["path"])
    module.exit_json(changed=bool(written), written=written, diff=diffs)


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def wanted(file: dict[str, Any]) -> str | None:
    content: str | None = file["content"]
    return content if content is None or content.endswith("\n") else content + "\n"


def difference(file: dict[str, Any], before: str | None, after: str | None) -> dict[str, str]:
    """What `--diff` shows: the changed lines, or of a secret only that it changes."""
    if file["secret"]:
        return {"prepared": f"{file['path']}: a secret changes (not shown)\n"}
    lines = difflib.unified_diff(
        (before or "").splitlines(keepends=True),
        (after or "").splitlines(keepends=True),
        file["path"],
        file["path"],
        n=1,
    )
    return {"prepared": "".join(lines)}


def judge(module: AnsibleModule, file: dict[str, Any], text: str) -> None:
    """Let the program that reads the file say whether it is right; fail with its own words."""
    if not file["validate"]:
        return
    program = shlex.split(file["validate"])[0]
    if not os.access(program, os.X_OK):
        return  # Before the first installation there is nobody to ask.
    with tempfile.NamedTemporaryFile("w", dir=module.tmpdir, suffix=os.path.basename(file["path"])) as draft:
        draft.write(text)
        draft.flush()
        command = file["validate"].replace("%s", shlex.quote(draft.name))
        code, out, err = module.run_command(command)
        if code:
            what = (err or out).replace(draft.name, file["path"]).strip()
            module.fail_json(msg=f"{file['path']} would be refused by {program}: {what}", rc=code)


def replace(module: AnsibleModule, file: dict[str, Any], text: str | None) -> None:
    """Put the new content in place in one step: nobody ever reads half a file."""
    if text is None:
        os.unlink(file["path"])
        return
    os.makedirs(os.path.dirname(file["path"]), exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as target:
        target.write(text)
    module.atomic_move(draft, file["path"])
    set_attributes(module, file)


def set_attributes(module: AnsibleModule, file: dict[str, Any]) -> bool:
    now = os.stat(file["path"])
    mode, owner, group = int(file["mode"], 8), now.st_uid, now.st_gid
    try:
        if file["owned"]:
            owner, group = pwd.getpwnam(file["owner"]).pw_uid, grp.getgrnam(file["group"]).gr_gid
    except KeyError as error:
        if module.check_mode:
            return True
        module.fail_json(msg=f"{file['path']}: {error}")
    if (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == (mode, owner, group):
        return False
    if not module.check_mode:
        os.chown(file["path"], owner, group)
        os.chmod(file["path"], mode)
    return True


if __name__ == "__main__":
    main()
