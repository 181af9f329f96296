"""Items of a Hugging Face dataset as tensors: images, text as token ids, arrays of numbers."""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from krepes.data.encoded import check_settings, open_file
from krepes.data.names import require_name
from krepes.data.preprocess import Preprocess, read_image
from krepes.data.problems import in_threads
from krepes.errors import ConfigError, DataError, is_whole
from krepes.files import sha256_file

BLOCK = 256  # items that are read and encoded together
# layers of a stream that neither choose nor change items
AS_THEY_LIE = ("ArrowExamplesIterable", "RebatchedArrowExamplesIterable", "FormattedExamplesIterable")


@dataclass(frozen=True)
class Wanted:
    """Which columns are the samples, the ids, and stand beside them."""

    sample: str
    ids: str | None
    shown: tuple[str, ...]


def checked_dataset(dataset: Any, columns: Sequence[str]) -> tuple[Any, bool]:
    """The dataset with its images left encoded, and whether it is a stream.

    Raises:
        DataError: no dataset of one split, or no such column.
        ConfigError: the library is not installed.
    """
    datasets = load_library()
    if isinstance(dataset, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise DataError(f"the dataset holds the splits {', '.join(map(str, dataset))}; pass one: dataset['train']")
    stream = isinstance(dataset, datasets.IterableDataset)
    if not stream and not isinstance(dataset, datasets.Dataset):
        raise DataError(f"a {type(dataset).__name__} is no Hugging Face dataset; expected Dataset or IterableDataset")
    dataset = dataset.with_format(None)
    features = dataset.features
    names = list(features) if features else list(next(iter(dataset), {}))
    for name in columns:
        require_name(names, name)
    for name, feature in (features or {}).items():
        if isinstance(feature, datasets.Image) and name in columns:
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset, stream


def load_library() -> Any:
    """datasets, imported now; raises ConfigError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f'Hugging Face datasets need datasets, which cannot be imported ({error}): pip install "krepes[hub]"'
        ) from error
    return datasets


def origin(dataset: Any) -> tuple[dict[str, Any], bool]:
    """What a stream is made of, as JSON, and whether that tells its items for certain.

    It does for all rows of datasets, by their fingerprints. Of files (which can be read in several ways), and behind
    anything that chooses or changes items, the items themselves have to be compared.

    Raises:
        DataError: the stream shuffles.
    """
    info, known, parts = dataset.info, True, []
    layer = getattr(dataset, "_ex_iterable", None)
    while layer is not None:
        name = type(layer).__name__
        if "Shuffle" in name or getattr(layer, "generator", None) is not None:
            raise DataError("the stream shuffles, so that ids would mean other items in another run; take it before")
        parts.append(name)
        inner, given = getattr(layer, "ex_iterable", None), getattr(layer, "kwargs", {})
        known &= name in AS_THEY_LIE
        if inner is None:
            datas = [d for d in given.get("shards", ()) if hasattr(d, "_fingerprint")]
            files = [str(f) for f in given.get("base_files", given.get("files", ())) if isinstance(f, str)]
            parts += [d._fingerprint for d in datas] + [_file_as_told(f) for f in files]
            known &= bool(datas)
        layer = inner
    known &= parts != []
    said = {
        "name": f"{info.dataset_name} {info.config_name} {info.version} {dataset.split} {info.builder_name}",
        "columns": {name: str(kind) for name, kind in sorted((dataset.features or {}).items())},
        "parts": parts,
    }
    return said, known


def _file_as_told(name: str) -> str:
    path = Path(name)
    if not path.is_file():
        return name
    found = path.stat()
    told = sha256_file(path) if found.st_size <= 2**30 else f"changed {found.st_mtime_ns}"
    return f"{path.name} {found.st_size} {told}"


def raw_bytes(item: Any) -> bytes:
    """An item as it comes from a stream, in bytes that tell it from others."""
    if isinstance(item, dict):
        return b"{" + b"".join(repr(k).encode() + raw_bytes(v) for k, v in item.items()) + b"}"
    if isinstance(item, Image.Image):
        return f"{item.mode}{item.size}".encode() + item.tobytes()
    if isinstance(item, np.ndarray | Tensor):
        array = np.ascontiguousarray(item)
        return f"{array.dtype}{array.shape}".encode() + array.tobytes()
    return (item if isinstance(item, bytes) else repr(item).encode()) + b"\0"


def identity_of(tokenizer: Any) -> str:
    """What tells a tokenizer from others: class, vocabulary and rules, or name and code.

    Raises:
        ConfigError: nothing does, as of a lambda.
    """
    vocabulary = getattr(tokenizer, "get_vocab", None)
    if callable(vocabulary):
        told = {"vocabulary": vocabulary()}
        rules = getattr(tokenizer, "backend_tokenizer", None)
        if rules is not None:  # lower case, accents, special tokens; padding is what the last call asked for
            told |= {k: v for k, v in json.loads(rules.to_str()).items() if k not in ("padding", "truncation")}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return f"{type(tokenizer).__qualname__} {digest}"
    code, name = getattr(tokenizer, "__code__", None), getattr(tokenizer, "__qualname__", "<locals>")
    if code is None or code.co_freevars or "<" in name:
        raise ConfigError(
            "the tokenizer cannot be told from others, so that a cache might hold another one's token ids; pass a "
            "function of a module, or say what it is: tokenizer_name='words-v1'"
        )
    told = repr((code.co_names, [c for c in code.co_consts if not hasattr(c, "co_code")])).encode()
    return f"{tokenizer.__module__}.{name} {hashlib.sha256(code.co_code + told).hexdigest()}"


class Encode:
    """Values of one column ↦ samples.

    Args:
        dataset: with its images left encoded.
        column: of the values.
        preprocess, tokenizer, length, max_pixels: see `HubSource`.

    Attributes:
        kind: "image", "text" or "numbers".

    Raises:
        ConfigError: images without preprocess, text without tokenizer, or one of them without its use.
    """

    kind: Literal["image", "text", "numbers"]

    def __init__(
        self,
        dataset: Any,
        column: str,
        preprocess: Preprocess | None,
        tokenizer: Callable[..., Any] | None,
        length: int | None,
        max_pixels: int,
        tokenizer_name: str | None = None,
    ):
        self._name = tokenizer_name
        self.kind = kind_of_column(dataset, column)
        self.preprocess, self._tokenizer, self._length, self._max_pixels = preprocess, tokenizer, length, max_pixels
        given = {"preprocess": preprocess, "tokenizer": tokenizer, "length": length}
        wanted = {"image": ("preprocess",), "text": ("tokenizer", "length"), "numbers": ()}[self.kind]
        unused = [k for k, v in given.items() if v is not None and k not in wanted]
        if unused:
            raise ConfigError(f"column '{column}' holds {self.kind}: {', '.join(unused)} has no use here")
        if self.kind == "image":
            check_settings(preprocess, "raise", max_pixels)
        if self.kind == "text" and not callable(tokenizer):
            raise ConfigError(
                f"column '{column}' holds text; give tokenizer=…, a callable from a list of texts to token ids of one "
                "length, or one of transformers with length=…"
            )
        if length is not None and (not is_whole(length) or length < 1):
            raise ConfigError(f"length={length!r}; expected a positive whole number of tokens")

    def __call__(self, values: Sequence[Any]) -> list[Tensor | str]:
        """A sample each, or what is wrong with the value."""
        if self.kind == "image":
            return list(in_threads(self._image, values))
        if self.kind == "numbers":
            return [_numbers(v) for v in values]
        good = [i for i, v in enumerate(values) if isinstance(v, str)]
        out: list[Tensor | str] = [f"it is {type(v).__name__}; expected text" for v in values]
        for i, made in zip(good, self._tokens([values[i] for i in good]) if good else [], strict=True):
            out[i] = made
        return out

    def named(self) -> dict[str, Any]:
        """What the samples depend on, as JSON."""
        of = self._tokenizer
        name = getattr(of, "name_or_path", None) or getattr(of, "__qualname__", None) or type(of).__qualname__
        text = self._name or f"{type(of).__module__}.{name}" if of is not None else None
        return {"kind": self.kind, "preprocess": repr(self.preprocess), "tokenizer": text, "length": self._length}

    def key(self) -> dict[str, Any]:
        """What a cache of the samples depends on; raises ConfigError if the tokenizer cannot be told from others."""
        if self._tokenizer is None:
            return self.named()
        return self.named() | {"tokenizer": self._name or identity_of(self._tokenizer)}

    def _image(self, value: Any) -> Tensor | str:
        try:
            if isinstance(value, Image.Image) and self.preprocess is not None:
                return self.preprocess(value)
            with opened(value) as file:
                return read_image(file, self.preprocess, self._max_pixels)[0]  # pyright: ignore[reportArgumentType]
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"

    def _tokens(self, texts: list[str]) -> list[Tensor]:
        """Token ids (L,), int64, of each text."""
        options: Any = {}
        if self._length is not None:
            options = {"padding": "max_length", "truncation": True, "max_length": self._length}
        made: Any = self._tokenizer(texts, **options)  # pyright: ignore[reportOptionalCall]
        made = made["input_ids"] if hasattr(made, "keys") else made
        lengths = sorted({len(row) for row in made})
        if len(lengths) > 1 or len(made) != len(texts):
            raise DataError(
                f"the tokenizer makes {len(made)} rows of {lengths[0]} to {lengths[-1]} tokens of {len(texts)} texts; "
                "expected one row each, of one length: pad and truncate (length=… for a tokenizer of transformers)"
            )
        rows = torch.as_tensor(np.asarray(made) if not isinstance(made, Tensor) else made)
        if rows.is_floating_point() or rows.ndim != 2:
            raise DataError(f"the tokenizer makes {rows.dtype} of shape {tuple(rows.shape)}; expected token ids (B, L)")
        return list(rows.long())


def opened(value: Any) -> IO[bytes]:
    """An encoded image as the library keeps it: bytes, or a path."""
    if not isinstance(value, dict) or (value.get("bytes") is None and value.get("path") is None):
        raise DataError("it is missing" if value is None else f"it is {type(value).__name__}; expected an image")
    if value.get("bytes") is None:
        return open_file(Path(value["path"]))
    if not value["bytes"]:
        raise DataError("it is empty: 0 bytes")
    return BytesIO(value["bytes"])


def _numbers(value: Any) -> Tensor | str:
    if value is None:
        return "it is missing"
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            return f"it holds {array.dtype} values; expected numbers"
    except ValueError:
        return "its lists have several lengths; expected one shape"
    if array.ndim == 0:
        return "it is a single number; for a table use TableSource.of(dataset.to_pandas(), schema)"
    return torch.as_tensor(array)


def kind_of_column(dataset: Any, column: str) -> Literal["image", "text", "numbers"]:
    """What a column holds, by its declared kind or else its first values."""
    feature = (dataset.features or {}).get(column)
    if feature is not None:
        if type(feature).__name__ == "Image":
            return "image"
        return "text" if getattr(feature, "dtype", None) in ("string", "large_string") else "numbers"
    value = next((i[column] for i in itertools.islice(dataset, 100) if i[column] is not None), None)
    if isinstance(value, str):
        return "text"
    return "image" if isinstance(value, Image.Image | dict) else "numbers"
