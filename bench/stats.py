"""What statistics cost: counting a touched day with a short and a long history, and noting what was touched.

    python -m bench.stats                                         a quick look, under two minutes
    python -m bench.stats --short 200000 --long 2000000 --pairs 12   the full measurement

The ingest lines compare a database as it is with one without the triggers and the index of the statistics.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import report
from bench.schema import (
    CUSTOMERS,
    DURABLE,
    ROOT,
    Database,
    Done,
    Receiver,
    Scale,
    Work,
    fill,
    paired,
    payload,
)
from local import database as bootstrap
from local import postgres

A_DAY = 500
HISTORY = """
    with n as (select tenant_id, id as number_id from public.whatsapp_numbers),
    l as (
        insert into public.customer_leads (tenant_id, phone)
        select tenant_id, (573500000000 + c)::text from n, generate_series(1, 2000) c
        returning tenant_id, id),
    c as (
        insert into public.chats (tenant_id, lead_id, number_id, last_interaction_at)
        select tenant_id, l.id, number_id, now() from l join n using (tenant_id) returning *),
    numbered as (select c.*, row_number() over () - 1 as n from c)
    insert into public.messages (tenant_id, chat_id, lead_id, number_id, direction, role, source, type,
        content, status, wa_message_id, provider_at)
    select c.tenant_id, c.id, c.lead_id, c.number_id, k.direction, 'user', k.source, 'text', 'Hola',
        k.status, 'wamid.history.' || m, now() - m * interval '1 day' / %(a_day)s
    from generate_series(1, %(messages)s) m
    join numbered c on c.n = m / 2 %% 2000
    cross join lateral (select case m %% 2 when 1 then 'inbound' else 'outbound' end as direction,
        case m %% 2 when 1 then 'customer' else 'agent' end as source,
        case m %% 2 when 1 then 'received' else 'delivered' end as status) k
    order by m desc"""
WITHOUT = (
    "drop index public.messages_tenant_id_provider_at_idx",
    "alter table public.messages disable trigger messages_stats_insert",
    "alter table public.messages disable trigger messages_stats_update",
)


class Reader(Receiver):
    """Delivers the customers' read marks, each for a message that was sent before."""

    def batch(self) -> str:
        serials = [next(self.serial) for _ in range(self.size)]
        self.send(json.dumps([self._told(n, "echo", type="text", text="Hola") for n in serials]))
        return json.dumps([self._told(n, "status", status="read") for n in serials])

    def _told(self, n: int, kind: str, **told: Any) -> dict[str, Any]:
        name = f"{self.prefix}.{n}"
        whole = payload(f"{name}.{kind}", self.number, n * 7919 % self.customers)
        event = {"kind": kind, "id": f"wamid.{name}", "at": datetime.now(UTC).isoformat(), **told}
        return {**whole, "events": [whole["events"][0] | event]}


def history(port: int, name: str, messages: int) -> Database:
    """One business that has had A_DAY messages a day for as long as it takes."""
    database = make(port, name)
    with database.connect() as connection:
        connection.execute("alter table public.messages disable trigger user")
        connection.execute(HISTORY, {"messages": messages, "a_day": A_DAY})
        connection.execute("alter table public.messages enable trigger user")
        connection.execute("vacuum analyze")
        connection.execute("select public.stats_recount(id) from public.users where id = tenant_id")
        for _ in range(messages // A_DAY // 50 + 2):
            connection.execute("select public.stats_refresh(0)")
    return database


def refreshing(database: Database) -> Work:
    """A status of a message of some day of the last month; then the refresh, which alone is timed."""
    connection = database.connect()
    days = itertools.cycle(range(1, 29))

    def work() -> Done:
        connection.execute(
            "update public.messages set error_code = coalesce(error_code, 0) + 1 where wa_message_id = %s",
            [f"wamid.history.{next(days) * A_DAY}"],
        )
        started = time.perf_counter()
        done = connection.execute("select public.stats_refresh()").fetchone()
        taken = time.perf_counter() - started
        assert done == (1,), done
        return 1, taken

    for _ in range(30):
        work()
    return work


def refresh(port: int, short: int, long: int, scale: Scale) -> None:
    a, b = history(port, "bench_long", long), history(port, "bench_short", short)
    slow, fast = refreshing(a), refreshing(b)
    name = f"a touched day, {long:,} messages / {short:,}, time"
    report(name, [1 / r for r in paired(slow, fast, scale)], "<= 1.2")
    print(f"    {sum(slow()[1] for _ in range(5)) * 200:.1f} ms")


def ingest(port: int, scale: Scale) -> None:
    counted, plain = make(port, "bench_counted"), make(port, "bench_plain")
    with plain.connect() as connection:
        for statement in WITHOUT:
            connection.execute(statement)
    for size in (1, 100):
        pair = Receiver(counted, size).warm(), Receiver(plain, size).warm()
        report(
            f"new messages, noted / not, rows/s, {size} a call",
            paired(pair[0].new, pair[1].new, scale),
            ">= 0.9",
        )
        readers = Reader(counted, size).warm(), Reader(plain, size).warm()
        ratios = paired(readers[0].new, readers[1].new, scale)
        report(f"read marks, noted / not, rows/s, {size} a call", ratios, ">= 0.9")


def make(port: int, name: str) -> Database:
    dsn = postgres.dsn(port, name)
    with Database(postgres.dsn(port, user=postgres.SUPERUSER)).connect() as connection:
        connection.execute(f'create database "{name}" owner postgres')
    bootstrap.bootstrap(port, name)
    bootstrap.apply(port, name, sorted((ROOT / "sql").glob("*.sql")))
    bootstrap.finish(port, name)
    fill(dsn, Scale(0, 1, 0, 0, 0))
    return Database(dsn)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", type=int, default=20_000, help="messages of the short history")
    parser.add_argument("--long", type=int, default=200_000, help="messages of the long history")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--slice", type=float, default=0.3, help="seconds")
    given = parser.parse_args()
    scale = Scale(0, 1, CUSTOMERS, given.pairs, given.slice)
    server = postgres.installation()
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            print(f"Postgres {server.major}, {A_DAY} messages a day")
            ingest(port, scale)
            refresh(port, given.short, given.long, scale)


if __name__ == "__main__":
    main()
