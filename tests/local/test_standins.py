"""The stand-ins: what a hosted project gives to whom, and what it refuses."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from local import database as bootstrap
from local import postgres
from tests.conftest import Server

if TYPE_CHECKING:  # pytest wants to be the first to import it
    from tests.local.workbench import Sql

pytest_plugins = ("tests.local.workbench",)

API_ROLES = ["anon", "authenticated", "service_role"]


@pytest.fixture
def as_auth_server(server: Server, bare: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn(bare, "supabase_auth_admin"), autocommit=True) as connection:
        yield connection


def test_roles_have_their_hosted_attributes(sql: Sql) -> None:
    roles = sql(
        """
        select rolname, concat_ws(' ',
            case when rolsuper then 'super' end, case when rolcanlogin then 'login' end,
            case when rolinherit then 'inherit' end, case when rolcreatedb then 'createdb' end,
            case when rolcreaterole then 'createrole' end, case when rolbypassrls then 'bypassrls' end
        ) as attributes
        from pg_roles where rolname = any (%s)""",
        [*API_ROLES, "authenticator", "postgres"],
    )

    assert {row["rolname"]: row["attributes"] for row in roles} == {
        "anon": "",
        "authenticated": "",
        "service_role": "bypassrls",
        "authenticator": "login",
        "postgres": "login inherit createdb createrole bypassrls",
    }


def test_requests_are_limited_in_time_by_their_role(sql: Sql) -> None:
    limits = sql(
        """
        select rolname, setting
        from pg_db_role_setting join pg_roles on pg_roles.oid = setrole, unnest(setconfig) as setting
        where setting like 'statement_timeout=%%' and rolname <> %s""",
        postgres.SUPERUSER,
    )

    expected = {"anon": "3s", "authenticated": "8s", "authenticator": "8s"}
    assert {row["rolname"]: row["setting"].partition("=")[2] for row in limits} == expected
    assert sql("show statement_timeout") == [{"statement_timeout": "2min"}]
    sql("alter role service_role set statement_timeout = '15s'")
    sql("alter role service_role reset statement_timeout")


@pytest.mark.parametrize("role", API_ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "select from public.made",
        "insert into public.made default values",
        "select nextval('public.made_id_seq')",
        "create table public.other ()",
        "select from auth.users",
        "select from cron.job",
        "create table local.other ()",
        "insert into local.net_faults values ('drop')",
    ],
)
def test_a_new_table_and_everything_of_the_platform_is_closed_to_the_api(
    sql: Sql, role: str, statement: str
) -> None:
    sql("create table public.made (id serial)")

    sql(f"set role {role}")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql(statement)


def test_service_role_passes_policies_but_needs_grants(sql: Sql) -> None:
    sql("create table public.made (); alter table public.made enable row level security")
    sql("insert into public.made default values; grant select on public.made to service_role, authenticated")

    assert sql("set role service_role; select count(*) from public.made") == []
    assert sql("select count(*) from public.made") == [{"count": 1}]
    sql("set role authenticated")
    assert sql("select count(*) from public.made") == [{"count": 0}]


def test_a_second_database_of_a_server_can_be_prepared(server: Server, bare_template: str) -> None:
    name = server.create(f"again_{uuid.uuid4().hex[:8]}")

    bootstrap.bootstrap(server.port, name)

    server.drop(name)


def test_every_change_of_the_schema_is_told_to_postgrest(server: Server, bare: str, sql: Sql) -> None:
    with psycopg.connect(server.dsn(bare, "authenticator"), autocommit=True) as postgrest:
        postgrest.execute("listen pgrst")

        sql("create table public.made ()")
        sql("drop table public.made")
        sql("create temporary table scratch ()")

        told = [n.payload for n in postgrest.notifies(timeout=0.2)]
    assert told == ["reload schema", "reload schema"]


@pytest.mark.parametrize("setting", ["request.jwt.claims", "legacy"])
def test_auth_functions_read_the_token(sql: Sql, setting: str) -> None:
    person = str(uuid.uuid4())
    if setting == "legacy":
        for name, value in {"sub": person, "role": "authenticated", "email": "a@b.c"}.items():
            sql("select set_config(%s, %s, false)", f"request.jwt.claim.{name}", value)
    claims = f'{{"sub": "{person}", "role": "authenticated", "email": "a@b.c"}}'
    sql("select set_config('request.jwt.claims', %s, false)", claims)
    sql("set role authenticated")

    (token,) = sql("select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'sub' as sub")

    assert token == {"uid": person, "role": "authenticated", "email": "a@b.c", "sub": person}


def test_auth_functions_are_null_without_a_token(sql: Sql) -> None:
    sql("set role anon")
    sql("select set_config('request.jwt.claims', '', false)")

    assert sql("select auth.uid(), auth.role(), auth.email(), auth.jwt()") == [
        {"uid": None, "role": None, "email": None, "jwt": None}
    ]


def test_our_trigger_and_foreign_key_follow_sign_ups(
    sql: Sql, as_auth_server: psycopg.Connection[Any]
) -> None:
    sql("create table public.people (id uuid references auth.users on delete cascade)")
    sql("""create function private.on_sign_up() returns trigger language plpgsql security definer
        set search_path = '' as $$ begin insert into public.people values (new.id); return new; end $$""")
    sql("""create trigger on_sign_up after insert on auth.users
        for each row execute function private.on_sign_up()""")

    as_auth_server.execute("insert into users (id, email) values (gen_random_uuid(), 'a@b.c')")
    assert sql("select email, confirmed_at from auth.users join public.people using (id)") == [
        {"email": "a@b.c", "confirmed_at": None}
    ]
    as_auth_server.execute("delete from auth.users")
    assert sql("select count(*) from public.people") == [{"count": 0}]


@pytest.mark.parametrize(
    "statement",
    [
        "alter table auth.users add column mine text",
        "drop table auth.sessions",
        "create table auth.mine ()",
        "create policy mine on auth.users using (true)",
        "create or replace function auth.uid() returns uuid language sql as 'select null::uuid'",
    ],
)
def test_postgres_changes_nothing_in_auth(sql: Sql, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql(statement)


def test_a_deleted_person_takes_sessions_and_tokens_along(
    as_auth_server: psycopg.Connection[Any],
) -> None:
    person, session = uuid.uuid4(), uuid.uuid4()
    as_auth_server.execute("insert into users (id) values (%s)", [person])
    as_auth_server.execute(
        "insert into sessions (id, user_id, aal) values (%s, %s, 'aal1')", [session, person]
    )
    as_auth_server.execute(
        "insert into refresh_tokens (token, user_id, session_id) values ('t', %s, %s)", [person, session]
    )

    as_auth_server.execute("delete from users")

    assert as_auth_server.execute("select from sessions union all select from refresh_tokens").rowcount == 0


def test_vault_keeps_secrets_for_postgres_and_service_role(sql: Sql) -> None:
    (made,) = sql("select vault.create_secret('sésame', 'door', 'opens') as id")
    sql("select vault.update_secret(%s, new_description := 'opens wide')", made["id"])
    sql("set role service_role")

    read = sql("""select name, description, decrypted_secret, secret = decrypted_secret as plain
        from vault.decrypted_secrets""")

    assert read == [
        {"name": "door", "description": "opens wide", "decrypted_secret": "sésame", "plain": False}
    ]
    with pytest.raises(psycopg.errors.UniqueViolation):
        sql("select vault.create_secret('other', 'door')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql("insert into vault.secrets (secret) values ('x')")
    sql("delete from vault.secrets")


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize(
    "statement", ["select from vault.decrypted_secrets", "select vault.create_secret('x')"]
)
def test_vault_is_closed_to_people(sql: Sql, role: str, statement: str) -> None:
    sql(f"set role {role}")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql(statement)


def test_broadcasts_are_stored_with_an_id(sql: Sql) -> None:
    sql("select realtime.send('{\"lead\": 1}', 'changed', 'tenant:1')")

    (message,) = sql("select id::text, payload, event, topic, private, extension from realtime.messages")
    assert message["payload"] == {"id": message["id"], "lead": 1}
    assert (message["event"], message["topic"]) == ("changed", "tenant:1")
    assert (message["private"], message["extension"]) == (True, "broadcast")


def test_a_broadcast_that_a_policy_refuses_is_lost_without_an_error(sql: Sql) -> None:
    sql("set role authenticated")

    sql("select realtime.send('{}', 'changed', 'tenant:1')")

    sql("reset role")
    assert sql("select count(*) from realtime.messages") == [{"count": 0}]


def test_our_policies_decide_who_receives_a_topic(sql: Sql) -> None:
    sql("select realtime.send('{}', 'changed', topic) from unnest(array['tenant:1', 'tenant:2']) as topic")
    sql("""create policy receive on realtime.messages for select to authenticated
        using (topic = (select realtime.topic()))""")
    sql("set role authenticated; set realtime.topic = 'tenant:1'")

    assert sql("select topic from realtime.messages") == [{"topic": "tenant:1"}]


def test_storage_splits_names_as_hosted(sql: Sql) -> None:
    (parts,) = sql("""
        select storage.foldername('t1/in/a.b.jpg') as folders, storage.filename('t1/in/a.b.jpg') as file,
            storage.extension('t1/in/a.b.jpg') as extension, storage.foldername('a.jpg') as none""")

    assert parts == {"folders": ["t1", "in"], "file": "a.b.jpg", "extension": "jpg", "none": []}


def test_stored_objects_need_a_policy_and_are_not_deleted_by_sql(sql: Sql) -> None:
    sql("insert into storage.buckets (id, name) values ('media', 'media')")
    sql("insert into storage.objects (bucket_id, name) values ('media', 't1/a.jpg'), ('media', 't2/b.jpg')")
    sql("""create policy own on storage.objects for select to authenticated
        using ((storage.foldername(name))[1] = 't1')""")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Direct deletion"):
        sql("delete from storage.objects")

    sql("set role authenticated")

    assert sql("select name, path_tokens from storage.objects") == [
        {"name": "t1/a.jpg", "path_tokens": ["t1", "a.jpg"]}
    ]


def test_anybody_may_queue_a_request_as_pg_net_allows(sql: Sql) -> None:
    """So a public wrapper of it would let anybody reach the network: none may exist."""
    sql("set role anon")

    assert sql("select net.http_post('http://127.0.0.1:1/') is not null as queued") == [{"queued": True}]
