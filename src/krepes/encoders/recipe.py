"""A recipe: how to get from a checkpoint file to the encoder that was trained."""

import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from krepes.encoders.recipe_file import place_of, read_marked
from krepes.errors import ConfigError
from krepes.files import write_atomically

Space = Literal["backbone", "projection", "prediction", "output"]
Branch = Literal["student", "teacher"]


LARGEST = 2**26  # numbers in one sample
ANY = ("backbone.layer1.0.conv1.weight", "m.0.b", "q.running_var", "fc.bias")  # a pattern of all of them allows any key


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(Strict):
    """A network by name.

    Attributes:
        name: `package.module:Class`, `torchvision:resnet50`, `timm:vit_tiny_patch16_224`, `transformers:` and a local
            folder or a cached name, a built-in such as `krepes:ResNet18`, or `inferred`: linear layers read off the
            shapes of the weights.
        args: its arguments; weights never come from here.
        identity: submodules that the checkpoint does not use, such as a classifier `fc`.
        activation, layers: for `inferred`; see `Head`.
    """

    name: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    identity: list[str] = Field(default_factory=list)
    activation: Literal["relu", "gelu", "tanh", "leaky_relu", "silu", "elu"] = "relu"
    layers: list[str] | None = None


class Head(Strict):
    """A projector or predictor.

    Attributes:
        arch: `inferred` from the shapes and positions of its weights, or an import path with `args`.
        activation: what stands in the positions without weights; a file does not say.
        layers: all layers in their order (`linear`, `batchnorm`, `layernorm`, an activation, `dropout`), where
            positions do not tell.
    """

    arch: str = "inferred"
    args: dict[str, Any] = Field(default_factory=dict)
    activation: Literal["relu", "gelu", "tanh", "leaky_relu", "silu", "elu"] = "relu"
    layers: list[str] | None = None


class Preprocess(Strict):
    """How images were prepared. Values in [0, 1] are normalised inside the encoder; the rest is done by the data.

    Attributes:
        size: the side of the images that the encoder gets, in pixels.
        mean, std: per channel, of values in [0, 1]; none means that they stay as they are.
        interpolation: of the resizing.
        crop: the share of the resized shorter side that the centre crop keeps, in (0, 1].
    """

    size: int | None = Field(default=None, ge=1)
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    crop: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _both(self) -> "Preprocess":
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; one of them is missing")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise ValueError(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
            if min(self.std) <= 0:
                raise ValueError(f"std is {self.std}; expected positive numbers")
            if max(map(abs, [*self.mean, *self.std])) > 2:
                raise ValueError("mean and std are of values in [0, 1]; divide those of values up to 255 by 255")
        return self


class Input(Strict):
    """One sample: its shape without the batch, and for token ids the number of tokens."""

    shape: list[int] = Field(min_length=1)
    tokens: int | None = Field(default=None, ge=2)

    @field_validator("shape")
    @classmethod
    def _bounded(cls, value: list[int]) -> list[int]:
        if min(value) < 1 or math.prod(value) > LARGEST:
            raise ValueError(f"expected positive sizes of at most {LARGEST:,} numbers together")
        return value


class Fingerprint(Strict):
    """A few numbers of the outputs for a seeded input: same weights in another function give others."""

    seed: int = 0
    values: list[float]
    size: float


class Recipe(Strict):
    """How to get from a checkpoint to an encoder; docs/checkpoints.md has examples.

    Attributes:
        preset: a framework's layout and constants, which the other fields override; see `presets.PRESETS`.
        checkpoint: the file, relative to the recipe's folder.
        container: keys that lead to the state dict inside the file; a string is split at its dots.
        encoder_prefix, head_prefix, predictor_prefix: what the keys of each part start with. A head inside the
            encoder (`backbone.fc.`) is split off.
        arch, head, predictor: the networks.
        space: whose output is audited; "output" is that of a network without a projector beside it, to which the
            objective was applied itself.
        objective, views: name and constants, as in the configuration file.
        preprocess: the images' preparation.
        branch: which of two networks of the same shapes.
        allow: patterns of keys in the file that may be left out.
        rename: text ↦ text in the encoder's names.
        doubled: prefixes that hold the encoder once more, checked to be equal.
        input: the shape of a sample for the fingerprint, where it cannot be told from the architecture.
        weights_sha256: of the file.
        fingerprint: of the outputs.
        remarks: what whoever wrote the recipe wants read.
    """

    preset: str | None = None
    checkpoint: str | None = None
    container: list[str] | None = None
    encoder_prefix: str | None = None
    head_prefix: str | None = None
    predictor_prefix: str | None = None
    arch: Architecture | None = None
    head: Head | None = None
    predictor: Head | None = None
    space: Space | None = None
    objective: dict[str, Any] | None = None
    views: dict[str, Any] | None = None
    preprocess: Preprocess | None = None
    branch: Branch | None = None
    allow: list[str] = Field(default_factory=list)
    rename: dict[str, str] = Field(default_factory=dict)
    doubled: list[str] = Field(default_factory=list)
    input: Input | None = None
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    fingerprint: Fingerprint | None = None
    remarks: list[str] = Field(default_factory=list)

    @field_validator("container", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return [part for part in value.split(".") if part] if isinstance(value, str) else value

    @field_validator("arch", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("head", "predictor", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return {"arch": value} if isinstance(value, str) else value

    @field_validator("objective", "views")
    @classmethod
    def _has_name(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        composed = info.field_name == "views" and value is not None and not {"compose", "pair"}.isdisjoint(value)
        if value is not None and not composed and not isinstance(value.get("name"), str):
            raise ValueError("expected a 'name' beside the constants")
        return value

    @field_validator("allow")
    @classmethod
    def _not_everything(cls, value: list[str]) -> list[str]:
        if any(not p.strip("*?.") or all(fnmatchcase(name, p) for name in ANY) for p in value):
            raise ValueError("a pattern that allows every key would make any file fit")
        return value

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """A recipe from a YAML file.

        Raises:
            ConfigError: no such file, no YAML, an unknown key or a wrong value; names file, line and column.
        """
        path = Path(path)
        content, places = read_marked(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path}:1:1: found {type(content).__name__}; expected a recipe's fields (key: value)")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = []
            for e in error.errors():
                line, column = place_of(tuple(e["loc"]), places)
                known = f"; the fields are {', '.join(cls.model_fields)}" if len(e["loc"]) == 1 else ""
                hint = known if e["type"] == "extra_forbidden" else ""
                found = "" if isinstance(e["input"], dict) else f" (found {e['input']!r})"
                key = ".".join(map(str, e["loc"]))
                message = "there is no such field" if hint or e["type"] == "extra_forbidden" else e["msg"]
                lines.append(f"{path}:{line}:{column}: {key}: {message}{found}{hint}")
            raise ConfigError("\n".join(lines)) from error

    def save(self, path: str | Path) -> Path:
        """Write as YAML; fields without a value are left out."""
        plain = self.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
        return write_atomically(Path(path), lambda p: p.write_text(text, encoding="utf-8"))
