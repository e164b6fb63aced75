"""When messages go: at the slots the database gave them, by the database's clock, one number's well apart.

The database says how late it is with every claim. A number's slots are ours until the last of them has
passed. What we could not send by shortly after goes back, because another worker may have the number then.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime

from shared.tokens import Number

LATE_SECONDS = 0.25  # after a number's last slot; the database leaves as much between two workers
CATCH_UP = 0.96  # of the distance between slots: never above the rate, which slots are 5 % below
SHORTEST_LEAD, LONGEST_LEAD = 0.01, 0.5
LONGEST_WAIT = 3.0  # more than a claim gives out
_DRIFT = 0.001


@dataclass(slots=True)
class _Lane:
    free_at: float = 0.0
    ends_at: float = 0.0


class Pace:
    """One for each worker. Moments are seconds since 1970, as the database counts them."""

    def __init__(self) -> None:
        self.lead = SHORTEST_LEAD  # from being about to send to being able to: what slots should be ahead
        self._offset = float("-inf")
        self._lanes: dict[Number, _Lane] = {}

    def hear(self, now: str) -> None:
        """What the database said its time was. Answers take a while: the fastest one was the truest."""
        heard = datetime.fromisoformat(now).timestamp() - time.monotonic()
        self._offset = max(heard, self._offset - _DRIFT)

    @property
    def now(self) -> float:
        return time.monotonic() + self._offset

    async def until(self, moment: float) -> None:
        await asyncio.sleep(min(moment - self.now, LONGEST_WAIT))

    def expect(self, number: Number, send_at: float, spacing: float) -> None:
        """This slot is ours."""
        lane = self._lanes.setdefault(number, _Lane())
        lane.ends_at = max(lane.ends_at, send_at + spacing)

    async def turn(self, number: Number, send_at: float, spacing: float) -> bool:
        """Wait for the slot, and until the number's last message is far enough away: after a stall of this
        process many slots have passed, and their messages must not go at once. False: the slot is not ours.
        """
        lane = self._lanes[number]
        await self.until(send_at)
        while lane.free_at > self.now:
            await self.until(lane.free_at)
        if self.now > lane.ends_at + LATE_SECONDS:
            return False
        lane.free_at = self.now + CATCH_UP * spacing
        return True

    def took(self, seconds: float) -> None:
        """How long it was from being about to send to being able to; the next claims learn from it."""
        self.lead = min(max(seconds + SHORTEST_LEAD, self.lead * 0.9), LONGEST_LEAD)
