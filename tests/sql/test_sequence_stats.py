"""Statistics of sequences: what became of their steps, and of the customers in them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, event, says
from tests.sql.sequences import Drip, delivered, later, process, text_step

pytestmark = pytest.mark.usefixtures("time_of_the_tests")


@pytest.fixture
def drip(db: Any, clinic: Business, inbox: Inbox) -> Drip:
    """Two customers get the first step; Carlos's second one is with a person."""
    inbox.deliver(says("w1"))
    inbox.deliver(says("w2", contact=CARLOS))
    drip = Drip.of(db, clinic, text_step("Hola"), text_step("Adiós", 1), text_step("Fin", 2))
    drip.enroll(MARIA)
    drip.enroll(CARLOS)
    process(db)
    delivered(db)
    return drip


def step(db: Any, business: Business, key: str, columns: str) -> dict[str, Any]:
    with db.signed_in(business.owner):
        return dict(db.row(f"select {columns} from sequence_step_stats where step_key = %s", key))


def whole(db: Any, business: Business, columns: str) -> dict[str, Any]:
    with db.signed_in(business.owner):
        return dict(db.row(f"select {columns} from sequence_stats"))


def messages(db: Any) -> list[Any]:
    return list(db.column("select id from messages where source = 'sequence' order by id"))


def test_what_arrived_and_was_read_is_counted(db: Any, clinic: Business, drip: Drip) -> None:
    one, two = messages(db)
    db.run(
        "update messages set status = 'read', delivered_at = sent_at, read_at = sent_at where id = %s", one
    )
    db.run("update messages set status = 'delivered', delivered_at = sent_at where id = %s", two)

    counted = "sent, delivered, read, failed"
    assert step(db, clinic, "s0", counted) == {"sent": 2, "delivered": 2, "read": 1, "failed": 0}
    assert whole(db, clinic, "enrolled, active, sent, delivered, read") == {
        "enrolled": 2, "active": 2, "sent": 2, "delivered": 2, "read": 1,
    }  # fmt: skip


def test_what_waits_or_failed_was_not_sent(db: Any, clinic: Business, drip: Drip) -> None:
    db.run("update messages set status = 'failed', sent_at = null where id = %s", messages(db)[0])

    assert step(db, clinic, "s0", "sent, failed") == {"sent": 1, "failed": 1}


@pytest.mark.parametrize(
    ("hours", "within"),
    [(1, (1, 1)), (23.9, (1, 1)), (24.2, (0, 1)), (71.9, (0, 1)), (72.2, (0, 0))],
)
def test_a_reply_counts_for_as_long_as_it_may_be_one(
    db: Any, clinic: Business, inbox: Inbox, drip: Drip, hours: float, within: tuple[int, int]
) -> None:
    later(db, hours=hours)
    inbox.deliver(says("w3", at=NOW + timedelta(hours=hours, seconds=30)))

    for told in (
        step(db, clinic, "s0", "replied_24h, replied_72h"),
        whole(db, clinic, "replied_24h, replied_72h"),
    ):
        assert tuple(told.values()) == within


def test_a_customer_who_writes_three_times_replied_once(
    db: Any, clinic: Business, inbox: Inbox, drip: Drip
) -> None:
    for n in range(3):
        later(db, hours=1)
        inbox.deliver(says(f"r{n}", at=NOW + timedelta(hours=n + 1)))

    assert whole(db, clinic, "replied_24h, paused") == {"replied_24h": 1, "paused": 1}


def test_what_people_did_is_counted(db: Any, clinic: Business, drip: Drip) -> None:
    later(db, hours=25)
    process(db)
    with db.signed_in(clinic.owner):
        entries = db.column("select id from pending_manual_list()")
        db.run("select pending_manual_done(%s)", entries[0])
        db.run("select pending_manual_dismiss(%s)", entries[1])

    counted = "manual, done, skipped, sent"
    assert step(db, clinic, "s1", counted) == {"manual": 2, "done": 1, "skipped": 1, "sent": 0}
    assert whole(db, clinic, "manual, done, skipped, sent") == {
        "manual": 2, "done": 1, "skipped": 1, "sent": 2,
    }  # fmt: skip


def test_costs_are_by_currency_and_of_what_was_sent(db: Any, clinic: Business, drip: Drip) -> None:
    one, two = messages(db)
    db.run(
        "update messages set estimated_cost = 0.02, actual_cost = 0.01, currency = 'USD' where id = %s", one
    )
    db.run("update messages set estimated_cost = 80, currency = 'COP' where id = %s", two)

    cost = {"USD": {"estimated": 0.02, "actual": 0.01}, "COP": {"estimated": 80, "actual": 0}}
    assert step(db, clinic, "s0", "cost")["cost"] == cost
    assert whole(db, clinic, "cost")["cost"] == cost


def test_a_step_is_one_in_all_versions(db: Any, clinic: Business, inbox: Inbox, drip: Drip) -> None:
    drip.save(text_step("Antes", 9), text_step("Hola otra vez"))
    inbox.deliver(event("message", "w9", NOW, contact={"phone": "573440000000"}, type="text", text="Hola"))
    drip.enroll({"phone": "573440000000"})
    later(db, hours=25)
    db.run("update chats set window_expires_at = private.clock() + interval '20 hours'")
    process(db)
    delivered(db)
    later(db, hours=1)
    process(db)
    delivered(db)

    assert step(db, clinic, "s0", "version, position, sent") == {"version": 2, "position": 2, "sent": 3}


def test_nobody_sees_how_another_business_does(db: Any, plaza: Business, drip: Drip) -> None:
    with db.signed_in(plaza.owner):
        for view in ("sequence_stats", "sequence_step_stats", "sequence_runs"):
            assert db.rows(f"select * from {view}") == []
