"""Messages sent by hand: kept, they silence the agent and settle what waited to say the same."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from tests.sql.given import MARIA, NOW, Business, Inbox, echo, says, status

pytestmark = pytest.mark.usefixtures("time_of_the_tests")
MINUTE = timedelta(minutes=1)


def queue(db: Any, text: str, state: str = "queued") -> uuid.UUID:
    """A message of the agent to Maria, that far on its way."""
    message: uuid.UUID = db.value(
        "select (private.outbox_enqueue(array[private.outgoing("
        "tenant_id, id, 'reply', 'agent', 'assistant', %s)]))[1] from public.chats",
        text,
    )
    db.run("update public.outbox set state = %s", state)
    return message


def ours(db: Any) -> list[dict[str, Any]]:
    columns = "id, source, role, status, wa_message_id, content"
    return list(
        db.rows(f"select {columns} from public.messages where direction = 'outbound' order by provider_at")
    )


def test_a_queued_message_that_a_person_wrote_meanwhile_is_theirs_and_not_sent(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", at=NOW - MINUTE))
    queued = queue(db, "¡Hola! Sí, hay cita.")
    inbox.deliver(echo("w2", "hola, si hay cita"), status("w2", "delivered"))

    assert [(m["id"], m["source"], m["role"], m["status"], m["wa_message_id"]) for m in ours(db)] == [
        (queued, "manual", "human", "delivered", "w2")
    ]
    assert db.value("select count(*) from public.outbox") == 0
    assert db.value("select agent_paused_until > now() from public.chats") is True
    assert db.value("select message_count from public.conversations") == 2


@pytest.mark.parametrize("state", ["sending", "unknown"])
def test_the_echo_of_a_message_on_its_way_is_its_answer_and_silences_nobody(
    db: Any, inbox: Inbox, state: str
) -> None:
    inbox.deliver(says("w1", at=NOW - MINUTE))
    sent = queue(db, "Sí, hay cita.", state)
    inbox.deliver(status("w2", "read"))
    inbox.deliver(echo("w2", "Sí, hay cita."))

    assert [(m["id"], m["source"], m["status"], m["wa_message_id"]) for m in ours(db)] == [
        (sent, "agent", "read", "w2")
    ]
    assert db.value("select agent_paused_until from public.chats") is None


def test_other_words_are_another_message(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", at=NOW - MINUTE))
    queue(db, "Sí, hay cita.")
    inbox.deliver(echo("w2", "No hay cita."))

    assert {(m["source"], m["status"]) for m in ours(db)} == {("agent", "queued"), ("manual", "sent")}


def test_two_echoes_of_the_same_words_settle_one_message_each(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", at=NOW - MINUTE))
    queue(db, "Ok")
    inbox.deliver(echo("w2", "Ok"), echo("w3", "Ok"))

    assert {m["wa_message_id"] for m in ours(db)} == {"w2", "w3"}


def test_an_echo_older_than_what_waits_does_not_settle_it(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", at=NOW - 20 * MINUTE))
    queue(db, "Ok")
    inbox.deliver(echo("w2", "Ok", at=NOW - 10 * MINUTE))

    assert len(ours(db)) == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_person_s_answer_spares_the_agent_its_own(db: Any, inbox: Inbox, order: tuple[int, int]) -> None:
    db.run("update public.tenant_settings set human_takeover_minutes = 0")
    told = [says("w1", at=NOW - MINUTE), echo("w2")]
    for n in order:
        inbox.deliver(told[n])

    assert db.value("select count(*) from public.pending_replies") == 0


def test_what_the_customer_says_after_that_waits_for_an_answer(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", at=NOW - 2 * MINUTE), echo("w2", at=NOW - MINUTE), says("w3"))

    assert db.value("select count(*) from public.pending_replies") == 1


def test_the_agent_is_silent_for_as_long_as_the_business_wants(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    db.run("update public.tenant_settings set human_takeover_minutes = 15")
    inbox.deliver(says("w1"), echo("w2"))
    with db.signed_in(clinic.owner):
        shown = db.row(
            "select last_direction, agent_paused_until, window_expires_at from public.inbox_list()"
        )

    assert shown["agent_paused_until"] == NOW + 15 * MINUTE
    assert shown["window_expires_at"] == NOW + timedelta(days=1)


def test_history_settles_nothing(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", at=NOW - MINUTE))
    queue(db, "Ok")
    inbox.deliver(echo("w2", "Ok", MARIA, history=True))

    assert db.value("select count(*) from public.outbox") == 1
