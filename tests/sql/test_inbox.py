"""inbox: whatever providers deliver, however often and in whatever order, is applied once and never lost."""

from __future__ import annotations

import itertools
import json
import random
import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from psycopg.types.json import Jsonb

from tests.sql.given import (
    CARLOS,
    MARIA,
    NOW,
    Business,
    Event,
    Inbox,
    echo,
    event,
    open_business,
    says,
    status,
)

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def messages(db: Any, columns: str = "*") -> list[dict[str, Any]]:
    return list(db.rows(f"select {columns} from public.messages order by provider_at, wa_message_id"))


def test_a_message_is_stored_with_its_lead_chat_and_conversation(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    answer = inbox.deliver(says("w1", "¿Tienen cita?"))

    answer.pop("product_events")
    assert answer == {"status": "applied", "stored": 1, "repeated": 0, "error": None, "wake": ["reply"]}
    (message,) = messages(db)
    assert tuple(message[c] for c in ("content", "direction", "role", "source", "status")) == (
        "¿Tienen cita?", "inbound", "user", "customer", "received",
    )  # fmt: skip
    assert message["number_id"] == clinic.number_id
    assert db.value("select window_expires_at from public.chats") == NOW + DAY


def test_all_a_message_carries_is_kept(db: Any, inbox: Inbox) -> None:
    photo = {
        "id": "m1",
        "mime": "image/jpeg",
        "sha256": "x",
        "size": 7,
        "filename": None,
        "url": "https://x.example",
    }
    ad = {"source_type": "ad", "source_id": "12", "ctwa_clid": "c"}
    inbox.deliver(
        says("w1", "Miren")
        | {"type": "image", "media": photo, "referral": ad, "data": {"a": 1}}
        | {"context": {"id": "w0", "forwarded": True}}
    )

    (message,) = messages(db, "data, reply_to, is_forwarded, referral")
    assert message == {"data": {"a": 1}, "reply_to": "w0", "is_forwarded": True, "referral": ad}
    assert db.row("select provider_media_id, mime, size from public.media") == {
        "provider_media_id": "m1", "mime": "image/jpeg", "size": 7,
    }  # fmt: skip
    assert db.value("select referral from public.chats") == ad


@pytest.mark.parametrize("stand_in", ["unsupported", "media_placeholder"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_content_that_comes_apart_from_its_message_is_kept_in_any_order(
    db: Any, inbox: Inbox, stand_in: str, order: tuple[int, ...]
) -> None:
    photo = says("w1", "Miren") | {"type": "image", "media": {"id": "m1"}, "referral": {"source_type": "ad"}}
    edit = event("edit", "w2", NOW + MINUTE, target="w1", text="Miren bien", contact=MARIA)
    told = [says("w1") | {"type": stand_in, "text": None}, photo, edit, photo]

    for n in order:
        inbox.deliver(told[n])

    (message,) = messages(db, "type, content, previous->0->>'content' as original")
    assert message == {"type": "image", "content": "Miren bien", "original": "Miren"}
    assert db.value("select count(*) from public.media") == 1
    assert db.row("select unread_count, free_entry_reply_by from public.chats") == {
        "unread_count": 1, "free_entry_reply_by": NOW + DAY,
    }  # fmt: skip
    assert db.value("select message_count from public.conversations") == 1
    assert db.value("select fragments from public.pending_replies") == 1


def test_of_content_and_what_stands_for_it_in_one_delivery_the_content_is_kept(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1") | {"type": "unsupported", "text": None}, says("w1", "Hola"))

    assert messages(db, "type, content") == [{"type": "text", "content": "Hola"}]


def test_a_message_is_told_to_the_log_by_our_ids(db: Any, inbox: Inbox, clinic: Business) -> None:
    (told,) = inbox.deliver(says("w1"))["product_events"]

    (message,) = messages(db)
    assert told == {
        "event": "whatsapp.message.received",
        "tenant_id": str(clinic.tenant_id),
        "number_id": str(clinic.number_id),
        "provider": "cloud_api",
        "count": 1,
        "message_ids": [str(message["id"])],
        "chat_ids": [str(message["chat_id"])],
    }


def test_the_log_is_told_of_a_delivery_with_its_count_and_a_few_ids(inbox: Inbox) -> None:
    (told,) = inbox.deliver(*[says(f"w{n}") for n in range(50)])["product_events"]

    assert (told["count"], len(told["message_ids"]), len(told["chat_ids"])) == (50, 20, 20)


def test_the_log_is_told_of_nothing_twice_nor_of_what_nobody_writes_now(inbox: Inbox) -> None:
    inbox.deliver(says("w1") | {"type": "unsupported", "text": None})

    again, filled, written, old = (
        inbox.deliver(events)
        for events in (
            says("w1") | {"type": "unsupported", "text": None},
            says("w1"),
            echo("w2"),
            says("w3", history=True),
        )
    )

    assert [answer["stored"] for answer in (again, filled, written, old)] == [0, 1, 1, 1]
    assert not [one for one in (again, filled, written, old) if "product_events" in one]


def test_a_failure_is_told_to_the_log_once(db: Any, inbox: Inbox) -> None:
    inbox.deliver(echo("w1"))
    failed = status("w1", "failed", error={"code": 131026, "title": "Undeliverable"})

    told, again = inbox.deliver(failed).get("product_events", []), inbox.deliver(failed)

    (message,) = messages(db)
    assert [(one["event"], one["error_code"], one["message_ids"]) for one in told] == [
        ("whatsapp.send.failed", 131026, [str(message["id"])])
    ]
    assert "product_events" not in again


def test_the_same_delivery_again_writes_nothing(db: Any, inbox: Inbox) -> None:
    payload = inbox.payload(says("w1"), status("w0", "sent"))
    inbox.receive(payload)
    before = everything(db)

    (answer,) = inbox.receive(payload)

    assert answer == {"status": "duplicate", "stored": 0, "repeated": 2, "error": None}
    assert everything(db) == before


def test_known_events_in_another_delivery_write_nothing(db: Any, inbox: Inbox) -> None:
    known: tuple[Event, ...] = (says("w1"), echo("w2"), status("w2", "read"), status("w9", "read"))
    known += (
        event("edit", "e1", target="w1", text="!"),
        event("reaction", "r1", target="w1", emoji="x", by="customer"),
    )
    inbox.deliver(*known)
    before = everything(db)

    assert inbox.deliver(*known) == {"status": "duplicate", "stored": 0, "repeated": 6, "error": None}
    assert everything(db) == before


def test_one_delivery_twice_in_a_batch_counts_once(db: Any, inbox: Inbox) -> None:
    payload = inbox.payload(says("w1"))

    answers = inbox.receive(payload, payload, inbox.payload(says("w1"), says("w2")))

    assert [(a["status"], a["stored"], a["repeated"]) for a in answers] == [
        ("applied", 1, 0), ("duplicate", 0, 1), ("applied", 1, 1),
    ]  # fmt: skip


def test_a_bad_payload_harms_no_other(db: Any, inbox: Inbox) -> None:
    answers = inbox.receive(
        inbox.payload(says("w1")),
        inbox.payload(says("w2", contact={"phone": "not a phone"})),
        inbox.payload(says("w3") | {"at": "yesterday-ish"}),
        inbox.payload(says("w4", contact={})),
        inbox.payload(says("w5", contact=CARLOS)),
    )

    assert [a["status"] for a in answers] == ["applied", "failed", "failed", "failed", "applied"]
    assert [m["wa_message_id"] for m in messages(db)] == ["w1", "w5"]
    assert (
        db.value("select count(*) from public.webhook_logs where status = 'failed' and error is not null")
        == 3
    )


@pytest.mark.parametrize("trouble", ["53100", "58030", "40P01", "55P03", "57P03"])
def test_what_a_server_in_trouble_cannot_store_is_refused_and_not_blamed(
    db: Any, inbox: Inbox, trouble: str
) -> None:
    """The provider delivers it again; kept as failed, it would have been acknowledged for nothing."""
    inbox.deliver(says("w1", contact={"phone": "?"}))
    break_messages(db, trouble)

    for doing in (lambda: inbox.deliver(says("w2")), lambda: retry(db, "w1")):
        with pytest.raises(psycopg.Error) as raised, db.connection.transaction():
            doing()
        assert raised.value.sqlstate == trouble

    assert db.rows("select status, attempts from public.webhook_logs") == [
        {"status": "failed", "attempts": 1}
    ]


def test_what_takes_too_much_memory_is_kept_as_what_it_is(db: Any, inbox: Inbox) -> None:
    break_messages(db, "53200")

    assert inbox.deliver(says("w1"))["status"] == "failed"


def break_messages(db: Any, sqlstate: str) -> None:
    db.run(
        "create function pg_temp.break() returns trigger language plpgsql as"
        f" $$begin raise exception using errcode = '{sqlstate}', message = 'Broken for a test.'; end$$"
    )
    db.run("create trigger broken before insert on public.messages execute function pg_temp.break()")


def retry(db: Any, wa_message_id: str) -> None:
    """Of what could not be applied, as if its contact were good by now."""
    log = db.value("select id from public.webhook_logs")
    with db.as_service():
        db.value("select public.webhook_replay(%s, %s)", log, Jsonb([says(wa_message_id)]))


def test_what_nobody_owns_is_kept_with_the_reason(db: Any, inbox: Inbox) -> None:
    answer = inbox.deliver(says("w1"), number="999")

    assert (answer["status"], answer["error"]) == ("failed", "No active number 999 of cloud_api.")
    log = db.row("select tenant_id, status, error, payload from public.webhook_logs")
    assert log == {"tenant_id": None, "status": "failed", "error": answer["error"], "payload": {"n": 1}}


def test_what_cannot_be_parsed_is_kept_as_it_came(db: Any, inbox: Inbox) -> None:
    inbox.deliver(raw="AAECAw==", error="It is not JSON.", payload=None)

    assert db.row("select status, raw, error from public.webhook_logs") == {
        "status": "dead", "raw": b"\x00\x01\x02\x03", "error": "It is not JSON.",
    }  # fmt: skip


@pytest.mark.parametrize("foreign", [{"provider": "whapi"}, {"number": "100000000000099"}])
def test_a_delivery_is_of_the_number_that_its_provider_names_and_of_no_other(
    db: Any, inbox: Inbox, foreign: dict[str, Any]
) -> None:
    answer = inbox.deliver(says("w1"), **foreign)

    assert answer["error"].startswith("No active number")
    assert messages(db) == []


def test_a_kept_payload_is_applied_when_its_number_is_connected(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    db.run("update public.whatsapp_numbers set is_active = false where id = %s", clinic.number_id)
    inbox.deliver(says("w1"))
    db.run("update public.whatsapp_numbers set is_active = true where id = %s", clinic.number_id)
    log = db.value("select id from public.webhook_logs")
    with db.as_service():
        assert db.value("select public.webhook_replay(%s)", log) is True
        assert db.value("select public.webhook_replay(%s)", log) is True

    assert len(messages(db)) == 1
    assert db.row("select status, tenant_id, events from public.webhook_logs") == {
        "status": "applied", "tenant_id": clinic.tenant_id, "events": None,
    }  # fmt: skip


def test_what_keeps_failing_is_tried_less_and_less_and_then_given_up(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", contact={"phone": "?"}))
    pauses = []
    for _ in range(8):
        db.run("update public.webhook_logs set next_attempt_at = now()")
        with db.as_service():
            assert db.value("select public.webhook_retry()") == 0
        pauses.append(
            db.value("select extract(epoch from next_attempt_at - now())::int / 60 from public.webhook_logs")
        )

    assert pauses == [2, 8, 32, 128, 512, 1440, 1440, None]
    assert db.value("select status from public.webhook_logs") == "dead"


RANKS = ["sent", "delivered", "read", "played"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_statuses_only_move_forwards_and_each_keeps_its_time(
    db: Any, inbox: Inbox, order: tuple[int, ...]
) -> None:
    inbox.deliver(echo("w1", at=NOW - MINUTE))
    for n in order:
        inbox.deliver(status("w1", RANKS[n], minutes=n))

    (message,) = messages(db, "status, delivered_at, read_at, played_at")
    assert message == {
        "status": "played", "delivered_at": NOW + MINUTE, "read_at": NOW + 2 * MINUTE,
        "played_at": NOW + 3 * MINUTE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "expected"),
    [(["sent", "failed"], "failed"), (["failed", "sent"], "failed"), (["delivered", "failed"], "delivered"),
     (["failed", "read"], "read")],
)  # fmt: skip
def test_a_failure_counts_only_while_nothing_says_it_arrived(
    db: Any, inbox: Inbox, told: list[str], expected: str
) -> None:
    inbox.deliver(echo("w1"))
    error = {"code": 131047, "title": "Re-engagement", "details": "24 h"}
    inbox.deliver(*(status("w1", s, error=error if s == "failed" else None) for s in told))

    assert messages(db, "status, error_code") == [{"status": expected, "error_code": 131047}]


def test_a_status_finds_our_message_before_the_provider_told_us_its_id(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    ours = db.value(
        "select (private.outbox_enqueue(array[private.outgoing(tenant_id, id, 'reply', 'agent',"
        " 'assistant', 'Hola')]))[1] from public.chats"
    )
    pricing = {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "service"}
    inbox.deliver(status("w2", "delivered", callback=str(ours), pricing=pricing))

    message = db.row(
        "select status, wa_message_id, price_class, actual_cost from public.messages where id = %s", ours
    )
    assert (message["status"], message["wa_message_id"], message["price_class"]) == (
        "delivered",
        "w2",
        "service",
    )
    assert message["actual_cost"] > 0
    assert db.value("select count(*) from public.outbox") == 0


def test_what_is_said_about_a_message_we_never_had_is_kept(db: Any, inbox: Inbox) -> None:
    assert inbox.deliver(status("w404", "read"))["status"] == "applied"

    assert db.column("select body ->> 'status' from public.early_events") == ["read"]


def test_edits_and_revokes_keep_what_was_said_before(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", "uno"), event("edit", "e1", NOW + MINUTE, target="w1", text="dos"))
    assert messages(db, "content")[0]["content"] == "dos"

    inbox.deliver(event("revoke", "v1", NOW + 2 * MINUTE, target="w1"))

    (message,) = messages(db, "content, previous, revoked_at")
    assert (message["content"], [p["content"] for p in message["previous"]]) == (None, ["uno", "dos"])
    assert message["revoked_at"] == NOW + 2 * MINUTE


def test_a_reaction_is_the_last_one_of_each_side(db: Any, inbox: Inbox) -> None:
    react = {"target": "w1", "by": "customer"}
    inbox.deliver(says("w1"), event("reaction", "r2", NOW + 2 * MINUTE, emoji="👍", **react))
    inbox.deliver(event("reaction", "r1", NOW + MINUTE, emoji="❤", **react))

    assert messages(db, "reactions")[0]["reactions"]["customer"]["emoji"] == "👍"


def life_of_a_chat() -> list[Event]:
    return [
        says("w1", "uno"),
        event("edit", "e1", NOW + MINUTE, target="w1", text="dos"),
        event("edit", "e2", NOW + 2 * MINUTE, target="w1", text="tres"),
        event("reaction", "r1", NOW + MINUTE, target="w1", emoji="x", by="business"),
        event("reaction", "r2", NOW + 2 * MINUTE, target="w1", emoji=None, by="business"),
        says("w2", at=NOW + MINUTE),
        event("revoke", "v1", NOW + 3 * MINUTE, target="w2"),
        event("edit", "e3", NOW + 2 * MINUTE, target="w2", text="cuatro"),
        echo("w3", at=NOW + MINUTE),
        *(status("w3", s, minutes=n + 2) for n, s in enumerate(RANKS)),
        says("w4", contact=CARLOS),
    ]


@pytest.mark.parametrize("seed", range(25))
def test_any_order_and_any_repetition_end_in_the_same_state(db: Any, inbox: Inbox, seed: int) -> None:
    db.run("savepoint fresh")
    for told in life_of_a_chat():
        inbox.deliver(told)
    expected = outcome(db)
    db.run("rollback to savepoint fresh")

    shuffled = life_of_a_chat() * 3
    chance = random.Random(seed)  # noqa: S311
    chance.shuffle(shuffled)
    while shuffled:
        share = [shuffled.pop() for _ in range(min(chance.randint(1, 9), len(shuffled)))]
        inbox.receive(*(inbox.payload(told) for told in share))

    assert not db.column("select error from public.webhook_logs where error is not null")
    assert outcome(db) == expected


def outcome(db: Any) -> list[Any]:
    """What front ends would show, without ids and times of ours."""
    columns = (
        "wa_message_id, content, status, sent_at, delivered_at, read_at, played_at, edited_at, revoked_at"
    )
    chat = "last_inbound_at, last_outbound_at, last_interaction_at, window_expires_at, agent_paused_until"
    return [
        messages(db, f"{columns}, previous, reactions"),
        db.rows(f"select {chat}, unread_count from public.chats order by last_interaction_at, unread_count"),
        db.rows("select status, message_count from public.conversations order by message_count"),
        db.rows("select phone, name from public.customer_leads order by phone"),
        db.rows("select target, kind, detail from public.early_events"),
    ]


def everything(db: Any) -> dict[str, Any]:
    tables = db.column(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    return {
        t: db.value(f"select md5(string_agg(x::text, '|' order by x::text)) from public.{t} x")
        for t in tables
    }


def test_history_is_only_stored(db: Any, inbox: Inbox) -> None:
    answer = inbox.deliver(says("w1", "STOP", history=True), echo("w2", history=True))

    assert "wake" not in answer
    assert db.value("select count(*) from public.messages where conversation_id is null") == 2
    chat = db.row("select window_expires_at, unread_count, agent_paused_until from public.chats")
    assert chat == {"window_expires_at": None, "unread_count": 0, "agent_paused_until": None}
    for table in ("pending_replies", "pending_activity", "conversations", "consent_events"):
        assert db.value(f"select count(*) from public.{table}") == 0


def test_a_message_older_than_the_window_sets_nothing_off(db: Any, inbox: Inbox) -> None:
    answer = inbox.deliver(says("w1", "STOP", at=NOW - 25 * HOUR))

    assert (answer["stored"], "wake" in answer) == (1, False)
    for table in ("pending_replies", "pending_activity", "consent_events"):
        assert db.value(f"select count(*) from public.{table}") == 0


def test_a_provider_s_clock_cannot_run_more_than_five_minutes_ahead(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", at=NOW + 3 * DAY))

    assert db.value("select provider_at <= now() + interval '5 minutes' from public.messages") is True


def test_what_twilio_posts_without_a_time_comes_at_business_time(db: Any, inbox: Inbox) -> None:
    db.run("update public.whatsapp_numbers set provider = 'twilio'")
    db.run("update local.clock set ahead = interval '30 days'")

    inbox.deliver(says("w1"), provider="twilio", field="message")
    inbox.deliver(says("w2", at=NOW + 29 * DAY), provider="twilio", field="backfill")

    assert db.column("select provider_at from public.messages order by wa_message_id") == [
        NOW + 30 * DAY,
        NOW + 29 * DAY,
    ]
    assert db.value("select count(*) from public.pending_replies") == 1


def test_a_person_who_writes_from_the_phone_silences_the_agent_and_opens_no_window(
    db: Any, inbox: Inbox
) -> None:
    inbox.deliver(echo("w1"))

    chat = db.row("select window_expires_at, last_interaction_at, agent_paused_until from public.chats")
    assert chat == {"window_expires_at": None, "last_interaction_at": NOW, "agent_paused_until": NOW + HOUR}
    assert messages(db, "role, source, status") == [{"role": "human", "source": "manual", "status": "sent"}]
    assert db.value("select count(*) from public.pending_replies") == 0


def test_a_customer_s_call_opens_the_window(db: Any, inbox: Inbox) -> None:
    inbox.deliver(event("call", "c1", contact=MARIA, direction="inbound", status="accepted"))
    inbox.deliver(event("call", "c2", contact=CARLOS, direction="outbound", status="accepted"))

    windows = db.column("select window_expires_at from public.chats order by 1 nulls last")
    assert windows == [NOW + DAY, None]


def test_a_free_entry_ends_when_the_provider_says(db: Any, inbox: Inbox) -> None:
    until = (NOW + 3 * DAY).isoformat()
    inbox.deliver(echo("w1"))
    pricing = {"type": "free_entry_point", "category": "referral_conversion", "billable": False}
    inbox.deliver(
        status(
            "w1",
            "sent",
            pricing=pricing,
            conversation={"id": "x", "origin": "referral_conversion", "expires_at": until},
        )
    )

    assert db.value("select free_entry_until from public.chats") == NOW + 3 * DAY


def test_events_we_do_not_model_are_kept(db: Any, inbox: Inbox) -> None:
    assert inbox.deliver(event("other", "o1", raw={"x": 1}))["status"] == "applied"
    assert inbox.deliver()["status"] == "applied"

    assert db.value("select count(*) from public.webhook_logs where status = 'applied'") == 2


def test_only_the_service_may_deliver(db: Any, inbox: Inbox, clinic: Business) -> None:
    for who in (db.signed_in(clinic.owner), db.as_anon()):
        with who, pytest.raises(InsufficientPrivilege, match="function webhook_receive"):
            db.run("select public.webhook_receive('[]')")


def test_a_batch_that_is_no_array_is_refused(db: Any, inbox: Inbox) -> None:
    with db.as_service(), pytest.raises(psycopg.Error, match="must be an array") as refusal:
        db.run("select public.webhook_receive('{}')")
    assert refusal.value.sqlstate == "PT400"


def test_crowds_at_once_make_one_chat_and_one_conversation_each(connect: Any) -> None:
    open_business(connect(), "clinic", "100000000000001")
    people = [{"phone": f"5731{n:08d}", "bsuid": f"CO.{n}"} for n in range(60)]
    payloads = Inbox(connect())
    told = [payloads.payload(says(f"w{n}.{m}", contact=p)) for m in range(3) for n, p in enumerate(people)]
    answers: list[Any] = []

    def deliver(share: list[Event]) -> None:
        with connect() as connection:
            connection.execute("set role service_role")
            for start in range(0, len(share), 7):
                batch = Jsonb(share[start : start + 7])
                answers.extend(
                    connection.execute("select public.webhook_receive(%s) a", [batch]).fetchone()["a"]
                )

    for _ in range(2):  # and then everything again
        shares = [told[n::8] for n in range(8)]
        random.Random(1).shuffle(shares)  # noqa: S311
        threads = [threading.Thread(target=deliver, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(answers) == 360
    with connect() as connection:
        counts = connection.execute(
            "select (select count(*) from public.messages) m, (select count(*) from public.customer_leads) l,"
            " (select count(*) from public.chats) c, (select sum(unread_count) from public.chats) u,"
            " (select count(*) from public.conversations where status = 'open') o"
        ).fetchone()
    assert counts == {"m": 180, "l": 60, "c": 60, "u": 180, "o": 60}


def test_a_redelivery_writes_no_wal(connect: Any) -> None:
    connection = connect()
    open_business(connection, "clinic", "100000000000001")
    inbox = Inbox(connection)
    batch = [inbox.payload(says(f"w{n}")) for n in range(20)]
    inbox.receive(*batch)
    position = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as at"
    inbox.receive(*batch)

    def written() -> int:
        before = connection.execute(position).fetchone()["at"]
        inbox.receive(*batch)
        return int(connection.execute(position).fetchone()["at"] - before)

    # the server itself writes now and then
    assert min(written() for _ in range(5)) < 500


def test_answers_are_plain_json(inbox: Inbox) -> None:
    assert json.loads(json.dumps(inbox.receive())) == []
