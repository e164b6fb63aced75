"""Whose number a provider posts to, and what its requests are checked with: asked once, then remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.cache import Cache, Clock
from shared.errors import ForbiddenError, NotFoundError, UnavailableError

UNKNOWN_SECONDS = 30.0
FRESH_SECONDS = 10.0  # a secret that was just asked for has not changed since
_LOOKUPS = 4  # at once: strangers who guess ids must not keep deliveries from the database


@dataclass(frozen=True)
class Keys:
    """`number` is the provider's id of it, `address` where it posts; any of the `secrets` may have signed."""

    number_id: str = ""
    provider: str = ""
    number: str = ""
    account: str | None = None
    address: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)


Lookup = Callable[[str], Awaitable[Mapping[str, Any] | None]]


class KeyRing:
    """One for each process. `lookup` is the RPC channel_webhook_keys."""

    def __init__(self, lookup: Lookup, clock: Clock = time.monotonic) -> None:
        self._lookup = lookup
        self._known: Cache[str, Keys] = Cache(clock=clock)
        self._nobodys: Cache[str, bool] = Cache(UNKNOWN_SECONDS, clock=clock)  # strangers fill only this one
        self._asking: dict[str, asyncio.Task[Keys | None]] = {}
        self._turn = asyncio.Semaphore(_LOOKUPS)

    async def get(self, number_id: str, provider: str) -> Keys:
        """NotFoundError: no active number of this provider has the id."""
        keys = self._known.get(number_id)
        if keys is None and not self._nobodys.get(number_id):
            keys = await self._ask(number_id)
        if keys is None or keys.provider != provider:
            raise NotFoundError(hint="Copy the address from the number's webhook_url.")
        return keys

    def forget(self, number_id: str) -> bool:
        """Ask anew next time: what we remember opened nothing. False: it was asked for only now."""
        is_old = self._known.age(number_id) > FRESH_SECONDS
        if is_old:
            self._known.forget(number_id)
        return is_old

    async def _ask(self, number_id: str) -> Keys | None:
        """However many wait for the same number, the database is asked once."""
        if number_id not in self._asking:
            asking = asyncio.create_task(self._fetch(number_id))
            self._asking[number_id] = asking
            asking.add_done_callback(lambda _: self._asking.pop(number_id, None))
        return await asyncio.shield(self._asking[number_id])

    async def _fetch(self, number_id: str) -> Keys | None:
        try:
            async with self._turn:
                found = await self._lookup(number_id)
        except (ForbiddenError, NotFoundError) as exc:  # our key or our schema is wrong, not the number
            raise UnavailableError("The database does not tell us whose number it is.") from exc
        if not found:
            self._nobodys.put(number_id, True)
            return None
        keys = Keys(
            number_id,
            found["provider"],
            found["provider_number_id"],
            found.get("account_id"),
            secrets=tuple(secret for secret in found["secrets"] if secret),
        )
        self._known.put(number_id, keys)
        return keys
