"""Whose number a provider posts to, and what its requests are checked with: asked once, then remembered."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import ForbiddenError, NotFoundError, UnavailableError

KNOWN_SECONDS, UNKNOWN_SECONDS = 300.0, 30.0
FRESH_SECONDS = 10.0  # a secret that was just asked for has not changed since
_NUMBERS = 5_000  # remembered
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

    def __init__(self, lookup: Lookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup, self._clock = lookup, clock
        self._known: OrderedDict[str, tuple[Keys | None, float]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Keys | None]] = {}
        self._turn = asyncio.Semaphore(_LOOKUPS)

    async def get(self, number_id: str, provider: str) -> Keys:
        """NotFoundError: no active number of this provider has the id."""
        keys, at = self._known.get(number_id, (None, -UNKNOWN_SECONDS))
        if self._clock() - at >= (KNOWN_SECONDS if keys else UNKNOWN_SECONDS):
            keys = await self._ask(number_id)
        if keys is None or keys.provider != provider:
            raise NotFoundError(hint="Copy the address from the number's webhook_url.")
        return keys

    def forget(self, number_id: str) -> bool:
        """Ask anew next time: what we remember opened nothing. False: it was asked for only now."""
        _, at = self._known.get(number_id, (None, 0.0))
        is_old = self._clock() - at > FRESH_SECONDS
        if is_old:
            self._known.pop(number_id, None)
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
        keys = found and Keys(
            number_id,
            found["provider"],
            found["provider_number_id"],
            found.get("account_id"),
            secrets=tuple(secret for secret in found["secrets"] if secret),
        )
        self._known[number_id] = (keys or None, self._clock())
        self._known.move_to_end(number_id)
        if len(self._known) > _NUMBERS:
            self._known.popitem(last=False)
        return keys or None
