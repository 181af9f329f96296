"""krepes: explain self-supervised representations without labels."""

from krepes import errors, objectives
from krepes.audit.findings import AuditPlan
from krepes.audit.movement import movement
from krepes.audit.trust import Trust
from krepes.auditor import Auditor
from krepes.engine import Engine
from krepes.kernel.ntk import NTK
from krepes.landmarks import KMeansPlusPlus, LeverageScores, RPCholesky, Uniform
from krepes.objectives import BYOL, BarlowTwins, SimCLR, SpectralContrastive, VICReg
from krepes.results import load
from krepes.solver import Newton

__version__ = "0.1.0"

__all__ = [
    "BYOL",
    "NTK",
    "AuditPlan",
    "Auditor",
    "BarlowTwins",
    "Engine",
    "KMeansPlusPlus",
    "LeverageScores",
    "Newton",
    "RPCholesky",
    "SimCLR",
    "SpectralContrastive",
    "Trust",
    "Uniform",
    "VICReg",
    "errors",
    "load",
    "movement",
    "objectives",
]
