"""Per-sample gradients of an encoder, kept factored wherever a layer allows it.

For an output direction w the gradient feature of a sample is g(x) = ∇θ ⟨w, f(x)⟩; q directions give q of them.
A `Linear` layer with one position has ∇W = g aᵀ, so ⟨g aᵀ, g' a'ᵀ⟩ = (a·a')(g·g') and the gradient is never formed.
With several positions (convolutions, sequences) the gradient Σ_t g_t a_tᵀ is formed per layer.
Every other parameter goes through `torch.func`, one sample at a time: exact for any module.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import EncoderError, KrepesWarning
from krepes.kernel import contractions

# Columns of an explicit gradient that one float32 product sums; blocks are added in float64. One float32
# product over 41 million terms loses three digits, blocks of this size keep 1e-7 (docs/method.md).
SUM_BLOCK = 65_536


@dataclass(frozen=True)
class GradientFeatures:
    """Gradient features of B samples: a list of factored pairs and explicit blocks, one per layer.

    Attributes:
        factored: pairs (a (B, n_in), g (B, q·n_out)); the inner product is (a·a')(g·g').
        explicit: per-layer gradients (B, q·p_layer).
    """

    factored: list[tuple[Tensor, Tensor]]
    explicit: list[Tensor]

    def __len__(self) -> int:
        return len(self.factored[0][0] if self.factored else self.explicit[0])

    def inner(self, other: "GradientFeatures") -> Tensor:
        """All inner products (B, B'), summed over layers in float64."""
        total = torch.zeros(len(self), len(other), dtype=torch.float64, device=self._any().device)
        for (a, g), (b, k) in zip(self.factored, other.factored, strict=True):
            total += (a @ b.T).double() * blocked_product(g, k)
        for e, o in zip(self.explicit, other.explicit, strict=True):
            total += blocked_product(e, o)
        return total

    def square_norm(self) -> Tensor:
        """‖g(x)‖² per sample (B,), the kernel's diagonal, in float64."""
        total = torch.zeros(len(self), dtype=torch.float64, device=self._any().device)
        for a, g in self.factored:
            total += a.double().square().sum(1) * g.double().square().sum(1)
        for e in self.explicit:
            total += torch.linalg.vector_norm(e, dim=1, dtype=torch.float64).square()
        return total

    def __getitem__(self, index) -> "GradientFeatures":
        return GradientFeatures([(a[index], g[index]) for a, g in self.factored], [e[index] for e in self.explicit])

    @staticmethod
    def concatenate(parts: list["GradientFeatures"]) -> "GradientFeatures":
        """The features of several batches as one."""
        factored = [
            (torch.cat([p.factored[i][0] for p in parts]), torch.cat([p.factored[i][1] for p in parts]))
            for i in range(len(parts[0].factored))
        ]
        explicit = [torch.cat([p.explicit[i] for p in parts]) for i in range(len(parts[0].explicit))]
        return GradientFeatures(factored, explicit)

    def _any(self) -> Tensor:
        return self.factored[0][0] if self.factored else self.explicit[0]


def blocked_product(e: Tensor, o: Tensor) -> Tensor:
    """E Oᵀ in float64 (B, B'), from products over `SUM_BLOCK` columns in the tensors' own type."""
    total = torch.zeros(len(e), len(o), dtype=torch.float64, device=e.device)
    for start in range(0, e.shape[1], SUM_BLOCK):
        total += (e[:, start : start + SUM_BLOCK] @ o[:, start : start + SUM_BLOCK].T).double()
    return total


class GradientMap:
    """x ↦ gradient features of a frozen encoder along q output directions.

    Args:
        encoder: the frozen network.
        directions: (q, d); the kernel is Σ_p ⟨∇θ⟨w_p, f(x)⟩, ∇θ⟨w_p, f(x')⟩⟩.
        probe: a few samples (B, ...) on which every layer contraction is verified against plain autograd. A layer
            that disagrees (a weight used elsewhere too, a custom forward) goes through the generic path.
    """

    def __init__(self, encoder: FrozenEncoder, directions: Tensor, probe: Tensor):
        self.encoder = encoder
        self.directions = directions.to(encoder.device, encoder.dtype)
        self.layers, self.generic = contractions.plan(encoder, probe)
        self._vmap_works = True
        self._names = dict(encoder.module.named_modules())

    @property
    def plan(self) -> dict[str, str]:
        """Parameter name ↦ how its gradient is computed: 'factored', 'explicit' or 'generic'."""
        kinds = {}
        for layer in self.layers:
            for name in layer.param_names:
                kinds[name] = layer.kind
        return kinds | dict.fromkeys(self.generic, "generic")

    def features_per_sample(self, sample_shape: torch.Size) -> int:
        """Numbers that one sample's features take, to size blocks of rows."""
        q = len(self.directions)
        generic = sum(self.encoder.module.get_parameter(n).numel() for n in self.generic)
        return q * generic + sum(layer.width(q) for layer in self.layers)

    def __call__(self, batch: Tensor) -> GradientFeatures:
        """Gradient features of a batch (B, ...)."""
        batch = self.encoder.prepare(batch)
        factored, explicit = self._tapped(batch) if self.layers else ([], [])
        if self.generic:
            explicit = [*explicit, self._generic_gradients(batch)]
        return GradientFeatures(factored, explicit)

    def _tapped(self, batch: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """One forward pass with taps on the planned layers, then q backward passes."""
        taps = [layer.name for layer in self.layers]
        out, inputs, outputs = contractions.forward_with_taps(self.encoder.module, taps, batch)
        gradients: list[list[Tensor]] = []
        for p, w in enumerate(self.directions):
            gradients.append(
                list(
                    torch.autograd.grad(
                        (out @ w).sum(),
                        [outputs[n] for n in taps],
                        retain_graph=p + 1 < len(self.directions),
                        materialize_grads=True,
                    )
                )
            )
        factored, explicit = [], []
        for i, layer in enumerate(self.layers):
            g = torch.stack([per_direction[i] for per_direction in gradients], 1)  # (B, q, *out)
            result = layer.contract(inputs[layer.name], g)
            (factored if isinstance(result, tuple) else explicit).append(result)
        return factored, explicit

    def _generic_gradients(self, batch: Tensor) -> Tensor:
        """Explicit gradients (B, q·p) of the parameters without a contraction."""
        module = self.encoder.module
        chosen = {n: module.get_parameter(n) for n in self.generic}

        def one_sample(x: Tensor) -> Tensor:
            def encode(values: dict[str, Tensor]) -> Tensor:
                return functional_call(module, values, (x.unsqueeze(0),)).squeeze(0)

            pull_back = vjp(encode, chosen)[1]
            (gradient,) = vmap(pull_back)(self.directions)
            return torch.cat([gradient[n].flatten(1) for n in self.generic], 1).flatten()  # (q·p,)

        if self._vmap_works:
            try:
                return vmap(one_sample, chunk_size=32)(batch)
            except (RuntimeError, NotImplementedError, ValueError) as error:
                self._vmap_works = False
                reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
                warnings.warn(
                    f"torch.func.vmap cannot transform this encoder ({reason}); gradients of {len(self.generic)} "
                    "parameters are computed one sample at a time: same result, slower.",
                    KrepesWarning,
                    stacklevel=2,
                )
        return torch.stack([autograd_gradient(module, self.generic, x, self.directions) for x in batch])


def autograd_gradient(module: nn.Module, names: list[str], sample: Tensor, directions: Tensor) -> Tensor:
    """∇θ⟨w, f(x)⟩ of one sample for every direction, by plain autograd: (q·p,). The oracle of all other paths."""
    parameters = [module.get_parameter(n) for n in names]
    for p in parameters:
        p.requires_grad_(True)
    try:
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
            rows.append(torch.cat([g.flatten() for g in grads]))
        return torch.cat(rows).detach()
    finally:
        for p in parameters:
            p.requires_grad_(False)
