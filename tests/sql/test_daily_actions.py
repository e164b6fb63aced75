"""Each business's follow-ups: planned at its own hour, once per lead and day, and what becomes of them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, says

TODAY = "2026-03-04"
Job = dict[str, Any]


@pytest.fixture
def at(db: Any) -> Any:
    """Set the business clock; it may stand still in these tests."""

    def set_clock(moment: str) -> None:
        db.run(
            "create or replace function private.clock() returns timestamptz language sql stable"
            f" set search_path = '' as $$ select '{moment}'::timestamptz $$"
        )

    set_clock(f"{TODAY} 14:30:00Z")  # 9:30 in Bogotá
    return set_clock


@pytest.fixture
def maria(db: Any, clinic: Business, at: Any) -> Any:
    """A customer whose window is open and whose next action is due this morning."""
    return customer(db, clinic, "573110000001")


def customer(db: Any, business: Business, phone: str, due: str = f"{TODAY} 15:00Z", hours: float = 1) -> Any:
    lead = db.value(
        "insert into customer_leads (tenant_id, phone, name, next_action, next_action_at, priority)"
        " values (%s, %s, 'María', 'Recordar la cita', %s, 4) returning id", business.tenant_id, phone, due,
    )  # fmt: skip
    db.run(
        "insert into chats (tenant_id, lead_id, number_id, last_inbound_at, last_interaction_at,"
        " window_expires_at) select %s, %s, %s, at, at, at + interval '24 hours'"
        " from (select private.clock() - %s as at) a",
        business.tenant_id, lead, business.number_id, timedelta(hours=hours),
    )  # fmt: skip
    return lead


def machine(db: Any, statement: str, *values: Any) -> Any:
    """What a worker gets, with the rights that workers have."""
    db.run("set role service_role")
    answer = db.value(statement, *values)
    db.run("reset role")
    return answer


def plan(db: Any, tenant: Any = None, force: bool = False) -> int:
    return int(machine(db, "select daily_plan(%s, %s)", tenant, force))


def claim(db: Any, limit: int = 10) -> list[Job]:
    return list(machine(db, "select daily_claim(%s)", limit)["jobs"])


def settle(db: Any, job: Job, decision: str = "send", text: str | None = "Hola María", at: Any = None) -> str:
    return str(
        machine(db,
            "select daily_settle(%s, %s, %s, %s, %s, %s, %s, %s)", job["tenant_id"], job["day"],
            job["lead_id"], job["claim"], job["agent"]["id"], decision, text, at,
        )
    )  # fmt: skip


def fail(db: Any, job: Job, final: bool = False) -> str:
    keys = (job["tenant_id"], job["day"], job["lead_id"], job["claim"])
    return str(machine(db, "select daily_fail(%s, %s, %s, %s, 'no answer', %s)", *keys, final))


def release(db: Any, job: Job) -> int:
    return int(machine(db, "select daily_release(%s, %s)", job["claim"], "HTTP 401"))


def time_passes(db: Any) -> None:
    """Whatever rests may be taken up again."""
    db.run("update daily_actions set lease_until = now() - interval '1 second' where status = 'pending'")


def action(db: Any) -> dict[str, Any]:
    return dict(db.row("select status, reason, message_id is not null as is_sent from daily_actions"))


def test_at_its_hour_a_lead_that_is_due_is_followed_up_once(db: Any, maria: Any) -> None:
    assert plan(db) == 1
    (job,) = claim(db)
    assert (job["next_action"], job["lead"]["name"]) == ("Recordar la cita", "María")
    assert claim(db) == []

    assert settle(db, job) == "sent"
    assert db.row("select source, role, content, status from messages") == {
        "source": "daily_action", "role": "assistant", "content": "Hola María", "status": "queued",
    }  # fmt: skip
    assert db.row("select next_action, next_action_at from customer_leads where id = %s", maria) == {
        "next_action": None, "next_action_at": None,
    }  # fmt: skip
    assert (plan(db), plan(db, job["tenant_id"], True), claim(db)) == (0, 0, [])


def test_before_its_hour_nothing_is_planned(db: Any, maria: Any, at: Any) -> None:
    at(f"{TODAY} 13:59:59Z")
    assert plan(db) == 0

    at(f"{TODAY} 14:00:00Z")
    assert plan(db) == 1


@pytest.mark.parametrize(
    ("zone", "hour", "before", "after"),
    [
        ("America/Bogota", "09:00", "2026-03-08 13:59Z", "2026-03-08 14:00Z"),
        ("America/New_York", "02:30", "2026-03-08 06:59Z", "2026-03-08 07:00Z"),  # there is no 2:30
        ("America/New_York", "01:30", "2026-11-01 05:29Z", "2026-11-01 05:30Z"),  # 1:30 comes twice
        ("America/Santiago", "09:00", "2026-09-06 11:59Z", "2026-09-06 12:00Z"),  # nor a 0:30
        ("Asia/Kathmandu", "09:00", "2026-03-08 03:14Z", "2026-03-08 03:15Z"),
        ("Pacific/Kiritimati", "09:00", "2026-03-07 18:59Z", "2026-03-07 19:00Z"),
    ],
)  # fmt: skip
def test_the_hour_is_the_business_own(
    db: Any, maria: Any, at: Any, zone: str, hour: str, before: str, after: str
) -> None:
    db.run("update users set timezone = %s", zone)
    db.run("update tenant_settings set daily_actions_at = %s", hour)
    at(before)
    assert plan(db) == 0

    at(after)
    assert (plan(db), plan(db)) == (1, 0)


def test_an_hour_that_comes_twice_is_used_once(db: Any, maria: Any, at: Any) -> None:
    db.run("update users set timezone = 'America/New_York'")
    db.run("update tenant_settings set daily_actions_at = '01:30'")
    at("2026-11-01 05:45Z")
    assert plan(db) == 1

    at("2026-11-01 06:45Z")
    assert plan(db) == 0


def test_what_is_due_tonight_is_due_today_and_tomorrow_is_not(db: Any, clinic: Business, at: Any) -> None:
    customer(db, clinic, "573110000001", due="2026-03-05 04:59:59Z")
    customer(db, clinic, "573110000002", due="2026-03-05 05:00:00Z")
    customer(db, clinic, "573110000003", due="2025-12-01 05:00:00Z")

    assert plan(db) == 2


def test_five_plans_at_once_make_one(maria: Any, db: Any) -> None:
    assert sum(plan(db) for _ in range(5)) == 1
    assert db.value("select count(*) from daily_runs") == 1


def test_a_closed_window_gives_it_to_a_person_with_the_text(db: Any, clinic: Business, at: Any) -> None:
    customer(db, clinic, "573110000001", hours=30)
    plan(db)

    assert settle(db, claim(db)[0], text="Hola María, ¿confirmamos?") == "manual"
    with db.signed_in(clinic.owner):
        (entry,) = db.rows(
            "select source, reason, priority, text, wa_link, window_open from pending_manual_list()"
        )
    assert entry["text"] == "Hola María, ¿confirmamos?"
    assert entry["wa_link"] == ("https://wa.me/573110000001?text=Hola%20Mar%C3%ADa%2C%20%C2%BFconfirmamos%3F")
    assert (entry["source"], entry["priority"], entry["window_open"]) == ("daily_action", 4, False)


def test_who_waits_for_a_person_is_not_planned_again(db: Any, clinic: Business, at: Any) -> None:
    customer(db, clinic, "573110000001", hours=30)
    plan(db)
    settle(db, claim(db)[0])
    at("2026-03-05 14:30:00Z")
    assert plan(db) == 0


@pytest.mark.parametrize("end", ["done", "dismiss"])
def test_what_a_person_dealt_with_is_not_due_again(db: Any, clinic: Business, at: Any, end: str) -> None:
    lead = customer(db, clinic, "573110000001", hours=30)
    plan(db)
    settle(db, claim(db)[0])

    with db.signed_in(clinic.owner):
        db.run(f"select pending_manual_{end}((select id from pending_manual))")
    at("2026-03-06 14:30:00Z")

    assert plan(db) == 0
    assert db.value("select next_action_at from customer_leads where id = %s", lead) is None


def test_a_date_set_since_stays_when_a_person_is_done(db: Any, clinic: Business, at: Any) -> None:
    lead = customer(db, clinic, "573110000001", hours=30)
    plan(db)
    settle(db, claim(db)[0])
    db.run("update customer_leads set next_action_at = '2026-03-06 10:00Z' where id = %s", lead)

    with db.signed_in(clinic.owner):
        db.run("select pending_manual_done((select id from pending_manual))")
    at("2026-03-06 14:30:00Z")

    assert plan(db) == 1


@pytest.mark.parametrize(("budget", "is_awake"), [(1, False), (None, True)])
def test_nobody_is_woken_for_a_business_that_spent_its_budget(
    db: Any, maria: Any, clinic: Business, budget: Any, is_awake: bool
) -> None:
    plan(db)
    db.run("select private.usage_insert(%s, null, null, null, %s)", clinic.tenant_id, json.dumps([
        {"model": "m", "input_tokens": 1, "output_tokens": 1}]))  # fmt: skip
    db.run("update tenant_settings set ai_daily_token_budget = %s", budget)

    assert machine(db, "select private.worker_has_work('daily-actions')") is is_awake


def test_what_an_agent_was_told_to_forget_is_not_in_a_follow_up(
    db: Any, maria: Any, clinic: Business, inbox: Inbox
) -> None:
    db.run(
        "insert into messages (tenant_id, chat_id, lead_id, number_id, direction, role, source, type,"
        " content, status, provider_at) select tenant_id, id, lead_id, number_id, 'inbound', 'user',"
        " 'customer', 'text', 'Secreto', 'received', private.clock() - interval '1 hour' from chats"
    )
    with db.signed_in(clinic.owner):
        db.run("select thread_clear((select id from chats))")
    plan(db)

    assert claim(db)[0]["messages"] is None


def test_a_closed_window_uses_the_template_the_business_chose(db: Any, clinic: Business, at: Any) -> None:
    customer(db, clinic, "573110000001", hours=30)
    template = db.value(
        "insert into message_templates (tenant_id, provider, provider_template_id, waba_id, name, language,"
        " category, status, components) values"
        " (%s, 'cloud_api', '9', '200', 'seguimiento', 'es', 'utility', 'approved', %s) returning id",
        clinic.tenant_id,
        json.dumps([{"type": "BODY", "text": "Hola {{1}}. {{2}} ¡Gracias!",
                     "example": {"body_text": [["Ana", "Hola"]]}}]),
    )  # fmt: skip
    db.run("update tenant_settings set followup_template_id = %s", template)
    plan(db)

    (job,) = claim(db)
    assert settle(db, job, text="¿Confirmamos\nla cita?") == "sent"
    assert db.row("select type, content, template_id from messages") == {
        "type": "template", "content": "Hola María. ¿Confirmamos la cita? ¡Gracias!", "template_id": template,
    }  # fmt: skip


def test_who_wants_nothing_from_us_gets_nothing_and_costs_nothing(db: Any, maria: Any) -> None:
    db.run("update customer_leads set opted_out_at = now(), opt_out_scope = 'marketing'")
    plan(db)

    assert claim(db) == []
    assert action(db)["status"] == "skipped"
    assert db.value("select count(*) from messages") == 0


def test_the_agent_may_put_it_off(db: Any, maria: Any) -> None:
    plan(db)
    assert settle(db, claim(db)[0], "reschedule", None, "2026-03-10 15:00Z") == "rescheduled"

    assert action(db)["status"] == "rescheduled"
    assert db.value("select next_action_at::text from customer_leads") == "2026-03-10 15:00:00+00"
    assert db.value("select next_action from customer_leads") == "Recordar la cita"


def test_the_agent_may_give_it_to_a_person(db: Any, maria: Any) -> None:
    plan(db)

    assert settle(db, claim(db)[0], "person", "Quiere hablar del precio") == "manual"
    assert db.row("select text, reason from pending_manual") == {
        "text": "Quiere hablar del precio", "reason": "agent",
    }  # fmt: skip


def test_a_date_that_somebody_changed_meanwhile_stays(db: Any, maria: Any) -> None:
    plan(db)
    (job,) = claim(db)
    db.run("update customer_leads set next_action_at = '2026-04-01 10:00Z'")

    assert settle(db, job) == "sent"
    assert db.value("select next_action_at::text from customer_leads") == "2026-04-01 10:00:00+00"


def test_killed_half_way_it_is_taken_up_again_and_sent_once(db: Any, maria: Any) -> None:
    plan(db)
    (lost,) = claim(db)
    db.run("update daily_actions set lease_until = now() - interval '1 second'")
    (job,) = claim(db)

    assert settle(db, job) == "sent"
    assert settle(db, lost) == "lost"
    assert db.value("select count(*) from messages") == 1


def test_an_agent_that_fails_three_times_leaves_it_to_a_person(db: Any, maria: Any) -> None:
    plan(db)
    ends = []
    for _ in range(3):
        ends.append(fail(db, claim(db)[0]))
        db.run("update daily_actions set lease_until = now() - interval '1 second'")

    assert ends == ["retry", "retry", "manual"]
    assert db.value("select text from pending_manual") == "Recordar la cita"


def test_without_an_agent_a_person_does_it(db: Any, maria: Any) -> None:
    db.run("update ai_agents set is_active = false")
    plan(db)

    assert claim(db) == []
    assert action(db)["status"] == "manual"


def test_a_lead_that_never_wrote_is_passed_over(db: Any, clinic: Business, at: Any) -> None:
    db.run(
        "insert into customer_leads (tenant_id, phone, next_action_at) values (%s, '573119999999', %s)",
        clinic.tenant_id, f"{TODAY} 15:00Z",
    )  # fmt: skip
    plan(db)

    assert claim(db) == []
    assert action(db) == {"status": "skipped", "reason": "no_chat", "is_sent": False}


def test_what_a_day_did_not_come_to_is_due_the_next(db: Any, maria: Any, at: Any) -> None:
    plan(db)
    at("2026-03-05 14:30:00Z")
    assert plan(db) == 1

    assert db.column("select status from daily_actions order by day") == ["skipped", "pending"]
    assert len(claim(db)) == 1


def test_force_needs_a_business(db: Any, at: Any) -> None:
    with pytest.raises(psycopg.Error, match="force needs a tenant_id"):
        plan(db, None, True)


def test_an_admin_starts_their_own_day_whatever_the_hour(
    db: Any, maria: Any, clinic: Business, plaza: Business, at: Any
) -> None:
    customer(db, plaza, "573120000001")
    at(f"{TODAY} 06:00:00Z")
    with db.signed_in(clinic.owner):
        assert db.value("select crm_execute_daily_actions()") == 1
        assert db.value("select crm_execute_daily_actions()") == 0

    assert db.column("select distinct tenant_id from daily_actions") == [clinic.tenant_id]


def test_the_status_counts_what_is_one_s_own(db: Any, maria: Any, clinic: Business, plaza: Business) -> None:
    customer(db, plaza, "573120000001")
    with db.signed_in(clinic.owner):
        before = db.value("select crm_status()")
    plan(db)
    for job in claim(db):
        settle(db, job)
    with db.signed_in(clinic.owner):
        after = db.value("select crm_status()")

    assert (before["due_today"], before["next_run"], before["last_run"]) == (
        1,
        f"{TODAY}T14:00:00+00:00",
        None,
    )
    assert (after["due_today"], after["actions"]) == (0, {"sent": 1})
    assert after["next_run"] == "2026-03-05T14:00:00+00:00"


def test_every_business_gets_its_share(db: Any, clinic: Business, plaza: Business, at: Any) -> None:
    for n in range(8):
        customer(db, clinic, f"57311000000{n}")
    customer(db, plaza, "573120000001")
    plan(db)

    assert {job["tenant_id"] for job in claim(db, 4)} == {str(clinic.tenant_id), str(plaza.tenant_id)}


def test_inbound_messages_do_not_count_as_follow_ups(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", contact=CARLOS), says("w2", contact=MARIA, at=NOW))

    assert plan(db) == 0


def test_a_model_that_bars_us_makes_follow_ups_wait_and_hands_none_to_a_person(db: Any, maria: Any) -> None:
    plan(db)
    (job,) = claim(db)

    assert release(db, job) == 1
    time_passes(db)
    assert claim(db) == []
    assert machine(db, "select private.worker_has_work('daily-actions')") is False
    db.run("update private.model_pauses set paused_until = now()")
    (again,) = claim(db)

    assert again["attempts"] == 1
    assert db.column("select subject from alerts where kind = 'model_barred'") == ["daily-actions"]
    assert settle(db, again) == "sent"
    assert db.value("select count(*) from alerts where resolved_at is null") == 0


def test_a_model_that_is_away_is_waited_for_before_a_person_is_asked(db: Any, maria: Any) -> None:
    plan(db)
    ends = []
    while jobs := claim(db):
        keys = (jobs[0][name] for name in ("tenant_id", "day", "lead_id", "claim"))
        ends.append(machine(db, "select daily_fail(%s, %s, %s, %s, 'away', p_is_passing => true)", *keys))
        time_passes(db)

    assert ends == ["retry"] * 7 + ["manual"]


def test_a_follow_up_that_no_worker_ever_brings_back_goes_to_a_person(db: Any, maria: Any) -> None:
    plan(db)
    for _ in range(9):
        assert len(claim(db)) == 1
        time_passes(db)

    assert claim(db) == []
    assert action(db) == {"status": "manual", "reason": "agent_failed", "is_sent": False}
