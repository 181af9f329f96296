"""The command line."""

from typing import Annotated

import typer

from krepes import __version__
from krepes.cli import audits, checkpoints, data, explain, plans, pretrain, runs, serve

app = typer.Typer(no_args_is_help=True, add_completion=False)
for verb in (
    audits.demo, plans.plan, audits.audit, audits.inspect, checkpoints.convert, data.data, pretrain.pretrain,
    explain.explain, runs.report, runs.check, runs.compare, serve.serve,
):  # fmt: skip
    app.command()(verb)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"krepes {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Explain self-supervised representations without labels."""
