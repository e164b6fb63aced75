"""costs: each message once, each currency apart; what was free, and what waits."""

from __future__ import annotations

import itertools
import uuid
from datetime import timedelta
from typing import Any

import pytest

from tests.sql.given import NOW, Business, Inbox, says, status
from tests.sql.test_outbox import claim, enqueue, intent, settle
from tests.sql.test_stats import at, open_chat, refresh, write

NOON = at("2026-11-10T17:00")
SERVICE = {"price_class": "service", "currency": "USD"}
REGULAR = {"type": "regular", "category": "service"}
FREE = {"type": "free_customer_service", "category": "service"}
IN_AD = {"type": "free_entry_point", "category": "referral_conversion"}
SEPTEMBER = at("2026-09-10T17:00")


@pytest.fixture
def chat(db: Any, clinic: Business) -> uuid.UUID:
    return open_chat(db.connection, clinic)


def costs(db: Any, *columns: str, table: str = "costs_daily") -> list[tuple[Any, ...]]:
    refresh(db)
    rows = db.rows(
        f"select {', '.join(columns)} from public.{table} order by number_id, category, currency, 1"
    )
    return [tuple(float(v) if hasattr(v, "as_tuple") else v for v in row.values()) for row in rows]


def sent(db: Any, chat: uuid.UUID, told: str = "delivered", **more: Any) -> None:
    if "pricing" in more:
        more["pricing"] = db.value("select %s::jsonb::text", more["pricing"])
    write(db.connection, chat, more.pop("when", NOON), told, **more)


def test_a_day_s_costs_are_by_category_and_currency(db: Any, chat: uuid.UUID) -> None:
    sent(db, chat, estimated_cost=0.02, actual_cost=0.01, pricing=REGULAR, **SERVICE)
    sent(db, chat, "sent", estimated_cost=0.02, **SERVICE)
    sent(db, chat, "read", estimated_cost=0.02, **SERVICE)
    sent(db, chat, estimated_cost=90, price_class="marketing", currency="COP", actual_cost=80)
    sent(db, chat, estimated_cost=0.07, price_class="marketing", currency="USD", actual_cost=0.07)
    sent(db, chat, "failed", estimated_cost=5, **SERVICE)
    sent(db, chat, "queued")

    assert costs(db, "category", "currency", "messages", "delivered", "unpriced", "estimated", "actual") == [
        ("marketing", "COP", 1, 1, 0, 90, 80),
        ("marketing", "USD", 1, 1, 0, 0.07, 0.07),
        ("service", "USD", 3, 2, 1, 0.06, 0.01),
    ]


def test_months_are_the_business_s_own_and_numbers_are_apart(
    db: Any, clinic: Business, chat: uuid.UUID
) -> None:
    second = db.value(
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
        " display_name) values (%s, 'cloud_api', '573009998877', 'SECOND', 'Dos') returning id",
        clinic.tenant_id,
    )
    other = open_chat(db.connection, clinic, second)
    for moment in ("2026-11-01T04:59", "2026-11-01T05:00", "2026-11-30T12:00"):
        sent(db, chat, when=at(moment), actual_cost=1, estimated_cost=2, **SERVICE)
    sent(db, other, when=NOON, actual_cost=10, estimated_cost=20, **SERVICE)

    found = costs(db, "month::text", "number_id", "actual", "estimated", table="costs_monthly")
    assert sorted(found) == sorted(
        [
            ("2026-10-01", clinic.number_id, 1, 2),
            ("2026-11-01", clinic.number_id, 2, 4),
            ("2026-11-01", second, 10, 20),
        ]
    )


STATUSES = [
    status("w2", "sent", 1, pricing=REGULAR),
    status("w2", "delivered", 2, pricing=REGULAR),
    status("w2", "read", 3, pricing=REGULAR),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_statuses_in_any_order_and_twice_cost_once(db: Any, inbox: Inbox, order: tuple[int, ...]) -> None:
    inbox.deliver(says("w1"))
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "sent", wa_message_id="w2")
    for n in (*order, *order):
        inbox.deliver(STATUSES[n])
        refresh(db)

    assert costs(db, "category", "messages", "delivered", "actual") == [("service", 1, 1, 0.0113)]


