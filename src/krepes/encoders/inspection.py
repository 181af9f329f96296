"""What a checkpoint holds: its prefixes with shapes, and the preset that fits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from krepes.encoders.presets import PRESETS
from krepes.encoders.reading import Checkpoint, read_checkpoint
from krepes.encoders.recipe import Architecture, Recipe
from krepes.encoders.settling import Settled, fits, settle
from krepes.encoders.sololearn import read_args
from krepes.encoders.state import State, but_an_optimisers, containers, shared_wrapper, state_at
from krepes.errors import ConfigError, EncoderError


@dataclass(frozen=True)
class Node:
    """A prefix and what is under it.

    Attributes:
        prefix: of the keys, with the dot.
        tensors, numbers: how many tensors, and numbers in them.
        dtypes: names.
        shapes: of its first tensors, in words.
        depth: in the tree.
    """

    prefix: str
    tensors: int
    numbers: int
    dtypes: str
    shapes: str
    depth: int


@dataclass(frozen=True)
class Inspection:
    """A checkpoint's content.

    Attributes:
        path, format, size: the file, its kind, its bytes.
        containers: key paths that hold state dicts, with their number of tensors.
        container: the one that is shown.
        tree: its prefixes, depth first.
        proposal: a recipe to begin with; none if no preset fits.
        why: what speaks for the proposal, and what it leaves open.
    """

    path: Path
    format: str
    size: int
    containers: tuple[tuple[str, int], ...]
    container: str
    tree: tuple[Node, ...]
    proposal: Recipe | None
    why: tuple[str, ...]


def inspect_checkpoint(path: str | Path, allow_pickle: bool = False, depth: int = 3) -> Inspection:
    """What a checkpoint holds, without building anything.

    Args:
        path: the file, or a folder of safetensors.
        allow_pickle: see `read_checkpoint`.
        depth: of the tree of prefixes.

    Raises:
        EncoderError: the file cannot be read safely, or holds no tensors.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path, allow_pickle)
    found = containers(checkpoint.content)
    if not found:
        kind = type(checkpoint.content).__name__
        but = but_an_optimisers(checkpoint.content)
        raise EncoderError(f"{path} holds no tensors{but} ({kind}); expected a checkpoint with a state dict")
    proposal, why = propose(checkpoint)
    container = proposal.container if proposal is not None else list(max(found, key=lambda c: c[1])[0])
    state = state_at(checkpoint.content, container, str(path))
    size = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.glob("*.safetensors"))
    named = tuple((".".join(p) or "(top)", n) for p, n in found)
    return Inspection(
        path, checkpoint.format, size, named, ".".join(container or []) or "(top)", tuple(tree(state, depth)), proposal,
        tuple(why),
    )  # fmt: skip


def tree(state: State, depth: int = 3) -> Iterator[Node]:
    """Prefixes of the keys, depth first; a prefix with a single branch is joined with it."""

    def walk(names: dict[str, Tensor], prefix: str, level: int) -> Iterator[Node]:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in names.items():
            top, dot, _ = name.partition(".")
            groups.setdefault(top + dot, {})[name.removeprefix(top + dot)] = tensor
        for top, inner in groups.items():
            while len({n.partition(".")[0] for n in inner}) == 1 and all("." in n for n in inner):
                step = next(iter(inner)).partition(".")[0] + "."
                top, inner = top + step, {n.removeprefix(step): t for n, t in inner.items()}
            yield node(inner, prefix + top, level)
            if level + 1 < depth and any("." in n for n in inner):
                yield from walk(inner, prefix + top, level + 1)

    yield from walk(state, "", 0)


def node(tensors: dict[str, Tensor], prefix: str, depth: int) -> Node:
    """A prefix in figures."""
    dtypes = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
    shown = [f"{n} {'×'.join(map(str, t.shape)) or '()'}".strip() for n, t in list(tensors.items())[:2]]
    more = f" … ({len(tensors)})" if len(tensors) > 2 else ""
    return Node(prefix, len(tensors), sum(t.numel() for t in tensors.values()), dtypes, ", ".join(shown) + more, depth)


def propose(checkpoint: Checkpoint) -> tuple[Recipe | None, list[str]]:
    """A recipe that settles on this file, and why.

    A preset is proposed when the encoder's prefix and, where it has one, the head's are in the file; the one that
    explains most tensors wins. Nothing is proposed where several explain equally many.
    """
    scored = [(score, name, recipe) for name in PRESETS for score, recipe in [candidate(name, checkpoint)] if recipe]
    if not scored:
        return hugging_face(checkpoint.path) if is_hugging_face(checkpoint.path) else ad_hoc(checkpoint)
    top = max(s for s, _, _ in scored)
    best = [(name, recipe) for s, name, recipe in scored if s == top]
    if len(best) > 1 and not any(name == "solo-learn" and read_args(checkpoint.path) for name, _ in best):
        names = " or ".join(name for name, _ in best)
        return None, [f"the keys fit {names} alike; their constants differ, so say which: krepes convert --preset NAME"]
    name, recipe = next(((n, r) for n, r in best if n == "solo-learn"), best[0])
    return explained(name, recipe, checkpoint)


