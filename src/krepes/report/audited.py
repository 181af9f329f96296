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


def audited(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The head's line, a note that must be seen, and the details.

    Args:
        manifest: space, note, account and normalisation of an encoder that a recipe built (none of another one), and
            under `source` how the samples were prepared and how many were left out.

    Returns:
        "space" and "note" as text, "" without a note, and "lines": name and text of each detail.
    """
    space, source = manifest.get("space", "output"), manifest.get("source") or {}
    lines = [tuple(str(line).split(maxsplit=1)) for line in manifest.get("account") or ()]
    if manifest.get("normalisation"):
        lines.append(("inside the encoder", str(manifest["normalisation"])))
    if source.get("preprocess"):
        lines.append(("samples prepared by", str(source["preprocess"])))
    if source.get("left_out") is not None:
        n = source["left_out"]
        lines.append(("samples left out", f"{n:,}, as they could not be used" if n else "none"))
    return {
        "space": SPACES.get(space, str(space)),
        "note": str(manifest.get("note") or ""),
        "lines": [(one[0], one[1] if len(one) > 1 else "") for one in lines],
    }


def of_source(source: Source) -> dict[str, Any]:
    """What the manifest keeps of the samples for `audited`."""
    preprocess, problems = getattr(source, "preprocess", None), getattr(source, "problems", None)
    return {
        "kind": source.kind,
        "preprocess": None if preprocess is None else repr(preprocess),
        "left_out": None if problems is None else len(problems),
    }
