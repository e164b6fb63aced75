"""Sequences and people: customers who write, and staff who send by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, echo, says, status
from tests.sql.sequences import Chat, Drip, enrolled, live, machine

TEXT = "Hola María, ¿te quedó alguna duda sobre la limpieza dental?"
NOBODY_KNOWS = {"bsuid": "CO.333", "profile_name": "Ana"}


@pytest.fixture
def drip(db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None) -> Drip:
    """A sequence of two steps, a day apart, and María, who wrote two hours ago."""
    inbox.deliver(says("w1", at=NOW - timedelta(hours=2)))
    return Drip.of_texts(db, clinic, TEXT, "¿Sigues ahí?")


@pytest.fixture
def maria(db: Any, drip: Drip) -> Chat:
    return enrolled(db, drip, MARIA)


def resumes(db: Any, drip: Drip, how: str, hours: int | None = None) -> None:
    db.run(
        "update sequences set after_reply = %s, resume_after_hours = %s where id = %s", how, hours, drip.id
    )


def wait(db: Any, hours: float) -> None:
    db.run("update local.clock set ahead = ahead + %s", timedelta(hours=hours))


def resume(db: Any) -> int:
    return int(machine(db, "select private.sequences_resume()"))


def waiting(db: Any, chat: Chat, text: str = TEXT, key: str = "s1") -> Any:
    """A step whose window was closed, as processing leaves it: with a person, and the next one up."""
    entry = db.value(
        "insert into pending_manual (tenant_id, chat_id, source, reason, text, added_at)"
        " values (%s, %s, 'sequence', 'window_closed', %s, private.clock()) returning id",
        chat.tenant_id, chat.id, text,
    )  # fmt: skip
    db.run(
        "insert into sequence_history (tenant_id, enrollment_id, step_key, sequence_id, version, position,"
        " outcome, reason, pending_manual_id, planned_at, at)"
        " select tenant_id, id, %s, sequence_id, version, position, 'manual', 'window_closed', %s, at, at"
        " from sequence_enrollments, private.clock() at where chat_id = %s",
        key, entry, chat.id,
    )  # fmt: skip
    db.run("update sequence_enrollments set position = position + 1 where chat_id = %s", chat.id)
    return entry


def entries(db: Any) -> list[tuple[str, bool]]:
    rows = db.rows("select status, sent_manually from pending_manual order by id")
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
    wait(db, 20)
    inbox.deliver(says("w3", at=NOW + timedelta(hours=20)))

    wait(db, 23)
    assert (resume(db), live(db, maria)) == (0, ("paused", "replied"))

    wait(db, 1.1)
    assert (resume(db), live(db, maria)) == (1, ("active", None))
    assert resume(db) == 0
    assert db.value("select next_run_at >= private.clock() - interval '1 minute' from sequence_enrollments")


def test_what_people_resume_does_not_resume_by_itself(db: Any, inbox: Inbox, drip: Drip, maria: Chat) -> None:
    resumes(db, drip, "manual")
    inbox.deliver(says("w2"))
    wait(db, 24 * 90)

    assert (resume(db), live(db, maria)) == (0, ("paused", "replied"))


def test_a_step_written_on_the_phone_is_done(db: Any, inbox: Inbox, maria: Chat) -> None:
    waiting(db, maria)

    inbox.deliver(echo("e1", "hola maria te quedo alguna duda sobre la limpieza dental 😊"))

    assert entries(db) == [("done", True)]
    assert db.row("select h.outcome, h.reason, m.wa_message_id from sequence_history h"
                  " join messages m on m.id = h.message_id") == {
        "outcome": "done", "reason": "phone", "wa_message_id": "e1",
    }  # fmt: skip
    assert (live(db, maria), db.value("select position from sequence_enrollments")) == (("active", None), 2)


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
    db: Any, inbox: Inbox, maria: Chat, written: str, is_it: bool
) -> None:
    waiting(db, maria)

    inbox.deliver(echo("e1", written))

    assert entries(db) == [("done", True) if is_it else ("open", False)]


def test_a_text_that_may_be_either_of_two_steps_is_neither(db: Any, inbox: Inbox, maria: Chat) -> None:
    waiting(db, maria, "Hola María, tenemos hora el lunes")
    waiting(db, maria, "Hola María, tenemos hora el martes", "s2")

    inbox.deliver(echo("e1", "Hola María, tenemos hora el jueves"))
    assert entries(db) == [("open", False), ("open", False)]

    inbox.deliver(echo("e2", "Hola María, tenemos hora el martes"))
    assert entries(db) == [("open", False), ("done", True)]


def test_the_same_words_to_another_customer_are_not_the_step(
    db: Any, inbox: Inbox, maria: Chat, plaza: Business
) -> None:
    waiting(db, maria)
    inbox.deliver(echo("e1", TEXT, contact=CARLOS))
    inbox.deliver(echo("e2", TEXT), number=plaza.number)
    inbox.deliver(echo("e3", TEXT, at=NOW - timedelta(hours=3), history=True))

    assert entries(db) == [("open", False)]


def test_the_queue_names_the_step_and_has_its_text_ready(
    db: Any, clinic: Business, plaza: Business, maria: Chat
) -> None:
    waiting(db, maria)

    with db.signed_in(clinic.owner):
        entry = db.row("select text, sequence_name, step_key, step_position, of_type, wa_link, window_open"
                       " from pending_manual_list()")  # fmt: skip
    assert entry.pop("wa_link").startswith(f"https://wa.me/{MARIA['phone']}?text=Hola%20Mar%C3%ADa")
    assert entry == {
        "text": TEXT, "sequence_name": "Bienvenida", "step_key": "s1", "step_position": 1,
        "of_type": "text", "window_open": True,
    }  # fmt: skip
    with db.signed_in(plaza.owner):
        assert db.rows("select * from pending_manual_list()") == []


def test_a_customer_without_a_phone_has_no_link(db: Any, clinic: Business, inbox: Inbox, drip: Drip) -> None:
    inbox.deliver(says("w9", contact=NOBODY_KNOWS))
    chat = db.row("select tenant_id, chat_id as id from messages where wa_message_id = 'w9'")
    db.run(
        "insert into pending_manual (tenant_id, chat_id, source, reason, text, added_at)"
        " values (%s, %s, 'daily_action', 'window_closed', 'Hola', now())", chat["tenant_id"], chat["id"],
    )  # fmt: skip

    with db.signed_in(clinic.owner):
        assert db.row("select lead_name, wa_link from pending_manual_list()") == {
            "lead_name": "Ana", "wa_link": None,
        }  # fmt: skip


def test_the_link_goes_to_the_phone_that_the_customer_has_now(db: Any, clinic: Business, maria: Chat) -> None:
    waiting(db, maria)
    db.run("update lead_identities set valid_to = now() where kind in ('phone', 'mobile')")
    db.run(
        "insert into lead_identities (tenant_id, lead_id, kind, scope, value, valid_from, valid_to)"
        " select tenant_id, id, 'phone', '', '573999999999', now(), 'infinity' from customer_leads"
    )

    with db.signed_in(clinic.owner):
        assert "573999999999" in db.value("select wa_link from pending_manual_list()")


def test_a_step_that_somebody_dismissed_is_skipped(db: Any, clinic: Business, maria: Chat) -> None:
    entry = waiting(db, maria)

    with db.signed_in(clinic.owner):
        db.run("select pending_manual_dismiss(%s)", entry)

    assert db.row("select outcome, reason from sequence_history") == {
        "outcome": "skipped", "reason": "dismissed",
    }  # fmt: skip
    assert db.value("select done_by = %s from pending_manual", clinic.tenant_id)
