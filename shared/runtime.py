"""The one wrapper of every function: routes, errors, logs, signatures and health. main.py has none of it.

async def greet(request: Request, deps: Deps) -> Response: ...

main = serve({("GET", "/"): greet, ("POST", "/run"): Route(run, internal=True), ("GET", "/{lead_id}"): look})

A parameter of a path is one of our ids: anything else in its place is an unknown path.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import functions_framework.aio
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from shared import logs, signature
from shared.errors import (
    BadRequestError,
    BodyTooLargeError,
    InternalError,
    MethodNotAllowedError,
    MissingSettingError,
    NotFoundError,
    RecadoError,
)
from shared.health import Dependency, Health
from shared.settings import Setting, Settings

MAX_BODY = 1_000_000
_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
RELEASE = Path(__file__).parent.parent / "release.json"  # written by `recado build`

_CORS: Mapping[str, str] = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, POST, OPTIONS",
    "access-control-allow-headers": "authorization, apikey, content-type, x-client-info, x-request-id",
    "access-control-expose-headers": "retry-after, x-request-id",
    "access-control-max-age": "3600",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """Header names are in lower case. `client` is the address it came from, as far as that is known."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    query_string: str = ""
    client: str = ""

    def json(self) -> Any:
        if not self.body:
            raise BadRequestError("The body is empty.", hint="Send a JSON document.")
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as exc:
            raise BadRequestError("The body is not JSON.", hint="Send one JSON document in UTF-8.") from exc


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/plain; charset=utf-8"})

    @staticmethod
    def json(status: int, data: Any, headers: Mapping[str, str] | None = None) -> Response:
        return Response(status, json.dumps(data), {"content-type": "application/json", **(headers or {})})


@dataclass(frozen=True)
class Deps:
    """What a handler may use. A client is a `cached_property` that imports its library: made at first use.

    The module is imported before the server forks, so nothing may be opened when Deps is built.
    """

    settings: Settings = field(default_factory=Settings)


D = TypeVar("D", bound=Deps)
Handler = Callable[[Request, D], Awaitable[Response]]


Gate = Callable[[Request, D], Awaitable[None]]


@dataclass(frozen=True)
class Route(Generic[D]):
    """`internal`: answers only what our own callers signed. `gate`: refuses what can be refused unread."""

    handler: Handler[D]
    internal: bool = False
    gate: Gate[D] | None = None


def serve(
    routes: Mapping[tuple[str, str], Handler[D] | Route[D]],
    *,
    needs: Sequence[Setting] = (),
    dependencies: Sequence[Dependency] = (),
    max_body: int = MAX_BODY,
    for_browsers: bool = False,
    deps: Callable[[], D] = Deps,  # type: ignore[assignment]  # a default no type checker can follow
) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    """The function as the platform wants it. Without a setting it `needs` it answers 503 from the start.

    `for_browsers`: pages of any origin may call it. Whoever calls is known by a token, never by a cookie.
    """
    table = {key: route if isinstance(route, Route) else Route(route) for key, route in routes.items()}
    logs.configure(_release()["name"])
    function = _Function(table, needs, dependencies, max_body, for_browsers, cache(deps))
    function.report_missing()

    async def main(request: HttpRequest) -> HttpResponse:
        return await function.answer(request)

    functions_framework.aio.http(main)  # registers it as ASGI
    return main


