"""How much may go wrong for one source before it is refused unheard: a token bucket for each."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_SOURCES = 10_000  # remembered; whoever was quiet for longest is forgotten first


class Throttle:
    """Counts failures only: who does nothing wrong is never limited, whatever others at the address do."""

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when

    def is_exhausted(self, source: str) -> bool:
        return self._tokens(source) < 1

    def count(self, source: str) -> None:
        """One more failure of theirs."""
        self._buckets[source] = (max(self._tokens(source) - 1, 0), self._clock())
        self._buckets.move_to_end(source)
        if len(self._buckets) > _SOURCES:
            self._buckets.popitem(last=False)

    def _tokens(self, source: str) -> float:
        tokens, at = self._buckets.get(source, (self._burst, self._clock()))
        return min(self._burst, tokens + (self._clock() - at) * self._per_second)
