"""Strict loading: every tensor of the network comes from the file, and every tensor of the file is accounted for."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from krepes.encoders.state import COUNTERS, State, allowed_by
from krepes.errors import EncoderError

SHOWN = 8  # names listed of each kind
PREDICTOR = re.compile(r"(?:\w+\.)*?\w*(?:predictor|prediction_head)\w*\.")  # BYOL's, as frameworks call it
CONVERTED = ("encoder.", "head.", "predictor.")  # how `krepes convert` names the parts
CLASSIFIERS = ("fc", "head", "heads", "classifier")  # of torchvision's and timm's networks


@dataclass(frozen=True)
class Account:
    """What became of every tensor of a file.

    Attributes:
        loaded: key in the file ↦ entries.
        ignored: why ↦ {key: entries}; why is the pattern that allows it, or the space.
        missing: names in the network that the file lacks.
        unexpected: keys of the file that have no place.
        mismatched: (key, shape found, shape expected).
        remarks: what was assumed or converted.
    """

    loaded: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: dict[str, int] = field(default_factory=dict)
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    remarks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """In words, a line for each kind."""
        yield f"loaded     {counted(self.loaded)}"
        for why, keys in self.ignored.items():
            yield f"ignored    {counted(keys)}, {why}: {shown(keys)}"
        yield f"missing    {len(self.missing)} tensors" + (f": {shown(self.missing)}" if self.missing else "")
        extra = f": {shown(self.unexpected)}" if self.unexpected else ""
        yield f"unexpected {counted(self.unexpected)}{extra}"
        for key, found, expected in self.mismatched:
            yield f"shape      {key} is {found}, the network has {expected}"
        yield from (f"note       {remark}" for remark in self.remarks)

    def __add__(self, other: "Account") -> "Account":
        ignored = {k: {**self.ignored.get(k, {}), **other.ignored.get(k, {})} for k in self.ignored | other.ignored}
        return Account(
            self.loaded | other.loaded, ignored, self.missing + other.missing, self.unexpected | other.unexpected,
            self.mismatched + other.mismatched, self.remarks + other.remarks,
        )  # fmt: skip

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, unexpected or of another shape."""
        return not (self.missing or self.unexpected or self.mismatched)


def counted(keys: Mapping[str, int]) -> str:
    """Tensors and the numbers in them."""
    return f"{len(keys)} tensors ({sum(keys.values()):,} numbers)"


def shown(names: Sequence[str] | Mapping[str, int]) -> str:
    """The first names, and how many more."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def load_part(module: nn.Module, part: State, prefix: str, allow: Sequence[str], names: Mapping[str, str]) -> Account:
    """Load one part of a file into its network, as far as both agree, and say what became of every tensor.

    Args:
        module: changed in place.
        part: tensors by name without the prefix.
        prefix: of the names in the file.
        allow: patterns of whole keys that may be left out.
        names: name in the part ↦ name in the network, where they differ.

    Raises:
        EncoderError: a tensor is quantised, sparse or not finite.
    """
    own = module.state_dict()
    given = {names.get(n, n): (n, t) for n, t in part.items()}
    loaded, ignored, unexpected, mismatched = {}, {}, {}, []
    taken: State = {}
    halves = set()
    for target, (name, tensor) in given.items():
        key = prefix + name
        pattern = allowed_by(key, [*allow, COUNTERS])
        if target not in own and pattern is not None:
            ignored.setdefault(f"allowed by {pattern}", {})[key] = tensor.numel()
        elif target not in own:
            unexpected[key] = tensor.numel()
        elif own[target].shape != tensor.shape:
            mismatched.append((key, tuple(tensor.shape), tuple(own[target].shape)))
        else:
            refuse_another_kind(key, tensor, own[target])
            refuse_unusable(key, tensor)
            if tensor.dtype != own[target].dtype:
                halves.add(f"{str(tensor.dtype).removeprefix('torch.')} read as {own[target].dtype}"[:80])
            taken[target] = tensor
            loaded[key] = tensor.numel()
    missing = [n for n in own if n not in given and not fnmatchcase(n, COUNTERS)]
    module.load_state_dict(taken, strict=False)  # the account says all that strict=True would, and more
    return Account(
        loaded, ignored, tuple(prefix + n for n in missing), unexpected, tuple(mismatched), tuple(sorted(halves))
    )


def refuse_another_kind(key: str, tensor: Tensor, own: Tensor) -> None:
    """Raise EncoderError for numbers of another kind than the network's: integers for floats, or 8-bit floats."""
    eight = tensor.is_floating_point() and tensor.dtype.itemsize == 1
    same = tensor.is_floating_point() == own.is_floating_point() and (tensor.dtype == torch.bool) == (
        own.dtype == torch.bool
    )
    if eight or not (same or tensor.is_complex() or tensor.is_quantized):
        raise EncoderError(
            f"'{key}' is {str(tensor.dtype).removeprefix('torch.')}, the network has "
            f"{str(own.dtype).removeprefix('torch.')}: quantised, with a scale elsewhere? Save the network "
            "as float32, float16 or bfloat16."
        )


