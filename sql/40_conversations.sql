-- Conversations: chats (a lead on a number, for ever), their sessions, and every message in them.
-- Whoever changes a chat's conversations locks the chat first; several chats in the order of their ids.

create table public.chats (
    tenant_id uuid,
    id uuid default private.uuid7(),
    lead_id uuid not null,
    number_id uuid not null,
    last_inbound_at timestamptz,
    last_outbound_at timestamptz,
    last_interaction_at timestamptz not null,
    window_expires_at timestamptz,
    free_entry_until timestamptz,
    free_entry_reply_by timestamptz,
    is_free_entry_confirmed boolean not null default false,
    referral jsonb,
    referral_at timestamptz,
    block_state text not null default 'none',
    reach_state text not null default 'ok',
    agent_paused_until timestamptz,
    thread_id uuid,
    unread_count int not null default 0,
    news_since timestamptz,
    enriched_at timestamptz,
    created_at timestamptz not null default now(),
    -- The inbox is read by it, hour by hour, and sorted within the hour: an index on the time itself would
    -- make every message's update of its chat rewrite all indexes.
    inbox_hour timestamptz not null
        generated always as (date_bin('1 hour', last_interaction_at, '2000-01-01 00:00:00+00')) stored,
    constraint chats_pkey primary key (tenant_id, id),
    -- in this order, so that no index leads from a number to its chats alone: a number may have very many
    constraint chats_tenant_id_number_id_lead_id_key unique (tenant_id, number_id, lead_id),
    -- what messages refer to
    constraint chats_tenant_id_lead_id_id_number_id_key unique (tenant_id, lead_id, id, number_id),
    constraint chats_lead_id_fkey foreign key (tenant_id, lead_id) references public.customer_leads (tenant_id, id),
    constraint chats_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id),
    constraint chats_block_state_check check (block_state in ('none', 'probable', 'confirmed')),
    constraint chats_reach_state_check check (reach_state in ('ok', 'unreachable')),
    constraint chats_unread_count_check check (unread_count >= 0)
) with (fillfactor = 80);
comment on table public.chats is 'A lead on a number: where the 24-hour window, a block and the AI thread belong.';
comment on column public.chats.last_interaction_at is 'The last message of either side; opens no window by itself.';
comment on column public.chats.window_expires_at is
    'Free text may be sent until then: 24 hours from the customer''s last message or call.';
comment on column public.chats.free_entry_until is
    'Messages cost nothing until then: 72 hours from our first answer to an ad. Says nothing about the window.';
comment on column public.chats.free_entry_reply_by is
    'An answer until then opens the free entry point: 24 hours from the customer''s last message out of an ad.';
comment on column public.chats.is_free_entry_confirmed is
    'free_entry_until is the provider''s word, not our reckoning.';
comment on column public.chats.referral is 'pii: the ad that brought the customer, as the provider told it once.';
comment on column public.chats.block_state is 'Whether the customer has blocked the number; see delivery_issues.';
comment on column public.chats.reach_state is
    'unreachable: the provider says again and again that this customer cannot be reached; see unreachable_chats.';
comment on column public.chats.agent_paused_until is 'A person has taken over; the agent is silent until then.';
comment on column public.chats.news_since is 'When something was first said that no analysis has read.';
comment on column public.chats.enriched_at is 'When the provider was last asked for the name and labels of the chat.';
comment on column public.chats.unread_count is 'Customer''s messages since somebody last opened the chat.';

-- Until when an answer would open the free entry point; null when there was no ad, or the answer to it was given.
create function private.free_entry_reply_by(p_chat public.chats) returns timestamptz
language plpgsql immutable set search_path = '' as $$
begin
    return case when coalesce(p_chat.free_entry_until < p_chat.free_entry_reply_by + interval '48 hours', true)
        then p_chat.free_entry_reply_by end;
end
$$;
grant execute on function private.free_entry_reply_by(public.chats) to authenticated, service_role;

create index chats_tenant_id_inbox_hour_idx on public.chats (tenant_id, inbox_hour desc);
-- set once a quiet period, so the updates of its other messages are HOT
create index chats_tenant_id_news_since_idx on public.chats (tenant_id, news_since) where news_since is not null;
create index chats_tenant_id_thread_id_idx on public.chats (tenant_id, thread_id) where thread_id is not null;

alter table public.chats enable row level security;
grant select on public.chats to authenticated;
grant select, insert, update, delete on public.chats to service_role;
create policy chats_select_member on public.chats for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A chat, by its key.
create type private.chat_ref as (tenant_id uuid, chat_id uuid);

