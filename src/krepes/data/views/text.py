"""Views of token sequences (B, T), which stay integers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from krepes.data.views.draws import check_rate, uniforms
from krepes.errors import ConfigError, DataError, is_whole


@dataclass(frozen=True)
class TokenDropout:
    """Every ordinary token is left out with probability `rate`; the rest closes up and is padded at its end.

    One ordinary token stays in every row that has any.

    Args:
        rate: probability of leaving a token out.
        pad_id: fills the places that become free; padding is never counted as a token.
        special_ids: tokens that stay, such as [CLS] and [SEP].
        vocabulary: number of tokens; None: not checked.
    """

    rate: float
    pad_id: int
    special_ids: tuple[int, ...] = ()
    vocabulary: int | None = None

    def __post_init__(self):
        check_rate(self, "rate")
        _check_ids(self, self.pad_id)

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, T)."""
        ordinary = _ordinary(self, batch, self.pad_id)
        return closed_up(batch, ~_chosen(ordinary, self.rate, generator), self.pad_id)


@dataclass(frozen=True)
class TokenMask:
    """Every ordinary token becomes `mask_id` with probability `rate`; one stays in every row that has any.

    Args:
        rate: probability of masking a token.
        mask_id: what stands there instead.
        pad_id: padding, which stays.
        special_ids: tokens that stay.
        vocabulary: number of tokens; None: not checked.
    """

    rate: float
    mask_id: int
    pad_id: int | None = None
    special_ids: tuple[int, ...] = ()
    vocabulary: int | None = None

    def __post_init__(self):
        check_rate(self, "rate")
        _check_ids(self, self.mask_id, *(() if self.pad_id is None else (self.pad_id,)))

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, T)."""
        ordinary = _ordinary(self, batch, self.pad_id)
        return batch.masked_fill(_chosen(ordinary, self.rate, generator), self.mask_id)


@dataclass(frozen=True)
class SpanCrop:
    """Of a row's ordinary tokens a contiguous span stays; it closes up with the special ones and is padded.

    Args:
        low, high: the span's share of the row's ordinary tokens is uniform between them; at least one token stays.
        pad_id, special_ids, vocabulary: as in `TokenDropout`.
    """

    low: float
    high: float
    pad_id: int
    special_ids: tuple[int, ...] = ()
    vocabulary: int | None = None

    def __post_init__(self):
        check_rate(self, "low", "high", zero=False)
        if self.low > self.high:
            raise ConfigError(f"SpanCrop: low={self.low} is above high={self.high}; expected 0 < low <= high <= 1")
        _check_ids(self, self.pad_id)

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, T)."""
        ordinary = _ordinary(self, batch, self.pad_id)
        u = uniforms(len(batch), 2, generator).to(batch.device)
        count = ordinary.sum(1)
        length = ((self.low + (self.high - self.low) * u[:, 0]) * count).round().clamp_min(1)
        start = (u[:, 1] * (count - length + 1)).floor()  # (B,)
        place = ordinary.cumsum(1) - 1  # number of an ordinary token among its row's
        inside = (place >= start[:, None]) & (place < (start + length)[:, None])
        return closed_up(batch, inside | ~ordinary, self.pad_id)


def closed_up(batch: Tensor, keep: Tensor, pad_id: int) -> Tensor:
    """The kept tokens in their order, then padding (B, T)."""
    keep = keep & (batch != pad_id)
    order = (~keep).to(torch.uint8).sort(dim=1, stable=True).indices
    return batch.gather(1, order).masked_fill(~keep.gather(1, order), pad_id)


def _chosen(ordinary: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Ordinary tokens that are changed (B, T): never all of a row."""
    u = uniforms(ordinary.shape[0], ordinary.shape[1], generator).to(ordinary.device)
    chosen = ordinary & (u < rate)
    last = u.masked_fill(~ordinary, -1).argmax(1, keepdim=True)  # the one that would be changed last
    return chosen.scatter(1, last, chosen.gather(1, last) & (chosen != ordinary).any(1, keepdim=True))


def _ordinary(view, batch: Tensor, pad_id: int | None) -> Tensor:
    """Tokens that are neither special nor padding (B, T); the batch is checked."""
    name = type(view).__name__
    if not isinstance(batch, Tensor) or batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
        found = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
        raise DataError(f"{name} got {found}; expected whole numbers: token ids (B, T)")
    if batch.ndim != 2:
        raise DataError(f"{name} got a batch of shape {tuple(batch.shape)}; expected token ids (B, T)")
    largest, fill = torch.iinfo(batch.dtype).max, getattr(view, "mask_id", pad_id)
    if fill is not None and fill > largest:
        raise DataError(f"{name} writes token {fill} into a batch of {batch.dtype}; expected a wider type: .long()")
    last = largest if view.vocabulary is None else view.vocabulary - 1
    bad = (batch < 0) | (batch > last)
    if bool(bad.any()):
        row, place = bad.nonzero()[0].tolist()
        raise DataError(
            f"{name}: token {int(batch[row, place])} at place {place} of the batch's sample {row} is outside "
            f"0 … {last} ({int(bad.sum())} such tokens)"
        )
    kept = [*view.special_ids, *(() if pad_id is None else (pad_id,))]
    return ~torch.isin(batch.long(), torch.tensor(kept, dtype=torch.long, device=batch.device))


def _check_ids(view, *ids: int) -> None:
    """Ids are whole numbers of the vocabulary; special ones become a tuple."""
    name, special = type(view).__name__, view.special_ids
    if not isinstance(special, Sequence) or isinstance(special, str):
        raise ConfigError(f"{name}: special_ids={special!r}; expected a list of token ids")
    object.__setattr__(view, "special_ids", tuple(special))
    if view.vocabulary is not None and (not is_whole(view.vocabulary) or view.vocabulary < 1):
        raise ConfigError(f"{name}: vocabulary={view.vocabulary!r}; expected a positive whole number")
    for token in (*ids, *special):
        if not is_whole(token) or token < 0 or (view.vocabulary is not None and token >= view.vocabulary):
            limit = "" if view.vocabulary is None else f" below the vocabulary's {view.vocabulary}"
            raise ConfigError(f"{name}: token id {token!r}; expected a whole number from 0{limit}")
