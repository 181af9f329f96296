"""SimCLR's NT-Xent (Chen et al., arXiv 2002.05709)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.objectives.base import Problem, Term
from krepes.objectives.pairs import Pairs, normalise


@dataclass(frozen=True)
class SimCLR:
    """Mean over the 2N rows of the cross-entropy of their 2N − 1 cosine logits / temperature.

    Inner variable: the logits. ψ: row softmax cross-entropy, with Hessian product p∘u − p(pᵀu) per row.

    Args:
        temperature: τ.
        batch_size: pairs per batch; the batches are a seeded division of the samples. None: one batch of all.
    """

    temperature: float = 0.5
    batch_size: int | None = 1024
    name: ClassVar[str] = "simclr"
    streaming: ClassVar[bool] = True

    def __post_init__(self):
        if not self.temperature > 0:
            raise ConfigError(f"temperature={self.temperature}; expected a positive number")

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of embeddings (N, h)."""
        return _cross_entropy(self._logits(z_a, z_b))

    def problem(self, pairs: Pairs) -> Problem:
        """L(B): the mean over batches, weighted by their share of the samples."""
        return Problem(lambda: [self._term(a, b, w) for a, b, w in pairs.batches(self.batch_size)])

    def _term(self, phi_a: Tensor, phi_b: Tensor, weight: float) -> Term:
        target = torch.zeros(2 * len(phi_a), 2 * len(phi_a) - 1, dtype=phi_a.dtype, device=phi_a.device)
        target[:, 0] = 1

        def outer_gradient(s: Tensor) -> Tensor:
            return (s.softmax(1) - target) / len(s)

        def outer_hessian_product(s: Tensor, u: Tensor) -> Tensor:
            p = s.softmax(1)
            return (p * u - p * (p * u).sum(1, keepdim=True)) / len(s)

        return Term(
            lambda B: self._logits(phi_a @ B, phi_b @ B),
            _cross_entropy,
            outer_gradient,
            outer_hessian_product,
            weight,
        )

    def _logits(self, f_a: Tensor, f_b: Tensor) -> Tensor:
        """(2N, 2N − 1); the positive pair stands in column 0."""
        z = normalise(torch.cat([f_a, f_b]))
        S = z @ z.T / self.temperature
        # rolling row i by −i−1 moves the diagonal to the end, and the positive (offset N) to column N − 1
        rows = torch.arange(len(S), device=S.device)[:, None]
        columns = torch.arange(1, len(S), device=S.device)[None]
        off = S.gather(1, (rows + columns) % len(S))
        N = len(f_a)
        return torch.cat([off[:, N - 1 : N], off[:, : N - 1], off[:, N:]], 1)


def _cross_entropy(logits: Tensor) -> Tensor:
    return (logits.logsumexp(1) - logits[:, 0]).mean()
