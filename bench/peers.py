"""Where the servers to be compared with come from.

redis-server is taken from the machine. valkey-server is too, when it is installed; otherwise it is
fetched with all its libraries from the next Debian release through the mirror this machine is
already configured for, unpacked into a cache directory, and run there with its own loader: nothing
is installed. Where that fails the benchmark goes on without it and says so.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastcache-bench"
RELEASE = "trixie"
TRIPLET = "x86_64-linux-gnu"


def redis_command() -> list[str] | None:
    """How to run redis-server, or None."""
    found = shutil.which("redis-server")
    return [found] if found else None


def valkey_command() -> list[str] | None:
    """How to run valkey-server, or None when it cannot be had."""
    found = shutil.which("valkey-server")
    if found:
        return [found]
    root = CACHE / "valkey"
    command = [
        str(root / "lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        f"{root}/usr/lib/{TRIPLET}",
        str(root / "usr/bin/valkey-server"),
    ]
    if not works(command):
        try:
            fetch(root)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"# no valkey-server: {error}", file=sys.stderr)
            return None
    return command if works(command) else None


def nutcracker_command() -> list[str] | None:
    """How to run nutcracker (twemproxy), or None: as installed, or unpacked from this machine's release."""
    if found := shutil.which("nutcracker"):
        return [found]
    root = CACHE / "nutcracker"
    program = root / "usr/sbin/nutcracker"
    if not program.exists():
        try:
            root.mkdir(parents=True, exist_ok=True)
            run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "nutcracker"], cwd=root)
            run(["dpkg-deb", "--extract", str(next(root.glob("*.deb"))), str(root)])
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            print(f"# no nutcracker: {error}", file=sys.stderr)
            return None
    return [str(program)] if program.exists() else None


def works(command: list[str]) -> bool:
    """Whether the program starts."""
    try:
        return subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def version(command: list[str]) -> str:
    """The version a server gives itself."""
    text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\S+)", text)
    return match[1] if match else "?"


def fetch(root: Path) -> None:
    """Download valkey-server and what it needs, and unpack it below `root`."""
    apt = CACHE / "apt"
    for part in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb {mirror()} {RELEASE} main\n")
    (apt / "status").write_text("")  # As if nothing were installed, so that every library comes along.
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run(["apt-get", *settings, "-qq", "update"])
    depends = ["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]
    tree = run(["apt-cache", *settings, *depends, "--no-replaces", "--no-enhances", "valkey-tools"])
    names = sorted({line for line in tree.splitlines() if re.match(r"(lib|valkey)", line)})
    run(["apt-get", *settings, "-qq", "download", *names], cwd=apt / "packages")
    shutil.rmtree(root, ignore_errors=True)
    # The loader looks for libraries where Debian's merged file system has them.
    (root / "usr/lib64").mkdir(parents=True)
    (root / "lib64").symlink_to("usr/lib64")
    (root / "usr/lib").mkdir(parents=True, exist_ok=True)
    (root / "lib").symlink_to("usr/lib")
    for package in sorted((apt / "packages").glob("*.deb")):
        run(["dpkg-deb", "--extract", str(package), str(root)])
    server = root / "usr/bin/valkey-server"
    if not server.exists():
        server.symlink_to("valkey-check-rdb")  # One program under several names.


def mirror() -> str:
    """The mirror of Debian's main archive that this machine uses."""
    lines = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT) $(ORIGIN) $(LABEL)"]
    ).splitlines()
    for line in lines:
        uri, component, *origin = line.split()
        if component == "main" and origin == ["Debian", "Debian"]:
            return uri
    raise OSError("this machine has no Debian mirror configured")


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command to its end and return what it printed."""
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout
