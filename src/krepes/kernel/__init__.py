"""The empirical neural tangent kernel of a frozen encoder."""

from krepes.kernel.gradients import GradientFeatures, GradientMap
from krepes.kernel.ntk import NTK, KernelRows

__all__ = ["NTK", "GradientFeatures", "GradientMap", "KernelRows"]
