"""Image files as samples: lists of files, and folders with a subfolder per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from krepes.data.encoded import Columns, EncodedImages, open_file
from krepes.data.folders import IMAGES, Listing, in_utf8, listed, walk
from krepes.data.preprocess import MAX_PIXELS, Preprocess
from krepes.data.problems import OnError, Problem, repeated_ids
from krepes.data.source import checked_metadata
from krepes.errors import DataError

__all__ = ["IMAGES", "MAX_PIXELS", "ImageFiles", "ImageFolder", "Preprocess"]


class ImageFiles:
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

    Attributes:
        problems: a table of id, path and problem of the files that are left out.
        preprocess: as given; its repr is the record of what the encoder sees.
        modes: Pillow's mode ↦ how many images are kept so.

    Example:
        >>> source = ImageFiles(["a.png", "b.png"], Preprocess(size=(32, 32)))
        >>> source.batch(range(2)).shape, source.ids[0]
        (torch.Size([2, 3, 32, 32]), 'a.png')

    Raises:
        DataError: no files, or files that cannot be used: names the first five and says how many.
    """

    kind = "image"

    def __init__(
        self,
        paths: Sequence[str | Path] | str | Path | Listing,
        preprocess: Preprocess,
        ids: Sequence[str] | None = None,
        metadata: pd.DataFrame | None = None,
        hide: Sequence[str] = (),
        on_error: OnError = "raise",
        verify: bool = True,
        max_pixels: int = MAX_PIXELS,
    ):
        files = paths if isinstance(paths, Listing) else listed(paths)
        if not files.paths:
            raise DataError(f"there are no samples: no {files.what}")
        shown = [in_utf8(str(files.root / p)) for p in files.paths]
        names = files.ids if ids is None else [str(i) for i in ids]
        if len(names) != len(shown):
            raise DataError(f"{len(names)} ids for {len(shown)} {files.what}; expected one each")
        table = checked_metadata(files.table if metadata is None else metadata, len(shown))
        known = repeated_ids(names, shown) | {i: Problem(names[i], shown[i], why) for i, why in files.problems.items()}
        self._images = EncodedImages(
            names, shown, lambda i: open_file(files.root / files.paths[i]), preprocess, known, files.what, on_error,
            verify, max_pixels,
        )  # fmt: skip
        kept = self._images.kept
        self.preprocess, self.problems, self.modes = preprocess, self._images.problems, self._images.modes
        self.ids = [names[i] for i in kept]
        self._columns = Columns(table, kept, hide)
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
        """sha256 over ids, preprocessing and the files' bytes; computed once."""
        if self._fingerprint is None:
            self._fingerprint = self._images.fingerprint()
        return self._fingerprint


def ImageFolder(
    root: str | Path,
    preprocess: Preprocess,
    hide: Sequence[str] = (),
    on_error: OnError = "raise",
    verify: bool = True,
    max_pixels: int = MAX_PIXELS,
    suffixes: Sequence[str] = IMAGES,
) -> ImageFiles:
    """The images of a folder and its subfolders, under their paths in it.

    Args:
        root: holds images, or a subfolder of images per class: the first folder of each path is then the metadata
            column `folder`, which the encoder never sees. Hidden files are passed over.
        suffixes: what image files end in; others are passed over with a warning.
        preprocess, hide, on_error, verify, max_pixels: see `ImageFiles`.

    Example:
        >>> source = ImageFolder("photos", Preprocess(size=256, crop=224), on_error="skip")
        >>> source.ids[0], source.metadata().loc[0, "folder"]
        ('cat/001.jpg', 'cat')

    Raises:
        DataError: no such folder, no images in it, or images that cannot be used.
    """
    return ImageFiles(walk(Path(root), suffixes), preprocess, None, None, hide, on_error, verify, max_pixels)
