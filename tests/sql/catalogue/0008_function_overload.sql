-- No overloads in public: PostgREST chooses by argument names and answers 300 when it cannot.
select
    p.pronamespace::regnamespace || '.' || p.proname as object,
    format('give each its own name: %s', string_agg(p.oid::regprocedure::text, ', ' order by p.oid)) as fix
from pg_catalog.pg_proc p
where p.pronamespace = 'public'::regnamespace
group by p.pronamespace, p.proname
having count(*) > 1
