"""Per-sample gradients of one parameter from what its calls saw: the input a and the gradient g at the output.

For a linear map at positions t the gradient is G = Σ_t g_t a_tᵀ, so that ⟨G, G'⟩ = Σ_tt' (a_t·a'_t')(g_t·g'_t').
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight

# entries of one intermediate of a factored product over several positions (64 MiB in float32)
PAIRS = 16 * 2**20
IMAGES = 16  # images whose weight gradients are formed at a time: they and the gradients stay in the caches


@dataclass(frozen=True)
class Layout:
    """Where the samples are in a tensor.

    Attributes:
        dim: the dimension that grows with the batch.
        k: its entries per sample; above 1 when other dimensions were flattened into it.
        fastest: whether the samples vary fastest inside it ("T·B" rather than "B·T").
    """

    dim: int
    k: int
    fastest: bool = False

    @classmethod
    def of(cls, two: torch.Size, three: torch.Size) -> "Layout | None":
        """From a tensor's shapes in batches of two and of three samples; None where that is not clear."""
        differing = [i for i, (x, y) in enumerate(zip(two, three, strict=False)) if x != y]
        if len(two) != len(three) or len(differing) != 1:
            return None
        i = differing[0]
        return cls(i, two[i] // 2) if two[i] * 3 == three[i] * 2 else None

    def per_sample(self, t: Tensor, samples: int) -> Tensor:
        """(B, *shape of one sample), the dimension keeping its place with k entries."""
        t = t.movedim(self.dim, 0)
        split = t.unflatten(0, (self.k, samples)).transpose(0, 1) if self.fastest else t.unflatten(0, (samples, self.k))
        return split.movedim(1, self.dim + 1)


@dataclass(frozen=True)
class Term:
    """What one call adds to the gradient of a tracked tensor.

    Attributes:
        call: the call's index on the tape.
        kind: linear, matmul, conv, embedding (outer products), scale (g∘a) or sum (g alone).
        key, shape: the tracked tensor.
        a, g: layouts of operand and output; None for a where it is not needed.
        constant: the call's output is the encoder's, so that g is the output direction for every sample.
        positions: T per sample, for outer products.
        options: of the call.
    """

    call: int
    kind: str
    key: str
    shape: torch.Size
    a: Layout | None
    g: Layout
    constant: bool = False
    positions: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        return self.shape.numel()

    @property
    def outer(self) -> bool:
        """Whether the gradient is a sum of outer products over positions."""
        return self.kind in ("linear", "matmul", "embedding") or (
            self.kind == "conv" and self.options.get("groups", 1) == 1
        )

    @property
    def sides(self) -> tuple[int, int]:
        """(n_out, n_in) of the outer products."""
        if self.kind in ("matmul", "embedding"):
            return self.shape[1], self.shape[0]
        return self.shape[0], self.numel // self.shape[0]


def output_gradient(term: Term, g: Sequence[Tensor], samples: int) -> Tensor:
    """The gradients of q directions as (B, q, *shape of one sample); (1, q, …) where they are constant."""
    if term.constant:
        return torch.stack(list(g))[None, :, None]
    parts = [term.g.per_sample(x, samples) for x in g]
    return parts[0].unsqueeze(1) if len(parts) == 1 else torch.stack(parts, 1)


def operands(term: Term, a: Tensor, g: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """The outer products' two sides.

    Returns:
        a (B, T, n_in), or token ids (B, T) of an embedding, and g (B or 1, q, T, n_out).
    """
    assert term.a is not None
    a = term.a.per_sample(a, samples)
    if term.kind == "conv":
        images, k = a.movedim(term.a.dim + 1, 1).flatten(0, 1), term.a.k
        patches = unfold(images, term.options).unflatten(0, (samples, k))  # (B, k, C·kernel, L)
        g = g.movedim(term.g.dim + 2, 2).flatten(4)  # (B, q, k, C_out, L)
        return patches.transpose(2, 3).flatten(1, 2), g.transpose(3, 4).flatten(2, 3)
    g = g.flatten(2, -2)
    if term.kind != "embedding":
        return a.flatten(1, -2), g
    ids = a.flatten(1)
    padding = term.options["padding"]
    return ids, g if padding is None else g * (ids != padding)[:, None, :, None]


def explicit(term: Term, a: Tensor | None, g: Tensor, samples: int) -> Tensor:
    """The per-sample gradient (B, q, numel).

    Args:
        a: the call's operand as recorded.
        g: (B or 1, q, *shape of one sample), from `output_gradient`.
    """
    if term.kind in ("scale", "sum"):
        if term.kind == "scale":
            assert a is not None
            assert term.a is not None
            a = term.a.per_sample(a, samples)
            # an operand of fewer dimensions is aligned to the right, like any broadcast
            g = g * a.reshape(samples, 1, *[1] * (g.ndim - 1 - a.ndim), *a.shape[1:])
        total = reduce_to(g, term.shape, term.options.get("channel"))
        return total.expand(samples, -1, -1)
    assert a is not None
    if term.kind == "conv" and (a.device.type == "cpu" or not term.outer):
        return convolution(term, a, g, samples)
    a, g = operands(term, a, g, samples)
    if term.kind == "embedding":
        return scatter_tokens(term, a, g, samples)
    left, right = (a, g) if term.kind == "matmul" else (g, a)
    if term.kind == "matmul":
        return (left.transpose(1, 2).unsqueeze(1) @ right).flatten(2)  # (B, q, in, out)
    return (left.transpose(2, 3) @ right.unsqueeze(1)).flatten(2)  # (B, q, out, in)


def unfold(images: Tensor, options: dict[str, Any]) -> Tensor:
    """The patches of a convolution: (N, C·kernel, L) of images (N, C, *spatial)."""
    kernel, stride, padding, dilation = geometry(options)
    if options["dims"] == 1:
        images, kernel, stride = images.unsqueeze(2), (1, *kernel), (1, *stride)
        padding, dilation = ((0, 0), *padding), (1, *dilation)
    if any(low != high for low, high in padding):
        images = F.pad(images, [*padding[1], *padding[0]])
        padding = ((0, 0), (0, 0))
    if all(n == 1 for n in (*kernel, *stride)) and padding == ((0, 0), (0, 0)):
        return images.flatten(2)
    return F.unfold(images, kernel, dilation, tuple(low for low, _ in padding), stride)


def geometry(options: dict[str, Any]) -> tuple[tuple, tuple, tuple, tuple]:
    """kernel, stride, padding ((low, high) per dimension) and dilation of a convolution."""
    dims, kernel = options["dims"], options["kernel"]
    stride, dilation = (spread(options.get(name, 1), dims) for name in ("stride", "dilation"))
    padding = options.get("padding", 0)
    if padding == "same":  # the odd cell is added at the end, as torch does
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return kernel, stride, tuple((t // 2, t - t // 2) for t in totals), dilation
    return kernel, stride, tuple((p, p) for p in spread(0 if padding == "valid" else padding, dims)), dilation


def spread(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number per dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def convolution(term: Term, a: Tensor, g: Tensor, samples: int) -> Tensor:
    """The gradient (B, q, numel) of a convolution's weight, every image being a group of one large convolution.

    On a CPU this is three to six times faster than unfolded patches, which are written to memory first.
    """
    assert term.a is not None
    options, dims = term.options, term.options["dims"]
    _, stride, padding, dilation = geometry(options)
    images, k = term.a.per_sample(a, samples).movedim(term.a.dim + 1, 1).flatten(0, 1), term.a.k
    if any(low != high for low, high in padding):
        images = F.pad(images, [n for pair in reversed(padding) for n in pair])
        padding = tuple((0, 0) for _ in padding)
    g = g.expand(samples, *g.shape[1:]).movedim(term.g.dim + 2, 2)  # (B, q, k, C_out, *out)
    weight_gradient: Callable[..., Tensor] = conv1d_weight if dims == 1 else conv2d_weight
    pads, groups = tuple(low for low, _ in padding), options.get("groups", 1)

    def part(x: Tensor, y: Tensor) -> Tensor:
        """One direction's gradients (N, numel) of N images (N, C, *spatial)."""
        N = len(x)
        size = (N * term.shape[0], *term.shape[1:])
        out = weight_gradient(
            x.reshape(1, -1, *x.shape[2:]), size, y.reshape(1, -1, *y.shape[2:]), stride, pads, dilation, N * groups
        )
        return out.view(N, -1)

    out = g.new_empty(samples, g.shape[1], term.numel)
    for start in range(0, samples, IMAGES):
        block = slice(start, start + IMAGES)
        x = images.unflatten(0, (samples, k))[block].flatten(0, 1)
        for p in range(g.shape[1]):
            gradient = part(x, g[block, p].flatten(0, 1))
            out[block, p] = gradient if k == 1 else gradient.unflatten(0, (-1, k)).sum(1)
    return out


def scatter_tokens(term: Term, ids: Tensor, g: Tensor, samples: int) -> Tensor:
    """The gradient (B, q, rows·width) of an embedding's table."""
    q, width = g.shape[1], g.shape[3]
    out = g.new_zeros(samples, q, term.options["rows"], width)
    index = ids[:, None, :, None].expand(samples, q, -1, width)
    return out.scatter_add_(2, index, g.expand(samples, -1, -1, -1)).flatten(2)


def reduce_to(g: Tensor, shape: torch.Size, channel: bool | None) -> Tensor:
    """g (B, q, *sample) summed to a parameter that was broadcast over it: (B, q, numel).

    Args:
        channel: the parameter lies along the dimension after the batch (convolution, group and batch
            normalisation); else it is aligned to the right.
    """
    if channel:
        return g.flatten(4).sum((2, 4)) if g.ndim > 4 else g.sum(2)
    lead = g.ndim - 2 - len(shape)
    if lead > 0:
        g = g.sum(tuple(range(2, 2 + lead)))
    ones = [i + 2 for i, n in enumerate(shape) if n == 1 and g.shape[i + 2] != 1]
    if ones:
        g = g.sum(ones, keepdim=True)
    return g.flatten(2) if g.ndim > 2 else g.unsqueeze(2)


# --------------------------------------------------------------------- features


@dataclass(frozen=True)
class Factored:
    """Both sides of the outer products of B samples.

    Attributes:
        a: (B, T, n_in), or token ids (B, T).
        g: (B, q, T, n_out); (1, …) where it is constant; (B, 1, 1, n_out) along an axis.
        constant: g is the same for all samples.
        axis: (q, n_out) of unit columns v_j when g_pj = g_j v_pj, the same for all samples. So it is before an
            elementwise function and a last linear layer, and Σ_p g_p·g'_p is then a product over n_out entries instead
            of q·n_out.
    """

    a: Tensor
    g: Tensor
    constant: bool = False
    axis: Tensor | None = None

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, index) -> "Factored":
        return Factored(self.a[index], self.g if self.constant else self.g[index], self.constant, self.axis)

    def whole(self) -> "Factored":
        """With g written out."""
        if self.axis is None:
            return self
        return Factored(self.a, self.g * self.axis[None, :, None])

    def inner(self, other: "Factored") -> Tensor:
        """Σ_p Σ_tt' (a_t·a'_t')(g_pt·g'_pt'), (B, B'), in the features' type."""
        if (self.axis is None) != (other.axis is None):
            return self.whole().inner(other.whole())
        T, S = self.a.shape[1], other.a.shape[1]
        if T == S == 1 and self.a.ndim == 3:
            return (self.a[:, 0] @ other.a[:, 0].T).mul_(self.g.flatten(1) @ other.g.flatten(1).T)
        step = max(1, PAIRS // max(1, len(self) * T * S))
        return torch.cat([self._pairs(other[i : i + step]) for i in range(0, len(other), step)], 1)

    def _pairs(self, other: "Factored") -> Tensor:
        shape = (len(self), self.a.shape[1], len(other), other.a.shape[1])
        total = self.g.new_zeros(shape[0] * shape[1], shape[2] * shape[3])
        for x, y in zip(self._full().unbind(1), other._full().unbind(1), strict=True):
            total.addmm_(x.flatten(0, 1), y.flatten(0, 1).T)
        if self.a.ndim == 2:
            same = self.a.flatten()[:, None] == other.a.flatten()[None]
        else:
            same = self.a.flatten(0, 1) @ other.a.flatten(0, 1).T
        return total.mul_(same).view(shape).sum((1, 3))

    def _full(self) -> Tensor:
        return self.g.expand(len(self), -1, -1, -1)

    def square_norm(self) -> Tensor:
        """‖G‖² per sample (B,), in float64."""
        if self.a.ndim == 3 and self.a.shape[1] == 1:
            return square_norms(self.a.flatten(1)) * square_norms(self.g.flatten(1))
        g = self._full().double()
        pairs = (g @ g.transpose(2, 3)).sum(1)  # (B, T, T)
        if self.a.ndim == 2:
            return (pairs * (self.a[:, :, None] == self.a[:, None])).sum((1, 2))
        a = self.a.double()
        return (pairs * (a @ a.transpose(1, 2))).sum((1, 2))

    def blank(self, rows: int) -> "Factored":
        """Room for the same factors of `rows` samples."""
        g = self.g if self.constant else self.g.new_empty(rows, *self.g.shape[1:])
        return Factored(self.a.new_empty(rows, *self.a.shape[1:]), g, self.constant, self.axis)

    def fill(self, other: "Factored") -> None:
        """Take over another's numbers."""
        self.a.copy_(other.a)
        if not self.constant:
            self.g.copy_(other.g)


def with_bias(a: Tensor) -> Tensor:
    """Inputs (B, T, n) with the bias' constant one beside them."""
    return torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2)


def square_norms(x: Tensor, columns: int = 4096) -> Tensor:
    """Rows' squared lengths (B,): stretches of columns in float32 or the rows' own type, their sum in float64."""
    dtype = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else None
    whole = x.shape[1] - x.shape[1] % columns
    parts = [x[:, :whole].unflatten(1, (-1, columns))] if whole else []
    parts += [x[:, None, whole:]] if whole < x.shape[1] else []
    return torch.stack([torch.linalg.vector_norm(p, dim=2, dtype=dtype).double().square().sum(1) for p in parts]).sum(0)


def positions_of(kind: str, g_shape: torch.Size, layout: Layout, options: dict[str, Any]) -> int:
    """T of a call's outer products, from the output's shape."""
    shape = list(g_shape)
    shape[layout.dim] = layout.k
    if kind == "conv":
        return layout.k * math.prod(shape[2:])
    return math.prod(shape[:-1])
