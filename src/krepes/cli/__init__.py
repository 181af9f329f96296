"""The command line."""

import typer

from krepes.cli import audits, runs

app = typer.Typer(
    help="Explain self-supervised representations without labels.", no_args_is_help=True, add_completion=False
)
for verb in (audits.demo, audits.audit, audits.inspect, runs.check, runs.compare):
    app.command()(verb)
