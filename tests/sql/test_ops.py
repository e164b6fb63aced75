"""ops_status: each fact that whoever runs this must see, provoked, and seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege

from local.ops import lines
from tests.sql.given import NOW, Business, Inbox, echo, says

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def ops(db: Any) -> dict[str, Any]:
    with db.as_service():
        found: dict[str, Any] = db.value("select public.ops_status()")
    return found


def enqueue(db: Any, who: Business, due: timedelta = timedelta()) -> None:
    with db.as_service():
        db.run(
            "select private.outbox_enqueue(array["
            "private.outgoing(tenant_id, id, 'reply', 'agent', 'assistant', 'Hola')])"
            " from public.chats where tenant_id = %s limit 1",
            who.tenant_id,
        )
    db.run(
        "update public.outbox set due_at = private.clock() + %s, created_at = now() + %s"
        " where tenant_id = %s and position = (select max(position) from public.outbox)",
        due, due, who.tenant_id,
    )  # fmt: skip


def ran(db: Any, name: str, ago: timedelta, status: str = "succeeded", message: str = "") -> None:
    db.run(
        "insert into cron.job_run_details (jobid, runid, status, return_message, start_time, end_time)"
        " select jobid, (select coalesce(max(runid), 0) + 1 from cron.job_run_details), %s, %s,"
        " now() - %s, now() - %s from cron.job where jobname = %s",
        status, message, ago, ago, name,
    )  # fmt: skip


@pytest.mark.parametrize("who", ["owner", "anon"])
def test_nobody_but_the_secret_key_may_ask(db: Any, clinic: Business, who: str) -> None:
    actor = db.signed_in(clinic.owner) if who == "owner" else db.as_anon()

    with actor, pytest.raises(InsufficientPrivilege, match="ops_status"):
        db.run("select public.ops_status()")


def test_an_empty_installation_answers_too(db: Any) -> None:
    found = ops(db)

    assert (found["webhook"]["deliveries"], found["webhook"]["told_to_stored"]) == (0, None)
    assert (found["outbox"]["due"], found["outbox"]["tenants"], found["alerts"]) == (0, [], {})


def test_how_long_messages_took_to_reach_us(db: Any, inbox: Inbox) -> None:
    now = datetime.now(UTC)

    inbox.deliver(says("w1", at=now - MINUTE), received_at=(now - timedelta(seconds=3)).isoformat())

    found = ops(db)["webhook"]
    assert found["deliveries"] == 1
    assert 55_000 < found["told_to_stored"]["p50"] < 120_000
    assert found["received_to_applied"]["max"] >= found["received_to_taken"]["max"] > 2_000
    assert found["taken_to_applied"]["p95"] > 0


def test_what_was_tried_again_says_nothing_about_our_speed(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    db.run("update public.webhook_logs set applied_at = now() + interval '8 minutes'")

    assert ops(db)["webhook"]["taken_to_applied"] is None


def test_deliveries_that_failed_died_or_are_not_understood(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"), number="of nobody")
    inbox.deliver(error="Not JSON.")
    inbox.deliver({"kind": "other", "id": None, "at": NOW.isoformat(), "raw": {}})

    found = ops(db)["webhook"]

    assert [found[name] for name in ("failed", "dead", "unmodelled")] == [1, 1, 1]


def test_what_waits_to_be_sent_by_business_and_since_when(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    inbox.receive(inbox.payload(says("w1")), inbox.payload(says("w2"), number=plaza.number))
    for due in (-HOUR, -MINUTE, DAY):
        enqueue(db, clinic, due)
    enqueue(db, plaza, -2 * HOUR)

    found = ops(db)["outbox"]

    assert (found["due"], found["scheduled"], found["oldest_seconds"]) == (3, 1, 7200)
    assert [
        (one["tenant_id"], one["due"], one["scheduled"], one["oldest_seconds"]) for one in found["tenants"]
    ] == [(str(plaza.tenant_id), 1, 0, 7200), (str(clinic.tenant_id), 2, 1, 3600)]


def test_sends_in_hand_and_those_nobody_knows_of(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("w1"))
    enqueue(db, clinic)
    enqueue(db, clinic)
    oldest = "(select min(position) from public.outbox)"
    db.run(f"update public.outbox set state = 'sending' where position = {oldest}")
    db.run("update public.outbox set state = 'unknown' where state = 'queued'")

    found = ops(db)["outbox"]

    assert [found[name] for name in ("due", "in_hand", "unknown")] == [0, 1, 1]


def test_customers_who_wait_for_an_answer(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    db.run("update public.pending_replies set due_at = now() - interval '90 seconds', attempts = 3")

    assert ops(db)["replies"] == {"waiting": 1, "failing": 1, "late_seconds": 90}


def test_runs_of_functions_and_how_they_failed(db: Any) -> None:
    for ago, error in ((2 * HOUR, "the first"), (HOUR, "the last"), (MINUTE, None)):
        with db.as_service():
            db.run("select public.job_run_record('reply', now() - %s, '{}', %s)", ago, error)

    found = ops(db)["runs"]["reply"]

    assert [found[name] for name in ("runs", "failures", "last_error")] == [3, 2, "the last"]
    assert found["seconds"] >= 7200


def test_schedules_that_failed_and_schedules_that_did_not_run(db: Any) -> None:
    ran(db, "webhook-retry", 2 * DAY)
    ran(db, "webhook-retry", HOUR, "failed", "ERROR: broken")
    ran(db, "reply-sweep", timedelta(seconds=30))

    found = ops(db)["schedules"]

    names = ("is_overdue", "failures", "last_error")
    assert [found["webhook-retry"][name] for name in names] == [True, 1, "ERROR: broken"]
    assert [found["reply-sweep"][name] for name in names] == [False, 0, None]
    assert found["numbers-watch"]["is_overdue"]  # hourly, never ran, and others have for two days


def test_what_was_due_before_anything_ran_is_not_overdue(db: Any) -> None:
    ran(db, "reply-sweep", timedelta(seconds=30))

    assert not [name for name, one in ops(db)["schedules"].items() if one["is_overdue"]]


def test_without_a_single_run_schedules_are_overdue(db: Any, clinic: Business) -> None:
    db.run("update public.users set created_at = now() - interval '10 minutes'")

    assert ops(db)["schedules"]["webhook-retry"]["is_overdue"]


def test_where_business_has_only_begun_nothing_is_overdue(db: Any, clinic: Business) -> None:
    assert not [name for name, one in ops(db)["schedules"].items() if one["is_overdue"]]


def test_a_clock_that_was_moved_makes_nothing_overdue(db: Any) -> None:
    db.run("update local.clock set ahead = interval '6 hours 30 minutes'")
    for name in db.column("select jobname from cron.job"):
        ran(db, name, MINUTE)

    assert not [name for name, one in ops(db)["schedules"].items() if one["is_overdue"]]


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("* * * * *", "2026-11-20 12:34"),
        ("*/15 * * * *", "2026-11-20 12:30"),
        ("7 * * * *", "2026-11-20 12:07"),
        ("41 * * * *", "2026-11-20 11:41"),
        ("10,40 4 * * *", "2026-11-20 04:40"),
        ("17 23 * * *", "2026-11-19 23:17"),
        ("0 */6 * * *", "2026-11-20 12:00"),
        ("5 8-18/5 * * *", "2026-11-20 08:05"),
        ("0 0 1 * *", None),
        ("30 seconds", None),
    ],
)
def test_when_a_schedule_was_last_due(db: Any, schedule: str, due: str | None) -> None:
    found = db.value("select private.cron_last_due(%s, '2026-11-20 12:34:56+00')", schedule)

    assert found == (datetime.fromisoformat(f"{due}+00:00") if due else None)


def test_every_schedule_of_ours_is_one_we_can_tell_of(db: Any) -> None:
    assert not db.column(
        "select jobname from cron.job where private.cron_last_due(schedule, now()) is null and active"
    )


def test_calls_of_functions_that_failed(db: Any) -> None:
    db.run(
        "insert into net._http_response (id, status_code, timed_out, error_msg, created) values"
        " (1, 200, false, null, now()), (2, null, true, 'Timeout was reached', now()),"
        " (3, 503, false, null, now() - interval '2 minutes'),"
        " (4, null, false, 'Could not connect', now() - interval '1 minute'),"
        " (5, 500, false, null, now() - interval '2 hours')"
    )

    assert ops(db)["net"] == {
        "queued": 0, "answered": 1, "timed_out": 1, "failed": 2, "last_failure": "Could not connect",
    }  # fmt: skip


def test_calls_that_nobody_makes(db: Any) -> None:
    db.run("select net.http_post('http://functions.example/reply') from generate_series(1, 3)")

    assert ops(db)["net"]["queued"] == 3


def test_tokens_that_have_ended_or_will(db: Any, clinic: Business, plaza: Business) -> None:
    for who, ends in ((clinic, -DAY), (plaza, 5 * DAY)):
        db.run(
            "insert into public.channel_secrets (tenant_id, number_id, kind, secret_id, expires_at)"
            " values (%s, %s, 'access_token', vault.create_secret('x'), now() + %s)",
            who.tenant_id, who.number_id, ends,
        )  # fmt: skip

    found = ops(db)["tokens"]

    assert (found["expired"], found["expiring"]) == (1, 1)
    assert [one["number_id"] for one in found["numbers"]] == [str(clinic.number_id), str(plaza.number_id)]


def test_a_token_that_lasts_or_belongs_to_a_number_that_rests_is_no_news(db: Any, clinic: Business) -> None:
    db.run(
        "insert into public.channel_secrets (tenant_id, number_id, kind, secret_id, expires_at)"
        " values (%s, %s, 'access_token', vault.create_secret('x'), now() + interval '60 days')",
        clinic.tenant_id, clinic.number_id,
    )  # fmt: skip
    lasting = ops(db)["tokens"]
    db.run("update public.channel_secrets set expires_at = now()")
    db.run("update public.whatsapp_numbers set is_active = false")

    assert lasting == ops(db)["tokens"] == {"expired": 0, "expiring": 0, "numbers": []}


def test_tables_and_what_they_take(db: Any) -> None:
    found = ops(db)["tables"]

    assert len(found) == 20
    assert found["public.messages"]["bytes"] == db.value("select pg_total_relation_size('public.messages')")


def test_loops_that_are_awake_and_loops_that_were_lost(db: Any) -> None:
    db.run(
        "insert into private.worker_leases values ('reply', gen_random_uuid(), now() + interval '1 minute'),"
        " ('deliver', gen_random_uuid(), now() - interval '1 minute'),"
        " ('deliver', gen_random_uuid(), now() - interval '2 days')"
    )

    assert ops(db)["workers"] == {"reply": {"awake": 1, "lost": 0}, "deliver": {"awake": 0, "lost": 1}}


def test_open_alerts_by_kind(db: Any, clinic: Business, plaza: Business) -> None:
    for who, kind, severity in (
        (clinic, "channel_stopped", "critical"),
        (plaza, "channel_stopped", "warning"),
        (clinic, "not_sent", "info"),
    ):
        with db.as_service():
            db.run(
                "select private.alert_raise(%s, %s, 's', 'It is so', p_severity => %s)",
                who.tenant_id, kind, severity,
            )  # fmt: skip
    db.run("update public.alerts set resolved_at = now() where kind = 'not_sent'")

    (kind, found), *others = ops(db)["alerts"].items()
    assert (kind, found["open"], found["critical"], found["tenants"], others) == (
        "channel_stopped",
        2,
        1,
        2,
        [],
    )


def test_it_says_nothing_of_what_customers_wrote_or_who_they_are(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", "Me duele la muela"), echo("w2", "Venga hoy"))

    said = str(ops(db))

    assert not [word for word in ("muela", "Venga", "57311111111", "María") if word in said]


def test_what_is_well_is_two_lines_for_people(db: Any) -> None:
    for name in db.column("select jobname from cron.job"):
        ran(db, name, timedelta(seconds=30))

    assert list(lines(ops(db))) == [
        "The last 15 minutes brought 0 deliveries.",
        "0 messages wait to be sent, 0 chats to be answered.",
    ]


def test_what_somebody_should_look_at_is_said_in_words(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("w1"))
    inbox.deliver(says("w2"), number="of nobody")
    for name in db.column("select jobname from cron.job"):
        ran(db, name, timedelta(seconds=30), "failed" if name == "traces-purge" else "succeeded")
    with db.as_service():
        db.run("select public.job_run_record('reply', now(), '{}', 'It broke')")
        db.run("select private.alert_raise(%s, 'not_sent', 's', 'It is so')", clinic.tenant_id)

    said = list(lines(ops(db)))

    assert "2 deliveries, stored within" in said[0]
    assert said[1:] == [
        "0 messages wait to be sent, 1 chats to be answered.",
        "Deliveries that could not be applied: failed 1.",
        "Schedules that failed: traces-purge.",
        "Runs that failed: reply.",
        "Alerts: not_sent 1.",
    ]


@pytest.mark.usefixtures("clinic")
def test_it_reads_no_table_of_messages_from_end_to_end(db: Any, inbox: Inbox) -> None:
    inbox.deliver(*[says(f"w{n}") for n in range(20)])
    db.run("analyze")
    before = "select relname, seq_scan from pg_stat_xact_user_tables where seq_scan > 0"
    scanned = {row["relname"]: row["seq_scan"] for row in db.rows(before)}
    db.run("set local enable_seqscan = off")  # these tables are too small to be read otherwise

    ops(db)

    again = {row["relname"] for row in db.rows(before) if row["seq_scan"] > scanned.get(row["relname"], 0)}
    assert not again & {"messages", "webhook_logs", "outbox", "job_runs", "alerts"}
