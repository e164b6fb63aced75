"""Who gets into a sequence: one customer, a filtered set, or those whom a trigger speaks of."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, says
from tests.sql.sequences import Drip, process

pytestmark = pytest.mark.usefixtures("time_of_the_tests")


@pytest.fixture
def both(inbox: Inbox) -> None:
    """María and Carlos have written."""
    inbox.deliver(says("w1"), says("w2", contact=CARLOS))


def counted(enrolled: int, **reasons: int) -> dict[str, Any]:
    return {"enrolled": enrolled, "skipped": sum(reasons.values()), "reasons": reasons}


def test_a_customer_is_in_one_sequence_at_a_time(db: Any, clinic: Business, both: None) -> None:
    first, second = Drip.of_texts(db, clinic, "Hola"), Drip.of_texts(db, clinic, "Otra", name="Otra")

    assert first.enroll() == counted(1)
    assert first.enroll() == second.enroll() == counted(0, already_enrolled=1)


def test_who_was_in_it_comes_again_only_when_that_is_said(db: Any, clinic: Business, both: None) -> None:
    drip = Drip.of_texts(db, clinic, "Hola")
    drip.enroll()
    process(db)

    assert drip.enroll() == counted(0, was_enrolled=1)
    assert drip.enroll(again=True) == counted(1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("update sequences set is_active = false", "sequence_inactive"),
        ("update customer_leads set is_active = false", "lead_inactive"),
        ("update whatsapp_numbers set is_active = false", "number_inactive"),
        ("update customer_leads set opted_out_at = now(), opt_out_scope = 'marketing'", "opted_out"),
        ("update chats set block_state = 'confirmed'", "blocked"),
    ],
)
def test_why_a_customer_is_left_out(db: Any, clinic: Business, both: None, change: str, reason: str) -> None:
    drip = Drip.of_texts(db, clinic, "Hola")
    db.run(change)

    assert drip.enroll() == counted(0, **{reason: 1})


def test_a_customer_without_a_chat_gets_one_on_the_number_that_is_named(db: Any, clinic: Business) -> None:
    lead = db.value(
        "insert into customer_leads (tenant_id, phone) values (%s, '573000000001') returning id",
        clinic.tenant_id,
    )
    db.run(
        "insert into lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)"
        " values (%s, 'phone', '', '573000000001', now(), %s)", clinic.tenant_id, lead,
    )  # fmt: skip
    drip = Drip.of_texts(db, clinic, "Hola")
    with db.signed_in(clinic.owner):
        assert db.value("select sequence_enroll(%s, %s)", drip.id, lead) == counted(0, no_chat=1)
        answer = db.value("select sequence_enroll(%s, %s, %s)", drip.id, lead, clinic.number_id)

    assert answer == counted(1)
    assert db.value("select number_id from chats where lead_id = %s", lead) == clinic.number_id


@pytest.mark.parametrize(
    ("criteria", "enrolled"),
    [
        ({}, 2),
        ({"tags": ["vip", "nuevo"]}, 1),
        ({"statuses": ["Booked"]}, 1),
        ({"statuses": ["new"], "tags": ["otro"]}, 0),
        ({"labels": ["Oro"]}, 1),
        ({"last_activity_after": (NOW - timedelta(days=1)).isoformat()}, 1),
        ({"last_activity_before": (NOW - timedelta(days=1)).isoformat()}, 1),
    ],
)
def test_a_filter_means_whoever_fits_all_of_it(
    db: Any, clinic: Business, both: None, criteria: Any, enrolled: int
) -> None:
    db.run(
        "update customer_leads set tags = '{vip}', profile_status = 'Booked', label2 = 'Oro',"
        " last_activity = %s where phone = %s", NOW, MARIA["phone"],
    )  # fmt: skip
    db.run("update customer_leads set last_activity = %s where phone = %s",
        NOW - timedelta(days=9), CARLOS["phone"])  # fmt: skip

    assert Drip.of_texts(db, clinic, "Hola").enroll_many(**criteria) == counted(enrolled)


@pytest.mark.parametrize(
    ("criteria", "key"),
    [
        ({"tag": ["vip"]}, "p_filter"),
        ({"tags": "vip"}, "tags"),
        ({"statuses": [1]}, "statuses"),
        ({"last_activity_after": "ayer"}, "last_activity_after"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused_by_its_key(
    db: Any, clinic: Business, both: None, criteria: Any, key: str
) -> None:
    drip = Drip.of_texts(db, clinic, "Hola")
    with pytest.raises(psycopg.DatabaseError) as refused:
        drip.enroll_many(**criteria)

    assert refused.value.sqlstate == "PT400"
    assert str(refused.value.diag.message_primary).startswith(key + " ")


def test_another_business_s_customers_and_sequences_are_not_there(
    db: Any, clinic: Business, plaza: Business, both: None
) -> None:
    drip = Drip.of_texts(db, clinic, "Hola")
    lead = db.value("select id from customer_leads where phone = %s", MARIA["phone"])
    with pytest.raises(psycopg.DatabaseError) as refused, db.signed_in(plaza.owner):
        db.value("select sequence_enroll(%s, %s)", drip.id, lead)
    assert refused.value.sqlstate == "PT404"

    theirs = Drip.of_texts(db, plaza, "Hola")
    assert theirs.enroll_many() == counted(0)


def test_ten_thousand_are_enrolled_by_one_call(db: Any, clinic: Business) -> None:
    db.run(
        "with leads as (insert into customer_leads (tenant_id, phone) select %s, 573000000000 + n"
        " from generate_series(1, 10000) n returning id)"
        " insert into chats (tenant_id, lead_id, number_id, last_interaction_at) select %s, id, %s, now()"
        " from leads", clinic.tenant_id, clinic.tenant_id, clinic.number_id,
    )  # fmt: skip
    drip = Drip.of_texts(db, clinic, "Hola")

    assert drip.enroll_many() == counted(10_000)
    assert drip.enroll_many() == counted(0, already_enrolled=10_000)


def triggered(db: Any, business: Business, *triggers: dict[str, str]) -> Drip:
    return Drip.of_texts(db, business, "Hola", triggers=list(triggers))


def test_a_new_customer_is_enrolled_once(db: Any, clinic: Business, inbox: Inbox) -> None:
    drip = triggered(db, clinic, {"on": "new_lead"})
    inbox.deliver(says("w1"))
    assert drip.enrollments("status, source") == [("active", "new_lead")]


@pytest.mark.parametrize(
    ("text", "enrolled"),
    [("Quiero saber el PRECIO, por favor", 1), ("¿Précio?", 1), ("El menosprecio", 0), ("Hola", 0)],
)
def test_a_keyword_is_a_word_of_the_message(
    db: Any, clinic: Business, inbox: Inbox, text: str, enrolled: int
) -> None:
    drip = triggered(db, clinic, {"on": "keyword", "value": "precio"})
    inbox.deliver(says("w1", text))

    assert len(drip.enrollments()) == enrolled


def test_an_ad_enrolls_whom_it_brings(db: Any, clinic: Business, inbox: Inbox) -> None:
    drip = triggered(db, clinic, {"on": "ad", "value": "120"})
    ad = {"source_type": "ad", "source_id": "120"}
    inbox.deliver(says("w1", referral=ad), says("w2", contact=CARLOS, referral=ad | {"source_id": "7"}))

    assert drip.enrollments("source") == [("ad",)]


def test_history_and_old_messages_enroll_nobody(db: Any, clinic: Business, inbox: Inbox) -> None:
    drip = triggered(db, clinic, {"on": "new_lead"}, {"on": "keyword", "value": "hola"})
    inbox.deliver(says("w1", history=True), says("w2", contact=CARLOS, at=NOW - timedelta(days=2)))

    assert drip.enrollments() == []


@pytest.mark.parametrize(
    "change", ["tags = tags || '{vip}'::text[]", "profile_status = 'Booked'", "lead_status = 'Booked'"]
)
def test_a_tag_or_a_status_enrolls_when_it_is_given_and_not_again(
    db: Any, clinic: Business, both: None, change: str
) -> None:
    drip = triggered(db, clinic, {"on": "tag", "value": "vip"}, {"on": "status", "value": "Booked"})
    with db.signed_in(clinic.owner):
        db.run(f"update customer_leads set {change} where phone = %s", MARIA["phone"])
    assert drip.enrollments("chat_id") == [(drip.chat().id,)]

    process(db)
    with db.signed_in(clinic.owner):
        db.run("update customer_leads set company = 'Otra'")
    assert len(drip.enrollments()) == 1


def test_an_inactive_sequence_is_not_triggered(db: Any, clinic: Business, inbox: Inbox) -> None:
    drip = triggered(db, clinic, {"on": "new_lead"})
    db.run("update sequences set is_active = false")
    inbox.deliver(says("w1"))

    assert drip.enrollments() == []


def test_of_two_chats_that_become_one_one_enrollment_stays(db: Any, clinic: Business, both: None) -> None:
    drip = Drip.of_texts(db, clinic, "Hola", "Adiós")
    drip.enroll_many()
    maria, carlos = (db.value("select id from customer_leads where phone = %s", p["phone"])
        for p in (MARIA, CARLOS))  # fmt: skip
    with db.signed_in(clinic.owner):
        db.run("select lead_merge(%s, %s, %s)", maria, carlos, maria)

    assert sorted(drip.enrollments("status, reason"), key=str) == [("active", None), ("stopped", "merged")]
