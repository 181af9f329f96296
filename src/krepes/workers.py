"""The processes that share an audit's samples: every sum over samples goes through here.

All workers run the same program. What is over samples is divided by shards (`krepes.data.stream.shards`), which depend
on the number of samples alone, each computed by one worker; `add` brings the sums together. What is not over samples,
such as the landmarks' kernel, is computed by every worker alike. One process alone is a worker without others, for whom
nothing here does anything.

PyTorch Distributed carries the sums; torchrun starts the processes, and starts them again when one dies.
"""

import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from krepes.errors import ConfigError, KrepesError, RunFolderError
from krepes.files import refusals_of
from krepes.signals import Interrupted

LIMIT = timedelta(minutes=30)  # for all to come together at the start
PATIENCE = timedelta(days=7)  # of a sum: one worker may have a shard to compute, or the report to write
GRACE = 15.0  # seconds that a worker waits for the others to meet the same error
LOOK = 0.5  # seconds between two looks at whether another worker has stopped
GONE = 20.0  # seconds that a sum waits for a worker that has left
BEAT = 5.0  # seconds between two signs of life of a worker
SILENT = 300.0  # seconds without one, after which it counts as lost; long, as some calls hold Python's lock
PARTING = 5.0  # seconds that connections are given to close
FAILED = "failed"
SIGNAL = "signal "  # how the word of a worker begins that a signal stopped

Part = TypeVar("Part")
Value = TypeVar("Value")


class WorkerError(KrepesError, RuntimeError):
    """Another worker stopped, and this one with it; names it."""


