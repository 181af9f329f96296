"""The web app: its errors in words, and the server on this machine's own address."""

import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from krepes.app.jobs import NO_MEMORY, TooManyError
from krepes.app.live import NotReadyError
from krepes.app.parameters import Json
from krepes.app.routes import routes
from krepes.app.security import Guard
from krepes.app.state import State
from krepes.errors import ConfigError, KrepesError

# any other error is of what was asked: 422
STATUS: dict[type[Exception], int] = {NotReadyError: 409, TooManyError: 429}
WRONG = "something went wrong inside krepes; the terminal says what"


def of_http(request: Request, error: Exception) -> Response:
    """An error of the protocol as JSON."""
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, error.status_code, headers=error.headers)


def of_krepes(request: Request, error: Exception) -> Response:
    """What krepes refuses, in its own words."""
    return Json({"error": str(error)}, STATUS.get(type(error), 422))


def of_memory(request: Request, error: Exception) -> Response:
    """What this machine cannot hold."""
    return Json({"error": NO_MEMORY}, 507)


def of_bug(request: Request, error: Exception) -> Response:
    """A mistake of krepes' own: its traceback is for the terminal alone."""
    return Json({"error": WRONG}, 500)


def create_app(state: State, token: str, port: int) -> ASGIApp:
    """The guarded app.

    Args:
        token: of the start link.
        port: that the app will be asked at.
    """
    handlers = {HTTPException: of_http, KrepesError: of_krepes, MemoryError: of_memory, Exception: of_bug}
    return Guard(Starlette(routes=routes(state), exception_handlers=handlers), token, port)  # pyright: ignore[reportArgumentType]


# ----------------------------------------------------------------------- serving


def listening(port: int) -> socket.socket:
    """A socket of this machine's loopback address.

    Raises:
        ConfigError: the port is taken, or not allowed.
    """
    # asyncio sends small answers at once only where the protocol is named: else each waits 40 ms for an acknowledgement
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        found.close()
        raise ConfigError(f"--port {port} cannot be used ({error}); choose another one, or 0 for a free one") from error
    return found


def serve(
    folder: str | Path,
    compare: str | Path | None = None,
    port: int = 0,
    open_browser: bool = True,
    say: Callable[[str], Any] = print,
    trust_run: bool = False,
) -> None:
    """Serve a run folder until Ctrl-C.

    Args:
        port: 0 for a free one.
        say: is told the start link, whose token is the key: who has it can see the run.
        trust_run: the run is one's own: whatever its configuration names is loaded, as `krepes audit` would.

    Raises:
        RunFolderError: nothing of a run is in the folder.
        ConfigError: the port cannot be used.
    """
    state = State(folder, compare, trust_run)
    entry = listening(port)
    port, token = entry.getsockname()[1], secrets.token_urlsafe(32)
    state.start()
    link = f"http://127.0.0.1:{port}/?token={token}"
    config = uvicorn.Config(
        create_app(state, token, port), log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, ws="none", lifespan="off", timeout_graceful_shutdown=2, limit_concurrency=256,
    )  # fmt: skip
    entry.listen(128)  # the browser's first request waits until the server takes it
    say(link)
    if open_browser:
        threading.Thread(target=_opened, args=(link,), daemon=True).start()
    uvicorn.Server(config).run(sockets=[entry])


def _opened(link: str) -> None:
    try:
        webbrowser.open(link)
    except webbrowser.Error as error:
        logging.getLogger("krepes.app").warning("no browser could be opened (%s); open the link yourself", error)
