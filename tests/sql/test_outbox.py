"""outbox: what is sent, when, by whom; never twice, and never what must not be."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.sql.given import CARLOS, Business, Inbox, echo, says, status


def enqueue(db: Any, text: str = "Hola", purpose: str = "reply", chat: Any = None) -> Any:
    return db.value(
        "select (private.outbox_enqueue(array[private.outgoing(tenant_id, id, %s, 'agent',"
        " 'assistant', %s)]))[1] from public.chats where id = coalesce(%s, id)",
        purpose,
        text,
        chat,
    )


def claim(db: Any, limit: int = 50) -> dict[str, Any]:
    with db.as_service():
        answer: dict[str, Any] = db.value("select public.outbox_claim(%s)", limit)
    return answer


def intent(db: Any, claimed: dict[str, Any]) -> list[Any]:
    with db.as_service():
        return list(
            db.value("select public.outbox_intent(%s, %s::jsonb)", claimed["claim"], claimed["messages"])
        )


def settle(db: Any, claimed: dict[str, Any], outcome: str, **result: Any) -> int:
    results = [
        {"tenant_id": m["tenant_id"], "message_id": m["message_id"], "outcome": outcome, **result}
        for m in claimed["messages"]
    ]
    with db.as_service():
        return int(db.value("select public.outbox_settle(%s, %s::jsonb)", claimed["claim"], results))


def message(db: Any, message_id: Any) -> dict[str, Any]:
    return dict(db.row("select * from public.messages where id = %s", message_id))


@pytest.fixture
def chat(db: Any, inbox: Inbox) -> Any:
    """María has just written: her window is open."""
    inbox.deliver(says("w1"))
    return db.value("select id from public.chats")


def test_a_message_is_claimed_with_all_that_sending_it_needs(db: Any, chat: Any) -> None:
    message_id = enqueue(db, "¡Claro!")

    (claimed,) = claim(db)["messages"]

    assert (claimed["message_id"], claimed["content"], claimed["provider"]) == (
        str(message_id),
        "¡Claro!",
        "cloud_api",
    )
    assert claimed["to"] == {"phone": "57311111111", "bsuid": "CO.111"}
    assert message(db, message_id)["send_verdict"] == "send"


def test_sent_is_recorded_with_the_provider_s_id(db: Any, chat: Any) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)

    assert settle(db, claimed, "sent", wa_message_id="w2") == 1

    sent = message(db, message_id)
    assert (sent["status"], sent["wa_message_id"]) == ("sent", "w2")
    assert db.value("select last_outbound_at is not null from public.chats") is True
    assert db.value("select count(*) from public.outbox") == 0


def test_a_status_that_was_faster_than_the_answer_counts(db: Any, inbox: Inbox, chat: Any) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    inbox.deliver(status("w2", "delivered"))  # no callback: an early event

    settle(db, claimed, "sent", wa_message_id="w2")

    assert message(db, message_id)["status"] == "delivered"


def test_without_intent_a_lost_claim_is_queued_again(db: Any, chat: Any) -> None:
    enqueue(db)
    lost = claim(db)
    db.run("update public.outbox set lease_until = now() - interval '1 second'")
    assert len(claim(db)["messages"]) == 1

    assert intent(db, lost) == []
    assert settle(db, lost, "sent", wa_message_id="w2") == 0


def test_with_intent_a_lost_send_is_unknown_and_never_sent_again_by_itself(db: Any, chat: Any) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    assert [str(i) for i in intent(db, claimed)] == [str(message_id)]
    db.run("update public.outbox set lease_until = now() - interval '1 second'")

    assert claim(db)["unknown"] == 1
    assert claim(db)["messages"] == []
    assert message(db, message_id)["status"] == "unknown"


def test_what_stays_unknown_for_a_quarter_of_an_hour_is_shown_to_a_person_once(db: Any, chat: Any) -> None:
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "unknown")

    db.run("select public.outbox_sweep()")
    assert db.column("select kind from public.alerts") == []

    db.run("update public.outbox set unknown_at = unknown_at - interval '16 minutes'")
    db.run("select public.outbox_sweep(), public.outbox_sweep()")
    assert db.rows("select kind, occurrences from public.alerts") == [
        {"kind": "send_unknown", "occurrences": 1}
    ]


def test_a_status_settles_what_was_unknown(db: Any, inbox: Inbox, chat: Any) -> None:
    message_id = enqueue(db)
    intent(db, claim(db))
    db.run("update public.outbox set lease_until = now() - interval '1 second'")
    claim(db)
    inbox.deliver(status("w2", "read", callback=str(message_id)))

    assert message(db, message_id)["status"] == "read"
    assert db.value("select count(*) from public.outbox") == 0


def test_messages_of_a_chat_go_out_one_after_the_other_in_their_order(db: Any, chat: Any) -> None:
    enqueue(db, "uno")
    enqueue(db, "dos")
    first = claim(db)
    assert [m["content"] for m in first["messages"]] == ["uno"]
    assert claim(db)["messages"] == []
    intent(db, first)
    settle(db, first, "sent", wa_message_id="w2")

    assert [m["content"] for m in claim(db)["messages"]] == ["dos"]


def test_a_number_s_messages_get_slots_of_its_rate(db: Any, inbox: Inbox, clinic: Business) -> None:
    db.run("update public.whatsapp_numbers set rate_per_second = 5")
    inbox.deliver(*(says(f"w{n}", contact={"phone": f"5731234567{n}"}) for n in range(8)))
    for chat in db.column("select id from public.chats"):
        enqueue(db, chat=chat)

    slots = [datetime.fromisoformat(m["send_at"]) for m in claim(db)["messages"]]

    assert len(slots) == 4  # within a second, each a little more than a fifth after the other
    gaps = {round((b - a).total_seconds(), 3) for a, b in pairwise(slots)}
    assert gaps == {0.211}
    assert len(claim(db)["messages"]) == 0


def test_every_number_gets_its_share(db: Any, inbox: Inbox, plaza: Business) -> None:
    inbox.deliver(*(says(f"w{n}", contact={"phone": f"573123456{n:02d}"}) for n in range(10)))
    inbox.deliver(says("v1", contact=CARLOS), number=plaza.number)
    for chat in db.column("select id from public.chats"):
        enqueue(db, chat=chat)

    claimed = claim(db, limit=4)["messages"]

    assert str(plaza.tenant_id) in {m["tenant_id"] for m in claimed}


def test_a_reply_that_may_not_be_sent_is_skipped_and_shown_to_a_person(db: Any, chat: Any) -> None:
    message_id = enqueue(db)
    db.run("update public.chats set window_expires_at = now() - interval '1 second'")

    assert claim(db)["messages"] == []

    skipped = message(db, message_id)
    assert (skipped["status"], skipped["send_verdict"], skipped["send_reason"]) == (
        "skipped",
        "manual",
        "window_closed",
    )
    assert db.column("select kind from public.alerts") == ["not_sent"]


def test_an_agent_s_reply_is_dropped_when_a_person_takes_over_before_it_is_sent(
    db: Any, inbox: Inbox, chat: Any
) -> None:
    message_id = enqueue(db)
    inbox.deliver(echo("w2"))

    assert claim(db)["messages"] == []
    assert message(db, message_id)["send_reason"] == "human_takeover"


def test_what_may_succeed_later_is_queued_again_after_a_pause(db: Any, chat: Any) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "retry", error_message="HTTP 500")

    assert message(db, message_id)["status"] == "queued"
    pause = db.value("select extract(epoch from not_before - now())::float8 from public.outbox")
    assert 2 <= pause <= 2.5


def test_the_sixth_try_was_the_last(db: Any, chat: Any) -> None:
    message_id = enqueue(db)
    for _ in range(6):
        db.run("update public.outbox set not_before = now()")
        db.run("update public.number_pacing set next_slot_at = now()")
        claimed = claim(db)
        intent(db, claimed)
        settle(db, claimed, "retry", error_message="HTTP 500")

    assert message(db, message_id)["status"] == "failed"
    assert db.column("select kind from public.alerts") == ["send_failed"]


def test_a_slow_number_waits_with_all_its_messages(db: Any, inbox: Inbox, chat: Any) -> None:
    inbox.deliver(says("w2", contact=CARLOS))
    enqueue(db, chat=chat)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "slow_number", retry_after_seconds=60)
    enqueue(db, chat=db.value("select id from public.chats where id <> %s", chat))

    assert claim(db)["messages"] == []


def test_a_refused_channel_stops_until_somebody_mends_it(db: Any, chat: Any) -> None:
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "stop_channel", error_code=190, error_message="Token expired")

    assert claim(db)["messages"] == []
    alert = db.row("select kind, severity from public.alerts")
    assert alert == {"kind": "channel_stopped", "severity": "critical"}
    assert db.value("select count(*) from public.outbox where state = 'queued'") == 1


def test_what_the_provider_knows_better_is_learnt(db: Any, chat: Any) -> None:
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "needs_template", error_code=131047)
    assert db.value("select window_expires_at <= now() from public.chats") is True

    db.run("update public.chats set window_expires_at = now() + interval '1 hour'")
    db.run("update public.number_pacing set next_slot_at = now()")
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "opted_out", error_code=131050)
    assert db.value("select opt_out_scope from public.customer_leads") == "marketing"


def test_a_send_nobody_can_tell_about_is_unknown_at_once_and_holds_nothing_up(db: Any, chat: Any) -> None:
    first = enqueue(db, "uno")
    claimed = claim(db)
    intent(db, claimed)
    second = enqueue(db, "dos")

    settle(db, claimed, "unknown", error_message="The answer was lost.")

    assert message(db, first)["status"] == "unknown"
    assert [m["message_id"] for m in claim(db)["messages"]] == [str(second)]


def test_an_empty_outbox_has_nothing_to_wait_for(db: Any, chat: Any) -> None:
    assert claim(db)["next_in_ms"] is None
