"""One file over HTTP: no longer than it should be, and no slower than is worth waiting for."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import krepes
from krepes.errors import DataError

if TYPE_CHECKING:
    import requests

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
    import requests
    import urllib3

    try:
        with _answer(url, timeout) as answer:
            answer.raise_for_status()
            promised = answer.headers.get("Content-Length", "")
            if promised.isdecimal() and int(promised) > limit:
                raise DataError(
                    f"{url} announces {int(promised):,} bytes; expected at most {limit:,}. Nothing of it is read"
                )
            done, started, since = 0, time.monotonic(), 0
            while block := answer.raw.read1(BLOCK, decode_content=False):
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
            if promised.isdecimal() and done < int(promised):
                raise DataError(f"{url} breaks off after {done:,} of {int(promised):,} bytes")
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DataError(f"{url}: {error}") from error


def _answer(url: str, timeout: float) -> "requests.Response":
    """A server's answer whose headers have come, all of them within the timeout.

    The library's own timeout is per byte, so that headers could be drawn out endlessly: a thread waits for them, and is
    left behind if it waits too long.
    """
    import requests

    # a server that unpacks .gz files on the way would change their digest
    headers = {"Accept-Encoding": "identity", "User-Agent": f"krepes/{krepes.__version__}"}
    came: queue.Queue[requests.Response | requests.RequestException] = queue.Queue()

    def ask() -> None:
        try:
            came.put(requests.get(url, stream=True, timeout=timeout, headers=headers))
        except requests.RequestException as error:
            came.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = came.get(timeout=timeout)
    except queue.Empty as error:
        raise DataError(f"{url}: timed out, no whole answer within {timeout:g} seconds") from error
    if isinstance(found, requests.RequestException):
        raise found
    return found
