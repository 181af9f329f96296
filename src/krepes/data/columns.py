"""Columns beside samples: those that are shown, and those that stay out because they hold classes."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from krepes.data.names import require_name
from krepes.data.order import in_order_of
from krepes.errors import DataError, warn

# fine_labels, too; "folder" is what a folder per class is listed under
CLASSES = re.compile(r"(.*[_ -])?labels?|class(es)?|targets?|y|folder", re.IGNORECASE)


def class_columns(names: Iterable[Any]) -> list[str]:
    """The columns that hold classes by their names: label, fine_labels, class, target, y, folder, …"""
    return [name for name in names if CLASSES.fullmatch(str(name).strip())]


class Columns:
    """A table beside samples, of which some columns stay hidden.

    Args:
        table: one row per sample, among them those that are left out; None for none.
        kept: positions of the samples.
        hide: columns kept out of what is shown, such as classes.
        show_label: show columns that hold classes by their names, too; else they are hidden with a warning.

    Raises:
        DataError: a hidden column does not exist.
    """

    def __init__(
        self, table: pd.DataFrame | None, kept: np.ndarray, hide: Sequence[str] = (), show_label: bool = False
    ):
        self._table = pd.DataFrame(index=range(len(kept))) if table is None else table.iloc[kept].reset_index(drop=True)
        for name in hide:
            require_name(self._table.columns, name)
        for name in self._table.select_dtypes("category"):
            self._table[name] = self._table[name].cat.remove_unused_categories()
        shown = self._table.drop(columns=list(hide))
        way = "say so with hide={} (data.label in a configuration); if not, show them with show_label=True"
        shown = shown if show_label else without_classes(shown, way, "the metadata")
        self.shown = shown if len(shown.columns) else None

    def column(self, name: str) -> np.ndarray:
        """Values (n,) as objects, None where missing.

        Raises:
            DataError: no such column.
        """
        values = self._table[require_name(self._table.columns, name)].astype(object)
        return values.where(values.notna(), None).to_numpy()


def checked_metadata(
    metadata: pd.DataFrame | None, ids: Sequence[str], show_label: bool = False
) -> pd.DataFrame | None:
    """A row for each sample, in their order (see `in_order_of`), without columns that hold classes by their names.

    Raises:
        DataError: another number of rows.
    """
    if metadata is None:
        return None
    if len(metadata) != len(ids):
        raise DataError(f"the metadata has {len(metadata)} rows for {len(ids)} samples; expected one each")
    metadata = in_order_of(ids, metadata, "the metadata")
    way = "take them out of metadata=…; if not, show them with show_label=True"
    shown = metadata if show_label else without_classes(metadata, way, "the metadata")
    return shown if len(shown.columns) else None


def without_classes(table: pd.DataFrame, way: str, out_of: str) -> pd.DataFrame:
    """The table without columns that hold classes by their names; warns of them.

    Args:
        way: what the user can say instead; {} stands for the columns.
        out_of: what they are left out of.
    """
    found = class_columns(table.columns)
    if not found:
        return table
    warn(
        f"by their names the columns {', '.join(map(repr, found))} hold classes, and krepes explains without: they are "
        f"kept out of {out_of}. If they are classes, {way.format(found)}"
    )
    return table.drop(columns=found)
