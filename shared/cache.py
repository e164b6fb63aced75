"""What a warm instance remembers of the database: few things, not for long, and in memory alone."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

CONFIGURATION_SECONDS = (
    300.0  # what people set up is believed this long: a change is in force within five minutes
)
ENTRIES = 5_000  # remembered, at most; then the one that was learnt first is forgotten

Clock = Callable[[], float]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, each for `seconds` from when it was learnt, however often it is asked for."""

    def __init__(
        self, seconds: float = CONFIGURATION_SECONDS, *, entries: int = ENTRIES, clock: Clock = time.monotonic
    ) -> None:
        self._seconds, self._entries, self._clock = seconds, entries, clock
        self._known: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def get(self, key: K) -> V | None:
        value, at = self._known.get(key, (None, 0.0))
        return value if self._clock() - at < self._seconds else None

    def age(self, key: K) -> float:
        """Seconds since it was learnt; without end when it is not known."""
        return self._clock() - self._known[key][1] if key in self._known else float("inf")

    def put(self, key: K, value: V) -> None:
        self._known.pop(key, None)
        self._known[key] = value, self._clock()
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def forget(self, key: K) -> None:
        self._known.pop(key, None)
