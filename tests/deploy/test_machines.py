"""Terraform as the runbook asks it, on a configuration that makes nothing."""

import shutil
from pathlib import Path

import pytest

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook.machines import Machines

CONFIGURATION = """
variable "count_of_hosts" { type = number }
resource "terraform_data" "host" { input = var.count_of_hosts }
output "hosts" { value = { for n in range(terraform_data.host.output) : "h${n}" => n } }
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if not (shutil.which("terraform") or shutil.which("tofu")):
        pytest.skip("neither Terraform nor OpenTofu is installed")
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", "/dev/null")
    (tmp_path / "main.tf").write_text(CONFIGURATION)
    return tmp_path


def test_machines_are_planned_then_made_then_as_they_should_be(place: Path) -> None:
    machines = Machines(place, count_of_hosts="2")
    machines.prepare()
    planned = machines.plan()
    assert planned.changes
    assert "terraform_data.host will be created" in planned.text
    machines.apply()
    assert machines.outputs() == {"hosts": {"h0": 0, "h1": 1}}
    assert not machines.plan().changes
    assert Machines(place, count_of_hosts="3").plan().changes
    assert sorted(file.name for file in place.glob("*.tf*")) == ["main.tf", "terraform.tfstate"]


def test_a_failure_is_told_in_terraforms_words(place: Path) -> None:
    machines = Machines(place, count_of_hosts="many")
    machines.prepare()
    with pytest.raises(FastCacheError, match="a number is required"):
        machines.plan()
    with pytest.raises(UsageError, match="there is no"):
        Machines(place / "nowhere")
