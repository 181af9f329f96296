"""One tree of errors. A message says what was found, what was expected and what to do next."""


class KrepesError(Exception):
    """Anything that krepes refuses or cannot do."""


class ConfigError(KrepesError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(KrepesError, ValueError):
    """The samples, the table or the views are not usable; names the sample, column, row or file."""


class EncoderError(KrepesError, ValueError):
    """The encoder is not a frozen, deterministic map (B, ...) -> (B, d); names the layer where it can."""


class NonFiniteError(KrepesError, ArithmeticError):
    """NaN or infinity in inputs, activations or gradients; names the samples."""


class LandmarkError(KrepesError, ValueError):
    """The landmarks cannot be chosen, or do not span the representation that was asked for."""


class RunFolderError(KrepesError, RuntimeError):
    """A run folder is damaged, incomplete, or belongs to another encoder, data set or configuration."""


class NotFittedError(KrepesError, RuntimeError):
    """The method needs `fit` first."""


class KrepesWarning(UserWarning):
    """Something worked, but not as one would assume; said once."""
