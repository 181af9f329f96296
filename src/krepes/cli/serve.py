"""The verb that shows a run as a local web app."""

from contextlib import suppress
from typing import Annotated

import typer

from krepes.cli.console import errors_in_words, terminal


def serve(
    run: Annotated[str, typer.Argument(help="A run folder, or its URL.")],
    compare: Annotated[str | None, typer.Option(help="Another run, to compare it with.")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 for a free one.", min=0, max=65535)] = 0,
    trust_run: Annotated[
        bool, typer.Option("--trust-run", help="The run is your own: load what its configuration names, code too.")
    ] = False,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Show a run as a local web app: the map, explanations, concepts, counterfactuals."""
    with errors_in_words():
        from krepes.app.server import serve as served
        from krepes.remote import local_run, without_secrets
        from krepes.terminal import say

        def told(link: str) -> None:
            say(terminal(), f"{without_secrets(run)} is shown at {link} (the link is the key to it; Ctrl-C ends)")

        with suppress(KeyboardInterrupt):  # how it ends
            served(local_run(run), None if compare is None else local_run(compare), port, open_, told, trust_run)
