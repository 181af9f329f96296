"""Samples with stable ids, tables in raw units, and views."""

from krepes.data.ids import RowIds
from krepes.data.readers import read_csv, read_parquet, read_table
from krepes.data.source import ArraySource, DatasetSource, Source, as_source
from krepes.data.tables import TableSchema, TableSource
from krepes.data.views import GaussianNoise, Scarf, ShiftNoise

__all__ = [
    "ArraySource",
    "DatasetSource",
    "GaussianNoise",
    "RowIds",
    "Scarf",
    "ShiftNoise",
    "Source",
    "TableSchema",
    "TableSource",
    "as_source",
    "read_csv",
    "read_parquet",
    "read_table",
]
