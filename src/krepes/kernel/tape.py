"""Every call of a forward pass in which parameters meet activations, as seen by `torch.overrides`.

Modules are not looked at: what counts is the function that consumes a parameter, so that `nn.Linear`, the packed
projection of `nn.MultiheadAttention`, a Hugging Face layer and a bare `x * gamma` are all seen where they compute.
Tensors computed from parameters alone (slices, transposes, normalised weights) are followed to their consumer.
"""

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from krepes.encoders.selection import parameter

# this function hides its projections from an override of itself; its body, without that exit, shows them
_attention_body = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.__dict__, "has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
_attention_body.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


@dataclass(frozen=True)
class Call:
    """One call that consumes tracked tensors together with activations.

    Attributes:
        kind: linear, matmul, conv, embedding, norm, mul, add, expand, or unknown.
        tracked: role ("weight", "bias") ↦ key of the tracked tensor: a parameter's name, or "#i" for the i-th
            tensor derived from parameters.
        a: the other operand: the input, the token ids, or for a norm a function that gives x̂; detached.
        out: the output's gradient edge, None where it is outside the graph.
        shape: the output's shape.
        a_shape: the other operand's shape.
        options: strides and the like.
        is_output: the call's output is what the encoder returns.
        into: the input's gradient edge, None where it is outside the graph.
    """

    kind: str
    tracked: dict[str, str]
    a: Tensor | Callable[[], Tensor] | None
    out: GradientEdge | None
    shape: torch.Size
    a_shape: torch.Size
    options: dict[str, Any] = field(default_factory=dict)
    is_output: bool = False
    into: GradientEdge | None = None


@dataclass
class Recording:
    """What one forward pass left on the tape.

    Attributes:
        out: the encoder's output (B, d), part of the graph.
        calls: the consuming calls in order.
        derived: "#i" ↦ the tensor computed from parameters alone, part of the graph.
        parents: "#i" ↦ keys that it was computed from.
        shapes: key ↦ shape, of parameters and derived tensors.
        numbers: entries of all activations (planning only).
    """

    out: Any
    calls: list[Call]
    derived: dict[str, Tensor]
    parents: dict[str, set[str]]
    shapes: dict[str, torch.Size]
    numbers: int = 0


class Tape(TorchFunctionMode):
    """Records the consuming calls of the named parameters.

    Args:
        module: the frozen network.
        names: the parameters to follow.
    """

    def __init__(self, module: nn.Module, names: list[str]):
        super().__init__()
        self._keys = {id(parameter(module, n)): n for n in names}
        self._alive: list[Any] = []
        self._index: dict[int, int] = {}
        self.calls: list[Call] = []
        self.derived: dict[str, Tensor] = {}
        self.parents: dict[str, set[str]] = {}
        self.numbers = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _attention_body(*args, **kwargs)
        tensors = _tensors(args, kwargs)
        keys = {self._keys[id(t)] for t in tensors if id(t) in self._keys}
        active = any(_active(t) for t in tensors if id(t) not in self._keys)
        before = _copy_if_in_place(func, args) if keys else None
        out = func(*args, **kwargs)
        results = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
        self.numbers += sum(t.numel() for t in results)
        if active:
            for t in results:
                if not t.requires_grad:
                    t._krepes_active = True  # pyright: ignore[reportAttributeAccessIssue]
        if keys and any(t.requires_grad for t in results):
            if active or func in EXPAND:
                known = args if before is None else (before, *args[1:])
                self._consume(func, known, kwargs, keys, results)
            else:
                self._derive(results, keys)
        return out

    def _consume(self, func, args, kwargs, keys: set[str], results: list[Tensor]) -> None:
        call = _recognise(func, args, kwargs, self._keys, results[0]) if len(results) == 1 else None
        if call is None or set(call.tracked.values()) != keys:
            roles = {str(i): k for i, k in enumerate(sorted(keys))}
            function = getattr(func, "__name__", str(func))
            call = Call("unknown", roles, None, None, results[0].shape, torch.Size(), {"function": function})
        self._alive.append(results)
        self._index[id(results[0])] = len(self.calls)
        self.calls.append(call)

    def _derive(self, results: list[Tensor], keys: set[str]) -> None:
        for t in results:
            if id(t) in self._keys:  # .contiguous() and .to() may return the tensor itself
                continue
            key = f"#{len(self.derived)}"
            self.derived[key], self.parents[key] = t, keys
            self._keys[id(t)] = key

    def call_of(self, out: Any) -> int | None:
        """Index of the call whose result is this tensor."""
        return self._index.get(id(out))


def _active(t: Tensor) -> bool:
    """Whether a tensor depends on the samples: it is in the graph, or was made of an input."""
    return (t.requires_grad and not t.is_leaf) or getattr(t, "_krepes_active", False)


def record(module: nn.Module, names: list[str], batch: Tensor) -> Recording:
    """One forward pass (B, ...) with the tape on; the named parameters are part of the graph during it."""
    parameters = [parameter(module, n) for n in names]
    for p in parameters:
        p.requires_grad_(True)
    tape = Tape(module, names)
    batch = batch.detach()
    batch._krepes_active = True  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with torch.enable_grad(), tape:
            out = module(batch)
    finally:
        for p in parameters:
            p.requires_grad_(False)
    calls = tape.calls
    last = tape.call_of(out)
    # a function that worked in place on a call's result returns the same object at another place in the graph
    if last is not None and calls[last].out is not None and calls[last].out == get_gradient_edge(out):
        calls[last] = Call(**{**calls[last].__dict__, "is_output": True})
    shapes = {n: p.shape for n, p in zip(names, parameters, strict=True)} | {
        k: t.shape for k, t in tape.derived.items()
    }
    return Recording(out, calls, tape.derived, tape.parents, shapes, tape.numbers)