@dataclass
class Workers:
    """One of `size` processes.

    Attributes:
        rank: which, from 0.
        size: how many there are.
        store: what they tell each other beside sums; None for one process alone.
        scratch: a folder that all see, for what they exchange in files; default the system's temporary one.
        numbers: that this worker put into sums so far.
    """

    rank: int = 0
    size: int = 1
    store: Any = None
    scratch: Path | None = None
    numbers: int = 0
    _met: int = field(default=0, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def own(self, parts: Iterable[Part]) -> Iterator[tuple[int, Part]]:
        """This worker's parts with their numbers: every `size`-th one."""
        return ((i, part) for i, part in enumerate(parts) if i % self.size == self.rank)

    def add(self, *tensors: Tensor) -> None:
        """Sum each tensor over the workers, in place and on all of them to the same bits.

        Raises:
            WorkerError: another worker has stopped.
        """
        if self.size == 1:
            return
        for tensor in tensors:
            whole = tensor.contiguous()
            self.numbers += whole.numel()
            self._wait(lambda whole=whole: dist.all_reduce(whole, async_op=True))
            if whole is not tensor:
                tensor.copy_(whole)

    def all(self, value: Value) -> list[Value]:
        """What each worker holds, in the order of ranks."""
        if self.size == 1:
            return [value]
        packed = io.BytesIO()
        torch.save(value, packed)
        mine = torch.frombuffer(bytearray(packed.getvalue()), dtype=torch.uint8)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(mine)
        self.add(lengths)
        ends = lengths.cumsum(0).tolist()
        everything = torch.zeros(ends[-1], dtype=torch.uint8)
        everything[ends[self.rank] - len(mine) : ends[self.rank]] = mine
        self.add(everything)
        raw = everything.numpy().tobytes()
        parts = [io.BytesIO(raw[end - n : end]) for end, n in zip(ends, lengths.tolist(), strict=True)]
        return [torch.load(part, map_location=_on_own_device, weights_only=False) for part in parts]

    def same(self, value: Value) -> Value:
        """What the first worker holds."""
        return self.all(value if self.first else None)[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Until all are here."""
        self.add(torch.zeros(1))

    def map(self, items: Sequence[Part], function: Callable[[Part], Value]) -> list[Value]:
        """The function of each item, computed by one of the workers without the others."""
        with alone():
            mine = {i: function(item) for i, item in self.own(items)}
        found = {i: value for part in self.all(mine) for i, value in part.items()}
        return [found[i] for i in range(len(items))]

    def agree(self, facts: dict[str, Any]) -> None:
        """Refuse workers that are not about to compute the same.

        Args:
            facts: what ↦ a short text or number.

        Raises:
            ConfigError: says what differs, and on which worker.
        """
        everywhere = self.all(facts)
        wrong = [
            f"worker {rank} has {what} {theirs[what]!r}, worker 0 {value!r}"
            for rank, theirs in enumerate(everywhere)
            for what, value in everywhere[0].items()
            if theirs.get(what) != value
        ]
        if wrong:
            raise ConfigError(
                f"the workers do not see the same: {'; '.join(wrong)}. Give all of them the same files and versions."
            )

    def together(self, make: Callable[[], Value]) -> Value:
        """What `make` gives, or on every worker the first error that one of them met; for work before a sum."""
        if self.size == 1:
            return make()
        value, error = None, None
        try:
            value = make()
        except WorkerError:
            raise
        except KrepesError as met:
            error = met
        for one in self.all(error):
            if one is not None:
                raise one
        return value  # type: ignore[return-value]

    def check_shared(self, folder: Path) -> None:
        """Refuse a folder that is not one and the same for all.

        Raises:
            RunFolderError: names a worker that does not see it.
        """
        if self.size == 1:
            return
        name = self.same(f".shared-{uuid4().hex}")
        if self.first:
            with refusals_of(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
        self.wait()
        seen = self.all((folder / name).exists())
        if self.first:
            (folder / name).unlink(missing_ok=True)
        if not all(seen):
            raise RunFolderError(f"worker {seen.index(False)} does not see {folder}; expected a folder that all share")

    def leave(self) -> None:
        """Wait until nobody wants an answer any more: a connection that closes in a sum ends the other side's."""
        self._meet("left", PATIENCE.total_seconds())

    def share_error(self, what: str, error: KrepesError) -> None:
        """Return where every worker has met an error in this part, so that all may go on without it.

        Raises:
            WorkerError: the others have not, within `GRACE` seconds; they would wait for this one.
        """
        if self.size == 1:
            return
        self._met += 1
        if not self._meet(f"error/{self._met}/{what}", GRACE):
            alone = f"worker {self.rank} alone met an error: {error}"
            self.store.set(FAILED, alone)
            raise WorkerError(alone) from error

    def _meet(self, where: str, seconds: float) -> bool:
        """Whether all workers come to a place in the program within a time; without a sum, which some may be in."""
        keys, until = [f"{where}/{rank}" for rank in range(self.size)], time.monotonic() + seconds
        self.store.set(keys[self.rank], "here")
        while not self.store.check(keys):
            if time.monotonic() > until:
                return False
            self._heed()
            time.sleep(LOOK / 10)
        return True

    def fail(self, error: BaseException) -> None:
        """Tell the others that this worker stops, and why."""
        if self.store is None or isinstance(error, WorkerError):
            return
        word = f"worker {self.rank} stopped: {type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            word = SIGNAL + (error.name if isinstance(error, Interrupted) else "SIGINT")
        with suppress(RuntimeError):  # the store's host may be gone
            self.store.set(FAILED, word)

    def _heed(self) -> None:
        """Stop where another worker has stopped.

        Raises:
            WorkerError: with its reason.
            Interrupted: a signal stopped it; the whole run was meant.
        """
        if self.store.check([FAILED]):
            word = self.store.get(FAILED).decode()
            raise Interrupted(word.removeprefix(SIGNAL)) if word.startswith(SIGNAL) else WorkerError(word)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Inside, a thread gives signs of life, and looks for those of the next worker: a ring that has no end."""
        if self.size == 1:
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), daemon=True, name="krepes-signs-of-life")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(BEAT)

    def _beat(self, done: threading.Event) -> None:
        other = (self.rank + 1) % self.size
        beats, seen, silent, looked = 0, b"", 0.0, time.monotonic()
        with suppress(RuntimeError):  # the store's host may be gone: a sum says so
            while not done.wait(BEAT if beats else 0):
                beats += 1
                self.store.set(f"beat/{self.rank}", str(beats))
                found = self.store.get(f"beat/{other}") if self.store.check([f"beat/{other}"]) else b""
                now = time.monotonic()
                # of a time in which this process was stopped itself, no more than a beat counts
                silent = 0.0 if found != seen else silent + min(now - looked, 2 * BEAT)
                seen, looked = found, now
                if silent > SILENT and not self.store.check([f"left/{other}"]) and not self.store.check([FAILED]):
                    self.store.set(FAILED, f"worker {other} was lost: no sign of life for {silent:.0f} s")
                    return

    def _wait(self, begin: Callable[[], Any]) -> None:
        try:
            work, looked, left = begin(), time.monotonic(), None
            while not work.is_completed():
                time.sleep(1e-5)
                if time.monotonic() - looked > LOOK:
                    looked = time.monotonic()
                    self._heed()
                    if any(self.store.check([f"left/{rank}"]) for rank in range(self.size)):
                        left = left or looked
                        if looked - left > GONE:
                            raise WorkerError("another worker has left: all must make the same calls")
            work.wait()
        except RuntimeError as error:
            if isinstance(error, WorkerError):
                raise
            time.sleep(LOOK)  # the other's last word may be on its way
            told = "another worker was lost"
            try:
                self._heed()
            except RuntimeError as word:  # its word, or the store's host is gone as well
                told = str(word) if isinstance(word, WorkerError) else told
            raise WorkerError(f"{told} ({error})") from error


def _on_own_device(storage: Any, location: str) -> Any:
    """What lay on another worker's GPU comes to this one's."""
    return storage.cuda() if location.startswith("cuda") else storage


ALONE = Workers()
_current = ALONE


def current() -> Workers:
    """This process's worker; one without others unless `started` is active."""
    return _current


@contextmanager
def alone() -> Iterator[None]:
    """Whatever is done inside is this process's own."""
    global _current
    kept, _current = _current, ALONE
    try:
        yield
    finally:
        _current = kept


def device_of_worker(name: str) -> str:
    """The device "cuda" of this process: the GPU of its place on its machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if launched() and name == "cuda" else name


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def started() -> Iterator[Workers]:
    """Join the processes that torchrun started together with this one; without others nothing happens.

    Until the block ends, fits and audits divide their samples among them. All must make the same calls.

    Raises:
        WorkerError: another worker stopped.
    """
    global _current
    if not launched():
        yield ALONE
        return
    store, rank, size = next(iter(rendezvous("env://", timeout=LIMIT)))
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # torchrun may keep its store when it starts the workers again: there the addresses of dead ones would be found
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    sums, words = (PrefixStore(f"{name}/{attempt}", store) for name in ("sums", "words"))
    dist.init_process_group(backend, store=sums, rank=rank, world_size=size, timeout=PATIENCE)
    _current = Workers(rank, size, words)
    try:
        with _current.alive():
            yield _current
            _current.leave()
    except BaseException as error:
        _current.fail(error)
        raise
    finally:
        _current = ALONE
        # it waits for what is under way: in a sum with a lost worker, for ever
        parting = threading.Thread(target=dist.destroy_process_group, daemon=True)
        parting.start()
        parting.join(PARTING)
