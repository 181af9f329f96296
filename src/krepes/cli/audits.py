"""Verbs that make a run: demo, audit, inspect."""

from pathlib import Path
from typing import Annotated

import typer

from krepes.cli.console import Overwrite, Quiet, command_line, errors_in_words, progress, terminal


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The run folder.")] = Path("runs/demo"),
    landmarks: Annotated[int, typer.Option(help="Number of landmarks.")] = 200,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Audit the embedded encoder: Barlow Twins on scikit-learn's digits."""
    with errors_in_words():
        from krepes import demo as embedded
        from krepes.results import describe_settings
        from krepes.run import run_audit, summarise

        console = terminal(quiet)
        console.print("krepes demo: a small CNN trained with Barlow Twins on 1,797 handwritten digits", highlight=False)
        auditor, source = embedded.auditor(landmarks, seed, progress(console, quiet))
        report = run_audit(
            auditor, source, embedded.VIEWS, output, describe_settings(auditor.settings), console,
            title="Barlow Twins on handwritten digits", command=command_line(), overwrite=overwrite,
            extra=embedded.RECIPE,
        )  # fmt: skip
        if auditor._fit is not None:
            summarise(auditor, output, console)
        console.print(f"run folder: {output}\nreport:     {report}", highlight=False, soft_wrap=True, markup=False)


def audit(
    config: Annotated[Path, typer.Argument(help="A YAML configuration file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run folder; default the file's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Audit an encoder as a configuration file says."""
    with errors_in_words():
        from krepes.config import build_auditor, build_data, build_encoder, build_plan, build_views, read_config
        from krepes.run import run_audit, summarise

        console = terminal(quiet)
        settings = read_config(config, set_ or [])
        folder = config.resolve().parent
        network = build_encoder(settings.encoder, folder)
        source, labels = build_data(settings.data, folder)
        auditor = build_auditor(settings, network, progress(console, quiet))
        target = output or Path(settings.output)
        console.print(f"{settings.title}: {len(source):,} samples from {config}", highlight=False, markup=False)
        plain = settings.model_dump(mode="json", by_alias=True)
        report = run_audit(
            auditor, source, build_views(settings.views, source), target, plain, console,
            title=settings.title, command=command_line(), explain=settings.report.explain,
            top_k=settings.report.top_k, overwrite=overwrite,
            extra={"encoder": plain["encoder"], "config_folder": str(folder)},
            plan=build_plan(settings, folder), labels=labels if settings.audit.evaluate else None,
        )  # fmt: skip
        if auditor._fit is not None:
            summarise(auditor, target, console)
        console.print(f"run folder: {target}\nreport:     {report}", highlight=False, soft_wrap=True, markup=False)


def inspect(
    config: Annotated[Path, typer.Argument(help="A YAML configuration file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the kernel's plan to show.")] = 30,
) -> None:
    """Show how the kernel would be computed, and in how much memory, without computing it."""
    with errors_in_words():
        from rich.table import Table

        from krepes.config import build_auditor, build_encoder, build_source, read_config
        from krepes.engine import in_words

        console = terminal()
        settings = read_config(config, set_ or [])
        folder = config.resolve().parent
        source = build_source(settings.data, folder)
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
