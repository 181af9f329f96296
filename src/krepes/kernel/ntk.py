"""The kernel's settings and its rows against the landmarks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import ConfigError, LandmarkError, NonFiniteError
from krepes.kernel.gradients import GradientFeatures, GradientMap

# Numbers that the gradient features of one tile of samples may take (256 MiB in float32).
TILE_NUMBERS = 64 * 2**20


@dataclass(frozen=True)
class NTK:
    """The empirical neural tangent kernel, k(x, x') = Σ_p ⟨∇θ⟨w_p, f(x)⟩, ∇θ⟨w_p, f(x')⟩⟩.

    Args:
        variant: `trace`: (1/d) tr J(x)J(x')ᵀ, w_p = e_p/√d; `pseudo`: s = (1/√d) Σ_c f_c, one direction;
            `sketch`: the trace estimated without bias with `sketch` random ±1 output directions.
        params: names or patterns of the parameters of the kernel; None: all.
        center: gradient features minus their mean over the landmarks.
        cosine: k/√(k(x,x)k(x',x')), after centring if both.
        rescale: None, or "mean": divided by the mean landmark diagonal.
        sketch: number of directions of `sketch` (default 8 there).
        seed: of the random directions.

    Source: the paper, §2; the variants are DESIGN choices described in docs/method.md.
    """

    variant: str = "trace"
    params: str | tuple[str, ...] | None = None
    center: bool = True
    cosine: bool = True
    rescale: str | None = None
    sketch: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.variant not in ("trace", "pseudo", "sketch"):
            raise ConfigError(f"kernel {self.variant!r} is unknown; expected trace, pseudo or sketch")
        if self.rescale not in (None, "mean"):
            raise ConfigError(f"rescale={self.rescale!r} is unknown; expected None or 'mean'")
        if self.sketch is not None and (self.variant != "sketch" or self.sketch < 1):
            raise ConfigError(
                f"sketch={self.sketch} with kernel {self.variant!r}; expected a positive number with kernel 'sketch'"
            )

    def directions(self, d: int) -> Tensor:
        """The output directions w_p, (q, d) in float64."""
        if self.variant == "trace":
            return torch.eye(d, dtype=torch.float64) / math.sqrt(d)
        if self.variant == "pseudo":
            return torch.full((1, d), 1 / math.sqrt(d), dtype=torch.float64)
        q = self.sketch or 8
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(0, 2, (q, d), generator=generator, dtype=torch.float64) * 2 - 1
        return signs / math.sqrt(q * d)


class KernelRows:
    """k(·, landmarks) with centring, cosine and rescaling, from raw gradient features.

    Args:
        settings: the kernel's settings.
        gradients: x ↦ gradient features.
        landmarks: the landmark samples (M, ...).
        ids: their ids, for messages.
    """

    def __init__(self, settings: NTK, gradients: GradientMap, landmarks: Tensor, ids: list[str] | None = None):
        self.settings, self.gradients, self.landmarks = settings, gradients, landmarks
        per_sample = max(1, gradients.features_per_sample(landmarks.shape[1:]))
        self.tile = max(1, TILE_NUMBERS // per_sample)
        tiles = range(0, len(landmarks), self.tile)
        # landmark features stay in memory when four tiles hold them all; else each pass recomputes them
        self._kept = [gradients(landmarks[i : i + self.tile]) for i in tiles] if len(tiles) <= 4 else None
        raw, diagonal = self._raw(landmarks, ids)
        self._mean = raw.mean(1)  # k̄(landmark), (M,)
        self._grand_mean = self._mean.mean()
        self._diagonal = self._centred_diagonal(diagonal, self._mean)
        if settings.cosine:
            dead = self._diagonal == 0
            if bool(dead.any()):
                raise LandmarkError(
                    f"{int(dead.sum())} of {len(landmarks)} landmarks have a zero kernel diagonal after centring: the "
                    "encoder gives all landmarks the same gradient (a constant or collapsed encoder, or duplicated "
                    "landmarks). The cosine kernel is not defined there."
                )
        self.scale = 1.0
        self.K_mm = self._finish(raw, self._mean, self._diagonal)
        if settings.rescale == "mean":
            self.scale = float(self.K_mm.diagonal().mean())
            self.K_mm = self.K_mm / self.scale
        self.K_mm = (self.K_mm + self.K_mm.T) / 2

    def __call__(self, batch: Tensor, ids: list[str] | None = None) -> tuple[Tensor, Tensor]:
        """Kernel rows (B, M) and diagonal (B,) of a batch, in float64.

        Raises:
            NonFiniteError: a gradient is not finite; names the samples.
        """
        raw, diagonal = self._raw(batch, ids)
        mean = raw.mean(1)
        diagonal = self._centred_diagonal(diagonal, mean)
        rows = self._finish(raw, mean, diagonal) / self.scale
        return rows, (torch.ones_like(diagonal) if self.settings.cosine else diagonal) / self.scale

    def _raw(self, batch: Tensor, ids: list[str] | None) -> tuple[Tensor, Tensor]:
        rows, diagonals = [], []
        for start in range(0, len(batch), self.tile):
            features = self.gradients(batch[start : start + self.tile])
            diagonals.append(features.square_norm())
            rows.append(torch.cat([features.inner(z) for z in self._landmark_tiles()], 1))
        raw, diagonal = torch.cat(rows), torch.cat(diagonals)
        refuse_non_finite(torch.isfinite(diagonal) & torch.isfinite(raw).all(1), ids)
        return raw, diagonal

    def _landmark_tiles(self):
        if self._kept is not None:
            yield from self._kept
            return
        for start in range(0, len(self.landmarks), self.tile):
            yield self.gradients(self.landmarks[start : start + self.tile])

    def _centred_diagonal(self, diagonal: Tensor, mean: Tensor) -> Tensor:
        if not self.settings.center:
            return diagonal
        return centred_diagonal(diagonal, mean, self._grand_mean, self.gradients.encoder.dtype)

    def _finish(self, raw: Tensor, mean: Tensor, diagonal: Tensor) -> Tensor:
        if self.settings.center:
            raw = raw - mean[:, None] - self._mean[None] + self._grand_mean
        if self.settings.cosine:
            # a sample at the landmarks' mean has no direction: its row is zero, not NaN
            norms = (diagonal[:, None] * self._diagonal[None]).sqrt()
            raw = torch.where(norms > 0, raw / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        return raw


@dataclass
class KernelColumns:
    """Kernel columns among a pool of candidates, for landmark search: diagonal and k(pool, chosen).

    Centring uses the mean over a seeded subset of the pool, since the landmarks are not known yet.
    """

    settings: NTK
    gradients: GradientMap
    pool: Tensor
    reference: Tensor
    ids: list[str] | None = None

    def __post_init__(self):
        per_sample = max(1, self.gradients.features_per_sample(self.pool.shape[1:]))
        self._tile = max(1, TILE_NUMBERS // per_sample)
        starts = range(0, len(self.pool), self._tile)
        self._kept = [self.gradients(self.pool[s : s + self._tile]) for s in starts] if len(starts) <= 4 else None
        diagonal = torch.cat([f.square_norm() for f in self._tiles()])
        refuse_non_finite(torch.isfinite(diagonal), self.ids)
        self._mean, self._grand_mean = torch.zeros_like(diagonal), diagonal.new_zeros(())
        if self.settings.center:
            self._mean = self._raw_columns(self.reference).mean(1)
            self._grand_mean = self._mean[self.reference].mean()
            diagonal = centred_diagonal(diagonal, self._mean, self._grand_mean, self.gradients.encoder.dtype)
        self._norm = diagonal.sqrt()
        self.diagonal = (self._norm > 0).double() if self.settings.cosine else diagonal

    def columns(self, chosen: Tensor) -> Tensor:
        """k(pool, chosen), (pool, |chosen|), float64."""
        raw = self._raw_columns(chosen)
        if self.settings.center:
            raw = raw - self._mean[:, None] - self._mean[chosen][None] + self._grand_mean
        if self.settings.cosine:
            norms = self._norm[:, None] * self._norm[chosen][None]
            raw = torch.where(norms > 0, raw / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        return raw

    def _tiles(self) -> "Iterator[GradientFeatures]":
        if self._kept is not None:
            yield from self._kept
            return
        for start in range(0, len(self.pool), self._tile):
            yield self.gradients(self.pool[start : start + self._tile])

    def _raw_columns(self, chosen: Tensor) -> Tensor:
        parts = []
        for c in chosen.split(self._tile):
            z = self.gradients(self.pool[c])
            parts.append(torch.cat([f.inner(z) for f in self._tiles()]))
        return torch.cat(parts, 1)


@dataclass
class LinearColumns:
    """The same columns for the linear kernel of flattened inputs (samplers with space="input")."""

    pool: Tensor

    def __post_init__(self):
        self._flat = self.pool.flatten(1).double()
        self.diagonal = self._flat.square().sum(1)

    def columns(self, chosen: Tensor) -> Tensor:
        """⟨pool, chosen⟩, (pool, |chosen|)."""
        return self._flat @ self._flat[chosen].T


def centred_diagonal(diagonal: Tensor, mean: Tensor, grand_mean: Tensor, dtype: torch.dtype) -> Tensor:
    """k(x,x) − 2k̄(x) + k̄, with zero for what is only the rounding of gradients in `dtype`."""
    centred = diagonal - 2 * mean + grand_mean
    return torch.where(centred > (1e-6 if dtype == torch.float32 else 1e-13) * diagonal, centred, 0.0)


def refuse_non_finite(good: Tensor, ids: list[str] | None) -> None:
    """Raise NonFiniteError naming the samples whose gradients are not finite."""
    if bool(good.all()):
        return
    where = (~good).nonzero().flatten().tolist()
    named = ", ".join(ids[i] if ids else str(i) for i in where[:5])
    raise NonFiniteError(
        f"gradients of {len(where)} of {len(good)} samples are not finite: {named}. Look at these samples and at the "
        "encoder's weights; dtype=torch.float64 helps against overflow."
    )


def gradient_map(settings: NTK, encoder: FrozenEncoder, probe: Tensor) -> GradientMap:
    """The gradient map of a checked encoder along the kernel's output directions."""
    encoder.check(probe)
    assert encoder.n_outputs is not None
    return GradientMap(encoder, settings.directions(encoder.n_outputs), probe)
