"""Per-sample gradients of an encoder, kept factored wherever that is cheaper.

For an output direction w the gradient feature of a sample is g(x) = ∇θ ⟨w, f(x)⟩; q directions give q of them. One
forward pass and q backward passes over a batch give every layer's input and output gradient, from which the planned
pieces are contracted; parameters that no call shows go through `torch.func`, one sample at a time.
"""

import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from krepes.encoders.frozen import FrozenEncoder
from krepes.encoders.selection import parameter
from krepes.errors import EncoderError, warn
from krepes.kernel import plan, tape
from krepes.kernel.contractions import Factored, operands, output_gradient, square_norms, with_bias
from krepes.kernel.projection import Projections, weight_alone

# Columns of an explicit gradient that one float32 product sums; blocks are added in float64. One float32
# product over 41 million terms loses three digits, blocks of this size keep 1e-7 (docs/method.md).
SUM_BLOCK = 65_536

_FILTERS = threading.RLock()  # warnings' filters are the process's: two threads that change them undo each other's


@dataclass(frozen=True)
class GradientFeatures:
    """Gradient features of B samples: factored pairs and explicit blocks.

    Attributes:
        factored: outer products kept as their two sides.
        explicit: gradients (B, columns), several small parameters in one block.
    """

    factored: list[Factored]
    explicit: list[Tensor]

    def __len__(self) -> int:
        return len(self.factored[0] if self.factored else self.explicit[0])

    def numbers(self) -> int:
        """Numbers that are held, of all samples together."""
        return sum(t.numel() for f in self.factored for t in (f.a, f.g)) + sum(e.numel() for e in self.explicit)

    def inner(self, other: "GradientFeatures", out: Tensor | None = None) -> Tensor:
        """All inner products (B, B'); into `out` if it is given.

        Explicit blocks are summed in float64, factored layers, a few dozen at most, in their own type.
        """
        out = torch.empty(len(self), len(other), dtype=torch.float64, device=self._any().device) if out is None else out
        products = None
        for a, b in zip(self.factored, other.factored, strict=True):
            products = a.inner(b) if products is None else products.add_(a.inner(b))
        if products is None:
            out.zero_()
        else:
            out.copy_(products)
        if self.explicit:
            total = out if out.dtype == torch.float64 else out.double()
            for e, o in zip(self.explicit, other.explicit, strict=True):
                add_product(total, e, o)
            out.copy_(total)
        return out

    def square_norm(self) -> Tensor:
        """‖g(x)‖² per sample (B,), the kernel's diagonal, in float64."""
        total = torch.zeros(len(self), dtype=torch.float64, device=self._any().device)
        for f in self.factored:
            total += f.square_norm()
        for e in self.explicit:
            total += square_norms(e)
        return total

    def lowered(self, shift: list[Tensor] | None, dtype: torch.dtype) -> "GradientFeatures":
        """Explicit blocks minus a shift, in another floating type; factored pairs as they are."""
        moved = self.explicit if shift is None else [e - s for e, s in zip(self.explicit, shift, strict=True)]
        return GradientFeatures(self.factored, [e.to(dtype) for e in moved])

    def restored(self) -> "GradientFeatures":
        """Explicit blocks that were rounded to a lower type, in float32."""
        return GradientFeatures(self.factored, [e if e.dtype == torch.float64 else e.float() for e in self.explicit])

    def __getitem__(self, index) -> "GradientFeatures":
        return GradientFeatures([f[index] for f in self.factored], [e[index] for e in self.explicit])

    @staticmethod
    def collected(parts: Iterable["GradientFeatures"], rows: int) -> "GradientFeatures":
        """The features of several batches, `rows` samples in all, as one, without holding them twice."""
        whole, start = None, 0
        for part in parts:
            if whole is None:
                blocks = [e.new_empty(rows, e.shape[1]) for e in part.explicit]
                whole = GradientFeatures([f.blank(rows) for f in part.factored], blocks)
            place = whole[start : start + len(part)]
            for to, f in zip(place.factored, part.factored, strict=True):
                to.fill(f)
            for to, e in zip(place.explicit, part.explicit, strict=True):
                to.copy_(e)
            start += len(part)
        assert whole is not None
        return whole

    def _any(self) -> Tensor:
        return self.factored[0].a if self.factored else self.explicit[0]


