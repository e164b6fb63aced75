"""Sending through Whapi: what is posted for each kind of message, and what each of its errors means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from shared.senders.base import Message, Result
from shared.senders.gestures import Inbound
from shared.senders.settings import WhapiSettings
from shared.senders.whapi import ERRORS, Whapi
from tests.functions.provider import TOKEN, Provider, sending, within

CHAT = "573001112233@s.whatsapp.net"
MESSAGE = Message(id="our-id", sender="MANTIS-1", chat_id=CHAT, phone="573001112233", content="Hola")
SENT = {"sent": True, "message": {"id": "PsqBnM2xTg4cQxA-wOUT9", "status": "pending"}}
LINK = "https://files.example/q.pdf"
INBOUND = Inbound(id="PsqBnM2xTg4cQxA-wIN", sender="MANTIS-1", chat_id=CHAT)

# The statuses of Whapi's API, as of 1.8.7.
CODES = (400, 401, 402, 403, 404, 409, 413, 415, 429, 500)


def whapi(transport: httpx.AsyncBaseTransport) -> Whapi:
    return Whapi(WhapiSettings({}), transport)


def send(transport: Provider, message: Message = MESSAGE) -> Result:
    return sending(whapi(transport), message)


def asked(message: Message, answer: Any = SENT) -> tuple[str, str, Any]:
    """Method, path and body."""
    transport = Provider(200, answer)
    assert send(transport, message).outcome == "sent"
    request = transport.only
    return request.method, request.url.raw_path.decode(), json.loads(request.content or b"null")


def error(code: int, message: str = "No") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": "Because."}}


def test_a_text_is_posted_to_the_chat_with_the_channels_token() -> None:
    transport = Provider(200, SENT)

    result = send(transport, replace(MESSAGE, reply_to="PsqBnM2xTg4cQxA-wMMB"))

    assert result == Result(outcome="sent", wa_message_id="PsqBnM2xTg4cQxA-wOUT9")
    assert str(transport.only.url) == "https://gate.whapi.cloud/messages/text"
    assert transport.only.headers["authorization"] == "Bearer the-token"
    assert json.loads(transport.only.content) == {
        "to": CHAT,
        "body": "Hola",
        "quoted": "PsqBnM2xTg4cQxA-wMMB",
    }


def test_a_customer_without_a_chat_is_reached_by_phone() -> None:
    assert asked(replace(MESSAGE, chat_id=None))[2]["to"] == "573001112233"


@pytest.mark.parametrize(
    ("kind", "words", "data", "body"),
    [
        ("image", "A", {"media": {"link": LINK}}, {"media": LINK, "caption": "A"}),
        ("video", None, {"media": {"id": "mp4-1"}}, {"media": "mp4-1"}),
        ("audio", "", {"media": {"id": "o"}, "mime": "audio/ogg"}, {"media": "o", "mime_type": "audio/ogg"}),
        ("sticker", None, {"media": {"link": LINK}}, {"media": LINK}),
        (
            "document",
            "Quote",
            {"media": {"link": LINK}, "mime": "application/pdf", "filename": "quote.pdf"},
            {"media": LINK, "mime_type": "application/pdf", "filename": "quote.pdf", "caption": "Quote"},
        ),
    ],
)  # fmt: skip
def test_each_kind_of_file_has_its_address(kind: str, words: str | None, data: Any, body: Any) -> None:
    message = replace(MESSAGE, type=kind, content=words, data=data)

    assert asked(message) == ("POST", f"/messages/{kind}", {"to": CHAT, **body})


def test_buttons_are_said_in_whapis_words() -> None:
    given = {
        "type": "button",
        "header": {"type": "text", "text": "Order"},
        "body": {"text": "Confirm?"},
        "action": {"buttons": [{"type": "reply", "reply": {"id": "yes", "title": "Yes"}}]},
    }

    assert asked(replace(MESSAGE, type="interactive", data={"interactive": given})) == (
        "POST",
        "/messages/interactive",
        {
            "to": CHAT,
            "type": "button",
            "header": {"text": "Order"},
            "body": {"text": "Confirm?"},
            "action": {"buttons": [{"type": "quick_reply", "id": "yes", "title": "Yes"}]},
        },
    )


def test_a_list_is_said_in_whapis_words() -> None:
    sections = [{"title": "Today", "rows": [{"id": "10", "title": "10:00", "description": "free"}]}]
    action = {"button": "Choose", "sections": sections}
    given = {"type": "list", "body": {"text": "When?"}, "action": action}

    _, _, body = asked(replace(MESSAGE, type="interactive", data={"interactive": given}))

    assert body["action"] == {"list": {"label": "Choose", "sections": sections}}


@pytest.mark.parametrize(
    ("emoji", "method", "body"),
    [("👍", "PUT", {"emoji": "👍"}), ("", "DELETE", None), (None, "DELETE", None)],
)
def test_a_reaction_is_put_and_taken_back(emoji: str | None, method: str, body: Any) -> None:
    message = replace(MESSAGE, type="reaction", content=None, data={"target": "Psq-1", "emoji": emoji})

    assert asked(message, {"success": True}) == (method, "/messages/Psq-1/reaction", body)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "template", "data": {"template": {"name": "order_ready", "language": "es"}}},
        {"type": "interactive", "data": {"interactive": {"type": "flow", "action": {"name": "flow"}}}},
        {
            "type": "interactive",
            "data": {
                "interactive": {
                    "type": "button",
                    "header": {"type": "image", "image": {"id": "1"}},
                    "action": {"buttons": [{"type": "reply", "reply": {"id": "yes", "title": "Yes"}}]},
                }
            },
        },
        {"phone": None, "chat_id": None},
    ],
)
def test_what_whapi_cannot_do_never_leaves(changes: dict[str, Any]) -> None:
    transport = Provider()

    assert send(transport, replace(MESSAGE, **changes)).outcome == "invalid"
    assert transport.asked == []


def test_reading_and_typing_are_told_in_this_order() -> None:
    transport = Provider(200, {"success": True})

    assert within(whapi(transport).typing(INBOUND, TOKEN)) is True

    told = [(request.method, request.url.path, request.content) for request in transport.asked]
    assert told == [
        ("PUT", "/messages/PsqBnM2xTg4cQxA-wIN", b""),
        ("PUT", f"/presences/{CHAT}", b'{"presence": "typing", "delay": 10}'),
    ]


@pytest.mark.parametrize("code", CODES)
def test_every_error_whapi_documents_has_its_reaction(code: int) -> None:
    assert code in ERRORS


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (400, "invalid"),
        (401, "stop_channel"),
        (402, "stop_channel"),
        (403, "unreachable"),
        (404, "invalid"),
        (413, "invalid"),
        (415, "invalid"),
        (429, "slow_number"),
        (500, "unknown"),
        (503, "unknown"),
        (422, "invalid"),
    ],
)
@pytest.mark.parametrize("with_success", [False, True])
def test_an_error_is_read_by_its_code(code: int, outcome: str, with_success: bool) -> None:
    result = send(Provider(200 if with_success else code, error(code, "Not allowed")))

    assert (result.outcome, result.error_code) == (outcome, code)
    assert result.error_message == "Not allowed: Because."


def test_an_error_without_a_code_is_read_by_the_status() -> None:
    result = send(Provider(401, {"error": {"message": "Need channel authorization"}}))

    assert (result.outcome, result.error_code) == ("stop_channel", 401)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [({"sent": True}, "sent"), ({"sent": False}, "retry"), ({"success": True}, "unknown")],
)
def test_only_the_word_sent_says_so(body: Any, outcome: str) -> None:
    result = send(Provider(200, body))

    assert (result.outcome, result.wa_message_id) == (outcome, None)


def test_a_message_id_cannot_lead_anywhere_else() -> None:
    message = replace(MESSAGE, type="reaction", content=None, data={"target": "../settings?", "emoji": "👍"})

    assert asked(message, {"success": True})[1] == "/messages/..%2Fsettings%3F/reaction"
