-- The outbox: messages on their way to a provider. The message itself is in messages; a row here is its errand, gone
-- when it is done. due_at is business time (private.clock()); leases, pacing and backoff use real time.
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
    due_at timestamptz not null,
    not_before timestamptz,
    claim uuid,
    lease_until timestamptz,
    attempts int not null default 0,
    unknown_at timestamptz,
    alerted_at timestamptz,
    created_at timestamptz not null default now(),
    constraint outbox_pkey primary key (tenant_id, message_id),
    constraint outbox_message_id_fkey foreign key (tenant_id, message_id) references public.messages (tenant_id, id)
        on delete cascade,
    constraint outbox_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id),
    constraint outbox_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id),
    constraint outbox_purpose_check check (purpose in ('reply', 'staff', 'sequence', 'daily_action', 'call_followup')),
    constraint outbox_priority_check check (priority between 0 and 2),
    constraint outbox_state_check check (state in ('queued', 'claimed', 'sending', 'unknown'))
) with (autovacuum_vacuum_scale_factor = 0.02);
comment on table public.outbox is 'Errands of messages that are not yet known to be sent.';
comment on column public.outbox.priority is '0: people, 1: answers, 2: bulk, which is whatever can wait.';
comment on column public.outbox.position is 'The order in which messages of a chat were written, and go out.';
comment on column public.outbox.due_at is 'Business time: what it was scheduled for, or what a decision waits for.';
comment on column public.outbox.unknown_at is 'Business time: since when nobody knows whether it was sent.';
comment on column public.outbox.not_before is 'Real time: it rests until then after a failed try; null: no rest.';

-- A number's queue in the order in which it goes out; also what its foreign key asks for.
create index outbox_tenant_id_number_id_state_priority_due_at_idx
    on public.outbox (tenant_id, number_id, state, priority, due_at, position);
create index outbox_tenant_id_chat_id_position_idx on public.outbox (tenant_id, chat_id, position);
-- What is in workers' hands, or lost and not shown yet: never many.
create index outbox_tenant_id_lease_until_idx
    on public.outbox (tenant_id, lease_until) where state <> 'queued' and alerted_at is null;
create index outbox_tenant_id_not_before_idx on public.outbox (tenant_id, not_before) where not_before is not null;

alter table public.outbox enable row level security;
grant select on public.outbox to authenticated;
grant select, insert, update, delete on public.outbox to service_role;
create policy outbox_select_member on public.outbox for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- number_pacing: when a number may send again. Messages get their slots one after the other. A busy number stays with
-- the worker that has it (holder), so that one process alone keeps its distance between two messages.
create table public.number_pacing (
    tenant_id uuid,
    number_id uuid,
    next_slot_at timestamptz not null default '-infinity',
    reserve_slot_at timestamptz not null default '-infinity',
    bulk_slot_at timestamptz not null default '-infinity',
    holder uuid,
    slow_level smallint not null default 0,
    slowed_at timestamptz,
    paused_until timestamptz,
    pause_reason text,
    bulk_paused_until timestamptz,
    bulk_pause_reason text,
    service_month date,
    service_count int not null default 0,
    constraint number_pacing_pkey primary key (tenant_id, number_id),
    constraint number_pacing_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade,
    constraint number_pacing_slow_level_check check (slow_level between 0 and 5)
) with (fillfactor = 50);
comment on table public.number_pacing is 'How far each number has used up its rate, and whether it is stopped.';
comment on column public.number_pacing.reserve_slot_at is 'The next slot that bulk cannot take.';
comment on column public.number_pacing.slow_level is 'Its rate is halved so often; each half minute takes one back.';
comment on column public.number_pacing.paused_until is 'infinity: until somebody mends the channel.';
comment on column public.number_pacing.bulk_paused_until is
    'Bulk alone; answers and staff go on. infinity: until it is lifted.';
comment on column public.number_pacing.service_count is 'Service messages of service_month, by the number''s calendar.';