def add_product(total: Tensor, e: Tensor, o: Tensor) -> None:
    """Add E Oᵀ to a float64 matrix (B, B'), from products over `SUM_BLOCK` columns in the tensors' own type."""
    for start in range(0, e.shape[1], SUM_BLOCK):
        x, y = e[:, start : start + SUM_BLOCK], o[:, start : start + SUM_BLOCK]
        if x.dtype == torch.bfloat16 and x.is_cuda:
            total += torch.mm(x, y.T, out_dtype=torch.float32)
        else:
            total += x @ y.T


class GradientMap:
    """x ↦ gradient features of a frozen encoder along q output directions.

    Args:
        encoder: the frozen network.
        directions: (q, d); the kernel is Σ_p ⟨∇θ⟨w_p, f(x)⟩, ∇θ⟨w_p, f(x')⟩⟩.
        probe: a few samples (B, ...) on which every piece of the plan is verified against plain autograd.
        project: numbers per parameter and direction above which a gradient is randomly projected; None: exact.
        seed: of the projections.
        contractions: False sends every parameter through `torch.func`.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        directions: Tensor,
        probe: Tensor,
        project: int | None = None,
        seed: int = 0,
        contractions: bool = True,
    ):
        self.encoder = encoder
        self.directions = directions.to(encoder.device, encoder.dtype)
        self.project = project
        self._projections = Projections(seed, encoder.device, encoder.dtype)
        with encoder.lock:
            self._plan(probe, contractions)
        self.batched = len(self.directions) > 1
        self._vmap_works = True

    def _plan(self, probe: Tensor, contractions: bool) -> None:
        encoder, q = self.encoder, len(self.directions)
        why = "contractions=False"
        if contractions:
            try:
                pieces, others = plan.make(encoder, probe, q, self.project)
            except RuntimeError as error:  # such as checkpointed segments, which run again under another mode
                contractions, why = False, f"its calls cannot be followed ({str(error).strip().splitlines()[0]})"
                warn(f"{why}: all gradients go through the generic path, one sample at a time, exact and slow")
        if not contractions:
            pieces, others = [], dict.fromkeys(encoder.param_names, f"generic: {why}")
        seen = tape.record(encoder.module, encoder.param_names, encoder.prepare(probe)) if contractions else None
        self._activations = seen.numbers // len(probe) if seen else 0
        self._signature = [(c.kind, c.tracked) for c in seen.calls] if seen else []
        self.pieces = [part for piece in pieces for part in weight_alone(piece)]
        self.others = others
        self.generic = [n for n in encoder.param_names if others.get(n, "").startswith("generic")]
        if not self.pieces and not self.generic:
            raise EncoderError(
                "the encoder's output does not depend differentiably on its parameters (is its forward under "
                "torch.no_grad or detached?)"
            )

    @property
    def plan(self) -> dict[str, str]:
        """Parameter name ↦ how its gradient is computed: factored, explicit, projected, generic or unused."""
        kinds = {n: why.partition(":")[0] for n, why in self.others.items()}
        for piece in self.pieces:
            for name in piece.names:
                kinds[name] = piece.way
        return {n: kinds[n] for n in self.encoder.param_names}

    def features_per_sample(self) -> int:
        """Numbers that one sample's features take, to size blocks of rows."""
        q = len(self.directions)
        generic = sum(parameter(self.encoder.module, n).numel() for n in self.generic)
        return q * min(generic, self.project or generic) + sum(p.numbers(q) for p in self.pieces)

    def activation_bytes(self) -> int:
        """Bytes per sample of the forward and backward passes, from above: every intermediate, once per direction."""
        size = torch.finfo(self.encoder.dtype).bits // 8
        parameters = sum(parameter(self.encoder.module, n).numel() for n in self.generic)
        return size * (self._activations * (1 + (len(self.directions) if self.batched else 1)) + 2 * parameters)

    def table(self) -> pd.DataFrame:
        """The plan, one row per block of parameters, dearest first.

        Returns:
            columns parameters, way, entries (of the gradient), positions (per sample, of outer products), numbers
            (kept per sample), operations_per_entry (of the kernel), operations_per_sample (to form the feature,
            beyond the forward and backward passes), why (of the generic ones).
        """
        q, rows = len(self.directions), []
        for p in self.pieces:
            rows.append(
                (", ".join(p.names), p.way, p.numel, p.terms[0].positions, p.numbers(q), p.pair_operations(q),
                 p.forming_operations(q), "")
            )  # fmt: skip
        for name, why in self.others.items():
            size = parameter(self.encoder.module, name).numel()
            way, _, reason = why.partition(": ")
            used = size * q if way == "generic" else 0
            rows.append((name, way, size, 1, used, 2.0 * used, float(used), reason))
        columns = ["parameters", "way", "entries", "positions", "numbers", "operations_per_entry",
                   "operations_per_sample", "why"]  # fmt: skip
        table = pd.DataFrame(rows, columns=pd.Index(columns))
        return table.sort_values("operations_per_entry", ascending=False, kind="stable", ignore_index=True)

    def summary(self) -> str:
        """How the parameters' gradients are computed, in a line; what is generic is named."""
        ways = list(self.plan.values())
        kinds = ("factored", "explicit", "projected", "generic", "unused")
        counts = ", ".join(f"{ways.count(k)} {k}" for k in kinds if k in ways)
        slow = [f"{n} ({self.others[n].partition(': ')[2]})" for n in self.generic]
        named = f"; generic: {', '.join(slow[:3])}{' …' if len(slow) > 3 else ''}" if slow else ""
        return f"gradients of {len(ways)} parameters: {counts}{named}"

    def __call__(self, batch: Tensor) -> GradientFeatures:
        """Gradient features of a batch (B, ...)."""
        batch = self.encoder.prepare(batch)
        with self.encoder.lock:
            factored, formed = self._contracted(batch) if self.pieces else ([], [])
            if self.generic:
                formed.append(self._generic_gradients(batch).flatten(1))
        return GradientFeatures(factored, pack(formed))

    def _contracted(self, batch: Tensor) -> tuple[list[Factored], list[Tensor]]:
        """One taped forward pass, q backward passes, then every piece."""
        recording = tape.record(self.encoder.module, self.encoder.param_names, batch)
        self._same_path(recording, len(batch))
        needed = {t.call for p in self.pieces for t in p.terms}
        last = self._last_layer(recording)
        g, self.batched = gradients_at(recording, self.directions, self.batched, needed, last)
        factored, formed = [], []
        for piece in self.pieces:
            if piece.way == "explicit" or len(piece.projection) == 1:
                gradient = plan.piece_gradient(piece, recording, self.encoder.module, g, len(batch))
                formed.append(self._projections.fold(piece, gradient) if piece.projection else gradient)
                formed[-1] = formed[-1].flatten(1)
                continue
            head = piece.terms[0]
            call = recording.calls[head.call]
            assert isinstance(call.a, Tensor)
            if piece.way == "factored" and head.kind == "linear" and last is not None and last.call == head.call:
                g_t, axis = last.coefficients(), last.axis
                a = operands(head, call.a, g_t, len(batch))[0]
                factored.append(Factored(with_bias(a) if piece.bias else a, g_t, False, axis))
                continue
            g_head = output_gradient(head, g[head.call], len(batch))
            if piece.way == "projected":
                formed.append(self._projections.outer(piece, call.a, g_head, len(batch)).flatten(1))
                continue
            a, g_t = operands(head, call.a, g_head, len(batch))
            factored.append(Factored(with_bias(a) if piece.bias else a, g_t, head.constant))
        return factored, [f.detach() for f in formed]

    def _last_layer(self, recording: tape.Recording) -> "LastLayer | None":
        """The linear layer that gives the output, if only an elementwise function stands before it."""
        for call in recording.calls:
            weight = call.tracked.get("weight", "")
            if (
                call.is_output
                and call.kind == "linear"
                and len(call.a_shape) == 2
                and weight in self.encoder.param_names
            ):
                return last_layer(recording, call, self.directions @ parameter(self.encoder.module, weight))
        return None

    def _same_path(self, recording: tape.Recording, samples: int) -> None:
        """Refuse a batch whose calls are not the planned ones, each over all samples."""
        same = [(c.kind, c.tracked) for c in recording.calls] == self._signature
        terms = [t for p in self.pieces for t in p.terms] if same else []
        if not same or any(recording.calls[t.call].shape[t.g.dim] != samples * t.g.k for t in terms):
            raise EncoderError(
                "the encoder takes another path through its layers for some batches (data-dependent branches or "
                "routing); use NTK(..., contractions=False), which goes sample by sample"
            )

    def _generic_gradients(self, batch: Tensor) -> Tensor:
        """Gradients (B, q, p) of the parameters without a piece; folded to `project` numbers if that is smaller."""
        module = self.encoder.module
        chosen = {n: parameter(module, n) for n in self.generic}

        def one_sample(x: Tensor) -> Tensor:
            def encode(values: dict[str, Tensor]) -> Tensor:
                return functional_call(module, values, (x.unsqueeze(0),)).squeeze(0)

            pull_back = vjp(encode, chosen)[1]
            (gradient,) = vmap(pull_back)(self.directions)
            return torch.cat([gradient[n].reshape(len(self.directions), -1) for n in self.generic], 1)  # (q, p)

        if self._vmap_works:
            try:
                with _FILTERS, warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "There is a performance drop")
                    return self._folded(vmap(one_sample, chunk_size=32)(batch))
            except (RuntimeError, NotImplementedError, ValueError) as error:
                self._vmap_works = False
                reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
                warn(
                    f"torch.func.vmap cannot transform this encoder ({reason}); gradients of {len(self.generic)} "
                    "parameters are computed one sample at a time: same result, slower."
                )
        rows = torch.stack([autograd_gradient(module, self.generic, x, self.directions) for x in batch])
        return self._folded(rows.unflatten(1, (len(self.directions), -1)))

    def _folded(self, gradient: Tensor) -> Tensor:
        if self.project is None or gradient.shape[2] <= self.project:
            return gradient
        piece = plan.Piece(tuple(self.generic), (), "projected", True, None, gradient.shape[2], (self.project,))
        return self._projections.fold(piece, gradient)


