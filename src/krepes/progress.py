"""Progress of long stages: bars on a terminal, one line per stage elsewhere, nothing when quiet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from krepes.terminal import say


class Progress:
    """Reports stages.

    Args:
        console: where to; None keeps quiet.
    """

    def __init__(self, console: Console | None = None):
        self.console = console
        self.timings: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[str | int], None]]:
        """A stage; calls with a number move its bar to there, with a text set the note of its closing line."""
        started, notes = time.perf_counter(), {"text": ""}
        bar = None
        if self.console is not None and self.console.is_terminal:
            bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            task = bar.add_task(f"{name:<10}", total=total, note="")
            bar.start()

        def note(what: str | int) -> None:
            if isinstance(what, int):
                if bar is not None:
                    bar.update(task, completed=what)
                return
            notes["text"] = what
            if bar is not None:
                bar.update(task, note=what)

        try:
            yield note
        finally:
            if bar is not None:
                bar.stop()
        self.timings[name] = time.perf_counter() - started
        if self.console is not None:
            detail = notes["text"] or (f"{total} samples" if total else "")
            say(self.console, f"{name:<10} {self.timings[name]:6.1f} s  {detail}")

    def say(self, text: str) -> None:
        """One line between stages."""
        if self.console is not None:
            say(self.console, text)
