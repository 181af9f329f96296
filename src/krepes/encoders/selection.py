"""Which parameters enter the kernel: by name pattern, or by their place in the network."""

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from krepes.errors import ConfigError, EncoderError

PLACES = ("last_block", "head")


def select_parameters(module: nn.Module, patterns: str | Sequence[str] | None) -> list[str]:
    """Names of the kernel's parameters, in the module's order (a tied weight counts once).

    A place ("last_block", "head") needs a forward pass to be found; until then it stands for all parameters.
    """
    names = [name for name, p in module.named_parameters() if p.is_floating_point()]
    if not names:
        raise EncoderError("the encoder has no parameters; its neural tangent kernel is zero")
    if patterns is None or patterns in PLACES:
        return names
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"params={pattern!r} matches none of the {len(names)} parameters; they are named like "
                f"{', '.join(names[:4])}, or take 'last_block' or 'head'"
            )
    return [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in patterns)]


def parameters_at(module: nn.Module, place: str, batch: Tensor) -> list[str]:
    """The parameters of a place, from the order in which modules are called on a batch (B, ...).

    "head": those of the last module that owns parameters which reach the output. "last_block": those of the last
    block and of all that comes after it, a block being a module with several layers inside a `Sequential` or a
    `ModuleList`.

    Raises:
        ConfigError: the network has no blocks, or TorchScript hides the order of its calls.
    """
    refuse_scripted(module, place)
    order = call_order(module, batch)
    names = [n for n, p in module.named_parameters() if p.is_floating_point()]
    connected = connected_parameters(module, names, batch)
    when = {n: called(owner(n), order) for n in names if n in connected}
    if place == "head":
        last = max(when, key=lambda n: when[n])
        return [n for n in names if owner(n) == owner(last)]
    block = last_block(module, when)
    inside = [n for n in when if n.startswith(f"{block}.")]
    start = min(when[n] for n in inside)
    return [n for n in names if n in when and (n in inside or when[n] > start)]


def refuse_scripted(module: nn.Module, place: str) -> None:
    """Raise ConfigError where a part of the network is TorchScript, which tells nobody what it calls."""
    scripted = [name for name, m in module.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        names = [name for name, _ in module.named_parameters()]
        raise ConfigError(
            f"params={place!r} is found by the order in which layers are called, which TorchScript does not show: "
            f"{scripted[0] or 'the model itself'} is a ScriptModule. Name the parameters (they "
            f"are named like {', '.join(names[-4:])}), or give the network as it was before torch.jit."
        )


def last_block(module: nn.Module, when: dict[str, int]) -> str:
    """Name of the block that is called last."""
    modules = dict(module.named_modules())
    layers = {name: {owner(n) for n in when if n.startswith(f"{name}.")} for name in modules if name}
    listed = [
        name for name in layers
        if len(layers[name]) > 1 and isinstance(modules[owner(name)], nn.Sequential | nn.ModuleList)
    ]  # fmt: skip
    own = [name for name in listed if not isinstance(modules[name], nn.Sequential | nn.ModuleList)] or listed
    innermost = [name for name in own if not any(other.startswith(f"{name}.") for other in own)]
    if not innermost:
        raise ConfigError(
            "params='last_block': the encoder has no blocks (modules of several layers inside a Sequential or a "
            "ModuleList); expected 'head' or name patterns"
        )
    return max(innermost, key=lambda name: max(when[n] for n in when if n.startswith(f"{name}.")))


def owner(name: str) -> str:
    """The module that a parameter or module belongs to."""
    return name.rpartition(".")[0]


def called(name: str, order: dict[str, int]) -> int:
    """When a module, or the nearest one around it that is called, was called."""
    while name not in order:
        name = owner(name)
    return order[name]


def call_order(module: nn.Module, batch: Tensor) -> dict[str, int]:
    """The index of every module's first call."""
    order: dict[str, int] = {"": 0}

    def note(name: str):
        def hook(_module, _args) -> None:
            order.setdefault(name, len(order))

        return hook

    handles = [m.register_forward_pre_hook(note(name)) for name, m in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(batch)
    finally:
        for handle in handles:
            handle.remove()
    return order


def connected_parameters(module: nn.Module, names: list[str], batch: Tensor) -> set[str]:
    """Those parameters that the output is a differentiable function of."""
    parameters = [parameter(module, n) for n in names]
    for p in parameters:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            out = module(batch)
        if not out.requires_grad:
            return set()
        grads = torch.autograd.grad(out.sum(), parameters, allow_unused=True)
    finally:
        for p in parameters:
            p.requires_grad_(False)
    return {n for n, g in zip(names, grads, strict=True) if g is not None}


def parameter(module: nn.Module, name: str) -> nn.Parameter:
    """A parameter by name; a scripted module's too, where `get_parameter` finds none or is not supported."""
    try:
        return module.get_parameter(name)
    except (AttributeError, RuntimeError):
        return dict(module.named_parameters())[name]
