"""Connections to the services behind the gateway: opened when needed, kept for the next request."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from local.events import log

Headers = list[tuple[bytes, bytes]]

_CONNECT_SECONDS = 5
# Shorter than any service's own keep-alive (uvicorn 5 s, warp 30 s): we close first, so that a request hardly
# ever meets a connection which its server is just closing.
_IDLE_SECONDS = 1.5


class Taker(Protocol):
    """Who gets the response."""

    @property
    def bodiless(self) -> bool:
        """The response has no body whatever its headers say (HEAD)."""

    @property
    def request_done(self) -> bool: ...

    def informed(self, status: int) -> None: ...

    def response_head(self, status: int, reason: bytes, headers: Headers) -> None: ...

    def response_body(self, data: bytes) -> None: ...

    def response_end(self) -> None: ...

    def upstream_lost(self, reused: bool) -> None: ...

    def upstream_flow(self) -> None:
        """The connection can take more, or no more, of the request."""


class Upstream:
    """One service, and its connections that wait for work."""

    def __init__(self, name: str, url: str) -> None:
        address = urlsplit(url)
        self.name = name
        self.host = address.hostname or "127.0.0.1"
        self.port = address.port or 80
        self._idle: list[Connection] = []
        self._away = False

    def take(self) -> Connection | None:
        """The connection used last, so that the others may grow old and be closed."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> Connection:
        """A new connection. Raises OSError when the service is away."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
        except OSError as exc:
            self._noticed(away=True, reason=str(exc))
            raise
        self._noticed(away=False)
        return connection

    def keep(self, connection: Connection) -> None:
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close_idle(self, now: float) -> None:
        while self._idle and self._idle[0].idle_since < now - _IDLE_SECONDS:
            self._idle.pop(0).transport.close()

    def _noticed(self, *, away: bool, reason: str = "") -> None:
        if away != self._away:
            self._away = away
            log("upstream away" if away else "upstream back", upstream=self.name, reason=reason)


class Connection(asyncio.Protocol):
    """One connection to a service: writes a request, parses its response for whoever sent it."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.full = False
        self.idle_since = 0.0
        self._upstream = upstream
        self._taker: Taker | None = None
        self._reused = False
        self._parser = httptools.HttpResponseParser(self)
        self.on_message_begin()

    def serve(self, taker: Taker) -> None:
        self._taker = taker

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def drop(self) -> None:
        """Nobody wants the response any more."""
        self._taker = None
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._taker is None:
            return self.transport.abort()  # nobody asked
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            log("upstream spoke no HTTP", severity="ERROR", upstream=self._upstream.name, reason=str(exc))
            return self.transport.abort()
        if self._ended and self._taker:
            self._finish(self._taker)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.forget(self)
        if self._taker is None:
            return
        if self._until_close and exc is None:
            self._finish(self._taker)
        else:
            self._taker.upstream_lost(self._reused)

    def pause_writing(self) -> None:
        self._set_full(True)

    def resume_writing(self) -> None:
        self._set_full(False)

    def _set_full(self, full: bool) -> None:
        self.full = full
        if self._taker:
            self._taker.upstream_flow()

    # httptools

    def on_message_begin(self) -> None:
        self._reason = b""
        self._headers: Headers = []
        self._ended = self._until_close = self._reusable = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._taker is None:
            return None
        status = self._parser.get_status_code()
        if status < 200:
            return self._taker.informed(status)
        self._judge(status)
        if self._taker.bodiless:
            self._ended = True
        return self._taker.response_head(status, self._reason, self._headers)

    def on_body(self, data: bytes) -> None:
        if self._taker:
            self._taker.response_body(data)

    def on_message_complete(self) -> None:
        self._ended = self._parser.get_status_code() >= 200

    def _judge(self, status: int) -> None:
        """How the response ends, and whether the connection lives on."""
        fields = dict(self._headers)
        framed = b"content-length" in fields or b"transfer-encoding" in fields or status in (204, 304)
        self._until_close = not framed and not (self._taker and self._taker.bodiless)
        stays = (
            self._parser.get_http_version() == "1.1"
            and b"close" not in fields.get(b"connection", b"").lower()
        )
        self._reusable = stays and not self._until_close

    def _finish(self, taker: Taker) -> None:
        self._taker = None
        if self._reusable and taker.request_done and not self.transport.is_closing():
            self._rest(fresh_parser=taker.bodiless)
        else:
            self.transport.close()
        taker.response_end()

    def _rest(self, *, fresh_parser: bool) -> None:
        if fresh_parser:  # the old one still waits for the body that a HEAD response announces
            self._parser = httptools.HttpResponseParser(self)
        self._reused = True
        self.idle_since = asyncio.get_running_loop().time()
        self.transport.resume_reading()
        self._upstream.keep(self)
