-- Agents: who answers, with which words, in which thread, at which price; and the chats that wait for an answer.

create table public.ai_agents (
    tenant_id uuid,
    id uuid default private.uuid7(),
    name text not null,
    description text,
    role text not null default 'assistant',
    is_active boolean not null default true,
    is_default boolean not null default false,
    personality_prompt text not null default '',
    business_prompt text not null default '',
    objectives_prompt text not null default '',
    model text not null default 'gpt-6-luna',
    temperature numeric(3, 2),
    max_tokens_per_message int not null default 500,
    business_rules jsonb not null default '{}',
    trigger_keywords text[] not null default '{}',
    active_hours jsonb,
    buffer_seconds numeric(5, 2) not null default 4,
    buffer_max_seconds numeric(5, 2) not null default 15,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint ai_agents_pkey primary key (tenant_id, id),
    constraint ai_agents_tenant_id_name_key unique (tenant_id, name),
    constraint ai_agents_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint ai_agents_name_check check (btrim(name) <> '' and length(name) <= 100),
    constraint ai_agents_temperature_check check (temperature between 0 and 2),
    constraint ai_agents_max_tokens_per_message_check check (max_tokens_per_message between 16 and 16000),
    constraint ai_agents_active_hours_check check (private.is_hours(active_hours)),
    constraint ai_agents_buffer_seconds_check check (buffer_seconds between 0 and 60),
    constraint ai_agents_buffer_max_seconds_check check (buffer_max_seconds between buffer_seconds and 300)
);
comment on table public.ai_agents is 'The AI agents of a business: character, orders, and when they are the right one.';
comment on column public.ai_agents.trigger_keywords is 'Whole words or phrases; case and accents do not matter.';
comment on column public.ai_agents.active_hours is 'See private.is_hours, in the number''s time zone; null: always.';
comment on column public.ai_agents.temperature is 'null: the model''s own.';
comment on column public.ai_agents.buffer_seconds is 'An answer waits this long after the last fragment of a burst,';
comment on column public.ai_agents.buffer_max_seconds is 'but no longer than this after the first.';

create unique index ai_agents_tenant_id_default_key on public.ai_agents (tenant_id) where is_default and is_active;

create trigger ai_agents_touch_updated_at before update on public.ai_agents
    for each row execute function private.touch_updated_at();
create trigger ai_agents_plan_limit after insert or update of is_active, tenant_id on public.ai_agents
    for each row when (new.is_active) execute function private.enforce_plan_limit();

alter table public.ai_agents enable row level security;
grant select,
    insert (tenant_id, name, description, role, is_active, is_default, personality_prompt, business_prompt,
        objectives_prompt, model, temperature, max_tokens_per_message, business_rules, trigger_keywords, active_hours,
        buffer_seconds, buffer_max_seconds),
    update (name, description, role, is_active, is_default, personality_prompt, business_prompt, objectives_prompt,
        model, temperature, max_tokens_per_message, business_rules, trigger_keywords, active_hours, buffer_seconds,
        buffer_max_seconds)
    on public.ai_agents to authenticated;
