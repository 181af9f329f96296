"""The verb that brings reference data: data."""

from pathlib import Path
from typing import Annotated

import typer

from krepes.cli.console import Quiet, errors_in_words, progress, terminal


def data(
    name: Annotated[str | None, typer.Argument(help="A data set; without one all are listed.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where it belongs, in a subfolder; default KREPES_DATA, else the cache.")
    ] = None,
    form: Annotated[str | None, typer.Option(help="One of the forms in which it is published.")] = None,
    arrays: Annotated[
        Path | None, typer.Option(help="Write images and classes of mnist or cifar10 as .npy files into this folder.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds in which a server must answer, and send 1 kB/s on average.")
    ] = 30.0,
    quiet: Quiet = False,
) -> None:
    """Fetch a public reference data set, its checksums verified and its licence shown; or list them."""
    with errors_in_words():
        from krepes.data import reference

        console = terminal(quiet)
        if name is None:
            console.print(_listing())
            return
        if arrays is not None:
            reference.refuse_no_images(name)
        located = reference.fetch(name, folder, form, timeout, progress(console, quiet))
        entry = reference.read_registry()[name]
        console.print(
            f"{name}: {located.folder} (form {located.form}, checksums match)\n"
            f"licence: {entry.licence}\ncitation: {entry.citation}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
        if arrays is not None:
            for path in reference.write_arrays(name, arrays, folder):
                console.print(str(path), highlight=False, soft_wrap=True, markup=False)


def _listing():
    """Name, what it is, size, licence and place of every data set."""
    from rich.markup import escape
    from rich.table import Table

    from krepes.data import reference

    table = Table(box=None, pad_edge=False)
    for column in ("name", "what", "form, size", "licence", "where"):
        table.add_column(column, overflow="fold")
    for name, entry in reference.read_registry().items():
        found = reference.find(name)
        forms = [f for f in entry.forms if found is None or f.name == found.form]
        size = ", ".join(f"{f.name} {f.size / 1e6:,.1f} MB" for f in forms if found or f.downloadable)
        place = "not here yet" if found is None else str(found.folder)
        table.add_row(*map(escape, (name, entry.title, size, entry.licence, place)))
    return table
