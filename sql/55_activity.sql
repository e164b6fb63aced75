-- Activity: a quiet period of a customer is one row here and becomes one write of the lead, some minutes after its
-- last message. The time is never indexed: every message would rewrite the index, and the table stays small.

create table public.pending_activity (
    tenant_id uuid,
    lead_id uuid,
    last_activity_at timestamptz not null,
    token_count bigint not null default 0,
    thread_id uuid,
    constraint pending_activity_pkey primary key (tenant_id, lead_id),
    constraint pending_activity_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade
) with (fillfactor = 50);
comment on table public.pending_activity is 'Activity of leads that waits for a quiet moment to be written.';

alter table public.pending_activity enable row level security;
grant select on public.pending_activity to authenticated;
grant select, insert, update, delete on public.pending_activity to service_role;
create policy pending_activity_select_member on public.pending_activity for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- Messages were stored: their leads were active.
create function private.activity_note(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.pending_activity as p (tenant_id, lead_id, last_activity_at)
    select m.tenant_id, m.lead_id, max(m.at)
    from unnest(p_stored) m
    where m.is_live
    group by m.tenant_id, m.lead_id
    order by m.tenant_id, m.lead_id
    on conflict (tenant_id, lead_id) do update
    set last_activity_at = greatest(p.last_activity_at, excluded.last_activity_at);
end
$$;

-- An AI run took tokens for a lead. It does not prolong the quiet period.
create function private.activity_tokens(p_tenant_id uuid, p_lead_id uuid, p_thread_id uuid, p_tokens bigint)
returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.pending_activity as p (tenant_id, lead_id, last_activity_at, token_count, thread_id)
    values (p_tenant_id, p_lead_id, private.clock(), p_tokens, p_thread_id)
    on conflict (tenant_id, lead_id) do update
    set token_count = p.token_count + excluded.token_count, thread_id = excluded.thread_id;
end
$$;

-- Write what is due, or everything. Any number may run at once: each row is written by one of them. Returns how
-- many leads were written.
create function public.activity_flush(p_all boolean default false, p_limit int default 10000) returns int
language plpgsql set search_path = '' as $$
declare
    v_count int;
begin
    with due as (
        select p.ctid as place, (select private.clock()) - make_interval(secs => s.activity_delay_seconds) as quiet_since
        from public.pending_activity p
        join public.tenant_settings s on s.tenant_id = p.tenant_id
        -- leads first, as everywhere; whoever else writes one now leaves it to the next flush
        join public.customer_leads l on l.tenant_id = p.tenant_id and l.id = p.lead_id
        where p_all or p.last_activity_at <= (select private.clock()) - make_interval(secs => s.activity_delay_seconds)
        order by p.tenant_id, p.lead_id
        limit p_limit
        for no key update of l skip locked
    ),
    quiet as (
        -- a row that a message has just moved is not where it was: it waits for the next flush
        delete from public.pending_activity p
        using due d
        where p.ctid = d.place and (p_all or p.last_activity_at <= d.quiet_since)
        returning p.*
    )
    update public.customer_leads l
    set last_activity = greatest(l.last_activity, q.last_activity_at),
        thread_token_count = l.thread_token_count + q.token_count,
        thread_id = coalesce(q.thread_id, l.thread_id)
    from quiet q
    where l.tenant_id = q.tenant_id and l.id = q.lead_id;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
grant execute on function private.activity_note(private.inbox_message[]),
    private.activity_tokens(uuid, uuid, uuid, bigint), public.activity_flush(boolean, int) to service_role;
