"""What the health service's file may say, and where its secrets come from."""

from pathlib import Path

import pytest

from fastcache.health import settings


def test_its_secrets_come_from_the_service_managers_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "admin-key").write_text("open\n")
    (tmp_path / "node-password").write_text("sesame\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file = tmp_path / "health.toml"
    file.write_text("port = 8080\n")
    loaded = settings.load(file)
    assert (loaded.admin_key, loaded.node_password) == ("open", "sesame")
    assert "sesame" not in settings.rendered(loaded)


@pytest.mark.parametrize("key", settings.RETIRED)
def test_a_setting_of_before_is_told_of_and_does_not_keep_the_service_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    file = tmp_path / "health.toml"
    file.write_text(f"{key} = true\nport = 8081\n")
    loaded = settings.load(file)
    assert loaded.port == 8081
    assert f"'{key}' has no effect any more" in capsys.readouterr().err
    assert key not in settings.rendered(loaded)
