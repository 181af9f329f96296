"""Memory-mapped files that become shorter: found before a read, since one behind the end is a signal (SIGBUS)."""

import mmap
from typing import Any, NamedTuple

import numpy as np

from krepes.errors import DataError


class MappedFile(NamedTuple):
    """A file that an array is mapped from, and where the map ends in it, in bytes."""

    file: mmap.mmap
    name: str
    end: int

    @classmethod
    def of(cls, array: Any) -> "MappedFile | None":
        """Of an array or a view of one; None if it is not mapped."""
        mapped = array
        while isinstance(array, np.ndarray):
            mapped, array = array, array.base
        if not (isinstance(array, mmap.mmap) and isinstance(mapped, np.memmap)):
            return None
        start = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY
        return cls(array, str(mapped.filename), start + len(array))

    def check(self) -> None:
        """Raise DataError where the file has become shorter."""
        size = self.file.size()  # of the file that was opened, whatever has its name now
        if size < self.end:
            raise DataError(
                f"{self.name} was cut while it was read: {size:,} of {self.end:,} bytes are left. Keep the file as it "
                "is while it is audited."
            )

    def __reduce__(self):
        return type(None), ()  # a copy of the array is not mapped
