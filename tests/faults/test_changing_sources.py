"""Sources that fail or change in the midst of a run: refused with the samples' names, never a wrong number."""

import subprocess
import sys
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


@pytest.mark.parametrize("kind", ["npy", "npz", "images"])
def test_a_mapped_file_that_is_cut_in_the_midst_of_a_run_is_refused_by_name(tmp_path, kind):
    """In a process of its own: without the check a read behind the end is SIGBUS."""
    done = subprocess.run([sys.executable, "-c", CUT, str(tmp_path), kind], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused\n"), (done.returncode, done.stderr)


CUT = """
import os, pickle, sys
from pathlib import Path
import numpy as np
from krepes.data import load_array
from krepes.errors import DataError

folder, kind = Path(sys.argv[1]), sys.argv[2]
x = np.random.default_rng(0).integers(0, 255, (4000, 8, 8, 3)).astype("uint8" if kind == "images" else "float32")
path = folder / ("x.npz" if kind == "npz" else "x.npy")
np.savez(path, x=x) if kind == "npz" else np.save(path, x)
source = load_array(path, layout="NHWC" if kind == "images" else None, member="x" if kind == "npz" else None)
whole, copied = source.batch(range(3990, 4000)), pickle.loads(pickle.dumps(source))
os.truncate(path, os.path.getsize(path) // 2)
try:
    source.batch(range(3990, 4000))
except DataError as error:
    assert f"{path} was cut while it was read" in str(error), error
    assert (copied.batch(range(3990, 4000)) == whole).all()
    try:
        source.fingerprint()
    except DataError:
        pass
    print("refused")
"""
