"""One tree of errors. A message says what was found, what was expected and what to do next."""

import sys
import warnings
from numbers import Integral


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


def warn(message: str) -> None:
    """A KrepesWarning at the line outside this package that asked."""
    level, frame = 1, sys._getframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "krepes":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, KrepesWarning, stacklevel=level)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory for something, on the CPU or a GPU."""
    # PyTorch's own are RuntimeErrors: by their words on the CPU, by their name on a GPU
    refused = "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and refused)


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def refuse_wrong_types(owner: object, whole: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> None:
    """Raise ConfigError naming a setting that is no whole number (or None), or neither true nor false."""
    for name in whole:
        value = getattr(owner, name)
        if value is not None and not is_whole(value):
            raise ConfigError(f"{type(owner).__name__}: {name}={value!r}; expected a whole number")
    for name in flags:
        value = getattr(owner, name)
        if not isinstance(value, bool):
            raise ConfigError(f"{type(owner).__name__}: {name}={value!r}; expected true or false")
