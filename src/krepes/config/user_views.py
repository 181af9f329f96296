"""Views of the user's own code, at an import path: what goes wrong in it is told in words, with its file and line."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from krepes.data import Source
from krepes.data.views import Pair, pair_of
from krepes.errors import ConfigError, DataError
from krepes.user_code import found_at, told_in_words

EXPECTED = "Expected an import path such as my_package.views:MyViews, installed or on PYTHONPATH."
CALLED = "expected a callable (batch, generator) -> batch"


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
    found = found_at(module, attribute, f"views.name {path}", EXPECTED)
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
