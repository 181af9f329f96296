"""Which layers have a closed per-sample gradient, and that gradient: `Linear` and `Conv2d`.

A layer qualifies when it is exactly of that type, is called once per forward pass with the batch in front, and owns
its parameters alone. The plan is then verified on real samples against plain autograd, so that a weight that is also
used somewhere else cannot go wrong unseen.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krepes.encoders.frozen import FrozenEncoder


@dataclass(frozen=True)
class TappedLayer:
    """A layer whose gradient is contracted from its input and the gradient at its output.

    Attributes:
        name: the module's name.
        module: the `Linear` or `Conv2d`.
        param_names: the parameters that this contraction covers.
        positions: number of positions per sample (1 for a `Linear` on vectors).
    """

    name: str
    module: nn.Linear | nn.Conv2d
    param_names: list[str]
    weight: bool
    bias: bool
    positions: int

    @property
    def kind(self) -> str:
        return "factored" if self.positions == 1 and isinstance(self.module, nn.Linear) else "explicit"

    def width(self, q: int) -> int:
        """Numbers per sample of the contracted features for q directions."""
        m = self.module
        if self.kind == "factored":
            return (m.in_features + 1) + q * m.out_features if isinstance(m, nn.Linear) else 0
        return q * (m.weight.numel() * self.weight + m.weight.shape[0] * self.bias)

    def contract(self, a: Tensor, g: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Features from the input a (B, *in) and the output gradients g (B, q, *out).

        Returns:
            the pair (a (B, n_in [+1 for the bias]), g (B, q·n_out)) for one position, else explicit (B, q·p).
        """
        if self.kind == "factored":
            columns = ([a.flatten(1)] if self.weight else []) + ([a.new_ones(len(a), 1)] if self.bias else [])
            return torch.cat(columns, 1), g.flatten(1)
        if isinstance(self.module, nn.Linear):
            g_t = g.flatten(2, -2).transpose(2, 3)  # (B, q, out, T)
            a_t = a.flatten(1, -2)  # (B, T, in)
            weight = g_t @ a_t.unsqueeze(1) if self.weight else None  # (B, q, out, in)
        else:
            g_t = g.flatten(3)  # (B, q, out, T)
            weight = conv2d_weight_gradient(self.module, a, g_t) if self.weight else None
        parts = [] if weight is None else [weight.flatten(2)]
        if self.bias:
            parts.append(g_t.sum(3))
        return torch.cat(parts, 2).flatten(1)


