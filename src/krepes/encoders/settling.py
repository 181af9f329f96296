"""What a recipe leaves open, settled by the file: its preset, the space, the branch, the architecture."""

import re
from dataclasses import dataclass
from pathlib import Path

from krepes.encoders.presets import IMAGENET, Layout, Preset, completed, layout_of, prepared, preset
from krepes.encoders.reading import Checkpoint
from krepes.encoders.recipe import Recipe
from krepes.encoders.recognition import by_name, recognised
from krepes.encoders.sololearn import read_args, recipe_fields
from krepes.encoders.state import (
    Parts,
    State,
    containers,
    copies,
    divide,
    equal_copy,
    state_at,
    twice,
    unwrapped,
)
from krepes.errors import ConfigError, EncoderError

OFF_SPACE = "objective applied off its training space"


@dataclass(frozen=True)
class Settled:
    """A recipe without open questions, and the file by part.

    Attributes:
        recipe: complete; `arch` is none where it can neither be read nor recognised, and `why` says why.
        state: all tensors of the container.
        parts: of the encoder and its heads.
        space: audited.
        note: "" or that the objective is applied off its training space.
        remarks: for the account.
    """

    recipe: Recipe
    state: State
    parts: Parts
    space: str
    note: str
    why: str
    remarks: tuple[str, ...]


def settle(recipe: Recipe, checkpoint: Checkpoint) -> Settled:
    """Fill in what the preset and the file say.

    Raises:
        ConfigError: no such preset.
        EncoderError: a container, part or branch is not in the file, or not the only one there.
    """
    given, recipe = recipe, with_args(recipe, checkpoint.path)
    where, given_head = str(checkpoint.path), recipe.head_prefix
    container = container_of(recipe, checkpoint) if recipe.container is None else recipe.container
    state = state_at(checkpoint.content, container, where)
    layout = None
    if recipe.preset is not None and recipe.encoder_prefix is None:
        layout = found_layout(recipe, state, where)
    recipe = completed(recipe, layout).model_copy(update={"container": container})
    if layout is not None and layout.branch is not None:
        recipe = recipe.model_copy(
            update={"allow": [*recipe.allow, *other_branch(layout, preset(recipe.preset or ""))]}
        )
    refuse_mixed_branches(recipe, container)
    elsewhere = another_container(given, checkpoint, container, state, where)
    if recipe.rename:
        targets = [renamed(k, recipe.rename) for k in state]
        if len(set(targets)) < len(targets):
            raise EncoderError(f"the recipe's rename gives two tensors of {where} one name: '{twice(targets)}'")
        state = dict(zip(targets, state.values(), strict=True))
    prefixes = {
        "encoder": recipe.encoder_prefix or "", "head": recipe.head_prefix, "predictor": recipe.predictor_prefix,
    }  # fmt: skip
    parts = divide(state, prefixes)
    if not parts.encoder:
        tops = ", ".join(sorted({k.split(".")[0] for k in state})[:10])
        raise EncoderError(
            f"{where} holds no key under the encoder's prefix '{recipe.encoder_prefix}'; its keys start with {tops}. "
            "krepes inspect FILE shows them."
        )
    remarks = [*recipe.remarks, *elsewhere, *twins(recipe, state, parts.encoder, where)]
    space, note = space_of(recipe, given_head, parts, where)
    why = ""
    if recipe.arch is None:
        padding = preset(recipe.preset).stem_padding if recipe.preset else None
        found, why = recognised(parts.encoder, recipe.encoder_prefix or "", recipe.allow, padding)
        if found is not None:
            recipe = Recipe.model_validate(recipe.model_dump(exclude_unset=True) | {"arch": found})
            remarks.append(f"arch: {why}")
    remarks.append(normalisation(given, recipe, checkpoint.path, parts.encoder))
    recipe = recipe.model_copy(update={"space": space})
    return Settled(recipe, state, parts, space, note, why, tuple(remarks))


