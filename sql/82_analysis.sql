-- CRM analysis: idle conversations are read by a model, which says what became of the customer and what comes next.
-- A person's word counts more than the model's, and an answer that cannot be trusted changes nothing.

-- lead_edits: who changed what about a customer, by hand.
create table public.lead_edits (
    tenant_id uuid,
    id uuid default private.uuid7(),
    lead_id uuid not null,
    field text not null,
    old_value jsonb,
    new_value jsonb,
    edited_by uuid not null,
    edited_at timestamptz not null,
    constraint lead_edits_pkey primary key (tenant_id, id),
    constraint lead_edits_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint lead_edits_edited_by_fkey foreign key (tenant_id, edited_by) references public.users (tenant_id, id)
);
comment on table public.lead_edits is 'Changes that staff made to fields of a lead; only ever added to.';
comment on column public.lead_edits.old_value is 'pii: what the field held';
comment on column public.lead_edits.new_value is 'pii: what the person wrote';

create index lead_edits_tenant_id_lead_id_edited_at_idx on public.lead_edits (tenant_id, lead_id, edited_at desc);
create index lead_edits_tenant_id_edited_by_idx on public.lead_edits (tenant_id, edited_by);

alter table public.lead_edits enable row level security;
grant select on public.lead_edits to authenticated;
grant select, insert on public.lead_edits to service_role;
create policy lead_edits_select_member on public.lead_edits for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- after update of a lead: note what a person changed. Definer: staff may not write lead_edits themselves.
create function private.lead_edits_note() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_user_id uuid := private.my_user_id();
begin
    if v_user_id is not null then
        insert into public.lead_edits (tenant_id, lead_id, field, old_value, new_value, edited_by, edited_at)
        select new.tenant_id, new.id, n.key, o.value, n.value, v_user_id, private.clock()
        from jsonb_each(to_jsonb(new)) n
        join jsonb_each(to_jsonb(old)) o using (key)
        where n.value <> o.value and n.key not in (
            'updated_at', 'name_source', 'named_at', 'merged_into', 'merged_at', 'merged_by');
    end if;
    return null;
end
$$;
create trigger customer_leads_note_edits after update of name, label1, label2, label3, email, company, customer_type,
    business_category, tags, lead_status, lead_grade, qualification_score, assigned_to, profile_status, next_action,
    next_action_at, priority, timezone, metadata, is_active on public.customer_leads
    for each row execute function private.lead_edits_note();

create table public.crm_analyses (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    lead_id uuid not null,
    outcome text not null,
    profile_status text,
    next_action text,
    next_action_at timestamptz,
    priority smallint,
    sentiment text,
    satisfaction smallint,
    summary text,
    language text,
    evidence jsonb not null default '[]',
    confidence numeric(3, 2),
    kept_fields text[] not null default '{}',
    error text,
    model text,
    until_at timestamptz not null,
    analysed_at timestamptz not null,
    constraint crm_analyses_pkey primary key (tenant_id, id),
    constraint crm_analyses_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint crm_analyses_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint crm_analyses_outcome_check check (outcome in ('applied', 'unchanged', 'failed')),
    constraint crm_analyses_priority_check check (priority between 1 and 5),
    constraint crm_analyses_satisfaction_check check (satisfaction between 1 and 5),
    constraint crm_analyses_sentiment_check check (sentiment in ('positive', 'neutral', 'negative')),
    constraint crm_analyses_confidence_check check (confidence between 0 and 1)
);
comment on table public.crm_analyses is 'What a model made of each quiet conversation; the lead holds the result.';
comment on column public.crm_analyses.outcome is
    'applied: the lead was changed; unchanged: it said so already, or a person had; failed: nothing usable came.';
comment on column public.crm_analyses.kept_fields is 'What a person had set, and which therefore stayed as it was.';
comment on column public.crm_analyses.until_at is 'The last message that was read.';
comment on column public.crm_analyses.next_action is 'pii: may quote the customer';
comment on column public.crm_analyses.summary is 'pii: what was said';
comment on column public.crm_analyses.profile_status is 'pii: what became of the customer';
comment on column public.crm_analyses.evidence is 'pii: [{"message_id", "quote"}], the customer''s own words';
comment on column public.crm_analyses.error is 'pii: an error may quote the answer';

