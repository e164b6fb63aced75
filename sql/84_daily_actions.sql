-- Daily actions: at its hour, by its own clock, each business follows up the leads whose next action is due. Once per
-- lead and day, however often it is asked for and wherever it is killed.

-- daily_runs: the days that a business's follow-ups were planned.
create table public.daily_runs (
    tenant_id uuid,
    day date,
    planned_at timestamptz not null,
    constraint daily_runs_pkey primary key (tenant_id, day),
    constraint daily_runs_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
comment on table public.daily_runs is 'The days, by the business''s own clock, whose follow-ups have begun.';

alter table public.daily_runs enable row level security;
grant select on public.daily_runs to authenticated;
grant select, insert, update, delete on public.daily_runs to service_role;
create policy daily_runs_select_member on public.daily_runs for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

create table public.daily_actions (
    tenant_id uuid,
    day date,
    lead_id uuid,
    chat_id uuid,
    next_action text,
    due_at timestamptz not null,
    status text not null default 'pending',
    reason text,
    text text,
    message_id uuid,
    rescheduled_to timestamptz,
    claim uuid,
    lease_until timestamptz,
    attempts int not null default 0,
    ended_at timestamptz,
    constraint daily_actions_pkey primary key (tenant_id, day, lead_id),
    constraint daily_actions_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint daily_actions_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint daily_actions_message_id_fkey foreign key (tenant_id, message_id)
        references public.messages (tenant_id, id),
    constraint daily_actions_status_check check (
        status in ('pending', 'sent', 'rescheduled', 'manual', 'skipped', 'failed')),
    constraint daily_actions_ended_at_check check ((status = 'pending') = (ended_at is null))
);
comment on table public.daily_actions is 'What was to be done for a lead on a day, and what became of it.';
comment on column public.daily_actions.next_action is 'pii: as the lead said when the day was planned';
comment on column public.daily_actions.text is 'pii: what was, or should be, written to the customer';
comment on column public.daily_actions.reason is 'Why it was not simply sent: of the send decision, or the agent''s.';

create index daily_actions_tenant_id_lead_id_idx on public.daily_actions (tenant_id, lead_id);
create index daily_actions_tenant_id_chat_id_idx
    on public.daily_actions (tenant_id, chat_id) where chat_id is not null;
create index daily_actions_tenant_id_message_id_idx
    on public.daily_actions (tenant_id, message_id) where message_id is not null;
create index daily_actions_tenant_id_pending_idx on public.daily_actions (tenant_id, day) where status = 'pending';

alter table public.daily_actions enable row level security;
grant select on public.daily_actions to authenticated;
grant select, insert, update, delete on public.daily_actions to service_role;
create policy daily_actions_select_member on public.daily_actions for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- What earlier files could not refer to yet.
alter table public.tenant_settings add constraint tenant_settings_followup_agent_id_fkey
    foreign key (tenant_id, followup_agent_id) references public.ai_agents (tenant_id, id);
alter table public.tenant_settings add constraint tenant_settings_followup_template_id_fkey
    foreign key (tenant_id, followup_template_id) references public.message_templates (tenant_id, id);
create index tenant_settings_tenant_id_followup_agent_id_idx
    on public.tenant_settings (tenant_id, followup_agent_id) where followup_agent_id is not null;
create index tenant_settings_tenant_id_followup_template_id_idx
    on public.tenant_settings (tenant_id, followup_template_id) where followup_template_id is not null;

-- Leads whose date is looked for every morning.
create index customer_leads_tenant_id_next_action_at_idx
    on public.customer_leads (tenant_id, next_action_at) where next_action_at is not null;

-- Businesses whose hour has come and whose day has not been planned; p_force: whatever the hour, and once more.
create function private.daily_tenants(p_tenant_id uuid, p_force boolean)
returns table (tenant_id uuid, day date, day_ends_at timestamptz)
language plpgsql stable set search_path = '' as $$
begin
    return query
    select o.id, w.local_now::date, ((w.local_now::date + 1)::timestamp at time zone o.timezone)
    from public.users o
    join public.tenant_settings s on s.tenant_id = o.id
    cross join lateral (select (select private.clock()) at time zone o.timezone as local_now) as w
    where o.id = o.tenant_id and o.is_active and o.crm_enabled and (p_tenant_id is null or o.id = p_tenant_id)
        and (p_force or w.local_now::time >= s.daily_actions_at and not exists (
            select from public.daily_runs r where r.tenant_id = o.id and r.day = w.local_now::date));
end
$$;

-- Plan the day of every business whose hour has come, or of one whatever the hour. Leads that are due and have had
-- their turn today get no other; those that already wait for a person keep waiting. Returns how many were planned.
create function public.daily_plan(p_tenant_id uuid default null, p_force boolean default false) returns int
language plpgsql set search_path = '' as $$
declare
    v_count int;
begin
    if p_force and p_tenant_id is null then
        raise exception using errcode = 'PT400', message = 'force needs a tenant_id.',
            hint = 'Pass the business whose follow-ups are to be done now.';
    end if;
    with due as materialized (
        select * from private.daily_tenants(p_tenant_id, p_force)
    ),
    begun as (
        insert into public.daily_runs (tenant_id, day, planned_at)
        select d.tenant_id, d.day, private.clock() from due d order by d.tenant_id
        on conflict (tenant_id, day) do nothing
    ),
    left_over as (
        -- what yesterday did not come to is due again today
        update public.daily_actions a
        set status = 'skipped', reason = 'day_over', ended_at = private.clock(), claim = null, lease_until = null
        from due d
        where a.tenant_id = d.tenant_id and a.day < d.day and a.status = 'pending'
            and coalesce(a.lease_until < now(), true)
    )
    insert into public.daily_actions (tenant_id, day, lead_id, chat_id, next_action, due_at)
    select d.tenant_id, d.day, l.id, c.id, l.next_action, l.next_action_at
    from due d
    cross join lateral (
        select * from public.customer_leads l
        where l.tenant_id = d.tenant_id and l.next_action_at < d.day_ends_at and l.is_active
    ) as l
    left join lateral (
        select c.id
        from public.chats c
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id and n.is_active
        where c.tenant_id = l.tenant_id and c.lead_id = l.id
        order by c.last_inbound_at desc nulls last, c.last_interaction_at desc
        limit 1
    ) as c on true
    where not exists (
        select from public.pending_manual p
        where p.tenant_id = l.tenant_id and p.chat_id = c.id and p.source = 'daily_action' and p.status = 'open')
    on conflict (tenant_id, day, lead_id) do nothing;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- An action in the hands of a worker.
create type private.daily_ref as (tenant_id uuid, day date, lead_id uuid);

-- Is there an action that daily_claim() would give out now?
create function private.daily_waiting() returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return not private.model_paused('daily-actions') and exists (
        select
        from public.tenant_settings s
        where exists (
            select from public.daily_actions a
            where a.tenant_id = s.tenant_id and a.status = 'pending' and coalesce(a.lease_until < now(), true)
        ) and not private.ai_budget_spent(s.tenant_id));
end
$$;

-- Pending actions, the same share for every business that has any and may still spend.
create function private.daily_due(p_limit int) returns private.daily_ref[]
language plpgsql set search_path = '' as $$
begin
    if private.model_paused('daily-actions') then
        return array[]::private.daily_ref[];
    end if;
    return array(
        with recursive waiting as (
            (select a.tenant_id from public.daily_actions a where a.status = 'pending' order by 1 limit 1)
            union all
            select following.tenant_id
            from waiting
            cross join lateral (
                select a.tenant_id from public.daily_actions a
                where a.status = 'pending' and a.tenant_id > waiting.tenant_id
                order by 1
                limit 1
            ) as following
        ),
        tenants as materialized (
            select w.tenant_id from waiting w where not private.ai_budget_spent(w.tenant_id)
        )
        select (due.tenant_id, due.day, due.lead_id)::private.daily_ref
        from tenants t
        cross join lateral (
            select a.tenant_id, a.day, a.lead_id
            from public.daily_actions a
            where a.tenant_id = t.tenant_id and a.status = 'pending' and coalesce(a.lease_until < now(), true)
            order by a.due_at, a.lead_id
            limit (select greatest(1, p_limit / count(*)) from tenants)
            for no key update of a skip locked
        ) as due
        limit p_limit);
end
$$;

-- How an action ends. p_lead_at: what becomes of the lead's own date: null leaves it, infinity takes it away, any
-- other moves it there; never where somebody has changed it since the day was planned.
create function private.daily_end(
    p_ref private.daily_ref, p_status text, p_reason text, p_text text, p_message_id uuid,
    p_lead_at timestamptz
) returns void
language plpgsql set search_path = '' as $$
begin
    update public.customer_leads l
    set next_action_at = nullif(p_lead_at, 'infinity'),
        next_action = case when p_lead_at = 'infinity' then null else l.next_action end
    from public.daily_actions a
    where p_lead_at is not null and a.tenant_id = (p_ref).tenant_id and a.day = (p_ref).day
        and a.lead_id = (p_ref).lead_id and l.tenant_id = a.tenant_id and l.id = a.lead_id
        and l.next_action_at = a.due_at and l.next_action is not distinct from a.next_action;
    update public.daily_actions a
    set status = p_status, reason = p_reason, text = p_text, message_id = p_message_id, claim = null,
        lease_until = null, ended_at = private.clock(),
        rescheduled_to = case p_status when 'rescheduled' then p_lead_at end
    where a.tenant_id = (p_ref).tenant_id and a.day = (p_ref).day and a.lead_id = (p_ref).lead_id;
end
$$;

-- What may be sent to these now, as the follow-up it would be.
create function private.daily_decisions(p_refs private.daily_ref[])
returns table (lead_id uuid, verdict text, reason text, not_before timestamptz)
language plpgsql stable set search_path = '' as $$
begin
    return query
    select d.ref, d.verdict, d.reason, d.not_before
    from private.send_decisions(array(
        select (a.lead_id, a.tenant_id, a.chat_id, 'daily_action', false, null, null, false)::private.send_candidate
        from unnest(p_refs) r
        join public.daily_actions a on a.tenant_id = r.tenant_id and a.day = r.day and a.lead_id = r.lead_id
        where a.chat_id is not null)) as d;
end
$$;

-- End without asking a model what needs none: nobody to write to, or nothing may ever be sent.
create function private.daily_refuse(p_refs private.daily_ref[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.daily_end(r::private.daily_ref, 'skipped', coalesce(d.reason, 'no_chat'), null, null, null)
    from (
        select a.tenant_id, a.day, a.lead_id, a.chat_id
        from unnest(p_refs) u
        join public.daily_actions a on a.tenant_id = u.tenant_id and a.day = u.day and a.lead_id = u.lead_id
        order by a.tenant_id, a.lead_id
    ) as w
    cross join lateral (select w.tenant_id, w.day, w.lead_id) as r
    left join private.daily_decisions(p_refs) d on d.lead_id = w.lead_id
    where w.chat_id is null or d.verdict = 'never';
end
$$;

-- What an agent is told to write a follow-up with.
create function private.daily_job(p_ref private.daily_ref) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'tenant_id', a.tenant_id, 'day', a.day, 'lead_id', a.lead_id, 'chat_id', a.chat_id, 'claim', a.claim,
            'attempts', a.attempts, 'next_action', a.next_action, 'due_at', a.due_at,
            'number', jsonb_build_object('id', n.id, 'name', n.display_name, 'timezone', n.timezone,
                'business_hours', n.business_hours),
            'business', jsonb_build_object('name', s.business_name, 'now', private.clock(), 'locale', o.locale,
                'timezone', o.timezone),
            'agent', to_jsonb(g)
                - '{tenant_id, created_at, updated_at, is_active, is_default, trigger_keywords}'::text[],
            'prompt', to_jsonb(p) - '{tenant_id, agent_id, created_at, is_active}'::text[],
            'thread', jsonb_build_object('summary', coalesce(t.summary, (
                select y.summary from public.crm_analyses y
                where y.tenant_id = c.tenant_id and y.chat_id = c.id and y.summary is not null
                    and y.analysed_at > coalesce(t.context_from, '-infinity')
                order by y.analysed_at desc
                limit 1))),
            'lead', jsonb_build_object('id', l.id, 'name', l.name, 'user_name', l.user_name, 'company', l.company,
                'customer_type', l.customer_type, 'tags', l.tags, 'status', l.profile_status,
                'labels', array_remove(array[l.label1, l.label2, l.label3], null), 'metadata', l.metadata),
            'messages', (
                select jsonb_agg(jsonb_build_object('role', m.role, 'type', m.type, 'content', m.content,
                    'at', m.provider_at) order by m.provider_at, m.id)
                from (
                    select * from public.messages m
                    where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.revoked_at is null
                        and m.status not in ('failed', 'skipped', 'canceled')
                        and m.provider_at > coalesce(t.context_from, '-infinity')
                    order by m.provider_at desc, m.id desc
                    limit 10
                ) as m))
        from public.daily_actions a
        join public.chats c on c.tenant_id = a.tenant_id and c.id = a.chat_id
        join public.customer_leads l on l.tenant_id = a.tenant_id and l.id = a.lead_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.tenant_settings s on s.tenant_id = a.tenant_id
        join public.users o on o.id = a.tenant_id
        left join public.ai_threads t on t.tenant_id = c.tenant_id and t.id = c.thread_id
        join lateral (
            select g.* from public.ai_agents g
            where g.tenant_id = a.tenant_id and g.is_active
            order by (g.id = s.followup_agent_id) is true desc, (g.id = n.default_agent_id) is true desc,
                g.is_default desc, g.created_at, g.id
            limit 1
        ) as g on true
        left join public.agent_prompts p on p.tenant_id = g.tenant_id and p.agent_id = g.id and p.is_active
        where a.tenant_id = (p_ref).tenant_id and a.day = (p_ref).day and a.lead_id = (p_ref).lead_id
            and a.status = 'pending');
end
$$;

-- Take actions, for p_lease_seconds: {"jobs": […], "next_in_ms": 0 when there may be more, else until one that was
-- begun is due again, or null}. What needs no model ends here; a business without an active agent gives its
-- follow-ups to a person.
create function public.daily_claim(p_limit int default 10, p_lease_seconds int default 120) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_refs private.daily_ref[] := private.daily_due(p_limit);
    v_claim uuid := private.uuid7();
    v_jobs jsonb;
begin
    update public.daily_actions a
    set claim = v_claim, attempts = a.attempts + 1, lease_until = now() + make_interval(secs => p_lease_seconds)
    from unnest(v_refs) r
    where a.tenant_id = r.tenant_id and a.day = r.day and a.lead_id = r.lead_id;
    perform private.daily_refuse(v_refs);
    -- nobody to write it, or worker after worker took it and never brought it back
    perform private.daily_to_person(
        r, case when a.attempts >= 10 then 'agent_failed' else 'no_agent' end, a.next_action)
    from unnest(v_refs) r
    join public.daily_actions a on a.tenant_id = r.tenant_id and a.day = r.day and a.lead_id = r.lead_id
    where a.status = 'pending' and (a.attempts >= 10 or not exists (
        select from public.ai_agents g where g.tenant_id = r.tenant_id and g.is_active));
    select jsonb_agg(j.job) filter (where j.job is not null)
    into v_jobs
    from unnest(v_refs) r, lateral private.daily_job(r) as j (job);
    return jsonb_build_object(
        'jobs', coalesce(v_jobs, '[]'), 'next_in_ms', case when cardinality(v_refs) > 0 then 0 else (
            select greatest(0, ceil(extract(epoch from min(a.lease_until) - clock_timestamp()) * 1000))
            from public.daily_actions a
            where a.status = 'pending' and a.lease_until is not null) end);
end
$$;

-- A person must do it: with the text, if there is one, ready to be sent.
create function private.daily_to_person(p_ref private.daily_ref, p_reason text, p_text text) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.pending_manual (tenant_id, chat_id, source, reason, priority, text, added_at)
    select a.tenant_id, a.chat_id, 'daily_action', p_reason, l.priority,
        coalesce(nullif(btrim(p_text), ''), a.next_action, ''), private.clock()
    from public.daily_actions a
    join public.customer_leads l on l.tenant_id = a.tenant_id and l.id = a.lead_id
    where a.tenant_id = (p_ref).tenant_id and a.day = (p_ref).day and a.lead_id = (p_ref).lead_id;
    perform private.daily_end(p_ref, 'manual', p_reason, p_text, null, null);
end
$$;

-- A person has dealt with a follow-up of this chat: the lead's date is over, unless somebody has set another.
create function private.daily_dealt_with(p_tenant_id uuid, p_chat_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    update public.customer_leads l
    set next_action = null, next_action_at = null
    from public.daily_actions a
    where a.tenant_id = p_tenant_id and a.chat_id = p_chat_id and a.status = 'manual'
        and l.tenant_id = a.tenant_id and l.id = a.lead_id
        and l.next_action_at = a.due_at and l.next_action is not distinct from a.next_action;
end
$$;

-- Hand a follow-up in, as the agent decided: p_decision send (p_text), reschedule (p_at) or person (p_text, what they
-- should know). Whether it may be sent is decided here: in the outbox, as the template the business chose, or with a
-- person. Answers sent, rescheduled, manual, skipped, or lost when the action is no longer yours.
create function public.daily_settle(
    p_tenant_id uuid, p_day date, p_lead_id uuid, p_claim uuid, p_agent_id uuid, p_decision text, p_text text,
    p_at timestamptz default null, p_usage jsonb default '[]'
) returns text
language plpgsql set search_path = '' as $$
declare
    v_ref private.daily_ref := (p_tenant_id, p_day, p_lead_id);
    v_action public.daily_actions;
    v_verdict record;
    v_message_id uuid;
begin
    perform from public.customer_leads where tenant_id = p_tenant_id and id = p_lead_id for no key update;
    select * into v_action from public.daily_actions a
    where a.tenant_id = p_tenant_id and a.day = p_day and a.lead_id = p_lead_id
    for no key update;
    perform private.usage_insert(p_tenant_id, v_action.chat_id, p_agent_id, null, p_usage);
    if v_action.status is distinct from 'pending' or v_action.claim is distinct from p_claim then
        return 'lost';
    end if;
    perform private.alert_end(p_tenant_id, 'model_barred', 'daily-actions');
    if p_decision = 'reschedule' then
        perform private.daily_end(v_ref, 'rescheduled', 'agent', null, null, p_at);
        return 'rescheduled';
    elsif p_decision = 'person' then
        perform private.daily_to_person(v_ref, 'agent', p_text);
        return 'manual';
    end if;
    select d.verdict, d.reason, d.not_before into v_verdict from private.daily_decisions(array[v_ref]) d;
    if v_verdict.verdict in ('send', 'wait') then
        v_message_id := (private.outbox_enqueue(array[private.outgoing(
            p_tenant_id, v_action.chat_id, 'daily_action', 'daily_action', 'assistant', p_text,
            p_agent_id => p_agent_id)]))[1];
    elsif v_verdict.verdict = 'template' then
        v_message_id := private.daily_template(v_action, p_text);
    end if;
    if v_message_id is not null then
        perform private.daily_end(v_ref, 'sent', v_verdict.reason, p_text, v_message_id, 'infinity');
        return 'sent';
    elsif v_verdict.verdict = 'never' then
        perform private.daily_end(v_ref, 'skipped', v_verdict.reason, p_text, null, null);
        return 'skipped';
    end if;
    perform private.daily_to_person(v_ref, v_verdict.reason, p_text);
    return 'manual';
end
$$;

-- The window is closed: send the template that the business chose for follow-ups. Its first blank is the customer's
-- name, its second what the agent wrote. Null when none was chosen, or it cannot be sent to this customer.
create function private.daily_template(p_action public.daily_actions, p_text text) returns uuid
language plpgsql set search_path = '' as $$
declare
    v_template public.message_templates;
    v_parameters jsonb;
    v_filled jsonb;
begin
    select t.* into v_template
    from public.tenant_settings s
    join public.message_templates t on t.tenant_id = s.tenant_id and t.id = s.followup_template_id
    join public.chats c on c.tenant_id = s.tenant_id and c.id = p_action.chat_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        and t.waba_id = case n.provider when 'twilio' then n.account_id else n.waba_id end
    where s.tenant_id = p_action.tenant_id;
    if not found or not exists (
        select from private.send_decisions(array[(p_action.lead_id, p_action.tenant_id, p_action.chat_id,
            'daily_action', true, v_template.category, v_template.id, false)::private.send_candidate]) as d
        where d.verdict in ('send', 'wait')
    ) then
        return null;
    end if;
    select jsonb_build_object('body', jsonb_object_agg(b.key, b.value))
    into v_parameters
    from public.customer_leads l
    cross join lateral (
        select s.key, (array[
            coalesce(l.name, l.user_name, l.phone), left(regexp_replace(p_text, '\s+', ' ', 'g'), 900)
        ])[row_number() over (order by length(s.key), s.key)] as value
        from private.template_slots(v_template) s
        where s.part = 'body'
    ) as b
    where l.tenant_id = p_action.tenant_id and l.id = p_action.lead_id;
    v_filled := private.template_message(v_template, v_parameters);
    if v_filled ? 'reason' then
        return null;
    end if;
    return (private.outbox_enqueue(array[private.outgoing(
        p_action.tenant_id, p_action.chat_id, 'daily_action', 'daily_action', 'assistant', v_filled ->> 'text',
        'template', private.template_data(v_template, v_filled, v_parameters),
        p_template_id => v_template.id)]))[1];
end
$$;

-- No follow-up this time: again after a pause; the third time a person does it. p_is_passing: the model said nothing
-- at all; that is tried for an hour and a half, after ever longer pauses. Answers retry, manual or lost.
create function public.daily_fail(
    p_tenant_id uuid, p_day date, p_lead_id uuid, p_claim uuid, p_error text, p_is_final boolean default false,
    p_retry_after_seconds int default null, p_usage jsonb default '[]', p_is_passing boolean default false
) returns text
language plpgsql set search_path = '' as $$
declare
    v_action public.daily_actions;
begin
    perform from public.customer_leads where tenant_id = p_tenant_id and id = p_lead_id for no key update;
    select * into v_action from public.daily_actions a
    where a.tenant_id = p_tenant_id and a.day = p_day and a.lead_id = p_lead_id
    for no key update;
    perform private.usage_insert(p_tenant_id, v_action.chat_id, null, null, p_usage);
    if v_action.status is distinct from 'pending' or v_action.claim is distinct from p_claim then
        return 'lost';
    elsif p_is_final or v_action.attempts >= (case when p_is_passing then 8 else 3 end) then
        perform private.daily_to_person((p_tenant_id, p_day, p_lead_id), 'agent_failed', null);
        return 'manual';
    end if;
    update public.daily_actions
    set claim = null, reason = p_error,
        lease_until = now() + make_interval(
            secs => coalesce(p_retry_after_seconds, 5 * 3 ^ (v_action.attempts - 1)))
    where tenant_id = p_tenant_id and day = p_day and lead_id = p_lead_id;
    return 'retry';
end
$$;

-- Give follow-ups back, as if they had not been taken: the model's provider bars everybody.
create function public.daily_release(p_claim uuid, p_reason text) returns int
language plpgsql set search_path = '' as $$
declare
    v_tenants uuid[];
begin
    with released as (
        update public.daily_actions
        set claim = null, lease_until = now() + interval '15 minutes', attempts = attempts - 1
        where claim = p_claim and status = 'pending'
        returning tenant_id
    )
    select coalesce(array_agg(tenant_id), '{}') into v_tenants from released;
    perform private.model_pause('daily-actions', v_tenants, p_reason);
    return cardinality(v_tenants);
end
$$;

-- For an admin: plan one's own business now, whatever the hour. Definer: staff may not write daily_actions.
create function private.crm_execute_daily_actions() returns int
language plpgsql security definer set search_path = '' as $$
declare
    v_planned int;
begin
    v_planned := public.daily_plan(private.require_admin(), true);
    perform private.wake('daily-actions');
    return v_planned;
end
$$;
-- Returns how many follow-ups were planned now; those that were done today stay done.
create function public.crm_execute_daily_actions() returns int
language sql set search_path = '' as $$
    select private.crm_execute_daily_actions()
$$;

-- How the CRM's jobs stand, for the caller's own business.
create function public.crm_status() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    return (
        select jsonb_build_object(
            'today', w.local_now::date,
            'last_run', (select max(r.planned_at) from public.daily_runs r where r.tenant_id = v_tenant_id),
            'next_run', ((w.local_now::date + exists (
                select from public.daily_runs r where r.tenant_id = v_tenant_id and r.day = w.local_now::date
            )::int) + s.daily_actions_at) at time zone o.timezone,
            'due_today', (select count(*) from public.customer_leads l
                where l.tenant_id = v_tenant_id and l.is_active
                    and l.next_action_at < (w.local_now::date + 1)::timestamp at time zone o.timezone),
            'actions', (select coalesce(jsonb_object_agg(a.status, a.n), '{}') from (
                select status, count(*) as n from public.daily_actions
                where tenant_id = v_tenant_id and day = w.local_now::date
                group by status) as a),
            'analyses_waiting', (
                select count(*) from public.chats c where c.tenant_id = v_tenant_id and c.news_since is not null),
            'last_analysis', (
                select max(y.analysed_at) from public.crm_analyses y where y.tenant_id = v_tenant_id),
            'manual_open', (select count(*) from public.pending_manual p
                where p.tenant_id = v_tenant_id and p.status = 'open'))
        from public.users o
        join public.tenant_settings s on s.tenant_id = o.id
        cross join lateral (select (select private.clock()) at time zone o.timezone as local_now) as w
        where o.id = v_tenant_id);
end
$$;

grant execute on function private.daily_tenants(uuid, boolean), private.daily_waiting(), private.daily_due(int),
    private.daily_end(private.daily_ref, text, text, text, uuid, timestamptz),
    private.daily_decisions(private.daily_ref[]), private.daily_refuse(private.daily_ref[]),
    private.daily_job(private.daily_ref), private.daily_to_person(private.daily_ref, text, text),
    private.daily_template(public.daily_actions, text), private.daily_dealt_with(uuid, uuid),
    public.daily_plan(uuid, boolean), public.daily_claim(int, int),
    public.daily_settle(uuid, date, uuid, uuid, uuid, text, text, timestamptz, jsonb),
    public.daily_fail(uuid, date, uuid, uuid, text, boolean, int, jsonb, boolean), public.daily_release(uuid, text)
    to service_role;
grant execute on function private.crm_execute_daily_actions(), public.crm_execute_daily_actions(),
    public.crm_status() to authenticated;
