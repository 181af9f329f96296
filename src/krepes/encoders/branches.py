"""Two networks of the same shapes in one file: student and teacher are told apart, and never chosen between."""

import re

from krepes.encoders.presets import preset
from krepes.encoders.reading import Checkpoint
from krepes.encoders.recipe import Recipe
from krepes.encoders.state import State, copies, equal_copy, flattened, state_dicts, unwrapped
from krepes.errors import EncoderError

TEACHER, STUDENT = {"teacher", "momentum", "ema", "target"}, {"student", "online"}


def branch_of(name: str) -> str | None:
    """The branch that a prefix's or container's words name; none where they name none."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return "teacher" if words & TEACHER else "student" if words & STUDENT else None


def refuse_mixed_branches(recipe: Recipe, container: list[str]) -> None:
    """Raise EncoderError where the words of encoder, head, predictor, container and branch contradict each other."""
    encoder, head, predictor = recipe.encoder_prefix or "", recipe.head_prefix, recipe.predictor_prefix
    layouts = preset(recipe.preset).layouts if recipe.preset else ()
    known = {x.branch for x in layouts if x.encoder == recipe.encoder_prefix} - {None}
    said = (encoder, head or "", predictor or "", ".".join(container))
    contrary = [p for p in said if branch_of(p) not in (None, recipe.branch)]
    if recipe.branch is not None and (contrary or (known and recipe.branch not in known)):
        raise EncoderError(
            f"the recipe says branch: {recipe.branch}, but '{(contrary or [encoder])[0]}' is another branch's prefix. "
            "Correct one of them; with a preset and no prefixes, the branch alone is enough."
        )
    for part, prefix in (("head", head), ("predictor", predictor)):
        told = {branch_of(encoder), None if prefix is None else branch_of(prefix)}
        if prefix is not None and "teacher" in told and len(told) == 2:
            raise EncoderError(
                f"encoder_prefix '{encoder}' and {part}_prefix '{prefix}' are of two networks by their names: one is "
                f"the teacher's. Take both of the same; a {part} that serves both networks can be given another name "
                "with rename."
            )


def another_container(
    given: Recipe, checkpoint: Checkpoint, container: list[str], state: State, where: str
) -> list[str]:
    """A remark about state dicts of the same names and shapes elsewhere in the file.

    Raises:
        EncoderError: there is one with other values, and the recipe as given says neither container nor branch.
    """
    remarks, own = [], unwrapped(state)
    for path, held in state_dicts(checkpoint.content):
        if path[: len(container)] == tuple(container):
            continue
        other = unwrapped(dict(flattened(held)))
        shared = [n for n in own if n in other and own[n].shape == other[n].shape]
        if 2 * len(shared) <= len(own):
            continue
        name, taken = ".".join(path), ".".join(container) or "(top)"
        if not equal_copy(other, {n: own[n] for n in shared}, ""):
            remarks.append(f"container '{name}' holds the same values as '{taken}'")
        elif given.container is None and given.branch is None:
            raise EncoderError(
                f"{where} holds two networks of the same names and shapes with other values, in '{taken}' and "
                f"'{name}': weights and their moving average? Say which: container: {taken} or container: {name}."
            )
        else:
            remarks.append(f"container '{taken}' is taken; '{name}' holds another network of its names and shapes")
    return remarks


def twins(recipe: Recipe, state: State, part: State, where: str) -> list[str]:
    """Remarks about networks of the same shapes in the file.

    Args:
        part: the encoder's tensors, as far as they are known to count.

    Raises:
        EncoderError: there is one, and the recipe says no branch; or a doubled prefix holds other values.
    """
    own, remarks = recipe.encoder_prefix or "", []
    encoder = {n: t for n, t in part.items() if not n.startswith("fc.")}
    for prefix in recipe.doubled:
        different = equal_copy(state, encoder, prefix)
        if different:
            raise EncoderError(
                f"{where}: '{prefix}' must hold the encoder of '{own}' once more, but {len(different)} of "
                f"{len(encoder)} tensors differ or are missing, such as '{different[0]}'. The file was put together "
                "from two networks, or saved half way; say which one in encoder_prefix and doubled: []."
            )
        remarks.append(f"'{prefix}' holds the encoder once more, checked to be equal")
    heads = [p for p in (recipe.head_prefix, recipe.predictor_prefix) if p]
    for prefix in copies(state, part, own, [*heads, *recipe.doubled]):
        if not equal_copy(state, part, prefix):
            remarks.append(f"'{prefix}' holds the same values as '{own}'")
        elif recipe.branch is None:
            raise EncoderError(
                f"{where} holds two networks of the same shapes and other values, '{own}' and '{prefix}': student and "
                f"teacher? Say branch: student or teacher for '{own}', or take the other one as encoder_prefix."
            )
        elif branch_of(prefix) == recipe.branch and branch_of(own) != recipe.branch:
            raise EncoderError(
                f"the recipe says branch: {recipe.branch}, but by its name '{prefix}' is the {recipe.branch}, and "
                f"encoder_prefix is '{own}'. Correct one of them."
            )
        else:
            remarks.append(f"'{own}' is taken as the {recipe.branch}; '{prefix}' holds another network of its shapes")
    return remarks
