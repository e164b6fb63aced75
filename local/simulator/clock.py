"""Simulated time: real time, plus how far the platform's clock was moved ahead."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def now(self) -> float:
        return time.time() + self.ahead

    def iso(self, at: float | None = None) -> str:
        moment = datetime.fromtimestamp(self.now() if at is None else at, UTC)
        return moment.isoformat(timespec="milliseconds")
