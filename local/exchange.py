"""One request on its way to a service, and its response on the way back; the slower side sets the pace."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from local.messages import (
    LAST_CHUNK,
    Answer,
    Forward,
    Request,
    chunk,
    problem,
    render,
    request_head,
    response_head,
    unavailable,
)
from local.upstream import Connection, Headers

if TYPE_CHECKING:
    from local.proxy import Client

_MAX_HELD = 64 * 1024  # of an error's body, while it is decided what the error means
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Exchange:
    """One request and its response."""

    def __init__(self, client: Client, request: Request, modern: bool, keep_alive: bool) -> None:
        self.client = client
        self.request = request
        self.keep_alive = keep_alive
        self.request_done = False
        self.bodiless = request.method == b"HEAD"
        self._modern = modern
        self._forward: Forward | None = None
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []  # of the body, until there is a connection
        self._retried = self._begun = self._done = self._chunked = False
        self._held: _Held | None = None
        self._asks_first = b"expect" in request.fields

    @property
    def stuck(self) -> bool:
        """Nothing can be done with more of the request's body now."""
        if self._done or not self._forward:
            return False
        return self._connection is None or self._connection.full

    def start(self) -> None:
        if self._done:
            return
        self.client.extend()
        decision = self.client.server.route(self.request)
        if isinstance(decision, Answer):
            self._answer(decision)
        elif isinstance(decision, Forward):
            self._forward = decision
            self._send(decision)
        else:
            self._task = self.client.loop.create_task(self._answer_later(decision))

    def request_body(self, data: bytes) -> None:
        self._push(chunk(data) if self.request.chunked else data)
        self.client.extend()

    def request_end(self) -> None:
        if self.request.chunked:
            self._push(LAST_CHUNK)
        self.request_done = True
        self._settle()

    def client_flow(self) -> None:
        if self._connection:
            transport = self._connection.transport
            (transport.pause_reading if self.client.full else transport.resume_reading)()

    def expire(self) -> None:
        if self._begun or self._done or not self.request_done:
            self.client.transport.abort()
        else:
            self._answer(
                problem(504, "timeout", "The service did not answer in time", "Try again, or ask for less.")
            )

    def abandon(self) -> None:
        """The client is gone."""
        self._done = True
        if self._task:
            self._task.cancel()
        self._drop_connection()

    # towards the service

    def _send(self, forward: Forward) -> None:
        connection = None if self._retried else forward.upstream.take()
        if connection:
            self._use(connection, forward)
        else:
            self._task = self.client.loop.create_task(self._send_anew(forward))
            self.client.flow()

    async def _send_anew(self, forward: Forward) -> None:
        try:
            connection = await forward.upstream.connect()
        except OSError:
            self._answer(unavailable(forward.upstream.name, forward.added))
        else:
            self._use(connection, forward)
            self.client.flow()

    def _use(self, connection: Connection, forward: Forward) -> None:
        self._connection = connection
        connection.serve(self)
        connection.write(request_head(self.request, forward))
        for piece in self._unsent:
            connection.write(piece)
        self._unsent.clear()
        if self.client.full:
            connection.transport.pause_reading()

    def _push(self, data: bytes) -> None:
        if self._connection:
            self._connection.write(data)
        elif not self._done:
            self._unsent.append(data)

    def _drop_connection(self) -> None:
        if self._connection:
            self._connection.drop()
            self._connection = None

    # upstream.Taker

    def informed(self, status: int) -> None:
        self._asks_first = False
        if self._modern:
            self.client.write(b"HTTP/1.1 %d %b\r\n\r\n" % (status, HTTPStatus(status).phrase.encode()))

    def response_head(self, status: int, reason: bytes, headers: Headers) -> None:
        if not self._forward:
            return
        self.client.extend()
        head = self._head(self._forward, status, reason, headers)
        if status >= 400 and self._forward.judge and not self.bodiless:
            self._held = _Held(status, head)
        else:
            self._begin(head)

    def response_body(self, data: bytes) -> None:
        self.client.extend()
        if self._held:
            self._held.body += data
            if len(self._held.body) > _MAX_HELD:
                self._release()
        else:
            self._write_body(data)

    def response_end(self) -> None:
        self._connection = None
        if self._held and (instead := self._judged(self._held)):
            return self._answer(instead)
        self._release()
        if self._chunked:
            self.client.write(LAST_CHUNK)
        return self._finish()

    def upstream_lost(self, reused: bool) -> None:
        self._connection = None
        if self._begun or not self._forward:
            self.client.transport.abort()  # a response cut short must not look whole
        elif (
            reused and not self._retried and self.request.method in _REPEATABLE and not self.request.has_body
        ):
            self._retried = True
            self._send(self._forward)
        else:
            self._answer(unavailable(self._forward.upstream.name, self._forward.added))

    def upstream_flow(self) -> None:
        self.client.flow()

    # towards the client

    def _head(self, forward: Forward, status: int, reason: bytes, headers: Headers) -> bytes:
        bodiless = self.bodiless or status in (204, 304)
        sized = bodiless or any(name == b"content-length" for name, _ in headers)
        self._chunked = self._modern and not sized
        self.keep_alive = self.keep_alive and (self._modern or sized)
        own = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        own += b"" if self.keep_alive else b"connection: close\r\n"
        return response_head(status, reason, headers, forward, own)

    def _begin(self, head: bytes) -> None:
        self._begun = True
        self.client.write(head)

    def _write_body(self, data: bytes) -> None:
        self.client.write(chunk(data) if self._chunked else data)

    def _judged(self, held: _Held) -> Answer | None:
        judge = self._forward.judge if self._forward else None
        return judge(held.status, held.body) if judge else None

    def _release(self) -> None:
        """Send what was held: it is what it says."""
        held, self._held = self._held, None
        if held:
            self._begin(held.head)
            if held.body:
                self._write_body(held.body)

    async def _answer_later(self, decision: Coroutine[Any, Any, Answer]) -> None:
        self._answer(await decision)

    def _answer(self, answer: Answer) -> None:
        if self._done:
            return
        self._drop_connection()
        self._unsent.clear()
        self.keep_alive = self.keep_alive and not self._never_comes
        self.client.write(render(answer, keep_alive=self.keep_alive, with_body=not self.bodiless))
        self._finish()

    @property
    def _never_comes(self) -> bool:
        """The client waits for `100 Continue` before it sends the body, and gets its answer instead."""
        return self._asks_first and not self.request_done

    def _finish(self) -> None:
        self._done = True
        if self._never_comes:
            self.keep_alive, self.request_done = False, True
        self._settle()

    def _settle(self) -> None:
        """Over when both are through; until then the rest of the request's body is read and dropped."""
        if self._done and self.request_done:
            self.client.finished(self)
        else:
            self.client.flow()


@dataclass(slots=True)
class _Held:
    """An error response, until it is known what it means."""

    status: int
    head: bytes
    body: bytes = b""
