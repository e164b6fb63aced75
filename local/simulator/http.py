"""Requests and responses of this package, including those a well-behaved server never gives."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT = "recado.abort"


class BadInputError(Exception):
    """What the caller sent cannot be understood; the message names the field and what is allowed."""


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()  # ASCII: lone surrogates must pass


async def json_body(request: Request) -> dict[str, Any]:
    raw = await request.body()
    try:
        data = json.loads(raw)
    except ValueError as exc:
        raise BadInputError(f"The body is not JSON: {exc}.") from exc
    if not isinstance(data, dict):
        raise BadInputError(f"The body must be a JSON object, not {_kind(data)}.")
    return data


class Fields:
    """A JSON object read field by field; `end()` refuses what nobody asked for."""

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._data = data
        self._path = path
        self._asked: list[str] = []

    def raw(self, name: str) -> Any:
        self._asked.append(name)
        return self._data.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        value = self._typed(name, str, "a text", default)
        if value == "" and default is None:
            raise BadInputError(f"`{self._path}{name}` must not be empty.")
        return str(value)

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if self.raw(name) is not None else None

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._typed(name, bool, "true or false", default))

    def number(self, name: str, default: float | None = None, *, minimum: float = 0) -> float:
        value = self._typed(name, (int, float), "a number", default)
        if isinstance(value, bool) or not value >= minimum:
            raise BadInputError(f"`{self._path}{name}` must be a number of at least {minimum:g}.")
        return float(value)

    def object(self, name: str) -> dict[str, Any]:
        return dict(self._typed(name, dict, "an object", {}))

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise BadInputError(f"`{self._path}{name}` is {value!r}; allowed: {', '.join(allowed)}.")
        return value

    def end(self) -> None:
        unknown = sorted(set(self._data) - set(self._asked))
        if unknown:
            allowed = ", ".join(dict.fromkeys(self._asked))
            named = ", ".join(self._path + name for name in unknown)
            raise BadInputError(f"Unknown field {named}; allowed: {allowed}.")

    def _typed(self, name: str, kind: type | tuple[type, ...], words: str, default: Any) -> Any:
        value = self.raw(name)
        if value is None:
            if default is None:
                raise BadInputError(f"`{self._path}{name}` is missing: it must be {words}.")
            return default
        if not isinstance(value, kind):
            raise BadInputError(f"`{self._path}{name}` must be {words}, not {_kind(value)}.")
        return value


class Hang:
    """Says nothing until the caller gives up, or for `seconds`; then the connection is cut."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            await Reset()(scope, receive, send)


class Reset:
    """Cuts the connection without an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][ABORT]()


class Truncated:
    """Announces the whole answer, sends half of it, and closes the connection."""

    def __init__(self, whole: bytes) -> None:
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self._whole)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        half = self._whole[: len(self._whole) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        scope["extensions"][ABORT](after_flush=True)


Answer = Response | Hang | Reset | Truncated


class AbortableProtocol(HttpToolsProtocol):
    """uvicorn's own, with a way for the application to cut the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self._abort}  # type: ignore[dict-item]

    def _abort(self, *, after_flush: bool = False) -> None:
        # a connection that is gone makes uvicorn drop the rest of the answer, instead of writing a 500 for us
        self.cycle.disconnected = True
        if after_flush:
            self.transport.close()
        else:
            _reset_on_close(self.transport)
            self.transport.abort()


def _reset_on_close(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
