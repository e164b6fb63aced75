-- Tenancy. A tenant is a person who owns a business: the users row whose id is its own tenant_id. A row of users is
-- a seat in a business: pending (no auth_id yet), taken, or given up (not is_active). One person holds one seat.

create table public.plans (
    name text,
    max_whatsapp_numbers int not null,
    max_agents int,
    max_messages_per_month int,
    constraint plans_pkey primary key (name),
    constraint plans_max_whatsapp_numbers_check check (max_whatsapp_numbers >= 0),
    constraint plans_max_agents_check check (max_agents >= 0),
    constraint plans_max_messages_per_month_check check (max_messages_per_month >= 0)
);
comment on table public.plans is 'What a business may buy, and what it may then have.';
comment on column public.plans.max_agents is 'AI agents; null: as many as they like.';
comment on column public.plans.max_messages_per_month is
    'Messages sent in a calendar month; null: as many as they like. Answers of agents count, but are never held back.';

alter table public.plans enable row level security;
grant select on public.plans to authenticated;
grant select, insert, update, delete on public.plans to service_role;
create policy plans_select_anyone on public.plans for select to authenticated using (true);

-- free is for a look around: an agent to try in the demo, no number to connect
insert into public.plans (name, max_whatsapp_numbers, max_agents) values
    ('free', 0, 1),
    ('basic', 1, 1),
    ('pro', 2, 3),
    ('enterprise', 5, null);

