-- The outbox: messages on their way to a provider. The message itself is in messages; a row here is its errand, gone
-- when it is done. Leases, pacing and backoff use real time, never private.clock().
--
-- queued -> claimed (a worker has it; when its lease ends it is queued again)
--        -> sending (the worker is about to call the provider: from here on it is never sent again by itself)
--        -> unknown (nobody came back: a status webhook may still tell, else a person is asked)

create table public.outbox (
    tenant_id uuid,
    message_id uuid,
    chat_id uuid not null,
    number_id uuid not null,
    purpose text not null,
    priority smallint not null,
    position bigint not null generated always as identity,
    state text not null default 'queued',
    not_before timestamptz not null,
    claim uuid,
    lease_until timestamptz,
    attempts int not null default 0,
    alerted_at timestamptz,
    created_at timestamptz not null default now(),
    constraint outbox_pkey primary key (tenant_id, message_id),
    constraint outbox_message_id_fkey foreign key (tenant_id, message_id) references public.messages (tenant_id, id)
        on delete cascade,
    constraint outbox_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id),
    constraint outbox_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id),
    constraint outbox_purpose_check check (purpose in ('reply', 'staff', 'sequence', 'daily_action', 'call_followup')),
    constraint outbox_state_check check (state in ('queued', 'claimed', 'sending', 'unknown'))
);
comment on table public.outbox is 'Errands of messages that are not yet known to be sent.';
comment on column public.outbox.position is 'The order in which messages of a chat were written, and go out.';

create index outbox_tenant_id_number_id_priority_not_before_idx
    on public.outbox (tenant_id, number_id, priority, not_before) where state = 'queued';
create index outbox_tenant_id_number_id_idx on public.outbox (tenant_id, number_id);
create index outbox_tenant_id_chat_id_idx on public.outbox (tenant_id, chat_id);
create index outbox_tenant_id_lease_until_idx on public.outbox (tenant_id, lease_until) where state <> 'queued';

alter table public.outbox enable row level security;
grant select on public.outbox to authenticated;
grant select, insert, update, delete on public.outbox to service_role;
create policy outbox_select_member on public.outbox for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- number_pacing: when a number may send again. Messages get their slots one after the other, 1/rate apart.
create table public.number_pacing (
    tenant_id uuid,
    number_id uuid,
    next_slot_at timestamptz not null default now(),
    paused_until timestamptz,
    pause_reason text,
    constraint number_pacing_pkey primary key (tenant_id, number_id),
    constraint number_pacing_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade
) with (fillfactor = 50);
comment on table public.number_pacing is 'How far each number has used up its rate, and whether it is stopped.';
comment on column public.number_pacing.paused_until is 'infinity: until somebody mends the channel.';

alter table public.number_pacing enable row level security;
grant select on public.number_pacing to authenticated;
grant select, insert, update, delete on public.number_pacing to service_role;
create policy number_pacing_select_member on public.number_pacing for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A message to be sent. data: what its type carries besides text. send_at: not before, by private.clock(); null: now.
-- forced_by: the member of staff who decided that it goes out against the rules. message_id: null, or one of ours.
create type private.outgoing as (
    tenant_id uuid, chat_id uuid, purpose text, source text, role text, type text, content text, data jsonb,
    send_at timestamptz, author_id uuid, agent_id uuid, template_id uuid, reply_to text, forced_by uuid,
    message_id uuid
);

create function private.outgoing(
    p_tenant_id uuid, p_chat_id uuid, p_purpose text, p_source text, p_role text, p_content text,
    p_type text default 'text', p_data jsonb default null, p_send_at timestamptz default null,
    p_author_id uuid default null, p_agent_id uuid default null, p_template_id uuid default null,
    p_reply_to text default null, p_forced_by uuid default null, p_message_id uuid default null
) returns private.outgoing
language sql immutable set search_path = '' as $$
    select (p_tenant_id, p_chat_id, p_purpose, p_source, p_role, p_type, p_content, p_data, p_send_at, p_author_id,
        p_agent_id, p_template_id, p_reply_to, p_forced_by, p_message_id)::private.outgoing
$$;

