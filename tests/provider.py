"""Terraform's provider for libvirt, built from source through Go's module proxy and served from a directory.

So machines that cannot reach Terraform's registry test what needs it, and everybody tests the same release.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

from fastcache.runbook.machines import chosen

MODULE, VERSION = "github.com/dmacvicar/terraform-provider-libvirt", "0.8.3"
#: Where what was built is kept; both registries' names, for Terraform and OpenTofu.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastcache" / "terraform"
REGISTRIES = ("registry.terraform.io", "registry.opentofu.org")


def configuration() -> Path:
    """A configuration of Terraform's that takes the provider from the directory; built first, once."""
    file = CACHE / "mirror.tfrc"
    places = [CACHE / "mirror" / name / "dmacvicar/libvirt" / VERSION / platform() for name in REGISTRIES]
    if not all(place.is_dir() for place in places):
        program = build()
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            target = place / f"terraform-provider-libvirt_v{VERSION}"
            target.unlink(missing_ok=True)
            os.link(program, target)
    file.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{CACHE / "mirror"}"\n  }}\n}}\n'
    )
    return file


def platform() -> str:
    return f"{go('env', 'GOOS').strip()}_{go('env', 'GOARCH').strip()}"


def build() -> Path:
    """In the module's own directory, where its go.sum says what every other module must be."""
    source = json.loads(go("mod", "download", "-json", f"{MODULE}@v{VERSION}"))["Dir"]
    program = CACHE / "terraform-provider-libvirt"
    CACHE.mkdir(parents=True, exist_ok=True)
    go("build", "-trimpath", "-buildvcs=false", "-o", str(program), ".", cwd=Path(source))
    return program


def go(*words: str, cwd: Path = Path("/")) -> str:
    done = subprocess.run(
        ["go", *words],
        cwd=cwd,
        env=os.environ | {"CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"go {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def what_is_missing() -> str | None:
    """Why the provider cannot be built here, or None when it can."""
    if not chosen():
        return "neither Terraform nor OpenTofu is installed"
    if not shutil.which("go"):
        return "Go is not installed, which builds Terraform's provider for libvirt"
    fetched = subprocess.run(
        ["go", "mod", "download", f"{MODULE}@v{VERSION}"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    return f"Go's module proxy does not give the provider: {fetched.stderr}" if fetched.returncode else None
