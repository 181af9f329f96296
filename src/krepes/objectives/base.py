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


@dataclass(frozen=True)
class Term:
    """One additive term weight · ψ(s(B)): the whole population's moments, or one batch of pairs."""

    inner: Callable[[Tensor], Inner]
    outer: Callable[[Inner], Tensor]
    outer_gradient: Callable[[Inner], Inner]
    outer_hessian_product: Callable[[Inner, Inner], Inner]
    weight: float = 1.0


@dataclass(frozen=True)
class Problem:
    """The objective on given data: a sum of terms, restartable.

    Attributes:
        terms: a callable that yields the terms, since streamed terms are made when they are needed.
    """

    terms: Callable[[], Iterable[Term]]

    def value(self, B: Tensor) -> Tensor:
        """L(B), float64 scalar."""
        total = torch.zeros((), dtype=torch.float64, device=B.device)
        for t in self.terms():
            total = total + t.weight * t.outer(t.inner(B)).double()
        return total

    def gradient(self, B: Tensor) -> Tensor:
        """∇L(B) = Σ Jₛᵀ ∇ψ, (r, h)."""
        total = torch.zeros_like(B)
        for t in self.terms():
            s, pull_back = vjp(t.inner, B)[:2]
            total += t.weight * pull_back(t.outer_gradient(s))[0]
        return total

    def ggn(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ Σ Jₛᵀ ∇²ψ Jₛ V at B; a single term is evaluated at B once, streamed ones at every product."""
        terms = list(self.terms())
        parts = [_Linearised(t, B) for t in terms] if len(terms) == 1 else None

        def product(V: Tensor) -> Tensor:
            total = torch.zeros_like(V)
            for part in parts or (_Linearised(t, B) for t in terms):
                total += part(V)
            return total

        return product


class _Linearised:
    def __init__(self, term: Term, B: Tensor):
        self.term = term
        self.B = B
        self.s, self.pull = vjp(term.inner, B)[:2]

    def __call__(self, V: Tensor) -> Tensor:
        Js_V = jvp(self.term.inner, (self.B,), (V,))[1]  # v → Jv
        H_Js_V = self.term.outer_hessian_product(self.s, Js_V)  # Jv → HJv
        return self.term.weight * self.pull(H_Js_V)[0]  # HJv → JᵀHJv


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
