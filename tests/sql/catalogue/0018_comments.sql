-- Every table and view says what a row of it is.
select
    c.oid::regclass::text as object,
    format('comment on %s %s is ''…'';', case c.relkind when 'v' then 'view' else 'table' end, c.oid::regclass) as fix
from pg_catalog.pg_class c
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p', 'v')
    and coalesce(btrim(obj_description(c.oid, 'pg_class')), '') = ''
