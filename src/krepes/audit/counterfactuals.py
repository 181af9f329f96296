"""The counterfactuals that a plan asks for: what moves when groups of training samples are removed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from krepes.audit.movement import movement
from krepes.audit.selection import positions
from krepes.audit.statistics import FEWEST, Interval, bootstrap_mean
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
    training = auditor.seen_.samples()
    rows: list[tuple] = []
    for place, (name, wanted) in enumerate(asked.items()):
        removed = removed_positions(auditor, wanted, name)
        found = removal(auditor, removed, explained, points[:POINTS], (auditor.settings.seed, place))
        for figure, mean, random in found.means:
            rows.append((name, len(removed), figure, mean.estimate, mean.low, mean.high, mean.n, random))
        gone = {training.ids[i] for i in removed}
        shifts = zip(*(table["shift"] for table in (found.shown, found.random)), strict=True)
        for sample, (shift, random) in zip((auditor.source_.ids[p] for p in explained), shifts, strict=True):
            words = f"sample {sample} (removed)" if sample in gone else f"sample {sample}"
            rows.append((name, len(removed), words, shift, np.nan, np.nan, 1, random))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


@dataclass(frozen=True)
class Removal:
    """What moves without a group of training samples, beside one random draw of as many others.

    Attributes:
        shown, random: the samples that were asked for, without the group and without the draw: sample, shift, cosine,
            neighbours, as of `movement`.
        means: figure ("shift", "neighbours that stay"), its mean over the test points with its 95 % interval, and the
            mean without the draw. None with fewer than twenty test points.
    """

    shown: pd.DataFrame
    random: pd.DataFrame
    means: tuple[tuple[str, Interval, float], ...]


def removal(auditor: "Auditor", removed: np.ndarray, shown: Sequence[int], points: np.ndarray, seed: Any) -> Removal:
    """The step without some training samples; the landmarks stay in the basis.

    Args:
        removed: positions among the training samples.
        shown: positions of the samples that are told one by one.
        points: positions of test points for the means.
        seed: of the random draw.

    Raises:
        ConfigError: too little remains.
    """
    n, k = len(auditor.seen_.samples()), len(shown)
    drawn = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(n), removed))[: len(removed)]
    x = Subset(auditor.source_, np.array([*shown, *points.tolist()], int))
    tables = []
    for group in (removed, drawn):
        mask = np.zeros(n, bool)
        mask[group] = True
        tables.append(movement(auditor, auditor.counterfactual(mask, keep_landmarks=True), x).samples)
    means = []
    for figure, column in (("shift", "shift"), ("neighbours that stay", "neighbours")):
        values, random = (table[column].to_numpy(float)[k:] for table in tables)
        if len(values) >= FEWEST:
            means.append((figure, bootstrap_mean(values, auditor.settings.seed), float(random.mean())))
    return Removal(tables[0].head(k), tables[1].head(k), tuple(means))


def removed_positions(auditor: "Auditor", wanted: Any, name: str) -> np.ndarray:
    """Positions among the training samples of a group that a plan names.

    Raises:
        ConfigError: it names no samples.
    """
    training = auditor.seen_.samples()
    what = f"counterfactual {name!r}"
    if not is_whole(wanted):
        return positions(training, wanted, what)
    m = len(auditor.landmark_ids_)
    if not 1 <= wanted <= m:
        raise ConfigError(f"{what} asks for the {wanted} strongest landmarks; expected 1 to {m}")
    strongest = auditor.dA_.norm(dim=1).argsort(descending=True)[:wanted].tolist()
    return positions(training, [auditor.landmark_ids_[i] for i in strongest], what)
