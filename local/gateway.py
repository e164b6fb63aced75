"""The API gateway of the platform: one address for the Data API, sign-in and functions.

`/rest/v1` and `/auth/v1` take an API key, as on the hosted platform; `/functions/v1` takes none, since the
webhooks of others arrive there and every function decides for itself whom it believes.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import unquote_plus

import uvloop

from local.events import log
from local.messages import Answer, Decision, Forward, Request, problem, unavailable
from local.proxy import Server
from local.tokens import Gate, Keys, RefusedError
from local.upstream import Headers, Upstream

_PROBE_SECONDS = 2
_EXPOSED = (
    b"Content-Encoding, Content-Location, Content-Range, Content-Type, Date, Link, Location, Range-Unit,"
    b" Preference-Applied, Retry-After, Server, Transfer-Encoding, X-Sb-Error-Code, X-Supabase-Api-Version,"
    b" X-Total-Count"
)
_CORS = b"access-control-allow-origin: *\r\naccess-control-expose-headers: " + _EXPOSED + b"\r\n"
_PREFLIGHT = (
    b"access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    b"access-control-max-age: 86400\r\n"
)
_OWN_CORS = frozenset(
    {
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-expose-headers",
        b"access-control-max-age",
    }
)
# What Postgres says when it goes away in the middle of a request: shut down, crashed, connection lost.
_DATABASE_GONE = ("57P0", "08")


class Gateway:
    """Decides where a request goes."""

    def __init__(self, keys: Keys, rest: Upstream, auth: Upstream, functions: Mapping[str, Upstream]) -> None:
        self._gate = Gate(keys)
        self._rest = rest
        self._auth = auth
        self._functions = functions

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Gateway:
        functions = json.loads(env.get("FUNCTION_URLS", "{}"))
        return cls(
            Keys.from_environment(env),
            Upstream("The Data API", env["REST_URL"]),
            Upstream("The auth server", env["AUTH_URL"]),
            {name: Upstream(f"The function {name}", url) for name, url in functions.items()},
        )

    @property
    def upstreams(self) -> list[Upstream]:
        return [self._rest, self._auth, *self._functions.values()]

    def route(self, request: Request) -> Decision:
        path, mark, query = request.target.partition(b"?")
        match path.split(b"/", 4):
            case [b"", b"rest", b"v1", *rest]:
                return self._to_service(request, self._rest, b"/" + b"/".join(rest), query)
            case [b"", b"auth", b"v1", *rest]:
                return self._to_service(request, self._auth, b"/" + b"/".join(rest), query)
            case [b"", b"functions", b"v1", name, *rest]:
                return self._to_function(
                    request, name.decode("latin-1"), b"/" + b"".join(rest) + mark + query
                )
            case [b"", b"health"]:
                return self._health()
        return problem(
            404, "not_found", "There is nothing here", "Paths: /rest/v1, /auth/v1, /functions/v1, /health."
        )

    def _to_service(self, request: Request, upstream: Upstream, path: bytes, query: bytes) -> Decision:
        if request.method == b"OPTIONS" and b"access-control-request-method" in request.fields:
            return _preflight(request)
        key, query = _api_key(request, query)
        try:
            authorization = self._admit(request, upstream, key)
        except RefusedError as refusal:
            return problem(401, refusal.code, refusal.message, refusal.hint, _CORS)
        headers = [field for field in _forwarded(request) if field[0] not in (b"authorization", b"apikey")]
        headers.append((b"authorization", authorization.encode("latin-1")))
        target = path + (b"?" + query if query else b"")
        judge = _judge_rest if upstream is self._rest else None
        return Forward(upstream, target, headers, _CORS, _OWN_CORS, judge)

    def _admit(self, request: Request, upstream: Upstream, key: str | None) -> str:
        authorization, agent = _text(request, b"authorization"), _text(request, b"user-agent") or ""
        check = self._gate.admit if upstream is self._rest else self._gate.identify
        return check(key, authorization, agent)

    def _to_function(self, request: Request, name: str, target: bytes) -> Decision:
        upstream = self._functions.get(name)
        if not upstream:
            known = ", ".join(sorted(self._functions)) or "none"
            return problem(404, "no_such_function", f"There is no function {name!r}", f"Functions: {known}.")
        return Forward(upstream, target, _forwarded(request))

    async def _health(self) -> Answer:
        rest, auth = await asyncio.gather(
            _answers(self._rest, "OPTIONS", "/"), _answers(self._auth, "GET", "/health")
        )
        status = HTTPStatus.OK if rest and auth else HTTPStatus.SERVICE_UNAVAILABLE
        state = {"status": "ok" if rest and auth else "unavailable", "rest": rest, "auth": auth}
        headers = b"content-type: application/json\r\n" + (
            b"" if status == HTTPStatus.OK else b"retry-after: 1\r\n"
        )
        return Answer(status, json.dumps(state).encode(), headers)


def _preflight(request: Request) -> Answer:
    asked = request.fields.get(b"access-control-request-headers", b"*")
    return Answer(200, b"", _CORS + _PREFLIGHT + b"access-control-allow-headers: " + asked + b"\r\n")


def _api_key(request: Request, query: bytes) -> tuple[str | None, bytes]:
    """The key of the header or the query, and the query without it: PostgREST would take it for a filter."""
    key = _text(request, b"apikey")
    if b"apikey=" not in query:
        return key, query
    pairs = query.split(b"&")
    others = [pair for pair in pairs if not pair.startswith(b"apikey=")]
    in_query = next((unquote_plus(pair[7:].decode("latin-1")) for pair in pairs if pair not in others), None)
    return key or in_query, b"&".join(others)


def _text(request: Request, name: bytes) -> str | None:
    value = request.fields.get(name)
    return None if value is None else value.decode("latin-1")


def _forwarded(request: Request) -> Headers:
    """The request's headers, saying for whom it comes. A tunnel in front of us may already have said it."""
    fields = request.fields
    before = fields.get(b"x-forwarded-for")
    peer = request.peer.encode()
    headers = [field for field in request.headers if field[0] != b"x-forwarded-for"]
    headers.append((b"x-forwarded-for", before + b", " + peer if before else peer))
    if b"x-forwarded-proto" not in fields:
        headers.append((b"x-forwarded-proto", b"http"))
    if b"x-forwarded-host" not in fields:
        headers.append((b"x-forwarded-host", fields.get(b"host", b"")))
    return headers


