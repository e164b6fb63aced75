-- Every uuid but a row's own id is a foreign key: what the database does not check can point at another business.
select
    format('%s.%s', c.oid::regclass, a.attname) as object,
    'add a foreign key (tenant_id, …), or say in exceptions.toml what it is' as fix
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p') and a.atttypid = 'uuid'::regtype and a.attname <> 'id'
    and not exists (
        select from pg_catalog.pg_constraint k
        where k.conrelid = c.oid and k.contype = 'f' and a.attnum = any(k.conkey))
