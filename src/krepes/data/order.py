"""Rows beside the samples, put into the samples' order by the index that names them."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from krepes.data.ids import ChosenIds, RowIds
from krepes.errors import warn

Rows = TypeVar("Rows")

IN_ORDER = "put the rows into the samples' order"


def in_order_of(ids: Sequence[str], rows: Rows, what: str = "the table") -> Rows:
    """One row per sample in the samples' order, where a pandas index says which row is whose.

    The index says so where it holds each of the ids that the user gave, as text. Default ids (0 …, row-0 …) are places
    and name no row. The numbers 0 … n − 1 in turn are the index that pandas makes, whatever the ids are. So rows beside
    either are taken as they stand, and so are those of any other index. A warning says so where the index may have been
    meant: it holds default ids or 0 … n − 1 in another order, or text that is some of the ids, or it has a name and
    0 … n − 1 are ids in another order. A warning also says so where unnamed numbers 0 … n − 1 move rows: they may be
    left over from a shuffle.

    Args:
        ids: of the samples (n,).
        rows: a DataFrame or a Series (n rows); anything else, and another number of rows, is given back as it is.
        what: the rows, for messages.

    Example:
        >>> in_order_of(["a", "b", "c"], pd.Series([3, 1, 2], index=["c", "a", "b"])).tolist()
        [1, 2, 3]
    """
    if not isinstance(rows, pd.DataFrame | pd.Series) or len(rows) != len(ids) or not len(ids):
        return rows
    index, as_it_is = rows.index, np.arange(len(ids))
    numbers, order = _numbers(index), _order(ids, index)
    in_turn = numbers is not None and bool((numbers == as_it_is).all())
    moved = order is not None and bool((order != as_it_is).any())
    counted = f"the numbers 0 … {len(ids) - 1}"
    if in_turn:
        if moved and index.name is not None:
            _say_as_they_stand(what, f"{counted} in turn, and the samples' ids are these in another order", IN_ORDER)
    elif _are_places(ids):
        if numbers is not None or moved:
            held = f"{counted} in another order" if numbers is not None else "the samples' ids in another order"
            _say_as_they_stand(
                what, f"{held}, and those ids are places that no index names", f"give the source ids, or {IN_ORDER}"
            )
        elif order is None:
            _say_partly_named(ids, what, index)
    elif order is None:
        if numbers is not None:
            _say_as_they_stand(what, f"{counted} in another order", f"let it hold the samples' ids, such as {ids[0]!r}")
        else:
            _say_partly_named(ids, what, index)
    elif moved:
        if numbers is not None and index.name is None:  # a named index was set on purpose
            warn(
                f"the index of {what} holds {counted} in another order than the samples' ids: its rows are put into "
                "the samples' order by it. If they stood in that order, give it .reset_index(drop=True)"
            )
        return rows.iloc[order]
    return rows


def _are_places(ids: Sequence[str]) -> bool:
    """Whether ids are default ones, which number the samples, or some of these."""
    if isinstance(ids, ChosenIds):
        return _are_places(ids.ids)
    return isinstance(ids, RowIds) or all(name == str(i) for i, name in enumerate(ids))


def _numbers(index: pd.Index) -> np.ndarray | None:
    """An index that holds the numbers 0 … n − 1 in any order (n,); else None."""
    if isinstance(index, pd.MultiIndex) or not pd.api.types.is_integer_dtype(index.dtype) or index.hasnans:
        return None
    numbers = index.to_numpy(np.int64)
    if numbers.min() != 0 or numbers.max() != len(numbers) - 1 or (np.bincount(numbers) != 1).any():
        return None
    return numbers


def _order(ids: Sequence[str], index: pd.Index) -> np.ndarray | None:
    """Each sample's row (n,), where the index as text holds every id once; else None."""
    if isinstance(index, pd.MultiIndex) or str(index[0]) not in ids:  # most often that settles it
        return None
    names = pd.Index(list(map(str, index.tolist())), dtype=object)
    order = names.get_indexer(pd.Index(list(ids), dtype=object)) if names.is_unique else np.array([-1])
    return None if (order < 0).any() else order


def _say_partly_named(ids: Sequence[str], what: str, index: pd.Index) -> None:
    """Warn of text that names some of the samples."""
    if isinstance(index, pd.MultiIndex) or pd.api.types.is_numeric_dtype(index.dtype) or str(index[0]) not in ids:
        return
    held = "some of the samples' ids, and not each of them once"
    _say_as_they_stand(what, held, f"let it hold each of the samples' ids, such as {ids[0]!r}")


def _say_as_they_stand(what: str, held: str, way: str) -> None:
    """Warn that rows are taken by position although their index may have been meant."""
    warn(
        f"the index of {what} holds {held}: its rows are taken as they stand, one for each sample in turn. If the "
        f"index says whose they are, {way}; if not, give it .reset_index(drop=True)"
    )
