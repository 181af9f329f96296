"""The configuration's `data`: the samples, and their classes for the figures against labels."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from krepes.config.hugging_face import HuggingFaceConfig, hub_source
from krepes.config.reading import Section, resolve
from krepes.data import Source, TableSchema, TableSource, read_table
from krepes.data.arrays import load_array, read_array
from krepes.data.cells import MISSING
from krepes.data.folders import listed, walk
from krepes.data.images import MAX_PIXELS, ImageFiles, Preprocess
from krepes.data.packed import PackedImages
from krepes.data.readers import is_parquet
from krepes.data.tables import ids_of
from krepes.errors import ConfigError, DataError

SETTINGS = {
    "table": {"schema", "columns", "skip_lines", "missing", "label", "id", "rows", "on_error", "encoding", "separator"},
    "array": {"member", "layout", "preprocess", "labels", "rows"},
    "images": {"preprocess", "label", "show_label", "rows", "on_error", "verify", "max_pixels"},
    "packed": {"preprocess", "label", "show_label", "rows", "on_error", "verify", "max_pixels"},
    "hugging_face": {"preprocess", "label", "show_label", "id", "rows", "on_error", "verify", "max_pixels"},
}


class PreprocessConfig(Section):
    """How images become encoder inputs; see `krepes.data.images.Preprocess`."""

    size: int | list[int] | None = None
    crop: int | list[int] | None = None
    interpolation: str = "bilinear"
    mean: list[float] | None = None
    std: list[float] | None = None
    mode: Literal["RGB", "L"] = "RGB"
    exif: bool = False
    alpha: Literal["drop", "white", "black", "refuse"] = "drop"


class DataConfig(Section):
    """The samples: exactly one of `table`, `array`, `images`, `packed` and `hugging_face`, and what belongs to it.

    `label` is a column of a table, a dataset or packed images, or `folder` for the subfolders of images; `labels` is an
    array file of classes for an array. The audit's figures against labels alone see them: no label reaches the
    encoder, and none the columns that gaps and concepts use, unless `show_label` asks for it. Columns that hold classes
    by their names, such as `labels` or `folder`, are kept out of these as `label` is, with a warning.

    Attributes:
        table: CSV or Parquet, with the `schema` saved at training. `columns` names all columns of a CSV file without a
            header, or the columns to read of a Parquet file (default: the schema's, `id` and `label`).
        array: .npy, .npz (with `member`) or IDX. `layout` and `preprocess` are for images of 8 bits.
        images: a folder, or a text or CSV file that lists files.
        packed: encoded images in an .npz file.
        hugging_face: a dataset, and which of its columns.
        on_error: `raise` names the files or rows that cannot be used, `skip` leaves them out with a warning.
        verify: decode every image once before the audit; else one that fails stops it later.
    """

    table: str | None = None
    array: str | None = None
    images: str | None = None
    packed: str | None = None
    hugging_face: HuggingFaceConfig | None = None
    schema_file: str | None = Field(None, alias="schema")
    columns: list[str] | None = None
    skip_lines: int = Field(0, ge=0)
    missing: list[str] = Field(default=list(MISSING))
    encoding: str = "utf-8"
    separator: str = ","
    member: str | None = None
    layout: Literal["NHWC", "NCHW", "NHW"] | None = None
    preprocess: PreprocessConfig | None = None
    label: str | None = None
    labels: str | None = None
    show_label: bool = False
    id: str | None = None
    rows: int | None = Field(None, ge=1)
    on_error: Literal["raise", "skip"] = "raise"
    verify: bool = True
    max_pixels: int = Field(MAX_PIXELS, ge=1)


def build_source(config: DataConfig, folder: Path) -> Source:
    """The samples."""
    return build_data(config, folder)[0]


def build_data(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    """The samples, and their classes (n,) as objects, None where missing; no classes if the data has none.

    Args:
        config: the file's section.
        folder: where its relative paths start.

    Raises:
        ConfigError: not exactly one kind of data, or a key that belongs to another kind.
        DataError: the data cannot be used; says why.
    """
    kinds = [kind for kind in SETTINGS if getattr(config, kind) is not None]
    if len(kinds) != 1:
        raise ConfigError(
            "data needs exactly one of 'table' (CSV or Parquet), 'array' (.npy, .npz, IDX), 'images' (a folder, or a "
            "file that lists files), 'packed' (.npz of encoded images) and 'hugging_face' (a dataset); "
            f"found {', '.join(kinds) or 'none'}"
        )
    _refuse_foreign(config, kinds[0])
    kind = {"table": _table, "array": _array, "images": _images, "packed": _packed, "hugging_face": _hugging_face}
    return kind[kinds[0]](config, folder)


def _refuse_foreign(config: DataConfig, kind: str) -> None:
    """Raise ConfigError naming keys that say something about another kind of data."""
    default = {k: field.get_default(call_default_factory=True) for k, field in DataConfig.model_fields.items()}
    said = {k for k in config.model_fields_set if getattr(config, k) != default[k]}
    names = {("schema" if k == "schema_file" else k) for k in said}
    unused = sorted(names - SETTINGS[kind] - set(SETTINGS))
    if unused == ["labels"]:
        raise ConfigError("data.labels is for data.array; elsewhere name the label column, data.label")
    if unused:
        raise ConfigError(
            f"data.{', data.'.join(unused)} does not apply to data.{kind}, which takes "
            f"{', '.join(sorted(SETTINGS[kind]))}"
        )


def _preprocess(config: DataConfig) -> Preprocess:
    if config.preprocess is None:
        raise ConfigError(
            "data.preprocess is missing: size, crop, interpolation, mean and std as the encoder was trained with; "
            "{} scales to [0, 1] alone"
        )
    try:
        return Preprocess(**config.preprocess.model_dump())
    except ConfigError as error:
        raise ConfigError(f"data.preprocess: {error}") from error


def _images(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    preprocess, path = _preprocess(config), resolve(config.images or "", folder)
    files = (listed(path) if path.is_file() else walk(path)).head(config.rows)
    hide = [config.label] if config.label is not None and not config.show_label else []
    source = ImageFiles(
        files, preprocess, hide=hide, on_error=config.on_error, verify=config.verify, max_pixels=config.max_pixels,
        show_label=config.show_label,
    )  # fmt: skip
    return source, None if config.label is None else source.column(config.label)


def _packed(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    preprocess, path = _preprocess(config), resolve(config.packed or "", folder)
    hide = [config.label] if config.label is not None and not config.show_label else []
    source = PackedImages(
        path, preprocess, hide, config.on_error, config.verify, config.max_pixels, config.rows, config.show_label
    )
    return source, None if config.label is None else source.column(config.label)


def _hugging_face(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    assert config.hugging_face is not None
    preprocess = None if config.preprocess is None else _preprocess(config)
    return hub_source(
        config.hugging_face, folder, preprocess, config.label, config.show_label, ids=config.id, n=config.rows,
        on_error=config.on_error, verify=config.verify, max_pixels=config.max_pixels,
    )  # fmt: skip


def _array(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    if config.layout is None and config.preprocess is not None:
        raise ConfigError("data.preprocess is for images of 8 bits; say how the array holds them, data.layout")
    preprocess = None if config.layout is None else _preprocess(config)
    source = load_array(resolve(config.array or "", folder), config.member, config.layout, preprocess, rows=config.rows)
    return source, None if config.labels is None else _labels_of_array(config, folder, len(source))


def _labels_of_array(config: DataConfig, folder: Path, n: int) -> np.ndarray:
    labels = read_array(resolve(config.labels or "", folder))
    if labels.ndim != 1 or len(labels) < n:
        raise DataError(f"data.labels holds shape {labels.shape}; expected ({n},), one class each")
    if config.rows is None and len(labels) != n:
        raise DataError(f"data.labels holds {len(labels)} classes for {n} samples; expected one each")
    return labels[:n].astype(object)


def _table(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    if config.schema_file is None:
        raise ConfigError("data.schema is missing: the table schema that was saved when the encoder was trained")
    schema = TableSchema.load(resolve(config.schema_file, folder))
    if config.label is not None and config.label in schema.slices:
        raise DataError(f"the schema encodes the label column '{config.label}'; labels never reach the encoder")
    path, id_column = resolve(config.table or "", folder), [config.id] if config.id else []
    label_column = [config.label] if config.label is not None else []
    columns = config.columns
    if is_parquet(path):
        columns = [*(columns or schema.slices), *id_column, *label_column]
    # as text, so that 01 stays 01
    text = [*id_column, *label_column, *(c.name for c in schema.columns if c.kind != "numeric")]
    frame = read_table(
        path, columns, config.skip_lines, config.missing, text, config.encoding, config.separator, config.on_error
    )
    frame = frame.head(config.rows) if config.rows else frame
    ids = None if config.id is None else ids_of(frame, config.id)
    if config.label is None:
        return TableSource(frame, schema, ids), None
    labels = frame[config.label].astype(object)  # read as text, and so known to be there
    return TableSource(frame, schema, ids), labels.where(labels.notna(), None).to_numpy()
