"""Ids that are made when they are asked for behave like the list of them."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from krepes.data import ArraySource, RowIds
from krepes.errors import DataError


@given(n=st.integers(0, 30), prefix=st.sampled_from(["", "row-", "1"]), data=st.data())
def test_row_ids_are_their_list(n, prefix, data):
    ids, plain = RowIds(n, prefix), [f"{prefix}{i}" for i in range(n)]
    assert list(ids) == plain
    assert list(reversed(ids)) == plain[::-1]
    assert ids == plain == ids[:]
    assert ids != [*plain, "more"]
    part = slice(*data.draw(st.tuples(*[st.none() | st.integers(-40, 40)] * 2)))
    assert ids[part] == plain[part]
    name = data.draw(st.sampled_from([*plain, "", prefix, f"{prefix}01", f"{prefix}-1", f"{prefix}٣", "9" * 5000, "x"]))
    assert (name in ids, ids.count(name)) == (name in plain, plain.count(name))
    start = data.draw(st.integers(-5, 35))
    if name in plain[start:]:
        assert ids.index(name, start) == plain.index(name, start)
    else:
        with pytest.raises(ValueError, match="is not among"):
            ids.index(name, start)


def test_default_ids_keep_no_string_and_given_ones_are_checked():
    x = torch.zeros(4, 2)
    assert isinstance(ArraySource(x).ids, RowIds)
    assert ArraySource(x, ids=RowIds(4, "a")).ids == ["a0", "a1", "a2", "a3"]
    assert ArraySource(x).fingerprint() == ArraySource(x, ids=["0", "1", "2", "3"]).fingerprint()
    with pytest.raises(DataError, match="5 ids for 4 samples"):
        ArraySource(x, ids=RowIds(5))
