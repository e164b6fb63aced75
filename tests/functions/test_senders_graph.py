"""Sending through Graph: what is posted for each kind of message, and what each of its errors means."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import httpx
import pytest

from local.simulator.graph_body import check_message, check_read
from local.simulator.graph_errors import GraphError
from shared.senders.base import Message, Result
from shared.senders.gestures import Inbound
from shared.senders.graph import ERRORS, Graph
from shared.senders.settings import GraphSettings
from tests.functions.provider import TOKEN, Provider, sending, within

MESSAGE = Message(id="our-id", sender="100", phone="573001112233", content="Hola")
ACCEPTED = {"messaging_product": "whatsapp", "messages": [{"id": "wamid.1", "message_status": "accepted"}]}
LINK = "https://files.example/a.jpg"
INBOUND = Inbound(id="wamid.9", sender="100", phone="573001112233")

# Meta's error codes, as of 2026-09-11; 200 to 299 are one class.
CODES = """
    0 190 3 10 131005 1 2 131000 131016 135000 4 80007 613 130429 131056 131048 131064
    368 131031 130497 131047 131026 131050 131049 130472 130403 131062 131042 131021 131030 100
    131008 131009 33 131045 133010 133016 131037 131051 131052 131053 131057 131063 132000 132001
    132005 132007 132008 132012 132015 132016 132068 132069 137000 131060
