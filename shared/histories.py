"""Providers' own lists of messages: what they would have told us, had we been there to hear it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

from shared import jsontext, shapes, twilio, whapi
from shared.channel_keys import Keys
from shared.errors import UnavailableError, UpstreamError, http_errors
from shared.events import JsonObject, Payload
from shared.outward import client

if TYPE_CHECKING:
    import httpx

SECONDS = 20.0  # for an answer
_CONNECT_SECONDS = 5.0
_PAGE = 500  # messages of a page; Whapi gives no more
_TICK = timedelta(seconds=1)  # their times are whole seconds: the last one is read to its end


@dataclass(frozen=True)
class Number:
    """Whose list is read, and what opens it."""

    keys: Keys
    phone: str
    token: str = field(repr=False)


class History(Protocol):
    """RecadoError: it cannot be read. UnavailableError: not now."""

    def pages(self, number: Number, since: datetime, until: datetime) -> AsyncIterator[list[Payload]]:
        """Everything of that time, in as many pages as there are."""


class WhapiHistory:
    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._door = _Door("Whapi", url, transport)

    async def pages(self, number: Number, since: datetime, until: datetime) -> AsyncIterator[list[Payload]]:
        offset, headers = 0, {"authorization": f"Bearer {number.token}"}
        while True:
            span = {"time_from": int(since.timestamp()), "time_to": int((until + _TICK).timestamp())}
            body = await self._door.get("messages/list", {"count": _PAGE, "offset": offset, **span}, headers)
            found = shapes.listing(_object(body, "Whapi").get("messages"))
            if found:
                yield list(whapi.parse(body, received_at=datetime.now(UTC), keys=number.keys))
            offset += len(found)
            if len(found) < _PAGE:
                return


class TwilioHistory:
    """Twice: what came to the number, and what became of what it sent."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._door = _Door("Twilio", url, transport)

    async def pages(self, number: Number, since: datetime, until: datetime) -> AsyncIterator[list[Payload]]:
        span = {"DateSent>": _iso(since), "DateSent<": _iso(until + _TICK), "PageSize": str(_PAGE)}
        for side in ("To", "From"):
            query: Mapping[str, str] | None = {side: f"whatsapp:+{number.phone}", **span}
            while query is not None:
                page = _object(await self._get(number, "Messages.json", query), "Twilio")
                records = [one for one in shapes.listing(page.get("messages")) if isinstance(one, dict)]
                files = {sid: await self._files(number, sid) for sid in _with_files(records)}
                yield list(twilio.parse_list(records, files, now=datetime.now(UTC), keys=number.keys))
                query = _next(page)

    async def _files(self, number: Number, sid: str) -> list[JsonObject]:
        page = _object(await self._get(number, f"Messages/{quote(sid, safe='')}/Media.json", {}), "Twilio")
        return [one for one in shapes.listing(page.get("media_list")) if isinstance(one, dict)]

    async def _get(self, number: Number, path: str, query: Mapping[str, str]) -> bytes:
        account = quote(number.keys.account or "", safe="")
        place = f"2010-04-01/Accounts/{account}/{path}"
        return await self._door.get(place, query, auth=(number.keys.account or "", number.token))


def _with_files(records: list[JsonObject]) -> list[str]:
    """The ids of those received that came with files."""
    with_files = [
        one for one in records if one.get("direction") == "inbound" and shapes.count(one.get("num_media"))
    ]
    return [sid for one in with_files if (sid := shapes.identifier(one.get("sid")))]


def _next(page: JsonObject) -> Mapping[str, str] | None:
    """Only the query of the link: our token goes where we send it, and nowhere else."""
    uri = shapes.text(page.get("next_page_uri"))
    return dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True)) if uri else None


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _object(body: bytes, owner: str) -> JsonObject:
    try:
        found = jsontext.decode(body)
    except ValueError as exc:
        raise UpstreamError(f"{owner} answered with no sense.") from exc
    return shapes.mapping(found)


class _Door:
    """One provider's API. A redirect is not followed."""

    def __init__(self, owner: str, url: str, transport: httpx.AsyncBaseTransport | None) -> None:
        self._owner, self._url, self._transport = owner, url, transport

    async def get(
        self,
        path: str,
        query: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> bytes:
        try:
            with http_errors():
                response = await self._http.get(path, params=dict(query), headers=headers, auth=auth)
                if response.status_code == 429 or response.status_code >= 500:
                    response.raise_for_status()
        except UnavailableError as exc:
            raise UnavailableError(f"{self._owner} does not answer.", retry_after=exc.retry_after) from exc
        if not response.is_success:
            raise UpstreamError(f"{self._owner} answered {response.status_code} to a list of messages.")
        return response.content

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        import httpx

        return client(
            self._url,
            timeout=httpx.Timeout(SECONDS, connect=_CONNECT_SECONDS),
            transport=self._transport,
            trust_env=False,
        )
