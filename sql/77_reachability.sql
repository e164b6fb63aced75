-- Reachability: customers whom the provider says it cannot reach at all. No block: the number is no WhatsApp number
-- (any more), is wrong, or its phone is too old. One such error proves nothing, so a chat is unreachable after two
-- messages were refused so at least 24 hours apart, with nothing delivered or heard in between. Anything that is
-- delivered or heard ends it.

-- unreachable_chats: what speaks for it, counted since the customer was last reached; one row a chat.
create table public.unreachable_chats (
    tenant_id uuid,
    chat_id uuid,
    failures int not null,
    first_failed_at timestamptz not null,
    last_failed_at timestamptz not null,
    last_error_code int,
    unreachable_at timestamptz,
    restored_at timestamptz,
    restored_how text,
    restored_by uuid,
    note text,
    constraint unreachable_chats_pkey primary key (tenant_id, chat_id),
    constraint unreachable_chats_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint unreachable_chats_restored_by_fkey foreign key (tenant_id, restored_by)
        references public.users (tenant_id, id),
    constraint unreachable_chats_failures_check check (failures >= 0),
    constraint unreachable_chats_restored_how_check check (
        restored_how in ('delivered', 'read', 'inbound', 'reactivated'))
);
comment on table public.unreachable_chats is
    'Chats whose messages the provider could not bring to anybody: how often, since when, and how it ended last.';
comment on column public.unreachable_chats.failures is
    'Messages refused so since the customer was last reached, as of the latest of them.';
comment on column public.unreachable_chats.unreachable_at is 'Since when chats.reach_state says so; null: it does not.';
comment on column public.unreachable_chats.note is 'pii: why it was reactivated';

create index unreachable_chats_tenant_id_restored_by_idx
    on public.unreachable_chats (tenant_id, restored_by) where restored_by is not null;

alter table public.unreachable_chats enable row level security;
grant select on public.unreachable_chats to authenticated;
grant select, insert, update, delete on public.unreachable_chats to service_role;
create policy unreachable_chats_select_member on public.unreachable_chats for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The errors that mean so, as the senders read them too (outcome unreachable).
create function private.unreachable_codes(p_provider text) returns int[]
language sql immutable set search_path = '' as $$
    select case p_provider when 'cloud_api' then array[131026] when 'twilio' then array[21211, 21614, 63003, 63024]
        when 'whapi' then array[403] end
$$;

create function private.is_unreachable(p_tenant_id uuid, p_number_id uuid, p_error_code int) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return p_error_code is not null and exists (
        select from public.whatsapp_numbers n
        where n.tenant_id = p_tenant_id and n.id = p_number_id
            and p_error_code = any (private.unreachable_codes(n.provider)));
end
$$;

-- Messages of these chats were refused so: count them again, which is the same however often it is done. The chats are
-- locked.
create function private.reach_judge(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
begin
    with counted as (
        select k.tenant_id, k.chat_id, f.failures, f.first_at, f.last_at, f.last_code
        from (select distinct c.tenant_id, c.chat_id from unnest(p_chats) c) as k
        join public.chats c on c.tenant_id = k.tenant_id and c.id = k.chat_id
        left join public.unreachable_chats u on u.tenant_id = k.tenant_id and u.chat_id = k.chat_id
        cross join lateral (
            select count(*)::int as failures, min(m.failed_at) as first_at, max(m.failed_at) as last_at,
                (array_agg(m.error_code order by m.failed_at desc))[1] as last_code
            from public.messages m
            where m.tenant_id = k.tenant_id and m.chat_id = k.chat_id and m.status = 'failed'
                and private.is_unreachable(m.tenant_id, m.number_id, m.error_code)
                and m.failed_at > coalesce(greatest(u.restored_at, c.last_inbound_at, (
                    select greatest(l.provider_at, l.delivered_at, l.read_at, l.played_at)
                    from public.messages l
                    where l.tenant_id = k.tenant_id and l.chat_id = k.chat_id
                        and l.status in ('delivered', 'read', 'played')
                    order by l.provider_at desc
                    limit 1)), '-infinity')
        ) as f
        where f.failures > 0
    ),
    noted as (
        insert into public.unreachable_chats as u (
            tenant_id, chat_id, failures, first_failed_at, last_failed_at, last_error_code, unreachable_at)
        select c.tenant_id, c.chat_id, c.failures, c.first_at, c.last_at, c.last_code,
            case when c.failures >= 2 and c.last_at >= c.first_at + interval '24 hours' then (select private.clock()) end
        from counted c
        order by c.tenant_id, c.chat_id
        on conflict on constraint unreachable_chats_pkey do update
        set failures = excluded.failures, first_failed_at = excluded.first_failed_at,
            last_failed_at = excluded.last_failed_at, last_error_code = excluded.last_error_code,
            unreachable_at = coalesce(u.unreachable_at, excluded.unreachable_at)
        returning u.tenant_id, u.chat_id, u.unreachable_at
    )
    update public.chats c set reach_state = 'unreachable'
    from noted n
    where n.unreachable_at is not null and c.tenant_id = n.tenant_id and c.id = n.chat_id
        and c.reach_state = 'ok';
end
$$;

-- These customers can be reached, for p_how of unreachable_chats.restored_how. The chats are locked.
create function private.reach_restore(
    p_chats private.chat_ref[], p_how text, p_by uuid default null, p_note text default null
) returns void
language plpgsql set search_path = '' as $$
begin
    update public.chats c set reach_state = 'ok'
    from unnest(p_chats) k
    where c.tenant_id = k.tenant_id and c.id = k.chat_id and c.reach_state <> 'ok';
    update public.unreachable_chats u
    set failures = 0, unreachable_at = null, restored_at = (select private.clock()), restored_how = p_how,
        restored_by = p_by, note = p_note
    from unnest(p_chats) k
    where u.tenant_id = k.tenant_id and u.chat_id = k.chat_id;
end
$$;

-- Signs of life end what was thought of these chats: blocks and unreachability. The chats are locked.
create function private.signs_of_life(p_signs private.life_sign[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.blocks_disprove(p_signs);
    perform private.reach_restore(array_agg((s.tenant_id, s.chat_id)::private.chat_ref), s.how)
    from unnest(p_signs) s
    join public.unreachable_chats u
        on u.tenant_id = s.tenant_id and u.chat_id = s.chat_id and u.unreachable_at is not null
        and u.last_failed_at < s.at
    group by s.how;
end
$$;

grant execute on function
    private.unreachable_codes(text), private.is_unreachable(uuid, uuid, int), private.reach_judge(private.chat_ref[]),
    private.reach_restore(private.chat_ref[], text, uuid, text), private.signs_of_life(private.life_sign[])
    to service_role;
