"""The float64 blocks that kernel blocks are compared with: explicit per-sample gradients, nothing of krepes' engine."""

from typing import Any

import torch
from networks import build
from peers import Way, outputs, pseudo_direction, sample_gradients
from torch import Tensor, nn

from krepes.kernel import NTK

KINK = 1e-4  # relative difference of a sample's gradient between float32 and float64 that rounding alone cannot make
TILE = (32, 128)  # where kernels of many directions are compared; the pseudo kernel is compared in full


def oracle(network64: nn.Module, x: Tensor, z: Tensor, directions: Tensor) -> Tensor:
    """The block in float64 from explicit per-sample gradients, (B, M); the landmarks go through in pieces."""
    total = torch.zeros(len(x), len(z), dtype=torch.float64)
    for w in directions:
        G = sample_gradients(network64, x.double(), w)
        total += torch.cat([G @ sample_gradients(network64, part, w).T for part in z.double().split(128)], 1)
    return total


class Truth:
    """Exact blocks of one network, each computed when it is first asked for.

    A sample whose pre-activation lies within rounding of a ReLU's kink has another gradient in float32 than in
    float64, whoever computes it. Such samples, found by plain autograd, are left out of the errors and counted.
    """

    def __init__(self, model: str, x: Tensor, z: Tensor):
        self.network = build(model).double()
        self.x, self.z, self.d = x, z, outputs(self.network)
        single = build(model)
        self.smooth = [self._smooth(single, side) for side in (x, z)]
        self.kinks = sum(int((~mask).sum()) for mask in self.smooth)
        self._kept: dict[str, Tensor] = {}

    def _smooth(self, single: nn.Module, side: Tensor) -> Tensor:
        """Which samples have the same gradient in both precisions (N,)."""
        w, found = pseudo_direction(self.d), []
        for part in side.split(128):
            exact = sample_gradients(self.network, part.double(), w)
            off = sample_gradients(single, part, w) - exact
            found.append(off.norm(dim=1) <= KINK * exact.norm(dim=1))
        return torch.cat(found)

    def of(self, target: str) -> Tensor:
        """The block of "pseudo", "trace" or "sketch8" (the very directions that krepes draws)."""
        if target not in self._kept:
            x, z = (self.x, self.z) if target == "pseudo" else (self.x[: TILE[0]], self.z[: TILE[1]])
            self._kept[target] = oracle(self.network, x, z, self._directions(target))
        return self._kept[target]

    def _directions(self, target: str) -> Tensor:
        if target == "pseudo":
            return pseudo_direction(self.d)[None]
        if target == "trace":
            return torch.eye(self.d, dtype=torch.float64) * self.d**-0.5
        return NTK("sketch", sketch=int(target.removeprefix("sketch"))).directions(self.d)

    def errors(self, way: Way) -> dict[str, Any]:
        """Relative Frobenius errors, raw and centred, and raw with all samples; of a sketch also against the trace."""
        K, exact = way.block(self.x).double(), self.of(way.target)
        found: dict[str, Any] = dict(zip(("error", "error_centred"), self._relative(K, exact), strict=True))
        found["error_all_samples"] = relative(K, exact)[0]
        if way.centred:
            found["error"] = found["error_all_samples"] = None
        if way.target.startswith("sketch"):
            found["error_against_trace_centred"] = self._relative(K, self.of("trace"))[1]
        return found

    def _relative(self, K: Tensor, exact: Tensor) -> tuple[float, float]:
        """`relative` without the samples on a kink."""
        rows, columns = min(len(K), len(exact)), min(K.shape[1], exact.shape[1])
        keep = self.smooth[0][:rows], self.smooth[1][:columns]
        return relative(*(k[:rows, :columns][keep[0]][:, keep[1]] for k in (K, exact)))


def relative(K: Tensor, exact: Tensor) -> tuple[float, float]:
    """‖K − K*‖/‖K*‖ on the tile that both have, raw and after double centring."""
    rows, columns = min(len(K), len(exact)), min(K.shape[1], exact.shape[1])
    K, exact = K[:rows, :columns], exact[:rows, :columns]
    a, b = (k - k.mean(0) - k.mean(1, keepdim=True) + k.mean() for k in (K, exact))
    return float((K - exact).norm() / exact.norm()), float((a - b).norm() / b.norm())
