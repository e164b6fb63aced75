"""Backfill: whose lists of messages are due, from when on, and what a failure leads to."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import Db
from tests.sql.given import Business


@pytest.fixture
def channel(db: Db, clinic: Business) -> uuid.UUID:
    """A Whapi number of the clinic, connected an hour ago."""
    number_id: uuid.UUID = db.value(
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
        " display_name, created_at) values (%s, 'whapi', '573009990002', 'C1', 'Whapi',"
        " now() - interval '1 hour') returning id",
        clinic.tenant_id,
    )
    secret = db.value("select vault.create_secret('the token')")
    db.run(
        "insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)"
        " values (%s, %s, 'access_token', %s)",
        clinic.tenant_id, number_id, secret,
    )  # fmt: skip
    return number_id


def claim(db: Db) -> dict[str, Any]:
    with db.as_service():
        return dict(db.value("select public.backfill_claim()"))


def settle(db: Db, taken: dict[str, Any], read_until: Any, is_done: bool = True) -> bool:
    (number,) = taken["numbers"]
    with db.as_service():
        return bool(
            db.value(
                "select public.backfill_settle(%s, %s, %s, %s, %s)",
                taken["claim"], number["tenant_id"], number["number_id"], read_until, is_done,
            )
        )  # fmt: skip


def fail(db: Db, taken: dict[str, Any], is_temporary: bool = True, wait: int | None = None) -> bool:
    (number,) = taken["numbers"]
    with db.as_service():
        return bool(
            db.value(
                "select public.backfill_fail(%s, %s, %s, 'Whapi does not answer.', %s, %s)",
                taken["claim"], number["tenant_id"], number["number_id"], is_temporary, wait,
            )
        )  # fmt: skip


def minutes_until_due(db: Db) -> float:
    return round(
        float(db.value("select extract(epoch from due_at - clock_timestamp()) / 60 from private.backfills"))
    )


def let_pass(db: Db) -> None:
    db.run("update private.backfills set due_at = clock_timestamp() - interval '1 second'")


def test_a_number_is_read_from_its_connection_on_with_all_that_it_needs(
    db: Db, channel: uuid.UUID, clinic: Business
) -> None:
    (number,) = claim(db)["numbers"]

    assert number["since"] == db.value(
        "select to_jsonb(created_at) from public.whatsapp_numbers where id = %s", channel
    )
    assert {key: number[key] for key in ("provider", "provider_number_id", "phone_number", "token")} == {
        "provider": "whapi",
        "provider_number_id": "C1",
        "phone_number": "573009990002",
        "token": "the token",
    }


def test_a_number_of_long_ago_is_first_read_a_day_back(db: Db, channel: uuid.UUID) -> None:
    db.run("update public.whatsapp_numbers set created_at = now() - interval '1 year' where id = %s", channel)

    taken = claim(db)

    age = db.value("select (%s::timestamptz - %s::timestamptz)", taken["now"], taken["numbers"][0]["since"])
    assert age == timedelta(days=1)


@pytest.mark.parametrize("change", ["is_active = false", "provider = 'cloud_api'"])
def test_what_is_off_or_of_meta_is_left_alone(db: Db, channel: uuid.UUID, change: str) -> None:
    db.run(f"update public.whatsapp_numbers set {change} where id = %s", channel)

    assert claim(db)["numbers"] == []


def test_a_number_is_in_one_hand_until_its_lease_ends(db: Db, channel: uuid.UUID) -> None:
    first = claim(db)
    assert claim(db)["numbers"] == []
    db.run("update private.backfills set lease_until = clock_timestamp() - interval '1 second'")

    second = claim(db)

    assert not settle(db, first, first["now"])
    assert not fail(db, first)
    assert settle(db, second, second["now"])


def test_a_list_read_to_its_end_is_due_in_ten_minutes_five_minutes_back(db: Db, channel: uuid.UUID) -> None:
    taken = claim(db)

    settle(db, taken, taken["now"])

    assert minutes_until_due(db) == 10
    assert claim(db)["numbers"] == []
    let_pass(db)
    since = claim(db)["numbers"][0]["since"]
    assert db.value("select %s::timestamptz - %s::timestamptz", taken["now"], since) == timedelta(minutes=5)


def test_a_list_read_in_part_is_due_at_once_from_there(db: Db, channel: uuid.UUID) -> None:
    taken = claim(db)
    until = db.value("select to_jsonb(now() - interval '30 minutes')")

    settle(db, taken, until, is_done=False)

    assert claim(db)["numbers"][0]["since"] == until


def test_failures_wait_longer_each_time_and_lose_nothing(db: Db, channel: uuid.UUID) -> None:
    since, waits = None, []
    for _ in range(7):
        let_pass(db)
        taken = claim(db)
        since = since or taken["numbers"][0]["since"]
        assert taken["numbers"][0]["since"] == since
        fail(db, taken)
        waits.append(minutes_until_due(db))

    assert waits == [10, 20, 40, 80, 160, 320, 360]


def test_a_provider_that_says_when_to_come_back_is_believed(db: Db, channel: uuid.UUID) -> None:
    fail(db, claim(db), wait=7200)

    assert minutes_until_due(db) == 120


def alerts(db: Db) -> list[Any]:
    return db.column(
        "select number_id from public.alerts where kind = 'backfill_failed' and resolved_at is null"
    )


def test_staff_hear_of_what_may_pass_the_third_time_until_it_has(db: Db, channel: uuid.UUID) -> None:
    heard = []
    for _ in range(3):
        let_pass(db)
        fail(db, claim(db))
        heard.append(alerts(db))

    assert heard == [[], [], [channel]]
    let_pass(db)
    settle(db, taken := claim(db), taken["now"])
    assert alerts(db) == []


def test_staff_hear_of_a_refusal_at_once(db: Db, channel: uuid.UUID) -> None:
    fail(db, claim(db), is_temporary=False)

    assert alerts(db) == [channel]
