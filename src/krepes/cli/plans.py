"""The verb that says beforehand what an audit will take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from krepes.cli.console import errors_in_words, progress, terminal

if TYPE_CHECKING:
    from krepes.cost import Cost


def plan(
    config: Annotated[Path, typer.Argument(help="A YAML configuration file.")],
    machine: Annotated[
        list[str] | None,
        typer.Option("--machine", "-m", help="here, a100, h100, h200, or a YAML file; may be repeated."),
    ] = None,
    workers: Annotated[list[int] | None, typer.Option("--workers", "-w", help="Processes; may be repeated.")] = None,
    samples: Annotated[int | None, typer.Option(help="As if there were so many; default those of the data.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, key.sub=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an audit will take before it runs: operations, bytes, memory, network, time on named machines."""
    with errors_in_words():
        from krepes.config import (
            build_auditor,
            build_encoder,
            build_plan,
            build_source,
            build_views,
            read_config,
            with_recipe,
        )
        from krepes.config.asked import refuse_unknown_samples
        from krepes.config.reading import naming_the_line
        from krepes.cost import cost_of, machine_named, measured_here
        from krepes.data.stream import probe_of
        from krepes.kernel.ntk import gradient_map

        console = terminal()
        folder = config.resolve().parent
        settings = with_recipe(read_config(config, set_ or []), folder)
        assert settings.views is not None
        with naming_the_line(config, set_ or []):
            source = build_source(settings.data, folder)
            views = build_views(settings.views, source)
            refuse_unknown_samples(settings.report, source)
        auditor = build_auditor(settings, build_encoder(settings.encoder, folder), progress(console, True))
        asked = build_plan(settings, folder)
        explain = settings.report.explain
        explained = explain if isinstance(explain, int) else len(explain)
        gradients = gradient_map(auditor.settings.kernel, auditor.encoder, probe_of(source))
        here = measured_here(auditor, source, views, gradients, samples)
        costs = [
            cost_of(auditor, source, views, asked, explained, machine_named(name, here), number, samples, gradients)
            for name in machine or ["here"]
            for number in workers or [1]
        ]
        if as_json:
            print(json.dumps([cost.as_plain() for cost in costs], indent=2))
            return
        show(costs, console)


def show(costs: list["Cost"], console) -> None:
    """The stages' counts and their seconds for each machine and number of workers, then memory, files and network."""
    from rich.table import Table

    from krepes.engine import in_words

    sizes = costs[0].sizes
    console.print(
        f"{sizes.n:,} samples, {sizes.m:,} landmarks, {sizes.h} dimensions; a kernel row takes {sizes.network:,.0f} "
        f"operations of network passes and {sizes.m * sizes.pair:,.0f} of kernel entries",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    columns = ("samples", "operations", "files", "parts", *(f"{cost.machine.name} × {cost.workers}" for cost in costs))
    for name in columns:
        table.add_column(name, justify="right")
    for i, stage in enumerate(costs[0].stages):
        bound = "≤ " if stage.bound else ""
        table.add_row(
            stage.name, f"{stage.counts.get('samples', 0):,.0f}", f"{bound}{stage.operations:.1e}",
            in_words(stage.counts.get("disk", 0)), f"{stage.parts:,}",
            *(bound + duration(cost.seconds(cost.stages[i])) for cost in costs),
        )  # fmt: skip
    table.add_row("together", "", f"{sum(s.operations for s in costs[0].stages):.1e}", "", "",
                  *(duration(cost.total) for cost in costs), style="bold")  # fmt: skip
    console.print(table)
    first, lines = costs[0], []
    lines.append(f"memory of each worker: {first.memory.sentence()}")
    lines.append(f"files: about {in_words(first.disk)} in the run folder while it works")
    for number in dict.fromkeys(c.workers for c in costs if c.workers > 1):
        cost = next(c for c in costs if c.workers == number)
        whole = in_words(8 * sum(s.exchanged for s in cost.stages))
        lines.append(
            f"network, {number} workers: {cost.product_sum:,.0f} numbers per worker and iteration of the linear solve, "
            f"{whole} per worker in all"
        )
    for machine in dict.fromkeys(c.machine.name for c in costs):
        cost = next(c for c in costs if c.machine.name == machine)
        held, needed = cost.machine.memory, cost.memory.total
        short = f"; its {in_words(held)} of memory are LESS than planned" if held is not None and held < needed else ""
        lines.append(f"{machine}: {cost.machine.source}{short}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(
        "not counted: fingerprints of data, concepts, gaps, figures against labels and the report, which look at a "
        "bounded number of samples. ≤: by the settings' limits, as iterations are not known beforehand.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
