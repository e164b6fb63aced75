-- Policies speak to authenticated alone: one for PUBLIC or anon lets strangers in, service_role needs none.
select
    format('%s on %s', p.polname, p.polrelid::regclass) as object,
    'write `to authenticated`' as fix
from pg_catalog.pg_policy p
join pg_catalog.pg_class c on c.oid = p.polrelid
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and p.polroles <> array['authenticated'::regrole::oid]