create table public.conversations (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    session_id text not null generated always as (id::text) stored,
    status text not null default 'open',
    current_step text not null default 'greeting',
    current_agent_id uuid,
    assigned_to uuid,
    requires_attention boolean not null default false,
    priority smallint not null default 2,
    opened_at timestamptz not null,
    reopened_at timestamptz,
    closed_at timestamptz,
    closed_reason text,
    last_at timestamptz,
    closed_notice_at timestamptz,
    message_count int not null default 0,
    first_response_time int,
    avg_response_time int,
    category text,
    intent text,
    outcome text,
    conversion_value numeric(14, 2),
    satisfaction_rating smallint,
    summary text,
    constraint conversations_pkey primary key (tenant_id, id),
    constraint conversations_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id),
    constraint conversations_assigned_to_fkey foreign key (tenant_id, assigned_to)
        references public.users (tenant_id, id),
    constraint conversations_status_check check (status in ('open', 'closed')),
    constraint conversations_closed_at_check check ((status = 'closed') = (closed_at is not null)),
    constraint conversations_closed_reason_check check (closed_reason in ('silence', 'staff', 'agent')),
    constraint conversations_priority_check check (priority between 1 and 5),
    constraint conversations_satisfaction_rating_check check (satisfaction_rating between 1 and 5)
) with (fillfactor = 80);
comment on table public.conversations is
    'A session of a chat: opened by a message, closed by staff, by the agent, or after silence.';
comment on column public.conversations.session_id is 'The id, as the source systems call it.';
comment on column public.conversations.opened_at is 'The time of its first message.';
comment on column public.conversations.last_at is 'The time of its last message, as far as the inbox has seen.';
comment on column public.conversations.closed_reason is
    'What was closed by silence is joined with its neighbour when a late message shows that there was none.';
comment on column public.conversations.closed_notice_at is 'When the customer was last told that we are closed.';
comment on column public.conversations.first_response_time is 'Seconds; written when the conversation closes.';
comment on column public.conversations.avg_response_time is 'Seconds; written when the conversation closes.';
comment on column public.conversations.summary is 'pii: what was said, in short';
comment on column public.conversations.intent is 'pii: what the customer wanted';

-- At most one open conversation a chat.
create unique index conversations_tenant_id_chat_id_open_key
    on public.conversations (tenant_id, chat_id) where status = 'open';
create index conversations_tenant_id_chat_id_idx on public.conversations (tenant_id, chat_id);
create index conversations_tenant_id_assigned_to_idx
    on public.conversations (tenant_id, assigned_to) where assigned_to is not null;
create index conversations_tenant_id_current_agent_id_idx
    on public.conversations (tenant_id, current_agent_id) where current_agent_id is not null;

alter table public.conversations enable row level security;
grant select, update (requires_attention, priority, category, intent, outcome, conversion_value, satisfaction_rating,
    summary) on public.conversations to authenticated;
grant select, insert, update, delete on public.conversations to service_role;
create policy conversations_select_member on public.conversations for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy conversations_update_member on public.conversations for update to authenticated
    using (tenant_id = (select private.my_tenant_id()))
    with check (tenant_id = (select private.my_tenant_id()));

