"""The way of a delivery into the inbox: who may post, what it says, and what the provider is answered.

What nobody signed is counted for each address it comes from. Beyond what is allowed it gets 429 instead of
401 or 404; what is signed is taken from there all the same, since clouds share their addresses.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from shared.channel_keys import KeyRing, Keys
from shared.errors import NotFoundError, RecadoError, TooManyRequestsError, UnauthorizedError
from shared.events import Payload
from shared.inbox import Inbox, Parcel
from shared.providers import PROVIDERS, Adapter
from shared.runtime import Request, Response
from shared.throttle import Throttle

SMALL = 64 * 1024  # bytes; what is larger is read beside the event loop
STRETCH = 16 * 1024  # bytes of a large delivery that are read in one go
BREATH = 0.002  # seconds that it leaves to others after each
SWITCH = (
    0.0005  # seconds after which its thread gives way to the event loop; Python's own are ten times as many
)


@dataclass(frozen=True)
class Intake:
    """`app` are the keys of Meta's app, `public_url` what the world calls this function."""

    app: Keys
    ring: KeyRing
    inbox: Inbox
    throttle: Throttle
    public_url: str

    def __post_init__(self) -> None:
        sys.setswitchinterval(SWITCH)

    async def admit(self, request: Request) -> None:
        """Refuse by what the head says: nobody's address, nobody's signature."""
        name, adapter = _provider(request)
        try:
            if adapter.SIGNATURE not in request.headers:
                raise UnauthorizedError(hint=f"There is no {adapter.SIGNATURE} header.")
            await self._keys(request, name)
        except (NotFoundError, UnauthorizedError) as exc:
            raise self._count(request, exc) from exc

    async def receive(self, request: Request) -> Response:
        """Store what a provider signed. What cannot be applied is kept too: it need not come again."""
        name, adapter = _provider(request)
        try:
            keys = await self._verify(request, name, adapter)
        except (NotFoundError, UnauthorizedError) as exc:
            raise self._count(request, exc) from exc
        found = adapter.parse(request.body, received_at=datetime.now(UTC), keys=keys, query=request.query)
        is_small = len(request.body) <= SMALL
        parcels = list(map(Parcel, found)) if is_small else await asyncio.to_thread(_unhurried, found)
        receipts = await self.inbox.receive(parcels)
        if adapter.ANSWER:
            body, content_type = adapter.ANSWER
            return Response(200, body, {"content-type": content_type})
        return Response.json(200, {"stored": sum(one.stored for one in receipts), "payloads": len(receipts)})

    async def _verify(self, request: Request, name: str, adapter: Adapter) -> Keys:
        """A secret may have changed since we asked for it."""
        keys = await self._keys(request, name)
        try:
            adapter.verify(request, keys)
        except UnauthorizedError:
            if not keys.number_id or not self.ring.forget(keys.number_id):
                raise
            keys = await self._keys(request, name)
            adapter.verify(request, keys)
        return keys

    async def _keys(self, request: Request, name: str) -> Keys:
        number_id = request.params.get("number_id")
        if number_id is None:
            return self.app
        keys = await self.ring.get(number_id, name)
        return replace(keys, address=self.public_url + request.path)

    def _count(self, request: Request, refusal: RecadoError) -> RecadoError:
        source = f"{request.client} {_provider(request)[0]}"
        is_exhausted = self.throttle.is_exhausted(source)
        self.throttle.count(source)
        return TooManyRequestsError() if is_exhausted else refusal


def _provider(request: Request) -> tuple[str, Adapter]:
    name = request.path.split("/")[1]
    return name, PROVIDERS[name]


def _unhurried(payloads: Iterable[Payload]) -> list[Parcel]:
    """Large deliveries can wait: now and then the requests that others made get their turn."""
    parcels = []
    read = 0
    for payload in payloads:
        parcels.append(Parcel(payload))
        read += len(parcels[-1].data)
        if read >= STRETCH:
            time.sleep(BREATH)
            read = 0
    return parcels