def candidate(name: str, checkpoint: Checkpoint) -> tuple[float, Recipe | None]:
    """How well a preset fits (0 to 2), and its recipe."""
    chosen = PRESETS[name]
    if name == "ad-hoc":
        return 0.0, None
    for keys in chosen.containers:
        try:
            state = state_at(checkpoint.content, keys, "")
        except EncoderError:
            continue
        for layout in chosen.layouts:
            own = sum(k.startswith(layout.encoder) for k in state)
            head = sum(k.startswith(layout.head) for k in state) if layout.head else 0
            bare = layout.encoder == ""
            if bare or not own or (layout.head and not head) or not fits(layout, state):
                continue
            telling = head + sum(k.startswith(layout.predictor) for k in state) if layout.predictor else head
            inside = layout.head is not None and layout.head.startswith(layout.encoder)
            share = (own + (0 if inside else telling)) / len(state)
            args = 0.5 if name == "solo-learn" and read_args(checkpoint.path) else 0.0
            return share + args + (0.25 if inside else 0.0), Recipe(preset=name, checkpoint=checkpoint.path.name)
    return 0.0, None


def explained(name: str, recipe: Recipe, checkpoint: Checkpoint) -> tuple[Recipe | None, list[str]]:
    """The proposal with what the file settles, and its reasons."""
    why = [f"{name}: {PRESETS[name].source}"]
    try:
        settled = settle(recipe, checkpoint)
    except (EncoderError, ConfigError) as error:
        return recipe, [*why, f"to be settled: {error}"]
    return proposed(recipe, settled), [*why, *reasons(settled)]


def proposed(recipe: Recipe, settled: Settled) -> Recipe:
    """The recipe with container, prefixes and architecture written out."""
    told = settled.recipe
    fields = (
        "container", "encoder_prefix", "head_prefix", "predictor_prefix", "arch", "branch", "objective", "preprocess",
    )  # fmt: skip
    known = {k: getattr(told, k) for k in fields if getattr(told, k) is not None}
    return recipe.model_copy(update=known | {"space": settled.space})


def reasons(settled: Settled) -> list[str]:
    """What was found for each part."""
    parts, prefixes = settled.parts, settled.parts.prefixes
    held = {"encoder": parts.encoder, "head": parts.head, "predictor": parts.predictor}
    found = [f"{part} under '{prefixes[part]}' ({len(tensors)} tensors)" for part, tensors in held.items() if tensors]
    open_ends = [f"to be settled: {settled.why}"] if settled.recipe.arch is None else []
    if settled.recipe.objective is None:
        open_ends.append("to be settled: which objective trained it (objective: {name: …})")
    return [*found, *settled.remarks, *([settled.note] if settled.note else []), *open_ends]


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds the configuration of one of transformers' models."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model_type" in content


def hugging_face(folder: Path) -> tuple[Recipe, list[str]]:
    """A recipe for a folder of transformers' form, which its library reads."""
    recipe = Recipe(checkpoint=folder.name, arch=Architecture(name=f"transformers:{folder.name}"), space="backbone")
    return recipe, [
        "a Hugging Face folder: config.json beside safetensors",
        "to be settled: the pooling (arch.args.pool: mean, cls or pooler); default mean for tokens, cls for pixels",
        "to be settled: space: output, if the objective was applied to the model's own output",
        "to be settled: which objective trained it (objective: {name: …})",
    ]


def ad_hoc(checkpoint: Checkpoint) -> tuple[Recipe | None, list[str]]:
    """A recipe with container and prefix written out, where exactly one place can be meant."""
    found = [keys for keys, _ in containers(checkpoint.content) if "optim" not in ".".join(keys).lower()]
    if len(found) != 1:
        names = ", ".join(".".join(k) or "(top)" for k in found)
        return None, [f"no preset fits; state dicts are at {names}: say container and prefixes in a recipe"]
    keys = found[0]
    state = state_at(checkpoint.content, keys, "")
    wrapper = shared_wrapper(state)
    recipe = Recipe(preset="ad-hoc", checkpoint=checkpoint.path.name, container=list(keys), encoder_prefix=wrapper)
    why = [f"no framework's layout; one state dict at {'.'.join(keys) or '(top)'}"]
    if wrapper:
        why.append(f"every key starts with '{wrapper}' (DataParallel or torch.compile)")
    try:
        settled = settle(recipe, checkpoint)
    except (EncoderError, ConfigError) as error:
        return recipe, [*why, f"to be settled: {error}"]
    return proposed(recipe, settled), [*why, *reasons(settled)]
