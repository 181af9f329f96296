"""Precision@1 of methods that explain a sample by others, on the same landmarks: the label of their first one.

SimplEx (Crabbé et al. 2021) and DkNN (Papernot and McDaniel 2018) are computed here as their papers define them; TRAK
(Park et al. 2023) is the traker package where it is installed, on the scalar (1/√d) Σ_c f_c, since it needs one.
"""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

STEPS, BATCH = 300, 1024


def simplex(z: Tensor, corpus: Tensor, steps: int = STEPS) -> Tensor:
    """Weights (t, m) of the convex combinations of corpus representations (m, d) nearest to z (t, d).

    Accelerated projected gradient (Beck and Teboulle 2009) on ‖z − wᵀ corpus‖²; its authors take Adam on a softmax.
    """
    gram, right = corpus @ corpus.T, z @ corpus.T
    step = 1 / torch.linalg.matrix_norm(gram, 2)
    w = torch.full_like(right, 1 / len(corpus))
    v, before = w, 1.0
    for _ in range(steps):
        new, after = onto_simplex(v - step * (v @ gram - right)), (1 + (1 + 4 * before**2) ** 0.5) / 2
        v, w, before = new + (before - 1) / after * (new - w), new, after
    return w


def onto_simplex(v: Tensor) -> Tensor:
    """The nearest points with entries ≥ 0 that sum to one, row by row (Duchi et al. 2008)."""
    falling = v.sort(1, descending=True).values
    excess = (falling.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1)
    last = (falling > excess).sum(1, keepdim=True) - 1
    return (v - excess.gather(1, last)).clamp(min=0)


def deep_neighbours(network: nn.Module, x: Tensor, corpus: Tensor) -> Tensor:
    """Mean cosine over the activations of all layers, (t, m)."""
    kinds = (nn.ReLU, nn.GELU, nn.Tanh)
    layers = [m for m in network.modules() if isinstance(m, kinds)] + [network]
    total = torch.zeros(len(x), len(corpus))
    for layer in layers:
        a, b = (normalize(activations(network, layer, part).flatten(1)) for part in (x, corpus))
        total += a @ b.T
    return total / len(layers)


def activations(network: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """Outputs of one layer for x (t, ...)."""
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, arguments, out: found.append(out))
    try:
        with torch.no_grad():
            for part in x.split(512):
                network(part)
    finally:
        handle.remove()
    return torch.cat(found)


def trak(network: nn.Module, x: Tensor, training: Tensor, dimensions: int) -> Tensor | None:
    """Scores (t, n) of one checkpoint, its gradients projected to `dimensions`; None where traker is not installed.

    The second moment of the projected gradients over the training samples is inverted: n should be several times
    `dimensions`.
    """
    try:
        from trak import TRAKer
        from trak.modelout_functions import AbstractModelOutput
        from trak.projectors import BasicProjector, ProjectionType
    except ImportError:
        return None

    class Pseudo(AbstractModelOutput):
        """(1/√d) Σ_c f_c, whose loss has derivative one."""

        def __init__(self) -> None:
            super().__init__()

        @staticmethod
        def get_output(model: nn.Module, weights: Any, buffers: Any, sample: Tensor, label: Tensor) -> Tensor:
            z = torch.func.functional_call(model, (weights, buffers), sample[None])
            return z.sum() / z.shape[1] ** 0.5

        @staticmethod
        def get_out_to_loss_grad(model: nn.Module, weights: Any, buffers: Any, batch: Any) -> Tensor:
            return torch.ones(len(batch[0]), 1)

    size = sum(p.numel() for p in network.parameters())
    projector = BasicProjector(grad_dim=size, proj_dim=dimensions, seed=0, proj_type=ProjectionType.rademacher,
                               device=torch.device("cpu"))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        tracker = TRAKer(model=network, task=Pseudo(), train_set_size=len(training), save_dir=folder, device="cpu",
                         projector=projector, proj_dim=dimensions, use_half_precision=False)  # fmt: skip
        tracker.load_checkpoint(network.state_dict(), model_id=0)
        for part in training.split(BATCH):
            tracker.featurize(batch=[part, torch.zeros(len(part))], num_samples=len(part))
        tracker.finalize_features()
        tracker.start_scoring_checkpoint("test", network.state_dict(), model_id=0, num_targets=len(x))
        for part in x.split(BATCH):
            tracker.score(batch=[part, torch.zeros(len(part))], num_samples=len(part))
        return torch.as_tensor(tracker.finalize_scores("test")).T.float().clone()
