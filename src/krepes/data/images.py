"""Image files as samples: lists of files, and folders with a subfolder per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from krepes.data.columns import Columns
from krepes.data.encoded import EncodedImages, open_file
from krepes.data.folders import IMAGES, Listing, in_utf8, listed, walk
from krepes.data.ids import refuse_text
from krepes.data.preprocess import MAX_PIXELS, Preprocess
from krepes.data.problems import OnError, Problem, repeated_ids
from krepes.errors import DataError

__all__ = ["IMAGES", "MAX_PIXELS", "ImageFiles", "ImageFolder", "ImageSource", "Preprocess"]


class ImageSource:
    """Encoded images as samples: what `ImageFiles`, `ImageFolder` and `PackedImages` make.

    Args:
        images: with their check done.
        names: an id per image, among them those that are left out.
        table: one row per image, or None.
        hide, show_label: see `ImageFiles`.

    Attributes:
        problems: a table of id, path and problem of the images that are left out.
        preprocess: as given; its repr is the record of what the encoder sees.
        modes: Pillow's mode ↦ how many images are kept so.

    Raises:
        DataError: a hidden column does not exist.
    """

    kind = "image"

    def __init__(
        self,
        images: EncodedImages,
        names: Sequence[str],
        table: pd.DataFrame | None,
        hide: Sequence[str] = (),
        show_label: bool = False,
    ):
        self._images, kept = images, images.kept
        self.preprocess, self.problems, self.modes = images.preprocess, images.problems, images.modes
        self.ids: Sequence[str] = names if len(kept) == len(names) else [str(names[i]) for i in kept.tolist()]
        self._columns = Columns(table, kept, hide, show_label)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W), float32; raises as `EncodedImages.batch`."""
        return self._images.batch(indices)

    def metadata(self) -> pd.DataFrame | None:
        """The columns that are not hidden; None where there are none."""
        return self._columns.shown

    def column(self, name: str) -> np.ndarray:
        """One metadata column, hidden or not (n,), None where missing; raises DataError if there is none."""
        return self._columns.column(name)

    def fingerprint(self) -> str:
        """sha256 over ids, preprocessing and the images' bytes; computed once."""
        if self._fingerprint is None:
            self._fingerprint = self._images.fingerprint()
        return self._fingerprint


def ImageFiles(
    paths: Sequence[str | Path] | str | Path | Listing,
    preprocess: Preprocess,
    ids: Sequence[str] | None = None,
    metadata: pd.DataFrame | None = None,
    hide: Sequence[str] = (),
    on_error: OnError = "raise",
    verify: bool = True,
    max_pixels: int = MAX_PIXELS,
    show_label: bool = False,
) -> ImageSource:
    """Image files as samples.

    Args:
        paths: the files; or a text file with a path a line; or a CSV file with a column `path`, maybe `id`, and others
            that become metadata. Paths in a file start at its folder.
        preprocess: what the encoder was trained with.
        ids: one per file; default its path as given, with / between folders.
        metadata: one row per file, shown with the images, never seen by the encoder.
        hide: columns kept out of `metadata()`, such as classes; `column` still gives them.
        on_error: "raise" names the first files that cannot be used; "skip" leaves them out with a warning, and the
            others keep their ids.
        verify: decode every file once now; else only headers are read, and a file that fails later raises by name.
        max_pixels: of one image before preprocessing; larger ones cannot be used.
        show_label: leave columns in `metadata()` that hold classes by their names, such as `label` or `folder`; else
            they are hidden with a warning, unless `hide` names them.

    Example:
        >>> source = ImageFiles(["a.png", "b.png"], Preprocess(size=(32, 32)))
        >>> source.batch(range(2)).shape, source.ids[0]
        (torch.Size([2, 3, 32, 32]), 'a.png')

    Raises:
        DataError: no files, or files that cannot be used: names the first five and says how many.
    """
    refuse_text(ids)
    files = paths if isinstance(paths, Listing) else listed(paths)
    if not files.paths:
        raise DataError(f"there are no samples: no {files.what}")
    shown = [in_utf8(str(files.root / p)) for p in files.paths]
    names = files.ids if ids is None else [str(i) for i in ids]
    table = files.table if metadata is None else metadata
    for what, rows in (("ids", names), ("rows of metadata", table)):
        if rows is not None and len(rows) != len(shown):
            raise DataError(f"{len(rows)} {what} for {len(shown)} {files.what}; expected one each")
    known = repeated_ids(names, shown) | {i: Problem(names[i], shown[i], why) for i, why in files.problems.items()}
    images = EncodedImages(
        names, shown, lambda i: open_file(files.root / files.paths[i]), preprocess, known, files.what, on_error,
        verify, max_pixels,
    )  # fmt: skip
    return ImageSource(images, names, table, hide, show_label)


def ImageFolder(
    root: str | Path,
    preprocess: Preprocess,
    hide: Sequence[str] = (),
    on_error: OnError = "raise",
    verify: bool = True,
    max_pixels: int = MAX_PIXELS,
    suffixes: Sequence[str] = IMAGES,
    show_label: bool = False,
) -> ImageSource:
    """The images of a folder and its subfolders, under their paths in it.

    Args:
        root: holds images, or a subfolder of images per class: the first folder of each path is then the column
            `folder`, which is no metadata unless `show_label` says so. Hidden files are passed over.
        suffixes: what image files end in; others are passed over with a warning.
        preprocess, hide, on_error, verify, max_pixels, show_label: see `ImageFiles`.

    Example:
        >>> source = ImageFolder("photos", Preprocess(size=256, crop=224), hide=["folder"], on_error="skip")
        >>> source.ids[0], source.column("folder")[0]
        ('cat/001.jpg', 'cat')

    Raises:
        DataError: no such folder, no images in it, or images that cannot be used.
    """
    files = walk(Path(root), suffixes)
    return ImageFiles(files, preprocess, None, None, hide, on_error, verify, max_pixels, show_label)