alter table public.number_pacing enable row level security;
grant select on public.number_pacing to authenticated;
grant select, insert, update, delete on public.number_pacing to service_role;
create policy number_pacing_select_member on public.number_pacing for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- chat_pacing: how much of Meta's pair limit a chat has used. One message in six seconds, or a burst of up to 45
-- within six seconds, after which the chat rests until they are paid for at that rate.
create table private.chat_pacing (
    tenant_id uuid,
    chat_id uuid,
    burst_at timestamptz not null,
    burst_count int not null,
    free_at timestamptz not null,
    refusals int not null default 0,
    constraint chat_pacing_pkey primary key (tenant_id, chat_id),
    constraint chat_pacing_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade
) with (fillfactor = 50);
comment on table private.chat_pacing is 'What chats owe to the limit of messages to one customer.';
comment on column private.chat_pacing.free_at is 'When the burst that began at burst_at is paid for.';
comment on column private.chat_pacing.refusals is 'How often in a row the provider refused this pair (131056).';

alter table private.chat_pacing enable row level security;
grant select, insert, update, delete on private.chat_pacing to service_role;

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
    -- in order, since messages of the same moment are shown in the order of their ids
    v_new uuid[] := array(select private.uuid7() from unnest(p_messages) o where o.message_id is null order by 1);
    v_ids uuid[] := array(
        select coalesce(o.message_id, v_new[count(*) filter (where o.message_id is null) over (order by o.ordinality)])
        from unnest(p_messages) with ordinality as o
        order by o.ordinality);
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
    cross join lateral (
        select * from public.chats k
        where k.tenant_id = o.tenant_id and k.id = o.chat_id
        limit 1
    ) as c
    left join lateral (
        select w.id from public.conversations w
        where w.tenant_id = o.tenant_id and w.chat_id = o.chat_id and w.status = 'open'
        limit 1
    ) as v on true;

    insert into public.outbox (tenant_id, message_id, chat_id, number_id, purpose, priority, due_at)
    select o.tenant_id, v_ids[o.ordinality], c.id, c.number_id, o.purpose,
        case o.purpose when 'staff' then 0 when 'reply' then 1 else 2 end,
        greatest(o.send_at, (select private.clock()))
    from unnest(p_messages) with ordinality as o
    cross join lateral (
        select * from public.chats k
        where k.tenant_id = o.tenant_id and k.id = o.chat_id
        limit 1
    ) as c
    order by o.ordinality;

    -- a number has its pacing from its first message on
    insert into public.number_pacing (tenant_id, number_id)
    select distinct c.tenant_id, c.number_id
    from unnest(p_messages) o
    cross join lateral (
        select * from public.chats k
        where k.tenant_id = o.tenant_id and k.id = o.chat_id
        limit 1
    ) as c
    order by 1, 2
    on conflict do nothing;

    update public.conversations v set message_count = v.message_count + w.messages
    from (
        select o.tenant_id, o.chat_id, count(*) as messages from unnest(p_messages) o group by o.tenant_id, o.chat_id
    ) as w
    where v.tenant_id = w.tenant_id and v.chat_id = w.chat_id and v.status = 'open';
    perform private.wake('deliver');
    return v_ids;
end
$$;

