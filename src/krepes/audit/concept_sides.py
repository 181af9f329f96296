"""The two sides of a concept: queries, ids, masks, samples of one's own, or a folder per concept."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from krepes.audit.concepts import MOST, Concept, some
from krepes.data.stream import blocks
from krepes.errors import ConfigError

if TYPE_CHECKING:
    from krepes.auditor import Auditor


def sets(auditor: "Auditor", positive: Any, negative: Any, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """f of both sides of a concept: samples, or a query, ids or a mask on the auditor's source.

    Without a negative side, the other samples of the source stand for it.

    Raises:
        ConfigError: the sides overlap, by position or, where one of them is given as samples, by content; or negative
            is missing where the source cannot give it.
    """
    one = _chosen(auditor, positive, f"the positive side of concept {name!r}")
    if negative is None:
        if not isinstance(one, np.ndarray):
            raise ConfigError(
                f"concept {name!r} has no negative samples; give them, or name the positive ones by a query or ids of "
                "the audited samples, whose others are then the negative side"
            )
        other: Any = np.setdiff1d(np.arange(len(auditor.source_)), one, assume_unique=True)
        if len(other) == 0:
            raise ConfigError(f"concept {name!r} takes every sample: there is no negative side")
    else:
        other = _chosen(auditor, negative, f"the negative side of concept {name!r}")
    _refuse_overlap(auditor, one, other, name)
    generator = np.random.default_rng(seed)
    f = [_represented(auditor, side, generator) for side in (one, other)]
    return f[0], f[1]


def _refuse_overlap(auditor: "Auditor", one: Any, other: Any, name: str) -> None:
    """Positions are compared as such; samples that were given themselves have no place, and their contents are."""
    from krepes.data.source import Subset

    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        refuse_shared(auditor.source_, one, other, name)
        return
    a, b = (Subset(auditor.source_, side) if isinstance(side, np.ndarray) else side for side in (one, other))
    types = a.batch([0]).dtype, b.batch([0]).dtype
    # two precisions of one sample agree in the lower one
    narrow = min(types, key=lambda t: t.itemsize) if all(t.is_floating_point for t in types) else None
    as_type = torch.promote_types(*types) if narrow is None else narrow
    shared = len(_contents(a, as_type) & _contents(b, as_type))
    if shared:
        raise ConfigError(f"{shared} samples are on both sides of concept {name!r}: their contents are equal")


def refuse_shared(source: Any, one: np.ndarray, other: np.ndarray, name: str) -> None:
    """Raise ConfigError naming the samples whose positions are on both sides."""
    both = np.intersect1d(one, other)
    if len(both):
        named = ", ".join(str(source.ids[i]) for i in both[:5].tolist())
        raise ConfigError(f"{len(both)} samples are on both sides of concept {name!r}: {named}")


def concept_folders(
    auditor: "Auditor", folder: Path, transform: Callable[[Any], Tensor] | None, negative: str | None, seed: int
) -> list[Concept]:
    """A concept per subfolder; see `Auditor.concepts_from`."""
    found = folder_sides(auditor, folder, transform, negative, seed)
    return [auditor.concept(x, others, name) for name, (x, others) in found.items()]


def folder_sides(
    auditor: "Auditor", folder: str | Path, transform: Callable[[Any], Tensor] | None, negative: str | None, seed: int
) -> dict[str, tuple[Any, Any]]:
    """Concept ↦ its positive and its negative side, of a folder of concepts; see `Auditor.concepts_from`."""
    from krepes.data.folders import read_concept_folders
    from krepes.data.source import Subset, as_source

    source, folder = auditor.source_, Path(folder)
    found = read_concept_folders(folder, source.batch([0])[0].cpu(), transform)
    if negative is None:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[: 2 * MOST])
        named = set().union(*(_contents(as_source(x)) for x in found.values()))
        apart = [i for i, sum_ in zip(chosen, _checksums(Subset(source, chosen)), strict=True) if sum_ not in named]
        others: Any = Subset(source, np.asarray(apart, dtype=int))
        if not apart:
            raise ConfigError(f"all audited samples are in {folder}: there is no negative side; name a subfolder")
    else:
        if negative not in found:
            raise ConfigError(f"negative={negative!r} is no subfolder of {folder}: {', '.join(found)}")
        others = found.pop(negative)
        if not found:
            raise ConfigError(f"{folder} holds no concept beside the negative side {negative!r}")
    return {name: (x, others) for name, x in found.items()}


def _chosen(auditor: "Auditor", wanted: Any, what: str) -> Any:
    """Positions in the source, or a source of samples."""
    from krepes.audit.selection import positions
    from krepes.data.source import Source, as_source

    if isinstance(wanted, str) or (
        not isinstance(wanted, Source | Tensor) and np.ndim(wanted) == 1  # pyright: ignore[reportArgumentType]
    ):
        return positions(auditor.source_, wanted, what)
    if isinstance(wanted, Tensor) and wanted.ndim == 1:
        return positions(auditor.source_, wanted, what)
    return as_source(wanted)


def _contents(source: Any, dtype: torch.dtype | None = None) -> set[bytes]:
    return set(_checksums(source, dtype))


def _checksums(source: Any, dtype: torch.dtype | None = None) -> list[bytes]:
    """Of every sample, in this type."""
    return [
        hashlib.sha256(row.flatten().view(torch.uint8).numpy().tobytes()).digest()
        for block in blocks(range(len(source)), 1024)
        for row in source.batch(block).cpu().to(dtype=dtype).contiguous()
    ]


def _represented(auditor: "Auditor", side: Any, generator: np.random.Generator) -> Tensor:
    from krepes.data.source import Subset

    if isinstance(side, np.ndarray):
        side = Subset(auditor.source_, side[some(len(side), generator)])
    elif len(side) > MOST:
        side = Subset(side, some(len(side), generator))
    return auditor.transform(side)
