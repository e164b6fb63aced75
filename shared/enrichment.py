"""What the business's own phone knows of a customer: the name in its address book, and the chat's labels.

Asked for while the customer's burst is still coming in, so that the agent can know; the answer waits for
nothing of this, and nothing of this fails it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from shared.events import JsonObject
from shared.senders.base import Credentials
from shared.senders.gestures import KnowsChats
from shared.tokens import Tokens

LATE_SECONDS = 8.0

log = logging.getLogger(__name__)


class Database(Protocol):
    async def lead_enrich(
        self, *, tenant_id: str, chat_id: str, name: str | None, labels: Sequence[str]
    ) -> bool: ...


class Enrichment:
    """One for each process."""

    def __init__(
        self, database: Database, tokens: Tokens, senders: Callable[[], Mapping[str, KnowsChats]]
    ) -> None:
        self._database = database
        self._make = senders  # not before the first: a setting that is wrong keeps nobody from answering
        self._tokens = tokens
        self._running: set[asyncio.Task[None]] = set()

    def start(self, chats: Sequence[JsonObject]) -> None:
        """`chats` are what reply_claim says nothing was asked about for a while. Returns at once."""
        for chat in chats:
            task = asyncio.create_task(self._enrich(chat))
            self._running.add(task)  # the loop itself would forget it
            task.add_done_callback(self._running.discard)

    async def _enrich(self, chat: JsonObject) -> None:
        ids = {"action": "enrichment", "tenant_id": chat["tenant_id"], "chat_id": chat["chat_id"]}
        try:
            async with asyncio.timeout(LATE_SECONDS):
                is_changed = await self._look(chat)
        except Exception:
            log.warning("not enriched", extra=ids, exc_info=True)
        else:
            log.debug("enriched", extra={**ids, "is_changed": is_changed})

    async def _look(self, chat: JsonObject) -> bool:
        number = chat["tenant_id"], chat["number_id"]
        token = (await self._tokens.of([number])).get(number)
        if token is None:
            return False
        facts = await self._senders[chat["provider"]].chat(chat["address"], Credentials(token))
        if facts is None:
            return False
        return await self._database.lead_enrich(
            tenant_id=chat["tenant_id"], chat_id=chat["chat_id"], name=facts.name, labels=facts.labels
        )

    @cached_property
    def _senders(self) -> Mapping[str, KnowsChats]:
        return self._make()
