"""A request to stop, from a scheduler or a keyboard, as an exception; only the command line listens to signals."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TWICE = 2.0  # seconds within which a signal is the first one again: a scheduler tells all, and torchrun its workers


class Interrupted(KeyboardInterrupt):
    """A signal asked this process, or another worker of its job, to stop.

    No `KrepesError`, as Ctrl-C is none: nothing that goes on after an error goes on after it.

    Attributes:
        code: the exit code that is customary: 128 and the signal's number.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name
        self.code = 128 + signal.Signals[name].value


@contextmanager
def stop_requests() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted`, once: the next one ends the process at once.

    Python heeds a signal between two of its own steps: a long operation of PyTorch ends first.
    """
    if threading.current_thread() is not threading.main_thread():  # only there signals arrive
        yield
        return
    first: float | None = None

    def heed(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            raise Interrupted(signal.Signals(number).name)
        if now - first > TWICE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    # what was started to ignore a signal, such as by nohup, goes on ignoring it
    before = {n: signal.signal(n, heed) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
