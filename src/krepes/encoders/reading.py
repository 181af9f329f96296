"""Safe reading of checkpoint files: tensors and plain values, never code."""

import json
import pickle
import stat
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from krepes.encoders.pickles import imports_of, listed
from krepes.errors import EncoderError, warn

# first bytes of what is often saved under a checkpoint's name; tar has its mark at 257
STRANGERS = (
    (b"<", "a web page or XML, as a failed download leaves it (a login, a quota, a moved file). Download it again"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file. Run `git lfs pull`"),
    (b"\x1f\x8b", "compressed with gzip. Unpack it first"),
    (b"BZh", "compressed with bzip2. Unpack it first"),
    (b"\xfd7zXZ", "compressed with xz. Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd. Unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras). krepes takes torch checkpoints and safetensors"),
    (b"\x93NUMPY", "an .npy array. krepes takes torch checkpoints and safetensors"),
)
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A file's content.

    Attributes:
        path: the file or folder.
        format: "safetensors", "torch archive", "legacy torch file", "folder of safetensors" or "pickle".
        content: mappings, sequences, plain values and tensors, nested.
    """

    path: Path
    format: str
    content: Any


def read_checkpoint(path: str | Path, allow_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint without running code that it may hold.

    Args:
        path: `.safetensors`, anything that `torch.save` wrote (of any name), or a folder of safetensors.
        allow_pickle: run the pickle as it is; only for files of somebody you trust.

    Raises:
        EncoderError: no such file, a damaged one, one of another kind, or a pickle that needs code; says which code,
            and how to get at the weights.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:  # missing, no permission, a loop of links, a null byte
        raise EncoderError(f"cannot open the checkpoint {str(path)!r}: {error}") from error
    if stat.S_ISDIR(mode):
        return Checkpoint(path, "folder of safetensors", read_folder(path))
    if not stat.S_ISREG(mode):
        raise EncoderError(f"{path} is no regular file; expected a checkpoint")
    try:
        with path.open("rb") as f:
            head = f.read(512)
    except OSError as error:
        raise EncoderError(f"cannot read the checkpoint {path}: {error}") from error
    if not looks_like_safetensors(head, path.stat().st_size):
        refuse_strangers(path, head)
    if path.suffix == ".safetensors" or looks_like_safetensors(head, path.stat().st_size):
        return Checkpoint(path, "safetensors", read_safetensors(path))
    archive = head.startswith(b"PK")
    if archive:
        check_archive(path)
    content = read_torch(path, archive, allow_pickle)
    legacy = "legacy torch file" if head[:2] in (b"\x80\x02", b"\x80\x03") else "pickle"
    return Checkpoint(path, "torch archive" if archive else legacy, content)


def refuse_strangers(path: Path, head: bytes) -> None:
    """Raise EncoderError for files that are no checkpoint by their first bytes."""
    if not head:
        raise EncoderError(f"{path} is empty (0 bytes); copy or download it again")
    for mark, what in STRANGERS:
        text = mark == b"<" and b"\0" not in head  # binary files may begin with bytes that look like blanks
        if (head.lstrip() if text else head).startswith(mark) and (text or mark != b"<"):
            raise EncoderError(f"{path} is {what}.")
    if head[257:262] == b"ustar":
        raise EncoderError(f"{path} is a tar archive. Unpack it and name the checkpoint inside.")


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """An 8-byte length and a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise EncoderError(f"{path} is no whole .safetensors file: {error}. Copy or download it again.") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a configuration's `encoder.weights`, which is a .safetensors file and nothing else.

    Raises:
        EncoderError: the file cannot be read, is damaged, or of another kind; says which, and how to get safetensors.
    """
    try:
        with path.open("rb") as f:
            head = f.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise EncoderError(f"cannot read the weights {path}: {error}") from error
    if looks_like_safetensors(head, size):
        return read_safetensors(path)
    refuse_strangers(path, head)
    saved = head.startswith((b"PK", b"\x80"))  # a zip archive, or a pickle of protocol 2 and later
    if path.suffix == ".safetensors" and not saved:
        return read_safetensors(path)  # a damaged one: its own error says where
    raise EncoderError(
        f"{path} is {'a checkpoint as torch.save writes it' if saved else 'no .safetensors file'}; encoder.weights "
        f"takes safetensors. Convert it: krepes convert {path} --preset NAME --output FOLDER (krepes inspect {path} "
        "proposes the preset; --recipe FILE for a network of your own), then say encoder: {recipe: FOLDER} instead of "
        "factory, args and weights. To keep the factory, save its network's weights with "
        "safetensors.torch.save_file(network.state_dict(), 'weights.safetensors')."
    )


def read_folder(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder: `model.safetensors`, else an index with its shards, else the only .safetensors there."""
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    index = shards_of(folder / INDEX) if (folder / INDEX).is_file() else {}
    candidates = [name for name in files if name not in index.values()]
    if index and "model.safetensors" not in files:
        candidates.append(INDEX)
    if not candidates:
        other = sorted(p.name for p in folder.iterdir() if p.is_file())
        shown = f"it holds {listed(other)}" if other else "it holds no files"
        raise EncoderError(f"{folder} is a folder without .safetensors ({shown}); name the checkpoint file")
    if len(candidates) > 1:
        raise EncoderError(
            f"{folder} holds several checkpoints: {listed(candidates)}. Name the file that you mean, or move the rest "
            "away."
        )
    return read_shards(folder, index) if candidates == [INDEX] else read_safetensors(folder / candidates[0])


def read_shards(folder: Path, index: dict[str, str]) -> dict[str, torch.Tensor]:
    """Every tensor from the shard that the index names for it."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(set(index.values())):
        for name, tensor in read_safetensors(folder / file).items():
            if index.get(name) != file:
                said = f"names {index[name]} for it" if name in index else "does not name it"
                raise EncoderError(f"{folder / file} holds '{name}', and {INDEX} {said}: shards of two checkpoints?")
            tensors[name] = tensor
    absent = [name for name in index if name not in tensors]
    if absent:
        raise EncoderError(
            f"{INDEX} names '{absent[0]}' in {index[absent[0]]}, which is not there; copy {folder} again"
        )
    return tensors


def shards_of(index: Path) -> dict[str, str]:
    """Tensor ↦ file, all in the index's folder."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    try:
        found = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=once)["weight_map"]
        names = sorted(set(found.values()))
        inside = all(isinstance(n, str) and Path(n).name == n for n in names)
    except (ValueError, KeyError, AttributeError, TypeError, OSError, RecursionError) as error:
        raise EncoderError(f"{index} is no index of shards: {error!r}") from error
    if not inside:
        raise EncoderError(f"{index} names files outside its folder: {listed([str(n) for n in names])}")
    return found


