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
    perform from public.customer_leads l
    join (
        select distinct e.tenant_id, p_leads[e.ordinality] as id
        from unnest(p_events) with ordinality as e
        where p_chats[e.ordinality] is null
    ) as w on l.tenant_id = w.tenant_id and l.id = w.id
    where l.merged_into is not null
    for key share of l;
    if found then
        raise exception using errcode = 'PT409', message = 'The customer was joined with another in this moment.',
            hint = 'Deliver it again.';
    end if;
    insert into public.chats (tenant_id, number_id, lead_id, last_interaction_at)
    select e.tenant_id, e.number_id, p_leads[e.ordinality], min(e.at)
    from unnest(p_events) with ordinality as e
    where p_chats[e.ordinality] is null and e.kind <> 'preference'
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

-- The open conversation of each event's chat, opened if need be; null for history and calls. Where a silence parts
-- the messages, conversations_regroup() puts that right once they are stored.
create function private.inbox_conversations(p_events private.inbox_event[], p_chats uuid[]) returns uuid[]
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
        where e.kind in ('message', 'echo') and not coalesce((e.body ->> 'history')::boolean, false)
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

-- Echoes of messages that we have and whose send has not ended, known by their words: what is on its way takes the
-- provider's id from its echo; what still waits to go out was written by a person meanwhile, and will not be sent.
-- Returns them like messages stored.
create function private.inbox_adopt(p_events private.inbox_event[], p_leads uuid[], p_chats uuid[])
returns private.inbox_message[]
language plpgsql set search_path = '' as $$
declare
    v_adopted private.inbox_message[];
begin
    if not exists (select from unnest(p_events) e where e.kind = 'echo') then
        return array[]::private.inbox_message[];
    end if;
    with echoed as materialized (
        select e.*, e.ordinality as n, o.message_id, o.state in ('queued', 'claimed') as is_manual,
            row_number() over (partition by e.ordinality order by o.state in ('queued', 'claimed'), o.position) as choice,
            row_number() over (partition by o.message_id order by e.at, e.ordinality) as turn
        from unnest(p_events) with ordinality as e
        join public.outbox o on o.tenant_id = e.tenant_id and o.chat_id = p_chats[e.ordinality]
        join public.messages m on m.tenant_id = o.tenant_id and m.id = o.message_id
        where e.kind = 'echo' and not coalesce((e.body ->> 'history')::boolean, false)
            and m.wa_message_id is null and m.type = e.body ->> 'type'
            and private.fold(m.content) = private.fold(e.body ->> 'text')
            -- clocks differ
            and e.at > m.provider_at - interval '1 minute'
        order by o.tenant_id, o.message_id
    ),
    done as (
        delete from public.outbox o
        using echoed e
        where e.choice = 1 and e.turn = 1 and o.tenant_id = e.tenant_id and o.message_id = e.message_id
    ),
    adopted as (
        update public.messages m
        set wa_message_id = e.id, status = 'sent', sent_at = e.at,
            source = case when e.is_manual then 'manual' else m.source end,
            role = case when e.is_manual then 'human' else m.role end
        from echoed e
        where e.choice = 1 and e.turn = 1 and m.tenant_id = e.tenant_id and m.id = e.message_id
    )
    select array_agg((
        e.position, e.tenant_id, e.number_id, p_leads[e.n], p_chats[e.n], null, e.message_id, e.id, 'echo',
        e.body ->> 'type', e.at, false, e.is_manual and e.at > private.clock() - interval '24 hours',
        e.body - 'media')::private.inbox_message)
    into v_adopted
    from echoed e
    where e.choice = 1 and e.turn = 1;
    return coalesce(v_adopted, '{}');
end
$$;