grant select, insert, update, delete on public.ai_agents to service_role;
create policy ai_agents_select_member on public.ai_agents for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy ai_agents_insert_admin on public.ai_agents for insert to authenticated
    with check (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');
create policy ai_agents_update_admin on public.ai_agents for update to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin')
    with check (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- agent_prompts: what an agent is told, as it evolves; the active version is the one in use.
create table public.agent_prompts (
    tenant_id uuid,
    id uuid default private.uuid7(),
    agent_id uuid not null,
    system_prompt text not null,
    context_summary text not null default '',
    business_context jsonb not null default '{}',
    version int not null default 1,
    trigger_reason text not null default 'initial',
    is_active boolean not null default true,
    tokens_used int,
    response_quality numeric(4, 2),
    created_at timestamptz not null default now(),
    constraint agent_prompts_pkey primary key (tenant_id, id),
    constraint agent_prompts_tenant_id_agent_id_version_key unique (tenant_id, agent_id, version),
    constraint agent_prompts_agent_id_fkey foreign key (tenant_id, agent_id) references public.ai_agents (tenant_id, id)
);
comment on table public.agent_prompts is 'Versions of what an agent is told; without one, its own prompts are used.';

create unique index agent_prompts_tenant_id_agent_id_active_key
    on public.agent_prompts (tenant_id, agent_id) where is_active;

alter table public.agent_prompts enable row level security;
grant select on public.agent_prompts to authenticated;
grant select, insert, update, delete on public.agent_prompts to service_role;
create policy agent_prompts_select_member on public.agent_prompts for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- ai_threads: our own sessions over stored history; a chat has one in use.
create table public.ai_threads (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    summary text,
    run_count int not null default 0,
    token_count bigint not null default 0,
    last_input_tokens int not null default 0,
    created_at timestamptz not null,
    context_from timestamptz,
    closed_at timestamptz,
    closed_reason text,
    constraint ai_threads_pkey primary key (tenant_id, id),
    constraint ai_threads_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint ai_threads_closed_reason_check check (closed_reason in ('age', 'tokens', 'cleared'))
);
comment on table public.ai_threads is
    'A stretch of a chat that the model is told about: what came before is its summary.';
comment on column public.ai_threads.summary is 'pii: what was said before and in it';
comment on column public.ai_threads.context_from is
    'What was said before is not told to the model; null: the latest messages are.';
comment on column public.ai_threads.last_input_tokens is 'Size of the last context.';

create index ai_threads_tenant_id_chat_id_idx on public.ai_threads (tenant_id, chat_id);
-- a chat's thread never forks, whoever would open another
create unique index ai_threads_tenant_id_chat_id_open_key
    on public.ai_threads (tenant_id, chat_id) where closed_at is null;

alter table public.ai_threads enable row level security;
grant select on public.ai_threads to authenticated;
grant select, insert, update, delete on public.ai_threads to service_role;
create policy ai_threads_select_member on public.ai_threads for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- pending_replies: a chat whose burst of fragments waits for one answer.
create table public.pending_replies (
    tenant_id uuid,
    chat_id uuid,
    number_id uuid not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    fragments int not null,
    due_at timestamptz not null,
    due_by timestamptz not null,
    claim uuid,
    claimed_fragments int,
    lease_until timestamptz,
    redo_count int not null default 0,
    attempts int not null default 0,
    last_error text,
    constraint pending_replies_pkey primary key (tenant_id, chat_id),
    constraint pending_replies_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint pending_replies_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id)
) with (fillfactor = 70);
comment on table public.pending_replies is
    'Chats that wait for an answer. Times are real ones, not those of private.clock().';
comment on column public.pending_replies.due_by is 'However many fragments still come, it is due by then.';
comment on column public.pending_replies.claim is 'Who works on it: an answer with another claim comes too late.';
comment on column public.pending_replies.claimed_fragments is 'How many fragments that worker has seen.';
comment on column public.pending_replies.last_error is 'pii: a model''s error may quote its input';

-- first_at stays while fragments arrive, so their updates are HOT
create index pending_replies_tenant_id_number_id_first_at_idx
    on public.pending_replies (tenant_id, number_id, first_at);

alter table public.pending_replies enable row level security;
grant select on public.pending_replies to authenticated;
grant select, insert, update, delete on public.pending_replies to service_role;
create policy pending_replies_select_member on public.pending_replies for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

create table public.ai_usage (
    tenant_id uuid,
    id uuid default private.uuid7(),
    purpose text not null,
    agent_id uuid,
    chat_id uuid,
    thread_id uuid,
    model text not null,
    input_tokens int not null,
    cached_tokens int not null default 0,
    output_tokens int not null,
    reasoning_tokens int not null default 0,
    total_tokens int not null,
    cost numeric(12, 6),
    currency text,
    latency_ms int,
    response_id text,
    created_at timestamptz not null default now(),
    constraint ai_usage_pkey primary key (tenant_id, id),
    constraint ai_usage_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint ai_usage_agent_id_fkey foreign key (tenant_id, agent_id) references public.ai_agents (tenant_id, id),
    constraint ai_usage_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id),
    constraint ai_usage_thread_id_fkey foreign key (tenant_id, thread_id) references public.ai_threads (tenant_id, id)
);
comment on table public.ai_usage is 'Every run of a model, with what it took.';