def check_archive(path: Path) -> None:
    """Raise EncoderError for a zip file that is cut, is no torch archive, or unpacks to more than it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise EncoderError(
            f"{path} is damaged or cut short: {error}. Copy or download it again, and compare its size."
        ) from error
    names = [i.filename for i in infos]
    if any(n.endswith(".npy") for n in names):
        raise EncoderError(f"{path} is an .npz archive of arrays; krepes takes torch checkpoints and safetensors")
    if any("/code/" in n or n.endswith("constants.pkl") for n in names):
        raise EncoderError(
            f"{path} is a TorchScript archive, which holds code. Where it was made, save the weights alone: "
            "torch.save(model.state_dict(), 'weights.pt')."
        )
    if not any(n.endswith("data.pkl") for n in names):
        raise EncoderError(f"{path} is a zip file of {listed(names)}; expected what torch.save writes")
    unpacked, size = sum(i.file_size for i in infos), path.stat().st_size
    if unpacked > size or any(i.compress_type != zipfile.ZIP_STORED for i in infos):
        raise EncoderError(
            f"{path} has {size:,} bytes and claims to unpack to {unpacked:,}: torch.save never compresses, so this is "
            "a damaged or hostile file. Unpack and save it again with torch where you trust it."
        )


def read_torch(path: Path, archive: bool, allow_pickle: bool) -> Any:
    """The content of what torch.save wrote."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols; what follows says it better
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        refused = error
    except Exception as error:  # damaged and hostile bytes make any of them
        raise EncoderError(
            f"{path} cannot be read as a torch checkpoint: {first_line(error)}. It is damaged or of another kind; copy "
            "or download it again."
        ) from error
    names = imports_of(path)
    if not allow_pickle:
        raise EncoderError(refusal(path, names, refused)) from refused
    warn(f"{path} was read as a pickle, which runs the code that it names: {listed(names) or 'unknown'}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise EncoderError(
            f"{path} needs code that is not here: {error}. Install what it was trained with, or save the weights alone "
            "where it was made."
        ) from error
    except Exception as error:
        raise EncoderError(f"{path} cannot be unpickled: {first_line(error)}") from error
    return content.state_dict() if isinstance(content, nn.Module) else content


def refusal(path: Path, names: list[str], error: Exception) -> str:
    """What a refused pickle would import, and the ways out."""
    if not names:
        return f"{path} is no checkpoint that torch can read safely (damaged, or another kind): {first_line(error)}"
    kind = (
        "settings that Lightning stored as an OmegaConf" if any(n.startswith("omegaconf.") for n in names) else "code"
    )
    return (
        f"{path} is not read: beside tensors its pickle holds {kind}; it would import {listed(names)}.\n"
        "If you trust where it comes from, save the weights alone in the environment that made it:\n"
        "    import torch\n"
        f"    checkpoint = torch.load({str(path)!r}, map_location='cpu', weights_only=False)\n"
        "    # a network under another key: weights = checkpoint['model'], or checkpoint['model'].state_dict()\n"
        "    whole = not isinstance(checkpoint, dict)\n"
        "    weights = checkpoint.state_dict() if whole else checkpoint.get('state_dict', checkpoint)\n"
        f"    torch.save({{'state_dict': weights}}, {path.with_suffix('.weights.pt').name!r})\n"
        f"or let krepes do it: krepes convert {path} --preset NAME --allow-pickle --output FOLDER (or --recipe FILE; "
        "this runs the code named above)."
    )


def first_line(error: Exception) -> str:
    """The error's kind and first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].strip()}"[:300] if text else type(error).__name__
