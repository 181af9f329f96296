"""Files and columns by their names."""

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from krepes.errors import DataError


def existing(path: str | Path) -> Path:
    """The path, if a file is there; else DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return path


def refuse_repeated(names: Sequence[str], path: Path) -> None:
    """Raise DataError naming the columns that occur more than once."""
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise DataError(
            f"{path}: the column names {', '.join(repeated)} occur more than once; name the columns "
            "of a file without a header with columns=…"
        )


def require_name(names: Iterable[Any], name: str) -> str:
    """The name, if it is there; else DataError with the nearest one."""
    if name not in (known := list(map(str, names))):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise DataError(f"unknown column '{name}'{hint} The table has {', '.join(known)}")
    return name


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column of that name; a name that is a number is known by its text.

    Raises:
        DataError: there is none, or several.
    """
    known = list(map(str, frame.columns))
    refuse_twice(known, [require_name(known, name)])
    return frame.iloc[:, known.index(name)]


def refuse_twice(names: Sequence[str], wanted: Iterable[str]) -> None:
    """Raise DataError naming those of the wanted columns that a table has more than once."""
    held = Counter(names)
    twice = [name for name in dict.fromkeys(wanted) if held[name] > 1]
    if twice:
        raise DataError(
            f"the table has more than one column named {', '.join(map(repr, twice[:5]))}; rename or remove all but one"
        )