create table public.messages (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    conversation_id uuid,
    lead_id uuid not null,
    number_id uuid not null,
    direction text not null,
    role text not null,
    source text not null,
    author_id uuid,
    agent_id uuid,
    template_id uuid,
    forced_by uuid,
    forced_reason text,
    type text not null,
    content text,
    data jsonb,
    is_forwarded boolean not null default false,
    wa_message_id text,
    reply_to text,
    referral jsonb,
    raw jsonb,
    is_named boolean not null default false,
    status text not null,
    sent_at timestamptz,
    delivered_at timestamptz,
    read_at timestamptz,
    played_at timestamptz,
    failed_at timestamptz,
    error_code int,
    error_message text,
    send_verdict text,
    send_reason text,
    pricing jsonb,
    price_class text,
    estimated_cost numeric(12, 6),
    consented_cost numeric(12, 6),
    actual_cost numeric(12, 6),
    currency text,
    edited_at timestamptz,
    revoked_at timestamptz,
    previous jsonb,
    reactions jsonb,
    scheduled_at timestamptz,
    idempotency_key text,
    request_hash text,
    provider_at timestamptz not null,
    created_at timestamptz not null default now(),
    -- What was written on the phone is left out: not every provider says what became of it. One column, so that of the
    -- steps of a message only those that begin and end it touch its index.
    awaits_delivery boolean not null
        generated always as (direction = 'outbound' and status = 'sent' and source <> 'manual') stored,
    constraint messages_pkey primary key (tenant_id, id),
    -- lead and number are the chat's: one check in place of three, and none that locks the number's row
    constraint messages_chat_id_fkey foreign key (tenant_id, lead_id, chat_id, number_id)
        references public.chats (tenant_id, lead_id, id, number_id) on update cascade,
    constraint messages_conversation_id_fkey foreign key (tenant_id, conversation_id)
        references public.conversations (tenant_id, id),
    constraint messages_author_id_fkey foreign key (tenant_id, author_id) references public.users (tenant_id, id),
    constraint messages_forced_by_fkey foreign key (tenant_id, forced_by) references public.users (tenant_id, id),
    constraint messages_template_id_fkey foreign key (tenant_id, template_id)
        references public.message_templates (tenant_id, id),
    constraint messages_direction_check check (direction in ('inbound', 'outbound')),
    constraint messages_role_check check (role in ('user', 'assistant', 'human', 'system')),
    constraint messages_source_check check (source in (
        'customer', 'agent', 'manual', 'staff', 'sequence', 'daily_action', 'call_followup', 'api')),
    constraint messages_status_check check (status in (
        'received', 'queued', 'sending', 'sent', 'delivered', 'read', 'played', 'failed', 'skipped', 'canceled',
        'unknown')),
    constraint messages_direction_status_check check ((direction = 'inbound') = (status = 'received')),
    constraint messages_send_verdict_check check (send_verdict in ('send', 'wait', 'template', 'manual', 'never')),
    constraint messages_idempotency_key_check check (
        length(idempotency_key) between 1 and 200 and (idempotency_key is null) = (request_hash is null))
) with (fillfactor = 90);
comment on table public.messages is 'Every message of both sides, stored once per number and provider id.';
comment on column public.messages.wa_message_id is 'pii: the provider''s id; Meta''s carries the phone, in base64';
comment on column public.messages.content is 'pii: text, or the caption of a medium';
comment on column public.messages.is_named is
    'It came with the customer''s name: the last one that did gave customer_leads.user_name.';
comment on column public.messages.forced_by is 'The member of staff who sent it against the rules, knowing the cost.';
comment on column public.messages.forced_reason is 'pii: why, in the words of forced_by';
comment on column public.messages.consented_cost is 'The estimate that forced_by was shown, and agreed to.';
comment on column public.messages.scheduled_at is 'When it was meant to go out; null: at once.';
comment on column public.messages.idempotency_key is
    'The front end''s own name for what it asked, so that asking twice sends once; request_hash tells what it asked.';
comment on column public.messages.data is
    'pii: what the type carries besides text: place, card, button, order, template';
comment on column public.messages.raw is 'pii: what the provider sent, where we do not model it';
comment on column public.messages.referral is 'pii: the ad that brought the customer';
comment on column public.messages.previous is 'pii: earlier texts of an edited or revoked message, oldest first';
comment on column public.messages.reactions is 'pii: {"customer": {"emoji", "at"}, "business": {…}}';
comment on column public.messages.error_message is 'pii: the provider may name the recipient';
comment on column public.messages.reply_to is 'pii: provider id of the quoted message, which we may never have seen.';
comment on column public.messages.awaits_delivery is
    'It was sent, and nobody has said yet that it arrived: what blocks are seen by.';
comment on column public.messages.conversation_id is
    'Null for history that came with a number: it was no session of ours.';
comment on column public.messages.provider_at is
    'The provider''s time, never more than five minutes ahead; lists sort by it.';
comment on column public.messages.pricing is 'What the provider first said about its price; it says so several times.';
comment on column public.messages.actual_cost is 'From pricing: nothing where it is free, else the list price.';

create index messages_tenant_id_chat_id_provider_at_id_idx
    on public.messages (tenant_id, chat_id, provider_at desc, id desc);
create index messages_tenant_id_conversation_id_idx on public.messages (tenant_id, conversation_id);
create index messages_tenant_id_lead_id_chat_id_number_id_idx
    on public.messages (tenant_id, lead_id, chat_id, number_id);
create index messages_tenant_id_author_id_idx on public.messages (tenant_id, author_id) where author_id is not null;
create index messages_tenant_id_forced_by_idx on public.messages (tenant_id, forced_by) where forced_by is not null;
create index messages_tenant_id_template_id_idx
    on public.messages (tenant_id, template_id) where template_id is not null;
