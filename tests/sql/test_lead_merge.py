"""lead_merge: two leads that are one person become one, and nothing of either is lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, echo, says

BY_PHONE = {"phone": MARIA["phone"], "profile_name": "Mari"}
BY_ID = {"bsuid": MARIA["bsuid"], "profile_name": "María"}
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def ids(db: Any) -> list[Any]:
    """Leads, the earlier first."""
    return list(db.column("select id from public.customer_leads order by id"))


@pytest.fixture
def pair(db: Any, inbox: Inbox) -> list[Any]:
    """One person as two leads: known by her phone, and by her user id; then a message shows both."""
    inbox.deliver(says("1", "uno", BY_PHONE, NOW - 2 * HOUR), says("x", contact=CARLOS))
    inbox.deliver(says("2", "dos", BY_ID, NOW - HOUR))
    inbox.deliver(echo("3", "tres", MARIA, NOW))
    (candidate,) = db.rows("select lead_id, other_lead_id from public.lead_merge_candidates")
    return list(candidate.values())


def merge(db: Any, who: Business, *leads: Any, **named: Any) -> dict[str, Any]:
    arguments = ", ".join(["%s"] * len(leads) + [f"{name} => %s" for name in named])
    with db.signed_in(who.owner):
        merged: dict[str, Any] = db.row(
            f"select * from public.lead_merge({arguments})", *leads, *named.values()
        )
    return merged


def test_the_earlier_lead_has_the_addresses_chat_and_messages_of_both(
    db: Any, clinic: Business, pair: list[Any]
) -> None:
    merged = merge(db, clinic, *reversed(pair))

    assert (merged["id"], merged["phone"], merged["name"]) == (pair[0], MARIA["phone"], "Mari")
    chat = db.row(
        "select id, window_expires_at, unread_count, last_outbound_at from public.chats where lead_id = %s",
        pair[0],
    )
    assert (chat["window_expires_at"], chat["unread_count"], chat["last_outbound_at"]) == (
        NOW + 23 * HOUR,
        2,
        NOW,
    )
    told = db.column("select wa_message_id from public.messages where chat_id = %s order by 1", chat["id"])
    assert told == ["1", "2", "3"]
    addresses = db.column("select kind from public.lead_identities where lead_id = %s order by 1", pair[0])
    assert addresses == ["bsuid", "phone"]
    conversations = db.rows(
        "select status, message_count from public.conversations where chat_id = %s", chat["id"]
    )
    assert conversations == [{"status": "open", "message_count": 3}]


def test_the_other_lead_is_put_away_and_says_where_it_went_and_who_decided(
    db: Any, clinic: Business, pair: list[Any]
) -> None:
    merge(db, clinic, *pair)

    other = db.row(
        "select is_active, merged_into, merged_by from public.customer_leads where id = %s", pair[1]
    )
    assert other == {"is_active": False, "merged_into": pair[0], "merged_by": clinic.tenant_id}
    assert db.row("select status, resolved_by from public.lead_merge_candidates") == {
        "status": "merged", "resolved_by": clinic.tenant_id,
    }  # fmt: skip


def test_merging_again_changes_nothing(db: Any, clinic: Business, pair: list[Any]) -> None:
    first = merge(db, clinic, *pair)

    assert merge(db, clinic, *pair) == merge(db, clinic, *reversed(pair)) == first


def test_what_comes_later_under_either_address_finds_the_lead_that_stays(
    db: Any, inbox: Inbox, clinic: Business, pair: list[Any]
) -> None:
    merge(db, clinic, *pair)
    inbox.deliver(says("4", contact=BY_ID), says("5", contact=BY_PHONE), says("6"))

    assert db.value("select count(*) from public.messages where lead_id = %s", pair[0]) == 6
    assert db.value("select count(*) from public.chats") == 2


@pytest.mark.usefixtures("time_of_the_tests")
def test_a_refusal_of_either_outlives_what_the_other_said_before(
    db: Any, inbox: Inbox, clinic: Business, pair: list[Any]
) -> None:
    inbox.deliver(says("b", "BAJA", BY_PHONE, NOW - 30 * MINUTE))
    inbox.deliver(says("a", "ALTA", BY_ID, NOW - 20 * MINUTE))
    merge(db, clinic, *pair)
    inbox.deliver(says("c", "BAJA", BY_PHONE, NOW - 40 * MINUTE))  # told late: adds everything up again
    assert db.value("select opt_out_scope from public.customer_leads where id = %s", pair[0]) == "marketing"

    inbox.deliver(says("d", "ALTA", BY_PHONE, NOW + 2 * MINUTE))
    assert db.value("select opt_out_scope from public.customer_leads where id = %s", pair[0]) is None


def test_the_strictest_opt_out_survives(db: Any, inbox: Inbox, clinic: Business, pair: list[Any]) -> None:
    inbox.deliver(says("4", "STOP", BY_ID))
    merged = merge(db, clinic, *pair)

    assert merged["opt_out_scope"] == "marketing"
    assert set(db.column("select lead_id from public.consent_events")) == {pair[0]}


@pytest.mark.parametrize("kept", [0, 1])
def test_details_are_those_of_whom_staff_prefer_and_gaps_are_filled(
    db: Any, clinic: Business, pair: list[Any], kept: int
) -> None:
    for n, lead in enumerate(pair):
        db.run(
            "update public.customer_leads set name = %s, label1 = %s where id = %s", f"N{n}", f"L{n}", lead
        )
    db.run("update public.customer_leads set email = 'm@x.example', tags = '{vip}' where id = %s", pair[1])

    merged = merge(db, clinic, *pair, p_keep=pair[kept])

    assert (merged["name"], merged["label1"]) == (f"N{kept}", f"L{kept}")
    assert (merged["id"], merged["email"], merged["tags"]) == (pair[0], "m@x.example", ["vip"])


def test_messages_on_their_way_and_waiting_replies_follow(
    db: Any, inbox: Inbox, clinic: Business, pair: list[Any]
) -> None:
    inbox.deliver(says("4", contact=BY_ID, at=NOW + timedelta(minutes=1)))
    db.run(
        "select private.outbox_enqueue(array[private.outgoing("
        "tenant_id, id, 'staff', 'staff', 'human', 'Hola')]) from public.chats where lead_id = %s",
        pair[1],
    )
    merge(db, clinic, *pair)

    chat = db.value("select id from public.chats where lead_id = %s", pair[0])
    assert db.column("select chat_id from public.outbox") == [chat]
    assert db.value("select count(*) from public.pending_replies where chat_id = %s", chat) == 1
    assert db.column("select lead_id from public.pending_activity where lead_id = any (%s)", pair) == [
        pair[0]
    ]


def test_of_two_threads_of_one_chat_the_other_ends(
    db: Any, inbox: Inbox, clinic: Business, pair: list[Any]
) -> None:
    for lead in pair:
        db.run(
            "with t as (insert into ai_threads (tenant_id, chat_id, created_at)"
            " select tenant_id, id, now() from chats where lead_id = %s returning id, chat_id)"
            " update chats c set thread_id = t.id from t where c.id = t.chat_id",
            lead,
        )
    kept = db.value("select thread_id from chats where lead_id = %s", pair[0])

    merge(db, clinic, *pair)

    assert db.column("select id from ai_threads where closed_at is null") == [kept]
    assert db.value("select thread_id from chats where lead_id = %s", pair[0]) == kept


def test_chats_on_different_numbers_stay_apart(db: Any, inbox: Inbox, clinic: Business) -> None:
    db.run(
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
        " display_name) values (%s, 'twilio', '57300000009', '9', 'Second')",
        clinic.tenant_id,
    )
    inbox.deliver(says("1", contact=BY_ID))
    inbox.deliver(says("2", contact=BY_PHONE), number="9", provider="twilio")
    merge(db, clinic, *ids(db))

    assert db.column("select lead_id from public.chats") == [ids(db)[0]] * 2
    assert db.column("select distinct lead_id from public.messages") == [ids(db)[0]]


def test_a_third_lead_that_may_be_the_same_is_asked_about_with_the_one_that_stays(
    db: Any, inbox: Inbox, clinic: Business, pair: list[Any]
) -> None:
    third = next(lead for lead in ids(db) if lead not in pair)
    db.run(
        "insert into public.lead_merge_candidates (tenant_id, lead_id, other_lead_id, reason)"
        " values (%s, %s, %s, 'x')",
        clinic.tenant_id, *sorted((third, pair[1])),
    )  # fmt: skip
    merge(db, clinic, *pair)

    waiting = db.row("select lead_id, other_lead_id from public.lead_merge_candidates where status = 'open'")
    assert set(waiting.values()) == {third, pair[0]}


def test_a_dismissed_pair_is_not_asked_about_again(
    db: Any, inbox: Inbox, clinic: Business, pair: list[Any]
) -> None:
    with db.signed_in(clinic.owner):
        db.run("select public.lead_merge_dismiss(%s, %s)", *reversed(pair))
    inbox.deliver(says("4", contact=MARIA))

    assert db.column("select status from public.lead_merge_candidates") == ["dismissed"]


@pytest.mark.parametrize("call", ["lead_merge(%s, %s)", "lead_merge_dismiss(%s, %s)"])
def test_another_business_can_neither_merge_nor_dismiss(
    db: Any, plaza: Business, pair: list[Any], call: str
) -> None:
    with db.signed_in(plaza.owner), pytest.raises(psycopg.Error) as refusal:
        db.run(f"select public.{call}", *pair)
    assert refusal.value.sqlstate == "PT404"


def test_an_agent_may_not_merge(db: Any, clinic: Business, pair: list[Any]) -> None:
    with db.signed_in(clinic.owner):
        db.run("select public.staff_invite('agent@clinic.example', 'agent')")
    agent = db.sign_up("agent@clinic.example")
    with db.signed_in(agent), pytest.raises(psycopg.Error, match="role") as refusal:
        db.run("select public.lead_merge(%s, %s)", *pair)
    assert refusal.value.sqlstate == "PT403"


def test_a_lead_cannot_be_merged_with_itself_or_keep_a_stranger_s_details(
    db: Any, clinic: Business, pair: list[Any]
) -> None:
    with db.signed_in(clinic.owner):
        for arguments, code in (((pair[0], pair[0], None), "PT400"), ((*pair, clinic.tenant_id), "PT400")):
            with pytest.raises(psycopg.Error) as refusal, db.connection.transaction():
                db.run("select public.lead_merge(%s, %s, %s)", *arguments)
            assert refusal.value.sqlstate == code
