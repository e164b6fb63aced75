-- The API's roles read and write rows; TRUNCATE ignores policies, REFERENCES and TRIGGER build on others' tables.
select
    c.oid::regclass::text as object,
    format('revoke %s on %s from %s;', string_agg(lower(privilege_type), ', ' order by privilege_type),
        c.oid::regclass, grantee::regrole) as fix
from pg_catalog.pg_class c
cross join lateral aclexplode(c.relacl) as granted
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind <> 'S'
    and grantee in ('authenticated'::regrole, 'service_role'::regrole)
    and privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
group by c.oid, grantee
