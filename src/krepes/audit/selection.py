"""Samples named by ids, a mask or a query on the source's table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from krepes.data.ids import RowIds
from krepes.data.source import Source
from krepes.errors import ConfigError, is_whole


def positions(source: Source, wanted: Any, what: str) -> np.ndarray:
    """Ascending positions of the samples that a user names.

    Args:
        wanted: a query on the source's table such as `sex == "Female"` (the language of `pandas.DataFrame.query`),
            a boolean mask (n,), or a sequence of ids.
        what: the thing that is selected, for messages.

    Raises:
        ConfigError: the query cannot be evaluated, ids do not exist, a mask has another length, or nothing is selected.
    """
    found = _by_query(source, wanted, what) if isinstance(wanted, str) else _by_values(source, wanted, what)
    if len(found) == 0:
        raise ConfigError(f"{what} selects no sample: {wanted!r}" if isinstance(wanted, str) else f"{what} is empty")
    return found


def _by_query(source: Source, query: str, what: str) -> np.ndarray:
    table = source.metadata()
    if table is None:
        raise ConfigError(
            f"{what} is the query {query!r}, but these samples have no table: give a list of ids, or metadata"
        )
    try:
        mask = table.reset_index(drop=True).eval(query, engine="python")
    except Exception as error:  # pandas raises errors of many types, down to SyntaxError
        columns = ", ".join(map(str, table.columns))
        raise ConfigError(f"{what}={query!r} is no query on this table: {error}. Its columns: {columns}") from error
    mask = np.asarray(mask)
    if mask.shape != (len(source),) or mask.dtype != bool:
        raise ConfigError(
            f"{what}={query!r} gives {mask.dtype} values; expected a condition, true or false for each row"
        )
    return np.flatnonzero(mask)


def _by_values(source: Source, wanted: Any, what: str) -> np.ndarray:
    values = np.asarray(wanted.cpu() if isinstance(wanted, torch.Tensor) else wanted)
    if values.ndim != 1:
        raise ConfigError(f"{what} has shape {values.shape}; expected a query, a list of ids, or a mask")
    if values.dtype == bool:
        if len(values) != len(source):
            raise ConfigError(f"{what} is a mask of {len(values)} values for {len(source)} samples; expected one each")
        return np.flatnonzero(values)
    place = positions_of(source.ids, {str(v) for v in values})
    unknown = [str(v) for v in values if str(v) not in place]
    if unknown:
        raise ConfigError(
            f"{len(unknown)} ids in {what} do not exist: {', '.join(unknown[:5])}. Ids look like {source.ids[0]!r}."
        )
    return np.unique(np.fromiter(place.values(), np.int64, len(place)))


def positions_of(ids: Sequence[str], wanted: set[str]) -> dict[str, int]:
    """Id ↦ position of those that exist."""
    if isinstance(ids, RowIds):
        return {name: ids.index(name) for name in wanted if name in ids}
    return {name: i for i, name in enumerate(ids) if name in wanted}


def explained_positions(source: Source, explain: Sequence[int | str] | int, seed: int) -> list[int]:
    """Positions of the samples that a report explains: by id or position, or a number of seeded ones.

    Raises:
        ConfigError: a sample does not exist.
    """
    if isinstance(explain, int):
        drawn = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
        return sorted(drawn[:explain].tolist())
    place = positions_of(source.ids, {e for e in explain if isinstance(e, str)})
    unknown = [e for e in explain if (e not in place if isinstance(e, str) else not _is_position(e, len(source)))]
    if unknown:
        raise ConfigError(f"explain names unknown samples: {', '.join(map(str, unknown[:5]))}")
    return [place[e] if isinstance(e, str) else int(e) for e in explain]


def _is_position(value: Any, n: int) -> bool:
    return is_whole(value) and 0 <= value < n
