#!/usr/bin/env python3
"""Pack the release of a bundle again under an older number, as what an upgrade comes from.

    older_release.py BUNDLE OLDER

Code and packages are the same; the wheel, and so the release, has another version. Standard library only.
"""

import base64
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "make"))
import bundle as bundles

OLDER = "0.0.9"


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    manifest = json.loads((source / "manifest.json").read_text())
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("release-*.tar"))
    with tempfile.TemporaryDirectory() as scratch:
        wheels = Path(scratch)
        with tarfile.open(source / manifest["release_archive"]) as archive:
            archive.extractall(wheels, filter="data")
        wheel = next(wheels.glob("fastcache-*.whl"))
        lock = wheels / "requirements.lock"
        was = bundles.digest(wheel)
        older = renumbered(wheel)
        version = wheel.name.split("-")[1]
        text = lock.read_text().replace(was, bundles.digest(older))
        lock.write_text(text.replace(f"fastcache=={version} ", f"fastcache=={OLDER} "))
        name = f"{OLDER}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:8]}"
        manifest |= {"release": name, "release_archive": f"release-{name}.tar"}
        bundles.pack(target / manifest["release_archive"], wheels)
    manifest["files"].pop(json.loads((source / "manifest.json").read_text())["release_archive"])
    manifest["files"][manifest["release_archive"]] = bundles.digest(target / manifest["release_archive"])
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def renumbered(wheel: Path) -> Path:
    """The wheel with another version, in place of the one that was there."""
    version = wheel.name.split("-")[1]
    older = wheel.with_name(wheel.name.replace(f"-{version}-", f"-{OLDER}-", 1))
    now, then = f"fastcache-{version}.dist-info/", f"fastcache-{OLDER}.dist-info/"
    record = []
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(older, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            content = whole.read(entry)
            name = entry.filename.replace(now, then)
            if name == then + "RECORD":
                continue
            if name == then + "METADATA":
                content = content.replace(
                    f"\nVersion: {version}\n".encode(), f"\nVersion: {OLDER}\n".encode()
                )
            entry.filename = name
            packed.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")
        packed.writestr(then + "RECORD", "".join(record) + f"{then}RECORD,,\n")
    wheel.unlink()
    return older


if __name__ == "__main__":
    main()
