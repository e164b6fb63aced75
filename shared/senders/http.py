"""The way to a provider: one question over HTTP, and what is known of it when the network fails.

A request is refused for certain when nothing was sent, or when the provider says so in its own words.
Whatever else goes wrong, nobody knows whether the customer got the message. A redirect is not followed: a
token goes to the host it was configured for, and to no other.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from shared import jsontext
from shared.errors import AnswerLostError, UnreachableError, UpstreamError, http_errors
from shared.events import JsonObject
from shared.outward import client
from shared.senders.base import Message, NotConnectedError, Result, UnsendableError
from shared.senders.reactions import DAY, Reaction
from shared.shapes import count, mapping

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
GESTURE_SECONDS = 5.0  # read marks and typing: late they are worth nothing


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request; `path` is relative to the provider's address."""

    path: str
    authorization: str = field(repr=False)
    token: str = field(repr=False)  # what must not be found in the answer
    body: bytes = b""
    method: str = "POST"
    media_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`body` is empty when it was no JSON object."""

    status: int
    body: JsonObject
    retry_after: float | None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Door:
    """One provider's API, in one process. It loads httpx when it is first used."""

    def __init__(
        self, owner: str, url: str, seconds: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._owner = owner
        self._url = url
        self._seconds = seconds
        self._transport = transport

    async def send(self, ask: Callable[[], Ask], read: Callable[[Answer], Result | None]) -> Result:
        """`read` finds the provider's own words in the answer, or None."""
        try:
            answer = await self._answer(ask(), self._seconds)
        except UnsendableError as refusal:
            return Result(outcome=refusal.outcome, error_message=str(refusal))
        except UnreachableError:
            return Result(outcome="retry", error_message=f"{self._owner} could not be reached.")
        except (AnswerLostError, UpstreamError):
            return Result(outcome="unknown", error_message=f"{self._owner}'s answer was lost.")
        return read(answer) or self._senseless(answer)

    async def gesture(self, ask: Callable[[], Ask]) -> bool:
        """Something that is not worth a second try."""
        return await self.look(ask) is not None

    async def look(self, ask: Callable[[], Ask]) -> JsonObject | None:
        """What the provider says; None when it does not, and nobody should wait for it to."""
        try:
            answer = await self._answer(ask(), GESTURE_SECONDS)
        except (UnsendableError, UnreachableError, AnswerLostError, UpstreamError):
            return None
        return answer.body if answer.is_success else None

    async def _answer(self, ask: Ask, seconds: float) -> Answer:
        import httpx

        headers = {"authorization": ask.authorization, "content-type": ask.media_type}
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS)
        try:
            # httpx counts from byte to byte: an answer that trickles in would never end
            async with asyncio.timeout(seconds + 2 * CONNECT_SECONDS):
                with http_errors():
                    response = await self._http.request(
                        ask.method, ask.path, content=ask.body, headers=headers, timeout=timeout
                    )
        except TimeoutError as exc:
            raise AnswerLostError from exc
        return Answer(
            status=response.status_code,
            body=_object(response.content.replace(ask.token.encode(), b"[token]")),
            retry_after=_seconds(response.headers.get("retry-after")),
        )

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        import httpx

        return client(
            self._url,
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=50),
            transport=self._transport,
        )

    def _senseless(self, answer: Answer) -> Result:
        """Somebody in between refused it, or the provider made no sense."""
        said = f"{self._owner} answered {answer.status}"
        if answer.is_success or answer.status >= 500:
            return Result(outcome="unknown", error_message=f"{said} with no sense.")
        return Result(
            outcome="slow_number" if answer.status == 429 else "retry",
            error_message=f"{said}.",
            retry_after_seconds=answer.retry_after,
        )


def refused(message: Message, answer: Answer, code: int | None, words: str, reaction: Reaction) -> Result:
    """The provider said no, in its own words."""
    is_last = reaction.tries is not None and message.attempts >= reaction.tries
    return Result(
        outcome="invalid" if is_last else reaction.outcome,
        error_code=code,
        error_message=words[:500],
        retry_after_seconds=answer.retry_after or reaction.pause,
    )


def as_json(body: JsonObject) -> bytes:
    return json.dumps(body).encode()


def secret(token: str) -> str:
    """A token that can stand in a header."""
    if not (token.isascii() and token.isprintable()) or " " in token or not token:
        raise NotConnectedError("The number's access token is damaged: connect the number again.")
    return token


def segment(part: str | None, what: str) -> str:
    """What the database gave, as one step of a path."""
    if not part:
        raise NotConnectedError(f"The number has no {what}: connect it again.")
    from urllib.parse import quote

    return quote(part, safe="")


def _object(content: bytes) -> JsonObject:
    """What Postgres cannot store is cleaned away: parts of it end up in messages."""
    try:
        return mapping(jsontext.decode(content))
    except ValueError:
        return {}


def _seconds(retry_after: str | None) -> float | None:
    """Until when to wait, told in seconds or as a date; nobody is made to wait longer than a day."""
    if retry_after is None:
        return None
    told = count(retry_after, 9)
    seconds = _until(retry_after) if told is None else float(told)
    return None if seconds is None else max(0.0, min(seconds, DAY))


def _until(date: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return None
