"""What keeping the CRM costs: writing activity, finding idle chats, reading them; ratios next to the goals.

    python -m bench.crm                    a quick look, about a minute
    python -m bench.crm --chats 1000000    the full measurement

The last line runs the crm_analysis worker over 1,000 chats against a model that takes 300 ms for each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from bench.figures import report
from bench.schema import DURABLE, ROOT, Database, Done, Receiver, Scale, fill, paired
from local import database as bootstrap
from local import postgres
from shared.crm import Analyses
from shared.llm import Answer, Question, Usage

MODEL_SECONDS = 0.3
AT_ONCE = 20
ANSWER = json.dumps(
    {
        "profile_status": "Lead", "next_action": None, "next_action_at": None, "priority": 2,
        "summary": "Saluda.", "sentiment": "neutral", "satisfaction": None, "language": "es",
        "evidence": ["m1"], "confidence": 0.5,
    }
)  # fmt: skip
ONE_ROW = """
    with gone as (
        delete from public.pending_activity
        where tenant_id = %(tenant_id)s and lead_id = %(lead_id)s
        returning *)
    update public.customer_leads l
    set last_activity = greatest(l.last_activity, g.last_activity_at),
        thread_token_count = l.thread_token_count + g.token_count
    from gone g where l.tenant_id = g.tenant_id and l.id = g.lead_id"""


def crowd(database: Database, chats: int) -> None:
    """Chats of 100 businesses, of which some 20,000 have messages."""
    fill(database.dsn, Scale(min(chats, 20_000) * 20, 100, 0, 0, 0))
    with database.connect() as connection:
        connection.execute(
            "with more as ("
            "    insert into public.customer_leads (tenant_id, phone)"
            "    select n.tenant_id, (573400000000 + c)::text"
            "    from public.whatsapp_numbers n, generate_series(1, %s) c"
            "    where n.provider_number_id like '9%%' returning tenant_id, id)"
            " insert into public.chats (tenant_id, lead_id, number_id, last_inbound_at, last_interaction_at)"
            " select m.tenant_id, m.id, n.id, now() - interval '3 days', now() - interval '3 days'"
            " from more m join public.whatsapp_numbers n using (tenant_id)",
            [max(0, chats - 20_000) // 100],
        )
        connection.execute("vacuum analyze")


def quiet(connection: psycopg.Connection[Any], rows: int) -> list[dict[str, Any]]:
    """So many leads whose quiet period is over."""
    connection.execute("truncate public.pending_activity")
    cursor = connection.execute(
        "insert into public.pending_activity (tenant_id, lead_id, last_activity_at, token_count)"
        " select tenant_id, id, now() - interval '1 hour', 10 from public.customer_leads limit %s"
        " returning tenant_id, lead_id",
        [rows],
    )
    return [{"tenant_id": tenant, "lead_id": lead} for tenant, lead in cursor]


def flush(database: Database, scale: Scale, rows: int) -> None:
    connection = database.connect()

    def as_a_set() -> Done:
        quiet(connection, rows)
        started = time.perf_counter()
        connection.execute("select public.activity_flush(p_limit => %s)", [rows])
        return rows, time.perf_counter() - started

    def row_by_row() -> Done:
        some = quiet(connection, rows)[: rows // 20]
        started = time.perf_counter()
        for one in some:
            connection.execute(ONE_ROW, one)
        return len(some), time.perf_counter() - started

    ratios = paired(as_a_set, row_by_row, scale)
    report(f"flush of {rows:,} leads as a set / row by row, rows/s", ratios, ">= 100")


def hot(database: Database) -> None:
    """Bursts of messages of the same customers: each updates their pending row."""
    receiver = Receiver(database, 100, customers=500).warm()
    with database.connect() as connection:
        connection.execute("vacuum analyze public.pending_activity")
        before = updates(connection)
        for _ in range(100):
            receiver.new()
        receiver.connection.close()  # which tells its statistics
        made, kept = (after - was for after, was in zip(updates(connection), before, strict=True))
    name = "HOT share of updates of pending_activity"
    report(name, [kept / made], ">= 0.95", f"{made:,} updates", is_counted=True)


def updates(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    time.sleep(1)
    row = connection.execute(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables"
        " where relid = 'public.pending_activity'::regclass"
    ).fetchone()
    assert row
    return row


def due(database: Database, scale: Scale) -> None:
    """One chat in a hundred has news and is idle; the others were read."""
    connection = database.connect()
    connection.execute(
        "update public.chats set news_since = now() - interval '3 hours',"
        " last_interaction_at = now() - interval '2 hours'"
        " where id in (select chat_id from public.conversations order by chat_id"
        " limit (select count(*) / 100 from public.chats))"
    )
    connection.execute("vacuum analyze public.chats")

    def timed(statement: str) -> Done:
        started = time.perf_counter()
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
        return 1, time.perf_counter() - started

    def find() -> Done:
        return timed("select cardinality(private.analyses_due(100))")

    def read_all() -> Done:
        return timed(
            "select count(*) from public.chats where last_interaction_at < now() and lead_id is not null"
        )

    ratios = [1 / ratio for ratio in paired(find, read_all, scale)]
    report("finding idle chats with news / reading all chats, time", ratios, "<= 0.02", needs_scale=True)


class Worker:
    """The worker's database and model: RPCs over a connection, and a model that thinks for a while."""

    def __init__(self, database: Database) -> None:
        self._connection = database.connect("service_role")

    async def analysis_claim(self, *, limit: int, lease_seconds: int) -> Any:
        row = self._connection.execute(
            "select public.analysis_claim(%s, %s)", [limit, lease_seconds]
        ).fetchone()
        assert row
        return row[0]

    async def analysis_settle(
        self, *, tenant_id: str, chat_id: str, claim: str, result: Any, usage: Any
    ) -> str:
        row = self._connection.execute(
            "select public.analysis_settle(%s, %s, %s, %s, %s)",
            [tenant_id, chat_id, claim, json.dumps(result), json.dumps(usage)],
        ).fetchone()
        assert row
        return str(row[0])

    async def reply(self, question: Question) -> Answer:
        await asyncio.sleep(MODEL_SECONDS)
        return Answer(ANSWER, Usage(800, 0, 80, 0), None, 300)

    async def warm(self) -> None: ...


