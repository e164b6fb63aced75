"""Sending through Graph: what is posted, and what every way to fail means for the message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from local.simulator.graph_errors import ERRORS, GraphError
from shared.graph import REACTIONS, Graph, GraphSettings, Message, Result, body_of, reaction

MESSAGE = Message(id="our-id", sender="100", phone="573001112233", content="Hola")
ACCEPTED = {"messaging_product": "whatsapp", "messages": [{"id": "wamid.1", "message_status": "accepted"}]}

Answer = Callable[[httpx.Request], httpx.Response]


def send(answer: Answer, message: Message = MESSAGE) -> Result:
    settings = GraphSettings({"GRAPH_URL": "https://graph.example/"})
    return asyncio.run(Graph(settings, httpx.MockTransport(answer)).send(message, "the token"))


def answering(status: int, body: Any, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: httpx.Response(status, content=content, headers=headers)


def failing(trouble: type[httpx.HTTPError]) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        raise trouble("gone")

    return answer


def test_a_text_is_posted_with_the_numbers_token_and_our_id() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=ACCEPTED)

    result = send(answer)

    (request,) = asked
    assert result == Result(outcome="sent", wa_message_id="wamid.1")
    assert str(request.url) == "https://graph.example/v26.0/100/messages"
    assert request.headers["authorization"] == "Bearer the token"
    assert json.loads(request.content)["biz_opaque_callback_data"] == "our-id"


def test_a_customer_without_a_phone_is_reached_by_their_id() -> None:
    body = body_of(Message(id="1", sender="100", bsuid="CO.42", content="Hola", reply_to="wamid.0"))

    assert body is not None
    assert "to" not in body
    assert (body["recipient"], body["context"]) == ("CO.42", {"message_id": "wamid.0"})


@pytest.mark.parametrize(
    "message",
    [
        Message(id="1", sender="100", content="nobody to send it to"),
        Message(id="1", sender="100", phone="573001112233", content=""),
        Message(id="1", sender="100", phone="573001112233", type="sticker", content="x"),
    ],
)
def test_what_cannot_be_sent_never_leaves(message: Message) -> None:
    assert send(failing(httpx.ReadError), message).outcome == "invalid"


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_meta_documents_has_its_reaction(code: int) -> None:
    assert code in REACTIONS


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (190, "stop_channel"),
        (0, "stop_channel"),
        (299, "stop_channel"),
        (131042, "stop_channel"),
        (131000, "retry"),
        (131016, "retry"),
        (130429, "slow_number"),
        (80007, "slow_number"),
        (131056, "slow_pair"),
        (131047, "needs_template"),
        (131050, "opted_out"),
        (131026, "invalid"),
        (131048, "invalid"),
        (132001, "invalid"),
    ],
)
def test_an_error_is_read_by_its_code(code: int, outcome: str) -> None:
    error = GraphError(code)

    result = send(answering(error.status, error.body()))

    assert (result.outcome, result.error_code) == (outcome, code)
    assert error.title in (result.error_message or "") or code in (0, 190)


def test_a_number_that_is_gone_stops_its_channel() -> None:
    assert send(answering(400, GraphError(100, "gone", subcode=33).body())).outcome == "stop_channel"


def test_a_code_nobody_knows_is_an_outage_only_if_meta_says_so() -> None:
    assert (reaction(999999, 500).outcome, reaction(999999, 400).outcome) == ("retry", "invalid")


def test_meta_says_when_to_come_back_and_otherwise_we_know() -> None:
    error = GraphError(80007)

    told = send(answering(400, error.body(), **{"retry-after": "7"}))
    untold = send(answering(400, error.body()))

    assert (told.retry_after_seconds, untold.retry_after_seconds) == (7, 60)


@pytest.mark.parametrize("trouble", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
def test_what_never_left_is_sent_again(trouble: type[httpx.HTTPError]) -> None:
    assert send(failing(trouble)).outcome == "retry"


@pytest.mark.parametrize(
    "trouble",
    [httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError],
)
def test_what_may_have_arrived_is_unknown(trouble: type[httpx.HTTPError]) -> None:
    assert send(failing(trouble)).outcome == "unknown"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"messages": [{"i'),
        (200, {}),
        (200, []),
        (200, {"messages": []}),
        (502, b"<html>"),
        (504, b""),
        (500, {"error": "no object"}),
    ],
)
def test_an_answer_without_sense_is_unknown(status: int, body: Any) -> None:
    assert send(answering(status, body)).outcome == "unknown"


@pytest.mark.parametrize(("status", "outcome"), [(429, "slow_number"), (404, "retry"), (403, "retry")])
def test_a_refusal_of_something_in_between_is_tried_again(status: int, outcome: str) -> None:
    result = send(answering(status, b"<html>", **{"retry-after": "3"}))

    assert (result.outcome, result.retry_after_seconds) == (outcome, 3)