-- Put messages into their chats and into the outbox: everybody who sends does it here. Returns the messages' ids in
-- the order given. Staff come before answers, and both before what can wait.
create function private.outbox_enqueue(p_messages private.outgoing[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_ids uuid[] := array(
        select coalesce(o.message_id, n.id)
        from unnest(p_messages) with ordinality as o
        -- in order, since messages of the same moment are shown in the order of their ids
        join unnest(array(select private.uuid7() from unnest(p_messages) order by 1)) with ordinality as n (id, ordinality)
            using (ordinality)
        order by ordinality);
begin
    perform from public.chats c
    join (select distinct o.tenant_id, o.chat_id from unnest(p_messages) o) as w
        on c.tenant_id = w.tenant_id and c.id = w.chat_id
    order by c.tenant_id, c.id
    for no key update of c;

    insert into public.messages (tenant_id, id, chat_id, conversation_id, lead_id, number_id, direction, role, source,
        author_id, agent_id, type, content, data, reply_to, template_id, forced_by, status, provider_at)
    select o.tenant_id, v_ids[o.ordinality], c.id, v.id, c.lead_id, c.number_id, 'outbound', o.role, o.source,
        o.author_id, o.agent_id, o.type, o.content, o.data, o.reply_to, o.template_id, o.forced_by, 'queued',
        (select private.clock())
    from unnest(p_messages) with ordinality as o
    join public.chats c on c.tenant_id = o.tenant_id and c.id = o.chat_id
    left join public.conversations v on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open';

    insert into public.outbox (tenant_id, message_id, chat_id, number_id, purpose, priority, not_before)
    select o.tenant_id, v_ids[o.ordinality], c.id, c.number_id, o.purpose,
        case o.purpose when 'staff' then 0 when 'reply' then 1 else 5 end, now() + greatest(o.send_at - (select private.clock()), interval '0')
    from unnest(p_messages) with ordinality as o
    join public.chats c on c.tenant_id = o.tenant_id and c.id = o.chat_id
    order by o.ordinality;

    update public.conversations v set message_count = v.message_count + w.messages
    from (
        select o.tenant_id, o.chat_id, count(*) as messages from unnest(p_messages) o group by o.tenant_id, o.chat_id
    ) as w
    where v.tenant_id = w.tenant_id and v.chat_id = w.chat_id and v.status = 'open';
    perform private.wake('deliver');
    return v_ids;
end
$$;

-- Errands whose worker is gone: not yet begun, they are queued again; begun, nobody knows. What stays unknown for a
-- quarter of an hour is shown to a person.
create function public.outbox_sweep() returns void
language plpgsql set search_path = '' as $$
begin
    update public.outbox o set state = 'queued', claim = null, lease_until = null
    from (
        select tenant_id, message_id from public.outbox
        where state = 'claimed' and lease_until < now()
        order by tenant_id, message_id for update skip locked
    ) as late
    where o.tenant_id = late.tenant_id and o.message_id = late.message_id;

    with late as (
        select tenant_id, message_id from public.outbox
        where state = 'sending' and lease_until < now()
        order by tenant_id, message_id for update skip locked
    ),
    lost as (
        update public.outbox o set state = 'unknown'
        from late
        where o.tenant_id = late.tenant_id and o.message_id = late.message_id
        returning o.tenant_id, o.message_id
    )
    update public.messages m set status = 'unknown'
    from lost
    where m.tenant_id = lost.tenant_id and m.id = lost.message_id and m.status = 'sending';

    perform private.flag_for_person(o.tenant_id, o.chat_id, 'send_unknown',
        'Nobody knows whether a message was sent; compare with the phone before sending it again.')
    from public.outbox o
    where o.state = 'unknown' and o.alerted_at is null and o.lease_until < now() - interval '15 minutes';
    update public.outbox set alerted_at = now()
    where state = 'unknown' and alerted_at is null and lease_until < now() - interval '15 minutes';
end
$$;
grant execute on function
    private.outgoing(uuid, uuid, text, text, text, text, text, jsonb, timestamptz, uuid, uuid, uuid, text, uuid, uuid),
    private.outbox_enqueue(private.outgoing[]), public.outbox_sweep() to service_role;
