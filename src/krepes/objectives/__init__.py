"""The objectives, each as a convex outer function of an inner map; one file each."""

from krepes.errors import ConfigError
from krepes.objectives.barlow_twins import BarlowTwins
from krepes.objectives.base import Objective, Problem
from krepes.objectives.byol import BYOL
from krepes.objectives.moments import Moments
from krepes.objectives.simclr import SimCLR
from krepes.objectives.spectral import SpectralContrastive
from krepes.objectives.vicreg import VICReg

BY_NAME = {
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "simclr": SimCLR,
    "byol": BYOL,
    "spectral_contrastive": SpectralContrastive,
}


def by_name(name: str, **constants) -> Objective:
    """The objective of that name, with its constants."""
    if name not in BY_NAME:
        raise ConfigError(f"objective {name!r} is unknown; expected one of {', '.join(BY_NAME)}")
    return BY_NAME[name](**constants)


__all__ = [
    "BYOL",
    "BY_NAME",
    "BarlowTwins",
    "Moments",
    "Objective",
    "Problem",
    "SimCLR",
    "SpectralContrastive",
    "VICReg",
    "by_name",
]
