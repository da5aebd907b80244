"""Terraform, or OpenTofu, as the runbook asks it, on a configuration that makes nothing."""

import shutil
from pathlib import Path

import pytest

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook.machines import Machines, chosen

from .conftest import load

CONFIGURATION = """
variable "count_of_hosts" { type = number }
resource "terraform_data" "host" { input = var.count_of_hosts }
output "hosts" { value = { for n in range(terraform_data.host.output) : "h${n}" => n } }
"""


@pytest.fixture(params=["terraform", "tofu"])
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setenv("TERRAFORM", request.param)
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


def test_one_setting_chooses_the_program_for_runbook_and_inventories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventories = load("inventories/terraform_hosts.py")
    for name in ("terraform", "tofu"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for named, wanted in (("", "terraform"), ("tofu", "tofu"), (str(tmp_path / "tofu"), "tofu")):
        monkeypatch.setenv("TERRAFORM", named)
        assert chosen() == inventories.chosen() == str(tmp_path / wanted)
    (tmp_path / "terraform").unlink()
    monkeypatch.delenv("TERRAFORM")
    assert chosen() == inventories.chosen() == str(tmp_path / "tofu")
    monkeypatch.setenv("TERRAFORM", "terraform")
    assert chosen() is inventories.chosen() is None
    with pytest.raises(UsageError, match="TERRAFORM is terraform"):
        Machines(tmp_path)
