"""The command line."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Explain self-supervised representations without labels.", no_args_is_help=True, add_completion=False
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a run that stands in the output folder.")]


def _console(quiet: bool) -> Console:
    return Console(quiet=quiet, width=None if sys.stdout.isatty() else 160)


def _command() -> str:
    return shlex.join(["krepes", *sys.argv[1:]])


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The run folder.")] = Path("runs/demo"),
    landmarks: Annotated[int, typer.Option(help="Number of landmarks.")] = 200,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Audit the embedded encoder: Barlow Twins on scikit-learn's digits."""
    with _errors_in_words():
        from krepes import demo as embedded
        from krepes.results import describe_settings
        from krepes.run import run_audit, summarise

        console = _console(quiet)
        console.print("krepes demo: a small CNN trained with Barlow Twins on 1,797 handwritten digits", highlight=False)
        auditor, source = embedded.auditor(landmarks, seed, _progress(console, quiet))
        report = run_audit(
            auditor, source, embedded.VIEWS, output, describe_settings(auditor.settings), console,
            title="Barlow Twins on handwritten digits", command=_command(), overwrite=overwrite,
            extra=embedded.RECIPE,
        )  # fmt: skip
        if auditor._fit is not None:
            summarise(auditor, output, console)
        console.print(f"run folder: {output}\nreport:     {report}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def audit(
    config: Annotated[Path, typer.Argument(help="A YAML configuration file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run folder; default the file's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Audit an encoder as a configuration file says."""
    with _errors_in_words():
        from krepes.config import build_auditor, build_data, build_encoder, build_plan, build_views, read_config
        from krepes.run import run_audit, summarise

        console = _console(quiet)
        settings = read_config(config, set_ or [])
        folder = config.resolve().parent
        network = build_encoder(settings.encoder, folder)
        source, labels = build_data(settings.data, folder)
        auditor = build_auditor(settings, network, _progress(console, quiet))
        target = output or Path(settings.output)
        console.print(f"{settings.title}: {len(source):,} samples from {config}", highlight=False, markup=False)
        plain = settings.model_dump(mode="json", by_alias=True)
        report = run_audit(
            auditor, source, build_views(settings.views, source), target, plain, console,
            title=settings.title, command=_command(), explain=settings.report.explain,
            top_k=settings.report.top_k, overwrite=overwrite,
            extra={"encoder": plain["encoder"], "config_folder": str(folder)},
            plan=build_plan(settings, folder), labels=labels if settings.audit.evaluate else None,
        )  # fmt: skip
        if auditor._fit is not None:
            summarise(auditor, target, console)
        console.print(f"run folder: {target}\nreport:     {report}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def inspect(
    config: Annotated[Path, typer.Argument(help="A YAML configuration file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the kernel's plan to show.")] = 30,
) -> None:
    """Show how the kernel would be computed, and in how much memory, without computing it."""
    with _errors_in_words():
        from rich.table import Table

        from krepes.config import build_auditor, build_encoder, build_source, read_config
        from krepes.engine import in_words

        console = _console(False)
        settings = read_config(config, set_ or [])
        folder = config.resolve().parent
        source = build_source(settings.data, folder)
        auditor = build_auditor(settings, build_encoder(settings.encoder, folder), _progress(console, True))
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


@app.command()
def check(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    max_gap: Annotated[
        list[str] | None, typer.Option(help="Largest size of a column's alignment gap, COLUMN=LIMIT; may be repeated.")
    ] = None,
    min_tau: Annotated[float | None, typer.Option(help="Least Kendall τ against labels.")] = None,
    trust: Annotated[str, typer.Option(help="Worst trust verdict that passes: green, amber or red.")] = "amber",
    strict: Annotated[bool, typer.Option(help="Limits hold for the whole 95 % interval.")] = False,
) -> None:
    """Check a run against limits: exit code 0 if it keeps them, 1 if not, 2 if that cannot be told."""
    with _errors_in_words(code=2):
        from krepes import gate

        checks = gate.check(run, _limits(max_gap or []), min_tau, trust, strict)
        console = _console(False)
        for one in checks:
            interval = "" if one.low != one.low else f" [{one.low:+.3f}, {one.high:+.3f}]"
            value = "" if one.value != one.value else f" {one.value:+.3f}{interval}"
            remark = f" ({one.remark})" if one.remark else ""
            console.print(
                f"{'pass' if one.passed else 'FAIL'}  {one.name}{value}, limit {one.limit}{remark}",
                style="green" if one.passed else "bold red", highlight=False, soft_wrap=True, markup=False,
            )  # fmt: skip
        if not all(one.passed for one in checks):
            raise typer.Exit(1)


def _limits(given: list[str]) -> dict[str, float]:
    """COLUMN=LIMIT, …; a column's name may hold =."""
    from krepes.errors import ConfigError

    found = {}
    for text in given:
        name, separator, limit = text.rpartition("=")
        try:
            found[name] = float(limit)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise ConfigError(f"--max-gap {text}: expected COLUMN=LIMIT, such as sex=0.05")
    return found


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="A run folder.")],
    run_b: Annotated[Path, typer.Argument(help="Another one.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write everything as JSON, too.")] = None,
    rows: Annotated[int, typer.Option(help="Landmarks to show.")] = 10,
) -> None:
    """Compare two runs: landmarks gained and lost, gaps and concepts with intervals of their differences."""
    with _errors_in_words():
        from krepes.comparison import compare as compared
        from krepes.files import write_json

        found = compared(run_a, run_b)
        console = _console(False)
        console.print(f"A: {run_a}\nB: {run_b}", highlight=False, soft_wrap=True, markup=False)
        for note in found.notes:
            console.print(note, highlight=False, soft_wrap=True, markup=False)
        lost, gained = ((found.landmarks["change"] == c).sum() for c in ("lost", "gained"))
        console.print(f"landmarks: {found.kept} in both, {lost} lost, {gained} gained", highlight=False)
        for row in found.landmarks.head(rows).to_dict("records"):
            sign = "+" if row["change"] == "gained" else "−"
            console.print(f"  {sign} {row['landmark']}  mean influence {row['mean_influence']:.3g}", markup=False)
        for title, name, table in (("alignment gaps", "name", found.gaps), ("concepts (push)", "name", found.concepts),
                                   ("figures", "figure", found.figures)):  # fmt: skip
            if len(table):
                console.print(_side_by_side(title, name, table))
        if output is not None:
            write_json(output, found.as_dict())


