"""Where a training run stands, as one file that is whole or not there."""

import pickle
from pathlib import Path
from typing import Any

import torch

from krepes.errors import RunFolderError
from krepes.files import write_atomically


def save_checkpoint(path: Path, content: dict[str, Any], identity: dict[str, Any]) -> None:
    """Plain values and tensors, and what run they are of.

    Raises:
        RunFolderError: the file cannot be written; the one before stays.
    """

    def write(place: Path) -> None:
        try:
            torch.save({"content": content, "identity": identity}, place)
        except RuntimeError as error:  # PyTorch's for a full disk
            raise OSError(str(error).splitlines()[0]) from error

    write_atomically(path, write)


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint of the same run; no code in it is ever run.

    Raises:
        RunFolderError: the file is damaged, or of another run; names what differs.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        content, of = stored["content"], stored["identity"]
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        # torch's own words advise to run the code in it
        what = "it holds more than numbers" if isinstance(error, pickle.UnpicklingError) else str(error)
        raise RunFolderError(
            f"{path} is no checkpoint of krepes pretrain, or a damaged one: {what}. Remove it, or start anew with "
            "--overwrite."
        ) from error
    differing = differences(of, identity)
    if differing:
        raise RunFolderError(
            f"{path} is of another training run:\n  " + "\n  ".join(differing) + "\nChoose another folder with "
            "--output, or replace it with --overwrite."
        )
    return content


def differences(there: Any, now: Any, name: str = "") -> list[str]:
    """A line for every dotted key whose values are not the same."""
    if isinstance(there, dict) and isinstance(now, dict):
        keys = sorted({*there, *now}, key=str)
        return [line for k in keys for line in differences(there.get(k), now.get(k), f"{name}.{k}" if name else str(k))]
    return [] if there == now else [f"{name}: {there!r} there, {now!r} now"]
