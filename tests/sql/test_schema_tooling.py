"""The schema's road: migrations lead to what sql/ says, twice is once, Supabase's checks are quiet."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local import database as platform
from local import schema
from local.errors import PlatformError

REFERENCE_TABLES = ("public.plans",)  # rows the schema itself brings; a diff of schemas does not see them
PEOPLE = "select email, role, crm_plan, auth_id is not null from users order by email"
DEMO = [
    ("admin@laplaza.example", "admin", "basic", True),
    ("admin@pulso.example", "admin", "pro", True),
    ("dr.perez@clinica.example", "admin", "pro", True),
    ("recepcion@clinica.example", "agent", None, True),
]


def rows(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement.encode()).fetchall()


@pytest.fixture(scope="module")
def from_sql(server: Any) -> str:
    """A database built from sql/, before the local platform replaces anything in it."""
    name = server.create("schema_from_sql")
    platform.bootstrap(server.port, name)
    platform.apply(server.port, name, schema.sql_files())
    return str(server.dsn(name))


@pytest.fixture(scope="module")
def from_migrations(server: Any) -> str:
    """A database built as a deployment builds it."""
    name = server.create("schema_from_migrations")
    platform.bootstrap(server.port, name)
    schema.push(server.dsn(name))
    return str(server.dsn(name))


def test_the_initial_migration_is_the_schema_of_today() -> None:
    assert schema.INITIAL.read_text() == schema.squashed(), "run local.schema.squash()"


def test_migrations_lead_to_what_sql_says(from_sql: str, from_migrations: str) -> None:
    assert schema.diff(from_sql, from_migrations) == ""


@pytest.mark.parametrize("table", REFERENCE_TABLES)
def test_migrations_bring_the_same_reference_rows(from_sql: str, from_migrations: str, table: str) -> None:
    everything = f"select t::text from {table} t order by 1"

    assert rows(from_sql, everything) == rows(from_migrations, everything) != []


def test_the_diff_sees_a_lost_grant(from_sql: str, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("revoke select on public.plans from authenticated")

    assert "GRANT SELECT ON" in schema.diff(database, from_sql)


def test_migrating_twice_is_migrating_once(from_migrations: str) -> None:
    applied = "select version, statements from supabase_migrations.schema_migrations"
    before = rows(from_migrations, applied)

    assert schema.pending(from_migrations) == []
    schema.push(from_migrations)

    assert rows(from_migrations, applied) == before


def test_a_new_database_lacks_every_migration(server: Any) -> None:
    assert schema.pending(server.dsn("template1")) == list(schema.migrations().values())


def test_a_database_built_from_another_draft_is_refused(
    from_migrations: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draft = tmp_path / schema.INITIAL.name
    draft.write_text(schema.squashed() + "select 1;\n")
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)

    with pytest.raises(PlatformError, match="built from another 20261120000000_initial"):
        schema.pending(from_migrations)


def test_a_database_ahead_of_this_checkout_is_refused(
    from_migrations: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)

    with pytest.raises(PlatformError, match="has migration 20261120000000"):
        schema.pending(from_migrations)


def test_an_old_project_that_grants_by_default_grants_nothing_of_ours(server: Any) -> None:
    name = server.create("schema_old_project")
    platform.bootstrap(server.port, name)
    for kind in ("tables", "functions"):
        grant = f"alter default privileges in schema public grant all on {kind} to anon, authenticated"
        server.superuser(f"set role postgres; {grant}", name)

    platform.apply(server.port, name, schema.sql_files())

    allowed = "select relname from pg_class where has_table_privilege('anon', oid, 'select, truncate')"
    assert rows(server.dsn(name), f"{allowed} and relnamespace = 'public'::regnamespace") == []
    callable_ = "select proname from pg_proc where has_function_privilege('anon', oid, 'execute')"
    assert rows(server.dsn(name), f"{callable_} and pronamespace = 'public'::regnamespace") == []


def test_a_machine_without_the_cli_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "CLI", Path("/nowhere/supabase"))

    with pytest.raises(PlatformError, match="npm ci"):
        schema.push("postgresql://127.0.0.1/postgres")


def test_what_the_cli_refuses_is_passed_on() -> None:
    with pytest.raises(PlatformError, match=r"(?s)`supabase db push` failed:.*connect"):
        schema.push("postgresql://postgres@127.0.0.1:9/postgres")


def test_supabase_advisors_find_nothing(from_sql: str) -> None:
    assert schema.advisors(from_sql) == []


def test_the_types_for_front_ends_are_those_of_today(from_sql: str) -> None:
    assert schema.TYPES.read_text() == schema.types(from_sql), "run local.schema.write_types()"


def test_the_demo_data_is_put_in_twice_without_harm(database: str) -> None:
    schema.seed(database)
    before = rows(database, "select u::text from users u order by 1")

    schema.seed(database)

    assert rows(database, PEOPLE) == DEMO
    assert len(rows(database, "select from users")) == len(before)
    assert rows(database, "select business_name from tenant_settings order by 1") == [
        ("Clínica Dental",),
        ("Gimnasio Pulso",),
        ("Restaurante La Plaza",),
    ]
    assert rows(database, "select count(*) from auth.identities") == [(4,)]


def test_the_demo_data_stays_off_a_hosted_project(server: Any, database: str) -> None:
    server.superuser("alter schema local rename to hosted", database.rsplit("/", 1)[1])

    with pytest.raises(PlatformError, match="not a local platform"):
        schema.seed(database)

    assert rows(database, "select from auth.users") == []


def test_the_demo_data_goes_into_the_docker_stack_of_the_cli(server: Any, database: str) -> None:
    name = database.rsplit("/", 1)[1]
    server.superuser("alter schema local rename to hosted", name)
    server.superuser(
        "create or replace function private.clock() returns timestamptz language sql stable parallel safe"
        " set search_path = '' as 'select now()'",
        name,
    )
    secret = f"super-secret-jwt-token-{uuid.uuid4()}"
    server.superuser(f"alter database \"{name}\" set app.settings.jwt_secret = '{secret}'", name)
    for column in ("confirmation_token", "recovery_token"):
        server.superuser(f"alter table auth.users add column if not exists {column} text", name)

    schema.seed(database)

    assert rows(database, "select distinct confirmation_token, recovery_token from auth.users") == [("", "")]
