-- CRM jobs.

-- job_runs: a row for every run of a worker or schedule, of one tenant or (tenant_id null) of all.
create table public.job_runs (
    id uuid default private.uuid7(),
    tenant_id uuid,
    job text not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    counts jsonb not null default '{}',
    error text,
    constraint job_runs_pkey primary key (id),
    constraint job_runs_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint job_runs_finished_at_check check (finished_at >= started_at)
);
comment on table public.job_runs is
    'What each run of a worker did. Its key has no tenant: most runs serve all of them at once.';
comment on column public.job_runs.error is 'pii: the database may quote a value';

create index job_runs_tenant_id_started_at_idx on public.job_runs (tenant_id, started_at desc);

alter table public.job_runs enable row level security;
grant select on public.job_runs to authenticated;
grant select, insert, delete on public.job_runs to service_role;
create policy job_runs_select_admin on public.job_runs for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

create function public.job_run_record(
    p_job text, p_started_at timestamptz, p_counts jsonb default '{}', p_error text default null,
    p_tenant_id uuid default null
) returns void
language sql set search_path = '' as $$
    insert into public.job_runs (tenant_id, job, started_at, finished_at, counts, error)
    values (p_tenant_id, p_job, least(p_started_at, clock_timestamp()), clock_timestamp(), p_counts, p_error)
$$;
grant execute on function public.job_run_record(text, timestamptz, jsonb, text, uuid) to service_role;
