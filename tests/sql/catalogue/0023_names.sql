-- Names carry their table, so that an error tells where it comes from: policies <table>_<command>_<who>.
with named as (
    select c.relname as table_name, c.oid as table_oid, k.conname as name,
        case k.contype when 'p' then 'pkey' when 'u' then 'key' when 'f' then 'fkey' when 'c' then 'check'
            else 'excl' end as suffix
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class c on c.oid = k.conrelid
    where k.contype in ('p', 'u', 'f', 'c', 'x') and k.conparentid = 0
    union all
    select c.relname, c.oid, x.relname, case when i.indisunique then 'key' else 'idx' end
    from pg_catalog.pg_index i
    join pg_catalog.pg_class c on c.oid = i.indrelid
    join pg_catalog.pg_class x on x.oid = i.indexrelid
    where not x.relispartition
        and not exists (select from pg_catalog.pg_constraint k where k.conindid = x.oid and k.conrelid = c.oid)
    union all
    select c.relname, c.oid, p.polname,
        case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
            else 'all' end || '_[a-z]+'
    from pg_catalog.pg_policy p
    join pg_catalog.pg_class c on c.oid = p.polrelid
)
select
    format('%s on %s', n.name, n.table_oid::regclass) as object,
    format('call it %s_…%s', n.table_name, n.suffix) as fix
from named n
join pg_catalog.pg_class c on c.oid = n.table_oid
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    -- a name of 63 characters was cut off
    and length(n.name) < 63
    and n.name !~ ('^' || n.table_name || '_(.*_)?' || n.suffix || '$')
