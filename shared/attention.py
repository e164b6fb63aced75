"""Showing a customer whose chat is taken that they were read, and that an answer is being written.

It is a courtesy: nothing waits for it, and it fails nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import cached_property

from shared.events import JsonObject
from shared.senders.base import Credentials
from shared.senders.gestures import Inbound, ShowsTyping
from shared.tokens import Tokens

LATE_SECONDS = 6.0  # by then the answer is as good as there

log = logging.getLogger(__name__)


class Attention:
    """One for each process."""

    def __init__(self, tokens: Tokens, senders: Callable[[], Mapping[str, ShowsTyping]]) -> None:
        self._make = senders  # not before the first: a setting that is wrong keeps nobody from answering
        self._tokens = tokens
        self._running: set[asyncio.Task[None]] = set()

    def show(self, seen: JsonObject) -> None:
        """`seen` is what reply_claim says of the customer's last message. Returns at once."""
        task = asyncio.create_task(self._show(seen))
        self._running.add(task)  # the loop itself would forget it
        task.add_done_callback(self._running.discard)

    async def _show(self, seen: JsonObject) -> None:
        ids = {"action": "attention", "number_id": seen.get("number_id")}
        try:
            async with asyncio.timeout(LATE_SECONDS):
                is_shown = await self._typing(seen)
        except Exception:
            log.warning("typing not shown", extra=ids, exc_info=True)
        else:
            if not is_shown:
                log.info("typing not shown", extra=ids)

    async def _typing(self, seen: JsonObject) -> bool:
        number = seen["tenant_id"], seen["number_id"]
        token = (await self._tokens.of([number])).get(number)
        if token is None:
            return False
        is_shown = await self._senders[seen["provider"]].typing(_inbound(seen), Credentials(token))
        if not is_shown:
            self._tokens.forget(number)
        return is_shown

    @cached_property
    def _senders(self) -> Mapping[str, ShowsTyping]:
        return self._make()


def _inbound(seen: JsonObject) -> Inbound:
    address = seen["to"] or {}
    return Inbound(
        id=seen["message_id"],
        sender=seen["provider_number_id"],
        account_id=seen["account_id"],
        phone=address.get("phone"),
        chat_id=address.get("chat_id"),
    )
