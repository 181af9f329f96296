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


class ByName:
    """The columns of a table by their names as text, each found without a search.

    Example:
        >>> ByName(pd.DataFrame({0: [1, 2], "a": [3, 4]}))["0"].tolist()
        [1, 2]
    """

    def __init__(self, frame: pd.DataFrame):
        self._frame, self._places = frame, places_of(frame)

    def __getitem__(self, name: str) -> pd.Series:
        """The column of that name.

        Raises:
            DataError: there is none, or several.
        """
        places = self._places.get(name, [])
        if len(places) != 1:
            refuse_twice(list(map(str, self._frame.columns)), [require_name(self._places, name)])
        return self._frame.iloc[:, places[0]]


def places_of(frame: pd.DataFrame) -> dict[str, list[int]]:
    """Name as text ↦ the places of the columns that have it, one each where no name stands there twice."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(map(str, frame.columns)):
        places.setdefault(name, []).append(place)
    return places


def refuse_twice(names: Sequence[str], wanted: Iterable[str]) -> None:
    """Raise DataError naming those of the wanted columns that a table has more than once."""
    held = Counter(names)
    twice = [name for name in dict.fromkeys(wanted) if held[name] > 1]
    if twice:
        raise DataError(
            f"the table has more than one column named {', '.join(map(repr, twice[:5]))}; rename or remove all but one"
        )
