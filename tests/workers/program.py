"""What every worker of the tests runs: fits, attributions and counterfactuals of all objectives, kept by the first one.

torchrun --nproc-per-node N program.py FOLDER float32|float64
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from krepes import BYOL, Auditor, BarlowTwins, Newton, SimCLR, SpectralContrastive, VICReg
from krepes.data import stream
from krepes.encoders import MLP
from krepes.workers import started

stream.SMALLEST_SHARD = 256
N, M, H, REMOVED = 520, 24, 4, 60  # three shards, the last of 8 samples: no share for a fourth worker
OBJECTIVES = {
    "barlow_twins": BarlowTwins(),
    "vicreg": VICReg(),
    "spectral_contrastive": SpectralContrastive(),
    "simclr": SimCLR(batch_size=90),
    "byol": BYOL(batch_size=70),
    "byol ridge": BYOL(batch_size=70, predictor="ridge"),
    "views of landmarks": VICReg(),
}


def samples() -> torch.Tensor:
    return torch.randn(N, 6, generator=torch.Generator().manual_seed(0))


def views(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return batch + 0.3 * torch.randn(batch.shape, generator=generator)


def computed(name: str, dtype: torch.dtype, folder: Path | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = MLP(6, (12,), H).eval()
    newton = Newton(damping="auto" if name == "vicreg" else 1.0, tol=1e-6 if dtype == torch.float32 else 1e-12)
    rows = "views" if name == "views of landmarks" else "samples"
    auditor = Auditor(network, OBJECTIVES[name], landmarks=M, newton=newton, dtype=dtype, landmark_rows=rows)
    x = samples()
    auditor.fit(x, views, work=folder, work_key="program")
    removed = torch.zeros(N, dtype=torch.bool)
    removed[torch.randperm(N, generator=torch.Generator().manual_seed(1))[:REMOVED]] = True
    other = auditor.counterfactual(removed.numpy(), keep_landmarks=True)
    found = {
        "landmarks": torch.tensor(auditor.fit_.indices),
        "f": auditor.transform(x[:20]),
        "influence": auditor.influence(x[:20]),
        "attribution at the encoder": auditor.attribute(x[[0, 1, 0]], draws=2),  # one of them asked twice
        "attribution at the step": auditor.attribute(x[:2], at="step", draws=2),
        "f without some": other.transform(x[:20]),
    }
    if not isinstance(auditor.settings.objective, BYOL):  # which has no training
        found["attribution along a training"] = auditor.attribute(x[:2], at="training", draws=2, starts=2)
    return {f"{name}, {k}": v.contiguous() for k, v in found.items()}


def main(folder: Path, dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    found = {}
    with started() as workers:
        for name in OBJECTIVES:
            work = folder / f"{name}-work" if workers.size > 1 else None
            found |= computed(name, dtype, work)
        if workers.first:
            save_file(found, folder / f"{workers.size}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), getattr(torch, sys.argv[2]))
