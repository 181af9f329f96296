"""From a recipe to the frozen encoder that it describes, with an account of every tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from krepes.encoders import transformers_models
from krepes.encoders.activation import fingerprint, input_of, refuse_another_function
from krepes.encoders.branches import twins
from krepes.encoders.composed import Encoder
from krepes.encoders.loading import Account, load_part, positional, refuse_incomplete, refuse_unusable
from krepes.encoders.names import called, imported, network
from krepes.encoders.projector import infer
from krepes.encoders.reading import read_checkpoint
from krepes.encoders.recipe import Architecture, Fingerprint, Head, Input, Recipe
from krepes.encoders.settling import OFF_SPACE, Settled, normalisation, settle
from krepes.encoders.state import State, allowed_by
from krepes.encoders.trust import Trust, refuse_untrusted
from krepes.errors import ConfigError, EncoderError, warn
from krepes.files import sha256_file


@dataclass(frozen=True)
class Loaded:
    """An encoder as its recipe describes it.

    Attributes:
        module: (B, ...) -> (B, d), in eval mode.
        account: what became of every tensor of the file.
        space: whose output it gives.
        note: what every reader of the audit must know; "" if nothing.
        recipe: with all that the preset and the file say filled in.
        words: the parts in words.
        input: the shape of a sample; none if it cannot be told.
        fingerprint: of the outputs; none without `input`.
    """

    module: Encoder
    account: Account
    space: str
    note: str
    recipe: Recipe
    words: tuple[str, ...]
    input: Input | None
    fingerprint: Fingerprint | None


def build(
    recipe: Recipe,
    folder: str | Path,
    allow_pickle: bool = False,
    modules_only: bool = False,
    trust_code: bool = False,
    run_folder: Path | None = None,
) -> Loaded:
    """The encoder of a recipe.

    Args:
        recipe: see `Recipe`.
        folder: where a relative checkpoint starts.
        allow_pickle: run what the checkpoint's pickle names; only for files of somebody you trust.
        modules_only: the recipe came with a run folder: import nothing that stands in the recipe's or the checkpoint's
            folder or in the working directory.
        trust_code: import code outside krepes, torchvision, timm and transformers that the recipe names; of all import
            paths nothing but nn.Module classes is called.
        run_folder: with `modules_only`: that folder, from which nothing is imported either.

    Raises:
        ConfigError: the recipe names something that is not there.
        EncoderError: the file cannot be read safely, does not fit exactly, or is not the file or the function that the
            recipe states.
    """
    path = checkpoint_of(recipe, Path(folder))
    if recipe.weights_sha256 is not None:
        refuse_another_file(path, recipe.weights_sha256)
    places = (Path(folder), path.parent, *([] if run_folder is None else [run_folder]))
    trust = Trust(code=trust_code, stranger=modules_only, folders=places)
    if recipe.arch is not None and recipe.arch.name.startswith("transformers:") and path.is_dir():
        refuse_untrusted(recipe.arch.name, "transformers", trust)
        return of_transformers(recipe, path)
    settled = settle(recipe, read_checkpoint(path, allow_pickle))
    return assembled(settled, path, trust)


def checkpoint_of(recipe: Recipe, folder: Path) -> Path:
    """The checkpoint's path."""
    if recipe.checkpoint is not None:
        return folder / recipe.checkpoint
    if recipe.arch is not None and recipe.arch.name.startswith("transformers:"):
        found = folder / recipe.arch.name.partition(":")[2]
        if found.is_dir():
            return found
    raise EncoderError("the recipe names no checkpoint: the file with the weights, relative to the recipe's folder")


def refuse_another_file(path: Path, expected: str) -> None:
    """Raise EncoderError where the file's checksum is not the recipe's."""
    if not path.is_file():
        raise EncoderError(f"there is no file {path}, whose checksum the recipe states")
    found = sha256_file(path)
    if found != expected:
        raise EncoderError(
            f"{path} has the sha256 {found[:12]}…, the recipe says {expected[:12]}…: it is another file, or damaged. "
            "Make the recipe anew with krepes convert, or correct weights_sha256."
        )


