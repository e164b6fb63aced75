"""What the schema does per second, as ratios measured in one run, next to the goals.

    python -m bench.schema                                a quick look, under a minute
    python -m bench.schema --messages 2000000 --pairs 12  the full measurement

Two things are compared in alternating slices (A, B, B, A, …) on one real server, and the median of the paired
ratios counts: absolute numbers move with whatever else the machine does, ratios much less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from bench.figures import report
from local import database as bootstrap
from local import postgres

ROOT = Path(__file__).parent.parent
FILL = Path(__file__).with_suffix(".sql")
DURABLE = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
CUSTOMERS = 2000

Done = tuple[int, float]  # rows, and the seconds they took
Work = Callable[[], Done]


@dataclass(frozen=True)
class Scale:
    messages: int
    tenants: int
    chats_on_one_number: int
    pairs: int
    slice_seconds: float


@dataclass(frozen=True)
class Database:
    """One database of the server, with a business in it that receives messages."""

    dsn: str
    number: str = "100000000000001"

    def connect(self, role: str | None = None, claims: str = "") -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.dsn, autocommit=True, prepare_threshold=0)
        if role:
            connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            connection.execute(f"set role {role}")
        return connection


class Receiver:
    """Calls webhook_receive() as the webhook function would, with messages nobody has seen before."""

    def __init__(self, database: Database, size: int, customers: int = CUSTOMERS) -> None:
        self.connection = database.connect("service_role")
        self.number, self.size, self.customers = database.number, size, customers
        self.serial = itertools.count()
        self.prefix = uuid.uuid4().hex[:8]

    def batch(self) -> str:
        return json.dumps([self._payload(next(self.serial)) for _ in range(self.size)])

    def send(self, batch: str) -> float:
        started = time.perf_counter()
        self.connection.execute("select public.webhook_receive(%s)", [batch])
        return time.perf_counter() - started

    def new(self) -> Done:
        return self.size, self.send(self.batch())

    def warm(self) -> Receiver:
        """Every customer has written before, and the session has made its plans."""
        size, self.size = self.size, 100
        for _ in range(self.customers // 100 + 1):
            self.new()
        self.size = size
        for _ in range(20):
            self.new()
        return self

    def _payload(self, n: int) -> dict[str, Any]:
        return payload(
            f"{self.prefix}.{n}", self.number, n * 7919 % self.customers
        )  # neighbours do not write together


def payload(name: str, number: str, customer: int) -> dict[str, Any]:
    now, phone = datetime.now(UTC).isoformat(), f"5731{customer:08d}"
    text = "Hola, quisiera saber si tienen cita para mañana"
    return {
        "provider": "cloud_api", "delivery_id": f"{name}:0", "received_at": now, "account": "200000000000001",
        "number": number, "field": "messages", "raw": None, "error": None,
        "payload": {
            "field": "messages",
            "value": {
                "messaging_product": "whatsapp",
                "metadata": {"display_phone_number": "57301111111", "phone_number_id": number},
                "contacts": [{"profile": {"name": "Ana"}, "wa_id": phone, "user_id": f"CO.{phone}"}],
                "messages": [{"from": phone, "id": f"wamid.{name}", "type": "text", "text": {"body": text}}],
            },
        },
        "events": [{
            "kind": "message", "id": f"wamid.{name}", "at": now, "type": "text", "text": text,
            "contact": {"phone": phone, "bsuid": f"CO.{phone}", "profile_name": "Ana"},
        }],
    }  # fmt: skip


def rate(work: Work, seconds: float) -> float:
    rows = spent = 0.0
    while spent < seconds:
        done, took = work()
        rows, spent = rows + done, spent + took
    return rows / spent


def paired(a: Work, b: Work, scale: Scale) -> list[float]:
    """rate(a) / rate(b) per pair of slices, in the order A B B A A B …"""
    ratios = []
    for n in range(scale.pairs):
        first, second = (a, b) if n % 2 == 0 else (b, a)
        rates = {first: rate(first, scale.slice_seconds)}
        rates[second] = rate(second, scale.slice_seconds)
        ratios.append(rates[a] / rates[b])
    return ratios


def batching(database: Database, scale: Scale) -> None:
    hundred, one = Receiver(database, 100).warm(), Receiver(database, 1).warm()
    report("100 payloads a call / 1 a call, rows/s", paired(hundred.new, one.new, scale), ">= 15")


def duplicates(database: Database, scale: Scale) -> None:
    for size in (1, 100):
        new = Receiver(database, size).warm()
        known = new.batch()
        new.send(known)
        again = Receiver(database, size).warm()

        def repeat(again: Receiver = again, known: str = known) -> Done:
            return again.size, again.send(known)

        ratios = paired(repeat, new.new, scale)
        report(f"redelivered / new, rows/s, {size} a call", ratios, ">= 5")
        report(
            f"WAL of redelivered / new, {size} a call",
            [wal(database, repeat) / wal(database, new.new)],
            "<= 0.10",
            is_counted=True,
        )

        def regroup(again: Receiver = again, batch: str = rename_deliveries(known)) -> Done:
            return again.size, again.send(batch)

        ratios = paired(regroup, new.new, scale)
        report(f"same events, other deliveries / new, {size} a call", ratios, ">= 5")


def rename_deliveries(batch: str) -> str:
    return json.dumps([p | {"delivery_id": "again " + p["delivery_id"]} for p in json.loads(batch)])


def wal(database: Database, work: Work, calls: int = 50) -> float:
    """Bytes of WAL a row."""
    with database.connect() as connection:
        position = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
        before = connection.execute(position).fetchone()
        rows = sum(work()[0] for _ in range(calls))
        after = connection.execute(position).fetchone()
    assert before
    assert after
    return float(after[0] - before[0]) / rows


def growth(empty: Database, full: Database, scale: Scale) -> None:
    for size in (1, 100):
        a, b = Receiver(full, size).warm(), Receiver(empty, size).warm()
        report(f"full database / empty one, rows/s, {size} a call", paired(a.new, b.new, scale), ">= 0.9")


def crowd(empty: Database, full: Database, scale: Scale) -> None:
    """The number with many chats: its customers write, each now and then."""
    crowded = Database(full.dsn, "100000000000002")
    a = Receiver(crowded, 1, scale.chats_on_one_number).warm()
    b = Receiver(empty, 1).warm()
    report("a number with many chats / empty database, rows/s", paired(a.new, b.new, scale), ">= 0.9")


def pages(full: Database, scale: Scale) -> None:
    with full.connect() as owner:
        tenant, auth_id, chat = owner.execute(
            "select u.tenant_id, u.auth_id, c.id"
            " from public.users u join public.chats c on c.tenant_id = u.tenant_id"
            " where u.email = 'owner5@bench.example' limit 1"
        ).fetchone() or (None, None, None)
        literal_versions(owner, str(tenant))
    person = full.connect("authenticated", json.dumps({"sub": str(auth_id), "role": "authenticated"}))
    literal = full.connect()

    def ask(connection: psycopg.Connection[Any], query: str, *values: Any) -> Work:
        def work() -> Done:
            started = time.perf_counter()
            connection.execute(query, values).fetchall()
            return 1, time.perf_counter() - started

        for _ in range(20):
            work()
        return work

    for name, arguments, values in (("inbox_list", "", ()), ("messages_list", "%s", (chat,))):
        rls = ask(person, f"select * from public.{name}({arguments})", *values)
        plain = ask(literal, f"select * from bench.{name}({arguments})", *values)
        report(
            f"{name} under RLS / literal tenant, time", [1 / r for r in paired(rls, plain, scale)], "<= 1.3"
        )
        scans = sequential_scans(person, name, arguments, values)
        report(
            f"{name}, sequential scans",
            [len(scans)],
            "= 0",
            ", ".join(scans),
            is_counted=True,
            needs_scale=True,
        )


def literal_versions(owner: psycopg.Connection[Any], tenant: str) -> None:
    """The same functions with the tenant written into them, for a role that RLS does not touch."""
    owner.execute("create schema bench")
    for name, old, new in (
        ("inbox_list", "where c.inbox_hour", f"where c.tenant_id = '{tenant}' and c.inbox_hour"),
        ("messages_list", "where m.chat_id", f"where m.tenant_id = '{tenant}' and m.chat_id"),
    ):
        source = owner.execute(
            "select pg_get_functiondef(%s::regproc)",
            [f"public.{name}"],
        ).fetchone()
        assert source
        assert old in source[0]
        owner.execute(source[0].replace(old, new).replace(f"public.{name}(", f"bench.{name}(", 1))


def sequential_scans(
    person: psycopg.Connection[Any], name: str, arguments: str, values: tuple[Any, ...]
) -> list[str]:
    with person.transaction():
        person.execute(f"select * from public.{name}({arguments})", values)
        rows = person.execute(
            "select relname, seq_scan from pg_stat_xact_user_tables where seq_scan > 0"
        ).fetchall()
    return [f"{table} {count}" for table, count in rows]


def burst(empty: Database) -> None:
    """200 new customers write three messages each at the same moment; then everything comes again."""
    messages = [(c, m) for m in range(3) for c in range(200)]

    def deliver(share: list[tuple[int, int]], suffix: str) -> None:
        with empty.connect("service_role") as connection:
            for customer, message in share:
                body = json.dumps(
                    [payload(f"burst.{customer}.{message}{suffix}", empty.number, 90_000_000 + customer)]
                )
                body = body.replace(
                    f"wamid.burst.{customer}.{message}{suffix}", f"wamid.burst.{customer}.{message}"
                )
                connection.execute("select public.webhook_receive(%s)", [body])

    for suffix in ("", ".again"):
        threads = [threading.Thread(target=deliver, args=(messages[n::16], suffix)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with empty.connect() as connection:
        counts = connection.execute(
            "with l as (select * from public.customer_leads where phone like '573190000%')"
            " select (select count(*) from l),"
            " (select count(*) from public.messages m join l on l.id = m.lead_id),"
            " (select count(*) from public.chats c join l on l.id = c.lead_id),"
            " (select count(*) from public.conversations v join public.chats c on c.id = v.chat_id"
            "  join l on l.id = c.lead_id where v.status = 'open')"
        ).fetchone()
    assert counts
    wrong = sum(abs(is_ - should) for is_, should in zip(counts, (200, 600, 200, 200), strict=True))
    name = "200 new customers x 3 at once, all twice: rows amiss"
    report(name, [wrong], "= 0", f"leads, messages, chats, open conversations: {counts}", is_counted=True)


def hot(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("select pg_stat_force_next_flush()")
        time.sleep(1)
        rows = connection.execute(
            "select relname, n_tup_upd, n_tup_hot_upd::float8 / nullif(n_tup_upd, 0)"
            " from pg_stat_user_tables where schemaname = 'public' and n_tup_upd > 100 order by relname"
        ).fetchall()
    for table, updates, share in rows:
        report(f"HOT share of updates of {table}", [share], "", f"{updates:,} updates", is_counted=True)


def fill(dsn: str, scale: Scale) -> None:
    """Tenants with chats and messages; the loader skips triggers and key checks, as a restore does."""
    with psycopg.connect(dsn.replace("postgres:", f"{postgres.SUPERUSER}:"), autocommit=True) as loader:
        for name, size in (
            ("tenants", scale.tenants),
            ("per_tenant", scale.messages // scale.tenants),
            ("crowd", scale.chats_on_one_number),
        ):
            loader.execute("select set_config(%s, %s, false)", [f"bench.{name}", str(size)])
        loader.execute("set session_replication_role = replica")
        loader.execute(FILL.read_text())
        loader.execute("set session_replication_role = origin")
        if scale.messages:
            loader.execute("vacuum analyze")  # an empty database has no statistics, as on its first day


def databases(port: int, scale: Scale) -> Iterator[Database]:
    """An empty database (one business, no message) and a full one."""
    for name, content in (
        ("bench_empty", Scale(0, 1, 0, 0, 0)),
        ("bench_full", scale),
    ):
        with psycopg.connect(postgres.dsn(port, user=postgres.SUPERUSER), autocommit=True) as connection:
            connection.execute(f'create database "{name}" owner postgres')
        bootstrap.bootstrap(port, name)
        bootstrap.apply(port, name, sorted((ROOT / "sql").glob("*.sql")))
        bootstrap.finish(port, name)
        fill(postgres.dsn(port, name), content)
        yield Database(postgres.dsn(port, name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--crowd", type=int, default=5_000, help="chats on one number")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--slice", type=float, default=0.3, help="seconds")
    given = parser.parse_args()
    scale = Scale(given.messages, given.tenants, given.crowd, given.pairs, given.slice)
    server = postgres.installation()
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            empty, full = databases(port, scale)
            print(f"Postgres {server.major}, {scale.messages:,} messages of {scale.tenants:,} businesses")
            pages(full, scale)
            batching(empty, scale)
            duplicates(empty, scale)
            growth(empty, full, scale)
            crowd(empty, full, scale)
            burst(empty)
            hot(empty)


if __name__ == "__main__":
    main()
