"""Sends what `net.http_*` queued, in pg_net's rounds, and misbehaves on request (see local.net_faults).

A round is one transaction: requests are taken out of the queue, made all at once, and their answers stored.
So a round lasts as long as its slowest request, and when it dies its requests are sent again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from psycopg.types.json import Jsonb

from local import worker
from local.events import log
from local.worker import Connection

POLL_SECONDS = 5  # requests that woke nobody: left over by a round that died, or inserted by hand

_EXPIRE = "delete from net._http_response where created < now() - interval '6 hours'"
_EXPIRE_BROADCASTS = """
    delete from realtime.messages
    where inserted_at < now() - interval '72 hours' and extension = 'broadcast' and private"""
_TAKE = """
    delete from net.http_request_queue
    where id in (select id from net.http_request_queue order by id limit 200 for update skip locked)
    returning id, method, url, headers, body, timeout_milliseconds"""
_STORE = """
    insert into net._http_response
        (id, status_code, content_type, headers, content, timed_out, error_msg)
    values
        (%(id)s, %(status_code)s, %(content_type)s, %(headers)s, %(content)s, %(timed_out)s, %(error_msg)s)"""
_FAULTS = """
    select kind, probability, coalesce(remaining, 2147483647) as remaining, milliseconds
    from local.net_faults order by kind"""
_COUNT_FAULT = """
    update local.net_faults set happened = happened + %(hits)s, remaining = greatest(remaining - %(hits)s, 0)
    where kind = %(kind)s"""


@dataclass(frozen=True)
class Request:
    id: int
    method: str
    url: str
    headers: Mapping[str, Any] | None
    body: bytes | None
    timeout_milliseconds: int


@dataclass
class Response:
    id: int
    status_code: int | None = None
    content_type: str | None = None
    headers: Jsonb | None = None
    content: str | None = None
    timed_out: bool = False
    error_msg: str | None = None


@dataclass
class Fault:
    kind: str
    probability: float
    remaining: int
    milliseconds: int
    hits: int = 0

    def strikes(self) -> bool:
        struck = self.hits < self.remaining and random.random() < self.probability  # noqa: S311
        self.hits += struck
        return struck


async def serve(url: str) -> None:
    """Work rounds for as long as the connection lives."""
    async with client() as http, await worker.connect(url, "pg_net") as database:
        await database.execute("listen net")
        while True:
            await database.execute(_EXPIRE_BROADCASTS)
            while await work_round(database, http):
                pass
            await worker.notified(database, POLL_SECONDS)


async def work_round(database: Connection, http: httpx.AsyncClient) -> int:
    """One transaction over at most 200 requests; returns how many it took."""
    async with database.transaction():
        await database.execute(_EXPIRE)
        requests = [Request(**row) for row in await worker.rows(database, _TAKE)]
        if not requests:
            return 0
        faults = [Fault(**row) for row in await worker.rows(database, _FAULTS)]
        answers = await asyncio.gather(*(perform(http, request, draw(faults)) for request in requests))
        stored = [vars(answer) for answer in answers if answer]
        await _store(database, stored, faults)
    log("net round", requests=len(requests), answers=len(stored))
    return len(requests)


def draw(faults: list[Fault]) -> Fault | None:
    """The fault that hits the next request, if any does: never two at once."""
    return next((fault for fault in faults if fault.strikes()), None)


async def perform(http: httpx.AsyncClient, request: Request, fault: Fault | None) -> Response | None:
    """Make a request as the fault wants it; a dropped one has no answer."""
    match fault:
        case Fault(kind="drop"):
            return None
        case Fault(kind="double"):
            answer, _ = await asyncio.gather(send(http, request), send(http, request))
            return answer
        case Fault(kind="stall"):
            await asyncio.sleep(fault.milliseconds / 1000)
    return await send(http, request)


async def send(http: httpx.AsyncClient, request: Request) -> Response:
    """Make a request once. It never raises: what went wrong is its answer."""
    headers = {name: str(value) for name, value in (request.headers or {}).items()}
    try:
        async with asyncio.timeout(request.timeout_milliseconds / 1000):
            answer = await http.request(request.method, request.url, headers=headers, content=request.body)
    except TimeoutError:
        message = f"Timeout of {request.timeout_milliseconds} ms reached."
        return Response(request.id, timed_out=True, error_msg=message)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Response(request.id, error_msg=str(error) or type(error).__name__)
    return Response(
        request.id,
        answer.status_code,
        answer.headers.get("content-type"),
        Jsonb(dict(answer.headers)),
        answer.text.replace("\0", ""),  # which Postgres refuses in text
    )


async def _store(database: Connection, answers: list[dict[str, Any]], faults: list[Fault]) -> None:
    async with database.cursor() as cursor:
        await cursor.executemany(_STORE, answers)
        await cursor.executemany(_COUNT_FAULT, [vars(fault) for fault in faults if fault.hits])


def client() -> httpx.AsyncClient:
    """One without limits of its own: each request brings its timeout, a round its size."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.AsyncClient(timeout=None, follow_redirects=True, trust_env=False, limits=limits)  # noqa: S113


if __name__ == "__main__":
    worker.run("net", serve)
