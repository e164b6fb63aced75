"""WhatsApp's two speed limits, in real time: messages a second of a number, and messages to one customer."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import Literal

PER_SECOND = 80
PAIR_SECONDS = 6.0  # one message to the same customer in this time ...
PAIR_BURST = 45  # ... or so many at once, which are then owed


class Limits:
    def __init__(self) -> None:
        self._accepted: dict[str, deque[float]] = defaultdict(deque)
        self._owed_until: dict[tuple[str, str], float] = {}

    def reached(
        self, number: str, customer: str, now: float | None = None
    ) -> Literal["number", "pair"] | None:
        """Count one message; or say which limit it would break, and leave it uncounted."""
        now = time.monotonic() if now is None else now
        recent = self._accepted[number]
        while recent and recent[0] <= now - 1:
            recent.popleft()
        if len(recent) >= PER_SECOND:
            return "number"
        owed_until = max(self._owed_until.get((number, customer), now), now)
        if owed_until - now > (PAIR_BURST - 1) * PAIR_SECONDS:
            return "pair"
        self._owed_until[number, customer] = owed_until + PAIR_SECONDS
        recent.append(now)
        return None
