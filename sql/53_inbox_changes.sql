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

-- Statuses only move forwards, each keeps the time it was reported for, and a failure counts only while nothing
-- says that the message arrived.
create function private.inbox_statuses(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_order text[] := array[
        'skipped', 'canceled', 'unknown', 'queued', 'sending', 'sent', 'failed', 'delivered', 'read', 'played'];
begin
    delete from public.outbox o
    using (
        select d.tenant_id, d.message_id
        from public.outbox d
        join unnest(p_events) e on e.tenant_id = d.tenant_id and e.target_id = d.message_id
        order by d.tenant_id, d.message_id
        for update of d
    ) as done
    where o.tenant_id = done.tenant_id and o.message_id = done.message_id;

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
        error_code = coalesce(m.error_code, (s.error ->> 'code')::int),
        error_message = coalesce(
            m.error_message, nullif(concat_ws(': ', s.error ->> 'title', s.error ->> 'details'), '')),
        pricing = coalesce(m.pricing, s.pricing),
        price_class = coalesce(s.pricing ->> 'category', m.price_class),
        actual_cost = coalesce(m.actual_cost, c.amount),
        currency = case when m.actual_cost is null then coalesce(c.currency, m.currency) else m.currency end
    from (
        select
            e.tenant_id, e.target_id, min(e.id) as wa_message_id,
            max(array_position(v_order, e.body ->> 'status')) as rank,
            min(e.at) filter (where e.body ->> 'status' = 'sent') as sent_at,
            min(e.at) filter (where e.body ->> 'status' = 'delivered') as delivered_at,
            min(e.at) filter (where e.body ->> 'status' = 'read') as read_at,
            min(e.at) filter (where e.body ->> 'status' = 'played') as played_at,
            min(e.at) filter (where e.body ->> 'status' = 'failed') as failed_at,
            (array_agg(e.body -> 'error') filter (where jsonb_typeof(e.body -> 'error') = 'object'))[1] as error,
            (array_agg(e.body -> 'pricing' order by e.at)
                filter (where jsonb_typeof(e.body -> 'pricing') = 'object'))[1] as pricing
        from unnest(p_events) e
        group by e.tenant_id, e.target_id
    ) as s
    left join lateral private.message_cost(s.tenant_id, s.target_id, s.pricing) c on s.pricing is not null
    where m.tenant_id = s.tenant_id and m.id = s.target_id and m.direction = 'outbound';

    update public.chats c
    set free_entry_until = greatest(c.free_entry_until, (e.body #>> '{conversation,expires_at}')::timestamptz)
    from unnest(p_events) e
    join public.messages m on m.tenant_id = e.tenant_id and m.id = e.target_id
    where e.body #>> '{conversation,expires_at}' is not null
        and e.body #>> '{conversation,origin}' = 'referral_conversion'
        and c.tenant_id = m.tenant_id and c.id = m.chat_id;
end
$$;

-- Edits and revokes keep every earlier text, in the order of its time, in whatever order they arrive.
create function private.inbox_rewrite(p_event private.inbox_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_message public.messages;
    v_versions jsonb;
    v_current jsonb;
begin
    select * into v_message
    from public.messages m
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id
    for no key update;
    v_versions := coalesce(v_message.previous, '[]');
    if v_message.revoked_at is null then
        v_versions := v_versions || jsonb_build_object(
            'at', coalesce(v_message.edited_at, v_message.provider_at), 'content', v_message.content);
    end if;
    if p_event.kind = 'edit' then
        v_versions := v_versions || jsonb_build_object('at', p_event.at, 'content', p_event.body ->> 'text');
    end if;
    v_versions := (
        select jsonb_agg(version order by (version ->> 'at')::timestamptz)
        from jsonb_array_elements(v_versions) as version);
    v_current := v_versions -> -1;
    update public.messages m
    set revoked_at = case p_event.kind when 'revoke' then p_event.at else m.revoked_at end,
        edited_at = case p_event.kind when 'edit' then greatest(m.edited_at, p_event.at) else m.edited_at end,
        content = case when p_event.kind = 'edit' and m.revoked_at is null then v_current ->> 'content' end,
        previous = case when p_event.kind = 'edit' and m.revoked_at is null then v_versions - -1 else v_versions end
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id;
end
$$;

create function private.inbox_react(p_event private.inbox_event) returns void
language plpgsql set search_path = '' as $$
begin
    update public.messages m
    set reactions = coalesce(m.reactions, '{}') || jsonb_build_object(
        p_event.body ->> 'by', jsonb_build_object('emoji', p_event.body ->> 'emoji', 'at', p_event.at))
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id
        and coalesce((m.reactions #>> array[p_event.body ->> 'by', 'at'])::timestamptz < p_event.at, true);
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
        coalesce(e.body ->> 'status', e.id, ''), e.at, e.body
    from unnest(v_known) e
    where e.target_id is null
    order by 1, 2, 3, 4, 5
    on conflict do nothing;

    v_known := array(select e from unnest(v_known) e where e.target_id is not null);
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
    private.inbox_statuses(private.inbox_event[]), private.inbox_rewrite(private.inbox_event),
    private.inbox_react(private.inbox_event), private.inbox_changes(private.inbox_event[])
    to service_role;
