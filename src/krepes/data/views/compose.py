"""Views made of views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krepes.errors import ConfigError

View = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Pair:
    """Another callable for each of the two views.

    Whoever makes views takes the attribute `pair` of an object that has one, and calls its first part for view a and
    its second for view b, each with that view's generator; `pair_of` says what it is for any views.

    Args:
        a, b: callables (batch, generator) -> batch.
    """

    a: View
    b: View

    def __post_init__(self):
        for name, view in (("a", self.a), ("b", self.b)):
            check_callable(view, f"Pair: {name}")
            if differs(view):
                raise ConfigError(f"Pair: {name} is a pair of views itself; expected one view")

    @property
    def pair(self) -> tuple[View, View]:
        """The callables of view a and of view b."""
        return self.a, self.b

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Refused: which of both views is wanted?

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "these views differ between view a and view b, and this call does not say which it wants: call "
            "views.pair[0] or views.pair[1]"
        )


@dataclass(frozen=True, init=False)
class Compose:
    """Views one after the other; each draws from a generator of its own, seeded by the one given.

    Args:
        views: callables (batch, generator) -> batch; among them may be pairs, which make this one a pair.
    """

    views: tuple[View, ...]

    def __init__(self, views: Sequence[View]):
        if not isinstance(views, Sequence) or len(views) == 0:
            raise ConfigError(f"Compose: views={views!r}; expected a list of one or more views")
        for i, view in enumerate(views):
            check_callable(view, f"Compose: view {i}")
        object.__setattr__(self, "views", tuple(views))

    @property
    def pair(self) -> tuple[View, View]:
        """The callables of view a and of view b; both are this one unless a part is a pair."""
        if not any(differs(v) for v in self.views):
            return self, self
        a, b = zip(*map(pair_of, self.views), strict=True)
        return Compose(a), Compose(b)

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, ...)."""
        seeds = torch.randint(2**62, (len(self.views),), generator=generator, device=generator.device).tolist()
        for view, seed in zip(self.views, seeds, strict=True):
            batch = view(batch, torch.Generator(generator.device).manual_seed(seed))
        return batch


def pair_of(views: Any) -> tuple[View, View]:
    """The callables that make view a and view b."""
    return getattr(views, "pair", (views, views))


def differs(views: Any) -> bool:
    """Whether view a and view b are made by different callables."""
    a, b = pair_of(views)
    return a is not b


def check_callable(view: Any, where: str) -> None:
    """Raise ConfigError for what is no view."""
    if not callable(view):
        raise ConfigError(f"{where} is a {type(view).__name__}; expected a callable (batch, generator) -> batch")
