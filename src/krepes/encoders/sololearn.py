"""solo-learn's args.json: a recipe that every run of it leaves beside its checkpoint."""

import json
import math
import re
from pathlib import Path
from typing import Any

from krepes.encoders.presets import IMAGENET, PRESETS, VICREG
from krepes.errors import EncoderError

METHODS = {"simclr": "simclr", "barlow_twins": "barlow_twins", "vicreg": "vicreg", "byol": "byol"}
# per data set: size, mean, std of solo-learn's own pipelines
DATASETS: dict[str, tuple[int, list[float], list[float]]] = {
    "cifar10": (32, [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]),
    "cifar100": (32, [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    "stl10": (96, [0.4914, 0.4823, 0.4466], [0.247, 0.243, 0.261]),
    "imagenet": (224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "imagenet100": (224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


def read_args(checkpoint: Path) -> dict[str, Any] | None:
    """The arguments beside a checkpoint; none if there is no args.json.

    Raises:
        EncoderError: the file is no JSON object.
    """
    path = checkpoint.parent / "args.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except (ValueError, OSError) as error:
        raise EncoderError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path} holds {type(content).__name__}; expected solo-learn's arguments")
    return content


def refuse_constant(text: str) -> Any:
    """Raise ValueError for NaN and Infinity, which no setting is."""
    raise ValueError(f"it holds {text}, which no setting can be")


def recipe_fields(args: dict[str, Any]) -> dict[str, Any]:
    """What solo-learn's arguments say of a recipe's fields, of old (flat) and new (nested) runs.

    Args:
        args: the content of args.json.

    Returns:
        arch, objective, preprocess, and remarks.
    """
    backbone = args.get("backbone", args.get("encoder"))
    name, kwargs = (
        (backbone.get("name"), backbone.get("kwargs") or {}) if isinstance(backbone, dict) else (backbone, {})
    )
    data = args.get("data") if isinstance(args.get("data"), dict) else {}
    dataset = str((data or {}).get("dataset", args.get("dataset", ""))).lower()
    cifar = bool(args.get("cifar", dataset in ("cifar10", "cifar100")))
    fields: dict[str, Any] = {"remarks": []}
    number = re.fullmatch(r"resnet(18|34|50)", str(name))
    if number:
        stem = {"stem": "cifar", "stem_padding": 2} if cifar else {}
        fields["arch"] = {"name": f"krepes:ResNet{number[1]}", "args": stem}
    elif name:
        transformer = re.fullmatch(r"vit_(tiny|small|base|large)", str(name))  # solo-learn's own names of timm's
        timms = f"{name}_patch16_224" if transformer else name
        fields["arch"] = {"name": f"timm:{timms}", "args": {"num_classes": 0, **kwargs}}
        fields["remarks"].append(f"args.json names the backbone {name}, taken as timm's {timms} without a classifier")
    objective = objective_of(args)
    if objective is not None:
        fields["objective"] = objective
    if dataset in DATASETS:
        size, mean, std = DATASETS[dataset]
        fields["preprocess"] = {
            "size": crop_size(args) or size,
            "mean": mean,
            "std": std,
            "crop": 0.875 if size == 224 else 1.0,
        }
        fields["remarks"].append(f"normalisation is what solo-learn uses for {dataset}; args.json does not state it")
    elif dataset:
        size = crop_size(args)
        fields["preprocess"] = {**IMAGENET, **({"size": size, "crop": 1.0} if size else {})}
        fields["remarks"].append(
            f"args.json names the data set {dataset}, whose normalisation krepes does not know: ImageNet's mean and "
            "std, solo-learn's default, are an assumption; state preprocess.mean and std"
        )
    return fields


def objective_of(args: dict[str, Any]) -> dict[str, Any] | None:
    """Name and constants; none for a method that krepes does not audit."""
    name = METHODS.get(str(args.get("method")))
    if name is None:
        return None
    nested = args.get("method_kwargs")
    stated = {**args, **(nested if isinstance(nested, dict) else {})}

    known = PRESETS["solo-learn"].objectives[name]

    def constant(key: str, default: float) -> float:
        value = stated.get(key)
        if isinstance(value, float) and not math.isfinite(value):
            raise EncoderError(f"args.json says {key}: {value}; expected a finite number")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default

    if name == "barlow_twins":
        return {
            "name": name,
            "weight": constant("lamb", known["weight"]),
            "scale": constant("scale_loss", known["scale"]),
        }
    if name == "simclr":
        return {"name": name, "temperature": constant("temperature", known["temperature"])}
    if name == "vicreg":
        weights = {
            "invariance": constant("sim_loss_weight", 25.0),
            "variance": constant("var_loss_weight", 25.0),
            "covariance": constant("cov_loss_weight", 1.0),
        }
        return {"name": name, **VICREG, **weights, "halve_hinge": False}
    return {"name": name}


def crop_size(args: dict[str, Any]) -> int | None:
    """The side of its crops, where args.json says it."""
    found = args.get("crop_size")
    if found is None and isinstance(args.get("augmentations"), list) and args["augmentations"]:
        first = args["augmentations"][0]
        found = first.get("crop_size") if isinstance(first, dict) else None
    if isinstance(found, list):
        found = found[0] if found else None
    return int(found) if isinstance(found, int) and found > 0 else None