@pytest.mark.parametrize(
    ("message", "category", "saved"),
    [
        ({"pricing": IN_AD}, "service", (0.0113, 0)),
        ({"pricing": IN_AD | {"category": "marketing"}, "type": "template"}, "marketing", (0.074, 0)),
        ({"price_class": "free_entry_point", "type": "template"}, "marketing", (0.074, 0)),
        ({"pricing": FREE}, "service", (0, 0.0113)),
        ({"price_class": "service", "estimated_cost": 0}, "service", (0, 0.0113)),
        ({"price_class": "service", "estimated_cost": 0.0113}, "service", (0, 0)),
        ({"price_class": "service", "estimated_cost": 0, "pricing": REGULAR}, "service", (0, 0)),
        # free in the window, and a utility template had a price
        ({"pricing": FREE | {"category": "utility"}, "when": SEPTEMBER}, "utility", (0, 0.0113)),
        # free for everybody: nothing was saved
        ({"pricing": FREE, "when": SEPTEMBER}, "service", (0, 0)),
        ({"price_class": "none", "estimated_cost": 0}, "none", (0, 0)),
        ({"price_class": "service", "estimated_cost": 0, "told": "sent"}, "service", (0, 0)),
    ],
)
def test_what_was_free_saved_the_rate_then_in_force(
    db: Any, chat: uuid.UUID, message: dict[str, Any], category: str, saved: tuple[float, float]
) -> None:
    sent(db, chat, **message)

    found = costs(db, "category", "saved_free_entry", "saved_free_quota", "is_verified")

    assert found == [(category, *saved, category == "none")]


def test_savings_are_in_the_currency_of_the_list(db: Any, chat: uuid.UUID) -> None:
    sent(db, chat, price_class="service", currency="COP", estimated_cost=0, actual_cost=0)

    assert costs(db, "currency", "messages", "actual", "saved_free_quota") == [
        ("COP", 1, 0, 0),
        ("USD", 0, 0, 0.0113),
    ]


def test_twilio_s_own_fee_makes_nothing_less_free(db: Any, clinic: Business, chat: uuid.UUID) -> None:
    db.run("update public.whatsapp_numbers set provider = 'twilio'")
    sent(db, chat, estimated_cost=0.005, **SERVICE)

    assert costs(db, "estimated", "unpriced", "saved_free_quota") == [(0.005, 1, 0.0113)]


def test_what_nobody_charges_for_lacks_no_price(db: Any, chat: uuid.UUID) -> None:
    sent(db, chat, price_class="none", estimated_cost=0)

    assert costs(db, "category", "delivered", "unpriced", "actual") == [("none", 1, 0, 0)]


def test_a_verified_rate_makes_a_verified_cost(db: Any, chat: uuid.UUID) -> None:
    db.run("update public.rate_cards set is_verified = true where category = 'service'")
    sent(db, chat, estimated_cost=0, **SERVICE)

    assert costs(db, "is_verified") == [(True,)]


def forecast(db: Any, clinic: Business, *columns: str) -> list[tuple[Any, ...]]:
    with db.signed_in(clinic.owner):
        rows = db.rows(f"select {', '.join(columns)} from public.cost_forecast()")
    return [tuple(float(v) if hasattr(v, "as_tuple") else v for v in row.values()) for row in rows]


@pytest.fixture
def waiting(db: Any, inbox: Inbox, time_of_the_tests: None) -> None:
    """Of María, who has written: a message for now, and one for two months later."""
    inbox.deliver(says("w1"))
    enqueue(db)
    enqueue(db)
    db.run(
        "update public.outbox set due_at = %s where position = (select max(position) from public.outbox)",
        NOW + timedelta(days=62),
    )


def test_what_waits_is_forecast_for_its_month(db: Any, clinic: Business, waiting: None) -> None:
    db.run("insert into public.number_pacing (tenant_id, number_id, service_month, service_count) select"
        " tenant_id, id, date_trunc('month', private.clock() at time zone timezone), 1000"
        " from public.whatsapp_numbers on conflict (tenant_id, number_id) do update set"
        " service_month = excluded.service_month, service_count = 1000")  # fmt: skip

    now, later = forecast(db, clinic, "month", "number_id", "category", "messages", "free_quota", "estimated")

    assert now[1:] == (clinic.number_id, "service", 1, 0, 0.0113)
    assert later[1:] == (clinic.number_id, "service", 1, 1, 0)
    assert 1 <= (later[0].year - now[0].year) * 12 + later[0].month - now[0].month <= 3


def test_a_forecast_knows_until_when_an_ad_makes_free(db: Any, clinic: Business, waiting: None) -> None:
    db.run("update public.chats set free_entry_until = private.clock() + interval '72 hours'")
    db.run("update public.messages set type = 'template' where direction = 'outbound'")

    assert forecast(db, clinic, "category", "free_entry", "estimated", "is_verified") == [
        ("marketing", 1, 0, False),
        ("marketing", 0, 0.074, False),
    ]


def test_a_forecast_shows_each_business_its_own(
    db: Any, clinic: Business, plaza: Business, waiting: None
) -> None:
    assert forecast(db, plaza, "messages") == []
    assert sum(n for (n,) in forecast(db, clinic, "messages")) == 2
