-- anon, PUBLIC and other people's roles get nothing: no table, column, sequence, nor the schema private.
with acls as (
    select c.oid::regclass::text as object, c.relowner as owner, c.relacl as acl
    from pg_catalog.pg_class c
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    union all
    select format('%s.%s', c.oid::regclass, a.attname), c.relowner, a.attacl
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    union all
    select 'schema private', n.nspowner, n.nspacl from pg_catalog.pg_namespace n where n.nspname = 'private'
)
select
    object,
    format('revoke %s from %s', string_agg(lower(privilege_type), ', ' order by privilege_type),
        case grantee when 0 then 'public' else grantee::regrole::text end) as fix
from acls
cross join lateral aclexplode(acl) as granted
where grantee not in (owner, 'authenticated'::regrole, 'service_role'::regrole)
group by object, grantee
