"""Sources that fail or change in the midst of a run: refused with the samples' names, never a wrong number."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from krepes.data import ArraySource
from krepes.errors import DataError
from krepes.results import read_manifest


class Changing(ArraySource):
    """Samples whose reading is changed after so many readings."""

    def __init__(self, after: int, change: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__(torch.randn(520, 4, generator=torch.Generator().manual_seed(0)))
        self.after, self.change = after, change

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        self.after -= 1
        batch = super().batch(indices)
        return self.change(batch) if self.after < 0 and len(batch) > 1 else batch


def broken(batch: torch.Tensor) -> torch.Tensor:
    raise OSError(5, "Input/output error")


CHANGES = {
    "raises": (broken, r"samples \d+ … \d+ cannot be read: the source raises OSError: .*Input/output error"),
    "fewer samples": (lambda b: b[1:], r"the source gives shape .* expected a tensor of \d+ samples"),
    "another shape": (lambda b: b[:, :3], "the samples changed"),
    "another type": (lambda b: b.double(), "the samples changed"),
    "no tensor": (lambda b: b.numpy(), r"the source gives a ndarray for one of the samples"),
    "other values": (lambda b: b + 1, "the samples changed"),
}


@pytest.fixture(scope="module")
def readings(audited, tmp_path_factory) -> int:
    """How often an audit reads its samples."""
    source = Changing(10**6, broken)
    audited(tmp_path_factory.mktemp("readings") / "run", source=source)
    return 10**6 - source.after


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("what", CHANGES)
def test_a_source_that_changes_in_the_midst_of_a_run_is_refused(audited, tmp_path, readings, what, share):
    change, message = CHANGES[what]
    with pytest.raises(DataError, match=f"{message}|the samples changed while they were audited"):
        audited(tmp_path / "run", source=Changing(int(share * readings), change))
    manifest = tmp_path / "run" / "manifest.json"
    assert not manifest.exists() or read_manifest(tmp_path / "run")["status"] == "failed"


def test_an_array_file_that_is_written_to_in_the_midst_of_a_run_is_refused(audited, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(520, 4)).astype(np.float32))
    calls = 0

    def views(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            np.lib.format.open_memmap(path, "r+")[7] = 9.0
        return batch + 0.2 * torch.randn(batch.shape, generator=generator)

    with pytest.raises(DataError, match="the samples changed while they were audited"):
        audited(tmp_path / "run", source=ArraySource(np.load(path, mmap_mode="r")), views=views)
