"""What the gateway reads and writes: a request's head, what to do with it, and HTTP/1.1 as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from local.upstream import Headers, Upstream

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head; header names are in lower case."""

    method: bytes
    target: bytes
    headers: Headers
    fields: dict[bytes, bytes]
    peer: str

    @property
    def chunked(self) -> bool:
        return b"transfer-encoding" in self.fields

    @property
    def has_body(self) -> bool:
        return self.chunked or self.fields.get(b"content-length", b"0") != b"0"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response the gateway gives itself."""

    status: int
    body: bytes = b""
    headers: bytes = b""  # whole lines


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request to a service."""

    upstream: Upstream
    target: bytes
    headers: Headers
    added: bytes = b""  # header lines every response gets
    dropped: frozenset[bytes] = frozenset()  # the service's own headers that do not pass
    # What an error's body really means: an answer instead of it, or None to let it pass. Small bodies only.
    judge: Callable[[int, bytes], Answer | None] | None = None


Decision = Answer | Forward | Coroutine[Any, Any, Answer]
Route = Callable[[Request], Decision]


def problem(status: int, code: str, message: str, hint: str, headers: bytes = b"") -> Answer:
    body = {"code": code, "message": message, "hint": hint, "details": None}
    return Answer(status, json.dumps(body).encode(), b"content-type: application/json\r\n" + headers)


def unavailable(service: str, added: bytes = b"") -> Answer:
    message, hint = (
        f"{service} is not available at the moment",
        "It is being restarted: try again in a second.",
    )
    return problem(503, "unavailable", message, hint, b"retry-after: 1\r\n" + added)


def request_head(request: Request, forward: Forward) -> bytes:
    named = {name.strip() for name in request.fields.get(b"connection", b"").lower().split(b",")}
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method, forward.target)]
    lines += [
        b"%b: %b\r\n" % field
        for field in forward.headers
        if field[0] not in _HOP_BY_HOP and field[0] not in named
    ]
    lines.append(b"transfer-encoding: chunked\r\n\r\n" if request.chunked else b"\r\n")
    return b"".join(lines)


def response_head(status: int, reason: bytes, headers: Headers, forward: Forward, own: bytes) -> bytes:
    """A service's head, with its end-to-end fields and our `own` lines on how the body ends."""
    dropped = forward.dropped
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    lines += [
        b"%b: %b\r\n" % field for field in headers if field[0] not in _HOP_BY_HOP and field[0] not in dropped
    ]
    lines += [forward.added, own, b"\r\n"]
    return b"".join(lines)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def render(answer: Answer, *, keep_alive: bool, with_body: bool) -> bytes:
    status = HTTPStatus(answer.status)
    return b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n%b\r\n%b" % (
        status,
        status.phrase.encode(),
        answer.headers,
        len(answer.body),
        b"" if keep_alive else b"connection: close\r\n",
        answer.body if with_body else b"",
    )
