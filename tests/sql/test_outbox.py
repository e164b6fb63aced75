"""outbox: what is sent, when, by whom; never twice, and never what must not be."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from tests.sql.given import CARLOS, Business, Inbox, echo, open_business, says, status


def enqueue(db: Any, text: str = "Hola", purpose: str = "reply", chat: Any = None) -> Any:
    return db.value(
        "select (private.outbox_enqueue(array[private.outgoing(tenant_id, id, %s, 'agent',"
        " 'assistant', %s)]))[1] from public.chats where id = coalesce(%s, id)",
        purpose,
        text,
        chat,
    )


def claim(db: Any, limit: int = 50, worker: uuid.UUID | None = None) -> dict[str, Any]:
    with db.as_service():
        answer: dict[str, Any] = db.value(
            "select public.outbox_claim(%s, p_worker => %s::uuid)", limit, worker
        )
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


def test_a_worker_whose_lease_ran_out_may_not_begin(db: Any, chat: Any) -> None:
    enqueue(db)
    claimed = claim(db)
    db.run("update public.outbox set lease_until = now() - interval '1 second'")

    assert intent(db, claimed) == []


def test_a_worker_settles_only_what_it_claimed_itself(db: Any, chat: Any) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)

    assert settle(db, {**claimed, "claim": str(uuid.uuid4())}, "sent", wa_message_id="w9") == 0
    assert message(db, message_id)["status"] == "sending"


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

    claimed = claim(db)

    assert claimed["messages"] == []
    assert [(one["message_id"], one["reason"]) for one in claimed["closed"]] == [
        (str(message_id), "window_closed")
    ]
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


def several(db: Any, inbox: Inbox, count: int, purpose: str = "reply", **delivery: Any) -> list[Any]:
    """Customers who have just written, with a message for each; their chats."""
    for n in range(count):
        contact = {"phone": f"5732{len(delivery)}{n:07d}"}
        inbox.deliver(says(f"{delivery.get('number', 'w')}.{n}", contact=contact), **delivery)
    number = delivery.get("number", "100000000000001")
    chats = db.column(
        "select c.id from public.chats c join public.whatsapp_numbers n on n.id = c.number_id"
        " where n.provider_number_id = %s", number,
    )  # fmt: skip
    for chat in chats:
        enqueue(db, purpose=purpose, chat=chat)
    return chats


def move_clock(db: Any, interval: str) -> None:
    db.run(
        "create or replace function private.clock() returns timestamptz language sql stable"
        f" set search_path = '' as $$ select now() + interval '{interval}' $$"
    )


def schedule(db: Any, text: str) -> None:
    """In an hour."""
    db.run(
        "select private.outbox_enqueue(array[private.outgoing(tenant_id, id, 'staff', 'staff', 'human', %s,"
        " p_send_at => now() + interval '1 hour')]) from public.chats",
        text,
    )


def number_rate(db: Any) -> float:
    return float(
        db.value(
            "select private.number_rate(n, p) from public.whatsapp_numbers n"
            " join public.number_pacing p on p.number_id = n.id"
        )
    )


# whose turn it is


def test_each_business_gets_the_same_share_however_many_numbers_it_has(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    several(db, inbox, 20, "sequence")
    several(db, inbox, 20, number=plaza.number)

    taken = [m["tenant_id"] for m in claim(db, limit=10)["messages"]]

    assert (taken.count(str(clinic.tenant_id)), taken.count(str(plaza.tenant_id))) == (5, 5)


def test_people_come_before_answers_and_both_before_bulk(db: Any, inbox: Inbox) -> None:
    for n, purpose in enumerate(("sequence", "reply", "staff")):
        inbox.deliver(says(f"w{n}", contact={"phone": f"573200000{n:03d}"}))
        enqueue(db, purpose=purpose, chat=db.value("select id from public.chats order by id desc limit 1"))

    assert [m["purpose"] for m in claim(db)["messages"]] == ["staff", "reply", "sequence"]


def test_bulk_that_has_its_slots_leaves_one_for_an_answer(db: Any, inbox: Inbox) -> None:
    several(db, inbox, 30, "sequence")
    assert len(claim(db)["messages"]) == 19
    db.run("update public.number_pacing set next_slot_at = now() + interval '1 minute'")
    inbox.deliver(says("late", contact=CARLOS))
    answer = enqueue(db, chat=db.value("select id from public.chats order by id desc limit 1"))

    (only,) = claim(db)["messages"]

    assert only["message_id"] == str(answer)
    assert db.value("select reserve_slot_at > now() + interval '1 second' from public.number_pacing") is True


def slots(db: Any, worker: uuid.UUID, seconds: float) -> dict[str, Any]:
    """What that worker would get so long after the number's last slot has passed."""
    return dict(
        db.row(
            "select s.urgent, extract(epoch from s.slot_at - p.next_slot_at)::float8 as after"
            " from public.number_pacing p join public.whatsapp_numbers n on n.id = p.number_id"
            " cross join lateral private.number_slots("
            "     n, p, %s, p.next_slot_at + make_interval(secs => %s)) s",
            worker,
            seconds,
        )
    )


