"""A checkpoint's tensors by name: found at a container, divided among encoder, projector and predictor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from krepes.encoders.pickles import listed
from krepes.errors import EncoderError

State = dict[str, Tensor]
COUNTERS = "*num_batches_tracked"  # only training reads them
DEPTH, NODES = 12, 100_000  # of nested mappings; a hostile file has endlessly many
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile


@dataclass(frozen=True)
class Parts:
    """A state dict by part; names without the prefix.

    Attributes:
        encoder, head, predictor: name ↦ tensor.
        prefixes: part ↦ its prefix in the file.
        rest: keys that belong to no part.
    """

    encoder: State
    head: State
    predictor: State
    prefixes: dict[str, str]
    rest: State = field(default_factory=dict)


def state_at(content: Any, container: Sequence[str] | None, where: str) -> State:
    """The tensors under a key path, nested mappings joined by dots.

    Args:
        content: what the file holds.
        container: keys; none where the file itself is the state dict.
        where: names the file in errors.

    Raises:
        EncoderError: a key is not there, or there are no tensors; says which keys and containers there are.
    """
    for i, key in enumerate(container or ()):
        content = entry(content, key, f"{where} has", ".".join([*(container or ())][:i]) or "its top")
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise EncoderError(
            f"{where} holds {type(content).__name__} at {'.'.join(container or ()) or 'its top'}; expected a state "
            "dict (name: tensor)"
        )
    pairs = list(flattened(content))
    state = dict(pairs)
    if len(state) < len(pairs):
        raise EncoderError(f"{where} holds two tensors of one name: '{twice([k for k, _ in pairs])}'")
    direct = [k for k, v in content.items() if isinstance(v, Tensor)]
    nested = [str(k) for k, v in content.items() if isinstance(v, Mapping) and any(True for _ in flattened(v))]
    if not state:
        but = but_an_optimisers(content)
        place = ".".join(container or ()) or "its top"
        raise EncoderError(f"{where} holds no tensors{but} at {place}{candidates(content)}")
    trained = "optimizer" in str(list(content)).lower() or any(is_optimiser(v) for v in content.values())
    if not container and not direct and nested and trained:
        raise EncoderError(
            f"{where} holds no tensors at its top but in {listed(nested)}: say which is the network, container: …"
            f"{candidates(content)}"
        )
    return state


def entry(content: Any, name: str, found: str, above: str) -> Any:
    """What a mapping holds under a key of this text, as recipes give keys; the file's own may be numbers.

    Args:
        found, above: begin an error with the file, and name the mapping in it.

    Raises:
        EncoderError: there is no such key, or several: 0 and '0'.
    """
    keys = [k for k in content if str(k) == name] if isinstance(content, Mapping) else []
    if not keys:
        there = [str(k) for k in content] if isinstance(content, Mapping) else [type(content).__name__]
        raise EncoderError(f"{found} no '{name}' under {above}; there: {listed(there)}{candidates(content)}")
    if len(keys) > 1:
        raise EncoderError(
            f"{found} several keys '{name}' under {above}: {', '.join(map(repr, keys))}. Save what is meant under "
            "another key."
        )
    return content[keys[0]]


def twice(names: Sequence[str]) -> str:
    """The first name that is there before."""
    return next(n for i, n in enumerate(names) if n in names[:i])


def is_optimiser(value: Any) -> bool:
    """Whether this is the state dict of a torch optimiser, of any name: its tensors are no network's."""
    return isinstance(value, Mapping) and "state" in value and isinstance(value.get("param_groups"), list | tuple)


def mappings(content: Any, optimisers: bool = True) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """(key path, mapping) of nested mappings, in order; one that holds itself is not entered again.

    The path is of the keys' texts, as errors and recipes give them; they are no keys to look up (see `entry`).

    Args:
        optimisers: False passes over those below the top, and over the top's `state` where it is one itself.

    Raises:
        EncoderError: there are more than a checkpoint has, as a hostile file makes them.
    """
    count = 0

    def walk(value: Any, path: tuple[str, ...], above: tuple[int, ...]) -> Iterator[Any]:
        nonlocal count
        if not isinstance(value, Mapping) or len(path) > DEPTH or id(value) in above:
            return
        count += 1
        if count > NODES:
            raise EncoderError(f"the file holds more than {NODES:,} nested mappings; no checkpoint does: it is hostile")
        yield path, value
        own = not path and is_optimiser(value)  # beside `state` there may be a network: not all of it is passed over
        for key, inner in value.items():
            if optimisers or not (is_optimiser(inner) or (own and key == "state")):
                yield from walk(inner, (*path, str(key)), (*above, id(value)))

    return walk(content, (), ())


