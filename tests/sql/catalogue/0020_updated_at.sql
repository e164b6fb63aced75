-- A table with updated_at has the trigger that writes it.
select
    c.oid::regclass::text as object,
    format('create trigger %s_touch_updated_at before update on %s for each row'
        ' execute function private.touch_updated_at();', c.relname, c.oid::regclass) as fix
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'updated_at' and not a.attisdropped
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p')
    and not exists (
        select from pg_catalog.pg_trigger t
        where t.tgrelid = c.oid and t.tgfoid = 'private.touch_updated_at()'::regprocedure
            -- row (1), before (2), update (16), on every update: no column list, no condition
            and t.tgtype & 19 = 19 and t.tgattr = '' and t.tgqual is null and t.tgenabled in ('O', 'A'))
