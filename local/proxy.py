"""A streaming reverse proxy for HTTP/1.1: who may go where is decided by a `Route`, nothing is stored here.

A `Client` parses the requests of one connection; each becomes an `Exchange`, run one after the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import cast

import httptools

from local.events import log
from local.exchange import Exchange
from local.messages import Request, Route, problem, render
from local.upstream import Headers, Upstream

MAX_HEAD = 64 * 1024
_HEAD_SECONDS = 30  # for a client to send a request's head
_IDLE_SECONDS = 75  # for a client to send its next request
_SILENCE_SECONDS = 150  # without a byte in either direction, as the hosted gateway has it


class Server:
    """Accepts connections until it is closed."""

    def __init__(self, route: Route, upstreams: list[Upstream]) -> None:
        self.route = route
        self.clients: set[Client] = set()
        self.closing = False
        self._upstreams = upstreams
        self._change = asyncio.Event()

    def left(self, client: Client) -> None:
        self.clients.discard(client)
        self._change.set()

    async def run(self, port: int, stop: asyncio.Event, grace: float = 2) -> None:
        """Serve on loopback until told to stop; requests being answered then get `grace` seconds."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Client(self), "127.0.0.1", port, backlog=1024)
        sweeper = loop.create_task(self._sweep())
        await stop.wait()
        listener.close()
        sweeper.cancel()
        await self._close(grace)

    async def _sweep(self) -> None:
        """One timer for everything that waits, instead of one each."""
        while True:
            await asyncio.sleep(0.5)
            now = asyncio.get_running_loop().time()
            for client in [c for c in self.clients if c.deadline < now]:
                client.expire()
            for upstream in self._upstreams:
                upstream.close_idle(now)

    async def _close(self, grace: float) -> None:
        self.closing = True
        for client in list(self.clients):
            client.close_if_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._emptied()
        for client in list(self.clients):
            client.transport.abort()

    async def _emptied(self) -> None:
        while self.clients:
            self._change.clear()
            await self._change.wait()


class Client(asyncio.Protocol):
    """One client's connection."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.deadline = 0.0
        self.full = False
        self._exchanges: deque[Exchange] = deque()  # the first one runs, pipelined ones wait
        self._parser = httptools.HttpRequestParser(self)
        self._head_open = False
        self._held_back = False

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def extend(self, seconds: float = _SILENCE_SECONDS) -> None:
        self.deadline = self.loop.time() + seconds

    def expire(self) -> None:
        if self._exchanges:
            self._exchanges[0].expire()
        else:
            self.transport.abort()

    def close_if_idle(self) -> None:
        if not self._exchanges:
            self.transport.close()

    def flow(self) -> None:
        """Read no more than can be passed on now."""
        hold = len(self._exchanges) > 1 or bool(self._exchanges and self._exchanges[0].stuck)
        if hold != self._held_back and not self.transport.is_closing():
            self._held_back = hold
            (self.transport.pause_reading if hold else self.transport.resume_reading)()

    def finished(self, exchange: Exchange) -> None:
        """The first exchange is over: close, or go on with the next."""
        self._exchanges.popleft()
        self.extend(_IDLE_SECONDS)
        if not exchange.keep_alive or self.server.closing:
            self._exchanges.clear()
            self.transport.close()
        elif self._exchanges:
            self.loop.call_soon(self._exchanges[0].start)
        self.flow()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = str(transport.get_extra_info("peername")[0])
        self.server.clients.add(self)
        self.extend(_HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.left(self)
        for exchange in self._exchanges:
            exchange.abandon()
        self._exchanges.clear()

    def data_received(self, data: bytes) -> None:
        if self._head_open:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
            if self._head_open and self._head_size > MAX_HEAD:
                self._refuse_head()
        except httptools.HttpParserUpgrade:
            self._last()  # only HTTP/1.1 is spoken: the request was taken as a plain one
        except httptools.HttpParserCallbackError as exc:
            log("failed", severity="ERROR", reason=repr(exc.__context__))
            self._refuse(500, "internal", "The gateway failed", "Its log says why.")
        except httptools.HttpParserError as exc:
            self._refuse(400, "bad_request", f"This is not an HTTP request: {exc}", "Check the client.")

    def pause_writing(self) -> None:
        self.full = True
        self._tell_exchange()

    def resume_writing(self) -> None:
        self.full = False
        self._tell_exchange()

    def _tell_exchange(self) -> None:
        if self._exchanges:
            self._exchanges[0].client_flow()

    def _last(self) -> None:
        for exchange in self._exchanges:
            exchange.keep_alive = False
        self.close_if_idle()

    def _refuse_head(self) -> None:
        self._refuse(431, "head_too_large", f"The request's head is over {MAX_HEAD} bytes", "Send less.")

    def _refuse(self, status: int, code: str, message: str, hint: str) -> None:
        """Not a request that can be passed on. Behind others it goes unanswered: answers keep their order."""
        if not self._exchanges:
            self.write(render(problem(status, code, message, hint), keep_alive=False, with_body=True))
        self.transport.close()

    # httptools

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._head_open, self._head_size = True, 0
        if not self._exchanges:
            self.extend(_HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_open:  # else a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_open = False
        headers = self._headers
        if self.transport.is_closing():
            return None
        if len(self._target) + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD:
            return self._refuse_head()
        request = Request(self._parser.get_method(), self._target, headers, dict(headers), self.peer)
        modern = self._parser.get_http_version() == "1.1"
        exchange = Exchange(self, request, modern, modern and self._parser.should_keep_alive())
        self._exchanges.append(exchange)
        if self._exchanges[0] is exchange:
            exchange.start()
        return None

    def on_body(self, data: bytes) -> None:
        if self._exchanges:
            self._exchanges[-1].request_body(data)

    def on_message_complete(self) -> None:
        if self._exchanges:
            self._exchanges[-1].request_end()
