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
        if not all(name in self.columns for name in COLUMNS):
            return super()._repr_html_()  # type: ignore[operator]
        from krepes.report.notebook import explanation

        return explanation(self, getattr(self, "pictures", None) or {}, SAMPLES)
