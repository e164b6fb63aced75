"""Access tokens of numbers, for whoever is about to call a provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from shared.cache import Cache, Clock
from shared.drain import insist
from shared.errors import DatabaseUnavailableError
from shared.events import JsonObject

Number = tuple[str, str]  # tenant and number


class Database(Protocol):
    async def channel_tokens(self, *, numbers: Sequence[JsonObject]) -> list[JsonObject]: ...


class Tokens:
    """One for each process. In memory only and not for long: one may be replaced any day."""

    def __init__(self, database: Database, clock: Clock = time.monotonic) -> None:
        self._database = database
        self._known: Cache[Number, str] = Cache(clock=clock)
        self._turn = asyncio.Lock()  # however many wait for a number's token, the database is asked once

    async def of(self, numbers: Iterable[Number]) -> Mapping[Number, str]:
        """A number without one is left out."""
        wanted = set(numbers)
        found = self._remembered(wanted)
        if len(found) < len(wanted):
            async with self._turn:
                found = self._remembered(wanted)
                if missing := sorted(wanted - found.keys()):
                    found |= await self._fetch(missing)
        return found

    def _remembered(self, wanted: Iterable[Number]) -> dict[Number, str]:
        return {number: token for number in wanted if (token := self._known.get(number))}

    async def _fetch(self, numbers: Sequence[Number]) -> dict[Number, str]:
        keys = [{"tenant_id": tenant_id, "number_id": number_id} for tenant_id, number_id in numbers]
        fetched = await insist(lambda: self._database.channel_tokens(numbers=keys))
        found = {(one["tenant_id"], one["number_id"]): str(one["token"]) for one in fetched}
        for number, token in found.items():
            self._known.put(number, token)
        return found

    def forget(self, number: Number) -> None:
        """Its token was refused; somebody may mend it sooner than it grows old here."""
        self._known.forget(number)

    async def newer(self, number: Number, refused: str) -> str | None:
        """Another token than the one that was refused, if there is one by now."""
        if self._known.get(number) == refused:
            self.forget(number)
        with suppress(DatabaseUnavailableError):
            found = (await self.of([number])).get(number)
            return None if found == refused else found
        return None