create unique index messages_tenant_id_idempotency_key
    on public.messages (tenant_id, idempotency_key) where idempotency_key is not null;
create index messages_tenant_id_agent_id_idx on public.messages (tenant_id, agent_id) where agent_id is not null;
-- A day of a business, wherever its messages are: what statistics are counted from.
create index messages_tenant_id_provider_at_idx on public.messages (tenant_id, provider_at);
-- Few: a message leaves it when it arrives.
create index messages_tenant_id_chat_id_awaits_delivery_idx
    on public.messages (tenant_id, chat_id, provider_at) where awaits_delivery;

-- The same message is delivered again for days: it is stored once. After the indexes, for the reason given at
-- customer_leads_pkey; and no other index may hold number_id, or the planner, who thinks that tenant and number alone
-- leave next to nothing, reads all messages of a number through it.
alter table public.messages add constraint messages_tenant_id_number_id_wa_message_id_key
    unique (tenant_id, number_id, wa_message_id);

alter table public.messages enable row level security;
grant select on public.messages to authenticated;
grant select, insert, update, delete on public.messages to service_role;
create policy messages_select_member on public.messages for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- Something heard of a customer; how: delivered, read or inbound.
create type private.life_sign as (tenant_id uuid, chat_id uuid, at timestamptz, how text);

-- A message that went out, with the time of it.
create type private.sent as (tenant_id uuid, message_id uuid, sent_at timestamptz);

create table public.media (
    tenant_id uuid,
    id uuid default private.uuid7(),
    message_id uuid not null,
    provider_media_id text,
    mime text,
    sha256 text,
    size bigint,
    filename text,
    url text,
    is_voice boolean not null default false,
    is_animated boolean not null default false,
    status text not null default 'pending',
    storage_path text,
    error text,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint media_pkey primary key (tenant_id, id),
    constraint media_message_id_fkey foreign key (tenant_id, message_id) references public.messages (tenant_id, id)
        on delete cascade,
    constraint media_status_check check (status in ('pending', 'stored', 'failed'))
);
comment on table public.media is 'Files of messages; to be fetched while the provider keeps them.';
comment on column public.media.expires_at is
    'The provider keeps it until then: Meta 7 days, Whapi 30 days; null: until somebody deletes it.';
comment on column public.media.error is 'pii: the provider may name the customer';
comment on column public.media.filename is 'pii: the customer''s own name for the file';
comment on column public.media.url is 'pii: where the provider shows the file for five minutes';

create index media_tenant_id_message_id_idx on public.media (tenant_id, message_id);

create trigger media_touch_updated_at before update on public.media
    for each row execute function private.touch_updated_at();

alter table public.media enable row level security;
grant select on public.media to authenticated;
grant select, insert, update, delete on public.media to service_role;
create policy media_select_member on public.media for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The caller's tenant, whatever their role.
create function private.require_staff() returns uuid
language plpgsql stable set search_path = '' as $$
declare
    v_tenant_id uuid := private.my_tenant_id();
begin
    if v_tenant_id is null then
        perform private.refuse('PT403', 'no_seat');
    end if;
    return v_tenant_id;
end
$$;
grant execute on function private.require_staff() to authenticated;

-- A conversation of that tenant, with its chat locked.
create function private.conversation_locked(p_tenant_id uuid, p_conversation_id uuid) returns public.conversations
language plpgsql set search_path = '' as $$
declare
    v_conversation public.conversations;
begin
    perform from public.chats c
    where c.tenant_id = p_tenant_id and c.id = (
        select chat_id from public.conversations where tenant_id = p_tenant_id and id = p_conversation_id)
    for no key update;
    select * into v_conversation from public.conversations where tenant_id = p_tenant_id and id = p_conversation_id;
    if not found then
        perform private.refuse('PT404', 'no_conversation');
    end if;
    return v_conversation;
end
$$;

-- Seconds from a customer's message to our next one: the first such answer, and the mean of all.
create function private.response_times(p_tenant_id uuid, p_conversation_id uuid)
returns table (first_seconds int, mean_seconds int)
language sql stable rows 1 set search_path = '' as $$
    select
        (array_agg(seconds order by at))[1]::int,
        avg(seconds)::int
    from (
        select m.provider_at as at, m.direction,
            extract(epoch from m.provider_at - lag(m.provider_at) over w) as seconds,
            lag(m.direction) over w as before
        from public.messages m
        where m.tenant_id = p_tenant_id and m.conversation_id = p_conversation_id
        -- of the same second: the question before the answer
        window w as (order by m.provider_at, m.direction, m.id)
    ) as turns
    where direction = 'outbound' and before = 'inbound'
