"""One generalised Gauss–Newton step by preconditioned conjugate gradients."""

from krepes.solver.cg import Solution, Status, conjugate_gradients
from krepes.solver.newton import DampingTrial, Newton, Outcome, Step, solve

__all__ = ["DampingTrial", "Newton", "Outcome", "Solution", "Status", "Step", "conjugate_gradients", "solve"]
