-- tenant_id leads every key and index of a tenant's table: a query for one business never reads another's rows, and
-- a unique key tells nobody what another business has.
select
    i.indexrelid::regclass::text as object,
    format('put tenant_id first in this index of %s, or pin it with a reason in exceptions.toml',
        i.indrelid::regclass) as fix
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and i.indkey[0] <> a.attnum
