"""The door to Postgres: what is sent to PostgREST, and what its answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from shared.db import Database
from shared.errors import (
    BadRequestError,
    DatabaseError,
    DatabaseUnavailableError,
    ForbiddenError,
    NotFoundError,
    RecadoError,
)
from shared.events import Receipt
from shared.settings import Settings

SETTINGS = Settings({"SUPABASE_URL": "https://db.example/", "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x"})
ANSWER = [{"status": "applied", "stored": 1, "repeated": 0, "error": None, "wake": ["reply"]}]

Answer = Callable[[httpx.Request], httpx.Response]


def receive(answer: Answer, batch: list[bytes] | None = None) -> list[Receipt]:
    async def within() -> list[Receipt]:
        database = Database(SETTINGS, httpx.MockTransport(answer))
        try:
            return await database.webhook_receive(batch=batch or [b"{}"])
        finally:
            await database.close()

    return asyncio.run(within())


def test_a_batch_is_one_call_with_the_secret_key() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=ANSWER * 2)

    receipts = receive(answer, [b'{"n":1}', b'{"n":2}'])

    (request,) = asked
    assert (request.method, str(request.url)) == ("POST", "https://db.example/rest/v1/rpc/webhook_receive")
    assert (request.headers["apikey"], request.headers["authorization"]) == (
        "sb_secret_x",
        "Bearer sb_secret_x",
    )
    assert json.loads(request.content) == {"p_batch": [{"n": 1}, {"n": 2}]}
    assert receipts == [Receipt(status="applied", stored=1, repeated=0)] * 2


@pytest.mark.parametrize("answer", [None, {}, [], ANSWER * 2])
def test_an_answer_for_other_payloads_is_none(answer: Any) -> None:
    with pytest.raises(DatabaseError):
        receive(lambda _: httpx.Response(200, json=answer))


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "", DatabaseUnavailableError),
        (400, "22P05", DatabaseError),
        (400, "PT400", BadRequestError),
        (401, "PGRST301", ForbiddenError),
        (403, "42501", ForbiddenError),
        (404, "PGRST202", NotFoundError),
        (413, "54001", DatabaseError),
        (500, "40P01", DatabaseUnavailableError),
        (500, "55P03", DatabaseUnavailableError),
        (500, "XX000", DatabaseError),
        (503, "PGRST001", DatabaseUnavailableError),
        (503, "unavailable", DatabaseUnavailableError),  # a gateway, in words of its own
        (504, "timeout", DatabaseUnavailableError),
        (500, "internal", DatabaseUnavailableError),
        (429, "over_request_rate_limit", DatabaseUnavailableError),
        (504, "PGRST003", DatabaseUnavailableError),
    ],
)
def test_a_refusal_is_of_its_kind(status: int, code: str, error: type[RecadoError]) -> None:
    with pytest.raises(error) as refused:
        receive(lambda _: httpx.Response(status, json={"code": code, "message": "why", "hint": "do that"}))

    assert type(refused.value) is error
    assert (refused.value.message == "why") == code.startswith("PT")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (502, b"<html>", DatabaseUnavailableError),
        (429, b"slow down", DatabaseUnavailableError),
        (503, b"[]", DatabaseUnavailableError),
        (418, b"", DatabaseError),
    ],
)
def test_a_proxy_in_between_may_answer_instead(status: int, body: bytes, error: type[RecadoError]) -> None:
    with pytest.raises(error):
        receive(lambda _: httpx.Response(status, content=body))


@pytest.mark.parametrize(
    "trouble",
    [httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.PoolTimeout],
)
def test_a_lost_connection_is_a_database_that_is_away(trouble: type[httpx.HTTPError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise trouble("gone")

    with pytest.raises(DatabaseUnavailableError):
        receive(answer)
