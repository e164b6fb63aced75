"""inbox_watch: deliveries are replayed without harm, forgotten in time, and missed when they do not come."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.sql.given import MARIA, NOW, Business, Event, Inbox, echo, event, says, status
from tests.sql.test_inbox import everything

MINUTE = timedelta(minutes=1)


def every_kind() -> list[Event]:
    return [
        says("w1", "uno", media={"id": "m1", "mime": "image/png"}, referral={"source_id": "a"}),
        says("w2", "STOP"),
        echo("w3", at=NOW + MINUTE),
        status("w3", "read", pricing={"type": "regular", "category": "service"}),
        status("w404", "sent"),
        event("edit", "e1", NOW + MINUTE, target="w1", text="dos"),
        event("revoke", "v1", NOW + MINUTE, target="w2"),
        event("reaction", "r1", target="w1", by="customer", emoji="x"),
        event(
            "identity", "i1", NOW + MINUTE, **{"from": MARIA, "to": {"phone": "57399999999", "bsuid": "CO.3"}}
        ),
        event("call", "c1", NOW + MINUTE, contact=MARIA, direction="inbound", status="connect"),
        event("preference", "p1", contact=MARIA, category="marketing", value="stop"),
        event("contact_sync", "", contact=MARIA, action="add") | {"id": None, "name": "Mari"},
        event("problem", "", code=1, message="?") | {"id": None},
    ]


def test_replaying_any_delivery_any_number_of_times_changes_nothing(db: Any, inbox: Inbox) -> None:
    for told in every_kind():
        inbox.deliver(told)
    news = event("account", "", subject="capability", data={"limit": 250}) | {"id": None}
    inbox.deliver(news, number=None)
    logs = list(
        zip(db.column("select id from public.webhook_logs order by id"), [*every_kind(), news], strict=True)
    )
    # what was active has been written, so that nothing is waiting that a replay could hide in
    db.run("select public.activity_flush(true)")
    before = everything(db) | versions(db)

    with db.as_service():
        for log, told in [*logs, *reversed(logs), *logs]:
            assert db.value("select public.webhook_replay(%s)", log) is True
            assert db.value("select public.webhook_replay(%s, %s)", log, Jsonb([told])) is True

    assert everything(db) | versions(db) == before


def versions(db: Any) -> dict[str, Any]:
    """Where each row lies: written again, it lies elsewhere."""
    tables = ("customer_leads", "chats", "conversations", "messages", "lead_identities", "whatsapp_numbers")
    return {f"{t} at": db.column(f"select ctid::text from public.{t} order by 1") for t in tables}


def test_a_delivery_given_up_is_an_alert_and_can_still_be_replayed(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("w1", contact={"phone": "?"}))
    db.run("update public.webhook_logs set attempts = 8, next_attempt_at = now()")
    with db.as_service():
        db.run("select public.webhook_retry()")
    assert db.column("select kind from public.alerts where tenant_id = %s", clinic.tenant_id) == [
        "delivery_lost"
    ]

    log = db.value("select id from public.webhook_logs where status = 'dead'")
    with db.as_service():
        assert db.value("select public.webhook_replay(%s, %s)", log, Jsonb([says("w1")])) is True
    assert db.column("select status from public.webhook_logs") == ["applied"]


def test_a_replay_does_not_wake_what_is_dead(db: Any, inbox: Inbox) -> None:
    inbox.deliver(raw="AAECAw==", error="It is not JSON.", payload=None)
    before = db.row("select * from public.webhook_logs")

    with db.as_service():
        for _ in range(2):
            assert db.value("select public.webhook_replay(%s)", before["id"]) is False

    assert db.row("select * from public.webhook_logs") == before


def test_deliveries_are_kept_as_long_as_the_business_wants(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    db.run(
        "update public.tenant_settings set webhook_log_retention_days = 30 where tenant_id = %s",
        clinic.tenant_id,
    )
    for days in (10, 31, 100):
        at = (NOW - timedelta(days=days)).isoformat()
        inbox.deliver(says(f"w{days}"), received_at=at)
        inbox.deliver(says(f"w{days}"), received_at=at, number=plaza.number)
        inbox.deliver(says(f"w{days}"), received_at=at, number="nobody")
    with db.as_service():
        assert db.value("select public.webhook_purge(1)") == 1
        assert db.value("select public.webhook_purge()") == 2

    kept = db.rows("select tenant_id, count(*) from public.webhook_logs group by 1")
    assert {row["tenant_id"]: row["count"] for row in kept} == {
        clinic.tenant_id: 1,
        plaza.tenant_id: 3,
        None: 2,
    }


@pytest.fixture
def listening(db: Any, clinic: Business) -> Business:
    """We have listened all the time; what is usual, `usual` says."""
    db.run(
        "insert into private.listening values (true, now() - interval '60 days', now() - interval '1 hour')"
    )
    return clinic


def usual(db: Any, clinic: Business, hours: str, since: str = "28 days", silent: str = "6 hours") -> None:
    """Ten deliveries in each of these hours."""
    db.run(
        "insert into private.number_traffic select %s, %s, h, 10"
        f" from generate_series(date_trunc('hour', now()) - interval '{since}',"
        f" date_trunc('hour', now()) - interval '{silent}', '1 hour') h where {hours}",
        clinic.tenant_id,
        clinic.number_id,
    )


def watch(db: Any) -> list[str]:
    with db.as_service():
        db.run("select public.numbers_watch()")
    return list(db.column("select kind from public.alerts where resolved_at is null"))


def test_a_number_that_usually_receives_and_does_not_is_an_alert_until_it_does(
    db: Any, inbox: Inbox, listening: Business
) -> None:
    usual(db, listening, "true")
    assert watch(db) == watch(db) == ["number_silent"]

    inbox.deliver(says("w1"), received_at=NOW.isoformat())
    assert watch(db) == []


def test_nothing_is_missed_in_hours_in_which_nothing_is_usual(db: Any, listening: Business) -> None:
    quiet = "array(select extract(hour from now() - n * interval '1 hour') from generate_series(0, 6) n)"
    usual(db, listening, f"extract(hour from h) <> all ({quiet})")

    assert watch(db) == []


def test_a_new_number_is_not_missed(db: Any, listening: Business) -> None:
    usual(db, listening, "true", since="13 days")

    assert watch(db) == []


def test_nobody_was_silent_while_we_were_away(db: Any, listening: Business) -> None:
    usual(db, listening, "true")
    db.run("update private.listening set heard_at = now() - interval '6 hours'")

    assert watch(db) == []


def test_a_business_may_want_to_hear_of_it_later_or_never(db: Any, listening: Business) -> None:
    usual(db, listening, "true")
    for wanted in (100, None):
        db.run("update public.tenant_settings set silence_alert_deliveries = %s", wanted)
        assert watch(db) == []
