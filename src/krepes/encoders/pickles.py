"""What a pickle would import, told from its instructions without running them."""

import itertools
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

# what every torch.save writes
HARMLESS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_",
    "torch._tensor._rebuild_",
    "torch.storage.",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
)


def imports_of(path: Path) -> list[str]:
    """`module.name` of everything that the pickle imports beyond tensors, sorted.

    Args:
        path: a torch archive, a legacy torch file, or a plain pickle.
    """
    found = {name for data in pickled_parts(path) for name in imported_names(data)}
    return sorted(n for n in found if not harmless(n))


def harmless(name: str) -> bool:
    """Whether torch itself writes this name for a tensor."""
    module, _, attribute = name.rpartition(".")
    is_type = module == "torch" and (
        attribute.endswith("Storage") or isinstance(getattr(torch, attribute, 0), torch.dtype)
    )
    return is_type or name.startswith(HARMLESS)


def pickled_parts(path: Path) -> Iterator[bytes]:
    """The bytes of every pickle in a file; of a damaged archive those that can be read."""
    # a checksum, a header or a flag that is wrong: each has its own error
    damaged = (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, struct.error)
    with suppress(*damaged):
        if not zipfile.is_zipfile(path):
            yield path.read_bytes()
            return
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".pkl") and info.compress_type == zipfile.ZIP_STORED:
                    yield archive.read(info)


def imported_names(data: bytes) -> set[str]:
    """Names that GLOBAL, INST and STACK_GLOBAL push, over all pickles that stand one after the other."""
    names: set[str] = set()
    start = 0
    for _ in range(5):  # a legacy torch file is five pickles, then raw storages
        texts: list[str] = []  # strings in the order in which they are pushed
        memo: dict[int, str] = {}
        last, stop = "", None
        try:
            for opcode, argument, position in pickletools.genops(data[start:]):
                if opcode.name in ("GLOBAL", "INST"):
                    names.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.add(".".join(texts[-2:]) if len(texts) > 1 else "(a computed name)")
                elif "UNICODE" in opcode.name or "STRING" in opcode.name:
                    last = str(argument)
                    texts.append(last)
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = last
                elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT"):
                    memo[int(argument)] = last  # pyright: ignore[reportArgumentType]
                elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                    last = memo.get(int(argument), "?")  # pyright: ignore[reportArgumentType]
                    texts.append(last)
                if opcode.name == "STOP":
                    stop = position
        except Exception:  # whatever bytes a damaged or hostile file holds: what was read so far is told
            return names
        if stop is None:
            return names
        start += stop + 1
    return names


def listed(names: list[str], limit: int = 8) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(itertools.islice(names, limit)) + more