def assembled(settled: Settled, path: Path, trust: Trust) -> Loaded:
    """Networks made and filled."""
    recipe, parts, prefixes = settled.recipe, settled.parts, settled.parts.prefixes
    arch = recipe.arch
    if arch is None:
        raise EncoderError(f"the recipe says no arch, and {settled.why}")
    backbone, names, words = backbone_of(arch, parts.encoder, prefixes["encoder"], trust)
    account = load_part(backbone, parts.encoder, prefixes["encoder"], recipe.allow, names)
    described = [f"encoder: {words}"]
    wanted = {"projection": ("head",), "prediction": ("head", "predictor")}.get(settled.space, ())
    made: dict[str, nn.Module] = {}
    for part, given, spec in (("head", parts.head, recipe.head), ("predictor", parts.predictor, recipe.predictor)):
        if part in wanted:
            made[part], words, more = head_of(spec or Head(), given, prefixes[part], recipe.allow, trust)
            account += more
            described.append(f"{part}: {words}")
        elif given:
            keys = {prefixes[part] + n: t.numel() for n, t in given.items()}
            account += Account(ignored={f"the audited space is {settled.space}": keys})
    account += of_the_rest(parts.rest, recipe.allow)
    taken = {n: t for n, t in parts.encoder.items() if prefixes["encoder"] + n in account.loaded}
    found = twins(recipe, settled.state, taken, str(path))  # again, of the names that the network has
    account += Account(remarks=tuple(dict.fromkeys([*settled.remarks, *found])))
    if names and arch.name != "inferred" and not arch.name.startswith("transformers:"):
        shown = ", ".join(dict.fromkeys(f"{a.split('.')[0]} → {b.split('.')[0]}" for a, b in names.items()))
        account += Account(remarks=(f"names by position: {shown}",))
    refuse_incomplete(account, f"{path} and {arch.name}", prefixes["encoder"], recipe=True)
    module = Encoder(backbone, made.get("head"), made.get("predictor"), recipe.preprocess).eval()
    return checked(Loaded(
        module, account, settled.space, settled.note, recipe, tuple(described), None, None
    ), parts.encoder)  # fmt: skip


def backbone_of(arch: Architecture, part: State, prefix: str, trust: Trust) -> tuple[nn.Module, dict[str, str], str]:
    """The encoder's network, its names in the file, and words."""
    if arch.name == "inferred":
        if arch.layers is None:
            raise EncoderError(
                "an encoder that is inferred needs arch.layers, all layers in their order: the file does not say what "
                "follows its last weight. Such as arch: {name: inferred, layers: [linear, relu, linear, relu]}."
            )
        found = infer(part, prefix, arch.activation, arch.layers)
        return found.module, found.names, found.words
    module = network(arch, trust)
    if arch.name.startswith("transformers:") and not all(n.startswith("model.") for n in part):
        return module, {n: f"model.{n}" for n in part}, arch.name
    return module, positional(part, module), f"{arch.name} {arch.args or ''}".strip()


def head_of(spec: Head, part: State, prefix: str, allow: Sequence[str], trust: Trust) -> tuple[nn.Module, str, Account]:
    """A projector or predictor with its weights."""
    if spec.arch == "inferred":
        found = infer(part, prefix, spec.activation, spec.layers)
        return found.module, found.words, load_part(found.module, part, prefix, allow, found.names)
    module = called(imported(spec.arch, trust), spec.arch, spec.args)
    return module, spec.arch, load_part(module, part, prefix, allow, {})


def of_the_rest(rest: State, allow: Sequence[str]) -> Account:
    """Keys that belong to no part."""
    account = Account()
    for key, tensor in rest.items():
        pattern = allowed_by(key, allow)
        one = {key: tensor.numel()}
        account += Account(unexpected=one) if pattern is None else Account(ignored={f"allowed by {pattern}": one})
    return account