def pack(formed: list[Tensor]) -> list[Tensor]:
    """Small blocks side by side, as one product costs less than many small ones."""
    small = [f for f in formed if f.shape[1] < SUM_BLOCK]
    large = [f for f in formed if f.shape[1] >= SUM_BLOCK]
    return large + ([torch.cat(small, 1) if len(small) > 1 else small[0]] if small else [])


ELEMENTWISE = {
    "Relu",
    "Threshold",
    "LeakyRelu",
    "Elu",
    "Gelu",
    "Silu",
    "Mish",
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Hardtanh",
    "Hardswish",
    "Hardsigmoid",
    "LogSigmoid",
    "Abs",
}  # fmt: skip  autograd's names of functions


@dataclass(frozen=True)
class LastLayer:
    """f = W σ(z) + b with σ elementwise and z the output of a call: ∇z⟨w_p, f⟩ = σ'(z) ∘ Wᵀw_p.

    A sample then has n numbers in it, not q·n.

    Attributes:
        call: whose output z is.
        slopes: σ'(z), (B, n).
        weights: Wᵀw_p, (q, n).
    """

    call: int
    slopes: Tensor
    weights: Tensor

    @property
    def axis(self) -> Tensor:
        """Unit columns of the weights (q, n); zero where the weights are."""
        return self.weights / self._norms()

    def coefficients(self) -> Tensor:
        """∇z⟨w_p, f⟩ along the axis, (B, 1, 1, n)."""
        return (self.slopes * self._norms())[:, None, None]

    def gradients(self) -> Tensor:
        """∇z⟨w_p, f⟩ written out, (q, B, n)."""
        return self.slopes * self.weights[:, None]

    def _norms(self) -> Tensor:
        return self.weights.norm(dim=0).clamp_min(torch.finfo(self.weights.dtype).tiny)


