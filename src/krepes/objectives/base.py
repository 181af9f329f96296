"""What the solver needs of an objective: L(B) = ψ(s(B)), ψ convex.

The generalised Gauss–Newton matrix Jₛᵀ ∇²ψ Jₛ is then positive semidefinite. A self-supervised loss taken whole as
ψ is not convex: its Hessian in the embeddings is indefinite, and so would the matrix be.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.func import jvp, vjp

Inner = Any  # a tensor or a tuple of tensors
KEEP_BYTES = 2**28  # of embeddings that a linearisation keeps between products; beyond, they are computed anew


class Summand(Protocol):
    """One additive term weight · ψ(s(B)) of a loss."""

    @property
    def weight(self) -> float:
        """Its factor."""
        ...

    def value(self, B: Tensor) -> Tensor:
        """ψ(s(B)), scalar."""
        ...

    def gradient(self, B: Tensor) -> Tensor:
        """Jₛᵀ ∇ψ, (r, h)."""
        ...

    def linearise(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ Jₛᵀ ∇²ψ Jₛ V at B, (r, h) each; what does not depend on V is computed here."""
        ...


@dataclass(frozen=True)
class QuadraticTerm:
    """ψ(s(B, BᵀS₁B, BᵀS₂B, …)): what a loss needs of a whole population's moments S_i.

    The forms' derivatives at B are V ↦ Vᵀ(S_iB) + (S_iᵀB)ᵀV with both r × h factors computed once, so that a curvature
    product costs O(rh²) and no product with an r × r matrix. s itself is differentiated automatically.

    Attributes:
        forms: S_i (r, r), symmetric or not.
        inner: (B, BᵀS₁B, …) ↦ s.
        outer, outer_gradient, outer_hessian_product: ψ(s), ∇ψ(s), and u ↦ ∇²ψ(s) u.
    """

    forms: tuple[Tensor, ...]
    inner: Callable[..., Inner]
    outer: Callable[[Inner], Tensor]
    outer_gradient: Callable[[Inner], Inner]
    outer_hessian_product: Callable[[Inner, Inner], Inner]
    weight: float = 1.0

    def value(self, B: Tensor) -> Tensor:
        """ψ(s(B))."""
        return self.outer(self.inner(B, *(B.T @ (S @ B) for S in self.forms)))

    def gradient(self, B: Tensor) -> Tensor:
        """Jₛᵀ ∇ψ."""
        factors, at = self._at(B)
        s, pull_back = vjp(self.inner, *at)[:2]
        return _collect(pull_back(self.outer_gradient(s)), factors)

    def linearise(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ Jₛᵀ ∇²ψ Jₛ V."""
        factors, at = self._at(B)
        s, pull_back = vjp(self.inner, *at)[:2]

        def product(V: Tensor) -> Tensor:
            moved = (V, *(V.T @ right + left.T @ V for right, left in factors))
            Js_V = jvp(self.inner, at, moved)[1]  # v → Jv
            H_Js_V = self.outer_hessian_product(s, Js_V)  # Jv → HJv
            return _collect(pull_back(H_Js_V), factors)  # HJv → JᵀHJv

        return product

    def _at(self, B: Tensor) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, ...]]:
        """(S_iB, S_iᵀB) of every form, and the arguments of `inner`."""
        factors = [(S @ B, S.T @ B) for S in self.forms]
        return factors, (B, *(B.T @ right for right, _ in factors))


def _collect(parts: tuple[Tensor, ...], factors: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Gradients at (B, BᵀS₁B, …) as a gradient at B: ⟨U, Vᵀ(SB) + (SᵀB)ᵀV⟩ = ⟨V, (SB)Uᵀ + (SᵀB)U⟩."""
    total = parts[0]
    for U, (right, left) in zip(parts[1:], factors, strict=True):
        total = total + right @ U.T + left @ U
    return total


@dataclass(frozen=True)
class Problem:
    """The objective on given data: a sum of terms, restartable.

    Attributes:
        terms: a callable that yields the terms, since streamed terms are made when they are needed.
        size: pairs that are streamed; 0 when moments say everything.
        subset: k ↦ the same objective on a seeded subset of about k pairs, for the curvature; None for moments.
    """

    terms: Callable[[], Iterable[Summand]]
    size: int = 0
    subset: "Callable[[int], Problem] | None" = None

    def on(self, samples: int | None) -> "Problem":
        """The problem on the seeded subset of that many pairs; this one if it has no more, or knows moments."""
        if samples is None or self.subset is None or samples >= self.size:
            return self
        return self.subset(samples)

    def value(self, B: Tensor) -> Tensor:
        """L(B), float64 scalar."""
        total = torch.zeros((), dtype=torch.float64, device=B.device)
        for t in self.terms():
            total = total + t.weight * t.value(B).double()
        return total

    def gradient(self, B: Tensor) -> Tensor:
        """∇L(B) = Σ Jₛᵀ ∇ψ, (r, h)."""
        total = torch.zeros_like(B)
        for t in self.terms():
            total += t.weight * t.gradient(B)
        return total

    def ggn(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ Σ Jₛᵀ ∇²ψ Jₛ V at B; the terms' linearisations are kept between products while they fit."""

        def linearised() -> Iterable[tuple[float, Callable[[Tensor], Tensor]]]:
            return ((t.weight, t.linearise(B)) for t in self.terms())

        kept = list(linearised()) if 2 * self.size * B.shape[1] * B.element_size() <= KEEP_BYTES else None

        def product(V: Tensor) -> Tensor:
            total = torch.zeros_like(V)
            for weight, part in linearised() if kept is None else kept:
                total += weight * part(V)
            return total

        return product


class Objective(Protocol):
    """A self-supervised objective with its constants.

    Attributes:
        name: as in configuration files.
        streaming: False when the first two moments of the views' features say everything.
    """

    name: ClassVar[str]
    streaming: ClassVar[bool]

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of two views' embeddings (n, h), as the encoder was trained with; differentiable scalar."""
        ...
