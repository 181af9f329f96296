"""Files and columns by their names."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
