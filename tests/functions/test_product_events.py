"""What the log says of messages: once each, by our ids, and nothing of what they say or to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import logs
from shared.events import Payload, Receipt
from shared.inbox import WINDOW_CLOSED, Inbox, Parcel
from shared.senders import graph, twilio
from shared.senders.base import Outcome
from tests.functions.conftest import Lines
from tests.functions.test_deliver import Database, Provider, deliver, errand

RECEIVED = {
    "event": "whatsapp.message.received",
    "tenant_id": "t1",
    "number_id": "n1",
    "provider": "cloud_api",
    "count": 1,
    "message_ids": ["m1"],
    "chat_ids": ["c1"],
}


def failed(message_id: str, code: int | None) -> dict[str, Any]:
    return {
        **{name: RECEIVED[name] for name in ("tenant_id", "number_id", "provider")},
        "event": "whatsapp.send.failed",
        "count": 1,
        "message_ids": [message_id],
        "error_code": code,
    }


@pytest.fixture
def lines(lines: Lines) -> Lines:
    logs.configure("test")
    return lines


def receive(*answers: Sequence[dict[str, Any]]) -> None:
    """One request whose payloads the database answers so."""
    parcels = [
        Parcel(Payload(provider="cloud_api", delivery_id=str(n), received_at=datetime.now(UTC)))
        for n in range(len(answers))
    ]

    async def store(batch: Sequence[bytes]) -> list[Receipt]:
        return [Receipt(status="applied", stored=1, repeated=0, product_events=told) for told in answers]

    asyncio.run(Inbox(store).receive(parcels))


def of(lines: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    return [[line.get(name) for name in names] for line in lines]


def test_a_message_received_is_one_line(lines: Lines) -> None:
    receive([RECEIVED])

    (line,) = lines()
    assert {name: line[name] for name in RECEIVED} == RECEIVED
    assert (line["message"], line["severity"]) == ("whatsapp.message.received", "INFO")


def test_what_tells_nothing_new_is_no_line(lines: Lines) -> None:
    receive([])

    assert lines() == []


def test_a_delivery_of_many_is_one_line_for_each_number_with_few_ids(lines: Lines) -> None:
    receive(*[[RECEIVED | {"message_ids": [f"m{n}"]}] for n in range(1000)], [RECEIVED | {"number_id": "n2"}])

    first, second = lines()
    assert (first["number_id"], first["count"], len(first["message_ids"])) == ("n1", 1000, logs.LISTED)
    assert (second["number_id"], second["count"]) == ("n2", 1)


def test_failures_told_later_are_one_line_for_each_code(lines: Lines) -> None:
    receive([failed("m1", 131026), failed("m2", 131026)], [failed("m3", None)])

    assert of(lines(), "message", "severity", "error_code", "count") == [
        ["whatsapp.send.failed", "WARNING", 131026, 2],
        ["whatsapp.send.failed", "WARNING", None, 1],
    ]


def test_a_window_that_the_provider_found_closed_is_told_as_such(lines: Lines) -> None:
    receive([failed("m1", 131047)])

    assert of(lines(), "message", "message_ids") == [
        ["whatsapp.send.failed", ["m1"]],
        ["whatsapp.window.closed", ["m1"]],
    ]


def test_the_codes_of_a_closed_window_are_those_of_the_senders() -> None:
    tables = [*graph.ERRORS.items(), *twilio.ERRORS.items()]

    assert {code for code, reaction in tables if reaction.outcome == "needs_template"} == WINDOW_CLOSED


def test_a_message_sent_is_one_line(lines: Lines) -> None:
    database = Database(errand("m1", attempts=2))

    deliver(database, Provider(database))

    names = ("message", "tenant_id", "number_id", "provider", "chat_id", "message_id", "attempts")
    assert of(lines(), *names) == [
        ["whatsapp.message.sent", "tenant", "number", "cloud_api", "chat", "m1", 2]
    ]


@pytest.mark.parametrize("outcome", ["retry", "invalid", "stop_channel", "unknown"])
def test_a_send_that_fails_says_what_follows(lines: Lines, outcome: Outcome) -> None:
    database = Database(errand("m1"))

    deliver(database, Provider(database, outcome))

    (line,) = lines()
    assert (line["message"], line["outcome"]) == ("whatsapp.send.failed", outcome)


def test_a_window_closed_is_told_by_the_provider_and_by_the_decision(lines: Lines) -> None:
    database = Database(errand("m1"))
    closed = {name: name for name in ("tenant_id", "number_id", "chat_id", "message_id")}
    database.closed = [closed | {"reason": "window_closed"}]

    deliver(database, Provider(database, "needs_template"))

    assert of(lines(), "message", "message_id", "reason") == [
        ["whatsapp.window.closed", "message_id", "window_closed"],
        ["whatsapp.send.failed", "m1", None],
        ["whatsapp.window.closed", "m1", None],
    ]


def test_no_line_has_the_phone_the_text_or_the_token(lines: Lines) -> None:
    database = Database(errand("m1"), errand("m2"))

    deliver(database, Provider(database))
    deliver(database, Provider(database, "invalid"))

    said = str(lines())
    assert not [word for word in ("573001112233", "Hola", "the token") if word in said]
    assert said.count("'event'") == 4
