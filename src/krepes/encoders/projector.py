"""Projectors and other networks of linear layers, read off the shapes and positions of their weights."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from krepes.encoders.state import State
from krepes.errors import EncoderError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU, "elu": nn.ELU,
}  # fmt: skip
WITH_WEIGHTS = ("linear", "batchnorm", "layernorm")


@dataclass(frozen=True)
class Inferred:
    """A network of linear layers.

    Attributes:
        module: a `Sequential`, without the weights.
        names: name in the file ↦ name in the module.
        words: its layers in words, and what was assumed.
    """

    module: nn.Sequential
    names: dict[str, str]
    words: str


def infer(part: State, where: str, activation: str = "relu", layers: Sequence[str] | None = None) -> Inferred:
    """The network that a part's weights belong to.

    A 2-d weight is a linear layer, running statistics are a batch norm; a lone 1-d weight needs `layers`. In a
    `Sequential` a position without weights is the activation, two of them the activation and a dropout, which does
    nothing in eval mode.

    Args:
        part: tensors by name.
        where: the prefix, for errors.
        activation: what stands in positions without weights; the file does not say.
        layers: all kinds in their order, where positions do not tell.

    Raises:
        EncoderError: a layer of another kind, widths that do not follow each other, or an order that cannot be told.
    """
    groups = grouped(part, where)
    kinds = {path: kind_of(path, tensors, where) for path, tensors in groups.items()}
    order = sorted(groups, key=natural)
    lone = [p for p in order if kinds[p] == "layernorm"]
    if layers is None and lone:
        raise EncoderError(
            f"'{where}{lone[0]}' has a weight of one dimension, no running statistics: a layer norm, or a batch norm "
            "whose statistics were not saved? Say the layers' order in head.layers (arch.layers for an encoder)."
        )
    plan = laid_out(order, kinds, where, activation) if layers is None else told(order, kinds, layers, where)
    modules: list[nn.Module] = []
    names, words, width = {}, [], None
    for kind, path in plan:
        if path is None:
            modules.append(nn.Identity() if kind == "dropout" else ACTIVATIONS[kind]())
            words.append(kind)
            continue
        tensors = groups[path]
        n_in, n_out = widths(kind, tensors)
        if width is not None and n_in != width:
            raise EncoderError(
                f"'{where}{path}' ({kind}) takes {n_in} numbers, the layer before gives {width}; say the layers' order "
                "in head.layers, or the module in head.arch"
            )
        width = n_out
        names |= {".".join(filter(None, [path, t])): f"{len(modules)}.{t}" for t in tensors}
        modules.append(layer(kind, tensors))
        words.append(f"{kind} {n_in}→{n_out}" if kind == "linear" else kind)
    assumed = sorted({k for k, path in plan if path is None and k != "dropout"})
    note = f" ({', '.join(assumed)} where there are no weights, as the recipe says or by default)" if assumed else ""
    note += "; nothing after the last layer (the file does not say)" if layers is None else ""
    return Inferred(nn.Sequential(*modules), names, ", ".join(words) + note)


def grouped(part: State, where: str) -> dict[str, State]:
    """Tensors by the layer that they belong to."""
    groups: dict[str, State] = {}
    for name, tensor in part.items():
        path, _, leaf = name.rpartition(".")
        groups.setdefault(path, {})[leaf] = tensor
    if not groups:
        raise EncoderError(f"there are no weights under '{where}' to infer a network from")
    return groups


def kind_of(path: str, tensors: State, where: str) -> str:
    """The kind of a layer by its tensors."""
    leaves = set(tensors)
    weight = tensors.get("weight")
    if "running_mean" in leaves and leaves <= {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}:
        return "batchnorm"
    if weight is not None and leaves <= {"weight", "bias"} and weight.ndim in (1, 2):
        return "linear" if weight.ndim == 2 else "layernorm"
    shapes = ", ".join(f"{leaf} {tuple(t.shape)}" for leaf, t in tensors.items())
    raise EncoderError(
        f"'{where}{path}' ({shapes}) is neither linear nor a normalisation, so the network cannot be inferred; give "
        "its import path (arch.name, or head.arch)"
    )


def natural(path: str) -> list[tuple[int, int, str]]:
    """Sorts 2 before 10."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in path.split(".")]


def laid_out(order: list[str], kinds: dict[str, str], where: str, activation: str) -> list[tuple[str, str | None]]:
    """(kind, path) of all layers, from positions in one `Sequential`."""
    if len(order) == 1:
        return [(kinds[order[0]], order[0])]
    stems = {path.rpartition(".")[0] for path in order}
    last = [path.rpartition(".")[2] for path in order]
    unclear = "; say the layers' order in head.layers (arch.layers for an encoder), or the module's import path"
    if len(stems) > 1 or not all(p.isdigit() for p in last):
        raise EncoderError(f"the layers under '{where}' are not numbered ({', '.join(order[:6])}){unclear}")
    if int(last[0]) > 0:
        raise EncoderError(f"what stands before '{where}{order[0]}' cannot be told from the file{unclear}")
    plan: list[tuple[str, str | None]] = [(kinds[order[0]], order[0])]
    for (_, a), (path, b) in itertools.pairwise(zip(order, map(int, last), strict=True)):
        gap = b - a - 1
        if gap > 2:
            raise EncoderError(f"{gap} layers without weights stand before '{where}{path}'{unclear}")
        plan += [(k, None) for k in (activation, "dropout")[:gap]]
        plan.append((kinds[path], path))
    return plan


def told(order: list[str], kinds: dict[str, str], layers: Sequence[str], where: str) -> list[tuple[str, str | None]]:
    """(kind, path) of all layers, from the recipe's list."""
    unknown = [k for k in layers if k not in (*WITH_WEIGHTS, *ACTIVATIONS, "dropout")]
    if unknown:
        raise EncoderError(
            f"'{unknown[0]}' is no layer; expected {', '.join([*WITH_WEIGHTS, *ACTIVATIONS, 'dropout'])}"
        )
    expected, found = [k for k in layers if k in WITH_WEIGHTS], [kinds[p] for p in order]
    if expected != found:
        raise EncoderError(f"under '{where}' the file holds {', '.join(found)}; the recipe says {', '.join(expected)}")
    paths = iter(order)
    return [(k, next(paths) if k in WITH_WEIGHTS else None) for k in layers]


def ends(part: State) -> tuple[int, int] | None:
    """Numbers into the first and out of the last linear layer; none where positions do not tell their order."""
    linear = {name.removesuffix(".weight"): t for name, t in part.items() if name.endswith("weight") and t.ndim == 2}
    stems = {path.rpartition(".")[0] for path in linear}
    if len(stems) != 1 or not all(path.rpartition(".")[2].isdigit() for path in linear):
        return None
    order = sorted(linear, key=natural)
    return linear[order[0]].shape[1], linear[order[-1]].shape[0]


def widths(kind: str, tensors: State) -> tuple[int, int]:
    """Numbers in and out."""
    if kind == "linear":
        n_out, n_in = tensors["weight"].shape
        return n_in, n_out
    n = len(tensors["running_mean"] if kind == "batchnorm" else tensors["weight"])
    return n, n


def layer(kind: str, tensors: State) -> nn.Module:
    """A layer of these shapes."""
    n_in, n_out = widths(kind, tensors)
    if kind == "linear":
        return nn.Linear(n_in, n_out, bias="bias" in tensors)
    if kind == "batchnorm":
        return nn.BatchNorm1d(n_in, affine="weight" in tensors)
    return nn.LayerNorm(n_in, bias="bias" in tensors)