def refuse_unusable(key: str, tensor: Tensor) -> None:
    """Raise EncoderError for a tensor that is no plain array of finite numbers."""
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_complex():
        raise EncoderError(
            f"'{key}' is "
            f"{'quantised' if tensor.is_quantized else tensor.layout if not tensor.is_complex() else 'complex'}; "
            "krepes loads plain real tensors. Save the network before it was quantised or pruned."
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise EncoderError(f"'{key}' holds NaN or infinity: training diverged, or the file is damaged")


def refuse_incomplete(account: Account, where: str, prefix: str, recipe: bool = False) -> None:
    """Raise EncoderError unless the file and the network agree, with near matches.

    Args:
        where: names the file and the network.
        prefix: the encoder's, for the proposal of another one.
        recipe: whether a recipe says how they go together; else a configuration's factory and weights do.
    """
    if account.complete:
        return
    lines = [f"{where} do not fit; nothing is loaded half:"]
    lines += [f"  {line}" for line in account.lines()]
    lines += [f"  {line}" for line in proposals(account, prefix, recipe)]
    lines.append(
        "Correct the prefixes or arch in the recipe (krepes inspect FILE shows the keys), or list keys that the "
        "network does not need under allow." if recipe else without_recipe(account)
    )  # fmt: skip
    raise EncoderError("\n".join(lines))


def without_recipe(account: Account) -> str:
    """What to do where a factory's network and a file of weights do not fit."""
    converted = account.unexpected and all(k.startswith(CONVERTED) for k in account.unexpected)
    # a factory's own modules may be named so too: then some of them are in the file
    own = account.loaded or account.mismatched or any(n.startswith(CONVERTED) for n in account.missing)
    if converted and not own:
        return (
            "The file's names start with 'encoder.', as krepes convert writes them: say encoder: {recipe: FOLDER}, the "
            "folder with its recipe.yaml, instead of factory, args and weights."
        )
    return (
        "'missing' are tensors that the factory's network has, 'unexpected' those that the file has: correct "
        "encoder.factory or encoder.args so that they make the network that was saved, or save its weights again under "
        "the network's names."
    )


def proposals(account: Account, prefix: str, recipe: bool) -> Iterator[str]:
    """Another prefix under which the missing names are, or names that look alike."""
    missing = [n.removeprefix(prefix) for n in account.missing]
    tops = {n.split(".")[0] for n in missing}
    if len(tops) == 1 and tops <= set(CLASSIFIERS):
        top = tops.pop()
        way = f"say arch.identity: [{top}]" if recipe else "let the factory put a torch.nn.Identity there"
        yield f"a checkpoint without the classifier '{top}': {way}"
    for top in dict.fromkeys(found[0] for found in map(PREDICTOR.match, account.unexpected) if found):
        way = f"say predictor_prefix: {top} or allow: ['{top}*']" if recipe else "the factory's network has none"
        yield f"'{top}' is a predictor by its name: {way}"
    unused = {*account.unexpected, *(key for keys in account.ignored.values() for key in keys)}
    other = other_prefix(missing, unused) if missing else None
    if other is not None and other != prefix:
        own = f"the recipe says '{prefix}'" if recipe else "the factory's network has them without it"
        yield f"the file has these names under the prefix '{other}'; {own}"
        return
    for name in list(account.missing)[:5]:
        near = difflib.get_close_matches(name, list(account.unexpected), n=1, cutoff=0.6)
        if near:
            yield f"'{name}' is missing and '{near[0]}' has no place: the same tensor?"


def other_prefix(names: Sequence[str], keys: Collection[str]) -> str | None:
    """A prefix under which most of the names are among the keys."""
    longest = max(names, key=len)
    found = [key.removesuffix(longest) for key in keys if key.endswith(longest)]
    share = {p: sum(p + n in keys for n in names) / len(names) for p in found}
    best = max(share, key=lambda p: share[p], default=None)
    return best if best is not None and share[best] > 0.5 else None


def positional(part: State, module: nn.Module) -> dict[str, str]:
    """Names of a `Sequential` of a network's children ↦ the network's names, in order.

    `Sequential(*list(resnet.children())[:-1])` calls conv1 `0`; layers without weights leave gaps, so that the order
    of the children with weights decides, and the shapes are checked when loading.
    """
    tops = {n.split(".")[0] for n in part}
    children = [n for n, m in module.named_children() if m.state_dict()]
    if not tops or not all(t.isdigit() for t in tops) or all(c.isdigit() for c in children):
        return {}
    order = sorted(tops, key=int)
    if len(order) > len(children):
        return {}
    target = dict(zip(order, children, strict=False))
    seen: dict[Any, str] = {}
    for child in target.values():
        form = tuple((n, tuple(t.shape)) for n, t in module.get_submodule(child).state_dict().items())
        if form in seen:
            raise EncoderError(
                f"the file numbers its layers ({', '.join(order[:6])}), and '{seen[form]}' and '{child}' of it "
                "have the same shapes, so which is which cannot be told. Give them names: rename: {'0.': 'conv1.', …}."
            )
        seen[form] = child
    return {n: ".".join([target[n.split(".")[0]], *n.split(".")[1:]]) for n in part}
