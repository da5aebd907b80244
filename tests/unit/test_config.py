"""A configuration file is judged before anything starts, and a complaint helps."""

import tomllib
from pathlib import Path

import pytest

from fastcache import _core, config
from fastcache.errors import ConfigurationError


def judged(**table: object) -> dict[str, str]:
    renamed = {name.replace("_", "-"): value for name, value in table.items()}
    return dict(config.judged(renamed, "node.toml", credentials={}))


def test_values_of_every_toml_type_become_the_text_redis_would_have() -> None:
    settings = judged(port=7005, maxmemory="100mb", appendonly=True, bind=["127.0.0.1", "::1"])
    assert settings == {"port": "7005", "maxmemory": "100mb", "appendonly": "yes", "bind": "127.0.0.1 ::1"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("maxmemry", "maxmemory"),
        ("max_clients", "maxclients"),
        ("maxmemory_policy", "maxmemory-policy"),
        ("Port", "port"),
    ],
)
def test_an_unknown_setting_names_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no setting '{typed}'") as caught:
        config.judged({typed: "1"}, "node.toml", {})
    assert caught.value.hint == f"did you mean '{meant}'?"
    assert caught.value.exit_code == 78


def test_a_setting_like_no_other_points_to_the_list() -> None:
    with pytest.raises(ConfigurationError) as caught:
        judged(zzzzzzzz=1)
    assert "--print-config" in caught.value.hint


def test_a_value_the_core_refuses_names_file_and_setting_and_says_what_the_setting_is() -> None:
    with pytest.raises(ConfigurationError, match=r"node\.toml: maxmemory-policy: ") as caught:
        judged(maxmemory_policy="sometimes")
    assert caught.value.hint.startswith("maxmemory-policy: ")


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], [True], None])
def test_a_value_of_a_shape_no_setting_has_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="port: must be"):
        judged(port=value)


def test_a_nul_character_cannot_smuggle_in_another_setting() -> None:
    with pytest.raises(ConfigurationError, match="NUL"):
        judged(dir="/tmp\0requirepass\0x")


@pytest.mark.parametrize("text", [b"port = ", b"port = 1\nport = 2", b"\xff = 1"])
def test_what_is_not_toml_is_an_error_with_the_files_name(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"node\.toml: is not TOML"):
        config.load_node(file)


def test_a_missing_file_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        config.load_node(tmp_path / "nothing.toml")


def test_a_secret_may_come_from_the_service_managers_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirepass").write_text("s3cret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file = tmp_path / "node.toml"
    file.write_text("port = 7001\n")
    assert config.load_node(file).get("requirepass") == "s3cret"


def test_the_printed_configuration_is_toml_tells_every_setting_and_hides_passwords() -> None:
    text = config.rendered([("port", "7009"), ("requirepass", "s3cret")])
    assert tomllib.loads(text) == {"port": 7009}
    assert "s3cret" not in text
    assert "requirepass is set" in text
    for setting in config.node_settings():
        assert setting.name in text
        assert setting.help in text


def test_every_default_as_printed_is_accepted_when_it_is_said() -> None:
    spoken = [line.removeprefix("# ") for line in config.rendered(()).splitlines() if line.startswith("# ")]
    assignments = [line for line in spoken if " = " in line and line.split(" = ")[0] in names()]
    assert len(assignments) > len(names()) / 2
    config.judged(tomllib.loads("\n".join(assignments)), "defaults", {})


def names() -> set[str]:
    return {setting.name for setting in config.node_settings()}


def test_text_survives_the_way_through_toml() -> None:
    for text in ("plain", 'a "quoted" \\ path', "tab\tand\nline", "\x7f", "ü"):
        assert tomllib.loads(f"x = {config.toml_text(text)}") == {"x": text}


def test_the_core_describes_its_settings_and_commands() -> None:
    assert {"port", "maxmemory", "requirepass", "maxmemory-policy"} <= names()
    commands = {row[0] for row in _core.command_table()}
    assert {"get", "set", "pubsub|channels"} <= commands


def test_the_example_in_the_repository_is_good() -> None:
    example = Path(__file__).parents[2] / "fastcache.toml"
    assert config.load_node(example).get("maxmemory-policy") == "allkeys-lru"
