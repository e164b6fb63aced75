-- Every table has a tenant_id that is never null; what is everybody's, or comes before its tenant is known, is pinned.
select
    c.oid::regclass::text as object,
    'add `tenant_id uuid not null` as its first column, or say in exceptions.toml whose rows these are' as fix
from pg_catalog.pg_class c
left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p') and not coalesce(a.attnotnull, false)
