"""What these tests share: the project's programs, and the example inventory's files, rendered."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent


def run(*command: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the project's programs in the project's directory."""
    path = f"{PROGRAMS}:{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        [str(word) for word in command],
        cwd=PROJECT,
        env={**os.environ, "PATH": path, "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done


def load(path: str) -> ModuleType:
    """A Python file of the project that belongs to no package."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, PROJECT / path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file for every host of the example inventory, below <directory>/<host>."""
    directory = tmp_path_factory.mktemp("rendered")
    run(
        "ansible-playbook",
        "-i",
        "inventories/production",
        "-e",
        f"render_into={directory}",
        "playbooks/render.yml",
    )
    return directory
