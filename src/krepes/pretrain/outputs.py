"""What a training run leaves: weights, a recipe, a configuration for the audit; and a probe to judge it by."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from krepes.config.reading import resolve
from krepes.config.views import KINDS, USER
from krepes.data import Source, TableSchema
from krepes.encoders.activation import fingerprint
from krepes.encoders.composed import Encoder
from krepes.encoders.recipe import Architecture, Input, Preprocess, Recipe
from krepes.errors import DataError, RunFolderError
from krepes.files import sha256_file, write_atomically
from krepes.objectives import BYOL, Objective
from krepes.pretrain.config import NetworkConfig, PretrainConfig
from krepes.pretrain.training import Trained

WEIGHTS = "encoder.safetensors"
OUTPUTS = (WEIGHTS, "schema.json", "recipe.yaml", "audit.yaml")
PATHS = ("table", "array", "images", "packed", "schema", "labels")  # keys of `data` that name files


def write_outputs(
    config: PretrainConfig,
    network: NetworkConfig,
    objective: Objective,
    trained: Trained,
    source: Source,
    schema: TableSchema | None,
    folder: Path,
    output: Path,
) -> None:
    """What is not there yet; what is stays as it is, and is checked to be this run's.

    Raises:
        RunFolderError: weights, recipe or schema that are there are not those of this run.
    """
    weights = output / WEIGHTS
    if not weights.exists():
        write_weights(trained.network, weights)
    elif not holds(weights, trained.network):
        raise RunFolderError(f"{weights} {CHANGED}")
    if schema is not None and not (output / "schema.json").exists():
        write_atomically(output / "schema.json", schema.save)
    elif schema is not None and TableSchema.load(output / "schema.json") != schema:
        raise RunFolderError(f"{output / 'schema.json'} {CHANGED}")
    recipe = output / "recipe.yaml"
    if not recipe.exists():
        write_recipe(config, network, objective, trained, source, output)
    elif Recipe.load(recipe).weights_sha256 != sha256_file(weights):
        raise RunFolderError(f"{recipe} {CHANGED}")
    if not (output / "audit.yaml").exists():
        write_audit(config, network, objective, folder, output)


CHANGED = "is not what this run wrote; remove it to have it written again, or begin anew with --overwrite"


def holds(path: Path, network: nn.Module) -> bool:
    """Whether a weights file has a network's very tensors."""
    try:
        found = load_file(path)
    except (SafetensorError, OSError):
        return False
    own = network.state_dict()
    return found.keys() == own.keys() and all(torch.equal(found[k], v.detach().cpu()) for k, v in own.items())


def write_weights(network: nn.Module, path: Path) -> Path:
    """A network's state as safetensors, atomically."""
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    return write_atomically(path, lambda p: save_file(state, p))


def write_recipe(
    config: PretrainConfig, network: NetworkConfig, objective: Objective, trained: Trained, source: Source, output: Path
) -> Path:
    """`recipe.yaml`: how to get from the weights to the encoder, and how it was trained.

    With a normalisation of the images the recipe's encoder does it inside, and the fingerprint is that encoder's.
    """
    train = config.train
    sample = source.batch([0])
    shape = Input(shape=list(sample.shape[1:])) if sample.is_floating_point() else None  # tokens need a vocabulary
    preprocess = prepared(config)
    views = config.views.model_dump(mode="json", exclude_unset=True)
    # other views than of images were made of normalised ones, where a standard deviation is another one
    scaled = preprocess is not None and preprocess.mean is not None and not of_images(views)
    recipe = Recipe(
        checkpoint=WEIGHTS,
        encoder_prefix="",
        arch=Architecture(name=network.factory, args=network.args),
        space="output",
        objective=plain_objective(objective),
        views=None if scaled else views if preprocess is None else without_moments(views),
        preprocess=preprocess,
        branch="student" if isinstance(objective, BYOL) else None,
        input=shape,
        weights_sha256=sha256_file(output / WEIGHTS),
        fingerprint=None if shape is None else fingerprint(Encoder(trained.network, preprocess=preprocess), shape),
        remarks=[
            *([f"images were prepared by {source.preprocess}"] if hasattr(source, "preprocess") else []),  # pyright: ignore[reportAttributeAccessIssue]
            *([f"views {views} were of normalised images; audit.yaml normalises in `data` for them"] if scaled else []),
            f"krepes pretrain: {len(source)} samples, {train.epochs} epochs of batches of {train.batch_size}, AdamW lr "
            f"{train.lr:g} ({train.schedule}), weight decay {train.weight_decay:g}, seed {config.seed}",
            f"loss {trained.losses[0]:.6g} in the first epoch, {trained.losses[-1]:.6g} in the last; the embeddings' "
            f"columns have a standard deviation of {trained.spread[-1]:.3g} of their size",
        ],
    )
    return recipe.save(output / "recipe.yaml")


