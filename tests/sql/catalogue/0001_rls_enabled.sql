-- Row level security is on for every table: a grant alone must never show a row.
select
    c.oid::regclass::text as object,
    format('alter table %s enable row level security;', c.oid::regclass) as fix
from pg_catalog.pg_class c
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p') and not c.relrowsecurity