def told_beside(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with what stands beside its checkpoint, without reading the checkpoint."""
    return recipe if recipe.checkpoint is None else with_args(recipe, folder / recipe.checkpoint)


def with_args(recipe: Recipe, path: Path) -> Recipe:
    """A solo-learn recipe with what args.json says where it says nothing itself."""
    if recipe.preset != "solo-learn":
        return recipe
    args = read_args(path)
    if args is None:
        return recipe
    fields = recipe_fields(args)
    given = recipe.model_dump(exclude_unset=True)
    if recipe.objective is not None and fields.get("objective", {}).get("name") not in (None, recipe.objective["name"]):
        raise ConfigError(
            f"the recipe says that {recipe.objective['name']} trained this encoder, args.json beside it says "
            f"{fields['objective']['name']}"
        )
    if recipe.objective is not None and "objective" in fields:
        given["objective"] = fields["objective"] | recipe.objective
    if given.get("preprocess") is not None:
        given["preprocess"] = prepared(fields.get("preprocess", {}), given["preprocess"])
    remarks = [*recipe.remarks, *fields.pop("remarks")]
    return Recipe.model_validate({**fields, **given, "remarks": remarks})


def container_of(recipe: Recipe, checkpoint: Checkpoint) -> list[str]:
    """The first of the preset's containers that is there; without a preset the file itself."""
    chosen = preset(recipe.preset).containers if recipe.preset else ((),)
    for keys in chosen:
        content = checkpoint.content
        for key in keys:
            content = content.get(key) if isinstance(content, dict) else None
        if isinstance(content, dict):
            return list(keys)
    return list(chosen[0])


TEACHER, STUDENT = {"teacher", "momentum", "ema", "target"}, {"student", "online"}


def branch_of(name: str) -> str | None:
    """The branch that a prefix's or container's words name; none where they name none."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return "teacher" if words & TEACHER else "student" if words & STUDENT else None


def refuse_mixed_branches(recipe: Recipe, container: list[str]) -> None:
    """Raise EncoderError where the words of encoder, head, container and branch contradict each other."""
    encoder, head = recipe.encoder_prefix or "", recipe.head_prefix
    told = {branch_of(encoder), None if head is None else branch_of(head)}
    layouts = preset(recipe.preset).layouts if recipe.preset else ()
    known = {x.branch for x in layouts if x.encoder == recipe.encoder_prefix} - {None}
    contrary = [p for p in (encoder, head or "", ".".join(container)) if branch_of(p) not in (None, recipe.branch)]
    if recipe.branch is not None and (contrary or (known and recipe.branch not in known)):
        raise EncoderError(
            f"the recipe says branch: {recipe.branch}, but '{(contrary or [encoder])[0]}' is another branch's prefix. "
            "Correct one of them; with a preset and no prefixes, the branch alone is enough."
        )
    if head is not None and "teacher" in told and len(told) == 2:
        raise EncoderError(
            f"encoder_prefix '{encoder}' and head_prefix '{head}' are of two networks by their names: one is the "
            "teacher's. Take both of the same; a head that serves both networks can be given another name with rename."
        )


def another_container(
    given: Recipe, checkpoint: Checkpoint, container: list[str], state: State, where: str
) -> list[str]:
    """A remark about state dicts of the same names and shapes elsewhere in the file.

    Raises:
        EncoderError: there is one with other values, and the recipe as given says neither container nor branch.
    """
    remarks, own = [], unwrapped(state)
    for path, _ in containers(checkpoint.content):
        if path[: len(container)] == tuple(container):
            continue
        other = unwrapped(state_at(checkpoint.content, path, where))
        shared = [n for n in own if n in other and own[n].shape == other[n].shape]
        if 2 * len(shared) <= len(own):
            continue
        name, taken = ".".join(path), ".".join(container) or "(top)"
        if not equal_copy(other, {n: own[n] for n in shared}, ""):
            remarks.append(f"container '{name}' holds the same values as '{taken}'")
        elif given.container is None and given.branch is None:
            raise EncoderError(
                f"{where} holds two networks of the same names and shapes with other values, in '{taken}' and "
                f"'{name}': weights and their moving average? Say which: container: {taken} or container: {name}."
            )
        else:
            remarks.append(f"container '{taken}' is taken; '{name}' holds another network of its names and shapes")
    return remarks


def normalisation(given: Recipe, recipe: Recipe, path: Path, encoder: State) -> str:
    """A line that says whether the encoder normalises its images, and who says so.

    Args:
        given: before preset and args.json were filled in.
        recipe: after that.
        encoder: its tensors; none where a library reads them.
    """
    told = recipe.preprocess
    crop = "" if told is None or told.size is None else f"; images of {told.size} pixels, crop {told.crop:g}"
    if told is None or told.mean is None or told.std is None:
        return f"not normalised{crop}"
    if given.preprocess is not None and "mean" in given.preprocess.model_fields_set:
        source = "recipe"
    else:
        beside = with_args(given, path).preprocess
        source = "preset" if beside is None or "mean" not in beside.model_fields_set else "args.json"
    first = by_name(encoder).get("conv1.weight")
    small = first is not None and first.ndim == 4 and first.shape[2] == 3
    doubt = ""
    if source != "recipe" and small and told.mean == IMAGENET["mean"]:
        doubt = ": an assumption, ImageNet's constants with a 3 × 3 stem; state preprocess.mean and std"
    return f"normalised inside by mean {told.mean} std {told.std}, from {source}{doubt}{crop}"


def found_layout(recipe: Recipe, state: State, where: str) -> Layout:
    """The layout of the preset that the file has, of the branch that the recipe or else the framework chooses."""
    name = recipe.preset or ""
    chosen = preset(name)
    fitting = [layout for layout in chosen.layouts if fits(layout, state)]
    if recipe.branch is not None:
        layout_of(chosen, name, recipe.branch)  # raises where the framework knows no branches
        single = [x for x in fitting if x.branch is None] if recipe.branch == "student" else []
        fitting = [x for x in fitting if x.branch == recipe.branch] or single
        if not fitting:
            raise EncoderError(f"{where} holds no {recipe.branch} in the layout of {name}; {there(state)}")
    if not fitting:
        expected = " or ".join(sorted({f"'{x.encoder}'" for x in chosen.layouts}))
        raise EncoderError(
            f"{where} is not laid out as {chosen.source}: no keys under {expected}; {there(state)}. Choose another "
            "preset (krepes inspect FILE proposes one), or state the prefixes."
        )
    own = [layout for layout in fitting if layout.branch is not None and layout.branch == chosen.branch]
    return (own or fitting)[0]


def other_branch(layout: Layout, chosen: Preset) -> list[str]:
    """Patterns of the keys that the framework's other branch has."""
    own = {layout.encoder, layout.head, layout.predictor}
    others = [p for x in chosen.layouts if x.branch != layout.branch for p in (x.encoder, x.head, x.predictor)]
    return [f"{p}*" for p in dict.fromkeys(others) if p and p not in own]


def fits(layout: Layout, state: State) -> bool:
    """Whether the file has keys of the encoder, and of the predictor where the layout has one."""
    inner = [k.removeprefix(layout.encoder) for k in state if k.startswith(layout.encoder)]
    nested = {k.split(".")[0] for k in inner}
    if not inner or nested <= {"student", "teacher"}:
        return False
    wrapped = layout.encoder == "" and all(k.startswith("module.") for k in inner)
    needs = [p for p in (layout.predictor,) if p is not None]
    return not wrapped and all(any(k.startswith(p) for k in state) for p in needs)


def there(state: State) -> str:
    """The first parts of the keys, in words."""
    tops = list(
        dict.fromkeys(".".join(k.split(".")[:2]) if k.startswith("module.") else k.split(".")[0] for k in state)
    )
    return f"its keys start with {', '.join(tops[:10])}"


def renamed(key: str, rename: dict[str, str]) -> str:
    """A key with the recipe's replacements."""
    for old, new in rename.items():
        key = key.replace(old, new)
    return key


def twins(recipe: Recipe, state: State, part: State, where: str) -> list[str]:
    """Remarks about networks of the same shapes in the file.

    Args:
        part: the encoder's tensors, as far as they are known to count.

    Raises:
        EncoderError: there is one, and the recipe says no branch; or a doubled prefix holds other values.
    """
    own, remarks = recipe.encoder_prefix or "", []
    encoder = {n: t for n, t in part.items() if not n.startswith("fc.")}
    for prefix in recipe.doubled:
        different = equal_copy(state, encoder, prefix)
        if different:
            raise EncoderError(
                f"{where}: '{prefix}' must hold the encoder of '{own}' once more, but {len(different)} of "
                f"{len(encoder)} tensors differ or are missing, such as '{different[0]}'. The file was put together "
                "from two networks, or saved half way; say which one in encoder_prefix and doubled: []."
            )
        remarks.append(f"'{prefix}' holds the encoder once more, checked to be equal")
    heads = [p for p in (recipe.head_prefix, recipe.predictor_prefix) if p]
    for prefix in copies(state, part, own, [*heads, *recipe.doubled]):
        if not equal_copy(state, part, prefix):
            remarks.append(f"'{prefix}' holds the same values as '{own}'")
        elif recipe.branch is None:
            raise EncoderError(
                f"{where} holds two networks of the same shapes and other values, '{own}' and '{prefix}': student and "
                f"teacher? Say branch: student or teacher for '{own}', or take the other one as encoder_prefix."
            )
        elif branch_of(prefix) == recipe.branch and branch_of(own) != recipe.branch:
            raise EncoderError(
                f"the recipe says branch: {recipe.branch}, but by its name '{prefix}' is the {recipe.branch}, and "
                f"encoder_prefix is '{own}'. Correct one of them."
            )
        else:
            remarks.append(f"'{own}' is taken as the {recipe.branch}; '{prefix}' holds another network of its shapes")
    return remarks


def space_of(recipe: Recipe, given_head: str | None, parts: Parts, where: str) -> tuple[str, str]:
    """The audited space, and a note where the objective was trained in another one."""
    if given_head is not None and not parts.head:
        raise EncoderError(f"{where} holds no key under the head's prefix '{given_head}'")
    if recipe.space == "output" and parts.head:
        raise EncoderError(
            f"space: output is that of a network without a projector, and {where} holds one under "
            f"'{parts.prefixes['head']}': the objective was applied to the projector's output. Say space: projection, "
            f"or space: backbone; the audit is then labelled '{OFF_SPACE}'."
        )
    space = recipe.space or ("projection" if parts.head else "backbone")
    needed = {"backbone": [], "output": [], "projection": ["head"], "prediction": ["head", "predictor"]}[space]
    for part in needed:
        if not getattr(parts, part):
            prefix = parts.prefixes.get(part)
            missing = "the recipe has no prefix for it" if prefix is None else f"{where} has no key under '{prefix}'"
            raise EncoderError(
                f"space: {space} needs a {part}, and {missing}: most published files hold the backbone alone. Say "
                f"space: backbone; the audit is then labelled '{OFF_SPACE}'."
            )
    where_audited = {"backbone": "the backbone's output", "prediction": "the predictor's output"}.get(space, "")
    return space, f"{OFF_SPACE}, the projector's output: this audit is of {where_audited}" if where_audited else ""
