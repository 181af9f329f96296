"""The kernel's settings and its rows against the landmarks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import ConfigError, LandmarkError, NonFiniteError, refuse_wrong_types
from krepes.kernel.gradients import GradientFeatures, GradientMap
from krepes.kernel.projection import Projections
from krepes.workers import current

# Numbers in the gradient features of a tile, and of landmarks that are kept, where no memory plan says it (104 MiB and
# 1 GiB in float32). On a CPU, a tile 3 times as large was measured to take 1.25 times as long per sample, since its
# memory comes from the system anew each time, and one of a third 1.3 times, since products of few rows are slower.
TILE_NUMBERS = 26 * 2**20
KEEP_NUMBERS = 256 * 2**20
SEARCH_NUMBERS = 2**29  # of a pool's gradient features (2 GiB in float32); a search takes more of them folded
# numbers onto which it folds a sample's, at least: an entry's error is about 1/√FOLDED of the norms. Odd: widths of
# layers are even, and entries of one input would meet in few places
FOLDED = 8191
ROWS = 512  # samples per tile at most: larger ones leave the caches without saving work
SPREAD = 8  # directions of whose kernels a sketch's error is told, at least
PROBE = 64  # landmarks among which a projection's or a lower precision's error is measured
PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class NTK:
    """The empirical neural tangent kernel, k(x, x') = Σ_p ⟨∇θ⟨w_p, f(x)⟩, ∇θ⟨w_p, f(x')⟩⟩.

    Args:
        variant: `trace`: (1/d) tr J(x)J(x')ᵀ, w_p = e_p/√d; `pseudo`: s = (1/√d) Σ_c f_c, one direction;
            `sketch`: the trace estimated without bias with `sketch` random ±1 output directions.
        params: the parameters of the kernel: None for all, names or `fnmatch` patterns, "last_block" (from the
            network's last block to its output) or "head" (its last layer).
        center: gradient features minus their mean over the landmarks.
        cosine: k/√(k(x,x)k(x',x')), after centring if both.
        rescale: None, or "mean": divided by the mean landmark diagonal.
        sketch: number of directions of `sketch` (default 8 there).
        project: numbers that one parameter's gradient may take per direction; a larger one is randomly projected,
            from both sides so that it is never formed, where that is cheaper than the exact product. None: exact.
        contractions: False sends every parameter through `torch.func`, slower and exact for any module.
        seed: of the random directions and projections.

    Source: the paper, §2; the variants and projections are described in docs/method.md.
    """

    variant: str = "trace"
    params: str | tuple[str, ...] | None = None
    center: bool = True
    cosine: bool = True
    rescale: str | None = None
    sketch: int | None = None
    project: int | None = None
    contractions: bool = True
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.params, list):  # from a configuration file
            object.__setattr__(self, "params", tuple(self.params))
        refuse_wrong_types(self, ("sketch", "project", "seed"), ("center", "cosine", "contractions"))
        if self.variant not in ("trace", "pseudo", "sketch"):
            raise ConfigError(f"kernel {self.variant!r} is unknown; expected trace, pseudo or sketch")
        if self.rescale not in (None, "mean"):
            raise ConfigError(f"rescale={self.rescale!r} is unknown; expected None or 'mean'")
        if self.sketch is not None and (self.variant != "sketch" or self.sketch < 1):
            raise ConfigError(
                f"sketch={self.sketch} with kernel {self.variant!r}; expected a positive number with kernel 'sketch'"
            )
        if self.project is not None and self.project < 16:
            raise ConfigError(f"project={self.project}; expected at least 16 numbers per parameter, or None")

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
        landmarks: what stands for the landmarks (M, ...): their samples, or views of them.
        ids: their ids, for messages.
        tile: samples per tile; default by `TILE_NUMBERS`.
        keep: whether the landmarks' features stay in memory; default when they fit in 1 GiB. Otherwise
            every tile of samples computes them anew.
        precision: of the products with the landmarks: float32 (the encoder's own type); tf32, where the device has
            it; or bfloat16, for which explicit gradients are centred and rounded, and factored ones multiplied in
            bfloat16 where the device is fast at it. K_mm is computed in float32 from the same features.
    """

    def __init__(
        self,
        settings: NTK,
        gradients: GradientMap,
        landmarks: Tensor,
        ids: Sequence[str] | None = None,
        tile: int | None = None,
        keep: bool | None = None,
        precision: str = "float32",
    ):
        check_precision(precision, gradients.encoder)
        self.settings, self.gradients, self.landmarks = settings, gradients, landmarks
        self.precision = precision
        numbers = max(1, gradients.features_per_sample())
        self.tile = tile or max(1, min(ROWS, TILE_NUMBERS // numbers))
        keep = keep if keep is not None else len(landmarks) * numbers <= KEEP_NUMBERS
        self._shift: list[Tensor] | None = None
        self._type = torch.bfloat16 if precision == "bfloat16" else gradients.encoder.dtype
        if precision == "bfloat16" and settings.center:
            self._shift = self._mean_blocks()
        # in one piece: a product with all of them was measured to cost 0.75 of one with each tile
        self._kept = GradientFeatures.collected(self._computed_tiles(), len(landmarks)) if keep else None
        raw, diagonal = self._raw(landmarks, ids, torch.float64, exact=True)
        refuse_non_finite(torch.isfinite(diagonal) & torch.isfinite(raw).all(1), ids)
        self._mean = raw.mean(1)  # k̄(landmark), (M,)
        self._grand_mean = self._mean.mean()
        self._diagonal = self._centred_diagonal(diagonal, self._mean)
        # how much smaller the centred kernel is than the one that was rounded
        self.amplification = max(1.0, float(diagonal.mean() / self._diagonal.mean().clamp_min(1e-300)))
        if settings.cosine:
            dead = self._diagonal == 0
            if bool(dead.any()):
                raise LandmarkError(
                    f"{int(dead.sum())} of {len(landmarks)} landmarks have a zero kernel diagonal after centring: the "
                    "encoder gives all landmarks the same gradient (a constant or collapsed encoder, duplicated "
                    "landmarks, or, where views stand for them, views that are all alike). The cosine kernel is not "
                    "defined there. If the samples differ by less than rounding shows (1e-6 of the diagonal in "
                    "float32), dtype=torch.float64 tells them apart."
                )
        self.scale = 1.0
        self.K_mm = self._finish(raw.clone(), self._mean, self._diagonal)
        mean = float(self.K_mm.diagonal().mean())
        if settings.rescale == "mean" and mean > 0:  # else all landmarks are alike, which their rank tells
            self.scale = mean
            self.K_mm = self.K_mm / self.scale
        self.K_mm = (self.K_mm + self.K_mm.T) / 2

    def __call__(self, batch: Tensor, ids: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Kernel rows (B, M) in the encoder's type and diagonal (B,) in float64, of a batch.

        Raises:
            NonFiniteError: a gradient is not finite; names the samples.
        """
        raw, diagonal = self._raw(batch, ids, self.gradients.encoder.dtype)
        mean = raw.sum(1, dtype=torch.float64) / raw.shape[1]
        # a row that holds NaN or infinity has a sum that is not finite
        refuse_non_finite(torch.isfinite(diagonal + mean), ids)
        diagonal = self._centred_diagonal(diagonal, mean)
        rows = self._finish(raw, mean, diagonal)
        rows = rows if self.scale == 1 else rows.div_(self.scale)
        return rows, (torch.ones_like(diagonal) if self.settings.cosine else diagonal) / self.scale

    def _raw(
        self, batch: Tensor, ids: Sequence[str] | None, dtype: torch.dtype, exact: bool = False
    ) -> tuple[Tensor, Tensor]:
        device = self.gradients.encoder.device
        raw = torch.empty(len(batch), len(self.landmarks), dtype=dtype, device=device)
        diagonal = torch.empty(len(batch), dtype=torch.float64, device=device)
        with products_in("float32" if exact else self.precision):
            for start in range(0, len(batch), self.tile):
                part = slice(start, start + self.tile)
                features = self._lowered(self.gradients(batch[part]))
                diagonal[part] = features.square_norm()
                column = 0
                for z in self._landmark_features(exact):
                    # a Gram matrix of rounded features is still positive semidefinite, one of rounded products is not
                    pair = (features.restored(), z.restored()) if exact else (features, z)
                    pair[0].inner(pair[1], raw[part, column : column + len(z)])
                    column += len(z)
        return raw, diagonal

    def _landmark_features(self, in_tiles: bool) -> Iterator[GradientFeatures]:
        if self._kept is None:
            yield from self._computed_tiles()
        elif in_tiles:
            for start in range(0, len(self.landmarks), self.tile):
                yield self._kept[start : start + self.tile]
        else:
            yield self._kept

    def _computed_tiles(self) -> Iterator[GradientFeatures]:
        return map(self._lowered, self._gradient_tiles())

    def _gradient_tiles(self) -> Iterator[GradientFeatures]:
        for start in range(0, len(self.landmarks), self.tile):
            yield self.gradients(self.landmarks[start : start + self.tile])

    def _lowered(self, features: GradientFeatures) -> GradientFeatures:
        """Explicit gradients in the products' type, centred before bfloat16, so that the mean costs no digits."""
        if self._type == self.gradients.encoder.dtype:
            return features
        return features.lowered(self._shift, self._type)

    def _mean_blocks(self) -> list[Tensor]:
        total: list[Tensor] = []
        for f in self._gradient_tiles():
            sums = [e.sum(0) for e in f.explicit]
            total = sums if not total else [t + s for t, s in zip(total, sums, strict=True)]
        return [t / len(self.landmarks) for t in total]

    def _centred_diagonal(self, diagonal: Tensor, mean: Tensor) -> Tensor:
        if not self.settings.center:
            return diagonal
        return centred_diagonal(diagonal, mean, self._grand_mean, self.gradients.encoder.dtype)

    def _finish(self, raw: Tensor, mean: Tensor, diagonal: Tensor) -> Tensor:
        """Centre and normalise raw rows, in place."""
        if self.settings.center:
            raw.sub_((mean - self._grand_mean).to(raw.dtype)[:, None]).sub_(self._mean.to(raw.dtype))
        if self.settings.cosine:
            raw.mul_(inverse_root(diagonal).to(raw.dtype)[:, None]).mul_(inverse_root(self._diagonal).to(raw.dtype))
        return raw


def inverse_root(diagonal: Tensor) -> Tensor:
    """k(x,x)^{-1/2}; zero for a sample at the landmarks' mean, which has no direction: its row is zero, not NaN."""
    return torch.where(diagonal > 0, diagonal.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0.0)


@dataclass
class KernelColumns:
    """Kernel columns among a pool of candidates, for landmark search: diagonal and k(pool, chosen).

    Centring uses the mean over a seeded subset of the pool, since the landmarks are not known yet. Explicit gradients
    of a pool that has more than `SEARCH_NUMBERS` are folded onto few numbers with random signs, which keeps distances
    without bias; where these fit, one pass over the pool is enough.

    Attributes:
        limit: bytes up to which the pool's gradient features are kept; beyond, they are computed whenever needed.
        tile: samples whose gradients are formed together; default by `TILE_NUMBERS`.
    """

    settings: NTK
    gradients: GradientMap
    pool: Tensor
    reference: Tensor
    ids: Sequence[str] | None = None
    limit: int = 4 * KEEP_NUMBERS
    tile: int | None = None

    def __post_init__(self):
        per_sample, workers = max(1, self.gradients.features_per_sample()), current()
        self._tile = self.tile or max(1, min(ROWS, TILE_NUMBERS // per_sample))
        # of the pool alone: the same for any number of workers and any memory
        self._onto = max(FOLDED, len(self.pool) // 5 | 1) if per_sample * len(self.pool) > SEARCH_NUMBERS else None
        encoder = self.gradients.encoder
        self._projections = Projections(self.settings.seed, encoder.device, encoder.dtype)
        bounds = [len(self.pool) * k // workers.size for k in (workers.rank, workers.rank + 1)]
        self._own = slice(*bounds)  # the rows of the pool that this worker computes
        held = bounds[1] - bounds[0]
        if self._onto is not None:
            per_sample = self._features(self.pool[:1]).numbers()
        keep = per_sample * held * encoder.dtype.itemsize <= self.limit and held > 0
        self._kept = GradientFeatures.collected(self._computed_tiles(), held) if keep else None
        diagonal = self._whole([f.square_norm() for f in self._tiles()], len(self.pool))
        refuse_non_finite(torch.isfinite(diagonal), self.ids)
        # of an entry k(x, x'), about eps·√(k(x,x)k(x',x')) before centring
        self.rounding = torch.finfo(self.gradients.encoder.dtype).eps * diagonal
        self._mean, self._grand_mean = torch.zeros_like(diagonal), diagonal.new_zeros(())
        if self.settings.center:
            self._mean = self._raw_columns(self.reference).mean(1)
            self._grand_mean = self._mean[self.reference].mean()
            diagonal = centred_diagonal(diagonal, self._mean, self._grand_mean, self.gradients.encoder.dtype)
        self._inverse = inverse_root(diagonal)
        if self.settings.cosine:
            self.rounding = self.rounding * self._inverse.square()
        self.diagonal = (diagonal > 0).double() if self.settings.cosine else diagonal

    def columns(self, chosen: Tensor) -> Tensor:
        """k(pool, chosen), (pool, |chosen|), float64."""
        raw = self._raw_columns(chosen)
        if self.settings.center:
            raw = raw - self._mean[:, None] - self._mean[chosen][None] + self._grand_mean
        if self.settings.cosine:
            raw = raw * self._inverse[:, None] * self._inverse[chosen]
        return raw

    def _tiles(self) -> Iterator[GradientFeatures]:
        return self._computed_tiles() if self._kept is None else iter([self._kept])

    def _computed_tiles(self) -> Iterator[GradientFeatures]:
        for start in range(self._own.start, self._own.stop, self._tile):
            yield self._features(self.pool[start : min(start + self._tile, self._own.stop)])

    def _features(self, samples: Tensor) -> GradientFeatures:
        found, k = self.gradients(samples), self._onto
        if k is None or sum(e.shape[1] for e in found.explicit) <= k:
            return found
        folded = [self._projections.folded(f"search:{i}", e, k) for i, e in enumerate(found.explicit)]
        return GradientFeatures(found.factored, [torch.stack(folded).sum(0)])

    def _raw_columns(self, chosen: Tensor) -> Tensor:
        parts = []
        for c in chosen.split(self._tile):
            z = self._features(self.pool[c])
            parts.append(self._whole([f.inner(z) for f in self._tiles()], len(self.pool), len(c)))
        return torch.cat(parts, 1)

    def _whole(self, tiles: list[Tensor], *shape: int) -> Tensor:
        """The pool's rows from those of each worker."""
        if current().size == 1:
            return torch.cat(tiles)
        found = torch.zeros(shape, dtype=torch.float64, device=self.gradients.encoder.device)
        if tiles:
            found[self._own] = torch.cat(tiles).double()
        current().add(found)
        return found


@dataclass
class LinearColumns:
    """The same columns for the linear kernel of flattened inputs (samplers with space="input")."""

    pool: Tensor

    def __post_init__(self):
        self._flat = self.pool.flatten(1).double()
        self.diagonal = self._flat.square().sum(1)
        self.rounding = torch.finfo(torch.float64).eps * self.diagonal

    def columns(self, chosen: Tensor) -> Tensor:
        """⟨pool, chosen⟩, (pool, |chosen|)."""
        return self._flat @ self._flat[chosen].T


def centred_diagonal(diagonal: Tensor, mean: Tensor, grand_mean: Tensor, dtype: torch.dtype) -> Tensor:
    """k(x,x) − 2k̄(x) + k̄, with zero for what is only the rounding of gradients in `dtype`."""
    centred = diagonal - 2 * mean + grand_mean
    return torch.where(centred > (1e-6 if dtype == torch.float32 else 1e-13) * diagonal, centred, 0.0)


def refuse_non_finite(good: Tensor, ids: Sequence[str] | None, what: str = "gradients") -> None:
    """Raise NonFiniteError naming the samples whose gradients are not finite."""
    if bool(good.all()):
        return
    where = (~good).nonzero().flatten().tolist()
    named = ", ".join(str(ids[i]) if ids else str(i) for i in where[:5])
    raise NonFiniteError(
        f"{what} of {len(where)} of {len(good)} samples are not finite: {named}. Look at these samples and at the "
        "encoder's weights; dtype=torch.float64 helps against overflow."
    )


def gradient_map(settings: NTK, encoder: FrozenEncoder, probe: Tensor) -> GradientMap:
    """The gradient map of a checked encoder along the kernel's output directions."""
    encoder.check(probe)
    assert encoder.n_outputs is not None
    directions = settings.directions(encoder.n_outputs)
    return GradientMap(encoder, directions, probe, settings.project, settings.seed, settings.contractions)


def check_precision(precision: str, encoder: FrozenEncoder) -> None:
    """Raise ConfigError for a precision that is unknown or does not apply."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown; expected one of {', '.join(PRECISIONS)}")
    if precision != "float32" and encoder.dtype != torch.float32:
        raise ConfigError(f"precision={precision!r} needs dtype=torch.float32; the encoder computes in {encoder.dtype}")


@contextmanager
def products_in(precision: str):
    """Inside, float32 matrix products may use TensorFloat-32 or bfloat16 inputs where the device is fast at them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision({"float32": "highest", "tf32": "high", "bfloat16": "medium"}[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class KernelError:
    """Relative Frobenius error of the raw kernel, and of the kernel after double centring, on `samples` landmarks.

    Of projection and lower precision against the kernel without them; of a sketch by the spread of its directions'
    kernels, since the trace itself would need d of them.
    """

    raw: float
    centred: float
    samples: int


def kernel_error(rows: KernelRows) -> KernelError | None:
    """The error of a sketched, projected or lower-precision kernel among the first landmarks; None if it has none."""
    few = rows.landmarks[:PROBE]
    found = [e for e in (sketch_error(rows, few), rounding_error(rows, few, None)) if e is not None]
    if not found:
        return None
    return KernelError(math.hypot(*(e.raw for e in found)), math.hypot(*(e.centred for e in found)), len(few))


def sketch_error(rows: KernelRows, few: Tensor) -> KernelError | None:
    """Standard error of the mean over the sketch's directions, relative to that mean."""
    settings, encoder = rows.settings, rows.gradients.encoder
    if settings.variant != "sketch":
        return None
    q = len(rows.gradients.directions)
    assert encoder.n_outputs is not None
    directions = replace(settings, sketch=max(q, SPREAD), seed=settings.seed).directions(encoder.n_outputs)
    directions = directions / directions.norm(dim=1, keepdim=True)
    plain = replace(settings, variant="pseudo", sketch=None, center=False, cosine=False, rescale=None, project=None)
    kernels = []
    for w in directions:
        one = GradientMap(encoder, w[None], few[:3], None, plain.seed, plain.contractions)
        kernels.append(KernelRows(plain, one, few, tile=rows.tile).K_mm)
    each = torch.stack(kernels)

    def spread(K: Tensor) -> float:
        mean = K.mean(0)
        return math.sqrt(float((K - mean).square().sum()) / (len(K) - 1) / q) / max(float(mean.norm()), 1e-300)

    return KernelError(spread(each), spread(torch.stack([double_centred(K) for K in each])), len(few))


def rounding_error(rows: KernelRows, few: Tensor, project: int | None) -> KernelError | None:
    """Of projection and precision, against the same output directions without them (or with that projection)."""
    gradients = rows.gradients
    if gradients.project is None and rows.precision == "float32":
        return None
    plain = replace(rows.settings, center=False, cosine=False, rescale=None, project=None)
    exact = GradientMap(gradients.encoder, gradients.directions, few[:3], project, plain.seed, plain.contractions)
    reference = KernelRows(replace(plain, project=project), exact, few, tile=rows.tile).K_mm

    def found(center: bool) -> Tensor:
        """Rows as they are used, against the same samples as landmarks."""
        low = replace(plain, project=gradients.project, center=center)
        return KernelRows(low, gradients, few, tile=rows.tile, precision=rows.precision)(few)[0].double()

    raw = relative_error(found(False), reference)
    # centred features only differ by a constant from those that are used; double centring removes it
    centred = relative_error(double_centred(found(rows.settings.center)), double_centred(reference))
    return KernelError(raw, centred, len(few))


def double_centred(K: Tensor) -> Tensor:
    """K with rows and columns of mean zero."""
    return K - K.mean(0) - K.mean(1, keepdim=True) + K.mean()


def relative_error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖ in the Frobenius norm."""
    return float((found - exact).norm() / exact.norm().clamp_min(1e-300))
