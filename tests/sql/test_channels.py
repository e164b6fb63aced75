"""channels: numbers belong to one business, count against its plan, and have hours and prices."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, UniqueViolation

from tests.sql.given import open_business

HOURS = '{"from": "18:00", "to": "08:00", "days": [5]}'


def add_number(connection: psycopg.Connection[Any], tenant_id: Any, serial: int) -> None:
    connection.execute(
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
        " display_name) values (%s, 'cloud_api', %s, %s, 'Otro')",
        [tenant_id, f"5731{serial:08d}", f"number-{serial}"],
    )


def test_a_plan_limits_the_numbers_and_says_so(db: Any) -> None:
    basic = open_business(db.connection, "basic", "100000000000009", plan="basic")

    with pytest.raises(psycopg.Error, match="plan_whatsapp_numbers") as refusal:
        add_number(db.connection, basic.tenant_id, 1)

    assert refusal.value.sqlstate == "PT402"


def test_a_plan_limits_the_agents_and_says_so(db: Any) -> None:
    basic = open_business(db.connection, "basic", "100000000000009", plan="basic")

    with pytest.raises(psycopg.Error, match="plan_ai_agents") as refusal:
        db.run("insert into public.ai_agents (tenant_id, name) values (%s, 'Second')", basic.tenant_id)

    assert refusal.value.sqlstate == "PT402"


def test_a_deactivated_number_makes_room_but_cannot_come_back_over_the_limit(db: Any) -> None:
    basic = open_business(db.connection, "basic", "100000000000009", plan="basic")
    db.run("update public.whatsapp_numbers set is_active = false where id = %s", basic.number_id)
    add_number(db.connection, basic.tenant_id, 1)

    with pytest.raises(psycopg.Error, match="plan basic"):
        db.run("update public.whatsapp_numbers set is_active = true where id = %s", basic.number_id)


def test_two_at_once_cannot_pass_the_limit(connect: Any) -> None:
    pro = open_business(connect(), "pro", "100000000000009", plan="pro")
    outcomes = []

    def add(serial: int) -> None:
        try:
            add_number(connect(), pro.tenant_id, serial)
            outcomes.append("added")
        except psycopg.Error as error:
            outcomes.append(str(error.sqlstate))

    threads = [threading.Thread(target=add, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["PT402"] * 5 + ["added"]


def test_an_active_number_belongs_to_one_business(db: Any, clinic: Any, plaza: Any) -> None:
    with pytest.raises(UniqueViolation, match="whatsapp_numbers_provider_provider_number_id_key"):
        db.run(
            "update public.whatsapp_numbers set provider_number_id = %s where id = %s",
            clinic.number,
            plaza.number_id,
        )


def test_an_admin_edits_how_a_number_behaves_but_not_what_it_is(db: Any, clinic: Any) -> None:
    with db.signed_in(clinic.owner):
        db.run("update public.whatsapp_numbers set auto_reply = false, business_hours = %s", HOURS)
        with pytest.raises(InsufficientPrivilege, match="table whatsapp_numbers"):
            db.run("update public.whatsapp_numbers set phone_number = '57300000000'")


def test_nobody_reads_where_secrets_are_but_the_service(db: Any, clinic: Any) -> None:
    db.run(
        "insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)"
        " values (%s, %s, 'access_token', gen_random_uuid())", clinic.tenant_id, clinic.number_id,
    )  # fmt: skip
    with db.signed_in(clinic.owner):
        assert db.column("select kind from public.channel_secrets") == ["access_token"]
        with pytest.raises(InsufficientPrivilege, match="table channel_secrets"):
            db.run("select secret_id from public.channel_secrets")


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        ("2026-11-20 17:59", False),  # a Friday
        ("2026-11-20 18:00", True),
        ("2026-11-21 07:59", True),  # still Friday's night
        ("2026-11-21 08:00", False),
        ("2026-11-21 19:00", False),
    ],
)
def test_hours_over_midnight_belong_to_the_day_they_begin_on(db: Any, at: str, is_open: bool) -> None:
    found = db.value("select private.hours_open(%s, 'America/Bogota', %s::timestamptz)", HOURS, f"{at}-05")

    assert found is is_open


@pytest.mark.parametrize(
    "hours", ["{}", "[]", '"08:00-18:00"', '{"from": "8:00", "to": "25:00"}', '[{"from": "08:00"}]']
)
def test_hours_that_cannot_be_read_are_refused(db: Any, hours: str) -> None:
    assert db.value("select private.is_hours(%s::jsonb)", hours) is False


def test_a_price_is_that_of_the_longest_prefix_on_the_day(db: Any) -> None:
    db.run(
        "insert into public.rate_cards (phone_prefix, market, category, valid_from, amount, currency, source)"
        " values ('57', 'Colombia', 'service', '2026-10-01', 0.0008, 'USD', 'test')"
    )

    def price(phone: str, day: str) -> float:
        return float(db.value("select amount from private.price_of(%s, 'service', %s::date)", phone, day))

    assert [price("573001234567", "2026-11-01"), price("51900000000", "2026-11-01")] == [0.0008, 0.0113]
    assert price("573001234567", "2026-09-01") == 0
