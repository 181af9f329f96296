"""Hugging Face datasets by name, or of a folder: which one it is, and which data it gave."""

import json
import re
from pathlib import Path
from typing import Any

from krepes.data.hub_items import load_library
from krepes.errors import ConfigError, DataError, warn

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_hub(
    path: str | Path,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """A dataset of one split, and where it comes from.

    Args:
        path: a folder that `save_to_disk` wrote; another local folder, of data files; or a name on the hub.
        name: of the configuration, where the dataset has several.
        split: may be left out where there is one only.
        revision: of a name on the hub: branch, tag or commit; default the newest one.
        streaming: give a stream (`IterableDataset`), which is not downloaded as a whole.

    Returns:
        dataset; and path, name, split, revision (the commit, None for a folder), rows (None for a stream), the
        library's fingerprint and version, as JSON.

    Raises:
        ConfigError: datasets is not installed, or a setting that says nothing of this kind of folder.
        DataError: no such dataset or split (says which there are), or it cannot be read.
    """
    library, place = load_library(), Path(path)
    if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        for key, value in (("name", name), ("revision", revision)):
            if value is not None:
                raise ConfigError(f"{key}={value!r} says nothing of {place}, which save_to_disk wrote; leave it out")
        dataset, split = _saved(library, place, split)
        told = dataset
        dataset = dataset.to_iterable_dataset() if streaming else dataset
    else:
        if not place.exists() and not NAME.fullmatch(str(path)):
            raise DataError(f"there is no folder {path}; expected one of save_to_disk, or a dataset's name on the hub")
        if place.exists() and revision is not None:
            raise ConfigError(f"revision={revision!r} says nothing of a local folder, {path}; leave it out")
        revision = None if place.exists() else commit_of(str(path), revision)
        split = _only_split(library, str(path), name, revision) if split is None else split
        told = dataset = _loaded(library, str(path), name, split, revision, streaming)
    return dataset, {
        "path": str(path), "name": name, "split": split, "revision": revision,
        "rows": None if streaming else len(dataset), "fingerprint": getattr(told, "_fingerprint", None),
        "datasets": library.__version__,
    }  # fmt: skip


def commit_of(path: str, revision: str | None) -> str | None:
    """The commit that a revision of a name on the hub is now; as it was given, with a warning, where nobody answers."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    try:
        from huggingface_hub import HfApi

        return HfApi().dataset_info(path, revision=revision, timeout=30).sha
    except Exception as error:  # the library's, of the network and of names
        warn(
            f"the commit of {path} cannot be told ({_first_line(error)}): what the run keeps of these data is their "
            "fingerprint alone. Say revision: COMMIT, so that another machine finds the same."
        )
        return revision


def _saved(library: Any, place: Path, split: str | None) -> tuple[Any, str | None]:
    """The dataset of a folder that `save_to_disk` wrote, and its split."""
    try:
        if (place / "dataset_dict.json").is_file():
            there = [str(s) for s in json.loads((place / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]]
            split = _chosen(str(place), split, there)
            return library.load_from_disk(str(place / split)), split
        own = json.loads((place / "state.json").read_text(encoding="utf-8"))["_split"]
        if split is not None and split != own:
            what = "one dataset without splits" if own is None else f"the split {own} alone"
            raise DataError(f"split={split!r}, but {place} holds {what}; leave split out")
        return library.load_from_disk(str(place)), own
    except DataError:
        raise
    except Exception as error:  # the library's, for files of any kind
        raise DataError(
            f"{place} cannot be read as a dataset of save_to_disk: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _only_split(library: Any, path: str, name: str | None, revision: str | None) -> str:
    try:
        there = library.get_dataset_split_names(path, name, revision=revision)
    except Exception as error:
        raise _not_loaded(path, error) from error
    return _chosen(path, None, there)


def _loaded(library: Any, path: str, name: str | None, split: str, revision: str | None, streaming: bool) -> Any:
    try:
        return library.load_dataset(path, name, split=split, revision=revision, streaming=streaming)
    except ValueError as error:
        if "split" in str(error):
            raise DataError(f"{path} has no split {split!r}: {_first_line(error)}") from error
        raise _not_loaded(path, error) from error
    except Exception as error:
        raise _not_loaded(path, error) from error


def _chosen(where: str, split: str | None, there: list[str]) -> str:
    if split is None and len(there) == 1:
        return there[0]
    if split is None:
        raise DataError(f"split is missing: {where} holds {', '.join(there)}; say which")
    if split not in there:
        raise DataError(f"split={split!r} is not in {where}, which holds {', '.join(there)}")
    return split


def _not_loaded(path: str, error: Exception) -> DataError:
    """The library raises errors of many kinds, of names, of the network and of files."""
    return DataError(
        f"{path} cannot be loaded: {type(error).__name__}: {_first_line(error)}. Expected a folder of save_to_disk, a "
        "folder of data files, or a dataset's name on the hub, which needs the network or the library's cache."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