"""


def graph(transport: httpx.AsyncBaseTransport) -> Graph:
    return Graph(GraphSettings({"GRAPH_URL": "https://graph.example/"}), transport)


def send(transport: Provider, message: Message = MESSAGE) -> Result:
    return sending(graph(transport), message)


def posted(message: Message) -> dict[str, Any]:
    """The body that was sent, which the simulator would take too."""
    transport = Provider(200, ACCEPTED)
    assert send(transport, message).outcome == "sent"
    body: dict[str, Any] = json.loads(transport.only.content)
    check_message(body)
    return body


def test_a_message_is_posted_with_the_numbers_token_and_our_id() -> None:
    transport = Provider(200, ACCEPTED)

    result = send(transport)

    assert result == Result(outcome="sent", wa_message_id="wamid.1")
    assert str(transport.only.url) == "https://graph.example/v26.0/100/messages"
    assert transport.only.headers["authorization"] == "Bearer the-token"
    assert json.loads(transport.only.content) == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "573001112233",
        "type": "text",
        "text": {"body": "Hola", "preview_url": False},
        "biz_opaque_callback_data": "our-id",
    }


def test_a_customer_without_a_phone_is_reached_by_their_id() -> None:
    body = posted(replace(MESSAGE, phone=None, bsuid="CO.42", reply_to="wamid.0"))

    assert "to" not in body
    assert (body["recipient"], body["context"]) == ("CO.42", {"message_id": "wamid.0"})


def test_a_link_gets_its_preview() -> None:
    assert posted(replace(MESSAGE, content="See https://recado.example"))["text"]["preview_url"] is True


@pytest.mark.parametrize(
    ("kind", "words", "data", "part"),
    [
        ("image", "A", {"media": {"link": LINK}}, {"link": LINK, "caption": "A"}),
        ("image", None, {"media": {"id": "77"}, "filename": "a.jpg"}, {"id": "77"}),
        ("video", "A", {"media": {"id": "77"}}, {"id": "77", "caption": "A"}),
        ("audio", None, {"media": {"id": "77"}, "mime": "audio/ogg"}, {"id": "77"}),
        ("sticker", "", {"media": {"id": "77"}}, {"id": "77"}),
        (
            "document",
            "Quote",
            {"media": {"link": LINK}, "filename": "quote.pdf", "mime": "application/pdf"},
            {"link": LINK, "caption": "Quote", "filename": "quote.pdf"},
        ),
        ("reaction", None, {"target": "wamid.7", "emoji": "👍"}, {"message_id": "wamid.7", "emoji": "👍"}),
        ("reaction", None, {"target": "wamid.7"}, {"message_id": "wamid.7", "emoji": ""}),
    ],
)
def test_each_kind_has_its_part(kind: str, words: str | None, data: Any, part: Any) -> None:
    body = posted(replace(MESSAGE, type=kind, content=words, data=data))

    assert (body["type"], body[kind]) == (kind, part)


def test_a_reaction_quotes_nothing() -> None:
    data = {"target": "wamid.7", "emoji": "👍"}

    assert "context" not in posted(replace(MESSAGE, type="reaction", data=data, reply_to="wamid.7"))


def test_a_template_goes_out_filled_in() -> None:
    components = [{"type": "body", "parameters": [{"type": "text", "text": "A-17"}]}]
    template = {"name": "order_ready", "language": "es", "category": "utility", "components": components}

    body = posted(replace(MESSAGE, type="template", data={"template": template, "category": "utility"}))
    plain = posted(replace(MESSAGE, type="template", data={"template": template | {"components": []}}))

    assert body["template"] == {"name": "order_ready", "language": {"code": "es"}, "components": components}
    assert plain["template"] == {"name": "order_ready", "language": {"code": "es"}}


def buttons(count: int = 1, title: str = "Yes", words: str = "Confirm?") -> dict[str, Any]:
    replies = [{"type": "reply", "reply": {"id": str(index), "title": title}} for index in range(count)]
    return {"type": "button", "body": {"text": words}, "action": {"buttons": replies}}


def options(rows: int = 2, **row: str) -> dict[str, Any]:
    found = [{"id": str(index), "title": "Ten", **row} for index in range(rows)]
    sections = [{"title": "Today", "rows": found[:5]}, {"title": "Tomorrow", "rows": found[5:]}]
    used = [section for section in sections if section["rows"]]
    return {"type": "list", "body": {"text": "When?"}, "action": {"button": "Choose", "sections": used}}


def interactive(given: dict[str, Any]) -> Message:
    return replace(MESSAGE, type="interactive", content="Confirm?", data={"interactive": given})


@pytest.mark.parametrize("given", [buttons(3, "x" * 20), options(10, description="d" * 72)])
def test_buttons_and_lists_go_out_as_they_are(given: dict[str, Any]) -> None:
    assert posted(interactive(given))["interactive"] == given


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (buttons(4), r"action\.buttons has 4 entries"),
        (buttons(title="x" * 21), r"reply\.title has 21"),
        (buttons(words="x" * 1025), r"body\.text has 1025"),
        (options(11), r"rows has 11"),
        (options(title="x" * 25), r"title has 25"),
        (options(description="x" * 73), r"description has 73"),
        (buttons() | {"footer": {"text": "x" * 61}}, r"footer\.text has 61"),
    ],
)
def test_an_interactive_message_that_is_too_large_says_where(given: dict[str, Any], named: str) -> None:
    transport = Provider()

    result = send(transport, interactive(given))

    assert (result.outcome, transport.asked) == ("invalid", [])
    assert re.search(named, result.error_message or "")


def test_a_number_id_cannot_lead_anywhere_else() -> None:
    transport = Provider(200, ACCEPTED)

    send(transport, replace(MESSAGE, sender="../../oauth?x="))

    assert transport.only.url.raw_path == b"/v26.0/..%2F..%2Foauth%3Fx%3D/messages"


def test_reading_and_typing_are_told_for_the_customers_message() -> None:
    transport = Provider(200, {"success": True})
    provider = graph(transport)

    assert within(provider.mark_read(INBOUND, TOKEN)) is True
    assert within(provider.typing(INBOUND, TOKEN)) is True

    read, typing = (json.loads(request.content) for request in transport.asked)
    assert read == {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.9"}
    assert typing == {**read, "typing_indicator": {"type": "text"}}
    check_read(typing)


@pytest.mark.parametrize("code", [*map(int, CODES.split()), *range(200, 300)])
def test_every_error_meta_documents_has_its_reaction(code: int) -> None:
    assert code in ERRORS


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (190, "stop_channel"),
        (0, "stop_channel"),
        (299, "stop_channel"),
        (368, "stop_channel"),
        (131042, "stop_channel"),
        (131000, "retry"),
        (131016, "retry"),
        (130429, "slow_number"),
        (80007, "slow_number"),
        (131056, "slow_pair"),
        (131048, "pause_bulk"),
        (131047, "needs_template"),
        (131050, "opted_out"),
        (131026, "unreachable"),
        (131049, "invalid"),
        (132001, "invalid"),
        (132015, "invalid"),
    ],
)
def test_an_error_is_read_by_its_code(code: int, outcome: str) -> None:
    error = GraphError(code)

    result = send(Provider(error.status, error.body()))

    assert (result.outcome, result.error_code) == (outcome, code)
    assert error.title in (result.error_message or "") or code in (0, 190)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_error_is_an_error_whatever_the_status(status: int) -> None:
    assert send(Provider(status, GraphError(131047).body())).outcome == "needs_template"


def test_a_number_that_is_gone_stops_its_channel() -> None:
    assert send(Provider(400, GraphError(100, "gone", subcode=33).body())).outcome == "stop_channel"


@pytest.mark.parametrize(
    ("status", "outcome"), [(500, "retry"), (503, "retry"), (429, "slow_number"), (400, "invalid")]
)
def test_a_code_nobody_knows_is_an_outage_only_if_meta_says_so(status: int, outcome: str) -> None:
    assert send(Provider(status, {"error": {"code": 999999}})).outcome == outcome


def test_meta_says_when_to_come_back_and_otherwise_we_know() -> None:
    error = GraphError(80007).body()

    told = send(Provider(400, error, retry_after="7"))
    untold = send(Provider(400, error))

    assert (told.retry_after_seconds, untold.retry_after_seconds) == (7, 60)
