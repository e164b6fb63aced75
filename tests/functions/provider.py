"""A provider that answers what a test wants, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import httpx

from shared.senders.base import Credentials, Message, Result, Sender

T = TypeVar("T")
Make = Callable[[httpx.MockTransport], Sender]

TOKEN = Credentials("the-token")


class Provider(httpx.MockTransport):
    """Answers the same every time, or raises."""

    def __init__(self, status: int = 200, body: Any = b"", trouble: Exception | None = None, **headers: str):
        super().__init__(self._respond)
        self._content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._status = status
        self._trouble = trouble
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.asked: list[httpx.Request] = []

    def _respond(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self._trouble:
            raise self._trouble
        return httpx.Response(self._status, content=self._content, headers=self._headers)

    @property
    def only(self) -> httpx.Request:
        (request,) = self.asked
        return request


def within(doing: Awaitable[T]) -> T:
    async def run() -> T:
        return await doing

    return asyncio.run(run())


def sending(sender: Sender, message: Message, credentials: Credentials = TOKEN) -> Result:
    return within(sender.send(message, credentials))


NEVER_LEFT: Sequence[type[httpx.HTTPError]] = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
MAY_HAVE_ARRIVED: Sequence[type[httpx.HTTPError]] = (
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
    httpx.DecodingError,
)
