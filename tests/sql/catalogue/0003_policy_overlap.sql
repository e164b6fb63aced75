-- One permissive policy for each table, role and command: several are or-ed, and each runs for every query.
select
    format('%s for %s to %s', p.polrelid::regclass, command, role::regrole) as object,
    format('make one policy of %s', string_agg(p.polname, ', ' order by p.polname)) as fix
from pg_catalog.pg_policy p
join pg_catalog.pg_class c on c.oid = p.polrelid
cross join lateral unnest(p.polroles) as role
cross join lateral unnest(
    case p.polcmd
        when 'r' then array['select'] when 'a' then array['insert']
        when 'w' then array['update'] when 'd' then array['delete']
        else array['select', 'insert', 'update', 'delete']
    end) as command
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and p.polpermissive
group by p.polrelid, command, role
having count(*) > 1
