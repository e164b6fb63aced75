"""activity: a quiet period is one write of the lead, ten minutes after its last message."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.sql.given import CARLOS, MARIA, NOW, Inbox, open_business, says

MINUTE = timedelta(minutes=1)


def flush(db: Any, everything: bool = False) -> int:
    with db.as_service():
        return int(db.value("select public.activity_flush(%s)", everything))


def test_a_burst_is_written_once_with_the_time_of_its_last_message(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", at=NOW - 14 * MINUTE), says("2", at=NOW - 12 * MINUTE))
    inbox.deliver(says("3", at=NOW - 11 * MINUTE))

    assert [flush(db), flush(db)] == [1, 0]
    assert db.value("select last_activity from public.customer_leads") == NOW - 11 * MINUTE


def test_nothing_is_written_before_it_has_been_quiet_long_enough(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", at=datetime.now(UTC) - 9 * MINUTE))  # NOW may be minutes old by now

    assert flush(db) == 0
    db.run("update public.tenant_settings set activity_delay_seconds = 60")
    assert flush(db) == 1


def test_everything_can_be_written_at_once(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"), says("2", contact=CARLOS))

    assert flush(db, everything=True) == 2


def test_tokens_are_summed_and_do_not_prolong_the_quiet_period(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", at=NOW - 11 * MINUTE))
    for tokens in (150, 200):
        db.run("select private.activity_tokens(tenant_id, id, null, %s) from public.customer_leads", tokens)
    assert flush(db) == 1
    inbox.deliver(says("2", at=NOW - 11 * MINUTE))
    db.run("select private.activity_tokens(tenant_id, id, null, 50) from public.customer_leads")
    assert flush(db) == 1

    assert db.value("select thread_token_count from public.customer_leads") == 400


def test_many_flushes_at_once_write_each_lead_once(connect: Any) -> None:
    open_business(connect(), "clinic", "100000000000001")
    inbox = Inbox(connect())
    inbox.receive(
        *(
            inbox.payload(says(f"w{n}", contact=MARIA | {"phone": f"5731{n:08d}", "bsuid": f"CO.{n}"}))
            for n in range(200)
        )
    )
    inbox.connection.execute("update public.pending_activity set token_count = 7")
    written: list[int] = []

    def flush_once() -> None:
        row = connect().execute("select public.activity_flush(true, 40) as n").fetchone()
        written.append(row["n"])

    threads = [threading.Thread(target=flush_once) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (row := inbox.connection.execute("select public.activity_flush(true) as n").fetchone()) and row[
        "n"
    ]:
        written.append(row["n"])

    assert sum(written) == 200
    tokens = inbox.connection.execute(
        "select sum(thread_token_count) as n from public.customer_leads"
    ).fetchone()
    assert tokens == {"n": 1400}
