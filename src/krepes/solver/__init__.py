"""One generalised Gauss–Newton step by preconditioned conjugate gradients."""

from krepes.solver.cg import Solution, Status, conjugate_gradients
from krepes.solver.multishift import shifted_solves
from krepes.solver.newton import DampingTrial, Newton, Outcome, Step, solve
from krepes.solver.path import PathPoint, solve_path

__all__ = [
    "DampingTrial",
    "Newton",
    "Outcome",
    "PathPoint",
    "Solution",
    "Status",
    "Step",
    "conjugate_gradients",
    "shifted_solves",
    "solve",
    "solve_path",
]
