"""What the report says of the encoder and the samples that were audited."""

from collections.abc import Mapping
from typing import Any

from krepes.data.source import Source

SPACES = {
    "backbone": "the backbone's output",
    "projection": "the projector's output",
    "prediction": "the predictor's output",
    "output": "the encoder's output",
}


def audited(told: Mapping[str, Any] | None, source: Source) -> dict[str, Any]:
    """The head's line, a note that must be seen, and the details.

    Args:
        told: space, note, account and normalisation, as the manifest keeps them of an encoder that a recipe built;
            none of another one.
        source: the samples; `preprocess` and `problems` are said where it has them.

    Returns:
        "space" and "note" as text, "" without a note, and "lines": name and text of each detail.
    """
    told = told or {}
    space = told.get("space", "output")
    lines = [tuple(str(line).split(maxsplit=1)) for line in told.get("account", ())]
    if told.get("normalisation"):
        lines.append(("inside the encoder", str(told["normalisation"])))
    preprocess, problems = getattr(source, "preprocess", None), getattr(source, "problems", None)
    if preprocess is not None:
        lines.append(("samples prepared by", repr(preprocess)))
    if problems is not None:
        lines.append(("samples left out", f"{len(problems):,}, as they could not be used"))
    return {
        "space": SPACES.get(space, str(space)),
        "note": str(told.get("note") or ""),
        "lines": [(one[0], one[1] if len(one) > 1 else "") for one in lines],
    }
