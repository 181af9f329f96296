"""The configuration file: validated settings, and the objects that they stand for."""

from krepes.config.asked import build_plan
from krepes.config.audit import Config, build_auditor, read_config, with_recipe
from krepes.config.data import DataConfig, build_data, build_source
from krepes.config.encoder import EncoderConfig, build_encoder
from krepes.config.views import ViewsConfig, build_views

__all__ = [
    "Config",
    "DataConfig",
    "EncoderConfig",
    "ViewsConfig",
    "build_auditor",
    "build_data",
    "build_encoder",
    "build_plan",
    "build_source",
    "build_views",
    "read_config",
    "with_recipe",
]