# ------------------------------------------------------------------ recognition

MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}
ADDMM = {torch.addmm, Tensor.addmm}
CONV = {F.conv1d: 1, F.conv2d: 2}
EMBEDDING = {F.embedding, torch.embedding}
MUL = {torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__, Tensor.mul_,
       Tensor.__imul__}  # fmt: skip
ADD = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__}
EXPAND = {Tensor.expand, Tensor.expand_as, Tensor.repeat, torch.broadcast_to, Tensor.broadcast_to}
IN_PLACE = {Tensor.mul_, Tensor.__imul__}
NORMS = {
    F.layer_norm: ("normalized_shape", "weight", "bias", "eps"),
    torch.layer_norm: ("normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("normalized_shape", "weight", "eps"),
    torch.rms_norm: ("normalized_shape", "weight", "eps"),
    F.group_norm: ("num_groups", "weight", "bias", "eps"),
    torch.group_norm: ("num_groups", "weight", "bias", "eps"),
    F.batch_norm: ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}


def _recognise(func, args, kwargs, keys: dict[int, str], out: Tensor) -> Call | None:
    """The call as one of the known kinds, or None."""

    def call(kind: str, a, roles: dict[str, Any], **options) -> Call:
        tracked = {role: keys[id(t)] for role, t in roles.items() if isinstance(t, Tensor) and id(t) in keys}
        shape = a.shape if isinstance(a, Tensor) else options.pop("a_shape", torch.Size())
        kept = a.detach() if isinstance(a, Tensor) else a
        into = get_gradient_edge(a) if isinstance(a, Tensor) and a.requires_grad else None
        return Call(kind, tracked, kept, get_gradient_edge(out), out.shape, shape, options, into=into)

    if func in EXPAND:
        key = keys.get(id(args[0]))
        edge = get_gradient_edge(out)
        return Call("expand", {"weight": key}, None, edge, out.shape, torch.Size()) if key else None
    if func is F.linear:
        x, weight, bias = _bind(args, kwargs, "input", "weight", "bias")
        return call("linear", x, {"weight": weight, "bias": bias})
    if func in MATMUL and not kwargs and id(args[1]) in keys and args[1].ndim == 2 and args[0].ndim >= 2:
        return call("matmul", args[0], {"weight": args[1]})
    if func in ADDMM and not kwargs and args[0].ndim == 1 and id(args[1]) not in keys:
        return call("matmul", args[1], {"weight": args[2], "bias": args[0]})
    if func in CONV:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        x, weight, bias, stride, padding, dilation, groups = _bind(args, kwargs, *names)
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        geometry = {k: v for k, v in geometry.items() if v is not None}
        return call(
            "conv", x, {"weight": weight, "bias": bias}, dims=CONV[func], kernel=tuple(weight.shape[2:]), **geometry
        )
    if func in EMBEDDING:
        return _embedding(func, args, kwargs, call)
    if func in NORMS:
        return _norm(func, args, kwargs, call)
    if func in MUL | ADD and not kwargs and len(args) == 2 and all(isinstance(t, Tensor) for t in args):
        p, x = (args[0], args[1]) if id(args[0]) in keys else (args[1], args[0])
        if id(x) in keys:
            return None
        return call("mul" if func in MUL else "add", x, {"weight": p})
    return None


def _embedding(func, args, kwargs, call) -> Call | None:
    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    if func is torch.embedding:
        weight, ids, padding, *scaled = (*args, None, None, None)[:5]
        padding = None if padding == -1 else padding
    else:
        ids, weight, padding, *scaled = _bind(args, kwargs, *names)
    if weight is None or any(s not in (None, False, 2.0) for s in scaled):
        return None
    padding = None if padding is None else int(padding) % len(weight)
    return call("embedding", ids, {"weight": weight}, rows=len(weight), padding=padding)


def _norm(func, args, kwargs, call) -> Call | None:
    names = NORMS[func]
    x, *rest = _bind(args, kwargs, "input", *names)
    values = dict(zip(names, rest, strict=True))
    if func is F.batch_norm and values["training"]:
        return None
    roles = {"weight": values.get("weight"), "bias": values.get("bias")}
    plain = {k: v for k, v in values.items() if k not in roles and v is not None}
    x = x.detach()
    # mean and variance are normalised anew, without the affine part, when the gradient is contracted
    channel = func not in (F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm)
    name = {"layer_norm": F.layer_norm, "rms_norm": F.rms_norm, "group_norm": F.group_norm}.get(
        func.__name__, F.batch_norm
    )
    return call("norm", lambda: name(x, **plain), roles, channel=channel, a_shape=x.shape)


def _bind(args, kwargs, *names):
    """Positional and keyword arguments by name; None where absent."""
    given = dict(zip(names, args, strict=False)) | kwargs
    return [given.get(n) for n in names]


def _copy_if_in_place(func, args) -> Tensor | None:
    return args[0].detach().clone() if func in IN_PLACE else None


def _tensors(args, kwargs) -> list[Tensor]:
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found.extend(v for v in value if isinstance(v, Tensor))
    return found