-- Take messages back that nobody has begun to send. Returns those it got: the others are on their way, sent or gone.
create function private.outbox_cancel(p_tenant_id uuid, p_message_ids uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_canceled uuid[];
begin
    with mine as (
        select o.message_id from public.outbox o
        where o.tenant_id = p_tenant_id and o.message_id = any(p_message_ids) and o.state = 'queued'
        order by o.message_id for update
    ),
    gone as (
        delete from public.outbox o using mine
        where o.tenant_id = p_tenant_id and o.message_id = mine.message_id
        returning o.message_id
    ),
    noted as (
        update public.messages m set status = 'canceled'
        from gone g
        where m.tenant_id = p_tenant_id and m.id = g.message_id
    )
    select coalesce(array_agg(message_id order by message_id), '{}') into v_canceled from gone;
    return v_canceled;
end
$$;

-- Send again what failed, was skipped or canceled, or may never have arrived: a person has decided so, and it goes out
-- as theirs. p_forced_by: who, if against the rules. Returns those it got; whatever is on its way or was sent is
-- left alone.
create function private.outbox_requeue(p_tenant_id uuid, p_message_ids uuid[], p_forced_by uuid default null)
returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_requeued uuid[];
begin
    delete from public.outbox o
    using (
        select u.message_id from public.outbox u
        where u.tenant_id = p_tenant_id and u.message_id = any(p_message_ids) and u.state = 'unknown'
        order by u.message_id for update
    ) as unknown
    where o.tenant_id = p_tenant_id and o.message_id = unknown.message_id;

    with again as (
        select m.id from public.messages m
        where m.tenant_id = p_tenant_id and m.id = any(p_message_ids) and m.direction = 'outbound'
            and m.status in ('failed', 'skipped', 'canceled', 'unknown')
        order by m.id for no key update
    ),
    reset as (
        update public.messages m
        set status = 'queued', wa_message_id = null, sent_at = null, failed_at = null, error_code = null,
            error_message = null, send_verdict = null, send_reason = null,
            forced_by = coalesce(p_forced_by, m.forced_by)
        from again a
        where m.tenant_id = p_tenant_id and m.id = a.id
        returning m.id, m.chat_id, m.number_id
    ),
    queued as (
        insert into public.outbox (tenant_id, message_id, chat_id, number_id, purpose, priority, due_at)
        select p_tenant_id, r.id, r.chat_id, r.number_id, 'staff', 0, (select private.clock())
        from reset r
        order by r.id
        returning message_id
    )
    select coalesce(array_agg(message_id order by message_id), '{}') into v_requeued from queued;
    perform private.wake('deliver');
    return v_requeued;
end
$$;

-- Errands whose worker is gone: not yet begun, they are queued again; begun, nobody knows. Returns how many became
-- unknown.
create function private.outbox_reclaim() returns int
language plpgsql set search_path = '' as $$
declare
    v_unknown int;
begin
    with late as (
        select tenant_id, message_id from public.outbox
        where state in ('claimed', 'sending') and alerted_at is null and lease_until < now()
        order by tenant_id, message_id for update skip locked
    ),
    freed as (
        update public.outbox o
        set state = case o.state when 'claimed' then 'queued' else 'unknown' end,
            unknown_at = case o.state when 'sending' then (select private.clock()) end,
            claim = case o.state when 'sending' then o.claim end,
            lease_until = case o.state when 'sending' then o.lease_until end
        from late
        where o.tenant_id = late.tenant_id and o.message_id = late.message_id
        returning o.tenant_id, o.message_id, o.state
    ),
    lost as (
        update public.messages m set status = 'unknown'
        from freed f
        where f.state = 'unknown' and m.tenant_id = f.tenant_id and m.id = f.message_id and m.status = 'sending'
    )
    select count(*) into v_unknown from freed where state = 'unknown';
    return v_unknown;
end
$$;

-- What lost workers left behind, and what stays unknown for a quarter of an hour: that is shown to a person.
create function public.outbox_sweep() returns void
language plpgsql set search_path = '' as $$
declare
    v_shown public.outbox;
begin
    perform private.outbox_reclaim();
    for v_shown in
        update public.outbox set alerted_at = now()
        where state = 'unknown' and alerted_at is null
            and unknown_at < (select private.clock()) - interval '15 minutes'
        returning *
    loop
        perform private.flag_for_person(v_shown.tenant_id, v_shown.chat_id, 'send_unknown',
            'Nobody knows whether a message was sent; compare with the phone before sending it again.');
    end loop;
end
$$;
grant execute on function
    private.outgoing(uuid, uuid, text, text, text, text, text, jsonb, timestamptz, uuid, uuid, uuid, text, uuid, uuid),
    private.outbox_enqueue(private.outgoing[]), private.outbox_cancel(uuid, uuid[]),
    private.outbox_requeue(uuid, uuid[], uuid), private.outbox_reclaim(), public.outbox_sweep() to service_role;
