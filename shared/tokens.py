"""Access tokens of numbers, for whoever is about to call a provider."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from shared.drain import insist
from shared.errors import DatabaseUnavailableError
from shared.events import JsonObject

TOKEN_SECONDS = 300  # a token is believed this long

_NEVER = ("", 0.0)

Number = tuple[str, str]  # tenant and number


class Database(Protocol):
    async def channel_tokens(self, *, numbers: Sequence[JsonObject]) -> list[JsonObject]: ...


class Tokens:
    """In memory only and not for long: one may be replaced any day."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Number, tuple[str, float]] = {}

    async def of(self, numbers: Iterable[Number]) -> Mapping[Number, str]:
        """A number without one is left out."""
        wanted, oldest = set(numbers), time.monotonic() - TOKEN_SECONDS
        missing = [number for number in sorted(wanted) if self._known.get(number, _NEVER)[1] < oldest]
        if missing:
            await self._fetch(missing)
        return {number: self._known[number][0] for number in wanted if number in self._known}

    async def _fetch(self, numbers: Sequence[Number]) -> None:
        for number in numbers:
            self._known.pop(number, None)
        keys = [{"tenant_id": tenant_id, "number_id": number_id} for tenant_id, number_id in numbers]
        for found in await insist(lambda: self._database.channel_tokens(numbers=keys)):
            self._known[found["tenant_id"], found["number_id"]] = (found["token"], time.monotonic())

    def forget(self, number: Number) -> None:
        """Its token was refused; somebody may mend it sooner than it grows old here."""
        self._known.pop(number, None)

    async def newer(self, number: Number, refused: str) -> str | None:
        """Another token than the one that was refused, if there is one by now."""
        if self._known.get(number, _NEVER)[0] == refused:
            self.forget(number)
        with suppress(DatabaseUnavailableError):
            found = (await self.of([number])).get(number)
            return None if found == refused else found
        return None