$$;

-- p_reason: silence, staff or agent.
create function private.conversations_finish(p_tenant_id uuid, p_ids uuid[], p_reason text) returns void
language sql set search_path = '' as $$
    update public.conversations c
    set status = 'closed', closed_at = (select private.clock()), closed_reason = p_reason, requires_attention = false,
        first_response_time = t.first_seconds, avg_response_time = t.mean_seconds
    from unnest(p_ids) as finished (id)
    cross join lateral private.response_times(p_tenant_id, finished.id) t
    where c.tenant_id = p_tenant_id and c.id = finished.id and c.status = 'open'
$$;
grant execute on function private.response_times(uuid, uuid), private.conversations_finish(uuid, uuid[], text)
    to service_role;

-- A session of a chat as its messages tell it: what a silence parts. id: the conversation it is, or will be.
create type private.chat_session as (
    id uuid, first_at timestamptz, last_at timestamptz, messages int, message_ids uuid [], is_last boolean
);

-- The sessions of a chat among messages of these conversations. Each keeps the conversation that most of it was, the
-- open one first; p_new: messages just stored, which say nothing about that. p_spare: an open conversation of only
-- such messages.
create function private.chat_sessions(
    p_tenant_id uuid, p_conversations uuid[], p_ended timestamptz[], p_new uuid[], p_spare uuid, p_idle interval
) returns private.chat_session[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        with told as (
            select m.id, m.provider_at as at, m.conversation_id, v.reopened_at, m.id = any (p_new) as is_new,
                lag(m.provider_at) over (order by m.provider_at, m.id) as before_at
            from public.messages m
            join public.conversations v on v.tenant_id = m.tenant_id and v.id = m.conversation_id
            where m.tenant_id = p_tenant_id and m.conversation_id = any (p_conversations)
        ),
        parted as (
            select t.*, count(*) filter (
                where at - greatest(before_at, case when reopened_at <= at then reopened_at end) > p_idle
                    or exists (select from unnest(p_ended) as e (at) where e.at > before_at and e.at <= t.at)
            ) over (order by at, id) as n
            from told t
        ),
        owned as (
            select distinct on (c.n) c.n, c.conversation_id
            from (
                select distinct on (conversation_id) conversation_id, n from parted where not is_new
                order by conversation_id, at desc, id desc
            ) as c
            join public.conversations v on v.tenant_id = p_tenant_id and v.id = c.conversation_id
            order by c.n, v.status = 'open' desc, v.opened_at desc, v.id
        )
        select (
            coalesce(
                o.conversation_id,
                case when p.n = max(p.n) filter (where o.n is null) over () then p_spare end, private.uuid7()),
            p.first_at, p.last_at, p.messages, p.ids, p.n = max(p.n) over ())::private.chat_session
        from (
            select n, min(at) as first_at, max(at) as last_at, count(*) as messages, array_agg(id) as ids
            from parted
            group by n
        ) as p
        left join owned o using (n)
        order by p.n);
end
$$;

-- Late messages, or such as come after a silence, change where one session ends and the next begins: put that right
-- from p_since on, as if every message had come in its time. What staff or an agent have closed stays as it was. The
-- chat is locked.
create function private.conversations_regroup(
    p_tenant_id uuid, p_chat_id uuid, p_since timestamptz, p_new uuid[] default '{}'
) returns void
language plpgsql set search_path = '' as $$
declare
    v_idle interval := (
        select make_interval(hours => conversation_idle_hours)
        from public.tenant_settings where tenant_id = p_tenant_id);
    v_known uuid[] := array(
        select id from public.conversations
        where tenant_id = p_tenant_id and chat_id = p_chat_id
            and (status = 'open' or closed_reason = 'silence' and coalesce(last_at, opened_at) >= p_since - v_idle));
    v_is_open boolean := exists (
        select from public.conversations where tenant_id = p_tenant_id and id = any (v_known) and status = 'open');
    v_sessions private.chat_session[] := private.chat_sessions(p_tenant_id, v_known,
        array(
            select opened_at from public.conversations
            where tenant_id = p_tenant_id and chat_id = p_chat_id and closed_reason in ('staff', 'agent')),
        p_new,
        (
            select v.id from public.conversations v
            where v.tenant_id = p_tenant_id and v.id = any (v_known) and v.status = 'open' and not exists (
                select from public.messages m
                where m.tenant_id = p_tenant_id and m.conversation_id = v.id and m.id <> all (p_new))),
        v_idle);