def conv2d_weight_gradient(conv: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
    """∂⟨w, f⟩/∂W of every sample from unfolded patches: (B, q, C_out, C_in/groups · k_h · k_w).

    Args:
        a: the input (B, C_in, H, W).
        g: gradients at the output (B, q, C_out, T).
    """
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        # the private order is (W left, W right, H top, H bottom), as F.pad wants it
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        a, padding = F.pad(a, conv._reversed_padding_repeated_twice, mode=mode), 0
    else:
        padding = conv.padding
    patches = F.unfold(a, conv.kernel_size, conv.dilation, padding, conv.stride)  # (B, C_in·k·k, T)
    groups = conv.groups
    patches = patches.unflatten(1, (groups, -1)).unsqueeze(1)  # (B, 1, groups, C_in/groups·k·k, T)
    g = g.unflatten(2, (groups, -1))  # (B, q, groups, C_out/groups, T)
    return (g @ patches.transpose(3, 4)).flatten(2, 3)  # (B, q, C_out, C_in/groups·k·k)


def forward_with_taps(module: nn.Module, names: list[str], batch: Tensor):
    """One forward pass that keeps the input and the output of the named layers.

    The output is cloned before it goes on, so that an in-place activation behind the layer cannot overwrite it.

    Returns:
        the output (B, d), and dictionaries name ↦ input, name ↦ output (part of the graph).
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    handles = []
    for name in names:

        def tap(_module, args, out, name=name):
            inputs[name] = args[0].detach()
            outputs[name] = out if out.requires_grad else out.detach().requires_grad_(True)
            return outputs[name].clone()

        handles.append(module.get_submodule(name).register_forward_hook(tap))
    try:
        with torch.enable_grad():
            return module(batch), inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def plan(encoder: FrozenEncoder, probe: Tensor) -> tuple[list[TappedLayer], list[str]]:
    """The layers with a contraction, and the names of all other selected parameters.

    Args:
        encoder: the frozen network.
        probe: samples (B, ...), B ≥ 2, on which the plan is verified.
    """
    candidates = find_layers(encoder, encoder.prepare(probe))
    good = verified(encoder, candidates, encoder.prepare(probe)) if candidates else []
    covered = {name for layer in good for name in layer.param_names}
    return good, [name for name in encoder.param_names if name not in covered]


def find_layers(encoder: FrozenEncoder, probe: Tensor) -> list[TappedLayer]:
    """Layers of a known type that are called exactly once, with the batch as first dimension."""
    calls: dict[str, list[tuple[torch.Size, torch.Size]]] = {}
    handles = [
        m.register_forward_hook(
            lambda _m, args, out, name=name: (
                calls.setdefault(name, []).append((args[0].shape, out.shape))
                if args
                else calls.setdefault(name, []).extend([(torch.Size(), torch.Size())] * 2)
            )
        )
        for name, m in encoder.module.named_modules()
        if type(m) in (nn.Linear, nn.Conv2d)
    ]
    try:
        encoder(probe)
    finally:
        for handle in handles:
            handle.remove()
    selected = set(encoder.param_names)
    layers = []
    for name, shapes in calls.items():
        m = encoder.module.get_submodule(name)
        own = {k for k, p in m._parameters.items() if p is not None}
        names = [n for n in (f"{name}.{k}".lstrip(".") for k in ("weight", "bias")) if n in selected]
        batched = len(shapes) == 1 and len(shapes[0][0]) > 1 and shapes[0][0][0] == len(probe)
        if (
            not batched
            or not own <= {"weight", "bias"}
            or not names
            or (isinstance(m, nn.Conv2d) and len(shapes[0][0]) != 4)
        ):
            continue
        out_shape = shapes[0][1]
        positions = out_shape[1:-1].numel() if isinstance(m, nn.Linear) else out_shape[2:].numel()
        layers.append(
            TappedLayer(
                name,
                m,  # pyright: ignore[reportArgumentType]  the type was checked where the hook was set
                names,
                weight=f"{name}.weight".lstrip(".") in selected,
                bias=f"{name}.bias".lstrip(".") in selected,
                positions=positions,
            )
        )
    return layers


def verified(encoder: FrozenEncoder, layers: list[TappedLayer], probe: Tensor) -> list[TappedLayer]:
    """Those layers whose contraction equals plain autograd on the probe samples."""
    from krepes.kernel.gradients import autograd_gradient

    out, inputs, outputs = forward_with_taps(encoder.module, [layer.name for layer in layers], probe)
    # a fixed direction without symmetry: no output may cancel another one
    w = torch.cos(torch.arange(1, out.shape[1] + 1, device=out.device, dtype=out.dtype))
    gradients = torch.autograd.grad((out @ w).sum(), list(outputs.values()), materialize_grads=True)
    good = []
    for layer, g in zip(layers, (g.unsqueeze(1) for g in gradients), strict=True):
        contracted = layer.contract(inputs[layer.name], g)
        if isinstance(contracted, tuple):
            a, g1 = contracted
            dense = (g1.unsqueeze(2) @ a.unsqueeze(1)).flatten(1) if layer.weight else g1
            if layer.weight and layer.bias:
                outer = g1.unsqueeze(2) @ a.unsqueeze(1)  # (B, out, in + 1)
                dense = torch.cat([outer[:, :, :-1].flatten(1), outer[:, :, -1]], 1)
            contracted = dense
        exact = torch.stack([autograd_gradient(encoder.module, layer.param_names, x, w[None]) for x in probe])
        tolerance = 1e-3 if encoder.dtype != torch.float64 else 1e-9
        if torch.linalg.vector_norm(contracted - exact) <= tolerance * torch.linalg.vector_norm(exact) + 1e-30:
            good.append(layer)
    return good
