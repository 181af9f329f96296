"""The configuration's `views`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from krepes.config.mistakes import COMPLETE, in_words, nearest, refusal, unknown_name
from krepes.config.reading import Section
from krepes.config.user_views import imported
from krepes.config.view_settings import (
    Arguments,
    Crop,
    Dropout,
    Feature,
    Framework,
    Images,
    Mask,
    Mixup,
    Nothing,
    Rate,
    Shift,
    SimCLR,
    Std,
)
from krepes.data import Source, TableSource
from krepes.data.views import (
    PYTORCH_SCARF_RATE,
    BarlowViews,
    BYOLViews,
    Compose,
    FeatureDropout,
    GaussianNoise,
    Identity,
    ImageView,
    NumericNoise,
    Pair,
    Scarf,
    ShiftNoise,
    SimCLRViews,
    SpanCrop,
    TableMixup,
    TokenDropout,
    TokenMask,
    VICRegViews,
)
from krepes.errors import ConfigError


class ViewsConfig(BaseModel):
    """A view by name, with that name's settings beside it; see docs/views.md.

    `compose: [...]` are views one after the other, `pair: [a, b]` one for each view; a name with a colon is an import
    path, with `args`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _settings(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            raise ValueError("expected name and settings of the views, such as {name: gaussian, std: 0.1}")
        settings = dict(content)
        name = settings.pop("name", next((k for k in ("compose", "pair") if k in content), None))
        if name is None:
            raise ValueError("views.name is missing, such as {name: gaussian, std: 0.1}")
        kind = USER if is_path(name) else KINDS.get(name)
        if kind is None:
            said = f"views.name {unknown_name(name, list(KINDS))}, or module:name"
            raise refusal("views", [(COMPLETE, ("name",), said, name)])
        return {"name": name, **checked(name, settings, kind[0])}


class Several(Section):
    """Views one after the other."""

    compose: list[ViewsConfig] = Field(min_length=1)


class Two(Section):
    """View a and view b."""

    pair: tuple[ViewsConfig, ViewsConfig]


def is_path(name: Any) -> bool:
    """Whether a name is an import path."""
    return isinstance(name, str) and ":" in name


def refuse_import_paths(views: Any, place: Path) -> None:
    """Raise ConfigError where a recipe's views, or parts of them, are an import path: that would run a stranger's code.

    Args:
        views: as the recipe states them.
        place: of the recipe, for the message.
    """
    if isinstance(views, list | tuple):
        for part in views:
            refuse_import_paths(part, place)
    if not isinstance(views, dict):
        return
    if is_path(views.get("name")):
        raise ConfigError(
            f"{place}: views.name {views['name']!r} is an import path, and a recipe may be a stranger's: its views are "
            f"built-in names only ({', '.join(KINDS)}). If you trust this code, say `views` in your own configuration."
        )
    for key in ("compose", "pair"):
        refuse_import_paths(views.get(key), place)


def checked(name: str, settings: dict[str, Any], model: type[Section]) -> dict[str, Any]:
    """The settings of a name, with defaults; ValidationError names those that it has not, each at its place."""
    known = list(model.model_fields)
    unknown = sorted(set(map(str, settings)) - set(known))
    if unknown:
        near = [match for key in unknown for match in nearest(key, known)]
        meant = f"did you mean {' and '.join(near)}? " if near else ""
        said = f"views.{', views.'.join(unknown)} is no setting of {name}; {meant}it has: {', '.join(known) or 'none'}"
        raise refusal("views", [(COMPLETE, (unknown[0],), said, None)])
    try:
        return model.model_validate(settings).model_dump(exclude_none=True)
    except ValidationError as error:
        found = [(e["loc"], in_words({**e, "loc": ("views", *e["loc"])}), e["input"]) for e in error.errors()]
        raise refusal("views", [(COMPLETE, *one) for one in found]) from error


def build_views(config: ViewsConfig, source: Source) -> Callable[..., Any]:
    """The views' callable.

    Raises:
        ConfigError: a setting is out of range, the views do not fit the samples, or an import path leads to none.
    """
    settings = config.model_dump(exclude={"name"})
    if is_path(config.name):
        return USER[1](settings, source, config.name)
    _, build, kind = KINDS[config.name]
    check_kind(config.name, kind, source)
    return build(settings, source)


def check_kind(name: str, kind: str, source: Any) -> None:
    """Raise ConfigError for views of other samples than these."""
    if kind == "table" and not isinstance(source, TableSource):
        raise ConfigError(f"views {name} are of a table's features; data is no table. Use gaussian or shift.")
    if kind == "image" and source.kind != "image":
        raise ConfigError(f"views {name} are of images; the samples are of kind {source.kind!r}. Use gaussian.")
    if kind == "text":
        some = source.batch(range(1))
        if some.ndim != 2 or some.is_floating_point():
            shape = tuple(some.shape[1:])
            raise ConfigError(f"views {name} are of tokens (T,); the samples are {some.dtype} of shape {shape}.")


def scarf(settings: dict[str, Any], source: Any) -> Scarf | Pair:
    """SCARF with the rate in the convention that is named, of both views or of view b alone."""
    inverted = settings["convention"] == "pytorch-scarf"
    rate = settings.get("rate", 1 - PYTORCH_SCARF_RATE if inverted else 0.6)
    view = Scarf.of_table(source, round(1 - rate, 12) if inverted else rate, settings["count"])
    return view if settings["both"] else Pair(Identity(), view)


def as_preprocessed(settings: dict[str, Any], source: Any) -> dict[str, Any]:
    """Settings with the mean and std that the samples were normalised by, where the source knows them.

    Raises:
        ConfigError: the settings say something else.
    """
    known = getattr(source, "preprocess", None)
    moments = {k: getattr(known, k, None) for k in ("mean", "std")}
    if known is None or (moments["mean"] is None and "mean" not in settings and "std" not in settings):
        return settings
    for name, value in moments.items():
        given = settings.get(name, value)
        if list(given if isinstance(given, list | tuple) else [given]) != list(value or [None]):
            raise ConfigError(f"views.{name}={given}, but data.preprocess.{name} is {value}; leave views.{name} out")
    return {**settings, **moments}


def parts(views: list[dict[str, Any]], source: Source) -> list[Any]:
    """The views that a composition or a pair is made of."""
    return [build_views(ViewsConfig.model_validate(v), source) for v in views]


USER = (Arguments, imported)
# name: its settings, what builds it, and the samples that it is for
KINDS: dict[str, tuple[type[Section], Callable[[dict[str, Any], Any], Any], str]] = {
    "identity": (Nothing, lambda s, source: Identity(), "any"),
    "gaussian": (Std, lambda s, source: GaussianNoise(**s), "any"),
    "shift": (Shift, lambda s, source: ShiftNoise(**s), "any"),
    "scarf": (Rate, scarf, "table"),
    "feature_dropout": (Feature, lambda s, source: FeatureDropout(source, **s), "table"),
    "mixup": (Mixup, lambda s, source: TableMixup(source, **s), "table"),
    "numeric_noise": (Std, lambda s, source: NumericNoise(source.schema, **s), "table"),
    "image": (Images, lambda s, source: ImageView(**as_preprocessed(s, source)), "image"),
    "simclr": (SimCLR, lambda s, source: SimCLRViews(**as_preprocessed(s, source)), "image"),
    "byol": (Framework, lambda s, source: BYOLViews(**as_preprocessed(s, source)), "image"),
    "barlow_twins": (Framework, lambda s, source: BarlowViews(**as_preprocessed(s, source)), "image"),
    "vicreg": (Framework, lambda s, source: VICRegViews(**as_preprocessed(s, source)), "image"),
    "token_dropout": (Dropout, lambda s, source: TokenDropout(**s), "text"),
    "token_mask": (Mask, lambda s, source: TokenMask(**s), "text"),
    "span_crop": (Crop, lambda s, source: SpanCrop(**s), "text"),
    "compose": (Several, lambda s, source: Compose(parts(s["compose"], source)), "any"),
    "pair": (Two, lambda s, source: Pair(*parts(s["pair"], source)), "any"),
}
