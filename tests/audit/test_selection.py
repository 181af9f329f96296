"""Samples named by ids, masks and queries, and samples that a report explains."""

import numpy as np
import pandas as pd
import pytest
import torch

from krepes.audit.selection import explained_positions, positions
from krepes.data import ArraySource
from krepes.errors import ConfigError

N = 6
SOURCE = ArraySource(torch.zeros(N, 2), metadata=pd.DataFrame({"value": [1.0, -1, 2, 3, -4, np.nan]}))
NAMED = ArraySource(torch.zeros(N, 2), [f"s{i}" for i in range(N)])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("value > 0", [0, 2, 3]),
        (["3", "1"], [1, 3]),
        ([3, "1"], [1, 3]),
        (np.array([3, 1]), [1, 3]),
        (torch.tensor([3, 1]), [1, 3]),
        (range(2), [0, 1]),
        (pd.Series(["3", "1"]), [1, 3]),
        ([False, True] * 3, [1, 3, 5]),
        (np.array([False, True] * 3), [1, 3, 5]),
        (torch.tensor([False, True] * 3), [1, 3, 5]),
        (pd.array([False, True] * 3, dtype="boolean"), [1, 3, 5]),
    ],
    ids=str,
)
def test_what_is_selected(wanted, found):
    assert positions(SOURCE, wanted, "remove").tolist() == found


@pytest.mark.parametrize(
    "mask",
    [
        [0, 1] * 3,
        np.array([0, 1] * 3),
        np.array([0.0, 1.0] * 3),
        torch.tensor([0, 1] * 3),
        torch.tensor([0.0, 1.0] * 3),
        pd.array([0, 1] * 3, dtype="Int64"),
    ],
    ids=str,
)
def test_a_mask_of_zeros_and_ones_is_not_read_as_ids(mask):
    with pytest.raises(ConfigError, match="remove looks like a mask of zeros and ones; pass booleans"):
        positions(SOURCE, mask, "remove")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([True, 0, 1, 0, 0, 1], "mixes truth values with others such as 0"),
        (pd.array([True, None, *[False] * 4], dtype="boolean"), "mixes truth values with others such as <NA>"),
        ([True, False], "is a mask of 2 values for 6 samples"),
        (["3", "1", "3"], "names 1 samples more than once: 3"),
        ([3, "3"], "names 1 samples more than once: 3"),
        ([3.0, 4.0], r"holds 3\.0 \(float\); ids are text or whole numbers"),
        (np.array([3.0]), r"holds 3\.0"),
        ([None], "holds None"),
        ([b"3"], "holds b'3'"),
        ([["1"], ["2", "3"]], "holds lists; expected a query"),
        ([["1"], ["2"]], r"has shape \(2, 1\)"),
        ([np.zeros(2), np.zeros((2, 2))], "holds lists; expected a query"),
        ({"3"}, r"has shape \(\)"),
        (None, r"has shape \(\)"),
        (["nobody"], "1 ids in remove do not exist: nobody"),
        ([], "remove is empty"),
        ("value > 10", "selects no sample"),
        ("value.to_csv('f')", "not allowed"),
    ],
    ids=str,
)
def test_what_selects_nothing_is_named(wanted, message):
    with pytest.raises(ConfigError, match=message):
        positions(SOURCE, wanted, "remove")


def test_a_query_needs_a_table():
    with pytest.raises(ConfigError, match="these samples have no table"):
        positions(NAMED, "value > 0", "remove")


def test_samples_to_explain_by_number_id_and_position():
    assert explained_positions(NAMED, 0, 0) == []
    assert explained_positions(NAMED, [], 0) == []
    assert explained_positions(NAMED, 3, 0) == explained_positions(NAMED, np.int64(3), 0)
    assert len(explained_positions(NAMED, 3, 0)) == 3
    assert explained_positions(NAMED, 100, 0) == list(range(N))
    assert explained_positions(NAMED, ["s4", np.int64(1), 0], 0) == [4, 1, 0]
    assert explained_positions(NAMED, torch.tensor([4, 1]), 0) == [4, 1]


@pytest.mark.parametrize(
    ("explain", "message"),
    [
        (-1, "explain=-1; expected at least 0"),
        (np.int64(-1), "explain=-1; expected at least 0"),
        (True, "explain=True; expected a whole number"),
        (2.0, "explain=2.0; expected a whole number"),
        ("s1", "explain='s1'; expected a whole number, or a list"),
        (None, "explain=None"),
        ([-1], "unknown samples: -1; expected ids, or positions from 0 to 5"),
        ([N], "unknown samples: 6"),
        ([1.0], "unknown samples: 1.0"),
        ([True], "unknown samples: True"),
        (["nobody"], "unknown samples: nobody"),
        (["s1", "s1"], "explain names 1 samples more than once: s1"),
        (["s1", 1], "explain names 1 samples more than once: s1"),
        ([["s1"], ["s2", "s3"]], "explain holds lists"),
    ],
    ids=str,
)
def test_samples_that_cannot_be_explained_are_refused(explain, message):
    with pytest.raises(ConfigError, match=message):
        explained_positions(NAMED, explain, 0)
