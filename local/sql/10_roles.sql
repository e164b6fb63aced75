-- The roles of a hosted project, their memberships and settings. Roles belong to the server, so this file may
-- run again for each of its databases. Runs as supabase_admin, which initdb made.

do $$
declare
    v_role record;
begin
    for v_role in
        select name, attributes
        from (values
            ('anon', 'nologin noinherit'),
            ('authenticated', 'nologin noinherit'),
            ('service_role', 'nologin noinherit bypassrls'),
            ('authenticator', 'login noinherit'),
            ('postgres', 'login createdb createrole replication bypassrls'),
            ('supabase_auth_admin', 'login noinherit createrole'),
            ('supabase_storage_admin', 'login noinherit createrole'),
            ('supabase_realtime_admin', 'nologin noinherit')
        ) as hosted (name, attributes)
        where name not in (select rolname from pg_catalog.pg_roles)
    loop
        execute format('create role %I %s', v_role.name, v_role.attributes);
    end loop;
end
$$;

grant anon, authenticated, service_role to authenticator;  -- noqa: PRS
-- with admin option, because from Postgres 16 it takes that to set a role's parameters, as hosted allows
grant anon, authenticated, service_role, authenticator to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
-- Hosted, an extension lets postgres write policies on storage.objects and realtime.messages and nothing else;
-- plain Postgres can only make it a member of their owners.
grant supabase_storage_admin, supabase_realtime_admin to postgres;

alter role all set statement_timeout = '2min';
alter role supabase_admin set statement_timeout = 0;
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role postgres set search_path = "$user", public, extensions;
alter role supabase_auth_admin set search_path = auth;
alter role supabase_storage_admin set search_path = storage;
