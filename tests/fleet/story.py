"""What the stories on lab hosts share: one lab for each, and an end at the first test that fails."""

from collections.abc import Iterator

import pytest

from tests.fleet.lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """As many bare hosts as the module's HOSTS says, made as its MACHINES says, and the bundle to install.

    All are gone afterwards.
    """
    lab = Lab(tmp_path_factory.mktemp("lab"), getattr(request.module, "ENVIRONMENT", "lab"))
    lab.settings |= getattr(request.module, "SETTINGS_OF_ALL", {})
    lab.environment |= getattr(request.module, "MACHINES", {})
    lab.command("destroy", "--all")
    try:
        lab.make_bundle(release=True)
        lab.up(request.module.HOSTS)
        yield lab
    finally:
        lab.destroy()


@pytest.fixture(autouse=True)
def story(request: pytest.FixtureRequest) -> Iterator[None]:
    """What stands on a failed test would only fail for that test's reason."""
    if getattr(request.module, "broken", None):
        pytest.skip(f"{request.module.broken} failed before")
    before = request.session.testsfailed
    yield
    if request.session.testsfailed > before:
        request.module.broken = request.node.name