def test_a_busy_number_stays_with_the_worker_that_has_it(db: Any, inbox: Inbox) -> None:
    several(db, inbox, 1)
    mine, other = uuid.uuid4(), uuid.uuid4()
    claim(db, worker=mine)
    db.run(
        "update public.number_pacing"
        " set next_slot_at = now() + interval '1 minute', reserve_slot_at = 'infinity'"
    )

    assert (slots(db, mine, -0.2)["urgent"], slots(db, mine, -0.2)["after"]) == (15, 0)
    assert slots(db, other, -0.2)["urgent"] == 0


def test_a_number_whose_worker_is_gone_goes_to_another_after_a_break(db: Any, inbox: Inbox) -> None:
    several(db, inbox, 1)
    claim(db, worker=uuid.uuid4())
    db.run("update public.number_pacing set next_slot_at = now() - interval '1 minute'")

    assert slots(db, uuid.uuid4(), 0.01)["after"] == 0.25
    assert slots(db, uuid.uuid4(), 5)["after"] == 5


def test_two_workers_never_get_the_same_message(
    connect: Callable[[], psycopg.Connection[Any]],
) -> None:
    one, two = connect(), connect()
    business = open_business(one, "clinic", "100000000000001")
    inbox = Inbox(one)
    inbox.deliver(*(says(f"w{n}", contact={"phone": f"573200000{n:03d}"}) for n in range(5)))
    one.execute("select private.outbox_enqueue(array_agg(private.outgoing(tenant_id, id, 'reply', 'agent',"
        " 'assistant', 'Hola'))) from public.chats where tenant_id = %s", [business.tenant_id])  # fmt: skip

    with one.transaction():
        taken = one.execute("select public.outbox_claim(2) as answer").fetchall()[0]["answer"]
        beside = two.execute("select public.outbox_claim(5) as answer").fetchall()[0]["answer"]
        canceled = two.execute(
            "select private.outbox_cancel(%s, array(select message_id from public.outbox"
            " where state = 'queued' order by message_id desc limit 1)) as ids", [business.tenant_id],
        ).fetchall()[0]["ids"]  # fmt: skip

    assert len(taken["messages"]) == 2
    assert beside["messages"] == []
    assert len(canceled) == 1


# when


def test_a_scheduled_message_waits_for_its_time_by_the_business_s_clock(db: Any, chat: Any) -> None:
    schedule(db, "Hola")
    waiting = claim(db)
    assert (waiting["messages"], 3_590_000 < waiting["next_in_ms"] <= 3_600_000) == ([], True)

    move_clock(db, "61 minutes")

    assert len(claim(db)["messages"]) == 1


def test_a_scheduled_message_holds_up_nobody(db: Any, chat: Any) -> None:
    schedule(db, "Luego")
    enqueue(db, "Ahora")

    assert [m["content"] for m in claim(db)["messages"]] == ["Ahora"]


def test_a_failed_try_holds_up_what_comes_after_it_in_its_chat(db: Any, chat: Any) -> None:
    enqueue(db, "uno")
    enqueue(db, "dos")
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "retry")

    assert claim(db)["messages"] == []


def test_bulk_that_must_wait_does_not_hold_up_an_answer(db: Any, chat: Any) -> None:
    enqueue(db, "oferta", "sequence")
    enqueue(db, "respuesta")
    db.run("update public.number_pacing set bulk_paused_until = 'infinity'")

    assert [m["content"] for m in claim(db)["messages"]] == ["respuesta"]


def test_what_the_decision_lets_wait_is_asked_again_then(db: Any, chat: Any) -> None:
    message_id = enqueue(db, purpose="sequence")
    db.run("update public.chats set block_state = 'probable'")

    waiting = claim(db)

    assert (waiting["messages"], waiting["next_in_ms"] > 0) == ([], True)
    waits = message(db, message_id)
    assert (waits["status"], waits["send_verdict"], waits["send_reason"]) == (
        "queued",
        "wait",
        "probably_blocked",
    )


# how fast


