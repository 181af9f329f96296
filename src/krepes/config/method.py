"""The configuration's method: landmarks; and objective, kernel, newton and trust, which are handed on as they are."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from krepes.audit.trust import Trust
from krepes.config.mistakes import COMPLETE, refusal, refuse_unknown, unknown_name
from krepes.config.reading import Section
from krepes.errors import ConfigError, is_whole
from krepes.kernel.ntk import NTK
from krepes.landmarks import KMeansPlusPlus, LeverageScores, RPCholesky, Uniform
from krepes.objectives import BY_NAME
from krepes.solver import Newton

SAMPLERS = {
    "kmeans++": KMeansPlusPlus,
    "leverage": LeverageScores,
    "rpcholesky": RPCholesky,
    "uniform": Uniform,
}
LARGEST = 10**308  # that a float holds, in round figures


class LandmarksConfig(Section):
    """Sampler, number (none: ⌈√n⌉), the space it works in, and what stands in the kernel for a landmark.

    A number alone is `m`, a name alone `sampler`.
    """

    sampler: Literal["kmeans++", "leverage", "rpcholesky", "uniform"] = "kmeans++"
    m: int | None = Field(default=None, ge=1)
    space: Literal["kernel", "input"] = "kernel"
    rows: Literal["samples", "views"] = "samples"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, content: Any) -> Any:
        if isinstance(content, str):
            return {"sampler": content}
        return {"m": content} if is_whole(content) else content


def named(key: str) -> Callable[[Any], Any]:
    """What makes {key: name} of a name alone, and leaves everything else as it is."""
    return lambda content: {key: content} if isinstance(content, str) else content


def check_objective(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an objective, if there is such a one with such constants; ValidationError names what is wrong."""
    name = settings.get("name")
    if name is None:
        said = "objective.name is missing, such as {name: vicreg}"
        raise refusal("objective", [(COMPLETE, (), f"{said}; expected one of {', '.join(BY_NAME)}", settings)])
    if not isinstance(name, str) or name not in BY_NAME:
        said = f"objective {unknown_name(name, list(BY_NAME))}"
        raise refusal("objective", [(COMPLETE, ("name",), said, name)])
    check("objective", BY_NAME[name], {k: v for k, v in settings.items() if k != "name"})
    return settings


def check(section: str, make: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A section's settings, if they make what it stands for.

    They are kept as they were written, since defaults of a later version would make another run of them.

    Raises:
        ValidationError: there is no such setting, or a value is not usable; at the setting's place where it is one's.
    """
    refuse_unknown(section, settings, list(inspect.signature(make).parameters))
    refuse_huge(section, settings)
    try:
        make(**settings)
    except (ConfigError, TypeError, OverflowError) as error:  # such as a list for a number, or a huge one in a list
        meant = [key for key in settings if f"{key}=" in str(error)]
        place = tuple(meant) if len(meant) == 1 else ()
        said = str(error) if isinstance(error, ConfigError) else f"{settings}: {error}"
        raise refusal(section, [(COMPLETE, place, f"{section}: {said}", settings)]) from error
    return settings


def refuse_huge(section: str, settings: dict[str, Any]) -> None:
    """Raise ValidationError naming whole numbers that no float can hold, unwritten: Python refuses the longest."""
    bits = {k: int(v).bit_length() for k, v in settings.items() if is_whole(v) and abs(v) > LARGEST}
    if bits:
        said = "{}.{} is a whole number of {} bits; expected one of at most 1e308"
        raise refusal(section, [(COMPLETE, (k,), said.format(section, k, n), None) for k, n in bits.items()])


ObjectiveSettings = Annotated[dict[str, Any], BeforeValidator(named("name")), AfterValidator(check_objective)]
KernelSettings = Annotated[
    dict[str, Any], BeforeValidator(named("variant")), AfterValidator(partial(check, "kernel", NTK))
]
NewtonSettings = Annotated[dict[str, Any], AfterValidator(partial(check, "newton", Newton))]
TrustSettings = Annotated[dict[str, Any], AfterValidator(partial(check, "trust", Trust))]
