-- A reference between two tables of tenants carries the tenant: a row of another business cannot be pointed at.
select
    format('%s on %s', k.conname, k.conrelid::regclass) as object,
    format('refer to %s (tenant_id, …) with (tenant_id, …)', k.confrelid::regclass) as fix
from pg_catalog.pg_constraint k
join pg_catalog.pg_attribute mine on mine.attrelid = k.conrelid and mine.attname = 'tenant_id'
join pg_catalog.pg_attribute theirs on theirs.attrelid = k.confrelid and theirs.attname = 'tenant_id'
where k.contype = 'f' and k.conparentid = 0
    and k.connamespace in ('public'::regnamespace, 'private'::regnamespace)
    and not (k.conkey[1] = mine.attnum and k.confkey[1] = theirs.attnum)
    -- tenant_id itself is users.id of the owner
    and not (k.conkey = array[mine.attnum] and k.confrelid = 'public.users'::regclass)
