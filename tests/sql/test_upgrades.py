"""A release goes out schema first: functions of the one before go on working, and it can be undone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from local import database as platform
from local import schema
from tests import contract

ROOT = Path(__file__).parents[2]
NEXT, BACK = (ROOT / "tests" / "data" / "releases" / name for name in ("next.sql", "back.sql"))
OBJECTS = """
    select md5(string_agg(t, ',' order by t)) from (
        select pg_get_functiondef(oid) from pg_proc
        where pronamespace in ('public'::regnamespace, 'private'::regnamespace) and prokind = 'f'
        union all select format('%s %s', oid::regclass, relacl) from pg_class
        where relnamespace = 'public'::regnamespace
        union all select format('%s %s %s', attrelid::regclass, attname, atttypid) from pg_attribute
        where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
            and not attisdropped
    ) as o (t)
"""


def value(dsn: str, statement: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return row and row[0]


def offer(dsn: str) -> contract.Contract:
    with psycopg.connect(dsn) as connection:
        return contract.offered(connection)


@pytest.fixture
def deployed(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database with this release, deployed from a folder to which other releases can be added."""
    (tmp_path / "supabase").mkdir()
    shutil.copy(schema.SUPABASE / "config.toml", tmp_path / "supabase")
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir()
    (migrations / schema.INITIAL.name).write_text(schema.squashed())
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    name = server.create("upgrades")
    platform.bootstrap(server.port, name)
    schema.push(server.dsn(name))
    yield str(server.dsn(name))
    server.drop(name)


def release(file: Path, version: str) -> None:
    shutil.copy(file, schema.MIGRATIONS / f"{version}_{file.name}")


def test_a_release_is_deployed_once_serves_older_functions_and_can_be_undone(deployed: str) -> None:
    source = (ROOT / "shared" / "db.py").read_text()
    before = value(deployed, OBJECTS)

    release(NEXT, "20991231000000")
    schema.push(deployed)
    after = value(deployed, OBJECTS)
    schema.push(deployed)  # nothing is left to do

    assert value(deployed, OBJECTS) == after
    assert after != before
    assert contract.unanswered(source, offer(deployed)) == []

    release(BACK, "20991231000001")
    schema.push(deployed)

    assert value(deployed, OBJECTS) == before
    assert contract.unanswered(source, offer(deployed)) == []


def test_a_migration_run_by_hand_once_more_is_refused_and_changes_nothing(database: str) -> None:
    before = value(database, OBJECTS)

    with pytest.raises(psycopg.Error, match="already exists"):
        value(database, schema.squashed())

    assert value(database, OBJECTS) == before


def test_rpcs_only_grow_from_release_to_release(database: str) -> None:
    """When RPCs have to change before the first release: python -m tests.contract."""
    before = json.loads(contract.SNAPSHOT.read_text())

    assert contract.broken(before, offer(database)) == []


def test_every_call_of_our_functions_is_answered(database: str) -> None:
    assert contract.unanswered((ROOT / "shared" / "db.py").read_text(), offer(database)) == []


def test_every_call_of_the_release_before_is_answered(database: str) -> None:
    """The latest tag; until there is one, what is committed."""
    found = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    shown = subprocess.run(
        ["git", "show", f"{found.stdout.strip() or 'HEAD'}:shared/db.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    source = shown.stdout or (ROOT / "shared" / "db.py").read_text()  # a checkout without its history

    assert contract.unanswered(source, offer(database)) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("drop function public.reply_claim(int, int)", "reply_claim is gone"),
        (
            "alter function public.lead_enrich(uuid, uuid, text, text[]) rename to lead_enriched",
            "lead_enrich is gone",
        ),
        (
            (
                "alter function public.analysis_release(uuid, text) rename to x;"
                " create function public.analysis_release(p_claim uuid, p_reason text, p_why text)"
                " returns int"
                " language sql set search_path = '' as 'select 1';"
                " grant execute on function public.analysis_release(uuid, text, text) to service_role"
            ),
            "analysis_release(p_why) is new and has no default",
        ),
        (
            (
                "alter function public.analysis_release(uuid, text) rename to x;"
                " create function public.analysis_release(p_id uuid, p_reason text) returns int"
                " language sql set search_path = '' as 'select 1';"
                " grant execute on function public.analysis_release(uuid, text) to service_role"
            ),
            "analysis_release(p_claim uuid) is gone now",
        ),
        (
            (
                "create or replace function public.reply_claim(p_limit int default 10,"
                " p_lease_seconds int default 120) returns jsonb"
                " language sql set search_path = '' as $$ select '{\"chats\": []}'::jsonb $$"
            ),
            "reply_claim does not answer with jobs any more",
        ),
    ],
)
def test_what_would_break_older_functions_is_named(db: Any, change: str, complaint: str) -> None:
    db.connection.execute(change.encode())

    db.connection.row_factory = tuple_row
    found = contract.broken(json.loads(contract.SNAPSHOT.read_text()), contract.offered(db.connection))

    assert complaint in found