def last_layer(recording: tape.Recording, call: tape.Call, weights: Tensor) -> LastLayer | None:
    """Follow the graph from the output layer's input through elementwise functions to a call's output."""
    if call.into is None:
        return None
    node = call.into.node
    outputs = {c.out.node: i for i, c in enumerate(recording.calls) if c.out is not None and c.out.output_nr == 0}
    while node not in outputs:
        if node.name().removesuffix("Backward0") not in ELEMENTWISE or len(node.next_functions) != 1:
            return None
        following = node.next_functions[0][0]
        if following is None:
            return None
        node = following
    before = recording.calls[outputs[node]]
    if before.shape != call.a_shape:
        return None
    ones = torch.ones(call.a_shape, dtype=recording.out.dtype, device=recording.out.device)
    (slopes,) = torch.autograd.grad(call.into, cast(Any, [before.out]), ones, retain_graph=True)
    return LastLayer(outputs[node], slopes, weights)


def gradients_at(
    recording: tape.Recording, directions: Tensor, batched: bool, needed: set[int], last: LastLayer | None = None
) -> tuple[dict[int, Sequence[Tensor]], bool]:
    """`backward`, all directions at once if the network's operations allow it, and whether they did."""
    if batched:
        try:
            with _FILTERS, warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                found = backward(recording, directions, True, needed, last)
            return found, not any("performance drop" in str(w.message) for w in seen)
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise
    return backward(recording, directions, False, needed, last), False