begin
    insert into public.conversations (tenant_id, id, chat_id, status, opened_at, closed_at, closed_reason)
    select p_tenant_id, s.id, p_chat_id, 'closed', s.first_at, (select private.clock()), 'silence'
    from unnest(v_sessions) s
    where s.id <> all (v_known);

    update public.messages m set conversation_id = s.id
    from unnest(v_sessions) s
    cross join lateral unnest(s.message_ids) as told (id)
    where m.tenant_id = p_tenant_id and m.id = told.id and m.conversation_id <> s.id;

    perform private.conversations_finish(p_tenant_id, array(
        select id from public.conversations
        where tenant_id = p_tenant_id and id = any (v_known) and status = 'open' and not exists (
            select from unnest(v_sessions) s where s.id = conversations.id and s.is_last)), 'silence');
    delete from public.conversations
    where tenant_id = p_tenant_id and id = any (v_known)
        and not exists (select from unnest(v_sessions) s where s.id = conversations.id);
    update public.conversations v
    set status = case when o.is_open then 'open' else 'closed' end,
        closed_at = case when not o.is_open then v.closed_at end,
        closed_reason = case when not o.is_open then v.closed_reason end,
        opened_at = s.first_at, last_at = s.last_at, message_count = s.messages,
        first_response_time = t.first_seconds, avg_response_time = t.mean_seconds
    from unnest(v_sessions) s
    cross join lateral (select s.is_last and v_is_open as is_open) as o
    left join lateral private.response_times(p_tenant_id, s.id) t on not o.is_open
    where v.tenant_id = p_tenant_id and v.id = s.id;
end
$$;
grant execute on function
    private.chat_sessions(uuid, uuid[], timestamptz[], uuid[], uuid, interval),
    private.conversations_regroup(uuid, uuid, timestamptz, uuid[]) to service_role;

-- Definer: staff may not write status, which only these rules change.
create function private.conversation_close(p_conversation_id uuid, p_outcome text, p_summary text)
returns public.conversations
language plpgsql security definer set search_path = '' as $$
declare
    v_conversation public.conversations := private.conversation_locked(private.require_staff(), p_conversation_id);
begin
    if v_conversation.status = 'closed' then
        perform private.refuse('PT409', 'conversation_closed');
    end if;
    perform private.conversations_finish(v_conversation.tenant_id, array[p_conversation_id], 'staff');
    update public.conversations
    set outcome = coalesce(p_outcome, outcome), summary = coalesce(p_summary, summary)
    where tenant_id = v_conversation.tenant_id and id = p_conversation_id
    returning * into v_conversation;
    return v_conversation;
end
$$;

create function private.conversation_assign(p_conversation_id uuid, p_user_id uuid) returns public.conversations
language plpgsql security definer set search_path = '' as $$
declare
    v_conversation public.conversations := private.conversation_locked(private.require_staff(), p_conversation_id);
begin
    if p_user_id is not null and not exists (
        select from public.users where tenant_id = v_conversation.tenant_id and id = p_user_id and is_active
    ) then
        perform private.refuse('PT404', 'no_colleague');
    end if;
    update public.conversations set assigned_to = p_user_id
    where tenant_id = v_conversation.tenant_id and id = p_conversation_id
    returning * into v_conversation;
    return v_conversation;
end
$$;

create function private.conversation_reopen(p_conversation_id uuid) returns public.conversations
language plpgsql security definer set search_path = '' as $$
declare
    v_conversation public.conversations := private.conversation_locked(private.require_staff(), p_conversation_id);
begin
    if exists (
        select from public.conversations
        where tenant_id = v_conversation.tenant_id and chat_id = v_conversation.chat_id and status = 'open'
    ) then
        perform private.refuse('PT409', 'conversation_open');
    end if;
    update public.conversations set status = 'open', closed_at = null, closed_reason = null, reopened_at = (select private.clock())
    where tenant_id = v_conversation.tenant_id and id = p_conversation_id
    returning * into v_conversation;
    return v_conversation;
end
$$;