-- A zone nobody knows would fail a whole batch of tenants at 9:00. pg_timezone_names reads every zone from disk.
create function private.is_timezone(p_name text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    perform now() at time zone p_name;
    return true;
exception when invalid_parameter_value then
    return false;
end
$$;
grant execute on function private.is_timezone(text) to authenticated, service_role;

create table public.users (
    id uuid default private.uuid7(),
    tenant_id uuid not null,
    auth_id uuid,
    role text not null,
    email text not null,
    name text,
    crm_enabled boolean not null default true,
    crm_plan text,
    max_agents int,
    max_whatsapp_numbers int,
    max_messages_per_month int,
    timezone text not null default 'America/Bogota',
    locale text not null default 'es',
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint users_pkey primary key (id),
    -- what foreign keys to a colleague refer to; also the index of users_tenant_id_fkey
    constraint users_tenant_id_id_key unique (tenant_id, id),
    -- carries all that the policies ask of a caller, so that they read the index alone
    constraint users_auth_id_key unique (auth_id) include (tenant_id, id, role, is_active),
    constraint users_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint users_auth_id_fkey foreign key (auth_id) references auth.users (id) on delete set null,
    constraint users_crm_plan_fkey foreign key (crm_plan) references public.plans (name),
    constraint users_role_check check (role in ('admin', 'user', 'agent')),
    constraint users_email_check check (email = lower(btrim(email)) and email <> ''),
    constraint users_name_check check (name <> '' and length(name) <= 200),
    constraint users_locale_check check (locale ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$'),
    constraint users_timezone_check check (private.is_timezone(timezone)),
    constraint users_max_agents_check check (max_agents >= 0),
    constraint users_max_whatsapp_numbers_check check (max_whatsapp_numbers >= 0),
    constraint users_max_messages_per_month_check check (max_messages_per_month >= 0),
    constraint users_owner_check check (
        case when id = tenant_id
            then role = 'admin' and crm_plan is not null
            else crm_plan is null and max_agents is null and max_whatsapp_numbers is null
                and max_messages_per_month is null
        end)
);
comment on table public.users is
    'A seat in a business: its owner (id = tenant_id), or one of the staff. Plan, limits and crm_enabled are the '
    'business''s and only on the owner''s row.';
comment on column public.users.auth_id is 'Who sits here; null: not signed up yet, removed, or account deleted.';
comment on column public.users.email is 'pii: e-mail, lower case; who proves it may take a seat that waits.';
comment on column public.users.name is 'pii: the person''s name.';
comment on column public.users.max_agents is 'AI agents sold to this business; null: what its plan says.';
comment on column public.users.max_whatsapp_numbers is 'Numbers sold to this business; null: what its plan says.';
comment on column public.users.max_messages_per_month is
    'Messages a month sold to this business; null: what its plan says.';
comment on column public.users.timezone is
    'IANA zone. On the owner''s row it is the business''s own clock, and stays when the business is handed over.';

-- One person, one business: an address may wait for or hold one seat only.
create unique index users_email_key on public.users (email) where is_active;
create index users_crm_plan_idx on public.users (crm_plan) where crm_plan is not null;

create trigger users_touch_updated_at before update on public.users
    for each row execute function private.touch_updated_at();

-- Who is calling. Definer, because policies on users ask too. Write (select private.my_…()): once a query.
-- plpgsql keeps their plans; before Postgres 18 SQL functions are planned at every call.
create function private.my_tenant_id() returns uuid
language plpgsql stable security definer set search_path = '' as $$
begin
    return (select tenant_id from public.users where auth_id = (select auth.uid()) and is_active);
end
$$;

create function private.my_user_id() returns uuid
language plpgsql stable security definer set search_path = '' as $$
begin
    return (select id from public.users where auth_id = (select auth.uid()) and is_active);
end
$$;

create function private.my_role() returns text
language plpgsql stable security definer set search_path = '' as $$
begin
    return (select role from public.users where auth_id = (select auth.uid()) and is_active);
end
$$;

grant execute on function private.my_tenant_id(), private.my_user_id(), private.my_role()
    to authenticated, service_role;

alter table public.users enable row level security;
grant select, update (name, locale, timezone) on public.users to authenticated;
grant select, insert, update, delete on public.users to service_role;

create policy users_select_member on public.users for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy users_update_self on public.users for update to authenticated
    using (id = (select private.my_user_id()))
    with check (id = (select private.my_user_id()));

create table public.tenant_settings (
    tenant_id uuid,
    business_name text not null,
    currency text not null default 'USD',
    conversation_idle_hours int not null default 24,
    activity_delay_seconds int not null default 600,
    human_takeover_minutes int not null default 60,
    thread_max_age_days int not null default 7,
    thread_max_input_tokens int not null default 20000,
    block_after_hours int not null default 72,
    block_probable_count int not null default 2,
    block_confirmed_count int not null default 3,
    enrichment_interval_hours int not null default 24,
    crm_statuses jsonb not null default '["Lead", "Contacted", "Qualified", "Booked", "Won", "Lost"]',
    crm_pipeline jsonb not null default '{"Lead": "new", "Contacted": "contacted", "Qualified": "qualified",
        "Booked": "booked", "Won": "won", "Lost": "lost"}',
    crm_model text not null default 'gpt-6-luna',
    crm_analysis_idle_minutes int not null default 60,
    crm_person_keeps text not null default 'until_next_message',
    daily_actions_at time not null default '09:00',
    followup_agent_id uuid,
    followup_template_id uuid,
    quiet_hours jsonb,
    opt_out_confirmation text
        default 'Listo, no recibirás más promociones nuestras. Puedes escribirnos cuando quieras.',
    opt_out_keywords text[] not null default '{}',
    opt_in_keywords text[] not null default '{}',
    closed_hours_message text,
    shows_typing boolean not null default true,
    ai_daily_token_budget bigint,
    ai_daily_cost_budget numeric(12, 4),
    webhook_log_retention_days int,
    audit_retention_days int,
    restore_days int not null default 30,
    silence_alert_deliveries int default 20,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint tenant_settings_pkey primary key (tenant_id),
    constraint tenant_settings_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint tenant_settings_business_name_check check (btrim(business_name) <> '' and length(business_name) <= 200),
    constraint tenant_settings_currency_check check (currency ~ '^[A-Z]{3}$'),
    constraint tenant_settings_conversation_idle_hours_check check (conversation_idle_hours between 1 and 8760),
    constraint tenant_settings_activity_delay_seconds_check check (activity_delay_seconds between 0 and 86400),
    constraint tenant_settings_human_takeover_minutes_check check (human_takeover_minutes between 0 and 10080),
    constraint tenant_settings_thread_max_age_days_check check (thread_max_age_days between 1 and 365),
    constraint tenant_settings_thread_max_input_tokens_check check (thread_max_input_tokens between 1000 and 1000000),
    constraint tenant_settings_block_after_hours_check check (block_after_hours between 24 and 720),
    constraint tenant_settings_block_probable_count_check check (block_probable_count between 1 and 20),
    constraint tenant_settings_block_confirmed_count_check check (
        block_confirmed_count between block_probable_count and 50),
    constraint tenant_settings_enrichment_interval_hours_check check (enrichment_interval_hours between 1 and 720),
    constraint tenant_settings_crm_statuses_check check (
        jsonb_typeof(crm_statuses) = 'array'
        and jsonb_array_length(crm_statuses) between 1 and 50
        and not jsonb_path_exists(crm_statuses, '$[*] ? (@.type() != "string" || @ like_regex "^\\s*$")')),
    constraint tenant_settings_crm_pipeline_check check (
        jsonb_typeof(crm_pipeline) = 'object' and not jsonb_path_exists(crm_pipeline, '$.* ? (@.type() != "string")')),
    constraint tenant_settings_crm_model_check check (crm_model <> '' and length(crm_model) <= 100),
    constraint tenant_settings_crm_person_keeps_check
        check (crm_person_keeps in ('until_next_message', 'always', 'never')),
    constraint tenant_settings_crm_analysis_idle_minutes_check check (crm_analysis_idle_minutes between 5 and 10080),
    constraint tenant_settings_quiet_hours_check check (
        quiet_hours is null
        or coalesce(quiet_hours ->> 'from' ~ '^([01]\d|2[0-3]):[0-5]\d$', false)
        and coalesce(quiet_hours ->> 'to' ~ '^([01]\d|2[0-3]):[0-5]\d$', false)),
    constraint tenant_settings_opt_out_confirmation_check check (length(opt_out_confirmation) between 1 and 1000),
    constraint tenant_settings_opt_out_keywords_check check (cardinality(opt_out_keywords) <= 50),
    constraint tenant_settings_opt_in_keywords_check check (cardinality(opt_in_keywords) <= 50),
    constraint tenant_settings_closed_hours_message_check check (length(closed_hours_message) between 1 and 1000),
    constraint tenant_settings_ai_daily_token_budget_check check (ai_daily_token_budget >= 0),
    constraint tenant_settings_ai_daily_cost_budget_check check (ai_daily_cost_budget >= 0),
    constraint tenant_settings_silence_alert_deliveries_check check (silence_alert_deliveries between 5 and 100000),
    constraint tenant_settings_webhook_log_retention_days_check check (webhook_log_retention_days > 0),
    constraint tenant_settings_audit_retention_days_check check (audit_retention_days > 0),
    constraint tenant_settings_restore_days_check check (restore_days between 1 and 3650)
);
comment on table public.tenant_settings is
    'How a business wants to be served: one row each, made when its owner signs up. A null switches the rule off.';
comment on column public.tenant_settings.currency is 'ISO 4217; what the business counts its sales in.';
comment on column public.tenant_settings.block_after_hours is
    'How old a message must be that was sent and never delivered, to speak for a block.';
comment on column public.tenant_settings.block_probable_count is
    'So many such messages in a row make a block probable; block_confirmed_count makes it certain.';
comment on column public.tenant_settings.crm_statuses is 'The statuses a lead may have, in the order of the pipeline.';
comment on column public.tenant_settings.crm_pipeline is
    'What customer_leads.lead_status becomes with each status; one that is not named leaves it alone.';
comment on column public.tenant_settings.crm_model is 'The model that reads idle conversations.';
comment on column public.tenant_settings.crm_person_keeps is
    'How long a field of a lead that a person has set is theirs: until_next_message of the customer, always, never.';
comment on column public.tenant_settings.daily_actions_at is 'By the business''s clock: users.timezone of the owner.';
comment on column public.tenant_settings.followup_agent_id is
    'Writes the follow-ups of daily actions; null: the agent of the number.';
comment on column public.tenant_settings.followup_template_id is
    'Sent instead when the window is closed: its blanks are name and text; null: a person gets the text.';
comment on column public.tenant_settings.quiet_hours is
    '{"from": "21:00", "to": "08:00"}, the customer''s time: no bulk message then. A span of no length is none.';
comment on column public.tenant_settings.opt_out_confirmation is 'Sent once to who opts out; null: nothing is sent.';
comment on column public.tenant_settings.opt_out_keywords is
    'What a whole message must be to refuse promotions, besides consent_keywords; case and accents do not matter.';
comment on column public.tenant_settings.opt_in_keywords is 'The same, to want them again.';
comment on column public.tenant_settings.closed_hours_message is
    'Answer outside business hours; null: the agent answers.';
comment on column public.tenant_settings.shows_typing is
    'Customers see that their message was read, and that an answer is being written.';
comment on column public.tenant_settings.ai_daily_token_budget is
    'What analyses and follow-ups may bring a day''s tokens to, answers to customers included; null: no limit.';
comment on column public.tenant_settings.ai_daily_cost_budget is
    'The same in money, in the currency of ai_prices; null: no limit.';
comment on column public.tenant_settings.silence_alert_deliveries is
    'A number is called silent when so many deliveries were to be expected and none came; null: never.';
comment on column public.tenant_settings.webhook_log_retention_days is 'null: kept for ever.';
comment on column public.tenant_settings.audit_retention_days is 'Of audit_log; null: kept for ever.';
comment on column public.tenant_settings.restore_days is
    'How long restore points are kept, and with them the configuration of each day.';

create trigger tenant_settings_touch_updated_at before update on public.tenant_settings
    for each row execute function private.touch_updated_at();

alter table public.tenant_settings enable row level security;
grant select on public.tenant_settings to authenticated;
grant update (
    business_name, currency, conversation_idle_hours, activity_delay_seconds, human_takeover_minutes,
    thread_max_age_days, thread_max_input_tokens, block_after_hours, block_probable_count, block_confirmed_count,
    enrichment_interval_hours, crm_statuses,
    crm_pipeline, crm_model, crm_analysis_idle_minutes, crm_person_keeps, daily_actions_at,
    followup_agent_id, followup_template_id, quiet_hours,
    opt_out_confirmation,
    opt_out_keywords, opt_in_keywords, closed_hours_message, shows_typing, ai_daily_token_budget, ai_daily_cost_budget,
    webhook_log_retention_days, audit_retention_days, restore_days, silence_alert_deliveries
) on public.tenant_settings to authenticated;
grant select, insert, update, delete on public.tenant_settings to service_role;

create policy tenant_settings_select_member on public.tenant_settings for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy tenant_settings_update_admin on public.tenant_settings for update to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin')
    with check (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- What a business may have now. Whoever enforces a limit locks the owner's row first.
create function private.tenant_limits(p_tenant_id uuid)
returns table (plan text, max_whatsapp_numbers int, max_agents int, max_messages_per_month int)
language sql stable set search_path = '' as $$
    select u.crm_plan, coalesce(u.max_whatsapp_numbers, p.max_whatsapp_numbers), coalesce(u.max_agents, p.max_agents),
        coalesce(u.max_messages_per_month, p.max_messages_per_month)
    from public.users u
    join public.plans p on p.name = u.crm_plan
    where u.id = p_tenant_id
$$;
grant execute on function private.tenant_limits(uuid) to authenticated, service_role;

-- Sell a plan: its limits are copied, so that changing what a plan offers takes nothing from who bought it before.
-- Going down removes nothing; what is over the new limit stays until it is deleted, and no more can be added.
create function public.plan_set(p_tenant_id uuid, p_plan text) returns void
language plpgsql set search_path = '' as $$
declare
    v_plan public.plans;
begin
    select * into v_plan from public.plans where name = p_plan;
    if not found then
        raise exception using errcode = 'PT400', message = format('There is no plan %L.', p_plan),
            hint = 'Read the table plans for the names.';
    end if;
    update public.users
    set crm_plan = v_plan.name, max_agents = v_plan.max_agents, max_whatsapp_numbers = v_plan.max_whatsapp_numbers,
        max_messages_per_month = v_plan.max_messages_per_month
    where id = p_tenant_id and id = tenant_id;
    if not found then
        raise exception using errcode = 'PT404', message = 'There is no such business.',
            hint = 'p_tenant_id is users.id of its owner.';
    end if;
end
$$;
grant execute on function public.plan_set(uuid, text) to service_role;

-- Everything a front end needs to greet a person; null when they hold no seat (never did, or were removed).
create function public.me() returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'user', jsonb_build_object(
            'id', u.id, 'email', u.email, 'name', u.name, 'role', u.role, 'locale', u.locale,
            'timezone', u.timezone, 'is_owner', u.id = u.tenant_id),
        'tenant', jsonb_build_object(
            'id', o.id, 'business_name', s.business_name, 'timezone', o.timezone, 'currency', s.currency,
            'crm_enabled', o.crm_enabled),
        'plan', l.plan,
        'limits', jsonb_build_object('max_whatsapp_numbers', l.max_whatsapp_numbers, 'max_agents', l.max_agents,
            'max_messages_per_month', l.max_messages_per_month))
    from public.users u
    join public.users o on o.id = u.tenant_id
    join public.tenant_settings s on s.tenant_id = u.tenant_id
    cross join lateral private.tenant_limits(u.tenant_id) l
    where u.id = (select private.my_user_id())
$$;
grant execute on function public.me() to authenticated;

-- Two people, or a person and an invitation, must not meet over one address.
create function private.email_lock(p_email text) returns void
language sql volatile set search_path = '' as $$
    select pg_advisory_xact_lock(hashtextextended('users.email ' || p_email, 0))
$$;

create function private.tenant_create(p_auth_id uuid, p_email text, p_name text, p_business_name text) returns uuid
language plpgsql set search_path = '' as $$
declare
    v_id uuid := private.uuid7();
begin
    insert into public.users (id, tenant_id, auth_id, role, email, name, crm_plan)
    values (v_id, v_id, p_auth_id, 'admin', p_email, p_name, 'free');
    insert into public.tenant_settings (tenant_id, business_name)
    values (v_id, coalesce(p_business_name, p_name, split_part(p_email, '@', 1)));
    perform public.plan_set(v_id, 'free');
    return v_id;
end
$$;

-- An e-mail was proven: its holder takes the seat that waits for it, else opens a business. A fault here refuses
-- the sign-up as a whole. Definer: the auth server's role knows nothing of our tables.
create function private.person_arrives() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_email text := lower(btrim(new.email));
    v_name text := left(nullif(btrim(new.raw_user_meta_data ->> 'name'), ''), 200);
begin
    perform private.email_lock(v_email);
    if exists (select from public.users where auth_id = new.id) then
        perform private.person_changes_email(new.id, v_email);
        return null;
    end if;
    update public.users set auth_id = new.id, name = coalesce(name, v_name)
    where email = v_email and is_active and auth_id is null;
    -- someone removed from a business may change their address without becoming the owner of another
    if not found and (tg_op = 'INSERT' or old.email_confirmed_at is null) then
        perform private.tenant_create(
            new.id, v_email, v_name, left(nullif(btrim(new.raw_user_meta_data ->> 'business_name'), ''), 200));
    end if;
    return null;
end
$$;

create function private.person_changes_email(p_auth_id uuid, p_email text) returns void
language plpgsql set search_path = '' as $$
begin
    -- an invitation to the new address can never be taken up: its holder has a seat already
    update public.users set is_active = false
    where email = p_email and is_active and auth_id is null and id <> tenant_id;
    update public.users set email = p_email where auth_id = p_auth_id and email <> p_email;
end
$$;

create trigger recado_person_arrives after insert or update of email, email_confirmed_at on auth.users
    for each row when (new.email <> '' and new.email_confirmed_at is not null)
    execute function private.person_arrives();

-- The caller's tenant, if they may manage it.
create function private.require_admin() returns uuid
language plpgsql stable set search_path = '' as $$
begin
    if private.my_role() is distinct from 'admin' then
        perform private.refuse('PT403', 'not_admin');
    end if;
    return private.my_tenant_id();
end
$$;
grant execute on function private.require_admin() to authenticated;

create function private.staff_role_check(p_role text) returns void
language plpgsql stable set search_path = '' as $$
begin
    if p_role is null or p_role not in ('admin', 'user', 'agent') then
        perform private.refuse('PT400', 'role', jsonb_build_object('role', p_role));
    end if;
end
$$;

-- A colleague's seat, locked; never the owner's.
create function private.staff_lock(p_tenant_id uuid, p_user_id uuid) returns public.users
language plpgsql set search_path = '' as $$
declare
    v_staff public.users;
begin
    select * into v_staff from public.users
    where tenant_id = p_tenant_id and id = p_user_id and is_active
    for update;
    if not found then
        perform private.refuse('PT404', 'no_colleague');
    elsif v_staff.id = v_staff.tenant_id then
        perform private.refuse('PT403', 'owner');
    end if;
    return v_staff;
end
$$;

create function private.staff_invite(p_email text, p_role text, p_name text) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_admin();
    v_email text := lower(btrim(p_email));
    v_name text := nullif(btrim(p_name), '');
    v_taken_by uuid;
    v_id uuid;
begin
    perform private.staff_role_check(p_role);
    if v_email is null or v_email !~ '^[^@\s]+@[^@\s]+\.[^@\s]+$' or length(v_email) > 254 then
        perform private.refuse('PT400', 'email');
    end if;
    perform private.email_lock(v_email);

    select tenant_id into v_taken_by from public.users where email = v_email and is_active;
    if v_taken_by = v_tenant_id then
        perform private.refuse('PT409', 'is_colleague');
    elsif v_taken_by is not null then
        perform private.refuse('PT409', 'is_elsewhere');
    end if;

    -- who comes back gets their old seat, with everything that refers to it
    update public.users set is_active = true, role = p_role, name = coalesce(v_name, name)
    where id = (
        select id from public.users
        where tenant_id = v_tenant_id and email = v_email and id <> tenant_id
        order by updated_at desc limit 1)
    returning id into v_id;
    if v_id is null then
        insert into public.users (tenant_id, role, email, name) values (v_tenant_id, p_role, v_email, v_name)
        returning id into v_id;
    end if;
    -- and who has an account but no seat sits down at once: no sign-up will come
    update public.users set auth_id = a.id
    from auth.users a
    where users.id = v_id and lower(a.email) = v_email and a.email_confirmed_at is not null
        and not exists (select from public.users u where u.auth_id = a.id);
    return v_id;
end
$$;

create function private.staff_remove(p_user_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_staff public.users := private.staff_lock(private.require_admin(), p_user_id);
begin
    if v_staff.id = private.my_user_id() then
        perform private.refuse('PT403', 'yourself');
    end if;
    -- the seat keeps its history; the person is free for another business
    update public.users set is_active = false, auth_id = null where id = v_staff.id;
end
$$;

create function private.staff_change_role(p_user_id uuid, p_role text) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_staff public.users := private.staff_lock(private.require_admin(), p_user_id);
begin
    perform private.staff_role_check(p_role);
    update public.users set role = p_role where id = v_staff.id;
end
$$;

-- The tenant id never changes, so the two people change seats. What referred to one of them (assigned to, written
-- by) must go on meaning the same person: every foreign key to users (tenant_id, id) is such a reference.
create function private.staff_references_swap(p_tenant_id uuid, p_one uuid, p_other uuid) returns void
language plpgsql set search_path = '' as $$
declare
    v_fk record;
begin
    for v_fk in
        select c.conrelid::regclass as referrer, t.attname as tenant_column, s.attname as staff_column
        from pg_catalog.pg_constraint c
        join pg_catalog.pg_attribute t on t.attrelid = c.conrelid and t.attnum = c.conkey[1]
        join pg_catalog.pg_attribute s on s.attrelid = c.conrelid and s.attnum = c.conkey[2]
        where c.contype = 'f' and c.conparentid = 0 and c.confrelid = 'public.users'::regclass
            and (select array_agg(a.attname order by k.position)
                from unnest(c.confkey) with ordinality k (attnum, position)
                join pg_catalog.pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.attnum
            ) = array['tenant_id', 'id']::name[]
        order by 1, 3
    loop
        execute format(
            'update %s set %3$I = case %3$I when $2 then $3 else $2 end where %2$I = $1 and %3$I in ($2, $3)',
            v_fk.referrer, v_fk.tenant_column, v_fk.staff_column)
        using p_tenant_id, p_one, p_other;
    end loop;
end
$$;

create function private.ownership_transfer(p_user_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_owner public.users;
    v_heir public.users;
begin
    select * into v_owner from public.users where id = private.my_user_id() and id = tenant_id for update;
    if not found then
        perform private.refuse('PT403', 'not_owner');
    elsif p_user_id = v_owner.id then
        perform private.refuse('PT409', 'is_owner');
    end if;
    v_heir := private.staff_lock(v_owner.id, p_user_id);
    if v_heir.auth_id is null then
        perform private.refuse('PT409', 'not_signed_up');
    end if;

    -- in three steps, because neither an account nor an address may be in two seats even for a moment
    update public.users set auth_id = null, is_active = false where id = v_heir.id;
    update public.users set auth_id = v_heir.auth_id, email = v_heir.email, name = v_heir.name, locale = v_heir.locale
    where id = v_owner.id;
    update public.users
    set auth_id = v_owner.auth_id, email = v_owner.email, name = v_owner.name, locale = v_owner.locale,
        is_active = true, role = 'admin'
    where id = v_heir.id;
    perform private.staff_references_swap(v_owner.id, v_owner.id, v_heir.id);
end
$$;

grant execute on function
    private.staff_invite(text, text, text), private.staff_remove(uuid), private.staff_change_role(uuid, text),
    private.ownership_transfer(uuid)
    to authenticated;

-- The doors: for people, who get no more than what the functions above check.

-- The id of the new colleague's seat. They take it by signing up with this e-mail, and proving it.
create function public.staff_invite(p_email text, p_role text, p_name text default null) returns uuid
language sql volatile set search_path = '' as $$
    select private.staff_invite(p_email, p_role, p_name)
$$;

-- At once: a token they still have shows nothing any more.
create function public.staff_remove(p_user_id uuid) returns void
language sql volatile set search_path = '' as $$
    select private.staff_remove(p_user_id)
$$;

create function public.staff_change_role(p_user_id uuid, p_role text) returns void
language sql volatile set search_path = '' as $$
    select private.staff_change_role(p_user_id, p_role)
$$;

-- The old owner becomes an admin, in the seat of the new one. Moves every reference to the two: may take its time.
create function public.ownership_transfer(p_user_id uuid) returns void
language sql volatile set search_path = '' set statement_timeout = '60s' as $$
    select private.ownership_transfer(p_user_id)
$$;

grant execute on function
    public.staff_invite(text, text, text), public.staff_remove(uuid), public.staff_change_role(uuid, text),
    public.ownership_transfer(uuid)
    to authenticated;
