"""SimCLR's NT-Xent (Chen et al., arXiv 2002.05709)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.objectives.base import Problem, check_batch_size, check_constants
from krepes.objectives.pairs import Pairs, normalise, streamed, unit, unit_tangent

ROWS = 256  # rows of the 2N × 2N matrices at a time: they stay in the cache, and memory stays linear in N


@dataclass(frozen=True)
class SimCLR:
    """Mean over the 2N rows of the cross-entropy of their 2N − 1 cosine logits / temperature.

    Inner variable: the logits s = zzᵀ/τ without the diagonal, z the rows of unit length. ψ: row softmax
    cross-entropy, mean over rows, convex, with Hessian product (p∘u − p(pᵀu))/2N per row.

    Args:
        temperature: τ.
        batch_size: pairs per batch; the batches are a seeded division of the samples. None: one batch of all.
    """

    temperature: float = 0.5
    batch_size: int | None = 1024
    name: ClassVar[str] = "simclr"
    streaming: ClassVar[bool] = True

    def __post_init__(self):
        check_constants(self, positive=("temperature",))
        check_batch_size(self.batch_size)

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of embeddings (N, h)."""
        z = normalise(torch.cat([z_a, z_b]))
        logits = z @ z.T / self.temperature  # (2N, 2N)
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
        return (logits.logsumexp(1) - _positives(z) / self.temperature).mean()

    def problem(self, pairs: Pairs) -> Problem:
        """L(B): the mean over batches, weighted by their share of the samples."""
        return streamed(pairs, self.batch_size, lambda index, share: _Batch(pairs, index, self.temperature, share))


