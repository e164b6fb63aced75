"""Running sequences: batch after batch, until nothing is due. Everything is decided in the database."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from shared import logs
from shared.errors import RecadoError
from shared.events import JsonObject

NAME = "process-sequences"
BATCH = 2000
LEASE_SECONDS = 30  # a batch takes a second or two; a loop that died is believed for as long

log = logging.getLogger(__name__)


class Database(Protocol):
    async def sequences_process(self, *, limit: int) -> JsonObject: ...
    async def worker_beat(self, *, worker: str, loop_id: str, seconds: int) -> None: ...
    async def worker_leave(self, *, worker: str, loop_id: str) -> None: ...
    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None: ...


class Sequences:
    """Any number may run at once: each batch is a transaction, and takes what no other has in hand."""

    def __init__(self, database: Database, *, budget: float) -> None:
        self._database = database
        self._budget = budget

    async def run(self, limit: int | None = None) -> Mapping[str, int]:
        """Run up to `limit` enrollments (None: all that are due, while time allows); how each ended."""
        started_at, loop_id = datetime.now(UTC), str(uuid.uuid4())
        counts: Counter[str] = Counter(claimed=0)
        error: str | None = None
        try:
            await self._batches(counts, loop_id, limit)
        except RecadoError as exc:
            error = exc.message
            raise
        finally:
            await self._leave(loop_id, started_at, counts, error)
        return counts

    async def _batches(self, counts: Counter[str], loop_id: str, limit: int | None) -> None:
        time = asyncio.get_running_loop().time
        ends_at = time() + self._budget
        while time() < ends_at:
            size = BATCH if limit is None else min(BATCH, limit - counts["claimed"])
            if size <= 0:
                return
            await self._database.worker_beat(worker=NAME, loop_id=loop_id, seconds=LEASE_SECONDS)
            done = await self._database.sequences_process(limit=size)
            for closed in done.pop("closed", ()):
                logs.product_event("whatsapp.window.closed", **closed)
            counts.update(done)
            if not done.get("claimed"):
                return

    async def _leave(
        self, loop_id: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None:
        log.info("sequences processed", extra={"action": NAME, **counts})
        try:
            await self._database.worker_leave(worker=NAME, loop_id=loop_id)
            await self._database.job_run_record(job=NAME, started_at=started_at, counts=counts, error=error)
        except RecadoError as exc:
            log.warning("run not recorded", extra={"action": NAME, "reason": exc.message})