create index crm_analyses_tenant_id_chat_id_analysed_at_idx
    on public.crm_analyses (tenant_id, chat_id, analysed_at desc);
create index crm_analyses_tenant_id_lead_id_analysed_at_idx
    on public.crm_analyses (tenant_id, lead_id, analysed_at desc);

alter table public.crm_analyses enable row level security;
grant select on public.crm_analyses to authenticated;
grant select, insert, update, delete on public.crm_analyses to service_role;
create policy crm_analyses_select_member on public.crm_analyses for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- pending_analyses: chats in the hands of a worker, or that one had and did not finish.
create table public.pending_analyses (
    tenant_id uuid,
    chat_id uuid,
    claim uuid,
    lease_until timestamptz not null,
    attempts int not null default 1,
    until_at timestamptz not null,
    constraint pending_analyses_pkey primary key (tenant_id, chat_id),
    constraint pending_analyses_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade
) with (fillfactor = 70);
comment on table public.pending_analyses is 'Chats that are being analysed; due again when the lease is over.';

alter table public.pending_analyses enable row level security;
grant select on public.pending_analyses to authenticated;
grant select, insert, update, delete on public.pending_analyses to service_role;
create policy pending_analyses_select_member on public.pending_analyses for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- model_pauses: workers whose model's provider wants money first, or does not know our key; asking it again at once
-- would be no use.
create table private.model_pauses (
    worker text,
    paused_until timestamptz not null,
    constraint model_pauses_pkey primary key (worker)
);
comment on table private.model_pauses is 'Workers that ask no model for now, in real time.';
alter table private.model_pauses enable row level security;
grant select, insert, update, delete on private.model_pauses to service_role;