@dataclass(frozen=True)
class _Batch:
    """One batch's term, its derivatives in closed form: L = ψ(s(z(f(B)))), p = softmax of the rows of s.

    The logits without the diagonal are kept as the full matrix S with S_ii = −∞, so that p_ii = 0.
    """

    pairs: Pairs
    index: Tensor
    temperature: float
    weight: float

    def value(self, B: Tensor) -> Tensor:
        z, _ = self._embed(B)
        return (self._log_normaliser(z).double() - _positives(z).double() / self.temperature).mean()

    def gradient(self, B: Tensor) -> Tensor:
        z, inverse = self._embed(B)
        return self._pull_back(z, inverse, self._pulled(z, self._log_normaliser(z)))

    def linearise(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ JᵀQJV; z and the rows' normalisers are kept, the (2N)² matrix p is formed anew, block by block.

        Of several V (Q, r, h) it is formed once for all.
        """
        z, inverse = self._embed(B)
        log_normaliser = self._log_normaliser(z)

        def product(V: Tensor) -> Tensor:
            phi_a, phi_b = self.pairs.load(self.index, B.device)
            factors, pulled = [], []
            for one in V[None] if V.ndim == 2 else V:
                one = one.to(z.dtype)
                z_dot = unit_tangent(z, inverse, torch.cat([phi_a @ one, phi_b @ one]))  # (2N, h)
                factors.append((torch.cat([z_dot, z], 1) / self.temperature, torch.cat([z, z_dot], 1)))
                pulled.append(torch.zeros_like(z))
            u = z.new_empty(ROWS, len(z))
            for rows, p in self._probabilities(z, log_normaliser):
                for (left, right), total in zip(factors, pulled, strict=True):
                    w = torch.mm(left[rows], right.T, out=u[: len(p)])  # v → Jv: ṡ = (żzᵀ + zżᵀ)/τ
                    w.mul_(p)  # Jv → HJv: p∘ṡ − p(pᵀṡ), in place
                    w.addcmul_(p, w.sum(1, keepdim=True), value=-1)
                    total[rows] += w @ z  # HJv → JᵀHJv: (W + Wᵀ)z, then through z and f
                    total.addmm_(w.T, z[rows])
            found = [self._pull_back(z, inverse, total, phi_a, phi_b) for total in pulled]
            return found[0] if V.ndim == 2 else torch.stack(found)

        return product

    def hessian(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ ∇²L V, (r, h) or (Q, r, h) each: with the curvature of s and z, which `linearise` leaves out.

        (W + Wᵀ)z changes by (q∘ṡ)z + qż − (p∘m + (p∘m)ᵀ)z and the positives' part, q = p + pᵀ, m the mean of ṡ under p
        in every row: one product of elements per query.
        """
        z, inverse = self._embed(B)
        log_normaliser = self._log_normaliser(z)
        pulled = self._pulled(z, log_normaliser)
        along = (z * pulled).sum(1, keepdim=True)
        tangential = (pulled - z * along) * inverse

        def product(V: Tensor) -> Tensor:
            phi, found = self.pairs.load(self.index, B.device), []
            several = (V[None] if V.ndim == 2 else V).to(z.dtype)
            f_dot = [torch.cat([phi[0] @ one, phi[1] @ one]) for one in several]
            z_dot = [unit_tangent(z, inverse, f) for f in f_dot]
            moved = [-2 * v.roll(len(z) // 2, 0) for v in z_dot]
            for rows, p in self._probabilities(z, log_normaliser):
                transposed = torch.addmm(-log_normaliser, z[rows], z.T, alpha=1 / self.temperature).exp_()
                transposed.diagonal(rows.start).zero_()
                pz, q = p @ z, p + transposed
                for v, total in zip(z_dot, moved, strict=True):
                    pv = p @ v
                    m = (v[rows] * pz + z[rows] * pv).sum(1, keepdim=True) / self.temperature
                    left = torch.cat([v[rows], z[rows]], 1) / self.temperature
                    total[rows] += (left @ torch.cat([z, v], 1).T).mul_(q) @ z + pv - m * pz
                    total.addmm_(p.T, v[rows] - m * z[rows])
            for f, v, total in zip(f_dot, z_dot, moved, strict=True):  # through z, whose projection changes, too
                total -= v * along + tangential * (z * f).sum(1, keepdim=True)
                radial = z * (v * pulled).sum(1, keepdim=True) * inverse
                found.append(self._to_B(unit_tangent(z, inverse, total) - radial, *phi))
            return found[0] if V.ndim == 2 else torch.stack(found)

        return product

    def per_sample(self, B: Tensor, D: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Σ over the batch's pairs of ⟨s, ∇ℓ + G_ℓ D⟩, and its derivative by every pair's weight.

        A pair's weight multiplies its two rows and its two columns among the negatives of other pairs' rows, so that
        weight zero is the batch without it.

        Args:
            B, D: Taylor point and step (r, h).
            s: directions (Q, r, h).

        Returns:
            sums (Q,) and derivatives (Q, N), float64.
        """
        z, inverse = self._embed(B)
        log_normaliser = self._log_normaliser(z)
        phi_a, phi_b = self.pairs.load(self.index, B.device)
        N = len(phi_a)

        def tangent(V: Tensor) -> Tensor:
            V = V.to(z.dtype)
            return unit_tangent(z, inverse, torch.cat([phi_a @ V, phi_b @ V]))

        def derivative(z_dot: Tensor, rows: slice) -> Tensor:  # ṡ = (żzᵀ + zżᵀ)/τ
            return (z_dot[rows] @ z.T + z[rows] @ z_dot.T) / self.temperature

        z_s = [tangent(one) for one in s]
        if not bool(D.any()):
            return self._per_sample_of_gradient(z, log_normaliser, z_s)
        z_D = tangent(D)
        positives = [(v * z.roll(N, 0) + z * v.roll(N, 0)).sum(1) / self.temperature for v in z_s]
        rows_total = torch.zeros(len(s), 2 * N, dtype=torch.float64, device=z.device)
        columns_total = torch.zeros_like(rows_total)
        for rows, p in self._probabilities(z, log_normaliser):
            b = derivative(z_D, rows)
            mean_b = (p * b).sum(1, keepdim=True)
            own = torch.arange(rows.start, rows.stop, device=z.device)
            for k, v in enumerate(z_s):
                a = derivative(v, rows)
                mean_a = (p * a).sum(1, keepdim=True)
                covariance = (p * (a - mean_a) * (b - mean_b)).sum(1, keepdim=True)
                rows_total[k, rows] = (mean_a[:, 0] - positives[k][rows] + covariance[:, 0]).double()
                # ∂p_ij/∂w_j = p_ij, the normaliser's change apart: a and cov(a, b) under p move by
                moved = p * ((a - mean_a) * (1 + b - mean_b) - covariance)
                moved[torch.arange(len(own)), (own + N) % (2 * N)] = 0  # the row's own pair is no negative
                columns_total[k] += moved.sum(0).double()
        both = (rows_total + columns_total) / 2  # the loss is the mean of a pair's two rows
        return rows_total.sum(1) / 2, both[:, :N] + both[:, N:]

    def _per_sample_of_gradient(self, z: Tensor, log_normaliser: Tensor, z_s: list[Tensor]) -> tuple[Tensor, Tensor]:
        """`per_sample` without a step: sums of ṡ under p are products of p with z and ż, and no ṡ is formed."""
        N, tau = len(z) // 2, self.temperature
        partner = z.roll(N, 0)
        mean = [torch.empty_like(z[:, 0]) for _ in z_s]  # of ṡ in every row
        turned = [torch.zeros_like(z) for _ in z_s]  # pᵀż
        pz, tz, own = torch.empty_like(z), torch.zeros_like(z), torch.empty_like(z[:, 0])
        columns = [torch.zeros(2 * N, dtype=torch.float64, device=z.device) for _ in z_s]
        for rows, p in self._probabilities(z, log_normaliser):
            pz[rows] = p @ z
            tz.addmm_(p.T, z[rows])
            index = torch.arange(rows.start, rows.stop, device=z.device)
            own[rows] = p[index - rows.start, (index + N) % (2 * N)]
            for v, m, t, column in zip(z_s, mean, turned, columns, strict=True):
                m[rows] = (v[rows] * pz[rows] + z[rows] * (p @ v)).sum(1) / tau
                t.addmm_(p.T, v[rows])
                column -= (p.T @ m[rows]).double()
        sums, derivatives = [], []
        for v, m, t, column in zip(z_s, mean, turned, columns, strict=True):
            positive = (v * partner + z * v.roll(N, 0)).sum(1) / tau  # ṡ of the row's own pair, which is no negative
            column += ((t * z + tz * v).sum(1) / tau).double() - (own * (positive - m)).roll(N, 0).double()
            rows_total = (m - positive).double()
            both = (rows_total + column) / 2  # the loss is the mean of a pair's two rows
            sums.append(rows_total.sum() / 2)
            derivatives.append(both[:N] + both[N:])
        return torch.stack(sums), torch.stack(derivatives)

    def _embed(self, B: Tensor) -> tuple[Tensor, Tensor]:
        """z (2N, h) and 1/‖f‖ (2N, 1)."""
        phi_a, phi_b = self.pairs.load(self.index, B.device)
        return unit(torch.cat([phi_a.double() @ B, phi_b.double() @ B]), phi_a.dtype)

    def _log_normaliser(self, z: Tensor) -> Tensor:
        """log Σ_{j≠i} exp s_ij, (2N,)."""
        parts = []
        for rows, s in self._exponents(z, torch.zeros_like(z[:, 0])):
            s.diagonal(rows.start).fill_(-torch.inf)
            parts.append(s.logsumexp(1))
        return torch.cat(parts)

    def _probabilities(self, z: Tensor, log_normaliser: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows and their p (k, 2N), whose memory is used again for the next block."""
        for rows, s in self._exponents(z, -log_normaliser):
            s.exp_().diagonal(rows.start).zero_()
            yield rows, s

    def _exponents(self, z: Tensor, offset: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows of zzᵀ/τ + offset."""
        buffer = z.new_empty(ROWS, len(z))
        for start in range(0, len(z), ROWS):
            rows = slice(start, min(start + ROWS, len(z)))
            s = buffer[: rows.stop - start]
            yield rows, torch.addmm(offset[rows, None], z[rows], z.T, alpha=1 / self.temperature, out=s)

    def _pulled(self, z: Tensor, log_normaliser: Tensor) -> Tensor:
        """(W + Wᵀ)z, W the derivative's weight per logit times 2N, (2N, h)."""
        pulled = -2 * z.roll(len(z) // 2, 0)  # the partner of row i is row i ± N, in both of their rows
        for rows, p in self._probabilities(z, log_normaliser):
            pulled[rows] += p @ z
            pulled.addmm_(p.T, z[rows])
        return pulled

    def _pull_back(self, z: Tensor, inverse: Tensor, pulled: Tensor, phi_a=None, phi_b=None) -> Tensor:
        """From (W + Wᵀ)z, W the derivative's weight per logit times 2N, to B: (r, h) in float64."""
        if phi_a is None or phi_b is None:
            phi_a, phi_b = self.pairs.load(self.index, z.device)
        return self._to_B(unit_tangent(z, inverse, pulled), phi_a, phi_b)

    def _to_B(self, f_bar: Tensor, phi_a: Tensor, phi_b: Tensor) -> Tensor:
        """From 2Nτ times the derivative by f (2N, h) to B: (r, h) in float64."""
        f_bar, N = f_bar / (self.temperature * len(f_bar)), len(phi_a)
        return (phi_a.T @ f_bar[:N]).double() + (phi_b.T @ f_bar[N:]).double()


def _positives(z: Tensor) -> Tensor:
    """cos of each row with its partner, (2N,)."""
    return (z * z.roll(len(z) // 2, 0)).sum(1)
