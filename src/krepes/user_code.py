"""The user's own code at an import path: what goes wrong in it is told in words, with its file and line."""

import importlib
import sysconfig
import traceback
from contextlib import contextmanager
from typing import Any

from krepes.errors import ConfigError, KrepesError, lacks_memory

NOT_OWN = ("site-packages", "importlib", sysconfig.get_path("stdlib"))  # in the path of a file


def found_at(module: str, attribute: str, what: str, expected: str) -> Any:
    """What an import path leads to.

    Args:
        what: names the setting and the path, for messages.
        expected: the sentence that says what a path is, for one that leads to nothing.

    Raises:
        ConfigError: the module or the attribute is not there, or the module raises an error while it is imported.
    """
    try:
        holder = importlib.import_module(module)
    except Exception as error:  # the user's module runs here
        if lacks_memory(error):
            raise
        if isinstance(error, ImportError | ValueError | TypeError) and not ran(error):
            raise ConfigError(f"{what}: {error}. {expected}") from error
        raise ConfigError(f"{what}: importing {module} fails with {told(error)}") from error
    try:
        return getattr(holder, attribute)
    except Exception as error:  # a module may have a __getattr__
        if isinstance(error, AttributeError) and not ran(error):
            raise ConfigError(f"{what}: {error}. {expected}") from error
        raise ConfigError(f"{what}: importing {attribute} fails with {told(error)}") from error


@contextmanager
def told_in_words(what: str, kind: type[KrepesError]):
    """An error of the user's code as one of this kind that names the code; a lack of memory stays one."""
    try:
        yield
    except KrepesError as error:
        raise type(error)(f"{what}: {error}") from error
    except Exception as error:
        if lacks_memory(error):
            raise
        raise kind(f"{what} raises {told(error)}") from error


def told(error: Exception) -> str:
    """Kind and message of an error, and where in the user's code it came up; a call that does not fit has no place."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(part in f.filename for part in NOT_OWN)]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own and own[-1].filename != __file__ else ""
    return f"{type(error).__name__}: {error}{place}"


def ran(error: Exception) -> bool:
    """Whether an error of an import comes from code of the module, not from looking for it."""
    files = [f.filename for f in traceback.extract_tb(error.__traceback__)]
    return any(file not in (__file__, importlib.__file__) and "<frozen importlib" not in file for file in files)
