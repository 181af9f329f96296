"""What a recipe leaves open, settled by the file: its preset, the space, the branch, the architecture."""

from dataclasses import dataclass
from pathlib import Path

from krepes.encoders.branches import another_container, refuse_mixed_branches, twins
from krepes.encoders.presets import IMAGENET, Layout, Preset, completed, layout_of, prepared, preset
from krepes.encoders.projector import ends
from krepes.encoders.reading import Checkpoint
from krepes.encoders.recipe import Recipe
from krepes.encoders.recognition import by_name, recognised
from krepes.encoders.sololearn import read_args, recipe_fields
from krepes.encoders.state import Parts, State, divide, state_at, twice
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
    where, stated = str(checkpoint.path), {"head": recipe.head_prefix, "predictor": recipe.predictor_prefix}
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
    refuse_empty_parts(stated, parts, where)
    refuse_a_predictor_of_another_width(parts, where)
    space, note = space_of(recipe, parts, where)
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


def refuse_empty_parts(stated: dict[str, str | None], parts: Parts, where: str) -> None:
    """Raise EncoderError for a prefix that the recipe itself states and no key has, or that two parts share.

    Args:
        stated: "head" and "predictor" ↦ prefix; None where only a preset says it.
    """
    for part, prefix in stated.items():
        if prefix is None or getattr(parts, part):
            continue
        shared = [other for other, p in parts.prefixes.items() if p == prefix and other != part]
        found = f"; {shared[0]}_prefix is the same, and each key has one part" if shared else ""
        raise EncoderError(
            f"{where} holds no key under the {part}'s prefix '{prefix}'{found}. Correct {part}_prefix, or leave it out "
            "where there is none (krepes inspect FILE shows the keys)."
        )


def refuse_a_predictor_of_another_width(parts: Parts, where: str) -> None:
    """Raise EncoderError where the predictor does not take what the projector gives, audited or not."""
    given, taken = ends(parts.head), ends(parts.predictor)
    if given is not None and taken is not None and given[1] != taken[0]:
        raise EncoderError(
            f"{where}: what is under the predictor's prefix '{parts.prefixes['predictor']}' takes {taken[0]} numbers, "
            f"the projector under '{parts.prefixes['head']}' gives {given[1]}: it is no predictor of it. Correct "
            "predictor_prefix, or leave it out and list these keys under allow."
        )


def space_of(recipe: Recipe, parts: Parts, where: str) -> tuple[str, str]:
    """The audited space, and a note where the objective was trained in another one."""
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
