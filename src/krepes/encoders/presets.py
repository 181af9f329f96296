"""Frameworks' layouts and constants: where their checkpoints keep what, and how their losses were scaled.

Constants were taken from each framework's code; docs/checkpoints.md says where it computes something that krepes'
objectives cannot state.
"""

from dataclasses import dataclass, field
from typing import Any

from krepes.encoders.recipe import Branch, Recipe
from krepes.errors import ConfigError

IMAGENET = {"size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop": 0.875}
VICREG = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "eps": 1e-4}


@dataclass(frozen=True)
class Layout:
    """Prefixes of one way in which a framework stores its networks.

    Attributes:
        encoder, head, predictor: prefixes; None where there is no such part.
        branch: which of two networks this is.
        doubled: prefixes that hold the encoder once more.
    """

    encoder: str
    head: str | None = None
    predictor: str | None = None
    branch: Branch | None = None
    doubled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """A framework.

    Attributes:
        source: what it is.
        containers: key paths to the state dict, the first that is there is meant.
        layouts: the first one is the default.
        allow: patterns of keys that only training needs.
        objectives: name ↦ constants.
        preprocess: of images; none for tables.
        views: name and settings, where they are the framework's own.
        branch: what the framework itself evaluates where it has both.
        arch: the network, where there is only one.
        stem_padding: of its 3 × 3 stems.
        remarks: what its users need to know.
        losses: the same of an objective, where that trained the encoder or none is named.
    """

    source: str
    containers: tuple[tuple[str, ...], ...]
    layouts: tuple[Layout, ...]
    allow: tuple[str, ...] = ()
    objectives: dict[str, dict[str, Any]] = field(default_factory=dict)
    preprocess: dict[str, Any] | None = None
    views: dict[str, Any] | None = None
    branch: Branch | None = None
    arch: dict[str, Any] | None = None
    stem_padding: int | None = None
    remarks: tuple[str, ...] = ()
    losses: dict[str, str] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "lightly": Preset(
        "lightly's examples and benchmarks (LightningModule)",
        (("state_dict",), ()),
        (
            Layout("backbone.", "projection_head."),
            Layout("backbone.", "projection_head.", "prediction_head.", "student"),
            Layout("teacher_backbone.", "teacher_projection_head.", None, "teacher"),
            Layout("backbone_momentum.", "projection_head_momentum.", None, "teacher"),
        ),
        ("online_classifier.*", "criterion.*", "teacher_*", "*_momentum.*", "backbone.fc.*"),
        {
            "simclr": {"temperature": 0.5}, "barlow_twins": {"weight": 5e-3, "eps": 1e-5}, "vicreg": VICREG, "byol": {},
        },
        IMAGENET,
        branch="student",
        stem_padding=1,
        losses={
            "simclr": "lightly's ImageNet benchmark trains SimCLR with temperature 0.1, its NTXentLoss defaults to 0.5",
            "byol": "its BYOL loss is −cos, in its benchmark twice that, summed over both directions: krepes' 2 − "
            "2cos, the mean of both, up to a constant and a factor",
        },
    ),
    "solo-learn": Preset(
        "solo-learn (its args.json beside the file states the rest)",
        (("state_dict",),),
        (
            Layout("backbone.", "projector."),
            Layout("backbone.", "projector.", "predictor.", "student"),
            Layout("momentum_backbone.", "momentum_projector.", None, "teacher"),
            Layout("encoder.", "projector."),
            Layout("encoder.", "projector.", "predictor.", "student"),
            Layout("momentum_encoder.", "momentum_projector.", None, "teacher"),
        ),
        ("classifier.*", "online_classifier.*", "momentum_*", "queue*"),
        {
            "simclr": {"temperature": 0.2}, "barlow_twins": {"weight": 5.1e-3, "scale": 0.024},
            "vicreg": {**VICREG, "halve_hinge": False}, "byol": {},
        },
        IMAGENET,
        branch="student",
        stem_padding=2,
        losses={"byol": "its BYOL loss is the sum of both directions: twice krepes' mean"},
    ),
    "stable-pretraining": Preset(
        "stable-pretraining (Lightning checkpoint, or its exported folder of safetensors)",
        (("state_dict",), ()),
        (
            Layout("backbone.", "projector."),
            Layout("backbone.teacher.", "projector.teacher.", None, "teacher"),
            Layout("backbone.student.", "projector.student.", "predictor.", "student"),
        ),
        ("classifier.*", "callbacks_*", "metrics.*", "*probe*", "backbone.student.*", "backbone.teacher.*",
         "projector.student.*", "projector.teacher.*", "predictor.*"),
        {
            "simclr": {"temperature": 0.5}, "barlow_twins": {"weight": 5.1e-3}, "vicreg": VICREG, "byol": {},
        },
        IMAGENET,
        branch="teacher",
        losses={
            "barlow_twins": "its Barlow Twins divides by the unbiased deviation: 4.5 % above krepes' value at 256 "
            "samples",
        },
    ),
    "barlowtwins-fair": Preset(
        "facebookresearch/barlowtwins, checkpoint.pth (the hub's resnet50.pth is a bare backbone)",
        (("model",), ()),
        (Layout("module.backbone.", "module.projector."), Layout("")),
        ("module.bn.*", "fc.*"),
        {"barlow_twins": {"weight": 5.1e-3, "eps": 1e-5}},
        {**IMAGENET, "interpolation": "bicubic"},
    ),
    "vicreg-fair": Preset(
        "facebookresearch/vicreg, model.pth (the hub's resnet50.pth is a bare backbone)",
        (("model",), ()),
        (Layout("module.backbone.", "module.projector."), Layout("")),
        ("fc.*",),
        {"vicreg": VICREG},
        {**IMAGENET, "interpolation": "bicubic"},
    ),
    "vissl": Preset(
        "VISSL",
        (("classy_state_dict", "base_model", "model"),),
        (Layout("trunk._feature_blocks.", "heads."),),
        ("heads.*",),
        {"simclr": {"temperature": 0.1}, "barlow_twins": {"weight": 5.1e-3, "scale": 0.024}},
        IMAGENET,
        remarks=("a projector of two heads (heads.0, heads.1) needs head.layers: [linear, relu, linear]",),
    ),
    "bolts": Preset(
        "lightning-bolts",
        (("state_dict",),),
        (
            Layout("encoder.", "projection."),
            Layout("online_network.encoder.", "online_network.projector.", "predictor.", "student"),
            Layout("online_network.encoder.", "online_network.projector.", "online_network.predictor.", "student"),
            Layout("target_network.encoder.", "target_network.projector.", None, "teacher"),
        ),
        ("*encoder.fc.*", "target_network.*", "online_network.predictor.*", "predictor.*", "non_linear_evaluator.*"),
        {"simclr": {"temperature": 0.1}, "byol": {}},
        IMAGENET,
        branch="student",
    ),
    "sthalles-simclr": Preset(
        "sthalles/SimCLR (the projector is its backbone's fc)",
        (("state_dict",),),
        (Layout("backbone.", "backbone.fc."),),
        (),
        {"simclr": {"temperature": 0.07}},
        {"size": 96},
        remarks=("it does not normalise its images, so there is no mean and std",),
    ),
    "byol-pytorch": Preset(
        "lucidrains/byol-pytorch (the whole learner's state dict)",
        ((),),
        (
            Layout("online_encoder.net.", "online_encoder.projector.", "online_predictor.", "student", ("net.",)),
            Layout("target_encoder.net.", "target_encoder.projector.", None, "teacher"),
        ),
        ("net.*", "online_encoder.net.fc.*", "target_encoder.*", "augment*"),
        {"byol": {}},
        {"size": 256, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        branch="student",
    ),
    "scarf": Preset(
        "SCARF on tables (clabrugere/pytorch-scarf and kin)",
        ((), ("state_dict",), ("model_state_dict",)),
        (Layout("encoder.", "pretraining_head."),),
        ("classification_head.*", "marginals.*"),
        {"simclr": {"temperature": 1.0}},
        None,
        {"name": "scarf", "rate": 0.4, "both": False},
        arch={"name": "inferred"},
        remarks=("pytorch-scarf's mask is inverted: its corruption_rate 0.6 corrupts 40 %: views.rate 0.4",),
    ),
    "ad-hoc": Preset(
        "anything else: container and prefix are the recipe's to say",
        (("encoder_state_dict",), ("model_state_dict",), ("state_dict",), ("model",), ()),
        (Layout(""),),
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def layout_of(chosen: Preset, name: str, branch: Branch | None) -> Layout:
    """The layout of a branch, or the default one.

    Raises:
        ConfigError: the framework has no such branch.
    """
    if branch is None:
        return chosen.layouts[0]
    for layout in chosen.layouts:
        if layout.branch == branch:
            return layout
    raise ConfigError(f"preset {name} has one network only; 'branch: {branch}' says nothing there")


def completed(recipe: Recipe, layout: Layout | None = None) -> Recipe:
    """The recipe with its preset's layout and constants where it says nothing itself.

    Args:
        layout: the one that was found in the file; default that of the recipe's branch.

    Raises:
        ConfigError: no such preset, or the preset has no constants for the objective.
    """
    if recipe.preset is None:
        return recipe
    chosen = preset(recipe.preset)
    layout = layout or layout_of(chosen, recipe.preset, recipe.branch)
    known: dict[str, Any] = {
        "container": list(chosen.containers[0]),
        "encoder_prefix": layout.encoder,
        "head_prefix": layout.head,
        "predictor_prefix": layout.predictor,
        "preprocess": chosen.preprocess,
        "views": chosen.views,
        "arch": chosen.arch,
        "branch": layout.branch,
        "doubled": list(layout.doubled),
    }
    if recipe.preset == "ad-hoc":
        known = {}
    given = recipe.model_dump(exclude_unset=True)
    merged = {k: v for k, v in known.items() if v is not None} | given
    if given.get("preprocess") is not None:
        merged["preprocess"] = prepared(chosen.preprocess or {}, given["preprocess"])
    merged["allow"] = [*dict.fromkeys([*chosen.allow, *recipe.allow])]
    losses = [
        text for name, text in chosen.losses.items() if recipe.objective is None or name == recipe.objective["name"]
    ]
    merged["remarks"] = [*dict.fromkeys([*chosen.remarks, *losses, *recipe.remarks])]
    if recipe.objective is not None and chosen.objectives:
        merged["objective"] = with_constants(recipe.objective, chosen, recipe.preset)
    return Recipe.model_validate(merged)


def prepared(known: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The images' preparation field by field: a recipe's own fields over what is known; null takes mean and std out."""
    if own.get("mean", own.get("std", 0)) is None:
        own = {**own, "mean": None, "std": None}
    return {**known, **own}


def with_constants(objective: dict[str, Any], chosen: Preset, name: str) -> dict[str, Any]:
    """The objective with the framework's constants where it states none itself."""
    constants = chosen.objectives.get(objective["name"])
    if constants is None:
        known = ", ".join(chosen.objectives)
        if {k for k in objective if k != "name"}:
            return objective
        raise ConfigError(
            f"preset {name} knows the constants of {known}, not of {objective['name']}; state them in objective"
        )
    return {**objective, **{k: v for k, v in constants.items() if k not in objective}}