create function private.model_paused(p_worker text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (select from private.model_pauses where worker = p_worker and paused_until > now());
end
$$;

-- Nobody asks the model for this worker for a quarter of an hour, and the businesses that wait for it are told.
create function private.model_pause(p_worker text, p_tenants uuid[], p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
    insert into private.model_pauses (worker, paused_until) values (p_worker, now() + interval '15 minutes')
    on conflict on constraint model_pauses_pkey do update set paused_until = excluded.paused_until;
    perform private.alert_raise(w.tenant_id, 'model_barred', p_worker, p_reason, p_severity => 'critical')
    from (select distinct t.tenant_id from unnest(p_tenants) t (tenant_id) order by 1) as w;
end
$$;

-- May this business have conversations read now?
create function private.analysis_allowed(p_tenant_id uuid) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (select from public.users o where o.id = p_tenant_id and o.is_active and o.crm_enabled)
        and not private.ai_budget_spent(p_tenant_id);
end
$$;

-- Is there a chat that analysis_claim() would give out now?
create function private.analyses_waiting() returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return not private.model_paused('crm-analysis') and exists (
        select
        from public.tenant_settings s
        where (
            exists (
                select from public.chats c
                where c.tenant_id = s.tenant_id and c.news_since is not null and c.last_interaction_at
                    <= (select private.clock()) - make_interval(mins => s.crm_analysis_idle_minutes))
            or exists (
                select from public.pending_analyses p where p.tenant_id = s.tenant_id and p.lease_until < now())
        ) and private.analysis_allowed(s.tenant_id));
end
$$;

-- Due chats: with news and silent long enough, or begun and not finished; the same share for every business that has
-- any and may still spend. Chats somebody else is busy with are left to the next look.
create function private.analyses_due(p_limit int) returns private.chat_ref[]
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if private.model_paused('crm-analysis') then
        return array[]::private.chat_ref[];
    end if;
    return array(
        with recursive news as (
            (select c.tenant_id from public.chats c where c.news_since is not null order by 1 limit 1)
            union all
            select following.tenant_id
            from news
            cross join lateral (
                select c.tenant_id from public.chats c
                where c.news_since is not null and c.tenant_id > news.tenant_id
                order by 1
                limit 1
            ) as following
        ),
        tenants as materialized (
            select t.tenant_id, s.crm_analysis_idle_minutes
            from (select tenant_id from news union select tenant_id from public.pending_analyses) as t
            join public.tenant_settings s on s.tenant_id = t.tenant_id
            where private.analysis_allowed(t.tenant_id)
            -- when there is more to do than time, nobody is always last
            order by random()
        )
        select (due.tenant_id, due.id)::private.chat_ref
        from tenants t
        cross join lateral (
            select c.tenant_id, c.id
            from (
                (
                    -- those that have waited longest, as the index has them
                    select n.id
                    from public.chats n
                    where n.tenant_id = t.tenant_id and n.news_since is not null
                        and n.last_interaction_at <= v_now - make_interval(mins => t.crm_analysis_idle_minutes)
                        and not exists (
                            select from public.pending_analyses p
                            where p.tenant_id = n.tenant_id and p.chat_id = n.id)
                    order by n.news_since
                    limit (select greatest(1, p_limit / count(*)) from tenants)
                )
                union all
                select p.chat_id
                from public.pending_analyses p
                where p.tenant_id = t.tenant_id and p.lease_until < now()
            ) as candidates
            join public.chats c on c.tenant_id = t.tenant_id and c.id = candidates.id
            limit (select greatest(1, p_limit / count(*)) from tenants)
            for no key update of c skip locked
        ) as due
        limit p_limit);
end
$$;

-- What a model is told about a chat. messages: the latest of them, oldest first.
create function private.analysis_job(p_tenant_id uuid, p_chat_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'tenant_id', c.tenant_id, 'chat_id', c.id, 'claim', p.claim, 'attempts', p.attempts,
            'business', jsonb_build_object('name', s.business_name, 'locale', o.locale, 'timezone', o.timezone,
                'now', private.clock(), 'statuses', s.crm_statuses, 'model', s.crm_model),
            'lead', jsonb_build_object('id', l.id, 'name', l.name, 'status', l.profile_status,
                'next_action', l.next_action, 'next_action_at', l.next_action_at, 'priority', l.priority,
                'labels', array_remove(array[l.label1, l.label2, l.label3], null)),
            'before', (
                select a.summary from public.crm_analyses a
                where a.tenant_id = c.tenant_id and a.chat_id = c.id and a.summary is not null
                    and a.analysed_at > coalesce(t.context_from, '-infinity')
                order by a.analysed_at desc
                limit 1),
            'messages', (
                select jsonb_agg(jsonb_build_object('id', m.id, 'role', m.role, 'type', m.type,
                    'content', left(m.content, 2000), 'at', m.provider_at) order by m.provider_at, m.id)
                from (
                    select * from public.messages m
                    where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.revoked_at is null
                        and m.status not in ('failed', 'skipped', 'canceled', 'queued')
                        and m.provider_at > coalesce(t.context_from, '-infinity')
                    order by m.provider_at desc, m.id desc
                    limit 60
                ) as m))
        from public.pending_analyses p
        join public.chats c on c.tenant_id = p.tenant_id and c.id = p.chat_id
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.tenant_settings s on s.tenant_id = c.tenant_id
        join public.users o on o.id = c.tenant_id
        left join public.ai_threads t on t.tenant_id = c.tenant_id and t.id = c.thread_id
        where p.tenant_id = p_tenant_id and p.chat_id = p_chat_id);
end
$$;

-- Chats that worker after worker took and never brought back: whatever it is, it is not tried for ever.
create function private.analyses_abandon() returns void
language plpgsql set search_path = '' as $$
begin
    with gone as (
        delete from public.pending_analyses where lease_until < now() and attempts >= 10 returning *
    )
    insert into public.crm_analyses (tenant_id, chat_id, lead_id, outcome, error, until_at, analysed_at)
    select g.tenant_id, c.id, c.lead_id, 'failed', 'No worker finished it.', g.until_at, private.clock()
    from gone g
    join public.chats c on c.tenant_id = g.tenant_id and c.id = g.chat_id;
end
$$;

-- Take chats to analyse, for p_lease_seconds: {"jobs": […], "next_in_ms": 0 when there may be more, else until one
-- that was begun is due again, or null}.
create function public.analysis_claim(p_limit int default 20, p_lease_seconds int default 120) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_chats private.chat_ref[];
    v_claim uuid := private.uuid7();
    v_jobs jsonb;
begin
    perform private.analyses_abandon();
    v_chats := private.analyses_due(p_limit);
    insert into public.pending_analyses as p (tenant_id, chat_id, claim, lease_until, until_at)
    select c.tenant_id, c.id, v_claim, now() + make_interval(secs => p_lease_seconds), c.last_interaction_at
    from unnest(v_chats) d
    join public.chats c on c.tenant_id = d.tenant_id and c.id = d.chat_id
    order by c.tenant_id, c.id
    on conflict (tenant_id, chat_id) do update
    set claim = excluded.claim, lease_until = excluded.lease_until, until_at = excluded.until_at,
        attempts = p.attempts + 1;
    -- what is said from here on is news for the next analysis
    update public.chats c set news_since = null
    from unnest(v_chats) d
    where c.tenant_id = d.tenant_id and c.id = d.chat_id and c.news_since is not null;
    select jsonb_agg(private.analysis_job(d.tenant_id, d.chat_id)) into v_jobs from unnest(v_chats) d;
    return jsonb_build_object(
        'jobs', coalesce(v_jobs, '[]'), 'next_in_ms', case when cardinality(v_chats) > 0 then 0 else (
            select greatest(0, ceil(extract(epoch from min(p.lease_until) - clock_timestamp()) * 1000))
            from public.pending_analyses p) end);
end
$$;

-- The fields of a lead that are a person's for now: set by hand since the customer last spoke.
create function private.lead_fields_kept(p_tenant_id uuid, p_lead_id uuid) returns text[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select distinct e.field
        from public.lead_edits e
        join public.tenant_settings s on s.tenant_id = e.tenant_id
        where e.tenant_id = p_tenant_id and e.lead_id = p_lead_id and case s.crm_person_keeps
            when 'always' then true
            when 'until_next_message' then e.edited_at > coalesce((
                select max(c.last_inbound_at) from public.chats c
                where c.tenant_id = p_tenant_id and c.lead_id = p_lead_id), '-infinity')
            else false
        end);
end
$$;

-- An analysis is finished: keep it, and give the lead what it says, except for what a person has set. p_result:
-- {profile_status, next_action, next_action_at, priority, sentiment, satisfaction, summary, language, evidence,
-- confidence, model}; checked by the worker. Answers applied, unchanged, or lost when the chat is no longer yours.
create function public.analysis_settle(
    p_tenant_id uuid, p_chat_id uuid, p_claim uuid, p_result jsonb, p_usage jsonb default '[]'
) returns text
language plpgsql set search_path = '' as $$
declare
    v_pending public.pending_analyses;
    v_lead public.customer_leads;
    v_kept text[];
    v_says record;
    v_pipeline text;
    v_changed boolean;
begin
    perform private.usage_insert(p_tenant_id, p_chat_id, null, null, p_usage);
    select l.* into v_lead
    from public.customer_leads l
    where l.tenant_id = p_tenant_id and l.id = (
        select lead_id from public.chats where tenant_id = p_tenant_id and id = p_chat_id)
    for no key update;
    delete from public.pending_analyses p
    where p.tenant_id = p_tenant_id and p.chat_id = p_chat_id and p.claim = p_claim
    returning p.* into v_pending;
    if v_pending.chat_id is null then
        return 'lost';
    end if;
    v_kept := private.lead_fields_kept(p_tenant_id, v_lead.id);
    select * into v_says
    from jsonb_to_record(p_result) as r (profile_status text, next_action text, next_action_at timestamptz,
        priority smallint, sentiment text, satisfaction smallint, summary text, language text, evidence jsonb,
        confidence numeric, model text);
    select s.crm_pipeline ->> v_says.profile_status into v_pipeline
    from public.tenant_settings s where s.tenant_id = p_tenant_id;

    update public.customer_leads l
    set profile_status = n.profile_status, next_action = n.next_action, next_action_at = n.next_action_at,
        priority = n.priority, lead_status = n.lead_status
    from (
        select
            case when 'profile_status' = any (v_kept) then v_lead.profile_status else v_says.profile_status end
                as profile_status,
            case when v_kept && '{next_action, next_action_at}' then v_lead.next_action else v_says.next_action end
                as next_action,
            case when v_kept && '{next_action, next_action_at}' then v_lead.next_action_at
                else v_says.next_action_at end as next_action_at,
            case when 'priority' = any (v_kept) then v_lead.priority else v_says.priority end as priority,
            case when v_kept && '{profile_status, lead_status}' then v_lead.lead_status
                else coalesce(v_pipeline, v_lead.lead_status) end as lead_status
    ) as n
    where l.tenant_id = p_tenant_id and l.id = v_lead.id
        and (l.profile_status, l.next_action, l.next_action_at, l.priority, l.lead_status)
            is distinct from (n.profile_status, n.next_action, n.next_action_at, n.priority, n.lead_status);
    v_changed := found;
    perform private.alert_end(p_tenant_id, 'model_barred', 'crm-analysis');

    insert into public.crm_analyses (tenant_id, chat_id, lead_id, outcome, profile_status, next_action,
        next_action_at, priority, sentiment, satisfaction, summary, language, evidence, confidence, kept_fields, model,
        until_at, analysed_at)
    values (p_tenant_id, p_chat_id, v_lead.id, case when v_changed then 'applied' else 'unchanged' end,
        v_says.profile_status, v_says.next_action, v_says.next_action_at, v_says.priority, v_says.sentiment,
        v_says.satisfaction, v_says.summary, v_says.language, coalesce(v_says.evidence, '[]'), v_says.confidence,
        v_kept, v_says.model, v_pending.until_at, private.clock());
    return case when v_changed then 'applied' else 'unchanged' end;
end
$$;

-- Nothing usable came: once more after a pause, then it is recorded and the chat waits for its next message. The
-- lead stays as it was. p_is_passing: the model said nothing at all; that is tried for an hour and a half, after ever
-- longer pauses. Answers retry, failed or lost.
create function public.analysis_fail(
    p_tenant_id uuid, p_chat_id uuid, p_claim uuid, p_error text, p_retry_after_seconds int default null,
    p_usage jsonb default '[]', p_is_passing boolean default false
) returns text
language plpgsql set search_path = '' as $$
declare
    v_pending public.pending_analyses;
begin
    perform private.usage_insert(p_tenant_id, p_chat_id, null, null, p_usage);
    select p.* into v_pending
    from public.pending_analyses p
    where p.tenant_id = p_tenant_id and p.chat_id = p_chat_id and p.claim = p_claim
    for no key update;
    if not found then
        return 'lost';
    end if;
    if v_pending.attempts < (case when p_is_passing then 8 else 2 end) then
        update public.pending_analyses
        set claim = null, lease_until = now() + make_interval(
            secs => coalesce(p_retry_after_seconds, 5 * 3 ^ (v_pending.attempts - 1)))
        where tenant_id = p_tenant_id and chat_id = p_chat_id;
        return 'retry';
    end if;
    delete from public.pending_analyses where tenant_id = p_tenant_id and chat_id = p_chat_id;
    insert into public.crm_analyses (tenant_id, chat_id, lead_id, outcome, error, until_at, analysed_at)
    select p_tenant_id, c.id, c.lead_id, 'failed', p_error, v_pending.until_at, private.clock()
    from public.chats c
    where c.tenant_id = p_tenant_id and c.id = p_chat_id;
    return 'failed';
end
$$;

-- Give chats back unread, as if they had not been taken: the model's provider bars everybody.
create function public.analysis_release(p_claim uuid, p_reason text) returns int
language plpgsql set search_path = '' as $$
declare
    v_tenants uuid[];
begin
    with released as (
        update public.pending_analyses
        set claim = null, lease_until = now() + interval '15 minutes', attempts = attempts - 1
        where claim = p_claim
        returning tenant_id
    )
    select coalesce(array_agg(tenant_id), '{}') into v_tenants from released;
    perform private.model_pause('crm-analysis', v_tenants, p_reason);
    return cardinality(v_tenants);
end
$$;

grant execute on function private.model_paused(text), private.model_pause(text, uuid[], text),
    private.analyses_abandon(), private.analysis_allowed(uuid), private.analyses_waiting(),
    private.analyses_due(int), private.analysis_job(uuid, uuid),
    private.lead_fields_kept(uuid, uuid), public.analysis_claim(int, int),
    public.analysis_settle(uuid, uuid, uuid, jsonb, jsonb),
    public.analysis_fail(uuid, uuid, uuid, text, int, jsonb, boolean), public.analysis_release(uuid, text)
    to service_role;
