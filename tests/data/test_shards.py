"""Shards cover the samples in whole view blocks, and no worker has much more of them than another."""

import itertools

import pytest

from krepes.data.stream import LARGEST_SHARD, SMALLEST_SHARD, VIEW_BLOCK, shards


@pytest.mark.parametrize("n", [1, 255, 256, 257, 4096, 4097, 9000, 120_000, 1_281_167, 10**7 + 3, 10**9])
def test_shards_cover_the_samples_as_equally_as_view_blocks_allow(n):
    parts = shards(n)
    assert (parts[0].start, parts[-1].stop) == (0, n)
    assert all(one.stop == next_.start for one, next_ in itertools.pairwise(parts))
    assert all(part.start % VIEW_BLOCK == 0 for part in parts)
    sizes = [len(part) for part in parts]
    assert 0 < max(sizes) <= LARGEST_SHARD
    assert max(sizes) - min(sizes) < 2 * VIEW_BLOCK
    assert len(parts) <= max(1, -(-n // SMALLEST_SHARD))


def test_no_sample_has_no_shard():
    assert shards(0) == []
