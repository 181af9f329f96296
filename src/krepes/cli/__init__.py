"""The command line."""

import typer

from krepes.cli import audits, checkpoints, data, pretrain, runs, serve

app = typer.Typer(
    help="Explain self-supervised representations without labels.", no_args_is_help=True, add_completion=False
)
for verb in (
    audits.demo, audits.audit, audits.inspect, checkpoints.convert, data.data, pretrain.pretrain, runs.report,
    runs.check, runs.compare, serve.serve,
):  # fmt: skip
    app.command()(verb)
