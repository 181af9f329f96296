"""Samples that cannot be used: each named with its reason, then refused together or left out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import islice
from os import cpu_count
from typing import Literal, TypeVar

import pandas as pd

from krepes.errors import ConfigError, DataError, is_whole, warn

OnError = Literal["raise", "skip"]
NAMED = 5  # problems that an error spells out
WORKERS = min(8, cpu_count() or 1)  # threads that decode
TOGETHER = 1024  # items that wait for a thread at once

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Problem:
    """Why a sample cannot be used.

    Attributes:
        id: of the sample; other samples keep theirs, whether it is left out or not.
        path: the file, or the file and the place in it.
        problem: the reason.
    """

    id: str
    path: str
    problem: str


def table_of_problems(found: Iterable[Problem]) -> pd.DataFrame:
    """One row per problem: id, path, problem."""
    return pd.DataFrame([astuple(p) for p in found], columns=["id", "path", "problem"])


def settle(found: Sequence[Problem], total: int, on_error: OnError, what: str) -> pd.DataFrame:
    """Refuse the samples with problems, or say how many are left out.

    Args:
        total: how many samples there are, those with problems among them.
        on_error: "raise" or "skip".
        what: the samples in a word, with their place: "images of photos".

    Returns:
        id, path and problem, a row each.

    Raises:
        DataError: there are problems and on_error is "raise", or no sample is left.
    """
    if not found:
        return table_of_problems(found)
    few = "; ".join(f"{p.id}: {p.problem}" for p in found[:NAMED])
    few += f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    said = f"{len(found)} of {total} {what} cannot be used: {few}"
    if on_error == "raise":
        raise DataError(f"{said}. Mend or remove them, or leave them out with on_error='skip'.")
    if len(found) >= total:
        raise DataError(f"{said}. None is left.")
    warn(f"{said}. They are left out; source.problems lists them.")
    return table_of_problems(found)


def check_on_error(on_error: str) -> None:
    """Raise ConfigError unless it is "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error={on_error!r}; expected 'raise' or 'skip'")


def check_rows(rows: int | None, name: str = "rows") -> None:
    """Raise ConfigError unless it is None, for all, or a positive whole number."""
    if rows is not None and (not is_whole(rows) or rows < 1):
        raise ConfigError(f"{name}={rows!r}; expected a positive whole number, or None for all")


def repeated_ids(ids: Sequence[str], paths: Sequence[str]) -> dict[int, Problem]:
    """Position ↦ problem of every id that stands before already; the first of them is good."""
    if len(set(ids)) == len(ids):
        return {}
    counts, seen, found = Counter(ids), set(), {}
    for position, name in enumerate(ids):
        if name in seen:
            found[position] = Problem(name, paths[position], f"the id is given {counts[name]} times")
        seen.add(name)
    return found


def in_threads(work: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[Made]:
    """work(item) in the items' order, a bounded number of them at once."""
    if len(items) < 2 or WORKERS < 2:
        yield from map(work, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(WORKERS) as pool:
        while some := list(islice(rest, TOGETHER)):
            yield from pool.map(work, some)
