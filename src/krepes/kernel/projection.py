"""Seeded random projections of per-sample gradients that keep inner products without bias.

An outer-product gradient G = Σ_t g_t a_tᵀ is projected from both sides, P_g G P_aᵀ = Σ_t (P_g g_t)(P_a a_t)ᵀ, so that G
is never formed; E PᵀP = I on each side makes E⟨P_g G P_aᵀ, P_g G' P_aᵀ⟩ = ⟨G, G'⟩. A gradient that is no outer product
is folded onto k numbers with random signs. Signs depend on the seed and the parameter's name alone.
"""

import hashlib
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from krepes.kernel.contractions import Layout, Term, geometry, operands
from krepes.kernel.plan import Piece


class Projections:
    """The random matrices of all projected pieces, drawn once."""

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype):
        self._seed, self._device, self._dtype = seed, device, dtype
        self._drawn: dict[str, Tensor] = {}

    def signs(self, name: str, rows: int, columns: int) -> Tensor:
        """(rows, columns) of ±1/√rows; the identity when rows = columns."""
        key = f"{name}:{rows}x{columns}"
        if key not in self._drawn:
            if rows == columns:
                drawn = torch.eye(rows)
            else:
                drawn = self._random(key, rows * columns).view(rows, columns) / math.sqrt(rows)
            self._drawn[key] = drawn.to(self._device, self._dtype)
        return self._drawn[key]

    def fold(self, piece: Piece, gradient: Tensor) -> Tensor:
        """A formed gradient (B, q, numel) on k numbers."""
        (k,) = piece.projection
        return self.folded(f"{'+'.join(piece.names)}{piece.slot}:fold", gradient, k)

    def folded(self, key: str, values: Tensor, k: int) -> Tensor:
        """Values (..., numel) on k numbers: entry j goes to j mod k with a random sign, which depends on the key."""
        if key not in self._drawn:
            self._drawn[key] = self._random(key, values.shape[-1]).to(self._device, torch.int8)
        total = values.new_zeros(*values.shape[:-1], k)
        for part, signs in zip(values.split(k, -1), self._drawn[key].split(k), strict=True):
            total[..., : part.shape[-1]] += part * signs  # a part at a time: all of it would be held twice more
        return total

    def outer(self, piece: Piece, a: Tensor, g: Tensor, samples: int) -> Tensor:
        """Σ_t (P_g g_t)(P_a a_t)ᵀ for the weight, and the bias's gradient projected like g: (B, q, k_out·k_in).

        Args:
            a: the call's operand as recorded.
            g: (B or 1, q, *shape of one sample).
        """
        term, (k_out, k_in) = piece.terms[0], piece.projection
        n_out, n_in = term.sides
        left = self.signs(piece.names[0] + ".out", k_out, n_out)
        if term.kind == "conv":
            a_t, g_t = self._convolved(piece.names[0], term, a, g, samples, k_in)
        else:
            a_t, g_t = operands(term, a, g, samples)
            right = self.signs(piece.names[0] + ".in", k_in, n_in)
            a_t = right.T[a_t] if term.kind == "embedding" else a_t @ right.T  # (B, T, k_in)
        g_t = g_t @ left.T  # (B, q, T, k_out)
        weight = g_t.transpose(2, 3) @ a_t.unsqueeze(1)  # (B, q, k_out, k_in)
        return weight.flatten(2).expand(samples, -1, -1)

    def _convolved(self, name: str, term: Term, a: Tensor, g: Tensor, samples: int, k_in: int) -> tuple[Tensor, Tensor]:
        """P_a applied to the patches as a convolution with random filters: (B, T, k_in); and g (B, q, T, n_out)."""
        kernel, stride, padding, dilation = geometry(term.options)
        channels = term.shape[1]
        filters = self.signs(name + ".in", k_in, channels * math.prod(kernel)).view(k_in, channels, *kernel)
        if any(low != high for low, high in padding):
            a = F.pad(a, [n for pair in reversed(padding) for n in pair])
            padding = tuple((0, 0) for _ in padding)
        convolve = F.conv1d if term.options["dims"] == 1 else F.conv2d
        seen = convolve(a, filters, None, stride, [low for low, _ in padding], dilation)  # (B·k, k_in, *out)
        layout = term.a if term.a is not None else Layout(0, 1)
        seen = layout.per_sample(seen, samples).flatten(3)  # (B, k, k_in, L)
        g = g.flatten(4)  # (B, q, k, C_out, L)
        return seen.transpose(2, 3).flatten(1, 2), g.transpose(3, 4).flatten(2, 3)

    def _random(self, key: str, count: int) -> Tensor:
        digest = hashlib.sha256(f"{self._seed}:{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
        return torch.randint(0, 2, (count,), generator=generator, dtype=torch.int8).float() * 2 - 1


def weight_alone(piece: Piece) -> list[Piece]:
    """A projected piece's weight; its bias, which needs no projection, as an explicit piece of its own."""
    if piece.way != "projected" or not piece.bias:
        return [piece]
    weight, bias = piece.terms
    return [
        replace(piece, names=piece.names[:1], terms=(weight,), numel=weight.numel),
        replace(piece, names=piece.names[1:], terms=(bias,), numel=bias.numel, way="explicit", projection=()),
    ]
