"""YAML and paths of configuration files."""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from krepes.errors import ConfigError


class Section(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class _Loader(yaml.SafeLoader):
    """YAML in which 5e-3 is a number, as everybody reads it; YAML 1.1 wants 5.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_yaml(text: str) -> Any:
    """Plain values from YAML."""
    return yaml.load(text, _Loader)


def put(content: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: '{key}' holds a value, not a section")
    content[keys[-1]] = value


def resolve(text: str, folder: Path) -> Path:
    """A path with ${VARIABLES} filled in, relative to the configuration's folder."""

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise ConfigError(
                f"the path {text} needs the environment variable {match[1]}, which is not set; point it at the folder "
                "that holds the data"
            )
        return value

    return folder / re.sub(r"\$\{(\w+)\}", fill, text)
