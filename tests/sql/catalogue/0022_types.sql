-- A point in time is timestamptz; an amount is numeric, never a float or money; text has its limits in a check.
select
    format('%s.%s', c.oid::regclass, a.attname) as object,
    format('declare it %s, not %s',
        case t.typname
            when 'timestamp' then 'timestamptz' when 'timetz' then 'time' when 'json' then 'jsonb'
            when 'varchar' then 'text with a check' when 'bpchar' then 'text with a check'
            else 'numeric'
        end, format_type(a.atttypid, a.atttypmod)) as fix
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p')
    and t.typname in ('timestamp', 'timetz', 'float4', 'float8', 'money', 'json', 'varchar', 'bpchar')