create function private.chat_mark_read(p_chat_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    update public.chats set unread_count = 0
    where tenant_id = v_tenant_id and id = p_chat_id and unread_count > 0;
    if not found and not exists (select from public.chats where tenant_id = v_tenant_id and id = p_chat_id) then
        perform private.refuse('PT404', 'no_chat');
    end if;
end
$$;
grant execute on function private.conversation_close(uuid, text, text), private.conversation_assign(uuid, uuid),
    private.conversation_reopen(uuid), private.chat_mark_read(uuid) to authenticated;

-- What staff call. Each answers with the conversation as it is now.
create function public.conversation_close(
    p_conversation_id uuid, p_outcome text default null, p_summary text default null
) returns public.conversations language sql set search_path = '' as $$
    select private.conversation_close(p_conversation_id, p_outcome, p_summary)
$$;

create function public.conversation_assign(p_conversation_id uuid, p_user_id uuid) returns public.conversations
language sql set search_path = '' as $$
    select private.conversation_assign(p_conversation_id, p_user_id)
$$;

create function public.conversation_reopen(p_conversation_id uuid) returns public.conversations
language sql set search_path = '' as $$
    select private.conversation_reopen(p_conversation_id)
$$;

create function public.chat_mark_read(p_chat_id uuid) returns void
language sql set search_path = '' as $$
    select private.chat_mark_read(p_chat_id)
$$;
grant execute on function public.conversation_close(uuid, text, text), public.conversation_assign(uuid, uuid),
    public.conversation_reopen(uuid), public.chat_mark_read(uuid) to authenticated;

-- The sweep: close what has been silent for longer than its business wants. Returns how many it closed.
create function public.conversations_close_idle(p_limit int default 1000) returns int
language plpgsql set search_path = '' as $$
declare
    v_tenant record;
    v_count int := 0;
begin
    for v_tenant in
        select idle.tenant_id, array_agg(idle.id) as ids
        from (
            select v.tenant_id, v.id
            from public.conversations v
            join public.chats c on c.tenant_id = v.tenant_id and c.id = v.chat_id
            join public.tenant_settings s on s.tenant_id = v.tenant_id
            where v.status = 'open'
                and greatest(c.last_interaction_at, v.opened_at, v.reopened_at)
                    < (select private.clock()) - make_interval(hours => s.conversation_idle_hours)
            order by c.tenant_id, c.id
            limit p_limit
            for no key update of c skip locked
        ) as idle
        group by idle.tenant_id
    loop
        perform private.conversations_finish(v_tenant.tenant_id, v_tenant.ids, 'silence');
        v_count := v_count + cardinality(v_tenant.ids);
    end loop;
    return v_count;
end
$$;
grant execute on function public.conversations_close_idle(int) to service_role;

-- A page of the inbox, newest first. The next page starts at the last row's last_at and chat_id.
create function public.inbox_list(
    p_limit int default 50,
    p_before_at timestamptz default null,
    p_before_chat uuid default null,
    p_number_id uuid default null,
    p_assigned_to uuid default null,
    p_unread boolean default false,
    p_attention boolean default false
) returns table (
    chat_id uuid, number_id uuid, number_name text, lead_id uuid, lead_name text, lead_phone text,
    labels text[], lead_priority smallint, last_at timestamptz, last_direction text, last_type text,
    last_content text, last_status text, unread_count int, window_expires_at timestamptz, window_open boolean,
    free_entry_until timestamptz, free_entry_reply_by timestamptz, agent_paused_until timestamptz, block_state text,
    conversation_id uuid,
    requires_attention boolean, assigned_to uuid, assignee_name text
)
language plpgsql stable rows 50 set search_path = '' as $$
begin
    return query
    with page as (
        select c.*, v.id as conversation_id, v.requires_attention, v.assigned_to,
            private.free_entry_reply_by(c) as reply_by
        from public.chats c
        left join public.conversations v
            on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
        where c.inbox_hour <= coalesce(p_before_at, 'infinity')
            and (c.last_interaction_at, c.id) < (
                coalesce(p_before_at, 'infinity'), coalesce(p_before_chat, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            and (p_number_id is null or c.number_id = p_number_id)
            and (p_assigned_to is null or v.assigned_to = p_assigned_to)
            and (not p_unread or c.unread_count > 0)
            and (not p_attention or v.requires_attention)
        order by c.inbox_hour desc, c.last_interaction_at desc, c.id desc
        limit greatest(least(p_limit, 200), 0)
    )
    select
        p.id, p.number_id, n.display_name, p.lead_id, coalesce(l.name, l.user_name, l.phone), l.phone,
        array_remove(array[l.label1, l.label2, l.label3], null), l.priority,
        p.last_interaction_at, m.direction, m.type, m.content, m.status,
        p.unread_count, p.window_expires_at, coalesce(p.window_expires_at > (select private.clock()), false),
        p.free_entry_until, case when p.reply_by > (select private.clock()) then p.reply_by end, p.agent_paused_until, p.block_state, p.conversation_id,
        coalesce(p.requires_attention, false), p.assigned_to, coalesce(u.name, u.email)
    from page p
    join public.customer_leads l on l.tenant_id = p.tenant_id and l.id = p.lead_id
    join public.whatsapp_numbers n on n.tenant_id = p.tenant_id and n.id = p.number_id
    left join public.users u on u.tenant_id = p.tenant_id and u.id = p.assigned_to
    left join lateral (
        select m.direction, m.type, left(m.content, 200) as content, m.status
        from public.messages m
        where m.tenant_id = p.tenant_id and m.chat_id = p.id
        order by m.provider_at desc, m.id desc
        limit 1
    ) m on true
    order by p.last_interaction_at desc, p.id desc;
end
$$;

-- A page of a chat's messages, newest first. The next page starts at the last row's provider_at and id.
create function public.messages_list(
    p_chat_id uuid, p_limit int default 50, p_before_at timestamptz default null, p_before_id uuid default null
) returns table (
    id uuid, conversation_id uuid, direction text, role text, source text, author_id uuid, agent_id uuid,
    type text, content text, data jsonb, wa_message_id text, reply_to text, status text, provider_at timestamptz,
    sent_at timestamptz, delivered_at timestamptz, read_at timestamptz, failed_at timestamptz, error_code int,
    error_message text, edited_at timestamptz, revoked_at timestamptz, reactions jsonb, media jsonb
)
language plpgsql stable rows 50 set search_path = '' as $$
begin
    return query
    select
        m.id, m.conversation_id, m.direction, m.role, m.source, m.author_id, m.agent_id,
        m.type, m.content, m.data, m.wa_message_id, m.reply_to, m.status, m.provider_at,
        m.sent_at, m.delivered_at, m.read_at, m.failed_at, m.error_code,
        m.error_message, m.edited_at, m.revoked_at, m.reactions,
        case when m.type <> 'text' then (
            select jsonb_agg(jsonb_build_object('id', f.id, 'mime', f.mime, 'filename', f.filename, 'size', f.size,
                'status', f.status, 'storage_path', f.storage_path))
            from public.media f
            where f.tenant_id = m.tenant_id and f.message_id = m.id
        ) end
    from public.messages m
    -- RLS adds the tenant
    where m.chat_id = p_chat_id
        and (m.provider_at, m.id) < (
            coalesce(p_before_at, 'infinity'), coalesce(p_before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
    order by m.provider_at desc, m.id desc
    limit greatest(least(p_limit, 200), 0);
end
$$;

-- Everything about one customer, for the side of a chat. Null when there is no such lead.
create function public.lead_card(p_lead_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(l) || jsonb_build_object(
        'identities', (
            select coalesce(jsonb_agg(jsonb_build_object('kind', i.kind, 'value', i.value, 'since', i.valid_from)
                order by i.valid_from, i.kind), '[]')
            from public.lead_identities i
            where i.tenant_id = l.tenant_id and i.lead_id = l.id and i.valid_to = 'infinity'),
        'chats', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'id', c.id, 'number_id', c.number_id, 'last_interaction_at', c.last_interaction_at,
                'window_expires_at', c.window_expires_at, 'free_entry_until', c.free_entry_until,
                'free_entry_reply_by', case when private.free_entry_reply_by(c) > (select private.clock())
                    then c.free_entry_reply_by end,
                'block_state', c.block_state, 'referral', c.referral, 'conversation_id', v.id)
                order by c.last_interaction_at desc), '[]')
            from public.chats c
            left join public.conversations v
                on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
            where c.tenant_id = l.tenant_id and c.lead_id = l.id),
        'consent', (
            select coalesce(jsonb_agg(jsonb_build_object('kind', e.kind, 'scope', e.scope, 'source', e.source,
                'at', e.happened_at) order by e.happened_at desc), '[]')
            from public.consent_events e
            where e.tenant_id = l.tenant_id and e.lead_id = l.id))
    from public.customer_leads l
    where l.id = p_lead_id
$$;
grant execute on function
    public.inbox_list(int, timestamptz, uuid, uuid, uuid, boolean, boolean),
    public.messages_list(uuid, int, timestamptz, uuid),
    public.lead_card(uuid) to authenticated;
