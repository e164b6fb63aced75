-- What is said about messages after they were sent or stored: statuses, edits, revokes, reactions; also too early.

-- What had been said about messages before they came.
create function private.early_events_take(p_stored private.inbox_message[]) returns private.inbox_event[]
language plpgsql set search_path = '' as $$
declare
    v_events private.inbox_event[];
begin
    with taken as (
        delete from public.early_events x
        using unnest(p_stored) s
        where x.tenant_id = s.tenant_id and x.number_id = s.number_id and x.target = s.wa_message_id
        returning s.position, x.tenant_id, x.number_id, x.kind, x.body ->> 'id' as id, x.happened_at,
            s.message_id, x.body
    )
    select coalesce(array_agg((
        position, tenant_id, number_id, null, null, kind, id, happened_at, null, message_id, body
    )::private.inbox_event), '{}')
    into v_events
    from taken;
    return v_events;
end
$$;

-- What these statuses tell of customers who were taken for blocked or unreachable, and of those who cannot be reached
-- (how: unreachable).
create function private.status_signs(p_events private.inbox_event[]) returns private.life_sign[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select (e.tenant_id, m.chat_id, e.at, t.how)::private.life_sign
        from unnest(p_events) e
        cross join lateral (
            select case e.body ->> 'status' when 'delivered' then 'delivered' when 'read' then 'read'
                when 'played' then 'read' when 'failed' then 'unreachable' end as how
        ) as t
        cross join lateral (
            select h.chat_id, h.number_id from public.messages h
            where h.tenant_id = e.tenant_id and h.id = e.target_id and h.direction = 'outbound'
            limit 1
        ) as m
        cross join lateral (
            select c.block_state <> 'none' or c.reach_state <> 'ok' as is_marked from public.chats c
            where c.tenant_id = e.tenant_id and c.id = m.chat_id
            limit 1
        ) as c
        where case t.how when 'unreachable'
            then private.is_unreachable(e.tenant_id, m.number_id, (e.body #>> '{error,code}')::int)
            else t.how is not null and c.is_marked end);
end
$$;

-- Statuses only move forwards, each keeps the time it was reported for, and a failure counts only while nothing
-- says that the message arrived.
create function private.inbox_statuses(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_order text[] := array[
        'skipped', 'canceled', 'unknown', 'queued', 'sending', 'sent', 'failed', 'delivered', 'read', 'played'];
    v_sent private.sent[];
    v_known private.chat_ref[];
    v_signs private.life_sign[] := private.status_signs(p_events);
begin
    -- an errand may open the chat's free entry point, a status may tell of a block; and chats come before the outbox
    perform from public.chats c
    join (
        select distinct d.tenant_id, d.chat_id
        from public.outbox d
        join unnest(p_events) e on e.tenant_id = d.tenant_id and e.target_id = d.message_id
        union
        select s.tenant_id, s.chat_id from unnest(v_signs) s
    ) as w on c.tenant_id = w.tenant_id and c.id = w.chat_id
    order by c.tenant_id, c.id
    for no key update of c;

    with done as (
        delete from public.outbox o
        using (
            select d.tenant_id, d.message_id
            from public.outbox d
            join unnest(p_events) e on e.tenant_id = d.tenant_id and e.target_id = d.message_id
            order by d.tenant_id, d.message_id
            for update of d
        ) as mine
        where o.tenant_id = mine.tenant_id and o.message_id = mine.message_id
        returning o.tenant_id, o.message_id, o.chat_id, o.alerted_at
    )
    select
        array_agg((d.tenant_id, d.message_id, s.sent_at)::private.sent) filter (where s.sent_at is not null),
        array_agg((d.tenant_id, d.chat_id)::private.chat_ref) filter (where d.alerted_at is not null)
    into v_sent, v_known
    from done d
    cross join lateral (
        select min(e.at) as sent_at from unnest(p_events) e
        where e.tenant_id = d.tenant_id and e.target_id = d.message_id and e.body ->> 'status' <> 'failed'
    ) as s;
    if v_sent is not null then
        perform private.sends_noted(v_sent);
    end if;

    perform from public.messages m
    join unnest(p_events) e on m.tenant_id = e.tenant_id and m.id = e.target_id
    order by m.tenant_id, m.id
    for no key update of m;

    update public.messages m
    set status = v_order[greatest(array_position(v_order, m.status), s.rank)],
        wa_message_id = coalesce(m.wa_message_id, s.wa_message_id),
        sent_at = least(m.sent_at, s.sent_at),
        delivered_at = least(m.delivered_at, s.delivered_at),
        read_at = least(m.read_at, s.read_at),
        played_at = least(m.played_at, s.played_at),
        failed_at = least(m.failed_at, s.failed_at),
        error_code = case when s.is_first_error then (s.error ->> 'code')::int else m.error_code end,
        error_message = case when s.is_first_error
            then nullif(concat_ws(': ', s.error ->> 'title', s.error ->> 'details'), '') else m.error_message end,
        pricing = case when s.is_first_pricing then s.pricing || jsonb_build_object('at', s.priced_at) else m.pricing end,
        price_class = case when s.is_first_pricing then coalesce(s.pricing ->> 'category', m.price_class)
            else m.price_class end,
        actual_cost = case when s.is_delivered then c.amount else m.actual_cost end,
        currency = case when s.is_delivered then coalesce(c.currency, m.currency) else m.currency end
    from (
        select told.*,
            -- what is not delivered costs nothing, whatever was said about its price
            greatest(told.rank, array_position(v_order, held.status)) >= array_position(v_order, 'delivered')
                as is_delivered,
            case when private.is_first_pricing(held.pricing, told.priced_at, told.pricing)
                then told.pricing else held.pricing end as known_pricing,
            told.failed_at is not null and coalesce(
                (told.failed_at, coalesce(told.error ->> 'code', ''))
                < (held.failed_at, coalesce(held.error_code::text, '')), true) as is_first_error,
            private.is_first_pricing(held.pricing, told.priced_at, told.pricing) as is_first_pricing
        from (
            select
                e.tenant_id, e.target_id, min(e.id) as wa_message_id,
                max(array_position(v_order, e.body ->> 'status')) as rank,
                min(e.at) filter (where e.body ->> 'status' = 'sent') as sent_at,
                min(e.at) filter (where e.body ->> 'status' = 'delivered') as delivered_at,
                min(e.at) filter (where e.body ->> 'status' = 'read') as read_at,
                min(e.at) filter (where e.body ->> 'status' = 'played') as played_at,
                min(e.at) filter (where e.body ->> 'status' = 'failed') as failed_at,
                (array_agg(nullif(e.body -> 'error', 'null') order by e.at, coalesce(e.body #>> '{error,code}', ''))
                    filter (where e.body ->> 'status' = 'failed'))[1] as error,
                (array_agg(e.body -> 'pricing' order by e.at, e.body -> 'pricing')
                    filter (where jsonb_typeof(e.body -> 'pricing') = 'object'))[1] as pricing,
                min(e.at) filter (where jsonb_typeof(e.body -> 'pricing') = 'object') as priced_at
            from unnest(p_events) e
            group by e.tenant_id, e.target_id
        ) as told
        join public.messages held on held.tenant_id = told.tenant_id and held.id = told.target_id
    ) as s
    left join lateral private.message_cost(s.tenant_id, s.target_id, s.known_pricing) c on s.is_delivered
    where m.tenant_id = s.tenant_id and m.id = s.target_id and m.direction = 'outbound';

    update public.chats c
    set free_entry_until = case
            -- of an earlier ad, or told again
            when c.is_free_entry_confirmed or not w.is_this_ad then greatest(c.free_entry_until, s.expires_at)
            else s.expires_at end,
        is_free_entry_confirmed = c.is_free_entry_confirmed or w.is_this_ad
    from (
        select m.tenant_id, m.chat_id, max((e.body #>> '{conversation,expires_at}')::timestamptz) as expires_at
        from unnest(p_events) e
        join public.messages m on m.tenant_id = e.tenant_id and m.id = e.target_id
        where e.body #>> '{conversation,expires_at}' is not null
            and e.body #>> '{conversation,origin}' = 'referral_conversion'
        group by m.tenant_id, m.chat_id
    ) as s
    join public.chats f on f.tenant_id = s.tenant_id and f.id = s.chat_id
    cross join lateral (
        select coalesce(s.expires_at >= f.free_entry_reply_by + interval '48 hours', true) as is_this_ad
    ) as w
    where c.tenant_id = f.tenant_id and c.id = f.id;

    if cardinality(v_signs) > 0 then
        perform private.signs_of_life(array(select s from unnest(v_signs) s where s.how <> 'unreachable'));
        perform private.reach_judge(array(
            select (s.tenant_id, s.chat_id)::private.chat_ref from unnest(v_signs) s where s.how = 'unreachable'));
    end if;
    if v_known is not null then
        perform private.failures_over(v_known);
    end if;
end
$$;

-- Edits and revokes keep every earlier text, in the order of its time, in whatever order they arrive. The original
-- stays the first, though an edit may be of the same second.
create function private.inbox_rewrite(p_event private.inbox_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_message public.messages;
    v_versions jsonb;
    v_revoked_at timestamptz;
    v_is_edit boolean := p_event.kind = 'edit';
begin
    select * into v_message
    from public.messages m
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id
    for no key update;
    v_versions := private.message_versions(v_message);
    if v_is_edit then
        v_versions := v_versions || jsonb_build_object('at', p_event.at, 'content', p_event.body -> 'text');
    end if;
    select jsonb_agg(version order by n > 1, (version ->> 'at')::timestamptz, version -> 'content')
    into v_versions
    from jsonb_array_elements(v_versions) with ordinality as v (version, n);
    v_revoked_at := case when v_is_edit then v_message.revoked_at else least(v_message.revoked_at, p_event.at) end;
    update public.messages m
    set revoked_at = v_revoked_at,
        edited_at = case when v_is_edit then greatest(m.edited_at, p_event.at) else m.edited_at end,
        content = case when v_revoked_at is null then v_versions #>> '{-1,content}' end,
        previous = case when v_revoked_at is null then nullif(v_versions - -1, '[]') else v_versions end
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id
        and private.changes_message(v_message, p_event.kind, p_event.at, p_event.body);
end
$$;

create function private.inbox_react(p_event private.inbox_event) returns void
language plpgsql set search_path = '' as $$
begin
    update public.messages m
    set reactions = coalesce(m.reactions, '{}') || jsonb_build_object(
        p_event.body ->> 'by', jsonb_build_object('emoji', p_event.body ->> 'emoji', 'at', p_event.at))
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id
        and private.changes_message(m, 'reaction', p_event.at, p_event.body);
end
$$;

-- Apply what was said about messages; keep it where the message is not there.
create function private.inbox_changes(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_known private.inbox_event[];
    v_event private.inbox_event;
begin
    select array_agg((
            e.position, e.tenant_id, e.number_id, e.provider, e.scope, e.kind, e.id, e.at, e.keys,
            coalesce(e.target_id, m.id), e.body)::private.inbox_event
        order by e.tenant_id, coalesce(e.target_id, m.id), e.at)
    into v_known
    from unnest(p_events) e
    left join public.messages m
        on e.target_id is null and m.tenant_id = e.tenant_id and m.number_id = e.number_id
        and m.wa_message_id = coalesce(e.body ->> 'target', e.id);

    insert into public.early_events (tenant_id, number_id, target, kind, detail, happened_at, body)
    select e.tenant_id, e.number_id, coalesce(e.body ->> 'target', e.id), e.kind,
        private.event_detail(e.body), e.at, e.body
    from unnest(v_known) e
    where e.target_id is null
    order by 1, 2, 3, 4, 5
    on conflict do nothing;

    v_known := array(select e from unnest(v_known) e where e.target_id is not null);
    perform private.consents_of_failures(v_known);
    perform private.inbox_statuses(array(select e from unnest(v_known) e where e.kind = 'status'));
    foreach v_event in array v_known loop
        if v_event.kind in ('edit', 'revoke') then
            perform private.inbox_rewrite(v_event);
        elsif v_event.kind = 'reaction' then
            perform private.inbox_react(v_event);
        end if;
    end loop;
end
$$;

-- Early events whose message has come since: its transaction and theirs did not see each other.
create function private.early_events_late(p_limit int) returns private.inbox_event[]
language plpgsql set search_path = '' as $$
declare
    v_events private.inbox_event[];
begin
    with late as (
        select x.tenant_id, x.number_id, x.target, x.kind, x.detail, m.id as message_id
        from public.early_events x
        join public.messages m
            on m.tenant_id = x.tenant_id and m.number_id = x.number_id and m.wa_message_id = x.target
        order by x.tenant_id, x.number_id, x.target
        limit p_limit
        for update of x skip locked
    ),
    taken as (
        delete from public.early_events x
        using late
        where (x.tenant_id, x.number_id, x.target, x.kind, x.detail)
            = (late.tenant_id, late.number_id, late.target, late.kind, late.detail)
        returning x.*, late.message_id
    )
    select coalesce(array_agg((
        0, tenant_id, number_id, null, null, kind, coalesce(body ->> 'id', ''), happened_at, null, message_id, body
    )::private.inbox_event), '{}')
    into v_events
    from taken;
    return v_events;
end
$$;

grant execute on function
    private.early_events_take(private.inbox_message[]), private.early_events_late(int),
    private.status_signs(private.inbox_event[]),
    private.inbox_statuses(private.inbox_event[]), private.inbox_rewrite(private.inbox_event),
    private.inbox_react(private.inbox_event), private.inbox_changes(private.inbox_event[])
    to service_role;
