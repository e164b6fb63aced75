-- When steps are due, and who gets them: enrolling one customer, many, or those whom a trigger speaks of.

insert into private.phrases (kind, reason, es, en, pt) values
    ('hint', 'sequence_filter', 'Ejemplo: {"tags": ["vip"], "statuses": ["Lead"], "labels": ["Nuevo"], '
        '"last_activity_before": "2026-01-31"}. Entra quien cumple todo; {} son todos.',
        'Example: {"tags": ["vip"], "statuses": ["Lead"], "labels": ["Nuevo"], "last_activity_before": "2026-01-31"}. '
        'Whoever fits all of it is enrolled; {} is everybody.',
        'Exemplo: {"tags": ["vip"], "statuses": ["Lead"], "labels": ["Nuevo"], "last_activity_before": "2026-01-31"}. '
        'Entra quem cumpre tudo; {} são todos.');

-- When is it due?

-- The first moment not before p_from at which a clock there shows that time. Of a time that it shows twice the first
-- one; of one that it skips, as much later as it was put forward.
create function private.local_time_after(p_time time, p_zone text, p_from timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_day date := (p_from at time zone p_zone)::date - 1;
    v_moment timestamptz;
begin
    loop
        v_moment := (v_day + p_time) at time zone p_zone;
        v_moment := (
            select min(m) from unnest(array[v_moment - interval '1 hour', v_moment - interval '30 minutes', v_moment]) m
            where m = v_moment or m at time zone p_zone = v_day + p_time);
        exit when v_moment >= p_from;
        v_day := v_day + 1;
    end loop;
    return v_moment;
end
$$;

-- When a step is due whose predecessor went out at p_base. local_time: the first one from half the delay before it is
-- over, twelve hours at most: a day after 9:00 and ten seconds it is 9:00, not the day after. p_last_safe_at, p_spread:
-- when a step goes that is to go before the window closes, and how much earlier this one goes than that.
create function private.step_due_at(
    p_step public.sequence_steps, p_base timestamptz, p_zone text, p_last_safe_at timestamptz, p_spread interval
) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_delay interval := make_interval(mins => p_step.delay_minutes);
begin
    return case
        when p_step.local_time is not null then private.local_time_after(
            p_step.local_time, p_zone, p_base + v_delay - least(v_delay / 2, interval '12 hours'))
        when p_step.window_margin_minutes is not null then greatest(p_base + v_delay, p_last_safe_at - p_spread)
        else p_base + v_delay
    end;
end
$$;

-- The clock of a chat's customer, as for quiet hours.
create function private.chat_zone(p_tenant_id uuid, p_chat_id uuid) returns text
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(l.timezone, g.timezone, n.timezone)
        from public.chats c
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        left join lateral (
            select k.timezone from public.calling_codes k
            where k.prefix in (left(l.phone, 1), left(l.phone, 2), left(l.phone, 3), left(l.phone, 4))
            order by length(k.prefix) desc
            limit 1
        ) as g on true
        where c.tenant_id = p_tenant_id and c.id = p_chat_id);
end
$$;

-- When a message is safe to go out that is to go so many minutes before the window of a chat closes. Where hours in
-- which nothing is sent lie there, it goes as long before those, an hour at most: after them the window may be closed.
create function private.last_safe_at(p_tenant_id uuid, p_chat_id uuid, p_margin_minutes int) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_margin interval := make_interval(mins => p_margin_minutes);
    v_expires_at timestamptz;
    v_business_hours jsonb;
    v_number_zone text;
    v_quiet_hours jsonb;
    v_open_at timestamptz;
begin
    select c.window_expires_at, n.business_hours, n.timezone, s.quiet_hours
    into v_expires_at, v_business_hours, v_number_zone, v_quiet_hours
    from public.chats c
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    join public.tenant_settings s on s.tenant_id = c.tenant_id
    where c.tenant_id = p_tenant_id and c.id = p_chat_id;
    if v_business_hours is null and v_quiet_hours is null then
        return v_expires_at - v_margin;
    end if;
    v_open_at := private.last_open(v_quiet_hours, private.chat_zone(p_tenant_id, p_chat_id), v_business_hours,
        v_number_zone, v_expires_at - v_margin);
    return case when v_open_at < v_expires_at - v_margin then v_open_at - least(v_margin, interval '1 hour')
        else v_expires_at - v_margin end;
end
$$;

-- A chat's own place between 0 and 1, always the same: what is due together is spread by it.
create function private.chat_share(p_chat_id uuid) returns float8
language sql immutable parallel safe set search_path = '' as $$
    select (hashtextextended(p_chat_id::text, 0) & 9007199254740991) / 9007199254740992.0