def of_transformers(recipe: Recipe, path: Path) -> Loaded:
    """A Hugging Face folder: the library translates names, and its report is the account."""
    assert recipe.arch is not None
    name = recipe.arch.name.partition(":")[2]
    refuse_meaningless(recipe)
    encoder, info, dropped = transformers_models.pretrained(path, name, recipe.arch.args)
    for n, t in encoder.model.state_dict().items():
        refuse_unusable(n, t)
    own = {n: t.numel() for n, t in encoder.model.state_dict().items()}
    missing = tuple(n for n in info["missing_keys"] if n in own)
    account = Account(
        {n: k for n, k in own.items() if n not in missing},
        {f"pooling is {encoder.pool}": dropped} if dropped else {},
        missing,
        mismatched=tuple((n, (), ()) for n in info["mismatched_keys"]),
        remarks=(
            *info["error_msgs"],
            *transformers_models.stored_types(path),
            normalisation(recipe, recipe, path, {}),
        ),
    )
    account += of_the_rest({n: torch.empty(0) for n in info["unexpected_keys"]}, recipe.allow)
    refuse_incomplete(account, f"{path} and {recipe.arch.name}", "", recipe=True)
    module = Encoder(encoder, preprocess=recipe.preprocess).eval()
    space = recipe.space or "backbone"
    if space not in ("backbone", "output"):
        raise EncoderError(
            f"space: {space} needs a projector, and {path} is a model without one. Say space: output where the "
            "objective was applied to the model's own output, else space: backbone."
        )
    said = space == "backbone" and recipe.objective is not None
    note = f"{OFF_SPACE}: the model has no projector" if said else ""
    words = (f"encoder: {recipe.arch.name}, pooled by {encoder.pool}, attention eager",)
    return checked(Loaded(module, account, space, note, recipe, words, None, None), own_state(encoder))


def refuse_meaningless(recipe: Recipe) -> None:
    """Raise ConfigError for fields that say nothing of a folder that transformers itself reads."""
    fields = (
        "preset", "branch", "container", "encoder_prefix", "head_prefix", "predictor_prefix", "head", "predictor",
        "rename", "doubled",
    )  # fmt: skip
    said = [name for name in fields if getattr(recipe, name) not in (None, "", [], {})]
    if recipe.arch is not None:
        said += [f"arch.{name}" for name in ("identity", "layers") if getattr(recipe.arch, name)]
    if said:
        raise ConfigError(
            f"{', '.join(said)} say nothing of a Hugging Face folder, whose names transformers knows itself"
        )


def own_state(module: nn.Module) -> State:
    """Its tensors."""
    return dict(module.state_dict())


def checked(loaded: Loaded, encoder: State) -> Loaded:
    """With the outputs' fingerprint, compared with the recipe's."""
    recipe = loaded.recipe
    try:
        shape = input_of(recipe, loaded.module.encoder, encoder)
    except EncoderError:
        if recipe.fingerprint is not None:
            raise
        return loaded
    expected = recipe.fingerprint
    if expected is None and recipe.input is None and not told_shape(recipe):
        return replace(loaded, input=shape, fingerprint=fingerprint_if_possible(loaded.module, shape))
    found = fingerprint(loaded.module, shape, 0 if expected is None else expected.seed)
    if expected is not None:
        refuse_another_function(found, expected)
    return replace(loaded, input=shape, fingerprint=found)


def told_shape(recipe: Recipe) -> bool:
    """Whether the shape of a sample is known rather than supposed."""
    name = recipe.arch.name if recipe.arch is not None else ""
    return name == "inferred" or name.startswith(("krepes:", "transformers:"))


def fingerprint_if_possible(module: nn.Module, shape: Input) -> Fingerprint | None:
    """The fingerprint, or none with a warning where the supposed shape is not what the module takes."""
    try:
        return fingerprint(module, shape)
    except EncoderError as error:
        warn(f"no fingerprint of the outputs: {error}")
        return None
