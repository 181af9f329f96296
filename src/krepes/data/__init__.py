"""Samples with stable ids, tables in raw units, and views."""

from krepes.data.arrays import ArrayImages, load_array
from krepes.data.csv_table import read_csv
from krepes.data.frames import infer_schema, table_of
from krepes.data.hub import HubSource
from krepes.data.ids import RowIds
from krepes.data.idx import read_idx
from krepes.data.images import ImageFiles, ImageFolder, Preprocess
from krepes.data.loaders import LoaderSource
from krepes.data.packed import PackedImages
from krepes.data.readers import read_parquet, read_table
from krepes.data.source import ArraySource, DatasetSource, Source, as_source
from krepes.data.tables import TableSchema, TableSource
from krepes.data.views import GaussianNoise, Scarf, ShiftNoise

__all__ = [
    "ArrayImages",
    "ArraySource",
    "DatasetSource",
    "GaussianNoise",
    "HubSource",
    "ImageFiles",
    "ImageFolder",
    "LoaderSource",
    "PackedImages",
    "Preprocess",
    "RowIds",
    "Scarf",
    "ShiftNoise",
    "Source",
    "TableSchema",
    "TableSource",
    "as_source",
    "infer_schema",
    "load_array",
    "read_csv",
    "read_idx",
    "read_parquet",
    "read_table",
    "table_of",
]