def _judge_rest(status: int, body: bytes) -> Answer | None:
    """PostgREST reports a database that went away under many codes; clients should see one they retry on."""
    if status not in (400, 500, 503):
        return None
    error = None
    with suppress(ValueError):
        error = json.loads(body)
    if not isinstance(error, dict):
        return None
    code = str(error.get("code") or "")
    if status == 503 or code.startswith(_DATABASE_GONE) or not code:
        gone = unavailable("The database", _CORS)
        return replace(gone, body=body) if status == 503 else gone
    return None


async def _answers(upstream: Upstream, method: str, path: str) -> bool:
    """Whether a service answers a request of its own with success."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: health\r\nconnection: close\r\n\r\n".encode())
            status = (await reader.readline()).split()[1:2]
            writer.close()
    except OSError:
        return False
    return bool(status) and status[0].startswith(b"2")


async def serve(env: Mapping[str, str]) -> None:
    gateway = Gateway.from_environment(env)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log("gateway started", port=int(env["RECADO_PORT"]))
    await Server(gateway.route, gateway.upstreams).run(int(env["RECADO_PORT"]), stop)
    log("gateway stopped")


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard, hard)
    )  # a client costs two files, the default allows 1,024
    uvloop.run(serve(os.environ))


if __name__ == "__main__":
    main()
