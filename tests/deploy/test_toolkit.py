"""The toolkit itself: roles are alike, everything parses, the strictest rules are kept."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import provider

from .conftest import PROGRAMS, PROJECT, run

ROLES = sorted(path for path in (PROJECT / "roles").iterdir() if path.is_dir())
STEPS = ["preflight", "install", "configure", "run", "verify"]
#: Roles that are no service: the shared description, and the installer that other roles include.
HELPERS = {"fastcache", "fastcache_packages"}


@pytest.mark.parametrize(
    "role", [role for role in ROLES if role.name not in HELPERS], ids=lambda role: role.name
)
def test_a_role_reads_as_the_life_of_its_service(role: Path) -> None:
    tasks = yaml.safe_load((role / "tasks" / "main.yml").read_text())
    assert [task["ansible.builtin.import_tasks"] for task in tasks] == [f"{step}.yml" for step in STEPS]
    assert (role / "templates").readlink() == Path("../../templates")


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    """What may be set: at the role's only entry point."""
    (entry,) = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"].values()
    options: dict[str, dict[str, Any]] = entry["options"]
    return options


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_setting_of_a_role_is_typed_and_described(role: Path) -> None:
    options = options_of(role)
    readme = (role / "README.md").read_text()
    for name, option in options.items():
        assert option["type"], name
        assert option["description"].endswith("."), name
        assert f"`{name}`" in readme, f"README.md does not name {name}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_described_default_is_the_real_one(role: Path) -> None:
    defaults_file = role / "defaults" / "main.yml"
    defaults = yaml.safe_load(defaults_file.read_text()) if defaults_file.exists() else {}
    options = options_of(role)
    for name, option in options.items():
        if "default" in option and "{{" not in str(defaults.get(name)):
            assert defaults[name] == option["default"], name


def test_every_template_is_written_by_a_role() -> None:
    text = "".join(path.read_text() for path in (PROJECT / "roles").glob("*/*/*.yml"))
    templates = list((PROJECT / "templates").iterdir())
    text += "".join(path.read_text() for path in templates)
    for template in templates:
        assert f"'{template.name}'" in text, template.name


@pytest.mark.parametrize(
    "playbook", ["site.yml", *(f"playbooks/{p.name}" for p in (PROJECT / "playbooks").glob("*.yml"))]
)
def test_a_playbook_parses(playbook: str) -> None:
    run("ansible-playbook", "-i", "inventories/production", "--syntax-check", playbook)


def test_ansible_lint_finds_nothing() -> None:
    if not (PROGRAMS / "ansible-lint").exists():
        pytest.skip("ansible-lint is not installed")
    run("ansible-lint", "--offline", "--nocolor")


def test_yamllint_finds_nothing() -> None:
    if not (PROGRAMS / "yamllint").exists():
        pytest.skip("yamllint is not installed")
    run("yamllint", "--strict", ".")


PROGRAMS_FOR_MACHINES = ["terraform", "tofu"]


def terraform(program: str, environment: str, scratch: Path) -> Callable[..., None]:
    """Runs Terraform or OpenTofu on a copy of an environment: what the real one was applied to is its own."""
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    configuration = Path("/dev/null")
    if environment == "vms":  # The one that needs a provider.
        if why := provider.what_is_missing():
            pytest.skip(why)
        configuration = provider.configuration()
    made = shutil.ignore_patterns(".*", "*.tfstate*", "__pycache__")
    shutil.copytree(PROJECT / "terraform", scratch / "terraform", ignore=made)
    place = scratch / "terraform" / "environments" / environment
    settings = {"TF_CLI_CONFIG_FILE": str(configuration)}
    return lambda *words: run(program, f"-chdir={place}", *words, **settings)


@pytest.mark.parametrize("program", PROGRAMS_FOR_MACHINES)
@pytest.mark.parametrize(
    "environment", sorted(p.name for p in (PROJECT / "terraform/environments").iterdir() if p.is_dir())
)
def test_an_environment_is_valid_terraform(program: str, environment: str, tmp_path: Path) -> None:
    do = terraform(program, environment, tmp_path)
    do("init", "-input=false", "-backend=false")
    do("validate")
    do("fmt", "-check", "-recursive", str(PROJECT / "terraform"))


@pytest.mark.parametrize("program", PROGRAMS_FOR_MACHINES)
@pytest.mark.parametrize("environment", ["production", "vms"])
def test_an_environment_plans_the_hosts_that_it_is_to(program: str, environment: str, tmp_path: Path) -> None:
    do = terraform(program, environment, tmp_path)
    do("init", "-input=false", "-backend=false")
    do("test")
