"""What finding blocks costs, next to reading all messages once; ratios with the goals.

    python -m bench.blocks                       a quick look, under a minute
    python -m bench.blocks --messages 2000000    the full measurement

Candidates are chats with three messages that were never delivered, spread over three weeks and all
businesses. Each run of the detection finds them anew: what it writes is rolled back, and counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psycopg

from bench.figures import report
from bench.schema import DURABLE, ROOT, Database, Done, Scale, fill, paired
from local import database as bootstrap
from local import postgres

# the run of each chat as the rule says it, of all messages at once
FULL_SCAN = """
    select count(*) from (
        select m.chat_id
        from public.messages m
        where m.direction = 'outbound' and m.status = 'sent' and m.provider_at < now() - interval '72 hours'
        group by m.tenant_id, m.chat_id
        having count(*) >= 2
    ) as suspected"""
CANDIDATES = """
    insert into public.messages (tenant_id, chat_id, conversation_id, lead_id, number_id, direction, role,
        source, type, content, wa_message_id, status, sent_at, provider_at)
    select c.tenant_id, c.id, v.id, c.lead_id, c.number_id, 'outbound', 'assistant', 'sequence', 'text',
        'Hola', 'wamid.candidate.' || c.id || '.' || n, 'sent', at.sent, at.sent
    from (select *, now() - interval '4 days' - random() * interval '20 days' as last from public.chats
        where tenant_id <> md5('t0')::uuid order by md5(id::text) limit %s) as c
    join public.conversations v on v.tenant_id = c.tenant_id and v.chat_id = c.id
    cross join generate_series(0, 2) as n
    cross join lateral (select c.last - n * interval '1 day' as sent) as at"""
HEARD = """
    with silent as (select distinct tenant_id, chat_id from public.messages where awaits_delivery),
    earlier as (
        update public.messages m set provider_at = m.provider_at - interval '90 days'
        from silent s
        where m.tenant_id = s.tenant_id and m.chat_id = s.chat_id and not m.awaits_delivery)
    update public.chats c set last_inbound_at = c.last_inbound_at - interval '90 days'
    from silent s
    where c.tenant_id = s.tenant_id and c.id = s.chat_id"""


def stage(database: Database, candidates: int) -> None:
    with database.connect() as connection:
        connection.execute(CANDIDATES.replace("%s", str(candidates)))
        connection.execute(HEARD)
        connection.execute("vacuum analyze public.messages")
        connection.execute("vacuum analyze public.chats")


def detection(database: Database, scale: Scale, candidates: int) -> None:
    connection = database.connect()

    def timed(statement: str) -> Done:
        started = time.perf_counter()
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
        return 1, time.perf_counter() - started

    def detect() -> Done:
        return timed("select public.blocks_detect()")

    def look() -> Done:
        return timed("select private.outages_spare(private.blocks_evidence(private.blocks_suspected()))")

    def read_all() -> Done:
        return timed(FULL_SCAN)

    with connection.transaction(force_rollback=True):
        row = connection.execute("select public.blocks_detect()").fetchone()
    assert row
    assert len(row[0]["marked"]) == candidates, f"{len(row[0]['marked'])} of {candidates} were found"
    ratios = [1 / ratio for ratio in paired(look, read_all, scale)]
    report(f"finding {candidates:,} blocks / reading all messages, time", ratios, "<= 0.02")
    ratios = [1 / ratio for ratio in paired(detect, read_all, scale)]
    report(f"finding and marking {candidates:,} blocks / the same", ratios, "")
    with database.connect() as marked:
        marked.execute("select public.blocks_detect()")
        marked.execute("analyze public.delivery_issues")
    ratios = [1 / ratio for ratio in paired(detect, read_all, scale)]
    report(f"a run with {candidates:,} candidates, all marked / the same", ratios, "<= 0.02")
    print(f"{'reading all messages':58} {read_all()[1] * 1000:8.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--candidates", type=int, help="chats; else one for 2,000 messages")
    parser.add_argument("--pairs", type=int, default=6)
    given = parser.parse_args()
    candidates = given.candidates or given.messages // 2000
    scale = Scale(given.messages, 100, 0, given.pairs, 0.3)
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        server = postgres.installation()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            with psycopg.connect(postgres.dsn(port, user=postgres.SUPERUSER), autocommit=True) as owner:
                owner.execute('create database "bench_blocks" owner postgres')
            bootstrap.bootstrap(port, "bench_blocks")
            bootstrap.apply(port, "bench_blocks", sorted((ROOT / "sql").glob("*.sql")))
            bootstrap.finish(port, "bench_blocks")
            database = Database(postgres.dsn(port, "bench_blocks"))
            fill(database.dsn, scale)
            stage(database, candidates)
            print(f"Postgres {server.major}, {given.messages:,} messages of 100 businesses")
            detection(database, scale, candidates)


if __name__ == "__main__":
    main()