-- Store the messages among the events. Returns those that were stored, and the calls that tell something new.
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
            data, is_forwarded, wa_message_id, reply_to, referral, raw, is_named, status, sent_at, provider_at)
        select
            e.tenant_id, v_ids[e.ordinality], p_chats[e.ordinality], p_conversations[e.ordinality],
            p_leads[e.ordinality], e.number_id, k.direction, k.role, k.source,
            coalesce(e.body ->> 'type', 'unknown'), e.body ->> 'text',
            nullif(e.body -> 'data', 'null'), coalesce((e.body #>> '{context,forwarded}')::boolean, false),
            e.id, e.body #>> '{context,id}', nullif(e.body -> 'referral', 'null'), nullif(e.body -> 'raw', 'null'),
            e.kind = 'message' and private.shown_name(e.body -> 'contact') is not null, k.status,
            case when e.kind = 'echo' then e.at end, e.at
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
            p_conversations[e.ordinality], s.id, e.id,
            case when e.kind = 'call' and e.body ->> 'direction' <> 'inbound' then 'outbound_call' else e.kind end,
            e.body ->> 'type', e.at, h.is_history,
            not h.is_history and e.at > v_live_after, e.body)::private.inbox_message
        order by e.ordinality)
    into v_stored
    from unnest(p_events) with ordinality as e
    cross join lateral (select coalesce((e.body ->> 'history')::boolean, false) as is_history) as h
    left join stored s on s.id = v_ids[e.ordinality]
    where s.id is not null or e.kind = 'call' and exists (
        select from public.chats c
        where c.tenant_id = e.tenant_id and c.id = p_chats[e.ordinality]
            and case e.body ->> 'direction'
                when 'inbound' then
                    coalesce(c.last_inbound_at < e.at or c.window_expires_at < e.at + interval '24 hours', true)
                else coalesce(c.last_outbound_at < e.at, true)
            end);
    return coalesce(v_stored, '{}');
end
$$;

-- Content of messages that were stored without it: old ones with files, and such as WhatsApp could not read at first.
-- Returns them like messages stored, but for the conversation, which has counted them.
create function private.inbox_fill(p_events private.inbox_event[], p_stored private.inbox_message[])
returns private.inbox_message[]
language plpgsql set search_path = '' as $$
declare
    v_live_after timestamptz := private.clock() - interval '24 hours';
    v_filled private.inbox_message[];
