"""Landmark samplers on kernel columns.

k-means++ and randomly pivoted Cholesky draw a block of proposals from the present weights and accept each with the
ratio of its weight after and before the block's earlier picks. Weights only fall, so this rejection sampling draws
from exactly the serial distribution, in m/block passes over the pool instead of m.
"""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from krepes.errors import ConfigError, LandmarkError, warn

BLOCK = 64


class Columns(Protocol):
    """Access to a kernel among a pool: its diagonal (pool,) and chosen columns (pool, c).

    `rounding` (pool,) is the size of the diagonal's rounding error; that of an entry is the mean of its two samples'.
    """

    diagonal: Tensor
    rounding: Tensor

    def columns(self, chosen: Tensor) -> Tensor: ...


@runtime_checkable
class Sampler(Protocol):
    """Chooses m of the pool's members.

    Attributes:
        m: number of landmarks, None for ⌈√n⌉.
        space: "kernel" or "input": where distances and scores are measured.
    """

    @property
    def m(self) -> int | None: ...
    @property
    def space(self) -> str: ...
    def choose(self, kernel: Columns, m: int, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class _Settings:
    m: int | None = None
    space: str = "kernel"

    def __post_init__(self):
        if self.m is not None and self.m < 1:
            raise ConfigError(f"landmarks={self.m}; expected a positive number")
        if self.space not in ("kernel", "input"):
            raise ConfigError(f"space={self.space!r}; expected 'kernel' or 'input'")


class Uniform(_Settings):
    """m samples without replacement, all equally likely."""

    def choose(self, kernel: Columns, m: int, generator: torch.Generator) -> Tensor:
        """Indices (m,) into the pool."""
        return torch.randperm(len(kernel.diagonal), generator=generator)[:m]


class KMeansPlusPlus(_Settings):
    """D² seeding: the next landmark with probability ∝ its squared kernel distance to the nearest one.

    Source: Arthur and Vassilvitskii 2007; exact rejection in blocks.
    """

    def choose(self, kernel: Columns, m: int, generator: torch.Generator) -> Tensor:
        """Indices (m,) into the pool."""
        k_ii = kernel.diagonal.cpu()
        first = torch.randint(len(k_ii), (1,), generator=generator)
        weight = _square_distance(kernel, first)[:, 0]
        chosen = first.tolist()
        while len(chosen) < m:
            proposals = _propose(weight, chosen, k_ii.max(), generator)
            if proposals is None:
                return _fill(chosen, len(k_ii), m, generator)
            distances = _square_distance(kernel, proposals)
            before = weight[proposals]
            accept = torch.rand(len(proposals), generator=generator, dtype=torch.float64)
            for j, index in enumerate(proposals.tolist()):
                if len(chosen) < m and index not in chosen and accept[j] * before[j] < weight[index]:
                    chosen.append(index)
                    weight = torch.minimum(weight, distances[:, j])
        return torch.tensor(chosen)


class RPCholesky(_Settings):
    """Randomly pivoted Cholesky: pivots with probability ∝ the residual diagonal.

    Source: Chen, Epperly, Tropp and Webber, arXiv 2207.06503; accelerated by rejection, arXiv 2410.03969.
    """

    def choose(self, kernel: Columns, m: int, generator: torch.Generator) -> Tensor:
        """Indices (m,) into the pool."""
        diagonal = kernel.diagonal.cpu().clone()
        scale = diagonal.max()
        factor = torch.zeros(len(diagonal), m, dtype=torch.float64)  # K ≈ F Fᵀ
        chosen: list[int] = []
        while len(chosen) < m:
            proposals = _propose(diagonal, chosen, scale, generator)
            if proposals is None:
                return _fill(chosen, len(diagonal), m, generator)
            columns = kernel.columns(proposals).cpu()
            before = diagonal[proposals]
            accept = torch.rand(len(proposals), generator=generator, dtype=torch.float64)
            for j, index in enumerate(proposals.tolist()):
                k = len(chosen)
                if k == m or index in chosen or not accept[j] * before[j] < diagonal[index]:
                    continue
                residual = columns[:, j] - factor[:, :k] @ factor[index, :k]
                if residual[index] <= 1e-12 * scale:
                    diagonal[index] = 0
                    continue
                factor[:, k] = residual / residual[index].sqrt()
                diagonal = (diagonal - factor[:, k].square()).clamp_min(0)
                diagonal[index] = 0
                chosen.append(index)
        return torch.tensor(chosen)


class LeverageScores(_Settings):
    """Without replacement, with probability ∝ approximate ridge leverage scores.

    ℓ_i = (k_ii − k_iS (K_SS + λI)⁻¹ k_Si)/λ with a uniform dictionary S of min(4m, pool) members and λ such that the
    dictionary's mean eigenvalue beyond rank m is regularised: λ = (tr K_SS − Σ_{j≤m/2} σ_j)/(m/2).

    Source: Alaoui and Mahoney 2015, Musco and Musco 2017.
    """

    def choose(self, kernel: Columns, m: int, generator: torch.Generator) -> Tensor:
        """Indices (m,) into the pool."""
        k_ii = kernel.diagonal.cpu()
        n = len(k_ii)
        dictionary = torch.randperm(n, generator=generator)[: min(n, 4 * m)]
        K_ns = kernel.columns(dictionary).cpu()
        sigma, V = torch.linalg.eigh(K_ns[dictionary])
        sigma = sigma.flip(0).clamp_min(0)
        half = max(1, m // 2)
        ridge = max(float(sigma[half:].sum()) / half, 1e-10 * float(sigma.sum()), 1e-300)
        projected = K_ns @ V.flip(1)
        scores = (k_ii - (projected.square() / (sigma + ridge)).sum(1)).clamp_min(0) / ridge
        if int((scores > 1e-12 * scores.max()).sum()) < m:
            return _fill(torch.argsort(scores, descending=True)[: max(1, m // 2)].tolist(), n, m, generator)
        return _without_replacement(scores, m, generator)


def choose(sampler: Sampler, kernel: Columns, m: int, generator: torch.Generator) -> Tensor:
    """m distinct, sorted indices into the pool."""
    indices = torch.sort(sampler.choose(kernel, m, generator)).values
    if len(indices) != m or len(set(indices.tolist())) != m:
        raise LandmarkError(
            f"{type(sampler).__name__} returned {len(indices)} landmarks, {len(set(indices.tolist()))} of them "
            f"distinct; expected {m} distinct ones"
        )
    return indices


def default_m(n: int) -> int:
    """⌈√n⌉, the paper's number of landmarks."""
    return math.isqrt(n - 1) + 1 if n > 1 else 1


def _square_distance(kernel: Columns, chosen: Tensor) -> Tensor:
    """Squared distances in feature space (pool, c); zero where they are no more than rounding."""
    k_ii, rounding = kernel.diagonal.cpu(), kernel.rounding.cpu()
    d2 = (k_ii[:, None] - 2 * kernel.columns(chosen).cpu() + k_ii[chosen][None]).clamp_min(0)
    # rounding leaves duplicates of a landmark a positive distance; it must not draw them
    return torch.where(d2 <= 4 * (rounding[:, None] + rounding[chosen][None]), 0.0, d2)


def _propose(weight: Tensor, chosen: list[int], scale: Tensor, generator: torch.Generator) -> Tensor | None:
    """A block of proposals ∝ weight; None when nothing is left to draw."""
    weight = weight.clone()
    weight[chosen] = 0
    if not float(weight.sum()) > 1e-12 * float(scale):
        return None
    cumulative = weight.cumsum(0)
    draws = torch.rand(BLOCK, generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, draws, right=True).clamp_max(len(weight) - 1)


def _without_replacement(weight: Tensor, m: int, generator: torch.Generator) -> Tensor:
    """Successive draws ∝ weight without replacement, by exponential keys (Efraimidis and Spirakis 2006)."""
    keys = torch.empty_like(weight).exponential_(generator=generator) / weight.clamp_min(1e-300)
    return torch.argsort(keys)[:m]


def _fill(chosen: list[int], n: int, m: int, generator: torch.Generator) -> Tensor:
    warn(
        f"{len(chosen)} landmarks already span the kernel on the candidates; the other {m - len(chosen)} are drawn "
        "uniformly. The encoder may be collapsed, or many samples equal."
    )
    rest = [i for i in torch.randperm(n, generator=generator).tolist() if i not in set(chosen)]
    return torch.tensor(chosen + rest[: m - len(chosen)])


def as_landmarks(wanted: Any) -> Sampler | list[int]:
    """A sampler, or explicit positions."""
    if isinstance(wanted, bool) or wanted is None:
        raise ConfigError(f"landmarks={wanted}; expected a number, 'sqrt', positions, or a sampler")
    if isinstance(wanted, str):
        if wanted != "sqrt":
            raise ConfigError(f"landmarks={wanted!r}; expected a number, 'sqrt', positions, or a sampler")
        return KMeansPlusPlus()
    if isinstance(wanted, Integral):
        return KMeansPlusPlus(m=int(wanted))
    if isinstance(wanted, Sampler):
        return wanted
    try:
        positions = [float(i) for i in wanted]
    except TypeError as error:
        raise ConfigError(f"landmarks={wanted!r}; expected a whole number, 'sqrt', positions, or a sampler") from error
    if not positions:
        raise LandmarkError("landmarks is empty; expected at least one position")
    if any(not math.isfinite(p) or p != int(p) for p in positions):
        raise ConfigError("landmarks holds values that are no whole numbers; expected positions in the source")
    return [int(p) for p in positions]
