"""Long questions, one at a time in the background: a worker, results by id, a bounded number of both."""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from krepes.errors import KrepesError

WAITING = 8  # jobs at most
KEPT = 64  # finished ones
NO_MEMORY = "the answer needs more memory than this machine has; ask for less, such as a smaller selection"


class TooManyError(KrepesError):
    """Too many jobs wait."""


@dataclass
class Job:
    """A question and, later, its answer.

    Attributes:
        state: "waiting", "running", "done" or "failed".
    """

    name: str
    ask: Callable[[], Any]
    state: str = "waiting"
    result: Any = None
    error: str | None = None
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        seconds = round((self.ended or time.monotonic()) - self.started, 2)
        said = {"result": self.result} if self.state == "done" else {"error": self.error} if self.error else {}
        return {"state": self.state, "seconds": seconds, **said}


class Jobs:
    """The worker and its jobs; its thread starts with the first job."""

    def __init__(self):
        self._lock, self._count = threading.Lock(), 0
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: queue.Queue[Job] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def add(self, ask: Callable[[], Any]) -> str:
        """Ask in the background; the job's id.

        Raises:
            TooManyError: too many wait.
        """
        with self._lock:
            self._count += 1
            job = Job(f"j{self._count}", ask)
            try:
                self._queue.put_nowait(job)
            except queue.Full as error:
                raise TooManyError(f"{WAITING} questions wait already; ask again when one is answered") from error
            self._jobs[job.name] = job
            while len(self._jobs) > KEPT:
                self._jobs.popitem(last=False)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="krepes-jobs", daemon=True)
                self._thread.start()
        return job.name

    def get(self, name: str) -> dict[str, Any] | None:
        """A job's state; None where there is none."""
        job = self._jobs.get(name)
        return None if job is None else job.as_dict()

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            job.state = "running"
            try:
                job.result = job.ask()
                job.ended, job.state = time.monotonic(), "done"
            except KrepesError as error:
                self._fail(job, str(error))
            except MemoryError:
                self._fail(job, NO_MEMORY)
            except Exception:  # the worker must outlive a mistake of one job
                logging.getLogger("krepes.app").exception("a job failed")
                self._fail(job, "something went wrong inside krepes; the terminal says what")

    def _fail(self, job: Job, why: str) -> None:
        job.error, job.ended, job.state = why, time.monotonic(), "failed"
