-- Ids are uuids of version 7, from one place.
select
    format('%s.%s', c.oid::regclass, a.attname) as object,
    'declare it `id uuid default private.uuid7()`' as fix
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
cross join lateral pg_get_expr(d.adbin, d.adrelid) as expression
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p')
    and (
        a.attidentity <> ''
        or a.attname = 'id' and expression is distinct from 'private.uuid7()'
        or expression ~ '^nextval\(' or expression ~ 'gen_random_uuid|uuid_generate|\muuidv[47]\M')
