"""Samples in folders: image files as they lie there, and one folder per concept."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.csv_table import column_names_of_csv, read_csv
from krepes.data.encoded import open_file
from krepes.data.names import existing
from krepes.data.preprocess import Preprocess, read_image
from krepes.errors import ConfigError, DataError, warn

ARRAYS = (".npy", ".npz")
IMAGES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2")


@dataclass(frozen=True)
class Listing:
    """Files that may become samples.

    Attributes:
        what: the files with their place, for messages.
        root: where relative paths start.
        paths: as they are found or given.
        ids: one each.
        table: one row per file, or None.
        problems: position ↦ what is wrong already.
    """

    what: str
    root: Path
    paths: list[str]
    ids: list[str]
    table: pd.DataFrame | None = None
    problems: dict[int, str] = field(default_factory=dict)

    def head(self, rows: int | None) -> "Listing":
        """The first files; all of them for None."""
        known = {i: why for i, why in self.problems.items() if rows is None or i < rows}
        table = None if self.table is None else self.table.head(len(self.paths[:rows]))
        return Listing(self.what, self.root, self.paths[:rows], self.ids[:rows], table, known)


def walk(root: Path, suffixes: Sequence[str] = IMAGES) -> Listing:
    """The images below a folder, sorted by path, with the first folder of each path as column `folder`.

    Links are followed; one that leads back to a folder above it, and a folder that cannot be read, is a problem in the
    listing.

    Raises:
        DataError: no such folder, or one of arrays alone.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; expected one of images, or with a subfolder of images per class")
    found, problems = [], {}
    for path, problem in _below(root, "", {_identity(root)}):
        found.append(path)
        if problem:
            problems[path] = problem
    endings = tuple(s.lower() for s in suffixes)
    others = sorted(p for p in found if not p.lower().endswith(endings) and p not in problems)
    if others and len(others) == len(found):
        _refuse_arrays(root, others)
    if others:
        few = ", ".join(map(in_utf8, others[:3]))
        warn(
            f"{len(others)} files of {root} are no images by their names and are passed over: {few}"
            f"{' …' if len(others) > 3 else ''}"
        )
    paths = sorted(set(found) - set(others))
    ids = [in_utf8(p) for p in paths]
    problems = {i: problems[p] for i, p in enumerate(paths) if p in problems}
    folders = [name.split("/", 1)[0] if "/" in name else None for name in ids]
    table = pd.DataFrame({"folder": pd.Categorical(folders)}) if any(folders) else None
    return Listing(f"images of {root}", root, paths, ids, table, _unreadable_names(paths) | problems)


def _refuse_arrays(where: Path, names: Sequence[str]) -> None:
    """Raise DataError where one of the files, none of which is an image by its name, is an array by its name."""
    arrays = [name for name in names if name.lower().endswith(ARRAYS)]
    if arrays:
        raise DataError(
            f"there are no samples: no images of {where}, but {len(arrays)} files of arrays, such as "
            f"{in_utf8(arrays[0])}. Arrays are given as one file with all samples: in a configuration data: {{array: "
            "file.npy}, or {packed: file.npz} for encoded images; in Python load_array('file.npy'). numpy.stack makes "
            "one of many"
        )


def _below(folder: Path, prefix: str, above: set[tuple[int, int]]) -> Iterator[tuple[str, str | None]]:
    """Paths with / between folders, each with a problem or None."""
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        yield prefix.rstrip("/") or ".", f"the folder cannot be read: {error.strerror}"
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = prefix + entry.name
        if not os.path.isdir(entry.path):  # entry.is_dir() raises on a link to itself
            yield path, None
            continue
        identity = _identity(Path(entry.path))
        if identity in above:
            yield path, "it is a link to a folder above it, a loop"
        else:
            yield from _below(Path(entry.path), path + "/", above | {identity})


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def listed(paths: Sequence[str | Path] | str | Path) -> Listing:
    """Files that are listed: in Python, in a text file with a path a line, or in a CSV file with a column `path`.

    A CSV file's column `id` gives the ids, and its other columns a table.

    Raises:
        DataError: no such file, one that is not UTF-8, an array, or without the column.
    """
    if not isinstance(paths, str | Path):
        plain = [os.fspath(p) for p in paths]
        return _listing("images", Path(), plain)
    file, what = existing(paths), f"images of {paths}"
    _refuse_arrays(file, [file.name])
    if file.suffix.lower() != ".csv":
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 ({error}); expected a text file with a path a line") from error
        return _listing(what, file.parent, [line.strip() for line in lines if line.strip()])
    if "path" not in (names := column_names_of_csv(file)):
        raise DataError(f"{file} has no column 'path' with the images' files; it has {', '.join(names)}")
    table = read_csv(file, text=[n for n in ("path", "id") if n in names])
    for name in {"path", "id"} & set(table):
        if gone := table[name].isna().to_numpy().sum():
            raise DataError(f"{file}: column '{name}' is empty in {gone} rows; each needs one")
    ids = table["id"].astype(str).tolist() if "id" in table else None
    rest = table.drop(columns=[c for c in ("path", "id") if c in table])
    paths_ = table["path"].astype(str).tolist()
    return _listing(what, file.parent, paths_, ids, rest if len(rest.columns) else None)