class _Function(Generic[D]):
    def __init__(
        self,
        routes: dict[tuple[str, str], Route[D]],
        needs: Sequence[Setting],
        dependencies: Sequence[Dependency],
        max_body: int,
        for_browsers: bool,
        deps: Callable[[], D],
    ) -> None:
        self._health_route: Route[D] = Route(self._health)
        self._routes = {("GET", "/health"): self._health_route, **routes}
        self._templates = {path: _pattern(path) for _, path in routes if "{" in path}
        self._needs = needs
        self._reports = [*needs, *(Settings.functions_secret for route in routes.values() if route.internal)]
        self._dependencies = Health(dependencies)
        self._max_body = max_body
        self._headers = _CORS if for_browsers else {}
        self._deps = deps

    def report_missing(self) -> None:
        if missing := self._missing(self._reports):
            log.critical("settings are missing", extra={"action": "start", "missing": missing})

    async def answer(self, http: HttpRequest) -> HttpResponse:
        """Every request ends here, whatever happens inside: one answer and one line in the log."""
        started = time.perf_counter()
        trace = logs.begin(http.headers)
        route: Route[D] | None = None
        code = ""
        try:
            route, params = self._find(http.method, http.scope["path"])
            response = await self._respond(route, http, trace.request_id, params)
        except RecadoError as exc:
            response, code = _refusal(exc), exc.code
            if exc.status >= 500:  # a refusal below is the caller's business and needs no stack
                log.exception(exc.message, extra={"action": "request"})
        except Exception:
            log.exception("unexpected error", extra={"action": "request"})
            unexpected = InternalError(hint=f"Give the request id to whoever runs this: {trace.request_id}")
            response, code = _refusal(unexpected), unexpected.code
        self._log_request(http, route, response.status, code, started)
        headers = {**response.headers, **self._headers, "x-request-id": trace.request_id}
        return HttpResponse(response.body, response.status, headers)

    def _find(self, method: str, path: str) -> tuple[Route[D], dict[str, str]]:
        if method == "OPTIONS" and self._headers:
            return Route(_preflight), {}
        place, params = self._place(path)
        if route := self._routes.get(("GET" if method == "HEAD" else method, place)):
            return route, params
        allowed = sorted(known for known, known_place in self._routes if known_place == place)
        if allowed:
            raise MethodNotAllowedError(", ".join(allowed))
        raise NotFoundError(hint="Check the path; GET /health answers on every function.")

    def _place(self, path: str) -> tuple[str, dict[str, str]]:
        """The path as the routes have it, with what stands for its parameters."""
        for template, pattern in self._templates.items():
            if found := pattern.fullmatch(path):
                return template, found.groupdict()
        return path, {}

    async def _respond(
        self, route: Route[D], http: HttpRequest, request_id: str, params: Mapping[str, str]
    ) -> Response:
        if route is not self._health_route and (missing := self._missing(self._needs)):
            raise MissingSettingError(hint=f"Set {', '.join(missing)}.")
        request = Request(
            http.method,
            http.scope["path"],
            http.query_params,
            http.headers,
            id=request_id,
            params=params,
            query_string=http.scope["query_string"].decode("latin-1"),
            client=_client(http),
        )
        if route.gate:
            await route.gate(request, self._deps())
        request = replace(request, body=await _read(http, self._max_body))
        if route.internal:
            signature.check(self._deps().settings.functions_secret, http.headers, request.body)
        return await route.handler(request, self._deps())

    async def _health(self, _request: Request, deps: D) -> Response:
        missing = self._missing(self._reports)
        states = await self._dependencies.states(deps.settings)
        is_fit = not missing and self._dependencies.is_fit(states)
        report = {
            "status": "ok" if is_fit else "down",
            **_release(),
            "dependencies": states,
            "missing": missing,
        }
        return Response.json(200 if is_fit else 503, report, {"cache-control": "no-store"})

    def _missing(self, settings: Sequence[Setting]) -> list[str]:
        return self._deps().settings.missing(settings)

    def _log_request(
        self, http: HttpRequest, route: Route[D] | None, status: int, code: str, started: float
    ) -> None:
        """A path nobody knows is not logged: it may carry anything."""
        if route is self._health_route and status == 200:
            return
        level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
        fields = {
            "action": "request",
            "method": http.method,
            "route": http.scope["path"] if route else "unknown",
            "status": status,
            "code": code,
            "ms": round((time.perf_counter() - started) * 1000, 1),
        }
        log.log(level, "request", extra=fields)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", rf"(?P<\1>{_ID})", template))


def _client(http: HttpRequest) -> str:
    """The last address a proxy wrote down: those before it are whatever the caller claimed."""
    said = http.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return said or (http.client.host if http.client else "")


async def _preflight(request: Request, deps: Deps) -> Response:
    return Response(204)


async def _read(http: HttpRequest, limit: int) -> bytes:
    length = http.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in http.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect as exc:
        raise BadRequestError("The connection closed before the whole body arrived.") from exc
    return bytes(body)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(hint=f"Send at most {limit} bytes.")


def _refusal(error: RecadoError) -> Response:
    return Response.json(error.status, error.report, error.headers)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@cache
def _release() -> dict[str, str]:
    if RELEASE.exists():
        stamp = json.loads(RELEASE.read_bytes())
        return {"name": stamp["name"], "version": stamp["version"]}
    return {"name": os.environ.get("K_SERVICE", "checkout"), "version": "unbuilt"}
