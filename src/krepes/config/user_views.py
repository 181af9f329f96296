"""Views of the user's own code, at an import path: what goes wrong in it is told in words, with its file and line."""

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from krepes.data import Source
from krepes.data.views import Pair, pair_of
from krepes.errors import ConfigError, DataError, KrepesError, lacks_memory

EXPECTED = "Expected an import path such as my_package.views:MyViews, installed or on PYTHONPATH."
CALLED = "expected a callable (batch, generator) -> batch"
NOT_OWN = ("site-packages", "importlib", sysconfig.get_path("stdlib"))  # in the path of a file


@dataclass(frozen=True, repr=False)
class OwnView:
    """A user's view, whose errors name the import path; everything else is the view's."""

    path: str
    view: Callable[[Tensor, Generator], Tensor]

    def __call__(self, batch: Tensor, generator: Generator) -> Tensor:
        """A view (B, ...)."""
        with told_in_words(f"views.name {self.path}, called with a batch of shape {tuple(batch.shape)},", DataError):
            return self.view(batch, generator)

    def __repr__(self) -> str:  # stands in reports, and keys resumed runs
        return repr(self.view)


def imported(settings: dict[str, Any], source: Source, path: str) -> Callable[..., Any]:
    """A user's views: what a class or factory makes of the arguments, or, without any, a function itself.

    Raises:
        ConfigError: the path leads to nothing, what it leads to raises an error, or cannot be called as a view is.
    """
    module, _, attribute = path.partition(":")
    args = settings.get("args")
    try:
        holder = importlib.import_module(module)
    except Exception as error:  # the user's module runs here
        if isinstance(error, ImportError | ValueError) and not ran(error):
            raise ConfigError(f"views.name {path} with {args}: {error}. {EXPECTED}") from error
        raise ConfigError(f"views.name {path}: importing {module} fails with {told(error)}") from error
    try:
        found = getattr(holder, attribute)
    except AttributeError as error:
        raise ConfigError(f"views.name {path} with {args}: {error}. {EXPECTED}") from error
    except Exception as error:  # a module may have a __getattr__
        raise ConfigError(f"views.name {path}: importing {attribute} fails with {told(error)}") from error
    makes = inspect.isclass(found) or args is not None
    if not makes:
        refuse_other_call(found, f"views.name {path}", is_view=True)
        return guarded(found, path)
    if not callable(found):
        raise ConfigError(f"views.name {path} is a {type(found).__name__}; `args` are for a class or a factory")
    with told_in_words(f"views.name {path} with {args}", ConfigError):
        made = found(**(args or {}))
    refuse_other_call(made, f"views.name {path}: what it makes", is_view=False)
    return guarded(made, path)


def refuse_other_call(view: Any, what: str, is_view: bool) -> None:
    """Raise ConfigError for what is not called as (batch, generator).

    Args:
        what: for the message.
        is_view: the import path leads to it itself, without `args`.
    """
    if not callable(view):
        raise ConfigError(f"{what} is a {type(view).__name__}; {CALLED}, or a class or factory of one")
    try:
        taken = inspect.signature(view)
    except (ValueError, TypeError):  # some callables of C do not say
        return
    try:
        taken.bind("batch", "generator")
    except TypeError as error:
        why = (
            "Without `args` a function is the view itself; if this one makes the view, give its arguments, `args: {}` "
            "where there are none." if is_view else "It is the view itself; correct what it takes."
        )  # fmt: skip
        raise ConfigError(f"{what} takes {taken}, which does not fit ({error}); {CALLED}. {why}") from error


def guarded(view: Any, path: str) -> Any:
    """The same views, told in words where they raise an error.

    krepes' own do so themselves. Classes derived from them stay what they are too, since the report asks an `ImageView`
    for its normalisation.
    """
    if of_krepes(type(view)):
        return view
    a, b = pair_of(view)
    if a is not b:
        return Pair(guarded(a, path), guarded(b, path))
    return view if any(map(of_krepes, type(view).__mro__)) else OwnView(path, view)


def of_krepes(kind: type) -> bool:
    """Whether a class is krepes' own."""
    return kind.__module__.partition(".")[0] == "krepes"


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