$$;

-- Over how long the steps of a sequence are spread that are to go out on a number before windows close: as long as half
-- of the number's rate takes for everybody who is in it, six hours at most.
create function private.spread_width(p_tenant_id uuid, p_sequence_id uuid, p_number_id uuid, p_crowd bigint)
returns interval
language plpgsql stable set search_path = '' as $$
declare
    v_crowd bigint := greatest(p_crowd, (
        select count(*)
        from (
            select 1 from public.sequence_enrollments e
            where e.tenant_id = p_tenant_id and e.sequence_id = p_sequence_id and e.status = 'active'
            limit 100000
        ) as crowd));
    v_rate float8 := (
        select private.number_rate(n, p)
        from public.whatsapp_numbers n
        left join public.number_pacing p on p.tenant_id = n.tenant_id and p.number_id = n.id
        where n.tenant_id = p_tenant_id and n.id = p_number_id);
begin
    return make_interval(secs => least(6 * 3600, ceil(v_crowd / (0.5 * v_rate))));
end
$$;

-- The next step of a chat: of which version, at what position, and when the one before went out.
create type private.step_ask as (
    tenant_id uuid, chat_id uuid, sequence_id uuid, version int, order_position int, base timestamptz
);

-- When these are due, in the order given; null: there is no such step.
create function private.steps_due(p_asks private.step_ask[]) returns timestamptz[]
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
    return array(
        with asked as materialized (
            select a.*, c.number_id, c.last_safe_at, s as step
            from unnest(p_asks) with ordinality as a
            left join public.sequence_steps s on s.tenant_id = a.tenant_id and s.sequence_id = a.sequence_id
                and s.version = a.version and s.order_position = a.order_position
            left join lateral (
                select k.number_id, private.last_safe_at(k.tenant_id, k.id, s.window_margin_minutes) as last_safe_at
                from public.chats k
                where s.window_margin_minutes is not null and k.tenant_id = a.tenant_id and k.id = a.chat_id
                limit 1
            ) as c on true
        ),
        widths as materialized (
            select g.*, private.spread_width(g.tenant_id, g.sequence_id, g.number_id, g.crowd) as width
            from (
                select a.tenant_id, a.sequence_id, a.number_id, count(*) as crowd from asked a
                where a.number_id is not null
                group by a.tenant_id, a.sequence_id, a.number_id
            ) as g
        )
        select case when a.step is null then null
            when (a.step).local_time is null and (a.step).window_margin_minutes is null
                then a.base + make_interval(mins => (a.step).delay_minutes)
            else private.step_due_at(a.step, a.base,
                case when (a.step).local_time is not null then private.chat_zone(a.tenant_id, a.chat_id) end,
                a.last_safe_at, w.width * private.chat_share(a.chat_id)) end
        from asked a
        left join widths w on w.tenant_id = a.tenant_id and w.sequence_id = a.sequence_id and w.number_id = a.number_id
        order by a.ordinality);
end
$$;

-- Enrolling.

-- Somebody to be enrolled. chat_id null: they have none. is_again: also who was in this sequence before.
create type private.enrollment_ask as (
    tenant_id uuid, sequence_id uuid, lead_id uuid, chat_id uuid, source text, enrolled_by uuid, is_again boolean
);

-- Why these cannot be enrolled, in the order given; null: they can. A chat named twice is in it already.
create function private.enrollment_obstacles(p_asks private.enrollment_ask[]) returns text[]
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' set work_mem = '64MB' as $$
begin
    return array(
        select case
            when s.is_active is not true then 'sequence_inactive'
            when l.id is null then 'no_lead'
            when not l.is_active then 'lead_inactive'
            when c.id is null then 'no_chat'
            when n.is_active is not true then 'number_inactive'
            when l.opt_out_scope is not null then 'opted_out'
            when c.block_state = 'confirmed' then 'blocked'
            when row_number() over (partition by a.tenant_id, a.chat_id order by a.ordinality) > 1 or exists (
                select from public.sequence_enrollments e
                where e.tenant_id = a.tenant_id and e.chat_id = a.chat_id and e.status in ('active', 'paused')
            ) then 'already_enrolled'
            when not a.is_again and exists (
                select from public.sequence_enrollments e
                where e.tenant_id = a.tenant_id and e.chat_id = a.chat_id and e.sequence_id = a.sequence_id
            ) then 'was_enrolled'
        end
        from unnest(p_asks) with ordinality as a
        left join public.sequences s on s.tenant_id = a.tenant_id and s.id = a.sequence_id
        left join public.chats c on c.tenant_id = a.tenant_id and c.id = a.chat_id
        left join public.customer_leads l on l.tenant_id = a.tenant_id and l.id = a.lead_id
        left join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        order by a.ordinality);
