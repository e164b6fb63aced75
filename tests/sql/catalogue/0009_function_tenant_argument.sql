-- Functions that run with more rights than their caller find out the tenant themselves: an argument can be forged.
select
    p.oid::regprocedure::text as object,
    'leave out p_tenant_id and ask private.my_tenant_id(), or take EXECUTE from authenticated' as fix
from pg_catalog.pg_proc p
where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    and (p.prosecdef or p.pronamespace = 'public'::regnamespace)
    and 'p_tenant_id' = any(p.proargnames)
    and has_function_privilege('authenticated', p.oid, 'execute')