def flattened(content: Mapping[Any, Any], optimisers: bool = False) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of nested mappings; lists and plain values are passed over, optimisers unless asked for."""
    for path, mapping in mappings(content, optimisers):
        for key, value in mapping.items():
            if isinstance(value, Tensor):
                yield ".".join([*path, str(key)]), value


def but_an_optimisers(content: Any) -> str:
    """A phrase that says so where the only tensors are an optimiser's; of content without others."""
    held = isinstance(content, Mapping) and any(True for _ in flattened(content, optimisers=True))
    return " but an optimiser's" if held else ""


def state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """(key path, mapping) of what may be a network: mappings that hold tensors themselves, no optimiser's."""
    for path, mapping in mappings(content, optimisers=False):
        if any(isinstance(v, Tensor) for v in mapping.values()):
            yield path, mapping


def containers(content: Any) -> list[tuple[tuple[str, ...], int]]:
    """Key paths of the state dicts, with their number of tensors."""
    return [(path, sum(isinstance(v, Tensor) for v in held.values())) for path, held in state_dicts(content)]


def candidates(content: Any) -> str:
    """A phrase that names where state dicts are."""
    found = [".".join(p) or "(the top)" for p, _ in containers(content)]
    return f". State dicts are at: {listed(found)}" if found else ""


def divide(state: State, prefixes: Mapping[str, str | None]) -> Parts:
    """Every key to the part with the longest prefix that it starts with.

    Args:
        prefixes: "encoder" ("" for bare names), "head", "predictor"; None where there is no such part.
    """
    known = {part: p for part, p in prefixes.items() if p is not None}
    parts: dict[str, State] = {"encoder": {}, "head": {}, "predictor": {}}
    rest: State = {}
    for key, tensor in state.items():
        fitting = [part for part, p in known.items() if key.startswith(p)]
        if not fitting:
            rest[key] = tensor
            continue
        part = max(fitting, key=lambda name: len(known[name]))
        parts[part][key.removeprefix(known[part])] = tensor
    return Parts(parts["encoder"], parts["head"], parts["predictor"], known, rest)


def copies(state: State, encoder: State, own: str, others: Sequence[str]) -> list[str]:
    """Prefixes under which the file holds a network of the encoder's names and shapes again.

    Args:
        own: the encoder's prefix.
        others: prefixes of the parts around it, which are no copies.
    """
    names = [n for n in encoder if not fnmatchcase(n, COUNTERS)]
    if not names:
        return []
    longest = max(names, key=len)
    found = []
    for key in state:
        prefix = key.removesuffix(longest)
        if prefix in (key, own) or (prefix and not prefix.endswith((".", "_"))):
            continue
        same = all(prefix + n in state and state[prefix + n].shape == encoder[n].shape for n in names)
        if same and not any(prefix.startswith(o) for o in others if o):
            found.append(prefix)
    return found


def equal_copy(state: State, encoder: State, prefix: str) -> list[str]:
    """Names whose values differ, or are missing, under another prefix."""
    names = [n for n in encoder if not fnmatchcase(n, COUNTERS)]
    return [n for n in names if prefix + n not in state or not torch.equal(state[prefix + n], encoder[n])]


def allowed_by(key: str, patterns: Sequence[str]) -> str | None:
    """The first pattern that allows a key to be left out."""
    return next((p for p in patterns if fnmatchcase(key, p)), None)


def shared_wrapper(state: State) -> str:
    """The wrapper that every key starts with, "" where there is none."""
    wrapper = ""
    while True:
        rest = [k.removeprefix(wrapper) for k in state]
        step = next((w for w in WRAPPERS if rest and all(k.startswith(w) for k in rest)), "")
        if not step:
            return wrapper
        wrapper += step


def unwrapped(state: State) -> State:
    """Without the wrapper that every key starts with."""
    wrapper = shared_wrapper(state)
    return {k.removeprefix(wrapper): t for k, t in state.items()}
