-- Every foreign key has an index that begins with its columns: else a delete of the other row reads this whole table.
select
    format('%s on %s', k.conname, k.conrelid::regclass) as object,
    format('create index on %s (%s);', k.conrelid::regclass, (
        select string_agg(quote_ident(a.attname), ', ' order by position)
        from unnest(k.conkey) with ordinality as key (attnum, position)
        join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = key.attnum)) as fix
from pg_catalog.pg_constraint k
where k.contype = 'f' and k.conparentid = 0
    and k.connamespace in ('public'::regnamespace, 'private'::regnamespace)
    and not exists (
        select
        from pg_catalog.pg_index i
        where i.indrelid = k.conrelid and i.indisvalid
            and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] = k.conkey
            -- a part of the table serves as well, if all it leaves out is null, and so refers to nothing
            and (i.indpred is null or exists (
                select
                from pg_catalog.pg_attribute a
                where a.attrelid = k.conrelid and a.attnum = any(k.conkey)
                    and pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', a.attname))))