end
$$;

-- Enroll whoever can be. Answers, in the order given, null for who is in it now, else why not.
create function private.enrollments_add(p_asks private.enrollment_ask[]) returns text[]
language plpgsql set search_path = '' set plan_cache_mode = 'force_custom_plan' set work_mem = '64MB' as $$
declare
    v_now timestamptz := private.clock();
    v_obstacles text[] := private.enrollment_obstacles(p_asks);
    v_due timestamptz[] := private.steps_due(array(
        select (a.tenant_id, a.chat_id, a.sequence_id, s.version, 1, v_now)::private.step_ask
        from unnest(p_asks) with ordinality as a
        left join public.sequences s on s.tenant_id = a.tenant_id and s.id = a.sequence_id
        order by a.ordinality));
    v_answers text[];
begin
    with judged as materialized (
        select a.*, o.reason, o.due_at, s.version
        from unnest(p_asks) with ordinality as a
        join unnest(v_obstacles, v_due) with ordinality as o (reason, due_at, n) on o.n = a.ordinality
        left join public.sequences s on s.tenant_id = a.tenant_id and s.id = a.sequence_id
    ),
    added as (
        insert into public.sequence_enrollments (tenant_id, sequence_id, version, chat_id, next_run_at, source,
            enrolled_at, enrolled_by, changed_at)
        select j.tenant_id, j.sequence_id, j.version, j.chat_id, j.due_at, j.source, v_now, j.enrolled_by, v_now
        from judged j
        where j.reason is null
        order by j.tenant_id, j.chat_id
        -- somebody else was faster
        on conflict (tenant_id, chat_id) where status in ('active', 'paused') do nothing
        returning tenant_id, chat_id
    )
    select array_agg(coalesce(j.reason, case when d.chat_id is null then 'already_enrolled' end) order by j.ordinality)
    into v_answers
    from judged j
    left join added d on j.reason is null and d.tenant_id = j.tenant_id and d.chat_id = j.chat_id;
    return coalesce(v_answers, '{}');
end
$$;

-- What became of them, counted: {"enrolled", "skipped", "reasons": {reason: how many}}.
create function private.enrollments_counted(p_answers text[]) returns jsonb
language sql immutable set search_path = '' as $$
    select jsonb_build_object(
        'enrolled', coalesce(sum(g.n) filter (where g.reason is null), 0),
        'skipped', coalesce(sum(g.n) filter (where g.reason is not null), 0),
        'reasons', coalesce(jsonb_object_agg(g.reason, g.n) filter (where g.reason is not null), '{}'))
    from (select a as reason, count(*) as n from unnest(p_answers) a group by a) as g
$$;

-- The chat of each of these leads to write into: the one on that number, made if there is none and the customer has an
-- address; or, when no number is named, the one last heard from on a number that is active. null: none.
create function private.enrollment_chats(p_tenant_id uuid, p_leads uuid[], p_number_id uuid)
returns table (lead_id uuid, chat_id uuid)
language plpgsql set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
    insert into public.chats (tenant_id, number_id, lead_id, last_interaction_at)
    select p_tenant_id, p_number_id, l.id, (select private.clock())
    from unnest(p_leads) as w (id)
    join public.customer_leads l on l.tenant_id = p_tenant_id and l.id = w.id
    where p_number_id is not null and l.is_active and l.opt_out_scope is null and exists (
        select from public.lead_identities i
        where i.tenant_id = l.tenant_id and i.lead_id = l.id and i.valid_to = 'infinity')
    order by l.id
    on conflict on constraint chats_tenant_id_number_id_lead_id_key do nothing;

    return query
    select w.id, c.id
    from unnest(p_leads) as w (id)
    left join lateral (
        select k.id
        from public.chats k
        join public.whatsapp_numbers n on n.tenant_id = k.tenant_id and n.id = k.number_id
        where k.tenant_id = p_tenant_id and k.lead_id = w.id and (p_number_id is null or k.number_id = p_number_id)
        order by n.is_active desc, k.last_inbound_at desc nulls last, k.last_interaction_at desc
        limit 1
    ) as c on true;
end
$$;

-- The time that a text says; null: it says none.
create function private.as_time(p_text text) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
    return p_text::timestamptz;
exception when others then
    return null;
end
$$;

