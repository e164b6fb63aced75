-- A release as any may be: a new column, a new table, and an RPC that takes one thing more. Whatever the functions
-- of the release before call goes on working, because RPCs only grow by parameters with defaults.
set lock_timeout = '5s';

alter table public.customer_leads add column shoe_size int;

create table public.shoes (
    tenant_id uuid,
    size int,
    constraint shoes_pkey primary key (tenant_id, size),
    constraint shoes_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
alter table public.shoes enable row level security;

alter function public.analysis_release(uuid, text) rename to analysis_release_before;
create function public.analysis_release(p_claim uuid, p_reason text, p_shoe_size int default null) returns int
language plpgsql set search_path = '' as $$
begin
    return public.analysis_release_before(p_claim, p_reason);
end
$$;
grant execute on function public.analysis_release(uuid, text, int) to service_role;
