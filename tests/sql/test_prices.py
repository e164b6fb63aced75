"""prices: what was paid follows from what the provider says, once a message, and only for what was"
" delivered."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sql.given import CARLOS, MARIA, Inbox, says, status
from tests.sql.test_outbox import claim, enqueue, intent, settle

REGULAR = {"type": "regular", "category": "service", "billable": True, "pricing_model": "PMP"}


@pytest.fixture
def sent(db: Any, inbox: Inbox) -> Any:
    """An answer to María is on its way to her."""
    inbox.deliver(says("w1"))
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "sent", wa_message_id="w2")
    return message_id


def paid(db: Any) -> Any:
    row = db.row(
        "select actual_cost::float8 as cost, currency from public.messages where wa_message_id = 'w2'"
    )
    return row["cost"] if row["cost"] is None else (row["cost"], row["currency"])


def test_what_is_delivered_costs_the_list_price_once(db: Any, inbox: Inbox, sent: Any) -> None:
    inbox.deliver(status("w2", "sent", 1, pricing=REGULAR))
    assert paid(db) is None

    inbox.deliver(status("w2", "delivered", 2, pricing=REGULAR))
    inbox.deliver(status("w2", "delivered", 2, pricing=REGULAR))
    inbox.deliver(status("w2", "read", 3))

    assert paid(db) == (0.0113, "USD")


STATUSES = [
    status("w2", "sent", 1, pricing=REGULAR),
    status("w2", "delivered", 2),
    status("w2", "read", 3, pricing=REGULAR),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_statuses_does_not_change_the_cost(
    db: Any, inbox: Inbox, sent: Any, order: tuple[int, ...]
) -> None:
    for n in order:
        inbox.deliver(STATUSES[n])

    assert paid(db) == (0.0113, "USD")


@pytest.mark.parametrize("is_failed_first", [True, False])
def test_what_fails_after_all_costs_nothing(db: Any, inbox: Inbox, sent: Any, is_failed_first: bool) -> None:
    told = [
        status("w2", "sent", 1, pricing=REGULAR),
        status("w2", "failed", 2, error={"code": 131026, "title": "Undeliverable"}),
    ]
    for event in reversed(told) if is_failed_first else told:
        inbox.deliver(event)

    assert paid(db) is None


@pytest.mark.parametrize(
    ("pricing", "cost"),
    [
        ({"type": "free_customer_service", "category": "service"}, (0, "USD")),
        ({"type": "free_entry_point", "category": "referral_conversion"}, (0, "USD")),
        ({"type": "regular", "category": "marketing_lite"}, (0.074, "USD")),
        ({"type": "regular", "category": "group_utility"}, (0.0113, "USD")),
        ({"category": "service", "billable": False}, (0, "USD")),
        ({"category": "service", "billable": True}, (0.0113, "USD")),
        ({"type": "regular", "category": "general_purpose_ai"}, None),
    ],
)
def test_only_what_is_regular_is_charged(
    db: Any, inbox: Inbox, sent: Any, pricing: dict[str, Any], cost: tuple[float, str] | None
) -> None:
    inbox.deliver(status("w2", "delivered", pricing=pricing))

    assert paid(db) == cost


@pytest.mark.parametrize(
    ("month", "count", "cost"),
    [(0, 999, 0), (0, 1000, 0.0113), (-1, 5000, 0)],
    ids=["left", "used up", "last month"],
)
def test_the_first_thousand_of_a_month_are_free(
    db: Any, inbox: Inbox, month: int, count: int, cost: float
) -> None:
    inbox.deliver(says("w1"))
    db.run(
        "insert into public.number_pacing (tenant_id, number_id, service_month, service_count) select"
        " tenant_id, id,"
        " date_trunc('month', now() at time zone timezone) + make_interval(months => %s), %s"
        " from public.whatsapp_numbers", month, count,
    )  # fmt: skip

    assert estimate(db) == ("service", cost, "USD", cost == 0)


def estimate(db: Any, is_template: bool = False, category: str | None = None) -> tuple[Any, ...]:
    row = db.row(
        "select price_class, estimated_cost::float8, currency, is_verified from public.chats c,"
        " private.send_decisions(array[(c.id, c.tenant_id, c.id, 'staff', %s, %s, null, false)"
        "::private.send_candidate])", is_template, category,
    )  # fmt: skip
    return tuple(row.values())


@pytest.mark.parametrize(
    ("now", "is_template", "cost"),
    [
        ("2026-10-01T04:59:00Z", False, 0),
        ("2026-10-01T04:59:00Z", True, 0),
        ("2026-10-01T05:01:00Z", True, 0.0113),
    ],
)
def test_prices_change_at_midnight_of_the_number_s_clock(
    db: Any, inbox: Inbox, now: str, is_template: bool, cost: float
) -> None:
    inbox.deliver(says("w1"))
    set_clock(db, now)
    db.run("update public.chats set window_expires_at = private.clock() + interval '1 hour'")

    assert estimate(db, is_template, "utility")[1] == cost


def set_clock(db: Any, now: str) -> None:
    db.run(
        "create or replace function private.clock() returns timestamptz language sql stable set search_path"
        " = ''"
        f" as $$ select '{datetime.fromisoformat(now).astimezone(UTC).isoformat()}'::timestamptz $$"
    )


def test_twilio_s_fee_comes_on_top_even_of_what_meta_gives_away(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    db.run("update public.whatsapp_numbers set provider = 'twilio'")

    assert estimate(db) == ("service", 0.005, "USD", False)


def test_a_hidden_phone_costs_what_its_country_costs(db: Any, inbox: Inbox) -> None:
    db.run(
        "insert into public.rate_cards (phone_prefix, market, category, valid_from, amount, currency, source,"
        " is_verified) values ('57', 'Colombia', 'marketing', '2025-07-01', 0.0125, 'USD', 'test', true)"
    )
    inbox.deliver(says("w1", contact={"bsuid": CARLOS["bsuid"], "username": "carlos"}))

    assert estimate(db, True, "marketing") == ("marketing", 0.0125, "USD", True)


def test_no_price_is_taken_for_verified_that_nobody_compared(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", contact=MARIA))

    assert db.column("select distinct is_verified from public.rate_cards") == [False]
    assert estimate(db, True, "marketing")[3] is False
