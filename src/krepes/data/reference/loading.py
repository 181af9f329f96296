"""Reference data as tables and images."""

# pyright: reportReturnType=false, reportAttributeAccessIssue=false, reportArgumentType=false

import io
import itertools
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.csv_table import read_csv
from krepes.data.idx import read_idx
from krepes.data.reference.fetching import fetch
from krepes.errors import ConfigError, DataError
from krepes.files import write_atomically

ADULT = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship",
    "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
COVTYPE = {  # name ↦ least and greatest value among the 581,012 rows
    "Elevation": (1859, 3858), "Aspect": (0, 360), "Slope": (0, 66), "Horizontal_Distance_To_Hydrology": (0, 1397),
    "Vertical_Distance_To_Hydrology": (-173, 601), "Horizontal_Distance_To_Roadways": (0, 7117),
    "Hillshade_9am": (0, 254), "Hillshade_Noon": (0, 254), "Hillshade_3pm": (0, 254),
    "Horizontal_Distance_To_Fire_Points": (0, 7173),
}  # fmt: skip
HIGGS = (
    "lepton_pT", "lepton_eta", "lepton_phi", "missing_energy_magnitude", "missing_energy_phi",
    *(f"jet{i}_{what}" for i in (1, 2, 3, 4) for what in ("pt", "eta", "phi", "b-tag")),
    "m_jj", "m_jjj", "m_lv", "m_jlv", "m_bb", "m_wbb", "m_wwbb",
)  # fmt: skip
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class LabelledTable(NamedTuple):
    """A table in raw units, and the name of its label column, which never reaches an encoder."""

    frame: pd.DataFrame
    label: str


class LabelledImages(NamedTuple):
    """Images (n, C, H, W), uint8; their classes (n,), int64; and the classes' names."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def adult(split: str = "train", folder: Path | None = None) -> LabelledTable:
    """Adult's 32,561 training or 16,281 test rows; the label is income, "<=50K" or ">50K".

    Args:
        split: "train" or "test".
        folder: as `fetch` takes it.
    """
    _check_split(split)
    place = fetch("adult", folder).folder
    frame = read_csv(place / ("adult.data" if split == "train" else "adult.test"), ADULT, int(split == "test"))
    frame["income"] = frame["income"].str.rstrip(".").astype("category")  # the test file ends each in a dot
    return LabelledTable(frame, "income")


def covtype(folder: Path | None = None) -> LabelledTable:
    """Forest CoverType in raw units with Wilderness_Area and Soil_Type as one column each; the label is Cover_Type.

    581,012 rows; in the form "parts" 109,745: those of both files without what they share.
    """
    place, form = fetch("covtype", folder)
    if form == "full":
        return LabelledTable(_covtype(_covtype_numbers(place / "covtype.data.gz", None)), "Cover_Type")
    scaled = _covtype_numbers(place / "ramp_covertype_test.csv.gz", 0)
    low, high = np.array(list(COVTYPE.values()), dtype=float).T
    scaled[:, :10] = np.round(scaled[:, :10] * (high - low) + low)
    whole = np.concatenate([scaled, _covtype_numbers(place / "covtype.20k.data", None)])
    return LabelledTable(_covtype(whole).drop_duplicates(ignore_index=True), "Cover_Type")


def _covtype_numbers(path: Path, header: int | None) -> np.ndarray:
    """10 numbers, 4 wilderness areas and 40 soil types as 0 or 1, and the cover type: (n, 55)."""
    values = pd.read_csv(path, header=header).to_numpy(float)
    if values.shape[1] != 55:
        raise DataError(f"{path} holds {values.shape[1]} columns; expected 55")
    return values


def _covtype(values: np.ndarray) -> pd.DataFrame:
    columns: dict[str, object] = dict(zip(COVTYPE, values[:, :10].T, strict=True))
    columns["Wilderness_Area"] = pd.Categorical((values[:, 10:14].argmax(1) + 1).astype(str))
    columns["Soil_Type"] = pd.Categorical((values[:, 14:54].argmax(1) + 1).astype(str))
    columns["Cover_Type"] = pd.Categorical(values[:, 54].astype(int).astype(str))
    return pd.DataFrame(columns)


def higgs(folder: Path | None = None) -> LabelledTable:
    """HIGGS, unscaled; the label is "signal", "1" or "0". 35,298 rows, in the form "full" 11,000,000 (float64)."""
    place, form = fetch("higgs", folder)
    if form == "full":
        frame = read_csv(place / "HIGGS.csv.gz", ("signal", *HIGGS))
        frame["signal"] = pd.Categorical(frame["signal"].astype(int).astype(str))
        return LabelledTable(frame, "signal")
    x, y = (
        np.concatenate([np.load(place / f"{what}_{part}.npy", allow_pickle=False) for part in ("test", "val")])
        for what in ("X_num", "y")
    )
    frame = pd.DataFrame(x.astype(float), columns=list(HIGGS))
    frame["signal"] = pd.Categorical(y.astype(int).astype(str))
    return LabelledTable(frame, "signal")


def fairface_labels(split: str = "train", folder: Path | None = None) -> LabelledTable:
    """FairFace's labels without images: file, age, gender, race, service_test; the label is race. Attribute it."""
    _check_split(split)
    place = fetch("fairface-labels", folder).folder
    frame = read_csv(place / f"fairface_label_{'train' if split == 'train' else 'val'}.csv")
    return LabelledTable(frame, "race")


