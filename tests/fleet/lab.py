"""A lab of the tests' own: bundle, hosts, Ansible, and the end of all three.

It has another name, other addresses and another Terraform state than the lab of `make fleet`, so both can
stand side by side. `python -m tests.fleet.lab` says what is missing for it, and fails then.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcache.runbook.machines import chosen

PROJECT = Path(__file__).resolve().parents[2]
MODULE = PROJECT / "terraform" / "modules" / "lab"
#: Two stories run side by side when the second is told another name: LAB_NAME=second LAB_PREFIX=198.18.31.
NAME, PREFIX = os.environ.get("LAB_NAME", "citest"), os.environ.get("LAB_PREFIX", "198.18.30")
VIP = f"{PREFIX}.10"
#: Debian of the hosts: `SUITE=trixie make test-fleet` has them run 13.
SUITE = os.environ.get("SUITE", "bookworm")
#: What the lab's services need beyond a minimal Debian.
PACKAGES = (
    "haproxy", "keepalived", "etcd-server", "prometheus", "prometheus-alertmanager",
    "prometheus-node-exporter",
)  # fmt: skip

#: Those who have a part in serving clients.
UNITS = ("fastcache-health", "fastcache-node@*", "fastcache-proxy@*", "haproxy", "keepalived")

#: Fails where a secret stands in an argument, an environment, a log, or a file that is not for secrets.
SEARCH = """
    cat /etc/fastcache/secrets/* > /root/sought
    cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' > /root/seen
    journalctl --no-pager >> /root/seen
    found=$(grep -F -f /root/sought /root/seen | cut -c1-80
            grep -rlF -f /root/sought /etc /home /opt/fastcache/current/ /root/.ansible /run /tmp /var \\
                 --exclude-dir=secrets --exclude-dir=credentials 2>/dev/null)
    rm /root/sought /root/seen
    [ -z "$found" ] || { echo "$found"; exit 1; }
"""

ASK = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=json.loads(sys.argv[2]))
print(urllib.request.urlopen(sys.argv[1], timeout=20, context=context).read().decode())
"""


def make_bundle(into: Path, *, release: bool = False) -> None:
    """A debug build is sooner made; an optimised one is what operators run.

    FASTCACHE_BUNDLE names one that is packed already, with PACKAGES in it.
    """
    if packed := os.environ.get("FASTCACHE_BUNDLE"):
        shutil.copytree(packed, into)
        return
    wheel = os.environ.get("FASTCACHE_WHEEL")
    build = ["--wheel", wheel] if wheel else [] if release else ["--debug"]
    words = ["--suite", SUITE, "--output", str(into), *(f"--package={name}" for name in PACKAGES)]
    run([sys.executable, PROJECT / "make" / "bundle.py", *build, *words], os.environ)


def run(command: Sequence[str | Path], environment: Mapping[str, str], cwd: Path = PROJECT) -> str:
    """What a command prints; it must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}"
    return done.stdout


@dataclass(frozen=True)
class Run:
    """One run of Ansible: what it printed, and its recap by host."""

    code: int
    text: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        lines = self.text.rpartition("PLAY RECAP")[2].splitlines()
        found = {}
        for line in lines:
            host, separator, counts = line.partition(" : ")
            if separator:
                found[host.strip()] = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)}
        return found

    def changed(self) -> int:
        return sum(counts["changed"] for counts in self.recap.values())


class Lab:
    """The lab and the deployment on it: hosts of an environment of Terraform, the inventory of that name."""

    def __init__(self, scratch: Path, environment: str = "lab") -> None:
        self.scratch = scratch
        self.place = PROJECT / "terraform" / "environments" / environment
        self.inventory = f"inventories/{environment}"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "TF_CLI_CONFIG_FILE": "/dev/null",
            "TF_DATA_DIR": str(scratch / "terraform"),
            "TF_VAR_name": NAME,
            "TF_VAR_prefix": PREFIX,
            "TF_VAR_suite": SUITE,
            "FASTCACHE_BUNDLE": str(scratch / "bundle"),
            "ANSIBLE_NOCOLOR": "1",
            # Every run with its times, for whoever watches a story.
            "ANSIBLE_LOG_PATH": str(scratch / "ansible.log"),
        }
        self.secrets = scratch / "secrets"
        #: What every run of a playbook is told besides: the inventory of these tests.
        self.settings: dict[str, Any] = {"fastcache_secrets": str(self.secrets)}

    # What it stands on

    def make_bundle(self, *, release: bool = False) -> None:
        """What the hosts are to get; an optimised build where gaps are judged."""
        make_bundle(self.scratch / "bundle", release=release)

    def next_release(self, name: str = "next") -> str:
        """The same release under another name, as an upgrade; returns where its bundle is."""
        bundle = self.scratch / name
        shutil.copytree(self.scratch / "bundle", bundle)
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["release"] += f"-{name}"
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        return str(bundle)

    def up(self, hosts: int) -> None:
        state = self.scratch / "lab.tfstate"
        self.terraform("init", "-input=false", f"-backend-config=path={state}")
        self.terraform("apply", "-input=false", "-auto-approve", f"-var=host_count={hosts}")

    def destroy(self) -> None:
        """By Terraform, as a user would; what it leaves after a failure goes by the lab's own program."""
        try:
            self.terraform("destroy", "-input=false", "-auto-approve")
        finally:
            self.command("destroy", "--all")

    def terraform(self, verb: str, *words: str) -> str:
        program = chosen()
        return self.run(str(program), f"-chdir={self.place}", verb, "-no-color", *words)

    def command(self, *words: str) -> str:
        """The lab's own program (python3 -m lab)."""
        return self.run(sys.executable, "-B", "-m", "lab", "--name", NAME, *words, cwd=MODULE)

    # What is done with it

    def start_play(self, playbook: str, *words: str, **environment: str) -> subprocess.Popen[str]:
        settings = ["-i", self.inventory, "-e", json.dumps(self.settings)]
        return subprocess.Popen(
            ["ansible-playbook", *settings, playbook, *words], cwd=PROJECT,
            env=self.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def play(self, playbook: str, *words: str, **environment: str) -> Run:
        """Run a playbook; a failure is for the test to judge."""
        process = self.start_play(playbook, *words, **environment)
        text = process.communicate()[0]
        return Run(process.returncode, text)

    def play_killed_at(
        self, task: int, playbook: str, *words: str, named: str = "", after: float = 0, **environment: str
    ) -> str:
        """Kill a playbook with all its children so long after its `task`-th task (of that name) began.

        Returns what it printed until then: a whole recap if it was over before.
        """
        process = self.start_play(playbook, *words, **environment)
        assert process.stdout
        killing = threading.Timer(after, kill_family, [process.pid])
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("TASK [") and named in line:
                task -= 1
                if task == 0:
                    killing.start()
        killing.cancel()
        process.wait()
        process.stdout.close()
        return text

    @contextlib.contextmanager
    def load(self, seen: dict[str, Any]) -> Iterator[None]:
        """Clients at the cluster's address while the block runs; `seen` is what they saw (load.py)."""
        password = self.secrets / "requirepass"
        authority = [self.secrets / "tls" / "ca.crt"] if self.settings.get("fastcache_tls") else []
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/fastcache-{NAME}", sys.executable,
             Path(__file__).with_name("load.py"), VIP, "6380", password, "4", *authority],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            out = process.communicate(timeout=60)[0]
        seen.update(json.loads(out))

    def on(self, host: str, command: str, *, said_only: bool = True) -> str:
        """Run a command on a host, as root; of several hosts, `said_only=False` tells which said what."""
        told = self.run(
            "ansible", "-i", self.inventory, host, "-m", "ansible.builtin.shell", "-a", command,
            "-e", "ansible_callback_result_format=json", cwd=PROJECT,
        )  # fmt: skip
        return told.partition(">>\n")[2].strip() if said_only else told

    def shows_no_secret(self, run: Run) -> None:
        """Neither what a run printed nor the hosts show one anywhere but in its own place."""
        known = [self.secrets / name for name in ("requirepass", "admin-key")]
        assert not [file.name for file in known if file.read_text().strip() in run.text]
        assert "PRIVATE KEY" not in run.text
        self.on("nodes", SEARCH)

    def client(self, *words: str) -> str:
        """What redis-cli prints for a request to the cluster's address."""
        password = (self.secrets / "requirepass").read_text().strip()
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/fastcache-{NAME}", "redis-cli", "-h", VIP, "-p", "6380", *words],
            env=self.environment | {"REDISCLI_AUTH": password}, capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip

    def keys(self, what: str, count: int) -> list[Any]:
        """Write so many keys at the cluster's address, or read them; which were refused, lost or wrong."""
        words = (VIP, "6380", str(self.secrets / "requirepass"), what, str(count))
        wrong: list[Any] = json.loads(
            self.inside(sys.executable, str(Path(__file__).with_name("keys.py")), *words)
        )
        return wrong

    def inside(self, *words: str, **environment: str) -> str:
        """Run a command on this machine, inside the lab's network."""
        return self.run("nsenter", f"--net=/run/netns/fastcache-{NAME}", *words, environment=environment)

    def replication(self) -> dict[str, Any]:
        """What the health service says of mains and copies."""
        tls = bool(self.settings.get("fastcache_tls"))
        url = f"{'https' if tls else 'http'}://{PREFIX}.11:8080/replication"
        authority = str(self.secrets / "tls" / "ca.crt") if tls else None
        told: dict[str, Any] = json.loads(self.inside(sys.executable, "-c", ASK, url, json.dumps(authority)))
        return told

    def mains(self) -> dict[str, int]:
        """How many slots each node serves."""
        return {str(node): int(slots) for node, slots in self.replication()["mains"].items()}

    def shares(self, hosts: int) -> None:
        """Every host serves its part of the slots; who does not is told with what the services say of it."""
        mains = self.mains()
        even = len(mains) == hosts and max(mains.values()) - min(mains.values()) < 0.1 * 16384 / hosts
        assert even, f"{mains}\n{self.journals()}"

    def journals(self, until: str = "") -> str:
        """What the services have logged lately, or in the seconds up to a time of day (UTC)."""
        if until:
            moment = f"$(date -d {until} +%s)"
            when = f"--since @$(( {moment} - 4 )) --until @$(( {moment} + 2 ))"
        else:
            when = "-n 300"
        units = " ".join(f"-u '{unit}'" for unit in UNITS)
        return self.on("nodes", f"journalctl --no-pager -o short-precise {when} {units}", said_only=False)

    def outputs(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self.terraform("output", "-json"))
        return {name: output["value"] for name, output in made.items()}

    def run(
        self, *command: str | Path, cwd: Path = PROJECT, environment: Mapping[str, str] | None = None
    ) -> str:
        return run(command, self.environment | dict(environment or {}), cwd)


def until(so: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)


def kill_family(first: int) -> None:
    """Kill a process and all that stem from it: Ansible's workers are in sessions of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGSTOP)  # It makes no more of them meanwhile.
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                pid, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(pid)
        family = [first]
        for pid in family:
            family += children.get(pid, ())
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def what_is_missing() -> str | None:
    """Why lab hosts cannot run here, or None when they can."""
    if os.geteuid() != 0:
        return "lab hosts need root"
    if not chosen():
        return "neither Terraform nor OpenTofu is installed"
    judged = subprocess.run(
        [sys.executable, "-B", "-m", "lab", "check"], cwd=MODULE, capture_output=True, text=True, check=False
    )
    return judged.stderr.strip() or None if judged.returncode else None


if __name__ == "__main__":
    if missing := what_is_missing():
        print(missing)
        sys.exit(1)
