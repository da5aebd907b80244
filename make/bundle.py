#!/usr/bin/env python3
"""Put all that hosts need into one directory, so that they can be installed without a network.

    bundle.py --output dist/bundle --suite bookworm [--suite trixie] [--package haproxy ...]

    manifest.json                     what the release is called, and the SHA-256 of every file here
    release-<release>.tar             FastCache's wheel, the wheels it needs, pip, and a list with their
    hashes packages-<suite>-<package>.tar    a Debian package with all it needs beyond a minimal system, as an
    apt archive

Standard library only. It works as any user: apt is asked with a state directory of our own, never the
machine's.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from email.parser import Parser
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

#: Python of each Debian release, for which wheels are fetched.
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}

PLATFORMS = (
    "manylinux_2_36_x86_64",
    "manylinux_2_34_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Put all that hosts need into one directory.")
    parser.add_argument("--output", type=Path, default=PROJECT / "dist" / "bundle")
    parser.add_argument("--cache", type=Path, default=PROJECT / "dist" / "cache")
    parser.add_argument("--suite", action="append", choices=sorted(PYTHON), help="Debian release of hosts")
    parser.add_argument("--package", action="append", default=[], help="Debian package to take along")
    parser.add_argument("--wheel", type=Path, help="a wheel of FastCache that is already built")
    parser.add_argument(
        "--debug", action="store_true", help="pack a debug build: sooner built, slower to serve"
    )
    options = parser.parse_args()
    suites = options.suite or ["bookworm"]
    options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.cache) as scratch:
        draft = Path(scratch, "bundle")
        draft.mkdir()
        manifest = release(
            draft, Path(scratch), options.wheel or build_wheel(options.cache, options.debug), suites
        )
        for suite in suites:
            take_packages(options.cache / "apt" / suite, suite, options.package, draft)
        manifest["files"] = {file.name: digest(file) for file in sorted(draft.iterdir())}
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        replace(draft, options.output)
    size = sum(file.stat().st_size for file in options.output.iterdir()) / 1e6
    print(f"{options.output}: release {manifest['release']}, {len(options.package)} packages, {size:.1f} MB")


def replace(draft: Path, output: Path) -> None:
    """The old bundle stays until the new one is whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output, ignore_errors=True)
    draft.rename(output)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# The release


def build_wheel(cache: Path, debug: bool) -> Path:
    target = cache / "wheel"
    shutil.rmtree(target, ignore_errors=True)
    run(
        sys.executable,
        "-m",
        "maturin",
        "build",
        *([] if debug else ["--release"]),
        "--quiet",
        "--out",
        target,
        cwd=PROJECT,
    )
    return next(target.glob("fastcache-*.whl"))


def release(draft: Path, scratch: Path, wheel: Path, suites: list[str]) -> dict[str, object]:
    """Collect the wheels; the release is called by its version and by what is in it."""
    wheels = scratch / "wheels"
    wheels.mkdir()
    shutil.copy(wheel, wheels)
    needs = requirements(wheel)
    for suite in suites:
        download(wheels, PYTHON[suite], needs)
    lock = locked(wheels)
    download(wheels, PYTHON[suites[0]], ["pip"])
    (wheels / "requirements.lock").write_text(lock)
    name = f"{wheel.name.split('-')[1]}-{hashlib.sha256(lock.encode()).hexdigest()[:8]}"
    archive = f"release-{name}.tar"
    pack(draft / archive, wheels)
    pip = next(wheels.glob("pip-*.whl")).name
    return {"release": name, "release_archive": archive, "pip": pip, "suites": suites}


