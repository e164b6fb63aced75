"""Whapi.Cloud: who may post, and what each of its updates becomes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared import parts, whapi
from shared.channel_keys import Keys
from shared.errors import UnauthorizedError
from shared.runtime import Request

CASES = sorted((Path(__file__).parents[1] / "data" / "whapi").glob("*.json"))
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEYS = Keys("0198-w", "whapi", "MANTIS-A1B2C", secrets=("the old secret", "the new secret"))


def parse(document: Any, keys: Keys = KEYS) -> list[dict[str, Any]]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return [json.loads(payload.to_json()) for payload in whapi.parse(body, received_at=NOW, keys=keys)]


def said(id_: str, **more: Any) -> dict[str, Any]:
    chat = {"chat_id": "12025550143@s.whatsapp.net", "from": "12025550143", "from_me": False}
    return {"id": id_, **chat, "type": "text", "timestamp": 1795000000, "text": {"body": "Hola"}, **more}


def events_of(*messages: Any) -> list[dict[str, Any]]:
    return [event for payload in parse({"messages": list(messages)}) for event in payload["events"]]


def verify(*secrets: str, given: str) -> None:
    request = Request("POST", "/whapi/x", headers={whapi.SIGNATURE: given})
    whapi.verify(request, Keys("x", "whapi", "C", secrets=secrets))


@pytest.mark.parametrize("given", KEYS.secrets)
def test_each_secret_of_the_number_opens(given: str) -> None:
    verify(*KEYS.secrets, given=given)


@pytest.mark.parametrize(
    ("secrets", "given"),
    [((), ""), ((), "x"), (("a",), ""), (("a",), "A"), (("a", "b"), "ab"), (("a",), "ñ")],
)
def test_nothing_else_does(secrets: tuple[str, ...], given: str) -> None:
    with pytest.raises(UnauthorizedError):
        verify(*secrets, given=given)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_an_update_becomes_its_events(case: Path) -> None:
    recorded = json.loads(case.read_text())

    found = parse(recorded["delivery"])

    keys = ("account", "number", "field", "error", "events")
    assert [{key: one[key] for key in keys if key in one} for one in found] == recorded["payloads"]
    assert [one["payload"] for one in found] == [recorded["delivery"]]


def test_the_same_body_at_another_number_is_another_delivery() -> None:
    document, other = {"messages": [said("A1")]}, Keys("0198-x", "whapi", "MANTIS-A1B2C")

    assert parse(document)[0]["delivery_id"] == parse(document)[0]["delivery_id"]
    assert parse(document)[0]["delivery_id"] != parse(document, other)[0]["delivery_id"]


def test_an_edit_told_twice_is_one_edit() -> None:
    """As a message of its own, and as an update of the message it changes."""
    told = [json.loads((CASES[0].parent / f"{name}.json").read_text()) for name in ("edit", "update_edit")]
    (as_message,), (as_update,) = ([e for p in one["payloads"] for e in p["events"]] for one in told)

    for key in ("kind", "id", "target", "at", "text"):
        assert as_message[key] == as_update[key]


@pytest.mark.parametrize(
    "chat_id", ["1203@g.us", "1@newsletter", "status@broadcast", "0@s.whatsapp.net", "", None, 7]
)
def test_what_is_no_persons_chat_makes_no_lead(chat_id: Any) -> None:
    (event,) = events_of(said("A1", chat_id=chat_id))

    assert (event["kind"], event.get("contact")) == ("other", None)


@pytest.mark.parametrize(
    "chat_id", ["12025550143@s.whatsapp.net", "12025550143:17@s.whatsapp.net", "12025550143"]
)
def test_a_person_is_the_same_however_the_chat_is_written(chat_id: str) -> None:
    (event,) = events_of(said("A1", chat_id=chat_id))

    assert event["contact"] == {"phone": "12025550143", "chat_id": "12025550143@s.whatsapp.net"}


def test_a_large_delivery_comes_in_parts_that_lose_nothing() -> None:
    messages = [said(f"A{n}") for n in range(2 * parts.PART + 1)]

    found = parse({"messages": messages, "channel_id": "MANTIS-A1B2C"})

    assert [len(payload["events"]) for payload in found] == [parts.PART, parts.PART, 1]
    assert [event["id"] for payload in found for event in payload["events"]] == [
        one["id"] for one in messages
    ]
    assert [message for payload in found for message in payload["payload"]["messages"]] == messages
    assert len({payload["delivery_id"] for payload in found}) == 3


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff\xfe", b"[" * 200_000, b"[]", b"7", b"null"])
def test_a_body_that_is_no_object_is_kept_as_bytes(body: bytes) -> None:
    (payload,) = whapi.parse(body, received_at=NOW, keys=KEYS)

    assert (payload.raw, payload.payload, payload.events) == (body, None, ())
    assert payload.error
