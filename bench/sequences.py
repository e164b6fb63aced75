"""What running sequences costs, as ratios measured in one run, next to their goals.

    python -m bench.sequences                                            a quick look, about two minutes
    python -m bench.sequences --enrollments 100000 --idle 1000000        the full measurement

One real server, with the function's own batches over one connection. Beside them a plain insert … select of
the same rows, and, on a platform of its own, the loop that most products run: some HTTP calls per contact.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from bench.figures import report
from bench.schema import DURABLE, ROOT
from local import database as bootstrap
from local import postgres
from shared import signature
from shared.sequences import BATCH
from tests.e2e.platforms import Platform, temporary_platform

TENANTS = 20
STEP = '{"after": {"days": 1}, "text": "Hola {{first_name|amigo}}, ¿pudo ver lo que le enviamos?"}'
FILL = """
    insert into auth.users (id, aud, role, email, email_confirmed_at)
    select gen_random_uuid(), 'authenticated', 'authenticated', 'bench' || n || '@example.com', now()
    from generate_series(1, {tenants}) n;
    select public.plan_set(id, 'enterprise') from public.users where email like 'bench%';
    insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id, waba_id,
        display_name)
    select u.id, 'cloud_api', '1202' || (5550000 + row_number() over ()),
        '9' || row_number() over (), 'waba', 'Bench'
    from public.users u where u.email like 'bench%';
    with l as (
        insert into public.customer_leads (tenant_id, phone, name)
        select n.tenant_id, (573000000000 + c)::text, 'Ana Ruiz'
        from public.whatsapp_numbers n, generate_series(1, {each}) c
        where n.provider_number_id like '9%'
        returning tenant_id, id)
    insert into public.chats (tenant_id, lead_id, number_id, last_interaction_at, window_expires_at)
    select l.tenant_id, l.id, n.id, now(), now() + interval '20 hours'
    from l join public.whatsapp_numbers n using (tenant_id);
    select private.sequence_save(n.tenant_id, null, '{{"name": "Bench", "steps": [{step}, {step}]}}', null)
    from public.whatsapp_numbers n where n.provider_number_id like '9%';
    update public.sequences set is_active = true;
    insert into public.number_pacing (tenant_id, number_id) select tenant_id, id from public.whatsapp_numbers;
"""
ENROLL = """
    select count(*) from public.sequences s, lateral private.enrollments_add(array(
        select (c.tenant_id, s.id, c.lead_id, c.id, 'staff', null, false)::private.enrollment_ask
        from public.chats c where c.tenant_id = s.tenant_id))
"""
WRITTEN = ("messages", "outbox", "sequence_history")  # the rows of a run, which are then written as they are
COLUMNS = """
    select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
    where attrelid = ('public.' || %s)::regclass and attnum > 0 and not attisdropped
        and attgenerated = '' and attidentity = ''
