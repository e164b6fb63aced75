-- EXECUTE is for authenticated and service_role, never for PUBLIC (Postgres's default), anon or anybody else.
select
    p.oid::regprocedure::text as object,
    format('revoke execute on function %s from %s;', p.oid::regprocedure,
        case grantee when 0 then 'public' else grantee::regrole::text end) as fix
from pg_catalog.pg_proc p
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl
where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    and acl.grantee not in (p.proowner, 'authenticated'::regrole, 'service_role'::regrole)