create index ai_usage_tenant_id_created_at_idx on public.ai_usage (tenant_id, created_at);
create index ai_usage_tenant_id_agent_id_idx on public.ai_usage (tenant_id, agent_id) where agent_id is not null;
create index ai_usage_tenant_id_chat_id_idx on public.ai_usage (tenant_id, chat_id) where chat_id is not null;
-- a worker that did not hear our answer tells us again what it spent
create unique index ai_usage_tenant_id_response_id_key
    on public.ai_usage (tenant_id, response_id) where response_id is not null;
create index ai_usage_tenant_id_thread_id_idx on public.ai_usage (tenant_id, thread_id) where thread_id is not null;

alter table public.ai_usage enable row level security;
grant select on public.ai_usage to authenticated;
grant select, insert on public.ai_usage to service_role;
create policy ai_usage_select_member on public.ai_usage for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- What earlier files could not refer to yet.
alter table public.whatsapp_numbers add constraint whatsapp_numbers_default_agent_id_fkey
    foreign key (tenant_id, default_agent_id) references public.ai_agents (tenant_id, id);
alter table public.customer_leads add constraint customer_leads_thread_id_fkey
    foreign key (tenant_id, thread_id) references public.ai_threads (tenant_id, id);
alter table public.pending_activity add constraint pending_activity_thread_id_fkey
    foreign key (tenant_id, thread_id) references public.ai_threads (tenant_id, id);
create index pending_activity_tenant_id_thread_id_idx
    on public.pending_activity (tenant_id, thread_id) where thread_id is not null;
alter table public.chats add constraint chats_thread_id_fkey
    foreign key (tenant_id, thread_id) references public.ai_threads (tenant_id, id);
alter table public.conversations add constraint conversations_current_agent_id_fkey
    foreign key (tenant_id, current_agent_id) references public.ai_agents (tenant_id, id);
alter table public.messages add constraint messages_agent_id_fkey
    foreign key (tenant_id, agent_id) references public.ai_agents (tenant_id, id);

-- Who should answer this text on this number: the longest keyword in it decides among agents on duty, else the
-- number's own agent whatever its hours. Null only where the business has no active agent at all.
create function private.agent_choose(p_tenant_id uuid, p_number_id uuid, p_text text, p_at timestamptz) returns uuid
language plpgsql stable set search_path = '' as $$
declare
    v_text text := ' ' || coalesce(private.fold(p_text), '') || ' ';
begin
    return (
        select a.id
        from public.ai_agents a
        join public.whatsapp_numbers n on n.tenant_id = a.tenant_id and n.id = p_number_id
        left join lateral (
            select max(length(private.fold(keyword))) as matched
            from unnest(a.trigger_keywords) as keyword
            where private.fold(keyword) <> '' and position(' ' || private.fold(keyword) || ' ' in v_text) > 0
                and private.hours_open(a.active_hours, n.timezone, p_at)
        ) k on true
        where a.tenant_id = p_tenant_id and a.is_active
        order by k.matched desc nulls last, (a.id = n.default_agent_id) is true desc, a.is_default desc,
            a.created_at, a.id
        limit 1);
end
$$;

