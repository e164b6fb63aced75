"""What others do to enrollments: hold, release and end them, and take back what has not gone out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.given import CARLOS, MARIA, Business, Inbox, says
from tests.sql.sequences import Drip, enrolled, live, machine, refs


@pytest.fixture
def drip(db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None) -> Drip:
    """A sequence of two steps, a day apart, and María, who has just written."""
    inbox.deliver(says("w1"))
    return Drip.of_texts(db, clinic, "Hola", "¿Sigues ahí?")


def test_what_is_held_goes_on_when_that_reason_is_over(db: Any, drip: Drip) -> None:
    chat = enrolled(db, drip, MARIA)
    machine(db, "select private.enrollments_hold(%s::private.chat_ref[], 'probably_blocked')", refs(chat))
    assert live(db, chat) == ("paused", "probably_blocked")

    machine(db, "select private.enrollments_release(%s::private.chat_ref[], 'replied')", refs(chat))
    assert live(db, chat) == ("paused", "probably_blocked")

    machine(db, "select private.enrollments_release(%s::private.chat_ref[], 'probably_blocked')", refs(chat))
    assert live(db, chat) == ("active", None)


def test_who_is_held_already_keeps_the_first_reason(db: Any, drip: Drip) -> None:
    chat = enrolled(db, drip, MARIA)
    for reason in ("replied", "blocked"):
        machine(db, "select private.enrollments_hold(%s::private.chat_ref[], %s)", refs(chat), reason)

    assert live(db, chat) == ("paused", "replied")


def test_a_chat_without_an_enrollment_is_left_alone(db: Any, drip: Drip, inbox: Inbox) -> None:
    maria = enrolled(db, drip, MARIA)
    inbox.deliver(says("w2", contact=CARLOS))
    carlos = drip.chat(CARLOS)
    machine(db, "select private.enrollments_end(%s::private.chat_ref[], 'stopped', 'staff')", refs(carlos))

    assert live(db, maria) == ("active", None)
    assert live(db, carlos) is None


def test_what_ended_can_begin_again_but_never_twice_at_once(db: Any, drip: Drip) -> None:
    chat = enrolled(db, drip, MARIA)
    machine(db, "select private.enrollments_end(%s::private.chat_ref[], 'stopped', 'staff')", refs(chat))
    enrolled(db, drip, MARIA)

    statuses = db.column("select status from sequence_enrollments order by id")
    assert statuses == ["stopped", "active"]
