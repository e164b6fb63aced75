"""leads: who writes is recognised by any of their addresses, and keeps what the business wrote about them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg.errors import ForeignKeyViolation, InsufficientPrivilege

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, event, says


def leads(db: Any) -> list[dict[str, Any]]:
    return list(db.rows("select * from public.customer_leads order by created_at, id"))


def test_fragments_of_a_new_customer_make_one_lead_with_all_their_addresses(db: Any, inbox: Inbox) -> None:
    inbox.receive(
        inbox.payload(says("1"), says("2", contact={"phone": MARIA["phone"]})), inbox.payload(says("3"))
    )

    assert [(lead["phone"], lead["name"]) for lead in leads(db)] == [(MARIA["phone"], "María González")]
    assert db.rows("select kind, scope, value from public.lead_identities order by kind") == [
        {"kind": "bsuid", "scope": "200", "value": "CO.111"},
        {"kind": "phone", "scope": "", "value": MARIA["phone"]},
    ]


def test_a_customer_without_a_phone_is_known_by_their_user_id(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", contact={"bsuid": "CO.9", "username": "ana.p"}))
    inbox.deliver(says("2", contact={"bsuid": "CO.9"}))

    assert [(lead["phone"], lead["user_name"]) for lead in leads(db)] == [(None, "ana.p")]


def test_an_address_learnt_later_leads_to_the_same_lead(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", contact={"phone": MARIA["phone"]}))
    inbox.deliver(says("2"))
    inbox.deliver(says("3", contact={"bsuid": "CO.111"}))

    assert len(leads(db)) == 1


def test_a_name_given_by_staff_stays_and_the_user_name_follows_the_profile(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    db.run("update public.customer_leads set name = 'Sra. González'")

    inbox.deliver(says("2", contact=MARIA | {"profile_name": "Mary"}))
    inbox.deliver(says("3", contact={"phone": MARIA["phone"]}))

    assert [(lead["name"], lead["user_name"]) for lead in leads(db)] == [("Sra. González", "Mary")]


def test_a_new_number_moves_the_address_and_keeps_the_lead(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    later, moved = NOW + timedelta(minutes=1), {"phone": "57399999999", "bsuid": "CO.333"}
    inbox.deliver(event("identity", "i1", NOW + timedelta(seconds=30), **{"from": MARIA, "to": moved}))

    inbox.deliver(says("2", contact=moved, at=later))

    assert [lead["phone"] for lead in leads(db)] == [MARIA["phone"]]
    current = db.column("select value from public.lead_identities where valid_to = 'infinity' order by value")
    assert current == ["57399999999", "CO.333"]


def test_a_late_message_from_the_old_number_is_still_theirs(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", at=NOW - timedelta(minutes=5)))
    inbox.deliver(event("identity", "i1", NOW, **{"from": MARIA, "to": {"phone": "57399999999"}}))

    inbox.deliver(says("2", at=NOW - timedelta(minutes=1)))

    assert len(leads(db)) == 1


def test_a_phone_that_comes_with_another_user_id_is_another_person_until_staff_say_otherwise(
    db: Any, inbox: Inbox
) -> None:
    inbox.deliver(says("1"))

    inbox.deliver(says("2", contact=MARIA | {"bsuid": "CO.444", "profile_name": "Otra"}))

    assert [lead["name"] for lead in leads(db)] == ["María González", "Otra"]
    assert db.column("select reason from public.lead_merge_candidates") == ["shared_phone"]


def test_addresses_of_two_leads_in_one_message_are_for_a_person_to_judge(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", contact={"phone": MARIA["phone"]}))
    inbox.deliver(says("2", contact={"bsuid": "CO.111"}))

    answer = inbox.deliver(says("3"))

    assert answer["status"] == "applied"
    assert db.value("select count(*) from public.lead_merge_candidates") == 1


@pytest.mark.parametrize("text", ["STOP", " baja ", "¡Baja!", "No más mensajes"])
def test_a_message_that_is_the_keyword_opts_out_of_marketing(db: Any, inbox: Inbox, text: str) -> None:
    inbox.deliver(says("1", text))

    assert [lead["opt_out_scope"] for lead in leads(db)] == ["marketing"]
    assert db.column("select evidence from public.consent_events") == [text]


def test_a_message_that_contains_the_keyword_does_not(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", "quiero dar de baja mi línea"), says("2", "stop by later?"))

    assert [lead["opted_out_at"] for lead in leads(db)] == [None]


def test_the_switch_inside_whatsapp_opts_out_and_in(db: Any, inbox: Inbox) -> None:
    inbox.deliver(event("preference", "p1", contact=MARIA, category="marketing", value="stop"))
    assert [lead["opt_out_scope"] for lead in leads(db)] == ["marketing"]

    later = NOW + timedelta(minutes=1)
    inbox.deliver(event("preference", "p2", later, contact=MARIA, category="marketing", value="resume"))
    assert [lead["opt_out_scope"] for lead in leads(db)] == [None]


def test_staff_edit_what_they_know_of_a_lead_but_not_its_phone(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1"))
    with db.signed_in(clinic.owner):
        db.run("update public.customer_leads set label1 = 'VIP', priority = 5")
        with pytest.raises(InsufficientPrivilege, match="table customer_leads"):
            db.run("update public.customer_leads set phone = '57300000000'")


def test_a_lead_cannot_be_assigned_to_another_business(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    inbox.deliver(says("1"))
    with (
        db.signed_in(clinic.owner),
        pytest.raises(ForeignKeyViolation, match="customer_leads_assigned_to_fkey"),
    ):
        db.run("update public.customer_leads set assigned_to = %s", plaza.tenant_id)


def test_the_client_view_has_the_names_the_source_system_used(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1"))
    with db.signed_in(clinic.owner):
        row = db.row("select * from public.client_view")

    assert list(row) == [
        "phone_number", "name", "user_name", "label1", "label2", "label3", "chat_id", "last_activity",
        "thread_id", "thread_token_count", "profile_status", "proxima_accion", "fecha_proxima_accion",
        "prioridad",
    ]  # fmt: skip


def test_each_business_sees_its_own_leads_alone(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    inbox.receive(inbox.payload(says("1")), inbox.payload(says("2", contact=CARLOS), number=plaza.number))

    for business, expected in ((clinic, MARIA), (plaza, CARLOS)):
        with db.signed_in(business.owner):
            assert db.column("select phone from public.customer_leads") == [expected["phone"]]


def test_the_same_person_is_a_lead_of_each_business_they_write_to(
    db: Any, inbox: Inbox, plaza: Business
) -> None:
    inbox.receive(inbox.payload(says("1")), inbox.payload(says("1"), number=plaza.number))

    assert [lead["phone"] for lead in leads(db)] == [MARIA["phone"], MARIA["phone"]]


def test_the_lead_card_tells_everything_and_nothing_of_another_business(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    inbox.deliver(says("1"))
    lead_id = leads(db)[0]["id"]
    with db.signed_in(clinic.owner):
        card = db.value("select public.lead_card(%s)", lead_id)
    assert (card["name"], len(card["identities"]), len(card["chats"])) == ("María González", 2, 1)
    with db.signed_in(plaza.owner):
        assert db.value("select public.lead_card(%s)", lead_id) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [("551187654321", "5511987654321"), ("5491155556666", "541155556666"), ("525512345678", "5215512345678"),
     ("543516667777", "5493516667777")],
)  # fmt: skip
def test_two_spellings_of_a_mobile_number_are_one_customer_under_the_first(
    db: Any, inbox: Inbox, first: str, second: str
) -> None:
    inbox.deliver(says("1", contact={"phone": first}))
    inbox.deliver(says("2", contact={"phone": second}))

    assert [lead["phone"] for lead in leads(db)] == [first]


@pytest.mark.parametrize(
    ("landline", "mobile"),
    [("551133334444", "5511933334444"), ("541143215678", "5491143215678"), ("543514321567", "5493514321567"),
     ("542954412345", "5492954412345"), ("573111234567", "5739111234567")],
)  # fmt: skip
def test_a_landline_is_not_taken_for_a_mobile(db: Any, inbox: Inbox, landline: str, mobile: str) -> None:
    inbox.deliver(says("1", contact={"phone": landline}), says("2", contact={"phone": mobile}))

    assert {lead["phone"] for lead in leads(db)} == {landline, mobile}


def test_a_phone_revealed_later_is_written_to_the_lead_once(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", contact={"bsuid": "CO.111"}))
    inbox.deliver(says("2", contact=MARIA | {"chat_id": "9@lid"}))
    inbox.deliver(says("3", contact={"bsuid": "CO.111", "phone": "57300000000", "chat_id": "8@lid"}))

    assert [(lead["phone"], lead["chat_id"]) for lead in leads(db)] == [(MARIA["phone"], "9@lid")]


def test_a_parent_user_id_joins_the_ids_of_two_portfolios(db: Any, inbox: Inbox, clinic: Business) -> None:
    db.run(
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id, waba_id,"
        " display_name) values (%s, 'cloud_api', '57300000009', '9', '900', 'Second')",
        clinic.tenant_id,
    )
    inbox.deliver(says("1", contact={"bsuid": "CO.1", "parent_bsuid": "CO.ENT.1"}))
    inbox.deliver(says("2", contact={"bsuid": "CO.2", "parent_bsuid": "CO.ENT.1"}), number="9")

    assert len(leads(db)) == 1
    assert db.value("select count(*) from public.chats") == 2


def test_usernames_change_hands_and_say_nothing_beside_an_id(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", contact={"bsuid": "CO.1", "username": "ana"}))
    inbox.deliver(says("2", contact={"bsuid": "CO.2", "username": "ana"}))

    assert [lead["user_name"] for lead in leads(db)] == ["ana", "ana"]
    assert db.column("select reason from public.lead_merge_candidates") == []


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0), (2, 1, 0)])
def test_a_change_of_number_holds_though_it_is_told_before_the_messages(
    db: Any, inbox: Inbox, order: tuple[int, ...]
) -> None:
    moved, minute = {"phone": "57399999999", "bsuid": "CO.333"}, timedelta(minutes=1)
    told = [
        says("1", at=NOW - minute),
        event("identity", "i1", NOW, **{"from": MARIA, "to": moved}),
        says("2", contact=moved, at=NOW + minute),
    ]
    for n in order:
        inbox.deliver(told[n])

    assert len(leads(db)) == 1
    spans = db.rows(
        "select value, valid_from, valid_to::text from public.lead_identities where kind = 'phone'"
    )
    assert {(s["value"], s["valid_from"], s["valid_to"] == "infinity") for s in spans} == {
        (MARIA["phone"], NOW - minute, False),
        ("57399999999", NOW, True),
    }


def test_a_late_message_does_not_bring_an_old_profile_name_back(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", contact=MARIA | {"profile_name": "Mary"}))
    inbox.deliver(says("2", contact={"phone": MARIA["phone"]}, at=NOW + timedelta(minutes=1)))
    inbox.deliver(says("0", contact=MARIA, at=NOW - timedelta(minutes=1)))

    assert [(lead["name"], lead["user_name"]) for lead in leads(db)] == [("María González", "Mary")]


def book(name: str | None, action: str = "add", minutes: int = 0) -> dict[str, Any]:
    at = NOW + timedelta(minutes=minutes)
    return event("contact_sync", "", at, contact={"phone": MARIA["phone"]}, action=action) | {
        "id": None,
        "name": name,
    }


def test_the_address_book_names_leads_that_have_no_name_and_makes_none(db: Any, inbox: Inbox) -> None:
    inbox.deliver(book("Maria vecina"))
    assert leads(db) == []

    inbox.deliver(says("1", contact={"phone": MARIA["phone"]}))
    assert [lead["name"] for lead in leads(db)] == ["Maria vecina"]

    inbox.deliver(book("Maria la del 2", minutes=1), book("Vieja", minutes=-1))
    assert [lead["name"] for lead in leads(db)] == ["Maria la del 2"]

    inbox.deliver(says("2"))
    inbox.deliver(book("Otra", minutes=2))
    assert [lead["name"] for lead in leads(db)] == ["María González"]


def test_a_name_from_staff_is_not_changed_by_the_address_book(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1", contact={"phone": MARIA["phone"]}), book("Maria vecina"))
    with db.signed_in(clinic.owner):
        db.run("update public.customer_leads set name = 'Sra. González'")

    inbox.deliver(book("Otra", minutes=1), says("2", at=NOW - timedelta(minutes=1)))

    assert [lead["name"] for lead in leads(db)] == ["Sra. González"]


def test_a_customer_who_writes_again_as_before_is_not_written_again(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    row = "select xmin::text || ctid::text from public.customer_leads"
    before = db.value(row)
    inbox.deliver(says("2", at=NOW + timedelta(seconds=1)), says("3", contact={"phone": MARIA["phone"]}))

    assert db.value(row) == before
