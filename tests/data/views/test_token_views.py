"""Views of token sequences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from krepes.data.views import SpanCrop, TokenDropout, TokenMask
from krepes.errors import ConfigError, DataError

PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = (CLS, SEP)


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def sequences(n=50, T=20, seed=0):
    """[CLS] words [SEP] padding, of different lengths; the last row has no word."""
    tokens = torch.randint(10, 100, (n, T), generator=g(seed))
    length = torch.randint(1, T - 2, (n, 1), generator=g(seed + 1))
    length[-1] = 0
    place = torch.arange(T)
    tokens = torch.where(place > length + 1, PAD, torch.where(place == length + 1, SEP, tokens))
    tokens[:, 0] = CLS
    return tokens


def words(row):
    return [t for t in row.tolist() if t >= 10]


def is_part(part, whole):
    rest = iter(whole)
    return all(t in rest for t in part)


VIEWS = [TokenDropout(0.5, PAD, SPECIAL), TokenMask(0.5, MASK, PAD, SPECIAL), SpanCrop(0.2, 0.7, PAD, SPECIAL)]


@given(st.integers(0, 2**31), st.integers(1, 50), st.sampled_from(VIEWS))
@settings(max_examples=40, deadline=None)
def test_a_rows_view_does_not_depend_on_the_rows_after_it(seed, k, view):
    x = sequences()
    assert torch.equal(view(x[:k], g(seed)), view(x, g(seed))[:k])


@given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8]))
@settings(max_examples=40, deadline=None)
def test_special_tokens_stay_and_some_word_does(seed, rate, dtype):
    x = sequences(seed=seed % 1000).to(dtype)
    for view in (
        TokenDropout(rate, PAD, SPECIAL),
        TokenMask(rate, MASK, PAD, SPECIAL),
        SpanCrop(0.01, 0.5, PAD, SPECIAL),
    ):
        y = view(x, g(seed))
        assert y.dtype == dtype
        assert y.shape == x.shape
        for before, after in zip(x, y, strict=True):
            assert [t for t in after.tolist() if t in SPECIAL] == [CLS, SEP]
            assert is_part(words(after), words(before))
            assert bool(words(after)) == bool(words(before))


def test_dropped_rows_close_up_and_are_padded_at_their_end():
    x = sequences()
    y = TokenDropout(0.5, PAD, SPECIAL)(x, g())
    for row in y.tolist():
        end = row.index(SEP)
        assert PAD not in row[:end]
        assert set(row[end + 1 :]) <= {PAD}


@pytest.mark.parametrize("view", [TokenDropout(0.3, PAD, SPECIAL), TokenMask(0.3, MASK, PAD, SPECIAL)])
def test_words_are_changed_at_the_rate(view):
    x = torch.full((500, 40), 50)
    assert abs((view(x, g()) == 50).double().mean() - 0.7) < 0.01


def test_masked_tokens_keep_their_places():
    x = sequences()
    y = TokenMask(0.5, MASK, PAD, SPECIAL)(x, g())
    assert torch.equal(y[y != MASK], x[y != MASK])
    assert (y == MASK).any()


def test_a_span_is_contiguous_and_of_a_length_in_its_range():
    x = torch.arange(10, 110).repeat(400, 1)
    y = SpanCrop(0.2, 0.5, PAD)(x, g())
    length = (y != PAD).sum(1)
    assert length.min() >= 20
    assert length.max() <= 50
    assert abs(length.double().mean() - 35) < 1.5
    for row, n in zip(y.tolist(), length.tolist(), strict=True):
        assert row[:n] == list(range(row[0], row[0] + n))
    assert y[:, 0].min() < 15
    assert (y[:, 0] + length).max() > 105


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 3), "got torch.float32; expected whole numbers: token ids"),
        (torch.zeros(2, 3, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(2, 3, 4, dtype=torch.long), r"shape \(2, 3, 4\); expected token ids \(B, T\)"),
        (torch.tensor([[5, 6], [7, -8]]), "token -8 at place 1 of the batch's sample 1 is outside 0"),
        ([[1]], "got list"),
    ],
)
def test_what_is_no_tokens_is_refused(view, batch, message):
    with pytest.raises(DataError, match=message):
        view(batch, g())


def test_tokens_outside_the_vocabulary_are_named():
    with pytest.raises(DataError, match=r"token 30 at place 0 of the batch's sample 0 is outside 0 … 29 \(2 such"):
        TokenDropout(0.1, PAD, SPECIAL, vocabulary=30)(torch.tensor([[30, 31, 4]]), g())


def test_a_mask_that_the_type_cannot_hold_is_refused():
    with pytest.raises(DataError, match=r"writes token 300 into a batch of torch\.uint8"):
        TokenMask(0.5, 300)(torch.zeros(2, 3, dtype=torch.uint8), g())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenDropout(1.5, PAD), "rate=1.5; expected 0 <= rate <= 1"),
        (lambda: TokenDropout(0.5, -1), "token id -1; expected a whole number from 0"),
        (
            lambda: TokenMask(0.5, 40, vocabulary=40),
            "token id 40; expected .* below the vocabulary's 40",
        ),
        (lambda: TokenMask(0.5, 0.5), "token id 0.5"),
        (lambda: TokenMask(0.5, 1, vocabulary=0), "vocabulary=0"),
        (lambda: TokenDropout(0.5, 0, special_ids=7), "special_ids=7; expected a list"),
        (lambda: SpanCrop(0, 1, PAD), "low=0; expected 0 < low <= 1"),
        (lambda: SpanCrop(0.6, 0.5, PAD), "low=0.6 is above high=0.5"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
