"""What happens to chats that a model is to read, and to the leads it speaks of."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, echo, says

SAYS = {
    "profile_status": "Booked", "next_action": "Confirmar la cita", "priority": 3, "sentiment": "positive",
    "next_action_at": "2027-01-04T15:00:00+00:00", "satisfaction": 5, "summary": "Quiere una limpieza.",
    "language": "es", "evidence": [], "confidence": 0.9, "model": "gpt-6-luna",
}  # fmt: skip
USAGE = {
    "purpose": "analysis", "model": "gpt-6-luna", "input_tokens": 1000, "cached_tokens": 200,
    "output_tokens": 100, "response_id": "resp_1",
}  # fmt: skip


def wrote(inbox: Inbox, name: str = "w1", minutes: float = 90, contact: Any = MARIA) -> None:
    inbox.deliver(says(name, "Quiero una cita", contact, at=NOW - timedelta(minutes=minutes)))


def machine(db: Any, statement: str, *values: Any) -> Any:
    """What a worker gets, with the rights that workers have."""
    db.run("set role service_role")
    answer = db.value(statement, *values)
    db.run("reset role")
    return answer


def claim(db: Any, limit: int = 10) -> list[dict[str, Any]]:
    return list(machine(db, "select analysis_claim(%s)", limit)["jobs"])


def settle(db: Any, job: dict[str, Any], **changes: Any) -> str:
    return str(
        machine(db,
            "select analysis_settle(%s, %s, %s, %s, %s)", job["tenant_id"], job["chat_id"], job["claim"],
            json.dumps(SAYS | changes), json.dumps([USAGE]),
        )
    )  # fmt: skip


def fail(db: Any, job: dict[str, Any], why: str = "No JSON.") -> str:
    return str(
        machine(
            db, "select analysis_fail(%s, %s, %s, %s)", job["tenant_id"], job["chat_id"], job["claim"], why
        )
    )


def lead(db: Any, phone: str = MARIA["phone"]) -> dict[str, Any]:
    return dict(
        db.row(
            "select profile_status, next_action, priority, lead_status, xmin::text as version"
            " from customer_leads where phone = %s", phone,
        )
    )  # fmt: skip


def test_an_idle_chat_is_read_once(db: Any, inbox: Inbox) -> None:
    wrote(inbox)

    (job,) = claim(db)
    assert job["messages"][0]["content"] == "Quiero una cita"
    assert claim(db) == []
    assert settle(db, job) == "applied"
    assert claim(db) == []


def test_a_chat_that_goes_on_is_left_alone(db: Any, inbox: Inbox) -> None:
    wrote(inbox, minutes=45)
    assert claim(db) == []

    db.run("update tenant_settings set crm_analysis_idle_minutes = 30")
    assert len(claim(db)) == 1


def test_what_is_said_while_it_is_read_is_news_for_the_next_time(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    (job,) = claim(db)
    wrote(inbox, "w2", minutes=70)
    settle(db, job)

    assert len(claim(db)) == 1


def test_a_person_at_the_phone_is_news_too(db: Any, inbox: Inbox) -> None:
    inbox.deliver(echo("e1", at=NOW - timedelta(hours=2)))

    assert len(claim(db)) == 1


def test_the_lead_gets_the_result_and_its_place_in_the_pipeline(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    settle(db, claim(db)[0])

    found = lead(db)
    assert (found["profile_status"], found["priority"], found["lead_status"]) == ("Booked", 3, "booked")
    assert db.value("select next_action_at from customer_leads").year == 2027


def test_the_same_result_writes_the_analysis_and_not_the_lead(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    settle(db, claim(db)[0])
    before = lead(db)
    wrote(inbox, "w2", minutes=80)

    assert settle(db, claim(db)[0]) == "unchanged"
    assert lead(db) == before
    assert db.column("select outcome from crm_analyses order by id") == ["applied", "unchanged"]


def test_what_a_person_set_is_theirs_until_the_customer_writes_again(
    db: Any, clinic: Business, inbox: Inbox
) -> None:
    wrote(inbox)
    with db.signed_in(clinic.owner):
        db.run("update customer_leads set priority = 5, profile_status = 'Qualified'")
    settle(db, claim(db)[0])
    found = lead(db)
    assert (found["profile_status"], found["priority"]) == ("Qualified", 5)
    assert (found["next_action"], found["lead_status"]) == ("Confirmar la cita", "new")
    assert set(db.value("select kept_fields from crm_analyses")) == {"priority", "profile_status"}

    db.run("update lead_edits set edited_at = edited_at - interval '2 hours'")
    wrote(inbox, "w2", minutes=61)
    settle(db, claim(db)[0])
    assert lead(db)["priority"] == 3


@pytest.mark.parametrize(("keeps", "priority"), [("always", 5), ("never", 3)])
def test_how_long_a_person_keeps_a_field_is_a_setting(
    db: Any, clinic: Business, inbox: Inbox, keeps: str, priority: int
) -> None:
    db.run("update tenant_settings set crm_person_keeps = %s", keeps)
    wrote(inbox)
    with db.signed_in(clinic.owner):
        db.run("update customer_leads set priority = 5")
    db.run("update lead_edits set edited_at = edited_at - interval '1 day'")

    settle(db, claim(db)[0])
    assert lead(db)["priority"] == priority


def test_edits_by_hand_say_who_what_and_when(db: Any, clinic: Business, inbox: Inbox) -> None:
    wrote(inbox)
    with db.signed_in(clinic.owner):
        db.run("update customer_leads set name = 'María G.', tags = '{vip}'")

    edits = db.rows("select field, old_value, new_value, edited_by from lead_edits order by field")
    assert [(e["field"], e["new_value"]) for e in edits] == [("name", "María G."), ("tags", ["vip"])]
    assert edits[0]["old_value"] == "María González"
    assert {e["edited_by"] for e in edits} == {clinic.tenant_id}


def test_machines_leave_no_edits(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    settle(db, claim(db)[0])

    assert db.value("select count(*) from lead_edits") == 0


def test_nothing_usable_is_asked_once_more_and_then_recorded(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    before = lead(db)
    assert fail(db, claim(db)[0]) == "retry"
    assert claim(db) == []  # not at once
    db.run("update pending_analyses set lease_until = now() - interval '1 second'")

    assert fail(db, claim(db)[0]) == "failed"
    assert lead(db) == before
    assert db.row("select outcome, error from crm_analyses") == {
        "outcome": "failed",
        "error": "No JSON.",
    }
    assert claim(db) == []


def test_a_worker_that_died_leaves_its_chats_to_the_next(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    (lost,) = claim(db)
    db.run("update pending_analyses set lease_until = now() - interval '1 second'")
    (job,) = claim(db)

    assert settle(db, lost) == "lost"
    assert settle(db, job) == "applied"
    assert db.value("select count(*) from crm_analyses") == 1


def test_chats_of_a_provider_without_money_come_back_as_if_never_taken(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    (job,) = claim(db)
    assert machine(db, "select analysis_release(%s, %s)", job["claim"], "HTTP 401") == 1
    db.run("update pending_analyses set lease_until = now() - interval '1 second'")
    db.run("update private.model_pauses set paused_until = now()")

    assert claim(db)[0]["attempts"] == 1


def test_who_waits_for_a_model_that_bars_us_is_told_until_it_answers(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    machine(db, "select analysis_release(%s, %s)", claim(db)[0]["claim"], "HTTP 401")
    raised = db.row("select kind, subject, severity, details ->> 'reason' as reason from alerts")
    db.run("update pending_analyses set lease_until = now() - interval '1 second'")
    db.run("update private.model_pauses set paused_until = now()")
    settle(db, claim(db)[0])

    assert raised == {
        "kind": "model_barred", "subject": "crm-analysis", "severity": "critical", "reason": "HTTP 401",
    }  # fmt: skip
    assert db.value("select count(*) from alerts where resolved_at is null") == 0


def test_a_chat_that_no_worker_ever_brings_back_is_given_up(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    for _ in range(10):
        assert len(claim(db)) == 1
        db.run("update pending_analyses set lease_until = now() - interval '1 second'")

    assert claim(db) == []
    assert db.row("select outcome, error from crm_analyses") == {
        "outcome": "failed",
        "error": "No worker finished it.",
    }


def test_nobody_asks_for_a_while_a_provider_that_wants_money(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    job = claim(db)[0]
    machine(db, "select analysis_release(%s, %s)", job["claim"], "HTTP 401")
    wrote(inbox, "c1", contact=CARLOS)

    assert claim(db) == []
    assert machine(db, "select private.worker_has_work('crm-analysis')") is False
    db.run("update private.model_pauses set paused_until = now()")
    assert len(claim(db)) == 1


@pytest.mark.parametrize(
    "change",
    [
        "update tenant_settings set ai_daily_token_budget = 0",
        "update users set is_active = false",
        "update users set crm_enabled = false",
    ],
)
def test_nobody_is_woken_for_what_nobody_would_claim(db: Any, inbox: Inbox, change: str) -> None:
    wrote(inbox)
    assert machine(db, "select private.worker_has_work('crm-analysis')") is True
    db.run(change)

    assert claim(db) == []
    assert machine(db, "select private.worker_has_work('crm-analysis')") is False


def test_a_model_that_is_away_is_waited_for(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    for _ in range(7):
        job = claim(db)[0]
        keys = (job["tenant_id"], job["chat_id"], job["claim"])
        said = machine(db, "select analysis_fail(%s, %s, %s, 'away', null, '[]', true)", *keys)
        assert said == "retry"
        db.run("update pending_analyses set lease_until = now() - interval '1 second'")

    assert settle(db, claim(db)[0]) == "applied"


def test_what_an_agent_was_told_to_forget_is_not_read(db: Any, clinic: Business, inbox: Inbox) -> None:
    wrote(inbox)
    with db.signed_in(clinic.owner):
        db.run("select thread_clear((select id from chats))")

    assert claim(db)[0]["messages"] is None


def test_tokens_and_money_are_recorded_once(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    (job,) = claim(db)
    settle(db, job)
    settle(db, job)

    used = db.rows("select purpose, total_tokens, cost::float8, currency from ai_usage")
    assert used == [{"purpose": "analysis", "total_tokens": 1100, "cost": 0.000132, "currency": "USD"}]
    assert db.row("select runs, total_tokens from ai_usage_daily") == {"runs": 1, "total_tokens": 1100}


@pytest.mark.parametrize("budget", ["ai_daily_token_budget = 1100", "ai_daily_cost_budget = 0.0001"])
def test_a_business_that_spent_its_budget_waits_for_tomorrow(db: Any, inbox: Inbox, budget: str) -> None:
    wrote(inbox)
    settle(db, claim(db)[0])
    db.run(f"update tenant_settings set {budget}")
    wrote(inbox, "w2", minutes=80)
    assert claim(db) == []

    db.run("update ai_usage set created_at = created_at - interval '1 day'")
    assert len(claim(db)) == 1


def test_every_business_gets_its_share(db: Any, inbox: Inbox, plaza: Business) -> None:
    for n in range(12):
        wrote(inbox, f"w{n}", contact={"phone": f"573330000{n:02}"}, minutes=200 - n)
    inbox.deliver(says("p1", contact=CARLOS, at=NOW - timedelta(hours=2)), number=plaza.number)

    assert {job["tenant_id"] for job in claim(db, 4)} == {
        str(plaza.tenant_id),
        str(db.value("select tenant_id from whatsapp_numbers where id <> %s", plaza.number_id)),
    }


def test_a_price_is_that_of_the_longest_name_and_its_day(db: Any) -> None:
    db.run(
        "insert into ai_prices (model, valid_from, input, cached, output, source) values"
        " ('gpt-6-luna-mini', '2026-01-01', 1, 1, 1, 'test'), ('gpt-6-luna', '2030-01-01', 9, 9, 9, 'test')"
    )

    def cost(model: str, day: str) -> Any:
        return db.value(
            "select (select cost from private.ai_cost(%s, 1000000, 0, 0, %s::timestamptz))::float8",
            model,
            day,
        )

    assert cost("gpt-6-luna-2026-05-01", "2027-01-01") == 0.1
    assert cost("gpt-6-luna-mini", "2027-01-01") == 1.0
    assert cost("gpt-6-luna", "2031-01-01") == 9.0
    assert cost("llama-9", "2027-01-01") is None
