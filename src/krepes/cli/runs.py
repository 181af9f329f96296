"""Verbs that read runs: report, check, compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from krepes.cli.console import Redact, Thumbnails, errors_in_words, terminal


def report(
    run: Annotated[str, typer.Argument(help="A run folder, complete or not, or its URL.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; needed for a complete run.")] = None,
    thumbnails: Thumbnails = True,
    redact: Redact = None,
) -> None:
    """Write a run's report again: elsewhere, without pictures or some columns, or of what is there so far."""
    with errors_in_words():
        from krepes.errors import ConfigError
        from krepes.remote import is_url
        from krepes.run import write_report
        from krepes.stored import StoredRun
        from krepes.terminal import say

        stored, console = StoredRun.open(run), terminal()
        unknown = [c for c in redact or [] if c not in stored.columns]
        if unknown:
            known = ", ".join(stored.columns) or "none"
            raise ConfigError(f"--redact names {', '.join(unknown)}, which the run does not have; its columns: {known}")
        if output is None and (is_url(run) or stored.manifest.get("outputs") or not stored.manifest):
            raise ConfigError(f"report.html of {run} belongs to the run and stays as it is; name a file with --output")
        path = write_report(stored, output, thumbnails, redact or ())
        for problem in stored.problems.values():
            say(console, problem, "yellow")
        say(console, f"report: {path}")


def check(
    run: Annotated[str, typer.Argument(help="A run folder, or its URL.")],
    max_gap: Annotated[
        list[str] | None, typer.Option(help="Largest size of a column's alignment gap, COLUMN=LIMIT; may be repeated.")
    ] = None,
    min_tau: Annotated[float | None, typer.Option(help="Least Kendall τ against labels.")] = None,
    trust: Annotated[str, typer.Option(help="Worst trust verdict that passes: green, amber or red.")] = "amber",
    strict: Annotated[bool, typer.Option(help="Limits hold for the whole 95 % interval.")] = False,
) -> None:
    """Check a run against limits: exit code 0 if it keeps them, 1 if not, 2 if that cannot be told."""
    with errors_in_words(code=2):
        from krepes import gate
        from krepes.terminal import say

        with _damage_in_words(run):
            checks = gate.check(run, _limits(max_gap or []), min_tau, trust, strict)
        console = terminal()
        for one in checks:
            interval = "" if one.low != one.low else f" [{one.low:+.3f}, {one.high:+.3f}]"
            value = "" if one.value != one.value else f" {one.value:+.3f}{interval}"
            remark = f" ({one.remark})" if one.remark else ""
            say(console, f"{'pass' if one.passed else 'FAIL'}  {one.name}{value}, limit {one.limit}{remark}",
                "green" if one.passed else "bold red")  # fmt: skip
        if not all(one.passed for one in checks):
            raise typer.Exit(1)


@contextmanager
def _damage_in_words(*runs: str) -> Iterator[None]:
    """What reading a damaged run's files raises, of whatever kind, as a RunFolderError that names the folder."""
    from pyarrow import ArrowException

    from krepes.errors import KrepesError, RunFolderError

    try:
        yield
    except KrepesError:
        raise
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
        OSError,
        ArrowException,
    ) as error:
        raise RunFolderError(
            f"a file in {' or '.join(runs)} lacks or misstates what is needed "
            f"({type(error).__name__}: {error}); run the audit again"
        ) from error


def _limits(given: list[str]) -> dict[str, float]:
    """COLUMN=LIMIT, …; a column's name may hold =."""
    from krepes.errors import ConfigError

    found = {}
    for text in given:
        name, separator, limit = text.rpartition("=")
        if name in found:
            raise ConfigError(f"--max-gap names column {name!r} twice: {found[name]:g} and {limit}; give one limit")
        try:
            found[name] = float(limit)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise ConfigError(f"--max-gap {text}: expected COLUMN=LIMIT, such as sex=0.05")
    return found


def compare(
    run_a: Annotated[str, typer.Argument(help="A run folder, or its URL.")],
    run_b: Annotated[str, typer.Argument(help="Another one.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write everything as JSON, too.")] = None,
    rows: Annotated[int, typer.Option(help="Landmarks to show.", min=0)] = 10,
) -> None:
    """Compare two runs: landmarks gained and lost, gaps and concepts with intervals of their differences."""
    with errors_in_words():
        from krepes.comparison import compare as compared
        from krepes.files import write_json
        from krepes.remote import without_secrets
        from krepes.terminal import say

        with _damage_in_words(run_a, run_b):
            found = compared(run_a, run_b)
        console = terminal()
        for line in (f"A: {without_secrets(run_a)}", f"B: {without_secrets(run_b)}", *found.notes):
            say(console, line)
        lost, gained = ((found.landmarks["change"] == c).sum() for c in ("lost", "gained"))
        say(console, f"landmarks: {found.kept} in both, {lost} lost, {gained} gained")
        for row in found.landmarks.head(rows).to_dict("records"):
            sign = "+" if row["change"] == "gained" else "−"
            say(console, f"  {sign} {row['landmark']}  {row['share']:.1%} of the influence")
        for title, name, table in (("alignment gaps", "name", found.gaps), ("concepts (push)", "name", found.concepts),
                                   ("figures", "figure", found.figures)):  # fmt: skip
            if len(table):
                console.print(_side_by_side(title, name, table))
        if output is not None:
            write_json(output, found.as_dict())


def _side_by_side(title: str, name: str, table):
    """Columns a, b, difference [low, high]."""
    from rich.table import Table
    from rich.text import Text

    from krepes.terminal import visible

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("")
    for column in ("A", "B", "B − A", "95 %"):
        shown.add_column(column, justify="right")
    for row in table.to_dict("records"):
        interval = "" if row["low"] != row["low"] else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        cells = (visible(row[name]), f"{row['a']:.3f}", f"{row['b']:.3f}", f"{row['difference']:+.3f}", interval)
        shown.add_row(*map(Text, cells))
    return shown
