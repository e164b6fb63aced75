"""send_decisions: what may be sent, now, to that customer, and what it would cost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.given import Inbox, says


@pytest.fixture
def chat(db: Any, inbox: Inbox) -> Any:
    """María has just written: her window is open."""
    inbox.deliver(says("w1"))
    return db.value("select id from public.chats")


CLOSED = "update public.chats set window_expires_at = null"
OPTED_OUT = "update public.customer_leads set opted_out_at = now(), opt_out_scope = "
TAKEN_OVER = "update public.chats set agent_paused_until = now() + interval '1 hour'"


@pytest.mark.parametrize(
    ("rule", "purpose", "verdict", "reason"),
    [
        ("select 1", "reply", "send", "window_open"),
        ("update public.chats set window_expires_at = now()", "reply", "manual", "window_closed"),
        (CLOSED, "staff", "template", "window_closed"),
        (CLOSED, "sequence", "manual", "window_closed"),
        (CLOSED, "daily_action", "template", "window_closed"),
        (OPTED_OUT + "'all'", "staff", "never", "opted_out"),
        (OPTED_OUT + "'marketing'", "sequence", "never", "opted_out_of_marketing"),
        (OPTED_OUT + "'marketing'", "reply", "send", "window_open"),
        ("update public.chats set block_state = 'confirmed'", "sequence", "never", "blocked"),
        ("update public.chats set block_state = 'confirmed'", "reply", "send", "window_open"),
        ("update public.chats set block_state = 'probable'", "daily_action", "wait", "probably_blocked"),
        (TAKEN_OVER, "reply", "never", "human_takeover"),
        (TAKEN_OVER, "staff", "send", "window_open"),
        ("update public.whatsapp_numbers set is_active = false", "reply", "never", "number_inactive"),
    ],
)  # fmt: skip
def test_what_may_be_sent(db: Any, chat: Any, rule: str, purpose: str, verdict: str, reason: str) -> None:
    db.run(rule)

    decision = db.row(
        "select verdict, reason from public.chats c, private.send_decisions(array[("
        "c.id, c.tenant_id, c.id, %s, false, null, null, false)::private.send_candidate])", purpose,
    )  # fmt: skip
    assert decision == {"verdict": verdict, "reason": reason}


@pytest.mark.parametrize(
    ("rule", "price_class", "cost"),
    [
        ("select 1", "service", 0),
        ("update public.chats set free_entry_until = now() + interval '1 h'", "free_entry_point", 0),
        ("update public.whatsapp_numbers set provider = 'whapi'", "none", 0),
    ],
)
def test_what_it_would_cost(db: Any, chat: Any, rule: str, price_class: str, cost: float) -> None:
    db.run(rule)

    price = db.row(
        "select price_class, estimated_cost::float8 from public.chats c, private.send_decisions(array[("
        "c.id, c.tenant_id, c.id, 'reply', false, null, null, false)::private.send_candidate])"
    )
    assert price == {"price_class": price_class, "estimated_cost": cost}
