"""What others do to enrollments: hold, release and end them, and take back what has not gone out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.given import CARLOS, Business, Inbox, says
from tests.sql.sequences import Chat, Drip, live, machine, process, refs


@pytest.fixture
def drip(db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None) -> Drip:
    """A sequence of two steps, a day apart, and María, who has just written."""
    inbox.deliver(says("w1"))
    return Drip.of_texts(db, clinic, "Hola", "¿Sigues ahí?")


def enroll(drip: Drip) -> Chat:
    assert drip.enroll()["enrolled"] == 1
    return drip.chat()


def test_what_is_held_goes_on_when_that_reason_is_over(db: Any, drip: Drip) -> None:
    chat = enroll(drip)
    machine(db, "select private.enrollments_hold(%s::private.chat_ref[], 'probably_blocked')", refs(chat))
    assert live(db, chat) == ("paused", "probably_blocked")

    machine(db, "select private.enrollments_release(%s::private.chat_ref[], 'replied')", refs(chat))
    assert live(db, chat) == ("paused", "probably_blocked")

    machine(db, "select private.enrollments_release(%s::private.chat_ref[], 'probably_blocked')", refs(chat))
    assert live(db, chat) == ("active", None)


def test_who_is_held_already_keeps_the_first_reason(db: Any, drip: Drip) -> None:
    chat = enroll(drip)
    for reason in ("replied", "blocked"):
        machine(db, "select private.enrollments_hold(%s::private.chat_ref[], %s)", refs(chat), reason)

    assert live(db, chat) == ("paused", "replied")


def test_a_chat_without_an_enrollment_is_left_alone(db: Any, drip: Drip, inbox: Inbox) -> None:
    maria = enroll(drip)
    inbox.deliver(says("w2", contact=CARLOS))
    carlos = drip.chat(CARLOS)
    machine(db, "select private.enrollments_end(%s::private.chat_ref[], 'stopped', 'staff')", refs(carlos))

    assert live(db, maria) == ("active", None)
    assert live(db, carlos) is None


def test_what_ended_can_begin_again_but_never_twice_at_once(db: Any, drip: Drip) -> None:
    chat = enroll(drip)
    machine(db, "select private.enrollments_end(%s::private.chat_ref[], 'stopped', 'staff')", refs(chat))
    drip.enroll(again=True)

    statuses = db.column("select status from sequence_enrollments order by id")
    assert statuses == ["stopped", "active"]


def test_a_step_that_waits_in_the_outbox_is_taken_back_and_sent_later_once(db: Any, drip: Drip) -> None:
    chat = enroll(drip)
    process(db)
    machine(db, "select private.enrollments_hold(%s::private.chat_ref[], 'replied')", refs(chat))

    assert drip.texts("canceled") == ["Hola"]
    assert db.column("select 1 from outbox") == drip.history() == []
    machine(db, "select private.enrollments_release(%s::private.chat_ref[], 'replied')", refs(chat))
    process(db)
    assert drip.texts() == ["Hola"]


def test_a_step_on_its_way_is_not_taken_back(db: Any, drip: Drip) -> None:
    chat = enroll(drip)
    process(db)
    db.run("update outbox set state = 'sending'")
    machine(db, "select private.enrollments_hold(%s::private.chat_ref[], 'replied')", refs(chat))

    assert drip.texts() == ["Hola"]
    assert drip.enrollments() == [("paused", "replied", 2)]


def test_the_last_step_taken_back_makes_the_enrollment_go_on(db: Any, clinic: Business, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    drip = Drip.of_texts(db, clinic, "Hola")
    chat = enroll(drip)
    process(db)
    assert drip.enrollments() == [("completed", "done", 2)]

    machine(db, "select private.enrollments_hold(%s::private.chat_ref[], 'replied')", refs(chat))
    assert drip.enrollments() == [("paused", "replied", 1)]


def test_an_opt_out_told_to_staff_ends_it(db: Any, clinic: Business, drip: Drip) -> None:
    enroll(drip)
    with db.signed_in(clinic.owner):
        db.run("select consent_record(id, 'opt_out', 'marketing', 'por teléfono') from customer_leads")

    assert drip.enrollments() == [("opted_out", "opted_out", 1)]


@pytest.mark.parametrize("resume", ["never", "manual"])
def test_a_refusal_ends_it_whatever_a_reply_does(
    db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None, resume: str
) -> None:
    inbox.deliver(says("w1"))
    drip = Drip.of_texts(db, clinic, "Hola", on_reply={"resume": resume})
    enroll(drip)
    inbox.deliver(says("w2", "STOP"))

    assert drip.enrollments() == [("opted_out", "opted_out", 1)]
