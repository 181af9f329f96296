"""The configuration's `data.hugging_face`: a dataset saved by `save_to_disk`, another folder, or one of the hub."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from krepes.config.reading import Section, resolve
from krepes.data import HubSource, Preprocess
from krepes.data.hub_items import identity_of, kind_of_column
from krepes.data.hub_loading import load_hub
from krepes.data.names import require_name
from krepes.errors import ConfigError, DataError

KEY = "data.hugging_face"


class HuggingFaceConfig(Section):
    """Which dataset, and which of its columns; see `krepes.data.HubSource`.

    Attributes:
        path: a folder relative to the configuration's; where there is none, a name on the hub.
        name, split, revision, streaming: of the dataset; see `krepes.data.hub_loading.load_hub`.
        column: of the samples: images, text, or lists of numbers.
        tokenizer: for text: a folder with a tokenizer of transformers, or a name in the local cache. Nothing is
            downloaded.
        length: for text: the number of tokens, to which all are padded and cut.
        metadata: columns shown with the samples.
        cache: with `streaming`: a folder that the stream is read into once.
    """

    path: str = Field(min_length=1)
    column: str = Field(min_length=1)
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    streaming: bool = False
    tokenizer: str | None = None
    length: int | None = Field(None, ge=1)
    metadata: list[str] = Field(default_factory=list)
    cache: str | None = None


def hub_source(
    config: HuggingFaceConfig,
    folder: Path,
    preprocess: Preprocess | None,
    label: str | None,
    show_label: bool,
    **options: Any,
) -> tuple[HubSource, np.ndarray | None]:
    """The samples, and their classes (n,), None where missing; no classes without a label.

    Args:
        folder: where relative paths start.
        preprocess: of images.
        label: a column of classes, which stays hidden unless `show_label`.
        options: more of `HubSource`.

    Raises:
        ConfigError: a setting is missing or has no use for this column; names its key.
        DataError: no such dataset, split or column, or samples that cannot be used.
    """
    if config.streaming and config.cache is None:
        raise ConfigError(f"{KEY}.cache is missing: with streaming, a folder that the samples are read into once")
    if not config.streaming and config.cache is not None:
        raise ConfigError(f"{KEY}.cache says nothing without {KEY}.streaming: true")
    dataset, origin = loaded(config, folder)
    refuse_unknown_columns(config, dataset, label, options.get("ids"))
    kind, tokenizer = kind_of_column(dataset, config.column), None
    if kind == "image" and preprocess is None:
        raise ConfigError(
            f"data.preprocess is missing: column '{config.column}' holds images; say size, crop, interpolation, mean "
            "and std as the encoder was trained with; {} scales to [0, 1] alone"
        )
    if kind == "text":
        for name in ("tokenizer", "length"):
            if getattr(config, name) is None:
                raise ConfigError(
                    f"{KEY}.{name} is missing: column '{config.column}' holds text. Say the tokenizer that the encoder "
                    "was trained with (a folder of transformers), and the length in tokens"
                )
        tokenizer = load_tokenizer(config.tokenizer or "", folder)
    elif config.tokenizer is not None or config.length is not None:
        unused = "tokenizer" if config.tokenizer is not None else "length"
        held = {"image": "images"}.get(kind, kind)
        raise ConfigError(f"{KEY}.{unused} is for text; column '{config.column}' holds {held}; leave it out")
    shown = [label] if label is not None and show_label else []
    source = HubSource(
        dataset, config.column, preprocess, tokenizer, config.length,
        metadata=list(dict.fromkeys([*config.metadata, *shown])),
        hide=[label] if label is not None and not show_label else [],
        cache=None if config.cache is None else resolve(config.cache, folder),
        tokenizer_name=None if tokenizer is None else identity_of(tokenizer), origin=origin, **options,
    )  # fmt: skip
    return source, None if label is None else source.column(label)


def loaded(config: HuggingFaceConfig, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The dataset and its origin; errors name the key. Arguments and errors as of `load_hub`."""
    place = resolve(config.path, folder)
    path = place if place.exists() else config.path
    try:
        return load_hub(path, config.name, config.split, config.revision, config.streaming)
    except (ConfigError, DataError) as error:
        said = re.match(r"(name|split|revision)\b", str(error))
        key = f"{KEY}.{said[1] if said else 'path'}"
        raise type(error)(f"{key}: {error}") from error


def refuse_unknown_columns(config: HuggingFaceConfig, dataset: Any, label: str | None, ids: str | None) -> None:
    """Raise DataError for a column that the dataset has not; names the key and the nearest column."""
    names = list(dataset.features or next(iter(dataset), {}))
    shown = [(f"{KEY}.metadata", column) for column in config.metadata]
    for key, column in ((f"{KEY}.column", config.column), *shown, ("data.label", label), ("data.id", ids)):
        try:
            require_name(names, names[0] if column is None else column)
        except DataError as error:
            raise DataError(f"{key}: {error}") from error


def load_tokenizer(name: str, folder: Path) -> Any:
    """A tokenizer of transformers, from a folder or the local cache.

    Raises:
        ConfigError: transformers is not installed, or there is no such tokenizer here.
    """
    from krepes.encoders.names import extra

    place = resolve(name, folder)
    library = extra("transformers", "hub")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(
            str(place) if place.exists() else name, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library's, for names and files of any kind
        raise ConfigError(
            f"{KEY}.tokenizer {name} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0][:200]}). "
            f"Expected a folder with tokenizer.json, relative to {folder}, or a name in the local cache; nothing is "
            "downloaded"
        ) from error
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{KEY}.tokenizer {name} has no padding token, so that texts cannot get one length; add one")
    return tokenizer
