"""Cells far outside the range that a column had when its schema was fitted: mostly in another unit."""

from collections.abc import Sequence

import numpy as np

from krepes.data.schema_columns import Column
from krepes.errors import warn

# Cells of the same distribution lie beyond the range of n cells with a share of about 2 / n whatever the tails, and far
# beyond it more rarely: from n = 50 on a fifth was never seen in 1,000 draws of each of Cauchy, Pareto (0.5) and
# lognormal (σ = 2), nor of ages shifted by more than a standard deviation. A wrong unit moves all cells but zeros.
SHARE = 0.2
FEWEST = 3  # cells that are said to be far: one or two of a short table may be a tail
NAMED = 5  # columns that a warning spells out


def far_outside(numbers: np.ndarray, column: Column) -> str | None:
    """What is to be said of a numeric column whose cells (n,) lie far outside the schema's range; None if few do.

    Far is more than half the range's width beyond its ends. Where the range is of one sign, it is also a size below
    half the smallest, for 10 … 200 is close to 10,000 … 200,000 in terms of that width; zero, which every unit shares,
    is no such size.

    Args:
        numbers: in raw units, NaN where missing.
    """
    low, high = column.minimum, column.maximum
    if not low < high:  # constant, or a schema written by hand without a range
        return None
    smallest, largest = (float(end.reduce(numbers, initial=np.nan)) for end in (np.fmin, np.fmax))
    if not (smallest < low or largest > high):
        return None
    half = (high - low) / 2
    far = (numbers < low - half) | (numbers > high + half)
    if low > 0:
        far |= (numbers > 0) & (numbers < low / 2)
    if high < 0:
        far |= (numbers < 0) & (numbers > high / 2)
    count, present = int(far.sum()), int((~np.isnan(numbers)).sum())
    if count < max(SHARE * present, FEWEST):
        return None
    share = f"{100 * count / present:.0f} % of its cells"
    return f"'{column.name}' ({share}; {low:g} … {high:g} in the schema, {smallest:g} … {largest:g} here)"


def say_far_outside(said: Sequence[str]) -> None:
    """Warn once of all columns of which there is something to be said."""
    if not said:
        return
    few = ", ".join(said[:NAMED]) + (f" and {len(said) - NAMED} more" if len(said) > NAMED else "")
    warn(
        f"cells lie far outside the range that they had when the schema was fitted: column{'s' * (len(said) > 1)} "
        f"{few}. Mostly the unit is another one, such as months for years or thousands for single ones, or missing "
        "cells hold a number such as -999: give the table as the encoder's training table was. If it is, the encoder "
        "is asked about cells unlike those that it has seen"
    )
