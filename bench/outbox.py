"""What claiming and settling sends costs, as ratios measured in one run, next to their goals.

    python -m bench.outbox                    a quick look, about a minute
    python -m bench.outbox --queue 400000     the full measurement

One real server: the three calls of a worker (claim, intent, settle) for a hundred messages and for one,
and the claim alone with a short and a long queue.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from bench.figures import report
from bench.schema import DURABLE, ROOT, Done, Scale, paired
from local import database as bootstrap
from local import postgres

NUMBERS, CUSTOMERS = 20, 2_000  # of the whole database, and of each number
SETUP = """
    insert into auth.users (id, aud, role, email, email_confirmed_at)
    values (gen_random_uuid(), 'authenticated', 'authenticated', 'bench@example.com', now());
    select public.plan_set(id, 'enterprise') from public.users where email = 'bench@example.com';
    update public.users set max_whatsapp_numbers = 100 where email = 'bench@example.com';
    insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id, waba_id,
        display_name, rate_per_second)
    select u.id, 'cloud_api', '1202555' || (1000 + n), '10000000' || n, 'waba', 'Bench', 1000
    from public.users u, generate_series(1, {numbers}) n where u.email = 'bench@example.com';
    insert into public.customer_leads (tenant_id, phone)
    select u.id, '573' || lpad((1000000 * n + c)::text, 9, '0')
    from public.users u, generate_series(1, {numbers}) n, generate_series(1, {customers}) c
    where u.email = 'bench@example.com';
    insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
    select tenant_id, 'phone', '', phone, now(), id from public.customer_leads;
    insert into public.chats (tenant_id, lead_id, number_id, last_interaction_at, window_expires_at)
    select l.tenant_id, l.id, n.id, now(), now() + interval '20 hours'
    from public.customer_leads l
    join public.whatsapp_numbers n
        on n.provider_number_id = '10000000' || (right(l.phone, 9)::int / 1000000);
"""
QUEUE = """
    select private.outbox_enqueue(array_agg(
        private.outgoing(tenant_id, id, 'sequence', 'sequence', 'assistant', 'Hola') order by number_id, id))
    from (select * from public.chats order by id limit %s) as c
"""
# numbers and customers are free again, whatever the calls before have used up
ALL_FREE = (
    "update public.number_pacing set next_slot_at = '-infinity', reserve_slot_at = '-infinity'",
    "delete from private.chat_pacing",
)


class Worker:
    """What shared/outbox.py asks of the database, `size` messages at a time."""

    def __init__(self, dsn: str, size: int) -> None:
        self.size = size
        self.connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=0)
        self.connection.execute("set role service_role")
        for _ in range(10):
            self.turn()

    def turn(self) -> Done:
        """Claim, intend, settle: messages, and the seconds they took."""
        self._free()
        began = time.perf_counter()
        claimed = self._ask("select public.outbox_claim(%s)", self.size)
        keys = [{key: m[key] for key in ("tenant_id", "message_id")} for m in claimed["messages"]]
        self._ask("select public.outbox_intent(%s, %s)", claimed["claim"], json.dumps(keys))
        results = [{**key, "outcome": "sent", "wa_message_id": key["message_id"]} for key in keys]
        self._ask("select public.outbox_settle(%s, %s)", claimed["claim"], json.dumps(results))
        assert len(keys) == self.size, f"{len(keys)} of {self.size} messages"
        return self.size, time.perf_counter() - began

    def claim(self) -> Done:
        """The claim alone, taken back afterwards."""
        self._free()
        with self.connection.transaction(force_rollback=True):
            began = time.perf_counter()
            claimed = self._ask("select public.outbox_claim(%s)", self.size)
            took = time.perf_counter() - began
        return len(claimed["messages"]), took

    def _free(self) -> None:
        for statement in ALL_FREE:
            self.connection.execute(statement)

    def _ask(self, statement: str, *values: Any) -> Any:
        row = self.connection.execute(statement, values).fetchone()
        assert row
        return row[0]


def made(port: int, name: str, queued: int) -> str:
    """A database with that many messages in its outbox; its DSN."""
    with psycopg.connect(postgres.dsn(port, user=postgres.SUPERUSER), autocommit=True) as connection:
        connection.execute(f'create database "{name}" owner postgres')
    bootstrap.bootstrap(port, name)
    bootstrap.apply(port, name, sorted((ROOT / "sql").glob("*.sql")))
    bootstrap.finish(port, name)
    with psycopg.connect(postgres.dsn(port, name, postgres.SUPERUSER), autocommit=True) as connection:
        connection.execute(SETUP.format(numbers=NUMBERS, customers=CUSTOMERS))
        while queued > 0:
            connection.execute(QUEUE, [min(queued, NUMBERS * CUSTOMERS)])
            queued -= NUMBERS * CUSTOMERS
        connection.execute("vacuum analyze")
    return postgres.dsn(port, name)


def measure(port: int, queue: int, scale: Scale) -> None:
    short, long = made(port, "bench_short", 40_000), made(port, "bench_long", queue)
    hundred, one = Worker(long, 100), Worker(long, 1)
    report(
        "claim and settle 100 at a time / 1 at a time, rows/s", paired(hundred.turn, one.turn, scale), ">= 20"
    )
    works: list[tuple[str, Callable[[], Done], Callable[[], Done]]] = [
        (
            f"claim {size}, {queue:,} queued / 40,000 queued, time",
            Worker(long, size).claim,
            Worker(short, size).claim,
        )
        for size in (1, 100)
    ]
    for name, of_long, of_short in works:
        report(name, [1 / ratio for ratio in paired(of_long, of_short, scale)], "<= 1.3")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queue", type=int, default=200_000, help="messages in the long queue")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--slice", type=float, default=0.5, help="seconds")
    given = parser.parse_args()
    server = postgres.installation()
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            measure(port, given.queue, Scale(0, 1, 0, given.pairs, given.slice))


if __name__ == "__main__":
    main()