begin
    if (select count(*) from unnest(p_events) e where e.kind in ('message', 'echo'))
        = (select count(s.message_id) from unnest(p_stored) s) then
        return array[]::private.inbox_message[];
    end if;
    with told as materialized (
        select e.*, m.id as message_id, m.lead_id, m.chat_id
        from unnest(p_events) e
        cross join lateral (
            select * from public.messages
            where tenant_id = e.tenant_id and number_id = e.number_id and wa_message_id = e.id
            limit 1
        ) as held
        join public.messages m on m.tenant_id = held.tenant_id and m.id = held.id
        where e.kind = case m.direction when 'inbound' then 'message' else 'echo' end
            and private.changes_message(m, e.kind, e.at, e.body)
        order by m.tenant_id, m.id
        for no key update of m
    ),
    filled as (
        update public.messages m
        set type = e.body ->> 'type',
            content = case when m.previous is null then e.body ->> 'text' else m.content end,
            -- what was edited or revoked meanwhile has its original there
            previous = jsonb_set(
                m.previous, '{0}', jsonb_build_object('at', e.at, 'content', e.body -> 'text')),
            data = nullif(e.body -> 'data', 'null'),
            is_forwarded = coalesce((e.body #>> '{context,forwarded}')::boolean, false),
            reply_to = e.body #>> '{context,id}', referral = nullif(e.body -> 'referral', 'null'),
            raw = nullif(e.body -> 'raw', 'null'), provider_at = e.at
        from told e
        where m.tenant_id = e.tenant_id and m.id = e.message_id
    )
    select array_agg((
        e.position, e.tenant_id, e.number_id, e.lead_id, e.chat_id, null, e.message_id, e.id, e.kind,
        e.body ->> 'type', e.at, h.is_history, not h.is_history and e.at > v_live_after, e.body
    )::private.inbox_message)
    into v_filled
    from told e
    cross join lateral (select coalesce((e.body ->> 'history')::boolean, false) as is_history) as h;
    return coalesce(v_filled, '{}');
end
$$;

create function private.inbox_media(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.media (
        tenant_id, message_id, provider_media_id, mime, sha256, size, filename, url, is_voice, is_animated, expires_at)
    select s.tenant_id, s.message_id, f ->> 'id', f ->> 'mime', f ->> 'sha256', (f ->> 'size')::bigint,
        f ->> 'filename', f ->> 'url', coalesce((f ->> 'voice')::boolean, false),
        coalesce((f ->> 'animated')::boolean, false),
        (f ->> 'expires_at')::timestamptz
    from unnest(p_stored) s
    cross join lateral nullif(s.body -> 'media', 'null') as f
    where jsonb_typeof(f) = 'object';
end
$$;

-- Chats and conversations after their new messages. The customer alone opens the window; a person who writes from
-- the phone silences the agent for a while. Answers the chats in which we had the last word.
create function private.inbox_touch(p_stored private.inbox_message[]) returns private.chat_ref[]
language plpgsql set search_path = '' as $$
declare
    v_answered private.chat_ref[];
    v_heard private.life_sign[];
begin
    with touched as (
        update public.chats c
        set last_inbound_at = greatest(c.last_inbound_at, t.inbound_at),
            last_outbound_at = greatest(c.last_outbound_at, t.outbound_at),
            last_interaction_at = greatest(c.last_interaction_at, t.inbound_at, t.outbound_at),
            window_expires_at = greatest(c.window_expires_at, t.opened_at + interval '24 hours'),
            unread_count = c.unread_count + t.unread,
            news_since = coalesce(c.news_since, case when t.is_live then (select private.clock()) end),
            agent_paused_until = greatest(c.agent_paused_until, t.taken_over_at + make_interval(mins => (
                select human_takeover_minutes from public.tenant_settings where tenant_id = c.tenant_id))),
            -- Whapi knows ads, but no prices
            free_entry_reply_by = case when t.ad_at is null or (
                select n.provider from public.whatsapp_numbers n where n.tenant_id = c.tenant_id and n.id = c.number_id
            ) = 'whapi' then c.free_entry_reply_by
            else greatest(c.free_entry_reply_by, t.ad_at + interval '24 hours') end,
            referral = case
                when coalesce((t.referral_at, t.referral) > (c.referral_at, c.referral), t.referral_at is not null)
                    then t.referral else c.referral end,
            referral_at = greatest(c.referral_at, t.referral_at)
        from (
            select
                m.tenant_id, m.chat_id,
                max(m.at) filter (where m.kind in ('message', 'call')) as inbound_at,
                max(m.at) filter (where m.kind not in ('message', 'call')) as outbound_at,
                max(m.at) filter (where m.kind in ('message', 'call') and not m.is_history) as opened_at,
                max(m.at) filter (where m.kind = 'echo' and m.is_live) as taken_over_at,
                count(*) filter (where m.kind = 'message' and m.conversation_id is not null) as unread,
                bool_or(m.is_live) as is_live,
                -- posts that were boosted bring no free entry point
                max(m.at) filter (where m.kind = 'message' and not m.is_history
                    and m.body #>> '{referral,source_type}' = 'ad') as ad_at,
                max(m.at) filter (where jsonb_typeof(m.body -> 'referral') = 'object') as referral_at,
                (array_agg(m.body -> 'referral' order by m.at desc, m.body -> 'referral' desc)
                    filter (where jsonb_typeof(m.body -> 'referral') = 'object'))[1] as referral
            from unnest(p_stored) m
            group by m.tenant_id, m.chat_id
        ) as t
        where c.tenant_id = t.tenant_id and c.id = t.chat_id
        returning c.tenant_id, c.id, c.last_outbound_at >= c.last_inbound_at as is_answered,
            case when c.block_state <> 'none' or c.reach_state <> 'ok' then t.inbound_at end as heard_at
    )
    select
        array_agg((tenant_id, id)::private.chat_ref) filter (where is_answered),
        array_agg((tenant_id, id, heard_at, 'inbound')::private.life_sign) filter (where heard_at is not null)
    into v_answered, v_heard
    from touched;
    if v_heard is not null then
        perform private.signs_of_life(v_heard);
    end if;

    perform private.conversations_touch(p_stored);
    return v_answered;
end
$$;

-- Where a person has answered after the customer's last message, the agent need not.
create function private.replies_cancel(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
begin
    if p_chats is null then
        return;
    end if;
    delete from public.pending_replies r
    using unnest(p_chats) as s
    join public.chats c on c.tenant_id = s.tenant_id and c.id = s.chat_id
    where r.tenant_id = s.tenant_id and r.chat_id = s.chat_id
        -- who is at work on an answer is told when it is handed in
        and (r.claim is null or coalesce(c.agent_paused_until <= (select private.clock()), true))
        and exists (
            select from public.messages m
            where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.provider_at >= c.last_inbound_at
                and m.source = 'manual');
end
$$;

-- Conversations count their messages. Where these do not simply follow the last one, silences are looked for.
create function private.conversations_touch(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_parted record;
begin
    for v_parted in
        with told as (
            select m.tenant_id, m.chat_id, m.conversation_id, count(*) as messages, min(m.at) as first_at,
                max(m.at) as last_at, array_agg(m.message_id) as ids
            from unnest(p_stored) m
            where m.message_id is not null and m.conversation_id is not null
            group by m.tenant_id, m.chat_id, m.conversation_id
        ),
        held as materialized (
            select t.*, v.opened_at, v.last_at as before_at
            from told t
            join public.conversations v on v.tenant_id = t.tenant_id and v.id = t.conversation_id
        ),
        touched as (
            update public.conversations v
            set message_count = v.message_count + t.messages, last_at = greatest(v.last_at, t.last_at)
            from told t
            where v.tenant_id = t.tenant_id and v.id = t.conversation_id
        )
        select h.tenant_id, h.chat_id, h.first_at, h.ids
        from held h
        where case when h.before_at is not null
            then h.first_at < h.opened_at
                -- no business takes less for a silence
                or h.last_at - h.before_at > interval '1 hour' and h.last_at - h.before_at > (
                    select make_interval(hours => conversation_idle_hours) from public.tenant_settings
                    where tenant_id = h.tenant_id)
            else h.last_at - h.first_at > interval '1 hour' or exists (
                select from public.conversations v
                where v.tenant_id = h.tenant_id and v.chat_id = h.chat_id and v.id <> h.conversation_id
                    and v.closed_reason = 'silence')
            end
        order by h.tenant_id, h.chat_id
    loop
        perform private.conversations_regroup(
            v_parted.tenant_id, v_parted.chat_id, v_parted.first_at, v_parted.ids);
    end loop;
end
$$;

grant execute on function
    private.chats_find(private.inbox_event[], uuid[]), private.chats_create(private.inbox_event[], uuid[], uuid[]),
    private.inbox_chats(private.inbox_event[], uuid[]), private.inbox_conversations(private.inbox_event[], uuid[]),
    private.conversations_touch(private.inbox_message[]), private.replies_cancel(private.chat_ref[]),
    private.inbox_adopt(private.inbox_event[], uuid[], uuid[]),
    private.inbox_store(private.inbox_event[], uuid[], uuid[], uuid[]),
    private.inbox_fill(private.inbox_event[], private.inbox_message[]),
    private.inbox_media(private.inbox_message[]), private.inbox_touch(private.inbox_message[])
    to service_role;
