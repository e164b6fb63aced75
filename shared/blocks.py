"""Finding customers who have blocked a number. Postgres decides, in one call; here it is told and recorded.

It may run twice at once, and any run may die: a chat is marked once, by whichever run comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from shared.drain import insist
from shared.events import JsonObject
from shared.logs import product_event

NAME = "detect_blocks"


class Database(Protocol):
    async def blocks_detect(self) -> JsonObject: ...
    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None: ...


class Detection:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> Mapping[str, int]:
        """{"probable", "confirmed", "spared", "outages", "healed"}: chats marked so; chats left alone because
        of an outage of their number, and such numbers; marks that no longer held."""
        started_at = datetime.now(UTC)
        found = await insist(self._database.blocks_detect)
        for marked in found["marked"]:
            product_event(
                "whatsapp.block.detected",
                tenant_id=marked["tenant_id"],
                number_id=marked["number_id"],
                chat_id=marked["chat_id"],
                level=marked["level"],
                reason=marked["cause"],
            )
        counts = counts_of(found)
        await self._database.job_run_record(job=NAME, started_at=started_at, counts=counts, error=None)
        return counts


def counts_of(found: JsonObject) -> dict[str, int]:
    levels = Counter(marked["level"] for marked in found["marked"])
    return {
        "probable": levels["probable"],
        "confirmed": levels["confirmed"],
        **{name: found[name] for name in ("spared", "outages", "healed")},
    }
