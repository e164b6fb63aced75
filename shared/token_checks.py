"""Keeping tokens alive: every day each of Meta is looked at, and replaced before it ends.

The old token stays until the new one is proven, and is revoked in a later run, when no worker remembers it.
Each step is told to the database before the next: whoever dies in between leaves a token that works.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from shared.accounts.meta import Meta, TokenState
from shared.drain import insist
from shared.errors import BadRequestError, ForbiddenError, RecadoError, UpstreamError
from shared.events import JsonObject

NAME = "refresh_tokens"
AT_ONCE = 10
LEASE_SECONDS = 120
EARLY = timedelta(days=15)  # day 45 of 60

log = logging.getLogger(__name__)

Result = Literal["good", "failed", "dead"]


class Database(Protocol):
    async def token_checks_claim(
        self, *, since: str | None, limit: int, lease_seconds: int
    ) -> JsonObject: ...
    async def token_offer(
        self, *, claim: str, tenant_id: str, number_id: str, token: str, expires_at: datetime | None
    ) -> bool: ...
    async def token_adopt(
        self,
        *,
        claim: str,
        tenant_id: str,
        number_id: str,
        issued_at: datetime | None,
        expires_at: datetime | None,
    ) -> bool: ...
    async def token_drop(self, *, claim: str, tenant_id: str, number_id: str, kind: str) -> bool: ...
    async def token_check_settle(
        self,
        *,
        claim: str,
        tenant_id: str,
        number_id: str,
        result: str,
        problem: str | None,
        issued_at: datetime | None,
        expires_at: datetime | None,
    ) -> bool: ...
    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Held:
    """A number in our hands. `now` is the business's clock, which a test may have moved."""

    key: dict[str, str]
    now: datetime
    number: str  # phone_number_id
    token: str = field(repr=False)
    next_token: str | None = field(repr=False)
    old_token: str | None = field(repr=False)

    @classmethod
    def read(cls, claimed: JsonObject, given: JsonObject) -> Held:
        return cls(
            key={"claim": claimed["claim"], "tenant_id": given["tenant_id"], "number_id": given["number_id"]},
            now=datetime.fromisoformat(claimed["now"]),
            number=given["provider_number_id"],
            token=given["token"],
            next_token=given.get("next_token"),
            old_token=given.get("old_token"),
        )


@dataclass(frozen=True, slots=True)
class Checked:
    result: Result
    state: TokenState | None = None
    problem: str | None = None


class LostError(Exception):
    """Somebody else has the number in hand by now: leave it."""


class TokenChecks:
    def __init__(self, database: Database, meta: Meta) -> None:
        self._database = database
        self._meta = meta

    async def run(self) -> Mapping[str, int]:
        """Each number once; what becomes of one is nothing to the others."""
        counts: Counter[str] = Counter()
        started_at, since = datetime.now(UTC), None
        while True:
            claimed = await self._database.token_checks_claim(
                since=since, limit=AT_ONCE, lease_seconds=LEASE_SECONDS
            )
            since = since or claimed["now"]
            held = [Held.read(claimed, given) for given in claimed["numbers"]]
            if not held:
                break
            counts.update(await asyncio.gather(*map(self._look, held)))
        await self._database.job_run_record(job=NAME, started_at=started_at, counts=counts, error=None)
        return dict(counts)

    async def _look(self, held: Held) -> str:
        try:
            checked = await self._check(held)
            await self._settle(held, checked)
        except LostError:
            return "lost"
        except RecadoError as exc:
            await self._settle(held, Checked("failed", problem=exc.message))
            return "failed"
        except Exception:  # one number must not end the others
            log.exception("check broken", extra={"action": NAME, **held.key})
            await self._settle(held, Checked("failed", problem="Something of ours is broken; see the log."))
            return "failed"
        return checked.result

    async def _check(self, held: Held) -> Checked:
        checked = await self._finish(held) or await self._begin(held)
        if held.old_token and checked.result == "good":
            await self._retire(held, held.old_token)
        return checked

    async def _finish(self, held: Held) -> Checked | None:
        """A run died after it was issued a token: that one is as good as another."""
        if held.next_token is None:
            return None
        try:
            return await self._adopt(held, held.next_token)
        except UpstreamError:  # it is not: the one in use goes on, and gets another
            return None

    async def _begin(self, held: Held) -> Checked:
        state = await self._meta.debug(held.token)
        if not state.is_valid:
            return Checked("dead", problem="Meta does not accept this number's access token any more.")
        if state.expires_at is None or state.expires_at > held.now + EARLY:
            return Checked("good", state)
        issued = await self._meta.refresh(held.token)
        if issued.token == held.token:  # prolonged
            return Checked("good", await self._meta.debug(held.token))
        expires_at = held.now + timedelta(seconds=issued.seconds) if issued.seconds else None
        kept = await insist(
            lambda: self._database.token_offer(**held.key, token=issued.token, expires_at=expires_at)
        )
        if not kept:
            raise LostError
        return await self._adopt(held, issued.token)

    async def _adopt(self, held: Held, token: str) -> Checked:
        state = await self._prove(held, token)
        adopted = await insist(
            lambda: self._database.token_adopt(
                **held.key, issued_at=state.issued_at, expires_at=state.expires_at
            )
        )
        if not adopted:
            raise LostError
        log.info("token replaced", extra={"action": NAME, **held.key})
        return Checked("good", state)

    async def _prove(self, held: Held, token: str) -> TokenState:
        """It must be valid, and open this very number, before anybody uses it."""
        state = await self._meta.debug(token)
        try:
            if state.is_valid:
                await self._meta.number(token, held.number)
                return state
        except (BadRequestError, ForbiddenError) as exc:
            log.warning("token useless", extra={"action": NAME, **held.key, "reason": exc.code})
        await self._drop(held, "next_token")
        raise UpstreamError("Meta issued a token that does not open the number.")

    async def _retire(self, held: Held, old_token: str) -> None:
        """One that cannot be revoked today is tried again tomorrow; nobody uses it."""
        try:
            await self._meta.revoke(old_token)
        except RecadoError as exc:
            log.warning("token not revoked", extra={"action": NAME, **held.key, "reason": exc.code})
            return
        await self._drop(held, "old_token")

    async def _drop(self, held: Held, kind: str) -> None:
        await insist(lambda: self._database.token_drop(**held.key, kind=kind))

    async def _settle(self, held: Held, checked: Checked) -> None:
        state = checked.state or TokenState(is_valid=False)
        mine = await insist(
            lambda: self._database.token_check_settle(
                **held.key,
                result=checked.result,
                problem=checked.problem,
                issued_at=state.issued_at,
                expires_at=state.expires_at,
            )
        )
        if not mine:
            log.info("number connected meanwhile", extra={"action": NAME, **held.key})
