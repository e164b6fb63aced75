"""What the simulators write is what the adapters read; both were made from the same facts, apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from local.simulator import writing
from local.simulator.config import Config
from local.simulator.http import Fields
from local.simulator.outside import Outside
from local.simulator.world import Number
from shared.channel_keys import Keys
from shared.providers import PROVIDERS
from shared.runtime import Request

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
URL, ACCOUNT = "https://crm.example/webhook", "AC" + "5" * 32
NUMBERS = {
    "cloud_api": Number("1000", "57301111111", "2000"),
    "whapi": Number("PULSO", "57304444444", "", provider="whapi", id="w1", secret="header-secret"),
    "twilio": Number("whatsapp:+57305555555", "57305555555", ACCOUNT, provider="twilio", id="t1"),
}
SECRETS = {"cloud_api": "meta", "whapi": "header-secret", "twilio": f"demo-token-{ACCOUNT}"}
SAID: dict[str, dict[str, Any]] = {
    "text": {"text": "Hola"},
    "image": {"media": {"kind": "image", "id": "i1", "caption": "Hola"}},
    "audio": {"media": {"kind": "audio", "voice": True}},
    "location": {"location": {"latitude": 4.6, "longitude": -74.1}},
    "contacts": {"contact": {"name": "Luis", "phone": "57300000000"}},
    "echo": {"text": "Hola", "echo": True},
    "reaction": {"reaction": {"target": "m1", "emoji": "👍"}},
    "edit": {"edit": {"target": "m1", "text": "Hola"}},
    "revoke": {"revoke": {"target": "m1"}},
}
CHANGES = ("echo", "reaction", "edit", "revoke")  # of which Twilio tells nothing
PAIRS = [(who, kind) for who in NUMBERS for kind in SAID if who != "twilio" or kind not in CHANGES]


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    config = Config.read(
        {
            "RECADO_PORT": "1",
            "DATABASE_URL": "postgresql://nowhere",
            "FUNCTIONS_URL": URL.removesuffix("/webhook"),
            "META_APP_ID": "1",
            "META_APP_SECRET": "meta",
            "META_VERIFY_TOKEN": "x",
            "OPENAI_API_KEY": "x",
            "SIMULATOR_DB": str(tmp_path / "simulator.db"),
        }
    )
    made = Outside.open(config)
    for number in NUMBERS.values():
        made.world.learn(number)
    return made


@pytest.mark.parametrize(("provider", "kind"), PAIRS)
def test_what_a_person_writes_is_understood(outside: Outside, provider: str, kind: str) -> None:
    number, voice = outside.webhooks.speaker(NUMBERS[provider].number)
    contact = outside.world.contact(number.number, "57311111111")

    item = voice.written(contact, writing.read(Fields(SAID[kind]), NOW.timestamp()))
    (event,) = events(provider, voice.letter(number, [item]))

    assert event["kind"] == (kind if kind in CHANGES else "message")
    if kind != "revoke":  # Whapi's has but an id
        assert event["contact"]["phone"] == "57311111111"
    if kind not in CHANGES and not (provider == "twilio" and kind == "contacts"):  # there a card is a file
        assert event["type"] == kind


def events(provider: str, letter: Any) -> list[dict[str, Any]]:
    """Of a request that was let in by its own provider's check."""
    number, url = NUMBERS[provider], urlsplit(letter.url)
    keys = Keys(number.id, provider, number.number, number.account, letter.url, (SECRETS[provider],))
    query = dict(parse_qsl(url.query))
    request = Request("POST", url.path, query=query, headers=letter.headers, body=letter.content)
    adapter = PROVIDERS[provider.replace("_", "-")]
    adapter.verify(request, keys)
    payloads = adapter.parse(letter.content, received_at=NOW, keys=keys, query=query)
    return [event for payload in payloads for event in json.loads(payload.to_json())["events"]]
