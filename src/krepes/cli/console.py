"""What every verb shares: its terminal, its options, and errors in words."""

import shlex
import sys
from typing import Annotated

import typer
from rich.console import Console

from krepes.terminal import visible

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Thumbnails = Annotated[bool, typer.Option(help="Pictures of samples in the report and the app.")]
Redact = Annotated[
    list[str] | None, typer.Option(help="A column whose values the report and the app do not show; may be repeated.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace a run that stands in the output folder.")]

MEMORY = "Give engine.memory less, or take fewer landmarks; what is finished is kept, and the same command goes on."


def terminal(quiet: bool = False) -> Console:
    """The console of standard output; wide enough for tables where that is no terminal."""
    return Console(quiet=quiet, width=None if sys.stdout.isatty() else 160, emoji=False)


def command_line() -> str:
    """The command as it was given."""
    return shlex.join(["krepes", *sys.argv[1:]])


def progress(console: Console, quiet: bool):
    """Stages on the console."""
    from krepes.progress import Progress

    return Progress(None if quiet else console)


def _aloud(message: str, style: str) -> None:
    """A message on standard error; names of the data stand in it, and may hold anything."""
    from krepes.remote import without_secrets

    Console(stderr=True, emoji=False).print(
        visible(without_secrets(message), keep="\n"), style=style, soft_wrap=True, markup=False, highlight=False
    )


class errors_in_words:  # noqa: N801  used like a function
    """krepes' own errors, a lack of memory, a request to stop as one message; all else, a bug, keeps its traceback."""

    def __init__(self, code: int = 1):
        self.code = code

    def __enter__(self) -> None:
        import warnings

        from krepes.errors import KrepesWarning

        warnings.simplefilter("always", KrepesWarning)
        warnings.showwarning = lambda message, *_args, **_kw: _aloud(f"warning: {message}", "yellow")

    def __exit__(self, kind, error, traceback) -> None:
        from krepes.errors import KrepesError, lacks_memory

        if isinstance(error, KrepesError):
            _aloud(f"error: {error}", "red")
            raise typer.Exit(self.code)
        if isinstance(error, Exception) and lacks_memory(error):
            _aloud(f"error: out of memory ({str(error)[:200] or type(error).__name__}). {MEMORY}", "red")
            raise typer.Exit(self.code)
        if isinstance(error, KeyboardInterrupt):
            from krepes.signals import Interrupted

            by, code = (f" by {error.name}", error.code) if isinstance(error, Interrupted) else ("", 130)
            _aloud(f"interrupted{by}: what is finished is kept, and the same command goes on from there", "yellow")
            raise typer.Exit(code)
