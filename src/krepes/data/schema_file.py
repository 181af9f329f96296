"""A table's schema as a file that people read and edit: YAML or JSON, with mistakes named by line."""

import difflib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from krepes.errors import DataError

KINDS = ("numeric", "ordinal", "categorical", "boolean")
NUMBERS = ("mean", "std", "minimum", "maximum")
FIELDS = ("name", "kind", *NUMBERS, "missing", "categories")
WIDE = 100  # characters of categories that stand in one line


class Written(yaml.SafeLoader):
    """YAML without aliases: few lines of them stand for more than a memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; an alias is YAML's own error."""
        if self.check_event(yaml.AliasEvent):
            at = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"aliases (*{at.anchor}) are not used here; write it out", problem_mark=at.start_mark
            )
        return super().compose_node(parent, index)


def is_yaml(path: Path) -> bool:
    """Whether the file's name says YAML."""
    return path.suffix.lower() in (".yaml", ".yml")


def as_yaml(records: list[dict[str, Any]]) -> str:
    """Columns as YAML, each with the fields that its kind uses."""
    lines = [
        "# How a table becomes encoder input: one entry per column, in the order of the encoder's inputs.",
        "# kind: numeric (standardised by mean and std), ordinal, categorical or boolean (one input per category, and",
        "# one each for missing and for unseen cells). missing: how many cells were missing when it was fitted.",
    ]
    for record in records:
        numeric = record["kind"] == "numeric"
        lines.append(f"- name: {_quoted(record['name'])}\n  kind: {record['kind']}")
        if numeric:
            lines += [f"  {key}: {record[key]!r}" for key in NUMBERS]
        lines.append(f"  missing: {record['missing']}")
        if not numeric:
            cells = [_quoted(c) for c in record["categories"]]
            short = sum(map(len, cells)) + 2 * len(cells) <= WIDE
            lines.append("  categories: [" + ", ".join(cells) + "]" if short else "  categories:")
            lines += [] if short else [f"    - {c}" for c in cells]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    # YAML folds some characters that look like nothing
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def read_records(path: Path) -> list[dict[str, Any]]:
    """The columns of a schema file, checked: what a `Column` is made of.

    Raises:
        DataError: no valid YAML or JSON, no schema, or a wrong field; names the line and the column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        records = _plain(yaml.compose(text, Written)) if is_yaml(path) else json.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no table schema: it is not UTF-8 ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, is no valid JSON: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1},"
        raise DataError(f"{path}{line} is no valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: of a number of thousands of digits
        raise DataError(f"{path} is no table schema: {error}") from error
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is no table schema: it holds {_kind(records)}; expected a list of columns")
    out, seen = [], Counter()
    for i, record in enumerate(records):
        try:
            out.append(_checked(record))
            seen[out[-1]["name"]] += 1
            if seen[out[-1]["name"]] > 1:
                raise _FieldError("name", "is the name of a column before it, too")
        except _FieldError as error:
            name = record.get("name") if isinstance(record, dict) else None
            which = f"column '{name}'" if isinstance(name, str) and name else f"entry {i + 1}"
            raise DataError(f"{path}{_line(text, i, error.key)}: {which}: {error}") from error
    return out


class _FieldError(Exception):
    """A field that cannot be; the reader adds file, line and column."""

    def __init__(self, key: str | None, what: str):
        super().__init__(f"{key} {what}" if key else what)
        self.key = key


def _checked(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise _FieldError(None, f"it is {_kind(record)}; expected name, kind, and so on")
    for key in record:
        if key not in FIELDS:
            near = difflib.get_close_matches(str(key), FIELDS, 1)
            raise _FieldError(
                str(key), "is no field" + (f"; did you mean '{near[0]}'?" if near else f": {', '.join(FIELDS)}")
            )
    for key in ("name", "kind"):
        if not isinstance(record.get(key), str) or not record[key]:
            raise _FieldError(key if key in record else None, f"{'' if key in record else key + ' '}is missing")
    if record["kind"] not in KINDS:
        raise _FieldError("kind", f"is {record['kind']!r}; expected {', '.join(KINDS)}")
    out: dict[str, Any] = {"name": record["name"], "kind": record["kind"]}
    for key in NUMBERS:
        if key in record:
            out[key] = _number(key, record[key])
    if out.get("std", 1.0) < 0:
        raise _FieldError("std", f"is {out['std']:g}; expected at least 0")
    if out.get("minimum", 0.0) > out.get("maximum", 0.0):
        raise _FieldError("minimum", f"is {out['minimum']:g}, above the maximum")
    missing = _number("missing", record.get("missing", 0))
    if missing < 0 or missing != int(missing):
        raise _FieldError("missing", f"is {record['missing']!r}; expected a number of cells")
    out["missing"] = int(missing)
    out["categories"] = _categories(record)
    return out


def _number(key: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not math.isfinite(number):
        raise _FieldError(key, f"is {value!r}; expected a number")
    return number


def _categories(record: dict[str, Any]) -> tuple[str, ...]:
    found, kind = record.get("categories", []), record["kind"]
    if kind == "numeric":
        if found:
            raise _FieldError("categories", "are given for a numeric column; remove them, or change its kind")
        return ()
    if not isinstance(found, list) or not all(isinstance(c, str) for c in found):
        raise _FieldError("categories", "is no list of texts")
    repeated = [c for c, k in Counter(found).items() if k > 1]
    if repeated:
        raise _FieldError("categories", f"name {repeated[0]!r} more than once")
    if not found or (kind == "boolean" and len(found) > 2):
        raise _FieldError("categories", f"has {len(found)} entries for a {kind} column")
    return tuple(found)


def _plain(node: yaml.Node | None) -> Any:
    """Lists, dictionaries and texts: every scalar as it is written, so that 01 and no stay what they are."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(v) for v in node.value]
    if isinstance(node, yaml.MappingNode):
        out = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in out:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands twice or is no name", problem_mark=key.start_mark
                )
            out[key.value] = _plain(value)
        return out
    return None if node is None else node.value


def _line(text: str, i: int, key: str | None) -> str:
    """Where an entry's field stands, in words; JSON is YAML, nearly always."""
    try:
        entry = yaml.compose(text, yaml.SafeLoader).value[i]
    except (yaml.YAMLError, AttributeError, IndexError, RecursionError):
        return ""
    fields = entry.value if isinstance(entry, yaml.MappingNode) else []
    # the last of several, as JSON takes it
    marks = [k.start_mark for k, _ in fields if k.value == key]
    return f", line {(marks[-1] if marks else entry.start_mark).line + 1}"


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == [] else f"a {type(value).__name__}"
