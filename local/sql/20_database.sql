-- What a fresh hosted database has besides its services: an owner, schemas, nothing granted to the API roles
-- by default, and PostgREST told of every change.

do $$
begin
    -- and with it schema public, which belongs to the database's owner
    execute format('alter database %I owner to postgres', current_database());
end
$$;

grant usage on schema public to postgres, anon, authenticated, service_role;

create schema extensions;
grant usage on schema extensions to postgres, anon, authenticated, service_role;

create function extensions.pgrst_ddl_watch() returns event_trigger
language plpgsql set search_path = '' as $$
begin
    if tg_tag like 'DROP %' or exists (
        select from pg_event_trigger_ddl_commands() where schema_name is distinct from 'pg_temp'
    ) then
        notify pgrst, 'reload schema';
    end if;
end
$$;
create event trigger pgrst_ddl_watch on ddl_command_end  -- noqa: PRS
execute function extensions.pgrst_ddl_watch();

-- What only this platform has: faults on request, a clock that can be moved.
create schema local;
comment on schema local is 'The local platform itself; a hosted project has nothing like it.';
grant usage on schema local to public;
