"""Verbs that read finished runs: check, compare."""

from pathlib import Path
from typing import Annotated

import typer

from krepes.cli.console import errors_in_words, terminal


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
    with errors_in_words(code=2):
        from krepes import gate

        checks = gate.check(run, _limits(max_gap or []), min_tau, trust, strict)
        console = terminal()
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


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run folder.")],
    run_b: Annotated[Path, typer.Argument(help="Another one.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write everything as JSON, too.")] = None,
    rows: Annotated[int, typer.Option(help="Landmarks to show.")] = 10,
) -> None:
    """Compare two runs: landmarks gained and lost, gaps and concepts with intervals of their differences."""
    with errors_in_words():
        from krepes.comparison import compare as compared
        from krepes.files import write_json

        found = compared(run_a, run_b)
        console = terminal()
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
