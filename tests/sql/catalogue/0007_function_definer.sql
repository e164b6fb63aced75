-- SECURITY DEFINER is the exception: each such function is in `private`, and named with its reason in exceptions.toml.
select
    p.oid::regprocedure::text as object,
    case p.pronamespace
        when 'public'::regnamespace then 'move it to private, behind a SECURITY INVOKER function in public'
        else 'make it SECURITY INVOKER, or name it with a reason in exceptions.toml'
    end as fix
from pg_catalog.pg_proc p
where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace) and p.prosecdef
