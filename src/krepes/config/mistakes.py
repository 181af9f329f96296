"""What is wrong in a configuration, in words: settings that there are not, with the nearest one, and wrong values."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from krepes.remote import without_secrets

UNKNOWN = "unknown_setting"
COMPLETE = "complete"  # the message names the setting itself, and what was found
OF_SECTIONS = ("dict_type", "model_type", "model_attributes_type")

Place = tuple[str | int, ...]


def nearest(key: str, known: Sequence[str]) -> list[str]:
    """The one that was probably meant; none if none is near."""
    return difflib.get_close_matches(key, known, 1)


def unknown(key: str, known: Sequence[str]) -> str:
    """That there is no such setting, with the nearest one, or all where none is near."""
    near = nearest(key, known)
    return f"unknown setting '{key}'; " + (f"did you mean '{near[0]}'?" if near else f"expected {listed(known)}")


def unknown_name(name: Any, known: Sequence[str]) -> str:
    """That there is nothing of this name, with the nearest one, and all."""
    near = nearest(str(name), known)
    return f"{name!r} is unknown; {f'did you mean {near[0]}? ' if near else ''}expected {', '.join(known)}"


def listed(known: Sequence[str]) -> str:
    """The settings that there are."""
    return f"one of {', '.join(known)}" if known else "none"


def refusal(section: str, mistakes: Iterable[tuple[str, Place, str, Any]]) -> ValidationError:
    """One error of several mistakes, each at its place: raised in a validator, it is named with line and column.

    Args:
        mistakes: kind (`UNKNOWN`, `COMPLETE`, or one of pydantic's), place inside the section, message, what was found.
    """
    return ValidationError.from_exception_data(
        section,
        [
            InitErrorDetails(type=PydanticCustomError(kind, "{said}", {"said": said}), loc=place, input=found)  # pyright: ignore[reportArgumentType]
            for kind, place, said, found in mistakes
        ],
    )


def refuse_unknown(section: str, settings: dict[Any, Any], known: Sequence[str]) -> None:
    """Raise ValidationError naming settings that a section has not."""
    odd = [str(key) for key in settings if key not in known]
    if odd:
        raise refusal(section, [(UNKNOWN, (key,), unknown(key, known), None) for key in odd])


def with_suggestions(error: ValidationError, section: str, known: Sequence[str]) -> ValidationError:
    """The same error, in which a section's own unknown settings are told with the nearest one."""
    mistakes, meant = [], set()
    for e in error.errors():
        kind, said = e["type"], e["msg"]
        if kind == "extra_forbidden" and len(e["loc"]) == 1:
            key = str(e["loc"][0])
            kind, said = UNKNOWN, unknown(key, known)
            meant |= {(name,) for name in nearest(key, known)}
        mistakes.append((kind, e["loc"], said, e["input"]))
    # a needed setting that is misspelt is one mistake, not two
    return refusal(section, [one for one in mistakes if one[0] != "missing" or one[1] not in meant])


def in_words(error: Any) -> str:
    """One of pydantic's errors: the key, what is wrong, what was found."""
    kind, place, said = error["type"], error["loc"], error["msg"].removeprefix("Value error, ")
    if kind == COMPLETE:
        return said
    if kind in OF_SECTIONS:
        said = "expected settings (key: value)"
    # what is unknown in no section stands in the message alone
    shown = "" if kind == UNKNOWN and len(place) == 1 else ".".join(map(str, place))
    # a whole section is no help where one of its keys is missing or wrong
    found = "" if kind in (UNKNOWN, "missing") or isinstance(error["input"], dict) else (
        f" (found {without_secrets(error['input'])!r})"
    )  # fmt: skip
    return f"{shown}: {said}{found}" if shown else f"{said}{found}"
