"""krepes: explain self-supervised representations without labels."""

from krepes import errors, objectives
from krepes.audit.concepts import Concept
from krepes.audit.discovery import AutomaticConcept
from krepes.audit.findings import AuditPlan, Findings
from krepes.audit.movement import Movement, movement
from krepes.audit.trust import Trust, TrustGate
from krepes.auditor import Auditor
from krepes.comparison import Comparison, compare
from krepes.engine import Engine
from krepes.gate import Check, check
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
    "AutomaticConcept",
    "BarlowTwins",
    "Check",
    "Comparison",
    "Concept",
    "Engine",
    "Findings",
    "KMeansPlusPlus",
    "LeverageScores",
    "Movement",
    "Newton",
    "RPCholesky",
    "SimCLR",
    "SpectralContrastive",
    "Trust",
    "TrustGate",
    "Uniform",
    "VICReg",
    "check",
    "compare",
    "errors",
    "load",
    "movement",
    "objectives",
]
