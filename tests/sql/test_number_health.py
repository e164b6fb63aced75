"""number_health: what a number does now, and alerts while it does worse than it usually does."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from tests.sql.given import NOW, Business, Inbox, says
from tests.sql.test_outbox import enqueue
from tests.sql.test_stats import open_chat, refresh, write

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KINDS = "('failure_spike', 'delivery_drop', 'read_drop', 'quality_low', 'queue_late')"


@pytest.fixture
def chat(db: Any, clinic: Business, time_of_the_tests: None) -> uuid.UUID:
    return open_chat(db.connection, clinic)


def wrote(db: Any, chat: uuid.UUID, ago: timedelta, **told: int) -> None:
    """So many messages of that time, by status."""
    for status, messages in told.items():
        for n in range(messages):
            write(db.connection, chat, NOW - ago - timedelta(seconds=n), status)


def usually(db: Any, chat: uuid.UUID, **told: int) -> None:
    for days in (5, 12, 20, 28):
        wrote(db, chat, days * DAY, **told)


def watch(db: Any) -> list[str]:
    refresh(db)
    with db.as_service():
        db.run("select public.number_health_watch()")
    return list(
        db.column(f"select kind from public.alerts where resolved_at is null and kind in {KINDS} order by 1")
    )


def health(db: Any, business: Business) -> dict[str, Any]:
    refresh(db)
    with db.signed_in(business.owner):
        return dict(db.row("select * from public.number_health"))


def test_rates_are_of_1_7_and_28_days(db: Any, clinic: Business, chat: uuid.UUID) -> None:
    wrote(db, chat, timedelta(0), sent=1, read=1)
    wrote(db, chat, 3 * DAY, delivered=3, read=1, failed=1, queued=5, canceled=5)
    wrote(db, chat, 20 * DAY, played=10, failed=10)
    wrote(db, chat, 40 * DAY, failed=100)

    found = health(db, clinic)

    assert (found["handed_7d"], found["handed_28d"]) == (7, 27)
    rates = [
        float(found[f"{name}_rate_{days}d"]) for name in ("delivery", "read", "fail") for days in (7, 28)
    ]
    assert rates == [0.8333, 0.9375, 0.4, 0.8, 0.1429, 0.4074]


def test_a_number_of_which_nothing_arrives_has_a_rate_of_nothing(
    db: Any, clinic: Business, chat: uuid.UUID
) -> None:
    wrote(db, chat, 3 * DAY, sent=5)

    found = health(db, clinic)

    assert (found["delivery_rate_7d"], found["read_rate_7d"], found["fail_rate_7d"]) == (0, None, 0)


def test_a_number_without_messages_has_no_rates(db: Any, clinic: Business) -> None:
    found = health(db, clinic)

    assert (found["handed_28d"], found["delivery_rate_28d"], found["queued"]) == (0, None, 0)
    assert (found["top_errors_7d"], found["token_state"], found["open_alerts"]) == ([], "ok", [])


def test_errors_answers_queue_and_pauses_are_told(
    db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None
) -> None:
    inbox.deliver(says("w1", at=NOW - 2 * DAY))
    chat = db.value("select id from public.chats")
    write(db.connection, chat, NOW - 2 * DAY + timedelta(seconds=90), "read")
    for code in (131026, 131026, 131047):
        write(db.connection, chat, NOW - DAY, "failed", error_code=code)
    enqueue(db)
    enqueue(db)
    db.run("update public.outbox set due_at = private.clock() - interval '1 minute'")
    db.run("update public.outbox set due_at = private.clock() + interval '1 day' where position ="
        " (select max(position) from public.outbox)")  # fmt: skip
    db.run(
        "update public.number_pacing set bulk_paused_until = now() + interval '1 day',"
        " bulk_pause_reason = 'spam'"
    )

    found = health(db, clinic)

    assert found["top_errors_7d"] == [{"code": "131026", "messages": 2}, {"code": "131047", "messages": 1}]
    assert (found["responses_7d"], found["response_avg_7d"], found["response_p50"]) == (1, 90, 90)
    assert (found["queued"], found["scheduled"], found["bulk_pause_reason"]) == (1, 1, "spam")
    assert 60 <= found["queue_age_seconds"] < 300
    assert found["last_heard_at"] == NOW - 2 * DAY


def test_what_is_wrong_with_its_token_is_told_to_all_staff(db: Any, clinic: Business) -> None:
    db.run(
        "select private.alert_raise(%s, 'channel_stopped', %s, 'refused', %s)",
        clinic.tenant_id, str(clinic.number_id), clinic.number_id,
    )  # fmt: skip

    found = health(db, clinic)

    assert (found["token_state"], found["open_alerts"]) == ("refused", ["channel_stopped"])


def test_a_spike_of_failures_is_an_alert_until_it_is_over(db: Any, chat: uuid.UUID) -> None:
    usually(db, chat, read=25)
    wrote(db, chat, HOUR, read=20, failed=10)
    assert watch(db) == watch(db) == ["failure_spike"]
    alert = db.row("select * from public.alerts where kind = 'failure_spike'")
    assert alert["message"].startswith("Fallan muchos") or "fail" in alert["message"]
    assert alert["details"]["share"] == 0.3333

    wrote(db, chat, timedelta(minutes=10), read=200)

    assert watch(db) == []


def test_what_was_not_counted_yet_is_watched_too(db: Any, chat: uuid.UUID) -> None:
    wrote(db, chat, HOUR, failed=20)

    with db.as_service():
        db.run("select public.number_health_watch()")

    assert db.column("select kind from public.alerts where resolved_at is null") == ["failure_spike"]


def test_a_drop_of_deliveries_is_an_alert_once_an_hour_has_passed(db: Any, chat: uuid.UUID) -> None:
    usually(db, chat, read=20, delivered=4, sent=1)
    wrote(db, chat, timedelta(minutes=30), sent=40)
    assert watch(db) == []

    db.run("update local.clock set ahead = ahead + interval '1 hour'")
    assert watch(db) == ["delivery_drop"]

    db.run("update public.messages set status = 'delivered' where status = 'sent'")
    assert watch(db) == []


def test_what_blocks_detection_says_already_is_not_said_twice(
    db: Any, clinic: Business, chat: uuid.UUID
) -> None:
    usually(db, chat, read=25)
    wrote(db, chat, 2 * HOUR, sent=40)
    assert watch(db) == ["delivery_drop"]

    db.run(
        "select private.alert_raise(%s, 'deliveries_missing', %s, 'missing')",
        clinic.tenant_id, str(clinic.number_id),
    )  # fmt: skip

    assert watch(db) == []


def test_a_drop_of_reading_is_an_alert(db: Any, chat: uuid.UUID) -> None:
    usually(db, chat, read=20, delivered=5)
    wrote(db, chat, 2 * DAY, read=20, delivered=40)
    assert watch(db) == ["read_drop"]

    db.run("update public.messages set status = 'read' where status = 'delivered'")
    assert watch(db) == []


@pytest.mark.parametrize(
    ("usual", "now"),
    [
        ({"read": 25}, {"failed": 5}),  # too few to say
        ({"read": 25}, {"read": 28, "failed": 2}),  # chance
        ({"read": 15, "failed": 10}, {"read": 18, "failed": 12}),  # as ever
        ({"read": 2, "sent": 1}, {"sent": 30}),  # nobody knows what is usual
        ({"delivered": 25}, {"delivered": 100}),  # customers who never show that they read
    ],
)
def test_what_is_usual_or_too_little_is_no_alert(
    db: Any, chat: uuid.UUID, usual: dict[str, int], now: dict[str, int]
) -> None:
    usually(db, chat, **usual)
    wrote(db, chat, 2 * HOUR, **now)

    assert watch(db) == []


def test_the_trouble_of_one_number_is_not_another_s(
    db: Any, clinic: Business, plaza: Business, chat: uuid.UUID
) -> None:
    other = open_chat(db.connection, plaza)
    for one in (chat, other):
        usually(db, one, read=25)
    wrote(db, chat, HOUR, failed=30)
    wrote(db, other, HOUR, read=30)

    assert watch(db) == ["failure_spike"]
    assert db.column("select number_id from public.alerts") == [clinic.number_id]


def test_quality_yellow_is_an_alert_and_red_another(db: Any, clinic: Business) -> None:
    db.run("update public.whatsapp_numbers set quality_rating = 'YELLOW' where id = %s", clinic.number_id)
    assert watch(db) == ["quality_low"]

    db.run("update public.whatsapp_numbers set quality_rating = 'RED' where id = %s", clinic.number_id)

    assert watch(db) == []
    assert db.column("select kind from public.alerts where resolved_at is null") == ["bulk_paused"]


@pytest.mark.parametrize(
    ("purpose", "age", "pacing", "expected"),
    [
        ("reply", "20 minutes", None, ["queue_late"]),
        ("reply", "10 minutes", None, []),
        ("sequence", "5 hours", None, []),
        ("sequence", "7 hours", None, ["queue_late"]),
        ("sequence", "7 hours", "bulk_paused_until", []),
        ("reply", "20 minutes", "paused_until", []),
        ("reply", "20 minutes", "bulk_paused_until", ["queue_late"]),
    ],
)
def test_a_queue_that_stands_still_is_an_alert_unless_something_known_stops_it(
    db: Any, inbox: Inbox, purpose: str, age: str, pacing: str | None, expected: list[str]
) -> None:
    inbox.deliver(says("w1"))
    enqueue(db, purpose=purpose)
    db.run(
        "update public.outbox set due_at = private.clock() - %s::interval, created_at = now() - %s::interval",
        age, age,
    )  # fmt: skip
    if pacing:
        db.run(f"update public.number_pacing set {pacing} = 'infinity'")

    assert watch(db) == expected

    db.run("delete from public.outbox")
    assert watch(db) == []
