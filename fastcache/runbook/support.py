"""All that somebody who helps needs to know of a cluster, in one file, without a secret in it.

What was gathered is searched for the cluster's secrets before it is packed; where one is found it is
blotted out, and the bundle says where.
"""

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import msgspec

from fastcache.errors import FastCacheError
from fastcache.runbook import audit, status
from fastcache.runbook.fleet import Member
from fastcache.runbook.hands import Hands, together

JOURNAL_LINES = 2000
BLOT = b"(secret)"
SECRET_NAMES = ("requirepass", "admin-key")
#: Per host: a file of the bundle, and the command whose output it is. None reads the secrets' directory.
COMMANDS = {
    "system.txt": "uname -a; cat /etc/os-release; uptime; free -m; df -h; ss -ltnp; cat /proc/loadavg",
    "units.txt": "systemctl --no-pager --full status 'fastcache*' haproxy etcd keepalived 2>&1; true",
    "journal.txt": f"journalctl --no-pager --lines {JOURNAL_LINES} -u 'fastcache-*' -u haproxy -u etcd",
    "kernel.txt": "dmesg 2>/dev/null | tail -n 200; true",
    "settings.txt": "tail -n +1 /etc/fastcache/*.toml /etc/haproxy/haproxy.cfg 2>/dev/null; true",
    "releases.txt": "ls -l /opt/fastcache/. /opt/fastcache/releases; ls -lR /var/lib/fastcache | head -n 500",
}
#: What the health service tells: a file of the bundle, and the path.
PATHS = {
    "topology.json": "/topology",
    "members.json": "/health/nodes",
    "replication.json": "/replication",
    "events.json": "/events",
    "lock.json": "/lock",
}


def bundle(hands: Hands, into: Path) -> dict[str, Any]:
    """Gather everything, blot secrets out, pack it; what could not be asked is told in the bundle as well."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"support-{hands.fleet.cluster}-{stamp}"
    files: dict[str, bytes] = {}
    trouble: list[str] = []

    def keep(path: str, make: Any) -> None:
        try:
            made = make()
        except FastCacheError as error:
            trouble.append(f"{path}: {error.message}")
            return
        files[path] = made if isinstance(made, bytes) else json.dumps(made, indent=1).encode()

    keep("status.json", lambda: status.status(hands))
    keep("audit.json", lambda: msgspec.to_builtins(audit.entries(hands)))
    for file, path in PATHS.items():
        keep(f"health/{file}", lambda path=path: hands.http("GET", path))
    for host, found in together(hands.fleet.hosts, lambda host: of_host(hands, host)):
        if isinstance(found, FastCacheError):
            trouble.append(f"{host}: {found.message}")
        else:
            files.update({f"{host}/{path}": content for path, content in found.items()})
    members = (*hands.fleet.nodes, *hands.fleet.proxies)
    for member, info in together(members, lambda one: info_of(hands, one)):
        keep(f"info/{member.name}.txt", lambda info=info: raised(info))
    blotted = blot(files, secrets(hands, trouble))
    files["trouble.txt"] = "\n".join(
        [*trouble, *(f"{path}: a secret was blotted out" for path in blotted)]
    ).encode()
    into.mkdir(parents=True, exist_ok=True)
    target = into / f"{name}.tar.gz"
    pack(target, name, files)
    return {
        "file": str(target),
        "files": len(files),
        "trouble": trouble,
        "blotted": blotted,
        "well": not trouble,
    }


def of_host(hands: Hands, host: str) -> dict[str, bytes]:
    """What one host tells."""
    return {file: hands.run(host, command, seconds=60).out.encode() for file, command in COMMANDS.items()}


def info_of(hands: Hands, member: Member) -> bytes:
    """INFO, and the slow log, of a member."""
    with hands.talk(member, seconds=10) as connection:
        info: bytes = connection.say("INFO", "everything")
        return info


def raised(value: bytes | FastCacheError) -> bytes:
    """A value, or the failure it is."""
    if isinstance(value, FastCacheError):
        raise value
    return value


def secrets(hands: Hands, trouble: list[str]) -> list[bytes]:
    """The cluster's secrets, to search for them."""
    found = []
    for name in SECRET_NAMES:
        try:
            found.append(hands.secret(name).encode())
        except FastCacheError as error:
            trouble.append(f"{name}: {error.message}")
    return [one for one in found if one]


def blot(files: dict[str, bytes], words: list[bytes]) -> list[str]:
    """Take secrets out of what was gathered; where some were."""
    found = []
    for path, content in files.items():
        clean = content
        for word in words:
            clean = clean.replace(word, BLOT)
        if clean != content:
            files[path] = clean
            found.append(path)
    return sorted(found)


def pack(target: Path, name: str, files: dict[str, bytes]) -> None:
    """One archive that only its maker may read; it has its name when it is whole."""
    part = target.with_name(target.name + ".part")
    with part.open("wb") as out:
        part.chmod(0o600)
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for path, content in sorted(files.items()):
                entry = tarfile.TarInfo(f"{name}/{path}")
                entry.size, entry.mtime = len(content), int(time.time())
                archive.addfile(entry, io.BytesIO(content))
    part.replace(target)
