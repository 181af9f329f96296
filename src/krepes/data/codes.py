"""Rows of a table as compact codes, from which encoder inputs are written batch by batch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """A table before one-hot encoding.

    Attributes:
        dense: standardised values and flags of missing ones (n, w), float32.
        dense_columns: where they stand in the encoded row (w,).
        hot: per categorical feature the encoded column that is one (n, c), int16, or int32 where p needs it.
        width: p, the number of encoded columns.
    """

    dense: Tensor
    dense_columns: Tensor
    hot: Tensor
    width: int

    def expand(self, index: slice | Tensor) -> Tensor:
        """Encoded rows (B, p), float32, at these positions."""
        return self.fill(self.dense[index], self.hot[index])

    def fill(self, dense: Tensor, hot: Tensor) -> Tensor:
        """Encoded rows (B, p) of given values (B, w) and columns (B, c)."""
        out = torch.zeros(len(dense), self.width)
        out[:, self.dense_columns] = dense
        return out.scatter_(1, hot.long(), 1.0)
