"""Customers whom WhatsApp cannot reach: never from one error, apart from blocks, until any sign of life."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from shared.senders import graph, twilio, whapi
from tests.sql.blocks import Chat, Histories
from tests.sql.given import NOW, Business, Inbox, event, says

HOUR = timedelta(hours=1)
pytestmark = pytest.mark.usefixtures("time_of_the_tests")


@pytest.fixture
def maria(db: Any, clinic: Business, inbox: Inbox) -> Chat:
    """She wrote once; five messages went to her since."""
    inbox.deliver(says("hola", at=NOW - 100 * HOUR))
    row = db.row("select * from public.chats")
    maria = Chat(db, clinic.tenant_id, clinic.number_id, row["lead_id"], row["id"])
    for n in range(5):
        maria.sent(NOW - (60 - 10 * n) * HOUR, wa_message_id=f"wamid.{n}")
    return maria


def fails(inbox: Inbox, n: int, hours_ago: float, code: int = 131026) -> None:
    at = NOW - hours_ago * HOUR
    inbox.deliver(event("status", f"wamid.{n}", at, status="failed", error={"code": code, "title": "No"}))


def state(chat: Chat) -> str:
    return str(chat.db.value("select reach_state from public.chats where id = %s", chat.id))


def test_two_refusals_a_day_apart_make_a_customer_unreachable(maria: Chat, inbox: Inbox) -> None:
    fails(inbox, 0, 50)
    assert state(maria) == "ok"

    fails(inbox, 1, 25)

    counted = maria.db.row(
        "select failures, last_error_code, unreachable_at is null as is_ok from unreachable_chats"
    )
    assert (state(maria), counted) == (
        "unreachable",
        {"failures": 2, "last_error_code": 131026, "is_ok": False},
    )
    assert maria.state == "none"


@pytest.mark.parametrize(
    "refusals",
    [[(0, 50)], [(0, 50), (0, 20)], [(0, 50), (1, 30), (2, 27)], [(0, 50), (1, 20, 131049)]],
    ids=["one", "one told twice", "within a day", "another error"],
)
def test_less_does_not(maria: Chat, inbox: Inbox, refusals: list[Any]) -> None:
    for refusal in refusals:
        fails(inbox, *refusal)

    assert state(maria) == "ok"


def test_a_success_in_between_begins_the_count_anew(maria: Chat, inbox: Inbox) -> None:
    fails(inbox, 0, 50)
    inbox.deliver(event("status", "wamid.1", NOW - 40 * HOUR, status="delivered"))
    fails(inbox, 2, 20)

    assert state(maria) == "ok"
    assert maria.db.value("select failures from public.unreachable_chats") == 1


@pytest.mark.parametrize(
    ("sign", "how"),
    [
        (event("status", "wamid.4", NOW, status="delivered"), "delivered"),
        (event("status", "wamid.4", NOW, status="read"), "read"),
        (says("back", at=NOW), "inbound"),
    ],
    ids=["delivered", "read", "inbound"],
)
def test_any_sign_of_life_ends_it(maria: Chat, inbox: Inbox, sign: Any, how: str) -> None:
    fails(inbox, 0, 50)
    fails(inbox, 1, 25)

    inbox.deliver(sign)

    assert state(maria) == "ok"
    assert maria.db.value("select restored_how from public.unreachable_chats") == how


def test_staff_may_try_again_and_the_old_errors_do_not_count(
    maria: Chat, inbox: Inbox, clinic: Business
) -> None:
    fails(inbox, 0, 50)
    fails(inbox, 1, 25)
    with maria.db.signed_in(clinic.owner):
        assert maria.db.value("select public.block_reactivate(%s, 'Dio otro número')", maria.id) is True
    assert state(maria) == "ok"

    fails(inbox, 2, -0.01)

    assert state(maria) == "ok"


def test_the_database_knows_the_errors_that_the_senders_know(db: Any) -> None:
    for provider, table in (("cloud_api", graph.ERRORS), ("twilio", twilio.ERRORS), ("whapi", whapi.ERRORS)):
        codes = db.value("select private.unreachable_codes(%s)", provider)
        assert sorted(codes) == sorted(code for code, seen in table.items() if seen.outcome == "unreachable")


def test_a_send_that_is_refused_at_once_counts_too(db: Any, maria: Chat) -> None:
    for hours in (30, 1):
        message_id = db.value(
            "insert into public.messages (tenant_id, chat_id, lead_id, number_id, direction, role, source,"
            " type, status, provider_at)"
            " values (%s, %s, %s, %s, 'outbound', 'human', 'staff', 'text', 'sending', %s) returning id",
            maria.tenant_id, maria.id, maria.lead_id, maria.number_id, NOW - hours * HOUR,
        )  # fmt: skip
        db.run("update local.clock set ahead = %s - now()", NOW - hours * HOUR)
        db.run(
            "select private.sends_failed(array[(%s, %s, %s, %s, 'staff', 1, true, 'unreachable', null,"
            " 131026, 'No', null)::private.send_result])",
            maria.tenant_id, message_id, maria.id, maria.number_id,
        )  # fmt: skip

    assert state(maria) == "unreachable"


def test_histories_of_refusals_are_no_blocks(db: Any, clinic: Business, inbox: Inbox, maria: Chat) -> None:
    for n in range(5):
        fails(inbox, n, 50 - 8 * n)

    assert Histories(db, clinic.tenant_id, clinic.number_id).detect()["marked"] == []
    assert (maria.state, state(maria)) == ("none", "unreachable")
