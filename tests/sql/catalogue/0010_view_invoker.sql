-- Views run as their caller; a materialized view or foreign table knows no policies and has no place here.
select
    c.oid::regclass::text as object,
    case c.relkind
        when 'v' then format('alter view %s set (security_invoker = true);', c.oid::regclass)
        else 'make it a table with policies, or a view with security_invoker'
    end as fix
from pg_catalog.pg_class c
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and (
        c.relkind in ('m', 'f')
        or c.relkind = 'v'
        and not coalesce(c.reloptions && array['security_invoker=true', 'security_invoker=on'], false))
