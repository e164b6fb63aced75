"""conversations: chats, their sessions and messages, as staff and front ends use them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, echo, says

HOUR = timedelta(hours=1)


def conversations(db: Any) -> list[dict[str, Any]]:
    return list(db.rows("select * from public.conversations order by opened_at"))


def silence(db: Any, hours: int) -> None:
    """As if nobody had written for so long."""
    db.run(
        "update public.chats set last_interaction_at = last_interaction_at - make_interval(hours => %s)",
        hours,
    )
    db.run(
        "update public.conversations set opened_at = opened_at - make_interval(hours => %s),"
        " last_at = last_at - make_interval(hours => %s)",
        hours,
        hours,
    )
    db.run("update public.messages set provider_at = provider_at - make_interval(hours => %s)", hours)


def test_the_first_message_opens_a_conversation_and_the_next_ones_join_it(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"), says("2"))
    inbox.deliver(echo("3"))

    assert [(c["status"], c["message_count"]) for c in conversations(db)] == [("open", 3)]


def test_a_message_after_silence_opens_a_new_conversation_without_the_sweep(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    silence(db, 25)

    inbox.deliver(says("2"))

    assert [(c["status"], c["message_count"]) for c in conversations(db)] == [("closed", 1), ("open", 1)]


def test_the_sweep_closes_what_has_been_silent_as_long_as_the_business_wants(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    silence(db, 3)
    with db.as_service():
        assert db.value("select public.conversations_close_idle()") == 0
    db.run("update public.tenant_settings set conversation_idle_hours = 2")
    with db.as_service():
        assert db.value("select public.conversations_close_idle()") == 1


def test_closing_measures_how_fast_we_answered(db: Any, inbox: Inbox, clinic: Business) -> None:
    at = NOW - HOUR
    inbox.deliver(says("1", at=at), echo("2", at=at + timedelta(seconds=30)))
    inbox.deliver(says("3", at=at + timedelta(seconds=60)), echo("4", at=at + timedelta(seconds=150)))

    with db.signed_in(clinic.owner):
        closed = db.row(
            "select * from public.conversation_close(%s, p_outcome => 'booked')", conversations(db)[0]["id"]
        )

    assert (closed["status"], closed["outcome"]) == ("closed", "booked")
    assert (closed["first_response_time"], closed["avg_response_time"]) == (30, 60)


def test_closing_twice_is_refused(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("1"))
    (conversation,) = conversations(db)
    with db.signed_in(clinic.owner):
        db.run("select public.conversation_close(%s)", conversation["id"])
        with pytest.raises(psycopg.Error, match="conversation_closed") as refusal:
            db.run("select public.conversation_close(%s)", conversation["id"])
    assert refusal.value.sqlstate == "PT409"


def test_a_reopened_conversation_stays_open_though_the_chat_was_silent(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1"))
    silence(db, 48)
    (conversation,) = conversations(db)
    with db.signed_in(clinic.owner):
        db.run("select public.conversation_close(%s)", conversation["id"])
        db.run("select public.conversation_reopen(%s)", conversation["id"])
    with db.as_service():
        assert db.value("select public.conversations_close_idle()") == 0


def test_a_chat_has_one_open_conversation_even_when_an_older_one_is_reopened(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1"))
    silence(db, 48)
    inbox.deliver(says("2"))
    with (
        db.signed_in(clinic.owner),
        pytest.raises(psycopg.Error, match="conversation_open") as refusal,
    ):
        db.run("select public.conversation_reopen(%s)", conversations(db)[0]["id"])
    assert refusal.value.sqlstate == "PT409"


def test_a_conversation_is_assigned_to_colleagues_only(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    inbox.deliver(says("1"))
    (conversation,) = conversations(db)
    with db.signed_in(clinic.owner):
        db.run("select public.conversation_assign(%s, %s)", conversation["id"], clinic.tenant_id)
    with db.signed_in(clinic.owner), pytest.raises(psycopg.Error, match="no_colleague") as refusal:
        db.run("select public.conversation_assign(%s, %s)", conversation["id"], plaza.tenant_id)
    assert refusal.value.sqlstate == "PT404"
    assert conversations(db)[0]["assigned_to"] == clinic.tenant_id


@pytest.mark.parametrize(
    "call", ["conversation_close(%s)", "conversation_assign(%s, null)", "conversation_reopen(%s)"]
)
def test_another_business_cannot_touch_a_conversation(
    db: Any, inbox: Inbox, plaza: Business, call: str
) -> None:
    inbox.deliver(says("1"))
    (before,) = conversations(db)
    with db.signed_in(plaza.owner), pytest.raises(psycopg.Error, match="no_conversation"):
        db.run(f"select public.{call}", before["id"])
    assert conversations(db) == [before]


@pytest.mark.parametrize(
    "column", ["status = 'closed'", "message_count = 9", "assigned_to = null", "opened_at = now()"]
)
def test_staff_cannot_write_what_only_rules_change(
    db: Any, inbox: Inbox, clinic: Business, column: str
) -> None:
    inbox.deliver(says("1"))
    with db.signed_in(clinic.owner), pytest.raises(InsufficientPrivilege, match="table conversations"):
        db.run(f"update public.conversations set {column}")


def test_the_inbox_shows_the_last_message_what_is_unread_and_the_window(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1", "Hola", at=NOW - HOUR), says("2", "¿Hay cita?", at=NOW))
    inbox.deliver(says("3", "Buenas", CARLOS, at=NOW - 30 * HOUR))
    with db.signed_in(clinic.owner):
        rows = db.rows("select * from public.inbox_list()")

    shown = [(r["lead_name"], r["last_content"], r["unread_count"], r["window_open"]) for r in rows]
    assert shown == [("María González", "¿Hay cita?", 2, True), ("Carlos López", "Buenas", 1, False)]


def test_pages_of_the_inbox_show_every_chat_once_in_the_order_of_its_last_message(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    people = [{"phone": f"5731234567{n}"} for n in range(7)]
    # two of them in the same second
    inbox.deliver(
        *(
            says(f"m{n}", contact=p, at=NOW - (n // 2) * 37 * timedelta(minutes=1))
            for n, p in enumerate(people)
        )
    )
    seen: list[Any] = []
    with db.signed_in(clinic.owner):
        after: tuple[Any, Any] = (None, None)
        while page := db.rows("select * from public.inbox_list(3, %s, %s)", *after):
            seen += page
            after = (page[-1]["last_at"], page[-1]["chat_id"])

    assert len({row["chat_id"] for row in seen}) == len(seen) == 7
    assert [row["last_at"] for row in seen] == sorted((row["last_at"] for row in seen), reverse=True)


def test_the_inbox_can_be_narrowed(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("1"), says("2", contact=CARLOS))
    carlos = db.value(
        "select id from public.chats where lead_id = (select id from public.customer_leads where phone = %s)",
        CARLOS["phone"],
    )
    with db.signed_in(clinic.owner):
        db.run("select public.chat_mark_read(%s)", carlos)
        unread = db.column("select lead_phone from public.inbox_list(p_unread => true)")
        mine = db.column("select lead_phone from public.inbox_list(p_assigned_to => %s)", clinic.tenant_id)

    assert (unread, mine) == ([MARIA["phone"]], [])


def test_pages_of_a_chat_show_every_message_once_newest_first(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(*(says(f"m{n}", str(n), at=NOW + timedelta(seconds=n // 2)) for n in range(7)))
    chat = db.value("select id from public.chats")
    seen: list[Any] = []
    with db.signed_in(clinic.owner):
        after: tuple[Any, Any] = (None, None)
        while page := db.rows("select * from public.messages_list(%s, 3, %s, %s)", chat, *after):
            seen += page
            after = (page[-1]["provider_at"], page[-1]["id"])

    assert sorted(row["content"] for row in seen) == [str(n) for n in range(7)]
    assert [row["provider_at"] for row in seen] == sorted((row["provider_at"] for row in seen), reverse=True)


def test_another_business_sees_neither_inbox_nor_messages(db: Any, inbox: Inbox, plaza: Business) -> None:
    inbox.deliver(says("1"))
    chat = db.value("select id from public.chats")
    with db.signed_in(plaza.owner):
        assert db.rows("select * from public.inbox_list()") == []
        assert db.rows("select * from public.messages_list(%s)", chat) == []
        with pytest.raises(psycopg.Error, match="no_chat"):
            db.run("select public.chat_mark_read(%s)", chat)


def test_a_message_cannot_be_put_into_another_business_s_chat(db: Any, inbox: Inbox, plaza: Business) -> None:
    inbox.deliver(says("1"))
    with db.as_service(), pytest.raises(psycopg.errors.ForeignKeyViolation, match="messages_"):
        db.run(
            "insert into public.messages (tenant_id, chat_id, lead_id, number_id, direction, role, source,"
            " type, status, provider_at) select %s, chat_id, lead_id, number_id, 'inbound', 'user',"
            " 'customer', 'text', 'received', now() from public.messages", plaza.tenant_id,
        )  # fmt: skip


def sessions(db: Any) -> list[tuple[str, list[str]]]:
    """Each conversation's status and messages, in their order."""
    rows = db.rows(
        "select v.status, array_agg(m.wa_message_id order by m.provider_at) as told"
        " from public.conversations v join public.messages m on m.conversation_id = v.id"
        " group by v.id, v.status order by min(m.provider_at)"
    )
    return [(row["status"], row["told"]) for row in rows]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_silences_part_conversations_in_whatever_order_the_messages_come(
    db: Any, inbox: Inbox, order: tuple[int, ...]
) -> None:
    told = [says("1", at=NOW - 60 * HOUR), says("2", at=NOW - 30 * HOUR), says("3")]
    for n in order:
        inbox.deliver(told[n])

    assert sessions(db) == [("closed", ["1"]), ("closed", ["2"]), ("open", ["3"])]


