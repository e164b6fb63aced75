-- After our own schema: its clock becomes the one that can be moved. postgres keeps it, with all its grants.

create or replace function private.clock() returns timestamptz
language sql stable parallel safe set search_path = '' as $$
    select now() + (select ahead from local.clock)
$$;
