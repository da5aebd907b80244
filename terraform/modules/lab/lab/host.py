"""One lab host: a systemd-nspawn machine with disk, address, SSH host key and machine id of its own.

The disk is a sparse ext4 image used as the upper layer over the shared base tree, mounted inside a mount
namespace of the host's own: when the host dies there is nothing to unmount, and no other host keeps a copy of
the mount alive.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from . import cgroups, network
from .settings import OPERATOR, Lab, LabError
from .shell import call_inside, run

# Mount, put the seed files down once (synced, or the first power cut would take the SSH host key), then boot;
# 133 is how nspawn says that the host asked for a reboot.
LAUNCH = """\
set -e
mount -o loop,discard "$DISK.img" "$DISK"
mkdir -p "$DISK/up" "$DISK/work"
mount -t overlay -o "lowerdir=$BASE,upperdir=$DISK/up,workdir=$DISK/work" lab "$ROOT"
if [ -d "$SEED" ]; then cp -a "$SEED/." "$ROOT/"; sync -f "$ROOT"; rm -r "$SEED"; fi
set +e
while :; do "$@"; code=$?; [ $code = 133 ] || exit $code; done
"""


class Host:
    """A host by its name; whether it exists or runs is read from disk and from /proc each time."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.dir = lab.dir / "hosts" / name
        self.machine = lab.machine(name)
        self.disk = self.dir / "disk"
        self.image = self.dir / "disk.img"
        self.seed = self.dir / "seed"
        self.cgroup_record = self.dir / "cgroups.json"

    # What it is

    @property
    def exists(self) -> bool:
        return (self.dir / "host.json").exists()

    @property
    def number(self) -> int:
        return int(self._facts()["number"])

    @property
    def address(self) -> str:
        return self.lab.address(self.number)

    @property
    def public_key(self) -> str:
        return " ".join((self.dir / "hostkey.pub").read_text().split()[:2])

    def _facts(self) -> dict[str, str]:
        facts: dict[str, str] = json.loads((self.dir / "host.json").read_text())
        return facts

    # What runs

    @property
    def launcher(self) -> int:
        """The pid of the shell that runs nspawn, 0 when the host is off."""
        try:
            pid = int((self.dir / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
        except (OSError, ValueError):
            return 0
        # An empty command line is that of a process in the middle of execve().
        ours = command == [b""] or f"--machine={self.machine}".encode() in command
        return pid if ours and state != "Z" else 0

    @property
    def processes(self) -> list[int]:
        """Launcher, nspawn and the host's PID 1, as far as they are there."""
        found = [self.launcher] if self.launcher else []
        while found and len(found) < 3:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split()
                if children:
                    found.append(int(children[0]))
                    continue
            break
        return found

    @property
    def init(self) -> int:
        """The host's PID 1 as this machine numbers it, 0 when there is none."""
        return self.processes[2] if len(self.processes) == 3 else 0

    # Its life

    def create(self, number: int) -> None:
        self.dir.mkdir(parents=True)
        run("truncate", "--size", self.lab.disk, self.image)
        run("mkfs.ext4", "-q", "-m0", "-J", "size=8", self.image)
        self.disk.mkdir()
        (self.dir / "root").mkdir()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", self.dir / "hostkey")
        machine_id = uuid.uuid4().hex
        self.put("etc/hostname", f"{self.name}\n")
        self.put("etc/machine-id", f"{machine_id}\n")
        self.put("etc/ssh/ssh_host_ed25519_key", (self.dir / "hostkey").read_text(), mode=0o600)
        self.put("etc/ssh/ssh_host_ed25519_key.pub", (self.dir / "hostkey.pub").read_text())
        self.put(
            "etc/systemd/network/10-lab.network",
            "[Match]\nName=host0\n[Network]\n"
            f"Address={self.lab.address(number)}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        )
        operators_key = self.lab.key.with_suffix(".pub").read_text()
        self.put("root/.ssh/authorized_keys", operators_key, mode=0o600)
        self.put(f"home/{OPERATOR}/.ssh/authorized_keys", operators_key, mode=0o600, owner=1000)
        # Written last: a host without it was not finished and is made again.
        (self.dir / "host.json").write_text(json.dumps({"number": number, "machine_id": machine_id}))

    def put(self, path: str, text: str, mode: int = 0o644, owner: int = 0) -> None:
        """Write a file on the host; when it is off, for its next boot."""
        root = self._root_when_booted() if self.launcher else self.seed
        root.mkdir(exist_ok=True)
        target = root / path
        for parent in reversed(target.relative_to(root).parents[:-1]):
            if not (root / parent).exists():
                self._make_like_base(root / parent, self.lab.base / parent, owner)
        with target.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        target.chmod(mode)
        os.chown(target, owner, owner)

    def _root_when_booted(self) -> Path:
        """The running host's root. An early PID 1 still sees this machine's own: never write there."""
        found: list[Path] = []

        def entered() -> bool:
            root = Path(f"/proc/{self.init}/root")
            with contextlib.suppress(OSError):
                # nspawn's own child of a moment has the host's root, too, but is not PID 1 in there.
                first = Path(f"/proc/{self.init}/status").read_text().partition("NSpid:")[2].split("\n")[0]
                machine_id = (root / "etc/machine-id").read_text().strip()
                if first.split()[-1:] == ["1"] and machine_id == self._facts()["machine_id"]:
                    found.append(root)
            return bool(found)

        self._wait(entered, 20, "it did not start to boot")
        return found[0]

    def _make_like_base(self, directory: Path, like: Path, owner: int) -> None:
        """Seeds are copied over the tree with their modes: a directory must not change on the way."""
        directory.mkdir(mode=0o700 if directory.name == ".ssh" else 0o755)
        if like.exists():
            shutil.copystat(like, directory)
            os.chown(directory, like.stat().st_uid, like.stat().st_gid)
        else:
            os.chown(directory, owner, owner)

    def boot(self) -> None:
        if self.launcher:
            return
        self.wait_for_disk()
        network.forget(self.lab, self.machine)
        groups = cgroups.make(self.cgroup_record, self.machine)
        limiting = " ".join(name for name in cgroups.LIMITING if name in groups)
        command = [
            "nsenter", f"--net={self.lab.namespace_file}", "unshare", "--mount", "--propagation", "private",
            "sh", "-c", LAUNCH, "sh", "systemd-nspawn", "--quiet", f"--directory={self.dir / 'root'}",
            f"--machine={self.machine}", f"--uuid={self._facts()['machine_id']}", "--register=no",
            *([] if cgroups.SYSTEMD_RUNS_HERE else ["--keep-unit"]), f"--network-bridge={network.BRIDGE}",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--kill-signal=SIGRTMIN+3",
            # IPAddressDeny= wants bpf(2), mlock CAP_IPC_LOCK. Never CAP_SYS_TIME or `--capability=all`: a
            # `date -s` on the host would set this machine's clock.
            "--capability=CAP_BPF,CAP_IPC_LOCK,CAP_PERFMON", "--system-call-filter=bpf",
            f"--setenv=LAB_CONTROLLERS={limiting}", "/usr/local/sbin/lab-init",
        ]  # fmt: skip
        root = self.dir / "root"
        places = {
            "BASE": f"{self.lab.base}",
            "DISK": f"{self.disk}",
            "ROOT": f"{root}",
            "SEED": f"{self.seed}",
        }

        def enter_groups() -> None:
            for path in groups.values():
                (path / "cgroup.procs").write_text(str(os.getpid()))

        with (self.dir / "console.log").open("ab") as console:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                preexec_fn=enter_groups, env=os.environ | places,  # noqa: PLW1509 (boot runs in no thread)
            )  # fmt: skip
        (self.dir / "pid").write_text(str(process.pid))

    def wait_for_disk(self) -> None:
        """Wait until the kernel let go of the disk, a moment after the last process went.

        A mount before that would find the old superblock again, with all that a power cut should have lost.
        """
        self._wait(lambda: not run("losetup", "-j", self.image), 10, "its disk is still in use")

    def wait_for_ssh(self, seconds: float = 60) -> None:
        def answers() -> bool:
            if not self.launcher:
                raise LabError(f"{self.name} died while booting:\n{self.console_tail()}")
            with contextlib.suppress(OSError), socket.create_connection((self.address, 22), 1) as connection:
                connection.settimeout(2)
                return connection.recv(4) == b"SSH-"
            return False

        call_inside(self.lab, lambda: self._wait(answers, seconds, "no SSH"))

    def stop(self) -> None:
        """Shut down in order; a host that hangs loses its power."""
        if len(self.processes) > 1:
            os.kill(self.processes[1], signal.SIGTERM)
            with contextlib.suppress(LabError):
                self._wait_until_off(20)
        self.cut()

    def cut(self) -> None:
        """Cut the power. The cable goes first, so that no FIN or RST tells the peers."""
        chain = self.processes
        if not chain:
            return
        network.unplug(self.lab, self.machine)
        for pid in chain[1:] or chain:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait_until_off(10)

    def destroy(self) -> None:
        """Cut the power and leave nothing behind."""
        if not self.dir.exists():
            return
        self.cut()
        if self.image.exists():
            self.wait_for_disk()
        cgroups.remove(self.cgroup_record)
        with contextlib.suppress(OSError):
            os.rmdir(f"/run/systemd/nspawn/propagate/{self.machine}")
        shutil.rmtree(self.dir)

    def console_tail(self) -> str:
        return "".join((self.dir / "console.log").read_text(errors="replace").splitlines(keepends=True)[-15:])

    def _wait_until_off(self, seconds: float) -> None:
        def off() -> bool:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            return not self.launcher

        self._wait(off, seconds, "it does not stop")

    def _wait(self, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: {complaint} after {seconds:.0f} s\n{self.console_tail()}")
            time.sleep(0.03)
