"""The configuration's `data`: the samples, and their classes for the figures against labels."""

from pathlib import Path

import numpy as np
from pydantic import Field

from krepes.config.reading import Section, resolve
from krepes.data import ArraySource, Source, TableSchema, TableSource, read_table
from krepes.data.readers import MISSING, column_names, is_parquet
from krepes.data.tables import ids_of
from krepes.errors import ConfigError, DataError


class DataConfig(Section):
    """A CSV or Parquet table with the schema saved at training, or an .npy array.

    `label` is a column that never reaches the encoder, `labels` an .npy of classes for an array: the audit's figures
    against labels alone see them. `columns` names all columns of a CSV file without a header, or the columns to read of
    a Parquet file (default: the schema's, `id` and `label`).
    """

    table: str | None = None
    array: str | None = None
    schema_file: str | None = Field(None, alias="schema")
    columns: list[str] | None = None
    skip_lines: int = Field(0, ge=0)
    missing: list[str] = Field(default=list(MISSING))
    label: str | None = None
    labels: str | None = None
    id: str | None = None
    rows: int | None = Field(None, ge=1)


def build_source(config: DataConfig, folder: Path) -> Source:
    """The samples."""
    return build_data(config, folder)[0]


def build_data(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    """The samples, and their classes (n,) as objects, None where missing; no classes if the data has none."""
    if (config.table is None) == (config.array is None):
        raise ConfigError("data needs exactly one of 'table' (CSV or Parquet) and 'array' (.npy)")
    if config.array is not None:
        unused = sorted(k for k in config.model_fields_set - {"array", "labels", "rows"} if getattr(config, k))
        if unused:
            raise ConfigError(f"data.{', data.'.join(unused)} says something about tables; data.array is none")
        path = resolve(config.array, folder)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path} as .npy: {error}") from error
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path} is an archive of arrays; expected one array, saved with numpy.save")
        source = ArraySource(array[: config.rows] if array.ndim else array)
        return source, None if config.labels is None else _labels_of_array(config, folder, len(source))
    if config.labels is not None:
        raise ConfigError("data.labels is for data.array; for a table name its label column, data.label")
    if config.schema_file is None:
        raise ConfigError("data.schema is missing: the table schema that was saved when the encoder was trained")
    schema = TableSchema.load(resolve(config.schema_file, folder))
    if config.label is not None and config.label in schema.slices:
        raise DataError(f"the schema encodes the label column '{config.label}'; labels never reach the encoder")
    path, id_column = resolve(config.table or "", folder), [config.id] if config.id else []
    found = config.label is not None and (not is_parquet(path) or config.label in column_names(path))
    label_column = [config.label] if config.label is not None and found else []
    columns = config.columns or ([*schema.slices, *id_column, *label_column] if is_parquet(path) else None)
    # as text, so that 01 stays 01
    text = [*id_column, *label_column, *(c.name for c in schema.columns if c.kind == "categorical")]
    frame = read_table(path, columns, config.skip_lines, config.missing, text)
    frame = frame.head(config.rows) if config.rows else frame
    ids = None if config.id is None else ids_of(frame, config.id)
    labels = None
    if config.label is not None and config.label in frame.columns:
        labels = frame[config.label].astype(object).where(frame[config.label].notna(), None).to_numpy()
    return TableSource(frame, schema, ids), labels


def _labels_of_array(config: DataConfig, folder: Path, n: int) -> np.ndarray:
    path = resolve(config.labels or "", folder)
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as .npy: {error}") from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or len(labels) < n:
        raise DataError(f"data.labels holds shape {getattr(labels, 'shape', None)}; expected ({n},), one class each")
    if config.rows is None and len(labels) != n:
        raise DataError(f"data.labels holds {len(labels)} classes for {n} samples; expected one each")
    return labels[:n].astype(object)
