"""Samples named by ids, a mask or a query on the source's table."""

from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

from krepes.audit.query import condition
from krepes.data.ids import RowIds
from krepes.data.source import Source
from krepes.errors import ConfigError, is_whole


def positions(source: Source, wanted: Any, what: str) -> np.ndarray:
    """Ascending positions of the samples that a user names.

    Args:
        wanted: a query on the source's table such as `sex == "Female"` (see `krepes.audit.query.condition`), a boolean
            mask (n,), or a sequence of different ids, as text or whole numbers.
        what: the thing that is selected, for messages.

    Raises:
        ConfigError: the query cannot be evaluated, ids do not exist or are repeated, a mask has another length or holds
            numbers, or nothing is selected.
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
    return np.flatnonzero(condition(table, query, what))


def _by_values(source: Source, wanted: Any, what: str) -> np.ndarray:
    values = _as_list(wanted, what)
    if any(isinstance(v, bool | np.bool_) for v in values):
        return np.flatnonzero(_mask(values, len(source), what))
    if len(values) == len(source) and all(isinstance(v, Real) and v in (0, 1) for v in values):
        raise ConfigError(f"{what} looks like a mask of zeros and ones; pass booleans for a mask, or text for ids")
    odd = [v for v in values if not isinstance(v, str) and not is_whole(v)]
    if odd:
        raise ConfigError(
            f"{what} holds {odd[0]!r} ({type(odd[0]).__name__}); ids are text or whole numbers, and look like "
            f"{source.ids[0]!r} here"
        )
    named = [str(v) for v in values]
    _refuse_repeated(named, what)
    place = positions_of(source.ids, set(named))
    unknown = [name for name in named if name not in place]
    if unknown:
        raise ConfigError(
            f"{len(unknown)} ids in {what} do not exist: {', '.join(unknown[:5])}. Ids look like {source.ids[0]!r}."
        )
    return np.unique(np.fromiter(place.values(), np.int64, len(place)))


def _as_list(wanted: Any, what: str) -> list[Any]:
    """The values of a one-dimensional list, array, tensor or column."""
    if isinstance(wanted, torch.Tensor):
        wanted = wanted.detach().cpu().numpy()
    try:
        found = np.asarray(wanted, dtype=object)
    except ValueError as error:  # lists of arrays of different shapes
        raise ConfigError(f"{what} holds lists; expected a query, a list of ids, or a mask: {error}") from error
    if found.ndim != 1:
        raise ConfigError(f"{what} has shape {found.shape}; expected a query, a list of ids, or a mask")
    values = found.tolist()
    if any(isinstance(v, list | tuple | np.ndarray | torch.Tensor) for v in values):
        raise ConfigError(f"{what} holds lists; expected a query, a list of ids, or a mask")
    return values


def _mask(values: list[Any], n: int, what: str) -> np.ndarray:
    odd = [v for v in values if not isinstance(v, bool | np.bool_)]
    if odd:
        raise ConfigError(
            f"{what} mixes truth values with others such as {odd[0]!r}; expected a mask of booleans, or a list of ids"
        )
    if len(values) != n:
        raise ConfigError(f"{what} is a mask of {len(values)} values for {n} samples; expected one each")
    return np.array(values, dtype=bool)


def _refuse_repeated(named: Sequence[Any], what: str) -> None:
    if len(set(named)) < len(named):
        repeated = [str(name) for name, count in Counter(named).items() if count > 1]
        raise ConfigError(f"{what} names {len(repeated)} samples more than once: {', '.join(repeated[:5])}")


def positions_of(ids: Sequence[str], wanted: set[str]) -> dict[str, int]:
    """Id ↦ position of those that exist."""
    if isinstance(ids, RowIds):
        return {name: ids.index(name) for name in wanted if name in ids}
    return {name: i for i, name in enumerate(ids) if name in wanted}


def explained_positions(source: Source, explain: Sequence[int | str] | int, seed: int) -> list[int]:
    """Positions of the samples that a report explains: by id or position, or a number of seeded ones.

    Args:
        explain: ids and positions, maybe none; or how many, at least 0, at most all.

    Raises:
        ConfigError: a sample does not exist or is named twice, or the number is negative or not whole.
    """
    if is_whole(explain) and not isinstance(explain, Sequence):
        if explain < 0:
            raise ConfigError(f"explain={explain}; expected at least 0 samples")
        drawn = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
        return sorted(drawn[: int(explain)].tolist())
    if isinstance(explain, bool | str | float) or not isinstance(explain, Iterable):
        raise ConfigError(f"explain={explain!r}; expected a whole number, or a list of ids or positions")
    asked = _as_list(explain, "explain")
    place = positions_of(source.ids, {e for e in asked if isinstance(e, str)})
    unknown = [e for e in asked if (e not in place if isinstance(e, str) else not _is_position(e, len(source)))]
    if unknown:
        raise ConfigError(
            f"explain names unknown samples: {', '.join(map(str, unknown[:5]))}; expected ids, or positions from 0 to "
            f"{len(source) - 1}"
        )
    found = [place[e] if isinstance(e, str) else int(e) for e in asked]
    _refuse_repeated([source.ids[i] for i in found], "explain")
    return found


def _is_position(value: Any, n: int) -> bool:
    return is_whole(value) and 0 <= value < n
