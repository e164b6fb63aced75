-- Realtime: front ends are told at once which rows have changed, by their ids, and read them with their own rights.
-- Told after the commit, to whoever listens then and at most once: who connects again reads again.
--
-- Private channels: tenant:<tenant_id> for all staff of a business, user:<users.id> for one person.
--   message.new     a message, of either side         {"message_id", "chat_id"}
--   message.status  its status, text or reactions     {"message_id", "chat_id"}
--   chat.attention  somebody must look, or need not   {"chat_id", "conversation_id"}
--   chat.assigned   also to old and new holder        {"chat_id", "conversation_id"}
--   lead.assigned   also to old and new holder        {"lead_id"}
--   alert           opened, worse, or over            {"alert_id"}
-- A payload is {"items": the newest hundred of these, "count": how many there are}; where count is more than there are
-- items, read anew what is shown. One statement, however many rows it changes, makes one broadcast for a channel and
-- event. Histories that come with a number are nobody's news.

-- May listen: staff to their business, a person to themselves. Asked when a channel is joined, and again when its token
-- is renewed. Nobody may send.
create policy messages_select_listener on realtime.messages for select to authenticated
    using (extension = 'broadcast' and topic in (
        'tenant:' || (select private.my_tenant_id()), 'user:' || (select private.my_user_id())));

-- Something to tell on a channel.
create type private.broadcast_item as (event text, topic text, item jsonb);

-- Tell each channel its items of an event together; p_items: oldest first. Nothing fails because nobody could be told.
create function private.broadcast(p_items private.broadcast_item[]) returns void
language plpgsql set search_path = '' as $$
begin
    if cardinality(p_items) > 0 then
        perform realtime.send(
            jsonb_build_object('items', jsonb_agg(i.item order by i.n) filter (where i.n <= 100), 'count', count(*)),
            i.event, i.topic, true)
        from (
            select event, topic, item, row_number() over (partition by event, topic order by ordinality desc) as n
            from unnest(p_items) with ordinality
        ) as i
        group by i.event, i.topic;
    end if;
exception
    when others then
        raise warning 'Nobody was told of %: %', p_items[1].event, sqlerrm;
end
$$;

-- The triggers are definers: whoever makes the change, Realtime takes what we tell of it from us.
create function private.messages_broadcast_new() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.broadcast(array(
        select ('message.new', 'tenant:' || m.tenant_id, jsonb_build_object('message_id', m.id, 'chat_id', m.chat_id)
        )::private.broadcast_item
        from made m
        -- else it came with its number, as history
        where m.conversation_id is not null or m.source not in ('customer', 'manual')
        order by m.id));
    return null;
end
$$;
create trigger messages_broadcast_new after insert on public.messages
    referencing new table as made for each statement execute function private.messages_broadcast_new();

-- For those who look at it, a message that is on its way still waits.
create function private.messages_broadcast_status() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.broadcast(array(
        select ('message.status', 'tenant:' || m.tenant_id, jsonb_build_object('message_id', m.id, 'chat_id', m.chat_id)
        )::private.broadcast_item
        from changed m
        join previous p on p.tenant_id = m.tenant_id and p.id = m.id
        where (m.conversation_id is not null or m.source not in ('customer', 'manual'))
            and (replace(p.status, 'sending', 'queued') <> replace(m.status, 'sending', 'queued')
                or p.type <> m.type or p.edited_at is distinct from m.edited_at
                or p.revoked_at is distinct from m.revoked_at or p.reactions is distinct from m.reactions)
        order by m.id));
    return null;
end
$$;
create trigger messages_broadcast_status after update on public.messages
    referencing old table as previous new table as changed for each statement
    execute function private.messages_broadcast_status();

-- Who hears of an assignment: the business, who had it, and who has it now.
create function private.assignment_topics(p_tenant_id uuid, p_before uuid, p_after uuid) returns text[]
language plpgsql immutable set search_path = '' as $$
begin
    return array_remove(array['tenant:' || p_tenant_id, 'user:' || p_before, 'user:' || p_after], null);
end
$$;

create function private.conversations_broadcast() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.broadcast(array(
        select (t.event, t.topic, jsonb_build_object('chat_id', v.chat_id, 'conversation_id', v.id)
        )::private.broadcast_item
        from changed v
        join previous p on p.tenant_id = v.tenant_id and p.id = v.id
        cross join lateral (
            select 'chat.attention' as event, 'tenant:' || v.tenant_id as topic
            where p.requires_attention <> v.requires_attention
            union all
            select 'chat.assigned', unnest(private.assignment_topics(v.tenant_id, p.assigned_to, v.assigned_to))
            where p.assigned_to is distinct from v.assigned_to
        ) as t
        -- most changes are neither, and looked at no further
        where p.requires_attention <> v.requires_attention or p.assigned_to is distinct from v.assigned_to
        order by v.id));
    return null;
end
$$;
create trigger conversations_broadcast after update on public.conversations
    referencing old table as previous new table as changed for each statement
    execute function private.conversations_broadcast();

create function private.customer_leads_broadcast() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.broadcast(array(
        select ('lead.assigned', t.topic, jsonb_build_object('lead_id', l.id))::private.broadcast_item
        from changed l
        join previous p on p.tenant_id = l.tenant_id and p.id = l.id
        cross join lateral unnest(private.assignment_topics(l.tenant_id, p.assigned_to, l.assigned_to)) as t (topic)
        where p.assigned_to is distinct from l.assigned_to
        order by l.id));
    return null;
end
$$;
create trigger customer_leads_broadcast after update on public.customer_leads
    referencing old table as previous new table as changed for each statement
    execute function private.customer_leads_broadcast();

create function private.alerts_broadcast_new() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.broadcast(array(
        select ('alert', 'tenant:' || a.tenant_id, jsonb_build_object('alert_id', a.id))::private.broadcast_item
        from made a
        order by a.id));
    return null;
end
$$;
create trigger alerts_broadcast_new after insert on public.alerts
    referencing new table as made for each statement execute function private.alerts_broadcast_new();

-- The same again is no news.
create function private.alerts_broadcast_change() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.broadcast(array(
        select ('alert', 'tenant:' || a.tenant_id, jsonb_build_object('alert_id', a.id))::private.broadcast_item
        from changed a
        join previous p on p.tenant_id = a.tenant_id and p.id = a.id
        where p.severity <> a.severity or p.resolved_at is distinct from a.resolved_at
        order by a.id));
    return null;
end
$$;
create trigger alerts_broadcast_change after update on public.alerts
    referencing old table as previous new table as changed for each statement
    execute function private.alerts_broadcast_change();