def prepared(config: PretrainConfig) -> Preprocess | None:
    """The recipe's preprocessing: mean and std, and size and crop where a recipe can say them; none without any."""
    given = config.data.preprocess
    if given is None or (given.size is None and given.mean is None):
        return None
    size = {}
    crop = given.crop[0] if isinstance(given.crop, list) and len(set(given.crop)) == 1 else given.crop
    if isinstance(given.size, int) and isinstance(crop, int) and 0 < crop <= given.size:
        size = {"size": crop, "crop": crop / given.size, "interpolation": given.interpolation}
    return Preprocess.model_validate({"mean": given.mean, "std": given.std, **size}) if size or given.mean else None


def of_images(views: dict[str, Any]) -> bool:
    """Whether all parts of views undo the images' normalisation before they augment."""
    parts = [*views.get("compose", ()), *views.get("pair", ())]
    return all(map(of_images, parts)) if parts else KINDS.get(views["name"], USER)[-1] == "image"


def without_moments(views: dict[str, Any]) -> dict[str, Any]:
    """Views of images that are not normalised yet."""
    image = KINDS.get(views["name"], USER)[-1] == "image"
    kept = {k: v for k, v in views.items() if not (image and k in ("mean", "std"))}
    return {k: [without_moments(part) for part in v] if k in ("compose", "pair") else v for k, v in kept.items()}


def plain_objective(objective: Objective) -> dict[str, Any]:
    """Name and all constants of an objective, as in a configuration file."""
    return {"name": objective.name, **vars(objective)}


def write_audit(
    config: PretrainConfig, network: NetworkConfig, objective: Objective, folder: Path, output: Path
) -> Path:
    """`audit.yaml`: `krepes audit` runs on it as it is."""
    content = {
        "title": config.title,
        "encoder": {**network.model_dump(mode="json"), "weights": WEIGHTS},
        "data": data_section(config, folder),
        "views": config.views.model_dump(mode="json", exclude_unset=True),
        "objective": plain_objective(objective),
        "seed": config.seed,
        "output": str(output.resolve() / "audit"),
    }
    text = "# krepes audit audit.yaml\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    return write_atomically(output / "audit.yaml", lambda p: p.write_text(text, encoding="utf-8"))


def data_section(config: PretrainConfig, folder: Path) -> dict[str, Any]:
    """The `data` of another file: relative paths made absolute, and the schema that lies beside it."""
    section = config.data.model_dump(mode="json", by_alias=True, exclude_unset=True)
    hub = section.get("hugging_face") or {}
    for part, key in [*((section, key) for key in PATHS), *((hub, key) for key in ("path", "tokenizer", "cache"))]:
        value = part.get(key)
        if isinstance(value, str) and "${" not in value:
            place = resolve(value, folder).resolve()
            part[key] = str(place) if place.exists() else value
    if config.data.table is not None:
        section["schema"] = "schema.json"
    return section


def probe(network: nn.Module, source: Source, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Accuracy of logistic regressions on 30 % of the samples that they did not see; for evaluation only.

    Args:
        network: trained, in eval mode.
        labels: (n,), None where missing.

    Returns:
        "embedding" and "input" ↦ accuracy in [0, 1].

    Raises:
        DataError: fewer than two classes, or too few samples.
    """
    known = np.flatnonzero([y is not None for y in labels])
    order = np.random.default_rng(seed).permutation(known)
    test, train = np.split(order, [int(0.3 * len(order))])
    y = np.array([str(v) for v in labels])
    if len(test) == 0 or len(set(y[train])) < 2:
        raise DataError(
            f"a probe needs at least 4 labelled samples of two classes; there are {len(known)} labelled ones"
        )
    x = {"train": source.batch(train.tolist()), "test": source.batch(test.tolist())}
    with torch.no_grad():
        z = {part: torch.cat([network(block) for block in values.split(1024)]) for part, values in x.items()}
    return {
        "embedding": linear_probe(z["train"], y[train], z["test"], y[test]),
        "input": linear_probe(x["train"].flatten(1), y[train], x["test"].flatten(1), y[test]),
    }


def linear_probe(x: Tensor, y: Any, x_test: Tensor, y_test: Any) -> float:
    """Accuracy of a logistic regression on standardised columns (n, p), in [0, 1]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x.numpy(), y)
    return float(model.score(x_test.numpy(), y_test))
