-- Messages that arrive: their chats and conversations, themselves and their files, and what they do to the window.

create function private.chats_find(p_events private.inbox_event[], p_leads uuid[]) returns uuid[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select c.id
        from unnest(p_events) with ordinality as e
        left join lateral (
            select id from public.chats
            where tenant_id = e.tenant_id and number_id = e.number_id and lead_id = p_leads[e.ordinality]
            limit 1
        ) c on true
        order by e.ordinality);
end
$$;

create function private.chats_create(p_events private.inbox_event[], p_leads uuid[], p_chats uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.chats (tenant_id, number_id, lead_id, last_interaction_at)
    select e.tenant_id, e.number_id, p_leads[e.ordinality], min(e.at)
    from unnest(p_events) with ordinality as e
    where p_chats[e.ordinality] is null
    group by e.tenant_id, e.number_id, p_leads[e.ordinality]
    order by e.tenant_id, e.number_id, p_leads[e.ordinality]
    on conflict on constraint chats_tenant_id_number_id_lead_id_key do nothing;
end
$$;

-- The chat of each event, made if need be; all of them locked.
create function private.inbox_chats(p_events private.inbox_event[], p_leads uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_chats uuid[] := private.chats_find(p_events, p_leads);
begin
    if array_position(v_chats, null) is not null then
        perform private.chats_create(p_events, p_leads, v_chats);
        v_chats := private.chats_find(p_events, p_leads);
    end if;
    perform from public.chats c
    join (select distinct e.tenant_id, v_chats[e.ordinality] as id from unnest(p_events) with ordinality as e) as w
        on c.tenant_id = w.tenant_id and c.id = w.id
    order by c.tenant_id, c.id
    for no key update of c;
    return v_chats;
end
$$;

-- The open conversation of each event's chat, opened if need be; null for history and calls. After a silence the
-- next message begins a new one, whether or not the sweep has been by.
create function private.inbox_conversations(p_events private.inbox_event[], p_chats uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_silent record;
begin
    for v_silent in
        select v.tenant_id, array_agg(v.id) as ids
        from (
            select e.tenant_id, p_chats[e.ordinality] as chat_id, min(e.at) as at
            from unnest(p_events) with ordinality as e
            where e.kind <> 'call' and not coalesce((e.body ->> 'history')::boolean, false)
            group by e.tenant_id, p_chats[e.ordinality]
        ) as first
        join public.chats c on c.tenant_id = first.tenant_id and c.id = first.chat_id
        cross join lateral (
            select * from public.conversations
            where tenant_id = c.tenant_id and chat_id = c.id and status = 'open'
            limit 1
        ) v
        where first.at > greatest(c.last_interaction_at, v.reopened_at) + make_interval(hours => (
            select conversation_idle_hours from public.tenant_settings where tenant_id = c.tenant_id))
        group by v.tenant_id
    loop
        perform private.conversations_finish(v_silent.tenant_id, v_silent.ids);
    end loop;

    return private.conversations_open(p_events, p_chats);
end
$$;

create function private.conversations_open(p_events private.inbox_event[], p_chats uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_conversations uuid[];
begin
    with wanted as materialized (
        select e.ordinality as n, e.tenant_id, p_chats[e.ordinality] as chat_id, e.at, v.id
        from unnest(p_events) with ordinality as e
        left join lateral (
            select id from public.conversations
            where tenant_id = e.tenant_id and chat_id = p_chats[e.ordinality] and status = 'open'
            limit 1
        ) v on true
        where e.kind <> 'call' and not coalesce((e.body ->> 'history')::boolean, false)
    ),
    opened as (
        insert into public.conversations (tenant_id, chat_id, opened_at)
        select tenant_id, chat_id, min(at)
        from wanted
        where id is null
        group by tenant_id, chat_id
        returning tenant_id, chat_id, id
    )
    select array_agg(coalesce(w.id, o.id) order by n)
    into v_conversations
    from generate_subscripts(p_events, 1) as n
    left join wanted w using (n)
    left join opened o on o.tenant_id = w.tenant_id and o.chat_id = w.chat_id;
    return v_conversations;
end
$$;

-- Store the messages among the events. Returns those that were stored, and the calls.
create function private.inbox_store(
    p_events private.inbox_event[], p_leads uuid[], p_chats uuid[], p_conversations uuid[]
) returns private.inbox_message[]
language plpgsql set search_path = '' as $$
declare
    v_live_after timestamptz := private.clock() - interval '24 hours';
    -- in order, since messages of the same second are shown in the order of their ids
    v_ids uuid[] := array(select private.uuid7() from unnest(p_events) order by 1);
    v_stored private.inbox_message[];
begin
    with stored as (
        insert into public.messages (
            tenant_id, id, chat_id, conversation_id, lead_id, number_id, direction, role, source, type, content,
            data, is_forwarded, wa_message_id, reply_to, referral, raw, status, sent_at, provider_at)
        select
            e.tenant_id, v_ids[e.ordinality], p_chats[e.ordinality], p_conversations[e.ordinality],
            p_leads[e.ordinality], e.number_id, k.direction, k.role, k.source,
            coalesce(e.body ->> 'type', 'unknown'), e.body ->> 'text',
            nullif(e.body -> 'data', 'null'), coalesce((e.body #>> '{context,forwarded}')::boolean, false),
            e.id, e.body #>> '{context,id}', nullif(e.body -> 'referral', 'null'), nullif(e.body -> 'raw', 'null'),
            k.status, case when e.kind = 'echo' then e.at end, e.at
        from unnest(p_events) with ordinality as e
        join (values
            ('message', 'inbound', 'user', 'customer', 'received'),
            ('echo', 'outbound', 'human', 'manual', 'sent')
        ) as k (kind, direction, role, source, status) on k.kind = e.kind
        order by e.ordinality
        on conflict on constraint messages_tenant_id_number_id_wa_message_id_key do nothing
        returning id
    )
    select array_agg((
            e.position, e.tenant_id, e.number_id, p_leads[e.ordinality], p_chats[e.ordinality],
            p_conversations[e.ordinality], s.id, e.id, e.kind, e.body ->> 'type', e.at, h.is_history,
            not h.is_history and e.at > v_live_after, e.body)::private.inbox_message
        order by e.ordinality)
    into v_stored
    from unnest(p_events) with ordinality as e
    cross join lateral (select coalesce((e.body ->> 'history')::boolean, false) as is_history) as h
    left join stored s on s.id = v_ids[e.ordinality]
    where s.id is not null or e.kind = 'call' and e.body ->> 'direction' = 'inbound';
    return coalesce(v_stored, '{}');
end
$$;

create function private.inbox_media(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.media (
        tenant_id, message_id, provider_media_id, mime, sha256, size, filename, url, is_voice, is_animated)
    select s.tenant_id, s.message_id, f ->> 'id', f ->> 'mime', f ->> 'sha256', (f ->> 'size')::bigint,
        f ->> 'filename', f ->> 'url', coalesce((f ->> 'voice')::boolean, false),
        coalesce((f ->> 'animated')::boolean, false)
    from unnest(p_stored) s
    cross join lateral nullif(s.body -> 'media', 'null') as f
    where jsonb_typeof(f) = 'object';
end
$$;

-- Chats and conversations after their new messages. The customer alone opens the window; a person who writes from
-- the phone silences the agent for a while.
create function private.inbox_touch(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.chats c
    set last_inbound_at = greatest(c.last_inbound_at, t.inbound_at),
        last_outbound_at = greatest(c.last_outbound_at, t.outbound_at),
        last_interaction_at = greatest(c.last_interaction_at, t.inbound_at, t.outbound_at),
        window_expires_at = greatest(c.window_expires_at, t.opened_at + interval '24 hours'),
        unread_count = c.unread_count + t.unread,
        has_news = c.has_news or t.is_live,
        agent_paused_until = greatest(c.agent_paused_until, t.taken_over_at + make_interval(mins => (
            select human_takeover_minutes from public.tenant_settings where tenant_id = c.tenant_id))),
        referral = case when t.referral_at > coalesce(c.referral_at, '-infinity') then t.referral else c.referral end,
        referral_at = greatest(c.referral_at, t.referral_at)
    from (
        select
            m.tenant_id, m.chat_id,
            max(m.at) filter (where m.kind <> 'echo') as inbound_at,
            max(m.at) filter (where m.kind = 'echo') as outbound_at,
            max(m.at) filter (where m.kind <> 'echo' and not m.is_history) as opened_at,
            max(m.at) filter (where m.kind = 'echo' and m.is_live) as taken_over_at,
            count(*) filter (where m.kind = 'message' and not m.is_history) as unread,
            bool_or(m.is_live) as is_live,
            max(m.at) filter (where jsonb_typeof(m.body -> 'referral') = 'object') as referral_at,
            (array_agg(m.body -> 'referral' order by m.at desc)
                filter (where jsonb_typeof(m.body -> 'referral') = 'object'))[1] as referral
        from unnest(p_stored) m
        group by m.tenant_id, m.chat_id
    ) as t
    where c.tenant_id = t.tenant_id and c.id = t.chat_id;

    update public.conversations v
    set message_count = v.message_count + t.messages
    from (
        select m.tenant_id, m.conversation_id, count(*) as messages
        from unnest(p_stored) m
        where m.message_id is not null and m.conversation_id is not null
        group by m.tenant_id, m.conversation_id
    ) as t
    where v.tenant_id = t.tenant_id and v.id = t.conversation_id;
end
$$;

grant execute on function
    private.chats_find(private.inbox_event[], uuid[]), private.chats_create(private.inbox_event[], uuid[], uuid[]),
    private.inbox_chats(private.inbox_event[], uuid[]), private.inbox_conversations(private.inbox_event[], uuid[]),
    private.conversations_open(private.inbox_event[], uuid[]),
    private.inbox_store(private.inbox_event[], uuid[], uuid[], uuid[]),
    private.inbox_media(private.inbox_message[]), private.inbox_touch(private.inbox_message[])
    to service_role;