def backward(
    recording: tape.Recording,
    directions: Tensor,
    batched: bool,
    needed: set[int] | None = None,
    last: LastLayer | None = None,
) -> dict[int, Sequence[Tensor]]:
    """Call ↦ gradients of ⟨w_p, f(x)⟩, summed over the batch, at its output, for every direction.

    For the call whose output is the encoder's, they are the directions themselves (d,).

    Args:
        last: known gradients near the output, from which the rest follows.
    """
    calls = [i for i, c in enumerate(recording.calls) if c.out is not None and (needed is None or i in needed)]
    found: dict[int, Sequence[Tensor]] = {i: list(directions) for i in calls if recording.calls[i].is_output}
    out, start = recording.out, recording.out
    weights = directions[:, None].expand(-1, *out.shape)
    if last is not None:
        start, weights = recording.calls[last.call].out, last.gradients()
        found[last.call] = weights.unbind(0)
    inner = [i for i in calls if i not in found]
    if not inner:
        return found
    start, edges = cast(Any, (start, [recording.calls[i].out for i in inner]))
    if batched:
        grads = torch.autograd.grad(
            start, edges, weights, is_grads_batched=True, allow_unused=True, retain_graph=True
        )  # fmt: skip
        rows = [None if g is None else g.unbind(0) for g in grads]
    else:
        passes = [torch.autograd.grad(start, edges, w, retain_graph=True, allow_unused=True) for w in weights]
        rows = [None if g[0] is None else g for g in zip(*passes, strict=True)]
    for i, row in zip(inner, rows, strict=True):
        found[i] = [out.new_zeros(recording.calls[i].shape)] * len(directions) if row is None else row
    return found


def autograd_gradient(module: nn.Module, names: list[str], sample: Tensor, directions: Tensor) -> Tensor:
    """∇θ⟨w, f(x)⟩ of one sample for every direction, by plain autograd: (q·p,). The oracle of all other paths."""
    with plan.in_graph(module, names) as parameters:
        with torch.enable_grad():
            out = module(sample.unsqueeze(0)).squeeze(0)
        if not out.requires_grad:
            raise EncoderError(
                "the encoder's output does not depend differentiably on its parameters (is its forward under "
                "torch.no_grad or detached?)"
            )
        rows = []
        for w in directions:
            grads = torch.autograd.grad(out @ w, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([(g.to_dense() if g.is_sparse else g).flatten() for g in grads]))
        return torch.cat(rows).detach()
