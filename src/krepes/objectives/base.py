"""What the solver needs of an objective: L(B) = ψ(s(B)), ψ convex.

The generalised Gauss–Newton matrix Jₛᵀ ∇²ψ Jₛ is then positive semidefinite. A self-supervised loss taken whole as
ψ is not convex: its Hessian in the embeddings is indefinite, and so would the matrix be.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.objectives.moments import Form
from krepes.workers import current

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
        """V ↦ Jₛᵀ ∇²ψ Jₛ V at B, (r, h) or (Q, r, h) each; what does not depend on V is computed here."""
        ...


@dataclass(frozen=True)
class QuadraticTerm:
    """ψ(s(BᵀS₁B, BᵀS₂B, …)) + tr(BᵀS₀B)/h: what a loss needs of a whole population's moments S_i.

    The forms' derivatives at B are V ↦ Vᵀ(S_iB) + (S_iᵀB)ᵀV with both r × h factors computed once, so that a curvature
    product costs O(rh²) and no product with an r × r matrix but S₀'s. s itself is differentiated automatically.

    Attributes:
        forms: S_i (r, r), symmetric or not.
        inner: (BᵀS₁B, …) ↦ s, a tensor or a tuple of tensors.
        outer, outer_gradient, outer_hessian_product: ψ(s), ∇ψ(s), and u ↦ ∇²ψ(s) u.
        own: S₀, positive semidefinite: a mean over the h columns that is convex in B itself.
    """

    forms: tuple[Form, ...]
    inner: Callable[..., Inner]
    outer: Callable[[Inner], Tensor]
    outer_gradient: Callable[[Inner], Inner]
    outer_hessian_product: Callable[[Inner, Inner], Inner]
    own: Form | None = None
    weight: float = 1.0

    @property
    def all_forms(self) -> tuple[Form, ...]:
        """The S_i, and S₀ if there is one."""
        return self.forms if self.own is None else (*self.forms, self.own)

    def value(self, B: Tensor) -> Tensor:
        """ψ(s(B))."""
        value = self.outer(self.inner(*(S.of(B, B) for S in self.forms)))
        return value if self.own is None else value + self.own.of(B, B).trace() / B.shape[1]

    def gradient(self, B: Tensor) -> Tensor:
        """Jₛᵀ ∇ψ."""
        factors, at = self._at(B)
        derivative = Derivative.of(self.inner, at)
        return _collect(derivative.pull(self.outer_gradient(derivative.value)), factors) + self._own(B)

    def linearise(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ Jₛᵀ ∇²ψ Jₛ V."""
        factors, at = self._at(B)
        derivative = Derivative.of(self.inner, at)
        s = derivative.value

        def product(V: Tensor) -> Tensor:
            moved = tuple(V.T @ right + left.T @ V for right, left in factors)
            Js_V = derivative.push(moved)  # v → Jv
            H_Js_V = self.outer_hessian_product(s, Js_V)  # Jv → HJv
            return _collect(derivative.pull(H_Js_V), factors) + self._own(V)  # HJv → JᵀHJv

        return one_by_one(product)

    def hessian(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ ∇²L V, (r, h) or (Q, r, h) each: with the curvature of s, which `linearise` leaves out."""

        def product(V: Tensor) -> Tensor:
            several = V if V.ndim == 3 else V[None]
            found = self.second_order(B, several).hessian_product(B, several)
            return found if V.ndim == 3 else found[0]

        return product

    def second_order(self, B: Tensor, V: Tensor) -> "SecondOrder":
        """Derivatives of L(B), and of ⟨V, ∇L(B)⟩ for several V (Q, r, h), by the forms."""
        moved = [S.of(B, V) + V.mT @ S.times(B) for S in self.forms]  # of BᵀSB along V, (Q, h, h)
        with torch.enable_grad():
            at = _leaves(tuple(S.of(B, B) for S in self.forms))
            value = self.inner(*at)
            outputs, slope = (x if isinstance(x, tuple) else (x,) for x in (value, self.outer_gradient(value)))
            first = torch.autograd.grad(outputs, at, slope, create_graph=True, materialize_grads=True)
            known = [i for i, f in enumerate(first) if f.requires_grad]  # the others are constant
            of_forms = [torch.zeros_like(change) for change in moved]
            for q in range(len(V) if known else 0):
                changes = [moved[i][q] for i in known]
                second = torch.autograd.grad(
                    [first[i] for i in known], at, changes, retain_graph=True, materialize_grads=True
                )
                for found, each in zip(of_forms, second, strict=True):
                    found[q] = each
        return SecondOrder(self, [f.detach() for f in first], of_forms)

    def per_sample(self, B: Tensor, D: Tensor, s: Tensor) -> "list[Bilinear]":
        """⟨s, ∇L + G D⟩ as a sum of bilinear forms ⟨E, XᵀSY⟩, whose change with a sample's weight is known.

        Args:
            B, D, s: Taylor point, step and direction (r, h) each; there are no terms in a step that is all zero.
        """
        vectors, stepped = {"B": B, "D": D, "s": s}, bool(D.any())
        Q = tuple(S.of(B, B) for S in self.forms)
        Q_s, Q_D = (tuple(S.of(V, B) + S.of(B, V) for S in self.forms) for V in (s, D))
        with torch.enable_grad():
            Q, Q_s, Q_D = (_leaves(part) for part in (Q, Q_s, Q_D))
            at = Derivative.of(self.inner, Q, again=True)
            Js_s = at.push(Q_s)
            total = _dot(self.outer_gradient(at.value), Js_s)
            if stepped:
                total = total + _dot(Js_s, self.outer_hessian_product(at.value, at.push(Q_D)))
            slopes = torch.autograd.grad(total, (*Q, *Q_s, *Q_D), materialize_grads=True)
        found, count = [], len(Q)
        for k, S in enumerate(self.forms):
            E, E_s, E_D = slopes[k::count]
            terms = [(E, "B", "B"), (E_s, "s", "B"), (E_s, "B", "s")]
            terms += [(E_D, "D", "B"), (E_D, "B", "D")] if stepped else []
            found += [Bilinear(S, e, x, y, (e * S.of(vectors[x], vectors[y])).sum()) for e, x, y in terms]
        if self.own is not None:
            E = 2 / B.shape[1] * torch.eye(B.shape[1], dtype=B.dtype, device=B.device)
            for y in ("B", "D") if stepped else ("B",):
                found.append(Bilinear(self.own, E, "s", y, (E * self.own.of(s, vectors[y])).sum()))
        return found

    def _own(self, V: Tensor) -> Tensor:
        """2 S₀ V/h."""
        return torch.zeros_like(V) if self.own is None else 2 / V.shape[1] * (self.own.matrix @ V)

    def _at(self, B: Tensor) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, ...]]:
        """(S_iB, S_iᵀB) of every form, and the arguments of `inner`."""
        factors = [(S.matrix @ B, S.matrix.T @ B) for S in self.forms]
        return factors, tuple(B.T @ right for right, _ in factors)


@dataclass(frozen=True)
class Bilinear:
    """⟨E, XᵀSY⟩ with X and Y among B, D (the step) and s (a direction).

    Attributes:
        form: S.
        E: (h, h).
        x, y: "B", "D" or "s".
        value: ⟨E, XᵀSY⟩.
    """

    form: Form
    E: Tensor
    x: str
    y: str
    value: Tensor


@dataclass(frozen=True)
class SecondOrder:
    """How L, and how ⟨V, ∇L⟩ for several V (Q, r, h), depend on the forms' BᵀSB at B.

    Attributes:
        term: the objective.
        first: ∂L/∂(BᵀSB) of every form (h, h).
        second: its change along each V (Q, h, h).
    """

    term: QuadraticTerm
    first: list[Tensor]
    second: list[Tensor]

    def hessian_product(self, B: Tensor, V: Tensor) -> Tensor:
        """∇²L V, (Q, r, h)."""
        found = torch.zeros_like(V)
        for S, E, E_V in zip(self.term.forms, self.first, self.second, strict=True):
            found += S.times(B) @ E_V.mT + S.times(B, transposed=True) @ E_V
            found += S.times(V) @ E.T + S.times(V, transposed=True) @ E
        own = self.term.own
        return found if own is None else found + 2 / B.shape[1] * own.times(V)

    def by_forms(self, B: Tensor, V: Tensor) -> Iterator[Tensor]:
        """M (Q, r, r) of every one of `all_forms` S: ⟨V, ∇L⟩ changes by ⟨M, dS⟩ when S does."""
        for E, E_V in zip(self.first, self.second, strict=True):
            yield (B @ E_V + V @ E) @ B.T + (B @ E) @ V.mT
        if self.term.own is not None:
            yield 2 / B.shape[1] * V @ B.T


@dataclass(frozen=True)
class Derivative:
    """The derivative J of a function of several tensors at a point, both ways by reverse mode: Jv = ∂⟨Jᵀu, v⟩/∂u.

    A reverse pass belongs to its thread. Forward mode's levels belong to the process: two threads that use them at once
    get each other's numbers.

    Attributes:
        value: the function's value, a tensor or a tuple of tensors.
    """

    value: Inner
    _outputs: tuple[Tensor, ...]
    _at: tuple[Tensor, ...]
    _u: tuple[Tensor, ...]
    _pulled: tuple[Tensor, ...]
    _again: bool

    @classmethod
    def of(cls, function: Callable[..., Inner], at: tuple[Tensor, ...], again: bool = False) -> "Derivative":
        """At a point.

        Args:
            again: `value` and `push` are to be differentiated themselves, with respect to `at` and to v.
        """
        with torch.enable_grad():
            at = at if again else _leaves(at)
            value = function(*at)
            outputs = (value,) if isinstance(value, Tensor) else tuple(value)
            u = _leaves(tuple(torch.zeros_like(x) for x in outputs))
            pulled = torch.autograd.grad(outputs, at, u, create_graph=True, materialize_grads=True)
        if not again:
            value = value.detach() if isinstance(value, Tensor) else tuple(x.detach() for x in value)
        return cls(value, outputs, at, u, pulled, again)

    def pull(self, u: Inner) -> tuple[Tensor, ...]:
        """Jᵀu, like the point."""
        weights = (u,) if isinstance(u, Tensor) else tuple(u)
        return torch.autograd.grad(self._outputs, self._at, weights, retain_graph=True, materialize_grads=True)

    def push(self, v: tuple[Tensor, ...]) -> Inner:
        """Jv, like the value."""
        pairs = [(p, x) for p, x in zip(self._pulled, v, strict=True) if p.requires_grad]
        pulled, weights = zip(*pairs, strict=True)
        moved = torch.autograd.grad(
            pulled, self._u, weights, retain_graph=True, create_graph=self._again, materialize_grads=True
        )
        return moved[0] if isinstance(self.value, Tensor) else moved


def _leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same numbers, by which can be differentiated."""
    return tuple(x.detach().requires_grad_(True) for x in tensors)


def _dot(a: Inner, b: Inner) -> Tensor:
    """⟨a, b⟩ of two tensors, or of two tuples of them."""
    pairs = [(a, b)] if isinstance(a, Tensor) else zip(a, b, strict=True)
    return torch.stack([(x * y).sum() for x, y in pairs]).sum()


def _collect(parts: tuple[Tensor, ...], factors: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Gradients at (BᵀS₁B, …) as a gradient at B: ⟨U, Vᵀ(SB) + (SᵀB)ᵀV⟩ = ⟨V, (SB)Uᵀ + (SᵀB)U⟩."""
    total = torch.zeros_like(factors[0][0])
    for U, (right, left) in zip(parts, factors, strict=True):
        total = total + right @ U.T + left @ U
    return total


def one_by_one(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The product of one V (r, h), for several (Q, r, h) as well."""
    return lambda V: product(V) if V.ndim == 2 else torch.stack([product(one) for one in V])


@dataclass(frozen=True)
class Problem:
    """The objective on given data: a sum of terms, restartable.

    Attributes:
        terms: a callable that yields the terms, since streamed terms are made when they are needed.
        size: pairs that are streamed; 0 when moments say everything.
        subset: k ↦ the same objective on a seeded subset of about k pairs, for the curvature; None for moments.
        divided: the terms are this worker's share; sums are over all workers.
    """

    terms: Callable[[], Iterable[Summand]]
    size: int = 0
    subset: "Callable[[int], Problem] | None" = None
    divided: bool = False

    def on(self, samples: int | None) -> "Problem":
        """The problem on the seeded subset of that many pairs; this one if it has no more, or knows moments."""
        if samples is None or self.subset is None or samples >= self.size:
            return self
        return self.subset(samples)

    def value(self, B: Tensor) -> Tensor:
        """L(B), float64 scalar."""
        total = torch.zeros((), dtype=torch.float64, device=B.device)
        for t in self.terms():
            total += t.weight * t.value(B).double()
        return self.whole(total)

    def gradient(self, B: Tensor) -> Tensor:
        """∇L(B) = Σ Jₛᵀ ∇ψ, (r, h)."""
        total = torch.zeros_like(B)
        for t in self.terms():
            total += t.weight * t.gradient(B)
        return self.whole(total)

    def whole(self, total: Tensor) -> Tensor:
        """A sum over this worker's terms, added up in place over all workers'."""
        if self.divided:
            current().add(total)
        return total

    def ggn(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V (r, h) or (Q, r, h) ↦ Σ Jₛᵀ ∇²ψ Jₛ V at B; the terms' linearisations are kept while they fit.

        Where they do not fit each product makes them anew, once for all Q.
        """
        return self._product(B, lambda t: t.linearise(B))

    def hessian(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V (r, h) or (Q, r, h) ↦ ∇²L V at B, of an objective whose terms know it; kept as those of `ggn`."""
        return self._product(B, lambda t: cast(Any, t).hessian(B))

    def _product(
        self, B: Tensor, of_term: Callable[[Summand], Callable[[Tensor], Tensor]]
    ) -> Callable[[Tensor], Tensor]:
        """V ↦ the sum of the terms' products, which are kept while they fit."""

        def made() -> Iterable[tuple[float, Callable[[Tensor], Tensor]]]:
            return ((t.weight, of_term(t)) for t in self.terms())

        kept = list(made()) if 2 * self.size * B.shape[1] * B.element_size() <= KEEP_BYTES else None

        def product(V: Tensor) -> Tensor:
            total = torch.zeros_like(V)
            for weight, part in made() if kept is None else kept:
                total += weight * part(V)
            return self.whole(total)

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


def check_constants(objective: Any, at_least_zero: tuple[str, ...] = (), positive: tuple[str, ...] = ()) -> None:
    """Raise ConfigError where a constant is no finite number, or too small."""
    for name in (*at_least_zero, *positive):
        value = getattr(objective, name)
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (name in positive and value == 0):
            wanted = "a positive number" if name in positive else "a number, at least 0"
            raise ConfigError(f"{objective.name}: {name}={value!r}; expected {wanted}")


def check_batch_size(value: Any) -> None:
    """Raise ConfigError for a number of pairs that no batch can have."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 2):
        raise ConfigError(f"batch_size={value!r}; expected at least 2 pairs, or None for one batch")