async def analyse(worker: Analyses, wanted: int) -> int:
    done, running = 0, set[asyncio.Task[Any]]()
    while done < wanted:
        if worker.room > 0:
            claimed = await worker.claim()
            running |= {asyncio.ensure_future(task()) for task in claimed.tasks}
            if not running:
                return done
        finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        done += len(finished)
    return done


def reading(database: Database, chats: int) -> None:
    fake = Worker(database)
    worker = Analyses(fake, fake, at_once=AT_ONCE, patience=25)  # type: ignore[arg-type]
    started = time.perf_counter()
    done = asyncio.run(analyse(worker, chats))
    took, ideal = time.perf_counter() - started, chats / AT_ONCE * MODEL_SECONDS
    assert done >= chats, f"only {done} chats were there to read"
    name = f"{chats:,} chats read, {AT_ONCE} at once / ideal, time"
    report(name, [took / ideal], "<= 1.5", f"{took:.1f} s", needs_scale=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chats", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=4)
    given = parser.parse_args()
    scale = Scale(given.chats, 100, 0, given.pairs, 0.3)
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        server = postgres.installation()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            with psycopg.connect(postgres.dsn(port, user=postgres.SUPERUSER), autocommit=True) as owner:
                owner.execute('create database "bench_crm" owner postgres')
            bootstrap.bootstrap(port, "bench_crm")
            bootstrap.apply(port, "bench_crm", sorted((ROOT / "sql").glob("*.sql")))
            bootstrap.finish(port, "bench_crm")
            database = Database(postgres.dsn(port, "bench_crm"))
            crowd(database, given.chats)
            print(f"Postgres {server.major}, {given.chats:,} chats of 100 businesses")
            flush(database, scale, min(20_000, given.chats))
            hot(database)
            due(database, scale)
            reading(database, min(1000, given.chats // 100))


if __name__ == "__main__":
    main()
