"""Sending through Twilio: what is posted for each kind of message, and what each of its errors means."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from shared.senders.base import Message, Result
from shared.senders.gestures import Inbound
from shared.senders.settings import TwilioSettings
from shared.senders.twilio import ERRORS, Twilio
from tests.functions.provider import TOKEN, Provider, sending, within

MESSAGE = Message(
    id="our-id",
    sender="whatsapp:+576015550100",
    number_id="our-number",
    account_id="AC1",
    phone_number="576015550100",
    phone="573001112233",
    content="Hola",
)
QUEUED = {"sid": "SM1", "status": "queued", "error_code": None, "error_message": None}
LINK = "https://files.example/a.jpg"
ADDRESSES = {"To": "whatsapp:+573001112233", "From": "whatsapp:+576015550100"}
INBOUND = Inbound(id="SM9", sender="whatsapp:+576015550100", account_id="AC1")

# Twilio's error codes for WhatsApp messages, as of 2026-09-22.
CODES = """
    63016 63018 20429 14107 63001 20003 63003 63024 21211 21614 63007 63051 63059 63005 63021 63030
    21617 21620 63019 63032 63038 63049 21610 30007 30008 11200
"""


def twilio(transport: httpx.AsyncBaseTransport, **settings: str) -> Twilio:
    return Twilio(TwilioSettings(settings), transport)


def send(transport: Provider, message: Message = MESSAGE) -> Result:
    return sending(twilio(transport), message)


def form(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode(), strict_parsing=True))


def posted(message: Message) -> dict[str, str]:
    transport = Provider(201, QUEUED)
    assert send(transport, message) == Result(outcome="sent", wa_message_id="SM1")
    return form(transport.only)


def refusal(code: int, status: int = 400) -> dict[str, Any]:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return {"code": code, "message": "No", "more_info": more, "status": status}


def test_a_text_is_posted_as_a_form_with_the_accounts_credentials() -> None:
    transport = Provider(201, QUEUED)

    send(transport)

    request = transport.only
    assert str(request.url) == "https://api.twilio.com/2010-04-01/Accounts/AC1/Messages.json"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"AC1:the-token").decode()
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert form(request) == {**ADDRESSES, "Body": "Hola"}


@pytest.mark.parametrize(
    "settings",
    [
        {"WEBHOOK_PUBLIC_URL": "https://crm.example/webhook/"},
        {"FUNCTIONS_URL": "https://crm.example"},
        {"FUNCTIONS_URL": "http://inside", "WEBHOOK_PUBLIC_URL": "https://crm.example/webhook"},
    ],
)
def test_the_status_callback_brings_our_id_back(settings: dict[str, str]) -> None:
    transport = Provider(201, QUEUED)

    sending(twilio(transport, **settings), MESSAGE)

    callback = form(transport.only)["StatusCallback"]
    assert callback == "https://crm.example/webhook/twilio/our-number?message=our-id"


def test_a_customer_without_a_phone_is_reached_by_their_id() -> None:
    assert posted(replace(MESSAGE, phone=None, bsuid="CO.42"))["To"] == "whatsapp:CO.42"


@pytest.mark.parametrize(
    ("kind", "words", "body"),
    [
        ("image", "A", {"MediaUrl": LINK, "Body": "A"}),
        ("image", None, {"MediaUrl": LINK}),
        ("audio", None, {"MediaUrl": LINK}),
        ("video", "", {"MediaUrl": LINK}),
        ("document", None, {"MediaUrl": LINK}),
        ("sticker", None, {"MediaUrl": LINK}),
    ],
)
def test_a_file_goes_by_its_link(kind: str, words: str | None, body: dict[str, str]) -> None:
    data = {"media": {"link": LINK}, "filename": "a.jpg"}

    assert posted(replace(MESSAGE, type=kind, content=words, data=data)) == {**ADDRESSES, **body}


def test_a_template_goes_by_its_content_id() -> None:
    given = {"1": "Ana", "2": "10"}
    template = {"name": "cita", "language": "es", "provider_template_id": "HX1", "variables": given}

    body = posted(replace(MESSAGE, type="template", content="Hola Ana", data={"template": template}))

    assert body == {**ADDRESSES, "ContentSid": "HX1", "ContentVariables": '{"1": "Ana", "2": "10"}'}


def test_a_template_without_variables_has_none() -> None:
    template = {"name": "cita", "language": "es", "provider_template_id": "HX1"}

    assert "ContentVariables" not in posted(replace(MESSAGE, type="template", data={"template": template}))


def test_an_answer_goes_out_without_its_quote() -> None:
    assert posted(replace(MESSAGE, reply_to="SM0")) == {**ADDRESSES, "Body": "Hola"}


@pytest.mark.parametrize(
    "changes",
    [
        {"content": "x" * 1601},
        {"type": "image", "data": {"media": {"id": "77"}}},
        {"type": "document", "content": "Quote", "data": {"media": {"link": LINK}}},
        {"type": "video", "content": "Look", "data": {"media": {"link": LINK}}},
        {"type": "template", "data": {"template": {"name": "cita", "language": "es"}}},
        {"type": "interactive", "data": {"interactive": {"type": "button", "action": {"buttons": []}}}},
        {"type": "reaction", "data": {"target": "SM0", "emoji": "👍"}},
    ],
)
def test_what_twilio_cannot_do_never_leaves(changes: dict[str, Any]) -> None:
    transport = Provider()

    assert send(transport, replace(MESSAGE, **changes)).outcome == "invalid"
    assert transport.asked == []


def test_without_its_account_the_number_stops() -> None:
    transport = Provider()

    assert send(transport, replace(MESSAGE, account_id=None)).outcome == "stop_channel"
    assert transport.asked == []


def test_typing_has_a_host_of_its_own() -> None:
    transport = Provider(200, {"success": True})

    assert within(twilio(transport).typing(INBOUND, TOKEN)) is True

    assert str(transport.only.url) == "https://messaging.twilio.com/v2/Indicators/Typing.json"
    assert form(transport.only) == {"messageId": "SM9", "channel": "whatsapp"}


def test_typing_stays_with_a_simulator() -> None:
    transport = Provider(200, {"success": True})

    within(twilio(transport, TWILIO_URL="http://127.0.0.1:9/twilio").typing(INBOUND, TOKEN))

    assert str(transport.only.url) == "http://127.0.0.1:9/twilio/v2/Indicators/Typing.json"


@pytest.mark.parametrize("code", list(map(int, CODES.split())))
def test_every_error_twilio_documents_has_its_reaction(code: int) -> None:
    assert code in ERRORS


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (63016, "needs_template"),
        (21610, "opted_out"),
        (63018, "slow_number"),
        (20429, "slow_number"),
        (63001, "stop_channel"),
        (20003, "stop_channel"),
        (63051, "stop_channel"),
        (21211, "unreachable"),
        (63024, "unreachable"),
        (63003, "unreachable"),
        (63032, "invalid"),
        (21617, "invalid"),
        (30007, "invalid"),
        (11200, "unknown"),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_error_is_read_by_its_code(code: int, outcome: str, status: int) -> None:
    result = send(Provider(status, refusal(code, status)))

    assert (result.outcome, result.error_code, result.error_message) == (outcome, code, "No")


def test_a_message_that_failed_at_once_was_not_sent() -> None:
    failed = {"sid": "SM1", "status": "failed", "error_code": 63016, "error_message": "Window closed"}

    result = send(Provider(201, failed))

    assert (result.outcome, result.error_code) == ("needs_template", 63016)


@pytest.mark.parametrize(
    ("status", "outcome"), [(500, "unknown"), (503, "unknown"), (429, "slow_number"), (400, "invalid")]
)
def test_a_code_nobody_knows_may_have_sent_it_if_twilio_broke(status: int, outcome: str) -> None:
    assert send(Provider(status, refusal(99999, status))).outcome == outcome


def test_an_error_that_came_as_a_success_counts_as_what_it_says_itself() -> None:
    assert send(Provider(200, refusal(20500, 500))).outcome == "unknown"


@pytest.mark.parametrize(("attempts", "outcome"), [(1, "retry"), (2, "invalid"), (3, "invalid")])
@pytest.mark.parametrize("code", [63019, 30008])
def test_some_errors_are_worth_one_more_try(code: int, attempts: int, outcome: str) -> None:
    assert send(Provider(400, refusal(code)), replace(MESSAGE, attempts=attempts)).outcome == outcome


def test_a_days_limit_waits_for_the_next() -> None:
    result = send(Provider(400, refusal(63038)))

    assert (result.outcome, result.retry_after_seconds) == ("slow_number", 86400)


def test_variables_are_json() -> None:
    template = {"name": "c", "language": "es", "provider_template_id": "HX1", "variables": {"1": 'é "x"'}}

    body = posted(replace(MESSAGE, type="template", data={"template": template}))

    assert json.loads(body["ContentVariables"]) == {"1": 'é "x"'}