def _listing(
    what: str, root: Path, paths: list[str], ids: list[str] | None = None, table: pd.DataFrame | None = None
) -> Listing:
    names = [in_utf8(Path(os.path.normpath(p)).as_posix()) for p in paths] if ids is None else ids
    return Listing(what, root, paths, names, table, _unreadable_names(paths))


def in_utf8(name: str) -> str:
    """A file's name, with bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unreadable_names(paths: list[str]) -> dict[int, str]:
    """Position ↦ problem of names that are not UTF-8: they could be no ids."""
    bad = [i for i, p in enumerate(paths) if os.fsencode(p) != p.encode("utf-8", "replace")]
    return dict.fromkeys(bad, "its name is not UTF-8; rename it")


def read_concept_folders(
    folder: Path, like: Tensor, transform: Callable[[Any], Tensor] | None = None
) -> dict[str, Tensor]:
    """The samples of every subfolder, by its name.

    Args:
        folder: holds one subfolder per concept with `.npy` files (one sample, or a stack of samples, as the encoder
            takes them) or images; hidden files are passed over.
        like: one sample as the encoder takes it (...).
        transform: PIL image ↦ tensor of that shape: the encoder's own preprocessing, such as `Preprocess`. Needed for
            images.

    Returns:
        concept ↦ samples (k, ...), in the order of names.

    Raises:
        ConfigError: no such folder, no subfolder, or images without a transform.
        DataError: a file cannot be read, or holds samples of another shape.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; expected one with a subfolder per concept")
    concepts = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not concepts:
        raise ConfigError(f"{folder} holds no subfolder; expected one per concept")
    found = {}
    for concept in concepts:
        files = sorted(p for p in concept.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise DataError(f"concept folder {concept} is empty")
        found[concept.name] = torch.cat([_read(path, like, transform) for path in files])
    return found


def _read(path: Path, like: Tensor, transform: Callable[[Any], Tensor] | None) -> Tensor:
    """The samples of one file (k, ...)."""
    if path.suffix == ".npy":
        try:
            values = torch.as_tensor(np.load(path, allow_pickle=False))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"cannot read {path} as .npy: {error}") from error
    else:
        values = _image(path, transform)
    values = values[None] if values.shape == like.shape else values
    if values.shape[1:] != like.shape:
        raise DataError(f"{path} holds shape {tuple(values.shape)}; the encoder takes samples of {tuple(like.shape)}")
    if values.is_floating_point() != like.is_floating_point():
        raise DataError(f"{path} holds {values.dtype}; the audited samples are {like.dtype}")
    if not torch.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite")
    return values.to(like.dtype)


def _image(path: Path, transform: Callable[[Any], Tensor] | None) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    if transform is None:
        raise ConfigError(
            f"{path} is no .npy file; for images give transform=…, the preprocessing that the encoder was trained with "
            "(PIL image to tensor)"
        )
    if isinstance(transform, Preprocess):
        try:
            with open_file(path) as file:
                return read_image(file, transform)[0]
        except (DataError, OSError) as error:
            raise DataError(f"cannot read {path} as an image: {error}") from error
    try:
        with Image.open(path) as image:
            image.load()
            values = transform(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {path} as an image: {error}") from error
    return torch.as_tensor(values)
