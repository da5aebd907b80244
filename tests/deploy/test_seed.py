"""What the last machine takes along when it is forgotten (terraform/modules/vm/seed.py)."""

import argparse
import importlib.util
import socket
from pathlib import Path

import pytest

SEED = Path(__file__).parents[2] / "terraform" / "modules" / "vm" / "seed.py"
spec = importlib.util.spec_from_file_location("seed", SEED)
assert spec
assert spec.loader
seed = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seed)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As it is while two machines run and Ansible's ssh has left a socket behind."""
    made = tmp_path / "machines"
    for place in ("hosts/vm1", "hosts/vm2", "cp"):
        (made / place).mkdir(parents=True)
    for name in ("id_ed25519", "id_ed25519.pub", "known_hosts"):
        (made / name).write_text("")
    with socket.socket(socket.AF_UNIX) as master:
        master.bind(str(made / "cp" / "abc"))
    return made


def forget(directory: Path, name: str) -> None:
    seed.forget(argparse.Namespace(directory=directory, name=name))


def test_nothing_is_left_when_the_last_machine_is_forgotten(directory: Path) -> None:
    forget(directory, "vm1")
    assert (directory / "id_ed25519").exists()
    assert (directory / "cp" / "abc").is_socket()
    forget(directory, "vm2")
    assert not directory.exists()
    forget(directory, "vm2")  # Again is no error.


def test_what_somebody_else_keeps_there_stays(directory: Path) -> None:
    (directory / "notes").write_text("mine")
    for name in ("vm1", "vm2"):
        forget(directory, name)
    assert [path.name for path in directory.iterdir()] == ["notes"]