def requirements(wheel: Path) -> list[str]:
    """What the wheel says that it needs, extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return [need for need in metadata.get_all("Requires-Dist") or [] if "extra ==" not in need]


def download(wheels: Path, python: str, needs: list[str]) -> None:
    if not needs:
        return
    version = python.replace(".", "")
    abis = [f"cp{version}", "abi3", "none"]
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary",
        ":all:", "--python-version", python, "--implementation", "cp", "--dest", wheels, *(word for abi in
        abis for word in ("--abi", abi)), *(word for platform in PLATFORMS for word in ("--platform",
        platform)), *needs,
    )  # fmt: skip


def locked(wheels: Path) -> str:
    """Every wheel with its hash: pip on the hosts accepts nothing else."""
    hashes: dict[str, list[str]] = {}
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        hashes.setdefault(f"{name}=={version}", []).append(digest(wheel))
    lines = [
        f"{need} " + " ".join(f"--hash=sha256:{value}" for value in values) for need, values in hashes.items()
    ]
    return "\n".join(lines) + "\n"


# Debian packages


#: For so long a package that was taken is taken again without asking the archive for a newer one.
DAY = 24 * 3600


def take_packages(cache: Path, suite: str, packages: list[str], draft: Path) -> None:
    archive: Archive | None = None
    for package in packages:
        name = f"debian-{suite}-{package}.tar"
        taken = cache / name
        if not taken.exists() or time.time() - taken.stat().st_mtime > DAY:
            archive = archive or Archive(cache, suite)
            archive.take(package, taken)
        shutil.copy(taken, draft)


class Archive:
    """A Debian release's archive, asked by apt with a state of our own."""

    def __init__(self, directory: Path, suite: str) -> None:
        self.directory = directory
        self.suite = suite
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "status").write_text("")
        self.options = [
            f"-oDir::State={directory}", f"-oDir::State::lists={directory}/lists",
            f"-oDir::State::status={directory}/status", f"-oDir::Cache={directory}/cache",
            f"-oDir::Etc::SourceList={directory}/etc/sources.list", "-oDir::Etc::SourceParts=/dev/null",
            "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=root", "-oAPT::Install-Recommends=0",
        ]  # fmt: skip
        (directory / "etc" / "sources.list").write_text(self.sources())
        run("apt-get", *self.options, "-q", "update")
        self.everywhere = self.of_priority("required|important")
        self.minimal = self.closure(self.everywhere)

    def sources(self) -> str:
        """Lines for this release, at the mirror that the machine's own apt uses."""
        listing = run(
            "apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)|$(ORIGIN)", "Created-By: Packages"
        )
        known = {tuple(line.split("|")) for line in listing.splitlines() if line.count("|") == 2}
        of_suite = sorted(
            (uri, codename) for uri, codename, origin in known if codename.split("-")[0] == self.suite
        )
        if not of_suite:
            # The archive itself, not that of security updates, which calls its releases otherwise.
            archives = [uri for uri, codename, origin in known if origin == "Debian" and "-" not in codename]
            of_suite = [(min(archives), self.suite)]
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        return "".join(f"deb [signed-by={keyring}] {uri} {codename} main\n" for uri, codename in of_suite)

    def of_priority(self, priorities: str) -> list[str]:
        """What a Debian has without being asked; every one has those that are required and important."""
        available = run("apt-cache", *self.options, "dumpavail")
        stanzas = available.split("\n\n")
        wanted = re.compile(rf"^Priority: ({priorities})$", re.MULTILINE)
        return sorted(
            {
                stanza.split("\n", 1)[0].removeprefix("Package: ")
                for stanza in stanzas
                if wanted.search(stanza)
            }
        )

    def closure(self, packages: list[str]) -> set[str]:
        """The packages with all that they need, as name=version."""
        plan = run("apt-get", *self.options, "-q", "--simulate", "install", *packages)
        return {
            f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) \((\S+) ", plan, re.MULTILINE)
        }

    @staticmethod
    def identity(stanza: str) -> tuple[str, str]:
        fields = dict(re.findall(r"^(Package|Version): (\S+)$", stanza, re.MULTILINE))
        return fields["Package"], fields["Version"]

    def take(self, package: str, target: Path) -> None:
        """Fetch a package with what a minimal system lacks, and index it, as apt on the hosts wants it."""
        needed = sorted(self.closure([*self.everywhere, package]) - self.minimal)
        if not needed:
            # It counts as important, and may be missing all the same where somebody made the system small.
            required = self.of_priority("required")
            needed = sorted(self.closure([*required, package]) - self.closure(required))
        with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
            pool = Path(scratch)
            kept = self.directory / "pool"
            kept.mkdir(exist_ok=True)
            # What lies there already, with the right hash, is not fetched again.
            run("apt-get", *self.options, "-q", "download", *needed, cwd=kept)
            stanzas = run("apt-cache", *self.options, "show", *needed).split("\n\n")
            by_name = {
                f"{name}={version}": stanza
                for stanza in stanzas
                if stanza.strip()
                for name, version in [self.identity(stanza)]
            }
            index = []
            for name in needed:
                stanza = by_name[name]
                file = re.search(r"^Filename: .*/(\S+)$", stanza, re.MULTILINE)
                if not file:
                    sys.exit(f"bundle: apt tells no file name for {name}")
                # apt may write the name otherwise (an epoch's colon as %3a): the hash tells which file it is.
                package_name = name.partition("=")[0]
                local = next(
                    path.name
                    for path in kept.glob(f"{package_name}_*.deb")
                    if f"SHA256: {digest(path)}" in stanza
                )
                shutil.copy(kept / local, pool)
                index.append(stanza.replace(file.group(0), f"Filename: ./{local}"))
            (pool / "Packages").write_text("\n\n".join(index) + "\n")
            pack(target, pool, f"{package}/")


def pack(target: Path, directory: Path, below: str = "") -> None:
    """A tar file that is the same whenever its contents are: no owners, no times."""
    with tarfile.open(target, "w") as archive:
        for file in sorted(directory.iterdir()):
            entry = tarfile.TarInfo(below + file.name)
            content = file.read_bytes()
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(
            f"bundle: {' '.join(map(str, command))}: {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout


if __name__ == "__main__":
    main()
