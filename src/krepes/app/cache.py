"""A bounded cache for threads: each entry is computed once, however many ask for it at the same time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Cache:
    """Results by key; the longest unused are dropped.

    Args:
        limit: of the sum of costs that are kept.
        cost: of a result; default 1 each.
    """

    def __init__(self, limit: float, cost: Callable[[Any], float] = lambda result: 1):
        self._limit, self._cost = limit, cost
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, float]] = OrderedDict()
        self._pending: dict[Hashable, Future] = {}
        self._total = 0.0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The entry, made if it is not there; what `make` raises is raised to all who wait, and nothing is kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            future = self._pending.get(key)
            mine = future is None
            if mine:
                future = self._pending[key] = Future()
        assert future is not None
        if not mine:
            return future.result()
        try:
            result = make()
        except BaseException as error:
            with self._lock:
                self._pending.pop(key)
            future.set_exception(error)
            raise
        with self._lock:
            self._pending.pop(key)
            self._keep(key, result)
        future.set_result(result)
        return result

    def forget(self, chosen: Callable[[Any], bool]) -> None:
        """Drop the entries whose keys are chosen."""
        with self._lock:
            for key in [k for k in self._kept if chosen(k)]:
                self._total -= self._kept.pop(key)[1]

    def _keep(self, key: Hashable, result: Any) -> None:
        cost = self._cost(result)
        if cost > self._limit:
            return
        self._kept[key] = (result, cost)
        self._total += cost
        while self._total > self._limit:
            self._total -= self._kept.popitem(last=False)[1][1]