@pytest.mark.parametrize(
    ("number", "rate"),
    [
        ("rate_per_second = 20", 20),
        ("rate_per_second = 200", 200),
        ("rate_per_second = 80, is_coexistence = true", 20),
        ("rate_per_second = 80, provider = 'twilio'", 80),
        ("rate_per_second = 200, provider = 'twilio'", 80),
        ("rate_per_second = 20, provider = 'whapi'", 1),
    ],
)
def test_a_number_s_rate_is_its_own_or_what_its_provider_allows(
    db: Any, chat: Any, number: str, rate: float
) -> None:
    enqueue(db)
    db.run(f"update public.whatsapp_numbers set {number}")

    db.run("update public.messages set direction = 'outbound', status = 'sent'")  # nobody writes just now
    assert number_rate(db) == rate


def test_what_customers_write_counts_where_meta_counts_it(db: Any, inbox: Inbox, chat: Any) -> None:
    enqueue(db)
    db.run("update public.whatsapp_numbers set rate_per_second = 80")
    inbox.deliver(*(says(f"v{n}", contact={"phone": f"573200000{n:03d}"}) for n in range(39)))

    db.run("update public.messages set id = private.uuid7() where direction = 'inbound'")  # just now
    assert number_rate(db) == 60  # 40 in two seconds


def test_a_slow_number_is_half_as_fast_until_half_a_minute_later(db: Any, inbox: Inbox, chat: Any) -> None:
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "slow_number")
    settle(db, claimed, "slow_number")
    assert number_rate(db) == 10

    db.run("update public.number_pacing set slowed_at = now() - interval '31 seconds'")

    assert number_rate(db) == 20
    assert db.value("select attempts from public.outbox") == 0


@pytest.mark.parametrize(("before", "goes"), [(44, True), (45, False)])
def test_a_chat_may_get_45_messages_at_once_and_pays_for_them(
    db: Any, chat: Any, before: int, goes: bool
) -> None:
    db.run(
        "insert into private.chat_pacing (tenant_id, chat_id, burst_at, burst_count, free_at)"
        " select tenant_id, id, now(), %s, now() + make_interval(secs => 6 * %s) from public.chats",
        before,
        before,
    )
    enqueue(db)

    assert bool(claim(db)["messages"]) is goes

    paid_at = db.value("select free_at from private.chat_pacing")
    rests_until = db.value("select not_before from public.outbox")
    assert (paid_at - db.value("select now()")).total_seconds() == 270
    assert rests_until == (None if goes else paid_at)


def test_after_a_burst_there_is_a_rest_even_below_45(db: Any, chat: Any) -> None:
    enqueue(db)
    claim(db)
    db.run(
        "update private.chat_pacing set burst_count = 3, burst_at = now() - interval '7 seconds',"
        " free_at = now() + interval '11 seconds'"
    )
    db.run("delete from public.outbox")
    enqueue(db)

    assert claim(db)["messages"] == []


@pytest.mark.parametrize(("refusals", "seconds"), [(0, 1), (1, 4), (2, 16), (3, 64)])
def test_a_pair_that_meta_refuses_rests_four_times_as_long_each_time(
    db: Any, chat: Any, refusals: int, seconds: int
) -> None:
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    db.run("update private.chat_pacing set refusals = %s", refusals)

    settle(db, claimed, "slow_pair", error_code=131056)

    assert db.value("select extract(epoch from free_at - now())::int from private.chat_pacing") == seconds
    db.run("update public.number_pacing set next_slot_at = now()")
    assert claim(db)["messages"] == []


def test_whapi_sends_bulk_twice_a_minute_at_most(db: Any, inbox: Inbox) -> None:
    db.run("update public.whatsapp_numbers set provider = 'whapi'")
    inbox.deliver(
        *(says(f"w{n}", contact={"phone": f"573200000{n:03d}"}) for n in range(3)), provider="whapi"
    )
    for chat in db.column("select id from public.chats"):
        enqueue(db, purpose="sequence", chat=chat)

    assert len(claim(db)["messages"]) == 1
    db.run("update public.number_pacing set next_slot_at = now()")
    assert claim(db)["messages"] == []
    assert db.value("select bulk_slot_at > now() + interval '29 seconds' from public.number_pacing")


def test_service_messages_are_counted_by_month(db: Any, inbox: Inbox) -> None:
    several(db, inbox, 2)
    claim(db)
    assert db.value("select service_count from public.number_pacing") == 2

    db.run(
        "update public.number_pacing"
        " set next_slot_at = now(), service_month = service_month - interval '1 month'"
    )
    enqueue(db, chat=db.value("select chat_id from public.messages where direction = 'outbound' limit 1"))
    db.run("delete from public.outbox where state = 'claimed'")
    claim(db)

    assert db.value("select service_count from public.number_pacing") == 1


