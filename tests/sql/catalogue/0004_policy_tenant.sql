-- Every policy of a tenant's table asks for the caller's tenant first, and nothing is or-ed around it.
select
    format('%s on %s', p.polname, p.polrelid::regclass) as object,
    format('begin %s with `tenant_id = (select private.my_tenant_id()) and …`', clause) as fix
from pg_catalog.pg_policy p
join pg_catalog.pg_class c on c.oid = p.polrelid
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
cross join lateral (values
    ('using', pg_get_expr(p.polqual, p.polrelid)),
    ('with check', pg_get_expr(p.polwithcheck, p.polrelid))
) as predicate (clause, expression)
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and (
        expression !~ '^\(*tenant_id = \( SELECT private\.my_tenant_id\(\) AS my_tenant_id\)'
        or expression ~ '\mOR\M')
