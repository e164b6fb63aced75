"""Broadcasts: front ends hear of what changes, by its ids, on channels that are theirs to listen to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from tests.sql.given import NOW, Business, Inbox, echo, event, says, status


@pytest.fixture
def told(db: Any) -> Any:
    """What was told since the last call, in order: {(event, topic): payload}; fails if one was told twice."""

    def since() -> dict[tuple[str, str], dict[str, Any]]:
        rows = db.rows("select event, topic, payload from realtime.messages")
        db.run("delete from realtime.messages")
        payloads = {(row["event"], row["topic"]): row["payload"] for row in rows}
        assert len(payloads) == len(rows)
        return payloads

    return since


def tenant(who: Business) -> str:
    return f"tenant:{who.tenant_id}"


def ids(payload: dict[str, Any], name: str) -> list[str]:
    return [item[name] for item in payload["items"]]


def conversation(db: Any) -> Any:
    return db.value("select id from public.conversations where status = 'open'")


def colleague(db: Any, who: Business, name: str, role: str = "agent") -> tuple[uuid.UUID, uuid.UUID]:
    """Their seat and their sign-in."""
    with db.signed_in(who.owner):
        db.run("select public.staff_invite(%s, %s)", f"{name}@clinic.example", role)
    auth_id = db.sign_up(f"{name}@clinic.example")
    return db.value("select id from public.users where auth_id = %s", auth_id), auth_id


def test_a_message_is_told_by_its_ids_and_nothing_else(
    db: Any, inbox: Inbox, clinic: Business, told: Any
) -> None:
    inbox.deliver(says("w1", "¿Tienen cita?"))

    message = db.row("select id, chat_id from public.messages")
    payload = told()[("message.new", tenant(clinic))]
    assert payload.pop("id")  # the broadcast's own
    assert payload == {
        "items": [{"message_id": str(message["id"]), "chat_id": str(message["chat_id"])}],
        "count": 1,
    }


def test_broadcasts_are_private(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))

    assert db.rows("select distinct private, extension from realtime.messages") == [
        {"private": True, "extension": "broadcast"}
    ]


def test_a_thousand_messages_are_one_broadcast_of_a_hundred_ids(
    db: Any, inbox: Inbox, clinic: Business, told: Any
) -> None:
    inbox.receive(*[inbox.payload(says(f"w{n}")) for n in range(1000)])

    payload = told()[("message.new", tenant(clinic))]
    newest = db.column("select id::text from public.messages order by id desc limit 100")
    assert (payload["count"], ids(payload, "message_id")) == (1000, newest)


def test_each_business_of_a_batch_hears_of_its_own(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business, told: Any
) -> None:
    inbox.receive(inbox.payload(says("w1")), inbox.payload(says("w2"), number=plaza.number))

    found = {topic: ids(payload, "message_id") for (_, topic), payload in told().items()}
    assert found == {
        tenant(who): db.column("select id::text from public.messages where tenant_id = %s", who.tenant_id)
        for who in (clinic, plaza)
    }


def test_histories_are_nobody_s_news(db: Any, inbox: Inbox, told: Any) -> None:
    old = NOW - timedelta(days=30)

    inbox.deliver(says("w1", at=old, history=True), echo("w2", at=old, history=True))
    inbox.deliver(status("w2", "read"))

    assert db.value("select count(*) from public.messages") == 2
    assert told() == {}


def test_a_redelivered_message_is_not_told_again(inbox: Inbox, told: Any) -> None:
    inbox.deliver(says("w1"))
    told()

    inbox.deliver(says("w1"))

    assert told() == {}


@pytest.mark.parametrize(
    "change",
    [
        event("edit", "e1", target="w2", text="Otra cosa"),
        event("revoke", "e2", target="w2"),
        event("reaction", "e3", target="w2", emoji="x", by="customer"),
        status("w2", "delivered"),
    ],
    ids=lambda change: change["kind"],
)
def test_a_message_that_changes_is_told(inbox: Inbox, clinic: Business, told: Any, change: Any) -> None:
    inbox.deliver(echo("w2"))
    told()

    inbox.deliver(change)

    assert set(told()) == {("message.status", tenant(clinic))}


def test_a_message_of_ours_is_told_when_it_waits_and_when_it_went_but_not_in_between(
    db: Any, inbox: Inbox, clinic: Business, told: Any
) -> None:
    inbox.deliver(says("w1"))
    chat_id = db.value("select id from public.chats")
    told()
    heard = []

    def settle(claimed: Any) -> None:
        results = [{**key, "outcome": "sent", "wa_message_id": "w9"} for key in keys(claimed)]
        db.run("select public.outbox_settle(%s, %s::jsonb)", claimed["claim"], results)

    def keys(claimed: Any) -> list[dict[str, Any]]:
        return [{name: one[name] for name in ("tenant_id", "message_id")} for one in claimed["messages"]]

    with db.as_service():
        db.run(
            "select private.outbox_enqueue(array[private.outgoing("
            "%s, %s, 'reply', 'agent', 'assistant', 'Hola')])",
            clinic.tenant_id,
            chat_id,
        )
    heard.append(set(told()))
    with db.as_service():
        claimed = db.value("select public.outbox_claim()")
        db.run("select public.outbox_intent(%s, %s::jsonb)", claimed["claim"], keys(claimed))
    heard.append(set(told()))
    with db.as_service():
        settle(claimed)
    heard.append(set(told()))

    assert heard == [{("message.new", tenant(clinic))}, set(), {("message.status", tenant(clinic))}]


def test_attention_is_told_when_it_is_asked_for_and_when_it_was_given(
    db: Any, inbox: Inbox, clinic: Business, told: Any
) -> None:
    inbox.deliver(says("w1"))
    told()
    heard = []

    for wanted in (True, True, False):
        with db.signed_in(clinic.owner):
            db.run("update public.conversations set requires_attention = %s", wanted)
        heard.append(told())

    (asked,) = heard[0].values()
    assert ids(asked, "conversation_id") == [str(conversation(db))]
    assert [set(one) for one in heard] == [
        {("chat.attention", tenant(clinic))},
        set(),
        {("chat.attention", tenant(clinic))},
    ]


def test_an_assignment_is_told_to_the_business_to_the_old_and_to_the_new_holder(
    db: Any, inbox: Inbox, clinic: Business, told: Any
) -> None:
    inbox.deliver(says("w1"))
    (ana, _), (leo, _) = colleague(db, clinic, "ana"), colleague(db, clinic, "leo")
    told()
    heard = []

    for holder in (ana, leo, None):
        with db.signed_in(clinic.owner):
            db.run("select public.conversation_assign(%s, %s)", conversation(db), holder)
        heard.append({topic for event, topic in told() if event == "chat.assigned"})

    assert heard == [
        {tenant(clinic), f"user:{ana}"},
        {tenant(clinic), f"user:{ana}", f"user:{leo}"},
        {tenant(clinic), f"user:{leo}"},
    ]


def test_a_lead_s_assignment_is_told_and_other_changes_of_it_are_not(
    db: Any, inbox: Inbox, clinic: Business, told: Any
) -> None:
    inbox.deliver(says("w1"))
    ana, _ = colleague(db, clinic, "ana")
    told()

    with db.signed_in(clinic.owner):
        db.run("update public.customer_leads set company = 'ACME'")
        db.run("update public.customer_leads set assigned_to = %s", ana)

    heard = told()
    assert set(heard) == {("lead.assigned", tenant(clinic)), ("lead.assigned", f"user:{ana}")}
    assert ids(heard["lead.assigned", f"user:{ana}"], "lead_id") == db.column(
        "select id::text from public.customer_leads"
    )


def test_an_alert_is_told_when_it_is_new_worse_or_over_but_not_when_it_happens_again(
    db: Any, clinic: Business, told: Any
) -> None:
    heard = []
    raised = "private.alert_raise(%s, 'channel_stopped', 's', 'Gone', p_severity => '{}')"
    ended = "private.alert_end(%s, 'channel_stopped', 's')"

    for call in (raised.format("info"), raised.format("info"), raised.format("critical"), ended):
        with db.as_service():
            db.run(f"select {call}", clinic.tenant_id)
        heard.append(len(told()))

    assert heard == [1, 0, 1, 1]


def test_a_message_is_stored_though_nobody_can_be_told(
    db: Any, inbox: Inbox, clinic: Business, told: Any
) -> None:
    db.run("set local role supabase_realtime_admin")
    db.run("drop function realtime.send(jsonb, text, text, boolean)")
    db.run("reset role")

    answer = inbox.deliver(says("w1"))

    assert (answer["status"], db.value("select count(*) from public.messages")) == ("applied", 1)
    assert told() == {}


# --- who may listen


@contextmanager
def joining(db: Any, topic: str) -> Iterator[None]:
    """Realtime asks whether a broadcast on this topic could be read: it makes one and looks."""
    db.run("select realtime.send('{}', 'probe', %s)", topic)
    db.run("select set_config('realtime.topic', %s, true)", topic)
    yield


def may_listen(db: Any, auth_id: uuid.UUID, topic: str) -> bool:
    with joining(db, topic), db.signed_in(auth_id):
        return bool(db.value("select count(*) from realtime.messages where topic = %s", topic))


def test_staff_listen_to_their_business_and_to_themselves(db: Any, clinic: Business) -> None:
    ana, auth_id = colleague(db, clinic, "ana")

    assert may_listen(db, auth_id, tenant(clinic))
    assert may_listen(db, auth_id, f"user:{ana}")


def test_nobody_listens_to_another_business_or_to_a_colleague(
    db: Any, clinic: Business, plaza: Business
) -> None:
    ana, auth_id = colleague(db, clinic, "ana")

    assert not may_listen(db, plaza.owner, tenant(clinic))
    assert not may_listen(db, plaza.owner, f"user:{ana}")
    assert not may_listen(db, clinic.owner, f"user:{ana}")
    assert not may_listen(db, auth_id, f"user:{clinic.tenant_id}")


@pytest.mark.parametrize("topic", ["tenant:", "user:", "tenant", "", "*", "anything"])
def test_other_topics_are_nobody_s(db: Any, clinic: Business, topic: str) -> None:
    assert not may_listen(db, clinic.owner, topic)


def test_who_was_removed_and_who_has_no_seat_listen_to_nothing(db: Any, clinic: Business) -> None:
    ana, auth_id = colleague(db, clinic, "ana")
    with db.signed_in(clinic.owner):
        db.run("select public.staff_remove(%s)", ana)

    assert not may_listen(db, auth_id, tenant(clinic))
    assert not may_listen(db, auth_id, f"user:{ana}")
    assert not may_listen(db, uuid.uuid4(), tenant(clinic))


def test_strangers_listen_to_nothing(db: Any, clinic: Business) -> None:
    with joining(db, tenant(clinic)), db.as_anon():
        assert db.value("select count(*) from realtime.messages") == 0


def test_nobody_sends_on_a_channel(db: Any, clinic: Business) -> None:
    with db.signed_in(clinic.owner):
        db.run("select realtime.send('{}', 'forged', %s)", tenant(clinic))

    assert db.value("select count(*) from realtime.messages where event = 'forged'") == 0
