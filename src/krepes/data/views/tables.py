"""Views of encoded tables: whole features replaced, left out, mixed or made noisy."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from krepes.data.tables import TableSchema, TableSource
from krepes.data.views.draws import check_rate, normals, uniforms
from krepes.errors import ConfigError, DataError, warn

PYTORCH_SCARF_RATE = 0.4  # its corruption_rate=0.6: the mask is inverted, and 40 % of the features are replaced


class Scarf:
    """SCARF corruption: each feature is, with probability `rate`, that of a random reference row.

    Source: Bahri et al., arXiv 2106.15147. The empirical marginal is drawn feature by feature, so a feature that
    takes several encoded columns is replaced as a whole.

    Args:
        reference: encoded rows (N, p) to draw from; for a large table see `of_table`.
        groups: encoded columns of each feature; together they cover all p.
        rate: probability of replacement. pytorch-scarf's `corruption_rate` is the probability of keeping a feature:
            for its 0.6 take `PYTORCH_SCARF_RATE`.
        count: "random": features are replaced independently; "exact": ⌊rate · features⌋ of every row, as in the paper.
    """

    def __init__(self, reference: Tensor, groups: Sequence[slice], rate: float = 0.6, count: str = "random"):
        columns = torch.arange(reference.shape[-1])[None]
        self._prepare(len(reference), groups, rate, count)
        if reference.ndim != 2 or len(self.group) != reference.shape[1]:
            raise DataError(
                f"the groups cover {len(self.group)} columns of a reference of shape {tuple(reference.shape)}"
            )
        self._draw = lambda donors: reference[donors[:, self.group], columns]
        self._origin = lambda: hashlib.sha256(reference.contiguous().numpy().data).hexdigest()

    @classmethod
    def of_table(cls, source: TableSource, rate: float = 0.6, count: str = "random") -> "Scarf":
        """The same, with donors drawn from a table's codes: the encoded table is never held."""
        view, codes, schema = cls.__new__(cls), source.codes, source.schema
        view._prepare(len(source), list(schema.slices.values()), rate, count)
        of_hot = torch.tensor([i for i, c in enumerate(schema.columns) if c.kind != "numeric"], dtype=torch.long)
        of_dense = view.group[codes.dense_columns]

        def draw(donors: Tensor) -> Tensor:
            dense = codes.dense[donors[:, of_dense], torch.arange(len(of_dense))[None]]
            return codes.fill(dense, codes.hot[donors[:, of_hot], torch.arange(len(of_hot))[None]])

        view._draw, view._origin = draw, source.fingerprint
        return view

    def _prepare(self, n: int, groups: Sequence[slice], rate: float, count: str) -> None:
        if not 0 < rate <= 1:
            raise ConfigError(f"rate={rate}; expected 0 < rate <= 1")
        if count not in ("random", "exact"):
            raise ConfigError(f"Scarf: count={count!r}; expected 'random' or 'exact'")
        # 0.6 · 5 is 3, whatever floating point makes of it
        self._replaced = None if count == "random" else int(rate * len(groups) + 1e-9)
        if self._replaced == 0:
            raise ConfigError(f"Scarf: rate={rate} of {len(groups)} features replaces none; take a larger rate")
        self.rate, self.count, self._n = rate, count, n
        widths = torch.tensor([g.stop - g.start for g in groups])
        self.group = torch.repeat_interleave(torch.arange(len(groups)), widths)

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, p)."""
        if batch.ndim != 2 or batch.shape[1] != len(self.group):
            raise DataError(f"Scarf got a batch of shape {tuple(batch.shape)}; expected (B, {len(self.group)})")
        shape = (len(batch), int(self.group[-1]) + 1)
        u = torch.rand(shape, generator=generator, device=generator.device).cpu()
        corrupt = u < self.rate if self._replaced is None else u.argsort(1).argsort(1) < self._replaced
        donors = torch.randint(self._n, shape, generator=generator, device=generator.device).cpu()
        replaced = self._draw(donors).to(batch.device, batch.dtype)
        return torch.where(corrupt[:, self.group].to(batch.device), replaced, batch)

    def __repr__(self) -> str:
        count = "" if self._replaced is None else f", count={self.count!r}"
        return f"Scarf(rate={self.rate}, reference={self._origin()}{count})"


@dataclass(frozen=True, repr=False, eq=False)
class FeatureDropout:
    """Each feature is, with probability `rate`, taken out as a whole.

    Args:
        source: the table, for its schema and its means.
        rate: probability of taking a feature out.
        fill: "mean": what it gets is its mean over the table (for a category: the shares of all of them); "missing":
            what a missing cell is encoded as. A numeric column without missing cells when the schema was fitted has no
            such code and gets its mean.

    Raises:
        ConfigError: rate is no probability, or fill something else.
    """

    source: TableSource
    rate: float = 0.2
    fill: str = "mean"
    row: Tensor = field(init=False)
    group: Tensor = field(init=False)

    def __post_init__(self):
        check_rate(self, "rate")
        fills = {"mean": mean_row, "missing": missing_row}
        if self.fill not in fills:
            raise ConfigError(f"FeatureDropout: fill={self.fill!r}; expected 'mean' or 'missing'")
        object.__setattr__(self, "row", fills[self.fill](check_table(self, self.source)))
        object.__setattr__(self, "group", feature_of_columns(self.source.schema))

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, p)."""
        check_width(self, batch, len(self.group))
        out = uniforms(len(batch), len(self.source.schema.columns), generator) < self.rate
        return torch.where(out[:, self.group].to(batch.device), self.row.to(batch.device, batch.dtype), batch)

    def __repr__(self) -> str:
        return f"FeatureDropout(rate={self.rate}, fill={self.fill!r}, source={self.source.fingerprint()})"


