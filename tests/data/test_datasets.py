"""Torch datasets as samples: what their code does wrong is named with the sample."""

import pytest
import torch
from torch.utils.data import Dataset

from krepes.data import DatasetSource, GaussianNoise
from krepes.data.source import fingerprint
from krepes.data.stream import check_repeatable
from krepes.errors import DataError

X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Made(Dataset):
    """A dataset whose items are what a function gives."""

    def __init__(self, item):
        self._item = item

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return self._item(index)


def breaks(index):
    if index == 6:
        raise OSError("no disk")
    return X[index]


def test_a_dataset_that_raises_halfway_is_named_by_its_sample():
    source = DatasetSource(Made(breaks), ids=[f"s{i}" for i in range(8)])
    assert torch.equal(source.batch(range(6)), X[:6])
    for read in (lambda: source.batch([0, 6]), source.fingerprint):
        with pytest.raises(DataError, match="sample s6 cannot be read: the dataset raises OSError: no disk"):
            read()


@pytest.mark.parametrize("size", [(2, 4), (4, 3)])
def test_images_of_several_sizes_are_named_by_the_sample(size):
    source = DatasetSource(Made(lambda i: X[i, :, : size[0], : size[1]] if i == 5 else X[i]))
    with pytest.raises(DataError, match=r"sample 5 has shape .*; the first sample has \(3, 4, 4\). Resize or crop"):
        source.batch(range(8))


def test_a_dataset_that_augments_is_refused_by_the_audit():
    source = DatasetSource(Made(lambda i: X[i] + torch.randn(3, 4, 4)))
    with pytest.raises(DataError, match="other samples when it is read again: take random augmentation out of it"):
        check_repeatable(source, GaussianNoise(0.1), 0)


def test_a_part_that_items_do_not_have_is_named():
    for take in ("image", 2):
        with pytest.raises(DataError, match=rf"sample 0 of the dataset has no part take={take!r}"):
            DatasetSource(Made(lambda i: (X[i], 0)), take=take)


def test_an_item_of_text_is_named():
    with pytest.raises(DataError, match="sample 0 of the dataset is a str; expected a tensor or array"):
        DatasetSource(Made(lambda i: "text"))


def test_two_passes_have_one_fingerprint():
    source = DatasetSource(Made(lambda i: X[i]))
    assert source.fingerprint() == fingerprint(source)
