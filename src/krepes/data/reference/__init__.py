"""Public reference data: found locally or downloaded, and never used unless its digest is right."""

from krepes.data.reference.fetching import Located, cache_folder, fetch, find
from krepes.data.reference.loading import (
    LabelledImages,
    LabelledTable,
    adult,
    cifar10,
    covtype,
    fairface_labels,
    higgs,
    mnist,
    refuse_no_images,
    write_arrays,
)
from krepes.data.reference.registry import Entry, read_registry

__all__ = [
    "Entry",
    "LabelledImages",
    "LabelledTable",
    "Located",
    "adult",
    "cache_folder",
    "cifar10",
    "covtype",
    "fairface_labels",
    "fetch",
    "find",
    "higgs",
    "mnist",
    "read_registry",
    "refuse_no_images",
    "write_arrays",
]
