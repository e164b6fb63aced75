"""Bringing the templates of every account into the database, daily and when a number was connected.

Accounts are nothing to each other: what one cannot tell today raises an alert of its own, and the templates
known of it go on. It may run twice at once, and any run may die: the next does the same again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from shared.drain import insist
from shared.errors import RecadoError
from shared.events import JsonObject
from shared.templates import Catalogue

NAME = "sync_templates"
AT_ONCE = 5  # accounts; each is asked page after page

log = logging.getLogger(__name__)


class Database(Protocol):
    async def template_accounts(self, *, tenant_id: str | None) -> JsonObject: ...
    async def channel_tokens(self, *, numbers: Sequence[JsonObject]) -> list[JsonObject]: ...
    async def templates_apply(
        self,
        *,
        tenant_id: str,
        provider: str,
        waba_id: str,
        listed_at: datetime,
        templates: Sequence[JsonObject],
        is_complete: bool,
    ) -> Mapping[str, int]: ...
    async def templates_fail(self, *, tenant_id: str, waba_id: str, problem: str) -> None: ...
    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account with the token that opens it, if one of its numbers has any."""

    tenant_id: str
    provider: str
    waba_id: str
    token: str | None = field(repr=False)

    @property
    def ids(self) -> dict[str, str]:
        return {"tenant_id": self.tenant_id, "waba_id": self.waba_id}


class TemplateSync:
    def __init__(self, database: Database, catalogues: Mapping[str, Catalogue]) -> None:
        self._database = database
        self._catalogues = catalogues

    async def run(self, tenant_id: str | None) -> Mapping[str, int]:
        """{"accounts", "added", "changed", "deleted", "failed", "without_token"}, of one business or all."""
        started_at, counts = datetime.now(UTC), Counter[str]()
        told = await insist(lambda: self._database.template_accounts(tenant_id=tenant_id))
        clock = _Clock(datetime.fromisoformat(told["now"]))
        for start in range(0, len(told["accounts"]), AT_ONCE):
            accounts = await self._opened(told["accounts"][start : start + AT_ONCE])
            for done in await asyncio.gather(*(self._sync(account, clock.now()) for account in accounts)):
                counts.update(done)
        await self._database.job_run_record(job=NAME, started_at=started_at, counts=counts, error=None)
        return dict(counts)

    async def _opened(self, given: Sequence[JsonObject]) -> list[Account]:
        numbers = [number for account in given for number in account["numbers"]]
        found = await insist(lambda: self._database.channel_tokens(numbers=numbers))
        tokens = {one["number_id"]: one["token"] for one in found}
        return [
            Account(
                tenant_id=account["tenant_id"],
                provider=account["provider"],
                waba_id=account["waba_id"],
                token=next(filter(None, (tokens.get(one["number_id"]) for one in account["numbers"])), None),
            )
            for account in given
        ]

    async def _sync(self, account: Account, listed_at: datetime) -> Mapping[str, int]:
        if account.token is None:  # whoever sends with the number raises the alert about it
            return {"without_token": 1}
        try:
            return {"accounts": 1, **await self._bring(account, account.token, listed_at)}
        except RecadoError as exc:
            problem = exc.message
        except Exception:  # one account must not end the others
            log.exception("listing broken", extra={"action": NAME, **account.ids})
            problem = "Something of ours is broken; see the log."
        log.warning("templates not listed", extra={"action": NAME, "reason": problem, **account.ids})
        await insist(lambda: self._database.templates_fail(**account.ids, problem=problem))
        return {"failed": 1}

    async def _bring(self, account: Account, token: str, listed_at: datetime) -> Mapping[str, int]:
        listed = await self._catalogues[account.provider].of(account.waba_id, token)
        return await insist(
            lambda: self._database.templates_apply(
                **account.ids,
                provider=account.provider,
                listed_at=listed_at,
                templates=listed.templates,
                is_complete=listed.is_complete,
            )
        )


class _Clock:
    """The business's clock, told once; providers date their news by it, not by ours."""

    def __init__(self, now: datetime) -> None:
        self._told = now
        self._at = time.monotonic()

    def now(self) -> datetime:
        return self._told + timedelta(seconds=time.monotonic() - self._at)
