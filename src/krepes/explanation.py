"""The table of `Auditor.explain`, which a notebook shows as pictures and bars."""

from typing import Any

import pandas as pd

COLUMNS = ("sample", "rank", "landmark", "influence", "contribution")
SAMPLES = 10  # that a notebook shows as pictures and bars


class Explanation(pd.DataFrame):
    """The top landmarks of samples: sample, rank, landmark, influence, contribution.

    A data frame like any other; a part of it that lacks one of these columns shows itself as one.
    """

    # id ↦ bytes of a picture; pandas keeps it through slices and copies
    _metadata = ["pictures"]  # noqa: RUF012
    pictures: dict[str, bytes]

    @classmethod
    def of(cls, table: pd.DataFrame, pictures: dict[str, bytes]) -> "Explanation":
        """A table of `top_table`, and pictures by sample id, maybe none."""
        found = cls(table)
        object.__setattr__(found, "pictures", pictures)
        return found

    @property
    def _constructor(self) -> Any:
        return Explanation

    def _repr_html_(self) -> str | None:
        names = list(self.columns)
        if all(names.count(name) == 1 for name in COLUMNS):
            scores = [self[name] for name in ("influence", "contribution")]
            if all(pd.api.types.is_float_dtype(values.dtype) and bool(values.notna().all()) for values in scores):
                from krepes.report.notebook import explanation

                pictures = getattr(self, "pictures", None) or {}  # pandas makes some tables without them
                return explanation(pd.DataFrame(self).reset_index(drop=True), pictures, SAMPLES)
        return super()._repr_html_()  # type: ignore[operator]