"""
FORGET = (
    "truncate public.outbox, public.sequence_history, public.sequence_enrollments, public.messages cascade"
)


def ask(connection: psycopg.Connection[Any], statement: str, *values: Any) -> Any:
    row = connection.execute(statement, values or None).fetchone()
    return row[0] if row else None


def fill(connection: psycopg.Connection[Any], contacts: int) -> None:
    connection.execute(FILL.format(tenants=TENANTS, each=contacts // TENANTS, step=STEP))
    connection.execute("vacuum analyze")


def batches(connection: psycopg.Connection[Any]) -> list[tuple[int, float]]:
    """How many each batch of a run took on, and the seconds it took."""
    done: list[tuple[int, float]] = []
    while True:
        began = time.perf_counter()
        answer = ask(connection, "select public.sequences_process(%s)", BATCH)
        if not answer["claimed"]:
            return done
        done.append((answer["claimed"], time.perf_counter() - began))


def keep(connection: psycopg.Connection[Any]) -> str:
    """Keep what a run has written; the statements that write it again."""
    plain = []
    for table in WRITTEN:
        columns = ask(connection, COLUMNS, table)
        connection.execute(f"create table public.kept_{table} as select {columns} from public.{table}")
        plain.append(f"insert into public.{table} ({columns}) select * from public.kept_{table}")
    connection.execute(
        "create table public.kept_enrollments as select * from public.sequence_enrollments;"
        " update public.kept_enrollments set last_message_id = null"
    )
    return ";".join(plain)


def timed(connection: psycopg.Connection[Any], statement: str) -> float:
    began = time.perf_counter()
    connection.execute(statement)
    return time.perf_counter() - began


def throughput(connection: psycopg.Connection[Any], contacts: int, runs: int) -> None:
    """Batches until nothing is due, and the rows they wrote written again."""
    ratios, growths, speeds, plain_rows = [], [], [], ""
    for run in range(runs):
        enrolled = timed(connection, ENROLL)
        connection.execute("update public.sequence_enrollments set next_run_at = now()")
        connection.execute("analyze public.sequence_enrollments")
        done = batches(connection)
        assert sum(n for n, _ in done) == contacts
        assert ask(connection, "select count(*) from public.outbox") == contacts
        if run == 0:
            plain_rows = keep(connection)
            print(f"{contacts:,} customers enrolled in {enrolled:.1f} s", flush=True)
        connection.execute(FORGET)
        connection.execute("insert into public.sequence_enrollments select * from public.kept_enrollments")
        connection.execute("analyze")
        plain = timed(connection, plain_rows)
        connection.execute(FORGET)
        took = sum(seconds for _, seconds in done)
        edge = max(5, len(done) // 10)
        per_row = [seconds / n for n, seconds in done if n > BATCH / 2]
        ratios.append(plain / took)
        growths.append(statistics.median(per_row[-edge:]) / statistics.median(per_row[:edge]))
        speeds.append(contacts / took)
    speed = f"{statistics.median(speeds):,.0f} rows/s"
    report("claim, decide, enqueue / plain insert … select, rows/s", ratios, ">= 0.25", speed)
    report("last batches / first batches, time", growths, "<= 1.3")


def idle(connection: psycopg.Connection[Any], enrollments: int) -> None:
    """Enrollments of which none is due: the look of every minute, beside one at all of them."""
    connection.execute(
        "insert into public.sequence_enrollments (tenant_id, sequence_id, version, chat_id, next_run_at,"
        " source, enrolled_at, changed_at, status, reason)"
        " select c.tenant_id, s.id, 1, c.id, now() + interval '1 day' * (1 + random()), 'staff', now(),"
        " now(),"
        " case when n = 1 then 'active' else 'stopped' end, case when n > 1 then 'staff' end"
        " from public.chats c join public.sequences s using (tenant_id), generate_series(1, %s) n",
        [max(1, enrollments // ask(connection, "select count(*) from public.chats"))],
    )
    connection.execute("vacuum analyze public.sequence_enrollments")
    count = ask(connection, "select count(*) from public.sequence_enrollments")
    # in the server, as the schedule asks
    look = "select count(private.worker_has_work('process-sequences')) from generate_series(1, 1000)"
    timed(connection, look)
    quick = statistics.median(timed(connection, look) for _ in range(5)) / 1000
    full = statistics.median(
        timed(connection, "select count(*) from public.sequence_enrollments where next_run_at <= now()")
        for _ in range(5)
    )
    name = f"nothing due among {count:,} / a look at all of them, time"
    report(name, [quick / full], "<= 0.001", f"{quick * 1e6:.0f} us", needs_scale=True)
    before = ask(connection, "select count(*) from net.http_request_queue")
    connection.execute(
        "select private.wake('process-sequences') where private.worker_has_work('process-sequences')"
    )
    calls = ask(connection, "select count(*) from net.http_request_queue") - before
    report("calls of the function when nothing is due", [calls], "= 0", is_counted=True)


def measure(contacts: int, idle_ones: int, runs: int) -> None:
    server = postgres.installation()
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            bootstrap.apply(port, "postgres", sorted((ROOT / "sql").glob("*.sql")))
            bootstrap.finish(port)
            with psycopg.connect(postgres.dsn(port), autocommit=True) as connection:
                fill(connection, contacts)
                throughput(connection, contacts, runs)
                idle(connection, idle_ones)


class Front:
    """A platform from outside: its Data API with the secret key, and the function."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        env = platform.env
        key = env["SUPABASE_SERVICE_ROLE_KEY"]
        self.http = httpx.Client(
            base_url=f"{env['SUPABASE_URL']}/rest/v1/",
            headers={"apikey": key, "authorization": f"Bearer {key}", "prefer": "return=representation"},
            trust_env=False,
        )
        self.function = env["FUNCTIONS_URL"] + "/process-sequences"
        self.secret = env["FUNCTIONS_SECRET"]

    def call(self, limit: int) -> Any:
        headers = signature.sign(self.secret, b"{}", at=int(time.time()))
        answer = httpx.post(
            f"{self.function}?limit={limit}", content=b"{}", headers=headers, timeout=600, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(self, method: str, path: str, **body: Any) -> Any:
        answer = self.http.request(method, path, json=body or None)
        assert answer.is_success, answer.text
        return answer.json()

    def memory(self) -> int:
        """Bytes of the function's process."""
        return int(psutil.Process(self.platform.pid("process_sequences")).memory_info().rss)

    def one_by_one(self, contacts: int) -> float:
        """The loop per contact: its step, customer and window are read; message, errand, history, next."""
        due = self.ask("GET", f"sequence_enrollments?status=eq.active&order=next_run_at&limit={contacts}")
        began = time.perf_counter()
        for enrollment in due:
            key = f"tenant_id=eq.{enrollment['tenant_id']}"
            step = self.ask("GET", f"sequence_steps?{key}&version=eq.1&order_position=eq.1")[0]
            chat = self.ask("GET", f"chats?{key}&id=eq.{enrollment['chat_id']}")[0]
            self.ask("GET", f"customer_leads?{key}&id=eq.{chat['lead_id']}")
            same = {"tenant_id": chat["tenant_id"], "chat_id": chat["id"], "number_id": chat["number_id"]}
            now = enrollment["next_run_at"]
            message = self.ask(
                "POST", "messages", **same, lead_id=chat["lead_id"], direction="outbound", role="assistant",
                source="sequence", type="text", content=step["text"], status="queued", provider_at=now,
            )[0]  # fmt: skip
            self.ask(
                "POST", "outbox", **same, message_id=message["id"], purpose="sequence", priority=2,
                due_at="2999-01-01T00:00:00Z",
            )  # fmt: skip
            self.ask(
                "POST", "sequence_history", tenant_id=chat["tenant_id"], enrollment_id=enrollment["id"],
                step_key=step["key"], sequence_id=step["sequence_id"], version=1, position=1, outcome="sent",
                message_id=message["id"], planned_at=now, at=now,
            )  # fmt: skip
            self.ask(
                "PATCH", f"sequence_enrollments?{key}&id=eq.{enrollment['id']}", position=2,
                next_run_at="2999-01-01T00:00:00Z",
            )  # fmt: skip
        return len(due) / (time.perf_counter() - began)


def outside(contacts: int, sample: int) -> None:
    """The function on a platform, beside the loop per contact over HTTP; what it keeps in memory."""
    with temporary_platform() as platform:
        assert platform.up().returncode == 0
        with psycopg.connect(platform.env["DATABASE_URL"], autocommit=True) as connection:
            # nothing but what is measured shall run
            connection.execute(
                "select vault.update_secret(id, null, 'off') from vault.decrypted_secrets"
                " where name = 'functions_url'"
            )
            fill(connection, contacts)
            connection.execute(ENROLL)
            connection.execute("update public.sequence_enrollments set next_run_at = now()")
            connection.execute("vacuum analyze")
            front = Front(platform)
            by_hand = front.one_by_one(sample)
            front.call(BATCH)
            before = front.memory()
            began = time.perf_counter()
            claimed = front.call(contacts)["claimed"]
            speed = claimed / (time.perf_counter() - began)
            grown = front.memory() - before
    name, rates = (
        "the function / a loop per contact over HTTP, contacts/s",
        f"{speed:,.0f} and {by_hand:,.1f}/s",
    )
    report(name, [speed / by_hand], ">= 100", rates, needs_scale=True)
    kept = f"{before / 2**20:.0f} MB, +{grown / 2**20:.1f}"
    report("memory of the function after / before", [1 + grown / before], "<= 1.1", kept, is_counted=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--enrollments", type=int, default=20_000, help="all due")
    parser.add_argument("--idle", type=int, default=200_000, help="none due")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sample", type=int, default=50, help="contacts of the loop over HTTP")
    given = parser.parse_args()
    measure(given.enrollments, given.idle, given.runs)
    outside(given.enrollments, given.sample)


if __name__ == "__main__":
    main()
