"""The configuration's `views`."""

from typing import Literal

from krepes.config.reading import Section
from krepes.data import GaussianNoise, Scarf, ShiftNoise, Source, TableSource
from krepes.errors import ConfigError

VIEW_SETTINGS = {"scarf": {"rate"}, "gaussian": {"std"}, "shift": {"max_shift", "std", "contrast"}}


class ViewsConfig(Section):
    """Name and settings of the views; for scarf `rate`, for gaussian `std`, for shift all three of ShiftNoise."""

    name: Literal["scarf", "gaussian", "shift"]
    rate: float = 0.6
    std: float = 0.1
    max_shift: int = 1
    contrast: float = 0.2


def build_views(config: ViewsConfig, source: Source):
    """The views' callable."""
    unused = sorted(config.model_fields_set - VIEW_SETTINGS[config.name] - {"name"})
    if unused:
        raise ConfigError(f"views.{', views.'.join(unused)} is no setting of {config.name}")
    if config.name == "gaussian":
        return GaussianNoise(config.std)
    if config.name == "shift":
        return ShiftNoise(config.max_shift, config.std, config.contrast)
    if not isinstance(source, TableSource):
        raise ConfigError("views scarf replaces a table's features; data is no table. Use gaussian or shift.")
    return Scarf.of_table(source, config.rate)
