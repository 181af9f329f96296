"""Encoded images wherever they lie, each decoded when it is asked for; image sources are made of these."""

import hashlib
import math
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ImageFile
from torch import Tensor

from krepes.data.ids import ChosenIds, joined
from krepes.data.preprocess import Preprocess, read_header, read_image
from krepes.data.problems import OnError, Problem, check_on_error, in_threads, settle
from krepes.errors import ConfigError, DataError, is_whole, warn

KEPT_BYTES = 256 * 2**20  # decoded images that are held, where all of them fit
PIXEL_BYTES, EXTRA_BYTES = 8, 64 * 2**20  # an encoded file has no more than so much a pixel, and so much besides
Seen = tuple[tuple[int, ...], str] | str | None


class EncodedImages:
    """Images with a check of each when they are listed.

    Args:
        ids: one per image.
        paths: where each is, for messages.
        encoded: position ↦ the encoded bytes as a file; raises OSError or DataError.
        preprocess: what the encoder was trained with.
        known: problems that are known before any image is opened, by position.
        what: the images with their place, for messages.
        on_error: "raise" names the first images that cannot be used; "skip" leaves them out with a warning.
        verify: decode every image once now; else only headers are read, and an image that fails later raises.
        max_pixels: of one image before preprocessing. Pillow itself refuses twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Attributes:
        kept: ascending positions of the images that can be used (n,).
        shape: of each (C, H, W).
        problems: a table of id, path and problem, one row per image that cannot be used.
        modes: Pillow's mode ↦ how many usable images are kept so.
        preprocess: as given.

    Raises:
        DataError: there are images that cannot be used, or none that can.
    """

    def __init__(
        self,
        ids: Sequence[str],
        paths: Sequence[str],
        encoded: Callable[[int], IO[bytes]],
        preprocess: Preprocess,
        known: dict[int, Problem],
        what: str,
        on_error: OnError,
        verify: bool,
        max_pixels: int,
    ):
        check_settings(preprocess, on_error, max_pixels)
        self._ids, self._paths, self._encoded = ids, paths, encoded
        self.preprocess, self._max_pixels = preprocess, max_pixels
        self._digests = np.zeros((len(ids), 32), np.uint8)  # of the bytes as they were first read; zeros before
        found, usable = dict(known), []
        for position, seen in enumerate(in_threads(self._looker(known, verify), range(len(ids)))):
            usable.append(seen if isinstance(seen, tuple) else None)
            if isinstance(seen, str):
                found[position] = Problem(ids[position], paths[position], seen)
        shapes = Counter(seen[0] for seen in usable if seen is not None)
        self.shape = shapes.most_common(1)[0][0] if shapes else ()
        for position, seen in enumerate(usable):
            if seen is not None and seen[0] != self.shape:
                said = f"it becomes {seen[0]}, and most become {self.shape}: give Preprocess a size or a crop"
                found[position] = Problem(ids[position], paths[position], said)
        self.problems = settle([found[i] for i in sorted(found)], len(ids), on_error, what)
        self.kept = np.array([i for i in range(len(ids)) if i not in found], np.int64)
        self.modes = dict(Counter(usable[i][1] for i in self.kept))  # pyright: ignore[reportOptionalSubscript]
        say_conversions(self.modes, preprocess, what)
        # an audit reads its samples many times
        self._held: dict[int, Tensor] = {}
        self._holds = 4 * math.prod(self.shape) * len(self.kept) <= KEPT_BYTES

    def __len__(self) -> int:
        return len(self.kept)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W), float32, at these positions among the usable ones.

        Raises:
            DataError: one has changed, cannot be read any more, or never could where verify was off; names it.
        """
        positions = self.kept[np.asarray(indices, dtype=np.int64)].tolist()
        if not positions:
            return torch.empty(0, *self.shape)
        if not self._holds:
            return torch.stack(list(in_threads(self._decoded, positions)))
        new = sorted(set(positions) - self._held.keys())
        self._held.update(zip(new, in_threads(self._decoded, new), strict=True))
        return torch.stack([self._held[position] for position in positions])

    def fingerprint(self) -> str:
        """sha256 over ids, preprocessing and the encoded bytes as they were first read: nothing is decoded.

        Raises:
            DataError: an image that was not read yet cannot be read; names it.
        """
        digest = hashlib.sha256(repr(self.preprocess).encode())
        for part in joined(ChosenIds(self._ids, self.kept)):  # pyright: ignore[reportArgumentType]
            digest.update(part)
        for position in self.kept.tolist():
            if not self._digests[position].any():
                try:
                    self._read(position)
                except OSError as error:
                    raise DataError(f"{self._paths[position]}: it cannot be read: {error.strerror or error}") from error
            digest.update(self._digests[position].tobytes())
        return digest.hexdigest()

    def _read(self, position: int) -> IO[bytes]:
        """The encoded bytes, which are those that were read the first time.

        Raises:
            DataError: they have changed since, or are more than an image of max_pixels takes.
            OSError: they cannot be read.
        """
        most = PIXEL_BYTES * self._max_pixels + EXTRA_BYTES
        with self._encoded(position) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise DataError(f"it has more than {most} bytes; no image of max_pixels={self._max_pixels} takes so many")
        digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        if self._digests[position].any() and (digest != self._digests[position]).any():
            raise DataError("its bytes have changed since they were first read, and its fingerprint with them")
        self._digests[position] = digest
        return BytesIO(content)

    def _looker(self, known: dict[int, Problem], verify: bool) -> Callable[[int], Seen]:
        """position ↦ shape and mode, or what is wrong; None where that is known."""
        shared: dict[Any, Any] = {}  # a tuple per image would take more than its id

        def look(position: int) -> Seen:
            if position in known:
                return None
            try:
                if verify:
                    made, mode = read_image(self._read(position), self.preprocess, self._max_pixels)
                    seen = (tuple(made.shape), mode)
                else:
                    with self._encoded(position) as file:
                        seen = read_header(file, self.preprocess, self._max_pixels)
                return shared.setdefault(seen, seen)
            except DataError as error:
                return str(error)
            except OSError as error:
                return f"it cannot be read: {error.strerror or error}"

        return look

    def _decoded(self, position: int) -> Tensor:
        try:
            made = read_image(self._read(position), self.preprocess, self._max_pixels)[0]
            if made.shape != self.shape:
                raise DataError(f"it becomes {tuple(made.shape)}; expected {self.shape}")
        except (DataError, OSError) as error:
            raise DataError(
                f"image {self._ids[position]} ({self._paths[position]}): {error}. Mend it, or leave it out with "
                "verify=True and on_error='skip'."
            ) from error
        return made


def check_settings(preprocess: Any, on_error: str, max_pixels: int) -> None:
    """Raise ConfigError naming a setting that is none; warn where Pillow was told to pass damaged files."""
    check_on_error(on_error)
    if not isinstance(preprocess, Preprocess):
        raise ConfigError(
            f"preprocess is a {type(preprocess).__name__}; expected krepes.data.Preprocess(size=…, crop=…, mean=…, "
            "std=…) as the encoder was trained with"
        )
    if not is_whole(max_pixels) or max_pixels < 1:
        raise ConfigError(f"max_pixels={max_pixels!r}; expected a positive whole number")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        said = "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: truncated images pass as whole ones, filled with grey"
        warn(said)


def say_conversions(modes: dict[str, int], preprocess: Preprocess, what: str) -> None:
    """Warn where images are converted with a loss, or have another number of channels than the encoder takes."""
    plain = {preprocess.mode, "P", "1"} if preprocess.mode == "RGB" else {preprocess.mode, "1"}
    odd = {m: k for m, k in modes.items() if m not in plain}
    if odd:
        kinds = ", ".join(f"{k} {m}" for m, k in sorted(odd.items()))
        said = f"{sum(odd.values())} of {sum(modes.values())} {what} are not {preprocess.mode} and are converted to it"
        warn(f"{said}: {kinds}")


def open_file(path: Path) -> IO[bytes]:
    """An ordinary file that is not empty.

    Raises:
        DataError: it is something else, such as a pipe, which would never end; or empty.
        OSError: it cannot be opened.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise DataError("it is no ordinary file")
    if found.st_size == 0:
        raise DataError("it is empty: 0 bytes")
    return path.open("rb")
