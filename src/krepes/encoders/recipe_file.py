"""Reading YAML with the place of every key, so that a mistake is named by file, line and column."""

import re
from pathlib import Path
from typing import Any

import yaml

from krepes.errors import ConfigError

Place = tuple[int, int]  # line and column, from 1
Places = dict[tuple[str | int, ...], Place]


class MarkedLoader(yaml.SafeLoader):
    """YAML in which 5e-3 is a number, as everybody reads it; YAML 1.1 wants 5.0e-3."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; one that is none of its kind, such as the date 2026-13-01, is YAML's own error."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:  # PyYAML raises each of them
            kind, shown = node.tag.rpartition(":")[2], str(node.value)[:40]
            raise yaml.MarkedYAMLError(
                problem=f"{shown!r} is no {kind}; put a text in quotes", problem_mark=node.start_mark
            ) from error


MarkedLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_marked(path: Path) -> tuple[Any, Places]:
    """The plain values of a YAML file, and where each key stands.

    Args:
        path: the file, UTF-8.

    Returns:
        values, and (key, sub-key or position, …) ↦ (line, column).

    Raises:
        ConfigError: no such file, no YAML, or a key that is given twice; names line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {error}") from error
    try:
        refuse_aliases(text, path)
        node = yaml.compose(text, MarkedLoader)
        places: Places = {}
        if node is not None:
            note_places(node, (), places, path)
        return (None if node is None else MarkedLoader("").construct_document(node)), places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(f"{path}{where}: this is not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: sections are nested too deeply") from error


def refuse_aliases(text: str, path: Path) -> None:
    """Raise ConfigError at the first alias: few lines of them stand for more than a memory holds."""
    for event in yaml.parse(text, MarkedLoader):
        if isinstance(event, yaml.AliasEvent):
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            raise ConfigError(f"{path}:{line}:{column}: aliases (*{event.anchor}) are not used here; write it out")


def note_places(node: yaml.Node, at: tuple[str | int, ...], places: Places, path: Path) -> None:
    """Enter the places of a node's keys."""
    places.setdefault(at, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = (*at, str(key.value))
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            if name in places:
                first = places[name][0]
                raise ConfigError(f"{path}:{line}:{column}: '{key.value}' is given twice, first in line {first}")
            places[name] = (line, column)
            note_places(value, name, places, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            note_places(value, (*at, i), places, path)


def place_of(keys: tuple[str | int, ...], places: Places) -> Place:
    """Where a key stands, or the nearest section around it."""
    while keys and keys not in places:
        keys = keys[:-1]
    return places.get(keys, (1, 1))
