"""The verb that asks a run about samples: audited ones by id, new ones from files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from krepes.cli.console import errors_in_words, progress, terminal

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from torch import Tensor

    from krepes.auditor import Auditor
    from krepes.data.source import Source

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".bmp": "image/bmp",
         ".csv": "text/csv", ".json": "application/json"}  # fmt: skip
TABLES = {".csv": "to_csv", ".parquet": "to_parquet"}


def explain(
    run: Annotated[str, typer.Argument(help="A run folder, or its URL.")],
    samples: Annotated[
        list[str],
        typer.Argument(
            help="Ids of audited samples, or files of new ones: an image, a CSV file with a header and one row, JSON "
            "(column ↦ value, or numbers), or .npy (one sample, or several)."
        ),
    ],
    top_k: Annotated[int, typer.Option(help="Landmarks per sample.", min=1)] = 10,
    by: Annotated[str, typer.Option(help="Rank by influence, or by the absolute contribution.")] = "influence",
    training: Annotated[
        int, typer.Option(help="Training samples per sample, too, that raise and that lower its invariance.", min=0)
    ] = 0,
    at: Annotated[
        str, typer.Option(help="Where training samples are asked for: encoder, step or training.")
    ] = "encoder",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the landmarks as a table, .csv or .parquet.")
    ] = None,
    trust_run: Annotated[
        bool, typer.Option("--trust-run", help="The run is your own: load what its configuration names, code too.")
    ] = False,
) -> None:
    """Explain samples by a run: the landmarks, and if asked for the training samples, that move them most."""
    with errors_in_words():
        from krepes.app.live import opened
        from krepes.audit.findings import AuditPlan, attribution_table
        from krepes.errors import ConfigError
        from krepes.files import write_atomically
        from krepes.stored import StoredRun
        from krepes.terminal import say

        if output is not None and output.suffix.lower() not in TABLES:
            raise ConfigError(f"--output {output}: expected a name that ends in {' or '.join(TABLES)}")
        plan = AuditPlan(attribution_at=at)
        console, stored = terminal(), StoredRun.open(run)
        auditor, without_views = opened(stored, trust_run)
        auditor.progress = progress(console, quiet=not training)
        if output is not None and output.resolve().parent == stored.folder.resolve():
            raise ConfigError(f"--output {output} stands in the run's own folder; name a file elsewhere")
        if output is not None and not output.resolve().parent.is_dir():
            raise ConfigError(f"--output {output}: there is no folder {output.resolve().parent}")
        if training and without_views:
            raise ConfigError(f"--training draws views of the samples. {without_views}")
        batch, ids, notes = asked(auditor, samples)
        found = auditor.explain(batch, top_k, by, ids)
        for note in notes:
            say(console, note, "yellow")
        columns = ("rank", "landmark", "influence", "contribution")
        for name, rows in found.groupby("sample", sort=False):
            say(console, f"sample {name}: landmarks by {by}")
            console.print(shown(rows, columns), "")
        if training:
            moved, looked = attribution_table(auditor, plan, batch, ids, training)
            if looked < len(auditor.training_ids_):
                say(console, f"of {len(auditor.training_ids_):,} training samples {looked:,} were looked at", "yellow")
            for name, rows in moved.groupby("sample", sort=False):
                say(console, f"sample {name}: training samples that change its invariance under the views")
                console.print(shown(rows, ("effect", "rank", "training_sample", "score", "error")), "")
        if output is not None:
            write = getattr(found, TABLES[output.suffix.lower()])
            write_atomically(output, lambda path: write(path, index=False))
            say(console, f"table: {output}")


def asked(auditor: "Auditor", samples: list[str]) -> "tuple[Tensor, list[str], list[str]]":
    """The samples (t, ...), their ids, and what is to be known of how they were read.

    Raises:
        ConfigError: a name is neither an id nor a file of a kind that is read.
        DataError: a file is damaged, or of another kind or shape than the run's samples.
    """
    import torch

    from krepes.audit.selection import positions_of
    from krepes.data.stream import read
    from krepes.errors import ConfigError

    source = auditor.source_
    known, batches, ids, notes = positions_of(source.ids, set(samples)), [], [], []
    for name in samples:
        path = Path(name)
        if name in known:
            made, said = read(source, [known[name]]), []
        elif path.is_file():
            made, said = of_file(auditor, path)
        else:
            raise ConfigError(
                f"{name} is no id of the {len(source):,} audited samples ({source.ids[0]}, …), and no file"
            )
        batches.append(made)
        ids += [name] if len(made) == 1 else [f"{name}[{i}]" for i in range(len(made))]
        notes += [f"{name}: {note}" for note in said]
    return torch.cat(batches), ids, notes


def of_file(auditor: "Auditor", path: Path) -> "tuple[Tensor, list[str]]":
    """New samples (t, ...) of a file, prepared as the run's samples were, and notes on it."""
    from krepes.app.upload import BYTES, prepared
    from krepes.errors import ConfigError, DataError

    source, kind = auditor.source_, path.suffix.lower()
    if kind == ".npy":
        return of_array(path, source), []
    if kind not in KINDS:
        raise ConfigError(f"{path}: expected a name that ends in {', '.join([*KINDS, '.npy'])}")
    if path.stat().st_size > BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes; at most {BYTES:,} are read")
    try:
        made = prepared(path.read_bytes(), KINDS[kind], source, auditor.seen_.views, frozenset())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return made.batch, list(made.notes)


def of_array(path: Path, source: "Source") -> "Tensor":
    """Samples (t, ...) of a .npy file with one sample or several, as the encoder takes them."""
    import numpy as np
    import torch

    from krepes.data.arrays import read_array
    from krepes.data.source import check_finite
    from krepes.errors import DataError

    like = source.batch([0])
    values = np.asarray(read_array(path))
    one = tuple(like.shape[1:])
    values = values[None] if values.shape == one else values
    if values.shape[1:] != one or not len(values) or values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {values.dtype} of shape {values.shape}; expected numbers {one}, or (t, *{one})")
    fractions = values.dtype.kind == "f"
    if fractions != like.is_floating_point() and (fractions or getattr(source, "preprocess", None) is not None):
        raise DataError(
            f"{path} holds {values.dtype}, and the run's samples are {like.dtype} as the encoder takes them; give such "
            "numbers" + (", or an image file, which is prepared as the run's were" if source.kind == "image" else "")
        )
    batch = torch.as_tensor(values.astype(values.dtype.newbyteorder("="))).to(like.dtype)
    check_finite(batch, [f"{path}[{i}]" for i in range(len(batch))])
    return batch


def shown(rows: "pd.DataFrame", columns: tuple[str, ...]) -> "Table":
    """Rows for the terminal; numbers with their sign where they have one."""
    from rich.table import Table
    from rich.text import Text

    from krepes.terminal import visible

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in ("effect", "landmark", "training_sample") else "right")
    for row in rows.to_dict("records"):
        cells = []
        for column in columns:
            value = row[column]
            sign = "" if column in ("influence", "error") else "+"
            cells.append(f"{value:{sign}.4g}" if isinstance(value, float) else visible(str(value)))
        table.add_row(*map(Text, cells))
    return table
