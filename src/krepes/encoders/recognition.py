"""Recognising a network by the names and shapes of its weights."""

from collections.abc import Sequence
from typing import Any

from krepes.encoders.state import State, allowed_by

RESNETS: dict[tuple[tuple[int, ...], int], str] = {  # blocks per stage, convolutions per block
    ((2, 2, 2, 2), 2): "ResNet18",
    ((3, 4, 6, 3), 2): "ResNet34",
    ((3, 4, 6, 3), 3): "ResNet50",
}
CHILDREN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


def recognised(
    part: State, prefix: str, allow: Sequence[str], stem_padding: int | None
) -> tuple[dict[str, Any] | None, str]:
    """A built-in architecture that these weights belong to, and why; none with what speaks against it.

    Args:
        part: the encoder's tensors, names without the prefix; also those of `Sequential(children)`, by position.
        prefix: of the names in the file.
        allow: keys that do not count.
        stem_padding: of a 3 × 3 stem, where the framework is known; weights do not say.
    """
    named = by_name(part)
    if "conv1.weight" not in named or "layer4.0.conv1.weight" not in named:
        first = ", ".join(list(part)[:4])
        return (
            None,
            f"the names ({first}, …) are not those of a ResNet; say arch: an import path, torchvision:…, timm:…",
        )
    blocks = tuple(len({n.split(".")[1] for n in named if n.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    convolutions = 3 if "layer1.0.conv3.weight" in named else 2
    kind = RESNETS.get((blocks, convolutions))
    if kind is None:
        return None, f"a ResNet of {blocks} blocks of {convolutions} convolutions is not built in; say arch"
    width, channels, side = named["conv1.weight"].shape[:3]
    args: dict[str, Any] = {}
    if side == 3:
        if stem_padding is None:
            return None, (
                "its first convolution is 3 × 3, whose padding the weights do not say, and another padding is another "
                f"function: arch: {{name: krepes:{kind}, args: {{stem: cifar, stem_padding: 1}}}} (or 2, as solo-learn)"
            )
        args |= {"stem": "cifar", "stem_padding": stem_padding}
    elif side != 7:
        return None, f"its first convolution is {side} × {side}, neither 7 × 7 nor 3 × 3; say arch"
    if width != 64:
        args["width"] = int(width)
    if channels != 3:
        args["in_channels"] = int(channels)
    if "fc.weight" in named and allowed_by(f"{prefix}fc.weight", allow) is None:
        args["n_out"] = int(named["fc.weight"].shape[0])
    last = (
        f", with its last layer fc of {args['n_out']} outputs: the projector (then head_prefix: {prefix}fc.) or a "
        f"classifier (then allow: ['{prefix}fc.*'])?" if "n_out" in args else ""
    )  # fmt: skip
    stem = f", 3 × 3 stem with padding {stem_padding} and no max pooling after it (an assumption)" if side == 3 else ""
    return {"name": f"krepes:{kind}", "args": args}, f"{kind} by its names and shapes{last}{stem}"


def by_name(part: State) -> State:
    """A ResNet's tensors by name, also where they are numbered."""
    tops = sorted({n.split(".")[0] for n in part if n.split(".")[0].isdigit()}, key=int)
    if not tops or len(tops) > len(CHILDREN) or any(not n.split(".")[0].isdigit() for n in part):
        return part
    target = dict(zip(tops, CHILDREN, strict=False))
    return {".".join([target[n.split(".")[0]], *n.split(".")[1:]]): t for n, t in part.items()}