def mnist(split: str = "train", folder: Path | None = None) -> LabelledImages:
    """MNIST's 60,000 training or 10,000 test images (n, 1, 28, 28)."""
    _check_split(split)
    place, stem = fetch("mnist", folder).folder, "train" if split == "train" else "t10k"
    images = read_idx(place / f"{stem}-images-idx3-ubyte.gz")[:, None]
    labels = read_idx(place / f"{stem}-labels-idx1-ubyte.gz")
    return LabelledImages(
        torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)), tuple("0123456789")
    )


def cifar10(split: str = "train", folder: Path | None = None) -> LabelledImages:
    """CIFAR-10's 50,000 training or 10,000 test images (n, 3, 32, 32), from the binary archive or packed JPEGs.

    The packed JPEGs are lossy and ordered by class.
    """
    _check_split(split)
    place, form = fetch("cifar10", folder)
    if form == "binary":
        return _cifar_binary(place / "cifar-10-binary.tar.gz", split)
    return _cifar_jpegs(place / f"cifar10_{split}_jpegpack.npz")


def _cifar_binary(path: Path, split: str) -> LabelledImages:
    """Records of one label byte and 3,072 bytes of red, green and blue."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    blocks = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and (file := archive.extractfile(member)) is not None:
                    blocks[name] = np.frombuffer(file.read(), np.uint8).reshape(-1, 3073)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if absent := sorted(set(names) - set(blocks)):
        raise DataError(f"{path} does not hold {', '.join(absent)}")
    records = np.concatenate([blocks[name] for name in names])
    images = records[:, 1:].reshape(-1, 3, 32, 32).copy()
    return LabelledImages(torch.from_numpy(images), torch.from_numpy(records[:, 0].astype(np.int64)), CIFAR)


def _cifar_jpegs(path: Path) -> LabelledImages:
    """JPEG files one after the other, and where each starts."""
    from PIL import Image, UnidentifiedImageError

    try:
        with np.load(path, allow_pickle=False) as pack:
            blob, starts = pack["blob"].tobytes(), pack["offsets"].tolist()
            labels, classes = pack["labels"].astype(np.int64), tuple(map(str, pack["classes"]))
        files = (io.BytesIO(blob[a:b]) for a, b in itertools.pairwise(starts))
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    except (OSError, ValueError, KeyError, UnidentifiedImageError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return LabelledImages(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels), classes)


def write_arrays(name: str, target: Path, folder: Path | None = None) -> list[Path]:
    """Images as arrays, for a configuration's `data.array` and `data.labels`.

    `{split}_images.npy` is float32 in [0, 1] (n, C, H, W), `{split}_labels.npy` the classes' names.

    Raises:
        ConfigError: a data set of no images.
        RunFolderError: the files cannot be written.
    """
    refuse_no_images(name)
    written = []
    for split in ("train", "test"):
        images, labels, classes = IMAGES[name](split, folder)
        arrays = {"images": images.numpy().astype(np.float32) / 255, "labels": np.array(classes)[labels.numpy()]}
        for what, array in arrays.items():
            written.append(write_atomically(target / f"{split}_{what}.npy", lambda p, a=array: _save(p, a)))
    return written


def refuse_no_images(name: str) -> None:
    """Raise ConfigError for a data set that is a table."""
    if name not in IMAGES:
        raise ConfigError(f"{name} holds no images; arrays are written of {', '.join(IMAGES)}")


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


IMAGES = {"mnist": mnist, "cifar10": cifar10}


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ConfigError(f"split={split!r}; expected 'train' or 'test'")