def _side_by_side(title: str, name: str, table):
    """Columns a, b, difference [low, high]."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("")
    for column in ("A", "B", "B − A", "95 %"):
        shown.add_column(column, justify="right")
    for row in table.to_dict("records"):
        interval = "" if row["low"] != row["low"] else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        shown.add_row(
            escape(str(row[name])), f"{row['a']:.3f}", f"{row['b']:.3f}", f"{row['difference']:+.3f}", escape(interval)
        )
    return shown


def _progress(console: Console, quiet: bool):
    from krepes.progress import Progress

    return Progress(None if quiet else console)


class _errors_in_words:  # noqa: N801  used like a function
    """krepes' own errors and Ctrl-C as one message; everything else keeps its traceback, since it is a bug."""

    def __init__(self, code: int = 1):
        self.code = code

    def __enter__(self) -> None:
        import warnings

        from krepes.errors import KrepesWarning

        warnings.simplefilter("always", KrepesWarning)
        warnings.showwarning = lambda message, *_args, **_kw: Console(stderr=True).print(
            f"warning: {message}", style="yellow", soft_wrap=True, markup=False
        )

    def __exit__(self, kind, error, traceback) -> None:
        from krepes.errors import KrepesError

        if isinstance(error, KrepesError):
            Console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
            raise typer.Exit(self.code)
        if isinstance(error, KeyboardInterrupt):
            Console(stderr=True).print("interrupted; the run folder is valid, run the same command again")
            raise typer.Exit(130)


if __name__ == "__main__":
    app()