# how it ends


def test_what_was_too_late_for_its_slot_goes_back_as_if_nothing_had_been(db: Any, chat: Any) -> None:
    enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "late")
    db.run("update public.number_pacing set next_slot_at = now()")

    (again,) = claim(db)["messages"]

    assert again["attempts"] == 1


def test_a_number_restricted_for_spam_rests_with_its_bulk_only(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    several(db, inbox, 2, "sequence")
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "pause_bulk", error_code=131048, error_message="Spam rate limit hit")
    db.run("update public.number_pacing set next_slot_at = now()")
    several(db, inbox, 1, "sequence")
    answer = enqueue(db, chat=db.value("select id from public.chats order by id limit 1"))

    assert [m["message_id"] for m in claim(db)["messages"]] == [str(answer)]
    paused = db.row("select kind, occurrences from public.alerts where kind = 'bulk_paused'")
    assert paused == {"kind": "bulk_paused", "occurrences": 1}
    assert db.column("select distinct status from public.messages where error_code = 131048") == ["failed"]


def test_bulk_rests_while_meta_judges_the_number_red(db: Any, inbox: Inbox, chat: Any) -> None:
    enqueue(db, purpose="sequence")
    db.run("update public.whatsapp_numbers set quality_rating = 'RED'")
    assert claim(db)["messages"] == []
    assert db.column("select kind from public.alerts where resolved_at is null") == ["bulk_paused"]

    db.run("update public.whatsapp_numbers set quality_rating = 'YELLOW'")

    assert len(claim(db)["messages"]) == 1
    assert db.column("select kind from public.alerts where resolved_at is null") == []


def test_a_stopped_channel_is_one_alert_and_goes_on_when_it_is_mended(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    several(db, inbox, 3)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "stop_channel", error_code=190, error_message="Token expired")
    assert db.column("select occurrences from public.alerts") == [1]

    with db.as_service():
        db.run("select private.channel_mend(%s, %s)", clinic.tenant_id, clinic.number_id)
    db.run("update public.number_pacing set next_slot_at = now()")

    assert len(claim(db)["messages"]) == 3
    assert db.column("select kind from public.alerts where resolved_at is null") == []


def test_bulk_that_failed_for_good_is_counted_in_one_alert_of_its_number(db: Any, inbox: Inbox) -> None:
    several(db, inbox, 3, "sequence")
    claimed = claim(db)
    intent(db, claimed)

    settle(db, claimed, "unreachable", error_code=131026)

    assert db.column("select status from public.messages where direction = 'outbound'") == ["failed"] * 3
    assert db.column("select kind from public.alerts") == ["bulk_failed"]


def test_a_status_that_ended_the_errand_does_not_hide_when_we_last_wrote(
    db: Any, inbox: Inbox, chat: Any
) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    inbox.deliver(status("w2", "delivered", callback=str(message_id)))
    assert db.value("select count(*) from public.outbox") == 0

    settle(db, claimed, "sent", wa_message_id="w2")

    assert db.value("select last_outbound_at is not null from public.chats") is True
    assert message(db, message_id)["status"] == "delivered"


# taking back, and again


def test_what_is_queued_can_be_canceled_and_what_is_on_its_way_cannot(
    db: Any, clinic: Business, chat: Any
) -> None:
    going = enqueue(db)
    claim(db)
    queued = enqueue(db)

    with db.as_service():
        got = db.value("select private.outbox_cancel(%s, %s)", clinic.tenant_id, [going, queued])

    assert got == [queued]
    assert (message(db, queued)["status"], message(db, going)["status"]) == ("canceled", "queued")


@pytest.mark.parametrize("outcome", ["invalid", "unknown"])
def test_a_person_may_send_again_what_failed_or_nobody_knows_of(
    db: Any, clinic: Business, chat: Any, outcome: str
) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, outcome)

    with db.as_service():
        got = db.value("select private.outbox_requeue(%s, %s)", clinic.tenant_id, [message_id])
    db.run("update public.number_pacing set next_slot_at = now()")

    assert got == [message_id]
    assert [(m["message_id"], m["purpose"]) for m in claim(db)["messages"]] == [(str(message_id), "staff")]


def test_what_was_sent_is_not_sent_again(db: Any, clinic: Business, chat: Any) -> None:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "sent", wa_message_id="w2")

    with db.as_service():
        assert db.value("select private.outbox_requeue(%s, %s)", clinic.tenant_id, [message_id]) == []
