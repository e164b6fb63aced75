"""Who is woken when, and what runs by the clock."""

from __future__ import annotations

import json
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import Db

URL = "http://functions.example/{function}"
LOOP = uuid.uuid4()


@pytest.fixture
def wired(db: Db) -> Db:
    """A database that knows where its functions are."""
    db.value("select vault.create_secret(%s, 'functions_url')", URL)
    db.value("select vault.create_secret('a secret', 'functions_secret')")
    return db


def called(db: Db) -> list[str]:
    return db.column("select url from net.http_request_queue order by id")


def wake(db: Db, worker: str = "reply") -> None:
    with db.as_service():
        db.value("select private.wake(%s)", worker)


def beat(db: Db, seconds: int = 5) -> None:
    with db.as_service():
        db.value("select public.worker_beat('reply', %s, %s)", LOOP, seconds)


def leave(db: Db) -> None:
    with db.as_service():
        db.value("select public.worker_leave('reply', %s)", LOOP)


def customer_waits(db: Db) -> None:
    """A burst that is over: what webhook_receive leaves behind, shortened to what the wake-up looks at."""
    db.sign_up("owner@example.com", business_name="Acme")
    tenant = db.value("select tenant_id from public.users where email = 'owner@example.com'")
    db.run("select public.plan_set(%s, 'pro')", tenant)
    number = db.value(
        "insert into public.whatsapp_numbers"
        " (tenant_id, provider, phone_number, provider_number_id, display_name)"
        " values (%s, 'cloud_api', '573001112233', '100', 'Acme') returning id",
        tenant,
    )
    lead = db.value("insert into public.customer_leads (tenant_id) values (%s) returning id", tenant)
    chat = db.value(
        "insert into public.chats (tenant_id, lead_id, number_id, last_interaction_at)"
        " values (%s, %s, %s, now()) returning id",
        tenant,
        lead,
        number,
    )
    db.run(
        "insert into public.pending_replies"
        " (tenant_id, chat_id, number_id, first_at, last_at, fragments, due_at, due_by)"
        " values (%s, %s, %s, now(), now(), 1, now(), now())",
        tenant,
        chat,
        number,
    )


def test_new_work_calls_the_worker_once(wired: Db) -> None:
    for _ in range(3):
        wake(wired)

    assert called(wired) == ["http://functions.example/reply"]


def test_the_call_is_signed(wired: Db) -> None:
    wake(wired)

    headers = wired.value("select headers from net.http_request_queue")
    assert set(headers) == {"Content-Type", "X-Recado-Timestamp", "X-Recado-Signature"}


def test_each_worker_is_called_for_itself(wired: Db) -> None:
    wake(wired, "reply")
    wake(wired, "deliver")

    assert called(wired) == ["http://functions.example/reply", "http://functions.example/deliver"]


def test_nobody_is_called_while_a_loop_is_awake(wired: Db) -> None:
    beat(wired)

    wake(wired)

    assert called(wired) == []


def test_a_loop_that_died_is_believed_only_as_long_as_its_lease(wired: Db) -> None:
    beat(wired, seconds=0)

    wake(wired)

    assert len(called(wired)) == 1


def test_a_loop_that_leaves_work_behind_calls_the_next(wired: Db) -> None:
    customer_waits(wired)
    beat(wired)

    leave(wired)

    assert called(wired) == ["http://functions.example/reply"]
    assert wired.rows("select * from private.worker_leases") == []


def test_a_loop_that_leaves_nothing_behind_calls_nobody(wired: Db) -> None:
    beat(wired)

    leave(wired)

    assert called(wired) == []


def test_without_functions_there_is_nobody_to_wake(db: Db) -> None:
    wake(db)

    assert called(db) == []


def test_only_one_of_those_who_make_work_at_once_calls(database: str) -> None:
    with (
        psycopg.connect(database, row_factory=dict_row) as one,
        psycopg.connect(database, row_factory=dict_row) as other,
    ):
        one.execute("select vault.create_secret(%s, 'functions_url')", [URL])
        one.execute("select vault.create_secret('a secret', 'functions_secret')")
        one.commit()

        for connection in (one, other):
            connection.execute("select private.wake('reply')")
        for connection in (one, other):
            connection.commit()

        assert len(called(Db(one))) == 1


@pytest.mark.parametrize("worker", ["reply", "deliver"])
def test_people_cannot_wake_directly(db: Db, worker: str) -> None:
    with db.signed_in(uuid.uuid4()), pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.value("select private.wake(%s)", worker)


def schedules(db: Db) -> dict[str, dict[str, Any]]:
    return {row["jobname"]: row for row in db.rows("select * from cron.job")}


def test_everything_that_may_lie_waiting_is_swept(db: Db) -> None:
    assert {name: job["schedule"] for name, job in schedules(db).items()} == {
        "activity-flush": "* * * * *",
        "webhook-retry": "* * * * *",
        "webhook-purge": "41 * * * *",
        "numbers-watch": "7 * * * *",
        "stats-refresh": "11 * * * *",
        "number-health": "16 * * * *",
        "outbox-sweep": "* * * * *",
        "reply-sweep": "* * * * *",
        "deliver-sweep": "* * * * *",
        "crm-analysis": "*/15 * * * *",
        "daily-actions": "* * * * *",
        "process-sequences": "* * * * *",
        "conversations-close-idle": "*/5 * * * *",
        "refresh-tokens": "10,40 4 * * *",
        "backfill": "*/10 * * * *",
        "detect-blocks": "23 */6 * * *",
        "sync-templates": "41 4 * * *",
        "sequences-resume": "* * * * *",
        "configuration-backup": "23 * * * *",
        "restore-points-purge": "39 3 * * *",
        "audit-purge": "37 3 * * *",
        "traces-purge": "17 3 * * *",
    }


def test_every_schedule_runs(wired: Db) -> None:
    customer_waits(wired)
    wired.run("update tenant_settings set daily_actions_at = '24:00'")  # not by whatever the clock says

    for job in schedules(wired).values():
        wired.run(job["command"])

    assert called(wired) == ["http://functions.example/reply", "http://functions.example/detect-blocks"]


def test_scheduling_again_replaces(db: Db) -> None:
    before = len(schedules(db))

    db.run("select cron.schedule('activity-flush', '*/2 * * * *', 'select 1')")

    assert len(schedules(db)) == before
    assert schedules(db)["activity-flush"]["schedule"] == "*/2 * * * *"


def test_tokens_are_for_the_service_and_only_of_the_numbers_asked_for(db: Db) -> None:
    customer_waits(db)
    number = db.row("select tenant_id, id from public.whatsapp_numbers")
    secret = db.value("select vault.create_secret('the token')")
    db.run(
        "insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)"
        " values (%s, %s, 'access_token', %s)",
        number["tenant_id"],
        number["id"],
        secret,
    )
    asked = {"tenant_id": str(number["tenant_id"]), "number_id": str(number["id"])}
    stranger = {"tenant_id": str(uuid.uuid4()), "number_id": str(number["id"])}

    with db.as_service():
        found = db.value("select public.channel_tokens(%s::jsonb)", json.dumps([asked, stranger]))

    assert found == [{**asked, "token": "the token"}]
    with db.signed_in(uuid.uuid4()), pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.value("select public.channel_tokens('[]')")
