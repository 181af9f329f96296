"""Verbs that make a run: demo, audit, inspect."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from krepes.cli.checkpoints import AllowPickle, inspect_file, is_configuration, print_account
from krepes.cli.console import Overwrite, Quiet, Redact, Thumbnails, command_line, errors_in_words, progress, terminal
from krepes.terminal import say


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The run folder.")] = Path("runs/demo"),
    landmarks: Annotated[int, typer.Option(help="Number of landmarks.")] = 200,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Audit the embedded encoder: Barlow Twins on scikit-learn's digits."""
    from krepes.signals import stop_requests

    with errors_in_words(), stop_requests():
        from krepes import demo as embedded
        from krepes.results import describe_settings
        from krepes.run import run_audit, summarise

        console = terminal(quiet)
        console.print("krepes demo: a small CNN trained with Barlow Twins on 1,797 handwritten digits", highlight=False)
        auditor, source = embedded.auditor(landmarks, seed, progress(console, quiet))
        report = run_audit(
            auditor, source, embedded.VIEWS, output, describe_settings(auditor.settings), console,
            title="Barlow Twins on handwritten digits", command=command_line(), overwrite=overwrite,
            extra=embedded.RECIPE, plan=embedded.PLAN,
        )  # fmt: skip
        if auditor.is_fitted:
            summarise(auditor, output, console)
        console.print(f"run folder: {output}\nreport:     {report}", highlight=False, soft_wrap=True, markup=False)


def audit(
    config: Annotated[Path, typer.Argument(help="A YAML configuration file.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The run folder, or its URL; default the file's.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    thumbnails: Thumbnails = True,
    redact: Redact = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Audit an encoder as a configuration file says; under torchrun its processes divide the samples among them."""
    from krepes.signals import stop_requests
    from krepes.workers import started

    # outside `stop_requests` workers come together and part, where a signal ends them as ever: PyTorch waits there
    with errors_in_words(), started() as workers, stop_requests():
        from krepes.config import build_auditor, build_data, build_plan, build_views, read_config, with_recipe
        from krepes.config.asked import refuse_unknown_samples
        from krepes.config.reading import naming_the_line
        from krepes.remote import Bucket, is_url, without_secrets
        from krepes.run import run_audit, summarise

        quiet = quiet or not workers.first  # one of them speaks
        console = terminal(quiet)
        folder = config.resolve().parent
        settings = with_recipe(read_config(config, [*(set_ or []), *shown(thumbnails, redact)]), folder)
        assert settings.views is not None
        network, told = loaded_encoder(settings, folder, console)
        with naming_the_line(config, set_ or []):
            source, labels = build_data(settings.data, folder)
            views = build_views(settings.views, source)
            refuse_unknown_samples(settings.report, source)
        auditor = build_auditor(settings, network, progress(console, quiet))
        place = output or settings.output
        bucket = Bucket(place) if is_url(place) else None
        target = Path(place) if bucket is None else bucket.local
        say(console, f"{settings.title}: {len(source):,} samples from {config}")
        plain = without_secrets(settings.model_dump(mode="json", by_alias=True))
        report = run_audit(
            auditor, source, views, target, plain, console,
            title=settings.title, command=without_secrets(command_line()), explain=settings.report.explain,
            top_k=settings.report.top_k, overwrite=overwrite,
            extra={"encoder": plain["encoder"], "config_folder": str(folder), **told, **origin_of(source)},
            plan=build_plan(settings, folder), labels=labels if settings.audit.evaluate else None,
            thumbnails=settings.report.thumbnails, redact=settings.report.redact, bucket=bucket,
        )  # fmt: skip
        if auditor.is_fitted and workers.first:
            summarise(auditor, target, console)
        kept = "" if bucket is None else f"kept at:    {bucket.shown}\n"
        console.print(
            f"{kept}run folder: {target}\nreport:     {report}", highlight=False, soft_wrap=True, markup=False
        )


def origin_of(source: Any) -> dict[str, Any]:
    """What the manifest keeps of where a Hugging Face dataset comes from."""
    origin = getattr(source, "origin", None)
    return {"data_origin": origin} if origin else {}


def shown(thumbnails: bool, redact: list[str] | None) -> list[str]:
    """The flags as overrides of the configuration."""
    flags = [] if thumbnails else ["report.thumbnails=false"]
    return flags + ([f"report.redact={json.dumps(redact)}"] if redact else [])


def loaded_encoder(settings: Any, folder: Path, console: Any) -> tuple[Any, dict[str, Any]]:
    """The network, and what the manifest keeps of how it was loaded; a recipe's account is printed."""
    from krepes.config import build_encoder
    from krepes.config.encoder import load_recipe

    if settings.encoder.recipe is None:
        return build_encoder(settings.encoder, folder), {}
    loaded = load_recipe(settings.encoder, folder)
    print_account(loaded, console)
    inside = loaded.module.normalise
    return loaded.module, {
        "space": loaded.space,
        "note": loaded.note,
        "account": list(loaded.account.lines()),
        "normalisation": "none" if inside is None else repr(inside),
    }


def inspect(
    config: Annotated[Path, typer.Argument(help="A checkpoint file or folder, or a YAML configuration file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the kernel's plan, or of the checkpoint's tree, to show.")] = 30,
    allow_pickle: AllowPickle = False,
) -> None:
    """Show what a checkpoint holds; or how a configuration's kernel would be computed, and in how much memory."""
    with errors_in_words():
        if not is_configuration(config):
            inspect_file(config, terminal(), allow_pickle, rows)
            return
        from rich.table import Table

        from krepes.config import build_auditor, build_encoder, build_source, build_views, read_config, with_recipe
        from krepes.config.asked import refuse_unknown_samples
        from krepes.config.reading import naming_the_line
        from krepes.engine import in_words

        console = terminal()
        folder = config.resolve().parent
        settings = with_recipe(read_config(config, set_ or []), folder)
        assert settings.views is not None
        with naming_the_line(config, set_ or []):
            source = build_source(settings.data, folder)
            build_views(settings.views, source)  # whether an audit could: they are not needed here
            refuse_unknown_samples(settings.report, source)
        auditor = build_auditor(settings, build_encoder(settings.encoder, folder), progress(console, True))
        plan, memory = auditor.inspect(source)
        table = Table(box=None, pad_edge=False)
        table.add_column("parameters", overflow="fold")
        table.add_column("way")
        for name in ("entries", "positions", "bytes per sample", "operations per kernel entry", "to form a feature"):
            table.add_column(name, justify="right")
        table.add_column("why")
        for row in plan.head(rows).to_dict("records"):
            table.add_row(
                row["parameters"], row["way"], f"{row['entries']:,}", f"{row['positions']:,}",
                in_words(row["numbers"] * 4), f"{row['operations_per_entry']:,.0f}",
                f"{row['operations_per_sample']:,.0f}", row["why"],
            )  # fmt: skip
        console.print(table)
        if len(plan) > rows:
            console.print(f"… and {len(plan) - rows} more (--rows)", highlight=False)
        console.print(
            f"total: {plan['operations_per_entry'].sum():,.0f} operations per kernel entry, "
            f"{in_words(4 * sum(plan['numbers'].tolist()))} of features per sample, {len(source):,} samples\n"
            f"memory: {memory}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
