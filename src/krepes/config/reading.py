"""YAML and paths of configuration files."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from krepes.config.mistakes import in_words, with_suggestions
from krepes.encoders.recipe import Recipe
from krepes.encoders.recipe_file import MarkedLoader, Places, place_of, read_marked
from krepes.errors import ConfigError, DataError
from krepes.remote import fetched, is_url, without_secrets


class Section(BaseModel):
    """Unknown keys are mistakes, told with the nearest key that there is."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="wrap")
    @classmethod
    def _suggesting(cls, content: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(content)
        except ValidationError as error:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            raise with_suggestions(error, cls.__name__, known) from None


Settings = TypeVar("Settings", bound=Section)


def read_settings(
    path: Path,
    model: type[Settings],
    overrides: Sequence[str],
    example: str,
    change: Callable[[dict[str, Any]], None] = lambda content: None,
) -> Settings:
    """A configuration file with `key.sub=value` overrides.

    Args:
        path: a YAML file.
        model: what it holds.
        overrides: dotted keys with YAML values.
        example: of an override, for the message about one without a value.
        change: what else changes the file's content, before the overrides do.

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
    refuse_recipe(content, model, path)
    change(content)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: expected key=value, such as {example}")
        try:
            put(content, key.split("."), load_yaml(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        changed = changes(overrides)
        lines = [f"  {found_at(e['loc'], places, changed)}: {in_words(e)}" for e in error.errors()]
        raise ConfigError(f"{path}:\n" + "\n".join(lines)) from error


def refuse_recipe(content: dict[str, Any], model: type[Section], path: Path) -> None:
    """Raise ConfigError where a file holds a recipe, which is easily given for the configuration that names it."""
    own = [key for key in content if key in Recipe.model_fields and key not in model.model_fields]
    needed = [name for name, field in model.model_fields.items() if field.is_required()]
    if "encoder" in model.model_fields and own and not {"encoder", "data"} & set(content):
        raise ConfigError(
            f"{path} is a recipe (it says {', '.join(own[:4])}): how an encoder is made of a checkpoint; expected a "
            f"configuration, with {' and '.join(needed)}. Name the recipe in one, `encoder: {{recipe: {path.name}}}` "
            "(docs/configuration.md); what its checkpoint holds is shown by krepes inspect and the checkpoint's name."
        )


Changes = list[tuple[tuple[str, ...], str]]


def changes(overrides: Sequence[str]) -> Changes:
    """Keys that options changed, and these options as they were given."""
    return [(tuple(o.partition("=")[0].split(".")), f"--set {without_secrets(o)}") for o in overrides]


def found_at(keys: tuple[str | int, ...], places: Places, changed: Changes) -> str:
    """line:column of a key in the file, or the option that gave it; both where an option changed what is inside it."""
    new, stated = keys, keys
    while stated and stated not in places:
        new, stated = stated, stated[:-1]
    # the value itself; or, where the file does not hold the key, what brought in the outermost section that is new
    given = [said for key, said in changed if keys[: len(key)] == key or (new != stated and key[: len(new)] == new)]
    if given:
        return given[-1]
    line, column = place_of(keys, places)
    inside = [said for key, said in changed if keys and key[: len(keys)] == keys]
    return " and ".join([f"{line}:{column}", *inside])


@contextmanager
def naming_the_line(path: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Errors that begin with a key (`data.label: …`, `report.explain …`) get its file, line and column before it."""
    try:
        yield
    except (ConfigError, DataError) as error:
        key = re.match(r"(data|report|views)(\.\w+)+", str(error))
        keys, places, changed = tuple(key[0].split(".")) if key else (), read_marked(path)[1], changes(overrides)
        if not keys or keys[:1] not in [*places, *(one[:1] for one, _ in changed)]:  # of a recipe, say
            raise
        place = found_at(keys, places, changed)
        where = place if place.startswith("--set") else f"{path}:{place}"
        raise type(error)(f"{where}: {error}") from error


def load_yaml(text: str) -> Any:
    """Plain values from YAML."""
    return yaml.load(text, MarkedLoader)


def put(content: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set content[key][sub]… to the value; ConfigError where a value stands in the way."""
    for depth, key in enumerate(keys[:-1], 1):
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            whole = ".".join(keys[:depth])
            raise ConfigError(
                f"--set {'.'.join(keys)}: '{key}' holds a value, not a section; give it whole, --set '{whole}={{...}}'"
            )
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