-- Refuse a filter that cannot be read, and say which key it is.
create function private.filter_check(p_filter jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_key text;
    v_fault text;
begin
    select c.key, f.fault
    into v_key, v_fault
    from (
        values
            (1, 'p_filter', coalesce(nullif(p_filter, 'null'), '[]'), 'object', array['tags', 'statuses', 'labels',
                'last_activity_after', 'last_activity_before']),
            (2, 'tags', p_filter -> 'tags', 'words', null),
            (3, 'statuses', p_filter -> 'statuses', 'words', null),
            (4, 'labels', p_filter -> 'labels', 'words', null),
            (5, 'last_activity_after', p_filter -> 'last_activity_after', 'moment', null),
            (6, 'last_activity_before', p_filter -> 'last_activity_before', 'moment', null)
    ) as c (n, key, value, kind, words)
    cross join lateral private.json_fault(c.value, c.kind, 1, 100, c.words) as f (fault)
    where f.fault is not null
    order by c.n
    limit 1;
    if v_fault is not null then
        perform private.refuse_as('PT400', 'sequence_filter', format('%s %s.', v_key, v_fault),
            private.phrase('hint', 'sequence_filter'), jsonb_build_object('path', v_key));
    end if;
end
$$;

-- The active leads that a filter means: of each key that is given, one of its values.
create function private.leads_filtered(p_tenant_id uuid, p_filter jsonb) returns uuid[]
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
declare
    v_tags text[] := private.json_words(p_filter -> 'tags');
    v_statuses text[] := private.json_words(p_filter -> 'statuses');
    v_labels text[] := private.json_words(p_filter -> 'labels');
begin
    perform private.filter_check(p_filter);
    return array(
        select l.id
        from public.customer_leads l
        where l.tenant_id = p_tenant_id and l.is_active
            and (not p_filter ? 'tags' or l.tags && v_tags)
            and (not p_filter ? 'statuses' or array[l.lead_status, l.profile_status] && v_statuses)
            and (not p_filter ? 'labels' or array[l.label1, l.label2, l.label3] && v_labels)
            and (not p_filter ? 'last_activity_after'
                or l.last_activity >= (p_filter ->> 'last_activity_after')::timestamptz)
            and (not p_filter ? 'last_activity_before'
                or coalesce(l.last_activity, l.created_at) < (p_filter ->> 'last_activity_before')::timestamptz)
        order by l.id);
end
$$;

-- Definer: people may not write enrollments; tenant from require_user. p_filter or p_lead_id.
create function private.sequence_enroll(
    p_sequence_id uuid, p_lead_id uuid, p_filter jsonb, p_number_id uuid, p_again boolean
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
    v_user_id uuid := private.my_user_id();
    v_leads uuid[];
begin
    if not exists (
        select from public.sequences where tenant_id = v_tenant_id and id = p_sequence_id and deleted_at is null
    ) then
        perform private.refuse('PT404', 'no_sequence');
    elsif p_number_id is not null and not exists (
        select from public.whatsapp_numbers where tenant_id = v_tenant_id and id = p_number_id
    ) then
        perform private.refuse('PT404', 'no_number');
    end if;
    v_leads := case when p_filter is not null then private.leads_filtered(v_tenant_id, p_filter)
        else array(select id from public.customer_leads where tenant_id = v_tenant_id and id = p_lead_id) end;
    if p_filter is null and cardinality(v_leads) = 0 then
        perform private.refuse('PT404', 'no_lead');
    end if;
    return private.enrollments_counted(private.enrollments_add(array(
        select (v_tenant_id, p_sequence_id, c.lead_id, c.chat_id, 'staff', v_user_id, p_again is true)
            ::private.enrollment_ask
        from private.enrollment_chats(v_tenant_id, v_leads, p_number_id) c)));
end
$$;

-- Enroll a lead, in the chat last heard from, or on p_number_id. p_again: also who was in it before. Answers
-- {"enrolled", "skipped", "reasons": {reason: how many}}; reasons are sequence_inactive, lead_inactive, no_chat,
-- number_inactive, opted_out, blocked, already_enrolled (in this or another sequence) and was_enrolled.
create function public.sequence_enroll(
    p_sequence_id uuid, p_lead_id uuid, p_number_id uuid default null, p_again boolean default false
) returns jsonb
language sql set search_path = '' as $$
    select private.sequence_enroll(p_sequence_id, p_lead_id, null, p_number_id, p_again)
$$;

-- Enroll every lead that fits {"tags", "statuses", "labels": lists, of which one must fit, "last_activity_after",
-- "last_activity_before"}; answers like sequence_enroll().
create function public.sequence_enroll_many(
    p_sequence_id uuid, p_filter jsonb, p_number_id uuid default null, p_again boolean default false
) returns jsonb
language sql set search_path = '' set statement_timeout = '120s' as $$
    select private.sequence_enroll(p_sequence_id, null, coalesce(p_filter, 'null'), p_number_id, p_again)
$$;

-- Triggers.

-- Enroll customers whose messages a trigger speaks of: live ones only, never what a history brings. A new lead is one
-- that this very delivery made.
create function private.sequences_trigger(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    if not exists (
        select
        from (select distinct m.tenant_id from unnest(p_stored) m where m.is_live and m.kind = 'message') as w
        where exists (
            select from public.sequence_triggers t
            where t.tenant_id = w.tenant_id and t.kind in ('new_lead', 'ad', 'keyword'))
    ) then
        return;
    end if;
    perform private.enrollments_add(array(
        select distinct on (m.tenant_id, m.chat_id, t.sequence_id)
            (m.tenant_id, t.sequence_id, m.lead_id, m.chat_id, t.kind, null, false)::private.enrollment_ask
        from unnest(p_stored) m
        join public.sequence_triggers t on t.tenant_id = m.tenant_id and t.kind in ('new_lead', 'ad', 'keyword')
        join public.sequences s on s.tenant_id = t.tenant_id and s.id = t.sequence_id and s.is_active
        where m.is_live and m.kind = 'message' and case t.kind
            when 'new_lead' then exists (
                select from public.customer_leads l
                where l.tenant_id = m.tenant_id and l.id = m.lead_id and l.created_at = now())
            when 'ad' then jsonb_typeof(m.body -> 'referral') = 'object'
                and t.value in ('', m.body #>> '{referral,source_id}')
            else position(
                format(' %s ', private.fold(t.value)) in format(' %s ', private.fold(m.body ->> 'text'))) > 0
        end
        order by m.tenant_id, m.chat_id, t.sequence_id, m.at));
end
$$;

-- after update of customer_leads: whoever got a tag or a status that a trigger speaks of. Definer: whoever may change a
-- lead may not write enrollments; it enrolls the row's own lead in its own business's sequences.
create function private.leads_trigger_sequences() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.enrollments_add(coalesce(array_agg(
        (a.tenant_id, a.sequence_id, a.lead_id, c.chat_id, a.kind, null, false)::private.enrollment_ask), '{}'))
    from (
        select distinct on (l.tenant_id, l.id, t.sequence_id) l.tenant_id, l.id as lead_id, t.sequence_id, t.kind
        from fresh l
        join stale o on o.tenant_id = l.tenant_id and o.id = l.id
        join public.sequence_triggers t on t.tenant_id = l.tenant_id and case t.kind
            when 'tag' then t.value = any (l.tags) and t.value <> all (o.tags)
            when 'status' then t.value in (l.lead_status, l.profile_status)
                and coalesce(t.value not in (o.lead_status, coalesce(o.profile_status, '')), true) end
        join public.sequences s on s.tenant_id = t.tenant_id and s.id = t.sequence_id and s.is_active
        where l.merged_into is null and (l.tags, l.lead_status, l.profile_status)
            is distinct from (o.tags, o.lead_status, o.profile_status)
        order by l.tenant_id, l.id, t.sequence_id, t.kind
    ) as a
    cross join lateral private.enrollment_chats(a.tenant_id, array[a.lead_id], null) c
    having count(*) > 0;
    return null;
end
$$;
create trigger customer_leads_trigger_sequences after update on public.customer_leads
    referencing old table as stale new table as fresh
    for each statement execute function private.leads_trigger_sequences();

grant execute on function
    private.as_time(text),
    private.local_time_after(time, text, timestamptz), private.chat_zone(uuid, uuid),
    private.last_safe_at(uuid, uuid, int), private.chat_share(uuid),
    private.step_due_at(public.sequence_steps, timestamptz, text, timestamptz, interval),
    private.spread_width(uuid, uuid, uuid, bigint), private.steps_due(private.step_ask[]),
    private.enrollment_obstacles(private.enrollment_ask[]), private.enrollments_add(private.enrollment_ask[]),
    private.sequences_trigger(private.inbox_message[])
    to service_role;
grant execute on function private.sequence_enroll(uuid, uuid, jsonb, uuid, boolean),
    public.sequence_enroll(uuid, uuid, uuid, boolean), public.sequence_enroll_many(uuid, jsonb, uuid, boolean)
    to authenticated;