-- Live customers' messages were stored: their chats wait for an answer, once per burst.
create function private.replies_await(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.pending_replies as r (
        tenant_id, chat_id, number_id, first_at, last_at, fragments, due_at, due_by)
    select b.tenant_id, b.chat_id, b.number_id, now(), now(), b.fragments,
        now() + make_interval(secs => coalesce(a.buffer_seconds, 4)),
        now() + make_interval(secs => coalesce(a.buffer_max_seconds, 15))
    from (
        select m.tenant_id, m.chat_id, m.number_id, count(*) as fragments
        from unnest(p_stored) m
        where m.kind = 'message' and m.is_live
            and m.type not in ('unsupported', 'system', 'request_welcome', 'media_placeholder')
        group by m.tenant_id, m.chat_id, m.number_id
    ) as b
    join public.whatsapp_numbers n on n.tenant_id = b.tenant_id and n.id = b.number_id
    left join public.ai_agents a on a.tenant_id = n.tenant_id and a.id = n.default_agent_id
    where n.auto_reply
    order by b.tenant_id, b.chat_id
    on conflict (tenant_id, chat_id) do update
    set last_at = excluded.last_at,
        fragments = r.fragments + excluded.fragments,
        due_at = least(excluded.due_at, r.due_by);
    if found then
        perform private.wake('reply');
    end if;
end
$$;

-- Due chats, the same share for every number that has any; chats somebody else is busy with are left to the next
-- look. Their rows and chats are locked.
create function private.replies_due(p_limit int) returns private.chat_ref[]
language plpgsql set search_path = '' as $$
begin
    return array(
        with recursive numbers as (
            (select r.tenant_id, r.number_id from public.pending_replies r order by 1, 2 limit 1)
            union all
            select following.tenant_id, following.number_id
            from numbers
            cross join lateral (
                select r.tenant_id, r.number_id
                from public.pending_replies r
                where (r.tenant_id, r.number_id) > (numbers.tenant_id, numbers.number_id)
                order by 1, 2
                limit 1
            ) as following
        )
        select (due.tenant_id, due.chat_id)::private.chat_ref
        from numbers
        cross join lateral (
            select r.tenant_id, r.chat_id
            from public.pending_replies r
            join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
            where r.tenant_id = numbers.tenant_id and r.number_id = numbers.number_id
                and r.due_at <= now() and coalesce(r.lease_until < now(), true)
            order by r.first_at
            limit (select greatest(1, p_limit / count(*)) from numbers)
            for no key update of c, r skip locked
        ) as due
        limit p_limit);
end
$$;

-- Chats that are not for an agent to answer: somebody took over, the customer wants nothing from us, or the number
-- answers nobody. They wait no longer.
create function private.replies_drop(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
begin
    delete from public.pending_replies r
    using unnest(p_chats) d, public.chats c, public.customer_leads l, public.whatsapp_numbers n
    where r.tenant_id = d.tenant_id and r.chat_id = d.chat_id
        and c.tenant_id = d.tenant_id and c.id = d.chat_id
        and l.tenant_id = c.tenant_id and l.id = c.lead_id
        and n.tenant_id = c.tenant_id and n.id = c.number_id
        and (c.agent_paused_until > (select private.clock()) or l.opt_out_scope = 'all'
            or not n.auto_reply or not n.is_active);
end
$$;

-- Outside business hours the business may prefer a fixed answer to an agent's: said once in twelve hours.
create function private.replies_closed(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_chat record;
begin
    for v_chat in
        select c.tenant_id, c.id, v.id as conversation_id, s.closed_hours_message as notice,
            coalesce(v.closed_notice_at < v_now - interval '12 hours', true) as is_news
        from unnest(p_chats) d
        join public.pending_replies r on r.tenant_id = d.tenant_id and r.chat_id = d.chat_id
        join public.chats c on c.tenant_id = d.tenant_id and c.id = d.chat_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.tenant_settings s on s.tenant_id = c.tenant_id
        left join public.conversations v on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
        where s.closed_hours_message is not null and not private.hours_open(n.business_hours, n.timezone, v_now)
        order by c.tenant_id, c.id
    loop
        delete from public.pending_replies where tenant_id = v_chat.tenant_id and chat_id = v_chat.id;
        if v_chat.is_news then
            update public.conversations set closed_notice_at = v_now
            where tenant_id = v_chat.tenant_id and id = v_chat.conversation_id;
            perform private.outbox_enqueue(array[private.outgoing(
                v_chat.tenant_id, v_chat.id, 'reply', 'agent', 'assistant', v_chat.notice)]);
        end if;
    end loop;
end
$$;

-- Give each chat a thread: the one it has if that is its own and open, and neither too old nor too long. A new one
-- starts from the summary. The chats are locked: two replies at once find one thread.
create function private.threads_renew(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_chat record;
    v_thread_id uuid;
begin
    for v_chat in
        select c.tenant_id, c.id, t.id as thread_id, t.summary,
            case when t.created_at < (select private.clock()) - make_interval(days => s.thread_max_age_days) then 'age'
                when t.last_input_tokens > s.thread_max_input_tokens then 'tokens' end as reason
        from unnest(p_chats) d
        join public.chats c on c.tenant_id = d.tenant_id and c.id = d.chat_id
        join public.tenant_settings s on s.tenant_id = c.tenant_id
        left join public.ai_threads t on t.tenant_id = c.tenant_id and t.id = c.thread_id
            and t.chat_id = c.id and t.closed_at is null
        order by c.tenant_id, c.id
    loop
        continue when v_chat.thread_id is not null and v_chat.reason is null;
        update public.ai_threads set closed_at = (select private.clock()), closed_reason = v_chat.reason
        where tenant_id = v_chat.tenant_id and chat_id = v_chat.id and closed_at is null;
        insert into public.ai_threads (tenant_id, chat_id, summary, created_at)
        values (v_chat.tenant_id, v_chat.id, v_chat.summary, private.clock())
        returning id into v_thread_id;
        update public.chats set thread_id = v_thread_id where tenant_id = v_chat.tenant_id and id = v_chat.id;
    end loop;
end
$$;

-- What an agent is given to answer with. `summarize`: the thread is new and the chat is not, so the answer should
-- bring a fresh summary of what was said before.
create function private.reply_job(p_tenant_id uuid, p_chat_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'tenant_id', r.tenant_id, 'chat_id', r.chat_id, 'claim', r.claim, 'conversation_id', v.id,
            'attempts', r.attempts, 'redo_count', r.redo_count, 'burst', burst.text,
            'number', jsonb_build_object('id', n.id, 'name', n.display_name, 'timezone', n.timezone,
                'business_hours', n.business_hours),
            'business', jsonb_build_object('name', s.business_name, 'now', private.clock(), 'locale', o.locale),
            'agent', to_jsonb(a)
                - '{tenant_id, created_at, updated_at, is_active, is_default, trigger_keywords}'::text[],
            'prompt', to_jsonb(p) - '{tenant_id, agent_id, created_at, is_active}'::text[],
            'thread', jsonb_build_object('id', t.id, 'summary', t.summary,
                'summarize', t.run_count = 0 and c.last_outbound_at is not null),
            'lead', jsonb_build_object('id', l.id, 'name', l.name, 'user_name', l.user_name, 'phone', l.phone,
                'email', l.email, 'company', l.company, 'customer_type', l.customer_type, 'tags', l.tags,
                'labels', array_remove(array[l.label1, l.label2, l.label3], null), 'status', l.profile_status,
                'next_action', l.next_action, 'next_action_at', l.next_action_at, 'metadata', l.metadata),
            'messages', recent.messages,
            'seen', case when s.shows_typing and seen.wa_message_id is not null then jsonb_build_object(
                'message_id', seen.wa_message_id, 'tenant_id', c.tenant_id, 'number_id', n.id, 'provider', n.provider,
                'provider_number_id', n.provider_number_id, 'account_id', n.account_id,
                'to', private.chat_address(c.tenant_id, c.id)) end)
        from public.pending_replies r
        join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.tenant_settings s on s.tenant_id = c.tenant_id
        join public.users o on o.id = c.tenant_id
        left join public.conversations v on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
        left join public.ai_threads t on t.tenant_id = c.tenant_id and t.id = c.thread_id
        cross join lateral (
            select string_agg(m.content, E'\n' order by m.provider_at, m.id) as text
            from public.messages m
            where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.direction = 'inbound'
                and m.created_at >= r.first_at and m.provider_at > r.first_at - interval '2 days'
        ) as burst
        cross join lateral (
            select jsonb_agg(jsonb_build_object('role', m.role, 'type', m.type, 'content', m.content, 'data', m.data,
                'at', m.provider_at) order by m.provider_at, m.id) as messages
            from (
                select *
                from public.messages m
                where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.revoked_at is null
                    and m.status not in ('failed', 'skipped', 'canceled')
                    and m.provider_at > coalesce(t.context_from, '-infinity')
                order by m.provider_at desc, m.id desc
                limit greatest(10, r.fragments)
            ) as m
        ) as recent
        left join lateral (
            select m.wa_message_id
            from public.messages m
            where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.direction = 'inbound'
                and m.wa_message_id is not null
            order by m.provider_at desc, m.id desc
            limit 1
        ) as seen on true
        left join public.ai_agents a on a.tenant_id = c.tenant_id
            and a.id = private.agent_choose(c.tenant_id, n.id, burst.text, private.clock())
        left join public.agent_prompts p on p.tenant_id = a.tenant_id and p.agent_id = a.id and p.is_active
        where r.tenant_id = p_tenant_id and r.chat_id = p_chat_id);
end
$$;

-- Take chats whose burst is over, each with all that is needed to answer it, for p_lease_seconds. Answers
-- {"jobs": […], "enrich": chats of whose customers the provider may know more, "next_in_ms": until something else is
-- due, null when nothing waits}. A business without an active
-- agent gets a person's attention instead of a job.
create function public.reply_claim(p_limit int default 10, p_lease_seconds int default 120) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_chats private.chat_ref[] := private.replies_due(p_limit);
    v_claim uuid := private.uuid7();
    v_jobs jsonb;
begin
    if cardinality(v_chats) > 0 then
        perform private.replies_drop(v_chats);
        perform private.replies_closed(v_chats);
        with taken as (
            update public.pending_replies r
            set claim = v_claim, claimed_fragments = r.fragments, attempts = r.attempts + 1,
                lease_until = now() + make_interval(secs => p_lease_seconds)
            from unnest(v_chats) d
            where r.tenant_id = d.tenant_id and r.chat_id = d.chat_id
            returning r.tenant_id, r.chat_id
        )
        select coalesce(array_agg((tenant_id, chat_id)::private.chat_ref), '{}') into v_chats from taken;
        perform private.threads_renew(v_chats);
        select jsonb_agg(private.reply_job(tenant_id, chat_id)) into v_jobs from unnest(v_chats);
        perform private.reply_hand_over((job ->> 'tenant_id')::uuid, (job ->> 'chat_id')::uuid, 'no_agent',
            'There is no active agent to answer.')
        from jsonb_array_elements(v_jobs) as job
        where job -> 'agent' = 'null';
    end if;
    return jsonb_build_object(
        'jobs', coalesce(jsonb_path_query_array(v_jobs, '$[*] ? (@.agent != null)'), '[]'),
        'enrich', private.enrichment_due(p_limit),
        'next_in_ms', (
            select case when count(*) > 0 then greatest(0, ceil(
                extract(epoch from min(greatest(due_at, lease_until)) - clock_timestamp()) * 1000)) end
            from public.pending_replies));
end
$$;

-- Stop waiting for an agent: a person must look at this chat.
create function private.reply_hand_over(p_tenant_id uuid, p_chat_id uuid, p_kind text, p_message text) returns void
language plpgsql set search_path = '' as $$
begin
    delete from public.pending_replies where tenant_id = p_tenant_id and chat_id = p_chat_id;
    perform private.flag_for_person(p_tenant_id, p_chat_id, p_kind, p_message);
end
$$;

-- Runs of a model for a chat, as private.usage_insert() takes them; those that belong to its thread count there.
create function private.usage_record(p_tenant_id uuid, p_chat_id uuid, p_agent_id uuid, p_usage jsonb) returns void
language plpgsql set search_path = '' as $$
declare
    v_chat public.chats;
    v_total bigint;
begin
    select * into v_chat from public.chats where tenant_id = p_tenant_id and id = p_chat_id;
    v_total := private.usage_insert(p_tenant_id, p_chat_id, p_agent_id, v_chat.thread_id, p_usage);
    if v_total > 0 then
        update public.ai_threads
        set run_count = run_count + 1, token_count = token_count + v_total,
            last_input_tokens = (p_usage #>> '{0,input_tokens}')::int
        where tenant_id = p_tenant_id and id = v_chat.thread_id;
        perform private.activity_tokens(p_tenant_id, v_chat.lead_id, v_chat.thread_id, v_total);
    end if;
end
$$;

-- Hand in an answer. The tokens were spent and are recorded whatever becomes of it:
--   answered   it is in the outbox as message_id; with p_closes the agent has ended the conversation with it
--   redo       fragments came meanwhile: claim the chat again, the answer was thrown away (at most twice)
--   silenced   a person took over meanwhile
--   lost       the lease ran out and the chat is no longer yours
create function public.reply_settle(
    p_tenant_id uuid, p_chat_id uuid, p_claim uuid, p_agent_id uuid, p_content text,
    p_usage jsonb default '[]', p_summary text default null, p_closes boolean default false
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_chat public.chats;
    v_reply public.pending_replies;
    v_message_id uuid;
begin
    select * into v_chat from public.chats where tenant_id = p_tenant_id and id = p_chat_id for no key update;
    perform private.usage_record(p_tenant_id, p_chat_id, p_agent_id, p_usage);
    select * into v_reply from public.pending_replies
    where tenant_id = p_tenant_id and chat_id = p_chat_id and claim = p_claim for no key update;
    if not found then
        return '{"status": "lost"}'::jsonb;
    end if;
    if v_chat.agent_paused_until > private.clock() then
        delete from public.pending_replies where tenant_id = p_tenant_id and chat_id = p_chat_id;
        return '{"status": "silenced"}'::jsonb;
    end if;
    if v_reply.fragments > v_reply.claimed_fragments and v_reply.redo_count < 2 then
        update public.pending_replies
        set redo_count = redo_count + 1, attempts = 0, claim = null, lease_until = null
        where tenant_id = p_tenant_id and chat_id = p_chat_id;
        return '{"status": "redo"}'::jsonb;
    end if;
    update public.ai_threads set summary = coalesce(p_summary, summary)
    where tenant_id = p_tenant_id and id = v_chat.thread_id;
    update public.conversations set current_agent_id = p_agent_id
    where tenant_id = p_tenant_id and chat_id = p_chat_id and status = 'open'
        and current_agent_id is distinct from p_agent_id;
    v_message_id := (private.outbox_enqueue(array[private.outgoing(
        p_tenant_id, p_chat_id, 'reply', 'agent', 'assistant', p_content, p_agent_id => p_agent_id)]))[1];
    if p_closes then
        perform private.conversations_finish(p_tenant_id, array(
            select id from public.conversations
            where tenant_id = p_tenant_id and chat_id = p_chat_id and status = 'open'), 'agent');
    end if;
    delete from public.pending_replies
    where tenant_id = p_tenant_id and chat_id = p_chat_id and fragments <= claimed_fragments;
    -- what came during the last allowed turn is a burst of its own
    update public.pending_replies
    set first_at = last_at, due_by = due_by + (last_at - first_at), fragments = fragments - claimed_fragments,
        redo_count = 0, attempts = 0, claim = null, lease_until = null
    where tenant_id = p_tenant_id and chat_id = p_chat_id;
    return jsonb_build_object('status', 'answered', 'message_id', v_message_id);
end
$$;

-- No answer this time: try again after a growing pause, or give the chat to a person when it is hopeless or was the
-- fifth time. What it took all the same is recorded. Answers retry, handed_over or lost.
create function public.reply_fail(
    p_tenant_id uuid, p_chat_id uuid, p_claim uuid, p_error text, p_is_final boolean default false,
    p_retry_after_seconds int default null, p_agent_id uuid default null, p_usage jsonb default '[]'
) returns text
language plpgsql set search_path = '' as $$
declare
    v_attempts int;
begin
    perform from public.chats where tenant_id = p_tenant_id and id = p_chat_id for no key update;
    select attempts into v_attempts from public.pending_replies
    where tenant_id = p_tenant_id and chat_id = p_chat_id and claim = p_claim for no key update;
    if not found then
        return 'lost';
    end if;
    perform private.usage_record(p_tenant_id, p_chat_id, p_agent_id, p_usage);
    if p_is_final or v_attempts >= 5 then
        perform private.reply_hand_over(p_tenant_id, p_chat_id, 'reply_failed',
            format('The agent could not answer: %s', p_error));
        return 'handed_over';
    end if;
    update public.pending_replies
    set claim = null, lease_until = null, last_error = p_error, due_at = now() + make_interval(
        secs => coalesce(p_retry_after_seconds, 2 ^ v_attempts) * (1 + random() / 4))
    where tenant_id = p_tenant_id and chat_id = p_chat_id;
    return 'retry';
end
$$;

grant execute on function private.agent_choose(uuid, uuid, text, timestamptz),
    private.replies_await(private.inbox_message[]), private.replies_due(int),
    private.replies_drop(private.chat_ref[]), private.replies_closed(private.chat_ref[]),
    private.threads_renew(private.chat_ref[]), private.reply_job(uuid, uuid),
    private.reply_hand_over(uuid, uuid, text, text), private.usage_record(uuid, uuid, uuid, jsonb),
    public.reply_claim(int, int), public.reply_settle(uuid, uuid, uuid, uuid, text, jsonb, text, boolean),
    public.reply_fail(uuid, uuid, uuid, text, boolean, int, uuid, jsonb) to service_role;
