-- What a person has to send: messages that the rules keep machines from sending.

create table public.pending_manual (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    source text not null,
    reason text not null,
    priority smallint not null default 2,
    text text not null,
    added_at timestamptz not null,
    status text not null default 'open',
    sent_manually boolean not null default false,
    done_at timestamptz,
    done_by uuid,
    constraint pending_manual_pkey primary key (tenant_id, id),
    constraint pending_manual_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint pending_manual_done_by_fkey foreign key (tenant_id, done_by) references public.users (tenant_id, id),
    constraint pending_manual_source_check check (source in ('sequence', 'daily_action', 'call_followup')),
    constraint pending_manual_priority_check check (priority between 1 and 5),
    constraint pending_manual_status_check check (status in ('open', 'done', 'dismissed')),
    constraint pending_manual_done_at_check check ((status = 'open') = (done_at is null))
);
comment on table public.pending_manual is 'Messages ready to be sent by a person, and what became of them.';
comment on column public.pending_manual.text is 'pii: names the customer, and may quote them';
comment on column public.pending_manual.reason is 'Why no machine may send it: a reason of private.send_decisions().';
comment on column public.pending_manual.priority is 'The higher, the sooner.';
comment on column public.pending_manual.sent_manually is 'A person sent it, here or on the phone.';

create index pending_manual_tenant_id_chat_id_idx on public.pending_manual (tenant_id, chat_id);
create index pending_manual_tenant_id_open_idx
    on public.pending_manual (tenant_id, priority desc, added_at) where status = 'open';
create index pending_manual_tenant_id_done_by_idx
    on public.pending_manual (tenant_id, done_by) where done_by is not null;

alter table public.pending_manual enable row level security;
grant select on public.pending_manual to authenticated;
grant select, insert, update, delete on public.pending_manual to service_role;
create policy pending_manual_select_member on public.pending_manual for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The queue as a person works through it: the urgent first, then the oldest.
create function public.pending_manual_list(p_limit int default 100, p_source text default null) returns table (
    id uuid, chat_id uuid, source text, reason text, priority smallint, text text, added_at timestamptz,
    lead_id uuid, lead_name text, lead_phone text, window_open boolean, window_expires_at timestamptz,
    free_entry_until timestamptz, wa_link text
)
language plpgsql stable rows 100 set search_path = '' as $$
begin
    return query
    select
        p.id, p.chat_id, p.source, p.reason, p.priority, p.text, p.added_at, l.id,
        coalesce(l.name, l.user_name, l.phone), l.phone,
        coalesce(c.window_expires_at > (select private.clock()), false) or n.provider = 'whapi', c.window_expires_at,
        c.free_entry_until, 'https://wa.me/' || l.phone || '?text=' || private.url_encode(p.text)
    from public.pending_manual p
    join public.chats c on c.tenant_id = p.tenant_id and c.id = p.chat_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    where p.status = 'open' and (p_source is null or p.source = p_source)
    order by p.priority desc, p.added_at, p.id
    limit least(p_limit, 500);
end
$$;

-- A text as a part of a URL (RFC 3986): all but the unreserved characters as percent and hex.
create function private.url_encode(p_text text) returns text
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return (
        select string_agg(case when letter ~ '[A-Za-z0-9._~-]' then letter else
            regexp_replace(upper(encode(convert_to(letter, 'utf8'), 'hex')), '(..)', '%\1', 'g') end, '' order by n)
        from regexp_split_to_table(p_text, '') with ordinality as letters (letter, n));
end
$$;

-- Definer: staff may not write the queue, only say what became of an entry.
create function private.pending_manual_end(p_id uuid, p_status text) returns public.pending_manual
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_entry public.pending_manual;
begin
    update public.pending_manual
    set status = p_status, sent_manually = p_status = 'done', done_at = private.clock(), done_by = private.my_user_id()
    where tenant_id = v_tenant_id and id = p_id and status = 'open'
    returning * into v_entry;
    if not found then
        raise exception using errcode = 'PT404', message = 'There is no such open entry.',
            hint = 'Read its id from pending_manual_list(); somebody may have dealt with it meanwhile.';
    end if;
    if v_entry.source = 'daily_action' then
        perform private.daily_dealt_with(v_tenant_id, v_entry.chat_id);
    end if;
    return v_entry;
end
$$;

-- A person has sent it by hand; or decided that nobody shall. Each answers with the entry as it is now.
create function public.pending_manual_done(p_id uuid) returns public.pending_manual
language sql set search_path = '' as $$
    select private.pending_manual_end(p_id, 'done')
$$;
create function public.pending_manual_dismiss(p_id uuid) returns public.pending_manual
language sql set search_path = '' as $$
    select private.pending_manual_end(p_id, 'dismissed')
$$;

grant execute on function private.url_encode(text), private.pending_manual_end(uuid, text),
    public.pending_manual_list(int, text), public.pending_manual_done(uuid), public.pending_manual_dismiss(uuid)
    to authenticated;
