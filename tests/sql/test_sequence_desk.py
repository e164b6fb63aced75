"""Sequences and people: customers who write, and staff who send by hand."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, echo, says, status
from tests.sql.sequences import Chat, Drip, later, live, machine, process
from tests.sql.test_rights import colleague

TEXT = "Hola María, ¿te quedó alguna duda sobre la limpieza dental?"
NOBODY_KNOWS = {"bsuid": "CO.333", "profile_name": "Ana"}


@pytest.fixture
def drip(db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None) -> Drip:
    """A sequence of two steps, a day apart, and María, who wrote two hours ago."""
    inbox.deliver(says("w1", at=NOW - timedelta(hours=2)))
    return Drip.of_texts(db, clinic, TEXT, "¿Quieres que te aparte una hora?", "Esta semana hay descuento")


@pytest.fixture
def maria(db: Any, drip: Drip) -> Chat:
    drip.enroll()
    return drip.chat()


@pytest.fixture
def waiting(db: Any, drip: Drip, maria: Chat) -> Any:
    """Her first step is with a person, because her window is closed: the entry."""
    closed(db)
    process(db)
    return db.value("select id from pending_manual")


def closed(db: Any) -> None:
    db.run("update chats set window_expires_at = private.clock() - interval '1 minute'")


def entry(db: Any, chat: Chat, text: str) -> Any:
    return db.value(
        "insert into pending_manual (tenant_id, chat_id, source, reason, text, added_at)"
        " values (%s, %s, 'daily_action', 'window_closed', %s, private.clock()) returning id",
        chat.tenant_id, chat.id, text,
    )  # fmt: skip


def send(db: Any, business: Business, chat: Chat, text: str, **more: Any) -> Any:
    """What message_send answers the owner."""
    named = "".join(f", {name} => %s" for name in more)
    with db.signed_in(business.owner):
        return db.value(f"select message_send(%s, p_content => %s{named})", chat.id, text, *more.values())


def resumes(db: Any, drip: Drip, how: str, hours: int | None = None) -> None:
    db.run(
        "update sequences set after_reply = %s, resume_after_hours = %s where id = %s", how, hours, drip.id
    )


def resume(db: Any) -> int:
    return int(machine(db, "select private.sequences_resume()"))


def entries(db: Any) -> list[tuple[str, bool]]:
    rows = db.rows("select status, sent_manually from pending_manual order by text")
    return [(row["status"], row["sent_manually"]) for row in rows]


def test_a_customer_who_writes_pauses_their_sequence(db: Any, inbox: Inbox, maria: Chat) -> None:
    inbox.deliver(says("w2", "Sí, una pregunta"))

    assert live(db, maria) == ("paused", "replied")
    assert db.value("select replied_at from sequence_enrollments") == NOW


def test_a_customer_who_writes_pauses_nobody_elses(
    db: Any, inbox: Inbox, drip: Drip, maria: Chat, plaza: Business
) -> None:
    inbox.deliver(says("w2", contact=CARLOS), number=plaza.number)
    inbox.deliver(says("w3", contact=MARIA), number=plaza.number)

    assert live(db, maria) == ("active", None)


@pytest.mark.parametrize(
    "event",
    [
        says("w2", at=NOW - timedelta(minutes=1), history=True),
        says("w2", at=NOW - timedelta(hours=25)),
        says("w1", at=NOW - timedelta(hours=2)),
        status("w1", "read"),
    ],
    ids=["history", "old", "known", "status"],
)
def test_what_is_no_news_pauses_nothing(db: Any, inbox: Inbox, maria: Chat, event: Any) -> None:
    inbox.deliver(event)

    assert live(db, maria) == ("active", None)


def test_a_sequence_that_never_goes_on_ends_with_the_reply(
    db: Any, inbox: Inbox, drip: Drip, maria: Chat
) -> None:
    resumes(db, drip, "never")
    inbox.deliver(says("w2"))

    assert db.row("select status, reason from sequence_enrollments") == {
        "status": "replied", "reason": "replied",
    }  # fmt: skip


def test_it_goes_on_after_hours_of_silence_since_the_last_message(
    db: Any, inbox: Inbox, drip: Drip, maria: Chat
) -> None:
    resumes(db, drip, "silence", 24)
    inbox.deliver(says("w2"))
    later(db, hours=20)
    inbox.deliver(says("w3", at=NOW + timedelta(hours=20)))

    later(db, hours=23)
    assert (resume(db), live(db, maria)) == (0, ("paused", "replied"))

    later(db, hours=1.1)
    assert (resume(db), live(db, maria)) == (1, ("active", None))
    assert resume(db) == 0
    assert db.value("select next_run_at >= private.clock() - interval '1 minute' from sequence_enrollments")


def test_what_people_resume_does_not_resume_by_itself(db: Any, inbox: Inbox, drip: Drip, maria: Chat) -> None:
    resumes(db, drip, "manual")
    inbox.deliver(says("w2"))
    later(db, days=90)

    assert (resume(db), live(db, maria)) == (0, ("paused", "replied"))


def test_a_step_written_on_the_phone_is_done_and_the_sequence_goes_on(
    db: Any, inbox: Inbox, drip: Drip, maria: Chat, waiting: Any
) -> None:
    later(db, hours=5)
    inbox.deliver(
        echo("e1", "hola maria te quedo alguna duda sobre la limpieza dental 😊", at=NOW + timedelta(hours=5))
    )

    assert entries(db) == [("done", True)]
    assert drip.history() == [("s0", "done", "phone")]
    assert (
        db.value("select m.wa_message_id from sequence_history h join messages m on m.id = h.message_id")
        == "e1"
    )

    later(db, hours=20)  # a day after the step was due, but not after it went out
    db.run("update chats set window_expires_at = private.clock() + interval '9 hours'")
    assert "send" not in process(db)
    later(db, hours=4.1)
    assert process(db) == {"claimed": 1, "send": 1}


@pytest.mark.parametrize(
    ("written", "is_it"),
    [
        ("Hola Mari! te quedó alguna duda sobre la limpieza?", True),
        (TEXT + " Saludos, Marta de la Clínica. Estamos hasta las 18:00.", True),
        ("HOLA MARIA,   ¿TE QUEDÓ ALGUNA DUDA SOBRE LA LIMPIEZA DENTAL?", True),
        ("Hola María, buenos días", False),
        ("Hola María, ¿a qué hora te viene bien la cita de mañana?", False),
        ("😊", False),
        ("", False),
    ],
)
def test_what_was_changed_a_little_is_the_step_and_something_else_is_not(
    db: Any, inbox: Inbox, waiting: Any, written: str, is_it: bool
) -> None:
    inbox.deliver(echo("e1", written))

    assert entries(db) == [("done", True) if is_it else ("open", False)]


def test_a_text_that_may_be_either_of_two_entries_is_neither(db: Any, inbox: Inbox, maria: Chat) -> None:
    entry(db, maria, "Hola María, tenemos hora el lunes")
    entry(db, maria, "Hola María, tenemos hora el martes")

    inbox.deliver(echo("e1", "Hola María, tenemos hora el jueves"))
    assert entries(db) == [("open", False), ("open", False)]

    inbox.deliver(echo("e2", "Hola María, tenemos hora el martes"))
    assert entries(db) == [("open", False), ("done", True)]


def test_the_same_words_to_another_customer_are_not_the_step(
    db: Any, inbox: Inbox, waiting: Any, plaza: Business
) -> None:
    inbox.deliver(echo("e1", TEXT, contact=CARLOS))
    inbox.deliver(echo("e2", TEXT), number=plaza.number)
    inbox.deliver(echo("e3", TEXT, at=NOW - timedelta(hours=3), history=True))

    assert entries(db) == [("open", False)]


def test_who_writes_the_next_step_on_the_phone_need_not_send_it_again(
    db: Any, inbox: Inbox, drip: Drip, maria: Chat
) -> None:
    inbox.deliver(echo("e1", TEXT))
    assert drip.history() == [("s0", "done", "phone")]

    later(db, hours=1)
    assert process(db) == {"claimed": 0}
    assert drip.enrollments() == [("active", None, 2)]


def test_a_step_that_waits_in_the_outbox_is_not_sent_after_a_person_has_said_it(
    db: Any, clinic: Business, drip: Drip, maria: Chat
) -> None:
    process(db)
    sent = send(db, clinic, maria, TEXT + " Saludos, Marta")

    assert drip.texts("queued") == []
    assert drip.texts("canceled") == [TEXT]
    assert drip.history() == [("s0", "done", "staff")]
    assert db.value("select message_id from sequence_history") == db.value("select %s::uuid", sent["id"])


def test_a_step_sent_by_staff_is_done(
    db: Any, inbox: Inbox, clinic: Business, maria: Chat, waiting: Any
) -> None:
    inbox.deliver(says("w2"))  # opens the window
    send(db, clinic, maria, "Hola María! Te quedó alguna duda sobre tu limpieza dental?")

    assert entries(db) == [("done", True)]
    assert db.value("select done_by from pending_manual") == clinic.tenant_id


def test_a_person_may_say_which_step_their_own_words_are(
    db: Any, inbox: Inbox, clinic: Business, drip: Drip, maria: Chat, waiting: Any
) -> None:
    inbox.deliver(says("w2"))
    send(db, clinic, maria, "¡Buenas! ¿Todo bien?", p_pending_id=waiting)

    assert entries(db) == [("done", True)]
    assert drip.history()[0] == ("s0", "done", "staff")


def test_an_entry_of_another_chat_cannot_be_named(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business, waiting: Any
) -> None:
    inbox.deliver(says("w2", contact=CARLOS))
    carlos = db.value("select chat_id from messages where wa_message_id = 'w2'")
    with db.signed_in(clinic.owner), pytest.raises(psycopg.Error, match="No hay tal mensaje pendiente"):
        db.run("select message_send(%s, p_content => 'Hola', p_pending_id => %s)", carlos, waiting)
    with db.signed_in(plaza.owner), pytest.raises(psycopg.Error, match="No hay tal mensaje pendiente"):
        db.run("select pending_manual_send(%s)", waiting)


def test_an_entry_is_sent_as_it_stands_and_only_once(
    db: Any, inbox: Inbox, clinic: Business, waiting: Any
) -> None:
    inbox.deliver(says("w2"))
    agent = colleague(db, clinic, "agent")
    with db.signed_in(agent):
        sent = db.value("select pending_manual_send(%s, p_idempotency_key => 'k')", waiting)
        assert (sent["content"], sent["source"], sent["status"]) == (TEXT, "staff", "queued")
        again = db.value("select pending_manual_send(%s, p_idempotency_key => 'k')", waiting)
        assert again["id"] == sent["id"]
    assert entries(db) == [("done", True)]
    with db.signed_in(agent), pytest.raises(psycopg.Error, match="No hay tal mensaje pendiente"):
        db.run("select pending_manual_send(%s)", waiting)


def test_an_entry_is_not_sent_against_the_rules(db: Any, clinic: Business, waiting: Any) -> None:
    with db.signed_in(clinic.owner), pytest.raises(psycopg.Error) as refusal:
        db.run("select pending_manual_send(%s)", waiting)

    assert refusal.value.sqlstate == "PT409"
    assert json.loads(refusal.value.diag.message_detail or "")["reason"] == "window_closed"
    assert entries(db) == [("open", False)]


def test_a_file_is_sent_with_its_step(
    db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None
) -> None:
    inbox.deliver(says("w1", at=NOW - timedelta(hours=2)))
    image = {"type": "image", "link": "https://clinic.example/plan.png"}
    drip = Drip.of(db, clinic, {"key": "a", "text": "Tu plan, {{first_name}}", "media": image})
    drip.enroll()
    closed(db)
    process(db)
    inbox.deliver(says("w2"))

    with db.signed_in(clinic.owner):
        listed = db.row("select id, of_type, media from pending_manual_list()")
        sent = db.value("select pending_manual_send(%s)", listed["id"])
    assert (listed["of_type"], listed["media"]) == ("image", {"link": "https://clinic.example/plan.png"})
    assert (sent["type"], sent["content"], sent["data"]["media"]) == (
        "image", "Tu plan, María", {"link": "https://clinic.example/plan.png"},
    )  # fmt: skip


def test_an_entry_whose_message_was_canceled_waits_again(
    db: Any, inbox: Inbox, clinic: Business, drip: Drip, waiting: Any
) -> None:
    inbox.deliver(says("w2"))
    with db.signed_in(clinic.owner):
        sent = db.value("select pending_manual_send(%s)", waiting)
        db.run("select message_cancel(%s)", sent["id"])

    assert entries(db) == [("open", False)]
    assert drip.history()[0] == ("s0", "manual", "canceled")


def test_a_step_whose_message_of_staff_was_canceled_was_not_sent(
    db: Any, clinic: Business, maria: Chat, drip: Drip
) -> None:
    drip.enroll()
    sent = send(db, clinic, maria, TEXT)
    assert drip.history() == [("s0", "done", "staff")]

    with db.signed_in(clinic.owner):
        db.run("select message_cancel(%s)", sent["id"])

    assert drip.history() == [("s0", "skipped", "canceled")]


def test_the_queue_names_the_step_and_has_its_text_ready(
    db: Any, clinic: Business, plaza: Business, waiting: Any
) -> None:
    with db.signed_in(clinic.owner):
        shown = db.row("select text, sequence_name, step_key, step_position, of_type, wa_link, window_open"
                       " from pending_manual_list()")  # fmt: skip
    assert shown.pop("wa_link").startswith(f"https://wa.me/{MARIA['phone']}?text=Hola%20Mar%C3%ADa")
    assert shown == {
        "text": TEXT, "sequence_name": "Bienvenida", "step_key": "s0", "step_position": 1,
        "of_type": "text", "window_open": False,
    }  # fmt: skip
    with db.signed_in(plaza.owner):
        assert db.rows("select * from pending_manual_list()") == []


def test_the_urgent_come_first_and_then_the_oldest(db: Any, clinic: Business, maria: Chat) -> None:
    for n, priority in enumerate([2, 5, 2, 5], 1):
        db.run(
            "insert into pending_manual (tenant_id, chat_id, source, reason, priority, text, added_at)"
            " select %s, %s, 'daily_action', 'window_closed', %s, %s, private.clock() + %s * interval '1 s'",
            maria.tenant_id, maria.id, priority, str(n), n,
        )  # fmt: skip

    with db.signed_in(clinic.owner):
        assert db.column("select text from pending_manual_list()") == ["2", "4", "1", "3"]


def test_a_customer_without_a_phone_has_no_link(db: Any, clinic: Business, inbox: Inbox, drip: Drip) -> None:
    inbox.deliver(says("w9", contact=NOBODY_KNOWS))
    ana = db.row("select tenant_id, chat_id as id from messages where wa_message_id = 'w9'")
    entry(db, Chat(**ana), "Hola")

    with db.signed_in(clinic.owner):
        assert db.row("select lead_name, wa_link from pending_manual_list()") == {
            "lead_name": "Ana", "wa_link": None,
        }  # fmt: skip


def test_the_link_goes_to_the_phone_that_the_customer_has_now(
    db: Any, clinic: Business, waiting: Any
) -> None:
    db.run("update lead_identities set valid_to = now() where kind in ('phone', 'mobile')")
    db.run(
        "insert into lead_identities (tenant_id, lead_id, kind, scope, value, valid_from, valid_to)"
        " select tenant_id, id, 'phone', '', '573999999999', now(), 'infinity' from customer_leads"
    )

    with db.signed_in(clinic.owner):
        assert "573999999999" in db.value("select wa_link from pending_manual_list()")


def test_a_step_that_somebody_dismissed_is_skipped(
    db: Any, clinic: Business, drip: Drip, waiting: Any
) -> None:
    with db.signed_in(clinic.owner):
        db.run("select pending_manual_dismiss(%s)", waiting)

    assert drip.history() == [("s0", "skipped", "dismissed")]
    assert db.value("select done_by from pending_manual") == clinic.tenant_id


def test_staff_pause_and_resume(db: Any, inbox: Inbox, clinic: Business, drip: Drip, maria: Chat) -> None:
    resumes(db, drip, "silence", 1)
    inbox.deliver(says("w2"))

    assert staff(db, clinic, "pause", maria)["reason"] == "staff"
    later(db, hours=30)
    assert (resume(db), live(db, maria)) == (0, ("paused", "staff"))

    assert staff(db, clinic, "resume", maria)["status"] == "active"
    assert process(db)["claimed"] == 1


def test_staff_skip_a_step_and_the_next_counts_from_then(
    db: Any, clinic: Business, drip: Drip, maria: Chat
) -> None:
    later(db, hours=1)
    staff(db, clinic, "skip", maria)
    assert (drip.history(), drip.enrollments()) == ([("s0", "skipped", "staff")], [("active", None, 2)])
    assert process(db) == {"claimed": 0}

    staff(db, clinic, "skip", maria)
    staff(db, clinic, "skip", maria)
    assert drip.enrollments() == [("completed", "done", 4)]
    assert drip.texts() == []


def test_staff_stop_and_restart(db: Any, clinic: Business, drip: Drip, maria: Chat) -> None:
    process(db)
    staff(db, clinic, "stop", maria)
    assert drip.enrollments() == [("stopped", "staff", 1)]
    assert drip.texts() == []  # what had not gone out does not

    new = staff(db, clinic, "restart", maria)
    assert drip.enrollments("status, position") == [("stopped", 1), ("active", 1)]
    assert process(db) == {"claimed": 1, "send": 1}
    assert db.value(
        "select enrolled_by = %s from sequence_enrollments where id = %s", clinic.tenant_id, new["id"]
    )


def test_what_is_over_is_neither_paused_nor_skipped(
    db: Any, clinic: Business, drip: Drip, maria: Chat
) -> None:
    staff(db, clinic, "stop", maria)
    for what in ("pause", "resume", "skip", "stop"):
        with pytest.raises(psycopg.Error, match="ya terminó: está stopped") as refusal:
            staff(db, clinic, what, maria)
        assert refusal.value.sqlstate == "PT409"


def test_what_staff_did_is_in_the_audit_log(db: Any, clinic: Business, maria: Chat) -> None:
    staff(db, clinic, "pause", maria)

    assert db.row(
        "select user_id, before, after from audit_log where action = 'enrollment_pause'"
    ) == {
        "user_id": clinic.tenant_id,
        "before": {"status": "active", "reason": None, "position": 1},
        "after": {"status": "paused", "reason": "staff", "position": 1},
    }  # fmt: skip


@pytest.mark.parametrize("what", ["pause", "resume", "skip", "restart", "stop"])
def test_enrollments_are_for_users_and_admins_of_the_business(
    db: Any, clinic: Business, plaza: Business, maria: Chat, what: str
) -> None:
    agent = colleague(db, clinic, "agent")
    with pytest.raises(psycopg.Error) as refusal:
        staff(db, clinic, what, maria, agent)
    assert refusal.value.sqlstate == "PT403"
    with pytest.raises(psycopg.Error, match="No hay tal inscripción"):
        staff(db, clinic, what, maria, plaza.owner)
    assert live(db, maria) == ("active", None)


def staff(db: Any, business: Business, what: str, chat: Chat, who: Any = None) -> Any:
    """What enrollment_<what> answers about the chat's last enrollment."""
    enrollment = db.value(
        "select id from sequence_enrollments where chat_id = %s order by enrolled_at desc, id desc limit 1",
        chat.id,
    )
    with db.signed_in(who or business.owner):
        return db.row(f"select * from enrollment_{what}(%s)", enrollment)