def test_a_batch_with_a_silence_in_it_is_two_conversations(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", at=NOW - 30 * HOUR), says("2"))

    assert sessions(db) == [("closed", ["1"]), ("open", ["2"])]


def test_a_late_message_joins_what_was_parted_for_want_of_it(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", at=NOW - 30 * HOUR))
    inbox.deliver(says("3"))
    (open_id,) = [c["id"] for c in conversations(db) if c["status"] == "open"]

    inbox.deliver(says("2", at=NOW - 15 * HOUR))

    assert sessions(db) == [("open", ["1", "2", "3"])]
    (joined,) = conversations(db)
    assert (joined["id"], joined["message_count"], joined["opened_at"]) == (open_id, 3, NOW - 30 * HOUR)


def test_what_staff_closed_stays_closed_when_a_late_message_comes(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1", at=NOW - 2 * HOUR))
    with db.signed_in(clinic.owner):
        db.run("select public.conversation_close(%s)", conversations(db)[0]["id"])

    inbox.deliver(says("2", at=NOW - HOUR))

    assert sessions(db) == [("closed", ["1"]), ("open", ["2"])]


def test_a_message_that_follows_a_reopening_stays_in_the_reopened_conversation(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    inbox.deliver(says("1", at=NOW - 60 * HOUR))
    with db.signed_in(clinic.owner):
        db.run("select public.conversation_close(%s)", conversations(db)[0]["id"])
        db.run("select public.conversation_reopen(%s)", conversations(db)[0]["id"])
    inbox.deliver(says("2", at=NOW + HOUR / 20))

    assert sessions(db) == [("open", ["1", "2"])]


@pytest.mark.parametrize("limit", [-1, 0, None])
def test_a_list_of_less_than_nothing_is_empty_or_whole(
    db: Any, clinic: Business, inbox: Inbox, limit: int | None
) -> None:
    inbox.deliver(says("w1"))
    chat = db.value("select id from public.chats")

    with db.signed_in(clinic.owner):
        found = len(db.rows("select * from public.messages_list(%s, p_limit => %s)", chat, limit))

    assert found == (1 if limit is None else 0)
