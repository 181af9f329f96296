"""Views: callables (batch, generator) -> batch that imitate the encoder's training augmentations.

Both views of 256 samples are made at once, each with a generator that is seeded by the run's seed, the view and the
block's place. A view draws its randomness as a table with one row per sample.
"""

from krepes.data.views.compose import Compose, Pair, pair_of
from krepes.data.views.images import BarlowViews, BYOLViews, ImageView, SimCLRViews, VICRegViews
from krepes.data.views.noise import GaussianNoise, Identity, ShiftNoise
from krepes.data.views.tables import PYTORCH_SCARF_RATE, FeatureDropout, NumericNoise, Scarf, TableMixup
from krepes.data.views.text import SpanCrop, TokenDropout, TokenMask

__all__ = [
    "PYTORCH_SCARF_RATE",
    "BYOLViews",
    "BarlowViews",
    "Compose",
    "FeatureDropout",
    "GaussianNoise",
    "Identity",
    "ImageView",
    "NumericNoise",
    "Pair",
    "Scarf",
    "ShiftNoise",
    "SimCLRViews",
    "SpanCrop",
    "TableMixup",
    "TokenDropout",
    "TokenMask",
    "VICRegViews",
    "pair_of",
]
