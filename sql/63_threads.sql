-- Threads, for people; and what is asked about a customer while their burst is coming in.

-- The threads of a chat, newest first.
create function public.thread_list(p_chat_id uuid, p_limit int default 50) returns table (
    id uuid, is_current boolean, created_at timestamptz, closed_at timestamptz, closed_reason text, run_count int,
    token_count bigint, last_input_tokens int, summary text
)
language plpgsql stable rows 10 set search_path = '' as $$
begin
    return query
    select t.id, t.id = c.thread_id and t.closed_at is null, t.created_at, t.closed_at, t.closed_reason, t.run_count,
        t.token_count, t.last_input_tokens, t.summary
    from public.chats c
    join public.ai_threads t on t.tenant_id = c.tenant_id and t.chat_id = c.id
    where c.id = p_chat_id
    order by t.created_at desc, t.id desc
    limit greatest(least(p_limit, 200), 0);
end
$$;

-- What was said while a thread was in use, oldest first: {"thread", "messages": […], "usage": the runs of models}.
-- Null when there is no such thread.
create function public.thread_history(p_thread_id uuid, p_limit int default 200) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'thread', to_jsonb(t) - 'tenant_id',
            'messages', (
                select coalesce(jsonb_agg(to_jsonb(m) order by m.provider_at, m.id), '[]')
                from (
                    select s.id, s.direction, s.role, s.source, s.type, s.content, s.agent_id, s.provider_at
                    from public.messages s
                    where s.tenant_id = t.tenant_id and s.chat_id = t.chat_id
                        and s.provider_at >= coalesce((
                            -- a thread is made when its first message is answered
                            select max(b.closed_at) from public.ai_threads b
                            where b.tenant_id = t.tenant_id and b.chat_id = t.chat_id and b.closed_at <= t.created_at
                        ), '-infinity')
                        and s.provider_at < coalesce(t.closed_at, 'infinity')
                    order by s.provider_at desc, s.id desc
                    limit greatest(least(p_limit, 1000), 0)
                ) as m),
            'usage', (
                select coalesce(jsonb_agg(jsonb_build_object('at', u.created_at, 'purpose', u.purpose,
                    'model', u.model, 'input_tokens', u.input_tokens, 'output_tokens', u.output_tokens,
                    'cost', u.cost, 'currency', u.currency) order by u.created_at), '[]')
                from public.ai_usage u
                where u.tenant_id = t.tenant_id and u.thread_id = t.id))
        from public.ai_threads t
        where t.id = p_thread_id);
end
$$;

-- Definer: staff may not write threads. The agent forgets the chat: what was said before now is told to no model.
create function private.thread_clear(p_chat_id uuid) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_now timestamptz := private.clock();
    v_thread_id uuid := private.uuid7();
begin
    perform from public.chats where tenant_id = v_tenant_id and id = p_chat_id for no key update;
    if not found then
        perform private.refuse('PT404', 'no_chat');
    end if;
    update public.ai_threads set closed_at = v_now, closed_reason = 'cleared'
    where tenant_id = v_tenant_id and chat_id = p_chat_id and closed_at is null;
    insert into public.ai_threads (tenant_id, id, chat_id, created_at, context_from)
    values (v_tenant_id, v_thread_id, p_chat_id, v_now, v_now);
    update public.chats set thread_id = v_thread_id where tenant_id = v_tenant_id and id = p_chat_id;
    return v_thread_id;
end
$$;
-- Returns the id of the new thread. Tokens that were counted stay counted.
create function public.thread_clear(p_chat_id uuid) returns uuid
language sql set search_path = '' as $$
    select private.thread_clear(p_chat_id)
$$;

-- Chats that wait for an answer and of which the provider was not asked for a while, and are asked now: once in
-- tenant_settings.enrichment_interval_hours, whether or not anything comes of it. Whapi alone has more to say than
-- its webhooks bring.
create function private.enrichment_due(p_limit int) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_chats jsonb;
begin
    with due as materialized (
        select c.tenant_id, c.id, n.id as number_id, n.provider
        from public.pending_replies r
        join public.whatsapp_numbers n on n.tenant_id = r.tenant_id and n.id = r.number_id
            and n.provider = 'whapi' and n.is_active
        join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
        join public.tenant_settings s on s.tenant_id = r.tenant_id
        where coalesce(c.enriched_at <= v_now - make_interval(hours => s.enrichment_interval_hours), true)
        limit p_limit
        for no key update of c skip locked
    ),
    asked as (
        update public.chats c set enriched_at = v_now
        from due d
        where c.tenant_id = d.tenant_id and c.id = d.id
        returning d.*
    )
    select jsonb_agg(jsonb_build_object('tenant_id', a.tenant_id, 'chat_id', a.id, 'number_id', a.number_id,
        'provider', a.provider, 'address', coalesce(t.address ->> 'chat_id', t.address ->> 'phone')))
    into v_chats
    from asked a
    cross join lateral private.chat_address(a.tenant_id, a.id) as t (address);
    return coalesce(v_chats, '[]');
end
$$;

-- What a provider knows of a customer: the name only while ours is empty or the phone, three labels at most and only
-- where they differ; none at all are no news, for staff give labels too. Is anything written?
create function public.lead_enrich(p_tenant_id uuid, p_chat_id uuid, p_name text, p_labels text[]) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_labels text[] := array(
        select label from unnest(p_labels) with ordinality as given (label, n)
        where btrim(label) <> '' group by label order by min(n) limit 3);
begin
    update public.customer_leads l
    set name = n.name, label1 = n.labels[1], label2 = n.labels[2], label3 = n.labels[3]
    from (
        select held.id,
            case when coalesce(held.name, held.phone, '') in ('', held.phone) then
                coalesce(nullif(btrim(p_name), ''), held.name) else held.name end as name,
            case when cardinality(v_labels) > 0 then v_labels
                else array[held.label1, held.label2, held.label3] end as labels
        from public.customer_leads held
        where held.tenant_id = p_tenant_id and held.id = (
            select lead_id from public.chats where tenant_id = p_tenant_id and id = p_chat_id)
        for no key update
    ) as n
    where l.tenant_id = p_tenant_id and l.id = n.id
        and (l.name, l.label1, l.label2, l.label3)
            is distinct from (n.name, n.labels[1], n.labels[2], n.labels[3]);
    return found;
end
$$;

grant execute on function private.enrichment_due(int), public.lead_enrich(uuid, uuid, text, text[]) to service_role;
grant execute on function private.thread_clear(uuid), public.thread_clear(uuid), public.thread_list(uuid, int),
    public.thread_history(uuid, int) to authenticated;
