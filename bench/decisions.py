"""What the send decision costs, as ratios measured in one run, next to the goals.

    python -m bench.decisions                     a quick look, about a minute
    python -m bench.decisions --pairs 20          steadier

Three ways to go over the same candidates in alternating slices: private.send_decisions() for all of them in
one statement; a function that joins the same tables and knows no rule; and one call for each candidate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from bench.figures import report
from bench.schema import DURABLE, ROOT, Done, Scale, Work, paired
from local import database as bootstrap
from local import postgres

FILL = Path(__file__).with_suffix(".sql")
JOINS = """
create function bench.joins(p_candidates private.send_candidate[]) returns table (
    ref uuid, purpose text, window_expires_at timestamptz, block_state text, agent_paused_until timestamptz,
    free_entry_until timestamptz, phone text, timezone text, opt_out_scope text, provider text, quality text,
    quiet_hours jsonb, paused_until timestamptz, service_count int, category text, status text
)
language plpgsql stable set search_path = ''
set plan_cache_mode = 'force_custom_plan' set work_mem = '64MB' as $$
begin
    return query
    select k.ref, k.purpose, c.window_expires_at, c.block_state, c.agent_paused_until, c.free_entry_until,
        l.phone, l.timezone, l.opt_out_scope, n.provider, n.quality_rating, s.quiet_hours, p.paused_until,
        p.service_count, t.category, t.status
    from unnest(p_candidates) k
    join public.chats c on c.tenant_id = k.tenant_id and c.id = k.chat_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    join public.tenant_settings s on s.tenant_id = c.tenant_id
    left join public.number_pacing p on p.tenant_id = c.tenant_id and p.number_id = c.number_id
    left join public.message_templates t on t.tenant_id = k.tenant_id and t.id = k.template_id;
end
$$"""


def fill(dsn: str, candidates: int, tenants: int) -> None:
    """Businesses with chats in every state; the loader skips triggers and key checks, as a restore does."""
    with psycopg.connect(dsn.replace("postgres:", f"{postgres.SUPERUSER}:"), autocommit=True) as loader:
        for name, size in (("candidates", candidates), ("tenants", tenants)):
            loader.execute("select set_config(%s, %s, false)", [f"bench.{name}", str(size)])
        loader.execute("set session_replication_role = replica")
        loader.execute(FILL.read_text())
        loader.execute("vacuum analyze")


def work(connection: psycopg.Connection[Any], query: str, rows: int) -> Work:
    def once() -> Done:
        started = time.perf_counter()
        connection.execute(query)
        return rows, time.perf_counter() - started

    once()
    return once


def verdicts(connection: psycopg.Connection[Any]) -> str:
    rows = connection.execute(
        "select d.verdict, count(*) from bench.candidates c, private.send_decisions(c.candidates) d"
        " group by 1 order by 2 desc"
    ).fetchall()
    return ", ".join(f"{verdict} {count:,}" for verdict, count in rows)


def measure(dsn: str, candidates: int, scale: Scale) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(JOINS)
        print(f"{candidates:,} candidates: {verdicts(connection)}", flush=True)
        every = "select count(d.ref) from bench.candidates c, {}(c.candidates) d"
        decided = work(connection, every.format("private.send_decisions"), candidates)
        joined = work(connection, every.format("bench.joins"), candidates)
        single = work(
            connection,
            "select count(d.ref) from bench.few c, private.send_decisions(array[c.candidate]) d",
            200,
        )
        report(
            "all decisions in one statement / the joins alone, time", paired(joined, decided, scale), "<= 1.5"
        )
        report("one statement / one call a row, rows per second", paired(decided, single, scale), ">= 15")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--slice", type=float, default=0.3, help="seconds")
    given = parser.parse_args()
    server = postgres.installation()
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            bootstrap.apply(port, "postgres", sorted((ROOT / "sql").glob("*.sql")))
            bootstrap.finish(port)
            dsn = postgres.dsn(port)
            fill(dsn, given.candidates, given.tenants)
            measure(dsn, given.candidates, Scale(0, given.tenants, 0, given.pairs, given.slice))


if __name__ == "__main__":
    main()
