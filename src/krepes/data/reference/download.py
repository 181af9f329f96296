"""One file over HTTP: no longer than it should be, and no slower than is worth waiting for."""

import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import krepes
from krepes.errors import DataError

SLOWEST = 1024  # bytes a second, on the average of `timeout` seconds
BLOCK = 2**16


def download(url: str, path: Path, limit: int, timeout: float, note: Callable[[int], None]) -> None:
    """Write what a server answers to a file.

    Args:
        path: what is there is overwritten; after an error it holds a part.
        limit: bytes; a longer answer is given up at once, before it is read where the server tells its length.
        timeout: seconds in which the server must answer, and in each of which it must send 1,024 bytes on average.
        note: told the bytes so far.

    Raises:
        DataError: no such server or file, or an answer that is too long, too slow or breaks off; names the address.
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        for block in _blocks(url, limit, timeout):
            file.write(block)
            note(file.tell())


def _blocks(url: str, limit: int, timeout: float) -> Iterator[bytes]:
    """The answer as it comes."""
    try:
        with _answer(url, timeout) as answer:
            promised, done = answer.length, 0
            if promised is not None and promised > limit:
                raise DataError(
                    f"{url} announces {promised:,} bytes; expected at most {limit:,}. Nothing of it is read"
                )
            started, since = time.monotonic(), 0
            while block := answer.read1(BLOCK):
                done += len(block)
                if done > limit:
                    raise DataError(
                        f"{url} gives more than the {limit:,} bytes that were expected; the rest is not read"
                    )
                yield block
                seconds = time.monotonic() - started
                if seconds >= timeout:
                    if done - since < SLOWEST * timeout:
                        raise DataError(
                            f"{url} is too slow: {done - since:,} bytes came in {seconds:.3g} seconds, expected at "
                            f"least {SLOWEST:,} a second. Wait longer with --timeout (timeout=…), or try again later"
                        )
                    started, since = time.monotonic(), done
            if promised is not None and done < promised:
                raise DataError(f"{url} breaks off after {done:,} of {promised:,} bytes")
    except (OSError, HTTPException) as error:  # also of the address, the connection and the certificate
        said = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        raise DataError(f"{url}: {said}") from error


@contextmanager
def _answer(url: str, timeout: float) -> Iterator[HTTPResponse]:
    """A server's answer whose headers have come, all of them within the timeout.

    A socket's own timeout is per byte, so that headers could be drawn out endlessly: a thread ends the connection.
    """
    connections: list[HTTPConnection] = []
    here, late = threading.Event(), threading.Event()

    def watch() -> None:
        if not here.wait(timeout):
            late.set()
        while not here.wait(0.05):
            for connection in connections:
                with suppress(OSError, AttributeError):  # not open any more, or not yet
                    connection.sock.shutdown(socket.SHUT_RDWR)

    # a server that unpacks .gz files on the way would change their digest
    headers = {"Accept-Encoding": "identity", "User-Agent": f"krepes/{krepes.__version__}"}
    request = urllib.request.Request(url, headers=headers)
    threading.Thread(target=watch, daemon=True).start()
    answer = None
    try:
        answer = _opener(connections).open(request, timeout=timeout)
    except (OSError, HTTPException):
        if not late.is_set():
            raise
    finally:
        here.set()
    if answer is None or late.is_set():  # headers that were cut off look like whole ones
        raise DataError(f"{url}: timed out, no whole answer within {timeout:g} seconds")
    with answer:
        yield answer


def _opener(connections: list[HTTPConnection]) -> urllib.request.OpenerDirector:
    """Opens http and https alone, through the environment's proxies, and notes its connections."""

    def noted(kind: type[HTTPConnection]) -> Callable[..., HTTPConnection]:
        def make(*args: Any, **options: Any) -> HTTPConnection:
            connections.append(kind(*args, **options))
            return connections[-1]

        return make

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> HTTPResponse:
            return self.do_open(noted(HTTPConnection), req)  # pyright: ignore[reportArgumentType]

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> HTTPResponse:
            return self.do_open(noted(HTTPSConnection), req, context=certificates())  # pyright: ignore[reportArgumentType]

    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), Http(), Https(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):  # fmt: skip
        director.add_handler(handler)
    return director


def certificates() -> ssl.SSLContext:
    """The system's authorities, and those that Mozilla trusts: some Pythons come without any."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
