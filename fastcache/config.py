"""Configuration files: read, judge, print.

A file is TOML with the names Redis users know (`port`, `maxmemory-policy`). Which settings exist, their
defaults and their meaning is said once, in rust/core/src/server/settings.rs; this module asks the core.
A key that does not exist is an error that names the nearest one: a typing mistake must not silently
become a default.
"""

import difflib
import os
import tomllib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastcache import _core
from fastcache.errors import ConfigurationError

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a node as the core describes it."""

    name: str
    kind: str
    default: str
    changeable: bool
    help: str

    @property
    def secret(self) -> bool:
        """A password: never shown, and also taken from the service manager's credentials."""
        return self.kind == "secret"


@dataclass(frozen=True, slots=True)
class NodeConfiguration:
    """What one file says, judged: only settings that exist, with values the core accepts."""

    path: Path
    settings: Settings

    def get(self, name: str) -> str:
        """The value of a setting, or its default."""
        return dict(self.settings).get(name) or next(s.default for s in node_settings() if s.name == name)


def node_settings() -> list[Setting]:
    """Every setting a node has."""
    return [Setting(*row) for row in _core.node_settings()]


def load_node(path: Path) -> NodeConfiguration:
    """Read and judge the configuration of a node."""
    return NodeConfiguration(
        path, judged(read(path), origin=str(path), credentials=credentials(node_secrets()))
    )


def judged(table: Mapping[str, object], origin: str, credentials: Mapping[str, str]) -> Settings:
    """Turn a TOML table into settings the core accepts, or say what is wrong with it."""
    known = {setting.name: setting for setting in node_settings()}
    settings = {name: value for name, value in credentials.items() if name in known}
    for key, value in table.items():
        if key not in known:
            raise ConfigurationError(f"{origin}: there is no setting '{key}'", nearest(key, known))
        settings[key] = as_text(key, value, origin)
    for name, text in settings.items():
        # Settings travel to the node's process with NUL between them.
        if "\0" in text:
            raise ConfigurationError(f"{origin}: {name}: holds a NUL character")
    pairs = tuple(settings.items())
    try:
        _core.Node(list(pairs))
    except ValueError as error:
        raise ConfigurationError(f"{origin}: {error}", explain(str(error), known)) from None
    return pairs


def as_text(key: str, value: object, origin: str) -> str:
    """A TOML value as Redis would write it on a line of its own configuration."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(
        isinstance(item, str | int) and not isinstance(item, bool) for item in value
    ):
        # Users are lines of several words; of everything else, a list is words.
        return ("\n" if key == "user" else " ").join(str(item) for item in value)
    raise ConfigurationError(f"{origin}: {key}: must be text, a number, true or false, or a list of these")


def nearest(key: str, known: Iterable[str], lists_all: str = "fastcache node --print-config") -> str:
    """Name the setting that was probably meant."""
    candidates = difflib.get_close_matches(key.lower().replace("_", "-"), list(known), n=1, cutoff=0.5)
    if candidates:
        return f"did you mean '{candidates[0]}'?"
    return f"'{lists_all}' lists all settings"


def explain(complaint: str, known: Mapping[str, Setting]) -> str:
    """What the setting that a complaint names is for."""
    setting = known.get(complaint.partition(":")[0])
    return f"{setting.name}: {setting.help}" if setting else ""


def read(path: Path) -> dict[str, object]:
    """The TOML table of a file."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}") from None


def node_secrets() -> list[str]:
    """The settings of a node that are passwords."""
    return [setting.name for setting in node_settings() if setting.secret]


def credentials(names: Iterable[str]) -> dict[str, str]:
    """Those of the named secrets that the service manager hands over as files (systemd's LoadCredential)."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    found = {}
    for name in names:
        file = Path(directory, name)
        if file.is_file():
            found[name] = file.read_text().rstrip("\n")
    return found


def rendered(settings: Iterable[tuple[str, str]], only: Container[str] | None = None) -> str:
    """All settings as TOML, defaults included, each with what it is for. Secrets stay unsaid."""
    chosen = dict(settings)
    blocks = []
    for setting in node_settings():
        if only is not None and setting.name not in only:
            continue
        value = chosen.get(setting.name, setting.default)
        line = f"{setting.name} = {toml_value(setting, value)}"
        if setting.secret:
            line = f"# {setting.name} is {'set' if value else 'not set'}; its value is not shown"
        elif setting.name not in chosen:
            line = f"# {line}"
        when = "" if setting.changeable else " (fixed at start)"
        blocks.append(f"# {setting.help}{when}\n{line}\n")
    return "\n".join(blocks)


def toml_value(setting: Setting, value: str) -> str:
    """A value as TOML writes it."""
    if setting.kind == "boolean":
        return "true" if value == "yes" else "false"
    if value.lstrip("-").isdecimal() and setting.kind != "text":
        return value
    return toml_text(value)


def toml_text(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
