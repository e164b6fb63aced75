"""Running sequences: what is sent when, what a person is told, and how enrollments end."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import CARLOS, NOW, Business, Inbox, open_business, says
from tests.sql.sequences import Drip, at, delivered, later, machine, process, text_step

pytestmark = pytest.mark.usefixtures("time_of_the_tests")


@pytest.fixture
def maria(inbox: Inbox) -> None:
    """She has just written."""
    inbox.deliver(says("w1"))


@pytest.fixture
def drip(db: Any, clinic: Business, maria: None) -> Drip:
    return Drip.of_texts(db, clinic, "Hola {{first_name|amigo}}", "¿Sigues ahí?", "Adiós")


def test_steps_are_sent_one_after_the_other_and_each_once(db: Any, drip: Drip) -> None:
    drip.enroll()
    assert process(db) == {"claimed": 1, "send": 1}
    assert process(db) == {"claimed": 0}

    delivered(db)
    later(db, hours=23, minutes=50)
    assert process(db) == {"claimed": 0}
    db.run("update chats set window_expires_at = private.clock() + interval '1 hour'")
    later(db, minutes=10)
    process(db)

    assert drip.texts("sent") == ["Hola María"]
    assert drip.texts("queued") == ["¿Sigues ahí?"]
    assert [row[:2] for row in drip.history()] == [("s0", "sent"), ("s1", "sent")]


def test_a_closed_window_gives_the_step_to_a_person_and_the_sequence_goes_on(db: Any, drip: Drip) -> None:
    drip.enroll()
    db.run("update chats set window_expires_at = private.clock() - interval '1 minute'")

    assert process(db) == {"claimed": 1, "manual": 1}
    row = db.row("select source, reason, priority, text, status from pending_manual")
    assert tuple(row.values()) == ("sequence", "window_closed", 2, "Hola María", "open")
    assert drip.texts("skipped") == ["Hola María"]
    assert drip.history() == [("s0", "manual", "window_closed")]
    assert drip.enrollments() == [("active", None, 2)]


def test_a_closed_window_is_told_to_the_log_by_our_ids(db: Any, drip: Drip) -> None:
    drip.enroll()
    db.run("update chats set window_expires_at = private.clock() - interval '1 minute'")

    (closed,) = machine(db, "select sequences_process(1)")["closed"]

    chat = db.row("select tenant_id::text, number_id::text, id::text from chats")
    assert closed == {
        "tenant_id": chat["tenant_id"],
        "number_id": chat["number_id"],
        "reason": "window_closed",
        "count": 1,
        "chat_ids": [chat["id"]],
    }


@pytest.mark.parametrize(
    ("choice", "counts", "ends"),
    [
        ("stop", {"claimed": 1, "end": 1}, ("stopped", "window_closed", 1)),
        ("wait", {"claimed": 1, "wait": 1}, ("active", None, 1)),
    ],
)
def test_a_step_says_what_a_closed_window_means(
    db: Any, clinic: Business, maria: None, choice: str, counts: Any, ends: Any
) -> None:
    drip = Drip.of(db, clinic, text_step("Hola", on_window_closed=choice), text_step("Adiós", 1))
    drip.enroll()
    db.run("update chats set window_expires_at = null")

    assert process(db) == counts
    assert drip.enrollments() == [ends]
    assert db.column("select 1 from pending_manual") == []


def test_what_waits_for_a_window_goes_when_the_customer_writes(
    db: Any, clinic: Business, inbox: Inbox, maria: None
) -> None:
    drip = Drip.of(db, clinic, text_step("Hola", on_window_closed="wait"))
    drip.enroll()
    db.run("update chats set window_expires_at = null")
    process(db)
    later(db, days=30)
    db.run("update chats set window_expires_at = private.clock() + interval '1 day'")

    assert process(db) == {"claimed": 1, "send": 1}


@pytest.fixture
def reminder(db: Any, clinic: Business) -> Any:
    """An approved template with one blank."""
    return db.value(
        "insert into message_templates (tenant_id, waba_id, provider_template_id, name, language, category,"
        " status, components) values (%s, '200', 't1', 'reminder', 'es', 'utility', 'approved', %s::jsonb)"
        " returning id",
        clinic.tenant_id, [{"type": "BODY", "text": "Hola {{1}}, te esperamos."}],
    )  # fmt: skip


def test_a_template_takes_its_place(db: Any, clinic: Business, maria: None, reminder: Any) -> None:
    template = {"name": "reminder", "language": "es", "parameters": {"body": ["{{name|cliente}}"]}}
    drip = Drip.of(db, clinic, text_step("Hola", on_window_closed="use_template", template=template))
    drip.enroll()
    db.run("update chats set window_expires_at = null")

    assert process(db) == {"claimed": 1, "send": 1}
    assert drip.texts() == ["Hola María González, te esperamos."]
    assert db.value("select type from messages where source = 'sequence'") == "template"
    assert drip.history() == [("s0", "sent", "template")]


def test_a_template_that_may_not_be_sent_is_for_a_person(
    db: Any, clinic: Business, maria: None, reminder: Any
) -> None:
    template = {"name": "reminder", "parameters": {"body": ["{{name}}"]}}
    drip = Drip.of(db, clinic, {"key": "a", "template": template})
    drip.enroll()
    db.run("update message_templates set status = 'rejected'")

    assert process(db) == {"claimed": 1, "manual": 1}
    assert drip.history() == [("a", "manual", "template_rejected")]


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ("update customer_leads set opted_out_at = now(), opt_out_scope = 'marketing'",
         ("opted_out", "opted_out_of_marketing", 1)),
        ("update chats set block_state = 'confirmed'", ("paused", "blocked", 1)),
        ("update whatsapp_numbers set is_active = false", ("paused", "number_inactive", 1)),
        ("update customer_leads set is_active = false", ("stopped", "lead_inactive", 1)),
        ("update customer_leads set tags = '{cliente}'", ("completed", "goal_tag", 1)),
        ("update customer_leads set profile_status = 'Booked'", ("completed", "goal_status", 1)),
        ("update customer_leads set tags = '{queja}'", ("stopped", "stop_tag", 1)),
    ],
)  # fmt: skip
def test_what_ends_or_holds_an_enrollment(
    db: Any, clinic: Business, maria: None, change: str, ends: Any
) -> None:
    goal = {"tags": ["cliente"], "statuses": ["Booked"]}
    drip = Drip.of_texts(db, clinic, "Hola", "Adiós", goal=goal, stop={"tags": ["queja"]})
    drip.enroll()
    db.run(change)
    process(db)

    assert drip.enrollments() == [ends]
    assert drip.texts() == drip.history() == []


def test_a_conversation_closed_with_an_outcome_reaches_the_goal(
    db: Any, clinic: Business, maria: None
) -> None:
    drip = Drip.of_texts(db, clinic, "Hola", goal={"outcomes": ["sold"]})
    drip.enroll()
    with db.signed_in(clinic.owner):
        db.run("select conversation_close(id, 'sold') from conversations")
    process(db)

    assert drip.enrollments() == [("completed", "goal_outcome", 1)]


def test_quiet_hours_put_a_step_off_to_their_end_and_a_little(
    db: Any, clinic: Business, inbox: Inbox
) -> None:
    at(db, "2026-03-04 02:00Z")  # 21:00 in Bogotá
    inbox.deliver(says("w1", at=NOW), number=clinic.number)
    db.run("update chats set window_expires_at = private.clock() + interval '20 hours'")
    db.run('update tenant_settings set quiet_hours = \'{"from": "20:00", "to": "08:00"}\'')
    drip = Drip.of_texts(db, clinic, "Hola")
    drip.enroll()

    assert process(db) == {"claimed": 1, "wait": 1}
    ((waits_for, next_run_at),) = drip.enrollments("waits_for, next_run_at")
    assert waits_for == "quiet_hours"
    assert "2026-03-04T13:00" <= next_run_at.isoformat() < "2026-03-04T13:05"


def test_the_delay_counts_from_when_the_last_step_really_went_out(db: Any, drip: Drip) -> None:
    drip.enroll()
    process(db)
    later(db, hours=30)
    db.run("update chats set window_expires_at = private.clock() + interval '3 days'")
    assert process(db) == {"claimed": 1, "later": 1}

    delivered(db)
    later(db, hours=23)
    assert process(db) == {"claimed": 0}
    later(db, hours=1, minutes=1)
    assert process(db) == {"claimed": 1, "send": 1}


def test_weeks_of_outage_send_one_step_not_all_that_were_missed(db: Any, drip: Drip) -> None:
    drip.enroll()
    later(db, days=21)
    db.run("update chats set window_expires_at = private.clock() + interval '1 day'")

    assert process(db) == {"claimed": 1, "send": 1}
    delivered(db)
    assert process(db) == {"claimed": 0}
    assert drip.texts("sent") == ["Hola María"]


def test_a_switched_off_sequence_rests_and_goes_on_where_it_was(
    db: Any, clinic: Business, drip: Drip
) -> None:
    drip.enroll()
    process(db)
    with db.signed_in(clinic.owner):
        db.run("select sequence_set_active(%s, false)", drip.id)
    assert drip.enrollments() == [("paused", "sequence_inactive", 1)]
    assert drip.texts("canceled") == ["Hola María"]

    with db.signed_in(clinic.owner):
        db.run("select sequence_set_active(%s, true)", drip.id)
    assert process(db) == {"claimed": 1, "send": 1}


def test_who_wrote_while_a_sequence_was_off_is_not_written_to_when_it_is_on(
    db: Any, clinic: Business, inbox: Inbox, drip: Drip
) -> None:
    drip.enroll()
    with db.signed_in(clinic.owner):
        db.run("select sequence_set_active(%s, false)", drip.id)
    later(db, minutes=5)
    inbox.deliver(says("w2", at=NOW + timedelta(minutes=5)))

    with db.signed_in(clinic.owner):
        db.run("select sequence_set_active(%s, true)", drip.id)
    assert process(db) == {"claimed": 0}
    assert drip.enrollments() == [("paused", "replied", 1)]


def test_a_deleted_sequence_stops_and_keeps_its_history(db: Any, clinic: Business, drip: Drip) -> None:
    drip.enroll()
    process(db)
    delivered(db)
    with db.signed_in(clinic.owner):
        db.run("select sequence_delete(%s)", drip.id)

    assert drip.enrollments() == [("stopped", "sequence_deleted", 2)]
    assert len(drip.history()) == 1


def test_a_number_that_is_switched_on_again_goes_on(db: Any, drip: Drip) -> None:
    drip.enroll()
    db.run("update whatsapp_numbers set is_active = false")
    process(db)
    db.run("update whatsapp_numbers set is_active = true")

    assert process(db) == {"claimed": 1, "send": 1}


def test_every_business_gets_its_share_of_a_batch(
    db: Any, clinic: Business, plaza: Business, inbox: Inbox, maria: None
) -> None:
    for n in range(6):
        inbox.deliver(says(f"c{n}", contact={"phone": f"5730000000{n}"}))
    inbox.deliver(says("p1", contact=CARLOS), number=plaza.number)
    many, one = Drip.of_texts(db, clinic, "Hola"), Drip.of_texts(db, plaza, "Hola")
    many.enroll_many()
    one.enroll_many()

    assert process(db, 4)["send"] == 3
    assert one.texts() == ["Hola"]
    assert process(db, 20)["send"] == 5


def test_what_the_outbox_refuses_comes_back_to_its_enrollment(db: Any, drip: Drip) -> None:
    drip.enroll()
    process(db)
    db.run("update chats set window_expires_at = private.clock() - interval '1 minute'")
    claimed = machine(db, "select outbox_claim(10)")
    assert claimed["messages"] == []

    assert process(db) == {"claimed": 1, "manual": 1}
    assert drip.history() == [("s0", "manual", "window_closed")]
    assert drip.texts("skipped") == ["Hola María"]
    assert drip.texts("canceled") == ["Hola María"]


def test_two_processors_at_once_send_each_step_once(
    connect: Callable[[], psycopg.Connection[Any]],
) -> None:
    one, other = connect(), connect()
    business = open_business(one, "clinic", "100000000000001")
    crowd(one, business, 40)
    with one.transaction():
        first = one.execute("select sequences_process(25) as answer").fetchone()
        second = other.execute("select sequences_process(100) as answer").fetchone()

    assert first
    assert second
    assert (first["answer"]["send"], second["answer"]["send"]) == (25, 15)
    assert sent(one) == 40


def test_a_processor_that_is_killed_has_done_nothing(
    connect: Callable[[], psycopg.Connection[Any]],
) -> None:
    one, other = connect(), connect()
    crowd(one, open_business(one, "clinic", "100000000000001"), 10)
    with one.transaction(force_rollback=True):
        one.execute("select sequences_process(10)")
    assert sent(other) == 0

    other.execute("select sequences_process(10)")
    assert sent(one) == 10


def crowd(connection: psycopg.Connection[Any], business: Business, size: int) -> None:
    """Customers with open windows, all enrolled and due."""
    connection.execute(
        "with leads as (insert into customer_leads (tenant_id, phone) select %(tenant)s, 573000000000 + n"
        " from generate_series(1, %(size)s) n returning id)"
        " insert into chats (tenant_id, lead_id, number_id, last_interaction_at, window_expires_at)"
        " select %(tenant)s, id, %(number)s, now(), now() + interval '1 day' from leads",
        {"tenant": business.tenant_id, "number": business.number_id, "size": size},
    )
    connection.execute(
        "insert into number_pacing (tenant_id, number_id) select tenant_id, id from whatsapp_numbers"
    )
    document = json.dumps({"name": "Todos", "steps": [{"text": "Hola"}]})
    connection.execute(
        "select private.sequence_save(%s, null, %s::jsonb, null)", [business.tenant_id, document]
    )
    connection.execute("update sequences set is_active = true")
    connection.execute(
        "select private.enrollments_add(array_agg((s.tenant_id, s.id, c.lead_id, c.id, 'staff', null, false)"
        "::private.enrollment_ask)) from sequences s join chats c using (tenant_id)"
    )


def sent(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "select count(*), count(distinct m.chat_id) as chats from messages m"
        " join outbox o on o.message_id = m.id"
    ).fetchone()
    assert row
    assert row["count"] == row["chats"]
    return int(row["count"])


def test_nothing_is_waited_for_when_nothing_is_due(db: Any, drip: Drip) -> None:
    assert machine(db, "select private.worker_has_work('process-sequences')") is False
    drip.enroll()
    assert machine(db, "select private.worker_has_work('process-sequences')") is True
    process(db)
    assert machine(db, "select private.worker_has_work('process-sequences')") is False


@pytest.mark.parametrize(
    ("zone", "time", "after", "shown"),
    [
        ("America/Bogota", "09:00", "2026-03-04 13:59Z", "2026-03-04 14:00"),
        ("America/Bogota", "09:00", "2026-03-04 14:01Z", "2026-03-05 14:00"),
        # the clock is put forward from 2:00 to 3:00
        ("America/New_York", "02:30", "2026-03-08 05:00Z", "2026-03-08 07:30"),
        # and back from 2:00 to 1:00: of two 1:30 the first
        ("America/New_York", "01:30", "2026-11-01 04:00Z", "2026-11-01 05:30"),
        ("America/New_York", "01:30", "2026-11-01 05:31Z", "2026-11-02 06:30"),
        ("Australia/Lord_Howe", "01:45", "2026-04-04 12:00Z", "2026-04-04 14:45"),
    ],
)
def test_local_times_of_day(db: Any, zone: str, time: str, after: str, shown: str) -> None:
    moment = db.value("select private.local_time_after(%s::time, %s, %s::timestamptz)", time, zone, after)

    assert moment.astimezone(NOW.tzinfo).strftime("%Y-%m-%d %H:%M") == shown


def test_every_day_at_nine_by_the_customer_s_clock_also_when_it_changes(
    db: Any, clinic: Business, inbox: Inbox, maria: None
) -> None:
    at(db, "2026-03-06 15:00Z")
    db.run("update customer_leads set timezone = 'America/New_York'")
    daily = [
        {"key": f"d{n}", "after": {"hours": 24 if n else 0}, "at": "09:00", "text": f"Día {n}"}
        for n in range(4)
    ]
    drip = Drip.of(db, clinic, *daily)
    drip.enroll()
    local = "(next_run_at at time zone 'America/New_York')::text"
    seen = []
    for _ in daily:
        seen.extend(drip.enrollments(local)[0])
        at(db, drip.enrollments("next_run_at + interval '40 seconds'")[0][0])
        db.run("update chats set window_expires_at = private.clock() + interval '1 hour'")
        assert process(db) == {"claimed": 1, "send": 1}
        later(db, seconds=20)
        delivered(db)

    assert seen == [f"2026-03-{day:02} 09:00:00" for day in (7, 8, 9, 10)]


def test_five_thousand_windows_that_close_together_are_all_met_without_a_burst(
    db: Any, clinic: Business
) -> None:
    rate, size, margin = 20, 5000, timedelta(minutes=15)
    db.run(
        "with leads as (insert into customer_leads (tenant_id, phone) select %s, 573000000000 + n"
        " from generate_series(1, %s) n returning id)"
        " insert into chats (tenant_id, lead_id, number_id, last_interaction_at, window_expires_at)"
        " select %s, id, %s, now(), private.clock() + interval '20 hours' from leads",
        clinic.tenant_id, size, clinic.tenant_id, clinic.number_id,
    )  # fmt: skip
    drip = Drip.of(db, clinic, {"key": "last", "before_window_closes": {"minutes": 15}, "text": "¿Seguimos?"})
    assert drip.enroll_many()["enrolled"] == size

    planned = db.row(
        "select max(next_run_at) - private.clock() as latest, max(n) as most, count(*) as seconds from ("
        " select date_trunc('second', next_run_at) as s, max(next_run_at) as next_run_at, count(*) as n"
        " from sequence_enrollments group by 1) as g"
    )
    assert planned["latest"] <= timedelta(hours=20) - margin
    assert planned["most"] <= 2 * rate
    assert planned["seconds"] > 400
    busiest = db.value(
        "select max(n) from (select count(*) as n from sequence_enrollments"
        " group by date_bin('1 minute', next_run_at, 'epoch')) as m"
    )
    assert busiest < 60 * rate


def test_a_touch_before_the_window_closes_moves_with_the_window(
    db: Any, clinic: Business, maria: None
) -> None:
    drip = Drip.of(db, clinic, {"key": "last", "before_window_closes": {"minutes": 30}, "text": "¿Seguimos?"})
    db.run("update chats set window_expires_at = private.clock() + interval '2 hours'")
    drip.enroll()
    later(db, minutes=90)
    db.run("update chats set window_expires_at = private.clock() + interval '10 hours'")
    assert process(db) == {"claimed": 1, "later": 1}

    later(db, hours=9, minutes=30)
    assert process(db) == {"claimed": 1, "send": 1}


@pytest.mark.parametrize(
    ("now", "closes", "minutes", "goes"),
    [  # quiet from 21:00 to 08:00 in Bogotá (UTC-5)
        ("2026-03-04 15:00Z", "2026-03-05 07:00Z", 30, "2026-03-05 01:30Z"),  # closes at 02:00
        ("2026-03-04 15:00Z", "2026-03-05 01:50Z", 30, "2026-03-05 01:20Z"),  # closes at 20:50
        ("2026-03-04 15:00Z", "2026-03-05 13:10Z", 600, "2026-03-05 01:00Z"),  # an hour before them at most
        (
            "2026-03-05 01:45Z",
            "2026-03-05 07:00Z",
            30,
            "2026-03-05 01:45Z",
        ),  # at once
    ],
)
def test_the_last_touch_goes_before_the_quiet_hours_in_which_the_window_closes(
    db: Any, clinic: Business, inbox: Inbox, now: str, closes: str, minutes: int, goes: str
) -> None:
    at(db, now)
    inbox.deliver(says("w1", at=NOW), number=clinic.number)
    db.run("update chats set window_expires_at = %s", closes)
    db.run('update tenant_settings set quiet_hours = \'{"from": "21:00", "to": "08:00"}\'')
    drip = Drip.of(db, clinic, text_step("¿Seguimos?", before_window_closes={"minutes": minutes}))
    drip.enroll()

    ((next_run_at,),) = drip.enrollments("next_run_at")
    planned = datetime.fromisoformat(goes)
    assert planned - timedelta(seconds=2) <= next_run_at <= planned + timedelta(seconds=10)
    at(db, planned + timedelta(seconds=30))
    assert process(db) == {"claimed": 1, "send": 1}


def test_a_last_touch_that_quiet_hours_have_swallowed_is_told_to_a_person(
    db: Any, clinic: Business, inbox: Inbox
) -> None:
    at(db, "2026-03-05 02:10Z")  # 21:10 in Bogotá
    inbox.deliver(says("w1", at=NOW), number=clinic.number)
    db.run("update chats set window_expires_at = '2026-03-05 07:00Z'")
    db.run('update tenant_settings set quiet_hours = \'{"from": "21:00", "to": "08:00"}\'')
    drip = Drip.of(db, clinic, text_step("¿Seguimos?", before_window_closes={"minutes": 30}))
    drip.enroll()
    assert process(db) == {"claimed": 1, "wait": 1}

    at(db, "2026-03-05 13:06Z")
    assert process(db) == {"claimed": 1, "manual": 1}
    assert db.column("select text from pending_manual") == ["¿Seguimos?"]


def test_a_text_of_which_nothing_is_known_is_for_a_person(db: Any, clinic: Business, maria: None) -> None:
    drip = Drip.of(db, clinic, text_step("{{email}}"))
    drip.enroll()

    assert process(db) == {"claimed": 1, "manual": 1}
    assert drip.history() == [("s0", "manual", "text_blank")]
