"""Which training samples become landmarks."""

from krepes.landmarks.samplers import KMeansPlusPlus, LeverageScores, RPCholesky, Sampler, Uniform, choose

__all__ = ["KMeansPlusPlus", "LeverageScores", "RPCholesky", "Sampler", "Uniform", "choose"]
