"""Making up for an outage: the lists of providers that give up soon are read from where they were read last.

What they hold goes into the inbox like a delivery, with the ids it would have had: what is known drops out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from shared.channel_keys import Keys
from shared.drain import insist
from shared.errors import RecadoError, UnavailableError, UpstreamError
from shared.events import JsonObject, Other, Payload
from shared.histories import History, Number
from shared.inbox import Inbox, Parcel

NAME = "backfill"
AT_ONCE = 10
LEASE_SECONDS = 300
BUDGET_SECONDS = 200.0  # after which no more numbers are begun
PAGES = 20  # of one number; of a time that has more, the first half is read
_SHORTEST = timedelta(seconds=1)

log = logging.getLogger(__name__)


class Database(Protocol):
    async def backfill_claim(self, *, limit: int, lease_seconds: int) -> JsonObject: ...
    async def backfill_settle(
        self, *, claim: str, tenant_id: str, number_id: str, read_until: datetime, is_done: bool
    ) -> bool: ...
    async def backfill_fail(
        self,
        *,
        claim: str,
        tenant_id: str,
        number_id: str,
        problem: str,
        is_temporary: bool,
        retry_after_seconds: int | None,
    ) -> bool: ...
    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None: ...


@dataclass(frozen=True)
class Due:
    """A number in our hands."""

    key: dict[str, str]
    number: Number
    provider: str
    since: datetime
    now: datetime  # the business's clock, which a test may have moved

    @classmethod
    def read(cls, claimed: JsonObject, given: JsonObject) -> Due:
        provider, account = given["provider"], given["account_id"]
        keys = Keys(given["number_id"], provider, given["provider_number_id"], account)
        return cls(
            key={"claim": claimed["claim"], "tenant_id": given["tenant_id"], "number_id": given["number_id"]},
            number=Number(keys, given["phone_number"], given["token"] or ""),
            provider=provider,
            since=datetime.fromisoformat(given["since"]),
            now=datetime.fromisoformat(claimed["now"]),
        )


class Backfill:
    def __init__(
        self,
        database: Database,
        inbox: Inbox,
        histories: Mapping[str, History],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._inbox, self._histories, self._clock = database, inbox, histories, clock

    async def run(self) -> Mapping[str, int]:
        """Read whatever is due; what becomes of one number is nothing to the others."""
        counts: Counter[str] = Counter()
        started_at, deadline = datetime.now(UTC), self._clock() + BUDGET_SECONDS
        while self._clock() < deadline:
            claimed = await self._database.backfill_claim(limit=AT_ONCE, lease_seconds=LEASE_SECONDS)
            due = [Due.read(claimed, given) for given in claimed["numbers"]]
            if not due:
                break
            for found in await asyncio.gather(*map(self._look, due)):
                counts.update(found)
        await self._database.job_run_record(job=NAME, started_at=started_at, counts=counts, error=None)
        return dict(counts)

    async def _look(self, due: Due) -> Counter[str]:
        try:
            return await self._read(due)
        except RecadoError as exc:
            await self._fail(due, exc.message, isinstance(exc, UnavailableError), exc.retry_after)
        except Exception:  # one number must not end the others
            log.exception("backfill broken", extra={"action": NAME, **due.key})
            await self._fail(due, "Something of ours is broken; see the log.", True, None)
        return Counter(failed=1)

    async def _read(self, due: Due) -> Counter[str]:
        if not due.number.token:
            raise UpstreamError("The number has no access token: connect it again.")
        until, stored = due.now, 0
        while True:
            found, is_whole = await self._read_span(due, until)
            stored += found
            if is_whole:
                break
            until = due.since + (until - due.since) / 2
        is_done = until == due.now
        await insist(lambda: self._database.backfill_settle(**due.key, read_until=until, is_done=is_done))
        if stored:
            log.info("messages recovered", extra={"action": NAME, "stored": stored, **due.key})
        return Counter(read=1, stored=stored)

    async def _read_span(self, due: Due, until: datetime) -> tuple[int, bool]:
        """How many messages were new, and whether it was the whole span. A page is stored when it comes."""
        stored = pages = 0
        is_shortest = until - due.since <= _SHORTEST
        async for payloads in self._histories[due.provider].pages(due.number, due.since, until):
            if pages == PAGES and not is_shortest:
                return stored, False
            pages += 1
            stored += await self._store(payloads)
        return stored, True

    async def _store(self, payloads: list[Payload]) -> int:
        told = [replace(one, events=tuple(e for e in one.events if _is_told(e))) for one in payloads]
        parcels = [Parcel(one) for one in told if one.events]
        return sum(receipt.stored for receipt in await self._inbox.receive(parcels)) if parcels else 0

    async def _fail(self, due: Due, problem: str, is_temporary: bool, retry_after: int | None) -> None:
        log.warning("list not read", extra={"action": NAME, "reason": problem, **due.key})
        await insist(
            lambda: self._database.backfill_fail(
                **due.key, problem=problem, is_temporary=is_temporary, retry_after_seconds=retry_after
            )
        )


def _is_told(event: object) -> bool:
    """What is nobody's, or not modelled, would be kept anew each time it is listed."""
    return not isinstance(event, Other)
