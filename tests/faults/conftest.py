"""What the tests of faults share: a small audit in this process, and disks of a given size."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from krepes import Auditor, AuditPlan, BarlowTwins, Newton, SimCLR, Trust
from krepes.data import ArraySource, Source, stream
from krepes.encoders import MLP
from krepes.run import run_audit


def views(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return batch + 0.2 * torch.randn(batch.shape, generator=generator)


def audit(folder: Path, objective: str = "moments", source: Source | None = None, views: Any = views) -> Path:
    """The folder of an audit of 520 samples in three shards."""
    torch.manual_seed(0)
    chosen = BarlowTwins() if objective == "moments" else SimCLR(batch_size=90)
    auditor = Auditor(MLP(4, (8,), 3).eval(), chosen, landmarks=20, newton=Newton(damping=1.0),
                      trust=Trust(refits=False))  # fmt: skip
    x = torch.randn(520, 4, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "SMALLEST_SHARD", 256)
        run_audit(
            auditor, source or ArraySource(x), views, folder, {}, Console(quiet=True), title="t", command="c",
            plan=AuditPlan(automatic_concepts=False, features=(), attribution=0), explain=1,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def audited() -> Callable[..., Path]:
    """`audit`."""
    return audit


@pytest.fixture(scope="session")
def expected(tmp_path_factory) -> dict[str, Path]:
    """The folders of audits that nobody disturbed."""
    folder = tmp_path_factory.mktemp("expected")
    return {objective: audit(folder / objective, objective) for objective in ("moments", "pairs")}


@pytest.fixture
def disk(tmp_path):
    """(bytes) ↦ a folder on a file system of this size; skips where none may be mounted."""
    place = tmp_path / "disk"

    def mounted(size: int) -> Path:
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "krepes", str(place)], capture_output=True)
        if done.returncode != 0:
            place.rmdir()
            pytest.skip("no file system can be mounted here")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # tables may be mapped into memory still
