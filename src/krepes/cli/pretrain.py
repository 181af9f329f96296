"""The verb that trains: pretrain."""

from pathlib import Path
from typing import Annotated

import typer

from krepes.cli.console import Overwrite, Quiet, errors_in_words, progress, terminal


def pretrain(
    config: Annotated[Path, typer.Argument(help="A YAML configuration file.")],
    objective: Annotated[
        str | None, typer.Option(help="Another objective than the file's, with its default constants.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; default the file's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Print a linear probe on the labels, as evaluation.")] = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a small encoder without labels; writes weights, a recipe, and a configuration for `krepes audit`."""
    from krepes.signals import stop_requests

    with errors_in_words(), stop_requests():
        from krepes.errors import ConfigError
        from krepes.pretrain import pretrain as run
        from krepes.pretrain import probe as probed
        from krepes.pretrain import read_pretrain_config

        console = terminal(quiet)
        flags = {"train.epochs": epochs, "seed": seed}
        given = [*(set_ or []), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
        settings = read_pretrain_config(config, given, objective)
        target = output or Path(settings.output)
        trained, source, labels = run(
            settings, config.resolve().parent, target, progress(console, quiet), overwrite
        )  # fmt: skip
        console.print(
            f"loss {trained.losses[0]:.4g} → {trained.losses[-1]:.4g} in {len(trained.losses)} epochs on "
            f"{len(source):,} samples\nwritten to {target}; next: krepes audit {target / 'audit.yaml'}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
        if probe:
            if labels is None:
                raise ConfigError("--probe needs labels; name them with data.label (a table) or data.labels (an array)")
            for what, accuracy in probed(trained.network, source, labels, settings.seed).items():
                console.print(f"linear probe on the {what}: {accuracy:.4f} accuracy (evaluation only)", highlight=False)
