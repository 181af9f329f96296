"""The counterfactuals that a plan asks for: what moves when groups of training samples are removed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from krepes.audit.movement import Movement, movement
from krepes.audit.selection import positions
from krepes.audit.statistics import FEWEST, bootstrap_mean
from krepes.data.source import Subset
from krepes.errors import ConfigError, is_whole

if TYPE_CHECKING:
    from krepes.auditor import Auditor

POINTS = 500  # samples whose movement is looked at
COLUMNS = ["counterfactual", "removed", "figure", "value", "low", "high", "n", "random"]


def counterfactual_table(
    auditor: "Auditor", asked: Mapping[str, Any], explained: Sequence[int], points: np.ndarray
) -> pd.DataFrame:
    """What moves without each group, and without as many random samples.

    The landmarks stay in the basis, so that f before and after have the same coordinates.

    Args:
        asked: name ↦ ids, a query on the table, or a whole number k: the k strongest landmarks.
        explained: positions of the samples whose shift is told one by one.
        points: positions of test points for the means.

    Returns:
        one row per group and figure: counterfactual, removed (samples), figure ("shift", "neighbours that stay", the
        shift of "sample ID"), value, low, high (95 % over test points, removed ones among them), n, random (the value
        without as many others, one seeded draw).

    Raises:
        ConfigError: a group names no samples, or too little remains without it.
    """
    training, _ = auditor._trained_on(None, None)
    rows: list[tuple] = []
    for place, (name, wanted) in enumerate(asked.items()):
        removed = removed_positions(auditor, wanted, name)
        others = np.setdiff1d(np.arange(len(training)), removed)
        drawn = np.random.default_rng((auditor.settings.seed, place)).permutation(others)[: len(removed)]
        chosen, again = (moved(auditor, group, explained, points) for group in (removed, drawn))
        for figure, column in (("shift", "shift"), ("neighbours that stay", "neighbours")):
            values, random = (one.samples[column].to_numpy(float)[len(explained) :] for one in (chosen, again))
            if len(values) >= FEWEST:
                found = bootstrap_mean(values, auditor.settings.seed)
                rows.append((name, len(removed), figure, found.estimate, found.low, found.high, found.n,
                             float(random.mean())))  # fmt: skip
        gone = {training.ids[i] for i in removed}
        for i, sample in enumerate(auditor.source_.ids[p] for p in explained):  # they come first
            shift, random = (float(one.samples["shift"].iloc[i]) for one in (chosen, again))
            words = f"sample {sample} (removed)" if sample in gone else f"sample {sample}"
            rows.append((name, len(removed), words, shift, np.nan, np.nan, 1, random))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def removed_positions(auditor: "Auditor", wanted: Any, name: str) -> np.ndarray:
    """Positions among the training samples of a group that a plan names.

    Raises:
        ConfigError: it names no samples.
    """
    training, _ = auditor._trained_on(None, None)
    what = f"counterfactual {name!r}"
    if not is_whole(wanted):
        return positions(training, wanted, what)
    m = len(auditor.landmark_ids_)
    if not 1 <= wanted <= m:
        raise ConfigError(f"{what} asks for the {wanted} strongest landmarks; expected 1 to {m}")
    strongest = auditor.dA_.norm(dim=1).argsort(descending=True)[:wanted].tolist()
    return positions(training, [auditor.landmark_ids_[i] for i in strongest], what)


def moved(auditor: "Auditor", removed: np.ndarray, explained: Sequence[int], points: np.ndarray) -> Movement:
    """What moves without these training samples: the explained samples first, then the test points."""
    mask = np.zeros(len(auditor._trained_on(None, None)[0]), bool)
    mask[removed] = True
    after = auditor.counterfactual(mask, keep_landmarks=True)
    shown = np.array([*explained, *points[:POINTS].tolist()], int)
    return movement(auditor, after, Subset(auditor.source_, shown))