@dataclass(frozen=True, repr=False, eq=False)
class TableMixup:
    """Mixes every row with a random row of the table: (1 − λ) x + λ donor, λ ~ U(0, alpha).

    Source: after Darabi et al. (2021), "Contrastive Mixup: Self- and Semi-Supervised learning for Tabular Domain",
    arXiv 2108.12296, which mixes in a latent space and within classes; here rows are mixed, and nothing knows classes.

    Args:
        source: the table that donors come from.
        alpha: the donor's largest share, 0 < alpha <= 1; from 0.5 on a view may hold more of another row than its own.
    """

    source: TableSource
    alpha: float = 0.2

    def __post_init__(self):
        check_rate(self, "alpha", zero=False)
        check_table(self, self.source)

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, p)."""
        check_width(self, batch, self.source.schema.width)
        u = uniforms(len(batch), 2, generator).cpu()
        donors = self.source.batch((u[:, 0] * len(self.source)).long().tolist()).to(batch.device, batch.dtype)
        share = (self.alpha * u[:, 1:]).to(batch.device, batch.dtype)  # (B, 1)
        return batch + share * (donors - batch)

    def __repr__(self) -> str:
        return f"TableMixup(alpha={self.alpha}, source={self.source.fingerprint()})"


@dataclass(frozen=True, repr=False, eq=False)
class NumericNoise:
    """Adds N(0, std²) to the numeric columns, in standard deviations of the schema; missing cells stay.

    Args:
        schema: says which columns these are.
        std: of the noise.
    """

    schema: TableSchema
    std: float = 0.1

    def __post_init__(self):
        if isinstance(self.std, bool) or not isinstance(self.std, int | float) or not 0 < self.std < float("inf"):
            raise ConfigError(f"NumericNoise: std={self.std!r}; expected a positive number")
        if not any(c.kind == "numeric" for c in self.schema.columns):
            raise ConfigError("NumericNoise: the schema has no numeric column; take scarf or feature_dropout")

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, p)."""
        check_width(self, batch, self.schema.width)
        numeric = [
            s for s, c in zip(self.schema.slices.values(), self.schema.columns, strict=True) if c.kind == "numeric"
        ]
        noise = self.std * normals(len(batch), len(numeric), generator).to(batch.device, batch.dtype)
        out = batch.clone()
        for i, columns in enumerate(numeric):
            present = batch[:, columns.start + 1] == 0 if columns.stop - columns.start > 1 else True
            out[:, columns.start] += noise[:, i] * present
        return out

    def __repr__(self) -> str:
        schema = hashlib.sha256(repr(self.schema).encode()).hexdigest()
        return f"NumericNoise(std={self.std}, schema={schema})"


def feature_of_columns(schema: TableSchema) -> Tensor:
    """The feature that each encoded column belongs to (p,)."""
    widths = torch.tensor([c.width for c in schema.columns])
    return torch.repeat_interleave(torch.arange(len(widths)), widths)


def mean_row(source: TableSource) -> Tensor:
    """The mean encoded row (p,)."""
    codes, row = source.codes, torch.zeros(source.schema.width, dtype=torch.float64)
    row += torch.bincount(codes.hot.flatten().long(), minlength=len(row)) / len(source)
    row[codes.dense_columns] = codes.dense.mean(0, dtype=torch.float64)
    return row


def missing_row(source: TableSource) -> Tensor:
    """A row of which every cell is missing (p,), with the mean where no cell was when the schema was fitted."""
    row, unmarked = torch.zeros(source.schema.width, dtype=torch.float64), []
    for column, columns in zip(source.schema.columns, source.schema.slices.values(), strict=True):
        if column.kind != "numeric":
            row[columns.start + len(column.categories)] = 1
        elif column.missing:
            row[columns.start + 1] = 1
        else:
            unmarked.append(column.name)
    if unmarked:
        warn(
            f"{len(unmarked)} numeric columns had no missing cells when the schema was fitted and so no code for them; "
            f"they get their mean: {', '.join(unmarked[:5])}{' …' if len(unmarked) > 5 else ''}"
        )
    return row


def check_table(view: object, source: object) -> TableSource:
    """The source, if it is a table."""
    if not isinstance(source, TableSource):
        raise ConfigError(f"{type(view).__name__}: the source is a {type(source).__name__}; expected a TableSource")
    return source


def check_width(view: object, batch: Tensor, width: int) -> None:
    """Raise DataError for a batch that is no encoded table of p columns."""
    if batch.ndim != 2 or batch.shape[1] != width or not batch.is_floating_point():
        raise DataError(
            f"{type(view).__name__} got a batch of {batch.dtype} of shape {tuple(batch.shape)}; expected encoded rows "
            f"(B, {width}) of floating-point numbers"
        )
