"""Ids of samples: given ones are checked, default ones are made when they are asked for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from krepes.errors import DataError

JOINED = 65536  # ids that are hashed together


class RowIds(Sequence[str]):
    """The ids prefix0, prefix1, … as a sequence that keeps no string.

    Args:
        n: how many.
        prefix: before each number.

    Example:
        >>> ids = RowIds(1_000_000, "row-")
        >>> ids[2:4], ids.index("row-7"), "row-1000000" in ids
        (['row-2', 'row-3'], 7, False)
    """

    def __init__(self, n: int, prefix: str = ""):
        self._rows, self._prefix = range(n), prefix

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [f"{self._prefix}{row}" for row in self._rows[index]]
        return f"{self._prefix}{self._rows[index]}"

    def __iter__(self) -> Iterator[str]:
        prefix = self._prefix
        return (f"{prefix}{row}" for row in self._rows)

    def __contains__(self, value: object) -> bool:
        return self._row(value) is not None

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """The position of an id, without a search.

        Raises:
            ValueError: it is not there.
        """
        row = self._row(value)
        if row is None or row not in range(*slice(start, stop).indices(len(self))):
            raise ValueError(f"{value!r} is not among {self!r}")
        return row

    def count(self, value: object) -> int:
        """1 if the id is there, else 0."""
        return int(value in self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RowIds) and other._prefix == self._prefix:
            return len(self) == len(other)
        if not isinstance(other, Sequence) or isinstance(other, str) or len(other) != len(self):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to plain lists, which have no hash

    def __repr__(self) -> str:
        ends = f"{self[0]!r}, …, {self[-1]!r}; " if self else ""
        return f"RowIds({ends}{len(self)} ids)"

    def _row(self, value: object) -> int | None:
        if not isinstance(value, str) or not value.startswith(self._prefix):
            return None
        digits = value[len(self._prefix) :]
        # the length is checked because int() refuses thousands of digits with an error of its own
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20) or str(int(digits)) != digits:
            return None
        return int(digits) if int(digits) in self._rows else None


@dataclass(frozen=True)
class ChosenIds(Sequence[str]):
    """The ids of some samples, looked up only when one is asked for: in a message, say.

    Attributes:
        ids: of all samples.
        positions: the chosen ones.
        remark: after each id.
    """

    ids: Sequence[str]
    positions: Sequence[int]
    remark: str = ""

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "ChosenIds": ...
    def __getitem__(self, index: int | slice) -> "str | ChosenIds":
        if isinstance(index, slice):
            return ChosenIds(self.ids, self.positions[index], self.remark)
        return f"{self.ids[self.positions[index]]}{self.remark}"


def checked_ids(ids: Sequence[str] | None, n: int, prefix: str = "") -> Sequence[str]:
    """n unique ids; by default prefix0 … prefix(n − 1).

    Raises:
        DataError: another number of ids, one given twice (named), or a single text.
    """
    if ids is None:
        return RowIds(n, prefix)
    refuse_text(ids)
    if len(ids) != n:
        raise DataError(f"{len(ids)} ids for {n} samples; expected one each")
    if isinstance(ids, RowIds):
        return ids
    names = [str(i) for i in ids]
    if len(set(names)) < n:
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise DataError(f"{len(repeated)} ids are given more than once: {', '.join(repeated[:5])}")
    return names


def refuse_text(ids: object) -> None:
    """Raise DataError for ids that are a single text: its letters would be taken for them."""
    if isinstance(ids, str):
        raise DataError(
            f"ids={ids!r} is a single text; expected a list of one id per sample, such as the cells of a column: "
            f"table[{ids!r}].tolist()"
        )


def joined(ids: Sequence[str]) -> Iterator[bytes]:
    """The ids with a zero byte between them, in parts: what fingerprints hash."""
    for start in range(0, len(ids), JOINED):
        yield (b"\0" if start else b"") + "\0".join(ids[start : start + JOINED]).encode()
