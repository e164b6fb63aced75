-- A view that Postgres cannot write through refuses writes: else they are errors of the server, which callers repeat.
select
    c.oid::regclass::text as object,
    format(
        'create trigger %s_refuse_write instead of insert or update or delete on %s'
        ' for each row execute function private.refuse_write();', c.relname, c.oid::regclass) as fix
from pg_catalog.pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind = 'v'
    and pg_catalog.pg_relation_is_updatable(c.oid, true) & 28 <> 28
