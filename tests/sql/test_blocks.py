"""Blocks: who is taken for having blocked a number, who is not, and how that ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.blocks import DAY, HOUR, Chat, Histories, set_clock
from tests.sql.given import Business

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OLD = NOW - 80 * HOUR
REFUSED = "42501|PT403"


@pytest.fixture
def histories(db: Any, clinic: Business) -> Histories:
    set_clock(db, NOW)
    return Histories(db, clinic.tenant_id, clinic.number_id)


@pytest.fixture
def chat(histories: Histories) -> Chat:
    """A customer whom a message has reached once."""
    return histories.chat().sent(NOW - 20 * DAY, delivered=HOUR)


@pytest.mark.parametrize(
    ("undelivered", "state"), [(0, "none"), (1, "none"), (2, "probable"), (3, "confirmed"), (5, "confirmed")]
)
def test_messages_that_stay_sent_make_a_block(
    histories: Histories, chat: Chat, undelivered: int, state: str
) -> None:
    chat.sent(*(OLD - n * DAY for n in range(undelivered)))

    found = histories.detect()

    assert chat.state == state
    assert [marked["level"] for marked in found["marked"]] == ([state] if undelivered > 1 else [])


def test_the_issue_says_what_it_rests_on(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - 2 * DAY, OLD - DAY, OLD)

    histories.detect()

    issue = chat.issue
    told = {
        name: issue[name]
        for name in ("level", "probability", "cause", "message_count", "first_at", "last_at")
    }
    assert told == {
        "level": "confirmed",
        "probability": 99,
        "cause": "likely_block",
        "message_count": 3,
        "first_at": OLD - 2 * DAY,
        "last_at": OLD,
    }
    assert (issue["opened_at"], issue["after_hours"], issue["after_count"]) == (NOW, 72, 3)


def test_a_probable_block_becomes_certain_with_the_next_message(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - DAY, OLD)
    histories.detect()
    chat.sent(NOW - HOUR)

    histories.detect(NOW + 80 * HOUR)

    assert (chat.state, chat.issue["opened_at"]) == ("confirmed", NOW)
    assert chat.issue["confirmed_at"] == NOW + 80 * HOUR


@pytest.mark.parametrize(
    "ended",
    [
        lambda chat: chat.sent(OLD + HOUR, delivered=HOUR),
        lambda chat: chat.sent(OLD + HOUR, status="read", read_at=OLD + 2 * HOUR),
        lambda chat: chat.sent(OLD + HOUR, status="played"),
        lambda chat: chat.wrote(OLD + HOUR),
        # what was sent before, and is read after
        lambda chat: chat.sent(OLD - 3 * DAY, delivered=4 * DAY),
    ],
    ids=["delivered", "read", "played", "inbound", "delivered late"],
)
def test_a_sign_of_life_ends_the_run(histories: Histories, chat: Chat, ended: Any) -> None:
    chat.sent(OLD - 2 * DAY, OLD - DAY, OLD)
    ended(chat)

    assert histories.detect()["marked"] == []


@pytest.mark.parametrize("status", ["failed", "unknown", "skipped", "canceled", "queued"])
def test_what_was_not_sent_says_nothing(histories: Histories, chat: Chat, status: str) -> None:
    chat.sent(OLD - DAY).sent(OLD - HOUR, OLD, status=status).sent(NOW - 71 * HOUR)

    assert histories.detect()["marked"] == []


def test_what_was_written_on_the_phone_says_nothing(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - DAY, OLD - HOUR, OLD, source="manual", role="human")

    assert histories.detect()["marked"] == []


def test_each_business_has_its_own_thresholds(histories: Histories, chat: Chat) -> None:
    histories.db.run(
        "update public.tenant_settings set block_after_hours = 24, block_probable_count = 3,"
        " block_confirmed_count = 4"
    )
    chat.sent(NOW - 28 * HOUR, NOW - 27 * HOUR)
    assert histories.detect()["marked"] == []

    chat.sent(NOW - 26 * HOUR)

    assert [marked["level"] for marked in histories.detect()["marked"]] == ["probable"]
    assert (chat.issue["after_hours"], chat.issue["after_count"]) == (24, 3)


def test_detecting_again_changes_nothing(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - 2 * DAY, OLD - DAY, OLD)
    histories.detect()

    assert histories.detect(NOW + 6 * HOUR)["marked"] == []
    assert histories.db.value("select count(*) from public.delivery_issues") == 1


# Outages.


def test_an_outage_of_the_number_marks_nobody_and_raises_one_alert(histories: Histories) -> None:
    week = [NOW - n * DAY for n in range(7, 35)]
    for chat in [histories.chat() for _ in range(8)]:
        chat.sent(*week, delivered=timedelta(minutes=1)).sent(*(NOW - n * DAY for n in range(6)))

    found = histories.detect()

    assert (found["marked"], found["spared"], found["outages"]) == ([], 8, 1)
    alert = histories.db.row("select * from public.alerts where resolved_at is null")
    assert (alert["kind"], alert["subject"]) == ("deliveries_missing", str(histories.number_id))
    histories.detect(NOW + 6 * HOUR)
    assert histories.db.value("select count(*) from public.alerts") == 1


def test_the_alert_ends_when_messages_arrive_again(histories: Histories) -> None:
    for chat in [histories.chat() for _ in range(8)]:
        chat.sent(*(NOW - n * DAY for n in range(1, 6)))
    histories.detect()

    histories.healthy([NOW + DAY, NOW + 2 * DAY])

    assert histories.detect(NOW + 5 * DAY)["marked"] == []
    assert histories.db.value("select count(*) from public.alerts where resolved_at is null") == 0


def test_a_new_number_that_nothing_leaves_is_an_outage_too(histories: Histories) -> None:
    for chat in [histories.chat() for _ in range(5)]:
        chat.sent(OLD - DAY, OLD)

    assert histories.detect()["marked"] == []


def test_of_a_few_customers_the_one_who_blocks_is_found(histories: Histories) -> None:
    days = [NOW - n * DAY for n in range(1, 30)]
    histories.healthy(days, chats=1)
    blocked = histories.chat().sent(OLD - 4 * DAY, OLD - 2 * DAY, OLD)

    histories.detect()

    assert blocked.state == "confirmed"


def test_a_quarter_of_all_customers_may_be_gone_without_an_outage(histories: Histories) -> None:
    histories.healthy([NOW - n * DAY for n in range(1, 30)], chats=30)
    blocked = [histories.chat().sent(*(NOW - n * DAY for n in range(4, 9))) for _ in range(10)]

    histories.detect()

    assert {chat.state for chat in blocked} == {"confirmed"}


def test_messages_before_and_after_an_outage_still_count(histories: Histories) -> None:
    outage = [NOW - n * DAY for n in (12, 13)]
    around = [NOW - n * DAY for n in range(4, 30) if n not in (12, 13)]
    for healthy in [histories.chat() for _ in range(8)]:
        healthy.sent(*around, delivered=HOUR).sent(*outage)
    blocked = histories.chat().sent(*(NOW - n * DAY for n in (13, 12, 9, 8, 7)))

    histories.detect()

    assert (blocked.state, blocked.issue["message_count"]) == ("confirmed", 3)
    assert [chat.state for chat in histories.chats if chat is not blocked] == ["none"] * 8


def test_an_outage_of_one_number_hides_no_block_on_another(histories: Histories) -> None:
    other = histories.number()
    for chat in [histories.chat(other) for _ in range(8)]:
        chat.sent(*(NOW - n * DAY for n in range(7)))
    histories.healthy([NOW - n * DAY for n in range(1, 10)])
    blocked = histories.chat().sent(OLD - 2 * DAY, OLD - DAY, OLD)

    found = histories.detect()

    assert [marked["chat_id"] for marked in found["marked"]] == [str(blocked.id)]


@pytest.mark.parametrize(("reports", "state"), [(False, "none"), (True, "confirmed")])
@pytest.mark.parametrize("provider", ["whapi", "twilio"])
def test_a_provider_that_never_tells_what_arrived_says_nothing_about_blocks(
    histories: Histories, provider: str, reports: bool, state: str
) -> None:
    number = histories.number(provider)
    if reports:
        histories.healthy([NOW - 9 * DAY], number, chats=1)
    chat = histories.chat(number).sent(OLD - 2 * DAY, OLD - DAY, OLD)

    histories.detect()

    assert chat.state == state
