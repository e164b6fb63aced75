"""What a provider knows of a chat is asked beside the answer, and fails nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import respx

from shared.enrichment import Enrichment
from shared.events import JsonObject
from shared.senders.settings import WhapiSettings
from shared.senders.whapi import Whapi
from shared.tokens import Tokens

CHAT = {
    "tenant_id": "t", "chat_id": "c", "number_id": "n", "provider": "whapi",
    "address": "57311@s.whatsapp.net",
}  # fmt: skip
URL = "https://gate.whapi.cloud/chats/57311%40s.whatsapp.net"


class Database:
    def __init__(self, *, has_token: bool = True) -> None:
        self.has_token = has_token
        self.enriched: list[JsonObject] = []

    async def channel_tokens(self, *, numbers: Sequence[JsonObject]) -> list[JsonObject]:
        return [{**one, "token": "secret"} for one in numbers if self.has_token]

    async def lead_enrich(self, **call: Any) -> bool:
        self.enriched.append(call)
        return True


def look(database: Database) -> list[JsonObject]:
    async def within() -> None:
        enrichment = Enrichment(database, Tokens(database), lambda: {"whapi": Whapi(WhapiSettings({}))})
        enrichment.start([CHAT])
        await asyncio.gather(*enrichment._running)

    asyncio.run(within())
    return database.enriched


def test_name_and_labels_are_handed_in(respx_mock: respx.MockRouter) -> None:
    labels = [{"id": "1", "name": "VIP", "color": "red"}, {"id": "2"}, {"id": "3", "name": "Moroso"}]
    asked = respx_mock.get(URL).respond(200, json={"id": "57311", "name": "Ana P.", "labels": labels})

    assert look(Database()) == [
        {"tenant_id": "t", "chat_id": "c", "name": "Ana P.", "labels": ("VIP", "Moroso")}
    ]
    assert asked.calls[0].request.headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, json={"error": {"code": 404}}),
        httpx.Response(429),
        httpx.Response(500, text="oops"),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
    ],
    ids=["unknown chat", "too many", "broken", "unreachable", "slow"],
)
def test_no_answer_changes_nothing_and_raises_nothing(respx_mock: respx.MockRouter, answer: Any) -> None:
    respx_mock.get(URL).mock(side_effect=[answer])

    assert look(Database()) == []


def test_an_answer_of_any_shape_is_read(respx_mock: respx.MockRouter) -> None:
    respx_mock.get(URL).respond(200, json={"name": 5, "labels": "none"})

    assert look(Database())[0]["labels"] == ()


def test_a_number_without_a_token_is_not_asked(respx_mock: respx.MockRouter) -> None:
    assert look(Database(has_token=False)) == []
    assert not respx_mock.calls
