-- Every function pins search_path to '': with a path of the caller's, a name means what the caller likes.
select
    p.oid::regprocedure::text as object,
    format('alter function %s set search_path = '''';', p.oid::regprocedure) as fix
from pg_catalog.pg_proc p
where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    and p.prokind <> 'a'
    and not coalesce('search_path=""' = any(p.proconfig), false)
    and not exists (
        select from pg_catalog.pg_depend d
        where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
