"""Converting a checkpoint to safetensors and a recipe that stand alone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from krepes.encoders.activation import fingerprint
from krepes.encoders.building import Loaded, build
from krepes.encoders.recipe import Architecture, Recipe
from krepes.encoders.transformers_models import PixelEncoder, TokenEncoder
from krepes.errors import EncoderError, RunFolderError
from krepes.files import sha256_file, write_atomically

WEIGHTS, RECIPE = "encoder.safetensors", "recipe.yaml"


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        folder: holds encoder.safetensors and recipe.yaml.
        recipe: as written, complete.
        loaded: the encoder, with the account of the original file.
    """

    folder: Path
    recipe: Recipe
    loaded: Loaded


def convert(
    recipe: Recipe,
    folder: str | Path,
    output: str | Path,
    allow_pickle: bool = False,
    overwrite: bool = False,
    trust_code: bool = False,
) -> Converted:
    """Write a checkpoint's encoder as safetensors with a recipe that says all, and check that it gives the same
    outputs.

    Args:
        recipe: of the original file.
        folder: where its checkpoint's path starts.
        output: a folder, made if needed.
        allow_pickle: see `build`.
        overwrite: replace what stands in the folder.
        trust_code: see `build`; the converted recipe needs it too.

    Raises:
        EncoderError: the original does not fit, the shape of a sample cannot be told, or is not what the encoder takes.
        RunFolderError: the folder holds a conversion already, or cannot be written.
    """
    output = Path(output)
    there = [name for name in (WEIGHTS, RECIPE) if (output / name).exists()]
    if there and not overwrite:
        raise RunFolderError(f"{output} holds {' and '.join(there)} already. Choose another folder, or --overwrite it.")
    refuse_overwriting_the_source(recipe, Path(folder), output / WEIGHTS)
    loaded = build(recipe, folder, allow_pickle, trust_code=trust_code)
    if loaded.input is None:
        raise EncoderError(
            "the shape of a sample cannot be told, so no outputs can be recorded; give the recipe an input: "
            "{shape: […]}"
        )
    if loaded.fingerprint is None:  # `build` has only warned of what is an error here
        loaded = replace(loaded, fingerprint=fingerprint(loaded.module, loaded.input))
    tensors = {n: t.detach().clone().contiguous() for n, t in loaded.module.state_dict().items()}
    write_atomically(output / WEIGHTS, lambda p: save_file(tensors, p, {"format": "pt"}))
    alone = standing_alone(loaded, output / WEIGHTS)
    again = build(alone, output, trust_code=trust_code)
    alone.save(output / RECIPE)
    return Converted(output, again.recipe.model_copy(update={"fingerprint": alone.fingerprint}), loaded)


def refuse_overwriting_the_source(recipe: Recipe, folder: Path, target: Path) -> None:
    """Raise EncoderError where the converted weights would replace the original."""
    if recipe.checkpoint is not None and (folder / recipe.checkpoint).resolve() == target.resolve():
        raise EncoderError(f"{target} is the original itself; convert it to another folder")


def standing_alone(loaded: Loaded, weights: Path) -> Recipe:
    """The recipe of the converted file: nothing in it is left to a preset."""
    told = loaded.recipe
    return Recipe(
        checkpoint=weights.name,
        encoder_prefix="encoder.",
        head_prefix="head." if loaded.module.head is not None else None,
        predictor_prefix="predictor." if loaded.module.predictor is not None else None,
        arch=plain_arch(loaded),
        head=told.head if loaded.module.head is not None else None,
        predictor=told.predictor if loaded.module.predictor is not None else None,
        space=told.space if told.space is not None else "backbone",
        objective=told.objective,
        views=told.views,
        preprocess=told.preprocess,
        branch=told.branch,
        input=loaded.input,
        weights_sha256=sha256_file(weights),
        fingerprint=loaded.fingerprint,
        remarks=[*told.remarks, *([loaded.note] if loaded.note else [])],
    )


def plain_arch(loaded: Loaded) -> Architecture:
    """The architecture under which the converted weights load."""
    arch = loaded.recipe.arch
    assert arch is not None
    encoder = loaded.module.encoder
    if isinstance(encoder, TokenEncoder | PixelEncoder):
        settings = encoder.model.config
        kind = settings.model_type  # pyright: ignore[reportAttributeAccessIssue]
        args: dict[str, Any] = {"config": plain(settings), "pool": encoder.pool}
        if isinstance(encoder, TokenEncoder):
            args["pad_id"] = encoder.pad_id
        return Architecture(name=f"transformers:{kind}", args=args)
    return arch


def plain(settings: Any) -> dict[str, Any]:
    """A configuration's fields that differ from the defaults."""
    fields = settings.to_diff_dict()
    left = ("architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype")
    return {k: v for k, v in fields.items() if k not in left} | {"model_type": settings.model_type}
