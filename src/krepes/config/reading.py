"""YAML and paths of configuration files."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from krepes.encoders.recipe_file import MarkedLoader, Places, place_of, read_marked
from krepes.errors import ConfigError, DataError
from krepes.remote import fetched, is_url, without_secrets


class Section(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


Settings = TypeVar("Settings", bound=Section)


def read_settings(path: Path, model: type[Settings], overrides: Sequence[str], example: str) -> Settings:
    """A configuration file with `key.sub=value` overrides.

    Args:
        path: a YAML file.
        model: what it holds.
        overrides: dotted keys with YAML values.
        example: of an override, for the message about one without a value.

    Raises:
        ConfigError: no such file, no YAML, an alias, a key that is given twice, an unknown key or a wrong value; names
            the key, its line and its column.
    """
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}")
    try:
        path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    content, places = read_marked(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}; expected settings (key: value)")
    changed = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: expected key=value, such as {example}")
        try:
            put(content, key.split("."), load_yaml(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
        changed.append(tuple(key.split(".")))
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [f"  {found_at(e['loc'], places, changed)}: {in_words(e)}" for e in error.errors()]
        raise ConfigError(f"{path}:\n" + "\n".join(lines)) from error


def found_at(keys: tuple[str | int, ...], places: Places, changed: Sequence[tuple[str, ...]]) -> str:
    """line:column of a key in the file, or --set where that gave it."""
    if any(keys[: len(one)] == one for one in changed):
        return "--set"
    line, column = place_of(keys, places)
    return f"{line}:{column}"


@contextmanager
def naming_the_line(path: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Errors that begin with a key of this section (`data.label: …`) get its file, line and column before it."""
    try:
        yield
    except (ConfigError, DataError) as error:
        key = re.match(r"data(\.\w+)+", str(error))
        if key is None:
            raise
        changed = [tuple(o.partition("=")[0].split(".")) for o in overrides]
        place = found_at(tuple(key[0].split(".")), read_marked(path)[1], changed)
        raise type(error)(f"{path}:{place}: {error}") from error


def in_words(error: Any) -> str:
    """One of pydantic's errors: the key, what is wrong, what was found."""
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']} (found {without_secrets(error['input'])!r})"


def load_yaml(text: str) -> Any:
    """Plain values from YAML."""
    return yaml.load(text, MarkedLoader)


def put(content: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set content[key][sub]… to the value; ConfigError where a value stands in the way."""
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: '{key}' holds a value, not a section")
    content[keys[-1]] = value


def resolve(text: str, folder: Path) -> Path:
    """A path with ${VARIABLES} filled in, relative to the configuration's folder; of a URL, its files in the cache."""

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise ConfigError(
                f"the path {without_secrets(text)} needs the environment variable {match[1]}, which is not set; point "
                "it at the folder that holds the data"
            )
        return value

    found = re.sub(r"\$\{(\w+)\}", fill, text)
    return fetched(found) if is_url(found) else folder / found
