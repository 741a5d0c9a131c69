"""Reading a model's own files: they come from anyone, so nothing in them is taken for granted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embakery.errors import ConfigurationError

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """A model's config.json, read with messages for whoever must mend it."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Read a folder's config.json. Raises ConfigurationError."""
        return cls(folder / CONFIG, read_json(folder / CONFIG))

    def size(self, key: str, *, least: int = 1, default: int | None = None) -> int:
        """Return an integer of at least `least`. Raises ConfigurationError."""
        value = self.values.get(key, default)
        if type(value) is not int or value < least:
            raise self.error(key, f"{value!r} is not an integer of at least {least}")
        return value

    def positive(self, key: str, *, default: float) -> float:
        """Return a finite number above zero. Raises ConfigurationError."""
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.error(key, f"{value!r} is not a number above zero")
        return float(value)

    def error(self, key: str, problem: str) -> ConfigurationError:
        """An error that names the file and the setting."""
        return ConfigurationError(f"{self.path}: {key}: {problem}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ConfigurationError naming the file."""
    content = _parse(path)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: holds a JSON {type(content).__name__}, not an object; download it again")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    return read_json(path) if path.exists() else {}


def read_json_objects(path: Path) -> list[dict[str, Any]]:
    """Read a JSON array of objects. Raises ConfigurationError naming the file."""
    content = _parse(path)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise ConfigurationError(f"{path}: is not a JSON array of objects; download it again")
    return content


def _parse(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: is missing; name a folder that holds a model") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: is not readable JSON ({error}); download it again") from error
