-- The schema of sql/, in order, written by local.schema.squash(): edit it there.

-- sql/00_base.sql

-- Ground for every domain: the private schema, what nobody gets by default, and the helpers all tables use.
-- Runs as role postgres (not a superuser) on Postgres 15 to 18.

-- Helpers live here. The schema is never exposed by the Data API; a function used by a policy or a trigger
-- needs no USAGE on it, one called by a SECURITY INVOKER function in public does.
create schema private;
comment on schema private is 'Helpers of the product; never exposed by the Data API.';
grant usage on schema private to authenticated, service_role;

-- Postgres gives EXECUTE on every new function to PUBLIC; only the global form takes that away.
alter default privileges for role postgres revoke execute on functions from public;
-- Projects older than 2026-10-30 give the API roles everything in public, newer ones nothing: here it is nothing.
alter default privileges for role postgres in schema public
    revoke all on tables from anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    revoke all on sequences from anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    revoke all on functions from anon, authenticated, service_role;

-- Hosted projects have both extensions to offer; the local platform brings schemas of the same names instead.
do $$
begin
    if to_regnamespace('cron') is null then
        create extension pg_cron;
    end if;
    if to_regnamespace('net') is null then
        create extension pg_net with schema extensions;
    end if;
end
$$;

-- A time-ordered id (RFC 9562, version 7). Never page by it: ids made in the same millisecond have no order.
-- plpgsql, because a pinned search_path stops a SQL function from being inlined: 2.4 us a call against 4.0.
create function private.uuid7() returns uuid
language plpgsql volatile parallel safe set search_path = '' as $$
begin
    -- 48 bits of milliseconds over a random v4, whose version bits 0100 become 0111
    return encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid;
end
$$;
grant execute on function private.uuid7() to authenticated, service_role;

-- The first id of a moment: whatever private.uuid7() made since then is not below it.
create function private.uuid7_at(p_at timestamptz) returns uuid
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return encode(
        substring(int8send((extract(epoch from p_at) * 1000)::bigint) from 3) || '\x70008000000000000000'::bytea,
        'hex')::uuid;
end
$$;
grant execute on function private.uuid7_at(timestamptz) to service_role;

-- The clock of business rules. Hosted it is now(); the local platform replaces it with one that can be moved
-- forwards. Leases, backoff and pacing use real time and never call this. Write (select private.clock()).
create function private.clock() returns timestamptz
language sql stable parallel safe set search_path = '' as $$
    select now()
$$;
grant execute on function private.clock() to authenticated, service_role;

-- Has a text nothing that anybody could see? Blanks of every width, marks of direction, fillers and the like are not.
create function private.is_blank(p_text text) returns boolean
language plpgsql immutable parallel safe set search_path = '' as $$
begin
    return coalesce(p_text, '') !~ ('[^\s\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f'
        || '\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb'
        || '\U000e0000-\U000e0fff]');
end
$$;
grant execute on function private.is_blank(text) to service_role;

-- before update: every table with an updated_at column has this trigger.
create function private.touch_updated_at() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.updated_at := now();
    return new;
end
$$;

-- HMAC-SHA256 (RFC 2104) from the builtin sha256(): pgcrypto is not everywhere.
create function private.hmac_sha256(p_key bytea, p_message bytea) returns bytea
language plpgsql immutable strict parallel safe set search_path = '' as $$
declare
    v_key bytea := case when length(p_key) > 64 then sha256(p_key) else p_key end;
    v_inner bytea;
    v_outer bytea;
begin
    v_key := v_key || decode(repeat('00', 64 - length(v_key)), 'hex');
    v_inner := v_key;
    v_outer := v_key;
    for i in 0..63 loop
        v_inner := set_byte(v_inner, i, get_byte(v_key, i) # 54);
        v_outer := set_byte(v_outer, i, get_byte(v_key, i) # 92);
    end loop;
    return sha256(v_outer || sha256(v_inner || p_message));
end
$$;

-- instead of writes to a view that sums up: without it they would be errors of the server, not refusals.
create function private.refuse_write() returns trigger
language plpgsql set search_path = '' as $$
begin
    raise exception using errcode = 'PT403', message = format('%I only sums up: it cannot be written.', tg_table_name),
        hint = 'Write to the tables it is made of.';
end
$$;
grant execute on function private.refuse_write() to authenticated, service_role;


-- sql/10_tenancy.sql

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


-- sql/12_phrases.sql

-- Phrases: whatever the database tells people, in their own language. Each domain adds its own beside its functions.

create table private.phrases (
    kind text,
    reason text,
    es text not null,
    en text not null,
    pt text not null,
    constraint phrases_pkey primary key (kind, reason),
    constraint phrases_kind_check check (
        kind in ('refusal', 'hint', 'fault', 'label', 'reason', 'warning', 'note'))
);
comment on table private.phrases is
    'Sentences for people, by language; {names} in them are filled in. A refusal has a hint of the same reason.';
comment on column private.phrases.kind is
    'refusal: why something was not done; hint: what to do; fault: what is wrong with a value; label: how a thing is '
    'called; reason, warning, note: of the send decision.';

alter table private.phrases enable row level security;
grant select on private.phrases to authenticated, service_role;
create policy phrases_select_anyone on private.phrases for select to authenticated using (true);

-- The caller's language; null when nobody of a business calls.
create function private.my_locale() returns text
language plpgsql stable set search_path = '' as $$
begin
    return (select u.locale from public.users u where u.id = (select private.my_user_id()));
end
$$;

-- A phrase with its names filled in, in the caller's language unless another is given. Spanish where we do not speak
-- it, or do not know it.
create function private.phrase(
    p_kind text, p_reason text, p_values jsonb default '{}', p_locale text default private.my_locale()
) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_phrase text;
    v_name text;
    v_value text;
begin
    select case split_part(p_locale, '-', 1) when 'en' then p.en when 'pt' then p.pt else p.es end into v_phrase
    from private.phrases p
    where p.kind = p_kind and p.reason = p_reason;
    for v_name, v_value in select * from jsonb_each_text(p_values) loop
        v_phrase := replace(v_phrase, '{' || v_name || '}', coalesce(v_value, ''));
    end loop;
    return v_phrase;
end
$$;

-- Refuse in these words: sentence and hint are for people, details ({"reason", …} as text) for programs.
create function private.refuse_as(
    p_code text, p_reason text, p_message text, p_hint text, p_details jsonb default '{}'
) returns void
language plpgsql stable set search_path = '' as $$
begin
    raise exception using errcode = p_code, message = p_message, hint = p_hint,
        detail = (jsonb_strip_nulls(p_details) || jsonb_build_object('reason', p_reason))::text;
end
$$;

-- Refuse in the phrases of this reason, in the caller's language unless another is given.
create function private.refuse(
    p_code text, p_reason text, p_values jsonb default '{}', p_details jsonb default '{}',
    p_locale text default private.my_locale()
) returns void
language plpgsql stable set search_path = '' as $$
begin
    perform private.refuse_as(p_code, p_reason, private.phrase('refusal', p_reason, p_values, p_locale),
        private.phrase('hint', p_reason, p_values, p_locale), p_details);
end
$$;
grant execute on function private.my_locale(), private.phrase(text, text, jsonb, text),
    private.refuse_as(text, text, text, text, jsonb), private.refuse(text, text, jsonb, jsonb, text)
    to authenticated, service_role;

-- Of people, seats and numbers.
insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_seat', 'Usted no forma parte de ningún negocio.', 'You hold no seat in a business.',
        'Você não faz parte de nenhum negócio.'),
    ('hint', 'no_seat', 'Pida a un administrador del negocio que le invite.',
        'Ask an admin of the business to invite you.', 'Peça a um administrador do negócio que o convide.'),
    ('refusal', 'not_admin', 'Solo un administrador del negocio puede hacer esto.',
        'Only an admin of the business may do this.', 'Só um administrador do negócio pode fazer isto.'),
    ('hint', 'not_admin', 'Pídaselo al dueño o a un administrador.', 'Ask the owner or an admin.',
        'Peça ao dono ou a um administrador.'),
    ('refusal', 'role', 'No existe el rol «{role}».', 'There is no role "{role}".', 'Não existe a função "{role}".'),
    ('hint', 'role', 'Elija admin, user o agent.', 'Choose admin, user or agent.', 'Escolha admin, user ou agent.'),
    ('refusal', 'no_colleague', 'No hay tal persona en su negocio.', 'There is no such person in your business.',
        'Não há tal pessoa no seu negócio.'),
    ('hint', 'no_colleague', 'Sus colegas activos están en la tabla users.',
        'Your active colleagues are in the table users.', 'Os seus colegas ativos estão na tabela users.'),
    ('refusal', 'owner', 'Al dueño no se le puede quitar ni cambiar el rol.',
        'The owner can be neither removed nor given another role.',
        'O dono não pode ser removido nem receber outra função.'),
    ('hint', 'owner', 'Traspase antes el negocio con ownership_transfer.',
        'Hand the business over first, with ownership_transfer.',
        'Transfira antes o negócio com ownership_transfer.'),
    ('refusal', 'email', 'Esto no es una dirección de correo.', 'This is not an e-mail address.',
        'Isto não é um endereço de e-mail.'),
    ('hint', 'email', 'Escríbala como nombre@ejemplo.com.', 'Write it as name@example.com.',
        'Escreva-o como nome@exemplo.com.'),
    ('refusal', 'is_colleague', 'Esta persona ya está en su negocio, o ya fue invitada.',
        'This person is in your business already, or invited.',
        'Esta pessoa já está no seu negócio ou já foi convidada.'),
    ('hint', 'is_colleague', 'Use staff_change_role para darle otro rol.',
        'Use staff_change_role to give them another role.', 'Use staff_change_role para lhe dar outra função.'),
    ('refusal', 'is_elsewhere', 'Esta persona pertenece a otro negocio.', 'This person belongs to another business.',
        'Esta pessoa pertence a outro negócio.'),
    ('hint', 'is_elsewhere', 'Cada persona trabaja en un solo negocio: debe dejar el otro o usar otro correo.',
        'One person works for one business: they must leave the other, or use another e-mail.',
        'Cada pessoa trabalha num só negócio: tem de deixar o outro ou usar outro e-mail.'),
    ('refusal', 'yourself', 'No puede quitarse a sí mismo.', 'You cannot remove yourself.',
        'Você não pode remover a si mesmo.'),
    ('hint', 'yourself', 'Pídaselo a otro administrador.', 'Ask another admin.', 'Peça a outro administrador.'),
    ('refusal', 'not_owner', 'Solo el dueño puede traspasar el negocio.', 'Only the owner may hand the business over.',
        'Só o dono pode transferir o negócio.'),
    ('hint', 'not_owner', 'Pídaselo al dueño.', 'Ask the owner to do it.', 'Peça ao dono que o faça.'),
    ('refusal', 'is_owner', 'El negocio ya es suyo.', 'The business is yours already.', 'O negócio já é seu.'),
    ('hint', 'is_owner', 'Indique el colega que debe tenerlo.', 'Name the colleague who shall have it.',
        'Indique o colega que o deve ter.'),
    ('refusal', 'not_signed_up', 'Esta persona todavía no se ha registrado.', 'This person has not signed up yet.',
        'Esta pessoa ainda não se registou.'),
    ('hint', 'not_signed_up', 'Traspase el negocio cuando haya aceptado la invitación.',
        'Hand the business over once they have accepted the invitation.',
        'Transfira o negócio quando ela tiver aceitado o convite.'),
    ('refusal', 'plan_whatsapp_numbers',
        'Números de WhatsApp en el plan {plan}: {limit} como mucho, y este sería el {count}.',
        'WhatsApp numbers in the plan {plan}: {limit} at most, and this would be number {count}.',
        'Números de WhatsApp no plano {plan}: {limit} no máximo, e este seria o {count}.'),
    ('hint', 'plan_whatsapp_numbers', 'Desactive otro número o cambie a un plan mayor.',
        'Deactivate another number, or change to a larger plan.', 'Desative outro número ou mude para um plano maior.'),
    ('refusal', 'plan_ai_agents', 'Agentes en el plan {plan}: {limit} como mucho, y este sería el {count}.',
        'Agents in the plan {plan}: {limit} at most, and this would be number {count}.',
        'Agentes no plano {plan}: {limit} no máximo, e este seria o {count}.'),
    ('hint', 'plan_ai_agents', 'Desactive otro agente o cambie a un plan mayor.',
        'Deactivate another agent, or change to a larger plan.', 'Desative outro agente ou mude para um plano maior.'),
    ('refusal', 'number_disconnected', 'Este número está desconectado.', 'This number is disconnected.',
        'Este número está desconectado.'),
    ('hint', 'number_disconnected', 'Conéctelo de nuevo con su token: connect-number.',
        'Connect it again with its token: connect-number.', 'Conecte-o de novo com o seu token: connect-number.'),
    ('refusal', 'number_taken', 'Este número ya está conectado.', 'This number is already connected.',
        'Este número já está conectado.'),
    ('hint', 'number_taken',
        'Un número sirve a un negocio a través de un proveedor: desconéctelo donde esté activo.',
        'One number serves one business through one provider: disconnect it where it is active.',
        'Um número serve a um negócio através de um provedor: desconecte-o onde estiver ativo.'),
    ('refusal', 'no_number', 'No hay tal número en su negocio.', 'There is no such number in your business.',
        'Não há tal número no seu negócio.'),
    ('hint', 'no_number', 'Tome su id de whatsapp_numbers.', 'Read its id from whatsapp_numbers.',
        'Leia o seu id em whatsapp_numbers.');

-- Of customers and conversations.
insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_chat', 'No hay tal chat.', 'There is no such chat.', 'Não há tal chat.'),
    ('hint', 'no_chat',
        'Tome su id de inbox_list(); para empezar uno, indique p_lead_id y p_number_id de su negocio.',
        'Read its id from inbox_list(); to begin one, give p_lead_id and p_number_id of your business.',
        'Leia o seu id em inbox_list(); para começar um, indique p_lead_id e p_number_id do seu negócio.'),
    ('refusal', 'no_conversation', 'No hay tal conversación.', 'There is no such conversation.',
        'Não há tal conversa.'),
    ('hint', 'no_conversation', 'Tome su id de inbox_list() o conversations.',
        'Read its id from inbox_list() or conversations.', 'Leia o seu id em inbox_list() ou conversations.'),
    ('refusal', 'conversation_closed', 'Esta conversación ya está cerrada.', 'This conversation is closed already.',
        'Esta conversa já está fechada.'),
    ('hint', 'conversation_closed', 'Use conversation_reopen() para seguir con ella.',
        'Use conversation_reopen() to go on with it.', 'Use conversation_reopen() para continuá-la.'),
    ('refusal', 'conversation_open', 'Este chat ya tiene una conversación abierta.',
        'This chat has an open conversation already.', 'Este chat já tem uma conversa aberta.'),
    ('hint', 'conversation_open', 'Siga en ella o ciérrela antes.', 'Go on there, or close it first.',
        'Continue nela ou feche-a antes.'),
    ('refusal', 'leads_role', 'Su rol no permite cambiar clientes.', 'Your role may not change leads.',
        'A sua função não permite alterar clientes.'),
    ('hint', 'leads_role', 'Pida a un administrador el rol user.', 'Ask an admin for the role user.',
        'Peça a um administrador a função user.'),
    ('refusal', 'no_lead', 'No hay tal cliente.', 'There is no such customer.', 'Não há tal cliente.'),
    ('hint', 'no_lead', 'Tome su id de customer_leads.', 'Read its id from customer_leads.',
        'Leia o seu id em customer_leads.'),
    ('refusal', 'one_lead', 'Es un solo cliente.', 'That is one customer.', 'É um só cliente.'),
    ('hint', 'one_lead', 'Indique dos clientes distintos de customer_leads.',
        'Pass two different customers of customer_leads.', 'Indique dois clientes diferentes de customer_leads.'),
    ('refusal', 'no_two_leads', 'No existen esos dos clientes.', 'There are no two such customers.',
        'Não existem esses dois clientes.'),
    ('hint', 'no_two_leads', 'Indique dos clientes distintos de su negocio.',
        'Pass two different customers of your business.', 'Indique dois clientes diferentes do seu negócio.'),
    ('refusal', 'merge_keep', 'Los datos que se conservan no son de ninguno de los dos clientes.',
        'The details to keep are of neither customer.', 'Os dados a manter não são de nenhum dos dois clientes.'),
    ('hint', 'merge_keep', 'Indique uno de los dos ids en p_keep, o nada.',
        'Pass one of the two ids as p_keep, or nothing.', 'Indique um dos dois ids em p_keep, ou nada.'),
    ('refusal', 'no_merge_candidate', 'Nadie tomó a estos dos por un mismo cliente.',
        'Nobody took these two for one customer.', 'Ninguém tomou estes dois pelo mesmo cliente.'),
    ('hint', 'no_merge_candidate', 'Los pares que esperan están en lead_merge_candidates.',
        'Read lead_merge_candidates for the pairs that wait.', 'Os pares que esperam estão em lead_merge_candidates.'),
    ('refusal', 'consent', 'Esto no dice si el cliente quiere recibir mensajes.',
        'This is no statement about hearing from us.', 'Isto não diz se o cliente quer receber mensagens.'),
    ('hint', 'consent', 'p_kind es opt_out u opt_in; p_scope es marketing o all.',
        'p_kind is opt_out or opt_in, p_scope is marketing or all.',
        'p_kind é opt_out ou opt_in; p_scope é marketing ou all.'),
    ('refusal', 'consent_evidence',
        'Hace falta una prueba de lo que dijo el cliente, de {longest} caracteres como mucho.',
        'A statement needs its evidence, of {longest} characters at most.',
        'É preciso uma prova do que o cliente disse, com no máximo {longest} caracteres.'),
    ('hint', 'consent_evidence', 'Diga en p_evidence cuándo y cómo lo dijo.',
        'Say in p_evidence when and how the customer told you.', 'Diga em p_evidence quando e como ele o disse.'),
    ('refusal', 'no_pending_manual', 'No hay tal mensaje pendiente.', 'There is no such open entry.',
        'Não há tal mensagem pendente.'),
    ('hint', 'no_pending_manual', 'Tome su id de pending_manual_list(); quizá alguien ya lo atendió.',
        'Read its id from pending_manual_list(); somebody may have dealt with it meanwhile.',
        'Leia o seu id em pending_manual_list(); talvez alguém já o tenha tratado.'),
    ('refusal', 'no_alert', 'No hay tal alerta.', 'There is no such alert.', 'Não há tal alerta.'),
    ('hint', 'no_alert', 'Tome su id de alerts.', 'Read its id from alerts.', 'Leia o seu id em alerts.');


-- sql/20_channels.sql

-- Channels: the WhatsApp numbers of a business, what is needed to use them, and what a message costs.

-- Hours of the week: {"from": "08:00", "to": "18:00", "days": [1, 2, 3, 4, 5]} or a list of these. Days are ISO
-- (1 = Monday) and may be left out for every day; a span over midnight belongs to the day on which it starts.
create function private.is_hours(p_hours jsonb) returns boolean
language sql immutable strict set search_path = '' as $$
    select coalesce(bool_and(
        jsonb_typeof(span) = 'object'
        and coalesce(span ->> 'from' ~ '^([01]\d|2[0-3]):[0-5]\d$', false)
        and coalesce(span ->> 'to' ~ '^(([01]\d|2[0-3]):[0-5]\d|24:00)$', false)
        and (not span ? 'days' or jsonb_path_match(span,
            '$.days.type() == "array" && !exists($.days[*] ? (!(@ >= 1 && @ <= 7)))', '{}', true))
    ), false)
    from jsonb_array_elements(case jsonb_typeof(p_hours) when 'array' then p_hours else jsonb_build_array(p_hours) end)
        as spans (span)
$$;

-- Are these hours open at that moment? No hours: always.
create function private.hours_open(p_hours jsonb, p_timezone text, p_at timestamptz) returns boolean
language plpgsql stable set search_path = '' as $$
declare
    v_local timestamp := p_at at time zone p_timezone;
    v_time time := v_local::time;
    v_day int := extract(isodow from v_local);
begin
    if p_hours is null then
        return true;
    end if;
    return exists (
        select
        from jsonb_array_elements(
            case jsonb_typeof(p_hours) when 'array' then p_hours else jsonb_build_array(p_hours) end) as spans (span)
        cross join lateral (
            select (span ->> 'from')::time as opens, (span ->> 'to')::time as closes,
                coalesce(span -> 'days', '[1, 2, 3, 4, 5, 6, 7]') as days) as s
        where case when opens < closes
            then v_time >= opens and v_time < closes and days @> to_jsonb(v_day)
            else v_time >= opens and days @> to_jsonb(v_day)
                or v_time < closes and days @> to_jsonb((v_day + 5) % 7 + 1)
        end);
end
$$;
grant execute on function private.is_hours(jsonb), private.hours_open(jsonb, text, timestamptz)
    to authenticated, service_role;

-- A plan limit is reached when one more active row would be too many. An after trigger, because an upsert that
-- ends in an update is no new row; definer, because it locks the owner's row, which nobody may write directly.
create function private.enforce_plan_limit() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_plan text;
    v_limit int;
    v_count int;
begin
    perform from public.users where id = new.tenant_id for no key update;
    select plan, case tg_table_name when 'ai_agents' then max_agents else max_whatsapp_numbers end
    into v_plan, v_limit
    from private.tenant_limits(new.tenant_id);
    execute format('select count(*) from public.%I where tenant_id = $1 and is_active', tg_table_name)
    into v_count using new.tenant_id;
    if v_count > v_limit then
        perform private.refuse('PT402', 'plan_' || tg_table_name,
            jsonb_build_object('plan', v_plan, 'limit', v_limit, 'count', v_count),
            -- who connects a number does so through a function, which is nobody
            p_locale => coalesce(private.my_locale(), (select u.locale from public.users u where u.id = new.tenant_id)));
    end if;
    return null;
end
$$;

create table public.whatsapp_numbers (
    tenant_id uuid,
    id uuid default private.uuid7(),
    provider text not null,
    phone_number text not null,
    provider_number_id text not null,
    waba_id text,
    portfolio_id text,
    account_id text,
    display_name text not null,
    username text,
    is_active boolean not null default true,
    is_primary boolean not null default false,
    auto_reply boolean not null default true,
    business_hours jsonb,
    timezone text not null default 'America/Bogota',
    default_agent_id uuid,
    rate_per_second int not null default 20,
    quality_rating text,
    messaging_limit int,
    is_coexistence boolean not null default false,
    webhook_url text,
    connected_at timestamptz,
    app_synced_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint whatsapp_numbers_pkey primary key (tenant_id, id),
    constraint whatsapp_numbers_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint whatsapp_numbers_provider_check check (provider in ('cloud_api', 'whapi', 'twilio')),
    constraint whatsapp_numbers_phone_number_check check (phone_number ~ '^[1-9]\d{7,14}$'),
    constraint whatsapp_numbers_provider_number_id_check check (provider_number_id <> ''),
    constraint whatsapp_numbers_display_name_check check (btrim(display_name) <> '' and length(display_name) <= 200),
    constraint whatsapp_numbers_business_hours_check check (private.is_hours(business_hours)),
    constraint whatsapp_numbers_timezone_check check (private.is_timezone(timezone)),
    constraint whatsapp_numbers_rate_per_second_check check (rate_per_second between 1 and 1000),
    constraint whatsapp_numbers_messaging_limit_check check (messaging_limit > 0)
);
comment on table public.whatsapp_numbers is
    'The WhatsApp numbers of a business; where a message arrives decides whose it is.';
comment on column public.whatsapp_numbers.phone_number is 'pii: digits without +; the business''s own number.';
comment on column public.whatsapp_numbers.username is 'The business''s own WhatsApp username.';
comment on column public.whatsapp_numbers.provider_number_id is
    'What webhooks are routed by: Graph phone_number_id, Whapi channel id or Twilio sender.';
comment on column public.whatsapp_numbers.portfolio_id is
    'Meta business portfolio; business-scoped user ids hold within it.';
comment on column public.whatsapp_numbers.business_hours is 'See private.is_hours; null: always open.';
comment on column public.whatsapp_numbers.account_id is 'Twilio account the number belongs to; null elsewhere.';
comment on column public.whatsapp_numbers.default_agent_id is 'Answers when no keyword speaks for another agent.';
comment on column public.whatsapp_numbers.rate_per_second is 'Most messages handed to the provider in any second.';
comment on column public.whatsapp_numbers.webhook_url is
    'Where its provider delivers to; null: the provider was not told yet.';
comment on column public.whatsapp_numbers.connected_at is 'When its owner last proved that the number is theirs.';
comment on column public.whatsapp_numbers.app_synced_at is
    'When the Business app was asked for its contacts and history; Meta allows that once.';
comment on column public.whatsapp_numbers.quality_rating is 'As Meta judges: GREEN, YELLOW, RED or UNKNOWN.';
comment on column public.whatsapp_numbers.messaging_limit is
    'Customers who may be written to outside their windows in 24 hours; null: unlimited or unknown.';
comment on column public.whatsapp_numbers.is_coexistence is
    'Also used in the WhatsApp Business app, where Meta holds it to 20 messages a second.';

-- Routing keys: an active number belongs to one business, whoever else once had it.
create unique index whatsapp_numbers_provider_provider_number_id_key
    on public.whatsapp_numbers (provider, provider_number_id) where is_active;
create unique index whatsapp_numbers_phone_number_key on public.whatsapp_numbers (phone_number) where is_active;
create unique index whatsapp_numbers_tenant_id_primary_key on public.whatsapp_numbers (tenant_id) where is_primary;
create index whatsapp_numbers_tenant_id_default_agent_id_idx
    on public.whatsapp_numbers (tenant_id, default_agent_id) where default_agent_id is not null;

create trigger whatsapp_numbers_touch_updated_at before update on public.whatsapp_numbers
    for each row execute function private.touch_updated_at();
create trigger whatsapp_numbers_plan_limit after insert on public.whatsapp_numbers
    for each row when (new.is_active) execute function private.enforce_plan_limit();
-- one that is active already may be connected anew, whatever the plan says by now
create trigger whatsapp_numbers_plan_limit_again after update of is_active, tenant_id on public.whatsapp_numbers
    for each row when (new.is_active and (not old.is_active or new.tenant_id <> old.tenant_id))
    execute function private.enforce_plan_limit();

-- Whoever gave a number up has no claim to it: it comes back by proving again whose it is (channel_connect).
create function private.enforce_connected() returns trigger
language plpgsql set search_path = '' as $$
begin
    if current_user = 'authenticated' and not exists (
        select from public.channel_secrets s
        where s.tenant_id = new.tenant_id and s.number_id = new.id and s.kind = 'access_token')
    then
        perform private.refuse('PT409', 'number_disconnected');
    end if;
    return new;
end
$$;
create trigger whatsapp_numbers_connected before update of is_active on public.whatsapp_numbers
    for each row when (new.is_active and not old.is_active) execute function private.enforce_connected();

alter table public.whatsapp_numbers enable row level security;
grant select, update (display_name, is_active, is_primary, auto_reply, business_hours, timezone, default_agent_id,
    rate_per_second) on public.whatsapp_numbers to authenticated;
grant select, insert, update, delete on public.whatsapp_numbers to service_role;
create policy whatsapp_numbers_select_member on public.whatsapp_numbers for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy whatsapp_numbers_update_admin on public.whatsapp_numbers for update to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin')
    with check (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- channel_secrets: where in Vault a number's tokens are; never a token itself. While a token is being replaced there
-- are three: next_token was issued and is not proven yet, old_token is no longer used and waits to be revoked.
create table public.channel_secrets (
    tenant_id uuid,
    number_id uuid,
    kind text,
    secret_id uuid not null,
    issued_at timestamptz,
    expires_at timestamptz,
    replaced_at timestamptz,
    checked_at timestamptz,
    claim uuid,
    lease_until timestamptz,
    updated_at timestamptz not null default now(),
    constraint channel_secrets_pkey primary key (tenant_id, number_id, kind),
    constraint channel_secrets_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade,
    constraint channel_secrets_kind_check check (kind in ('access_token', 'next_token', 'old_token', 'webhook_secret'))
);
comment on table public.channel_secrets is
    'Which Vault secret belongs to which number; the secrets are in Vault alone.';
comment on column public.channel_secrets.secret_id is 'vault.secrets.id';
comment on column public.channel_secrets.expires_at is 'null: never, or nobody said.';
comment on column public.channel_secrets.replaced_at is 'Of an old_token: since when it is not used.';
comment on column public.channel_secrets.checked_at is 'When refresh_tokens last took this token in hand.';

create trigger channel_secrets_touch_updated_at before update on public.channel_secrets
    for each row execute function private.touch_updated_at();

-- A secret that no row names any more is gone from Vault too.
create function private.vault_forget() returns trigger
language plpgsql set search_path = '' as $$
begin
    delete from vault.secrets v
    where v.id = old.secret_id and not exists (select from public.channel_secrets s where s.secret_id = v.id);
    return null;
end
$$;
create trigger channel_secrets_forget after delete on public.channel_secrets
    for each row execute function private.vault_forget();
create trigger channel_secrets_forget_replaced after update of secret_id on public.channel_secrets
    for each row when (new.secret_id <> old.secret_id) execute function private.vault_forget();
-- what the two above ask
create index channel_secrets_secret_id_idx on public.channel_secrets (secret_id);

alter table public.channel_secrets enable row level security;
grant select (tenant_id, number_id, kind, issued_at, expires_at, replaced_at, checked_at, updated_at)
    on public.channel_secrets to authenticated;
grant select, insert, update, delete on public.channel_secrets to service_role;
create policy channel_secrets_select_admin on public.channel_secrets for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');


-- sql/22_templates.sql

-- Message templates: what may be sent when the window is closed, and how their blanks are filled in.

create table public.message_templates (
    tenant_id uuid,
    id uuid default private.uuid7(),
    provider text not null default 'cloud_api',
    waba_id text not null,
    provider_template_id text not null,
    name text not null,
    language text not null,
    category text not null,
    correct_category text,
    status text not null,
    rejected_reason text,
    paused_until timestamptz,
    quality text,
    parameter_format text not null default 'positional',
    components jsonb not null default '[]',
    status_at timestamptz not null default 'epoch',
    category_at timestamptz not null default 'epoch',
    quality_at timestamptz not null default 'epoch',
    components_at timestamptz not null default 'epoch',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint message_templates_pkey primary key (tenant_id, id),
    -- a name is free again when its template is deleted; the provider's id never is
    constraint message_templates_provider_id_key unique (tenant_id, waba_id, provider_template_id),
    constraint message_templates_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint message_templates_provider_check check (provider in ('cloud_api', 'twilio')),
    constraint message_templates_category_check check (category in ('marketing', 'utility', 'authentication')),
    constraint message_templates_status_check check (status = lower(status) and status <> ''),
    constraint message_templates_parameter_format_check check (parameter_format in ('positional', 'named')),
    constraint message_templates_components_check check (jsonb_typeof(components) = 'array')
);
comment on table public.message_templates is 'Message templates as the provider last described them.';
comment on column public.message_templates.waba_id is 'The account they belong to; of Twilio its account SID.';
comment on column public.message_templates.provider_template_id is 'Graph''s id, or Twilio''s ContentSid (HX…).';
comment on column public.message_templates.correct_category is
    'What the provider thinks it is; it becomes the category, and the price, when nobody objects.';
comment on column public.message_templates.status is
    'The provider''s word in lower case: approved, pending, rejected, paused, disabled, flagged, … or deleted.';
comment on column public.message_templates.rejected_reason is
    'Why it is not approved, in the provider''s words: rejected, paused or disabled.';
comment on column public.message_templates.paused_until is 'Null where the provider did not say for how long.';
comment on column public.message_templates.components is
    'As Graph lists them: header, body, footer, buttons with their examples, blanks as {{1}} or {{name}}.';
comment on column public.message_templates.status_at is
    'Of the news it was last changed by; older news of the same kind change nothing any more.';

create index message_templates_tenant_id_name_idx on public.message_templates (tenant_id, waba_id, name, language);

create trigger message_templates_touch_updated_at before update on public.message_templates
    for each row execute function private.touch_updated_at();

alter table public.message_templates enable row level security;
grant select on public.message_templates to authenticated;
grant select, insert, update, delete on public.message_templates to service_role;
create policy message_templates_select_member on public.message_templates for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- template_listings: until when we know all about the templates of an account.
create table public.template_listings (
    tenant_id uuid,
    waba_id text,
    listed_at timestamptz not null,
    constraint template_listings_pkey primary key (tenant_id, waba_id),
    constraint template_listings_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
comment on table public.template_listings is 'When the provider last told all templates of an account.';
comment on column public.template_listings.listed_at is 'In whole seconds, as the provider dates its news.';

alter table public.template_listings enable row level security;
grant select on public.template_listings to authenticated;
grant select, insert, update, delete on public.template_listings to service_role;
create policy template_listings_select_member on public.template_listings for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- Keeping them up to date.

-- Two of the provider's words mean that it may be sent again.
create function private.template_status(p_word text) returns text
language sql immutable set search_path = '' as $$
    select case lower(p_word) when 'reinstated' then 'approved' when 'unarchived' then 'approved' else lower(p_word) end
$$;

-- Take over what the provider listed at that time: [{"provider_template_id", "name", "language", "category",
-- "correct_category", "status", "rejected_reason", "quality", "parameter_format", "components"}]. Only what differs
-- is written, nothing that news younger than the listing said is undone, and when the listing is complete, what is
-- not in it is deleted. Answers {"added", "changed", "deleted"}.
create function public.templates_apply(
    p_tenant_id uuid, p_provider text, p_waba_id text, p_listed_at timestamptz, p_templates jsonb,
    p_is_complete boolean default true
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_at timestamptz := date_trunc('second', p_listed_at);
    v_counts jsonb;
begin
    -- listings of one account take turns
    insert into public.template_listings as l (tenant_id, waba_id, listed_at)
    values (p_tenant_id, p_waba_id, case when p_is_complete then v_at else 'epoch' end)
    on conflict on constraint template_listings_pkey do update set listed_at = greatest(
        l.listed_at, excluded.listed_at);

    with listed as materialized (
        select distinct on (t.provider_template_id) t.*
        from jsonb_populate_recordset(null::public.message_templates, p_templates) t
        order by t.provider_template_id
    ),
    written as (
        insert into public.message_templates as m (
            tenant_id, provider, waba_id, provider_template_id, name, language, category, correct_category, status,
            rejected_reason, quality, parameter_format, components)
        select p_tenant_id, p_provider, p_waba_id, t.provider_template_id, t.name, t.language, t.category,
            t.correct_category, private.template_status(t.status), t.rejected_reason, t.quality,
            coalesce(t.parameter_format, 'positional'), coalesce(t.components, '[]')
        from listed t
        order by t.provider_template_id
        on conflict on constraint message_templates_provider_id_key do update
        set name = excluded.name, language = excluded.language, parameter_format = excluded.parameter_format,
            category = case when m.category_at > v_at then m.category else excluded.category end,
            correct_category = case when m.category_at > v_at
                then m.correct_category else excluded.correct_category end,
            status = case when m.status_at > v_at then m.status else excluded.status end,
            -- a listing has a reason for rejected templates only
            rejected_reason = case when m.status_at > v_at or m.status = excluded.status
                then coalesce(excluded.rejected_reason, m.rejected_reason) else excluded.rejected_reason end,
            paused_until = case when m.status_at > v_at or m.status = excluded.status then m.paused_until end,
            quality = case when m.quality_at > v_at then m.quality else excluded.quality end,
            components = case when m.components_at > v_at then m.components else excluded.components end
        where (m.name, m.language, m.parameter_format)
                is distinct from (excluded.name, excluded.language, excluded.parameter_format)
            or m.category_at <= v_at
                and (m.category, m.correct_category) is distinct from (excluded.category, excluded.correct_category)
            or m.status_at <= v_at and (m.status <> excluded.status
                or excluded.rejected_reason is not null and m.rejected_reason is distinct from excluded.rejected_reason)
            or m.quality_at <= v_at and m.quality is distinct from excluded.quality
            or m.components_at <= v_at and m.components <> excluded.components
        returning m.xmax = 0 as is_new
    ),
    gone as (
        update public.message_templates m set status = 'deleted', status_at = v_at, paused_until = null
        where p_is_complete and m.tenant_id = p_tenant_id and m.waba_id = p_waba_id and m.status <> 'deleted'
            and m.status_at <= v_at
            and not exists (select from listed t where t.provider_template_id = m.provider_template_id)
        returning m.id
    )
    select jsonb_build_object(
        'added', count(*) filter (where is_new), 'changed', count(*) filter (where not is_new),
        'deleted', (select count(*) from gone))
    into v_counts
    from written;
    perform private.alert_end(p_tenant_id, 'templates_not_listed', p_waba_id);
    return v_counts;
end
$$;

-- The listing could not be had; one alert until it can.
create function public.templates_fail(p_tenant_id uuid, p_waba_id text, p_problem text) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.alert_raise(p_tenant_id, 'templates_not_listed', p_waba_id,
        'The templates of a WhatsApp account could not be listed: ' || p_problem);
end
$$;

-- The accounts whose templates are to be listed, of one business or all: {"now", "accounts": [{"tenant_id",
-- "provider", "waba_id", "numbers": [{"tenant_id", "number_id"}, …], any of whose tokens will do}]}.
create function public.template_accounts(p_tenant_id uuid default null) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object('now', (select private.clock()), 'accounts', coalesce(jsonb_agg(to_jsonb(a)), '[]'))
        from (
            select n.tenant_id, n.provider, k.waba_id,
                jsonb_agg(jsonb_build_object('tenant_id', n.tenant_id, 'number_id', n.id) order by n.id) as numbers
            from public.whatsapp_numbers n
            cross join lateral (
                select case n.provider when 'cloud_api' then n.waba_id when 'twilio' then n.account_id end as waba_id
            ) as k
            where n.is_active and k.waba_id is not null and n.tenant_id = coalesce(p_tenant_id, n.tenant_id)
            group by n.tenant_id, n.provider, k.waba_id
        ) as a);
end
$$;
grant execute on function
    public.templates_apply(uuid, text, text, timestamptz, jsonb, boolean), public.templates_fail(uuid, text, text),
    public.template_accounts(uuid)
    to service_role;

-- Ask for a listing, soon: when a number was connected, or the provider speaks of a template we do not know.
-- Definer: whoever connects a number, or takes in what the provider says, may not read Vault.
create function private.templates_refresh(p_tenant_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
begin
    -- a database without functions has none to call
    if exists (select from vault.decrypted_secrets where name = 'functions_url') then
        perform private.invoke('sync-templates', jsonb_build_object('tenant_id', p_tenant_id));
    end if;
end
$$;

-- Definer: an admin who switches a number on has no right to the function behind it.
create function private.number_connected() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.templates_refresh(new.tenant_id);
    return null;
end
$$;
create trigger whatsapp_numbers_list_templates
    after insert or update of is_active, waba_id, account_id on public.whatsapp_numbers
    for each row when (new.is_active
        and case new.provider when 'cloud_api' then new.waba_id when 'twilio' then new.account_id end is not null)
    execute function private.number_connected();

-- What the provider said about a template, by webhook: p_subject is template_status, template_quality,
-- template_category or template_components. News come late and in any order: older ones change nothing.
create function private.template_event(
    p_tenant_id uuid, p_waba_id text, p_at timestamptz, p_subject text, p_data jsonb
) returns void
language plpgsql set search_path = '' as $$
declare
    v_template public.message_templates;
    v_listed_at timestamptz;
begin
    select * into v_template
    from public.message_templates m
    where m.tenant_id = p_tenant_id and m.waba_id = p_waba_id
        and (m.provider_template_id = p_data ->> 'template_id'
            or p_data ->> 'template_id' is null and m.name = p_data ->> 'name' and m.language = p_data ->> 'language')
    order by m.status = 'deleted'
    limit 1
    for no key update;
    if not found then
        perform private.template_unknown(p_tenant_id, p_waba_id, p_at, p_subject, p_data);
        return;
    end if;
    select l.listed_at into v_listed_at
    from public.template_listings l
    where l.tenant_id = p_tenant_id and l.waba_id = p_waba_id;

    if p_at < v_listed_at then
        return;
    elsif p_subject = 'template_status' and p_at >= v_template.status_at then
        update public.message_templates
        set status = private.template_status(p_data ->> 'status'), status_at = p_at,
            rejected_reason = p_data ->> 'reason', paused_until = private.template_pause_ends(p_data, p_at)
        where tenant_id = p_tenant_id and id = v_template.id and p_data ->> 'status' <> '';
    elsif p_subject = 'template_quality' and p_at >= v_template.quality_at then
        update public.message_templates set quality = upper(p_data ->> 'quality'), quality_at = p_at
        where tenant_id = p_tenant_id and id = v_template.id;
    elsif p_subject = 'template_category' and p_at >= v_template.category_at then
        update public.message_templates
        set category = case when c.word in ('marketing', 'utility', 'authentication') then c.word else category end,
            correct_category = p_data ->> 'correct', category_at = p_at
        from (select lower(p_data ->> 'category') as word) as c
        where tenant_id = p_tenant_id and id = v_template.id;
    elsif p_subject = 'template_components' and p_at >= v_template.components_at then
        -- it tells texts and buttons only: a header's file stays, and the listing will have the whole
        update public.message_templates
        set components_at = p_at, components = p_data -> 'components' || jsonb_path_query_array(
            v_template.components, '$[*] ? (@.type like_regex "^header$" flag "i" && @.format <> "TEXT")')
        where tenant_id = p_tenant_id and id = v_template.id and jsonb_typeof(p_data -> 'components') = 'array';
        perform private.templates_refresh(p_tenant_id);
    end if;
end
$$;

-- A template made after the last listing: kept with what is known of it until the next one, which comes at once.
create function private.template_unknown(
    p_tenant_id uuid, p_waba_id text, p_at timestamptz, p_subject text, p_data jsonb
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.message_templates (tenant_id, waba_id, provider_template_id, name, language, category, status,
        rejected_reason, paused_until, status_at)
    select p_tenant_id, p_waba_id, p_data ->> 'template_id', p_data ->> 'name', p_data ->> 'language',
        case when c.word in ('marketing', 'utility', 'authentication') then c.word else 'marketing' end,
        private.template_status(p_data ->> 'status'), p_data ->> 'reason',
        private.template_pause_ends(p_data, p_at), p_at
    from (select lower(p_data ->> 'category') as word) as c
    where p_subject = 'template_status' and p_data ->> 'status' <> '' and p_data ->> 'template_id' <> ''
        and p_data ->> 'name' <> '' and p_data ->> 'language' <> ''
    on conflict on constraint message_templates_provider_id_key do nothing;
    perform private.templates_refresh(p_tenant_id);
end
$$;

-- Meta pauses a template for three hours, then for six, and then disables it.
create function private.template_pause_ends(p_data jsonb, p_at timestamptz) returns timestamptz
language sql immutable set search_path = '' as $$
    select case
        when lower(p_data ->> 'status') is distinct from 'paused' then null
        when p_data ->> 'reason' ilike '%first%' then p_at + interval '3 hours'
        when p_data ->> 'reason' ilike '%second%' then p_at + interval '6 hours'
    end
$$;
grant execute on function
    private.template_status(text), private.templates_refresh(uuid), private.number_connected(),
    private.template_event(uuid, text, timestamptz, text, jsonb),
    private.template_unknown(uuid, text, timestamptz, text, jsonb), private.template_pause_ends(jsonb, timestamptz)
    to service_role;

-- Filling them in. Parameters are {"header": …, "body": …, "buttons": {"0": …}}, each part only where there is a
-- blank: texts as ["Ana", "10:00"] or {"name": "Ana"}; a header's file as {"link": "https://…"} or {"id": …}, with
-- "filename" for a document, its place as {"latitude", "longitude", "name", "address"}; a button by its position:
-- what completes its URL, the payload of a quick reply, a code to copy, or the action of a Flow.

-- What is wrong with a file that is named, not sent along, in the caller's words; null: nothing. By Meta's table of
-- media. p_label: how the file is called there.
create function private.media_fault(p_label text, p_kind text, p_media jsonb) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_mimes text[];
    v_bytes bigint;
    v_fault text;
begin
    select l.mimes, l.bytes into v_mimes, v_bytes
    from (values
        ('image', array['image/jpeg', 'image/png'], 5 * 1024 * 1024),
        ('audio', array['audio/aac', 'audio/amr', 'audio/mpeg', 'audio/mp4', 'audio/ogg'], 16 * 1024 * 1024),
        ('video', array['video/mp4', 'video/3gpp'], 16 * 1024 * 1024),
        ('document', array['application/pdf', 'text/plain', 'application/msword', 'application/vnd.ms-excel',
            'application/vnd.ms-powerpoint', 'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
            'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
            'application/vnd.openxmlformats-officedocument.presentationml.presentation'], 100 * 1024 * 1024),
        ('sticker', array['image/webp'], 500 * 1024)
    ) as l (kind, mimes, bytes)
    where l.kind = p_kind;
    v_fault := case
        when jsonb_typeof(p_media) is distinct from 'object' then 'file_missing'
        when p_media - '{id,link,filename,mime,size}'::text[] <> '{}' then 'file_keys'
        when (p_media - 'size') @? 'strict $.* ? (@.type() != "string" && @.type() != "null")' then 'file_not_text'
        when coalesce(p_media ->> 'id', '') <> '' and p_media ->> 'link' is not null
            or coalesce(p_media ->> 'id', p_media ->> 'link', '') = '' then 'file_link_or_id'
        when p_media ->> 'link' !~ '^https://[^\s/?#@]+([/?#]\S*)?$' then 'file_https'
        when length(p_media ->> 'link') > 2000 then 'file_link_long'
        when p_media ->> 'filename' is not null and p_kind <> 'document' then 'file_name'
        when length(p_media ->> 'filename') > 240 then 'file_name_long'
        when lower(btrim(split_part(p_media ->> 'mime', ';', 1))) <> all (v_mimes) then 'file_mime'
        when p_media ->> 'size' !~ '^\d{1,18}$' then 'file_size'
        when (p_media ->> 'size')::bigint > v_bytes then 'file_large'
    end;
    return private.phrase('fault', v_fault, jsonb_build_object(
        'label', p_label, 'mime', p_media ->> 'mime', 'mimes', array_to_string(v_mimes, ', '),
        'size', p_media ->> 'size', 'most', v_bytes,
        'keys', case v_fault when 'file_keys' then (
            select string_agg(k, ', ') from jsonb_object_keys(p_media - '{id,link,filename,mime,size}'::text[]) as k) end));
end
$$;

-- The blanks of a text in order: {{1}}, {{name}}.
create function private.template_blanks(p_text text) returns text[]
language sql immutable set search_path = '' as $$
    select array(select b[1] from regexp_matches(p_text, '\{\{\s*(\w+)\s*\}\}', 'g') as b)
$$;

-- A text with its blanks filled in from {blank: value}.
create function private.template_fill(p_text text, p_values jsonb) returns text
language sql immutable set search_path = '' as $$
    select string_agg(concat(p.words, p_values ->> p.blank), '' order by p.n)
    from rows from (
        unnest(regexp_split_to_array(p_text, '\{\{\s*\w+\s*\}\}')), unnest(private.template_blanks(p_text))
    ) with ordinality as p (words, blank, n)
$$;

-- What a template asks for. part: header, body or button; key: the blank, or the button's position; kind: what has
-- to be given. A kind of unsupported is a part that we cannot fill in.
create function private.template_slots(p_template public.message_templates)
returns table (part text, key text, kind text, is_required boolean)
language plpgsql stable rows 5 set search_path = '' as $$
begin
    if p_template.provider = 'twilio' then  -- its variables are numbered through all parts
        return query
        select distinct 'body', b, 'text', true
        from unnest(private.template_blanks(p_template.components::text)) as b;
        return;
    end if;
    return query
    with components as (
        select lower(c ->> 'type') as type, lower(coalesce(c ->> 'format', 'text')) as format, c ->> 'text' as text,
            c -> 'buttons' as buttons
        from jsonb_array_elements(p_template.components) as c
    )
    select distinct c.type, b, 'text', true
    from components c
    cross join unnest(private.template_blanks(c.text)) as b
    where c.type = 'body' or c.type = 'header' and c.format = 'text'
    union all
    select 'header', '', case when c.format in ('image', 'video', 'document', 'location')
        then c.format else 'unsupported' end, true
    from components c
    where c.type = 'header' and c.format <> 'text'
    union all
    select c.type, '', 'unsupported', true
    from components c
    where c.type not in ('header', 'body', 'footer', 'buttons')
    union all
    select 'button', (b.position - 1)::text, k.kind, k.kind not in ('payload', 'action')
    from components c
    cross join jsonb_array_elements(c.buttons) with ordinality as b (button, position)
    cross join lateral (
        select case lower(b.button ->> 'type')
            when 'url' then case when cardinality(private.template_blanks(b.button ->> 'url')) > 0 then 'url' end
            when 'quick_reply' then 'payload'
            when 'copy_code' then 'code'
            when 'otp' then 'url'
            when 'flow' then 'action'
            when 'mpm' then 'unsupported'
            when 'order_details' then 'unsupported'
        end as kind
    ) as k
    where c.type = 'buttons' and k.kind is not null;
end
$$;

-- What was given for its blanks, a row for each; null values are not given. A file or a place is one value.
create function private.template_given(p_template public.message_templates, p_parameters jsonb)
returns table (part text, key text, value jsonb)
language plpgsql stable rows 5 set search_path = '' as $$
begin
    return query
    with parts as (
        select case p.part when 'buttons' then 'button' else p.part end as part, p.value,
            case when p.part = 'header' and exists (
                select from private.template_slots(p_template) s where s.part = 'header' and s.key = '')
                then 'whole' else jsonb_typeof(p.value) end as type
        from jsonb_each(p_parameters) as p (part, value)
    )
    select p.part, g.key, g.value
    from parts p
    cross join lateral (
        select '' as key, p.value
        where p.type not in ('array', 'object')
        union all
        select (i.n - (p.part = 'button')::int)::text, i.value
        from jsonb_array_elements(case p.type when 'array' then p.value else '[]' end) with ordinality as i (value, n)
        union all
        select e.key, e.value
        from jsonb_each(case p.type when 'object' then p.value else '{}' end) as e
    ) as g
    where jsonb_typeof(g.value) <> 'null';
end
$$;

-- What is wrong with the value of a blank, in the caller's words; null: nothing.
create function private.template_value_fault(p_label text, p_kind text, p_value jsonb) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_text text := p_value #>> '{}';
    v_longest int := case p_kind when 'text' then 1024 when 'url' then 2000 when 'payload' then 256 when 'code' then 15 end;
begin
    if p_kind in ('image', 'video', 'document') then
        return private.media_fault(p_label, p_kind, p_value);
    end if;
    return private.phrase('fault', case
        when p_kind = 'location' then case when coalesce(jsonb_typeof(p_value -> 'latitude') <> 'number'
            or jsonb_typeof(p_value -> 'longitude') <> 'number', true) then 'not_place' end
        when p_kind = 'action' then case when jsonb_typeof(p_value) <> 'object' then 'not_action' end
        when jsonb_typeof(p_value) not in ('string', 'number') then 'not_text'
        when private.is_blank(v_text) then 'empty'
        when length(v_text) > v_longest then 'long'
        when p_kind = 'text' and v_text ~ '[\n\r\t]| {5,}' then 'lines'
    end, jsonb_build_object('label', p_label, 'length', length(v_text), 'longest', v_longest));
end
$$;

-- Everything wrong with parameters, each named, as one sentence's list; null: nothing.
create function private.template_faults(p_template public.message_templates, p_parameters jsonb) returns text
language plpgsql stable set search_path = '' as $$
begin
    return (
        select string_agg(f.fault, '; ' order by f.rank, f.part, length(f.key), f.key)
        from (
            select case coalesce(s.part, g.part) when 'header' then 1 when 'body' then 2 else 3 end as rank,
                coalesce(s.part, g.part) as part, coalesce(s.key, g.key) as key,
                case
                    when g.value is null then case when s.is_required
                        then private.phrase('fault', 'missing', jsonb_build_object('label', l.label)) end
                    when s.kind is null then private.phrase('fault', 'unasked', jsonb_build_object('label', l.label))
                    else private.template_value_fault(l.label, s.kind, g.value)
                end as fault
            from private.template_slots(p_template) s
            full join private.template_given(p_template, p_parameters) g on g.part = s.part and g.key = s.key
            cross join lateral (
                select private.template_label(coalesce(s.part, g.part), coalesce(s.key, g.key)) as label) as l
        ) as f
        where f.fault is not null);
end
$$;

-- How a blank is called: body parameter 2, button 0, header.
create function private.template_label(p_part text, p_key text) returns text
language plpgsql stable set search_path = '' as $$
begin
    return coalesce(
        private.phrase('label', case when p_part in ('header', 'body') and p_key <> '' then p_part || '_blank' else p_part end,
            jsonb_build_object('key', p_key)),
        concat_ws(' ', p_part, nullif(p_key, '')));
end
$$;

-- The parts that we cannot fill in, in the caller's words; null: none.
create function private.template_unsupported(p_template public.message_templates) returns text
language plpgsql stable set search_path = '' as $$
begin
    return (
        select string_agg(distinct coalesce(private.phrase('label', 'part_' || p.name), p.name), ', ')
        from private.template_slots(p_template) s
        cross join lateral (
            select case s.part
                when 'button' then (
                    select lower(c #>> array['buttons', s.key, 'type'])
                    from jsonb_array_elements(p_template.components) as c
                    where lower(c ->> 'type') = 'buttons')
                when 'header' then (
                    select 'header_' || lower(c ->> 'format')
                    from jsonb_array_elements(p_template.components) as c
                    where lower(c ->> 'type') = 'header')
                else s.part end as name
        ) as p
        where s.kind = 'unsupported');
end
$$;

-- Why a template may not be sent now, whatever it is filled in with; null: it may. Flagged ones still may.
create function private.template_obstacle(p_template public.message_templates) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_reader public.users;
begin
    if p_template.status in ('approved', 'flagged')
        or p_template.status = 'paused' and p_template.paused_until <= (select private.clock())
    then
        return null;
    end if;
    select * into v_reader from public.users where id = private.my_user_id();
    return private.phrase('refusal', 'template_status', jsonb_build_object(
        'name', p_template.name, 'language', p_template.language,
        'status', coalesce(
            private.phrase('label', 'status_' || p_template.status),
            private.phrase('label', 'status', jsonb_build_object('status', replace(p_template.status, '_', ' ')))),
        'until', case when p_template.paused_until is not null then ' ' || private.phrase('label', 'until',
            jsonb_build_object('until', private.moment_words(p_template.paused_until,
                coalesce(v_reader.timezone, 'UTC'), v_reader.locale, private.clock()))) end,
        'why', ': ' || p_template.rejected_reason));
end
$$;

-- The template filled in, before anybody calls the provider: {"components": what Graph wants, "text": as the
-- customer will read it, "variables": {"1": …}, what Twilio wants}. Or why not: {"reason", "message", "hint"}.
create function private.template_message(p_template public.message_templates, p_parameters jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_given jsonb := coalesce(nullif(p_parameters, 'null'), '{}');
    v_obstacle text := private.template_obstacle(p_template);
    v_parts text := private.template_unsupported(p_template);
    v_names jsonb := jsonb_build_object('name', p_template.name, 'language', p_template.language);
    v_fault text;
    v_filled jsonb;
begin
    if v_obstacle is not null then
        return jsonb_build_object('reason', 'template_' || p_template.status, 'message', v_obstacle,
            'hint', private.phrase('hint', 'template_status'));
    elsif v_parts is not null then
        return jsonb_build_object('reason', 'template_unsupported',
            'message', private.phrase('refusal',
        'template_unsupported', v_names || jsonb_build_object('parts', v_parts)),
            'hint', private.phrase('hint', 'template_unsupported'));
    elsif jsonb_typeof(v_given) <> 'object' then
        v_fault := private.phrase('fault', 'not_parameters');
    elsif p_template.components = '[]' then
        v_fault := private.phrase('fault', 'text_unknown');
    else
        v_fault := private.template_faults(p_template, v_given);
    end if;
    if v_fault is null then
        v_filled := private.template_filled(p_template, v_given);
        v_fault := coalesce(
            private.template_length_fault('header', v_filled ->> 'header', 60),
            private.template_length_fault('body', v_filled ->> 'body', 1024));
    end if;
    if v_fault is not null then
        return jsonb_build_object('reason', 'template_parameters',
            'message', private.phrase('refusal',
        'template_parameters', v_names || jsonb_build_object('fault', v_fault)),
            'hint', private.template_hint(p_template));
    end if;
    return jsonb_build_object('components', v_filled -> 'components', 'variables', v_filled -> 'variables',
        'text', concat_ws(E'\n\n', v_filled ->> 'header', v_filled ->> 'body', v_filled ->> 'footer'));
end
$$;

-- messages.data of a template that was filled in.
create function private.template_data(p_template public.message_templates, p_filled jsonb, p_parameters jsonb)
returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
    return jsonb_build_object('category', p_template.category, 'template', jsonb_build_object(
        'name', p_template.name, 'language', p_template.language, 'category', p_template.category,
        'provider_template_id', p_template.provider_template_id, 'components', p_filled -> 'components',
        'variables', p_filled -> 'variables', 'parameters', coalesce(p_parameters, '{}')));
end
$$;

-- A part that becomes too long with its blanks filled in.
create function private.template_length_fault(p_part text, p_text text, p_longest int) returns text
language plpgsql stable set search_path = '' as $$
begin
    return case when length(p_text) > p_longest then private.phrase('fault', p_part || '_long', jsonb_build_object(
        'length', length(p_text), 'longest', p_longest)) end;
end
$$;

-- What to give, in a sentence.
create function private.template_hint(p_template public.message_templates) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_needs text;
begin
    select string_agg(
        concat(private.template_label(s.part, s.key), ' (' || nullif(s.kind, 'text') || ')'), ', '
        order by case s.part when 'header' then 1 when 'body' then 2 else 3 end, length(s.key), s.key)
    into v_needs
    from private.template_slots(p_template) s
    where s.is_required;
    return case when v_needs is null then private.phrase('hint', 'template_needs_nothing')
        else private.phrase('hint', 'template_needs', jsonb_build_object('needs', v_needs)) end;
end
$$;

-- The template with valid parameters: texts by part, components and variables.
create function private.template_filled(p_template public.message_templates, p_parameters jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_values jsonb;
    v_components jsonb;
begin
    select
        jsonb_object_agg(f.part, f.values) filter (where f.part in ('header', 'body')),
        jsonb_agg(
            jsonb_build_object('type', f.part, 'parameters', f.parameters)
            || case f.part when 'button' then jsonb_build_object('index', f.key, 'sub_type', case f.kind
                when 'payload' then 'quick_reply' when 'code' then 'copy_code' when 'action' then 'flow' else f.kind end)
                else '{}' end
            order by case f.part when 'header' then 1 when 'body' then 2 else 3 end, f.key)
    into v_values, v_components
    from (
        select g.part, case g.part when 'button' then g.key else '' end as key, min(s.kind) as kind,
            jsonb_object_agg(g.key, g.value #>> '{}') as values,
            jsonb_agg(private.template_parameter(
                s.kind, case p_template.parameter_format when 'named' then g.key end, g.value)
                order by length(g.key), g.key) as parameters
        from private.template_slots(p_template) s
        join private.template_given(p_template, p_parameters) g on g.part = s.part and g.key = s.key
        group by g.part, case g.part when 'button' then g.key else '' end
    ) as f;
    return (
        select jsonb_object_agg(lower(c ->> 'type'), private.template_fill(
            c ->> 'text', coalesce(v_values -> lower(c ->> 'type'), '{}')))
        from jsonb_array_elements(p_template.components) as c
        where lower(c ->> 'type') in ('header', 'body', 'footer') and c ->> 'text' is not null
    ) || jsonb_build_object('components', coalesce(v_components, '[]'), 'variables', coalesce(v_values -> 'body', '{}'));
end
$$;

-- A parameter as Graph wants it. p_name: of a blank with a name.
create function private.template_parameter(p_kind text, p_name text, p_value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
    select case
        when p_kind = 'text' then jsonb_strip_nulls(jsonb_build_object(
            'type', 'text', 'parameter_name', p_name, 'text', p_value #>> '{}'))
        when p_kind = 'url' then jsonb_build_object('type', 'text', 'text', p_value #>> '{}')
        when p_kind = 'payload' then jsonb_build_object('type', 'payload', 'payload', p_value #>> '{}')
        when p_kind = 'code' then jsonb_build_object('type', 'coupon_code', 'coupon_code', p_value #>> '{}')
        else jsonb_build_object('type', p_kind, p_kind, p_value - '{mime,size}'::text[])
    end
$$;
grant execute on function
    private.media_fault(text, text, jsonb), private.template_blanks(text), private.template_fill(text, jsonb),
    private.template_slots(public.message_templates), private.template_given(public.message_templates, jsonb),
    private.template_value_fault(text, text, jsonb), private.template_faults(public.message_templates, jsonb),
    private.template_label(text, text), private.template_unsupported(public.message_templates),
    private.template_obstacle(public.message_templates), private.template_length_fault(text, text, int),
    private.template_message(public.message_templates, jsonb), private.template_hint(public.message_templates),
    private.template_data(public.message_templates, jsonb, jsonb),
    private.template_filled(public.message_templates, jsonb), private.template_parameter(text, text, jsonb)
    to service_role;

insert into private.phrases (kind, reason, es, en, pt) values
    ('label', 'header', 'el encabezado', 'header', 'o cabeçalho'),
    ('label', 'header_blank', 'el parámetro {key} del encabezado', 'header parameter {key}',
        'o parâmetro {key} do cabeçalho'),
    ('label', 'body_blank', 'el parámetro {key} del texto', 'body parameter {key}', 'o parâmetro {key} do texto'),
    ('label', 'button', 'el botón {key}', 'button {key}', 'o botão {key}'),
    ('label', 'image', 'la imagen', 'the image', 'a imagem'),
    ('label', 'audio', 'el audio', 'the audio', 'o áudio'),
    ('label', 'video', 'el video', 'the video', 'o vídeo'),
    ('label', 'document', 'el documento', 'the document', 'o documento'),
    ('label', 'sticker', 'el sticker', 'the sticker', 'a figurinha'),
    ('label', 'part_carousel', 'un carrusel', 'a carousel', 'um carrossel'),
    ('label', 'part_limited_time_offer', 'una oferta por tiempo limitado', 'a limited-time offer',
        'uma oferta por tempo limitado'),
    ('label', 'part_mpm', 'un botón de varios productos', 'a button of several products',
        'um botão de vários produtos'),
    ('label', 'part_order_details', 'un botón de pago', 'a button to pay an order', 'um botão de pagamento'),
    ('label', 'part_header_product', 'un producto como encabezado', 'a product as its header',
        'um produto como cabeçalho'),
    ('label', 'until', 'hasta {until}', 'until {until}', 'até {until}'),
    ('label', 'status', 'está «{status}» para WhatsApp', 'is {status} by WhatsApp', 'está «{status}» no WhatsApp'),
    ('label', 'status_pending', 'todavía no está aprobada por WhatsApp', 'is not approved yet by WhatsApp',
        'ainda não foi aprovado pelo WhatsApp'),
    ('label', 'status_in_appeal', 'está en apelación y sin aprobar por WhatsApp',
        'is under appeal, and not approved by WhatsApp', 'está em recurso e não foi aprovado pelo WhatsApp'),
    ('label', 'status_rejected', 'fue rechazada por WhatsApp', 'is rejected by WhatsApp',
        'foi rejeitado pelo WhatsApp'),
    ('label', 'status_paused', 'fue puesta en pausa por WhatsApp', 'is paused by WhatsApp',
        'foi pausado pelo WhatsApp'),
    ('label', 'status_disabled', 'fue desactivada por WhatsApp', 'is disabled by WhatsApp',
        'foi desativado pelo WhatsApp'),
    ('label', 'status_deleted', 'fue eliminada de WhatsApp', 'is deleted by WhatsApp', 'foi eliminado do WhatsApp'),
    ('refusal', 'template_status', 'La plantilla {name} ({language}) {status}{until}{why}.',
        'The template {name} ({language}) {status}{until}{why}.', 'O modelo {name} ({language}) {status}{until}{why}.'),
    ('hint', 'template_status', 'Elija otra plantilla o espere a que esta se apruebe.',
        'Choose another template, or wait until this one is approved.',
        'Escolha outro modelo ou espere que este seja aprovado.'),
    ('refusal', 'template_unsupported', 'Recado no puede enviar la plantilla {name} ({language}): contiene {parts}.',
        'Recado cannot send the template {name} ({language}): it contains {parts}.',
        'O Recado não pode enviar o modelo {name} ({language}): contém {parts}.'),
    ('hint', 'template_unsupported', 'Elija una plantilla de texto, archivo y botones.',
        'Choose a template of text, file and buttons.', 'Escolha um modelo de texto, arquivo e botões.'),
    ('refusal', 'template_parameters', 'La plantilla {name} ({language}) no se puede enviar: {fault}.',
        'The template {name} ({language}) cannot be sent: {fault}.',
        'O modelo {name} ({language}) não pode ser enviado: {fault}.'),
    ('hint', 'template_needs', 'Necesita {needs}.', 'It needs {needs}.', 'Precisa de: {needs}.'),
    ('hint', 'template_needs_nothing', 'No lleva parámetros.', 'It takes no parameters.', 'Não leva parâmetros.');

-- What is wrong with a value.
insert into private.phrases (kind, reason, es, en, pt) values
    ('fault', 'missing', 'falta {label}', '{label} is missing', 'falta {label}'),
    ('fault', 'unasked', 'no tiene {label}', '{label} is not in it', 'não tem {label}'),
    ('fault', 'not_parameters', 'sus parámetros deben ser un objeto', 'its parameters must be an object',
        'os seus parâmetros devem ser um objeto'),
    ('fault', 'text_unknown', 'todavía no se conoce su texto', 'its text is not known yet',
        'o seu texto ainda não é conhecido'),
    ('fault', 'header_long', 'el encabezado queda demasiado largo: {length} caracteres, como mucho {longest}',
        'the header becomes too long: {length} characters, at most {longest}',
        'o cabeçalho fica longo demais: {length} caracteres, no máximo {longest}'),
    ('fault', 'body_long', 'el texto queda demasiado largo: {length} caracteres, como mucho {longest}',
        'the body becomes too long: {length} characters, at most {longest}',
        'o texto fica longo demais: {length} caracteres, no máximo {longest}'),
    ('fault', 'not_place', '{label} debe ser un lugar: {"latitude", "longitude", "name", "address"}',
        '{label} must be a place: {"latitude", "longitude", "name", "address"}',
        '{label} deve ser um lugar: {"latitude", "longitude", "name", "address"}'),
    ('fault', 'not_action', '{label} debe ser un objeto: {"flow_token", "flow_action_data"}',
        '{label} must be an object: {"flow_token", "flow_action_data"}',
        '{label} deve ser um objeto: {"flow_token", "flow_action_data"}'),
    ('fault', 'not_text', '{label} debe ser un texto', '{label} must be a text', '{label} deve ser um texto'),
    ('fault', 'empty', '{label} no contiene nada', '{label} is empty', '{label} não contém nada'),
    ('fault', 'long', '{label} es demasiado largo: {length} caracteres, como mucho {longest}',
        '{label} is too long: {length} characters, at most {longest}',
        '{label} é longo demais: {length} caracteres, no máximo {longest}'),
    ('fault', 'lines',
        '{label} tiene un salto de línea, un tabulador o cinco espacios seguidos, que WhatsApp no acepta',
        '{label} has a line break, a tab or five spaces in a row, which WhatsApp refuses',
        '{label} tem uma quebra de linha, um tabulador ou cinco espaços seguidos, que o WhatsApp não aceita'),
    ('fault', 'file_missing', '{label} debe indicar un archivo: {"link": "https://…"} o {"id": …}',
        '{label} must name a file: {"link": "https://…"} or {"id": …}',
        '{label} deve indicar um arquivo: {"link": "https://…"} ou {"id": …}'),
    ('fault', 'file_keys', '{label} trae algo que no se conoce: {keys}', '{label} has an unknown key: {keys}',
        '{label} traz algo desconhecido: {keys}'),
    ('fault', 'file_not_text', '{label} trae un id, link, filename o mime que no es un texto',
        '{label} has an id, link, filename or mime that is not a text',
        '{label} traz um id, link, filename ou mime que não é um texto'),
    ('fault', 'file_link_or_id', '{label} debe traer "link" o "id", uno de los dos',
        '{label} must have "link" or "id", one of them', '{label} deve trazer "link" ou "id", um dos dois'),
    ('fault', 'file_https', '{label} debe tener un enlace que empiece por https://',
        '{label} must have a link that begins with https://', '{label} deve ter um link que comece por https://'),
    ('fault', 'file_link_long', '{label} tiene un enlace de más de 2000 caracteres',
        '{label} has a link of more than 2000 characters', '{label} tem um link de mais de 2000 caracteres'),
    ('fault', 'file_name', '{label} trae un nombre de archivo, que solo llevan los documentos',
        '{label} has a file name, which only documents have',
        '{label} traz um nome de arquivo, que só os documentos têm'),
    ('fault', 'file_name_long', '{label} tiene un nombre de archivo de más de 240 caracteres',
        '{label} has a file name of more than 240 characters',
        '{label} tem um nome de arquivo de mais de 240 caracteres'),
    ('fault', 'file_mime', '{label} es {mime}, que WhatsApp no acepta así; acepta {mimes}',
        '{label} is {mime}, which WhatsApp does not take as such; it takes {mimes}',
        '{label} é {mime}, que o WhatsApp não aceita assim; aceita {mimes}'),
    ('fault', 'file_size', '{label} tiene un tamaño que no es un número de bytes',
        '{label} has a size that is not a number of bytes', '{label} tem um tamanho que não é um número de bytes'),
    ('fault', 'file_large', '{label} es demasiado grande: {size} bytes, como mucho {most}',
        '{label} is too large: {size} bytes, at most {most}',
        '{label} é grande demais: {size} bytes, no máximo {most}'),
    ('fault', 'file_twilio_link', '{label} debe tener un enlace: Twilio no acepta otra cosa',
        '{label} must have a link: Twilio takes nothing else',
        '{label} deve ter um link: a Twilio não aceita outra coisa'),
    ('fault', 'file_no_text', '{label} no puede llevar texto', '{label} cannot have a text with it',
        '{label} não pode levar texto'),
    ('fault', 'file_twilio_text', '{label} no puede llevar texto en Twilio: envíelo como mensaje aparte',
        '{label} cannot have a text with it on Twilio: send that as its own message',
        '{label} não pode levar texto na Twilio: envie-o como mensagem à parte'),
    ('fault', 'file_text_long', '{label} lleva un texto demasiado largo: {length} caracteres, como mucho 1024',
        '{label} has too long a text: {length} characters, at most 1024',
        '{label} leva um texto longo demais: {length} caracteres, no máximo 1024');


-- sql/23_calling_codes.sql

-- Calling codes: where a customer is, as far as the first digits of their number tell.

create table public.calling_codes (
    prefix text,
    country text not null,
    timezone text not null,
    constraint calling_codes_pkey primary key (prefix),
    constraint calling_codes_prefix_check check (prefix ~ '^[1-9]\d{0,3}$'),
    constraint calling_codes_country_check check (country ~ '^[A-Z]{2}$'),
    constraint calling_codes_timezone_check check (private.is_timezone(timezone))
);
comment on table public.calling_codes is
    'Country and clock by the first digits of a number; the longest prefix wins. A country of several zones has its '
    'most populous one, except where area codes tell (United States, Canada). After the public numbering plans.';

create index calling_codes_country_idx on public.calling_codes (country);

alter table public.calling_codes enable row level security;
grant select on public.calling_codes to authenticated;
grant select, insert, update, delete on public.calling_codes to service_role;
create policy calling_codes_select_anyone on public.calling_codes for select to authenticated using (true);

insert into public.calling_codes (country, timezone, prefix)
select v.country, v.timezone, unnest(string_to_array(v.prefixes, ' '))
from (values
    ('AC', 'Atlantic/St_Helena', '247'),
    ('AD', 'Europe/Andorra', '376'),
    ('AE', 'Asia/Dubai', '971'),
    ('AF', 'Asia/Kabul', '93'),
    ('AG', 'America/Antigua', '1268'),
    ('AI', 'America/Anguilla', '1264'),
    ('AL', 'Europe/Tirane', '355'),
    ('AM', 'Asia/Yerevan', '374'),
    ('AO', 'Africa/Luanda', '244'),
    ('AR', 'America/Argentina/Buenos_Aires', '54'),
    ('AS', 'Pacific/Pago_Pago', '1684'),
    ('AT', 'Europe/Vienna', '43'),
    ('AU', 'Australia/Sydney', '61'),
    ('AW', 'America/Aruba', '297'),
    ('AZ', 'Asia/Baku', '994'),
    ('BA', 'Europe/Sarajevo', '387'),
    ('BB', 'America/Barbados', '1246'),
    ('BD', 'Asia/Dhaka', '880'),
    ('BE', 'Europe/Brussels', '32'),
    ('BF', 'Africa/Ouagadougou', '226'),
    ('BG', 'Europe/Sofia', '359'),
    ('BH', 'Asia/Bahrain', '973'),
    ('BI', 'Africa/Bujumbura', '257'),
    ('BJ', 'Africa/Porto-Novo', '229'),
    ('BM', 'Atlantic/Bermuda', '1441'),
    ('BN', 'Asia/Brunei', '673'),
    ('BO', 'America/La_Paz', '591'),
    ('BR', 'America/Sao_Paulo', '55'),
    ('BS', 'America/Nassau', '1242'),
    ('BT', 'Asia/Thimphu', '975'),
    ('BW', 'Africa/Gaborone', '267'),
    ('BY', 'Europe/Moscow', '375'),
    ('BZ', 'America/Belize', '501'),
    ('CA', 'America/Edmonton', '1368 1403 1587 1780 1825'),
    ('CA', 'America/Whitehorse', '1867'),
    ('CA', 'America/Halifax', '1428 1506 1782 1902'),
    ('CA', 'America/Regina', '1306 1639'),
    ('CA', 'America/St_Johns', '1709 1879'),
    ('CA', 'America/Toronto', '1226 1249 1263 1273 1289 1343 1354 1365 1367 1382 1416 1418 1437 1438'),
    ('CA', 'America/Toronto', '1450 1468 1514 1519 1548 1579 1581 1600 1613 1622 1633 1647 1683 1705'),
    ('CA', 'America/Toronto', '1742 1753 1807 1819 1873 1905 1942'),
    ('CA', 'America/Vancouver', '1236 1250 1257 1604 1672 1778'),
    ('CA', 'America/Winnipeg', '1204 1431 1474 1584'),
    ('CD', 'Africa/Kinshasa', '243'),
    ('CF', 'Africa/Bangui', '236'),
    ('CG', 'Africa/Brazzaville', '242'),
    ('CH', 'Europe/Zurich', '41'),
    ('CI', 'Africa/Abidjan', '225'),
    ('CK', 'Pacific/Rarotonga', '682'),
    ('CL', 'America/Santiago', '56'),
    ('CM', 'Africa/Douala', '237'),
    ('CN', 'Asia/Shanghai', '86'),
    ('CO', 'America/Bogota', '57'),
    ('CR', 'America/Costa_Rica', '506'),
    ('CU', 'America/Havana', '53'),
    ('CV', 'Atlantic/Cape_Verde', '238'),
    ('CW', 'America/Curacao', '599'),
    ('CY', 'Asia/Nicosia', '357'),
    ('CZ', 'Europe/Prague', '420'),
    ('DE', 'Europe/Berlin', '49'),
    ('DJ', 'Africa/Djibouti', '253'),
    ('DK', 'Europe/Copenhagen', '45'),
    ('DM', 'America/Dominica', '1767'),
    ('DO', 'America/Santo_Domingo', '1809 1829 1849'),
    ('DZ', 'Europe/Paris', '213'),
    ('EC', 'America/Guayaquil', '593'),
    ('EE', 'Europe/Bucharest', '372'),
    ('EG', 'Africa/Cairo', '20'),
    ('ER', 'Africa/Asmera', '291'),
    ('ES', 'Europe/Madrid', '34'),
    ('ET', 'Africa/Addis_Ababa', '251'),
    ('FI', 'Europe/Helsinki', '358'),
    ('FJ', 'Pacific/Fiji', '679'),
    ('FK', 'Atlantic/Stanley', '500'),
    ('FM', 'Pacific/Pohnpei', '691'),
    ('FO', 'Atlantic/Faeroe', '298'),
    ('FR', 'Europe/Paris', '33'),
    ('GA', 'Africa/Libreville', '241'),
    ('GB', 'Europe/London', '44'),
    ('GD', 'America/Grenada', '1473'),
    ('GE', 'Asia/Tbilisi', '995'),
    ('GF', 'America/Cayenne', '594'),
    ('GH', 'Africa/Accra', '233'),
    ('GI', 'Europe/Gibraltar', '350'),
    ('GL', 'America/Nuuk', '299'),
    ('GM', 'Africa/Banjul', '220'),
    ('GN', 'Africa/Conakry', '224'),
    ('GP', 'America/Guadeloupe', '590'),
    ('GQ', 'Africa/Malabo', '240'),
    ('GR', 'Europe/Athens', '30'),
    ('GT', 'America/Guatemala', '502'),
    ('GU', 'Pacific/Guam', '1671'),
    ('GW', 'Atlantic/Reykjavik', '245'),
    ('GY', 'America/Guyana', '592'),
    ('HK', 'Asia/Hong_Kong', '852'),
    ('HN', 'America/Tegucigalpa', '504'),
    ('HR', 'Europe/Zagreb', '385'),
    ('HT', 'America/Port-au-Prince', '509'),
    ('HU', 'Europe/Budapest', '36'),
    ('ID', 'Asia/Jakarta', '62'),
    ('IE', 'Europe/Dublin', '353'),
    ('IL', 'Asia/Jerusalem', '972'),
    ('IN', 'Asia/Calcutta', '91'),
    ('IO', 'Indian/Chagos', '246'),
    ('IQ', 'Asia/Baghdad', '964'),
    ('IR', 'Asia/Tehran', '98'),
    ('IS', 'Atlantic/Reykjavik', '354'),
    ('IT', 'Europe/Rome', '39'),
    ('JM', 'America/Jamaica', '1658 1876'),
    ('JO', 'Asia/Amman', '962'),
    ('JP', 'Asia/Tokyo', '81'),
    ('KE', 'Africa/Nairobi', '254'),
    ('KG', 'Asia/Bishkek', '996'),
    ('KH', 'Asia/Phnom_Penh', '855'),
    ('KI', 'Pacific/Tarawa', '686'),
    ('KM', 'Indian/Comoro', '269'),
    ('KN', 'America/St_Kitts', '1869'),
    ('KP', 'Asia/Seoul', '850'),
    ('KR', 'Asia/Seoul', '82'),
    ('KW', 'Asia/Kuwait', '965'),
    ('KY', 'America/Cayman', '1345'),
    ('KZ', 'Asia/Almaty', '76 77'),
    ('LA', 'Asia/Vientiane', '856'),
    ('LB', 'Asia/Beirut', '961'),
    ('LC', 'America/St_Lucia', '1758'),
    ('LI', 'Europe/Vaduz', '423'),
    ('LK', 'Asia/Colombo', '94'),
    ('LR', 'Atlantic/Reykjavik', '231'),
    ('LS', 'Africa/Maseru', '266'),
    ('LT', 'Europe/Bucharest', '370'),
    ('LU', 'Europe/Luxembourg', '352'),
    ('LV', 'Europe/Bucharest', '371'),
    ('LY', 'Europe/Bucharest', '218'),
    ('MA', 'Atlantic/Canary', '212'),
    ('MC', 'Europe/Monaco', '377'),
    ('MD', 'Europe/Chisinau', '373'),
    ('ME', 'Europe/Podgorica', '382'),
    ('MG', 'Indian/Antananarivo', '261'),
    ('MH', 'Pacific/Majuro', '692'),
    ('MK', 'Europe/Skopje', '389'),
    ('ML', 'Africa/Bamako', '223'),
    ('MM', 'Asia/Rangoon', '95'),
    ('MN', 'Asia/Ulaanbaatar', '976'),
    ('MO', 'Asia/Shanghai', '853'),
    ('MP', 'Pacific/Saipan', '1670'),
    ('MQ', 'America/Martinique', '596'),
    ('MR', 'Africa/Nouakchott', '222'),
    ('MS', 'America/Montserrat', '1664'),
    ('MT', 'Europe/Malta', '356'),
    ('MU', 'Indian/Mauritius', '230'),
    ('MV', 'Indian/Maldives', '960'),
    ('MW', 'Africa/Blantyre', '265'),
    ('MX', 'America/Mexico_City', '52'),
    ('MY', 'Asia/Kuala_Lumpur', '60'),
    ('MZ', 'Africa/Maputo', '258'),
    ('NA', 'Africa/Windhoek', '264'),
    ('NC', 'Pacific/Noumea', '687'),
    ('NE', 'Africa/Niamey', '227'),
    ('NF', 'Pacific/Norfolk', '672'),
    ('NG', 'Africa/Lagos', '234'),
    ('NI', 'America/Chicago', '505'),
    ('NL', 'Europe/Amsterdam', '31'),
    ('NO', 'Europe/Oslo', '47'),
    ('NP', 'Asia/Katmandu', '977'),
    ('NR', 'Pacific/Nauru', '674'),
    ('NU', 'Pacific/Niue', '683'),
    ('NZ', 'Pacific/Auckland', '64'),
    ('OM', 'Asia/Muscat', '968'),
    ('PA', 'America/Panama', '507'),
    ('PE', 'America/Lima', '51'),
    ('PF', 'Pacific/Tahiti', '689'),
    ('PG', 'Pacific/Port_Moresby', '675'),
    ('PH', 'Asia/Manila', '63'),
    ('PK', 'Asia/Karachi', '92'),
    ('PL', 'Europe/Warsaw', '48'),
    ('PM', 'America/Miquelon', '508'),
    ('PR', 'America/Puerto_Rico', '1787 1939'),
    ('PS', 'Asia/Gaza', '970'),
    ('PT', 'Europe/Lisbon', '351'),
    ('PW', 'Pacific/Palau', '680'),
    ('PY', 'America/Asuncion', '595'),
    ('QA', 'Asia/Qatar', '974'),
    ('RE', 'Indian/Reunion', '262'),
    ('RO', 'Europe/Bucharest', '40'),
    ('RS', 'Europe/Belgrade', '381'),
    ('RU', 'Europe/Moscow', '7'),
    ('RW', 'Africa/Kigali', '250'),
    ('SA', 'Asia/Riyadh', '966'),
    ('SB', 'Pacific/Guadalcanal', '677'),
    ('SC', 'Indian/Mahe', '248'),
    ('SD', 'Africa/Khartoum', '249'),
    ('SE', 'Europe/Stockholm', '46'),
    ('SG', 'Asia/Singapore', '65'),
    ('SH', 'Atlantic/St_Helena', '290'),
    ('SI', 'Europe/Ljubljana', '386'),
    ('SK', 'Europe/Bratislava', '421'),
    ('SL', 'Africa/Freetown', '232'),
    ('SM', 'Europe/San_Marino', '378'),
    ('SN', 'Africa/Dakar', '221'),
    ('SO', 'Africa/Mogadishu', '252'),
    ('SR', 'America/Paramaribo', '597'),
    ('SS', 'Africa/Nairobi', '211'),
    ('ST', 'Africa/Sao_Tome', '239'),
    ('SV', 'America/El_Salvador', '503'),
    ('SX', 'America/Lower_Princes', '1721'),
    ('SY', 'Asia/Damascus', '963'),
    ('SZ', 'Africa/Mbabane', '268'),
    ('TC', 'America/Grand_Turk', '1649'),
    ('TD', 'Africa/Ndjamena', '235'),
    ('TG', 'Africa/Lome', '228'),
    ('TH', 'Asia/Bangkok', '66'),
    ('TJ', 'Asia/Dushanbe', '992'),
    ('TK', 'Pacific/Fakaofo', '690'),
    ('TL', 'Asia/Dili', '670'),
    ('TM', 'Asia/Ashgabat', '993'),
    ('TN', 'Africa/Tunis', '216'),
    ('TO', 'Pacific/Tongatapu', '676'),
    ('TR', 'Europe/Istanbul', '90'),
    ('TT', 'America/Port_of_Spain', '1868'),
    ('TV', 'Pacific/Funafuti', '688'),
    ('TW', 'Asia/Taipei', '886'),
    ('TZ', 'Africa/Dar_es_Salaam', '255'),
    ('UA', 'Europe/Kyiv', '380'),
    ('UG', 'Africa/Kampala', '256'),
    ('US', 'America/Chicago', '1205 1210 1214 1217 1218 1224 1225 1228 1235 1251 1254 1256 1262 1274'),
    ('US', 'America/Chicago', '1281 1308 1309 1312 1314 1316 1318 1319 1320 1325 1327 1331 1334 1337'),
    ('US', 'America/Chicago', '1346 1353 1361 1402 1405 1409 1414 1417 1423 1430 1432 1447 1464 1469'),
    ('US', 'America/Chicago', '1479 1501 1504 1507 1512 1515 1531 1534 1539 1557 1563 1572 1573 1580'),
    ('US', 'America/Chicago', '1601 1605 1608 1612 1615 1618 1620 1629 1630 1636 1641 1651 1659 1660'),
    ('US', 'America/Chicago', '1662 1682 1701 1708 1712 1713 1715 1726 1730 1731 1737 1763 1769'),
    ('US', 'America/Chicago', '1773 1779 1785 1806 1815 1816 1817 1830 1832 1847 1870 1872 1901 1903'),
    ('US', 'America/Chicago', '1913 1918 1920 1931 1936 1938 1940 1945 1952 1956 1972 1975 1979 1985'),
    ('US', 'America/Denver', '1303 1307 1385 1406 1435 1505 1575 1719 1720 1748 1801 1915 1970 1983'),
    ('US', 'America/Juneau', '1907'),
    ('US', 'America/Los_Angeles', '1206 1208 1209 1213 1253 1279 1310 1323 1341 1350 1360 1369 1408 1415'),
    ('US', 'America/Los_Angeles', '1424 1425 1442 1458 1503 1509 1510 1530 1541 1559 1562 1564 1619 1626'),
    ('US', 'America/Los_Angeles', '1628 1650 1657 1661 1669 1702 1707 1714 1725 1738 1747 1760 1775 1805'),
    ('US', 'America/Los_Angeles', '1818 1820 1831 1840 1858 1909 1916 1925 1949 1951 1971'),
    ('US', 'America/New_York', '1'),
    ('US', 'America/Phoenix', '1480 1520 1602 1623 1928'),
    ('US', 'Pacific/Honolulu', '1808'),
    ('UY', 'America/Montevideo', '598'),
    ('UZ', 'Asia/Tashkent', '998'),
    ('VC', 'America/St_Vincent', '1784'),
    ('VE', 'America/Caracas', '58'),
    ('VG', 'America/Tortola', '1284'),
    ('VI', 'America/St_Thomas', '1340'),
    ('VN', 'Asia/Ho_Chi_Minh', '84'),
    ('VU', 'Pacific/Efate', '678'),
    ('WF', 'Pacific/Wallis', '681'),
    ('WS', 'Pacific/Apia', '685'),
    ('XK', 'Europe/Belgrade', '383'),
    ('YE', 'Asia/Aden', '967'),
    ('ZA', 'Africa/Johannesburg', '27'),
    ('ZM', 'Africa/Lusaka', '260'),
    ('ZW', 'Africa/Harare', '263')
) as v (country, timezone, prefixes);


-- sql/24_prices.sql

-- Prices: what a message costs, before and after it was sent.

-- rate_cards: list prices for everybody, dated and sourced. The longest prefix of the customer's number wins.
create table public.rate_cards (
    phone_prefix text,
    category text,
    valid_from date,
    market text not null,
    amount numeric(12, 6) not null,
    currency text not null,
    source text not null,
    is_verified boolean not null default false,
    constraint rate_cards_pkey primary key (phone_prefix, category, valid_from),
    constraint rate_cards_phone_prefix_check check (phone_prefix ~ '^\d{0,6}$'),
    constraint rate_cards_category_check check (category in (
        'service', 'utility', 'marketing', 'authentication', 'twilio_fee')),
    constraint rate_cards_amount_check check (amount >= 0),
    constraint rate_cards_currency_check check (currency ~ '^[A-Z]{3}$')
);
comment on table public.rate_cards is
    'What a delivered message costs, by market and date; the ground of every estimate.';
comment on column public.rate_cards.category is 'As the provider''s pricing object has it; twilio_fee comes on top.';
comment on column public.rate_cards.valid_from is 'By the number''s calendar: Meta''s prices change by the account''s.';
comment on column public.rate_cards.phone_prefix is 'First digits of the customer''s number; empty: any other market.';
comment on column public.rate_cards.is_verified is
    'False until somebody compared it with the provider''s own price list.';

alter table public.rate_cards enable row level security;
grant select on public.rate_cards to authenticated;
grant select, insert, update, delete on public.rate_cards to service_role;
create policy rate_cards_select_anyone on public.rate_cards for select to authenticated using (true);

insert into public.rate_cards (phone_prefix, market, category, valid_from, amount, currency, source) values
    ('', 'Rest of Latin America', 'marketing', '2025-07-01', 0.0740, 'USD',
        'Meta price list, July 2025; stands in for every market that has no rows of its own'),
    ('', 'Rest of Latin America', 'utility', '2025-07-01', 0.0113, 'USD',
        'Meta price list, July 2025, without volume tiers; stands in for every market that has no rows of its own'),
    ('', 'Rest of Latin America', 'authentication', '2025-07-01', 0.0113, 'USD',
        'Taken to be as utility, which Meta''s rule for service prices suggests; not on any list we have seen'),
    ('', 'Rest of Latin America', 'service', '2025-07-01', 0, 'USD', 'Meta pricing, July 2025: free in the window'),
    ('', 'Rest of Latin America', 'service', '2026-10-01', 0.0113, 'USD',
        'Meta pricing, October 2026: as utility, without tiers; the amount is that of July 2025'),
    ('', 'Everywhere', 'twilio_fee', '2025-07-01', 0.0050, 'USD',
        'Twilio''s fee per message, on top of Meta''s price; from memory, not from a price list');

-- The price of one message on a day of the number's calendar. No number known: the rate of any other market. No row
-- when nobody has told the price.
create function private.price_of(p_phone text, p_category text, p_on date)
returns table (amount numeric, currency text, is_verified boolean)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select r.amount, r.currency, r.is_verified
    from public.rate_cards r
    where r.category = p_category
        and r.phone_prefix = any (array(select left(coalesce(p_phone, ''), n) from generate_series(0, 6) as n))
        and r.valid_from <= p_on
    order by length(r.phone_prefix) desc, r.valid_from desc
    limit 1;
end
$$;
grant execute on function private.price_of(text, text, date) to authenticated, service_role;

-- A category of a pricing object, as rate_cards has it.
create function private.price_category(p_category text) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case p_category
        when 'marketing_lite' then 'marketing'
        when 'authentication_international' then 'authentication'
        when 'authentication-international' then 'authentication'
        else regexp_replace(p_category, '^group_', '')
    end;
end
$$;
grant execute on function private.price_category(text) to authenticated, service_role;

-- What a delivered message costs, by what the provider said of its price: nothing unless its type is regular, else the
-- list price of the day it was written (Meta's volume tiers, which only make it cheaper, are not known to us). Null
-- where the provider said nothing, or nobody has told the price.
create function private.message_cost(p_tenant_id uuid, p_message_id uuid, p_pricing jsonb)
returns table (amount numeric, currency text)
language plpgsql stable rows 1 set search_path = '' as $$
declare
    v_is_charged boolean := coalesce(p_pricing ->> 'type' = 'regular', (p_pricing ->> 'billable')::boolean, false);
    v_category text := private.price_category(p_pricing ->> 'category');
begin
    return query
    select case when v_is_charged then r.amount else 0 end, r.currency
    from public.messages m
    join public.customer_leads l on l.tenant_id = m.tenant_id and l.id = m.lead_id
    join public.whatsapp_numbers n on n.tenant_id = m.tenant_id and n.id = m.number_id
    left join lateral private.price_of(l.phone, v_category, (m.provider_at at time zone n.timezone)::date) r on true
    where m.tenant_id = p_tenant_id and m.id = p_message_id and p_pricing is not null;
end
$$;
grant execute on function private.message_cost(uuid, uuid, jsonb) to service_role;


-- sql/25_channel_tokens.sql

-- Tokens of channels: how a worker that is about to call a provider gets them. They go nowhere else.

-- Access tokens of [{"tenant_id", "number_id"}, …]: [{"tenant_id", "number_id", "token"}, …]. A number without one
-- is left out. Not for people: only the secret key may ask.
create function public.channel_tokens(p_numbers jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'tenant_id', s.tenant_id, 'number_id', s.number_id, 'token', v.decrypted_secret)), '[]')
        from jsonb_to_recordset(p_numbers) as n (tenant_id uuid, number_id uuid)
        join public.channel_secrets s on s.tenant_id = n.tenant_id and s.number_id = n.number_id
        join vault.decrypted_secrets v on v.id = s.secret_id
        where s.kind = 'access_token');
end
$$;
grant execute on function public.channel_tokens(jsonb) to service_role;

-- What a delivery to /<provider>/<our id of the number> is checked with: {"tenant_id", "provider",
-- "provider_number_id", "account_id", "secrets": […]}; null when there is no such active number. Whapi: the secrets
-- of its header; Twilio: the account's auth tokens, and its key for the newer signature. For memory only.
create function public.channel_webhook_keys(p_number_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'tenant_id', n.tenant_id, 'provider', n.provider, 'provider_number_id', n.provider_number_id,
            'account_id', n.account_id, 'secrets', (
                select coalesce(jsonb_agg(v.decrypted_secret), '[]')
                from public.channel_secrets s
                join vault.decrypted_secrets v on v.id = s.secret_id
                where s.tenant_id = n.tenant_id and s.number_id = n.id
                    and (s.kind = 'webhook_secret' or n.provider = 'twilio' and s.kind = 'access_token')))
        from public.whatsapp_numbers n
        where n.id = p_number_id and n.is_active);
end
$$;
grant execute on function public.channel_webhook_keys(uuid) to service_role;


-- sql/26_connecting.sql

-- Connecting: how a number becomes a business's own, and how it stops being it. Whoever calls channel_connect has
-- proven with the token that the number is theirs; here it is decided whether they may have it.

-- The business of a member of staff who may connect numbers; its numbers are then nobody else's to change.
create function private.connecting_tenant(p_admin_id uuid) returns uuid
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid;
begin
    select tenant_id into v_tenant_id from public.users where id = p_admin_id and is_active and role = 'admin';
    if not found then
        perform private.refuse(
            'PT403', 'not_admin', p_locale => (select u.locale from public.users u where u.id = p_admin_id));
    end if;
    perform from public.users where id = v_tenant_id for no key update;
    return v_tenant_id;
end
$$;

-- Put a secret into Vault, or in the place of the one that is there.
create function private.channel_secret_put(
    p_tenant_id uuid, p_number_id uuid, p_kind text, p_secret text,
    p_issued_at timestamptz default null, p_expires_at timestamptz default null
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.channel_secrets as s (
        tenant_id, number_id, kind, secret_id, issued_at, expires_at, checked_at)
    values (p_tenant_id, p_number_id, p_kind, vault.create_secret(p_secret, null, p_kind || ' ' || p_number_id),
        p_issued_at, p_expires_at, private.clock())
    on conflict on constraint channel_secrets_pkey do update
    set secret_id = excluded.secret_id, issued_at = excluded.issued_at, expires_at = excluded.expires_at,
        checked_at = excluded.checked_at, claim = null, lease_until = null;
end
$$;

-- The number's row, active: its own of earlier, else a new one. Null when it is active for somebody else.
create function private.number_take(p_tenant_id uuid, p_number jsonb) returns uuid
language plpgsql set search_path = '' as $$
declare
    v public.whatsapp_numbers := jsonb_populate_record(null::public.whatsapp_numbers, p_number);
    v_id uuid;
begin
    update public.whatsapp_numbers n
    set phone_number = v.phone_number, waba_id = v.waba_id, account_id = v.account_id, is_active = true,
        quality_rating = v.quality_rating, messaging_limit = v.messaging_limit, is_coexistence = v.is_coexistence,
        rate_per_second = case when v.is_coexistence then 20 else n.rate_per_second end,
        connected_at = private.clock()
    where n.tenant_id = p_tenant_id and n.id = (
        select o.id from public.whatsapp_numbers o
        where o.tenant_id = p_tenant_id and o.provider = v.provider and o.provider_number_id = v.provider_number_id
        order by o.is_active desc, o.updated_at desc limit 1)
    returning n.id into v_id;
    if not found then
        insert into public.whatsapp_numbers (
            tenant_id, provider, phone_number, provider_number_id, waba_id, account_id, display_name, quality_rating,
            messaging_limit, is_coexistence, rate_per_second, timezone, connected_at, is_primary)
        select p_tenant_id, v.provider, v.phone_number, v.provider_number_id, v.waba_id, v.account_id,
            coalesce(left(nullif(btrim(v.display_name), ''), 200), '+' || v.phone_number), v.quality_rating,
            v.messaging_limit, v.is_coexistence, case v.provider when 'whapi' then 1 else 20 end, u.timezone,
            private.clock(), not exists (
                select from public.whatsapp_numbers o where o.tenant_id = p_tenant_id and o.is_primary)
        from public.users u where u.id = p_tenant_id
        returning id into v_id;
    end if;
    return v_id;
exception when unique_violation then
    return null;
end
$$;

-- Its messages may go out again, and whatever was wrong with it is over.
create function private.channel_mend(p_tenant_id uuid, p_number_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.number_pacing as p (tenant_id, number_id) values (p_tenant_id, p_number_id)
    on conflict on constraint number_pacing_pkey do update set paused_until = null, pause_reason = null;
    perform private.alert_end(p_tenant_id, kind, p_number_id::text)
    from unnest(array['channel_stopped', 'token_refresh_failed']) as kind;
    perform private.wake('deliver');
end
$$;

-- Nothing of the number goes out until somebody mends it. One alert, however often it is found.
create function private.channel_stop(p_tenant_id uuid, p_number_id uuid, p_message text, p_details jsonb default '{}')
returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.number_pacing as p (tenant_id, number_id, paused_until, pause_reason)
    values (p_tenant_id, p_number_id, 'infinity', 'stop_channel')
    on conflict on constraint number_pacing_pkey do update
    set paused_until = excluded.paused_until, pause_reason = excluded.pause_reason;
    perform private.alert_raise(p_tenant_id, 'channel_stopped', p_number_id::text, p_message,
        p_number_id => p_number_id, p_severity => 'critical', p_details => p_details);
end
$$;

-- Connect a number, or connect it anew: the new token takes the place of the old one, and a stopped channel goes on.
-- p_number: {"provider", "phone_number", "provider_number_id", "waba_id"?, "account_id"?, "display_name",
-- "quality_rating"?, "messaging_limit"?, "is_coexistence"}; p_admin_id: the admin who does it. Answers
-- {"number_id", "needs_sync": the Business app was never asked for its history, "webhook_secret": Whapi only}.
-- Refuses with PT402 over the plan, PT409 when the number is active elsewhere. The same call again changes nothing.
create function public.channel_connect(
    p_admin_id uuid, p_number jsonb, p_token text,
    p_issued_at timestamptz default null, p_expires_at timestamptz default null
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.connecting_tenant(p_admin_id);
    v_number_id uuid := private.number_take(v_tenant_id, p_number || jsonb_build_object(
        'is_coexistence', coalesce(p_number -> 'is_coexistence', 'false')));
begin
    if v_number_id is null then
        perform private.refuse(
            'PT409', 'number_taken', p_locale => (select u.locale from public.users u where u.id = p_admin_id));
    end if;
    delete from public.channel_secrets
    where tenant_id = v_tenant_id and number_id = v_number_id and kind in ('next_token', 'old_token');
    perform private.channel_secret_put(v_tenant_id, v_number_id, 'access_token', p_token, p_issued_at, p_expires_at);
    -- one that is in use stays: deliveries under way carry it
    perform private.channel_secret_put(v_tenant_id, v_number_id, 'webhook_secret', private.secret_make())
    where p_number ->> 'provider' = 'whapi' and not exists (
        select from public.channel_secrets s
        where s.tenant_id = v_tenant_id and s.number_id = v_number_id and s.kind = 'webhook_secret');
    perform private.channel_mend(v_tenant_id, v_number_id);
    return jsonb_build_object(
        'number_id', v_number_id,
        'needs_sync', (
            select n.is_coexistence and n.app_synced_at is null from public.whatsapp_numbers n
            where n.tenant_id = v_tenant_id and n.id = v_number_id),
        'webhook_secret', (
            select v.decrypted_secret
            from public.channel_secrets s
            join vault.decrypted_secrets v on v.id = s.secret_id
            where s.tenant_id = v_tenant_id and s.number_id = v_number_id and s.kind = 'webhook_secret'));
end
$$;

-- 64 hexadecimal digits nobody can guess: the random bits of two uuids are 244.
create function private.secret_make() returns text
language sql volatile set search_path = '' as $$
    select encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'utf8')), 'hex')
$$;

-- What came of telling the provider where to deliver: its address, or the problem (then somebody should look).
-- p_synced: the Business app was asked for its contacts and history.
create function public.channel_setup_settle(
    p_admin_id uuid, p_number_id uuid, p_webhook_url text default null, p_problem text default null,
    p_synced boolean default false
) returns void
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.connecting_tenant(p_admin_id);
begin
    update public.whatsapp_numbers
    set webhook_url = coalesce(p_webhook_url, webhook_url),
        app_synced_at = case when p_synced then coalesce(app_synced_at, private.clock()) else app_synced_at end
    where tenant_id = v_tenant_id and id = p_number_id;
    if p_problem is not null then
        perform private.alert_raise(v_tenant_id, 'channel_setup', p_number_id::text, p_problem,
            p_number_id => p_number_id);
    else
        perform private.alert_end(v_tenant_id, 'channel_setup', p_number_id::text);
    end if;
end
$$;
grant execute on function
    private.connecting_tenant(uuid), private.number_take(uuid, jsonb), private.secret_make(),
    private.channel_secret_put(uuid, uuid, text, text, timestamptz, timestamptz),
    private.channel_mend(uuid, uuid), private.channel_stop(uuid, uuid, text, jsonb),
    public.channel_connect(uuid, jsonb, text, timestamptz, timestamptz),
    public.channel_setup_settle(uuid, uuid, text, text, boolean)
    to service_role;

-- The caller's number, locked.
create function private.number_lock(p_number_id uuid) returns public.whatsapp_numbers
language plpgsql set search_path = '' as $$
declare
    v_number public.whatsapp_numbers;
    v_tenant_id uuid := private.require_admin();
begin
    select * into v_number from public.whatsapp_numbers
    where tenant_id = v_tenant_id and id = p_number_id
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_number');
    end if;
    return v_number;
end
$$;

-- Definer: people may write neither numbers nor secrets.
create function private.number_disconnect(p_number_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_number public.whatsapp_numbers := private.number_lock(p_number_id);
begin
    update public.whatsapp_numbers set is_active = false, is_primary = false, webhook_url = null
    where tenant_id = v_number.tenant_id and id = v_number.id;
    delete from public.channel_secrets where tenant_id = v_number.tenant_id and number_id = v_number.id;
    insert into public.number_pacing as p (tenant_id, number_id, paused_until, pause_reason)
    values (v_number.tenant_id, v_number.id, 'infinity', 'disconnected')
    on conflict on constraint number_pacing_pkey do update
    set paused_until = excluded.paused_until, pause_reason = excluded.pause_reason;
    perform private.alert_end(v_number.tenant_id, kind, v_number.id::text)
    from unnest(array['channel_stopped', 'channel_setup', 'token_refresh_failed']) as kind;
end
$$;

-- Definer: people may not write pacing.
create function private.number_resume(p_number_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_number public.whatsapp_numbers := private.number_lock(p_number_id);
begin
    if not v_number.is_active then
        perform private.refuse('PT409', 'number_disconnected');
    end if;
    perform private.channel_mend(v_number.tenant_id, v_number.id);
end
$$;
grant execute on function private.number_disconnect(uuid), private.number_resume(uuid) to authenticated;

-- Give a number up: its tokens are forgotten, nothing is sent or received any more, what it said stays. Another
-- business may connect it then; connecting it here again goes on where it ended.
create function public.number_disconnect(p_number_id uuid) returns void
language sql set search_path = '' as $$
    select private.number_disconnect(p_number_id)
$$;

-- A stopped number goes on with the token it has: for what was mended at the provider (a payment, a restriction).
create function public.number_resume(p_number_id uuid) returns void
language sql set search_path = '' as $$
    select private.number_resume(p_number_id)
$$;
grant execute on function public.number_disconnect(uuid), public.number_resume(uuid) to authenticated;


-- sql/27_token_checks.sql

-- Token checks: refresh_tokens takes the numbers of Meta in hand, one by one, and tells what it found. A token goes
-- through here in steps, each a transaction of its own, so that a run may die after any of them: the new token is
-- kept beside the old one (offer), takes its place when it is proven (adopt), and the old one is revoked later, when
-- no worker remembers it any more (drop).

-- Take numbers nobody has looked at since p_since (null: since now), for p_lease_seconds: {"claim", "now",
-- "numbers": [{"tenant_id", "number_id", "provider_number_id", "waba_id", "issued_at", "expires_at", "token",
-- "next_token"?: from a run that died, "old_token"?: may be revoked now}]}. For memory only.
create function public.token_checks_claim(
    p_since timestamptz default null, p_limit int default 20, p_lease_seconds int default 120
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_claim uuid := private.uuid7();
    v_now timestamptz := private.clock();
    v_numbers jsonb;
begin
    with due as materialized (
        select s.tenant_id, s.number_id
        from public.channel_secrets s
        join public.whatsapp_numbers n on n.tenant_id = s.tenant_id and n.id = s.number_id
        where s.kind = 'access_token' and n.provider = 'cloud_api' and n.is_active
            and coalesce(s.checked_at < coalesce(p_since, v_now), true)
            and coalesce(s.lease_until < clock_timestamp(), true)
        order by s.checked_at nulls first, s.tenant_id, s.number_id
        limit p_limit
        for update of s skip locked
    ),
    taken as (
        update public.channel_secrets s
        set claim = v_claim, checked_at = v_now,
            lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from due
        where s.tenant_id = due.tenant_id and s.number_id = due.number_id and s.kind = 'access_token'
        returning s.tenant_id, s.number_id, s.issued_at, s.expires_at
    )
    select jsonb_agg(to_jsonb(t) || jsonb_build_object(
        'provider_number_id', n.provider_number_id, 'waba_id', n.waba_id) || (
            select jsonb_object_agg(replace(s.kind, 'access_token', 'token'), v.decrypted_secret)
            from public.channel_secrets s
            join vault.decrypted_secrets v on v.id = s.secret_id
            where s.tenant_id = t.tenant_id and s.number_id = t.number_id
                and (s.kind in ('access_token', 'next_token')
                    or s.kind = 'old_token' and s.replaced_at <= v_now - interval '10 minutes')))
    into v_numbers
    from taken t
    join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id;
    return jsonb_build_object('claim', v_claim, 'now', v_now, 'numbers', coalesce(v_numbers, '[]'));
end
$$;

-- Is the number still in the hands of this claim? Then until the end of the transaction.
create function private.token_check_is_mine(p_tenant_id uuid, p_number_id uuid, p_claim uuid) returns boolean
language plpgsql set search_path = '' as $$
begin
    perform from public.channel_secrets
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'access_token' and claim = p_claim
        and lease_until > clock_timestamp()
    for update;
    return found;
end
$$;

-- Keep a token that was just issued, beside the one in use. False: somebody else has the number in hand by now, or it
-- was connected with another token; then forget the new one.
create function public.token_offer(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_token text, p_expires_at timestamptz
) returns boolean
language plpgsql set search_path = '' as $$
begin
    if not private.token_check_is_mine(p_tenant_id, p_number_id, p_claim) then
        return false;
    end if;
    perform private.channel_secret_put(
        p_tenant_id, p_number_id, 'next_token', p_token, private.clock(), p_expires_at);
    return true;
end
$$;

-- The offered token was proven: it is the one in use from now on. Workers that remember the old one may go on with
-- it for some minutes.
create function public.token_adopt(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_issued_at timestamptz, p_expires_at timestamptz
) returns boolean
language plpgsql set search_path = '' as $$
begin
    if not private.token_check_is_mine(p_tenant_id, p_number_id, p_claim) then
        return false;
    end if;
    delete from public.channel_secrets
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'old_token';
    update public.channel_secrets set kind = 'old_token', replaced_at = private.clock(), claim = null
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'access_token';
    update public.channel_secrets
    set kind = 'access_token', issued_at = p_issued_at, expires_at = p_expires_at, claim = p_claim,
        lease_until = clock_timestamp() + interval '1 minute'
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'next_token';
    if not found then
        raise exception using errcode = 'PT409', message = 'No token was offered for this number.',
            hint = 'Call token_offer first.';
    end if;
    return true;
end
$$;

-- Forget a token that is of no use: an old_token that is revoked, a next_token that does not work.
create function public.token_drop(p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_kind text) returns boolean
language plpgsql set search_path = '' as $$
begin
    if p_kind is null or p_kind not in ('old_token', 'next_token') then
        raise exception using errcode = 'PT400', message = format('A token of kind %L is not dropped.', p_kind),
            hint = 'Choose old_token or next_token.';
    end if;
    delete from public.channel_secrets
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = p_kind
        and private.token_check_is_mine(p_tenant_id, p_number_id, p_claim);
    return found;
end
$$;

-- How the check of a number ended. p_result: good (the alert about it is over) | failed (it works, but was not checked
-- or replaced: an alert, critical in the last three days) | dead (Meta takes it no more: the channel stops).
create function public.token_check_settle(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_result text, p_problem text default null,
    p_issued_at timestamptz default null, p_expires_at timestamptz default null
) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_expires_at timestamptz;
begin
    if not private.token_check_is_mine(p_tenant_id, p_number_id, p_claim) then
        return false;
    end if;
    update public.channel_secrets
    set claim = null, lease_until = null,
        issued_at = case p_result when 'good' then coalesce(p_issued_at, issued_at) else issued_at end,
        expires_at = case p_result when 'good' then p_expires_at else expires_at end
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'access_token'
    returning expires_at into v_expires_at;
    if p_result = 'failed' then
        perform private.alert_raise(p_tenant_id, 'token_refresh_failed', p_number_id::text, p_problem,
            p_number_id => p_number_id, p_details => jsonb_build_object('expires_at', v_expires_at),
            p_severity => case when v_expires_at < private.clock() + interval '3 days' then 'critical' else 'warning' end);
        return true;
    end if;
    perform private.alert_end(p_tenant_id, 'token_refresh_failed', p_number_id::text);
    if p_result = 'dead' then
        perform private.channel_stop(p_tenant_id, p_number_id, p_problem, '{"code": 190}');
    end if;
    return true;
end
$$;
grant execute on function
    public.token_checks_claim(timestamptz, int, int), private.token_check_is_mine(uuid, uuid, uuid),
    public.token_offer(uuid, uuid, uuid, text, timestamptz),
    public.token_adopt(uuid, uuid, uuid, timestamptz, timestamptz), public.token_drop(uuid, uuid, uuid, text),
    public.token_check_settle(uuid, uuid, uuid, text, text, timestamptz, timestamptz)
    to service_role;


-- sql/30_leads.sql

-- Leads: the customers of a business, and the addresses by which we recognise them.

-- Words to compare: no accents, no capitals, one blank where anything but a letter or digit was. The classes are
-- spelt out, because [[:alnum:]] depends on the database's locale.
create function private.fold(p_text text) returns text
language sql immutable parallel safe set search_path = '' as $$
    select btrim(regexp_replace(
        lower(regexp_replace(normalize(p_text, nfkd), '[\u0300-\u036f]', '', 'g')),
        '[\s\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u2000-\u206f\u3000-\u303f\ufe00-\ufe0f]+', ' ', 'g'))
$$;
grant execute on function private.fold(text) to authenticated, service_role;

create table public.customer_leads (
    tenant_id uuid,
    id uuid default private.uuid7(),
    phone text,
    chat_id text,
    name text,
    name_source text,
    named_at timestamptz,
    user_name text,
    label1 text,
    label2 text,
    label3 text,
    email text,
    company text,
    customer_type text,
    business_category text,
    tags text[] not null default '{}',
    lead_status text not null default 'new',
    lead_grade text not null default 'C',
    qualification_score int not null default 0,
    assigned_to uuid,
    last_activity timestamptz,
    thread_id uuid,
    thread_token_count bigint not null default 0,
    profile_status text,
    next_action text,
    next_action_at timestamptz,
    priority smallint not null default 2,
    timezone text,
    opted_out_at timestamptz,
    opt_out_scope text,
    metadata jsonb not null default '{}',
    is_active boolean not null default true,
    merged_into uuid,
    merged_at timestamptz,
    merged_by uuid,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint customer_leads_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint customer_leads_assigned_to_fkey foreign key (tenant_id, assigned_to)
        references public.users (tenant_id, id),
    constraint customer_leads_merged_by_fkey foreign key (tenant_id, merged_by) references public.users (tenant_id, id),
    constraint customer_leads_phone_check check (phone ~ '^[1-9]\d{7,14}$'),
    constraint customer_leads_name_source_check check (name_source in ('profile', 'contacts')),
    constraint customer_leads_timezone_check check (private.is_timezone(timezone)),
    constraint customer_leads_priority_check check (priority between 1 and 5),
    constraint customer_leads_qualification_score_check check (qualification_score between 0 and 100),
    constraint customer_leads_opt_out_check check (
        (opted_out_at is null) = (opt_out_scope is null) and opt_out_scope in ('all', 'marketing'))
) with (fillfactor = 80);
comment on table public.customer_leads is 'The customers of a business, whether or not they ever bought.';
comment on column public.customer_leads.phone is
    'pii: the first phone known, digits without +; it never changes: current addresses are in lead_identities.';
comment on column public.customer_leads.chat_id is 'pii: the provider''s first id of the chat; set once.';
comment on column public.customer_leads.name is
    'pii: of the customer''s first profile, else of the phone''s address book, until staff write another.';
comment on column public.customer_leads.name_source is 'Where the name is from; null: from staff, or there is none.';
comment on column public.customer_leads.named_at is
    'When that was said: of two profiles the earlier gives the name, of two entries of the address book the later.';
comment on column public.customer_leads.user_name is
    'pii: username or profile name as of the last webhook that had one.';
comment on column public.customer_leads.label1 is 'pii: label of the provider''s chat list, as the staff gave it';
comment on column public.customer_leads.label2 is 'pii: see label1';
comment on column public.customer_leads.label3 is 'pii: see label1';
comment on column public.customer_leads.tags is 'pii: the business''s own words for the customer';
comment on column public.customer_leads.profile_status is
    'pii: what became of the customer; one of tenant_settings.crm_statuses.';
comment on column public.customer_leads.email is 'pii: e-mail';
comment on column public.customer_leads.company is 'pii: company';
comment on column public.customer_leads.next_action is 'pii: may quote the customer';
comment on column public.customer_leads.metadata is 'pii: whatever the business keeps about the customer';
comment on column public.customer_leads.last_activity is 'Written once per quiet period, by activity_flush().';
comment on column public.customer_leads.thread_id is 'The AI thread used last, in whichever chat.';
comment on column public.customer_leads.thread_token_count is 'Tokens of every AI run for this customer; never reset.';
comment on column public.customer_leads.merged_into is
    'The lead that this one turned out to be; whatever referred to it now refers there.';
comment on column public.customer_leads.timezone is
    'The customer''s clock, where the business knows better than the country of the number; see calling_codes.';
comment on column public.customer_leads.opted_out_at is
    'Since when the customer has refused; this and opt_out_scope are what consent_events come to, in order of time.';
comment on column public.customer_leads.opt_out_scope is 'What the customer refuses: all messages, or marketing.';

create index customer_leads_tenant_id_phone_idx on public.customer_leads (tenant_id, phone);
create index customer_leads_tenant_id_assigned_to_idx
    on public.customer_leads (tenant_id, assigned_to) where assigned_to is not null;
create index customer_leads_tenant_id_thread_id_idx
    on public.customer_leads (tenant_id, thread_id) where thread_id is not null;
create index customer_leads_tenant_id_merged_into_idx
    on public.customer_leads (tenant_id, merged_into) where merged_into is not null;
create index customer_leads_tenant_id_merged_by_idx
    on public.customer_leads (tenant_id, merged_by) where merged_by is not null;
-- After the indexes: while there are no statistics the planner finds them as good for an id, and takes the youngest.
alter table public.customer_leads add constraint customer_leads_pkey primary key (tenant_id, id);
alter table public.customer_leads add constraint customer_leads_merged_into_fkey
    foreign key (tenant_id, merged_into) references public.customer_leads (tenant_id, id);

-- A name that comes without its time is the staff's, and stays.
create function private.lead_named_by_staff() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.name_source := null;
    new.named_at := null;
    return new;
end
$$;
create trigger customer_leads_named_by_staff before update of name on public.customer_leads
    for each row when (new.name is distinct from old.name and new.named_at is not distinct from old.named_at)
    execute function private.lead_named_by_staff();
create trigger customer_leads_touch_updated_at before update on public.customer_leads
    for each row execute function private.touch_updated_at();

alter table public.customer_leads enable row level security;
grant select, update (name, label1, label2, label3, email, company, customer_type, business_category, tags,
    lead_status, lead_grade, qualification_score, assigned_to, profile_status, next_action, next_action_at, priority,
    timezone, metadata, is_active) on public.customer_leads to authenticated;
grant select, insert, update, delete on public.customer_leads to service_role;
create policy customer_leads_select_member on public.customer_leads for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy customer_leads_update_user on public.customer_leads for update to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) in ('admin', 'user'))
    with check (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) in ('admin', 'user'));

-- lead_identities: one address for one span of time. valid_to is infinity while it holds, so the primary key both
-- finds a customer and makes sure that an address leads to one customer only.
create table public.lead_identities (
    tenant_id uuid,
    kind text,
    scope text,
    value text,
    valid_to timestamptz default 'infinity',
    valid_from timestamptz not null,
    lead_id uuid not null,
    constraint lead_identities_pkey primary key (tenant_id, kind, scope, value, valid_to),
    constraint lead_identities_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint lead_identities_kind_check check (
        kind in ('phone', 'mobile', 'bsuid', 'parent_bsuid', 'chat_id', 'username')),
    constraint lead_identities_value_check check (value <> '' and length(value) <= 256)
);
comment on table public.lead_identities is 'Addresses of a lead, with the time for which they held.';
comment on column public.lead_identities.value is 'pii: phone, business-scoped user id, provider chat id or username';
comment on column public.lead_identities.scope is
    'Where the value means something: the portfolio of a business-scoped user id, the provider of a chat id.';

comment on column public.lead_identities.kind is
    'mobile: the one form of a mobile number that its country writes in two; see private.mobile_key().';
comment on column public.lead_identities.valid_from is 'The first time it was seen, whoever had it then.';

create index lead_identities_tenant_id_lead_id_idx on public.lead_identities (tenant_id, lead_id);

alter table public.lead_identities enable row level security;
grant select on public.lead_identities to authenticated;
grant select, insert, update, delete on public.lead_identities to service_role;
create policy lead_identities_select_member on public.lead_identities for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- address_book: what the phone of a number calls people. Nobody becomes a lead by being in it.
create table public.address_book (
    tenant_id uuid,
    kind text,
    scope text,
    value text,
    name text,
    changed_at timestamptz not null,
    constraint address_book_pkey primary key (tenant_id, kind, scope, value),
    constraint address_book_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
comment on table public.address_book is
    'Entries of the address books of the business''s phones, for the names of leads that have none.';
comment on column public.address_book.value is 'pii: as in lead_identities';
comment on column public.address_book.name is 'pii: the business''s name for the person; null: the entry was removed.';
comment on column public.address_book.changed_at is 'By the phone; an older change does not undo a newer one.';

alter table public.address_book enable row level security;
grant select on public.address_book to authenticated;
grant select, insert, update, delete on public.address_book to service_role;
create policy address_book_select_member on public.address_book for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- lead_merge_candidates: two leads that may be one person; a person decides.
create table public.lead_merge_candidates (
    tenant_id uuid,
    lead_id uuid,
    other_lead_id uuid,
    reason text not null,
    evidence jsonb not null default '{}',
    status text not null default 'open',
    created_at timestamptz not null default now(),
    resolved_at timestamptz,
    resolved_by uuid,
    constraint lead_merge_candidates_pkey primary key (tenant_id, lead_id, other_lead_id),
    constraint lead_merge_candidates_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint lead_merge_candidates_other_lead_id_fkey foreign key (tenant_id, other_lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint lead_merge_candidates_resolved_by_fkey foreign key (tenant_id, resolved_by)
        references public.users (tenant_id, id),
    -- a pair is written one way only
    constraint lead_merge_candidates_other_lead_id_check check (lead_id < other_lead_id),
    constraint lead_merge_candidates_status_check check (status in ('open', 'merged', 'dismissed'))
);
comment on table public.lead_merge_candidates is 'Pairs of leads whose addresses contradict each other.';
comment on column public.lead_merge_candidates.evidence is 'pii: the addresses that met';

create index lead_merge_candidates_tenant_id_other_lead_id_idx
    on public.lead_merge_candidates (tenant_id, other_lead_id);
create index lead_merge_candidates_tenant_id_resolved_by_idx
    on public.lead_merge_candidates (tenant_id, resolved_by) where resolved_by is not null;

alter table public.lead_merge_candidates enable row level security;
grant select on public.lead_merge_candidates to authenticated;
grant select, insert, update, delete on public.lead_merge_candidates to service_role;
create policy lead_merge_candidates_select_member on public.lead_merge_candidates for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- consent_events: every opt-out and opt-in ever said; customer_leads holds the result.
create table public.consent_events (
    tenant_id uuid,
    id uuid default private.uuid7(),
    lead_id uuid not null,
    kind text not null,
    scope text not null,
    source text not null,
    evidence text,
    happened_at timestamptz not null,
    created_at timestamptz not null default now(),
    constraint consent_events_pkey primary key (tenant_id, id),
    -- said once, however often it is delivered
    constraint consent_events_said_once_key unique (tenant_id, lead_id, source, kind, scope, happened_at),
    constraint consent_events_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint consent_events_kind_check check (kind in ('opt_out', 'opt_in')),
    constraint consent_events_scope_check check (scope in ('all', 'marketing')),
    constraint consent_events_source_check check (source in ('keyword', 'provider', 'staff', 'merge'))
);
comment on table public.consent_events is 'Opt-outs and opt-ins in the order they were said; only ever added to.';
comment on column public.consent_events.evidence is 'pii: the customer''s own words';

alter table public.consent_events enable row level security;
grant select on public.consent_events to authenticated;
grant select, insert on public.consent_events to service_role;
create policy consent_events_select_member on public.consent_events for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The names by which the source systems' front ends know a customer.
create view public.client_view with (security_invoker = true) as
select
    phone as phone_number, name, user_name, label1, label2, label3, chat_id, last_activity, thread_id,
    thread_token_count, profile_status,
    next_action as proxima_accion, next_action_at as fecha_proxima_accion, priority as prioridad
from public.customer_leads
where is_active;
comment on view public.client_view is 'customer_leads under the names of ClientView, for front ends that know those.';
grant select on public.client_view to authenticated, service_role;


-- sql/40_conversations.sql

-- Conversations: chats (a lead on a number, for ever), their sessions, and every message in them.
-- Whoever changes a chat's conversations locks the chat first; several chats in the order of their ids.

create table public.chats (
    tenant_id uuid,
    id uuid default private.uuid7(),
    lead_id uuid not null,
    number_id uuid not null,
    last_inbound_at timestamptz,
    last_outbound_at timestamptz,
    last_interaction_at timestamptz not null,
    window_expires_at timestamptz,
    free_entry_until timestamptz,
    free_entry_reply_by timestamptz,
    is_free_entry_confirmed boolean not null default false,
    referral jsonb,
    referral_at timestamptz,
    block_state text not null default 'none',
    reach_state text not null default 'ok',
    agent_paused_until timestamptz,
    thread_id uuid,
    unread_count int not null default 0,
    news_since timestamptz,
    enriched_at timestamptz,
    created_at timestamptz not null default now(),
    -- The inbox is read by it, hour by hour, and sorted within the hour: an index on the time itself would
    -- make every message's update of its chat rewrite all indexes.
    inbox_hour timestamptz not null
        generated always as (date_bin('1 hour', last_interaction_at, '2000-01-01 00:00:00+00')) stored,
    constraint chats_pkey primary key (tenant_id, id),
    -- in this order, so that no index leads from a number to its chats alone: a number may have very many
    constraint chats_tenant_id_number_id_lead_id_key unique (tenant_id, number_id, lead_id),
    -- what messages refer to
    constraint chats_tenant_id_lead_id_id_number_id_key unique (tenant_id, lead_id, id, number_id),
    constraint chats_lead_id_fkey foreign key (tenant_id, lead_id) references public.customer_leads (tenant_id, id),
    constraint chats_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id),
    constraint chats_block_state_check check (block_state in ('none', 'probable', 'confirmed')),
    constraint chats_reach_state_check check (reach_state in ('ok', 'unreachable')),
    constraint chats_unread_count_check check (unread_count >= 0)
) with (fillfactor = 80);
comment on table public.chats is 'A lead on a number: where the 24-hour window, a block and the AI thread belong.';
comment on column public.chats.last_interaction_at is 'The last message of either side; opens no window by itself.';
comment on column public.chats.window_expires_at is
    'Free text may be sent until then: 24 hours from the customer''s last message or call.';
comment on column public.chats.free_entry_until is
    'Messages cost nothing until then: 72 hours from our first answer to an ad. Says nothing about the window.';
comment on column public.chats.free_entry_reply_by is
    'An answer until then opens the free entry point: 24 hours from the customer''s last message out of an ad.';
comment on column public.chats.is_free_entry_confirmed is
    'free_entry_until is the provider''s word, not our reckoning.';
comment on column public.chats.referral is 'pii: the ad that brought the customer, as the provider told it once.';
comment on column public.chats.block_state is 'Whether the customer has blocked the number; see delivery_issues.';
comment on column public.chats.reach_state is
    'unreachable: the provider says again and again that this customer cannot be reached; see unreachable_chats.';
comment on column public.chats.agent_paused_until is 'A person has taken over; the agent is silent until then.';
comment on column public.chats.news_since is 'When something was first said that no analysis has read.';
comment on column public.chats.enriched_at is 'When the provider was last asked for the name and labels of the chat.';
comment on column public.chats.unread_count is 'Customer''s messages since somebody last opened the chat.';

-- Until when an answer would open the free entry point; null when there was no ad, or the answer to it was given.
create function private.free_entry_reply_by(p_chat public.chats) returns timestamptz
language plpgsql immutable set search_path = '' as $$
begin
    return case when coalesce(p_chat.free_entry_until < p_chat.free_entry_reply_by + interval '48 hours', true)
        then p_chat.free_entry_reply_by end;
end
$$;
grant execute on function private.free_entry_reply_by(public.chats) to authenticated, service_role;

create index chats_tenant_id_inbox_hour_idx on public.chats (tenant_id, inbox_hour desc);
-- set once a quiet period, so the updates of its other messages are HOT
create index chats_tenant_id_news_since_idx on public.chats (tenant_id, news_since) where news_since is not null;
create index chats_tenant_id_thread_id_idx on public.chats (tenant_id, thread_id) where thread_id is not null;

alter table public.chats enable row level security;
grant select on public.chats to authenticated;
grant select, insert, update, delete on public.chats to service_role;
create policy chats_select_member on public.chats for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A chat, by its key.
create type private.chat_ref as (tenant_id uuid, chat_id uuid);

create table public.conversations (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    session_id text not null generated always as (id::text) stored,
    status text not null default 'open',
    current_step text not null default 'greeting',
    current_agent_id uuid,
    assigned_to uuid,
    requires_attention boolean not null default false,
    priority smallint not null default 2,
    opened_at timestamptz not null,
    reopened_at timestamptz,
    closed_at timestamptz,
    closed_reason text,
    last_at timestamptz,
    closed_notice_at timestamptz,
    message_count int not null default 0,
    first_response_time int,
    avg_response_time int,
    category text,
    intent text,
    outcome text,
    conversion_value numeric(14, 2),
    satisfaction_rating smallint,
    summary text,
    constraint conversations_pkey primary key (tenant_id, id),
    constraint conversations_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id),
    constraint conversations_assigned_to_fkey foreign key (tenant_id, assigned_to)
        references public.users (tenant_id, id),
    constraint conversations_status_check check (status in ('open', 'closed')),
    constraint conversations_closed_at_check check ((status = 'closed') = (closed_at is not null)),
    constraint conversations_closed_reason_check check (closed_reason in ('silence', 'staff', 'agent')),
    constraint conversations_priority_check check (priority between 1 and 5),
    constraint conversations_satisfaction_rating_check check (satisfaction_rating between 1 and 5)
) with (fillfactor = 80);
comment on table public.conversations is
    'A session of a chat: opened by a message, closed by staff, by the agent, or after silence.';
comment on column public.conversations.session_id is 'The id, as the source systems call it.';
comment on column public.conversations.opened_at is 'The time of its first message.';
comment on column public.conversations.last_at is 'The time of its last message, as far as the inbox has seen.';
comment on column public.conversations.closed_reason is
    'What was closed by silence is joined with its neighbour when a late message shows that there was none.';
comment on column public.conversations.closed_notice_at is 'When the customer was last told that we are closed.';
comment on column public.conversations.first_response_time is 'Seconds; written when the conversation closes.';
comment on column public.conversations.avg_response_time is 'Seconds; written when the conversation closes.';
comment on column public.conversations.summary is 'pii: what was said, in short';
comment on column public.conversations.intent is 'pii: what the customer wanted';

-- At most one open conversation a chat.
create unique index conversations_tenant_id_chat_id_open_key
    on public.conversations (tenant_id, chat_id) where status = 'open';
create index conversations_tenant_id_chat_id_idx on public.conversations (tenant_id, chat_id);
create index conversations_tenant_id_assigned_to_idx
    on public.conversations (tenant_id, assigned_to) where assigned_to is not null;
create index conversations_tenant_id_current_agent_id_idx
    on public.conversations (tenant_id, current_agent_id) where current_agent_id is not null;

alter table public.conversations enable row level security;
grant select, update (requires_attention, priority, category, intent, outcome, conversion_value, satisfaction_rating,
    summary) on public.conversations to authenticated;
grant select, insert, update, delete on public.conversations to service_role;
create policy conversations_select_member on public.conversations for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy conversations_update_member on public.conversations for update to authenticated
    using (tenant_id = (select private.my_tenant_id()))
    with check (tenant_id = (select private.my_tenant_id()));

create table public.messages (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    conversation_id uuid,
    lead_id uuid not null,
    number_id uuid not null,
    direction text not null,
    role text not null,
    source text not null,
    author_id uuid,
    agent_id uuid,
    template_id uuid,
    forced_by uuid,
    forced_reason text,
    type text not null,
    content text,
    data jsonb,
    is_forwarded boolean not null default false,
    wa_message_id text,
    reply_to text,
    referral jsonb,
    raw jsonb,
    is_named boolean not null default false,
    status text not null,
    sent_at timestamptz,
    delivered_at timestamptz,
    read_at timestamptz,
    played_at timestamptz,
    failed_at timestamptz,
    error_code int,
    error_message text,
    send_verdict text,
    send_reason text,
    pricing jsonb,
    price_class text,
    estimated_cost numeric(12, 6),
    consented_cost numeric(12, 6),
    actual_cost numeric(12, 6),
    currency text,
    edited_at timestamptz,
    revoked_at timestamptz,
    previous jsonb,
    reactions jsonb,
    scheduled_at timestamptz,
    idempotency_key text,
    request_hash text,
    provider_at timestamptz not null,
    created_at timestamptz not null default now(),
    -- What was written on the phone is left out: not every provider says what became of it. One column, so that of the
    -- steps of a message only those that begin and end it touch its index.
    awaits_delivery boolean not null
        generated always as (direction = 'outbound' and status = 'sent' and source <> 'manual') stored,
    constraint messages_pkey primary key (tenant_id, id),
    -- lead and number are the chat's: one check in place of three, and none that locks the number's row
    constraint messages_chat_id_fkey foreign key (tenant_id, lead_id, chat_id, number_id)
        references public.chats (tenant_id, lead_id, id, number_id) on update cascade,
    constraint messages_conversation_id_fkey foreign key (tenant_id, conversation_id)
        references public.conversations (tenant_id, id),
    constraint messages_author_id_fkey foreign key (tenant_id, author_id) references public.users (tenant_id, id),
    constraint messages_forced_by_fkey foreign key (tenant_id, forced_by) references public.users (tenant_id, id),
    constraint messages_template_id_fkey foreign key (tenant_id, template_id)
        references public.message_templates (tenant_id, id),
    constraint messages_direction_check check (direction in ('inbound', 'outbound')),
    constraint messages_role_check check (role in ('user', 'assistant', 'human', 'system')),
    constraint messages_source_check check (source in (
        'customer', 'agent', 'manual', 'staff', 'sequence', 'daily_action', 'call_followup', 'api')),
    constraint messages_status_check check (status in (
        'received', 'queued', 'sending', 'sent', 'delivered', 'read', 'played', 'failed', 'skipped', 'canceled',
        'unknown')),
    constraint messages_direction_status_check check ((direction = 'inbound') = (status = 'received')),
    constraint messages_send_verdict_check check (send_verdict in ('send', 'wait', 'template', 'manual', 'never')),
    constraint messages_idempotency_key_check check (
        length(idempotency_key) between 1 and 200 and (idempotency_key is null) = (request_hash is null))
) with (fillfactor = 90);
comment on table public.messages is 'Every message of both sides, stored once per number and provider id.';
comment on column public.messages.wa_message_id is 'pii: the provider''s id; Meta''s carries the phone, in base64';
comment on column public.messages.content is 'pii: text, or the caption of a medium';
comment on column public.messages.is_named is
    'It came with the customer''s name: the last one that did gave customer_leads.user_name.';
comment on column public.messages.forced_by is 'The member of staff who sent it against the rules, knowing the cost.';
comment on column public.messages.forced_reason is 'pii: why, in the words of forced_by';
comment on column public.messages.consented_cost is 'The estimate that forced_by was shown, and agreed to.';
comment on column public.messages.scheduled_at is 'When it was meant to go out; null: at once.';
comment on column public.messages.idempotency_key is
    'The front end''s own name for what it asked, so that asking twice sends once; request_hash tells what it asked.';
comment on column public.messages.data is
    'pii: what the type carries besides text: place, card, button, order, template';
comment on column public.messages.raw is 'pii: what the provider sent, where we do not model it';
comment on column public.messages.referral is 'pii: the ad that brought the customer';
comment on column public.messages.previous is 'pii: earlier texts of an edited or revoked message, oldest first';
comment on column public.messages.reactions is 'pii: {"customer": {"emoji", "at"}, "business": {…}}';
comment on column public.messages.error_message is 'pii: the provider may name the recipient';
comment on column public.messages.reply_to is 'pii: provider id of the quoted message, which we may never have seen.';
comment on column public.messages.awaits_delivery is
    'It was sent, and nobody has said yet that it arrived: what blocks are seen by.';
comment on column public.messages.conversation_id is
    'Null for history that came with a number: it was no session of ours.';
comment on column public.messages.provider_at is
    'The provider''s time, never more than five minutes ahead; lists sort by it.';
comment on column public.messages.pricing is 'What the provider first said about its price; it says so several times.';
comment on column public.messages.actual_cost is 'From pricing: nothing where it is free, else the list price.';

create index messages_tenant_id_chat_id_provider_at_id_idx
    on public.messages (tenant_id, chat_id, provider_at desc, id desc);
create index messages_tenant_id_conversation_id_idx on public.messages (tenant_id, conversation_id);
create index messages_tenant_id_lead_id_chat_id_number_id_idx
    on public.messages (tenant_id, lead_id, chat_id, number_id);
create index messages_tenant_id_author_id_idx on public.messages (tenant_id, author_id) where author_id is not null;
create index messages_tenant_id_forced_by_idx on public.messages (tenant_id, forced_by) where forced_by is not null;
create index messages_tenant_id_template_id_idx
    on public.messages (tenant_id, template_id) where template_id is not null;
create unique index messages_tenant_id_idempotency_key
    on public.messages (tenant_id, idempotency_key) where idempotency_key is not null;
create index messages_tenant_id_agent_id_idx on public.messages (tenant_id, agent_id) where agent_id is not null;
-- A day of a business, wherever its messages are: what statistics are counted from.
create index messages_tenant_id_provider_at_idx on public.messages (tenant_id, provider_at);
-- Few: a message leaves it when it arrives.
create index messages_tenant_id_chat_id_awaits_delivery_idx
    on public.messages (tenant_id, chat_id, provider_at) where awaits_delivery;

-- The same message is delivered again for days: it is stored once. After the indexes, for the reason given at
-- customer_leads_pkey; and no other index may hold number_id, or the planner, who thinks that tenant and number alone
-- leave next to nothing, reads all messages of a number through it.
alter table public.messages add constraint messages_tenant_id_number_id_wa_message_id_key
    unique (tenant_id, number_id, wa_message_id);

alter table public.messages enable row level security;
grant select on public.messages to authenticated;
grant select, insert, update, delete on public.messages to service_role;
create policy messages_select_member on public.messages for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- Something heard of a customer; how: delivered, read or inbound.
create type private.life_sign as (tenant_id uuid, chat_id uuid, at timestamptz, how text);

-- A message that went out, with the time of it.
create type private.sent as (tenant_id uuid, message_id uuid, sent_at timestamptz);

create table public.media (
    tenant_id uuid,
    id uuid default private.uuid7(),
    message_id uuid not null,
    provider_media_id text,
    mime text,
    sha256 text,
    size bigint,
    filename text,
    url text,
    is_voice boolean not null default false,
    is_animated boolean not null default false,
    status text not null default 'pending',
    storage_path text,
    error text,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint media_pkey primary key (tenant_id, id),
    constraint media_message_id_fkey foreign key (tenant_id, message_id) references public.messages (tenant_id, id)
        on delete cascade,
    constraint media_status_check check (status in ('pending', 'stored', 'failed'))
);
comment on table public.media is 'Files of messages; to be fetched while the provider keeps them.';
comment on column public.media.expires_at is
    'The provider keeps it until then: Meta 7 days, Whapi 30 days; null: until somebody deletes it.';
comment on column public.media.error is 'pii: the provider may name the customer';
comment on column public.media.filename is 'pii: the customer''s own name for the file';
comment on column public.media.url is 'pii: where the provider shows the file for five minutes';

create index media_tenant_id_message_id_idx on public.media (tenant_id, message_id);

create trigger media_touch_updated_at before update on public.media
    for each row execute function private.touch_updated_at();

alter table public.media enable row level security;
grant select on public.media to authenticated;
grant select, insert, update, delete on public.media to service_role;
create policy media_select_member on public.media for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The caller's tenant, whatever their role.
create function private.require_staff() returns uuid
language plpgsql stable set search_path = '' as $$
declare
    v_tenant_id uuid := private.my_tenant_id();
begin
    if v_tenant_id is null then
        perform private.refuse('PT403', 'no_seat');
    end if;
    return v_tenant_id;
end
$$;
grant execute on function private.require_staff() to authenticated;

-- A conversation of that tenant, with its chat locked.
create function private.conversation_locked(p_tenant_id uuid, p_conversation_id uuid) returns public.conversations
language plpgsql set search_path = '' as $$
declare
    v_conversation public.conversations;
begin
    perform from public.chats c
    where c.tenant_id = p_tenant_id and c.id = (
        select chat_id from public.conversations where tenant_id = p_tenant_id and id = p_conversation_id)
    for no key update;
    select * into v_conversation from public.conversations where tenant_id = p_tenant_id and id = p_conversation_id;
    if not found then
        perform private.refuse('PT404', 'no_conversation');
    end if;
    return v_conversation;
end
$$;

-- Seconds from a customer's message to our next one: the first such answer, and the mean of all.
create function private.response_times(p_tenant_id uuid, p_conversation_id uuid)
returns table (first_seconds int, mean_seconds int)
language sql stable rows 1 set search_path = '' as $$
    select
        (array_agg(seconds order by at))[1]::int,
        avg(seconds)::int
    from (
        select m.provider_at as at, m.direction,
            extract(epoch from m.provider_at - lag(m.provider_at) over w) as seconds,
            lag(m.direction) over w as before
        from public.messages m
        where m.tenant_id = p_tenant_id and m.conversation_id = p_conversation_id
        -- of the same second: the question before the answer
        window w as (order by m.provider_at, m.direction, m.id)
    ) as turns
    where direction = 'outbound' and before = 'inbound'
$$;

-- p_reason: silence, staff or agent.
create function private.conversations_finish(p_tenant_id uuid, p_ids uuid[], p_reason text) returns void
language sql set search_path = '' as $$
    update public.conversations c
    set status = 'closed', closed_at = (select private.clock()), closed_reason = p_reason, requires_attention = false,
        first_response_time = t.first_seconds, avg_response_time = t.mean_seconds
    from unnest(p_ids) as finished (id)
    cross join lateral private.response_times(p_tenant_id, finished.id) t
    where c.tenant_id = p_tenant_id and c.id = finished.id and c.status = 'open'
$$;
grant execute on function private.response_times(uuid, uuid), private.conversations_finish(uuid, uuid[], text)
    to service_role;

-- A session of a chat as its messages tell it: what a silence parts. id: the conversation it is, or will be.
create type private.chat_session as (
    id uuid, first_at timestamptz, last_at timestamptz, messages int, message_ids uuid [], is_last boolean
);

-- The sessions of a chat among messages of these conversations. Each keeps the conversation that most of it was, the
-- open one first; p_new: messages just stored, which say nothing about that. p_spare: an open conversation of only
-- such messages.
create function private.chat_sessions(
    p_tenant_id uuid, p_conversations uuid[], p_ended timestamptz[], p_new uuid[], p_spare uuid, p_idle interval
) returns private.chat_session[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        with told as (
            select m.id, m.provider_at as at, m.conversation_id, v.reopened_at, m.id = any (p_new) as is_new,
                lag(m.provider_at) over (order by m.provider_at, m.id) as before_at
            from public.messages m
            join public.conversations v on v.tenant_id = m.tenant_id and v.id = m.conversation_id
            where m.tenant_id = p_tenant_id and m.conversation_id = any (p_conversations)
        ),
        parted as (
            select t.*, count(*) filter (
                where at - greatest(before_at, case when reopened_at <= at then reopened_at end) > p_idle
                    or exists (select from unnest(p_ended) as e (at) where e.at > before_at and e.at <= t.at)
            ) over (order by at, id) as n
            from told t
        ),
        owned as (
            select distinct on (c.n) c.n, c.conversation_id
            from (
                select distinct on (conversation_id) conversation_id, n from parted where not is_new
                order by conversation_id, at desc, id desc
            ) as c
            join public.conversations v on v.tenant_id = p_tenant_id and v.id = c.conversation_id
            order by c.n, v.status = 'open' desc, v.opened_at desc, v.id
        )
        select (
            coalesce(
                o.conversation_id,
                case when p.n = max(p.n) filter (where o.n is null) over () then p_spare end, private.uuid7()),
            p.first_at, p.last_at, p.messages, p.ids, p.n = max(p.n) over ())::private.chat_session
        from (
            select n, min(at) as first_at, max(at) as last_at, count(*) as messages, array_agg(id) as ids
            from parted
            group by n
        ) as p
        left join owned o using (n)
        order by p.n);
end
$$;

-- Late messages, or such as come after a silence, change where one session ends and the next begins: put that right
-- from p_since on, as if every message had come in its time. What staff or an agent have closed stays as it was. The
-- chat is locked.
create function private.conversations_regroup(
    p_tenant_id uuid, p_chat_id uuid, p_since timestamptz, p_new uuid[] default '{}'
) returns void
language plpgsql set search_path = '' as $$
declare
    v_idle interval := (
        select make_interval(hours => conversation_idle_hours)
        from public.tenant_settings where tenant_id = p_tenant_id);
    v_known uuid[] := array(
        select id from public.conversations
        where tenant_id = p_tenant_id and chat_id = p_chat_id
            and (status = 'open' or closed_reason = 'silence' and coalesce(last_at, opened_at) >= p_since - v_idle));
    v_is_open boolean := exists (
        select from public.conversations where tenant_id = p_tenant_id and id = any (v_known) and status = 'open');
    v_sessions private.chat_session[] := private.chat_sessions(p_tenant_id, v_known,
        array(
            select opened_at from public.conversations
            where tenant_id = p_tenant_id and chat_id = p_chat_id and closed_reason in ('staff', 'agent')),
        p_new,
        (
            select v.id from public.conversations v
            where v.tenant_id = p_tenant_id and v.id = any (v_known) and v.status = 'open' and not exists (
                select from public.messages m
                where m.tenant_id = p_tenant_id and m.conversation_id = v.id and m.id <> all (p_new))),
        v_idle);
begin
    insert into public.conversations (tenant_id, id, chat_id, status, opened_at, closed_at, closed_reason)
    select p_tenant_id, s.id, p_chat_id, 'closed', s.first_at, (select private.clock()), 'silence'
    from unnest(v_sessions) s
    where s.id <> all (v_known);

    update public.messages m set conversation_id = s.id
    from unnest(v_sessions) s
    cross join lateral unnest(s.message_ids) as told (id)
    where m.tenant_id = p_tenant_id and m.id = told.id and m.conversation_id <> s.id;

    perform private.conversations_finish(p_tenant_id, array(
        select id from public.conversations
        where tenant_id = p_tenant_id and id = any (v_known) and status = 'open' and not exists (
            select from unnest(v_sessions) s where s.id = conversations.id and s.is_last)), 'silence');
    delete from public.conversations
    where tenant_id = p_tenant_id and id = any (v_known)
        and not exists (select from unnest(v_sessions) s where s.id = conversations.id);
    update public.conversations v
    set status = case when o.is_open then 'open' else 'closed' end,
        closed_at = case when not o.is_open then v.closed_at end,
        closed_reason = case when not o.is_open then v.closed_reason end,
        opened_at = s.first_at, last_at = s.last_at, message_count = s.messages,
        first_response_time = t.first_seconds, avg_response_time = t.mean_seconds
    from unnest(v_sessions) s
    cross join lateral (select s.is_last and v_is_open as is_open) as o
    left join lateral private.response_times(p_tenant_id, s.id) t on not o.is_open
    where v.tenant_id = p_tenant_id and v.id = s.id;
end
$$;
grant execute on function
    private.chat_sessions(uuid, uuid[], timestamptz[], uuid[], uuid, interval),
    private.conversations_regroup(uuid, uuid, timestamptz, uuid[]) to service_role;

-- Definer: staff may not write status, which only these rules change.
create function private.conversation_close(p_conversation_id uuid, p_outcome text, p_summary text)
returns public.conversations
language plpgsql security definer set search_path = '' as $$
declare
    v_conversation public.conversations := private.conversation_locked(private.require_staff(), p_conversation_id);
begin
    if v_conversation.status = 'closed' then
        perform private.refuse('PT409', 'conversation_closed');
    end if;
    perform private.conversations_finish(v_conversation.tenant_id, array[p_conversation_id], 'staff');
    update public.conversations
    set outcome = coalesce(p_outcome, outcome), summary = coalesce(p_summary, summary)
    where tenant_id = v_conversation.tenant_id and id = p_conversation_id
    returning * into v_conversation;
    return v_conversation;
end
$$;

create function private.conversation_assign(p_conversation_id uuid, p_user_id uuid) returns public.conversations
language plpgsql security definer set search_path = '' as $$
declare
    v_conversation public.conversations := private.conversation_locked(private.require_staff(), p_conversation_id);
begin
    if p_user_id is not null and not exists (
        select from public.users where tenant_id = v_conversation.tenant_id and id = p_user_id and is_active
    ) then
        perform private.refuse('PT404', 'no_colleague');
    end if;
    update public.conversations set assigned_to = p_user_id
    where tenant_id = v_conversation.tenant_id and id = p_conversation_id
    returning * into v_conversation;
    return v_conversation;
end
$$;

create function private.conversation_reopen(p_conversation_id uuid) returns public.conversations
language plpgsql security definer set search_path = '' as $$
declare
    v_conversation public.conversations := private.conversation_locked(private.require_staff(), p_conversation_id);
begin
    if exists (
        select from public.conversations
        where tenant_id = v_conversation.tenant_id and chat_id = v_conversation.chat_id and status = 'open'
    ) then
        perform private.refuse('PT409', 'conversation_open');
    end if;
    update public.conversations set status = 'open', closed_at = null, closed_reason = null, reopened_at = (select private.clock())
    where tenant_id = v_conversation.tenant_id and id = p_conversation_id
    returning * into v_conversation;
    return v_conversation;
end
$$;

create function private.chat_mark_read(p_chat_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    update public.chats set unread_count = 0
    where tenant_id = v_tenant_id and id = p_chat_id and unread_count > 0;
    if not found and not exists (select from public.chats where tenant_id = v_tenant_id and id = p_chat_id) then
        perform private.refuse('PT404', 'no_chat');
    end if;
end
$$;
grant execute on function private.conversation_close(uuid, text, text), private.conversation_assign(uuid, uuid),
    private.conversation_reopen(uuid), private.chat_mark_read(uuid) to authenticated;

-- What staff call. Each answers with the conversation as it is now.
create function public.conversation_close(
    p_conversation_id uuid, p_outcome text default null, p_summary text default null
) returns public.conversations language sql set search_path = '' as $$
    select private.conversation_close(p_conversation_id, p_outcome, p_summary)
$$;

create function public.conversation_assign(p_conversation_id uuid, p_user_id uuid) returns public.conversations
language sql set search_path = '' as $$
    select private.conversation_assign(p_conversation_id, p_user_id)
$$;

create function public.conversation_reopen(p_conversation_id uuid) returns public.conversations
language sql set search_path = '' as $$
    select private.conversation_reopen(p_conversation_id)
$$;

create function public.chat_mark_read(p_chat_id uuid) returns void
language sql set search_path = '' as $$
    select private.chat_mark_read(p_chat_id)
$$;
grant execute on function public.conversation_close(uuid, text, text), public.conversation_assign(uuid, uuid),
    public.conversation_reopen(uuid), public.chat_mark_read(uuid) to authenticated;

-- The sweep: close what has been silent for longer than its business wants. Returns how many it closed.
create function public.conversations_close_idle(p_limit int default 1000) returns int
language plpgsql set search_path = '' as $$
declare
    v_tenant record;
    v_count int := 0;
begin
    for v_tenant in
        select idle.tenant_id, array_agg(idle.id) as ids
        from (
            select v.tenant_id, v.id
            from public.conversations v
            join public.chats c on c.tenant_id = v.tenant_id and c.id = v.chat_id
            join public.tenant_settings s on s.tenant_id = v.tenant_id
            where v.status = 'open'
                and greatest(c.last_interaction_at, v.opened_at, v.reopened_at)
                    < (select private.clock()) - make_interval(hours => s.conversation_idle_hours)
            order by c.tenant_id, c.id
            limit p_limit
            for no key update of c skip locked
        ) as idle
        group by idle.tenant_id
    loop
        perform private.conversations_finish(v_tenant.tenant_id, v_tenant.ids, 'silence');
        v_count := v_count + cardinality(v_tenant.ids);
    end loop;
    return v_count;
end
$$;
grant execute on function public.conversations_close_idle(int) to service_role;

-- A page of the inbox, newest first. The next page starts at the last row's last_at and chat_id.
create function public.inbox_list(
    p_limit int default 50,
    p_before_at timestamptz default null,
    p_before_chat uuid default null,
    p_number_id uuid default null,
    p_assigned_to uuid default null,
    p_unread boolean default false,
    p_attention boolean default false
) returns table (
    chat_id uuid, number_id uuid, number_name text, lead_id uuid, lead_name text, lead_phone text,
    labels text[], lead_priority smallint, last_at timestamptz, last_direction text, last_type text,
    last_content text, last_status text, unread_count int, window_expires_at timestamptz, window_open boolean,
    free_entry_until timestamptz, free_entry_reply_by timestamptz, agent_paused_until timestamptz, block_state text,
    conversation_id uuid,
    requires_attention boolean, assigned_to uuid, assignee_name text
)
language plpgsql stable rows 50 set search_path = '' as $$
begin
    return query
    with page as (
        select c.*, v.id as conversation_id, v.requires_attention, v.assigned_to,
            private.free_entry_reply_by(c) as reply_by
        from public.chats c
        left join public.conversations v
            on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
        where c.inbox_hour <= coalesce(p_before_at, 'infinity')
            and (c.last_interaction_at, c.id) < (
                coalesce(p_before_at, 'infinity'), coalesce(p_before_chat, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            and (p_number_id is null or c.number_id = p_number_id)
            and (p_assigned_to is null or v.assigned_to = p_assigned_to)
            and (not p_unread or c.unread_count > 0)
            and (not p_attention or v.requires_attention)
        order by c.inbox_hour desc, c.last_interaction_at desc, c.id desc
        limit greatest(least(p_limit, 200), 0)
    )
    select
        p.id, p.number_id, n.display_name, p.lead_id, coalesce(l.name, l.user_name, l.phone), l.phone,
        array_remove(array[l.label1, l.label2, l.label3], null), l.priority,
        p.last_interaction_at, m.direction, m.type, m.content, m.status,
        p.unread_count, p.window_expires_at, coalesce(p.window_expires_at > (select private.clock()), false),
        p.free_entry_until, case when p.reply_by > (select private.clock()) then p.reply_by end, p.agent_paused_until, p.block_state, p.conversation_id,
        coalesce(p.requires_attention, false), p.assigned_to, coalesce(u.name, u.email)
    from page p
    join public.customer_leads l on l.tenant_id = p.tenant_id and l.id = p.lead_id
    join public.whatsapp_numbers n on n.tenant_id = p.tenant_id and n.id = p.number_id
    left join public.users u on u.tenant_id = p.tenant_id and u.id = p.assigned_to
    left join lateral (
        select m.direction, m.type, left(m.content, 200) as content, m.status
        from public.messages m
        where m.tenant_id = p.tenant_id and m.chat_id = p.id
        order by m.provider_at desc, m.id desc
        limit 1
    ) m on true
    order by p.last_interaction_at desc, p.id desc;
end
$$;

-- A page of a chat's messages, newest first. The next page starts at the last row's provider_at and id.
create function public.messages_list(
    p_chat_id uuid, p_limit int default 50, p_before_at timestamptz default null, p_before_id uuid default null
) returns table (
    id uuid, conversation_id uuid, direction text, role text, source text, author_id uuid, agent_id uuid,
    type text, content text, data jsonb, wa_message_id text, reply_to text, status text, provider_at timestamptz,
    sent_at timestamptz, delivered_at timestamptz, read_at timestamptz, failed_at timestamptz, error_code int,
    error_message text, edited_at timestamptz, revoked_at timestamptz, reactions jsonb, media jsonb
)
language plpgsql stable rows 50 set search_path = '' as $$
begin
    return query
    select
        m.id, m.conversation_id, m.direction, m.role, m.source, m.author_id, m.agent_id,
        m.type, m.content, m.data, m.wa_message_id, m.reply_to, m.status, m.provider_at,
        m.sent_at, m.delivered_at, m.read_at, m.failed_at, m.error_code,
        m.error_message, m.edited_at, m.revoked_at, m.reactions,
        case when m.type <> 'text' then (
            select jsonb_agg(jsonb_build_object('id', f.id, 'mime', f.mime, 'filename', f.filename, 'size', f.size,
                'status', f.status, 'storage_path', f.storage_path))
            from public.media f
            where f.tenant_id = m.tenant_id and f.message_id = m.id
        ) end
    from public.messages m
    -- RLS adds the tenant
    where m.chat_id = p_chat_id
        and (m.provider_at, m.id) < (
            coalesce(p_before_at, 'infinity'), coalesce(p_before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
    order by m.provider_at desc, m.id desc
    limit greatest(least(p_limit, 200), 0);
end
$$;

-- Everything about one customer, for the side of a chat. Null when there is no such lead.
create function public.lead_card(p_lead_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(l) || jsonb_build_object(
        'identities', (
            select coalesce(jsonb_agg(jsonb_build_object('kind', i.kind, 'value', i.value, 'since', i.valid_from)
                order by i.valid_from, i.kind), '[]')
            from public.lead_identities i
            where i.tenant_id = l.tenant_id and i.lead_id = l.id and i.valid_to = 'infinity'),
        'chats', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'id', c.id, 'number_id', c.number_id, 'last_interaction_at', c.last_interaction_at,
                'window_expires_at', c.window_expires_at, 'free_entry_until', c.free_entry_until,
                'free_entry_reply_by', case when private.free_entry_reply_by(c) > (select private.clock())
                    then c.free_entry_reply_by end,
                'block_state', c.block_state, 'referral', c.referral, 'conversation_id', v.id)
                order by c.last_interaction_at desc), '[]')
            from public.chats c
            left join public.conversations v
                on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
            where c.tenant_id = l.tenant_id and c.lead_id = l.id),
        'consent', (
            select coalesce(jsonb_agg(jsonb_build_object('kind', e.kind, 'scope', e.scope, 'source', e.source,
                'at', e.happened_at) order by e.happened_at desc), '[]')
            from public.consent_events e
            where e.tenant_id = l.tenant_id and e.lead_id = l.id))
    from public.customer_leads l
    where l.id = p_lead_id
$$;
grant execute on function
    public.inbox_list(int, timestamptz, uuid, uuid, uuid, boolean, boolean),
    public.messages_list(uuid, int, timestamptz, uuid),
    public.lead_card(uuid) to authenticated;


-- sql/50_inbox.sql

-- The inbox: what providers deliver, kept as it came and applied once. webhook_receive() takes canonical events
-- (made by the webhook function) in batches of payloads, one payload being one change of one delivery.
--
-- Locks are always taken in this order, and within a table in the order of its key, so that two batches never wait
-- for each other: identities, leads, chats, conversations, pending work, outbox, messages.

create table public.webhook_logs (
    id uuid default private.uuid7(),
    tenant_id uuid,
    provider text not null,
    delivery_id text not null,
    account text,
    number text,
    field text,
    received_at timestamptz not null,
    payload jsonb,
    raw bytea,
    events jsonb,
    status text not null,
    attempts int not null default 1,
    next_attempt_at timestamptz,
    error text,
    taken_at timestamptz not null default now(),
    applied_at timestamptz,
    is_unmodelled boolean not null default false,
    constraint webhook_logs_pkey primary key (id),
    constraint webhook_logs_delivery_id_key unique (delivery_id),
    constraint webhook_logs_status_check check (status in ('applied', 'failed', 'dead')),
    constraint webhook_logs_applied_at_check check ((status = 'applied') = (applied_at is not null))
);
comment on table public.webhook_logs is
    'Every delivery that told us something new, with what became of it. Its keys have no tenant: a delivery comes '
    'before we know whose it is, and may never be anybody''s. tenant_id refers to users without a foreign key, whose '
    'check would make all deliveries of a business take turns at its owner''s row.';
comment on column public.webhook_logs.payload is 'pii: the change as the provider sent it';
comment on column public.webhook_logs.raw is 'pii: the bytes, where they could not be parsed';
comment on column public.webhook_logs.events is 'pii: the canonical events while they wait to be applied';
comment on column public.webhook_logs.taken_at is
    'When the database took it up: before, it was on its way to us and waited; until applied_at it was worked on.';
comment on column public.webhook_logs.is_unmodelled is
    'Something in it is nothing that we know, or lacks what we need of it: payload has it.';
comment on column public.webhook_logs.error is 'pii: the database may quote a value';

create index webhook_logs_tenant_id_received_at_idx on public.webhook_logs (tenant_id, received_at desc);
create index webhook_logs_tenant_id_received_at_unmodelled_idx
    on public.webhook_logs (tenant_id, received_at desc) where is_unmodelled;
create index webhook_logs_tenant_id_next_attempt_at_idx
    on public.webhook_logs (tenant_id, next_attempt_at) where status = 'failed';
-- there should be none: to be counted at any time
create index webhook_logs_tenant_id_dead_idx on public.webhook_logs (tenant_id) where status = 'dead';

alter table public.webhook_logs enable row level security;
grant select on public.webhook_logs to authenticated;
grant select, insert, update, delete on public.webhook_logs to service_role;
create policy webhook_logs_select_admin on public.webhook_logs for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- early_events: statuses, edits, revokes and reactions that came before the message they speak of, or whose
-- message we never had. They are applied when it is stored.
create table public.early_events (
    tenant_id uuid,
    number_id uuid,
    target text,
    kind text,
    detail text,
    happened_at timestamptz not null,
    body jsonb not null,
    constraint early_events_pkey primary key (tenant_id, number_id, target, kind, detail),
    constraint early_events_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id)
);
comment on table public.early_events is 'What was said about messages that are not (yet) stored.';
comment on column public.early_events.target is 'The provider''s id of the message.';
comment on column public.early_events.detail is
    'What tells two events of a kind apart; see private.event_detail().';
comment on column public.early_events.body is 'pii: the event';

alter table public.early_events enable row level security;
grant select on public.early_events to authenticated;
grant select, insert, update, delete on public.early_events to service_role;
create policy early_events_select_admin on public.early_events for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- An address of a customer: a key of lead_identities, but for its tenant.
create type private.contact_key as (kind text, scope text, value text);

-- A payload of a batch, routed. ahead: of the times of its events, business time.
create type private.inbox_payload as (
    position int, tenant_id uuid, number_id uuid, provider text, scope text, is_known boolean, events jsonb,
    ahead interval
);

-- An event nobody told us before. target_id: the message a status, edit, revoke or reaction is about, if stored.
create type private.inbox_event as (
    position int, tenant_id uuid, number_id uuid, provider text, scope text, kind text, id text, at timestamptz,
    keys private.contact_key [], target_id uuid, body jsonb
);

-- A message just stored, or a call. Only a live one sets anything off: not history, not older than the window.
create type private.inbox_message as (
    position int, tenant_id uuid, number_id uuid, lead_id uuid, chat_id uuid, conversation_id uuid, message_id uuid,
    wa_message_id text, kind text, type text, at timestamptz, is_history boolean, is_live boolean, body jsonb
);

-- A message that refuses to hear from us; is_first: the refusal began with it.
create type private.refusal as (
    tenant_id uuid, number_id uuid, wa_message_id text, lead_id uuid, is_first boolean
);

-- Whom an event's addresses lead to, and whether that is already known of all of them.
create type private.lead_found as (lead_id uuid, is_complete boolean);

create function private.as_uuid(p_text text) returns uuid
language plpgsql immutable strict set search_path = '' as $$
begin
    return case when p_text ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then p_text::uuid end;
end
$$;

-- Whose is each payload, and have we had this delivery already?
create function private.inbox_route(p_batch jsonb) returns private.inbox_payload[]
language plpgsql stable set search_path = '' as $$
declare
    v_ahead interval := private.clock() - now();
    v_payloads private.inbox_payload[];
begin
    select array_agg((
            b.position, n.tenant_id, n.id, b.body ->> 'provider',
            coalesce(n.portfolio_id, n.waba_id, b.body ->> 'account', ''),
            b.copy > 1 or l.id is not null, coalesce(b.body -> 'events', '[]'),
            -- Twilio posts no times: the webhook dated these by the clock on its wall
            case when b.body ->> 'provider' = 'twilio' and b.body ->> 'field' <> 'backfill' then v_ahead
                else interval '0' end)::private.inbox_payload
        order by b.position)
    into v_payloads
    from (
        select position, body, row_number() over (partition by body ->> 'delivery_id' order by position) as copy
        from jsonb_array_elements(p_batch) with ordinality as batch (body, position)
    ) as b
    -- by key, one payload after the other: a join would read all numbers
    left join lateral (
        select w.tenant_id, w.id, w.portfolio_id, w.waba_id
        from public.whatsapp_numbers w
        where w.provider = b.body ->> 'provider' and w.provider_number_id = b.body ->> 'number' and w.is_active
        limit 1
    ) as n on true
    left join lateral (
        select k.id from public.webhook_logs k where k.delivery_id = b.body ->> 'delivery_id' limit 1
    ) as l on true;
    return v_payloads;
end
$$;

-- Does a message of this type only say that there is one, whose content may follow under the same id?
create function private.is_stand_in(p_type text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(p_type in ('media_placeholder', 'unsupported'), false);
end
$$;

-- Did this send fail because the customer refuses marketing? Said so inside WhatsApp (131050), or to Twilio (21610).
create function private.is_refusal(p_body jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(p_body #>> '{error,code}' in ('131050', '21610'), false);
end
$$;

-- Would this event change that message? Asked before anything is written. The answer, like all that changes do, must
-- not depend on the order in which they come: of two that speak of the same second, the greater text decides.
create function private.changes_message(p_message public.messages, p_kind text, p_at timestamptz, p_body jsonb)
returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return case p_kind
        when 'status' then p_message.direction = 'outbound' and (
            p_message.wa_message_id is null
            or coalesce(p_at < case p_body ->> 'status'
                when 'sent' then p_message.sent_at
                when 'delivered' then p_message.delivered_at
                when 'read' then p_message.read_at
                when 'played' then p_message.played_at
                when 'failed' then p_message.failed_at
                else '-infinity'
            end, true)
            or p_body ->> 'status' = 'failed' and p_at = p_message.failed_at
                and coalesce(p_body #>> '{error,code}', '') < coalesce(p_message.error_code::text, '')
            -- what a customer refuses counts, though another failure was told first
            or private.is_refusal(p_body) and (p_message.error_code::text, p_message.failed_at)
                is distinct from (p_body #>> '{error,code}', p_at)
            or private.is_first_pricing(p_message.pricing, p_at, p_body -> 'pricing'))
        when 'edit' then
            not private.message_versions(p_message) @> jsonb_build_array(
                jsonb_build_object('at', p_at, 'content', p_body -> 'text'))
        when 'revoke' then coalesce(p_at < p_message.revoked_at, true)
        when 'reaction' then
            coalesce(
                ((p_message.reactions #>> array[p_body ->> 'by', 'at'])::timestamptz,
                    coalesce(p_message.reactions #>> array[p_body ->> 'by', 'emoji'], ''))
                < (p_at, coalesce(p_body ->> 'emoji', '')), true)
        -- it is stored, that is all there is to know
        else p_kind in ('message', 'echo')
            and private.is_stand_in(p_message.type) and not private.is_stand_in(p_body ->> 'type')
    end;
end
$$;

-- Is this what the provider first said about the price? messages.pricing has the time in "at".
create function private.is_first_pricing(p_known jsonb, p_at timestamptz, p_told jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return jsonb_typeof(p_told) = 'object' and coalesce(
        (p_at, p_told) < ((p_known ->> 'at')::timestamptz, p_known - 'at'), true);
end
$$;

-- Every text a message has had: the original, then its edits in the order of their times.
create function private.message_versions(p_message public.messages) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(p_message.previous, '[]') || case when p_message.revoked_at is null
        then jsonb_build_array(jsonb_build_object(
            'at', coalesce(p_message.edited_at, p_message.provider_at), 'content', p_message.content))
        else '[]' end;
end
$$;

-- What tells two events about one message apart: its own id, or of statuses all they say: the same one may be told at
-- two times, or once with its price and once without.
create function private.event_detail(p_body jsonb) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case p_body ->> 'kind' when 'status' then concat_ws(' ', p_body ->> 'status', md5(p_body::text))
        else coalesce(p_body ->> 'id', '') end;
end
$$;

-- The events of a batch that tell us something new, each once, in order. Only reads: a batch of nothing but
-- duplicates ends here.
create function private.inbox_fresh(p_payloads private.inbox_payload[]) returns private.inbox_event[]
language plpgsql stable set search_path = '' as $$
declare
    v_latest timestamptz := private.clock() + interval '5 minutes';
    v_events private.inbox_event[];
begin
    select array_agg((
            e.position, e.tenant_id, e.number_id, e.provider, e.scope, e.kind, e.id, e.at,
            private.contact_keys(e.body -> 'contact', e.provider, e.scope), e.target_id, e.body)::private.inbox_event
        order by e.position, e.n)
    into v_events
    from (
        select
            t.*, coalesce((stored.message).id, ours.id) as target_id,
            row_number() over (
                partition by t.tenant_id, t.number_id, t.kind, t.id, t.about, t.detail,
                    case when t.id is null then (t.position, t.n) end
                order by private.is_stand_in(t.body ->> 'type'), t.position, t.n) as copy,
            case
                when (stored.message).id is not null
                    then private.changes_message(stored.message, t.kind, t.at, t.body)
                when ours.id is not null then true
                when t.kind in ('status', 'edit', 'revoke', 'reaction') then not exists (
                    select from public.early_events x
                    where x.tenant_id = t.tenant_id and x.number_id = t.number_id and x.target = t.about
                        and x.kind = t.kind and x.detail = t.detail)
                else true
            end as is_news
        from (
            select
                p.position, ev.n, p.tenant_id, p.number_id, p.provider, p.scope, ev.body,
                ev.body ->> 'kind' as kind, ev.body ->> 'id' as id,
                least((ev.body ->> 'at')::timestamptz + p.ahead, v_latest) as at,
                coalesce(ev.body ->> 'target', ev.body ->> 'id') as about,
                private.event_detail(ev.body) as detail,
                private.as_uuid(ev.body ->> 'callback') as callback
            from unnest(p_payloads) p
            cross join lateral jsonb_array_elements(p.events) with ordinality as ev (body, n)
            where p.number_id is not null and not p.is_known
            -- worked out before the look-ups: an expression to compare with makes a key look dear to the planner
            offset 0
        ) as t
        left join lateral (
            select m as message from public.messages m
            where m.tenant_id = t.tenant_id and m.number_id = t.number_id and m.wa_message_id = t.about
            limit 1
        ) as stored on true
        -- a status may come before the provider's answer has told us its id
        left join lateral (
            select m.id, m.number_id from public.messages m
            where m.tenant_id = t.tenant_id and m.id = t.callback
            limit 1
        ) as ours on ours.number_id = t.number_id
    ) as e
    where e.copy = 1 and e.is_news;
    return coalesce(v_events, '{}');
end
$$;

-- Apply fresh events as one set. Returns the messages stored.
create function private.inbox_apply(p_events private.inbox_event[]) returns private.inbox_message[]
language plpgsql set search_path = '' as $$
declare
    v_talk private.inbox_event[] := array(
        select e from unnest(p_events) e where e.kind in ('message', 'echo', 'call', 'preference'));
    v_changes private.inbox_event[] := array(
        select e from unnest(p_events) e where e.kind in ('status', 'edit', 'revoke', 'reaction'));
    v_identities private.inbox_event[] := array(select e from unnest(p_events) e where e.kind = 'identity');
    v_asides private.inbox_event[] := array(
        select e from unnest(p_events) e where e.kind in ('contact_sync', 'problem'));
    v_leads uuid[];
    v_chats uuid[];
    v_conversations uuid[];
    v_answered private.chat_ref[];
    v_adopted private.inbox_message[];
    v_refusals private.refusal[];
    v_stored private.inbox_message[] := array[]::private.inbox_message[];
begin
    if cardinality(v_identities) > 0 then
        perform private.inbox_identities(v_identities);
    end if;
    if cardinality(v_asides) > 0 then
        perform private.inbox_contacts(array(select e from unnest(v_asides) e where e.kind = 'contact_sync'));
        perform private.inbox_problems(array(select e from unnest(v_asides) e where e.kind = 'problem'));
    end if;
    if cardinality(v_talk) > 0 then
        v_leads := private.inbox_leads(v_talk);
        v_refusals := private.inbox_consent(v_talk, v_leads);
        v_chats := private.inbox_chats(v_talk, v_leads);
        v_conversations := private.inbox_conversations(v_talk, v_chats);
        v_adopted := private.inbox_adopt(v_talk, v_leads, v_chats);
        v_stored := private.inbox_store(v_talk, v_leads, v_chats, v_conversations) || v_adopted;
        v_stored := v_stored || private.inbox_fill(v_talk, v_stored);
        v_answered := private.inbox_touch(v_stored);
        perform private.inbox_media(v_stored);
        perform private.activity_note(v_stored);
        if cardinality(v_refusals) > 0 then
            perform private.enrollments_end(array(
                select distinct (m.tenant_id, m.chat_id)::private.chat_ref
                from unnest(v_stored) m
                join unnest(v_refusals) r on r.tenant_id = m.tenant_id and r.lead_id = m.lead_id
            ), 'opted_out', 'opted_out');
        end if;
        perform private.sequences_heed(v_stored);
        if cardinality(v_refusals) = 0 then
            perform private.replies_await(v_stored);
        else
            -- a refusal is confirmed, not discussed
            perform private.opt_outs_confirm(v_stored, v_refusals);
            perform private.replies_await(array(
                select m from unnest(v_stored) m where not exists (
                    select from unnest(v_refusals) r
                    where r.tenant_id = m.tenant_id and r.number_id = m.number_id
                        and r.wa_message_id = m.wa_message_id)));
        end if;
        perform private.replies_cancel(v_answered);
        perform private.sequences_trigger(v_stored);
        v_changes := v_changes || private.early_events_take(v_stored);
    end if;
    if cardinality(v_changes) > 0 then
        perform private.inbox_changes(v_changes);
    end if;
    return v_stored;
end
$$;

-- Why a payload cannot be applied though nothing is wrong with the database; null when it can. What names no number
-- is about an account: applied wherever it is connected, and kept in any case.
create function private.inbox_obstacle(p_body jsonb, p_number_id uuid) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case
        when p_body ->> 'error' is not null then p_body ->> 'error'
        when p_number_id is null and jsonb_array_length(p_body -> 'events') > 0 and (
            p_body ->> 'number' is not null or jsonb_path_exists(
                p_body, '$.events[*] ? (@.kind != "account" && @.kind != "problem" && @.kind != "other")'))
            then format('No active number %s of %s.', coalesce(p_body ->> 'number', '(none)'), p_body ->> 'provider')
    end;
end
$$;

-- The only business with numbers of an account; null where there are none, or several.
create function private.account_tenant(p_provider text, p_account text) returns uuid
language plpgsql stable set search_path = '' as $$
begin
    return (
        select (array_agg(distinct n.tenant_id))[1]
        from public.whatsapp_numbers n
        where n.provider = p_provider and n.waba_id = p_account and n.is_active
        having count(distinct n.tenant_id) = 1);
end
$$;

-- Keep payloads and what became of them. What could be parsed may be applied later: the number may be connected
-- tomorrow, the fault may be ours.
create function private.inbox_log(p_bodies jsonb[], p_tenants uuid[], p_errors text[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.webhook_logs (
        tenant_id, provider, delivery_id, account, number, field, received_at, payload, raw, events, status, error,
        applied_at, next_attempt_at, is_unmodelled)
    select
        case when l.body ->> 'number' is null
            then private.account_tenant(l.body ->> 'provider', l.body ->> 'account') else l.tenant_id end,
        l.body ->> 'provider', l.body ->> 'delivery_id', l.body ->> 'account', l.body ->> 'number',
        l.body ->> 'field', (l.body ->> 'received_at')::timestamptz, nullif(l.body -> 'payload', 'null'),
        decode(l.body ->> 'raw', 'base64'), case when l.error is not null then l.body -> 'events' end,
        case when l.error is null then 'applied' when l.body ->> 'error' is null then 'failed' else 'dead' end,
        l.error, case when l.error is null then clock_timestamp() end,
        case when l.error is not null and l.body ->> 'error' is null then now() + interval '1 minute' end,
        jsonb_path_exists(l.body, '$.events[*] ? (@.kind == "other")')
    from unnest(p_bodies, p_tenants, p_errors) as l (body, tenant_id, error)
    order by l.body ->> 'delivery_id'
    on conflict on constraint webhook_logs_delivery_id_key do nothing;
end
$$;

-- What became of each payload of a batch that was applied as a set: logged if it is new, and answered.
-- "product_events" are what the function's log says of it; of ids, a few will do.
create function private.inbox_settle(
    p_batch jsonb, p_payloads private.inbox_payload[], p_events private.inbox_event[],
    p_stored private.inbox_message[]
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_answers jsonb;
    v_bodies jsonb[];
    v_tenants uuid[];
    v_errors text[];
begin
    select
        jsonb_agg(jsonb_build_object(
            'status', case when o.is_known then 'duplicate' when o.obstacle is null then 'applied' else 'failed' end,
            'stored', o.stored,
            'repeated', case when o.is_known then o.told else o.told - o.news + o.messages - o.stored end,
            'error', case when not o.is_known then o.obstacle end)
            || case when o.is_live then '{"wake": ["reply"]}' else '{}' end::jsonb
            || case when o.received is null and o.failures is null then '{}' else jsonb_build_object(
                'product_events', coalesce(o.received, '[]') || coalesce(o.failures, '[]')) end
            order by o.position),
        array_agg(o.body order by o.position) filter (where not o.is_known),
        array_agg(o.tenant_id order by o.position) filter (where not o.is_known),
        array_agg(o.obstacle order by o.position) filter (where not o.is_known)
    into v_answers, v_bodies, v_tenants, v_errors
    from (
        select
            p.position, b.body, p.tenant_id, private.inbox_obstacle(b.body, p.number_id) as obstacle,
            case when s.message_ids is not null then jsonb_build_object(
                'event', 'whatsapp.message.received', 'tenant_id', p.tenant_id, 'number_id', p.number_id,
                'provider', p.provider, 'count', cardinality(s.message_ids),
                'message_ids', s.message_ids[:20], 'chat_ids', s.chat_ids[:20]) end as received,
            e.failures,
            jsonb_array_length(p.events) as told, coalesce(e.messages, 0) as messages,
            coalesce(s.stored, 0) as stored, coalesce(s.is_live, false) as is_live,
            case when p.number_id is null then jsonb_array_length(p.events) else coalesce(e.news, 0) end as news,
            p.is_known or (e.news is null and p.number_id is not null and jsonb_array_length(p.events) > 0) as is_known
        from unnest(p_payloads) p
        join jsonb_array_elements(p_batch) with ordinality as b (body, position) on b.position = p.position
        left join (
            select position, count(*) as news, count(*) filter (where kind in ('message', 'echo')) as messages,
                jsonb_agg(jsonb_build_object(
                    'event', 'whatsapp.send.failed', 'tenant_id', tenant_id, 'number_id', number_id,
                    'provider', provider, 'count', 1, 'message_ids', array[target_id],
                    'error_code', body #> '{error,code}'))
                    filter (where kind = 'status' and target_id is not null and body ->> 'status' = 'failed')
                    as failures
            from unnest(p_events)
            group by position
        ) as e on e.position = p.position
        left join (
            select position, count(message_id) as stored, bool_or(is_live and kind = 'message') as is_live,
                -- neither histories nor content that came later
                array_agg(message_id) filter (where kind = 'message' and conversation_id is not null) as message_ids,
                array_agg(chat_id) filter (where kind = 'message' and conversation_id is not null) as chat_ids
            from unnest(p_stored)
            group by position
        ) as s on s.position = p.position
        offset 0  -- every column worked out once
    ) as o;
    if v_bodies is not null then
        perform private.inbox_log(v_bodies, v_tenants, v_errors);
    end if;
    return coalesce(v_answers, '[]');
end
$$;

-- Take a batch as one set: all of it, or an exception.
create function private.inbox_take(p_batch jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_payloads private.inbox_payload[] := private.inbox_route(p_batch);
    v_events private.inbox_event[] := private.inbox_fresh(v_payloads);
    v_stored private.inbox_message[] := array[]::private.inbox_message[];
begin
    if cardinality(v_events) > 0 then
        v_stored := private.inbox_apply(v_events);
    end if;
    if exists (select from unnest(v_payloads) p where p.number_id is null) then
        perform private.inbox_accounts(v_payloads);
    end if;
    return private.inbox_settle(p_batch, v_payloads, v_events, v_stored);
end
$$;

-- Whether an error says nothing of what was to be stored: the disk is full, the server goes away, two transactions met.
-- It is raised again, and whoever delivers is not told that all is well, and delivers again. Memory is not among
-- these: what takes too much of it always will.
create function private.is_passing(p_sqlstate text) returns boolean
language sql immutable set search_path = '' as $$
    select left(p_sqlstate, 2) in ('40', '53', '57', '58') and p_sqlstate <> '53200' or p_sqlstate = '55P03'
$$;

-- Take one payload that spoilt its batch, or keep it with its error.
create function private.inbox_take_alone(p_body jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_error text;
    v_tenant_id uuid;
begin
    return private.inbox_take(jsonb_build_array(p_body)) -> 0;
exception
    when others then
        if private.is_passing(sqlstate) then
            raise;
        end if;
        get stacked diagnostics v_error = message_text;
        select n.tenant_id into v_tenant_id
        from public.whatsapp_numbers n
        where n.provider = p_body ->> 'provider' and n.provider_number_id = p_body ->> 'number' and n.is_active;
        -- received_at may be what is wrong with it
        perform private.inbox_log(
            array[p_body || jsonb_build_object('received_at', now())], array[v_tenant_id], array[v_error]);
        return jsonb_build_object('status', 'failed', 'stored', 0, 'repeated', 0, 'error', v_error);
end
$$;

-- Plans made while the tables were all but empty take any index that begins with the tenant, and go on reading all
-- of its rows until autovacuum looks at the table for the first time: up to a minute of a busy first day. So a
-- session plans anew whenever the messages have doubled.
create function private.forget_early_plans() returns void
language plpgsql set search_path = '' as $$
declare
    v_size bigint := pg_relation_size('public.messages');
begin
    if v_size >= 2 * coalesce(nullif(current_setting('recado.planned_size', true), ''), '0')::bigint then
        discard plans;
        perform set_config('recado.planned_size', v_size::text, false);
    end if;
end
$$;

-- Take a batch of payloads; one answer each, in their order. After it has returned, and its transaction committed,
-- the provider may be told that all is well: whatever could not be applied is kept. A deadlock, should there ever
-- be one, is for the caller to try again.
-- Every event is a look-up by key, and is planned as one for good, not by what the tables held when this session
-- began. (For the same reason look-ups by key stand in lateral subqueries with a limit: they cannot become a join
-- that reads a table.)
create function public.webhook_receive(p_batch jsonb) returns jsonb
language plpgsql set search_path = ''
set plan_cache_mode = 'force_generic_plan' set enable_seqscan = 'off' set jit = 'off' as $$
begin
    if jsonb_typeof(p_batch) is distinct from 'array' then
        raise exception using errcode = 'PT400', message = 'p_batch must be an array of payloads.',
            hint = 'Send one object per change of a delivery.';
    end if;
    perform private.forget_early_plans();
    begin
        return private.inbox_take(p_batch);
    exception
        -- one at a time, so that a bad payload harms no other
        when others then
            if private.is_passing(sqlstate) then
                raise;
            end if;
            return (
                select coalesce(jsonb_agg(private.inbox_take_alone(body) order by position), '[]')
                from jsonb_array_elements(p_batch) with ordinality as batch (body, position));
    end;
end
$$;

-- What is in these payloads, applied if it is news; the reason why not, else null.
create function private.inbox_reapply(p_body jsonb) returns text
language plpgsql set search_path = '' as $$
declare
    v_payloads private.inbox_payload[] := private.inbox_route(jsonb_build_array(p_body));
    v_error text := private.inbox_obstacle(p_body, v_payloads[1].number_id);
begin
    if v_error is null then
        perform private.inbox_apply(private.inbox_fresh(v_payloads));
        perform private.inbox_accounts(v_payloads);
    end if;
    return v_error;
exception
    when others then
        if private.is_passing(sqlstate) then
            raise;
        end if;
        get stacked diagnostics v_error = message_text;
        return v_error;
end
$$;

-- Apply a kept payload once more: true when it is applied now, or was before. Its events are kept until they are
-- applied; p_events are those that the function reads in the payload of an applied one, or reads better. However
-- often and in whatever order this is done, what is known already changes nothing.
create function public.webhook_replay(p_log_id uuid, p_events jsonb default null) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_log public.webhook_logs;
    v_events jsonb;
    v_error text;
begin
    select * into v_log from public.webhook_logs where id = p_log_id for update;
    if not found then
        raise exception using errcode = 'PT404', message = 'There is no such delivery.',
            hint = 'Pass webhook_logs.id.';
    end if;
    v_events := coalesce(p_events, v_log.events);
    if v_log.status = 'applied' and v_events is null then
        return true;
    end if;
    v_error := private.inbox_reapply(jsonb_build_object(
        'provider', v_log.provider, 'number', v_log.number, 'account', v_log.account, 'events', v_events,
        'error', case when v_events is null or v_events = '[]' then v_log.error end));
    -- what is dead stays so until it can be applied
    if v_log.status = 'failed' or v_log.status = 'dead' and v_error is null then
        perform private.webhook_log_settle(v_log, v_events, v_error);
    end if;
    return v_error is null;
end
$$;

-- What became of a kept payload that was tried again: 2, 8, 32 minutes … and then once a day, eight times in all.
create function private.webhook_log_settle(p_log public.webhook_logs, p_events jsonb, p_error text) returns void
language plpgsql set search_path = '' as $$
declare
    v_is_dead boolean := p_error is not null and p_log.attempts >= 8;
    v_tenant_id uuid := (private.inbox_route(jsonb_build_array(jsonb_build_object(
        'provider', p_log.provider, 'number', p_log.number))))[1].tenant_id;
begin
    update public.webhook_logs
    set status = case when p_error is null then 'applied' when v_is_dead then 'dead' else 'failed' end,
        tenant_id = coalesce(v_tenant_id, tenant_id),
        attempts = attempts + 1,
        error = p_error,
        events = case when p_error is not null then p_events end,
        applied_at = case when p_error is null then now() end,
        next_attempt_at = case when p_error is not null and not v_is_dead
            then now() + least(interval '1 minute' * 2 * 4 ^ (attempts - 1), interval '1 day') end
    where id = p_log.id;
    if v_is_dead and coalesce(v_tenant_id, p_log.tenant_id) is not null then
        perform private.alert_raise(coalesce(v_tenant_id, p_log.tenant_id), 'delivery_lost', p_log.id::text,
            format('A delivery of the provider could not be applied: %s', p_error));
    end if;
end
$$;

-- The sweep: try again what failed and is due, and what was said about messages stored in the very moment.
-- Returns how many payloads it applied.
create function public.webhook_retry(p_limit int default 100) returns int
language plpgsql set search_path = '' as $$
declare
    v_log_id uuid;
    v_applied int := 0;
begin
    for v_log_id in
        select id from public.webhook_logs
        where status = 'failed' and next_attempt_at <= now()
        order by next_attempt_at
        limit p_limit
        for update skip locked
    loop
        v_applied := v_applied + public.webhook_replay(v_log_id)::int;
    end loop;
    perform private.inbox_changes(private.early_events_late(p_limit));
    return v_applied;
end
$$;

-- These run with the rights of service_role, the only one who may call webhook_receive() and its sisters.
grant execute on function
    private.as_uuid(text), private.inbox_route(jsonb),
    private.is_refusal(jsonb), private.changes_message(public.messages, text, timestamptz, jsonb),
    private.event_detail(jsonb), private.is_stand_in(text), private.is_first_pricing(jsonb, timestamptz, jsonb),
    private.message_versions(public.messages),
    private.inbox_fresh(private.inbox_payload[]), private.inbox_apply(private.inbox_event[]),
    private.inbox_obstacle(jsonb, uuid), private.inbox_log(jsonb[], uuid[], text[]),
    private.inbox_settle(jsonb, private.inbox_payload[], private.inbox_event[], private.inbox_message[]),
    private.inbox_take(jsonb), private.inbox_take_alone(jsonb), private.is_passing(text),
    private.forget_early_plans(),
    private.account_tenant(text, text),
    private.inbox_reapply(jsonb), private.webhook_log_settle(public.webhook_logs, jsonb, text),
    public.webhook_receive(jsonb), public.webhook_replay(uuid, jsonb), public.webhook_retry(int)
    to service_role;


-- sql/51_inbox_leads.sql

-- Whose is an event: leads found by their addresses, made, and followed when their addresses change.

-- Brazil, Argentina and Mexico write a mobile number in two ways, with or without a digit that says so: this is the one
-- form for both. Null for all other numbers, landlines among them: their digits tell, but for Mexico, where no landline
-- was ever written with the 1.
create function private.mobile_key(p_phone text) returns text
language plpgsql immutable strict set search_path = '' as $$
begin
    return case
        -- what follows the area code begins with 6 to 9 in a mobile, and with 2 to 5 in a landline
        when p_phone ~ '^55[1-9]{2}9?[6-9]\d{7}$' then left(p_phone, 4) || '9' || right(p_phone, 8)
        when p_phone ~ '^521?[2-9]\d{9}$' then '52' || right(p_phone, 10)
        -- and with 4 in a landline; area codes have two digits, or three if they are one of these, or else four
        when p_phone ~ '^549?[1-3]\d{9}$' and right(p_phone, 10) !~ (
            '^(11|2(20|21|23|30|36|37|49|6[01346]|80|9[14789])|3(36|4[12358]|5[138]|6[24]|7[069]|8[013578]))4'
            || '|^(?!11|2(20|21|23|30|36|37|49|6[01346]|80|9[14789])|3(36|4[12358]|5[138]|6[24]|7[069]|8[013578]))\d{4}4')
            then '549' || right(p_phone, 10)
    end;
end
$$;

-- A contact's addresses, the surest first: a business-scoped user id. Usernames change hands, so one counts only
-- where it is all we are told.
create function private.contact_keys(p_contact jsonb, p_provider text, p_scope text) returns private.contact_key[]
language plpgsql immutable set search_path = '' as $$
declare
    v_keys private.contact_key[] := array[]::private.contact_key[];
    v_phone text := p_contact ->> 'phone';
    v_mobile text := case when left(v_phone, 2) in ('52', '54', '55') then private.mobile_key(v_phone) end;
begin
    if p_contact ->> 'bsuid' <> '' then
        v_keys := v_keys || ('bsuid', p_scope, p_contact ->> 'bsuid')::private.contact_key;
    end if;
    if v_phone <> '' then
        v_keys := v_keys || ('phone', '', v_phone)::private.contact_key;
    end if;
    if v_mobile is not null then
        v_keys := v_keys || ('mobile', '', v_mobile)::private.contact_key;
    end if;
    if p_contact ->> 'chat_id' <> '' then
        v_keys := v_keys || ('chat_id', p_provider, p_contact ->> 'chat_id')::private.contact_key;
    end if;
    if p_contact ->> 'parent_bsuid' <> '' then
        v_keys := v_keys || ('parent_bsuid', '', p_contact ->> 'parent_bsuid')::private.contact_key;
    end if;
    if p_contact ->> 'username' <> '' and cardinality(v_keys) = 0 then
        v_keys := v_keys || ('username', '', lower(p_contact ->> 'username'))::private.contact_key;
    end if;
    return v_keys;
end
$$;

-- The lead of each event, null where no address is known.
create function private.leads_find(p_events private.inbox_event[]) returns private.lead_found[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select (
            case when f.is_complete then f.lead_id else private.lead_decide(p_events[o.ordinality]) end, f.is_complete
        )::private.lead_found
        from unnest(p_events) with ordinality as o
        cross join lateral (
            select (array_agg(i.lead_id))[1] as lead_id, count(i.lead_id) = count(*) and count(distinct i.lead_id) = 1
                as is_complete
            from unnest(o.keys) as k
            left join lateral (
                select li.lead_id
                from public.lead_identities li
                where li.tenant_id = o.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
                    and li.valid_to = 'infinity' and li.valid_from <= o.at
                limit 1
            ) as i on true
        ) as f
        order by o.ordinality);
end
$$;

-- The lead of an event whose addresses are not all known, or not of one lead: the surest kind decides. An address
-- leads to whom it belonged at the time.
create function private.lead_decide(p_event private.inbox_event) returns uuid
language plpgsql stable set search_path = '' as $$
begin
    return (
        select i.lead_id
        from unnest(p_event.keys) with ordinality as k (kind, scope, value, rank)
        cross join lateral (
            select li.lead_id
            from public.lead_identities li
            where li.tenant_id = p_event.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
                and li.valid_to > p_event.at
            order by li.valid_to
            limit 1
        ) as i
        -- a phone that now comes with another user id was given to somebody else, for all we know
        where not (
            k.kind in ('phone', 'mobile') and p_event.keys[1].kind = 'bsuid' and exists (
                select from public.lead_identities other
                where other.tenant_id = p_event.tenant_id and other.lead_id = i.lead_id
                    and other.kind = 'bsuid' and other.scope = p_event.scope and other.valid_to = 'infinity'
                    and other.value <> p_event.keys[1].value))
        order by k.rank
        limit 1);
end
$$;

-- New leads for events without one. Of those that share an address only the first makes a lead, and another
-- transaction may have been faster: who is left out finds the lead on the next look.
create function private.leads_create(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_born uuid[];
begin
    with wanted as (
        select e.ordinality as n, e.tenant_id, e.at, e.kind = 'message' as is_theirs, e.body -> 'contact' as contact,
            k.kind, k.scope, k.value, min(e.ordinality) over (partition by e.tenant_id, k.kind, k.scope, k.value) as first_n
        from unnest(p_events) with ordinality as e
        cross join lateral unnest(e.keys) as k
        where p_leads[e.ordinality] is null
    ),
    born as materialized (
        select n, tenant_id, at, contact, private.uuid7() as lead_id,
            case when is_theirs then nullif(contact ->> 'profile_name', '') end as name,
            case when is_theirs
                then coalesce(nullif(contact ->> 'username', ''), nullif(contact ->> 'profile_name', '')) end as user_name
        from wanted
        group by n, tenant_id, at, is_theirs, contact
        having bool_and(first_n = n)
    ),
    identified as (
        insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
        select b.tenant_id, w.kind, w.scope, w.value, b.at, b.lead_id
        from born b
        join wanted w using (n)
        order by b.tenant_id, w.kind, w.scope, w.value
        on conflict do nothing
        returning lead_id
    ),
    made as (
        insert into public.customer_leads (
            tenant_id, id, phone, chat_id, name, name_source, named_at, user_name)
        select tenant_id, lead_id, contact ->> 'phone', contact ->> 'chat_id', name,
            case when name is not null then 'profile' end, case when name is not null then at end, user_name
        from born
        where lead_id in (select lead_id from identified)
        order by tenant_id, lead_id
        returning id
    )
    select array_agg(id) into v_born from made;
    perform private.leads_name_from_book(v_born, p_events);
end
$$;

-- Addresses a lead had not shown before, or not as early; those of another lead go to a person to decide. Answers
-- whether a lead has a new address, by which other events may be known.
create function private.leads_learn(p_events private.inbox_event[], p_leads uuid[]) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_learned uuid[];
begin
    with seen as materialized (
        select distinct on (e.tenant_id, k.kind, k.scope, k.value)
            e.tenant_id, k.kind, k.scope, k.value, e.at, p_leads[e.ordinality] as lead_id, i.lead_id as holder,
            i.valid_to
        from unnest(p_events) with ordinality as e
        cross join lateral unnest(e.keys) as k
        left join lateral (
            select li.lead_id, li.valid_from, li.valid_to
            from public.lead_identities li
            where li.tenant_id = e.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
                and li.valid_to > e.at
            order by li.valid_to
            limit 1
        ) as i on true
        where p_leads[e.ordinality] is not null and coalesce(i.valid_from > e.at, true)
        order by e.tenant_id, k.kind, k.scope, k.value, e.at
    ),
    earlier as (
        update public.lead_identities li
        set valid_from = s.at
        from seen s
        where li.tenant_id = s.tenant_id and li.kind = s.kind and li.scope = s.scope and li.value = s.value
            and li.valid_to = s.valid_to
    ),
    learned as (
        insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
        select tenant_id, kind, scope, value, at, lead_id
        from seen
        where holder is null
        order by tenant_id, kind, scope, value
        on conflict do nothing
        returning lead_id
    )
    select array_agg(distinct lead_id) into v_learned from learned;

    insert into public.lead_merge_candidates (tenant_id, lead_id, other_lead_id, reason, evidence)
    select distinct on (e.tenant_id, least(w.lead_id, i.lead_id), greatest(w.lead_id, i.lead_id))
        e.tenant_id, least(w.lead_id, i.lead_id), greatest(w.lead_id, i.lead_id), 'shared_' || k.kind,
        jsonb_build_object(k.kind, k.value)
    from unnest(p_events) with ordinality as e
    cross join lateral unnest(e.keys) as k
    cross join lateral (select p_leads[e.ordinality] as lead_id) as w
    cross join lateral (
        select li.lead_id
        from public.lead_identities li
        where li.tenant_id = e.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
            and li.valid_to > e.at
        order by li.valid_to
        limit 1
    ) as i
    where w.lead_id <> i.lead_id and k.kind <> 'username'
    order by e.tenant_id, least(w.lead_id, i.lead_id), greatest(w.lead_id, i.lead_id), k.kind
    on conflict do nothing;

    perform private.leads_name_from_book(v_learned, p_events);
    return v_learned is not null;
end
$$;

-- What a customer's messages say about them. name: of the first profile, unless staff gave another; user_name: of the
-- last, never emptied; phone and chat_id: once.
create function private.leads_rename(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_leads uuid[] := array(
        select distinct held.id
        from unnest(p_events) with ordinality as e
        cross join lateral (
            select * from public.customer_leads
            where tenant_id = e.tenant_id and id = p_leads[e.ordinality]
            limit 1
        ) as held
        where held.phone is null and e.body #>> '{contact,phone}' <> ''
            or held.chat_id is null and e.body #>> '{contact,chat_id}' <> ''
            or e.kind = 'message' and (
                private.shown_name(e.body -> 'contact') <> coalesce(held.user_name, '')
                or e.body #>> '{contact,profile_name}' <> ''
                    and private.takes_name(held, e.at, e.body #>> '{contact,profile_name}')));
begin
    if cardinality(v_leads) = 0 then
        return;
    end if;
    update public.customer_leads l
    set name = case when n.is_first then n.name else l.name end,
        name_source = case when n.is_first then 'profile' else l.name_source end,
        named_at = case when n.is_first then n.named_at else l.named_at end,
        user_name = case when n.is_last then n.user_name else l.user_name end,
        phone = coalesce(l.phone, n.phone),
        chat_id = coalesce(l.chat_id, n.chat_id)
    from (
        select held.id, s.*, private.takes_name(held, s.named_at, s.name) as is_first,
            s.user_name is not null
                and not private.has_later_name(held.tenant_id, held.id, s.last_at, s.last_id) as is_last
        from (
            select
                e.tenant_id, p_leads[e.ordinality] as lead_id,
                (array_agg(c.name order by e.at, c.name) filter (where c.name is not null))[1] as name,
                min(e.at) filter (where c.name is not null) as named_at,
                (array_agg(c.user_name order by e.at desc, e.id desc)
                    filter (where c.user_name is not null))[1] as user_name,
                (array_agg(e.id order by e.at desc, e.id desc) filter (where c.user_name is not null))[1] as last_id,
                max(e.at) filter (where c.user_name is not null) as last_at,
                (array_agg(c.phone order by e.at) filter (where c.phone is not null))[1] as phone,
                (array_agg(c.chat_id order by e.at) filter (where c.chat_id is not null))[1] as chat_id
            from unnest(p_events) with ordinality as e
            cross join lateral (
                select nullif(e.body #>> '{contact,phone}', '') as phone,
                    nullif(e.body #>> '{contact,chat_id}', '') as chat_id,
                    case e.kind when 'message' then nullif(e.body #>> '{contact,profile_name}', '') end as name,
                    case e.kind when 'message' then private.shown_name(e.body -> 'contact') end as user_name
            ) as c
            where p_leads[e.ordinality] = any (v_leads)
            group by e.tenant_id, p_leads[e.ordinality]
        ) as s
        join public.customer_leads held on held.tenant_id = s.tenant_id and held.id = s.lead_id
        order by held.tenant_id, held.id
        for no key update of held
    ) as n
    where l.tenant_id = n.tenant_id and l.id = n.id
        and (n.is_first or n.is_last and l.user_name is distinct from n.user_name
            or l.phone is null and n.phone is not null or l.chat_id is null and n.chat_id is not null);
end
$$;

-- Is this name, from a profile seen at that time, the one for a lead that has had another or none?
create function private.takes_name(p_lead public.customer_leads, p_at timestamptz, p_name text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return p_name is not null and (
        p_lead.name is null or p_lead.name = p_lead.phone or p_lead.name_source = 'contacts'
        or p_lead.name_source = 'profile' and (p_at, p_name) < (p_lead.named_at, p_lead.name));
end
$$;

-- Did a later message of the lead bring a name? Asked only where the name is another.
create function private.has_later_name(p_tenant_id uuid, p_lead_id uuid, p_at timestamptz, p_wa_message_id text)
returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select
        from public.chats c
        cross join lateral (
            select m.provider_at, m.wa_message_id
            from public.messages m
            where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.provider_at >= p_at and m.is_named
            order by m.provider_at desc, m.id desc
        ) as later
        where c.tenant_id = p_tenant_id and c.lead_id = p_lead_id
            and (later.provider_at, later.wa_message_id) > (p_at, p_wa_message_id));
end
$$;

-- What a contact shows as its name: the username, else that of the profile.
create function private.shown_name(p_contact jsonb) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(nullif(p_contact ->> 'username', ''), nullif(p_contact ->> 'profile_name', ''));
end
$$;

-- Leads without a name of their own are called as in the address book, after its last change. p_events say which
-- businesses the leads are of.
create function private.leads_name_from_book(p_leads uuid[], p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.customer_leads l
    set name = b.name, name_source = 'contacts', named_at = b.changed_at
    from (
        select held.tenant_id, held.id, entry.name, entry.changed_at
        from (select distinct e.tenant_id from unnest(p_events) e) as t
        join public.customer_leads held on held.tenant_id = t.tenant_id and held.id = any (p_leads)
        cross join lateral (
            select a.name, a.changed_at
            from public.lead_identities i
            join public.address_book a
                on a.tenant_id = i.tenant_id and a.kind = i.kind and a.scope = i.scope and a.value = i.value
            where i.tenant_id = held.tenant_id and i.lead_id = held.id
            order by a.changed_at desc, a.name
            limit 1
        ) as entry
        where (held.name is null or held.name = held.phone or held.name_source = 'contacts')
            and (held.name_source is distinct from 'contacts' or held.named_at < entry.changed_at)
            and (held.name_source = 'contacts' or entry.name is not null)
        order by held.tenant_id, held.id
        for no key update of held
    ) as b
    where l.tenant_id = b.tenant_id and l.id = b.id;
end
$$;

-- Entries of address books: kept, and the names of leads that have none. Nobody becomes a lead by them.
create function private.inbox_contacts(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_leads uuid[];
begin
    insert into public.address_book as a (tenant_id, kind, scope, value, name, changed_at)
    select distinct on (e.tenant_id, k.kind, k.scope, k.value)
        e.tenant_id, k.kind, k.scope, k.value,
        case when e.body ->> 'action' = 'add' then nullif(e.body ->> 'name', '') end, e.at
    from unnest(p_events) e
    cross join lateral unnest(e.keys) as k
    where k.kind <> 'username'
    order by e.tenant_id, k.kind, k.scope, k.value, e.at desc, e.body ->> 'name'
    on conflict on constraint address_book_pkey do update
    set name = excluded.name, changed_at = excluded.changed_at
    where a.changed_at < excluded.changed_at;

    select array_agg(distinct i.lead_id)
    into v_leads
    from unnest(p_events) e
    cross join lateral unnest(e.keys) as k
    cross join lateral (
        select li.lead_id
        from public.lead_identities li
        where li.tenant_id = e.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
    ) as i;
    perform private.leads_name_from_book(v_leads, p_events);
end
$$;

-- The lead of each event, made if need be. One event may teach an address by which the next is known.
create function private.inbox_leads(p_events private.inbox_event[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_found private.lead_found[];
    v_leads uuid[];
    v_has_learned boolean;
begin
    for v_round in 1 .. 100 loop
        v_found := private.leads_find(p_events);
        v_leads := array(select f.lead_id from unnest(v_found) f);
        v_has_learned := exists (select from unnest(v_found) f where f.lead_id is not null and not f.is_complete)
            and private.leads_learn(p_events, v_leads);
        if array_position(v_leads, null) is null then
            perform private.leads_rename(p_events, v_leads);
            return v_leads;
        elsif not v_has_learned then
            perform private.leads_create(p_events, v_leads);
        end if;
    end loop;
    raise exception using errcode = 'PT400', message = 'An event names no customer.',
        hint = 'Its contact needs a phone, bsuid, chat_id or username.';
end
$$;

-- A customer moved to another number, or WhatsApp gave them another id: addresses close and open, the lead stays.
-- Told before anything else of theirs, it makes the lead that their messages will find.
create function private.inbox_identities(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_event private.inbox_event;
    v_old private.contact_key[];
    v_new private.contact_key[];
    v_lead_id uuid;
begin
    foreach v_event in array array(select e from unnest(p_events) e order by e.at) loop
        v_old := private.contact_keys(v_event.body -> 'from', v_event.provider, v_event.scope);
        v_new := private.contact_keys(v_event.body -> 'to', v_event.provider, v_event.scope);
        continue when cardinality(v_new) = 0;
        v_event.keys := v_new;
        v_event.body := jsonb_build_object('contact', v_event.body -> 'to' || coalesce(v_event.body -> 'from', '{}'));
        v_lead_id := private.lead_before(v_event, v_old);
        if v_lead_id is null then
            v_lead_id := (private.inbox_leads(array[v_event]))[1];
        end if;
        perform private.leads_rename(array[v_event], array[v_lead_id]);
        perform private.addresses_end(v_event, v_old, v_lead_id);
        perform private.leads_learn(array[v_event], array[v_lead_id]);
    end loop;
end
$$;

-- Whose were these addresses when the event happened, or at last?
create function private.lead_before(p_event private.inbox_event, p_keys private.contact_key[]) returns uuid
language plpgsql stable set search_path = '' as $$
begin
    return (
        select i.lead_id
        from unnest(p_keys) with ordinality as k (kind, scope, value, rank)
        cross join lateral (
            select li.lead_id
            from public.lead_identities li
            where li.tenant_id = p_event.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
            order by li.valid_to < p_event.at, abs(extract(epoch from least(li.valid_to, '9999-01-01') - p_event.at))
            limit 1
        ) as i
        order by k.rank
        limit 1);
end
$$;

-- These addresses are not the lead's any more, nor those of another that may be the same person; that they were is
-- known from now on, if it was not.
create function private.addresses_end(
    p_event private.inbox_event, p_keys private.contact_key[], p_lead_id uuid
) returns void
language plpgsql set search_path = '' as $$
begin
    update public.lead_identities i set valid_to = p_event.at
    from unnest(p_keys) as k
    where i.tenant_id = p_event.tenant_id and i.valid_to = 'infinity' and i.valid_from <= p_event.at
        and (i.lead_id = p_lead_id or exists (
            select from public.lead_merge_candidates c
            where c.tenant_id = i.tenant_id and c.status = 'open' and c.lead_id = least(i.lead_id, p_lead_id)
                and c.other_lead_id = greatest(i.lead_id, p_lead_id)))
        and (i.kind, i.scope, i.value) = (k.kind, k.scope, k.value) and not k = any (p_event.keys);

    insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, valid_to, lead_id)
    select p_event.tenant_id, k.kind, k.scope, k.value, p_event.at, p_event.at, p_lead_id
    from unnest(p_keys) as k
    where not k = any (p_event.keys) and not exists (
        select from public.lead_identities i
        where i.tenant_id = p_event.tenant_id and i.kind = k.kind and i.scope = k.scope and i.value = k.value
            and i.valid_to >= p_event.at)
    order by k.kind, k.scope, k.value
    on conflict do nothing;
end
$$;

grant execute on function
    private.mobile_key(text), private.contact_keys(jsonb, text, text), private.lead_decide(private.inbox_event),
    private.leads_find(private.inbox_event[]), private.leads_create(private.inbox_event[], uuid[]),
    private.leads_learn(private.inbox_event[], uuid[]), private.leads_rename(private.inbox_event[], uuid[]),
    private.takes_name(public.customer_leads, timestamptz, text),
    private.has_later_name(uuid, uuid, timestamptz, text), private.shown_name(jsonb),
    private.leads_name_from_book(uuid[], private.inbox_event[]), private.inbox_contacts(private.inbox_event[]),
    private.inbox_leads(private.inbox_event[]), private.inbox_identities(private.inbox_event[]),
    private.lead_before(private.inbox_event, private.contact_key[]),
    private.addresses_end(private.inbox_event, private.contact_key[], uuid)
    to service_role;


-- sql/52_inbox_messages.sql

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


-- sql/53_inbox_changes.sql

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


-- sql/54_inbox_accounts.sql

-- What providers say about accounts, numbers and templates, rather than about messages. Account-level deliveries name
-- no number: they go to every number of the account, in whichever business, or to the one whose phone they name.

-- account_news: the last thing said about each subject, so that an older one undoes nothing and the same one again
-- changes nothing.
create table private.account_news (
    tenant_id uuid,
    subject text,
    happened_at timestamptz not null,
    said jsonb not null,
    constraint account_news_pkey primary key (tenant_id, subject),
    constraint account_news_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
comment on table private.account_news is 'The last that was said about each subject of a business''s accounts.';
comment on column private.account_news.said is
    'pii: may name who asked for it. Two that are of the same second are ordered by it.';

alter table private.account_news enable row level security;
grant select, insert, update, delete on private.account_news to service_role;

create index whatsapp_numbers_waba_id_idx on public.whatsapp_numbers (waba_id) where is_active;

-- One thing said about one number. topic: what it may contradict.
create type private.account_event as (
    tenant_id uuid, number_id uuid, account text, topic text, subject text, at timestamptz, said jsonb
);

-- What is new of these, each subject's last word only; noted, so that it is new once.
create function private.account_news_take(p_events private.account_event[]) returns private.account_event[]
language plpgsql set search_path = '' as $$
declare
    v_news private.account_event[];
begin
    with latest as (
        select distinct on (e.tenant_id, e.topic, e.number_id) e.*
        from unnest(p_events) e
        order by e.tenant_id, e.topic, e.number_id, e.at desc, e.said desc
    ),
    taken as (
        insert into private.account_news as n (tenant_id, subject, happened_at, said)
        select l.tenant_id, concat_ws(' ', l.topic, l.number_id), l.at, l.said
        from latest l
        order by 1, 2
        on conflict on constraint account_news_pkey do update
        set happened_at = excluded.happened_at, said = excluded.said
        where (n.happened_at, n.said) < (excluded.happened_at, excluded.said)
        returning n.tenant_id, n.subject
    )
    select array_agg((l.tenant_id, l.number_id, l.account, l.topic, l.subject, l.at, l.said)::private.account_event
        order by l.at, l.tenant_id, l.topic, l.number_id)
    into v_news
    from latest l
    join taken t on t.tenant_id = l.tenant_id and t.subject = concat_ws(' ', l.topic, l.number_id);
    return coalesce(v_news, '{}');
end
$$;

-- Whom the account-level payloads of a batch are about.
create function private.accounts_route(p_payloads private.inbox_payload[]) returns private.account_event[]
language plpgsql stable set search_path = '' as $$
declare
    v_latest timestamptz := private.clock() + interval '5 minutes';
begin
    return array(
        select (
            n.tenant_id, n.id, p.scope,
            case e.body ->> 'subject'
                when 'account' then private.account_topic(e.body #>> '{data,event}')
                when 'alert' then concat_ws(' ', 'alert', e.body #>> '{data,type}')
                when 'security' then concat_ws(' ', 'security', e.body #>> '{data,event}')
                else e.body ->> 'subject' end,
            e.body ->> 'subject', least((e.body ->> 'at')::timestamptz, v_latest),
            coalesce(nullif(e.body -> 'data', 'null'), '{}'))::private.account_event
        from unnest(p_payloads) p
        cross join lateral jsonb_array_elements(p.events) as e (body)
        cross join lateral (
            select w.tenant_id, w.id from public.whatsapp_numbers w
            where w.provider = p.provider and w.waba_id = p.scope and w.is_active
                and e.body #>> '{data,phone}' is null
            union all
            select w.tenant_id, w.id from public.whatsapp_numbers w
            where w.provider = p.provider and w.phone_number = e.body #>> '{data,phone}' and w.is_active
        ) as n
        where p.number_id is null and not p.is_known and e.body ->> 'kind' = 'account');
end
$$;

-- Events that take each other back are about one topic.
create function private.account_topic(p_event text) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case
        when p_event in ('partner_removed', 'partner_added', 'partner_app_installed', 'partner_app_uninstalled',
            'account_offboarded', 'account_reconnected', 'account_deleted') then 'connection'
        when p_event = 'disabled_update' then 'ban'
        else p_event
    end;
end
$$;

-- Apply the account-level payloads of a batch.
create function private.inbox_accounts(p_payloads private.inbox_payload[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_events private.account_event[] := private.accounts_route(p_payloads);
    v_news private.account_event[];
begin
    perform private.template_event(t.tenant_id, t.account, t.at, t.subject, t.said)
    from (
        select distinct e.tenant_id, e.account, e.at, e.subject, e.said
        from unnest(v_events) e
        where e.subject like 'template\_%'
        order by e.tenant_id, e.at, e.subject, e.said
    ) as t;

    v_news := private.account_news_take(array(select e from unnest(v_events) e where e.subject not like 'template\_%'));
    perform private.number_limits_apply(v_events);
    perform private.number_quality_apply(e) from unnest(v_news) e where e.subject = 'number_quality';
    perform private.number_names_apply(e) from unnest(v_news) e where e.subject in ('number_name', 'number_username');
    perform private.account_state_apply(e) from unnest(v_news) e where e.subject = 'account';
    perform private.account_alerts_apply(e) from unnest(v_news) e where e.subject in ('alert', 'review', 'security');
end
$$;

-- How many customers a number may write to outside windows in 24 hours: two subjects tell, the last of them holds.
create function private.number_limits_apply(p_events private.account_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_news private.account_event[] := private.account_news_take(array(
        select (e.tenant_id, e.number_id, e.account, 'limit', e.subject, e.at,
            jsonb_build_object('limit', e.said -> 'limit'))::private.account_event
        from unnest(p_events) e
        where e.subject in ('number_quality', 'capability') and e.said ? 'limit'));
begin
    update public.whatsapp_numbers n set messaging_limit = (e.said ->> 'limit')::int
    from unnest(v_news) e
    where n.tenant_id = e.tenant_id and n.id = e.number_id
        and n.messaging_limit is distinct from (e.said ->> 'limit')::int;
end
$$;

-- Older webhooks tell the quality by an event; a change of it pauses bulk, or lets it go on (see
-- private.number_quality_changed).
create function private.number_quality_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_quality text := coalesce(upper(p_event.said ->> 'quality'), case p_event.said ->> 'event'
        when 'flagged' then 'RED' when 'downgrade' then 'RED' when 'unflagged' then 'GREEN' end);
begin
    update public.whatsapp_numbers set quality_rating = v_quality
    where tenant_id = p_event.tenant_id and id = p_event.number_id and quality_rating is distinct from v_quality
        and v_quality is not null;
end
$$;

-- The name that customers see, and the username.
create function private.number_names_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
begin
    if p_event.subject = 'number_username' then
        update public.whatsapp_numbers
        set username = case p_event.said ->> 'status' when 'approved' then p_event.said ->> 'username' end
        where tenant_id = p_event.tenant_id and id = p_event.number_id
            and p_event.said ->> 'status' in ('approved', 'deleted');
    elsif p_event.said ->> 'decision' = 'approved' then
        update public.whatsapp_numbers set display_name = left(p_event.said ->> 'name', 200)
        where tenant_id = p_event.tenant_id and id = p_event.number_id and btrim(p_event.said ->> 'name') <> '';
        perform private.alert_end(p_event.tenant_id, 'number_name_refused', p_event.number_id::text);
    elsif p_event.said ->> 'decision' = 'rejected' then
        perform private.alert_raise(p_event.tenant_id, 'number_name_refused', p_event.number_id::text,
            concat_ws(': ', 'The name of the number was refused', p_event.said ->> 'name', p_event.said ->> 'reason'),
            p_number_id => p_event.number_id);
    end if;
end
$$;

-- What an event of the account does to its numbers: stop (nothing can be sent), mend, rest (no bulk until it is over),
-- warn, or nothing.
create function private.account_effect(p_said jsonb) returns text
language plpgsql immutable set search_path = '' as $$
declare
    v_reason text := upper(coalesce(p_said ->> 'reason', ''));
begin
    return case p_said ->> 'event'
        when 'partner_removed' then 'stop'
        when 'partner_app_uninstalled' then 'stop'
        when 'account_offboarded' then 'stop'
        when 'account_deleted' then 'stop'
        when 'partner_added' then 'mend'
        when 'partner_app_installed' then 'mend'
        when 'account_reconnected' then 'mend'
        when 'disabled_update' then case
            when v_reason like '%REINSTATE%' then 'mend' when v_reason like '%SCHEDULE%' then 'warn' else 'stop' end
        when 'account_restriction' then case
            when v_reason like '%CUSTOMER_INITIATED%' then 'stop' when v_reason like '%BIZ_INITIATED%' then 'rest'
            else 'warn' end
        when 'account_violation' then 'warn'
    end;
end
$$;

create function private.account_state_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_effect text := private.account_effect(p_event.said);
    v_words text := format('The account: %s',
        concat_ws(', ', p_event.said ->> 'event', nullif(p_event.said ->> 'reason', '')));
    v_subject text := concat_ws(' ', p_event.topic, p_event.number_id);
begin
    if v_effect = 'stop' then
        perform private.channel_stop(p_event.tenant_id, p_event.number_id, v_words,
            jsonb_build_object('account_event', p_event.topic));
    elsif v_effect = 'rest' then
        perform private.bulk_pause(
            p_event.tenant_id, p_event.number_id, private.restriction_end(p_event), 'restricted', v_words);
    elsif v_effect = 'warn' then
        perform private.alert_raise(p_event.tenant_id, 'account_warning', v_subject, v_words,
            p_number_id => p_event.number_id);
    elsif v_effect = 'mend' then
        perform private.alert_end(p_event.tenant_id, 'account_warning', v_subject);
        perform private.channel_mend(a.tenant_id, a.number_id)
        from public.alerts a
        where a.tenant_id = p_event.tenant_id and a.kind = 'channel_stopped' and a.subject = p_event.number_id::text
            and a.resolved_at is null and a.details ->> 'account_event' = p_event.topic;
    end if;
end
$$;

-- A restriction says when it ends; where it does not, a day is taken.
create function private.restriction_end(p_event private.account_event) returns timestamptz
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(
        (
            select max(to_timestamp((r ->> 'expiration')::bigint))
            from jsonb_path_query(p_event.said, '$.details.restriction_info[*]') as r
            where r ->> 'expiration' ~ '^\d{9,11}$'),
        p_event.at + interval '24 hours');
end
$$;

create function private.account_alerts_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_said jsonb := p_event.said;
    v_subject text := concat_ws(' ', p_event.topic, p_event.number_id);
    v_is_over boolean := coalesce(
        v_said ->> 'decision' = 'approved' or v_said ->> 'status' in ('none', 'resolved', 'inactive'), false);
begin
    if v_is_over then
        perform private.alert_end(p_event.tenant_id, 'account_warning', v_subject);
    else
        perform private.alert_raise(p_event.tenant_id, 'account_warning', v_subject,
            concat_ws(' ', p_event.subject, v_said ->> 'type', v_said ->> 'event', v_said ->> 'decision',
                v_said ->> 'message'),
            p_number_id => p_event.number_id,
            p_severity => case v_said ->> 'severity' when 'critical' then 'critical' when 'informational' then 'info'
                else 'warning' end);
    end if;
end
$$;

-- A provider reports that something is wrong with a number, and with no message of it.
create function private.inbox_problems(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.alert_raise(n.tenant_id, 'provider_problem', concat_ws(' ', n.number_id, n.said ->> 'code'),
        coalesce(n.said ->> 'message', 'The provider reports a problem.'), p_number_id => n.number_id)
    from unnest(private.account_news_take(array(
        select (e.tenant_id, e.number_id, null, concat_ws(' ', 'problem', e.body ->> 'code'), 'problem', e.at,
            jsonb_build_object('code', e.body -> 'code', 'message', e.body -> 'message'))::private.account_event
        from unnest(p_events) e))) n;
end
$$;

grant execute on function
    private.account_news_take(private.account_event[]), private.accounts_route(private.inbox_payload[]),
    private.account_topic(text), private.inbox_accounts(private.inbox_payload[]),
    private.number_limits_apply(private.account_event[]), private.number_quality_apply(private.account_event),
    private.number_names_apply(private.account_event), private.account_effect(jsonb),
    private.account_state_apply(private.account_event), private.restriction_end(private.account_event),
    private.account_alerts_apply(private.account_event), private.inbox_problems(private.inbox_event[])
    to service_role;


-- sql/55_activity.sql

-- Activity: a quiet period of a customer is one row here and becomes one write of the lead, some minutes after its
-- last message. The time is never indexed: every message would rewrite the index, and the table stays small.

create table public.pending_activity (
    tenant_id uuid,
    lead_id uuid,
    last_activity_at timestamptz not null,
    token_count bigint not null default 0,
    thread_id uuid,
    constraint pending_activity_pkey primary key (tenant_id, lead_id),
    constraint pending_activity_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade
) with (fillfactor = 50);
comment on table public.pending_activity is 'Activity of leads that waits for a quiet moment to be written.';

alter table public.pending_activity enable row level security;
grant select on public.pending_activity to authenticated;
grant select, insert, update, delete on public.pending_activity to service_role;
create policy pending_activity_select_member on public.pending_activity for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- Messages were stored: their leads were active.
create function private.activity_note(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.pending_activity as p (tenant_id, lead_id, last_activity_at)
    select m.tenant_id, m.lead_id, max(m.at)
    from unnest(p_stored) m
    where m.is_live
    group by m.tenant_id, m.lead_id
    order by m.tenant_id, m.lead_id
    on conflict (tenant_id, lead_id) do update
    set last_activity_at = greatest(p.last_activity_at, excluded.last_activity_at);
end
$$;

-- An AI run took tokens for a lead. It does not prolong the quiet period.
create function private.activity_tokens(p_tenant_id uuid, p_lead_id uuid, p_thread_id uuid, p_tokens bigint)
returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.pending_activity as p (tenant_id, lead_id, last_activity_at, token_count, thread_id)
    values (p_tenant_id, p_lead_id, private.clock(), p_tokens, p_thread_id)
    on conflict (tenant_id, lead_id) do update
    set token_count = p.token_count + excluded.token_count, thread_id = excluded.thread_id;
end
$$;

-- Write what is due, or everything. Any number may run at once: each row is written by one of them. Returns how
-- many leads were written.
create function public.activity_flush(p_all boolean default false, p_limit int default 10000) returns int
language plpgsql set search_path = '' as $$
declare
    v_count int;
begin
    with due as (
        select p.ctid as place, (select private.clock()) - make_interval(secs => s.activity_delay_seconds) as quiet_since
        from public.pending_activity p
        join public.tenant_settings s on s.tenant_id = p.tenant_id
        -- leads first, as everywhere; whoever else writes one now leaves it to the next flush
        join public.customer_leads l on l.tenant_id = p.tenant_id and l.id = p.lead_id
        where p_all or p.last_activity_at <= (select private.clock()) - make_interval(secs => s.activity_delay_seconds)
        order by p.tenant_id, p.lead_id
        limit p_limit
        for no key update of l skip locked
    ),
    quiet as (
        -- a row that a message has just moved is not where it was: it waits for the next flush
        delete from public.pending_activity p
        using due d
        where p.ctid = d.place and (p_all or p.last_activity_at <= d.quiet_since)
        returning p.*
    )
    update public.customer_leads l
    set last_activity = greatest(l.last_activity, q.last_activity_at),
        thread_token_count = l.thread_token_count + q.token_count,
        thread_id = coalesce(q.thread_id, l.thread_id)
    from quiet q
    where l.tenant_id = q.tenant_id and l.id = q.lead_id;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
grant execute on function private.activity_note(private.inbox_message[]),
    private.activity_tokens(uuid, uuid, uuid, bigint), public.activity_flush(boolean, int) to service_role;


-- sql/56_backfill.sql

-- Backfill: Whapi and Twilio give a delivery up after a while, or at once; so their own lists of messages are read,
-- from where they were read last. What they hold goes through webhook_receive(), which has most of it already.

-- backfills: how far the list of each number was read. Business time, as the provider's times are; due_at, leases and
-- pauses are real time.
create table private.backfills (
    tenant_id uuid,
    number_id uuid,
    read_until timestamptz not null,
    due_at timestamptz not null default now(),
    failures int not null default 0,
    claim uuid,
    lease_until timestamptz,
    constraint backfills_pkey primary key (tenant_id, number_id),
    constraint backfills_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade
);
comment on table private.backfills is 'How far a provider''s own list of messages was read, by number.';
comment on column private.backfills.read_until is 'Everything the provider had until then was taken.';

alter table private.backfills enable row level security;
grant select, insert, update, delete on private.backfills to service_role;

-- Take numbers whose list is due, for p_lease_seconds: {"claim", "now", "numbers": [{"tenant_id", "number_id",
-- "provider", "provider_number_id", "phone_number", "account_id", "token", "since"}]}. For memory only.
create function public.backfill_claim(p_limit int default 10, p_lease_seconds int default 300) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_claim uuid := private.uuid7();
    v_now timestamptz := private.clock();
    v_numbers jsonb;
begin
    -- a number begins with its connection: what came before is not this business's to read
    insert into private.backfills (tenant_id, number_id, read_until)
    select n.tenant_id, n.id, greatest(n.created_at, v_now - interval '1 day')
    from public.whatsapp_numbers n
    where n.provider in ('whapi', 'twilio') and n.is_active
    order by n.tenant_id, n.id
    on conflict on constraint backfills_pkey do nothing;

    with due as materialized (
        select b.tenant_id, b.number_id
        from private.backfills b
        join public.whatsapp_numbers n on n.tenant_id = b.tenant_id and n.id = b.number_id
        where n.is_active and b.due_at <= clock_timestamp() and coalesce(b.lease_until < clock_timestamp(), true)
        order by b.due_at, b.tenant_id, b.number_id
        limit p_limit
        for update of b skip locked
    ),
    taken as (
        update private.backfills b
        set claim = v_claim, lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from due
        where b.tenant_id = due.tenant_id and b.number_id = due.number_id
        returning b.tenant_id, b.number_id, b.read_until
    )
    select jsonb_agg(jsonb_build_object(
        'tenant_id', t.tenant_id, 'number_id', t.number_id, 'since', t.read_until, 'provider', n.provider,
        'provider_number_id', n.provider_number_id, 'phone_number', n.phone_number, 'account_id', n.account_id,
        'token', (
            select v.decrypted_secret
            from public.channel_secrets s
            join vault.decrypted_secrets v on v.id = s.secret_id
            where s.tenant_id = t.tenant_id and s.number_id = t.number_id and s.kind = 'access_token')))
    into v_numbers
    from taken t
    join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id;
    return jsonb_build_object('claim', v_claim, 'now', v_now, 'numbers', coalesce(v_numbers, '[]'));
end
$$;

-- A list was read until then; p_is_done: to its end, so that it is due in ten minutes, with the last five read once
-- more (a message may be listed later than it is dated). False: somebody else has the number in hand by now.
create function public.backfill_settle(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_read_until timestamptz, p_is_done boolean
) returns boolean
language plpgsql set search_path = '' as $$
begin
    update private.backfills b
    set read_until = greatest(b.read_until, p_read_until - case when p_is_done then interval '5 minutes' else '0' end),
        due_at = clock_timestamp() + case when p_is_done then interval '10 minutes' else '0' end,
        failures = 0, claim = null, lease_until = null
    where b.tenant_id = p_tenant_id and b.number_id = p_number_id and b.claim = p_claim;
    if found then
        perform private.alert_end(p_tenant_id, 'backfill_failed', p_number_id::text);
    end if;
    return found;
end
$$;

-- A list could not be read: again in 10, 20, 40 … minutes, six hours at most, or when the provider says. Staff hear of
-- a refusal at once, of what may pass by itself the third time. False: as above.
create function public.backfill_fail(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_problem text, p_is_temporary boolean,
    p_retry_after_seconds int default null
) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_failures int;
begin
    update private.backfills b
    set failures = b.failures + 1, claim = null, lease_until = null,
        due_at = clock_timestamp() + greatest(
            make_interval(secs => p_retry_after_seconds),
            least(interval '10 minutes' * 2 ^ least(b.failures, 10), interval '6 hours'))
    where b.tenant_id = p_tenant_id and b.number_id = p_number_id and b.claim = p_claim
    returning b.failures into v_failures;
    if v_failures >= 3 or not p_is_temporary then
        perform private.alert_raise(
            p_tenant_id, 'backfill_failed', p_number_id::text, p_problem, p_number_id => p_number_id);
    end if;
    return v_failures is not null;
end
$$;

grant execute on function
    public.backfill_claim(int, int), public.backfill_settle(uuid, uuid, uuid, timestamptz, boolean),
    public.backfill_fail(uuid, uuid, uuid, text, boolean, int)
    to service_role;


-- sql/56_lead_merge.sql

-- Two leads that are one person become one: what they share is joined, what contradicts itself has a rule.

-- Point every row that refers to one row of p_table at another, in all tables but p_except. Where a table says a thing
-- once for each such row and both have it said, what the other says stands.
create function private.references_move(
    p_table regclass, p_tenant_id uuid, p_from uuid, p_to uuid, p_except regclass[] default '{}'
) returns void
language plpgsql set search_path = '' as $$
declare
    v_reference record;
begin
    for v_reference in
        select k.conrelid::regclass as referring, a.attname as name
        from pg_catalog.pg_constraint k
        cross join lateral unnest(k.conkey, k.confkey) as c (referring, referred)
        join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = c.referring
        join pg_catalog.pg_attribute r on r.attrelid = k.confrelid and r.attnum = c.referred
        where k.contype = 'f' and k.confrelid = p_table and r.attname = 'id' and k.conrelid <> all (p_except)
        order by 1, 2
    loop
        begin
            execute format('update %s set %I = $3 where tenant_id = $1 and %2$I = $2', v_reference.referring,
                v_reference.name)
            using p_tenant_id, p_from, p_to;
        exception
            when unique_violation then
                perform private.reference_move_each(
                    v_reference.referring, v_reference.name, p_tenant_id, p_from, p_to);
        end;
    end loop;
end
$$;

create function private.reference_move_each(
    p_referring regclass, p_column name, p_tenant_id uuid, p_from uuid, p_to uuid
) returns void
language plpgsql set search_path = '' as $$
declare
    v_row tid;
begin
    for v_row in execute format('select ctid from %s where tenant_id = $1 and %I = $2', p_referring, p_column)
        using p_tenant_id, p_from
    loop
        begin
            execute format('update %s set %I = $1 where ctid = $2', p_referring, p_column) using p_to, v_row;
        exception
            when unique_violation then
                execute format('delete from %s where ctid = $1', p_referring) using v_row;
        end;
    end loop;
end
$$;

-- One chat of two on the same number, both locked: the first stays, with the later window and everything that was in
-- the other.
create function private.chats_join(p_tenant_id uuid, p_chat_id uuid, p_other_id uuid) returns void
language plpgsql set search_path = '' as $$
declare
    v_chat public.chats;
    v_other public.chats;
    v_over uuid;
begin
    select * into v_chat from public.chats where tenant_id = p_tenant_id and id = p_chat_id;
    select * into v_other from public.chats where tenant_id = p_tenant_id and id = p_other_id;
    v_over := case when v_other.last_inbound_at > v_chat.last_inbound_at then p_chat_id else p_other_id end;

    perform private.conversations_finish(p_tenant_id, array(
        select id from public.conversations
        where tenant_id = p_tenant_id and chat_id = p_other_id and status = 'open'
            and exists (
                select from public.conversations
                where tenant_id = p_tenant_id and chat_id = p_chat_id and status = 'open')), 'silence');
    update public.messages set lead_id = v_chat.lead_id, chat_id = p_chat_id
    where tenant_id = p_tenant_id and lead_id = v_other.lead_id and chat_id = p_other_id;

    delete from public.pending_replies o
    using public.pending_replies r
    where r.tenant_id = p_tenant_id and r.chat_id = p_chat_id and o.tenant_id = p_tenant_id and o.chat_id = p_other_id;
    if found then
        -- whoever works on an answer has not seen the other half
        update public.pending_replies set fragments = fragments + 1
        where tenant_id = p_tenant_id and chat_id = p_chat_id;
    end if;
    update public.alerts a set subject = p_chat_id::text
    where a.tenant_id = p_tenant_id and a.subject = p_other_id::text and not exists (
        select from public.alerts b
        where b.tenant_id = p_tenant_id and b.kind = a.kind and b.subject = p_chat_id::text and b.resolved_at is null);
    -- what the customer did last tells whether they have blocked us
    perform private.blocks_clear(array[(p_tenant_id, v_over)::private.chat_ref], 'merged');
    delete from public.unreachable_chats where tenant_id = p_tenant_id and chat_id = v_over;
    perform private.enrollments_join(
        (p_tenant_id, p_chat_id)::private.chat_ref, (p_tenant_id, p_other_id)::private.chat_ref);
    -- a chat has one open thread
    update public.ai_threads set closed_at = private.clock()
    where tenant_id = p_tenant_id and chat_id = p_other_id and closed_at is null and exists (
        select from public.ai_threads t
        where t.tenant_id = p_tenant_id and t.chat_id = p_chat_id and t.closed_at is null);
    perform private.references_move('public.chats', p_tenant_id, p_other_id, p_chat_id);
    delete from public.chats where tenant_id = p_tenant_id and id = p_other_id;

    update public.chats
    set last_inbound_at = greatest(v_chat.last_inbound_at, v_other.last_inbound_at),
        last_outbound_at = greatest(v_chat.last_outbound_at, v_other.last_outbound_at),
        last_interaction_at = greatest(v_chat.last_interaction_at, v_other.last_interaction_at),
        window_expires_at = greatest(v_chat.window_expires_at, v_other.window_expires_at),
        free_entry_until = greatest(v_chat.free_entry_until, v_other.free_entry_until),
        free_entry_reply_by = greatest(v_chat.free_entry_reply_by, v_other.free_entry_reply_by),
        is_free_entry_confirmed = v_chat.is_free_entry_confirmed or v_other.is_free_entry_confirmed,
        news_since = least(v_chat.news_since, v_other.news_since),
        agent_paused_until = greatest(v_chat.agent_paused_until, v_other.agent_paused_until),
        referral = case when (v_other.referral_at, v_other.referral) > (v_chat.referral_at, v_chat.referral)
            or v_chat.referral_at is null then v_other.referral else v_chat.referral end,
        referral_at = greatest(v_chat.referral_at, v_other.referral_at),
        block_state = case when v_over = p_chat_id then v_other.block_state else v_chat.block_state end,
        reach_state = case when v_over = p_chat_id then v_other.reach_state else v_chat.reach_state end,
        thread_id = coalesce(v_chat.thread_id, v_other.thread_id),
        unread_count = v_chat.unread_count + v_other.unread_count
    where tenant_id = p_tenant_id and id = p_chat_id;
    perform private.conversations_regroup(p_tenant_id, p_chat_id, '-infinity');
    perform private.replies_cancel(array[(p_tenant_id, p_chat_id)::private.chat_ref]);
end
$$;

-- The chats of two leads, locked in the order of their ids: those on the same number are joined, the others change
-- hands, and their messages with them.
create function private.lead_chats_join(p_tenant_id uuid, p_lead_id uuid, p_other_id uuid) returns void
language plpgsql set search_path = '' as $$
declare
    v_pair record;
begin
    perform from public.chats
    where tenant_id = p_tenant_id and lead_id in (p_lead_id, p_other_id)
    order by id
    for update;
    for v_pair in
        select c.id, o.id as other_id
        from public.chats c
        join public.chats o on o.tenant_id = c.tenant_id and o.number_id = c.number_id and o.lead_id = p_other_id
        where c.tenant_id = p_tenant_id and c.lead_id = p_lead_id
        order by c.id
    loop
        perform private.chats_join(p_tenant_id, v_pair.id, v_pair.other_id);
    end loop;
    update public.chats set lead_id = p_lead_id where tenant_id = p_tenant_id and lead_id = p_other_id;
end
$$;

-- When a message of this lead last brought a name; see customer_leads.user_name.
create function private.last_named_at(p_tenant_id uuid, p_lead_id uuid) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
    return (
        select max(m.provider_at)
        from public.messages m
        where m.tenant_id = p_tenant_id and m.lead_id = p_lead_id and m.is_named);
end
$$;

-- What is written about the surviving lead. p_own: the one whose own details win where both have some.
create function private.lead_details_join(
    p_lead public.customer_leads, p_other public.customer_leads, p_own public.customer_leads
) returns void
language plpgsql set search_path = '' as $$
declare
    v_more public.customer_leads := case when p_own.id = p_lead.id then p_other else p_lead end;
    v_named public.customer_leads := case
        when p_own.name is not null and p_own.name_source is null and p_own.name is distinct from p_own.phone then p_own
        when v_more.name is not null and v_more.name_source is null and v_more.name is distinct from v_more.phone
            then v_more
        when private.takes_name(p_lead, p_other.named_at, case p_other.name_source when 'profile' then p_other.name end)
            or p_lead.name is null and p_other.name is not null
            or p_lead.name_source = 'contacts' and p_other.name_source = 'contacts' and p_other.named_at > p_lead.named_at
            then p_other
        else p_lead
    end;
begin
    update public.customer_leads
    set name = v_named.name, name_source = v_named.name_source, named_at = v_named.named_at,
        user_name = case
            when p_other.user_name is not null and coalesce(
                private.last_named_at(p_other.tenant_id, p_other.id)
                > private.last_named_at(p_lead.tenant_id, p_lead.id), p_lead.user_name is null)
                then p_other.user_name else p_lead.user_name end,
        phone = coalesce(p_lead.phone, p_other.phone), chat_id = coalesce(p_lead.chat_id, p_other.chat_id),
        label1 = coalesce(p_own.label1, v_more.label1), label2 = coalesce(p_own.label2, v_more.label2),
        label3 = coalesce(p_own.label3, v_more.label3), email = coalesce(p_own.email, v_more.email),
        company = coalesce(p_own.company, v_more.company),
        customer_type = coalesce(p_own.customer_type, v_more.customer_type),
        business_category = coalesce(p_own.business_category, v_more.business_category),
        tags = array(select tag from unnest(p_own.tags || v_more.tags) as t (tag) group by tag order by tag),
        lead_status = p_own.lead_status, lead_grade = p_own.lead_grade,
        qualification_score = greatest(p_own.qualification_score, v_more.qualification_score),
        assigned_to = coalesce(p_own.assigned_to, v_more.assigned_to),
        profile_status = coalesce(p_own.profile_status, v_more.profile_status),
        next_action = case when p_own.next_action_at is not null or v_more.next_action_at is null
            then coalesce(p_own.next_action, v_more.next_action) else v_more.next_action end,
        next_action_at = coalesce(p_own.next_action_at, v_more.next_action_at),
        priority = greatest(p_own.priority, v_more.priority),
        last_activity = greatest(p_own.last_activity, v_more.last_activity),
        thread_id = case when v_more.last_activity > p_own.last_activity then v_more.thread_id
            else coalesce(p_own.thread_id, v_more.thread_id) end,
        thread_token_count = p_own.thread_token_count + v_more.thread_token_count,
        -- the strictest refusal
        opt_out_scope = case when 'all' in (p_own.opt_out_scope, v_more.opt_out_scope) then 'all'
            else coalesce(p_own.opt_out_scope, v_more.opt_out_scope) end,
        opted_out_at = least(p_own.opted_out_at, v_more.opted_out_at),
        metadata = v_more.metadata || p_own.metadata,
        is_active = true
    where tenant_id = p_lead.tenant_id and id = p_lead.id;
end
$$;

-- Make one lead of two: p_lead stays and has everything, p_other is put away and says where it went. Rows that say a
-- thing once for each lead are joined first. p_own: whose details win; p_by: who decided it.
create function private.leads_join(p_lead public.customer_leads, p_other public.customer_leads, p_own uuid, p_by uuid)
returns void
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := p_lead.tenant_id;
begin
    perform private.lead_details_join(
        p_lead, p_other, case p_own when p_other.id then p_other else p_lead end);
    perform private.lead_chats_join(v_tenant_id, p_lead.id, p_other.id);

    insert into public.pending_activity as p (tenant_id, lead_id, last_activity_at, token_count, thread_id)
    select tenant_id, p_lead.id, last_activity_at, token_count, thread_id
    from public.pending_activity where tenant_id = v_tenant_id and lead_id = p_other.id
    on conflict on constraint pending_activity_pkey do update
    set last_activity_at = greatest(p.last_activity_at, excluded.last_activity_at),
        token_count = p.token_count + excluded.token_count, thread_id = coalesce(p.thread_id, excluded.thread_id);
    delete from public.pending_activity where tenant_id = v_tenant_id and lead_id = p_other.id;
    perform private.merge_candidates_join(v_tenant_id, p_lead.id, p_other.id, p_by);
    perform private.references_move(
        'public.customer_leads', v_tenant_id, p_other.id, p_lead.id, array['public.lead_merge_candidates'::regclass]);

    update public.customer_leads
    set is_active = false, merged_into = p_lead.id, merged_at = now(), merged_by = p_by
    where tenant_id = v_tenant_id and id = p_other.id;
    perform private.refusal_keep(p_lead, p_other);
end
$$;

-- What either of them refused stays refused, whatever the other said before. Where the statements of both do not add up
-- to that, it becomes a statement of its own: only what the customer says from now on takes it back.
create function private.refusal_keep(p_lead public.customer_leads, p_other public.customer_leads) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.consents_fold(array[p_lead.tenant_id], array[p_lead.id]);
    perform private.consents_record(array[(
        l.tenant_id, l.id, 'opt_out', s.scope, 'merge', null, private.clock())::private.consent])
    from (select min(scope) from unnest(array[p_lead.opt_out_scope, p_other.opt_out_scope]) as scope) as s (scope)
    join public.customer_leads l on l.tenant_id = p_lead.tenant_id and l.id = p_lead.id
    where s.scope is not null and coalesce(l.opt_out_scope > s.scope, true);  -- all comes before marketing
end
$$;

-- The pair is decided; whom else the second lead might have been, the first now may be.
create function private.merge_candidates_join(p_tenant_id uuid, p_lead_id uuid, p_other_id uuid, p_by uuid)
returns void
language plpgsql set search_path = '' as $$
begin
    with moved as (
        delete from public.lead_merge_candidates
        where tenant_id = p_tenant_id and p_other_id in (lead_id, other_lead_id)
            and p_lead_id not in (lead_id, other_lead_id)
        returning *, case lead_id when p_other_id then other_lead_id else lead_id end as third_id
    )
    insert into public.lead_merge_candidates (
        tenant_id, lead_id, other_lead_id, reason, evidence, status, created_at, resolved_at, resolved_by)
    select p_tenant_id, least(p_lead_id, third_id), greatest(p_lead_id, third_id), reason, evidence, status,
        created_at, resolved_at, resolved_by
    from moved
    on conflict on constraint lead_merge_candidates_pkey do nothing;
    update public.lead_merge_candidates
    set status = 'merged', resolved_at = now(), resolved_by = p_by
    where tenant_id = p_tenant_id and lead_id = least(p_lead_id, p_other_id)
        and other_lead_id = greatest(p_lead_id, p_other_id);
end
$$;

-- Two leads of the caller's business, locked, as what they have been merged into if they have; the earlier first.
create function private.leads_locked(p_tenant_id uuid, p_lead_id uuid, p_other_lead_id uuid)
returns public.customer_leads[]
language plpgsql set search_path = '' as $$
begin
    perform from public.lead_identities
    where tenant_id = p_tenant_id and lead_id in (p_lead_id, p_other_lead_id)
    order by kind, scope, value, valid_to
    for update;
    return array(
        select l
        from public.customer_leads l
        where l.tenant_id = p_tenant_id and l.id in (
            select coalesce(merged_into, id) from public.customer_leads
            where tenant_id = p_tenant_id and id in (p_lead_id, p_other_lead_id))
        order by l.id
        for update);
end
$$;

create function private.require_user() returns uuid
language plpgsql stable set search_path = '' as $$
begin
    if coalesce(private.my_role() not in ('admin', 'user'), true) then
        perform private.refuse('PT403', 'leads_role');
    end if;
    return private.my_tenant_id();
end
$$;
grant execute on function private.require_user() to authenticated;

-- Definer: staff may not write chats, messages and addresses.
create function private.lead_merge(p_lead_id uuid, p_other_lead_id uuid, p_keep uuid) returns public.customer_leads
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
    v_leads public.customer_leads[] := private.leads_locked(v_tenant_id, p_lead_id, p_other_lead_id);
    v_lead public.customer_leads;
begin
    if p_lead_id = p_other_lead_id then
        perform private.refuse('PT400', 'one_lead');
    elsif (select count(*) from public.customer_leads
            where tenant_id = v_tenant_id and id in (p_lead_id, p_other_lead_id)) < 2
    then
        perform private.refuse('PT404', 'no_two_leads');
    elsif p_keep not in (p_lead_id, p_other_lead_id) then
        perform private.refuse('PT400', 'merge_keep');
    end if;
    if cardinality(v_leads) = 2 then
        perform private.leads_join(v_leads[1], v_leads[2], p_keep, private.my_user_id());
    end if;
    select * into v_lead from public.customer_leads where tenant_id = v_tenant_id and id = (v_leads[1]).id;
    return v_lead;
end
$$;

-- Definer: staff may not write lead_merge_candidates.
create function private.lead_merge_dismiss(p_lead_id uuid, p_other_lead_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
begin
    if p_lead_id = p_other_lead_id then
        perform private.refuse('PT400', 'one_lead');
    end if;
    update public.lead_merge_candidates
    set status = 'dismissed', resolved_at = now(), resolved_by = private.my_user_id()
    where tenant_id = v_tenant_id and status = 'open' and lead_id = least(p_lead_id, p_other_lead_id)
        and other_lead_id = greatest(p_lead_id, p_other_lead_id);
    if not found and not exists (
        select from public.lead_merge_candidates
        where tenant_id = v_tenant_id and lead_id = least(p_lead_id, p_other_lead_id)
            and other_lead_id = greatest(p_lead_id, p_other_lead_id)
    ) then
        perform private.refuse('PT404', 'no_merge_candidate');
    end if;
end
$$;
grant execute on function private.lead_merge(uuid, uuid, uuid), private.lead_merge_dismiss(uuid, uuid)
    to authenticated;

-- Two leads are the same person. Answers the one that stays: the earlier, with the addresses, chats and messages of
-- both, the later window, the strictest opt-out. p_keep: whose name, e-mail, labels … win where both have some; else
-- those of the one that stays. Said again, it changes nothing.
create function public.lead_merge(p_lead_id uuid, p_other_lead_id uuid, p_keep uuid default null)
returns public.customer_leads language sql set search_path = '' as $$
    select private.lead_merge(p_lead_id, p_other_lead_id, p_keep)
$$;

-- They are not; the pair will not be asked about again.
create function public.lead_merge_dismiss(p_lead_id uuid, p_other_lead_id uuid) returns void
language sql set search_path = '' as $$
    select private.lead_merge_dismiss(p_lead_id, p_other_lead_id)
$$;
grant execute on function public.lead_merge(uuid, uuid, uuid), public.lead_merge_dismiss(uuid, uuid) to authenticated;


-- sql/57_inbox_watch.sql

-- Watching over the inbox: old deliveries are forgotten, and a number that should receive and does not is noticed.

-- Forget deliveries older than each business wants them kept, and after 90 days those that are nobody's; what was
-- said about messages that never came, after 30: providers repeat themselves for a week. Returns how many deliveries.
create function public.webhook_purge(p_limit int default 10000) returns int
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_count int;
begin
    delete from public.webhook_logs w
    using (
        select old.id
        from (
            select s.tenant_id, make_interval(days => s.webhook_log_retention_days) as age
            from public.tenant_settings s
            where s.webhook_log_retention_days is not null
        ) as kept
        cross join lateral (
            select l.id
            from public.webhook_logs l
            where l.tenant_id = kept.tenant_id and l.received_at < v_now - kept.age
            order by l.received_at
            limit p_limit
        ) as old
        union all
        select l.id from public.webhook_logs l
        where l.tenant_id is null and l.received_at < v_now - interval '90 days'
        limit p_limit
    ) as old
    where w.id = old.id;
    get diagnostics v_count = row_count;
    delete from public.early_events where happened_at < v_now - interval '30 days';
    return v_count;
end
$$;

-- number_traffic: how many deliveries each number had in each hour, for five weeks.
create table private.number_traffic (
    tenant_id uuid,
    number_id uuid,
    hour_at timestamptz,
    deliveries int not null,
    constraint number_traffic_pkey primary key (tenant_id, number_id, hour_at),
    constraint number_traffic_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade
);
comment on table private.number_traffic is 'Deliveries by number and hour: what is usual on a Tuesday at ten.';

alter table private.number_traffic enable row level security;
grant select, insert, update, delete on private.number_traffic to service_role;

-- listening: since when we have listened without a gap. While we were away ourselves nobody was silent.
create table private.listening (
    is_row boolean default true,
    since timestamptz not null,
    heard_at timestamptz not null,
    constraint listening_pkey primary key (is_row),
    constraint listening_is_row_check check (is_row)
);
comment on table private.listening is 'One row: since when numbers_watch() has run every hour.';

alter table private.listening enable row level security;
grant select, insert, update, delete on private.listening to service_role;

-- Count what came since the last look, in whole hours.
create function private.number_traffic_count() returns void
language plpgsql set search_path = '' as $$
begin
    insert into private.listening as l (since, heard_at)
    values (now(), now())
    on conflict on constraint listening_pkey do update
    set since = case when l.heard_at < now() - interval '2 hours' then now() else l.since end, heard_at = now();

    insert into private.number_traffic as t (tenant_id, number_id, hour_at, deliveries)
    select n.tenant_id, n.id, d.hour_at, sum(d.deliveries)
    from (select distinct tenant_id from public.whatsapp_numbers where is_active) as b
    cross join lateral (
        select l.provider, l.number, date_trunc('hour', l.received_at) as hour_at, count(*) as deliveries
        from public.webhook_logs l
        where l.tenant_id = b.tenant_id and l.received_at >= date_trunc('hour', now()) - interval '3 hours'
        group by 1, 2, 3
    ) as d
    join public.whatsapp_numbers n
        on n.tenant_id = b.tenant_id and n.provider = d.provider and n.provider_number_id = d.number and n.is_active
    group by n.tenant_id, n.id, d.hour_at
    on conflict on constraint number_traffic_pkey do update set deliveries = excluded.deliveries
    where t.deliveries <> excluded.deliveries;
    delete from private.number_traffic where hour_at < now() - interval '5 weeks';
end
$$;

-- Numbers that have been heard for two weeks at least, and what they were expected to deliver since we last heard of
-- them: for each whole hour the mean of the same hour of the week in the four weeks before. Where nights are quiet
-- nothing is expected at night.
create function private.numbers_expected()
returns table (tenant_id uuid, number_id uuid, display_name text, silent_since timestamptz, expected numeric)
language sql stable set search_path = '' as $$
    select n.tenant_id, n.id, n.display_name, h.silent_since, coalesce(sum(t.deliveries) / 4.0, 0)
    from public.whatsapp_numbers n
    cross join private.listening l
    cross join lateral (
        select greatest(max(x.hour_at) + interval '1 hour', l.since, now() - interval '7 days') as silent_since
        from private.number_traffic x
        where x.tenant_id = n.tenant_id and x.number_id = n.id
        having min(x.hour_at) < now() - interval '14 days'
    ) as h
    left join lateral (
        select t.deliveries
        from generate_series(
            date_trunc('hour', h.silent_since), date_trunc('hour', now()) - interval '1 hour', '1 hour') as missed
        cross join generate_series(1, 4) as week
        join private.number_traffic t
            on t.tenant_id = n.tenant_id and t.number_id = n.id
            and t.hour_at = missed - make_interval(weeks => week)
        where missed >= h.silent_since
    ) as t on true
    where n.is_active
    group by n.tenant_id, n.id, n.display_name, h.silent_since
$$;

-- Every hour: alert about numbers of which so much was expected and nothing came, until they are heard again.
create function public.numbers_watch() returns int
language plpgsql set search_path = '' as $$
declare
    v_count int;
begin
    perform private.number_traffic_count();
    select count(private.alert_raise(e.tenant_id, 'number_silent', e.number_id::text,
        format('%s has received nothing since %s; about %s deliveries were to be expected.', e.display_name,
            to_char(e.silent_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), round(e.expected)),
        p_number_id => e.number_id)) into v_count
    from private.numbers_expected() e
    join public.tenant_settings s on s.tenant_id = e.tenant_id
    where e.expected >= s.silence_alert_deliveries;
    perform private.alert_end(a.tenant_id, 'number_silent', a.subject)
    from public.alerts a
    where a.kind = 'number_silent' and a.resolved_at is null and exists (
        select from private.number_traffic t
        where t.tenant_id = a.tenant_id and t.number_id = a.number_id
            and t.hour_at >= date_trunc('hour', a.created_at));
    return v_count;
end
$$;

grant execute on function
    public.webhook_purge(int), private.number_traffic_count(), private.numbers_expected(), public.numbers_watch()
    to service_role;


-- sql/58_consent.sql

-- What customers say about hearing from us: keywords, the switch inside WhatsApp, what staff are told.

-- consent_keywords: what a whole message must be to be a refusal, or its end. Businesses add their own in
-- tenant_settings. Phrases are folded: case, accents and punctuation do not matter.
create table public.consent_keywords (
    phrase text,
    language text,
    kind text not null,
    scope text not null,
    is_only_after_bulk boolean not null default false,
    constraint consent_keywords_pkey primary key (phrase, language),
    constraint consent_keywords_phrase_check check (phrase = private.fold(phrase) and length(phrase) between 2 and 60),
    constraint consent_keywords_language_check check (language in ('es', 'en', 'pt')),
    constraint consent_keywords_kind_check check (kind in ('opt_out', 'opt_in')),
    constraint consent_keywords_scope_check check (scope in ('all', 'marketing'))
);
comment on table public.consent_keywords is
    'Whole messages that refuse promotions (scope marketing) or all messages, or that take it back.';
comment on column public.consent_keywords.is_only_after_bulk is
    'The word means something else in a business: it counts within a day of a bulk message, if nothing was sent since.';

alter table public.consent_keywords enable row level security;
grant select on public.consent_keywords to authenticated;
grant select, insert, update, delete on public.consent_keywords to service_role;
create policy consent_keywords_select_anyone on public.consent_keywords for select to authenticated using (true);

insert into public.consent_keywords (language, kind, scope, is_only_after_bulk, phrase)
select v.language, v.kind, v.scope, v.is_only_after_bulk, unnest(string_to_array(v.phrases, ', '))
from (values
    ('es', 'opt_out', 'marketing', false,
        'stop, baja, dar de baja, darme de baja, dame de baja, deme de baja, denme de baja, quiero darme de baja, '
        'quiero la baja, desuscribir, desuscribirme, desuscribirse, cancelar suscripcion, anular suscripcion, '
        'no mas mensajes, no mas promociones, no mas publicidad, no quiero publicidad, no quiero promociones, '
        'no quiero mas mensajes, no quiero mas promociones, no quiero mas publicidad, no enviar mas, no envien mas, '
        'sacame de la lista, saquenme de la lista, borrame de la lista, borrenme de la lista'),
    ('es', 'opt_out', 'marketing', true,
        'cancelar, cancela, cancelen, alto, salir, parar, para, pare, paren, basta, basta ya, fin, detener, terminar, '
        'quitar, quitame, eliminar, eliminame, borrar, borrame, remover, retirar'),
    ('es', 'opt_out', 'all', false,
        'baja total, no me escriban mas, no me escriba mas, no me escribas mas, no me vuelvan a escribir, '
        'no me vuelva a escribir, no me vuelvas a escribir, no me contacten mas, no me contacten, no me contacte mas, '
        'no me manden mas mensajes, no me envien mas mensajes, dejen de escribirme, deje de escribirme, '
        'deja de escribirme, dejen de molestar, no quiero que me escriban, no quiero que me escriban mas'),
    ('es', 'opt_in', 'all', false,
        'alta, dar de alta, darme de alta, dame de alta, quiero el alta, suscribir, suscribirme, '
        'quiero recibir promociones, quiero recibir mensajes, volver a recibir'),
    ('en', 'opt_out', 'marketing', false,
        'stop, unsubscribe, unsubscribe me, opt out, optout, no more messages, no more promotions, no more ads, '
        'stop promotions, remove me, remove me from the list, take me off the list'),
    ('en', 'opt_out', 'marketing', true, 'cancel, end, quit, exit, remove, enough, no more'),
    ('en', 'opt_out', 'all', false,
        'stop all, stopall, do not contact me, don t contact me, do not message me, don t message me, '
        'do not text me, don t text me, stop messaging me, stop texting me, stop writing me, stop contacting me, '
        'never message me again, leave me alone'),
    ('en', 'opt_in', 'all', false, 'start, unstop, subscribe, opt in, optin, resubscribe'),
    ('pt', 'opt_out', 'marketing', false,
        'stop, descadastrar, descadastre, me descadastre, descadastro, cancelar inscricao, cancelar assinatura, '
        'nao quero mais receber, nao quero mais mensagens, nao quero promocoes, chega de mensagens, '
        'me tira da lista, me tire da lista, me remova da lista'),
    ('pt', 'opt_out', 'marketing', true, 'sair, parar, para, pare, cancelar, cancela, fim, remover, chega, encerrar'),
    ('pt', 'opt_out', 'all', false,
        'nao me mande mais mensagens, nao me mandem mais mensagens, nao me escreva mais, nao me escrevam mais, '
        'pare de me mandar mensagens, parem de me mandar mensagens, pare de me escrever, nao entre mais em contato, '
        'nao entrem mais em contato, nao me contate mais'),
    ('pt', 'opt_in', 'all', false, 'voltar a receber, quero receber, quero receber promocoes, reativar, inscrever')
) as v (language, kind, scope, is_only_after_bulk, phrases);

-- A statement about hearing from us.
create type private.consent as (
    tenant_id uuid, lead_id uuid, kind text, scope text, source text, evidence text, happened_at timestamptz
);

-- Keep statements, each once, and bring their leads up to date. Returns the leads who from now on refuse something and
-- did not before.
create function private.consents_record(p_said private.consent[]) returns uuid[]
language plpgsql set search_path = '' as $$
begin
    insert into public.consent_events (tenant_id, lead_id, kind, scope, source, evidence, happened_at)
    select s.tenant_id, s.lead_id, s.kind, s.scope, s.source, s.evidence, s.happened_at
    from unnest(p_said) s
    order by s.tenant_id, s.lead_id, s.source, s.kind, s.scope, s.happened_at
    on conflict on constraint consent_events_said_once_key do nothing;
    return private.consents_fold(
        array(select s.tenant_id from unnest(p_said) s), array(select s.lead_id from unnest(p_said) s));
end
$$;

-- What leads' statements come to, in the order of their time whatever that of their arrival. A refusal stands until it
-- is taken back later: one of marketing by any opt-in, one of all messages only by an opt-in to all. At the same moment
-- the refusal counts. opted_out_at is the first refusal that stands; what is refused altogether goes before marketing.
-- Returns the leads who refuse something and did not before.
create function private.consents_fold(p_tenants uuid[], p_leads uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_began uuid[];
begin
    -- locked before it is read: who comes second sees what the first one added
    perform from public.customer_leads l
    join (select distinct * from unnest(p_tenants, p_leads) as k (tenant_id, id)) as w using (tenant_id, id)
    order by l.tenant_id, l.id
    for no key update of l;

    with folded as (
        select w.tenant_id, w.id, min(o.happened_at) as since, min(o.scope) as scope  -- all comes before marketing
        from (select distinct * from unnest(p_tenants, p_leads) as k (tenant_id, id)) as w
        left join public.consent_events o
            on o.tenant_id = w.tenant_id and o.lead_id = w.id and o.kind = 'opt_out' and not exists (
                select from public.consent_events i
                where i.tenant_id = o.tenant_id and i.lead_id = o.lead_id and i.kind = 'opt_in'
                    and i.happened_at > o.happened_at and i.scope in ('all', o.scope))
        group by w.tenant_id, w.id
    ),
    changed as (
        update public.customer_leads l set opted_out_at = f.since, opt_out_scope = f.scope
        from folded f
        join public.customer_leads before on before.tenant_id = f.tenant_id and before.id = f.id
        where l.tenant_id = f.tenant_id and l.id = f.id
            and (l.opted_out_at, l.opt_out_scope) is distinct from (f.since, f.scope)
        returning l.id, before.opt_out_scope is null as began
    )
    select coalesce(array_agg(c.id) filter (where c.began), '{}') into v_began from changed c;
    return v_began;
end
$$;

-- A message as keywords are compared: null where it is too long to be one.
create function private.consent_phrase(p_text text) returns text
language plpgsql immutable set search_path = '' as $$
begin
    if p_text is null or length(p_text) > 60 then
        return null;
    end if;
    -- a word with a hand or a face beside it is that word
    return coalesce(
        nullif(private.fold(regexp_replace(p_text, '[\u2190-\u2bff\U0001f000-\U0001faff]', ' ', 'g')), ''),
        private.fold(p_text));
end
$$;

-- Which events of customers are statements about hearing from us, by whole messages: the tenant's own words go first.
create function private.consents_said(p_events private.inbox_event[], p_live_after timestamptz)
returns table (ordinality bigint, kind text, scope text, is_only_after_bulk boolean)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    with phrases as materialized (
        select e.ordinality, e.tenant_id, private.consent_phrase(e.body ->> 'text') as phrase
        from unnest(p_events) with ordinality as e
        where e.kind = 'message' and e.at > p_live_after and (e.body ->> 'history')::boolean is not true
    ),
    own as materialized (
        select s.tenant_id, w.kind, w.scope, private.fold(w.word) as phrase
        from (select distinct p.tenant_id from phrases p where p.phrase is not null) as d
        join public.tenant_settings s on s.tenant_id = d.tenant_id
        cross join lateral (
            select 'opt_out' as kind, 'marketing' as scope, unnest(s.opt_out_keywords) as word
            union all
            select 'opt_in', 'all', unnest(s.opt_in_keywords)
        ) as w
    )
    select distinct on (p.ordinality) p.ordinality, k.kind, k.scope, k.is_only_after_bulk
    from phrases p
    cross join lateral (
        select o.kind, o.scope, false as is_only_after_bulk, 1 as n
        from own o
        where o.tenant_id = p.tenant_id and o.phrase = p.phrase
        union all
        select k.kind, k.scope, k.is_only_after_bulk, 2
        from public.consent_keywords k
        where k.phrase = p.phrase
    ) as k
    where p.phrase is not null
    order by p.ordinality, k.n, k.is_only_after_bulk, k.kind desc;
end
$$;

-- Was the last thing we sent to that customer, within a day before, something they had not asked for? Somebody may have
-- written from the phone in between, in this very batch.
create function private.follows_bulk(
    p_tenant_id uuid, p_number_id uuid, p_lead_id uuid, p_at timestamptz, p_echoes timestamptz[]
) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from (
            select m.source, m.type, m.data, m.sent_at
            from public.chats c
            join public.messages m on m.tenant_id = c.tenant_id and m.chat_id = c.id
            where c.tenant_id = p_tenant_id and c.number_id = p_number_id and c.lead_id = p_lead_id
                and m.direction = 'outbound' and m.sent_at <= p_at and m.provider_at > p_at - interval '2 days'
            order by m.sent_at desc
            limit 1
        ) as sent
        where sent.sent_at > p_at - interval '1 day'
            and (sent.source in ('sequence', 'daily_action')
                or sent.type = 'template' and sent.data ->> 'category' = 'marketing')
            and not exists (select from unnest(p_echoes) e where e between sent.sent_at and p_at));
end
$$;

-- The statements among events: keywords and the switch inside WhatsApp. Returns the messages that are refusals.
create function private.inbox_consent(p_events private.inbox_event[], p_leads uuid[]) returns private.refusal[]
language plpgsql set search_path = '' as $$
declare
    v_live_after timestamptz := private.clock() - interval '24 hours';
    v_said private.consent[];
    v_refusals private.refusal[];
    v_began uuid[];
begin
    select
        array_agg((e.tenant_id, p_leads[e.ordinality], s.kind, s.scope, s.source, e.body ->> 'text', e.at)
            ::private.consent),
        array_agg((e.tenant_id, e.number_id, e.id, p_leads[e.ordinality], null)::private.refusal order by e.at)
            filter (where s.kind = 'opt_out' and s.source = 'keyword')
    into v_said, v_refusals
    from unnest(p_events) with ordinality as e
    join (
        select w.ordinality, w.kind, w.scope, 'keyword' as source
        from private.consents_said(p_events, v_live_after) w
        join unnest(p_events) with ordinality as said on said.ordinality = w.ordinality
        where not w.is_only_after_bulk or private.follows_bulk(
            said.tenant_id, said.number_id, p_leads[said.ordinality], said.at, array(
                select x.at from unnest(p_events) with ordinality as x
                where x.kind = 'echo' and x.tenant_id = said.tenant_id and x.number_id = said.number_id
                    and p_leads[x.ordinality] = p_leads[said.ordinality]))
        union all
        select p.ordinality, case p.body ->> 'value' when 'stop' then 'opt_out' else 'opt_in' end, 'marketing', 'provider'
        from unnest(p_events) with ordinality as p
        where p.kind = 'preference' and p.body ->> 'value' in ('stop', 'resume', 'signup')
    ) as s on s.ordinality = e.ordinality;
    if v_said is null then
        return array[]::private.refusal[];
    end if;
    v_began := private.consents_record(v_said);
    return array(
        select (r.tenant_id, r.number_id, r.wa_message_id, r.lead_id,
            r.lead_id = any(v_began) and row_number() over (partition by r.lead_id order by r.ordinality) = 1
        )::private.refusal
        from unnest(v_refusals) with ordinality as r);
end
$$;

-- Sends that failed because the customer refuses marketing.
create function private.consents_of_failures(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_said private.consent[];
begin
    select array_agg((e.tenant_id, m.lead_id, 'opt_out', 'marketing', 'provider',
        'error ' || (e.body #>> '{error,code}'), e.at)::private.consent)
    into v_said
    from unnest(p_events) e
    join public.messages m on m.tenant_id = e.tenant_id and m.id = e.target_id
    where e.kind = 'status' and private.is_refusal(e.body);
    if v_said is not null then
        perform private.consents_record(v_said);
    end if;
end
$$;

-- Tell customers, once, that their refusal was understood. It goes out as if a colleague had written it: a takeover of
-- the chat must not hold it up. Who refuses all messages gets none, not even this.
create function private.opt_outs_confirm(p_stored private.inbox_message[], p_refusals private.refusal[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.outbox_enqueue(array_agg(private.outgoing(
        m.tenant_id, m.chat_id, 'staff', 'api', 'system', s.opt_out_confirmation) order by m.tenant_id, m.chat_id))
    from unnest(p_refusals) r
    join unnest(p_stored) m
        on m.tenant_id = r.tenant_id and m.number_id = r.number_id and m.wa_message_id = r.wa_message_id
    join public.customer_leads l
        on l.tenant_id = r.tenant_id and l.id = r.lead_id and l.opt_out_scope = 'marketing'
    join public.tenant_settings s on s.tenant_id = r.tenant_id
    where r.is_first and s.opt_out_confirmation is not null
    having count(*) > 0;
end
$$;

grant execute on function
    private.consents_record(private.consent[]), private.consents_fold(uuid[], uuid[]),
    private.consent_phrase(text), private.consents_said(private.inbox_event[], timestamptz),
    private.follows_bulk(uuid, uuid, uuid, timestamptz, timestamptz[]),
    private.inbox_consent(private.inbox_event[], uuid[]), private.consents_of_failures(private.inbox_event[]),
    private.opt_outs_confirm(private.inbox_message[], private.refusal[])
    to service_role;

-- The chats of a lead, locked in the order of their ids.
create function private.chats_locked(p_tenant_id uuid, p_lead_id uuid) returns private.chat_ref[]
language plpgsql set search_path = '' as $$
begin
    return array(
        select (c.tenant_id, c.id)::private.chat_ref from public.chats c
        where c.tenant_id = p_tenant_id and c.lead_id = p_lead_id
        order by c.id
        for no key update);
end
$$;

-- Definer: staff may not write consent events, only report what a customer told them.
create function private.consent_record(p_lead_id uuid, p_kind text, p_scope text, p_evidence text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    if p_kind is null or p_kind not in ('opt_out', 'opt_in') or p_scope is null or p_scope not in ('all', 'marketing') then
        perform private.refuse('PT400', 'consent');
    elsif private.is_blank(p_evidence) or length(p_evidence) > 2000 then
        perform private.refuse('PT400', 'consent_evidence', '{"longest": 2000}');
    end if;
    perform from public.customer_leads where tenant_id = v_tenant_id and id = p_lead_id;
    if not found then
        perform private.refuse('PT404', 'no_lead');
    end if;
    if p_kind = 'opt_out' then
        perform private.enrollments_end(private.chats_locked(v_tenant_id, p_lead_id), 'opted_out', 'opted_out');
    end if;
    perform private.consents_record(array[(
        v_tenant_id, p_lead_id, p_kind, p_scope, 'staff', p_evidence, private.clock())::private.consent]);
    return (
        select jsonb_build_object('opted_out_at', l.opted_out_at, 'opt_out_scope', l.opt_out_scope)
        from public.customer_leads l
        where l.tenant_id = v_tenant_id and l.id = p_lead_id);
end
$$;

-- Staff report what a customer told them, with how and when; answers {"opted_out_at", "opt_out_scope"} as they are now.
create function public.consent_record(p_lead_id uuid, p_kind text, p_scope text, p_evidence text) returns jsonb
language sql set search_path = '' as $$
    select private.consent_record(p_lead_id, p_kind, p_scope, p_evidence)
$$;
grant execute on function private.consent_record(uuid, text, text, text),
    public.consent_record(uuid, text, text, text) to authenticated;


-- sql/60_agents.sql

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


-- sql/61_ai_prices.sql

-- What models cost, and what each run of one took.

-- ai_prices: list prices for everybody, dated and sourced; for one million tokens. The longest model that the name
-- begins with wins, so that dated versions of a model find its price.
create table public.ai_prices (
    model text,
    valid_from date,
    input numeric(12, 6) not null,
    cached numeric(12, 6) not null,
    output numeric(12, 6) not null,
    currency text not null default 'USD',
    source text not null,
    is_verified boolean not null default false,
    constraint ai_prices_pkey primary key (model, valid_from),
    constraint ai_prices_model_check check (model <> ''),
    constraint ai_prices_input_check check (input >= 0 and cached >= 0 and output >= 0),
    constraint ai_prices_currency_check check (currency ~ '^[A-Z]{3}$')
);
comment on table public.ai_prices is 'Prices of models, for a million tokens: the ground of every AI cost.';
comment on column public.ai_prices.is_verified is
    'False until somebody compared it with the provider''s own price list.';

alter table public.ai_prices enable row level security;
grant select on public.ai_prices to authenticated;
grant select, insert, update, delete on public.ai_prices to service_role;
create policy ai_prices_select_anyone on public.ai_prices for select to authenticated using (true);

insert into public.ai_prices (model, valid_from, input, cached, output, source, is_verified) values
    ('gpt-6-luna', '2026-01-01', 0.10, 0.01, 0.50, 'OpenAI model page, November 2026', true),
    ('gpt-6.1-terra', '2026-10-26', 1.00, 0.05, 5.00, 'third-party price lists, November 2026', false),
    ('gpt-6-sol', '2026-01-01', 2.00, 0.20, 10.00, 'third-party price lists, November 2026', false),
    ('gpt-6-astra', '2026-01-01', 10.00, 1.00, 50.00, 'third-party price lists, November 2026', false),
    ('gpt-5.6-luna', '2026-01-01', 0.20, 0.02, 1.20, 'OpenAI model page, November 2026', true),
    ('gpt-5.6-terra', '2026-01-01', 2.00, 0.20, 12.00, 'third-party price lists, November 2026', false);

-- What a run took, in money; nothing is known of a model without a price.
create function private.ai_cost(
    p_model text, p_input int, p_cached int, p_output int, p_at timestamptz
) returns table (cost numeric, currency text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select round(((p_input - p_cached) * p.input + p_cached * p.cached + p_output * p.output) / 1000000, 6), p.currency
    from public.ai_prices p
    where starts_with(p_model, p.model) and p.valid_from <= p_at::date
    order by length(p.model) desc, p.valid_from desc
    limit 1;
end
$$;

-- Runs of a model, told by whoever asked it: [{purpose, model, input_tokens, cached_tokens, output_tokens,
-- reasoning_tokens, latency_ms, response_id}]. The same response is counted once. Returns the tokens that are news.
create function private.usage_insert(
    p_tenant_id uuid, p_chat_id uuid, p_agent_id uuid, p_thread_id uuid, p_usage jsonb
) returns bigint
language plpgsql set search_path = '' as $$
declare
    v_total bigint;
begin
    with spent as (
        insert into public.ai_usage (tenant_id, purpose, agent_id, chat_id, thread_id, model, input_tokens,
            cached_tokens, output_tokens, reasoning_tokens, total_tokens, cost, currency, latency_ms, response_id,
            created_at)
        select p_tenant_id, coalesce(u.purpose, 'reply'), p_agent_id, p_chat_id, p_thread_id, u.model,
            u.input_tokens, coalesce(u.cached_tokens, 0), u.output_tokens, coalesce(u.reasoning_tokens, 0),
            u.input_tokens + u.output_tokens, c.cost, c.currency, u.latency_ms, u.response_id, private.clock()
        from jsonb_to_recordset(p_usage) as u (purpose text, model text, input_tokens int, cached_tokens int,
            output_tokens int, reasoning_tokens int, latency_ms int, response_id text)
        left join lateral private.ai_cost(
            u.model, u.input_tokens, coalesce(u.cached_tokens, 0), u.output_tokens, private.clock()) as c on true
        on conflict (tenant_id, response_id) where response_id is not null do nothing
        returning total_tokens
    )
    select coalesce(sum(total_tokens), 0) into v_total from spent;
    return v_total;
end
$$;

-- The business's own day, and what its models took since it began.
create function private.ai_spent_today(p_tenant_id uuid) returns table (tokens bigint, cost numeric)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select coalesce(sum(u.total_tokens), 0)::bigint, coalesce(sum(u.cost), 0)
    from public.ai_usage u
    where u.tenant_id = p_tenant_id and u.created_at >= (
        select date_trunc('day', (select private.clock()) at time zone o.timezone) at time zone o.timezone
        from public.users o
        where o.id = p_tenant_id);
end
$$;

-- Has the business used up what it allows its models in a day? Answers to customers are given all the same: only
-- what can wait for tomorrow asks.
create function private.ai_budget_spent(p_tenant_id uuid) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select
        from public.tenant_settings s
        cross join lateral private.ai_spent_today(p_tenant_id) as t
        where s.tenant_id = p_tenant_id
            and (t.tokens >= s.ai_daily_token_budget or t.cost >= s.ai_daily_cost_budget));
end
$$;

create view public.ai_usage_daily with (security_invoker = true) as
select
    u.tenant_id, (u.created_at at time zone o.timezone)::date as day, u.purpose, u.model, count(*) as runs,
    sum(u.input_tokens) as input_tokens, sum(u.cached_tokens) as cached_tokens, sum(u.output_tokens) as output_tokens,
    sum(u.total_tokens) as total_tokens, sum(u.cost) as cost, u.currency,
    percentile_disc(0.5) within group (order by u.latency_ms) as latency_ms_p50
from public.ai_usage u
join public.users o on o.id = u.tenant_id
group by u.tenant_id, (u.created_at at time zone o.timezone)::date, u.purpose, u.model, u.currency;
comment on view public.ai_usage_daily is 'What models took, by the business''s own day, purpose and model.';
grant select on public.ai_usage_daily to authenticated, service_role;
create trigger ai_usage_daily_refuse_write instead of insert or update or delete on public.ai_usage_daily
    for each row execute function private.refuse_write();

grant execute on function private.ai_cost(text, int, int, int, timestamptz),
    private.usage_insert(uuid, uuid, uuid, uuid, jsonb), private.ai_spent_today(uuid), private.ai_budget_spent(uuid)
    to service_role;


-- sql/62_decisions.sql

-- The send decision: may this be sent, now, to that customer, and what would it cost?

-- outreaches: customers written to outside their window, and when last. Meta allows a portfolio so many in 24 hours.
create table public.outreaches (
    tenant_id uuid,
    portfolio text,
    lead_id uuid,
    last_at timestamptz not null,
    constraint outreaches_pkey primary key (tenant_id, portfolio, lead_id),
    constraint outreaches_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade
);
comment on table public.outreaches is
    'Customers who were sent a template outside their window, each with the last time; how many a portfolio may have '
    'in 24 hours is whatsapp_numbers.messaging_limit.';
comment on column public.outreaches.portfolio is 'Of the number: its portfolio, else its account, else itself.';

create index outreaches_tenant_id_lead_id_idx on public.outreaches (tenant_id, lead_id);
create index outreaches_tenant_id_portfolio_last_at_idx on public.outreaches (tenant_id, portfolio, last_at);

alter table public.outreaches enable row level security;
grant select on public.outreaches to authenticated;
grant select, insert, update, delete on public.outreaches to service_role;
create policy outreaches_select_member on public.outreaches for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- monthly_sends: what counts against plans.max_messages_per_month; by number, so that numbers need not take turns.
create table public.monthly_sends (
    tenant_id uuid,
    month date,
    number_id uuid,
    sent int not null,
    constraint monthly_sends_pkey primary key (tenant_id, month, number_id),
    constraint monthly_sends_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade,
    constraint monthly_sends_month_check check (extract(day from month) = 1),
    constraint monthly_sends_sent_check check (sent >= 0)
) with (fillfactor = 50);
comment on table public.monthly_sends is 'Messages handed to the provider, by calendar month of the business''s clock.';

create index monthly_sends_tenant_id_number_id_idx on public.monthly_sends (tenant_id, number_id);

alter table public.monthly_sends enable row level security;
grant select on public.monthly_sends to authenticated;
grant select, insert, update, delete on public.monthly_sends to service_role;
create policy monthly_sends_select_member on public.monthly_sends for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The first answer to an ad opens the free entry point, 72 hours from then. Whether this one is the first shows in
-- free_entry_until: one that was opened for this ad ends at least 48 hours after the time to answer.
create function private.free_entry_open(p_sent private.sent[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.chats c
    set free_entry_until = s.sent_at + interval '72 hours', is_free_entry_confirmed = false
    from (
        select m.tenant_id, m.chat_id, min(p.sent_at) as sent_at
        from unnest(p_sent) p
        join public.messages m on m.tenant_id = p.tenant_id and m.id = p.message_id
        group by m.tenant_id, m.chat_id
    ) as s
    where c.tenant_id = s.tenant_id and c.id = s.chat_id and private.free_entry_reply_by(c) >= s.sent_at;
end
$$;

-- What follows from messages having gone out, told once for each: the free entry point, and what is counted. Their
-- chats are locked already.
create function private.sends_noted(p_sent private.sent[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.free_entry_open(p_sent);

    insert into public.outreaches as o (tenant_id, portfolio, lead_id, last_at)
    select m.tenant_id, coalesce(n.portfolio_id, n.waba_id, n.id::text), m.lead_id, max(p.sent_at)
    from unnest(p_sent) p
    join public.messages m on m.tenant_id = p.tenant_id and m.id = p.message_id
    join public.chats c on c.tenant_id = m.tenant_id and c.id = m.chat_id
    join public.whatsapp_numbers n on n.tenant_id = m.tenant_id and n.id = m.number_id
    where m.type = 'template' and n.provider <> 'whapi' and coalesce(c.window_expires_at <= p.sent_at, true)
    group by 1, 2, 3
    order by 1, 2, 3
    on conflict on constraint outreaches_pkey do update set last_at = greatest(o.last_at, excluded.last_at);

    insert into public.monthly_sends as s (tenant_id, month, number_id, sent)
    select m.tenant_id, date_trunc('month', p.sent_at at time zone u.timezone)::date, m.number_id, count(*)
    from unnest(p_sent) p
    join public.messages m on m.tenant_id = p.tenant_id and m.id = p.message_id
    join public.users u on u.id = m.tenant_id
    group by 1, 2, 3
    order by 1, 2, 3
    on conflict on constraint monthly_sends_pkey do update set sent = s.sent + excluded.sent;
end
$$;

-- Moments within nine days at which a clock's hours may begin (p_edge 'from') or end ('to'). By each offset in force,
-- so that a local time the clock skips or shows twice is found too; and the moment the clock itself is changed.
create function private.hours_edges(p_hours jsonb, p_edge text, p_timezone text, p_at timestamptz)
returns timestamptz[]
language plpgsql stable set search_path = '' as $$
declare
    v_until timestamptz := p_at + interval '9 days';
    v_today date := (p_at at time zone p_timezone)::date;
    v_offset interval := (p_at at time zone p_timezone) - (p_at at time zone 'UTC');
    v_later interval := (v_until at time zone p_timezone) - (v_until at time zone 'UTC');
begin
    return array(
        select (v_today + d + (span ->> p_edge)::time - o) at time zone 'UTC'
        from jsonb_array_elements(
                case jsonb_typeof(p_hours) when 'array' then p_hours else jsonb_build_array(p_hours) end) as span,
            generate_series(0, 9) as d,
            unnest(array[v_offset, v_later]) as o
        union
        (
            select m
            from generate_series(date_bin('15 minutes', p_at, '2000-01-01 00:00:00+00'), v_until, '15 minutes') as m
            where v_later <> v_offset and (m at time zone p_timezone) - (m at time zone 'UTC') = v_later
            order by m
            limit 1
        ));
end
$$;

-- Is it quiet now by this clock?
create function private.is_quiet(p_quiet_hours jsonb, p_timezone text, p_at timestamptz) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return p_quiet_hours is not null and p_quiet_hours ->> 'from' <> p_quiet_hours ->> 'to'
        and private.hours_open(p_quiet_hours, p_timezone, p_at);
end
$$;

-- The first moment that is outside the quiet hours by the customer's clock and within the business hours by the
-- number's: p_at itself if it is. null: there is none within nine days, and so never.
create function private.first_open(
    p_quiet_hours jsonb, p_lead_zone text, p_business_hours jsonb, p_number_zone text, p_at timestamptz
) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_moment timestamptz;
begin
    if not private.is_quiet(p_quiet_hours, p_lead_zone, p_at)
        and private.hours_open(p_business_hours, p_number_zone, p_at)
    then
        return p_at;
    end if;
    for v_moment in
        select m from unnest(private.hours_edges(p_quiet_hours, 'to', p_lead_zone, p_at)) m where m > p_at
        union
        select m from unnest(private.hours_edges(p_business_hours, 'from', p_number_zone, p_at)) m where m > p_at
        order by 1
    loop
        if not private.is_quiet(p_quiet_hours, p_lead_zone, v_moment)
            and private.hours_open(p_business_hours, p_number_zone, v_moment)
        then
            return v_moment;
        end if;
    end loop;
    return null;
end
$$;

-- The last moment not after p_at that is so: p_at itself, or when hours began in which nothing is sent. null: there is
-- none in the nine days before.
create function private.last_open(
    p_quiet_hours jsonb, p_lead_zone text, p_business_hours jsonb, p_number_zone text, p_at timestamptz
) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_from timestamptz := p_at - interval '9 days';
    v_moment timestamptz;
begin
    if private.first_open(p_quiet_hours, p_lead_zone, p_business_hours, p_number_zone, p_at) = p_at then
        return p_at;
    end if;
    for v_moment in
        select m from unnest(private.hours_edges(p_quiet_hours, 'from', p_lead_zone, v_from)) m where m <= p_at
        union
        select m from unnest(private.hours_edges(p_business_hours, 'to', p_number_zone, v_from)) m where m <= p_at
        order by 1 desc
    loop
        if not private.is_quiet(p_quiet_hours, p_lead_zone, v_moment - interval '1 minute')
            and private.hours_open(p_business_hours, p_number_zone, v_moment - interval '1 minute')
        then
            return v_moment;
        end if;
    end loop;
    return null;
end
$$;

-- Something that may be sent. ref is the asker's own id for it. template_id: the template it is made of, if that is
-- known; is_forced: a member of staff has decided that it goes out against the rules.
create type private.send_candidate as (
    ref uuid, tenant_id uuid, chat_id uuid, purpose text, is_template boolean, category text, template_id uuid,
    is_forced boolean
);

-- May these be sent now, and what would it cost? The one place that knows. Verdicts: send, wait (until not_before, by
-- private.clock(); then ask again), template (only as a template), manual (a person must decide), never. Every reason
-- is in private.phrases, said in words; with the verdict send any but window_open, no_window and template is a
-- warning. is_forced overrides what a person may judge: a refusal of marketing, a block, unreachable customers, a
-- takeover, hours and quality;
-- the message goes out with that as its warning. Nobody overrides a refusal of all messages, what the provider would
-- not deliver anyway, or the plan. Where only so many may go (plan, Meta's messaging limit), the first ones asked for
-- get the places.
create function private.send_decisions(p_candidates private.send_candidate[])
returns table (
    ref uuid, verdict text, reason text, not_before timestamptz, price_class text, estimated_cost numeric,
    currency text, is_verified boolean
)
-- planned for what is asked: one preview and a hundred thousand steps of sequences want other joins, and never a sort
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' set work_mem = '64MB'
set enable_mergejoin = off as $$
#variable_conflict use_column
declare
    v_now timestamptz := private.clock();
    v_look_again timestamptz := v_now + interval '1 hour';
begin
    return query
    with asked as materialized (
        select
            k.ordinality as n, k.ref, k.tenant_id, c.number_id, c.lead_id, k.purpose,
            k.purpose not in ('reply', 'staff') as is_bulk,
            k.is_forced is true as is_forced,
            case when l.phone is not null then left(l.phone, 6) else coalesce((
                -- who hides their phone shows their country all the same
                select min(g.prefix)
                from public.lead_identities i
                join public.calling_codes g on g.country = split_part(i.value, '.', 1)
                where i.tenant_id = l.tenant_id and i.lead_id = l.id and i.kind = 'bsuid' and i.valid_to = 'infinity'
            ), '') end as prefix,
            l.timezone as lead_zone, l.opt_out_scope,
            c.block_state, c.reach_state, c.agent_paused_until > v_now as is_taken_over, c.window_expires_at,
            c.free_entry_until > v_now
                -- the answer that opens it is free already
                or c.free_entry_reply_by >= v_now
                and coalesce(c.free_entry_until < c.free_entry_reply_by + interval '48 hours', true) as is_free_entry,
            k.is_template is true as is_template,
            coalesce(t.category, k.category, 'marketing') as category,
            k.template_id, t.provider as template_provider, t.waba_id as template_account,
            case when t.status = 'paused' and t.paused_until <= v_now then 'approved' else t.status end as template_status
        from unnest(p_candidates) with ordinality as k
        -- left joins, though each has its row: of a join by two columns the planner expects next to nothing, and goes
        -- wrong from there; who asks for a chat that is not there is dropped below
        left join public.chats c on c.tenant_id = k.tenant_id and c.id = k.chat_id
        left join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        left join public.message_templates t on t.tenant_id = k.tenant_id and t.id = k.template_id
    ),
    numbers as materialized (
        select
            n.id as number_id, n.id || ' ' as number_key, n.provider, n.is_active, n.timezone as number_zone, n.messaging_limit, n.business_hours,
            s.quiet_hours, s.quiet_hours is not null or n.business_hours is not null as has_hours,
            n.quality_rating = 'RED' and n.provider <> 'whapi' as is_low,
            coalesce(n.portfolio_id, n.waba_id, n.id::text) as portfolio,
            case n.provider when 'twilio' then n.account_id else n.waba_id end as account,
            -- what was written before the number came to the API opened no window
            case when n.is_coexistence then date_trunc('second', n.created_at) + interval '24 hours'
                else '-infinity' end as windows_from,
            format('/%s/%s', o.today, n.provider) as rate_suffix,
            p.paused_until > now() as is_paused, p.bulk_paused_until > now() as is_bulk_paused,
            case when isfinite(p.paused_until) then v_now + (p.paused_until - now()) else v_look_again end as paused_until,
            case when isfinite(p.bulk_paused_until) then v_now + (p.bulk_paused_until - now()) else v_look_again
            end as bulk_paused_until,
            o.today >= '2026-10-01' as is_service_billed,
            coalesce(p.service_month >= date_trunc('month', o.today) and p.service_count >= 1000, false) as is_service_used_up
        from (select distinct a.tenant_id, a.number_id from asked a) as d
        join public.whatsapp_numbers n on n.tenant_id = d.tenant_id and n.id = d.number_id
        join public.tenant_settings s on s.tenant_id = d.tenant_id
        left join public.number_pacing p on p.tenant_id = d.tenant_id and p.number_id = d.number_id
        cross join lateral (select (v_now at time zone n.timezone)::date as today) as o
    ),
    places as materialized (
        select d.prefix, g.country, g.timezone
        from (select distinct a.prefix from asked a) as d
        left join lateral (
            select * from public.calling_codes g
            where g.prefix in (left(d.prefix, 1), left(d.prefix, 2), left(d.prefix, 3), left(d.prefix, 4))
            order by length(g.prefix) desc
            limit 1
        ) as g on true
    ),
    -- which hours by which clock. Here and for rates one key of several parts: of a join by several columns the planner
    -- expects too little again, and of distinct ones too much
    hours as materialized (
        select c.hours_key, o.open_at,
            case when o.open_at is null then 'hours_never_open'
                when private.is_quiet(n.quiet_hours, k.zone, v_now) then 'quiet_hours'
                else 'outside_business_hours' end as reason
        from (
            select distinct n.number_key || coalesce(a.lead_zone, g.timezone, n.number_zone) as hours_key
            from asked a
            join numbers n using (number_id)
            join places g using (prefix)
            where a.is_bulk and n.has_hours
        ) as c
        cross join lateral (select split_part(c.hours_key, ' ', 1)::uuid, split_part(c.hours_key, ' ', 2)) as k (id, zone)
        join numbers n on n.number_id = k.id
        cross join lateral private.first_open(
            n.quiet_hours, k.zone, n.business_hours, n.number_zone, v_now) as o (open_at)
        where o.open_at is distinct from v_now
    ),
    ruled as materialized (
        select
            p.n, p.ref, p.tenant_id, p.lead_id, p.purpose, n.portfolio, n.messaging_limit,
            case
                when not n.is_active then 'number_inactive'
                when p.opt_out_scope = 'all' then 'opted_out'
                when not p.is_forced and p.opt_out_scope = 'marketing'
                    and (p.is_bulk or p.is_template and p.category = 'marketing') then 'opted_out_of_marketing'
                when not p.is_forced and p.is_bulk and p.block_state = 'confirmed' then 'blocked'
                when not p.is_forced and p.is_bulk and p.reach_state = 'unreachable' then 'unreachable'
                when not p.is_forced and p.purpose = 'reply' and p.is_taken_over then 'human_takeover'
                when p.is_template and n.provider = 'whapi' then 'templates_unsupported'
                when not p.is_template and w.is_open is not true then 'window_closed'
                when p.is_template and w.template_status not in ('approved', 'flagged', 'reinstated', 'unarchived')
                    then case
                        when w.template_status in ('missing', 'rejected', 'paused')
                            then 'template_' || w.template_status
                        when w.template_status in ('pending', 'in_appeal') then 'template_pending'
                        else 'template_disabled'
                    end
                when p.is_template and p.category = 'marketing' and g.country = 'US' then 'marketing_to_us'
                when n.is_paused then 'number_paused'
                when p.is_bulk and n.is_bulk_paused then 'bulk_paused'
                when not p.is_forced and p.is_bulk and p.block_state = 'probable' then 'probably_blocked'
                when not p.is_forced and p.is_bulk and n.is_low then 'quality_low'
                when not p.is_forced then h.reason
            end as held,
            case
                when p.opt_out_scope = 'marketing'
                    and (p.purpose <> 'reply' or p.is_template and p.category = 'marketing')
                    then 'opted_out_of_marketing'
                when p.purpose <> 'reply' and p.block_state = 'confirmed' then 'blocked'
                when p.purpose <> 'reply' and p.reach_state = 'unreachable' then 'unreachable'
                when p.purpose = 'reply' and p.is_taken_over then 'human_takeover'
                when p.purpose <> 'reply' and p.block_state = 'probable' then 'probably_blocked'
                when p.purpose <> 'reply' and n.is_low then 'quality_low'
                when h.reason is not null then h.reason
                when n.provider = 'whapi' then 'no_window'
                when w.is_open then 'window_open'
                else 'template'
            end as noted,
            case when n.is_paused then n.paused_until else n.bulk_paused_until end as paused_until,
            h.open_at,
            p.is_template and w.is_open is not true as is_outreach,
            e.class, p.prefix || '/' || e.class || n.rate_suffix as rate_key,
            w.is_open and (
                not p.is_template and n.is_service_billed and not n.is_service_used_up
                or p.is_template and p.category = 'utility' and not n.is_service_billed) is true as is_free
        from asked p
        join numbers n using (number_id)
        join places g using (prefix)
        left join hours h on h.hours_key = case when p.is_bulk and n.has_hours
            then n.number_key || coalesce(p.lead_zone, g.timezone, n.number_zone) end
        cross join lateral (
            select
                n.provider = 'whapi' or p.window_expires_at > v_now and p.window_expires_at >= n.windows_from as is_open,
                case when p.template_id is null then 'approved'
                    when p.template_provider = n.provider and p.template_account = n.account then p.template_status
                    else 'missing' end as template_status
        ) as w
        cross join lateral (
            select case
                when n.provider = 'whapi' then 'none'
                when p.is_free_entry then 'free_entry_point'
                when p.is_template then p.category
                when w.is_open then 'service'
                -- what it would take: a template, of the cheaper kind
                else 'utility'
            end as class
        ) as e
    ),
    askers as materialized (
        select distinct r.tenant_id from ruled r where r.held is null and r.purpose <> 'reply'
    ),
    quotas as materialized (
        select a.tenant_id, (o.month + interval '1 month') at time zone u.timezone as renewed_at,
            greatest(coalesce(u.max_messages_per_month, p.max_messages_per_month) - coalesce(m.sent, 0), 0) as places
        from askers a
        join public.users u on u.id = a.tenant_id
        join public.plans p on p.name = u.crm_plan
        cross join lateral date_trunc('month', v_now at time zone u.timezone) as o (month)
        left join lateral (
            select sum(s.sent) as sent from public.monthly_sends s
            where s.tenant_id = a.tenant_id and s.month = o.month::date
        ) as m on true
        where coalesce(u.max_messages_per_month, p.max_messages_per_month) is not null
    ),
    over_plan as materialized (
        select q.n, q.renewed_at
        from (
            select r.n, q.places, q.renewed_at, row_number() over (partition by r.tenant_id order by r.n) as place
            from ruled r
            join quotas q on q.tenant_id = r.tenant_id
            where r.held is null and r.purpose <> 'reply'
        ) as q
        where q.place > q.places
    ),
    newcomers as (
        select r.n, r.tenant_id, r.portfolio, r.messaging_limit,
            min(r.n) over (partition by r.tenant_id, r.portfolio, r.lead_id) as first_n
        from ruled r
        where r.held is null and r.purpose <> 'reply' and r.is_outreach and r.messaging_limit is not null
            and not exists (select from over_plan o where o.n = r.n)
            and not exists (
                select from public.outreaches x
                where x.tenant_id = r.tenant_id and x.portfolio = r.portfolio and x.lead_id = r.lead_id
                    and x.last_at > v_now - interval '24 hours')
    ),
    tiers as (
        select d.tenant_id, d.portfolio, d.messaging_limit, greatest(d.messaging_limit - x.reached, 0) as places,
            coalesce(
                x.times[greatest(x.reached - d.messaging_limit, 0) + 1] + interval '24 hours', v_look_again) as free_at
        from (select distinct o.tenant_id, o.portfolio, o.messaging_limit from newcomers o) as d
        cross join lateral (
            select count(*) as reached, array_agg(x.last_at order by x.last_at) as times
            from public.outreaches x
            where x.tenant_id = d.tenant_id and x.portfolio = d.portfolio and x.last_at > v_now - interval '24 hours'
        ) as x
    ),
    over_tier as materialized (
        select o.n, o.free_at
        from (
            select c.n, t.places, t.free_at,
                dense_rank() over (partition by c.tenant_id, c.portfolio order by c.first_n) as place
            from newcomers c
            join tiers t using (tenant_id, portfolio, messaging_limit)
        ) as o
        where o.place > o.places
    ),
    rates as materialized (
        select d.rate_key, r.amount, coalesce(r.currency, fee.currency) as currency,
            coalesce(fee.amount, 0) as fee, r.is_verified, coalesce(fee.is_verified, true) as is_fee_verified
        from (select distinct r.rate_key from ruled r) as d
        cross join lateral string_to_array(d.rate_key, '/') as k (part)  -- prefix, class, day, provider
        left join lateral private.price_of(k.part[1], k.part[2], k.part[3]::date) as r on true
        left join lateral private.price_of('', 'twilio_fee', k.part[3]::date) as fee on k.part[4] = 'twilio'
    )
    select
        r.ref,
        case
            when v.reason is null then 'send'
            when v.reason = 'window_closed' then case when r.purpose in ('reply', 'sequence') then 'manual'
                else 'template' end
            when v.reason in ('number_inactive', 'opted_out', 'opted_out_of_marketing', 'blocked', 'unreachable', 'human_takeover',
                'templates_unsupported', 'marketing_to_us') then 'never'
            -- a person who writes now does not mean next month
            when v.reason = 'plan_quota' and r.purpose = 'staff' then 'never'
            when v.reason = 'hours_never_open' or v.reason like 'template\_%' then 'manual'
            else 'wait'
        end,
        coalesce(v.reason, r.noted),
        case
            when v.reason in ('number_paused', 'bulk_paused') then r.paused_until
            when v.reason in ('probably_blocked', 'quality_low') and r.held is not null then v_look_again
            when v.reason in ('quiet_hours', 'outside_business_hours') then r.open_at
            when v.reason = 'plan_quota' and r.purpose <> 'staff' then op.renewed_at
            when v.reason = 'messaging_limit' then ot.free_at
        end,
        r.class,
        case when r.is_free or r.class in ('none', 'free_entry_point') then 0 else x.amount end + x.fee,
        x.currency,
        (r.is_free or r.class in ('none', 'free_entry_point') or coalesce(x.is_verified, false)) and x.is_fee_verified
    from ruled r
    left join over_plan op on op.n = r.n
    left join over_tier ot on ot.n = r.n
    cross join lateral (
        select coalesce(r.held, case when op.n is not null then 'plan_quota' when ot.n is not null
            then 'messaging_limit' end) as reason
    ) as v
    join rates x on x.rate_key = r.rate_key;
end
$$;

grant execute on function
    private.hours_edges(jsonb, text, text, timestamptz), private.is_quiet(jsonb, text, timestamptz),
    private.first_open(jsonb, text, jsonb, text, timestamptz), private.send_decisions(private.send_candidate[])
    to authenticated, service_role;
grant execute on function private.free_entry_open(private.sent[]), private.sends_noted(private.sent[]),
    private.last_open(jsonb, text, jsonb, text, timestamptz) to service_role;


-- sql/63_send_preview.sql

-- The send decision in words, for people who are about to write.

-- Every reason of private.send_decisions() as a sentence. reason: why it does not go out now, or simply goes; warning:
-- it may go, but; note: what comes after, which is price and free entry point; hint: what to do.
insert into private.phrases (kind, reason, es, en, pt) values
    ('reason', 'window_open', 'La ventana está abierta hasta {until}', 'The window is open until {until}',
        'A janela está aberta até {until}'),
    ('reason', 'no_window', 'Este número no tiene ventana: se puede escribir siempre',
        'This number has no window: you may write at any time', 'Este número não tem janela: pode escrever sempre'),
    ('reason', 'template', 'La ventana está cerrada; sale como plantilla',
        'The window is closed; it goes out as a template', 'A janela está fechada; sai como modelo'),
    ('reason', 'number_inactive', 'El número de este chat está desactivado', 'The number of this chat is switched off',
        'O número deste chat está desativado'),
    ('reason', 'opted_out', 'El cliente pidió que no le escriban', 'This customer asked not to be written to',
        'O cliente pediu que não lhe escrevam'),
    ('reason', 'opted_out_of_marketing', 'El cliente no quiere recibir promociones',
        'This customer does not want marketing', 'O cliente não quer receber promoções'),
    ('warning', 'opted_out_of_marketing', 'Atención: el cliente no quiere recibir promociones',
        'Note that this customer does not want marketing', 'Atenção: o cliente não quer receber promoções'),
    ('reason', 'blocked', 'El cliente bloqueó este número: nada de lo último le llegó',
        'This customer has blocked the number: nothing of late has reached them',
        'O cliente bloqueou este número: nada do que foi enviado chegou'),
    ('warning', 'blocked', 'Atención: el cliente bloqueó este número y es probable que no le llegue',
        'Note that this customer has blocked the number: it will hardly reach them',
        'Atenção: o cliente bloqueou este número e é provável que não chegue'),
    ('reason', 'probably_blocked', 'Es probable que el cliente haya bloqueado este número; se revisa otra vez {until}',
        'This customer has probably blocked the number; it is looked at again {until}',
        'É provável que o cliente tenha bloqueado este número; verifica-se de novo {until}'),
    ('warning', 'probably_blocked', 'Atención: es probable que el cliente haya bloqueado este número',
        'Note that this customer has probably blocked the number',
        'Atenção: é provável que o cliente tenha bloqueado este número'),
    ('reason', 'unreachable', 'WhatsApp no encuentra a este cliente: sus últimos mensajes no se pudieron entregar',
        'WhatsApp cannot reach this customer: the last messages could not be delivered',
        'O WhatsApp não encontra este cliente: as últimas mensagens não puderam ser entregues'),
    ('warning', 'unreachable', 'Atención: WhatsApp no encontró a este cliente las últimas veces',
        'Note that WhatsApp could not reach this customer the last times',
        'Atenção: o WhatsApp não encontrou este cliente nas últimas vezes'),
    ('reason', 'human_takeover', 'Una persona atiende este chat; el agente calla',
        'A person has taken this chat over; the agent is silent',
        'Uma pessoa atende este chat; o agente fica em silêncio'),
    ('warning', 'human_takeover', 'Atención: una persona atiende este chat',
        'Note that a person has taken this chat over',
        'Atenção: uma pessoa atende este chat'),
    ('reason', 'templates_unsupported', 'Este número no admite plantillas', 'This number cannot send templates',
        'Este número não envia modelos'),
    ('reason', 'window_closed', 'La ventana se cerró hace {ago}; hace falta una plantilla',
        'The window closed {ago} ago; a template is needed', 'A janela fechou há {ago}; é preciso um modelo'),
    ('reason', 'window_never_open', 'El cliente aún no ha escrito a este número; hace falta una plantilla',
        'This customer has not written to this number yet; a template is needed',
        'O cliente ainda não escreveu para este número; é preciso um modelo'),
    ('reason', 'window_will_be_closed', 'A esa hora la ventana estará cerrada; hace falta una plantilla',
        'The window will be closed by then; a template is needed',
        'A essa hora a janela estará fechada; é preciso um modelo'),
    ('reason', 'text_blank', 'El texto queda vacío: no se sabe nada de lo que lleva de este cliente',
        'The text is empty: nothing that it says of this customer is known',
        'O texto fica vazio: nada do que diz deste cliente é conhecido'),
    ('reason', 'template_missing', 'La plantilla no es de la cuenta de este número',
        'The template is not of this number''s account', 'O modelo não é da conta deste número'),
    ('reason', 'template_rejected', 'WhatsApp rechazó la plantilla; elija otra',
        'WhatsApp has rejected the template; choose another', 'O WhatsApp rejeitou o modelo; escolha outro'),
    ('reason', 'template_paused', 'WhatsApp puso la plantilla en pausa por su calidad; elija otra',
        'WhatsApp has paused the template for its quality; choose another',
        'O WhatsApp pausou o modelo pela qualidade; escolha outro'),
    ('reason', 'template_pending', 'WhatsApp aún no ha aprobado la plantilla',
        'WhatsApp has not approved the template yet', 'O WhatsApp ainda não aprovou o modelo'),
    ('reason', 'template_disabled', 'La plantilla ya no se puede usar; elija otra',
        'The template can no longer be used; choose another', 'O modelo já não pode ser usado; escolha outro'),
    ('reason', 'marketing_to_us', 'WhatsApp no entrega promociones a números de Estados Unidos',
        'WhatsApp delivers no marketing to numbers of the United States',
        'O WhatsApp não entrega promoções a números dos Estados Unidos'),
    ('reason', 'number_paused', 'El número está en pausa; se intenta otra vez {until}',
        'The number is paused; it is tried again {until}', 'O número está em pausa; tenta-se de novo {until}'),
    ('reason', 'number_stopped',
        'El número está detenido y el mensaje espera: un administrador debe conectarlo otra vez',
        'The number is stopped and the message waits: an admin must connect it again',
        'O número está parado e a mensagem espera: um administrador deve conectá-lo de novo'),
    ('reason', 'bulk_paused', 'Los envíos masivos de este número están en pausa; se intenta otra vez {until}',
        'Bulk messages of this number are paused; it is tried again {until}',
        'Os envios em massa deste número estão em pausa; tenta-se de novo {until}'),
    ('reason', 'quality_low', 'La calidad del número es baja y sus envíos masivos esperan; se revisa otra vez {until}',
        'The number''s quality is low and its bulk messages wait; it is looked at again {until}',
        'A qualidade do número é baixa e os envios em massa esperam; verifica-se de novo {until}'),
    ('warning', 'quality_low', 'Atención: la calidad del número es baja', 'Note that the number''s quality is low',
        'Atenção: a qualidade do número é baixa'),
    ('reason', 'quiet_hours', 'Para el cliente son horas de descanso; sale {until}',
        'These are quiet hours for the customer; it goes out {until}',
        'São horas de descanso para o cliente; sai {until}'),
    ('warning', 'quiet_hours', 'Atención: para el cliente son horas de descanso',
        'Note that these are quiet hours for the customer', 'Atenção: são horas de descanso para o cliente'),
    ('reason', 'outside_business_hours', 'El negocio está cerrado; sale {until}',
        'The business is closed; it goes out {until}', 'O negócio está fechado; sai {until}'),
    ('warning', 'outside_business_hours', 'Atención: el negocio está cerrado', 'Note that the business is closed',
        'Atenção: o negócio está fechado'),
    ('reason', 'hours_never_open', 'El horario del negocio cae siempre en las horas de descanso del cliente',
        'The business is open only in the customer''s quiet hours',
        'O horário do negócio cai sempre nas horas de descanso do cliente'),
    ('warning', 'hours_never_open', 'Atención: el negocio está cerrado o para el cliente son horas de descanso',
        'Note that the business is closed, or these are quiet hours for the customer',
        'Atenção: o negócio está fechado ou são horas de descanso para o cliente'),
    ('reason', 'plan_quota', 'Se agotaron los mensajes que el plan incluye este mes',
        'The messages the plan includes this month are used up', 'Acabaram as mensagens que o plano inclui neste mês'),
    ('reason', 'messaging_limit', 'Se alcanzó el límite de clientes que WhatsApp permite en 24 horas; sale {until}',
        'The customers WhatsApp allows in 24 hours are reached; it goes out {until}',
        'Foi atingido o limite de clientes que o WhatsApp permite em 24 horas; sai {until}'),
    ('hint', 'choose_template', 'Elija una plantilla (p_type y p_template_id).',
        'Choose a template (p_type and p_template_id).', 'Escolha um modelo (p_type e p_template_id).'),
    ('hint', 'force', 'Para enviarlo de todos modos, use p_force con el costo que se muestra.',
        'To send it all the same, use p_force with the cost shown.',
        'Para enviar mesmo assim, use p_force com o custo mostrado.'),
    ('hint', 'number_inactive', 'Un administrador puede activarlo otra vez.', 'An admin may switch it on again.',
        'Um administrador pode ativá-lo de novo.'),
    ('hint', 'opted_out', 'Si el cliente cambió de opinión, regístrelo con consent_record.',
        'If the customer thinks otherwise now, note it with consent_record.',
        'Se o cliente mudou de ideia, registe-o com consent_record.'),
    ('hint', 'marketing_to_us', 'Elija una plantilla de utilidad.', 'Choose a utility template.',
        'Escolha um modelo de utilidade.'),
    ('hint', 'plan_quota', 'Cambie a un plan mayor o espere al mes próximo.',
        'Change to a larger plan, or wait until next month.', 'Mude para um plano maior ou espere pelo próximo mês.'),
    ('hint', 'nothing', 'No se puede hacer nada al respecto.', 'Nothing can be done about it.',
        'Não há nada a fazer.'),
    ('note', 'price', 'costo estimado {cost}', 'estimated cost {cost}', 'custo estimado {cost}'),
    ('note', 'price_unverified', 'costo estimado {cost} (tarifa sin verificar)',
        'estimated cost {cost} (unverified rate)', 'custo estimado {cost} (tarifa não verificada)'),
    ('note', 'price_unknown', 'no se conoce el costo', 'the cost is not known', 'o custo não é conhecido'),
    ('note', 'price_none', 'sin costo por mensaje', 'no cost per message', 'sem custo por mensagem'),
    ('note', 'free_entry_point', 'sin costo: el cliente vino de un anuncio',
        'at no cost: the customer came from an ad', 'sem custo: o cliente veio de um anúncio'),
    ('note', 'reply_by', 'responda antes de {reply_by} y 72 horas serán sin costo',
        'answer by {reply_by} and 72 hours will be at no cost', 'responda até {reply_by} e 72 horas serão sem custo'),
    ('refusal', 'purpose', 'No existe el propósito «{purpose}».', 'There is no purpose "{purpose}".',
        'Não existe o propósito «{purpose}».'),
    ('hint', 'purpose', 'Es reply, staff, sequence, daily_action o call_followup.',
        'It is reply, staff, sequence, daily_action or call_followup.',
        'É reply, staff, sequence, daily_action ou call_followup.');

-- How long, roughly: 5 min, 3 h, 2 días.
create function private.span_words(p_span interval, p_locale text) returns text
language plpgsql immutable set search_path = '' as $$
declare
    v_seconds numeric := extract(epoch from p_span);
begin
    return case
        when v_seconds < 3600 then greatest(ceil(v_seconds / 60), 1) || ' min'
        when v_seconds < 48 * 3600 then floor(v_seconds / 3600) || ' h'
        else floor(v_seconds / 86400) || case split_part(p_locale, '-', 1)
            when 'en' then ' days' when 'pt' then ' dias' else ' días' end
    end;
end
$$;

-- A moment by the reader's clock: 15:30 today, else with its day.
create function private.moment_words(p_at timestamptz, p_timezone text, p_locale text, p_now timestamptz) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_local timestamp := p_at at time zone p_timezone;
begin
    return to_char(v_local, case
        when v_local::date = (p_now at time zone p_timezone)::date then 'HH24:MI'
        when split_part(p_locale, '-', 1) = 'en' then 'FMDD Mon HH24:MI'
        else 'DD/MM HH24:MI' end);
end
$$;

-- A decision about a chat as a sentence, in the reader's language and by their clock: why, and what it costs.
-- p_decision: a row of send_decisions() as jsonb. What can be sent in the end, if only by force, is told its cost.
create function private.send_sentence(
    p_chat public.chats, p_decision jsonb, p_can_force boolean, p_reader public.users
) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_reason text := case
        when p_decision ->> 'reason' = 'window_closed' and p_chat.window_expires_at is null then 'window_never_open'
        when p_decision ->> 'reason' = 'number_paused' and exists (
            select from public.number_pacing p
            where p.tenant_id = p_chat.tenant_id and p.number_id = p_chat.number_id and p.paused_until = 'infinity')
            then 'number_stopped'
        else p_decision ->> 'reason' end;
    v_kind text := case when p_decision ->> 'verdict' = 'send' and v_reason not in ('window_open', 'no_window', 'template')
        then 'warning' else 'reason' end;
    v_until timestamptz := coalesce((p_decision ->> 'not_before')::timestamptz, p_chat.window_expires_at);
    v_cost numeric := (p_decision ->> 'estimated_cost')::numeric;
    v_price text := case
        when p_decision ->> 'price_class' = 'none' then 'price_none'
        when p_decision ->> 'price_class' = 'free_entry_point' and v_cost = 0 then 'free_entry_point'
        when v_cost is null then 'price_unknown'
        when (p_decision ->> 'is_verified')::boolean then 'price'
        else 'price_unverified' end;
begin
    return concat_ws('; ',
        private.phrase(v_kind, v_reason, jsonb_build_object(
            'ago', private.span_words(v_now - p_chat.window_expires_at, p_reader.locale),
            'until', private.moment_words(v_until, p_reader.timezone, p_reader.locale, v_now)), p_reader.locale),
        case when p_decision ->> 'verdict' <> 'never' or p_can_force then private.phrase('note', v_price,
            jsonb_build_object('cost', (p_decision ->> 'currency') || ' ' || trim_scale(v_cost)), p_reader.locale) end,
        case when private.free_entry_reply_by(p_chat) > v_now and p_decision ->> 'verdict' = 'send'
            then private.phrase('note', 'reply_by', jsonb_build_object('reply_by', private.moment_words(
                p_chat.free_entry_reply_by, p_reader.timezone, p_reader.locale, v_now)), p_reader.locale) end);
end
$$;

-- What would become of a message, before it is written: {"verdict", "reason", "is_warning", "sentence", "not_before",
-- "can_force", "window": {"is_open", "expires_at"}, "free_entry": {"until", "reply_by"}, "price": {"class",
-- "estimated_cost", "currency", "is_verified"}}. The sentence is in the caller's language and by their clock; all costs
-- are estimates. p_type template without a template: any. can_force: p_force would send it.
create function public.send_preview(
    p_chat_id uuid, p_type text default 'text', p_template_id uuid default null, p_purpose text default 'staff',
    p_force boolean default false
) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_reader public.users;
    v_chat public.chats;
    v_decision jsonb;
    v_forced jsonb;
    v_can_force boolean;
begin
    select * into v_chat from public.chats c where c.tenant_id = v_tenant_id and c.id = p_chat_id;
    if not found then
        perform private.refuse('PT404', 'no_chat');
    elsif p_template_id is not null and not exists (
        select from public.message_templates t where t.tenant_id = v_tenant_id and t.id = p_template_id
    ) then
        perform private.refuse('PT404', 'no_template');
    elsif p_purpose is null or p_purpose not in ('reply', 'staff', 'sequence', 'daily_action', 'call_followup') then
        perform private.refuse('PT400', 'purpose', jsonb_build_object('purpose', p_purpose));
    end if;
    select * into v_reader from public.users u where u.id = private.my_user_id();

    select jsonb_object_agg(d.ref = v_chat.id, to_jsonb(d)) into v_decision
    from private.send_decisions(array[
        (v_chat.id, v_tenant_id, v_chat.id, p_purpose, p_type = 'template', null, p_template_id, p_force),
        (v_tenant_id, v_tenant_id, v_chat.id, p_purpose, p_type = 'template', null, p_template_id, true)
    ]::private.send_candidate[]) d;
    v_forced := v_decision -> 'false';
    v_decision := v_decision -> 'true';
    v_can_force := v_decision ->> 'verdict' <> 'send' and v_forced ->> 'verdict' = 'send';
    return jsonb_build_object(
        'verdict', v_decision -> 'verdict', 'reason', v_decision -> 'reason',
        'is_warning', v_decision ->> 'verdict' = 'send'
            and v_decision ->> 'reason' not in ('window_open', 'no_window', 'template'),
        'sentence', private.send_sentence(v_chat, v_decision, v_can_force, v_reader),
        'not_before', v_decision -> 'not_before',
        'can_force', v_can_force,
        'window', jsonb_build_object(
            'is_open', coalesce(v_chat.window_expires_at > private.clock(), false),
            'expires_at', v_chat.window_expires_at),
        'free_entry', jsonb_build_object('until', v_chat.free_entry_until, 'reply_by',
            case when private.free_entry_reply_by(v_chat) > private.clock() then v_chat.free_entry_reply_by end),
        'price', jsonb_build_object('class', v_decision -> 'price_class',
            'estimated_cost', v_decision -> 'estimated_cost', 'currency', v_decision -> 'currency',
            'is_verified', v_decision -> 'is_verified'));
end
$$;

grant execute on function
    private.span_words(interval, text),
    private.moment_words(timestamptz, text, text, timestamptz),
    private.send_sentence(public.chats, jsonb, boolean, public.users) to authenticated, service_role;
grant execute on function public.send_preview(uuid, text, uuid, text, boolean) to authenticated;


-- sql/63_threads.sql

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


-- sql/65_outbox.sql

-- The outbox: messages on their way to a provider. The message itself is in messages; a row here is its errand, gone
-- when it is done. due_at is business time (private.clock()); leases, pacing and backoff use real time.
--
-- queued -> claimed (a worker has it; when its lease ends it is queued again)
--        -> sending (the worker is about to call the provider: from here on it is never sent again by itself)
--        -> unknown (nobody came back: a status webhook may still tell, else a person is asked)

create table public.outbox (
    tenant_id uuid,
    message_id uuid,
    chat_id uuid not null,
    number_id uuid not null,
    purpose text not null,
    priority smallint not null,
    position bigint not null generated always as identity,
    state text not null default 'queued',
    due_at timestamptz not null,
    not_before timestamptz,
    claim uuid,
    lease_until timestamptz,
    attempts int not null default 0,
    unknown_at timestamptz,
    alerted_at timestamptz,
    created_at timestamptz not null default now(),
    constraint outbox_pkey primary key (tenant_id, message_id),
    constraint outbox_message_id_fkey foreign key (tenant_id, message_id) references public.messages (tenant_id, id)
        on delete cascade,
    constraint outbox_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id),
    constraint outbox_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id),
    constraint outbox_purpose_check check (purpose in ('reply', 'staff', 'sequence', 'daily_action', 'call_followup')),
    constraint outbox_priority_check check (priority between 0 and 2),
    constraint outbox_state_check check (state in ('queued', 'claimed', 'sending', 'unknown'))
) with (autovacuum_vacuum_scale_factor = 0.02);
comment on table public.outbox is 'Errands of messages that are not yet known to be sent.';
comment on column public.outbox.priority is '0: people, 1: answers, 2: bulk, which is whatever can wait.';
comment on column public.outbox.position is 'The order in which messages of a chat were written, and go out.';
comment on column public.outbox.due_at is 'Business time: what it was scheduled for, or what a decision waits for.';
comment on column public.outbox.unknown_at is 'Business time: since when nobody knows whether it was sent.';
comment on column public.outbox.not_before is 'Real time: it rests until then after a failed try; null: no rest.';

-- A number's queue in the order in which it goes out; also what its foreign key asks for.
create index outbox_tenant_id_number_id_state_priority_due_at_idx
    on public.outbox (tenant_id, number_id, state, priority, due_at, position);
create index outbox_tenant_id_chat_id_position_idx on public.outbox (tenant_id, chat_id, position);
-- What is in workers' hands, or lost and not shown yet: never many.
create index outbox_tenant_id_lease_until_idx
    on public.outbox (tenant_id, lease_until) where state <> 'queued' and alerted_at is null;
create index outbox_tenant_id_not_before_idx on public.outbox (tenant_id, not_before) where not_before is not null;

alter table public.outbox enable row level security;
grant select on public.outbox to authenticated;
grant select, insert, update, delete on public.outbox to service_role;
create policy outbox_select_member on public.outbox for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- number_pacing: when a number may send again. Messages get their slots one after the other. A busy number stays with
-- the worker that has it (holder), so that one process alone keeps its distance between two messages.
create table public.number_pacing (
    tenant_id uuid,
    number_id uuid,
    next_slot_at timestamptz not null default '-infinity',
    reserve_slot_at timestamptz not null default '-infinity',
    bulk_slot_at timestamptz not null default '-infinity',
    holder uuid,
    slow_level smallint not null default 0,
    slowed_at timestamptz,
    paused_until timestamptz,
    pause_reason text,
    bulk_paused_until timestamptz,
    bulk_pause_reason text,
    service_month date,
    service_count int not null default 0,
    constraint number_pacing_pkey primary key (tenant_id, number_id),
    constraint number_pacing_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade,
    constraint number_pacing_slow_level_check check (slow_level between 0 and 5)
) with (fillfactor = 50);
comment on table public.number_pacing is 'How far each number has used up its rate, and whether it is stopped.';
comment on column public.number_pacing.reserve_slot_at is 'The next slot that bulk cannot take.';
comment on column public.number_pacing.slow_level is 'Its rate is halved so often; each half minute takes one back.';
comment on column public.number_pacing.paused_until is 'infinity: until somebody mends the channel.';
comment on column public.number_pacing.bulk_paused_until is
    'Bulk alone; answers and staff go on. infinity: until it is lifted.';
comment on column public.number_pacing.service_count is 'Service messages of service_month, by the number''s calendar.';

alter table public.number_pacing enable row level security;
grant select on public.number_pacing to authenticated;
grant select, insert, update, delete on public.number_pacing to service_role;
create policy number_pacing_select_member on public.number_pacing for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- chat_pacing: how much of Meta's pair limit a chat has used. One message in six seconds, or a burst of up to 45
-- within six seconds, after which the chat rests until they are paid for at that rate.
create table private.chat_pacing (
    tenant_id uuid,
    chat_id uuid,
    burst_at timestamptz not null,
    burst_count int not null,
    free_at timestamptz not null,
    refusals int not null default 0,
    constraint chat_pacing_pkey primary key (tenant_id, chat_id),
    constraint chat_pacing_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade
) with (fillfactor = 50);
comment on table private.chat_pacing is 'What chats owe to the limit of messages to one customer.';
comment on column private.chat_pacing.free_at is 'When the burst that began at burst_at is paid for.';
comment on column private.chat_pacing.refusals is 'How often in a row the provider refused this pair (131056).';

alter table private.chat_pacing enable row level security;
grant select, insert, update, delete on private.chat_pacing to service_role;

-- A message to be sent. data: what its type carries besides text. send_at: not before, by private.clock(); null: now.
-- forced_by: the member of staff who decided that it goes out against the rules. message_id: null, or one of ours.
create type private.outgoing as (
    tenant_id uuid, chat_id uuid, purpose text, source text, role text, type text, content text, data jsonb,
    send_at timestamptz, author_id uuid, agent_id uuid, template_id uuid, reply_to text, forced_by uuid,
    message_id uuid
);

create function private.outgoing(
    p_tenant_id uuid, p_chat_id uuid, p_purpose text, p_source text, p_role text, p_content text,
    p_type text default 'text', p_data jsonb default null, p_send_at timestamptz default null,
    p_author_id uuid default null, p_agent_id uuid default null, p_template_id uuid default null,
    p_reply_to text default null, p_forced_by uuid default null, p_message_id uuid default null
) returns private.outgoing
language sql immutable set search_path = '' as $$
    select (p_tenant_id, p_chat_id, p_purpose, p_source, p_role, p_type, p_content, p_data, p_send_at, p_author_id,
        p_agent_id, p_template_id, p_reply_to, p_forced_by, p_message_id)::private.outgoing
$$;

-- Put messages into their chats and into the outbox: everybody who sends does it here. Returns the messages' ids in
-- the order given. Staff come before answers, and both before what can wait.
create function private.outbox_enqueue(p_messages private.outgoing[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    -- in order, since messages of the same moment are shown in the order of their ids
    v_new uuid[] := array(select private.uuid7() from unnest(p_messages) o where o.message_id is null order by 1);
    v_ids uuid[] := array(
        select coalesce(o.message_id, v_new[count(*) filter (where o.message_id is null) over (order by o.ordinality)])
        from unnest(p_messages) with ordinality as o
        order by o.ordinality);
begin
    perform from public.chats c
    join (select distinct o.tenant_id, o.chat_id from unnest(p_messages) o) as w
        on c.tenant_id = w.tenant_id and c.id = w.chat_id
    order by c.tenant_id, c.id
    for no key update of c;

    insert into public.messages (tenant_id, id, chat_id, conversation_id, lead_id, number_id, direction, role, source,
        author_id, agent_id, type, content, data, reply_to, template_id, forced_by, status, provider_at)
    select o.tenant_id, v_ids[o.ordinality], c.id, v.id, c.lead_id, c.number_id, 'outbound', o.role, o.source,
        o.author_id, o.agent_id, o.type, o.content, o.data, o.reply_to, o.template_id, o.forced_by, 'queued',
        (select private.clock())
    from unnest(p_messages) with ordinality as o
    cross join lateral (
        select * from public.chats k
        where k.tenant_id = o.tenant_id and k.id = o.chat_id
        limit 1
    ) as c
    left join lateral (
        select w.id from public.conversations w
        where w.tenant_id = o.tenant_id and w.chat_id = o.chat_id and w.status = 'open'
        limit 1
    ) as v on true;

    insert into public.outbox (tenant_id, message_id, chat_id, number_id, purpose, priority, due_at)
    select o.tenant_id, v_ids[o.ordinality], c.id, c.number_id, o.purpose,
        case o.purpose when 'staff' then 0 when 'reply' then 1 else 2 end,
        greatest(o.send_at, (select private.clock()))
    from unnest(p_messages) with ordinality as o
    cross join lateral (
        select * from public.chats k
        where k.tenant_id = o.tenant_id and k.id = o.chat_id
        limit 1
    ) as c
    order by o.ordinality;

    -- a number has its pacing from its first message on
    insert into public.number_pacing (tenant_id, number_id)
    select distinct c.tenant_id, c.number_id
    from unnest(p_messages) o
    cross join lateral (
        select * from public.chats k
        where k.tenant_id = o.tenant_id and k.id = o.chat_id
        limit 1
    ) as c
    order by 1, 2
    on conflict do nothing;

    update public.conversations v set message_count = v.message_count + w.messages
    from (
        select o.tenant_id, o.chat_id, count(*) as messages from unnest(p_messages) o group by o.tenant_id, o.chat_id
    ) as w
    where v.tenant_id = w.tenant_id and v.chat_id = w.chat_id and v.status = 'open';
    perform private.wake('deliver');
    return v_ids;
end
$$;

-- Take messages back that nobody has begun to send. Returns those it got: the others are on their way, sent or gone.
create function private.outbox_cancel(p_tenant_id uuid, p_message_ids uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_canceled uuid[];
begin
    with mine as (
        select o.message_id from public.outbox o
        where o.tenant_id = p_tenant_id and o.message_id = any(p_message_ids) and o.state = 'queued'
        order by o.message_id for update
    ),
    gone as (
        delete from public.outbox o using mine
        where o.tenant_id = p_tenant_id and o.message_id = mine.message_id
        returning o.message_id
    ),
    noted as (
        update public.messages m set status = 'canceled'
        from gone g
        where m.tenant_id = p_tenant_id and m.id = g.message_id
    )
    select coalesce(array_agg(message_id order by message_id), '{}') into v_canceled from gone;
    return v_canceled;
end
$$;

-- Send again what failed, was skipped or canceled, or may never have arrived: a person has decided so, and it goes out
-- as theirs. p_forced_by: who, if against the rules. Returns those it got; whatever is on its way or was sent is
-- left alone.
create function private.outbox_requeue(p_tenant_id uuid, p_message_ids uuid[], p_forced_by uuid default null)
returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_requeued uuid[];
begin
    delete from public.outbox o
    using (
        select u.message_id from public.outbox u
        where u.tenant_id = p_tenant_id and u.message_id = any(p_message_ids) and u.state = 'unknown'
        order by u.message_id for update
    ) as unknown
    where o.tenant_id = p_tenant_id and o.message_id = unknown.message_id;

    with again as (
        select m.id from public.messages m
        where m.tenant_id = p_tenant_id and m.id = any(p_message_ids) and m.direction = 'outbound'
            and m.status in ('failed', 'skipped', 'canceled', 'unknown')
        order by m.id for no key update
    ),
    reset as (
        update public.messages m
        set status = 'queued', wa_message_id = null, sent_at = null, failed_at = null, error_code = null,
            error_message = null, send_verdict = null, send_reason = null,
            forced_by = coalesce(p_forced_by, m.forced_by)
        from again a
        where m.tenant_id = p_tenant_id and m.id = a.id
        returning m.id, m.chat_id, m.number_id
    ),
    queued as (
        insert into public.outbox (tenant_id, message_id, chat_id, number_id, purpose, priority, due_at)
        select p_tenant_id, r.id, r.chat_id, r.number_id, 'staff', 0, (select private.clock())
        from reset r
        order by r.id
        returning message_id
    )
    select coalesce(array_agg(message_id order by message_id), '{}') into v_requeued from queued;
    perform private.wake('deliver');
    return v_requeued;
end
$$;

-- Errands whose worker is gone: not yet begun, they are queued again; begun, nobody knows. Returns how many became
-- unknown.
create function private.outbox_reclaim() returns int
language plpgsql set search_path = '' as $$
declare
    v_unknown int;
begin
    with late as (
        select tenant_id, message_id from public.outbox
        where state in ('claimed', 'sending') and alerted_at is null and lease_until < now()
        order by tenant_id, message_id for update skip locked
    ),
    freed as (
        update public.outbox o
        set state = case o.state when 'claimed' then 'queued' else 'unknown' end,
            unknown_at = case o.state when 'sending' then (select private.clock()) end,
            claim = case o.state when 'sending' then o.claim end,
            lease_until = case o.state when 'sending' then o.lease_until end
        from late
        where o.tenant_id = late.tenant_id and o.message_id = late.message_id
        returning o.tenant_id, o.message_id, o.state
    ),
    lost as (
        update public.messages m set status = 'unknown'
        from freed f
        where f.state = 'unknown' and m.tenant_id = f.tenant_id and m.id = f.message_id and m.status = 'sending'
    )
    select count(*) into v_unknown from freed where state = 'unknown';
    return v_unknown;
end
$$;

-- What lost workers left behind, and what stays unknown for a quarter of an hour: that is shown to a person.
create function public.outbox_sweep() returns void
language plpgsql set search_path = '' as $$
declare
    v_shown public.outbox;
begin
    perform private.outbox_reclaim();
    for v_shown in
        update public.outbox set alerted_at = now()
        where state = 'unknown' and alerted_at is null
            and unknown_at < (select private.clock()) - interval '15 minutes'
        returning *
    loop
        perform private.flag_for_person(v_shown.tenant_id, v_shown.chat_id, 'send_unknown',
            'Nobody knows whether a message was sent; compare with the phone before sending it again.');
    end loop;
end
$$;
grant execute on function
    private.outgoing(uuid, uuid, text, text, text, text, text, jsonb, timestamptz, uuid, uuid, uuid, text, uuid, uuid),
    private.outbox_enqueue(private.outgoing[]), private.outbox_cancel(uuid, uuid[]),
    private.outbox_requeue(uuid, uuid[], uuid), private.outbox_reclaim(), public.outbox_sweep() to service_role;


-- sql/66_delivery.sql

-- Delivery: what workers claim, at the pace of each number, and how sends end.

-- An errand on its way through a claim. spacing: between two slots of its number, the first of which is slot_at;
-- is_reserve: its slot is one that bulk cannot take; rests_until: its chat has used up the pair limit; the rest is
-- what the send decision said.
create type private.errand as (
    tenant_id uuid, message_id uuid, chat_id uuid, number_id uuid, slot_at timestamptz, spacing interval,
    is_reserve boolean, rests_until timestamptz, verdict text, reason text, not_before timestamptz, price_class text,
    estimated_cost numeric, currency text
);

-- What a number may send in the next second or so: `urgent` messages, of which `bulk` may be bulk.
create type private.number_slots as (
    slot_at timestamptz, spacing interval, urgent int, bulk int, is_reserve boolean
);

-- Messages a second that we may hand to a number's provider now. Meta allows 80 (20 beside the Business app, 1,000
-- after an upgrade) and counts what customers write as well; Twilio allows 80; Whapi names no limit and asks for one
-- message after the other.
create function private.number_rate(p_number public.whatsapp_numbers, p_pacing public.number_pacing) returns float8
language plpgsql stable set search_path = '' as $$
declare
    v_ceiling float8 := case p_number.provider
        when 'whapi' then 1
        when 'twilio' then 80
        else case when p_number.is_coexistence then 20 when p_number.rate_per_second > 80 then 1000 else 80 end
    end;
    v_level float8 := coalesce(greatest(0, p_pacing.slow_level - floor(
        extract(epoch from clock_timestamp() - p_pacing.slowed_at) / 30)), 0);
begin
    if p_number.provider = 'cloud_api' then
        v_ceiling := v_ceiling - private.number_inbound(p_number.tenant_id, p_number.id);
    end if;
    return greatest(least(p_number.rate_per_second, v_ceiling), 1) / 2 ^ v_level;
end
$$;

-- Messages a second that customers wrote to a number, these last two seconds. Ids are in the order of their time, so
-- the newest of the tenant are next to each other; two thousand tell enough.
create function private.number_inbound(p_tenant_id uuid, p_number_id uuid) returns float8
language plpgsql stable set search_path = '' as $$
declare
    v_since uuid := private.uuid7_at(clock_timestamp() - interval '2 seconds');
begin
    return (
        select count(*) filter (where m.direction = 'inbound' and m.number_id = p_number_id) / 2.0
        from (
            select direction, number_id from public.messages
            where tenant_id = p_tenant_id and id >= v_since
            order by id desc
            limit 2000
        ) as m);
end
$$;

-- The slots of a number from p_from on. A worker gets those of one second, and comes back 0.4 s before they end;
-- until then nobody else gets any, and later only after a break in which what it still has goes out or comes back.
-- Slots are 5 % wider than the rate asks for: clocks and networks are not exact, and every second counts. Of that, 4 %
-- are a reserve that lets answers pass bulk which has its slots already (from 20 a second on: below, it would be
-- too much of a second).
create function private.number_slots(
    p_number public.whatsapp_numbers, p_pacing public.number_pacing, p_worker uuid, p_from timestamptz
) returns private.number_slots
language plpgsql stable set search_path = '' as $$
declare
    v_rate float8;
    v_slots private.number_slots;
    v_is_mine boolean := p_pacing.holder is not distinct from p_worker;
    v_since timestamptz := case when v_is_mine then p_from + interval '400 ms' else clock_timestamp() end;
    v_bulk boolean := coalesce(p_pacing.bulk_paused_until <= clock_timestamp(), true)
        and p_pacing.bulk_slot_at <= p_from;
begin
    if p_pacing.next_slot_at <= v_since then
        v_rate := private.number_rate(p_number, p_pacing);
        v_slots.spacing := make_interval(secs => 1 / (0.95 * v_rate));
        -- a number that was idle has nothing to keep apart from: its first message goes at once
        v_slots.slot_at := case when p_pacing.next_slot_at < p_from - interval '1 second'
            then least(p_from, clock_timestamp())
            else greatest(p_from, p_pacing.next_slot_at + (case when v_is_mine then 0 else 0.25 end) * interval '1 s')
        end;
        v_slots.urgent := greatest(1, floor(
            extract(epoch from p_from + interval '1 second' - v_slots.slot_at) * 0.95 * v_rate));
        v_slots.bulk := case
            when not v_bulk then 0 when p_number.provider = 'whapi' then 1 else v_slots.urgent end;
        v_slots.is_reserve := false;
    elsif p_pacing.reserve_slot_at <= p_from then
        v_rate := private.number_rate(p_number, p_pacing);
        v_slots := (p_from, make_interval(secs => 1 / (0.04 * v_rate)), case when v_rate >= 20 then 1 else 0 end, 0,
            true)::private.number_slots;
    else
        v_slots := (p_from, null, 0, 0, false)::private.number_slots;
    end if;
    return v_slots;
end
$$;

-- Numbers that have anything in the outbox, found by leaping from one to the next.
create function private.outbox_numbers() returns table (tenant_id uuid, number_id uuid)
language plpgsql stable set search_path = '' as $$
begin
    return query
    with recursive numbers as (
        (select o.tenant_id, o.number_id from public.outbox o order by 1, 2 limit 1)
        union all
        select following.tenant_id, following.number_id
        from numbers
        cross join lateral (
            select o.tenant_id, o.number_id
            from public.outbox o
            where (o.tenant_id, o.number_id) > (numbers.tenant_id, numbers.number_id)
            order by 1, 2
            limit 1
        ) as following
    )
    select numbers.tenant_id, numbers.number_id from numbers;
end
$$;

-- When the first message of that priority may go that no failure holds back; null: there is none.
create function private.queue_due_at(p_tenant_id uuid, p_number_id uuid, p_priority smallint) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
    return (
        select o.due_at from public.outbox o
        where o.tenant_id = p_tenant_id and o.number_id = p_number_id and o.state = 'queued'
            and o.priority = p_priority and coalesce(o.not_before <= clock_timestamp(), true)
        order by o.due_at
        limit 1);
end
$$;

-- What pacing lets out within the next second: the same share for every business, and within it for every number
-- that has anything due; one message of a chat at a time, in their order. Rows and pacing are locked; a number that
-- another worker is busy with waits.
create function private.errands_due(p_limit int, p_worker uuid, p_lead interval) returns private.errand[]
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := clock_timestamp();
    v_clock timestamptz := private.clock();
begin
    return array(
        with ready as materialized (
            select p.tenant_id, p.number_id, n.provider, s.*
            from private.outbox_numbers() q
            join public.number_pacing p on p.tenant_id = q.tenant_id and p.number_id = q.number_id
            join public.whatsapp_numbers n on n.tenant_id = p.tenant_id and n.id = p.number_id
            cross join lateral private.number_slots(n, p, p_worker, v_now + p_lead) s
            where coalesce(p.paused_until <= v_now, true) and (
                s.urgent > 0 and (
                    private.queue_due_at(p.tenant_id, p.number_id, 0::smallint) <= v_clock
                    or private.queue_due_at(p.tenant_id, p.number_id, 1::smallint) <= v_clock)
                or s.bulk > 0 and private.queue_due_at(p.tenant_id, p.number_id, 2::smallint) <= v_clock)
            order by p.tenant_id, p.number_id
            for no key update of p skip locked
        ),
        shared as (
            select
                r.*,
                greatest(1, p_limit / (select count(distinct ready.tenant_id) from ready)
                    / count(*) over (partition by r.tenant_id)) as share,
                row_number() over (partition by r.tenant_id order by r.slot_at) as turn
            from ready r
        ),
        due as (
            select
                o.*, s.slot_at, s.spacing, s.is_reserve, s.turn,
                case when s.provider <> 'whapi' then pair.rests_until end as rests_until,
                least(s.share, greatest(s.urgent, s.bulk)) as quota,
                row_number() over (
                    partition by o.tenant_id, o.number_id order by o.priority, o.due_at, o.position) as n
            from shared s
            cross join lateral (values (0::smallint, s.urgent), (1::smallint, s.urgent), (2::smallint, s.bulk))
                as lane (priority, quota)
            cross join lateral (
                select o.tenant_id, o.message_id, o.chat_id, o.number_id, o.priority, o.due_at, o.position
                from public.outbox o
                where o.tenant_id = s.tenant_id and o.number_id = s.number_id and o.state = 'queued'
                    and o.priority = lane.priority and o.due_at <= v_clock
                    and coalesce(o.not_before <= v_now, true)
                    -- what is before it in its chat; bulk may have to wait, and holds up neither people nor answers
                    and not exists (
                        select from public.outbox e
                        where e.tenant_id = o.tenant_id and e.chat_id = o.chat_id and e.position < o.position
                            and case e.state
                                when 'unknown' then false
                                when 'queued' then e.due_at <= v_clock and (e.priority < 2 or o.priority = 2)
                                else true
                            end)
                order by o.due_at, o.position
                limit least(lane.quota, s.share)
                for update of o skip locked
            ) as o
            left join lateral private.chat_rests_until(o.tenant_id, o.chat_id, v_now) pair (rests_until) on true
        )
        select (d.tenant_id, d.message_id, d.chat_id, d.number_id, d.slot_at, d.spacing, d.is_reserve, d.rests_until,
            null, null, null, null, null, null)::private.errand
        from due d
        where d.n <= d.quota
        order by d.turn, d.slot_at, d.number_id, d.n
        limit p_limit);
end
$$;

-- Until when this chat has used up the pair limit; null when a message may go within a second from p_now.
create function private.chat_rests_until(p_tenant_id uuid, p_chat_id uuid, p_now timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
    return (
        select p.free_at from private.chat_pacing p
        where p.tenant_id = p_tenant_id and p.chat_id = p_chat_id and p.free_at > p_now
            and not (p.burst_count < 45 and p_now + interval '1.5 seconds' < p.burst_at + interval '6 seconds'));
end
$$;

-- Errands with what the send decision says of each.
create function private.errands_decided(p_errands private.errand[]) returns private.errand[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select (e.tenant_id, e.message_id, e.chat_id, e.number_id, e.slot_at, e.spacing, e.is_reserve, e.rests_until,
            d.verdict, d.reason, d.not_before, d.price_class, d.estimated_cost, d.currency)::private.errand
        from unnest(p_errands) with ordinality as e
        join private.send_decisions(array(
            select (e.message_id, e.tenant_id, e.chat_id, o.purpose, m.type = 'template', m.data ->> 'category',
                m.template_id, m.forced_by is not null)::private.send_candidate
            from unnest(p_errands) e
            join public.outbox o on o.tenant_id = e.tenant_id and o.message_id = e.message_id
            join public.messages m on m.tenant_id = e.tenant_id and m.id = e.message_id
        )) d on d.ref = e.message_id
        order by e.ordinality);
end
$$;

-- Errands whose chats rest: not before they may go. Nobody looks at them again until then.
create function private.errands_rest(p_errands private.errand[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.outbox o set not_before = e.rests_until
    from unnest(p_errands) e
    where o.tenant_id = e.tenant_id and o.message_id = e.message_id;
end
$$;

-- Errands that are not to be run now: later, or never. What was decided is noted, and those that only a person can
-- go on with are shown to one.
create function private.errands_refuse(p_errands private.errand[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_refused record;
begin
    -- asked again within a day, whatever it was that they were to wait for
    update public.outbox o
    set due_at = least(coalesce(e.not_before, k.now + interval '1 hour'), k.now + interval '1 day')
    from unnest(p_errands) e, private.clock() k (now)
    where e.verdict = 'wait' and o.tenant_id = e.tenant_id and o.message_id = e.message_id;

    update public.messages m
    set status = case e.verdict when 'wait' then m.status else 'skipped' end, send_verdict = e.verdict,
        send_reason = e.reason, price_class = e.price_class, estimated_cost = e.estimated_cost, currency = e.currency
    from unnest(p_errands) e
    where m.tenant_id = e.tenant_id and m.id = e.message_id;

    -- its sequence says what becomes of a step instead
    perform private.steps_take_back(array(
        select (o.tenant_id, o.message_id)::private.message_ref
        from unnest(p_errands) e
        join public.outbox o on o.tenant_id = e.tenant_id and o.message_id = e.message_id
        where e.verdict <> 'wait' and o.purpose = 'sequence'));
    for v_refused in
        delete from public.outbox o
        using unnest(p_errands) e
        where e.verdict <> 'wait' and o.tenant_id = e.tenant_id and o.message_id = e.message_id
        returning o.tenant_id, o.chat_id, o.purpose, e.verdict, e.reason
    loop
        if v_refused.verdict in ('template', 'manual')
            and v_refused.purpose in ('reply', 'staff', 'daily_action', 'call_followup')
        then
            perform private.flag_for_person(v_refused.tenant_id, v_refused.chat_id, 'not_sent',
                format('A message was not sent: %s.', v_refused.reason));
        end if;
    end loop;
end
$$;

-- Where a chat's messages go: every current address of its lead by its kind, {"phone": …, "bsuid": …}.
create function private.chat_address(p_tenant_id uuid, p_chat_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_object_agg(i.kind, i.value order by i.valid_from)
        from public.chats c
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.lead_identities i
            on i.tenant_id = c.tenant_id and i.lead_id = c.lead_id and i.valid_to = 'infinity'
            and (i.kind <> 'bsuid' or i.scope in (n.portfolio_id, n.waba_id, ''))
        where c.tenant_id = p_tenant_id and c.id = p_chat_id);
end
$$;

-- Take messages to send, for p_lease_seconds: {"claim", "now", "messages": [{…, "send_at": its slot, "spacing":
-- seconds between two slots of its number}], "next_in_ms": until something else may be due, null when time alone
-- brings nothing, "unknown": sends of lost workers that nobody can tell about, "closed": what may not go as it is
-- since its window has closed, for the log}. The send decision is asked once more for each. p_worker: who asks, since
-- a busy number stays with one; p_lead_ms: what it needs before it can send.
create function public.outbox_claim(
    p_limit int default 50, p_lease_seconds int default 30, p_worker uuid default null, p_lead_ms int default 0
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_claim uuid := private.uuid7();
    v_unknown int := private.outbox_reclaim();
    v_lead interval := make_interval(secs => p_lead_ms / 1000.0);
    v_errands private.errand[] := private.errands_due(p_limit, p_worker, v_lead);
    v_messages jsonb;
    v_closed jsonb;
begin
    if cardinality(v_errands) > 0 then
        perform private.errands_rest(array(select e from unnest(v_errands) e where e.rests_until is not null));
        v_errands := private.errands_decided(array(select e from unnest(v_errands) e where e.rests_until is null));
        perform private.errands_refuse(array(select e from unnest(v_errands) e where e.verdict <> 'send'));
        select jsonb_agg(jsonb_build_object('tenant_id', e.tenant_id, 'number_id', e.number_id, 'chat_id', e.chat_id,
            'message_id', e.message_id, 'reason', e.reason))
        into v_closed
        from unnest(v_errands) e
        where e.reason = 'window_closed';
        v_messages := private.errands_take(
            array(select e from unnest(v_errands) e where e.verdict = 'send'), v_claim, p_lease_seconds, p_worker);
    end if;
    return jsonb_build_object(
        'claim', v_claim, 'messages', coalesce(v_messages, '[]'), 'unknown', v_unknown,
        'closed', coalesce(v_closed, '[]'),
        'next_in_ms', case when v_messages is null then ceil(private.outbox_next_in(p_worker, v_lead) * 1000) else 0 end,
        'now', clock_timestamp());
end
$$;

-- Mark errands as taken, give them their slots, move pacing on, and say all that sending them needs.
create function private.errands_take(p_errands private.errand[], p_claim uuid, p_lease_seconds int, p_worker uuid)
returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_messages jsonb;
begin
    with slotted as materialized (
        select e.*,
            e.slot_at + e.spacing
                * (row_number() over (partition by e.tenant_id, e.number_id order by e.ordinality) - 1) as send_at
        from unnest(p_errands) with ordinality as e
    ),
    taken as materialized (
        update public.outbox o
        set state = 'claimed', claim = p_claim, attempts = o.attempts + 1, not_before = null,
            lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from slotted s
        where o.tenant_id = s.tenant_id and o.message_id = s.message_id
        returning o.tenant_id, o.message_id, o.chat_id, o.number_id, o.purpose, o.priority, o.attempts, s.send_at,
            s.spacing, s.is_reserve, s.reason, s.price_class, s.estimated_cost, s.currency
    ),
    noted as (
        update public.messages m
        set send_verdict = 'send', send_reason = t.reason, price_class = t.price_class,
            estimated_cost = t.estimated_cost, currency = t.currency
        from taken t
        where m.tenant_id = t.tenant_id and m.id = t.message_id
    ),
    paced as (
        update public.number_pacing p
        set next_slot_at = coalesce(s.next_slot_at, p.next_slot_at),
            holder = case when s.next_slot_at is null then p.holder else p_worker end,
            reserve_slot_at = coalesce(s.reserve_slot_at, p.reserve_slot_at),
            bulk_slot_at = coalesce(s.bulk_slot_at, p.bulk_slot_at),
            service_month = s.month,
            service_count = s.services + case p.service_month when s.month then p.service_count else 0 end
        from (
            select
                t.tenant_id, t.number_id,
                max(t.send_at + t.spacing) filter (where not t.is_reserve) as next_slot_at,
                max(t.send_at + t.spacing) filter (where t.is_reserve) as reserve_slot_at,
                -- whoever did not write first gets at most two messages a minute through Whapi, not like clockwork
                max(t.send_at + interval '30 seconds' * (1 + random() / 4))
                    filter (where t.priority = 2 and n.provider = 'whapi') as bulk_slot_at,
                date_trunc('month', private.clock() at time zone min(n.timezone))::date as month,
                count(*) filter (where t.price_class = 'service' and t.attempts = 1) as services
            from taken t
            join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id
            group by t.tenant_id, t.number_id
        ) as s
        where p.tenant_id = s.tenant_id and p.number_id = s.number_id
    ),
    owed as (
        insert into private.chat_pacing as p (tenant_id, chat_id, burst_at, burst_count, free_at)
        select t.tenant_id, t.chat_id, t.send_at, 1, t.send_at + interval '6 seconds'
        from taken t
        order by t.tenant_id, t.chat_id
        on conflict on constraint chat_pacing_pkey do update
        set burst_at = case when p.free_at <= excluded.burst_at then excluded.burst_at else p.burst_at end,
            burst_count = case when p.free_at <= excluded.burst_at then 1 else p.burst_count + 1 end,
            free_at = greatest(p.free_at, excluded.burst_at) + interval '6 seconds'
    )
    select jsonb_agg(jsonb_build_object(
        'tenant_id', t.tenant_id, 'message_id', t.message_id, 'chat_id', t.chat_id, 'number_id', n.id,
        'provider', n.provider, 'provider_number_id', n.provider_number_id, 'account_id', n.account_id,
        'waba_id', n.waba_id, 'phone_number', n.phone_number, 'purpose', t.purpose, 'attempts', t.attempts,
        'send_at', t.send_at, 'spacing', extract(epoch from case when t.is_reserve then interval '0' else t.spacing end),
        'to', private.chat_address(t.tenant_id, t.chat_id), 'type', m.type, 'content', m.content, 'data', m.data,
        'reply_to', m.reply_to) order by t.send_at)
    into v_messages
    from taken t
    join public.messages m on m.tenant_id = t.tenant_id and m.id = t.message_id
    join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id;
    return v_messages;
end
$$;

-- Seconds until something may be due for that worker; null when time alone brings nothing.
create function private.outbox_next_in(p_worker uuid default null, p_lead interval default '0') returns float8
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := clock_timestamp();
    v_clock timestamptz := private.clock();
    v_seconds float8;
begin
    select least(
        min(greatest(
            0,
            extract(epoch from o.due_at - v_clock),
            extract(epoch from nullif(p.next_slot_at, '-infinity') - v_now)
                - extract(epoch from p_lead) - case when p.holder = p_worker then 0.4 else 0 end,
            extract(epoch from p.paused_until - v_now),
            case when lane.priority = 2 then extract(epoch from p.bulk_paused_until - v_now) end,
            case when lane.priority = 2 then extract(epoch from nullif(p.bulk_slot_at, '-infinity') - v_now) end)),
        (select extract(epoch from min(not_before) - v_now) from public.outbox where not_before > v_now))
    into v_seconds
    from private.outbox_numbers() q
    join public.number_pacing p on p.tenant_id = q.tenant_id and p.number_id = q.number_id
    cross join (values (0::smallint), (1::smallint), (2::smallint)) as lane (priority)
    cross join lateral private.queue_due_at(p.tenant_id, p.number_id, lane.priority) o (due_at)
    where o.due_at is not null and p.paused_until is distinct from 'infinity'
        and (lane.priority < 2 or p.bulk_paused_until is distinct from 'infinity');
    return v_seconds;
end
$$;

-- About to send: commit this before the provider is called, with [{"tenant_id", "message_id"}, …]. Answers the ids
-- that are still yours; send no other.
create function public.outbox_intent(p_claim uuid, p_items jsonb, p_lease_seconds int default 120) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_ids uuid[];
begin
    with mine as (
        select o.tenant_id, o.message_id
        from jsonb_to_recordset(p_items) as i (tenant_id uuid, message_id uuid)
        join public.outbox o on o.tenant_id = i.tenant_id and o.message_id = i.message_id
        where o.claim = p_claim and o.state = 'claimed' and o.lease_until > now()
        order by o.tenant_id, o.message_id
        for update of o
    ),
    intended as (
        update public.outbox o
        set state = 'sending', lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from mine
        where o.tenant_id = mine.tenant_id and o.message_id = mine.message_id
        returning o.tenant_id, o.message_id
    ),
    noted as (
        update public.messages m set status = 'sending'
        from intended i
        where m.tenant_id = i.tenant_id and m.id = i.message_id and m.status in ('queued', 'sending')
    )
    select coalesce(array_agg(message_id), '{}') into v_ids from intended;
    return v_ids;
end
$$;

-- How a send ended, as the worker tells it. is_ours: the errand is still there, else a status was faster.
create type private.send_result as (
    tenant_id uuid, message_id uuid, chat_id uuid, number_id uuid, purpose text, attempts int, is_ours boolean,
    outcome text, wa_message_id text, error_code int, error_message text, retry_after_seconds numeric
);

-- Tell how sends ended: [{"tenant_id", "message_id", "outcome", "wa_message_id", "error_code", "error_message",
-- "retry_after_seconds"}]. outcome: sent | unknown (nobody can tell) | late (not begun) | retry |
-- slow_number | slow_pair | pause_bulk | needs_template | opted_out | unreachable | invalid | stop_channel. Only
-- errands of this claim are touched; answers how many that were.
create function public.outbox_settle(p_claim uuid, p_results jsonb) returns int
language plpgsql set search_path = '' as $$
declare
    v_results private.send_result[];
begin
    -- chats before outbox before messages, each in order, as the inbox does
    perform from public.chats c
    join (
        select distinct m.tenant_id, m.chat_id
        from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid)
        join public.messages m on m.tenant_id = r.tenant_id and m.id = r.message_id
    ) as w on c.tenant_id = w.tenant_id and c.id = w.chat_id
    order by c.tenant_id, c.id
    for no key update of c;

    v_results := array(
        with mine as (
            select o.*
            from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid)
            join public.outbox o on o.tenant_id = r.tenant_id and o.message_id = r.message_id
            order by o.tenant_id, o.message_id
            for update of o
        )
        select (m.tenant_id, m.id, m.chat_id, m.number_id, o.purpose, o.attempts, o.message_id is not null, r.outcome,
            r.wa_message_id, r.error_code, r.error_message, r.retry_after_seconds)::private.send_result
        from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid, outcome text, wa_message_id text,
            error_code int, error_message text, retry_after_seconds numeric)
        join public.messages m on m.tenant_id = r.tenant_id and m.id = r.message_id
        left join mine o on o.tenant_id = m.tenant_id and o.message_id = m.id
        where o.claim = p_claim and (o.state in ('sending', 'unknown') or o.state = 'claimed' and r.outcome = 'late')
            or o.message_id is null and r.outcome = 'sent' and m.status in ('sent', 'delivered', 'read', 'played')
        order by m.tenant_id, m.id);

    perform private.sends_done(array(select r from unnest(v_results) r where r.outcome = 'sent'));
    perform private.sends_unknown(array(select r from unnest(v_results) r where r.outcome = 'unknown'));
    perform private.sends_failed(array(
        select r from unnest(v_results) r
        where r.outcome in ('pause_bulk', 'needs_template', 'opted_out', 'unreachable', 'invalid')
            or r.outcome in ('retry', 'slow_pair') and r.attempts >= 6));
    perform private.sends_again(array(
        select r from unnest(v_results) r
        where r.outcome in ('late', 'slow_number', 'stop_channel')
            or r.outcome in ('retry', 'slow_pair') and r.attempts < 6));
    perform private.sends_slow(array(
        select r from unnest(v_results) r
        where r.outcome in ('slow_number', 'slow_pair', 'pause_bulk', 'stop_channel')));
    return cardinality(v_results);
end
$$;

create function private.sends_done(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if cardinality(p_results) = 0 then
        return;
    end if;
    delete from public.outbox o
    using unnest(p_results) r
    where r.is_ours and o.tenant_id = r.tenant_id and o.message_id = r.message_id;
    -- a status may have been faster than the provider's answer; a scheduled message belongs where it was sent
    update public.messages m
    set wa_message_id = coalesce(m.wa_message_id, r.wa_message_id), sent_at = coalesce(m.sent_at, v_now),
        provider_at = case when v_now > m.provider_at + interval '1 minute' then v_now else m.provider_at end,
        status = case when m.status in ('queued', 'sending', 'unknown') then 'sent' else m.status end
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id;
    update public.chats c
    set last_outbound_at = greatest(c.last_outbound_at, v_now),
        last_interaction_at = greatest(c.last_interaction_at, v_now),
        news_since = coalesce(c.news_since, case when s.is_talk then v_now end)
    from (
        -- what was sent to many is no reason to read a conversation again
        select r.tenant_id, r.chat_id, bool_or(r.purpose in ('reply', 'staff')) as is_talk
        from unnest(p_results) r
        group by r.tenant_id, r.chat_id
    ) as s
    where c.tenant_id = s.tenant_id and c.id = s.chat_id;
    perform private.sends_noted(array(
        select (r.tenant_id, r.message_id, v_now)::private.sent from unnest(p_results) r where r.is_ours));
    perform private.inbox_changes(private.early_events_take(array(
        select (0, r.tenant_id, r.number_id, null, r.chat_id, null, r.message_id, r.wa_message_id, 'echo', null, v_now,
            false, false, null)::private.inbox_message
        from unnest(p_results) r)));
end
$$;

-- Nobody can tell whether it went out: a status may, else a person is asked. The chat's next message need not wait.
create function private.sends_unknown(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.outbox o set state = 'unknown', unknown_at = (select private.clock())
    from unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id and o.state = 'sending';
    update public.messages m set status = 'unknown', error_message = r.error_message
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status = 'sending';
end
$$;

-- Queue again. Only a try that failed for reasons of its own counts, and only that waits by itself: whatever slows
-- or stops a number or a pair does so for all its messages.
create function private.sends_again(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.outbox o
    set state = 'queued', claim = null, lease_until = null, unknown_at = null,
        attempts = o.attempts - case when r.outcome in ('retry', 'slow_pair') then 0 else 1 end,
        not_before = case r.outcome when 'retry' then now() + make_interval(
            secs => coalesce(r.retry_after_seconds, 2 ^ least(o.attempts, 6)) * (1 + random() / 4)) end
    from unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id;

    update public.messages m set status = 'queued'
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status in ('sending', 'unknown');
end
$$;

-- What refusals mean for the other messages of a number, or of a chat. Numbers first, in order, as a claim does.
create function private.sends_slow(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_stopped record;
begin
    if cardinality(p_results) = 0 then
        return;
    end if;
    perform from public.number_pacing p
    join (select distinct r.tenant_id, r.number_id from unnest(p_results) r) as s
        on p.tenant_id = s.tenant_id and p.number_id = s.number_id
    order by p.tenant_id, p.number_id
    for no key update of p;

    -- sends that were on their way together are refused together: one step in five seconds
    update public.number_pacing p
    set paused_until = greatest(p.paused_until, now() + make_interval(secs => s.pause)), pause_reason = 'slow_number',
        slow_level = case when p.slowed_at > now() - interval '5 seconds' then p.slow_level
            else least(5, 1 + coalesce(
                greatest(0, p.slow_level - floor(extract(epoch from now() - p.slowed_at) / 30)), 0)) end,
        slowed_at = case when p.slowed_at > now() - interval '5 seconds' then p.slowed_at else now() end
    from (
        select r.tenant_id, r.number_id, max(coalesce(r.retry_after_seconds, 1))::float8 as pause
        from unnest(p_results) r
        where r.outcome = 'slow_number'
        group by r.tenant_id, r.number_id
    ) as s
    where p.tenant_id = s.tenant_id and p.number_id = s.number_id;

    for v_stopped in
        select distinct on (r.tenant_id, r.number_id, r.outcome)
            r.tenant_id, r.number_id, r.outcome, coalesce(r.error_message, r.error_code::text, 'no reason given') as why
        from unnest(p_results) r
        where r.outcome in ('stop_channel', 'pause_bulk')
    loop
        if v_stopped.outcome = 'stop_channel' then
            perform private.channel_stop(v_stopped.tenant_id, v_stopped.number_id,
                format('The provider refuses this number: %s', v_stopped.why));
        else
            perform private.bulk_pause(v_stopped.tenant_id, v_stopped.number_id, now() + interval '24 hours', 'spam',
                format('The provider limits this number for its quality, so bulk rests for a day: %s', v_stopped.why));
        end if;
    end loop;

    -- 4^n seconds; a pair that was left alone for ten minutes begins anew
    insert into private.chat_pacing as p (tenant_id, chat_id, burst_at, burst_count, free_at, refusals)
    select distinct r.tenant_id, r.chat_id, now(), 45, now() + interval '1 second', 1
    from unnest(p_results) r
    where r.outcome = 'slow_pair'
    order by 1, 2
    on conflict on constraint chat_pacing_pkey do update
    set burst_count = 45,
        free_at = now() + make_interval(secs => 4 ^ case
            when p.free_at < now() - interval '10 minutes' then 0 else least(p.refusals, 5) end),
        refusals = case when p.free_at < now() - interval '10 minutes' then 1 else p.refusals + 1 end;
end
$$;

-- Bulk of this number rests until then; people and answers go on. One alert.
create function private.bulk_pause(
    p_tenant_id uuid, p_number_id uuid, p_until timestamptz, p_reason text, p_message text
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.number_pacing as p (tenant_id, number_id, bulk_paused_until, bulk_pause_reason)
    values (p_tenant_id, p_number_id, p_until, p_reason)
    on conflict on constraint number_pacing_pkey do update
    set bulk_paused_until = greatest(p.bulk_paused_until, p_until), bulk_pause_reason = p_reason;
    perform private.alert_raise(p_tenant_id, 'bulk_paused', p_number_id::text, p_message,
        p_number_id => p_number_id, p_severity => 'critical');
end
$$;

-- Bulk goes on, whatever it rested for.
create function private.bulk_resume(p_tenant_id uuid, p_number_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    update public.number_pacing set bulk_paused_until = null, bulk_pause_reason = null
    where tenant_id = p_tenant_id and number_id = p_number_id;
    perform private.alert_end(p_tenant_id, 'bulk_paused', p_number_id::text);
    perform private.wake('deliver');
end
$$;

-- Meta judges a number by what customers do with its messages: at RED, bulk rests until it is better.
create function private.number_quality_changed() returns trigger
language plpgsql set search_path = '' as $$
begin
    if new.quality_rating = 'RED' then
        perform private.bulk_pause(new.tenant_id, new.id, 'infinity', 'quality',
            'Customers block or report this number (quality RED), so bulk rests until Meta judges it better.');
    elsif exists (
        select from public.number_pacing p
        where p.tenant_id = new.tenant_id and p.number_id = new.id and p.bulk_pause_reason = 'quality')
    then
        perform private.bulk_resume(new.tenant_id, new.id);
    end if;
    return null;
end
$$;
create trigger whatsapp_numbers_quality after update of quality_rating on public.whatsapp_numbers
    for each row when (new.quality_rating is distinct from old.quality_rating)
    execute function private.number_quality_changed();

-- It will not be sent. What the provider knew better than we do is learnt. Staff see it: a chat whose answer did not
-- arrive is shown to a person, and failures in bulk are counted in one alert of the number.
create function private.sends_failed(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if cardinality(p_results) = 0 then
        return;
    end if;
    update public.chats c set window_expires_at = least(c.window_expires_at, v_now)
    from unnest(p_results) r
    where r.outcome = 'needs_template' and c.tenant_id = r.tenant_id and c.id = r.chat_id;

    delete from public.outbox o
    using unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id;

    update public.messages m
    set status = 'failed', failed_at = v_now, error_code = r.error_code,
        error_message = coalesce(r.error_message, r.outcome)
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status in ('queued', 'sending', 'unknown');

    perform private.flag_for_person(r.tenant_id, r.chat_id, 'send_failed',
        format('A message could not be sent: %s', coalesce(r.error_message, r.outcome)))
    from unnest(p_results) r
    where r.purpose in ('reply', 'staff');
    perform private.alert_raise(r.tenant_id, 'bulk_failed', r.number_id::text,
        format('Messages could not be sent; the latest: %s', max(coalesce(r.error_message, r.outcome))),
        p_number_id => r.number_id)
    from unnest(p_results) r
    where r.purpose not in ('reply', 'staff')
    group by r.tenant_id, r.number_id;

    perform private.reach_judge(array(
        select (r.tenant_id, r.chat_id)::private.chat_ref from unnest(p_results) r where r.outcome = 'unreachable'));

    if exists (select from unnest(p_results) r where r.outcome = 'opted_out') then
        perform private.consents_record(array(
            select (r.tenant_id, c.lead_id, 'opt_out', 'marketing', 'provider', r.error_message, v_now)::private.consent
            from unnest(p_results) r
            join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
            where r.outcome = 'opted_out'));
    end if;
end
$$;

grant execute on function
    private.number_rate(public.whatsapp_numbers, public.number_pacing), private.number_inbound(uuid, uuid),
    private.number_slots(public.whatsapp_numbers, public.number_pacing, uuid, timestamptz), private.outbox_numbers(),
    private.queue_due_at(uuid, uuid, smallint), private.errands_due(int, uuid, interval),
    private.chat_rests_until(uuid, uuid, timestamptz), private.errands_decided(private.errand[]),
    private.errands_rest(private.errand[]), private.errands_refuse(private.errand[]), private.chat_address(uuid, uuid),
    private.errands_take(private.errand[], uuid, int, uuid), private.outbox_next_in(uuid, interval),
    private.sends_done(private.send_result[]), private.sends_unknown(private.send_result[]),
    private.sends_again(private.send_result[]), private.sends_slow(private.send_result[]),
    private.sends_failed(private.send_result[]), private.bulk_pause(uuid, uuid, timestamptz, text, text),
    private.bulk_resume(uuid, uuid), public.outbox_claim(int, int, uuid, int), public.outbox_intent(uuid, jsonb, int),
    public.outbox_settle(uuid, jsonb)
    to service_role;


-- sql/68_sending.sql

-- Sending by people: what staff ask for is checked whole, decided, and put into the outbox, or refused in plain words.

create type private.send_request as (
    chat_id uuid, lead_id uuid, number_id uuid, type text, content text, template_id uuid, parameters jsonb,
    media jsonb, reply_to text, send_at timestamptz, is_forced boolean, expected_cost numeric, currency text,
    idempotency_key text, reason text, pending_id uuid
);

-- The message as people see it, with what was decided about it.
create function private.message_shown(p_tenant_id uuid, p_message_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(m) - '{raw,request_hash}'::text[] || jsonb_build_object('decision', jsonb_build_object(
        'verdict', m.send_verdict, 'reason', m.send_reason, 'price_class', m.price_class,
        'estimated_cost', m.estimated_cost, 'currency', m.currency,
        'not_before', (
            select o.due_at from public.outbox o where o.tenant_id = m.tenant_id and o.message_id = m.id)))
    from public.messages m
    where m.tenant_id = p_tenant_id and m.id = p_message_id
$$;

-- The message that this key stands for already; null when it is new. Requests with the same key take turns.
create function private.message_of_key(p_tenant_id uuid, p_key text, p_hash text) returns uuid
language plpgsql set search_path = '' as $$
declare
    v_message record;
begin
    if p_key is null then
        return null;
    elsif length(p_key) not between 1 and 200 then
        perform private.refuse('PT400', 'idempotency_key');
    end if;
    perform pg_advisory_xact_lock(hashtextextended(format('messages.idempotency_key %s %s', p_tenant_id, p_key), 0));
    select m.id, m.request_hash into v_message
    from public.messages m
    where m.tenant_id = p_tenant_id and m.idempotency_key = p_key;
    if v_message.request_hash <> p_hash then
        perform private.refuse(
            'PT409', 'idempotency_conflict', p_details => jsonb_build_object('message_id', v_message.id));
    end if;
    return v_message.id;
end
$$;

-- The chat to write into, locked; a lead without one on that number gets it.
create function private.send_chat(p_tenant_id uuid, p_request private.send_request) returns public.chats
language plpgsql set search_path = '' as $$
declare
    v_chat public.chats;
begin
    if p_request.chat_id is null then
        insert into public.chats (tenant_id, number_id, lead_id, last_interaction_at)
        select p_tenant_id, n.id, l.id, (select private.clock())
        from public.whatsapp_numbers n
        join public.customer_leads l on l.tenant_id = n.tenant_id
        where n.tenant_id = p_tenant_id and n.id = p_request.number_id and l.id = p_request.lead_id
        on conflict on constraint chats_tenant_id_number_id_lead_id_key do nothing;
    end if;
    select * into v_chat
    from public.chats c
    where c.tenant_id = p_tenant_id
        and case when p_request.chat_id is null
            then c.number_id = p_request.number_id and c.lead_id = p_request.lead_id
            else c.id = p_request.chat_id and c.number_id = coalesce(p_request.number_id, c.number_id)
                and c.lead_id = coalesce(p_request.lead_id, c.lead_id) end
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_chat');
    end if;
    return v_chat;
end
$$;

-- What each type is made of: {"content", "data", "template_id"}. Whatever cannot be sent is refused here.

create function private.compose_text(p_number public.whatsapp_numbers, p_request private.send_request) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_longest int := case p_number.provider when 'twilio' then 1600 else 4096 end;
begin
    if private.is_blank(p_request.content) then
        perform private.refuse('PT400', 'empty');
    elsif length(p_request.content) > v_longest then
        perform private.refuse('PT400', 'too_long',
            jsonb_build_object('length', length(p_request.content), 'longest', v_longest),
            jsonb_build_object('longest', v_longest));
    end if;
    return jsonb_build_object('content', p_request.content);
end
$$;

create function private.compose_template(p_number public.whatsapp_numbers, p_request private.send_request)
returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_template public.message_templates;
    v_filled jsonb;
begin
    if p_number.provider = 'whapi' then
        perform private.refuse('PT409', 'templates_unsupported');
    end if;
    select * into v_template
    from public.message_templates t
    where t.tenant_id = p_number.tenant_id and t.id = p_request.template_id;
    if not found then
        perform private.refuse('PT404', 'no_template');
    elsif (v_template.provider, v_template.waba_id) is distinct from (p_number.provider,
        case p_number.provider when 'twilio' then p_number.account_id else p_number.waba_id end)
    then
        perform private.refuse('PT409', 'template_of_other_account',
            jsonb_build_object('name', v_template.name, 'number', p_number.display_name));
    end if;
    v_filled := private.template_message(v_template, p_request.parameters);
    if v_filled ? 'reason' then
        perform private.refuse_as(case v_filled ->> 'reason' when 'template_parameters' then 'PT400' else 'PT409' end,
            v_filled ->> 'reason', v_filled ->> 'message', v_filled ->> 'hint');
    end if;
    return jsonb_build_object('content', v_filled -> 'text', 'template_id', v_template.id,
        'data', private.template_data(v_template, v_filled, p_request.parameters));
end
$$;

-- p_media: {"link"} or {"id"}, with filename, mime and size where known; or {"media_id"} of a file of ours.
create function private.compose_media(p_number public.whatsapp_numbers, p_request private.send_request)
returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_label text := private.phrase('label', p_request.type);
    v_media jsonb := case when p_request.media ->> 'media_id' is not null
        then private.media_reference(p_number, p_request) else p_request.media end;
    v_fault text := coalesce(
        private.media_fault(v_label, p_request.type, v_media),
        private.phrase('fault', case
            when p_number.provider = 'twilio' and v_media ->> 'link' is null then 'file_twilio_link'
            when p_request.content is not null and p_request.type in ('audio', 'sticker') then 'file_no_text'
            when p_number.provider = 'twilio' and p_request.content <> '' and p_request.type <> 'image'
                then 'file_twilio_text'
            when length(p_request.content) > 1024 then 'file_text_long'
        end, jsonb_build_object('label', v_label, 'length', length(p_request.content))));
begin
    if v_fault is not null then
        perform private.refuse('PT400', 'media',
            jsonb_build_object('fault', upper(left(v_fault, 1)) || substr(v_fault, 2)));
    end if;
    return jsonb_build_object('content', p_request.content, 'data',
        jsonb_build_object('media', v_media - '{filename,mime,size}'::text[])
        || jsonb_strip_nulls(jsonb_build_object('filename', v_media -> 'filename', 'mime', v_media -> 'mime')));
end
$$;

-- A file that was sent or received before, as the provider knows it: as long as it is kept there, on the number it
-- came to. What was asked for besides a file name stays, to be refused.
create function private.media_reference(p_number public.whatsapp_numbers, p_request private.send_request)
returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_file jsonb;
begin
    select jsonb_build_object('id', f.provider_media_id, 'mime', f.mime, 'size', f.size, 'filename',
        case when p_request.type = 'document' then f.filename end)
    into v_file
    from public.media f
    join public.messages m on m.tenant_id = f.tenant_id and m.id = f.message_id
    where f.tenant_id = p_number.tenant_id and f.id::text = lower(p_request.media ->> 'media_id')
        and m.number_id = p_number.id and f.provider_media_id is not null
        and coalesce(f.expires_at, m.provider_at + interval '7 days')
            > greatest((select private.clock()), p_request.send_at);
    if not found then
        perform private.refuse('PT409', 'media_gone');
    end if;
    return jsonb_strip_nulls(v_file) || (p_request.media - 'media_id');
end
$$;

-- What belongs to another type than the one asked for.
create function private.send_misfits(p_request private.send_request) returns text
language sql immutable set search_path = '' as $$
    select concat_ws(', ',
        case when p_request.type <> 'template' and p_request.template_id is not null then 'p_template_id' end,
        case when p_request.type <> 'template' and p_request.parameters is not null then 'p_parameters' end,
        case when p_request.type in ('text', 'template') and p_request.media is not null then 'p_media' end,
        case when p_request.type = 'template' and p_request.content is not null then 'p_content' end)
$$;

-- The provider's id of the message that is quoted; p_reply_to is that id, or ours.
create function private.send_quote(p_chat public.chats, p_reply_to text) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_quoted public.messages;
begin
    if p_reply_to is null then
        return null;
    elsif p_reply_to ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        select * into v_quoted from public.messages m
        where m.tenant_id = p_chat.tenant_id and m.id = p_reply_to::uuid and m.chat_id = p_chat.id;
    else
        select * into v_quoted from public.messages m
        where m.tenant_id = p_chat.tenant_id and m.number_id = p_chat.number_id and m.wa_message_id = p_reply_to
            and m.chat_id = p_chat.id;
    end if;
    if v_quoted.id is null then
        perform private.refuse('PT404', 'no_quoted_message');
    elsif v_quoted.wa_message_id is null then
        perform private.refuse('PT409', 'quote_not_sent');
    end if;
    return v_quoted.wa_message_id;
end
$$;

-- A moment that a person or their program wrote: 2026-11-21T15:30, by the caller's own clock unless it has an offset.
create function private.moment_read(p_written text) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_zone text;
begin
    if p_written is null then
        return null;
    elsif p_written !~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?( ?(Z|[+-]\d\d(:?\d\d)?))?$' then
        perform private.refuse('PT400', 'moment');
    elsif p_written ~ ':.*[Z+-]' then
        return p_written::timestamptz;
    end if;
    select u.timezone into v_zone from public.users u where u.id = private.my_user_id();
    return p_written::timestamp at time zone v_zone;
exception
    when datetime_field_overflow or invalid_datetime_format or invalid_parameter_value then
        perform private.refuse('PT400', 'moment');
        return null;
end
$$;

-- The moment to send at by the business clock; what has passed is now: null.
create function private.send_time(p_send_at timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if p_send_at > v_now + interval '1 year' then
        perform private.refuse('PT400', 'send_at');
    end if;
    return case when p_send_at > v_now then p_send_at end;
end
$$;

create function private.send_compose(p_chat public.chats, p_request private.send_request) returns private.outgoing
language plpgsql stable set search_path = '' as $$
declare
    v_number public.whatsapp_numbers;
    v_misfits text := private.send_misfits(p_request);
    v_made jsonb;
begin
    if v_misfits <> '' then
        perform private.refuse('PT400', 'misfit', jsonb_build_object('type', p_request.type, 'arguments', v_misfits));
    elsif private.chat_address(p_chat.tenant_id, p_chat.id) is null then
        perform private.refuse('PT409', 'no_address');
    end if;
    select * into v_number from public.whatsapp_numbers n where n.tenant_id = p_chat.tenant_id and n.id = p_chat.number_id;
    v_made := case
        when p_request.type = 'text' then private.compose_text(v_number, p_request)
        when p_request.type = 'template' then private.compose_template(v_number, p_request)
        when p_request.type in ('image', 'audio', 'video', 'document', 'sticker')
            then private.compose_media(v_number, p_request)
    end;
    if v_made is null then
        perform private.refuse('PT400', 'type', jsonb_build_object('type', p_request.type));
    end if;
    return private.outgoing(p_chat.tenant_id, p_chat.id, 'staff', 'staff', 'human', v_made ->> 'content',
        p_request.type, p_data => v_made -> 'data', p_send_at => private.send_time(p_request.send_at),
        p_author_id => private.my_user_id(), p_template_id => (v_made ->> 'template_id')::uuid,
        p_reply_to => private.send_quote(p_chat, p_request.reply_to));
end
$$;

-- The decision, and what a refusal of it says.

-- The decision about a message of staff. One that is to go out when its window will be closed needs a template.
create function private.send_decide(p_message private.outgoing, p_is_forced boolean) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_decision jsonb;
begin
    select to_jsonb(d) - 'ref' into v_decision
    from private.send_decisions(array[(private.uuid7(), p_message.tenant_id, p_message.chat_id, 'staff',
        p_message.type = 'template', p_message.data ->> 'category', p_message.template_id,
        p_is_forced)::private.send_candidate]) d;
    if v_decision ->> 'verdict' = 'send' and p_message.type <> 'template' and not p_is_forced and exists (
        select from public.chats c
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        where c.tenant_id = p_message.tenant_id and c.id = p_message.chat_id and n.provider <> 'whapi'
            and c.window_expires_at <= p_message.send_at
    ) then
        v_decision := v_decision || '{"verdict": "template", "reason": "window_will_be_closed"}';
    end if;
    return v_decision;
end
$$;

-- Refuse what was decided against, in the words of send_preview(): the caller's language, and by their clock.
-- p_can_force: a person may overrule it.
create function private.send_forbid(p_chat public.chats, p_decision jsonb, p_can_force boolean) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_reader public.users;
begin
    select * into v_reader from public.users where id = private.my_user_id();
    perform private.refuse_as('PT409', p_decision ->> 'reason',
        private.send_sentence(p_chat, p_decision, p_can_force, v_reader) || '.',
        coalesce(nullif(concat_ws(' ',
            case when p_decision ->> 'verdict' = 'template' or p_decision ->> 'reason' like 'template\_%'
                then private.phrase('hint', 'choose_template') else private.phrase('hint', p_decision ->> 'reason') end,
            case when p_can_force then private.phrase('hint', 'force') end), ''), private.phrase('hint', 'nothing')),
        p_decision || jsonb_build_object('window_expires_at', p_chat.window_expires_at, 'can_force', p_can_force));
end
$$;

-- The cost of a decision as the reader is told it: USD 0.0125, or that nobody knows it.
create function private.cost_words(p_decision jsonb) returns text
language plpgsql stable set search_path = '' as $$
begin
    return case when p_decision ->> 'estimated_cost' is null then private.phrase('label', 'cost_unknown')
        else (p_decision ->> 'currency') || ' ' || trim_scale((p_decision ->> 'estimated_cost')::numeric)
            || case p_decision ->> 'is_verified' when 'false' then private.phrase('label', 'cost_unverified') else '' end end;
end
$$;

-- Who forces a message agrees to its cost as they were shown it; it may have changed since.
create function private.send_consent(p_request private.send_request, p_decision jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_cost numeric := round((p_decision ->> 'estimated_cost')::numeric, 6);
    v_words jsonb := jsonb_build_object('cost', private.cost_words(p_decision),
        'shown', p_request.currency || ' ' || trim_scale(p_request.expected_cost));
begin
    if round(p_request.expected_cost, 6) = v_cost and upper(p_request.currency) = p_decision ->> 'currency'
        or v_cost is null and p_request.expected_cost is null
    then
        return;
    elsif p_request.expected_cost is null or p_request.currency is null then
        perform private.refuse('PT400', 'cost_not_shown', v_words, p_decision);
    end if;
    perform private.refuse('PT409', 'cost_changed', v_words, p_decision);
end
$$;

-- The decision that lets this message out, {"is_forced": true} when it took force; or a refusal.
create function private.send_permit(
    p_chat public.chats, p_message private.outgoing, p_request private.send_request
) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_decision jsonb := private.send_decide(p_message, false);
    v_forced jsonb;
begin
    if v_decision ->> 'verdict' not in ('send', 'wait') then
        v_forced := private.send_decide(p_message, true) || '{"is_forced": true}';
        if v_forced ->> 'verdict' not in ('send', 'wait') or not coalesce(p_request.is_forced, false) then
            perform private.send_forbid(p_chat, v_decision, v_forced ->> 'verdict' in ('send', 'wait'));
        end if;
        v_decision := v_forced;
    end if;
    if p_request.is_forced then
        perform private.send_consent(p_request, v_decision);
    end if;
    return v_decision;
end
$$;

-- What was decided stays with the message; the outbox asks again when it goes out.
create function private.message_decided(p_tenant_id uuid, p_message_id uuid, p_decision jsonb) returns void
language sql set search_path = '' as $$
    update public.messages
    set send_verdict = p_decision ->> 'verdict', send_reason = p_decision ->> 'reason',
        price_class = p_decision ->> 'price_class', estimated_cost = (p_decision ->> 'estimated_cost')::numeric,
        currency = p_decision ->> 'currency'
    where tenant_id = p_tenant_id and id = p_message_id
$$;

-- A person writes: the chat has a session, and the agent is silent for a while.
create function private.staff_takes_over(p_tenant_id uuid, p_chat_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.conversations (tenant_id, chat_id, opened_at)
    values (p_tenant_id, p_chat_id, private.clock())
    on conflict (tenant_id, chat_id) where status = 'open' do nothing;
    update public.chats c
    set agent_paused_until = greatest(
        c.agent_paused_until, (select private.clock()) + make_interval(mins => s.human_takeover_minutes))
    from public.tenant_settings s
    where c.tenant_id = p_tenant_id and c.id = p_chat_id and s.tenant_id = c.tenant_id;
end
$$;

-- Definer: staff may not write messages, outbox or chats; tenant from require_staff.
create function private.message_send(p_request private.send_request) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_hash text := encode(sha256(convert_to((to_jsonb(p_request) - 'idempotency_key')::text, 'utf8')), 'hex');
    v_id uuid := private.message_of_key(v_tenant_id, p_request.idempotency_key, v_hash);
    v_chat public.chats;
    v_message private.outgoing;
    v_decision jsonb;
begin
    if v_id is not null then
        return private.message_shown(v_tenant_id, v_id);
    end if;
    v_chat := private.send_chat(v_tenant_id, p_request);
    if length(p_request.reason) > 500 then
        perform private.refuse('PT400', 'force_reason');
    elsif p_request.pending_id is not null and not exists (
        select from public.pending_manual p
        where p.tenant_id = v_tenant_id and p.id = p_request.pending_id and p.chat_id = v_chat.id and p.status = 'open'
    ) then
        perform private.refuse('PT404', 'no_pending_manual');
    end if;
    v_message := private.send_compose(v_chat, p_request);
    v_decision := private.send_permit(v_chat, v_message, p_request);
    if v_decision ? 'is_forced' then
        v_message.forced_by := private.my_user_id();
    end if;

    if v_message.send_at is null then
        perform private.staff_takes_over(v_tenant_id, v_chat.id);
    end if;
    v_id := (private.outbox_enqueue(array[v_message]))[1];
    update public.messages m
    set idempotency_key = p_request.idempotency_key,
        request_hash = case when p_request.idempotency_key is not null then v_hash end,
        scheduled_at = v_message.send_at,
        consented_cost = case when v_decision ? 'is_forced' then p_request.expected_cost end,
        forced_reason = case when v_decision ? 'is_forced' then nullif(btrim(p_request.reason), '') end
    where m.tenant_id = v_tenant_id and m.id = v_id;
    perform private.message_decided(v_tenant_id, v_id, v_decision);
    perform private.manual_send_note(
        v_tenant_id, v_chat.id, v_id, v_message.content, private.my_user_id(), p_request.pending_id);
    return private.message_shown(v_tenant_id, v_id);
end
$$;

-- A message of ours on its way or not, with its chat locked.
create function private.message_locked(p_tenant_id uuid, p_message_id uuid) returns public.messages
language plpgsql set search_path = '' as $$
declare
    v_message public.messages;
begin
    perform from public.chats c
    where c.tenant_id = p_tenant_id and c.id = (
        select m.chat_id from public.messages m where m.tenant_id = p_tenant_id and m.id = p_message_id)
    for no key update;
    select * into v_message from public.messages m where m.tenant_id = p_tenant_id and m.id = p_message_id;
    if not found then
        perform private.refuse('PT404', 'no_message');
    elsif v_message.direction = 'inbound' then
        perform private.refuse('PT409', 'received');
    end if;
    return v_message;
end
$$;

-- {"state": how it stands with a message, in the caller's words}; what is still queued here is in a worker's hands.
create function private.message_state(p_message public.messages) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return jsonb_build_object('state', private.phrase('label', 'message_' || p_message.status));
end
$$;

create function private.message_cancel(p_message_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_message public.messages := private.message_locked(private.require_staff(), p_message_id);
begin
    if cardinality(private.outbox_cancel(v_message.tenant_id, array[p_message_id])) = 0 then
        perform private.refuse('PT409', 'not_queued', private.message_state(v_message),
            jsonb_build_object('status', v_message.status));
    end if;
    perform private.pending_reopen(v_message.tenant_id, p_message_id);
    return private.message_shown(v_message.tenant_id, p_message_id);
end
$$;

-- Once more, as it was written, under the rules that hold now. p_force: a person has compared a message whose fate
-- nobody knows with the phone, and says that it did not arrive.
create function private.message_retry(p_message_id uuid, p_force boolean) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_message public.messages := private.message_locked(private.require_staff(), p_message_id);
    v_chat public.chats;
    v_template public.message_templates;
    v_decision jsonb;
begin
    if v_message.status not in ('failed', 'skipped', 'canceled', 'unknown') then
        perform private.refuse('PT409', 'not_failed', private.message_state(v_message),
            jsonb_build_object('status', v_message.status));
    elsif v_message.status = 'unknown' and not coalesce(p_force, false) then
        perform private.refuse('PT409', 'unknown');
    end if;
    select * into v_template from public.message_templates t
    where t.tenant_id = v_message.tenant_id and t.id = v_message.template_id;
    if private.template_obstacle(v_template) is not null and v_template.id is not null then
        perform private.refuse_as('PT409', 'template_' || v_template.status, private.template_obstacle(v_template),
            private.phrase('hint', 'template_status'));
    end if;
    select * into v_chat from public.chats c where c.tenant_id = v_message.tenant_id and c.id = v_message.chat_id;
    v_decision := private.send_decide(private.outgoing(v_message.tenant_id, v_message.chat_id, 'staff',
        v_message.source, v_message.role, v_message.content, v_message.type, v_message.data,
        p_template_id => v_message.template_id), v_message.forced_by is not null);
    if v_decision ->> 'verdict' not in ('send', 'wait') then
        perform private.send_forbid(v_chat, v_decision, false);
    end if;
    perform private.staff_takes_over(v_message.tenant_id, v_message.chat_id);
    perform private.outbox_requeue(v_message.tenant_id, array[p_message_id]);
    update public.messages set scheduled_at = null where tenant_id = v_message.tenant_id and id = p_message_id
        and scheduled_at is not null;
    perform private.message_decided(v_message.tenant_id, p_message_id, v_decision);
    perform private.failures_over(
        array[(v_message.tenant_id, v_message.chat_id)::private.chat_ref], private.my_user_id());
    return private.message_shown(v_message.tenant_id, p_message_id);
end
$$;
grant execute on function private.message_send(private.send_request), private.message_cancel(uuid),
    private.message_retry(uuid, boolean), private.moment_read(text) to authenticated;

-- What staff call. Each answers with the message as it is then, and its `decision`; a refusal stores nothing.

-- p_type text: p_content. template: p_template_id, p_parameters (see 22_templates.sql). image, audio, video, document,
-- sticker: p_media {"link" | "id" | "media_id", "filename", "mime", "size"}, with p_content as its text. To p_chat_id,
-- or to p_lead_id on p_number_id. p_send_at (ISO 8601, without an offset by the caller's clock) schedules it. p_force,
-- with the cost that was shown, overrules what a person may overrule; p_reason: why, in their words. p_idempotency_key:
-- asking again with the same key answers with the same message. p_pending_id: the entry of pending_manual that is done
-- with it; without one, an entry or a step of the chat that says much the same.
create function public.message_send(
    p_chat_id uuid default null, p_type text default 'text', p_content text default null,
    p_template_id uuid default null, p_parameters jsonb default null, p_media jsonb default null,
    p_reply_to text default null, p_send_at text default null, p_force boolean default false,
    p_expected_cost numeric default null, p_currency text default null, p_idempotency_key text default null,
    p_lead_id uuid default null, p_number_id uuid default null, p_reason text default null,
    p_pending_id uuid default null
) returns jsonb
language sql set search_path = '' as $$
    select private.message_send((p_chat_id, p_lead_id, p_number_id, p_type, p_content, p_template_id, p_parameters,
        p_media, p_reply_to, private.moment_read(p_send_at), p_force, p_expected_cost, p_currency, p_idempotency_key,
        p_reason, p_pending_id)::private.send_request)
$$;

create function public.message_cancel(p_message_id uuid) returns jsonb
language sql set search_path = '' as $$
    select private.message_cancel(p_message_id)
$$;

create function public.message_retry(p_message_id uuid, p_force boolean default false) returns jsonb
language sql set search_path = '' as $$
    select private.message_retry(p_message_id, p_force)
$$;
grant execute on function
    public.message_send(
        uuid, text, text, uuid, jsonb, jsonb, text, text, boolean, numeric, text, text, uuid, uuid, text, uuid),
    public.message_cancel(uuid), public.message_retry(uuid, boolean)
    to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'idempotency_key', 'La clave de idempotencia está vacía o es demasiado larga.',
        'The idempotency key is empty or too long.', 'A chave de idempotência está vazia ou é longa demais.'),
    ('hint', 'idempotency_key', 'Use de 1 a 200 caracteres, nuevos en cada mensaje: un uuid.',
        'Use 1 to 200 characters, new for each message: a uuid.',
        'Use de 1 a 200 caracteres, novos em cada mensagem: um uuid.'),
    ('refusal', 'idempotency_conflict', 'Con esta clave de idempotencia ya se envió otro mensaje.',
        'Another message was sent with this idempotency key.',
        'Com esta chave de idempotência já se enviou outra mensagem.'),
    ('hint', 'idempotency_conflict', 'Use una clave nueva para cada mensaje.', 'Use a new key for each message.',
        'Use uma chave nova para cada mensagem.'),
    ('refusal', 'empty', 'El mensaje no tiene texto.', 'The message has no text.', 'A mensagem não tem texto.'),
    ('hint', 'empty', 'Escríbalo en p_content.', 'Give it in p_content.', 'Escreva-o em p_content.'),
    ('refusal', 'too_long', 'El texto es demasiado largo: {length} caracteres, como mucho {longest}.',
        'The text is too long: {length} characters, at most {longest}.',
        'O texto é longo demais: {length} caracteres, no máximo {longest}.'),
    ('hint', 'too_long', 'Envíelo en partes.', 'Send it in parts.', 'Envie-o em partes.'),
    ('refusal', 'templates_unsupported', 'Los números de Whapi no tienen plantillas.',
        'Numbers of Whapi have no templates.', 'Os números da Whapi não têm modelos.'),
    ('hint', 'templates_unsupported', 'Escriba un texto: se puede enviar en cualquier momento.',
        'Write a text: it may be sent at any time.', 'Escreva um texto: pode ser enviado a qualquer momento.'),
    ('refusal', 'no_template', 'No hay tal plantilla.', 'There is no such template.', 'Não há tal modelo.'),
    ('hint', 'no_template', 'Tome su id de message_templates.', 'Read its id from message_templates.',
        'Leia o seu id em message_templates.'),
    ('refusal', 'template_of_other_account', 'La plantilla {name} es de otra cuenta de WhatsApp que {number}.',
        'The template {name} belongs to another WhatsApp account than {number}.',
        'O modelo {name} é de outra conta do WhatsApp que {number}.'),
    ('hint', 'template_of_other_account', 'Elija una de la misma cuenta (waba_id) que el número.',
        'Choose one whose waba_id is that of the number.', 'Escolha um da mesma conta (waba_id) que o número.'),
    ('refusal', 'media', '{fault}.', '{fault}.', '{fault}.'),
    ('hint', 'media', 'p_media indica el archivo; su texto, si lo tiene, va en p_content.',
        'p_media names the file; its text, if it has one, is p_content.',
        'p_media indica o arquivo; o seu texto, se o tiver, vai em p_content.'),
    ('refusal', 'media_gone', 'WhatsApp ya no tiene este archivo, o no para este número, o no lo tendrá a esa hora.',
        'WhatsApp has this file no more, or not for this number, or will not have it by then.',
        'O WhatsApp já não tem este arquivo, ou não para este número, ou não o terá a essa hora.'),
    ('hint', 'media_gone',
        'Un archivo se puede reenviar mientras el proveedor lo guarda, desde el número al que llegó. Use un enlace.',
        'A file can be sent on while its provider keeps it, from the number it came to. Give a link to it instead.',
        'Um arquivo pode ser reenviado enquanto o provedor o guarda, do número ao qual chegou. Use um link.'),
    ('refusal', 'no_quoted_message', 'El mensaje que se cita no está en este chat.',
        'The message to be quoted is not in this chat.', 'A mensagem citada não está neste chat.'),
    ('hint', 'no_quoted_message', 'p_reply_to es id o wa_message_id de un mensaje del mismo chat.',
        'p_reply_to is id or wa_message_id of a message of the same chat.',
        'p_reply_to é id ou wa_message_id de uma mensagem do mesmo chat.'),
    ('refusal', 'quote_not_sent', 'El mensaje que se cita todavía no se ha enviado.',
        'The message to be quoted has not been sent yet.', 'A mensagem citada ainda não foi enviada.'),
    ('hint', 'quote_not_sent', 'Espere a que se envíe.', 'Wait until it is sent.', 'Espere que seja enviada.'),
    ('refusal', 'moment', 'Esto no es una fecha con hora.', 'This is no date with a time.',
        'Isto não é uma data com hora.'),
    ('hint', 'moment', 'Escríbala como 2026-11-21T15:30, con desfase (-05:00) si no es la de su reloj.',
        'Write it as 2026-11-21T15:30, with an offset (-05:00) unless it is by your own clock.',
        'Escreva-a como 2026-11-21T15:30, com desvio (-05:00) se não for a do seu relógio.'),
    ('refusal', 'send_at', 'Un mensaje se puede programar como mucho con un año de antelación.',
        'A message can be scheduled for one year ahead at most.',
        'Uma mensagem pode ser agendada com um ano de antecedência no máximo.'),
    ('hint', 'send_at', 'Elija un p_send_at anterior.', 'Choose an earlier p_send_at.',
        'Escolha um p_send_at anterior.'),
    ('refusal', 'misfit', 'Un mensaje de tipo {type} no lleva {arguments}.',
        'A message of type {type} takes no {arguments}.',
        'Uma mensagem do tipo {type} não leva {arguments}.'),
    ('hint', 'misfit', 'Quítelo o elija otro p_type.', 'Leave it out, or choose another p_type.',
        'Retire-o ou escolha outro p_type.'),
    ('refusal', 'no_address', 'Este cliente no tiene dirección en WhatsApp.',
        'This customer has no address on WhatsApp.',
        'Este cliente não tem endereço no WhatsApp.'),
    ('hint', 'no_address', 'Primero debe escribirle a usted.', 'They must write to you first.',
        'Primeiro ele deve escrever-lhe.'),
    ('refusal', 'type', 'No existe el tipo de mensaje «{type}».', 'There is no type "{type}" of message.',
        'Não existe o tipo de mensagem «{type}».'),
    ('hint', 'type', 'Elija text, template, image, audio, video, document o sticker.',
        'Choose text, template, image, audio, video, document or sticker.',
        'Escolha text, template, image, audio, video, document ou sticker.'),
    ('refusal', 'force_reason', 'El motivo es demasiado largo: como mucho 500 caracteres.',
        'The reason is too long: at most 500 characters.', 'O motivo é longo demais: no máximo 500 caracteres.'),
    ('hint', 'force_reason', 'Resúmalo en p_reason.', 'Sum it up in p_reason.', 'Resuma-o em p_reason.'),
    ('label', 'cost_unknown', 'desconocido', 'not known', 'desconhecido'),
    ('label', 'cost_unverified', ' (tarifa sin verificar)', ' (unverified rate)', ' (tarifa não verificada)'),
    ('refusal', 'cost_not_shown', 'Quien fuerza un mensaje debe haber visto su costo estimado: {cost}.',
        'Who forces a message must have seen its estimated cost: {cost}.',
        'Quem força uma mensagem deve ter visto o seu custo estimado: {cost}.'),
    ('hint', 'cost_not_shown', 'Muéstrelo y envíelo en p_expected_cost y p_currency.',
        'Show it, then send it along as p_expected_cost and p_currency.',
        'Mostre-o e envie-o em p_expected_cost e p_currency.'),
    ('refusal', 'cost_changed', 'El costo estimado es ahora {cost}, ya no {shown}.',
        'The estimated cost is now {cost}, no longer {shown}.', 'O custo estimado agora é {cost}, já não {shown}.'),
    ('hint', 'cost_changed', 'Muestre el nuevo y envíe otra vez con él.', 'Show the new one, and send again with it.',
        'Mostre o novo e envie de novo com ele.'),
    ('refusal', 'no_message', 'No hay tal mensaje.', 'There is no such message.', 'Não há tal mensagem.'),
    ('hint', 'no_message', 'Tome su id de messages_list().', 'Read its id from messages_list().',
        'Leia o seu id em messages_list().'),
    ('refusal', 'received', 'Este mensaje lo escribió el cliente.', 'The customer wrote this message.',
        'Esta mensagem foi escrita pelo cliente.'),
    ('hint', 'received', 'Solo los suyos se pueden cancelar o enviar otra vez.',
        'Only your own can be canceled or sent again.', 'Só as suas podem ser canceladas ou enviadas de novo.'),
    ('refusal', 'not_queued', 'Este mensaje no se puede cancelar: {state}.',
        'This message cannot be canceled: {state}.',
        'Esta mensagem não pode ser cancelada: {state}.'),
    ('hint', 'not_queued', 'Solo se puede cancelar lo que espera.', 'Only what waits can be canceled.',
        'Só se pode cancelar o que espera.'),
    ('refusal', 'not_failed', 'No hay nada que repetir: {state}.', 'There is nothing to repeat: {state}.',
        'Não há nada para repetir: {state}.'),
    ('hint', 'not_failed', 'Solo se puede enviar otra vez lo que falló, se omitió o se canceló.',
        'Only what failed, was skipped or canceled can be sent again.',
        'Só se pode enviar de novo o que falhou, foi omitido ou cancelado.'),
    ('refusal', 'unknown', 'Nadie sabe si este mensaje se envió.', 'Nobody knows whether this message was sent.',
        'Ninguém sabe se esta mensagem foi enviada.'),
    ('hint', 'unknown', 'Compare con el teléfono; si no llegó, repítalo con p_force.',
        'Compare with the phone; if it did not arrive, repeat it with p_force.',
        'Compare com o telefone; se não chegou, repita-a com p_force.'),
    ('label', 'message_queued', 'espera o se está enviando', 'it waits or is being sent',
        'espera ou está a ser enviada'),
    ('label', 'message_sending', 'se está enviando', 'it is being sent', 'está a ser enviada'),
    ('label', 'message_sent', 'ya se envió', 'it is sent', 'já foi enviada'),
    ('label', 'message_delivered', 'ya se entregó', 'it is delivered', 'já foi entregue'),
    ('label', 'message_read', 'el cliente ya lo leyó', 'it is read', 'o cliente já a leu'),
    ('label', 'message_played', 'el cliente ya lo escuchó', 'it is played', 'o cliente já a ouviu'),
    ('label', 'message_failed', 'su envío falló', 'it failed', 'o envio falhou'),
    ('label', 'message_skipped', 'no se envió', 'it was skipped', 'não foi enviada'),
    ('label', 'message_canceled', 'ya está cancelado', 'it is canceled already', 'já está cancelada'),
    ('label', 'message_unknown', 'no se sabe si se envió', 'it is unknown whether it was sent',
        'não se sabe se foi enviada');


-- sql/70_pending_manual.sql

-- What a person has to send: messages that the rules keep machines from sending.

create table public.pending_manual (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    source text not null,
    reason text not null,
    priority smallint not null default 2,
    text text not null,
    added_at timestamptz not null,
    status text not null default 'open',
    sent_manually boolean not null default false,
    done_at timestamptz,
    done_by uuid,
    message_id uuid,
    constraint pending_manual_pkey primary key (tenant_id, id),
    constraint pending_manual_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint pending_manual_done_by_fkey foreign key (tenant_id, done_by) references public.users (tenant_id, id),
    constraint pending_manual_message_id_fkey foreign key (tenant_id, message_id)
        references public.messages (tenant_id, id) on delete set null (message_id),
    constraint pending_manual_source_check check (source in ('sequence', 'daily_action', 'call_followup')),
    constraint pending_manual_priority_check check (priority between 1 and 5),
    constraint pending_manual_status_check check (status in ('open', 'done', 'dismissed')),
    constraint pending_manual_done_at_check check ((status = 'open') = (done_at is null))
);
comment on table public.pending_manual is 'Messages ready to be sent by a person, and what became of them.';
comment on column public.pending_manual.text is 'pii: names the customer, and may quote them';
comment on column public.pending_manual.reason is 'Why no machine may send it: a reason of private.send_decisions().';
comment on column public.pending_manual.priority is 'The higher, the sooner.';
comment on column public.pending_manual.sent_manually is 'A person sent it, here or on the phone.';
comment on column public.pending_manual.done_by is 'null: it was written on the phone, by whomever.';
comment on column public.pending_manual.message_id is 'What was sent, where that is known.';

create index pending_manual_tenant_id_chat_id_idx on public.pending_manual (tenant_id, chat_id);
create index pending_manual_tenant_id_open_idx
    on public.pending_manual (tenant_id, priority desc, added_at) where status = 'open';
create index pending_manual_tenant_id_done_by_idx
    on public.pending_manual (tenant_id, done_by) where done_by is not null;
create index pending_manual_tenant_id_message_id_idx
    on public.pending_manual (tenant_id, message_id) where message_id is not null;

alter table public.pending_manual enable row level security;
grant select on public.pending_manual to authenticated;
grant select, insert, update, delete on public.pending_manual to service_role;
create policy pending_manual_select_member on public.pending_manual for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A text as a part of a URL (RFC 3986): all but the unreserved characters as percent and hex.
create function private.url_encode(p_text text) returns text
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return (
        select string_agg(case when letter ~ '[A-Za-z0-9._~-]' then letter else
            regexp_replace(upper(encode(convert_to(letter, 'utf8'), 'hex')), '(..)', '%\1', 'g') end, '' order by n)
        from regexp_split_to_table(p_text, '') with ordinality as letters (letter, n));
end
$$;

-- What became of entries: p_status done, with what was sent and by whom where that is known, or dismissed.
create type private.pending_end as (tenant_id uuid, id uuid, message_id uuid, done_by uuid);

-- End those that are open. Whoever calls it has their chats locked. Returns them as they are now.
create function private.pendings_end(p_ends private.pending_end[], p_status text) returns setof public.pending_manual
language plpgsql set search_path = '' as $$
declare
    v_entries public.pending_manual[];
begin
    with ended as (
        update public.pending_manual p
        set status = p_status, sent_manually = p_status = 'done', done_at = (select private.clock()),
            done_by = e.done_by, message_id = e.message_id
        from unnest(p_ends) e
        where p.tenant_id = e.tenant_id and p.id = e.id and p.status = 'open'
        returning p.*
    )
    select array_agg(ended::public.pending_manual) into v_entries from ended;
    perform private.daily_dealt_with(e.tenant_id, e.chat_id) from unnest(v_entries) e where e.source = 'daily_action';
    perform private.steps_dealt_with(v_entries);
    return query select e.* from unnest(v_entries) e;
end
$$;

-- Definer: staff may not write the queue, only say what became of an entry.
create function private.pending_manual_end(p_id uuid, p_status text) returns public.pending_manual
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_entry public.pending_manual;
begin
    perform private.pending_locked(v_tenant_id, p_id);
    select * into v_entry
    from private.pendings_end(array[(v_tenant_id, p_id, null, private.my_user_id())::private.pending_end], p_status);
    return v_entry;
end
$$;

-- An open entry, with its lead and chat locked.
create function private.pending_locked(p_tenant_id uuid, p_id uuid) returns public.pending_manual
language plpgsql set search_path = '' as $$
declare
    v_entry public.pending_manual;
    v_lead_id uuid;
begin
    select c.lead_id into v_lead_id
    from public.pending_manual p
    join public.chats c on c.tenant_id = p.tenant_id and c.id = p.chat_id
    where p.tenant_id = p_tenant_id and p.id = p_id;
    perform from public.customer_leads where tenant_id = p_tenant_id and id = v_lead_id for no key update;
    perform from public.chats c
    where c.tenant_id = p_tenant_id and c.id = (
        select p.chat_id from public.pending_manual p where p.tenant_id = p_tenant_id and p.id = p_id)
    for no key update;
    select * into v_entry
    from public.pending_manual p
    where p.tenant_id = p_tenant_id and p.id = p_id and p.status = 'open';
    if not found then
        perform private.refuse('PT404', 'no_pending_manual');
    end if;
    return v_entry;
end
$$;

-- A person has sent it by hand; or decided that nobody shall. Each answers with the entry as it is now.
create function public.pending_manual_done(p_id uuid) returns public.pending_manual
language sql set search_path = '' as $$
    select private.pending_manual_end(p_id, 'done')
$$;
create function public.pending_manual_dismiss(p_id uuid) returns public.pending_manual
language sql set search_path = '' as $$
    select private.pending_manual_end(p_id, 'dismissed')
$$;

grant execute on function private.url_encode(text), private.pending_manual_end(uuid, text),
    public.pending_manual_done(uuid), public.pending_manual_dismiss(uuid) to authenticated;
grant execute on function private.pendings_end(private.pending_end[], text) to service_role;

-- Was it this that a person wrote? Texts are compared by their words: case, accents, punctuation, blanks and emoji do
-- not matter, and what was changed a little is still the same.

-- The words, and the groups of three letters they are made of: as those of pg_trgm, without the extension.
create function private.trigrams(p_text text) returns text[]
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return array(
        select distinct substr(w.padded, n, 3)
        from regexp_split_to_table(left(p_text, 4096), ' ') as word
        cross join lateral (select '  ' || word || ' ' as padded) as w
        cross join lateral generate_series(1, length(w.padded) - 2) as n
        where word <> '');
end
$$;

create function private.plain_words(p_text text) returns text
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return private.fold(regexp_replace(p_text, '[\u2190-\u2bff\U0001f000-\U0001faff]', ' ', 'g'));
end
$$;

-- From 0 to 1: how much of both texts is in common; 0.8 at least when nearly all that is wanted was written, whatever
-- was added, and it is long enough to be told from a greeting.
create function private.text_likeness(p_wanted text, p_written text) returns numeric
language plpgsql immutable strict parallel safe set search_path = '' as $$
declare
    v_wanted text := private.plain_words(p_wanted);
    v_written text := private.plain_words(p_written);
    v_these text[] := private.trigrams(v_wanted);
    v_those text[] := private.trigrams(v_written);
    v_common numeric;
begin
    if v_wanted = v_written then
        return case when v_wanted = '' then 0 else 1 end;
    elsif cardinality(v_these) = 0 or cardinality(v_those) = 0 then
        return 0;
    end if;
    v_common := (select count(*) from unnest(v_these) t where t = any(v_those));
    return least(0.99, greatest(
        v_common / (cardinality(v_these) + cardinality(v_those) - v_common),
        case when length(v_wanted) >= 25 and v_common >= 0.9 * cardinality(v_these) then 0.8 end));
end
$$;

grant execute on function private.trigrams(text), private.plain_words(text), private.text_likeness(text, text)
    to service_role;


-- sql/71_sequences.sql

-- Sequences: messages that follow each other, days apart, for everybody who was enrolled. Steps of a version never
-- change: who edits a sequence makes a new version, and enrollments stay on theirs until they are moved.

create table public.sequences (
    tenant_id uuid,
    id uuid default private.uuid7(),
    name text not null,
    description text,
    goal text,
    goal_tags text[] not null default '{}',
    goal_statuses text[] not null default '{}',
    goal_outcomes text[] not null default '{}',
    stop_tags text[] not null default '{}',
    stop_statuses text[] not null default '{}',
    stop_outcomes text[] not null default '{}',
    after_reply text not null default 'manual',
    resume_after_hours int,
    priority smallint not null default 2,
    version int not null default 1,
    is_active boolean not null default false,
    deleted_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint sequences_pkey primary key (tenant_id, id),
    constraint sequences_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint sequences_name_check check (btrim(name) <> '' and length(name) <= 200),
    constraint sequences_description_check check (length(description) <= 2000),
    constraint sequences_goal_check check (length(goal) <= 2000),
    constraint sequences_after_reply_check check (
        after_reply in ('never', 'silence', 'manual') and (after_reply = 'silence') = (resume_after_hours is not null)),
    constraint sequences_resume_after_hours_check check (resume_after_hours between 1 and 8760),
    constraint sequences_priority_check check (priority between 1 and 5),
    constraint sequences_deleted_at_check check (deleted_at is null or not is_active)
);
comment on table public.sequences is 'Sequences of messages. What is here holds at once for everybody enrolled.';
comment on column public.sequences.goal is 'What it is for, in the business''s words.';
comment on column public.sequences.goal_tags is 'A lead with one of them is done: the enrollment is completed.';
comment on column public.sequences.goal_statuses is 'The same for lead_status and profile_status.';
comment on column public.sequences.goal_outcomes is
    'The same for the outcome of a conversation that was closed since the enrollment; * is any outcome.';
comment on column public.sequences.stop_tags is 'A lead with one of them gets no more: the enrollment is stopped.';
comment on column public.sequences.stop_statuses is 'The same for lead_status and profile_status.';
comment on column public.sequences.stop_outcomes is 'The same for the outcome of a conversation, as goal_outcomes.';
comment on column public.sequences.after_reply is
    'When the customer has written it goes on never, after resume_after_hours of silence, or when staff say so.';
comment on column public.sequences.priority is 'Of what a person has to send; the higher, the sooner.';
comment on column public.sequences.version is 'Of the steps that new enrollments get.';
comment on column public.sequences.is_active is 'Only then is anybody enrolled, and anything sent.';

-- Names are free again when a sequence is deleted.
create unique index sequences_tenant_id_name_key on public.sequences (tenant_id, lower(name)) where deleted_at is null;

create trigger sequences_touch_updated_at before update on public.sequences
    for each row execute function private.touch_updated_at();

alter table public.sequences enable row level security;
grant select on public.sequences to authenticated;
grant select, insert, update, delete on public.sequences to service_role;
create policy sequences_select_member on public.sequences for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

create table public.sequence_versions (
    tenant_id uuid,
    sequence_id uuid,
    version int,
    published_at timestamptz not null default now(),
    published_by uuid,
    constraint sequence_versions_pkey primary key (tenant_id, sequence_id, version),
    constraint sequence_versions_sequence_id_fkey foreign key (tenant_id, sequence_id)
        references public.sequences (tenant_id, id) on delete cascade,
    constraint sequence_versions_published_by_fkey foreign key (tenant_id, published_by)
        references public.users (tenant_id, id),
    constraint sequence_versions_version_check check (version >= 1)
);
comment on table public.sequence_versions is 'Every edition of a sequence''s steps; what is published stays as it is.';

create index sequence_versions_tenant_id_published_by_idx
    on public.sequence_versions (tenant_id, published_by) where published_by is not null;

alter table public.sequence_versions enable row level security;
grant select on public.sequence_versions to authenticated;
grant select, insert, update, delete on public.sequence_versions to service_role;
create policy sequence_versions_select_member on public.sequence_versions for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

create table public.sequence_steps (
    tenant_id uuid,
    sequence_id uuid,
    version int,
    order_position int,
    key text not null,
    delay_minutes int not null default 0,
    local_time time,
    window_margin_minutes int,
    type text not null,
    text text,
    media jsonb,
    template_id uuid,
    parameters jsonb,
    on_window_closed text not null default 'skip_to_manual',
    constraint sequence_steps_pkey primary key (tenant_id, sequence_id, version, order_position),
    constraint sequence_steps_key_key unique (tenant_id, sequence_id, version, key),
    constraint sequence_steps_version_fkey foreign key (tenant_id, sequence_id, version)
        references public.sequence_versions (tenant_id, sequence_id, version) on delete cascade,
    constraint sequence_steps_template_id_fkey foreign key (tenant_id, template_id)
        references public.message_templates (tenant_id, id),
    constraint sequence_steps_order_position_check check (order_position >= 1),
    constraint sequence_steps_key_check check (key ~ '^[A-Za-z0-9_.-]{1,64}$'),
    constraint sequence_steps_delay_minutes_check check (delay_minutes between 0 and 527040),
    constraint sequence_steps_window_margin_minutes_check check (window_margin_minutes between 1 and 1380),
    constraint sequence_steps_timing_check check (local_time is null or window_margin_minutes is null),
    constraint sequence_steps_type_check check (
        case type when 'text' then text is not null and media is null
            when 'template' then template_id is not null and text is null and media is null
            else type in ('image', 'audio', 'video', 'document') and media is not null end),
    constraint sequence_steps_on_window_closed_check check (
        on_window_closed in ('skip_to_manual', 'use_template', 'wait', 'stop')
        and (on_window_closed <> 'use_template' or template_id is not null))
);
comment on table public.sequence_steps is
    'The steps of an edition. A step is due delay_minutes after the one before, then at local_time if it has one, or '
    'not later than window_margin_minutes before the window closes.';
comment on column public.sequence_steps.key is 'The same step in every edition, as the business calls it.';
comment on column public.sequence_steps.local_time is 'By the customer''s clock: the first such time after the delay.';
comment on column public.sequence_steps.window_margin_minutes is
    'Just before the window closes: so long before it, or earlier where many close together.';
comment on column public.sequence_steps.text is 'With placeholders; see private.placeholder_names().';
comment on column public.sequence_steps.template_id is
    'What is sent as a step of type template, or in its place when the window is closed.';
comment on column public.sequence_steps.parameters is 'Of the template, whose texts may have placeholders.';

create index sequence_steps_tenant_id_template_id_idx
    on public.sequence_steps (tenant_id, template_id) where template_id is not null;

alter table public.sequence_steps enable row level security;
grant select on public.sequence_steps to authenticated;
grant select, insert, update, delete on public.sequence_steps to service_role;
create policy sequence_steps_select_member on public.sequence_steps for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- sequence_triggers: what enrolls customers by itself.
create table public.sequence_triggers (
    tenant_id uuid,
    sequence_id uuid,
    kind text,
    value text default '',
    constraint sequence_triggers_pkey primary key (tenant_id, sequence_id, kind, value),
    constraint sequence_triggers_sequence_id_fkey foreign key (tenant_id, sequence_id)
        references public.sequences (tenant_id, id) on delete cascade,
    constraint sequence_triggers_kind_check check (
        case when kind in ('new_lead') then value = '' when kind = 'ad' then true
            else kind in ('keyword', 'tag', 'status') and value <> '' end),
    constraint sequence_triggers_value_check check (length(value) <= 200)
);
comment on table public.sequence_triggers is 'What enrolls a customer in a sequence who never was in it.';
comment on column public.sequence_triggers.value is
    'keyword: a word or phrase within a message; tag, status: what the lead gets; ad: its id, or empty for any.';

alter table public.sequence_triggers enable row level security;
grant select on public.sequence_triggers to authenticated;
grant select, insert, update, delete on public.sequence_triggers to service_role;
create policy sequence_triggers_select_member on public.sequence_triggers for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));


-- sql/72_enrollments.sql

-- Enrollments: customers on their way through a sequence, and what became of each step.
-- Whoever changes an enrollment has its chat locked, or takes enrollments in the order of their ids.

create table public.sequence_enrollments (
    tenant_id uuid,
    id uuid default private.uuid7(),
    sequence_id uuid not null,
    version int not null,
    chat_id uuid not null,
    position int not null default 1,
    next_run_at timestamptz not null,
    status text not null default 'active',
    reason text,
    waits_for text,
    last_step_at timestamptz,
    last_message_id uuid,
    replied_at timestamptz,
    source text not null,
    enrolled_at timestamptz not null,
    enrolled_by uuid,
    changed_at timestamptz not null,
    constraint sequence_enrollments_pkey primary key (tenant_id, id),
    constraint sequence_enrollments_version_fkey foreign key (tenant_id, sequence_id, version)
        references public.sequence_versions (tenant_id, sequence_id, version),
    constraint sequence_enrollments_chat_id_fkey foreign key (tenant_id, chat_id)
        references public.chats (tenant_id, id) on delete cascade,
    constraint sequence_enrollments_enrolled_by_fkey foreign key (tenant_id, enrolled_by)
        references public.users (tenant_id, id),
    constraint sequence_enrollments_position_check check (position >= 1),
    constraint sequence_enrollments_status_check check (
        status in ('active', 'paused', 'completed', 'stopped', 'replied', 'blocked', 'opted_out')),
    constraint sequence_enrollments_reason_check check ((status = 'active') = (reason is null)),
    constraint sequence_enrollments_source_check check (
        source in ('staff', 'new_lead', 'ad', 'keyword', 'tag', 'status'))
) with (fillfactor = 70);
comment on table public.sequence_enrollments is
    'Who is in which sequence, how far, and when the next step is due. A chat is in one at a time.';
comment on column public.sequence_enrollments.position is 'Of the step that comes next; past the last one: none.';
comment on column public.sequence_enrollments.next_run_at is 'Business time; it keeps its value while paused.';
comment on column public.sequence_enrollments.reason is 'Why it is paused, or how it ended.';
comment on column public.sequence_enrollments.waits_for is
    'Why the step that is due has not been run yet: a reason of private.send_decisions(), or previous_step.';
comment on column public.sequence_enrollments.last_message_id is 'Of the last step that was put into the outbox.';
comment on column public.sequence_enrollments.replied_at is
    'When the customer last wrote while it was not over; also on one that goes on, or is paused for another reason.';
comment on column public.sequence_enrollments.source is 'Staff, or the kind of trigger.';
comment on column public.sequence_enrollments.changed_at is 'Business time of the last change of status.';

-- One at a time; also what a chat is looked up by.
create unique index sequence_enrollments_tenant_id_chat_id_live_key
    on public.sequence_enrollments (tenant_id, chat_id) where status in ('active', 'paused');
create index sequence_enrollments_tenant_id_chat_id_idx on public.sequence_enrollments (tenant_id, chat_id);
create index sequence_enrollments_tenant_id_sequence_id_version_idx
    on public.sequence_enrollments (tenant_id, sequence_id, version, status);
create index sequence_enrollments_tenant_id_enrolled_by_idx
    on public.sequence_enrollments (tenant_id, enrolled_by) where enrolled_by is not null;
-- What a reply has paused, in the order in which it may go on.
create index sequence_enrollments_tenant_id_sequence_id_replied_at_idx
    on public.sequence_enrollments (tenant_id, sequence_id, replied_at) where status = 'paused' and reason = 'replied';
-- What is due: of a business, and whether there is anything at all.
create index sequence_enrollments_tenant_id_next_run_at_idx
    on public.sequence_enrollments (tenant_id, next_run_at) where status = 'active';
create index sequence_enrollments_next_run_at_idx
    on public.sequence_enrollments (next_run_at) where status = 'active';

alter table public.sequence_enrollments enable row level security;
grant select on public.sequence_enrollments to authenticated;
grant select, insert, update, delete on public.sequence_enrollments to service_role;
create policy sequence_enrollments_select_member on public.sequence_enrollments for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- sequence_history: each step that was run. Its key is why no step is run twice.
create table public.sequence_history (
    tenant_id uuid,
    enrollment_id uuid,
    step_key text,
    sequence_id uuid not null,
    version int not null,
    position int not null,
    outcome text not null,
    reason text,
    message_id uuid,
    pending_manual_id uuid,
    planned_at timestamptz not null,
    at timestamptz not null,
    constraint sequence_history_pkey primary key (tenant_id, enrollment_id, step_key),
    constraint sequence_history_enrollment_id_fkey foreign key (tenant_id, enrollment_id)
        references public.sequence_enrollments (tenant_id, id) on delete cascade,
    constraint sequence_history_message_id_fkey foreign key (tenant_id, message_id)
        references public.messages (tenant_id, id),
    constraint sequence_history_pending_manual_id_fkey foreign key (tenant_id, pending_manual_id)
        references public.pending_manual (tenant_id, id) on delete set null (pending_manual_id),
    constraint sequence_history_outcome_check check (outcome in ('sent', 'manual', 'done', 'skipped', 'stopped'))
);
comment on table public.sequence_history is 'What became of each step of each enrollment, and why.';
comment on column public.sequence_history.outcome is
    'sent: put into the outbox, whose message tells its fate; manual: given to a person; done: a person sent it; '
    'skipped: passed over; stopped: the sequence ended instead.';
comment on column public.sequence_history.reason is 'Of the send decision, or what staff said.';
comment on column public.sequence_history.message_id is 'What was sent; of a manual step the message that was skipped.';
comment on column public.sequence_history.planned_at is 'When it was due.';

create index sequence_history_tenant_id_message_id_idx
    on public.sequence_history (tenant_id, message_id) where message_id is not null;
create index sequence_history_tenant_id_pending_manual_id_idx
    on public.sequence_history (tenant_id, pending_manual_id) where pending_manual_id is not null;
-- What statistics of a sequence read.
create index sequence_history_tenant_id_sequence_id_idx on public.sequence_history (tenant_id, sequence_id, at);

alter table public.sequence_history enable row level security;
grant select on public.sequence_history to authenticated;
grant select, insert, update, delete on public.sequence_history to service_role;
create policy sequence_history_select_member on public.sequence_history for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A step of an enrollment that waits in the outbox, taken back: nothing of it has gone out.
create type private.message_ref as (tenant_id uuid, message_id uuid);

-- Take steps back whose messages will not be sent: the enrollment is again where it was before, the step due at once.
-- One that was over because of it goes on, unless its chat is in another by now.
create function private.steps_take_back(p_messages private.message_ref[]) returns void
language plpgsql set search_path = '' as $$
begin
    with held as materialized (
        select e.tenant_id, e.id, h.step_key, h.message_id, h.position
        from unnest(p_messages) m
        join public.sequence_history h on h.tenant_id = m.tenant_id and h.message_id = m.message_id
        join public.sequence_enrollments e on e.tenant_id = h.tenant_id and e.id = h.enrollment_id
        where e.status in ('active', 'paused') or e.status = 'completed' and not exists (
            select from public.sequence_enrollments o
            where o.tenant_id = e.tenant_id and o.chat_id = e.chat_id and o.status in ('active', 'paused'))
        order by e.tenant_id, e.id
        for no key update of e
    ),
    forgotten as (
        delete from public.sequence_history h
        using held w
        where h.tenant_id = w.tenant_id and h.enrollment_id = w.id and h.step_key = w.step_key
    ),
    canceled as (
        update public.messages m set status = 'canceled'
        from held w
        where m.tenant_id = w.tenant_id and m.id = w.message_id
    )
    update public.sequence_enrollments e
    set position = least(e.position, w.position), next_run_at = (select private.clock()), waits_for = null,
        last_message_id = null, status = case e.status when 'completed' then 'active' else e.status end,
        reason = case when e.status <> 'completed' then e.reason end
    from held w
    where e.tenant_id = w.tenant_id and e.id = w.id;
end
$$;

-- Take back what sequences have in the outbox for these chats and nobody has begun to send.
create function private.steps_recall(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_messages private.message_ref[];
begin
    with mine as (
        select o.tenant_id, o.message_id
        from unnest(p_chats) c
        cross join lateral (
            select * from public.outbox o
            where o.tenant_id = c.tenant_id and o.chat_id = c.chat_id and o.purpose = 'sequence' and o.state = 'queued'
            offset 0
        ) as k
        join public.outbox o on o.tenant_id = k.tenant_id and o.message_id = k.message_id
        order by o.tenant_id, o.message_id
        for update of o
    ),
    gone as (
        delete from public.outbox o
        using mine m
        where o.tenant_id = m.tenant_id and o.message_id = m.message_id and o.state = 'queued'
        returning o.tenant_id, o.message_id
    ),
    noted as (
        update public.messages m set status = 'canceled'
        from gone g
        where m.tenant_id = g.tenant_id and m.id = g.message_id
    )
    select array_agg((tenant_id, message_id)::private.message_ref) into v_messages from gone;
    if v_messages is not null then
        perform private.steps_take_back(v_messages);
    end if;
end
$$;

-- The live enrollments of these chats, locked in the order of their ids.
create function private.enrollments_live(p_chats private.chat_ref[]) returns setof public.sequence_enrollments
language plpgsql set search_path = '' as $$
begin
    return query
    select e.*
    from (select distinct c.tenant_id, c.chat_id from unnest(p_chats) c) as w
    cross join lateral (
        select l.id from public.sequence_enrollments l
        where l.tenant_id = w.tenant_id and l.chat_id = w.chat_id and l.status in ('active', 'paused')
        limit 1
    ) as k
    join public.sequence_enrollments e on e.tenant_id = w.tenant_id and e.id = k.id
    order by e.tenant_id, e.id
    for no key update of e;
end
$$;

-- Active enrollments of these chats pause, for that reason: replied, staff, probably_blocked, blocked, ... A step that
-- waits in the outbox is taken back. Those that are paused already stay so for their own reason.
create function private.enrollments_hold(p_chats private.chat_ref[], p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.steps_recall(p_chats);
    update public.sequence_enrollments e
    set status = 'paused', reason = p_reason, changed_at = (select private.clock())
    from private.enrollments_live(p_chats) l
    where l.status = 'active' and e.tenant_id = l.tenant_id and e.id = l.id;
end
$$;

-- Those paused for that reason go on: what was due meanwhile is due now, once, and what waited for a window is tried.
-- Whose customer has written meanwhile is paused for that, unless it is staff or the silence that lets it go on.
create function private.enrollments_release(p_chats private.chat_ref[], p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
    update public.sequence_enrollments e
    set status = case when h.is_heard then 'paused' else 'active' end,
        reason = case when h.is_heard then 'replied' end, changed_at = k.now,
        waits_for = case when h.is_heard then e.waits_for end,
        next_run_at = case when h.is_heard then e.next_run_at
            when e.waits_for is not null then k.now else greatest(e.next_run_at, k.now) end
    from private.enrollments_live(p_chats) l
    cross join private.clock() k (now)
    cross join lateral (
        select p_reason not in ('replied', 'staff') and coalesce(l.replied_at >= l.changed_at, false) as is_heard) as h
    where l.status = 'paused' and l.reason = p_reason and e.tenant_id = l.tenant_id and e.id = l.id;
end
$$;

-- Enrollments of these chats that are not over end: p_status is completed, stopped, replied, blocked or opted_out.
create function private.enrollments_end(p_chats private.chat_ref[], p_status text, p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.steps_recall(p_chats);
    update public.sequence_enrollments e
    set status = p_status, reason = p_reason, changed_at = (select private.clock()), waits_for = null
    from private.enrollments_live(p_chats) l
    where e.tenant_id = l.tenant_id and e.id = l.id;
end
$$;

-- Two chats become one, the other's enrollment with it: one stays, that of p_chat.
create function private.enrollments_join(p_chat private.chat_ref, p_other private.chat_ref) returns void
language plpgsql set search_path = '' as $$
begin
    if exists (
        select from public.sequence_enrollments e
        where e.tenant_id = p_chat.tenant_id and e.chat_id = p_chat.chat_id and e.status in ('active', 'paused')
    ) then
        perform private.enrollments_end(array[p_other], 'stopped', 'merged');
    end if;
end
$$;

grant execute on function
    private.steps_take_back(private.message_ref[]), private.steps_recall(private.chat_ref[]),
    private.enrollments_live(private.chat_ref[]), private.enrollments_hold(private.chat_ref[], text),
    private.enrollments_release(private.chat_ref[], text), private.enrollments_end(private.chat_ref[], text, text)
    to service_role;


-- sql/73_sequence_editing.sql

-- Writing sequences: a document is checked whole, and each fault is told with its place. What people edit and what
-- they import goes the same way.

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_sequence', 'No hay tal secuencia.', 'There is no such sequence.', 'Não há tal sequência.'),
    ('hint', 'no_sequence', 'Tome su id de sequences; una borrada ya no se puede cambiar.',
        'Read its id from sequences; one that was deleted cannot be changed.',
        'Leia o seu id em sequences; uma apagada já não se pode mudar.'),
    ('refusal', 'sequence_name', 'name: ya hay otra secuencia que se llama «{name}».',
        'name: another sequence is called "{name}" already.', 'name: já há outra sequência que se chama "{name}".'),
    ('hint', 'sequence_name', 'Elija otro nombre.', 'Choose another name.', 'Escolha outro nome.'),
    ('refusal', 'sequence_switch', 'Falta p_is_active.', 'p_is_active is missing.', 'Falta p_is_active.'),
    ('hint', 'sequence_switch', 'Diga true o false.', 'Say true or false.', 'Diga true ou false.'),
    ('hint', 'sequence_document', 'Corrija el documento y guárdelo otra vez: no se ha cambiado nada.',
        'Correct the document and save it again: nothing of it was changed.',
        'Corrija o documento e salve-o outra vez: nada foi mudado.'),
    ('hint', 'sequence_placeholders', 'Los campos son {{{known}}} y {{metadata.…}}; en {{name|amigo}} lo segundo va si '
        'falta lo primero.', 'Placeholders are {{{known}}} and {{metadata.…}}; of {{name|friend}} the second stands '
        'where the first is not known.', 'Os campos são {{{known}}} e {{metadata.…}}; em {{name|amigo}} vai o segundo '
        'se falta o primeiro.'),
    ('fault', 'doc_missing', 'falta', 'is missing', 'falta'),
    ('fault', 'doc_text', 'debe ser un texto', 'must be a text', 'deve ser um texto'),
    ('fault', 'doc_integer', 'debe ser un número entero', 'must be a whole number', 'deve ser um número inteiro'),
    ('fault', 'doc_list', 'debe ser una lista', 'must be a list', 'deve ser uma lista'),
    ('fault', 'doc_object', 'debe ser un objeto', 'must be an object', 'deve ser um objeto'),
    ('fault', 'doc_empty', 'está vacío', 'is empty', 'está vazio'),
    ('fault', 'doc_long', 'es demasiado largo: {length} caracteres, como mucho {to}',
        'is too long: {length} characters, at most {to}', 'é longo demais: {length} caracteres, no máximo {to}'),
    ('fault', 'doc_choice', 'es {value}; debe ser uno de {words}', 'is {value}; it must be one of {words}',
        'é {value}; deve ser um de {words}'),
    ('fault', 'doc_time', 'debe ser una hora del día: HH:MM', 'must be a time of day: HH:MM',
        'deve ser uma hora do dia: HH:MM'),
    ('fault', 'doc_moment', 'debe ser una fecha', 'must be a time', 'deve ser uma data'),
    ('fault', 'doc_range', 'es {value}; debe ser de {from} a {to}', 'is {value}; it must be from {from} to {to}',
        'é {value}; deve ser de {from} a {to}'),
    ('fault', 'doc_items', 'tiene {length} elementos; debe tener de {from} a {to}',
        'has {length} items; it must have from {from} to {to}', 'tem {length} elementos; deve ter de {from} a {to}'),
    ('fault', 'doc_words', 'debe ser una lista de 100 textos cortos como mucho',
        'must be a list of at most 100 short texts', 'deve ser uma lista de no máximo 100 textos curtos'),
    ('fault', 'doc_keys', 'tiene una clave desconocida: {keys}; puede tener {words}',
        'has an unknown key: {keys}; it may have {words}', 'tem uma chave desconhecida: {keys}; pode ter {words}'),
    ('fault', 'doc_span', 'debe ser {"days", "hours", "minutes"}, en números enteros',
        'must be {"days", "hours", "minutes"}, whole numbers',
        'deve ser {"days", "hours", "minutes"}, números inteiros'),
    ('fault', 'doc_minutes', 'son {length} minutos; debe ser de {from} a {to}',
        'is {length} minutes; it must be from {from} to {to}', 'são {length} minutos; deve ser de {from} a {to}'),
    ('fault', 'doc_unasked', 'no le corresponde', 'does not belong there', 'não lhe corresponde'),
    ('fault', 'doc_key', 'debe ser de letras, cifras, puntos y guiones',
        'must be of letters, digits, dots, dashes and underscores', 'deve ser de letras, algarismos, pontos e traços'),
    ('fault', 'doc_key_twice', 'es la clave de otro paso también', 'is the key of another step too',
        'é a chave de outro passo também'),
    ('fault', 'doc_nothing', 'no tiene nada que enviar: text, media o template',
        'has nothing to send: text, media or template', 'não tem nada para enviar: text, media ou template'),
    ('fault', 'doc_two_times', 'tiene at y before_window_closes a la vez', 'has both at and before_window_closes',
        'tem at e before_window_closes ao mesmo tempo'),
    ('fault', 'doc_audio', 'tiene un texto, que no puede ir con un audio', 'has a text, which cannot go with audio',
        'tem um texto, que não pode ir com um áudio'),
    ('fault', 'doc_two_bodies', 'tiene una plantilla junto a su texto: use on_window_closed: use_template o quite una',
        'has a template beside its own text: say on_window_closed: use_template, or leave one out',
        'tem um modelo junto ao seu texto: use on_window_closed: use_template ou tire um deles'),
    ('fault', 'doc_template_none', 'no es una de las plantillas del negocio: {template}',
        'is not one of the business''s templates: {template}', 'não é um dos modelos do negócio: {template}'),
    ('fault', 'doc_template_many', 'puede ser una de varias: diga su idioma y su cuenta, o su id',
        'may be one of several: say its language and account, or its id',
        'pode ser um de vários: diga o idioma e a conta, ou o id'),
    ('fault', 'doc_placeholder', 'tiene un campo desconocido: {unknown}', 'has an unknown placeholder: {unknown}',
        'tem um campo desconhecido: {unknown}'),
    ('fault', 'doc_placeholder_open', 'tiene un campo que no se cierra o no se abre: {{name}}',
        'has a placeholder that is not closed, or not opened: {{name}}',
        'tem um campo que não se fecha ou não se abre: {{name}}');

-- Placeholders: {{name}}, or {{name|amigo}} with what stands there when the name is not known.

-- What a placeholder may be called; besides these {{metadata.…}} with a key of customer_leads.metadata.
create function private.placeholder_names() returns text[]
language sql immutable set search_path = '' as $$
    select array['name', 'first_name', 'user_name', 'phone', 'email', 'company', 'customer_type', 'status', 'label1',
        'label2', 'label3', 'next_action', 'business', 'number']
$$;

-- What is wrong with the placeholders of a text; null: nothing.
create function private.placeholder_fault(p_text text) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_unknown text := (
        select string_agg(format('{{%s}}', p.name), ', ')
        from regexp_matches(p_text, '\{\{([^{}|]*)(?:\|[^{}]*)?\}\}', 'g') as m
        cross join lateral (select btrim(m[1]) as name) as p
        where p.name <> all (private.placeholder_names()) and p.name !~ '^metadata\.\S+$');
begin
    return case
        when v_unknown <> '' then private.phrase(
            'fault', 'doc_placeholder', jsonb_build_object('unknown', v_unknown))
        when regexp_replace(p_text, '\{\{([^{}|]*)(\|[^{}]*)?\}\}', '', 'g') ~ '\{\{|\}\}'
            then private.phrase('fault', 'doc_placeholder_open')
    end;
end
$$;

-- A text with its placeholders filled in. p_is_json: it is JSON, and stays it. Word by word, since it is done for every
-- message: a regular expression takes five times as long.
create function private.placeholders_fill(p_text text, p_values jsonb, p_is_json boolean default false) returns text
language plpgsql immutable set search_path = '' as $$
declare
    v_filled text := '';
    v_rest text := p_text;
    v_from int := position('{{' in p_text);
    v_blank text;
    v_value text;
begin
    while v_from > 0 loop
        v_blank := substr(v_rest, v_from + 2, position('}}' in v_rest) - v_from - 2);
        v_value := nullif(btrim(p_values #>> string_to_array(btrim(split_part(v_blank, '|', 1)), '.')), '');
        if v_value is null then
            v_value := btrim(substr(v_blank, length(split_part(v_blank, '|', 1)) + 2));
        elsif p_is_json then
            v_value := to_json(v_value)::text;
            v_value := substr(v_value, 2, length(v_value) - 2);
        end if;
        v_filled := v_filled || substr(v_rest, 1, v_from - 1) || v_value;
        v_rest := substr(v_rest, position('}}' in v_rest) + 2);
        v_from := position('{{' in v_rest);
    end loop;
    return v_filled || v_rest;
end
$$;

-- {placeholder: value} of a lead, for messages from that number.
create function private.placeholder_values(
    p_lead public.customer_leads, p_number public.whatsapp_numbers, p_business text
) returns jsonb
language plpgsql immutable set search_path = '' as $$
declare
    v_name text := coalesce(nullif(p_lead.name, p_lead.phone), p_lead.user_name);
begin
    return jsonb_build_object('name', v_name, 'first_name', split_part(btrim(v_name), ' ', 1),
        'user_name', p_lead.user_name, 'phone', p_lead.phone, 'email', p_lead.email, 'company', p_lead.company,
        'customer_type', p_lead.customer_type, 'status', coalesce(p_lead.profile_status, p_lead.lead_status),
        'label1', p_lead.label1, 'label2', p_lead.label2, 'label3', p_lead.label3, 'next_action', p_lead.next_action,
        'business', p_business, 'number', p_number.display_name, 'metadata', p_lead.metadata);
end
$$;

-- Documents.

-- What is wrong with a value, given what it should be; null: nothing, or it is left out. kind: text (from..to
-- characters), integer, list (from..to items), words (a list of texts), choice and object (of those words), time,
-- span ({"days", "hours", "minutes"}: from..to minutes), moment.
create function private.json_fault(p_value jsonb, p_kind text, p_from int, p_to int, p_words text[]) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_type text := coalesce(jsonb_typeof(p_value), 'null');
    v_text text := p_value #>> '{}';
    v_fault text := case
        when v_type = 'null' then null
        when p_kind in ('text', 'choice', 'time', 'moment') and v_type <> 'string' then 'text'
        when p_kind = 'integer' and (v_type <> 'number' or v_text !~ '^-?\d{1,9}$') then 'integer'
        when p_kind in ('list', 'words') and v_type <> 'array' then 'list'
        when p_kind in ('object', 'span') and v_type <> 'object' then 'object'
        when p_kind = 'text' and length(btrim(v_text, E' \t\r\n')) < p_from then 'empty'
        when p_kind = 'text' and length(v_text) > p_to then 'long'
        when p_kind = 'choice' and v_text <> all (p_words) then 'choice'
        when p_kind = 'time' and v_text !~ '^([01]\d|2[0-3]):[0-5]\d$' then 'time'
        when p_kind = 'moment' and private.as_time(v_text) is null then 'moment'
        when p_kind = 'integer' and v_text::int not between p_from and p_to then 'range'
        when p_kind = 'list' and jsonb_array_length(p_value) not between p_from and p_to then 'items'
        when p_kind = 'words' and (jsonb_array_length(p_value) > 100 or p_value @? 'strict $[*] ? (@.type() != "string"
            || @ like_regex "^\\s*$" || @ like_regex "^.{201}")') then 'words'
        when p_kind = 'object' and exists (select from jsonb_object_keys(p_value) k where k <> all (p_words)) then 'keys'
        when p_kind = 'span' and (p_value - '{days,hours,minutes}'::text[] <> '{}'
            or p_value @? 'strict $.* ? (@.type() != "number" || @ < 0 || @ > 600000 || @.floor() != @)') then 'span'
        when p_kind = 'span' and private.span_minutes(p_value) not between p_from and p_to then 'minutes'
    end;
begin
    return private.phrase('fault', 'doc_' || v_fault, jsonb_build_object('value', v_text, 'from', p_from, 'to', p_to,
        'words', array_to_string(p_words, ', '), 'length', case v_fault
            when 'long' then length(v_text) when 'items' then jsonb_array_length(p_value)
            when 'minutes' then private.span_minutes(p_value) end,
        'keys', case v_fault when 'keys' then (
            select string_agg(k, ', ') from jsonb_object_keys(p_value) k where k <> all (p_words)) end));
end
$$;

create function private.span_minutes(p_span jsonb) returns int
language sql immutable set search_path = '' as $$
    select coalesce((p_span ->> 'days')::numeric * 1440, 0)::int + coalesce((p_span ->> 'hours')::numeric * 60, 0)::int
        + coalesce((p_span ->> 'minutes')::numeric, 0)::int
$$;

-- A value as it must be an array to be looked into; whatever is wrong with it is told elsewhere.
create function private.json_items(p_value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
    select case jsonb_typeof(p_value) when 'array' then p_value else '[]' end
$$;

-- What is wrong with a document but its steps, in the order in which it is read.
create function private.sequence_head_faults(p_document jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select c.path, coalesce(
        case when c.is_required and coalesce(jsonb_typeof(c.value), 'null') = 'null' then private.phrase('fault', 'doc_missing') end,
        private.json_fault(c.value, c.kind, c.at_least, c.at_most, c.words)) as fault
    from (
        values
            (1, 'document', p_document, true, 'object', null, null, array['format', 'name', 'description', 'priority',
                'goal', 'stop', 'on_reply', 'triggers', 'steps']),
            (2, 'name', p_document -> 'name', true, 'text', 1, 200, null),
            (3, 'description', p_document -> 'description', false, 'text', 0, 2000, null),
            (4, 'priority', p_document -> 'priority', false, 'integer', 1, 5, null),
            (5, 'goal', p_document -> 'goal', false, 'object', null, null,
                array['description', 'tags', 'statuses', 'outcomes']),
            (6, 'goal.description', p_document #> '{goal,description}', false, 'text', 0, 2000, null),
            (7, 'goal.tags', p_document #> '{goal,tags}', false, 'words', null, null, null),
            (8, 'goal.statuses', p_document #> '{goal,statuses}', false, 'words', null, null, null),
            (9, 'goal.outcomes', p_document #> '{goal,outcomes}', false, 'words', null, null, null),
            (10, 'stop', p_document -> 'stop', false, 'object', null, null, array['tags', 'statuses', 'outcomes']),
            (11, 'stop.tags', p_document #> '{stop,tags}', false, 'words', null, null, null),
            (12, 'stop.statuses', p_document #> '{stop,statuses}', false, 'words', null, null, null),
            (13, 'stop.outcomes', p_document #> '{stop,outcomes}', false, 'words', null, null, null),
            (14, 'on_reply', p_document -> 'on_reply', false, 'object', null, null, array['resume', 'hours']),
            (15, 'on_reply.resume', p_document #> '{on_reply,resume}', p_document ? 'on_reply', 'choice', null, null,
                array['never', 'silence', 'manual']),
            (16, 'on_reply.hours', p_document #> '{on_reply,hours}', p_document #>> '{on_reply,resume}' = 'silence',
                'integer', 1, 8760, null),
            (17, 'triggers', p_document -> 'triggers', false, 'list', 0, 100, null),
            (18, 'steps', p_document -> 'steps', true, 'list', 1, 100, null)
    ) as c (n, path, value, is_required, kind, at_least, at_most, words)
    union all
    select format('triggers[%s]%s', t.n - 1, c.path), coalesce(
        case when c.is_required and coalesce(jsonb_typeof(c.value), 'null') = 'null' then private.phrase('fault', 'doc_missing')
            when c.path = '.value' and t.item ->> 'on' = 'new_lead' and c.value is not null then
                private.phrase('fault', 'doc_unasked') end,
        private.json_fault(c.value, c.kind, 1, 200, c.words))
    from jsonb_array_elements(private.json_items(p_document -> 'triggers')) with ordinality as t (item, n)
    cross join lateral (
        values
            ('', t.item, true, 'object', array['on', 'value']),
            ('.on', t.item -> 'on', true, 'choice', array['new_lead', 'ad', 'keyword', 'tag', 'status']),
            ('.value', t.item -> 'value', t.item ->> 'on' in ('keyword', 'tag', 'status'), 'text', null)
    ) as c (path, value, is_required, kind, words);
end
$$;

-- What is wrong with the form of its steps.
create function private.sequence_step_faults(p_document jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select format('steps[%s]%s', s.n - 1, c.path), coalesce(
        case when c.is_required and coalesce(jsonb_typeof(c.value), 'null') = 'null' then private.phrase('fault', 'doc_missing') end,
        private.json_fault(c.value, c.kind, c.at_least, c.at_most, c.words),
        case when c.path in ('.text', '.template.parameters') then private.placeholder_fault(c.value #>> '{}')
            when c.path = '.key' and c.value #>> '{}' !~ '^[A-Za-z0-9_.-]{1,64}$' then
                private.phrase('fault', 'doc_key')
            when c.path = '.key' and (
                select count(*) from jsonb_array_elements(p_document -> 'steps') o where o -> 'key' = c.value) > 1
                then private.phrase('fault', 'doc_key_twice')
            when c.path = '.media' and c.value is not null then btrim(private.media_fault(
                '', c.value ->> 'type', c.value - 'type')) end)
    from jsonb_array_elements(private.json_items(p_document -> 'steps')) with ordinality as s (item, n)
    cross join lateral (
        values
            ('', s.item, true, 'object', null, null, array['key', 'after', 'at', 'before_window_closes', 'text', 'media',
                'template', 'on_window_closed']),
            ('.key', s.item -> 'key', false, 'text', 1, 64, null),
            ('.after', s.item -> 'after', false, 'span', 0, 527040, null),
            ('.at', s.item -> 'at', false, 'time', null, null, null),
            ('.before_window_closes', s.item -> 'before_window_closes', false, 'span', 1, 1380, null),
            ('.text', s.item -> 'text', false, 'text', 1, case when s.item ? 'media' then 1024 else 4096 end, null),
            ('.media.type', s.item #> '{media,type}', s.item ? 'media', 'choice', null, null,
                array['image', 'audio', 'video', 'document']),
            ('.media', s.item -> 'media', false, 'object', null, null, array['type', 'link', 'id', 'filename', 'mime']),
            ('.template', s.item -> 'template', s.item ->> 'on_window_closed' = 'use_template', 'object', null, null,
                array['id', 'name', 'language', 'account', 'parameters']),
            ('.template.parameters', s.item #> '{template,parameters}', false, 'object', null, null,
                array['header', 'body', 'buttons']),
            ('.on_window_closed', s.item -> 'on_window_closed', false, 'choice', null, null,
                array['skip_to_manual', 'use_template', 'wait', 'stop'])
    ) as c (path, value, is_required, kind, at_least, at_most, words)
    union all
    select format('steps[%s]', s.n - 1),
        case
            when not s.item ?| array['text', 'media', 'template'] then private.phrase('fault', 'doc_nothing')
            when s.item ? 'at' and s.item ? 'before_window_closes' then private.phrase('fault', 'doc_two_times')
            when s.item ? 'text' and s.item #>> '{media,type}' = 'audio' then private.phrase('fault', 'doc_audio')
            when s.item ?| array['text', 'media'] and s.item ? 'template'
                and s.item ->> 'on_window_closed' is distinct from 'use_template' then
                private.phrase('fault', 'doc_two_bodies')
        end
    from jsonb_array_elements(private.json_items(p_document -> 'steps')) with ordinality as s (item, n)
    where jsonb_typeof(s.item) = 'object';
end
$$;

-- The template that a document means: by our id, or by name and language.
create function private.template_meant(p_tenant_id uuid, p_template jsonb) returns setof public.message_templates
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select t.*
    from public.message_templates t
    where t.tenant_id = p_tenant_id and t.status <> 'deleted'
        and case when p_template ->> 'id' is not null then t.id::text = lower(p_template ->> 'id')
            else t.name = p_template ->> 'name' and t.language = coalesce(p_template ->> 'language', t.language)
                and t.waba_id = coalesce(p_template ->> 'account', t.waba_id) end
    limit 2;
end
$$;

-- What is wrong with the templates of its steps: they are not there, or are not filled in.
create function private.sequence_template_faults(p_tenant_id uuid, p_document jsonb)
returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select format('steps[%s].template', s.n - 1),
        case
            when count(t.id) = 0 then private.phrase('fault', 'doc_template_none', jsonb_build_object('template',
                concat_ws(', ', s.item #>> '{template,name}', s.item #>> '{template,language}',
                    s.item #>> '{template,id}')))
            when count(t.id) > 1 then private.phrase('fault', 'doc_template_many')
            else min(private.template_faults(t, coalesce(private.placeholders_fill(
                s.item #>> '{template,parameters}', '{}'::jsonb || (
                    select jsonb_object_agg(n, 'x') from unnest(private.placeholder_names()) n), true)::jsonb, '{}')))
        end
    from jsonb_array_elements(p_document -> 'steps') with ordinality as s (item, n)
    left join lateral private.template_meant(p_tenant_id, s.item -> 'template') t on true
    where s.item ? 'template'
    group by s.n, s.item;
end
$$;

-- Refuse a document for its first fault.
create function private.sequence_check(p_tenant_id uuid, p_document jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_fault record;
begin
    select * into v_fault from private.sequence_head_faults(p_document) f where f.fault is not null limit 1;
    if not found then
        select * into v_fault from private.sequence_step_faults(p_document) f where f.fault is not null limit 1;
    end if;
    if not found then
        select * into v_fault from private.sequence_template_faults(p_tenant_id, p_document) f
        where f.fault is not null limit 1;
    end if;
    if found then
        perform private.refuse_as('PT400', 'sequence_document', format('%s %s.', v_fault.path, v_fault.fault),
            private.phrase('hint', case when v_fault.fault like '%{{%' then 'sequence_placeholders'
                else 'sequence_document' end, jsonb_build_object(
                'known', array_to_string(private.placeholder_names(), '}}, {{'))),
            jsonb_build_object('path', v_fault.path));
    end if;
end
$$;

create function private.json_words(p_words jsonb) returns text[]
language sql immutable set search_path = '' as $$
    select array(select btrim(w) from jsonb_array_elements_text(private.json_items(p_words)) as w)
$$;

-- The steps of a checked document, as rows of that version. A step without a key is a new one.
create function private.sequence_steps_of(
    p_tenant_id uuid, p_sequence_id uuid, p_version int, p_document jsonb
) returns setof public.sequence_steps
language plpgsql volatile rows 10 set search_path = '' as $$
begin
    return query
    select p_tenant_id, p_sequence_id, p_version, s.n::int,
        coalesce(s.item ->> 'key', left(replace(gen_random_uuid()::text, '-', ''), 12)),
        private.span_minutes(s.item -> 'after'), (s.item ->> 'at')::time,
        nullif(private.span_minutes(s.item -> 'before_window_closes'), 0),
        coalesce(s.item #>> '{media,type}', case when s.item ? 'text' then 'text' else 'template' end),
        s.item ->> 'text', (s.item -> 'media') - 'type', t.id, jsonb_strip_nulls(s.item #> '{template,parameters}'),
        coalesce(s.item ->> 'on_window_closed', 'skip_to_manual')
    from jsonb_array_elements(p_document -> 'steps') with ordinality as s (item, n)
    left join lateral private.template_meant(p_tenant_id, s.item -> 'template') t on s.item ? 'template'
    order by s.n;
end
$$;

-- The row of a checked document; what it does not say is as when it is new.
create function private.sequence_row_of(p_row public.sequences, p_document jsonb) returns public.sequences
language plpgsql immutable set search_path = '' as $$
begin
    p_row.name := btrim(p_document ->> 'name');
    p_row.description := p_document ->> 'description';
    p_row.goal := p_document #>> '{goal,description}';
    p_row.goal_tags := private.json_words(p_document #> '{goal,tags}');
    p_row.goal_statuses := private.json_words(p_document #> '{goal,statuses}');
    p_row.goal_outcomes := private.json_words(p_document #> '{goal,outcomes}');
    p_row.stop_tags := private.json_words(p_document #> '{stop,tags}');
    p_row.stop_statuses := private.json_words(p_document #> '{stop,statuses}');
    p_row.stop_outcomes := private.json_words(p_document #> '{stop,outcomes}');
    p_row.after_reply := coalesce(p_document #>> '{on_reply,resume}', 'manual');
    p_row.resume_after_hours := case p_row.after_reply when 'silence'
        then (p_document #>> '{on_reply,hours}')::int end;
    p_row.priority := coalesce((p_document ->> 'priority')::smallint, 2);
    return p_row;
end
$$;

-- The sequence, locked.
create function private.sequence_locked(p_tenant_id uuid, p_sequence_id uuid) returns public.sequences
language plpgsql set search_path = '' as $$
declare
    v_sequence public.sequences;
begin
    select * into v_sequence from public.sequences
    where tenant_id = p_tenant_id and id = p_sequence_id and deleted_at is null
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_sequence');
    end if;
    return v_sequence;
end
$$;

-- Save a document as a sequence: a new one (p_sequence_id null; not active yet), or in place of what it says now. Steps
-- that differ make a new version, which nobody is moved to. Answers {"id", "version", "changed"}; what is as it was
-- changes nothing.
create function private.sequence_save(p_tenant_id uuid, p_sequence_id uuid, p_document jsonb, p_by uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_was public.sequences;
    v_row public.sequences;
    v_has_new_steps boolean;
    v_has_new_triggers boolean;
begin
    -- what is null is not said
    p_document := jsonb_strip_nulls(p_document);
    perform private.sequence_check(p_tenant_id, p_document);
    if p_sequence_id is null then
        v_row.tenant_id := p_tenant_id;
        v_row.id := private.uuid7();
        v_row.version := 0;
        v_row.is_active := false;
        v_row.created_at := now();
        v_row.updated_at := now();
        v_row := private.sequence_row_of(v_row, p_document);
        insert into public.sequences select v_row.*;
    else
        v_was := private.sequence_locked(p_tenant_id, p_sequence_id);
        v_row := private.sequence_row_of(v_was, p_document);
    end if;
    v_has_new_steps := private.sequence_steps_publish(v_row, p_document, p_by);
    v_has_new_triggers := private.sequence_triggers_set(v_row, p_document);
    v_row.version := v_row.version + v_has_new_steps::int;
    if v_row is distinct from v_was then
        update public.sequences
        set (name, description, goal, goal_tags, goal_statuses, goal_outcomes, stop_tags, stop_statuses, stop_outcomes,
            after_reply, resume_after_hours, priority, version)
            = (select v_row.name, v_row.description, v_row.goal, v_row.goal_tags, v_row.goal_statuses,
                v_row.goal_outcomes, v_row.stop_tags, v_row.stop_statuses, v_row.stop_outcomes, v_row.after_reply,
                v_row.resume_after_hours, v_row.priority, v_row.version)
        where tenant_id = p_tenant_id and id = v_row.id;
    end if;
    return jsonb_build_object('id', v_row.id, 'version', v_row.version,
        'changed', v_row is distinct from v_was or v_has_new_triggers);
exception when unique_violation then
    perform private.refuse(
        'PT409', 'sequence_name', jsonb_build_object('name', v_row.name), '{"path": "name"}');
    return null;
end
$$;

-- Publish the steps as the version after the row's, if they differ from that one. Answers whether they did.
create function private.sequence_steps_publish(p_row public.sequences, p_document jsonb, p_by uuid) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_steps public.sequence_steps[] := array(select s from private.sequence_steps_of(
        p_row.tenant_id, p_row.id, p_row.version, p_document) s);
    v_was public.sequence_steps[] := array(
        select s from public.sequence_steps s
        where s.tenant_id = p_row.tenant_id and s.sequence_id = p_row.id and s.version = p_row.version
        order by s.order_position);
begin
    if v_steps = v_was then
        return false;
    end if;
    insert into public.sequence_versions (tenant_id, sequence_id, version, published_by)
    values (p_row.tenant_id, p_row.id, p_row.version + 1, p_by);
    insert into public.sequence_steps
    select s.tenant_id, s.sequence_id, p_row.version + 1, s.order_position, s.key, s.delay_minutes, s.local_time,
        s.window_margin_minutes, s.type, s.text, s.media, s.template_id, s.parameters, s.on_window_closed
    from unnest(v_steps) s;
    return true;
end
$$;

-- Make the triggers those of the document. Answers whether any changed.
create function private.sequence_triggers_set(p_row public.sequences, p_document jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_changed boolean;
begin
    with wanted as (
        select distinct t ->> 'on' as kind, coalesce(btrim(t ->> 'value'), '') as value
        from jsonb_array_elements(private.json_items(p_document -> 'triggers')) t
    ),
    gone as (
        delete from public.sequence_triggers t
        where t.tenant_id = p_row.tenant_id and t.sequence_id = p_row.id
            and not exists (select from wanted w where w.kind = t.kind and w.value = t.value)
        returning 1
    ),
    added as (
        insert into public.sequence_triggers (tenant_id, sequence_id, kind, value)
        select p_row.tenant_id, p_row.id, w.kind, w.value from wanted w
        on conflict on constraint sequence_triggers_pkey do nothing
        returning 1
    )
    select exists (select from gone) or exists (select from added) into v_changed;
    return v_changed;
end
$$;

-- Minutes as a span of a document.
create function private.span_of(p_minutes int) returns jsonb
language sql immutable set search_path = '' as $$
    select jsonb_strip_nulls(jsonb_build_object('hours', nullif(p_minutes / 60, 0), 'minutes', nullif(p_minutes % 60, 0)))
$$;

-- The document of a sequence, as it is now: saving it changes nothing.
create function private.sequence_document(p_tenant_id uuid, p_sequence_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_strip_nulls(jsonb_build_object(
            'name', s.name, 'description', s.description, 'priority', s.priority,
            'goal', jsonb_build_object('description', s.goal, 'tags', s.goal_tags, 'statuses', s.goal_statuses,
                'outcomes', s.goal_outcomes),
            'stop', jsonb_build_object('tags', s.stop_tags, 'statuses', s.stop_statuses, 'outcomes', s.stop_outcomes),
            'on_reply', jsonb_build_object('resume', s.after_reply, 'hours', s.resume_after_hours),
            'triggers', (
                select coalesce(jsonb_agg(jsonb_build_object('on', t.kind, 'value', nullif(t.value, ''))
                    order by t.kind, t.value), '[]')
                from public.sequence_triggers t
                where t.tenant_id = s.tenant_id and t.sequence_id = s.id),
            'steps', (
                select jsonb_agg(jsonb_build_object(
                    'key', p.key, 'after', private.span_of(p.delay_minutes), 'at', to_char(p.local_time, 'HH24:MI'),
                    'before_window_closes', case when p.window_margin_minutes is not null
                        then private.span_of(p.window_margin_minutes) end,
                    'text', p.text, 'media', p.media || jsonb_build_object('type', p.type),
                    'template', case when t.id is not null then jsonb_build_object('name', t.name,
                        'language', t.language, 'parameters', p.parameters, 'account', case when exists (
                            select from public.message_templates o
                            where o.tenant_id = t.tenant_id and o.name = t.name and o.language = t.language
                                and o.waba_id <> t.waba_id and o.status <> 'deleted') then t.waba_id end) end,
                    'on_window_closed', p.on_window_closed) order by p.order_position)
                from public.sequence_steps p
                left join public.message_templates t on t.tenant_id = p.tenant_id and t.id = p.template_id
                where p.tenant_id = s.tenant_id and p.sequence_id = s.id and p.version = s.version)))
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.id = p_sequence_id);
end
$$;

-- What admins do. Definer: people may not write sequences.
create function private.sequence_edit(p_sequence_id uuid, p_document jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return private.sequence_save(private.require_admin(), p_sequence_id, p_document, private.my_user_id());
end
$$;

-- The chats that are in a sequence now.
create function private.sequence_chats(p_tenant_id uuid, p_sequence_id uuid) returns private.chat_ref[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select (e.tenant_id, e.chat_id)::private.chat_ref from public.sequence_enrollments e
        where e.tenant_id = p_tenant_id and e.sequence_id = p_sequence_id and e.status in ('active', 'paused'));
end
$$;

-- Switch a sequence on or off: everybody in it goes on, or pauses. Answers with the sequence.
create function private.sequence_switch(p_tenant_id uuid, p_sequence_id uuid, p_is_active boolean)
returns public.sequences
language plpgsql set search_path = '' as $$
declare
    v_sequence public.sequences := private.sequence_locked(p_tenant_id, p_sequence_id);
    v_chats private.chat_ref[] := private.sequence_chats(p_tenant_id, p_sequence_id);
begin
    if v_sequence.is_active = p_is_active then
        return v_sequence;
    end if;
    update public.sequences set is_active = p_is_active
    where tenant_id = p_tenant_id and id = p_sequence_id
    returning * into v_sequence;
    if p_is_active then
        perform private.enrollments_release(v_chats, 'sequence_inactive');
    else
        perform private.enrollments_hold(v_chats, 'sequence_inactive');
    end if;
    return v_sequence;
end
$$;

-- Delete a sequence: everybody in it stops, its history stays.
create function private.sequence_remove(p_tenant_id uuid, p_sequence_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.sequence_locked(p_tenant_id, p_sequence_id);
    update public.sequences set is_active = false, deleted_at = private.clock()
    where tenant_id = p_tenant_id and id = p_sequence_id;
    delete from public.sequence_triggers where tenant_id = p_tenant_id and sequence_id = p_sequence_id;
    perform private.enrollments_end(
        private.sequence_chats(p_tenant_id, p_sequence_id), 'stopped', 'sequence_deleted');
end
$$;

-- Definer: people may not write sequences.
create function private.sequence_set_active(p_sequence_id uuid, p_is_active boolean) returns public.sequences
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_admin();
begin
    if p_is_active is null then
        perform private.refuse('PT400', 'sequence_switch');
    end if;
    return private.sequence_switch(v_tenant_id, p_sequence_id, p_is_active);
end
$$;

-- Definer: people may not write sequences.
create function private.sequence_delete(p_sequence_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
begin
    perform private.sequence_remove(private.require_admin(), p_sequence_id);
end
$$;

-- Save a sequence from its document (README: Sequences), a new one or an existing one; see private.sequence_save().
create function public.sequence_save(p_document jsonb, p_sequence_id uuid default null) returns jsonb
language sql set search_path = '' as $$
    select private.sequence_edit(p_sequence_id, p_document)
$$;

-- Switched off, everybody in it pauses, and goes on where they were when it is switched on again.
create function public.sequence_set_active(p_sequence_id uuid, p_is_active boolean) returns public.sequences
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequence_set_active(p_sequence_id, p_is_active)
$$;

-- Everybody in it stops. Its history stays.
create function public.sequence_delete(p_sequence_id uuid) returns void
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequence_delete(p_sequence_id)
$$;

grant execute on function private.placeholder_names(), private.placeholder_fault(text),
    private.placeholders_fill(text, jsonb, boolean),
    private.placeholder_values(public.customer_leads, public.whatsapp_numbers, text),
    private.json_fault(jsonb, text, int, int, text[]), private.span_minutes(jsonb), private.json_items(jsonb),
    private.sequence_head_faults(jsonb), private.sequence_step_faults(jsonb), private.template_meant(uuid, jsonb),
    private.sequence_template_faults(uuid, jsonb), private.sequence_check(uuid, jsonb), private.json_words(jsonb),
    private.sequence_steps_of(uuid, uuid, int, jsonb), private.sequence_row_of(public.sequences, jsonb),
    private.sequence_locked(uuid, uuid), private.sequence_save(uuid, uuid, jsonb, uuid),
    private.sequence_steps_publish(public.sequences, jsonb, uuid),
    private.sequence_triggers_set(public.sequences, jsonb), private.span_of(int),
    private.sequence_document(uuid, uuid), private.sequence_chats(uuid, uuid),
    private.sequence_switch(uuid, uuid, boolean), private.sequence_remove(uuid, uuid)
    to service_role;
grant execute on function private.sequence_edit(uuid, jsonb), private.sequence_set_active(uuid, boolean),
    private.sequence_delete(uuid), public.sequence_save(jsonb, uuid), public.sequence_set_active(uuid, boolean),
    public.sequence_delete(uuid) to authenticated;


-- sql/73_sequence_enrolling.sql

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


-- sql/73_sequence_running.sql

-- Running sequences: what is due is claimed, judged, decided and written as a set, in one transaction. Whoever is
-- killed has done nothing; whoever runs beside gets other enrollments; the key of sequence_history sees to it that no
-- step is run twice.

-- A due enrollment on its way through a batch. act: what is to be done: send, manual, wait, hold, end, pass (the step
-- was run before), later (it is due at not_before, for now).
create type private.step_run as (
    tenant_id uuid, enrollment_id uuid, sequence_id uuid, version int, order_position int, step_key text, chat_id uuid,
    planned_at timestamptz, act text, reason text, status text, not_before timestamptz, type text, text text,
    data jsonb, template_id uuid, message_id uuid, pending_manual_id uuid, on_window_closed text
);

-- Enrollments that are due, with their chats locked: the same share for every business that has any. What somebody
-- else has in hand is left to them.
create function private.sequences_due(p_limit int) returns public.sequence_enrollments[]
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        with recursive businesses as (
            (select e.tenant_id from public.sequence_enrollments e where e.status = 'active' order by 1 limit 1)
            union all
            select following.tenant_id
            from businesses b
            cross join lateral (
                select e.tenant_id from public.sequence_enrollments e
                where e.status = 'active' and e.tenant_id > b.tenant_id
                order by 1
                limit 1
            ) as following
        ),
        busy as materialized (
            select b.tenant_id from businesses b
            where exists (
                select from public.sequence_enrollments e
                where e.tenant_id = b.tenant_id and e.status = 'active' and e.next_run_at <= v_now)
        )
        select due.enrollment
        from busy b
        cross join lateral (
            select e as enrollment
            from public.sequence_enrollments e
            join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
            where e.tenant_id = b.tenant_id and e.status = 'active' and e.next_run_at <= v_now
            order by e.next_run_at
            limit (select greatest(1, p_limit / count(*)) from busy)
            for no key update of c, e skip locked
        ) as due
        limit p_limit);
end
$$;

-- Has a conversation of the chat been closed since then, with one of these outcomes?
create function private.has_outcome(p_tenant_id uuid, p_chat_id uuid, p_since timestamptz, p_outcomes text[])
returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from public.conversations v
        where v.tenant_id = p_tenant_id and v.chat_id = p_chat_id and v.closed_at >= p_since
            and (v.outcome = any (p_outcomes) or v.outcome is not null and '*' = any (p_outcomes)));
end
$$;

-- Why an enrollment is over, by what its sequence says of its goal (completed) or of stopping (stopped); null: neither.
create function private.rule_met(
    p_lead public.customer_leads, p_tags text[], p_statuses text[], p_outcomes text[], p_chat_id uuid,
    p_since timestamptz
) returns text
language plpgsql stable set search_path = '' as $$
begin
    return case
        when p_lead.tags && p_tags then 'tag'
        when array[p_lead.lead_status, p_lead.profile_status] && p_statuses then 'status'
        when p_outcomes <> '{}' and private.has_outcome(p_lead.tenant_id, p_chat_id, p_since, p_outcomes) then 'outcome'
    end;
end
$$;

-- What is to be done with due enrollments, before anything is asked of the send decision: act is send where that has to
-- be asked. A step counts its delay from when the one before really went out; while that one waits in the outbox, so
-- does this one.
create function private.steps_judged(p_due public.sequence_enrollments[]) returns private.step_run[]
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
declare
    v_now timestamptz := private.clock();
    v_next timestamptz[] := private.steps_due(array(
        select (e.tenant_id, e.chat_id, e.sequence_id, e.version, e.position,
            case when m.status in ('queued', 'sending') then v_now
                else coalesce(m.sent_at, e.last_step_at, e.enrolled_at) end)::private.step_ask
        from unnest(p_due) with ordinality as e
        left join public.messages m on m.tenant_id = e.tenant_id and m.id = e.last_message_id
        order by e.ordinality));
begin
    return array(
        select (e.tenant_id, e.id, e.sequence_id, e.version, e.position, st.key, e.chat_id, e.next_run_at, j.verdict[1],
            j.verdict[2], j.verdict[3],
            case when j.verdict[1] = 'later' then greatest(due.at, v_now + interval '1 minute') end,
            st.type,
            -- here and not in a function: it would be handed three whole rows for every message
            case when position('{{' in st.text) > 0
                then private.placeholders_fill(st.text, private.placeholder_values(l, n, b.business_name))
                else st.text end,
            case when st.media is not null then jsonb_build_object('media', st.media - '{filename,mime}'::text[])
                || st.media - '{link,id}'::text[] end,
            st.template_id, null, null, st.on_window_closed)::private.step_run
        from unnest(p_due) with ordinality as e
        join unnest(v_next) with ordinality as due (at, turn) on due.turn = e.ordinality
        join public.sequences s on s.tenant_id = e.tenant_id and s.id = e.sequence_id
        join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.tenant_settings b on b.tenant_id = e.tenant_id
        left join public.sequence_steps st on st.tenant_id = e.tenant_id and st.sequence_id = e.sequence_id
            and st.version = e.version and st.order_position = e.position
        left join public.messages m on m.tenant_id = e.tenant_id and m.id = e.last_message_id
        cross join lateral (
            select
                case when s.goal_tags || s.goal_statuses || s.goal_outcomes <> '{}' then private.rule_met(
                    l, s.goal_tags, s.goal_statuses, s.goal_outcomes, e.chat_id, e.enrolled_at) end as goal,
                case when s.stop_tags || s.stop_statuses || s.stop_outcomes <> '{}' then private.rule_met(
                    l, s.stop_tags, s.stop_statuses, s.stop_outcomes, e.chat_id, e.enrolled_at) end as stop
        ) as r
        cross join lateral (
            select case
                when s.deleted_at is not null then array['end', 'sequence_deleted', 'stopped']
                when not s.is_active then array['hold', 'sequence_inactive']
                when not l.is_active then array['end', 'lead_inactive', 'stopped']
                when r.goal is not null then array['end', 'goal_' || r.goal, 'completed']
                when r.stop is not null then array['end', 'stop_' || r.stop, 'stopped']
                when st.key is null then array['end', 'done', 'completed']
                when exists (
                    select from public.sequence_history h
                    where h.tenant_id = e.tenant_id and h.enrollment_id = e.id and h.step_key = st.key)
                    then array['pass']
                when m.status in ('queued', 'sending') then array['later', 'previous_step']
                when due.at > v_now and (m.id is not null or st.window_margin_minutes is not null)
                    then array['later', null]
                else array['send']
            end as verdict
        ) as j
        order by e.ordinality);
end
$$;

-- Parameters of the template of a step, filled in for a customer.
create function private.step_parameters(p_run private.step_run) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select private.placeholders_fill(
            st.parameters::text, private.placeholder_values(l, n, b.business_name), true)::jsonb
        from public.sequence_steps st
        join public.chats c on c.tenant_id = st.tenant_id and c.id = p_run.chat_id
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.tenant_settings b on b.tenant_id = c.tenant_id
        where st.tenant_id = p_run.tenant_id and st.sequence_id = p_run.sequence_id and st.version = p_run.version
            and st.order_position = p_run.order_position);
end
$$;

-- What becomes of a step, given what the send decision says. One that is to be tried again is spread, since many wait
-- for the same moment: an hour where places are few, else five minutes.
create function private.step_ruled(
    p_run private.step_run, p_verdict text, p_reason text, p_not_before timestamptz, p_now timestamptz
) returns private.step_run
language plpgsql immutable set search_path = '' as $$
begin
    p_run.reason := p_reason;
    if p_verdict = 'send' then
        p_run.act := 'send';
    elsif p_verdict = 'wait' then
        p_run.act := 'wait';
        p_run.not_before := greatest(p_not_before, p_now) + private.chat_share(p_run.chat_id)
            * case when p_reason in ('messaging_limit', 'plan_quota') then interval '1 hour' else interval '5 minutes' end;
    elsif p_verdict = 'never' and p_reason in ('blocked', 'number_inactive') then
        p_run.act := 'hold';
    elsif p_verdict = 'never' then
        p_run.act := 'end';
        p_run.status := case when p_reason like 'opted\_out%' then 'opted_out' else 'stopped' end;
    elsif p_reason = 'window_closed' and p_run.on_window_closed = 'wait' then
        -- a message of the customer brings it forward
        p_run.act := 'wait';
        p_run.not_before := p_now + interval '1 day' * (1 + private.chat_share(p_run.chat_id));
    elsif p_reason = 'window_closed' and p_run.on_window_closed = 'stop' then
        p_run.act := 'end';
        p_run.status := 'stopped';
    else
        p_run.act := 'manual';
    end if;
    return p_run;
end
$$;

-- The same runs, with what the send decision says of them. p_as_template: as the template of the step.
create function private.steps_decided(p_runs private.step_run[], p_as_template boolean) returns private.step_run[]
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        select private.step_ruled(r::private.step_run, case when b.is_blank then 'manual' else d.verdict end,
            case when b.is_blank then 'text_blank' else d.reason end, d.not_before, v_now)
        from unnest(p_runs) r
        join private.send_decisions(array(
            select (r.enrollment_id, r.tenant_id, r.chat_id, 'sequence', p_as_template, null,
                case when p_as_template then r.template_id end, false)::private.send_candidate
            from unnest(p_runs) r)) d on d.ref = r.enrollment_id
        -- a text of placeholders alone, none of which is known
        cross join lateral (
            select d.verdict = 'send' and not p_as_template and r.type = 'text' and r.text !~ '\S' as is_blank) as b);
end
$$;

-- Those to be sent as templates, filled in. What cannot be is for a person.
create function private.steps_as_templates(p_runs private.step_run[]) returns private.step_run[]
language plpgsql stable set search_path = '' as $$
declare
    v_run private.step_run;
    v_runs private.step_run[] := array[]::private.step_run[];
    v_template public.message_templates;
    v_parameters jsonb;
    v_filled jsonb;
begin
    foreach v_run in array p_runs loop
        select * into v_template from public.message_templates t
        where t.tenant_id = v_run.tenant_id and t.id = v_run.template_id;
        v_parameters := private.step_parameters(v_run);
        v_filled := private.template_message(v_template, v_parameters);
        if v_filled ? 'reason' then
            v_run.act := 'manual';
            v_run.reason := v_filled ->> 'reason';
        elsif v_run.act = 'send' then
            v_run.type := 'template';
            v_run.text := v_filled ->> 'text';
            v_run.data := private.template_data(v_template, v_filled, v_parameters);
        else
            v_run.text := coalesce(v_run.text, v_filled ->> 'text');
        end if;
        v_runs := v_runs || v_run;
    end loop;
    return v_runs;
end
$$;

-- Ask the send decision about all that is to be sent: each as it is, and where the window is closed as its template, if
-- it has one for that.
create function private.steps_settled(p_runs private.step_run[]) returns private.step_run[]
language plpgsql stable set search_path = '' as $$
declare
    v_runs private.step_run[] := private.steps_decided(
        array(select r from unnest(p_runs) r where r.act = 'send' and r.type <> 'template'), false);
    v_templates private.step_run[] := array(select r from unnest(p_runs) r where r.act = 'send' and r.type = 'template')
        || array(
            select r from unnest(v_runs) r
            where r.act = 'manual' and r.reason = 'window_closed' and r.on_window_closed = 'use_template');
begin
    if cardinality(v_templates) > 0 then
        v_templates := private.steps_decided(v_templates, true);
        v_runs := array(
                select r from unnest(v_runs) r
                where not (r.act = 'manual' and r.reason = 'window_closed' and r.on_window_closed = 'use_template'))
            || array(select r from unnest(v_templates) r where r.act not in ('send', 'manual'))
            || private.steps_as_templates(array(select r from unnest(v_templates) r where r.act in ('send', 'manual')));
    end if;
    return v_runs || array(select r from unnest(p_runs) r where r.act <> 'send');
end
$$;

-- Put what is to be sent into the outbox.
create function private.steps_send(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.outbox_enqueue(array_agg(private.outgoing(r.tenant_id, r.chat_id, 'sequence', 'sequence',
        'assistant', r.text, r.type, r.data, p_template_id => case r.type when 'template' then r.template_id end,
        p_message_id => r.message_id) order by r.tenant_id, r.chat_id))
    from unnest(p_runs) r
    where r.act = 'send'
    having count(*) > 0;
end
$$;

-- Give to people what no machine may send: the message is kept as one that was skipped, and its text is in the queue.
create function private.steps_to_people(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.messages (tenant_id, id, chat_id, conversation_id, lead_id, number_id, direction, role, source,
        type, content, data, template_id, status, send_verdict, send_reason, provider_at)
    select r.tenant_id, r.message_id, c.id, v.id, c.lead_id, c.number_id, 'outbound', 'assistant', 'sequence', r.type,
        r.text, r.data, case r.type when 'template' then r.template_id end, 'skipped', 'manual', r.reason,
        (select private.clock())
    from unnest(p_runs) r
    join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
    left join public.conversations v on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
    where r.act = 'manual';

    insert into public.pending_manual (tenant_id, id, chat_id, source, reason, priority, text, added_at)
    select r.tenant_id, r.pending_manual_id, r.chat_id, 'sequence', r.reason, s.priority,
        concat_ws(E'\n', nullif(r.text, ''), r.data #>> '{media,link}'), (select private.clock())
    from unnest(p_runs) r
    join public.sequences s on s.tenant_id = r.tenant_id and s.id = r.sequence_id
    where r.act = 'manual';
end
$$;

-- Note what became of each step.
create function private.steps_note(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.sequence_history (tenant_id, enrollment_id, step_key, sequence_id, version, position, outcome,
        reason, message_id, pending_manual_id, planned_at, at)
    select r.tenant_id, r.enrollment_id, r.step_key, r.sequence_id, r.version, r.order_position,
        case r.act when 'send' then 'sent' when 'manual' then 'manual' else 'stopped' end, r.reason, r.message_id,
        r.pending_manual_id, r.planned_at, (select private.clock())
    from unnest(p_runs) r
    where r.act in ('send', 'manual') or r.act = 'end' and r.reason = 'window_closed';
end
$$;

-- Move enrollments on: past a step that was run, to the time when it is tried again, or to their end.
create function private.enrollments_move(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_next timestamptz[] := private.steps_due(array(
        select (r.tenant_id, r.chat_id, r.sequence_id, r.version, r.order_position + 1, v_now)::private.step_ask
        from unnest(p_runs) with ordinality as r
        order by r.ordinality));
begin
    update public.sequence_enrollments e
    set position = case when w.is_run then r.order_position + 1 else e.position end,
        next_run_at = case when w.is_run then coalesce(n.due_at, e.next_run_at)
            when r.act = 'pass' then v_now else coalesce(r.not_before, e.next_run_at) end,
        waits_for = case when r.act in ('wait', 'later') then r.reason end,
        last_step_at = case when r.act in ('send', 'manual') then v_now else e.last_step_at end,
        last_message_id = case r.act when 'send' then r.message_id when 'manual' then null else e.last_message_id end,
        status = s.status,
        reason = case when s.status = 'active' then null when w.is_run then 'done' else r.reason end,
        changed_at = case when s.status = 'active' then e.changed_at else v_now end
    from unnest(p_runs) with ordinality as r
    join unnest(v_next) with ordinality as n (due_at, turn) on n.turn = r.ordinality
    cross join lateral (select r.act in ('send', 'manual', 'pass') as is_run) as w
    cross join lateral (
        select case
            when w.is_run and n.due_at is null then 'completed'
            when r.act = 'hold' then 'paused'
            when r.act = 'end' then r.status
            else 'active'
        end as status
    ) as s
    where e.tenant_id = r.tenant_id and e.id = r.enrollment_id;
end
$$;

-- Run up to p_limit enrollments that are due. Answers how many there were and what became of them: {"claimed", "send",
-- "manual", "wait", "later", "hold", "end", "pass"}, those that are not nothing; "closed", for the log, as
-- private.steps_closed() has it.
create function public.sequences_process(p_limit int default 1000) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_runs private.step_run[] := private.steps_judged(private.sequences_due(p_limit));
begin
    if cardinality(v_runs) = 0 then
        return '{"claimed": 0}'::jsonb;
    end if;
    v_runs := private.steps_settled(v_runs);
    v_runs := array(
        select (r.tenant_id, r.enrollment_id, r.sequence_id, r.version, r.order_position, r.step_key, r.chat_id,
            r.planned_at, r.act, r.reason, r.status, r.not_before, r.type, r.text, r.data, r.template_id,
            case when r.act in ('send', 'manual') then private.uuid7() end,
            case when r.act = 'manual' then private.uuid7() end, r.on_window_closed)::private.step_run
        from unnest(v_runs) r);
    perform private.steps_to_people(v_runs);
    perform private.steps_send(v_runs);
    perform private.steps_note(v_runs);
    perform private.enrollments_move(v_runs);
    return (
        select jsonb_object_agg(g.act, g.n)
        from (
            select r.act, count(*) as n from unnest(v_runs) r group by r.act
            union all
            select 'claimed', cardinality(v_runs)
        ) as g) || private.steps_closed(v_runs);
end
$$;

-- Steps that could not be sent since their windows had closed: {"closed": [{"tenant_id", "number_id", "count", …, a few
-- of their "chat_ids"}]}; {} where there are none.
create function private.steps_closed(p_runs private.step_run[]) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select case when count(*) = 0 then '{}' else jsonb_build_object('closed', jsonb_agg(to_jsonb(n))) end
        from (
            select c.tenant_id, c.number_id, 'window_closed' as reason, count(*) as count,
                (array_agg(c.id))[:20] as chat_ids
            from unnest(p_runs) r
            join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
            where r.reason = 'window_closed' and r.act in ('manual', 'end')
            group by c.tenant_id, c.number_id
        ) as n);
end
$$;

-- after update of whatsapp_numbers: one that is active again. Definer: the admin who switches it on may not write
-- enrollments.
create function private.number_resumes_sequences() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.enrollments_release(array(
        select (e.tenant_id, e.chat_id)::private.chat_ref
        from public.sequence_enrollments e
        join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
        where e.tenant_id = new.tenant_id and e.status = 'paused' and e.reason = 'number_inactive'
            and c.number_id = new.id), 'number_inactive');
    return null;
end
$$;
create trigger whatsapp_numbers_resume_sequences after update of is_active on public.whatsapp_numbers
    for each row when (new.is_active and not old.is_active) execute function private.number_resumes_sequences();

-- Is anything due? One look into an index, however many enrollments there are.
create function private.sequences_waiting() returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from public.sequence_enrollments e
        where e.status = 'active' and e.next_run_at <= (select private.clock()));
end
$$;

grant execute on function
    private.sequences_due(int), private.has_outcome(uuid, uuid, timestamptz, text[]),
    private.rule_met(public.customer_leads, text[], text[], text[], uuid, timestamptz),
    private.steps_judged(public.sequence_enrollments[]),
    private.step_parameters(private.step_run),
    private.step_ruled(private.step_run, text, text, timestamptz, timestamptz),
    private.steps_decided(private.step_run[], boolean), private.steps_as_templates(private.step_run[]),
    private.steps_settled(private.step_run[]), private.steps_send(private.step_run[]),
    private.steps_to_people(private.step_run[]), private.steps_note(private.step_run[]),
    private.steps_closed(private.step_run[]),
    private.enrollments_move(private.step_run[]), private.sequences_waiting(), public.sequences_process(int)
    to service_role;


-- sql/73_sequence_versions.sql

-- Moving to a new version: nobody is moved by an edit. Who is moved goes on at the step that comes next there.

-- Where everybody who is in an older version of a sequence would go on: the first step of the new one that they have
-- not had, and that is still before them (by its key), or is new and comes after what they have had. to_position null:
-- nothing is left.
create function private.sequence_moves(p_sequence public.sequences) returns table (
    enrollment_id uuid, version int, from_key text, to_position int, to_key text
)
language plpgsql stable set search_path = '' as $$
begin
    return query
    select e.id, e.version, o.key, n.order_position, n.key
    from public.sequence_enrollments e
    left join public.sequence_steps o on o.tenant_id = e.tenant_id and o.sequence_id = e.sequence_id
        and o.version = e.version and o.order_position = e.position
    left join lateral (
        select s.order_position, s.key
        from public.sequence_steps s
        left join public.sequence_steps was on was.tenant_id = s.tenant_id and was.sequence_id = s.sequence_id
            and was.version = e.version and was.key = s.key
        where s.tenant_id = e.tenant_id and s.sequence_id = e.sequence_id and s.version = p_sequence.version
            and not exists (
                select from public.sequence_history h
                where h.tenant_id = e.tenant_id and h.enrollment_id = e.id and h.step_key = s.key)
            and case when was.key is not null then was.order_position >= e.position
                else s.order_position > coalesce((
                    select max(d.order_position)
                    from public.sequence_history h
                    join public.sequence_steps d on d.tenant_id = s.tenant_id and d.sequence_id = s.sequence_id
                        and d.version = s.version and d.key = h.step_key
                    where h.tenant_id = e.tenant_id and h.enrollment_id = e.id), 0) end
        order by s.order_position
        limit 1
    ) as n on true
    where e.tenant_id = p_sequence.tenant_id and e.sequence_id = p_sequence.id and e.version < p_sequence.version
        and e.status in ('active', 'paused');
end
$$;

-- Definer: people may not write enrollments; tenant from require_admin.
create function private.sequence_move(p_sequence_id uuid, p_dry_run boolean) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_sequence public.sequences := private.sequence_locked(private.require_admin(), p_sequence_id);
    v_told jsonb;
begin
    -- nobody runs their steps meanwhile
    perform from public.sequence_enrollments e
    where e.tenant_id = v_sequence.tenant_id and e.sequence_id = p_sequence_id and e.status in ('active', 'paused')
    order by e.id
    for no key update;
    select jsonb_build_object('version', v_sequence.version, 'enrollments', coalesce(sum(g.n), 0),
        'steps', coalesce(jsonb_agg(jsonb_build_object('version', g.version, 'from', g.from_key, 'to', g.to_key,
            'enrollments', g.n) order by g.version, g.from_key, g.to_key), '[]'))
    into v_told
    from (
        select m.version, m.from_key, m.to_key, count(*) as n
        from private.sequence_moves(v_sequence) m
        group by m.version, m.from_key, m.to_key
    ) as g;
    if p_dry_run is not true then
        perform private.enrollments_to_version(v_sequence);
    end if;
    return v_told;
end
$$;

-- Move them. When the next step is due is reckoned anew, from when the last one went out.
create function private.enrollments_to_version(p_sequence public.sequences) returns void
language plpgsql set search_path = '' as $$
declare
    v_ids uuid[];
    v_positions int[];
    v_asks private.step_ask[];
begin
    select array_agg(e.id order by e.id), array_agg(m.to_position order by e.id),
        array_agg((e.tenant_id, e.chat_id, e.sequence_id, p_sequence.version, m.to_position,
            coalesce(g.sent_at, e.last_step_at, e.enrolled_at))::private.step_ask order by e.id)
    into v_ids, v_positions, v_asks
    from private.sequence_moves(p_sequence) m
    join public.sequence_enrollments e on e.tenant_id = p_sequence.tenant_id and e.id = m.enrollment_id
    left join public.messages g on g.tenant_id = e.tenant_id and g.id = e.last_message_id;

    update public.sequence_enrollments e
    set version = p_sequence.version, waits_for = null,
        -- past the last step: the next run says that it is over
        position = coalesce(w.position, (
            select max(s.order_position) + 1 from public.sequence_steps s
            where s.tenant_id = p_sequence.tenant_id and s.sequence_id = p_sequence.id
                and s.version = p_sequence.version)),
        next_run_at = coalesce(w.due_at, (select private.clock()))
    from unnest(v_ids, v_positions, private.steps_due(v_asks)) as w (id, position, due_at)
    where e.tenant_id = p_sequence.tenant_id and e.id = w.id;
end
$$;

-- Move everybody in it to the version that new ones get. Answers {"version", "enrollments", "steps": [{"version",
-- "from", "to": keys of the step that was next and of the one that now is, null: none, "enrollments"}]}. p_dry_run:
-- only say what would be.
create function public.sequence_move(p_sequence_id uuid, p_dry_run boolean default false) returns jsonb
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequence_move(p_sequence_id, p_dry_run)
$$;
grant execute on function private.sequence_move(uuid, boolean), public.sequence_move(uuid, boolean) to authenticated;


-- sql/74_sequence_desk.sql

-- Sequences and people: what customers and staff do changes what a sequence does next.

-- What was just written, by customers or on phones, as far as sequences and the queue care. Most of it they do not:
-- a batch for whose chats nothing waits costs this one query, a look by key for each message.
create function private.sequences_heed(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_is_enrolled boolean;
    v_has_echoes boolean;
begin
    select bool_or(k.is_enrolled), bool_or(m.kind = 'echo')
    into v_is_enrolled, v_has_echoes
    from unnest(p_stored) m
    left join lateral (
        select true as is_enrolled from public.sequence_enrollments e
        where e.tenant_id = m.tenant_id and e.chat_id = m.chat_id and e.status in ('active', 'paused')
        limit 1
    ) as k on true
    where m.is_live and m.kind in ('message', 'echo');
    if v_is_enrolled then
        perform private.sequences_replied(p_stored);
    end if;
    if v_has_echoes then
        perform private.manual_sends_note(p_stored);
    end if;
end
$$;

-- Customers: who writes is not written to by a sequence, until that is to go on.

-- What customers have just written pauses the sequences of their chats, or ends them where they never go on; silence
-- is counted anew.
create function private.sequences_replied(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_paused private.chat_ref[];
    v_ended private.chat_ref[];
begin
    with written as (
        select m.tenant_id, m.chat_id, max(m.at) as at
        from unnest(p_stored) m
        where m.kind = 'message' and m.is_live
        group by m.tenant_id, m.chat_id
    ),
    noted as (
        update public.sequence_enrollments e
        set replied_at = greatest(e.replied_at, w.at)
        from written w
        cross join lateral (
            select l.id from public.sequence_enrollments l
            where l.tenant_id = w.tenant_id and l.chat_id = w.chat_id and l.status in ('active', 'paused')
            limit 1
        ) as k
        where e.tenant_id = w.tenant_id and e.id = k.id
        returning e.tenant_id, e.chat_id, e.sequence_id
    )
    select
        array_agg((n.tenant_id, n.chat_id)::private.chat_ref) filter (where s.after_reply <> 'never'),
        array_agg((n.tenant_id, n.chat_id)::private.chat_ref) filter (where s.after_reply = 'never')
    into v_paused, v_ended
    from noted n
    join public.sequences s on s.tenant_id = n.tenant_id and s.id = n.sequence_id;
    if v_paused is not null then
        perform private.enrollments_hold(v_paused, 'replied');
    end if;
    if v_ended is not null then
        perform private.enrollments_end(v_ended, 'replied', 'replied');
    end if;
end
$$;

-- Every minute: what a reply has paused goes on after so many hours in which the customer wrote nothing. Returns how
-- many enrollments do.
create function private.sequences_resume() returns int
language plpgsql set search_path = '' as $$
declare
    v_silent private.chat_ref[];
begin
    select array_agg((e.tenant_id, e.chat_id)::private.chat_ref)
    into v_silent
    from public.sequences s
    cross join lateral (
        select w.tenant_id, w.chat_id from public.sequence_enrollments w
        where w.tenant_id = s.tenant_id and w.sequence_id = s.id and w.status = 'paused' and w.reason = 'replied'
            and w.replied_at <= private.clock() - make_interval(hours => s.resume_after_hours)
        for no key update of w skip locked
    ) as e
    where s.after_reply = 'silence' and s.is_active;
    if v_silent is not null then
        perform private.enrollments_release(v_silent, 'replied');
    end if;
    return coalesce(cardinality(v_silent), 0);
end
$$;

-- People: what they send by hand needs no machine, nor anybody else, to be sent again.

-- Steps that waited for a person, whose entries have ended: what became of them, and with which message. The step
-- after it counts its delay from when it really went.
create function private.steps_dealt_with(p_entries public.pending_manual[]) returns void
language plpgsql set search_path = '' as $$
begin
    with ended as (
        update public.sequence_history h
        set outcome = case e.status when 'done' then 'done' else 'skipped' end,
            reason = case when e.status = 'dismissed' then 'dismissed' when e.done_by is null then 'phone'
                else 'staff' end,
            message_id = coalesce(e.message_id, h.message_id), at = e.done_at
        from unnest(p_entries) e
        where e.source = 'sequence' and h.tenant_id = e.tenant_id and h.pending_manual_id = e.id
            and h.outcome = 'manual'
        returning h.tenant_id, h.enrollment_id, h.position, h.outcome, h.at, e.message_id
    )
    update public.sequence_enrollments n
    set last_step_at = e.at, last_message_id = e.message_id
    from ended e
    where e.outcome = 'done' and n.tenant_id = e.tenant_id and n.id = e.enrollment_id and n.position = e.position + 1
        and n.status in ('active', 'paused');
end
$$;

-- Past the step that an enrollment would run next: p_outcome done (with what a person sent instead) or skipped. The
-- step after it counts from now; after the last one the enrollment is completed.
create function private.step_past(
    p_enrollment public.sequence_enrollments, p_outcome text, p_reason text, p_message_id uuid
) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_due_at timestamptz := (private.steps_due(array[(p_enrollment.tenant_id, p_enrollment.chat_id,
        p_enrollment.sequence_id, p_enrollment.version, p_enrollment.position + 1, v_now)::private.step_ask]))[1];
begin
    insert into public.sequence_history (tenant_id, enrollment_id, step_key, sequence_id, version, position, outcome,
        reason, message_id, planned_at, at)
    select s.tenant_id, p_enrollment.id, s.key, s.sequence_id, s.version, s.order_position, p_outcome, p_reason,
        p_message_id, p_enrollment.next_run_at, v_now
    from public.sequence_steps s
    where s.tenant_id = p_enrollment.tenant_id and s.sequence_id = p_enrollment.sequence_id
        and s.version = p_enrollment.version and s.order_position = p_enrollment.position
    on conflict on constraint sequence_history_pkey do nothing;
    update public.sequence_enrollments e
    set position = e.position + 1, next_run_at = coalesce(v_due_at, e.next_run_at), waits_for = null,
        last_step_at = v_now, last_message_id = p_message_id,
        status = case when v_due_at is null then 'completed' else e.status end,
        reason = case when v_due_at is null then 'done' else e.reason end,
        changed_at = case when v_due_at is null then v_now else e.changed_at end
    where e.tenant_id = p_enrollment.tenant_id and e.id = p_enrollment.id;
end
$$;

-- A step that waits in the outbox is not sent by us any more: a person has sent it, as that message.
create function private.step_overtaken(p_tenant_id uuid, p_queued_id uuid, p_reason text, p_message_id uuid)
returns void
language plpgsql set search_path = '' as $$
begin
    if cardinality(private.outbox_cancel(p_tenant_id, array[p_queued_id])) = 0 then
        return;
    end if;
    update public.sequence_history h
    set outcome = 'done', reason = p_reason, message_id = p_message_id, at = (select private.clock())
    where h.tenant_id = p_tenant_id and h.message_id = p_queued_id;
    update public.sequence_enrollments e set last_message_id = p_message_id
    where e.tenant_id = p_tenant_id and e.last_message_id = p_queued_id;
end
$$;

-- What of a chat waits to be sent: entries of the queue (pending), steps in the outbox that nobody has begun to send
-- (queued: the message), and the step that comes next (next: the enrollment).
create function private.sends_waiting(p_tenant_id uuid, p_chat_id uuid) returns table (kind text, id uuid, words text)
language plpgsql stable rows 2 set search_path = '' as $$
begin
    return query
    select 'pending', p.id, coalesce(nullif(m.content, ''), p.text)
    from public.pending_manual p
    left join public.sequence_history h on h.tenant_id = p.tenant_id and h.pending_manual_id = p.id
    left join public.messages m on m.tenant_id = h.tenant_id and m.id = h.message_id
    where p.tenant_id = p_tenant_id and p.chat_id = p_chat_id and p.status = 'open'
    union all
    select 'queued', m.id, m.content
    from public.outbox o
    join public.messages m on m.tenant_id = o.tenant_id and m.id = o.message_id
    where o.tenant_id = p_tenant_id and o.chat_id = p_chat_id and o.purpose = 'sequence' and o.state = 'queued'
    union all
    select 'next', e.id, private.placeholders_fill(s.text, private.placeholder_values(l, n, b.business_name))
    from public.sequence_enrollments e
    join public.sequence_steps s on s.tenant_id = e.tenant_id and s.sequence_id = e.sequence_id
        and s.version = e.version and s.order_position = e.position
    join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    join public.tenant_settings b on b.tenant_id = e.tenant_id
    where e.tenant_id = p_tenant_id and e.chat_id = p_chat_id and e.status in ('active', 'paused');
end
$$;

-- Which of these a text is; none: nothing is like it, or it cannot be told which.
create function private.send_meant(p_tenant_id uuid, p_chat_id uuid, p_text text) returns table (kind text, id uuid)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select m.kind, m.id
    from (
        select w.kind, w.id, l.likeness, lead(l.likeness) over (order by l.likeness desc) as runner_up,
            row_number() over (order by l.likeness desc) as place
        from private.sends_waiting(p_tenant_id, p_chat_id) w
        cross join lateral private.text_likeness(w.words, p_text) as l (likeness)
        where l.likeness is not null
    ) as m
    where m.place = 1 and m.likeness >= 0.65
        and coalesce(m.runner_up < case m.likeness when 1 then 1 else m.likeness - 0.1 end, true);
end
$$;

-- A person has sent a message, p_done_by or somebody on the phone: what of its chat waits and is like it, or is
-- p_pending_id, is done.
create function private.manual_send_note(
    p_tenant_id uuid, p_chat_id uuid, p_message_id uuid, p_text text, p_done_by uuid, p_pending_id uuid default null
) returns void
language plpgsql set search_path = '' as $$
declare
    v_reason text := case when p_done_by is null then 'phone' else 'staff' end;
    v_meant record;
begin
    if p_pending_id is not null then
        select 'pending' as kind, p_pending_id as id into v_meant;
    else
        select * into v_meant from private.send_meant(p_tenant_id, p_chat_id, p_text);
    end if;
    if v_meant.kind = 'pending' then
        perform private.pendings_end(
            array[(p_tenant_id, v_meant.id, p_message_id, p_done_by)::private.pending_end], 'done');
    elsif v_meant.kind = 'queued' then
        perform private.step_overtaken(p_tenant_id, v_meant.id, v_reason, p_message_id);
    elsif v_meant.kind = 'next' then
        perform private.step_past(e, 'done', v_reason, p_message_id)
        from private.enrollments_live(array[(p_tenant_id, p_chat_id)::private.chat_ref]) e;
    end if;
end
$$;

-- The same for what was just written on phones, in chats for which anything waits.
create function private.manual_sends_note(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.manual_send_note(m.tenant_id, m.chat_id, m.message_id, m.body ->> 'text', null)
    from (
        select s.tenant_id, s.chat_id, s.message_id, s.body
        from unnest(p_stored) s
        cross join lateral (
            select 1 from public.sequence_enrollments e
            where e.tenant_id = s.tenant_id and e.chat_id = s.chat_id and e.status in ('active', 'paused')
            union all
            select 1 from public.pending_manual p
            where p.tenant_id = s.tenant_id and p.chat_id = s.chat_id and p.status = 'open'
            union all
            select 1 from public.outbox o
            where o.tenant_id = s.tenant_id and o.chat_id = s.chat_id and o.purpose = 'sequence' and o.state = 'queued'
            limit 1
        ) as waits
        -- what took the place of a queued message has no conversation here: that message was meant
        where s.kind = 'echo' and s.is_live and s.conversation_id is not null and s.body ->> 'text' <> ''
        order by s.at, s.message_id
    ) as m;
end
$$;

-- A message that had ended an entry was canceled before it went out: the entry waits again. Another step that it was
-- sent for is past, and was not sent.
create function private.pending_reopen(p_tenant_id uuid, p_message_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    with reopened as (
        update public.pending_manual p
        set status = 'open', sent_manually = false, done_at = null, done_by = null, message_id = null
        where p.tenant_id = p_tenant_id and p.message_id = p_message_id
        returning p.id
    )
    update public.sequence_history h
    set outcome = 'manual', reason = 'canceled', message_id = null
    from reopened r
    where h.tenant_id = p_tenant_id and h.pending_manual_id = r.id;
    update public.sequence_history h set outcome = 'skipped', reason = 'canceled'
    where h.tenant_id = p_tenant_id and h.message_id = p_message_id and h.outcome = 'done';
end
$$;

grant execute on function private.sequences_heed(private.inbox_message[]),
    private.sequences_replied(private.inbox_message[]), private.sequences_resume(),
    private.steps_dealt_with(public.pending_manual[]),
    private.step_past(public.sequence_enrollments, text, text, uuid),
    private.step_overtaken(uuid, uuid, text, uuid), private.sends_waiting(uuid, uuid),
    private.send_meant(uuid, uuid, text), private.manual_send_note(uuid, uuid, uuid, text, uuid, uuid),
    private.manual_sends_note(private.inbox_message[]), private.pending_reopen(uuid, uuid) to service_role;

-- The queue as a person works through it: the urgent first, then the oldest. wa_link: for the phone that the customer
-- has now; null where none is known. of_type and media: of a step that is more than a text.
create function public.pending_manual_list(p_limit int default 100, p_source text default null) returns table (
    id uuid, chat_id uuid, source text, reason text, priority smallint, text text, added_at timestamptz,
    lead_id uuid, lead_name text, lead_phone text, window_open boolean, window_expires_at timestamptz,
    free_entry_until timestamptz, wa_link text, sequence_id uuid, sequence_name text, enrollment_id uuid,
    step_key text, step_position int, of_type text, media jsonb
)
language plpgsql stable rows 100 set search_path = '' as $$
begin
    return query
    select
        p.id, p.chat_id, p.source, p.reason, p.priority, p.text, p.added_at, l.id,
        coalesce(l.name, l.user_name, now.phone), now.phone,
        coalesce(c.window_expires_at > (select private.clock()), false) or n.provider = 'whapi', c.window_expires_at,
        c.free_entry_until, 'https://wa.me/' || now.phone || '?text=' || coalesce(private.url_encode(p.text), ''),
        h.sequence_id, q.name, h.enrollment_id, h.step_key, h.position, coalesce(s.type, 'text'), s.media
    from public.pending_manual p
    join public.chats c on c.tenant_id = p.tenant_id and c.id = p.chat_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    cross join lateral private.lead_phone_now(l.tenant_id, l.id, l.phone) as now (phone)
    left join lateral (
        select * from public.sequence_history r
        where r.tenant_id = p.tenant_id and r.pending_manual_id = p.id and p.source = 'sequence'
        limit 1
    ) as h on true
    left join public.sequences q on q.tenant_id = h.tenant_id and q.id = h.sequence_id
    left join public.sequence_steps s
        on s.tenant_id = h.tenant_id and s.sequence_id = h.sequence_id and s.version = h.version and s.key = h.step_key
    where p.status = 'open' and (p_source is null or p.source = p_source)
    order by p.priority desc, p.added_at, p.id
    limit greatest(least(p_limit, 500), 0);
end
$$;

-- The phone by which a lead is reached now. A lead's own phone is the first one known: another may have taken its
-- place since, or none.
create function private.lead_phone_now(p_tenant_id uuid, p_lead_id uuid, p_first text) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_phones record;
begin
    select count(*) as known, max(i.value) filter (where i.valid_to = 'infinity') as now into v_phones
    from public.lead_identities i
    where i.tenant_id = p_tenant_id and i.lead_id = p_lead_id and i.kind = 'phone';
    return case when v_phones.known = 0 then p_first else v_phones.now end;
end
$$;
grant execute on function private.lead_phone_now(uuid, uuid, text), public.pending_manual_list(int, text)
    to authenticated;

-- Send an entry of the queue as it stands, with the file of its step, through message_send(): refused, scheduled and
-- forced like any message of staff. p_template_id: send that instead, where the window is closed.
create function public.pending_manual_send(
    p_id uuid, p_content text default null, p_template_id uuid default null, p_parameters jsonb default null,
    p_force boolean default false, p_expected_cost numeric default null, p_currency text default null,
    p_idempotency_key text default null, p_reason text default null
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_entry record;
begin
    -- an answer that got lost is asked for again when the entry is no longer open
    select p.chat_id, coalesce(p_content, case when s.media is null then p.text else s.words end) as content,
        case when p_template_id is not null then 'template' when s.media is null then 'text' else s.type end as type,
        s.media
    into v_entry
    from public.pending_manual p
    left join lateral (
        select t.type, t.media, m.content as words
        from public.sequence_history h
        join public.sequence_steps t on t.tenant_id = h.tenant_id and t.sequence_id = h.sequence_id
            and t.version = h.version and t.key = h.step_key
        left join public.messages m on m.tenant_id = h.tenant_id and m.id = h.message_id
        where h.tenant_id = p.tenant_id and h.pending_manual_id = p.id
        limit 1
    ) as s on true
    where p.tenant_id = v_tenant_id and p.id = p_id;
    if not found then
        perform private.refuse('PT404', 'no_pending_manual');
    end if;
    return private.message_send((v_entry.chat_id, null, null, v_entry.type,
        case when p_template_id is null then v_entry.content end, p_template_id, p_parameters,
        case when p_template_id is null then v_entry.media end, null, null, p_force, p_expected_cost, p_currency,
        p_idempotency_key, p_reason, p_id)::private.send_request);
end
$$;
grant execute on function
    public.pending_manual_send(uuid, text, uuid, jsonb, boolean, numeric, text, text, text) to authenticated;

-- Staff and enrollments. Each answers with the enrollment as it is then; who did it is in audit_log.

-- An enrollment of the caller's business, with its chat locked; refused when it is over, unless that does not matter.
create function private.enrollment_locked(p_id uuid, p_may_be_over boolean default false)
returns public.sequence_enrollments
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
    v_enrollment public.sequence_enrollments;
begin
    perform from public.chats c
    where c.tenant_id = v_tenant_id and c.id = (
        select e.chat_id from public.sequence_enrollments e where e.tenant_id = v_tenant_id and e.id = p_id)
    for no key update;
    select * into v_enrollment from public.sequence_enrollments e where e.tenant_id = v_tenant_id and e.id = p_id
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_enrollment');
    elsif v_enrollment.status not in ('active', 'paused') and not p_may_be_over then
        perform private.refuse('PT409', 'enrollment_over', jsonb_build_object('status', v_enrollment.status),
            jsonb_build_object('status', v_enrollment.status));
    end if;
    return v_enrollment;
end
$$;

-- Note what a person did, and answer with the enrollment as it is now.
create function private.enrollment_noted(p_action text, p_was public.sequence_enrollments)
returns public.sequence_enrollments
language plpgsql set search_path = '' as $$
declare
    v_now public.sequence_enrollments;
begin
    select * into v_now from public.sequence_enrollments e where e.tenant_id = p_was.tenant_id and e.id = p_was.id;
    perform private.audit(p_was.tenant_id, p_action, 'sequence_enrollments', p_was.id,
        p_before => jsonb_build_object('status', p_was.status, 'reason', p_was.reason, 'position', p_was.position),
        p_after => jsonb_build_object('status', v_now.status, 'reason', v_now.reason, 'position', v_now.position));
    return v_now;
end
$$;

-- A person's word holds whatever it was paused for before: neither silence nor anything else resumes it.
create function private.enrollment_pause(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    perform private.enrollments_hold(array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], 'staff');
    update public.sequence_enrollments e set reason = 'staff'
    where e.tenant_id = v_was.tenant_id and e.id = p_id and e.reason <> 'staff';
    return private.enrollment_noted('enrollment_pause', v_was);
end
$$;

create function private.enrollment_resume(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    if v_was.status = 'active' then
        return v_was;
    elsif not exists (
        select from public.sequences s where s.tenant_id = v_was.tenant_id and s.id = v_was.sequence_id and s.is_active
    ) then
        perform private.refuse('PT409', 'sequence_inactive');
    end if;
    perform private.enrollments_release(array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], v_was.reason);
    return private.enrollment_noted('enrollment_resume', v_was);
end
$$;

create function private.enrollment_stop(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    perform private.enrollments_end(array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], 'stopped', 'staff');
    return private.enrollment_noted('enrollment_stop', v_was);
end
$$;

create function private.enrollment_skip(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    perform private.step_past(v_was, 'skipped', 'staff', null);
    return private.enrollment_noted('enrollment_skip', v_was);
end
$$;

-- History is never run again: a new enrollment begins, in the version of today.
create function private.enrollment_restart(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id, p_may_be_over => true);
    v_obstacle text;
    v_new public.sequence_enrollments;
begin
    if v_was.status in ('active', 'paused') then
        perform private.enrollments_end(
            array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], 'stopped', 'restarted');
    end if;
    v_obstacle := (private.enrollments_add(array[(v_was.tenant_id, v_was.sequence_id, (
        select c.lead_id from public.chats c where c.tenant_id = v_was.tenant_id and c.id = v_was.chat_id
    ), v_was.chat_id, 'staff', private.my_user_id(), true)::private.enrollment_ask]))[1];
    if v_obstacle is not null then
        perform private.refuse('PT409', 'no_restart', jsonb_build_object('obstacle', v_obstacle),
            jsonb_build_object('obstacle', v_obstacle));
    end if;
    select * into v_new from public.sequence_enrollments e
    where e.tenant_id = v_was.tenant_id and e.chat_id = v_was.chat_id and e.status in ('active', 'paused');
    return private.enrollment_noted('enrollment_restart', v_new);
end
$$;

create function public.enrollment_pause(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_pause(p_enrollment_id)
$$;
create function public.enrollment_resume(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_resume(p_enrollment_id)
$$;
-- Past the step that comes next, whose successor counts from now.
create function public.enrollment_skip(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_skip(p_enrollment_id)
$$;
-- From the first step, in a new enrollment: the answer. The old one ends.
create function public.enrollment_restart(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_restart(p_enrollment_id)
$$;
create function public.enrollment_stop(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_stop(p_enrollment_id)
$$;
grant execute on function
    private.enrollment_pause(uuid), private.enrollment_resume(uuid), private.enrollment_skip(uuid),
    private.enrollment_restart(uuid), private.enrollment_stop(uuid), public.enrollment_pause(uuid),
    public.enrollment_resume(uuid), public.enrollment_skip(uuid), public.enrollment_restart(uuid),
    public.enrollment_stop(uuid)
    to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_enrollment', 'No hay tal inscripción.', 'There is no such enrollment.', 'Não há tal inscrição.'),
    ('hint', 'no_enrollment', 'Tome su id de sequence_enrollments.', 'Read its id from sequence_enrollments.',
        'Leia o seu id em sequence_enrollments.'),
    ('refusal', 'enrollment_over', 'Esta inscripción ya terminó: está {status}.',
        'This enrollment is over: it is {status}.', 'Esta inscrição já terminou: está {status}.'),
    ('hint', 'enrollment_over', 'Para empezar de nuevo use enrollment_restart().',
        'Use enrollment_restart() to begin anew.', 'Para começar de novo use enrollment_restart().'),
    ('refusal', 'sequence_inactive', 'Esta secuencia está desactivada.', 'This sequence is switched off.',
        'Esta sequência está desativada.'),
    ('hint', 'sequence_inactive', 'Un administrador la activa con sequence_set_active().',
        'An admin switches it on with sequence_set_active().', 'Um administrador a ativa com sequence_set_active().'),
    ('refusal', 'no_restart', 'No puede empezar de nuevo: {obstacle}.', 'It cannot begin anew: {obstacle}.',
        'Não pode começar de novo: {obstacle}.'),
    ('hint', 'no_restart', 'Los motivos son los de sequence_enroll().', 'The reasons are those of sequence_enroll().',
        'Os motivos são os de sequence_enroll().');


-- sql/75_delivery_health.sql

-- Delivery health: what somebody should look at.

-- alert_kinds: every kind of alert, what it is about, and how it is told to staff who do not read English.
create table public.alert_kinds (
    kind text,
    meaning text not null,
    subject text not null,
    texts jsonb not null,
    constraint alert_kinds_pkey primary key (kind),
    constraint alert_kinds_subject_check check (subject in ('number', 'chat', 'message', 'template', 'account', 'job')),
    constraint alert_kinds_texts_check check (texts ? 'es')
);
comment on table public.alert_kinds is 'What alerts there are: their meaning, and their words by language.';
comment on column public.alert_kinds.subject is 'What alerts.subject names: by our id, where it has one.';
comment on column public.alert_kinds.texts is '{"es": "…", "pt": "…"} by language; English is what the raiser says.';

alter table public.alert_kinds enable row level security;
grant select on public.alert_kinds to authenticated;
grant select, insert, update, delete on public.alert_kinds to service_role;
create policy alert_kinds_select_anyone on public.alert_kinds for select to authenticated using (true);

insert into public.alert_kinds (kind, subject, meaning, texts) values
    ('channel_stopped', 'number', 'The provider refuses the whole number; nothing of it is sent until it is mended.',
        '{"es": "El proveedor ya no acepta este número y no se envía nada. Vuelve a conectarlo.",
          "pt": "O provedor já não aceita este número e nada é enviado. Conecte-o de novo."}'),
    ('channel_setup', 'number', 'The number is connected, but its provider was not told where to deliver.',
        '{"es": "El número está conectado, pero todavía no recibe mensajes. Vuelve a conectarlo.",
          "pt": "O número está conectado, mas ainda não recebe mensagens. Conecte-o de novo."}'),
    ('token_refresh_failed', 'number', 'The access token could not be checked or replaced; it still works.',
        '{"es": "No se pudo renovar el acceso de este número. Si no se resuelve solo, vuelve a conectarlo.",
          "pt": "Não foi possível renovar o acesso deste número. Se não se resolver, conecte-o de novo."}'),
    ('bulk_paused', 'number', 'The provider limits the number for its quality: bulk rests, answers and staff go on.',
        '{"es": "WhatsApp limita este número por su calidad: los envíos masivos esperan; las respuestas siguen.",
          "pt": "O WhatsApp limita este número pela qualidade: os envios em massa esperam; as respostas seguem."}'),
    ('bulk_failed', 'number', 'Messages of sequences, daily actions or calls could not be sent.',
        '{"es": "Hay mensajes automáticos de este número que no se pudieron enviar. Se pueden reintentar.",
          "pt": "Há mensagens automáticas deste número que não puderam ser enviadas. Podem ser repetidas."}'),
    ('backfill_failed', 'number', 'The provider''s list of messages cannot be read; what an outage lost stays lost.',
        '{"es": "No se pudo revisar si faltan mensajes de este número. Si hubo un corte, míralos en el teléfono.",
          "pt": "Não foi possível ver se faltam mensagens deste número. Se houve um corte, veja-as no telefone."}'),
    ('templates_not_listed', 'account', 'The provider did not tell the templates of an account; those known go on.',
        '{"es": "No se pudo actualizar la lista de plantillas de una cuenta de WhatsApp.",
          "pt": "Não foi possível atualizar a lista de modelos de uma conta do WhatsApp."}'),
    ('send_failed', 'chat', 'A reply or a message of staff could not be sent.',
        '{"es": "Un mensaje no se pudo enviar.",
          "pt": "Uma mensagem não pôde ser enviada."}'),
    ('send_unknown', 'chat', 'Nobody knows whether a message was sent; it is not sent again.',
        '{"es": "No se sabe si un mensaje llegó a salir. Revisa el chat antes de repetirlo.",
          "pt": "Não se sabe se uma mensagem chegou a sair. Veja o chat antes de repeti-la."}'),
    ('not_sent', 'chat', 'The rules of WhatsApp or of the business keep a message back; a person decides.',
        '{"es": "Un mensaje no se envió y espera la decisión de una persona.",
          "pt": "Uma mensagem não foi enviada e espera a decisão de uma pessoa."}'),
    ('no_agent', 'chat', 'A customer waits and there is no agent who could answer.',
        '{"es": "Un cliente espera y no hay agente que le responda.",
          "pt": "Um cliente espera e não há agente que lhe responda."}'),
    ('reply_failed', 'chat', 'The agent could not answer.',
        '{"es": "El agente no pudo responder a un cliente.",
          "pt": "O agente não conseguiu responder a um cliente."}'),
    ('deliveries_missing', 'number',
        'Hardly anything this number sends is reported as delivered: nobody is taken for having blocked it.',
        '{"es": "Casi nada de lo que envía este número llega. Mientras dure, no se detectan bloqueos.",
          "pt": "Quase nada do que este número envia chega. Enquanto durar, não se detectam bloqueios."}'),
    ('customers_blocked', 'number', 'Customers seem to have blocked the number; each is in delivery_issues.',
        '{"es": "Parece que hay clientes que bloquearon este número. Míralos en los problemas de entrega.",
          "pt": "Parece que há clientes que bloquearam este número. Veja-os nos problemas de entrega."}'),
    ('account_warning', 'account', 'The provider warns about the account, restricts or judges it.',
        '{"es": "WhatsApp avisa de un problema con la cuenta. Mira los detalles en el administrador de Meta.",
          "pt": "O WhatsApp avisa de um problema com a conta. Veja os detalhes no gerenciador da Meta."}'),
    ('number_name_refused', 'number', 'The name that customers see was refused.',
        '{"es": "WhatsApp rechazó el nombre visible de este número.",
          "pt": "O WhatsApp rejeitou o nome visível deste número."}'),
    ('number_silent', 'number', 'A number that usually receives messages at this time has received none.',
        '{"es": "Este número suele recibir mensajes a estas horas y no llega ninguno. Revisa su conexión.",
          "pt": "Este número costuma receber mensagens a estas horas e não chega nenhuma. Verifique a conexão."}'),
    ('failure_spike', 'number', 'Far more of its messages fail than usually do; details has the shares.',
        '{"es": "Fallan muchos más mensajes de este número que de costumbre. Mira los errores en su estado.",
          "pt": "Falham muito mais mensagens deste número do que de costume. Veja os erros no seu estado."}'),
    ('delivery_drop', 'number', 'Far fewer of its messages arrive than usually do, an hour after they were sent.',
        '{"es": "Llegan muchos menos mensajes de este número que de costumbre.",
          "pt": "Chegam muito menos mensagens deste número do que de costume."}'),
    ('read_drop', 'number', 'Far fewer of its delivered messages are read than usually are.',
        '{"es": "Los clientes leen muchos menos mensajes de este número que de costumbre.",
          "pt": "Os clientes leem muito menos mensagens deste número do que de costume."}'),
    ('quality_low', 'number', 'Meta judges its quality YELLOW: at RED its bulk rests.',
        '{"es": "La calidad de este número bajó: hay clientes que lo bloquean o denuncian. Envía con más cuidado.",
          "pt": "A qualidade deste número baixou: há clientes que o bloqueiam ou denunciam. Envie com mais cuidado."}'),
    ('queue_late', 'number', 'Messages that should have gone out wait, though nothing is known that stops them.',
        '{"es": "Hay mensajes de este número que deberían haber salido y siguen en cola.",
          "pt": "Há mensagens deste número que deveriam ter saído e continuam na fila."}'),
    ('provider_problem', 'number', 'The provider reports a problem with the number.',
        '{"es": "El proveedor informa de un problema con este número.",
          "pt": "O provedor informa um problema com este número."}'),
    ('model_barred', 'job', 'The model''s provider wants money, or does not know our key; the job waits.',
        '{"es": "El proveedor del modelo de IA no acepta consultas; el análisis o los seguimientos esperan.",
          "pt": "O provedor do modelo de IA não aceita consultas; a análise ou os acompanhamentos esperam."}'),
    ('delivery_lost', 'message', 'A delivery of the provider could not be applied, and is not tried any more.',
        '{"es": "Algo que envió el proveedor no se pudo guardar. Se puede reintentar desde el registro.",
          "pt": "Algo que o provedor enviou não pôde ser guardado. Pode ser repetido a partir do registro."}');

create table public.alerts (
    tenant_id uuid,
    id uuid default private.uuid7(),
    kind text not null,
    severity text not null default 'warning',
    subject text not null default '',
    number_id uuid,
    chat_id uuid,
    message text not null,
    details jsonb not null default '{}',
    occurrences int not null default 1,
    created_at timestamptz not null default now(),
    last_at timestamptz not null default now(),
    resolved_at timestamptz,
    resolved_by uuid,
    constraint alerts_pkey primary key (tenant_id, id),
    constraint alerts_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint alerts_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id),
    constraint alerts_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint alerts_resolved_by_fkey foreign key (tenant_id, resolved_by) references public.users (tenant_id, id),
    constraint alerts_severity_check check (severity in ('info', 'warning', 'critical'))
);
comment on table public.alerts is 'What somebody should look at; the same trouble again is counted, not repeated.';
comment on column public.alerts.subject is 'What it is about, so that the same trouble is known again.';
comment on column public.alerts.message is 'pii: an error may quote the customer';
comment on column public.alerts.details is 'pii: an error may quote the customer';

create unique index alerts_tenant_id_kind_subject_open_key
    on public.alerts (tenant_id, kind, subject) where resolved_at is null;
create index alerts_tenant_id_number_id_idx on public.alerts (tenant_id, number_id) where number_id is not null;
create index alerts_tenant_id_chat_id_idx on public.alerts (tenant_id, chat_id) where chat_id is not null;
create index alerts_tenant_id_resolved_by_idx on public.alerts (tenant_id, resolved_by) where resolved_by is not null;

alter table public.alerts enable row level security;
grant select on public.alerts to authenticated;
grant select, insert, update, delete on public.alerts to service_role;
create policy alerts_select_member on public.alerts for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- How bad, in order.
create function private.severity_rank(p_severity text) returns int
language sql immutable set search_path = '' as $$
    select array_position(array['info', 'warning', 'critical'], p_severity)
$$;

-- What staff read about an incident, in the language of the business's owner; p_message is what it is in English.
create function private.alert_text(p_tenant_id uuid, p_kind text, p_message text) returns text
language plpgsql stable set search_path = '' as $$
begin
    return coalesce(
        (select coalesce(k.texts ->> u.locale, k.texts ->> split_part(u.locale, '-', 1))
        from public.users u
        join public.alert_kinds k on k.kind = p_kind
        where u.id = p_tenant_id),
        p_message);
end
$$;

-- Somebody should look at this. While it is open, the same again is counted in the same row, which keeps the worst
-- severity and the latest words. p_message: English, and the provider's own words; it stays in details as `reason`.
create function private.alert_raise(
    p_tenant_id uuid, p_kind text, p_subject text, p_message text, p_number_id uuid default null,
    p_chat_id uuid default null, p_severity text default 'warning', p_details jsonb default '{}'
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.alerts as a (
        tenant_id, kind, subject, message, details, number_id, chat_id, severity, created_at, last_at)
    values (
        p_tenant_id, p_kind, p_subject, private.alert_text(p_tenant_id, p_kind, p_message),
        p_details || jsonb_build_object('reason', p_message), p_number_id, p_chat_id, p_severity,
        private.clock(), private.clock())
    on conflict (tenant_id, kind, subject) where resolved_at is null do update
    set occurrences = a.occurrences + 1, last_at = excluded.last_at, message = excluded.message,
        details = a.details || excluded.details,
        severity = case when private.severity_rank(excluded.severity) > private.severity_rank(a.severity)
            then excluded.severity else a.severity end;
end
$$;

-- The trouble is over by itself: nobody resolved it, so resolved_by stays empty.
create function private.alert_end(p_tenant_id uuid, p_kind text, p_subject text) returns void
language plpgsql set search_path = '' as $$
begin
    update public.alerts set resolved_at = private.clock()
    where tenant_id = p_tenant_id and kind = p_kind and subject = p_subject and resolved_at is null;
end
$$;

-- Alerts about single messages of these chats end when none of that kind is left. p_by: who has dealt with it.
create function private.failures_over(p_chats private.chat_ref[], p_by uuid default null) returns void
language plpgsql set search_path = '' as $$
begin
    update public.alerts a set resolved_at = private.clock(), resolved_by = p_by
    from unnest(p_chats) c
    where a.tenant_id = c.tenant_id and a.subject = c.chat_id::text and a.resolved_at is null
        and a.kind in ('send_failed', 'send_unknown', 'not_sent')
        and not exists (
            select from public.messages m
            where m.tenant_id = c.tenant_id and m.chat_id = c.chat_id and m.direction = 'outbound'
                and m.provider_at > a.created_at - interval '2 days'
                and m.status = case a.kind
                    when 'send_failed' then 'failed' when 'send_unknown' then 'unknown' else 'skipped' end
                and coalesce(m.failed_at >= a.created_at, true));
end
$$;

-- A person must look at this chat: its conversation says so, and an alert.
create function private.flag_for_person(p_tenant_id uuid, p_chat_id uuid, p_kind text, p_message text) returns void
language plpgsql set search_path = '' as $$
begin
    update public.conversations set requires_attention = true
    where tenant_id = p_tenant_id and chat_id = p_chat_id and status = 'open';
    perform private.alert_raise(p_tenant_id, p_kind, p_chat_id::text, p_message, p_chat_id => p_chat_id);
end
$$;
grant execute on function private.severity_rank(text), private.alert_text(uuid, text, text),
    private.alert_raise(uuid, text, text, text, uuid, uuid, text, jsonb), private.alert_end(uuid, text, text),
    private.failures_over(private.chat_ref[], uuid),
    private.flag_for_person(uuid, uuid, text, text) to service_role;

-- Definer: staff may not write alerts, only say that one is dealt with.
create function private.alert_resolve(p_alert_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    update public.alerts
    set resolved_by = case when resolved_at is null then private.my_user_id() else resolved_by end,
        resolved_at = coalesce(resolved_at, private.clock())
    where tenant_id = v_tenant_id and id = p_alert_id;
    if not found then
        perform private.refuse('PT404', 'no_alert');
    end if;
end
$$;
create function public.alert_resolve(p_alert_id uuid) returns void
language sql set search_path = '' as $$
    select private.alert_resolve(p_alert_id)
$$;
grant execute on function private.alert_resolve(uuid), public.alert_resolve(uuid) to authenticated;


-- sql/76_blocks.sql

-- Blocks: customers whom nothing reaches any more. WhatsApp never says that somebody has blocked a number; it shows in
-- messages that stay "sent" for days, one after the other, while others of the number arrive.
--
-- What speaks for a block: a message that was sent through us at least tenant_settings.block_after_hours ago, nothing
-- heard of it since. What speaks against all that were sent before it: a message that is delivered, read or played, or
-- anything from the customer. What failed, was skipped or is unknown says nothing either way, nor does what was
-- written on the phone, of which not every provider tells what became. A month of undelivered messages is looked at.

-- delivery_issues: each time a chat was taken for blocked, what for, and how that ended.
create table public.delivery_issues (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    level text not null,
    probability smallint not null generated always as (case level when 'confirmed' then 99 else 95 end) stored,
    cause text not null,
    message_count int not null,
    first_message_id uuid,
    last_message_id uuid,
    first_at timestamptz not null,
    last_at timestamptz not null,
    after_hours int not null,
    after_count int not null,
    opened_at timestamptz not null,
    confirmed_at timestamptz,
    resolved_at timestamptz,
    resolved_how text,
    resolved_by uuid,
    note text,
    constraint delivery_issues_pkey primary key (tenant_id, id),
    constraint delivery_issues_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint delivery_issues_first_message_id_fkey foreign key (tenant_id, first_message_id)
        references public.messages (tenant_id, id) on delete set null (first_message_id),
    constraint delivery_issues_last_message_id_fkey foreign key (tenant_id, last_message_id)
        references public.messages (tenant_id, id) on delete set null (last_message_id),
    constraint delivery_issues_resolved_by_fkey foreign key (tenant_id, resolved_by)
        references public.users (tenant_id, id),
    constraint delivery_issues_level_check check (level in ('probable', 'confirmed')),
    constraint delivery_issues_cause_check check (cause in (
        'likely_block', 'never_delivered', 'phone_off', 'unreachable')),
    constraint delivery_issues_resolved_how_check check (resolved_how in (
        'delivered', 'read', 'inbound', 'reactivated', 'merged')),
    constraint delivery_issues_resolved_at_check check ((resolved_at is null) = (resolved_how is null))
);
comment on table public.delivery_issues is
    'Chats that were taken for blocked: one open row each. chats.block_state says what holds now.';
comment on column public.delivery_issues.probability is 'Percent.';
comment on column public.delivery_issues.cause is
    'likely_block: it used to arrive, and to others it still does. never_delivered: nothing ever arrived there, so it '
    'may as well be a phone without WhatsApp. phone_off: the customer was away like this before and came back, or is '
    'as silent on other numbers of ours: it may well be that again. unreachable: the provider also refused some of '
    'it. The last two are never more than probable.';
comment on column public.delivery_issues.first_at is 'When the first of message_count undelivered messages was sent.';
comment on column public.delivery_issues.after_count is
    'The threshold that was reached, of messages that are after_hours old.';
comment on column public.delivery_issues.resolved_how is
    'delivered, read, inbound: the customer was reached or wrote, so it was no block or is none any more; reactivated: '
    'staff said so; merged: the chat was joined with another.';
comment on column public.delivery_issues.note is 'pii: why it was reactivated';

create unique index delivery_issues_tenant_id_chat_id_open_key
    on public.delivery_issues (tenant_id, chat_id) where resolved_at is null;
create index delivery_issues_tenant_id_chat_id_idx on public.delivery_issues (tenant_id, chat_id, opened_at desc);
create index delivery_issues_tenant_id_first_message_id_idx
    on public.delivery_issues (tenant_id, first_message_id) where first_message_id is not null;
create index delivery_issues_tenant_id_last_message_id_idx
    on public.delivery_issues (tenant_id, last_message_id) where last_message_id is not null;
create index delivery_issues_tenant_id_resolved_by_idx
    on public.delivery_issues (tenant_id, resolved_by) where resolved_by is not null;

alter table public.delivery_issues enable row level security;
grant select on public.delivery_issues to authenticated;
grant select, insert, update, delete on public.delivery_issues to service_role;
create policy delivery_issues_select_member on public.delivery_issues for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A message that speaks for a block.
create type private.undelivered as (
    tenant_id uuid, chat_id uuid, number_id uuid, message_id uuid, at timestamptz
);

-- A message that does not, because hardly anything of its number arrived then: between since and until.
create type private.spared as (
    tenant_id uuid, chat_id uuid, number_id uuid, message_id uuid, since timestamptz, until timestamptz
);

-- Chats that may have to be marked: enough messages in them are old enough and undelivered. Reads nothing else.
create function private.blocks_suspected() returns private.chat_ref[]
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        select (s.tenant_id, u.chat_id)::private.chat_ref
        from public.tenant_settings s
        cross join lateral (
            select m.chat_id, count(*) as messages
            from public.messages m
            where m.tenant_id = s.tenant_id and m.awaits_delivery and m.provider_at > v_now - interval '30 days'
                and m.provider_at <= v_now - make_interval(hours => s.block_after_hours)
            group by m.chat_id
            having count(*) >= s.block_probable_count
        ) as u
        join public.chats c on c.tenant_id = s.tenant_id and c.id = u.chat_id
        where c.block_state = 'none' or c.block_state = 'probable' and u.messages >= s.block_confirmed_count);
end
$$;

-- Of these chats, the messages that speak for a block: undelivered, old enough, and after the last sign of life. An
-- earlier issue that ended is one, so that what was disproved or reactivated is not held against the customer again.
create function private.blocks_evidence(p_chats private.chat_ref[]) returns private.undelivered[]
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        select (m.tenant_id, m.chat_id, c.number_id, m.id, coalesce(m.sent_at, m.provider_at))::private.undelivered
        from unnest(p_chats) k
        join public.tenant_settings s on s.tenant_id = k.tenant_id
        cross join lateral (
            select * from public.chats c where c.tenant_id = k.tenant_id and c.id = k.chat_id limit 1
        ) as c
        left join lateral (
            select greatest(l.provider_at, l.delivered_at, l.read_at, l.played_at) as at
            from public.messages l
            where l.tenant_id = k.tenant_id and l.chat_id = k.chat_id
                and (l.direction = 'inbound' or l.status in ('delivered', 'read', 'played'))
            order by l.provider_at desc
            limit 1
        ) as life on true
        left join lateral (
            select max(i.resolved_at) as at
            from public.delivery_issues i
            where i.tenant_id = k.tenant_id and i.chat_id = k.chat_id
        ) as ended on true
        cross join lateral (
            select * from public.messages m
            where m.tenant_id = k.tenant_id and m.chat_id = k.chat_id and m.awaits_delivery
                and m.provider_at > coalesce(
                    greatest(life.at, ended.at, c.last_inbound_at), v_now - interval '30 days')
                and m.provider_at > v_now - interval '30 days'
                and coalesce(m.sent_at, m.provider_at) <= v_now - make_interval(hours => s.block_after_hours)
            -- an expression of many rows makes the key look dear
            offset 0
        ) as m);
end
$$;

-- Does this number tell us at all what was delivered? Meta always does. Whapi and Twilio do where their account is set
-- up for it, which shows in what they have told: of a number that never did, nobody can say who has blocked it.
create function private.reports_delivery(p_tenant_id uuid, p_number_id uuid) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from public.whatsapp_numbers n
        where n.tenant_id = p_tenant_id and n.id = p_number_id and n.provider = 'cloud_api'
    ) or exists (
        select from (
            select m.number_id, m.status, m.direction
            from public.messages m
            where m.tenant_id = p_tenant_id and m.provider_at > (select private.clock()) - interval '90 days'
            order by m.provider_at desc
            limit 20000
        ) as m
        where m.number_id = p_number_id and m.direction = 'outbound' and m.status in ('delivered', 'read', 'played'));
end
$$;

-- How many of a number's sends between two moments arrived, and how many did not: in either case as chats and quarters
-- of a day, so that one chat with many messages does not count for many. Arrived is counted to a little more than
-- p_enough.
create function private.deliveries_between(
    p_tenant_id uuid, p_number_id uuid, p_since timestamptz, p_until timestamptz, p_enough int
) returns table (arrived int, missing int, missing_chats int)
language plpgsql stable rows 1 set search_path = '' set enable_bitmapscan = 'off' as $$
begin
    return query
    select a.units::int, u.units::int, u.chats::int
    from (
        select count(*) as units
        from (
            select distinct m.chat_id, date_bin('6 hours', m.provider_at, '2000-01-01 00:00:00+00')
            from (
                select t.chat_id, t.provider_at
                from (
                    select * from public.messages m
                    where m.tenant_id = p_tenant_id and m.provider_at >= p_since and m.provider_at < p_until
                    -- else all messages of the number are read
                    order by m.provider_at
                    offset 0
                ) as t
                where t.number_id = p_number_id and t.direction = 'outbound'
                    and t.status in ('delivered', 'read', 'played')
                limit 3 * p_enough + 20
            ) as m
        ) as d
    ) as a,
    (
        select count(*) as units, count(distinct d.chat_id) as chats
        from (
            select distinct t.chat_id, date_bin('6 hours', t.provider_at, '2000-01-01 00:00:00+00')
            from (
                select * from public.messages m
                where m.tenant_id = p_tenant_id and m.awaits_delivery
                    and m.provider_at >= p_since and m.provider_at < p_until
                offset 0
            ) as t
            where t.number_id = p_number_id
        ) as d
    ) as u;
end
$$;

-- Was this an outage of the number, rather than customers who block it? More than half of what it sent is missing,
-- from five customers or more, and three times as much as at the same time of the four weeks before. Of a new number,
-- which has no such weeks, more than 60 %. A small business needs only three customers, if not one message arrived in
-- five days though most did before.
create function private.is_outage(p_tenant_id uuid, p_number_id uuid, p_since timestamptz, p_until timestamptz)
returns boolean
language plpgsql stable set search_path = '' as $$
declare
    v_now record;
    v_before record;
    v_missing numeric;
    v_normal numeric;
begin
    select * into v_now from private.deliveries_between(p_tenant_id, p_number_id, p_since, p_until, 2000);
    select sum(d.arrived) as arrived, sum(d.missing) as missing into v_before
    from generate_series(1, 4) as week
    cross join lateral private.deliveries_between(
        p_tenant_id, p_number_id, p_since - week * interval '7 days', p_until - week * interval '7 days', 50) d;
    v_missing := v_now.missing::numeric / (v_now.missing + v_now.arrived);
    v_normal := v_before.missing::numeric / nullif(v_before.missing + v_before.arrived, 0);
    if coalesce(v_before.missing + v_before.arrived < 20, true) then
        return v_now.missing_chats >= 5 and v_missing > 0.6;
    end if;
    return v_now.missing_chats >= 5 and v_missing > greatest(0.5, least(0.9, 3 * v_normal))
        or v_now.missing_chats >= 3 and v_now.arrived = 0 and v_normal < 0.2
        and p_until - p_since >= interval '5 days';
end
$$;

-- Stretches of time in which enough of a number's sends are missing to ask whether it was an outage: those to five
-- customers in a day, else in three, else to three in five days. They overlap by half, so that no outage hides between
-- two. Nearly all are left out at once: as many customers got something as did not, or of five days, anybody did.
create function private.outages_suspected(p_numbers uuid[], p_tenants uuid[], p_since timestamptz)
returns table (tenant_id uuid, number_id uuid, since timestamptz, until timestamptz)
-- no bitmaps: of what arrived only the first few are read
language plpgsql stable rows 100 set search_path = '' set plan_cache_mode = 'force_custom_plan' set work_mem = '64MB'
set enable_bitmapscan = 'off' as $$
#variable_conflict use_column
declare
    v_begin timestamptz := timestamptz '2000-01-01 00:00:00+00';
begin
    return query
    with halves as materialized (
        -- a chat counts once in half a day, however much it was sent; what was sent last may still arrive
        select distinct m.tenant_id, m.number_id, m.chat_id,
            floor(extract(epoch from m.provider_at - v_begin) / 43200)::bigint as half
        from (select distinct t from unnest(p_tenants) t) as t
        cross join lateral (
            select * from public.messages m
            where m.tenant_id = t and m.awaits_delivery and m.provider_at >= p_since
                and m.provider_at < private.clock() - interval '6 hours'
            offset 0
        ) as m
        where m.number_id = any (p_numbers)
    ),
    stretches as materialized (
        select h.tenant_id, h.number_id, k.size, b.first, count(*) as missing, array_agg(h.half) as halves
        from halves h
        cross join (values (2, 5), (6, 5), (10, 3)) as k (size, least)
        cross join lateral (values
            (h.half - h.half % (k.size / 2)), (h.half - h.half % (k.size / 2) - k.size / 2)) as b (first)
        group by h.tenant_id, h.number_id, k.size, k.least, b.first
        having count(distinct h.chat_id) >= k.least
    ),
    narrowest as (
        select distinct s.tenant_id, s.number_id, s.size, s.first, s.missing
        from stretches s
        cross join lateral unnest(s.halves) as half
        where not exists (
            select from stretches n
            where n.number_id = s.number_id and n.size < s.size and half between n.first and n.first + n.size - 1)
    )
    select n.tenant_id, n.number_id, w.since, w.until
    from narrowest n
    cross join lateral (
        select v_begin + n.first * interval '12 hours' as since,
            v_begin + (n.first + n.size) * interval '12 hours' as until
    ) as w
    cross join lateral (
        select count(distinct x.chat_id) as chats
        from (
            select m.chat_id
            from (
                select * from public.messages m
                where m.tenant_id = n.tenant_id and m.provider_at >= w.since and m.provider_at < w.until
                -- else all messages of the number are read
                order by m.provider_at
                offset 0
            ) as m
            where m.number_id = n.number_id and m.direction = 'outbound'
                and m.status in ('delivered', 'read', 'played')
            limit case when n.size = 10 then 1 else 10 * n.missing + 50 end
        ) as x
    ) as arrived
    where arrived.chats < case when n.size = 10 then 1 else n.missing end;
end
$$;

-- An outage in which nothing arrived at all lasts from the last arrival before it to the first one after.
create function private.outage_bounds(
    p_tenant_id uuid, p_number_id uuid, inout p_since timestamptz, inout p_until timestamptz
)
language plpgsql stable set search_path = '' set enable_bitmapscan = 'off' as $$
declare
    v_last timestamptz;
    v_first timestamptz;
begin
    select max(m.at) filter (where m.at < p_until), min(m.at) filter (where m.at >= p_since) into v_last, v_first
    from (
        select m.provider_at as at, m.number_id, m.direction, m.status
        from public.messages m
        where m.tenant_id = p_tenant_id and m.provider_at >= p_since - interval '5 days'
            and m.provider_at < p_until + interval '5 days'
        offset 0
    ) as m
    where m.number_id = p_number_id and m.direction = 'outbound' and m.status in ('delivered', 'read', 'played');
    if coalesce(v_last < p_since, true) and coalesce(v_first >= p_until, true) then
        p_since := coalesce(v_last, p_since - interval '5 days');
        p_until := coalesce(v_first, p_until + interval '5 days');
    end if;
end
$$;

-- Since the last message of a number that arrived, five customers or more are missing two or more each: an outage that
-- began in the middle of a busy hour, which no stretch shows that is cut by the clock. One message each is not enough:
-- those who come last in a round have that.
create function private.outages_since_last(p_evidence private.undelivered[])
returns table (tenant_id uuid, number_id uuid, since timestamptz, until timestamptz)
language plpgsql stable rows 10 set search_path = '' as $$
#variable_conflict use_column
begin
    return query
    select r.tenant_id, r.number_id, min(r.since), max(r.until)
    from (
        select n.tenant_id, n.number_id, e.chat_id, min(e.at) as since, max(e.at) + interval '1 second' as until
        from (
            select x.tenant_id, x.number_id, max(x.at) as at
            from unnest(p_evidence) x
            group by x.tenant_id, x.number_id
            having count(distinct x.chat_id) >= 5
        ) as n
        left join lateral (
            select m.provider_at
            from (
                select * from public.messages m
                where m.tenant_id = n.tenant_id and m.provider_at > n.at - interval '5 days'
                order by m.provider_at desc
                offset 0
            ) as m
            where m.number_id = n.number_id and m.direction = 'outbound'
                and m.status in ('delivered', 'read', 'played')
            limit 1
        ) as arrived on true
        join unnest(p_evidence) e on e.tenant_id = n.tenant_id and e.number_id = n.number_id
            and e.at > coalesce(arrived.provider_at, n.at - interval '5 days')
        group by n.tenant_id, n.number_id, e.chat_id
        having count(*) >= 2
    ) as r
    group by r.tenant_id, r.number_id
    having count(*) >= 5;
end
$$;

-- Of messages that speak for a block, those that were sent while hardly anything of their number arrived.
create function private.outages_spare(p_evidence private.undelivered[]) returns private.spared[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        with outages as materialized (
            select o.tenant_id, o.number_id, b.p_since as since, b.p_until as until from (
                select array_agg(distinct e.number_id) as numbers, array_agg(distinct e.tenant_id) as tenants,
                    min(e.at) - interval '7 days' as since
                from unnest(p_evidence) e
            ) as asked
            cross join lateral (
                select * from private.outages_suspected(asked.numbers, asked.tenants, asked.since)
                union all
                select * from private.outages_since_last(p_evidence)
            ) as o
            cross join lateral private.outage_bounds(o.tenant_id, o.number_id, o.since, o.until) b
            where private.is_outage(o.tenant_id, o.number_id, o.since, o.until)
        )
        select (e.tenant_id, e.chat_id, e.number_id, e.message_id, min(o.since), max(o.until))::private.spared
        from unnest(p_evidence) e
        join outages o on o.tenant_id = e.tenant_id and o.number_id = e.number_id
            and e.at >= o.since and e.at < o.until
        group by e.tenant_id, e.chat_id, e.number_id, e.message_id);
end
$$;

-- What these messages make of their chats, as rows of delivery_issues that are not stored; each with why nothing
-- arrives there, as far as that can be told.
create function private.blocks_judged(p_evidence private.undelivered[]) returns setof public.delivery_issues
language plpgsql stable rows 100 set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
declare
    v_now timestamptz := private.clock();
begin
    return query
    select
        r.tenant_id, private.uuid7(), r.chat_id, v.level, null::smallint, k.cause, r.messages, r.ids[1],
        r.ids[r.messages], r.first_at, r.last_at, s.block_after_hours,
        case v.level when 'confirmed' then s.block_confirmed_count else s.block_probable_count end,
        v_now, case v.level when 'confirmed' then v_now end, null::timestamptz, null, null::uuid, null
    from (
        select e.tenant_id, e.chat_id, count(*)::int as messages, min(e.at) as first_at, max(e.at) as last_at,
            array_agg(e.message_id order by e.at, e.message_id) as ids
        from unnest(p_evidence) e
        group by e.tenant_id, e.chat_id
    ) as r
    join public.tenant_settings s on s.tenant_id = r.tenant_id
    cross join lateral (
        select * from public.chats c where c.tenant_id = r.tenant_id and c.id = r.chat_id limit 1
    ) as c
    cross join lateral (
        select
            -- the phone is on: another number of ours reached it
            bool_or(m.direction = 'inbound' or m.status in ('delivered', 'read', 'played')) as is_reached,
            bool_or(m.awaits_delivery and m.provider_at < v_now - interval '24 hours') as is_silent
        from public.chats o
        cross join lateral (
            select * from public.messages m
            where m.tenant_id = o.tenant_id and m.chat_id = o.id and m.provider_at >= r.first_at
            offset 0
        ) as m
        where o.tenant_id = r.tenant_id and o.lead_id = c.lead_id and o.id <> r.chat_id
    ) as elsewhere
    cross join lateral (
        select
            bool_or(m.status = 'failed' and m.provider_at >= r.first_at
                and private.is_unreachable(m.tenant_id, m.number_id, m.error_code)) as is_refused,
            bool_or(m.direction = 'inbound' or m.status in ('delivered', 'read', 'played')) as was_reached,
            bool_or(m.delivered_at > coalesce(m.sent_at, m.provider_at) + interval '24 hours') as was_away
        from (
            select * from public.messages m
            where m.tenant_id = r.tenant_id and m.chat_id = r.chat_id
            order by m.provider_at desc
            limit 50
        ) as m
    ) as here
    cross join lateral (
        select case
            when here.is_refused then 'unreachable'
            when elsewhere.is_reached then 'likely_block'
            when here.was_away or elsewhere.is_silent or exists (
                select from public.delivery_issues i
                where i.tenant_id = r.tenant_id and i.chat_id = r.chat_id and i.resolved_how in ('delivered', 'read'))
                then 'phone_off'
            when here.was_reached or c.last_inbound_at is not null then 'likely_block'
            else 'never_delivered'
        end as cause
        offset 0
    ) as k
    cross join lateral (
        select case when r.messages >= s.block_confirmed_count and k.cause not in ('phone_off', 'unreachable')
            then 'confirmed' else 'probable' end as level
    ) as v
    where r.messages >= s.block_probable_count;
end
$$;

-- Mark chats as these issues say; what they are marked with already, or worse, stays. Their chats are locked. Answers
-- the issues that are new or grew worse.
create function private.blocks_mark(p_issues public.delivery_issues[]) returns setof public.delivery_issues
language plpgsql rows 100 set search_path = '' as $$
declare
    v_marked public.delivery_issues[];
begin
    if cardinality(p_issues) = 0 then
        return;
    end if;
    with marked as (
        insert into public.delivery_issues as i (
            tenant_id, id, chat_id, level, cause, message_count, first_message_id, last_message_id, first_at, last_at,
            after_hours, after_count, opened_at, confirmed_at)
        select j.tenant_id, j.id, j.chat_id, j.level, j.cause, j.message_count, j.first_message_id, j.last_message_id,
            j.first_at, j.last_at, j.after_hours, j.after_count, j.opened_at, j.confirmed_at
        from unnest(p_issues) j
        order by j.tenant_id, j.chat_id
        on conflict (tenant_id, chat_id) where resolved_at is null do update
        set level = excluded.level, cause = excluded.cause, message_count = excluded.message_count,
            last_message_id = excluded.last_message_id, last_at = excluded.last_at, after_hours = excluded.after_hours,
            after_count = excluded.after_count, confirmed_at = excluded.confirmed_at
        where i.level = 'probable' and excluded.level = 'confirmed'
        returning i.*
    )
    select coalesce(array_agg(m::public.delivery_issues), '{}') into v_marked from marked m;

    update public.chats c set block_state = j.level
    from unnest(v_marked) j
    where c.tenant_id = j.tenant_id and c.id = j.chat_id;
    perform private.enrollments_hold(array(
        select (j.tenant_id, j.chat_id)::private.chat_ref from unnest(v_marked) j where j.level = 'probable'),
    'probably_blocked');
    perform private.enrollments_hold(array(
        select (j.tenant_id, j.chat_id)::private.chat_ref from unnest(v_marked) j where j.level = 'confirmed'), 'blocked');
    return query select * from unnest(v_marked);
end
$$;

-- These chats are not blocked (any more): their open issues end, for p_how of delivery_issues.resolved_how, and what
-- was paused for them goes on. Free for chats that are not marked. Locks the chats first.
create function private.blocks_clear(
    p_chats private.chat_ref[], p_how text, p_by uuid default null, p_note text default null
) returns void
language plpgsql set search_path = '' as $$
declare
    v_cleared private.chat_ref[];
begin
    with marked as (
        select c.tenant_id, c.id
        from public.chats c
        join (select distinct k.tenant_id, k.chat_id from unnest(p_chats) k) as w
            on c.tenant_id = w.tenant_id and c.id = w.chat_id
        where c.block_state <> 'none'
        order by c.tenant_id, c.id
        for no key update of c
    ),
    cleared as (
        update public.chats c set block_state = 'none'
        from marked m
        where c.tenant_id = m.tenant_id and c.id = m.id
        returning c.tenant_id, c.id
    )
    select array_agg((tenant_id, id)::private.chat_ref order by tenant_id, id) into v_cleared from cleared;
    if v_cleared is null then
        return;
    end if;
    update public.delivery_issues i
    set resolved_at = (select private.clock()), resolved_how = p_how, resolved_by = p_by, note = p_note
    from unnest(v_cleared) k
    where i.tenant_id = k.tenant_id and i.chat_id = k.chat_id and i.resolved_at is null;
    perform private.enrollments_release(v_cleared, 'probably_blocked');
    perform private.enrollments_release(v_cleared, 'blocked');
end
$$;

-- The customers of marked chats were heard of: what is later than the first message that spoke for a block, ends it.
create function private.blocks_disprove(p_signs private.life_sign[]) returns void
language plpgsql set search_path = '' as $$
begin
    -- a message that was read says more than that it was delivered, and one of theirs more than that
    perform private.blocks_clear(array_agg((l.tenant_id, l.chat_id)::private.chat_ref), l.how)
    from (
        select distinct on (s.tenant_id, s.chat_id) s.tenant_id, s.chat_id, s.how
        from unnest(p_signs) s
        where not exists (
            select from public.delivery_issues i
            where i.tenant_id = s.tenant_id and i.chat_id = s.chat_id and i.resolved_at is null and i.first_at > s.at)
        order by s.tenant_id, s.chat_id, array_position(array['inbound', 'read', 'delivered'], s.how)
    ) as l
    group by l.how;
end
$$;

-- Marks that no longer hold: a sign of life came in the very moment in which the chat was marked.
create function private.blocks_heal() returns int
language plpgsql set search_path = '' as $$
declare
    v_signs private.life_sign[];
begin
    select array_agg((i.tenant_id, i.chat_id, l.at, l.how)::private.life_sign)
    into v_signs
    from public.delivery_issues i
    cross join lateral (
        select greatest(m.provider_at, m.delivered_at, m.read_at, m.played_at) as at,
            case when m.direction = 'inbound' then 'inbound' when m.status = 'delivered' then 'delivered'
                else 'read' end as how
        from public.messages m
        where m.tenant_id = i.tenant_id and m.chat_id = i.chat_id
            and (m.direction = 'inbound' or m.status in ('delivered', 'read', 'played'))
            and m.provider_at >= i.first_at
        order by m.provider_at desc
        limit 1
    ) as l
    where i.resolved_at is null;
    perform private.blocks_disprove(v_signs);
    return coalesce(cardinality(v_signs), 0);
end
$$;

-- Has anything arrived that this number sent from then on?
create function private.arrives_since(p_tenant_id uuid, p_number_id uuid, p_since timestamptz) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from (
            select m.number_id, m.direction, m.status from public.messages m
            where m.tenant_id = p_tenant_id and m.provider_at > p_since
            offset 0
        ) as m
        where m.number_id = p_number_id and m.direction = 'outbound' and m.status in ('delivered', 'read', 'played'));
end
$$;

-- Tell staff of numbers whose deliveries are missing: one alert for each, which ends when something arrives that was
-- sent later, or nothing is missing any more. An outage that is found when it is over is told until the next run.
create function private.outages_alert(p_spared private.spared[]) returns int
language plpgsql set search_path = '' as $$
declare
    v_outage record;
    v_outages int := 0;
begin
    perform private.alert_end(a.tenant_id, a.kind, a.subject)
    from public.alerts a
    where a.kind = 'deliveries_missing' and a.resolved_at is null and (
        private.arrives_since(a.tenant_id, a.number_id, (a.details ->> 'until')::timestamptz)
        or not exists (
            select from unnest(p_spared) s where s.tenant_id = a.tenant_id and s.number_id = a.number_id));

    for v_outage in
        select s.tenant_id, s.number_id, s.since, s.chats, (
            -- the last that is missing
            select max(m.provider_at)
            from public.messages m
            where m.tenant_id = s.tenant_id and m.awaits_delivery and m.number_id = s.number_id
                and m.provider_at >= s.since and m.provider_at < s.until) as until
        from (
            select x.tenant_id, x.number_id, min(x.since) as since, max(x.until) as until,
                count(distinct x.chat_id) as chats
            from unnest(p_spared) x
            group by x.tenant_id, x.number_id
        ) as s
        order by s.tenant_id, s.number_id
    loop
        v_outages := v_outages + 1;
        continue when exists (
            select from public.alerts a
            where a.tenant_id = v_outage.tenant_id and a.kind = 'deliveries_missing'
                and a.subject = v_outage.number_id::text and (a.details ->> 'until')::timestamptz >= v_outage.since
                and ((a.details ->> 'until')::timestamptz >= v_outage.until
                    or private.arrives_since(v_outage.tenant_id, v_outage.number_id, v_outage.until)));
        perform private.alert_raise(v_outage.tenant_id, 'deliveries_missing', v_outage.number_id::text,
            format('Hardly anything sent since %s is reported as delivered, to %s customers: nobody is taken for having '
                'blocked this number meanwhile.', to_char(v_outage.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
            v_outage.chats),
            p_number_id => v_outage.number_id, p_severity => 'critical', p_details => jsonb_build_object(
                'since', v_outage.since, 'until', v_outage.until, 'chats', v_outage.chats));
    end loop;
    return v_outages;
end
$$;

-- Find who has blocked us, and mark their chats: {"marked": [{"tenant_id", "chat_id", "number_id", "level",
-- "cause"}], "spared", "outages", "healed"}. Any number may run at once, and any may die: each mark is made once.
create function public.blocks_detect() returns jsonb
language plpgsql set search_path = '' set jit = 'off' as $$
declare
    v_healed int := private.blocks_heal();
    v_chats private.chat_ref[] := private.blocks_suspected();
    v_evidence private.undelivered[] := private.blocks_evidence(v_chats);
    v_spared private.spared[];
    v_outages int;
    v_marked jsonb;
begin
    if cardinality(v_evidence) = 0 then
        return jsonb_build_object(
            'marked', jsonb_build_array(), 'spared', 0, 'outages', private.outages_alert('{}'), 'healed', v_healed);
    end if;
    -- where nothing is ever told, nothing is missing
    v_evidence := array(
        select e
        from unnest(v_evidence) e
        join (
            select d.*
            from (select distinct x.tenant_id, x.number_id from unnest(v_evidence) x) as d
            where private.reports_delivery(d.tenant_id, d.number_id)
            offset 0
        ) as n on n.tenant_id = e.tenant_id and n.number_id = e.number_id);
    v_spared := private.outages_spare(v_evidence);
    v_outages := private.outages_alert(v_spared);

    v_chats := array(
        select (e.tenant_id, e.chat_id)::private.chat_ref
        from unnest(private.undelivered_but(v_evidence, v_spared)) e
        join public.tenant_settings s on s.tenant_id = e.tenant_id
        group by e.tenant_id, e.chat_id
        having count(*) >= min(s.block_probable_count));
    perform from public.chats c
    join unnest(v_chats) k on c.tenant_id = k.tenant_id and c.id = k.chat_id
    order by c.tenant_id, c.id
    for no key update of c;
    -- what has come meanwhile counts
    v_evidence := private.undelivered_but(private.blocks_evidence(v_chats), v_spared);
    select coalesce(jsonb_agg(jsonb_build_object(
        'tenant_id', m.tenant_id, 'chat_id', m.chat_id, 'number_id', c.number_id, 'level', m.level, 'cause', m.cause)
        order by m.tenant_id, m.chat_id), '[]')
    into v_marked
    from private.blocks_mark(array(select j from private.blocks_judged(v_evidence) j)) m
    join public.chats c on c.tenant_id = m.tenant_id and c.id = m.chat_id;
    perform private.blocks_alert(v_marked);
    return jsonb_build_object('marked', v_marked, 'spared', (
        select count(distinct (s.tenant_id, s.chat_id)) from unnest(v_spared) s),
    'outages', v_outages, 'healed', v_healed);
end
$$;

create function private.undelivered_but(p_evidence private.undelivered[], p_spared private.spared[])
returns private.undelivered[]
language plpgsql immutable set search_path = '' as $$
begin
    return array(
        select e
        from unnest(p_evidence) e
        where not exists (
            select from unnest(p_spared) s where s.tenant_id = e.tenant_id and s.message_id = e.message_id));
end
$$;

-- One alert of a number for those newly marked.
create function private.blocks_alert(p_marked jsonb) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.alert_raise(m.tenant_id, 'customers_blocked', m.number_id::text,
        format('%s customers seem to have blocked this number.', count(*)), p_number_id => m.number_id,
        p_severity => 'info', p_details => jsonb_build_object('chats', count(*)))
    from jsonb_to_recordset(p_marked) as m (tenant_id uuid, number_id uuid)
    group by m.tenant_id, m.number_id
    order by m.tenant_id, m.number_id;
end
$$;

grant execute on function
    private.blocks_suspected(), private.blocks_evidence(private.chat_ref[]), private.reports_delivery(uuid, uuid),
    private.deliveries_between(uuid, uuid, timestamptz, timestamptz, int),
    private.is_outage(uuid, uuid, timestamptz, timestamptz), private.outages_suspected(uuid[], uuid[], timestamptz),
    private.outages_since_last(private.undelivered[]),
    private.outage_bounds(uuid, uuid, timestamptz, timestamptz),
    private.outages_spare(private.undelivered[]),
    private.blocks_judged(private.undelivered[]),
    private.blocks_mark(public.delivery_issues[]), private.blocks_clear(private.chat_ref[], text, uuid, text),
    private.blocks_disprove(private.life_sign[]), private.blocks_heal(), private.arrives_since(uuid, uuid, timestamptz),
    private.outages_alert(private.spared[]),
    private.undelivered_but(private.undelivered[], private.spared[]), private.blocks_alert(jsonb),
    public.blocks_detect() to service_role;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'block_note', 'Hace falta una nota, de {longest} caracteres como máximo.',
        'This takes a note, of {longest} characters at most.',
        'É preciso uma nota, de no máximo {longest} caracteres.'),
    ('hint', 'block_note', 'Diga en p_note por qué se le vuelve a escribir.',
        'Say in p_note why this customer is written to again.', 'Diga em p_note por que se volta a escrever.');

-- Definer: staff may not write chats and issues.
create function private.block_reactivate(p_chat_id uuid, p_note text) returns boolean
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
    v_chat public.chats;
begin
    if private.is_blank(p_note) or length(p_note) > 2000 then
        perform private.refuse('PT400', 'block_note', '{"longest": 2000}');
    end if;
    select * into v_chat from public.chats where tenant_id = v_tenant_id and id = p_chat_id for no key update;
    if not found then
        perform private.refuse('PT404', 'no_chat');
    elsif v_chat.block_state = 'none' and v_chat.reach_state = 'ok' then
        return false;
    end if;
    perform private.blocks_clear(
        array[(v_tenant_id, p_chat_id)::private.chat_ref], 'reactivated', private.my_user_id(), btrim(p_note));
    perform private.reach_restore(
        array[(v_tenant_id, p_chat_id)::private.chat_ref], 'reactivated', private.my_user_id(), btrim(p_note));
    return true;
end
$$;

-- Staff write to a chat again that was taken for blocked or unreachable: what was paused goes on. The messages that
-- spoke for it do not count again. False: nothing held them back.
create function public.block_reactivate(p_chat_id uuid, p_note text) returns boolean
language sql set search_path = '' as $$
    select private.block_reactivate(p_chat_id, p_note)
$$;
grant execute on function private.block_reactivate(uuid, text), public.block_reactivate(uuid, text) to authenticated;

-- How good the detection is, per number, threshold and cause. disproved: the customer was reached, or wrote, after all.
create view public.block_detection_quality with (security_invoker = true) as
select
    i.tenant_id, c.number_id, i.after_hours, i.after_count, i.level, i.cause,
    count(*) as marked,
    count(*) filter (where i.resolved_at is null) as open,
    count(*) filter (where i.resolved_how in ('delivered', 'read', 'inbound')) as disproved,
    count(*) filter (where i.resolved_how in ('delivered', 'read')) as disproved_by_delivery,
    count(*) filter (where i.resolved_how = 'inbound') as disproved_by_customer,
    count(*) filter (where i.resolved_how = 'reactivated') as reactivated,
    round(count(*) filter (where i.resolved_how in ('delivered', 'read', 'inbound'))::numeric / count(*), 4)
        as disproved_rate
from public.delivery_issues i
join public.chats c on c.tenant_id = i.tenant_id and c.id = i.chat_id
group by i.tenant_id, c.number_id, i.after_hours, i.after_count, i.level, i.cause;
comment on view public.block_detection_quality is
    'Chats that were taken for blocked, and how many of them were not, by number, threshold, level and cause.';
grant select on public.block_detection_quality to authenticated, service_role;
create trigger block_detection_quality_refuse_write
    instead of insert or update or delete on public.block_detection_quality
    for each row execute function private.refuse_write();


-- sql/77_reachability.sql

-- Reachability: customers whom the provider says it cannot reach at all. No block: the number is no WhatsApp number
-- (any more), is wrong, or its phone is too old. One such error proves nothing, so a chat is unreachable after two
-- messages were refused so at least 24 hours apart, with nothing delivered or heard in between. Anything that is
-- delivered or heard ends it.

-- unreachable_chats: what speaks for it, counted since the customer was last reached; one row a chat.
create table public.unreachable_chats (
    tenant_id uuid,
    chat_id uuid,
    failures int not null,
    first_failed_at timestamptz not null,
    last_failed_at timestamptz not null,
    last_error_code int,
    unreachable_at timestamptz,
    restored_at timestamptz,
    restored_how text,
    restored_by uuid,
    note text,
    constraint unreachable_chats_pkey primary key (tenant_id, chat_id),
    constraint unreachable_chats_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint unreachable_chats_restored_by_fkey foreign key (tenant_id, restored_by)
        references public.users (tenant_id, id),
    constraint unreachable_chats_failures_check check (failures >= 0),
    constraint unreachable_chats_restored_how_check check (
        restored_how in ('delivered', 'read', 'inbound', 'reactivated'))
);
comment on table public.unreachable_chats is
    'Chats whose messages the provider could not bring to anybody: how often, since when, and how it ended last.';
comment on column public.unreachable_chats.failures is
    'Messages refused so since the customer was last reached, as of the latest of them.';
comment on column public.unreachable_chats.unreachable_at is 'Since when chats.reach_state says so; null: it does not.';
comment on column public.unreachable_chats.note is 'pii: why it was reactivated';

create index unreachable_chats_tenant_id_restored_by_idx
    on public.unreachable_chats (tenant_id, restored_by) where restored_by is not null;

alter table public.unreachable_chats enable row level security;
grant select on public.unreachable_chats to authenticated;
grant select, insert, update, delete on public.unreachable_chats to service_role;
create policy unreachable_chats_select_member on public.unreachable_chats for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The errors that mean so, as the senders read them too (outcome unreachable).
create function private.unreachable_codes(p_provider text) returns int[]
language sql immutable set search_path = '' as $$
    select case p_provider when 'cloud_api' then array[131026] when 'twilio' then array[21211, 21614, 63003, 63024]
        when 'whapi' then array[403] end
$$;

create function private.is_unreachable(p_tenant_id uuid, p_number_id uuid, p_error_code int) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return p_error_code is not null and exists (
        select from public.whatsapp_numbers n
        where n.tenant_id = p_tenant_id and n.id = p_number_id
            and p_error_code = any (private.unreachable_codes(n.provider)));
end
$$;

-- Messages of these chats were refused so: count them again, which is the same however often it is done. The chats are
-- locked.
create function private.reach_judge(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
begin
    with counted as (
        select k.tenant_id, k.chat_id, f.failures, f.first_at, f.last_at, f.last_code
        from (select distinct c.tenant_id, c.chat_id from unnest(p_chats) c) as k
        join public.chats c on c.tenant_id = k.tenant_id and c.id = k.chat_id
        left join public.unreachable_chats u on u.tenant_id = k.tenant_id and u.chat_id = k.chat_id
        cross join lateral (
            select count(*)::int as failures, min(m.failed_at) as first_at, max(m.failed_at) as last_at,
                (array_agg(m.error_code order by m.failed_at desc))[1] as last_code
            from public.messages m
            where m.tenant_id = k.tenant_id and m.chat_id = k.chat_id and m.status = 'failed'
                and private.is_unreachable(m.tenant_id, m.number_id, m.error_code)
                and m.failed_at > coalesce(greatest(u.restored_at, c.last_inbound_at, (
                    select greatest(l.provider_at, l.delivered_at, l.read_at, l.played_at)
                    from public.messages l
                    where l.tenant_id = k.tenant_id and l.chat_id = k.chat_id
                        and l.status in ('delivered', 'read', 'played')
                    order by l.provider_at desc
                    limit 1)), '-infinity')
        ) as f
        where f.failures > 0
    ),
    noted as (
        insert into public.unreachable_chats as u (
            tenant_id, chat_id, failures, first_failed_at, last_failed_at, last_error_code, unreachable_at)
        select c.tenant_id, c.chat_id, c.failures, c.first_at, c.last_at, c.last_code,
            case when c.failures >= 2 and c.last_at >= c.first_at + interval '24 hours' then (select private.clock()) end
        from counted c
        order by c.tenant_id, c.chat_id
        on conflict on constraint unreachable_chats_pkey do update
        set failures = excluded.failures, first_failed_at = excluded.first_failed_at,
            last_failed_at = excluded.last_failed_at, last_error_code = excluded.last_error_code,
            unreachable_at = coalesce(u.unreachable_at, excluded.unreachable_at)
        returning u.tenant_id, u.chat_id, u.unreachable_at
    )
    update public.chats c set reach_state = 'unreachable'
    from noted n
    where n.unreachable_at is not null and c.tenant_id = n.tenant_id and c.id = n.chat_id
        and c.reach_state = 'ok';
end
$$;

-- These customers can be reached, for p_how of unreachable_chats.restored_how. The chats are locked.
create function private.reach_restore(
    p_chats private.chat_ref[], p_how text, p_by uuid default null, p_note text default null
) returns void
language plpgsql set search_path = '' as $$
begin
    update public.chats c set reach_state = 'ok'
    from unnest(p_chats) k
    where c.tenant_id = k.tenant_id and c.id = k.chat_id and c.reach_state <> 'ok';
    update public.unreachable_chats u
    set failures = 0, unreachable_at = null, restored_at = (select private.clock()), restored_how = p_how,
        restored_by = p_by, note = p_note
    from unnest(p_chats) k
    where u.tenant_id = k.tenant_id and u.chat_id = k.chat_id;
end
$$;

-- Signs of life end what was thought of these chats: blocks and unreachability. The chats are locked.
create function private.signs_of_life(p_signs private.life_sign[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.blocks_disprove(p_signs);
    perform private.reach_restore(array_agg((s.tenant_id, s.chat_id)::private.chat_ref), s.how)
    from unnest(p_signs) s
    join public.unreachable_chats u
        on u.tenant_id = s.tenant_id and u.chat_id = s.chat_id and u.unreachable_at is not null
        and u.last_failed_at < s.at
    group by s.how;
end
$$;

grant execute on function
    private.unreachable_codes(text), private.is_unreachable(uuid, uuid, int), private.reach_judge(private.chat_ref[]),
    private.reach_restore(private.chat_ref[], text, uuid, text), private.signs_of_life(private.life_sign[])
    to service_role;


-- sql/78_realtime.sql

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


-- sql/80_crm.sql

-- CRM jobs.

-- job_runs: a row for every run of a worker or schedule, of one tenant or (tenant_id null) of all.
create table public.job_runs (
    id uuid default private.uuid7(),
    tenant_id uuid,
    job text not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    counts jsonb not null default '{}',
    error text,
    constraint job_runs_pkey primary key (id),
    constraint job_runs_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint job_runs_finished_at_check check (finished_at >= started_at)
);
comment on table public.job_runs is
    'What each run of a worker did. Its key has no tenant: most runs serve all of them at once.';
comment on column public.job_runs.error is 'pii: the database may quote a value';

create index job_runs_tenant_id_started_at_idx on public.job_runs (tenant_id, started_at desc);

alter table public.job_runs enable row level security;
grant select on public.job_runs to authenticated;
grant select, insert, delete on public.job_runs to service_role;
create policy job_runs_select_admin on public.job_runs for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

create function public.job_run_record(
    p_job text, p_started_at timestamptz, p_counts jsonb default '{}', p_error text default null,
    p_tenant_id uuid default null
) returns void
language sql set search_path = '' as $$
    insert into public.job_runs (tenant_id, job, started_at, finished_at, counts, error)
    values (p_tenant_id, p_job, least(p_started_at, clock_timestamp()), clock_timestamp(), p_counts, p_error)
$$;
grant execute on function public.job_run_record(text, timestamptz, jsonb, text, uuid) to service_role;


-- sql/82_analysis.sql

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


-- sql/84_daily_actions.sql

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


-- sql/86_stats.sql

-- Statistics: what each number did on each day of its business's clock. Whatever is written to messages notes the hour
-- it touched; once an hour the days of these hours are counted again, and no other day is read.

-- stats_touches: hours in which messages were written or changed since the last count. Written in the transaction of
-- the change, so who sees the row sees the change. No key: a row too many costs nothing, and looking for one would.
create table private.stats_touches (
    tenant_id uuid not null,
    hour_at timestamptz,
    chat_id uuid
);
comment on table private.stats_touches is 'Hours whose messages have changed since their day was counted.';
comment on column private.stats_touches.hour_at is 'By UTC; null: every day of the business.';
comment on column private.stats_touches.chat_id is
    'Set when it was not the newest hour: the next message of ours in this chat may answer another one now.';

alter table private.stats_touches enable row level security;
grant select, insert, update, delete on private.stats_touches to service_role;

-- message_stats_daily: one row a number and day with messages. Every message counts on the day of its provider_at, with
-- the status it has now.
create table public.message_stats_daily (
    tenant_id uuid,
    day date,
    number_id uuid,
    timezone text not null,
    inbound int not null,
    outbound int not null,
    pending int not null,
    sent int not null,
    delivered int not null,
    read int not null,
    played int not null,
    failed int not null,
    skipped int not null,
    canceled int not null,
    unknown int not null,
    sources jsonb not null,
    price_classes jsonb not null,
    error_codes jsonb not null,
    costs jsonb not null,
    responses int not null,
    response_seconds bigint not null,
    response_p50 int,
    response_p90 int,
    last_inbound_at timestamptz,
    counted_at timestamptz not null,
    constraint message_stats_daily_pkey primary key (tenant_id, day, number_id),
    constraint message_stats_daily_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade,
    constraint message_stats_daily_outbound_check check (
        outbound = pending + sent + delivered + read + played + failed + skipped + canceled + unknown)
);
comment on table public.message_stats_daily is
    'What a number did on a day of its business''s clock; counted again within the hour when anything of it changes.';
comment on column public.message_stats_daily.timezone is 'The clock this day was cut by: users.timezone of the owner.';
comment on column public.message_stats_daily.pending is 'queued or sending';
comment on column public.message_stats_daily.delivered is
    'And not read yet: each message is counted once, so what arrived is delivered + read + played.';
comment on column public.message_stats_daily.sources is
    'Outbound by messages.source: {"agent": {"outbound", "arrived", "read", "failed"}}; what was read arrived too.';
comment on column public.message_stats_daily.price_classes is 'Of what went out: {"service": 12}';
comment on column public.message_stats_daily.error_codes is 'Of what failed: {"131026": 3}; none: no code was given.';
comment on column public.message_stats_daily.costs is
    'Of what went out, by currency: {"USD": {"estimated", "actual"}}; by category in costs_daily.';
comment on column public.message_stats_daily.responses is
    'Messages of agents and people that answered: the message before it in the chat was the customer''s.';
comment on column public.message_stats_daily.response_seconds is 'What these customers waited, summed up.';
comment on column public.message_stats_daily.counted_at is 'Business time of the last count.';

-- The days of one number; also what its foreign key asks for.
create index message_stats_daily_tenant_id_number_id_day_idx on public.message_stats_daily (tenant_id, number_id, day);

alter table public.message_stats_daily enable row level security;
grant select on public.message_stats_daily to authenticated;
grant select, insert, update, delete on public.message_stats_daily to service_role;
create policy message_stats_daily_select_member on public.message_stats_daily for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- Note what a statement touched. What an update left as it was for these statistics is not noted. Grouped, not joined:
-- a plan made for one row has to do for ten thousand.
create function private.stats_touch() returns trigger
language plpgsql set search_path = '' as $$
declare
    -- nothing is dated later: providers' times are taken to be at most five minutes ahead
    v_newest_hour timestamptz := date_bin('1 hour', private.clock() + interval '5 minutes', '2000-01-01 00:00:00+00');
begin
    if tg_op = 'INSERT' then
        insert into private.stats_touches (tenant_id, hour_at, chat_id)
        select distinct m.tenant_id, h.hour_at,
            case when h.hour_at < v_newest_hour and m.status not in ('queued', 'sending') then m.chat_id end
        from new_rows m
        cross join lateral (select date_bin('1 hour', m.provider_at, '2000-01-01 00:00:00+00') as hour_at) as h;
    elsif tg_op = 'DELETE' then
        insert into private.stats_touches (tenant_id, hour_at, chat_id)
        select distinct m.tenant_id, date_bin('1 hour', m.provider_at, '2000-01-01 00:00:00+00'), m.chat_id
        from old_rows m;
    else
        insert into private.stats_touches (tenant_id, hour_at, chat_id)
        select distinct c.tenant_id, c.hour_at, case when c.is_moved and c.hour_at < v_newest_hour then c.chat_id end
        from (
            select v.tenant_id, v.chat_id, date_bin('1 hour', v.provider_at, '2000-01-01 00:00:00+00') as hour_at,
                -- its place among the messages of its chat, or whether it has one
                count(*) over (partition by v.id, v.chat_id, v.provider_at, v.is_out) = 1 as is_moved
            from (
                select m.*, m.status in ('sent', 'delivered', 'read', 'played') as is_out
                from (
                    select tenant_id, id, chat_id, provider_at, status, error_code, price_class, pricing ->> 'type' as price_type,
                        estimated_cost, actual_cost, currency
                    from new_rows
                    union all
                    select tenant_id, id, chat_id, provider_at, status, error_code, price_class, pricing ->> 'type',
                        estimated_cost, actual_cost, currency
                    from old_rows
                ) as m
                group by tenant_id, id, chat_id, provider_at, status, error_code, price_class, price_type,
                    estimated_cost, actual_cost, currency
                having count(*) = 1
            ) as v
        ) as c;
    end if;
    return null;
end
$$;
create trigger messages_stats_insert after insert on public.messages
    referencing new table as new_rows for each statement execute function private.stats_touch();
create trigger messages_stats_update after update on public.messages
    referencing old table as old_rows new table as new_rows for each statement execute function private.stats_touch();
create trigger messages_stats_delete after delete on public.messages
    referencing old table as old_rows for each statement execute function private.stats_touch();

-- A business that sets its clock gets all its days cut anew. Definer: its owner may not write touches.
create function private.stats_zone_changed() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    insert into private.stats_touches (tenant_id) values (new.tenant_id);
    return null;
end
$$;
create trigger users_stats_zone after update of timezone on public.users
    for each row when (new.id = new.tenant_id and new.timezone <> old.timezone)
    execute function private.stats_zone_changed();

-- A day to be counted, and the clock it is cut by.
create type private.stats_day as (tenant_id uuid, day date, timezone text);

-- Take all touches, and answer the days they mean, latest first. One statement: the clocks that the days are cut by
-- stay the same until they are counted.
create function private.stats_days_take() returns private.stats_day[]
language plpgsql set search_path = '' set plan_cache_mode = 'force_custom_plan' set jit = 'off' as $$
declare
    v_days private.stats_day[];
begin
    with taken as (
        delete from private.stats_touches returning tenant_id, hour_at, chat_id
    ),
    moments as (
        select t.tenant_id, e.at
        from taken t
        -- an hour may be of two days where clocks differ by less
        cross join lateral unnest(array[t.hour_at, t.hour_at + interval '59 minutes 59.999999 seconds']) as e (at)
        where t.hour_at is not null
        union
        select t.tenant_id, answer.provider_at
        from (select distinct tenant_id, hour_at, chat_id from taken where chat_id is not null) as t
        cross join lateral (
            select m.provider_at
            from public.messages m
            where m.tenant_id = t.tenant_id and m.chat_id = t.chat_id and m.provider_at >= t.hour_at + interval '1 hour'
                and m.direction = 'outbound' and m.status in ('sent', 'delivered', 'read', 'played')
            order by m.provider_at
            limit 1
        ) as answer
        union
        -- each day as it was cut overlaps those of these moments, by whatever clock; and its date may be no day any more
        select s.tenant_id, (s.day + e.hours) at time zone e.zone
        from (select distinct tenant_id from taken where hour_at is null) as t
        cross join lateral (
            select x.tenant_id, x.day, x.timezone from public.message_stats_daily x where x.tenant_id = t.tenant_id
            offset 0
        ) as s
        join public.users u on u.id = s.tenant_id
        cross join lateral (values
            (interval '0', s.timezone), (interval '12 hours', s.timezone), (interval '24 hours', s.timezone),
            (interval '12 hours', u.timezone)
        ) as e (hours, zone)
    )
    select array_agg(d order by d.day desc, d.tenant_id)
    into v_days
    from (
        select distinct m.tenant_id, (m.at at time zone u.timezone)::date as day, u.timezone
        from moments m
        join public.users u on u.id = m.tenant_id
    ) as c
    cross join lateral (select (c.tenant_id, c.day, c.timezone)::private.stats_day as d, c.day, c.tenant_id) as d;
    return coalesce(v_days, '{}');
end
$$;

-- The messages of these days, each with its day.
create type private.stats_message as (
    tenant_id uuid, day date, timezone text, id uuid, chat_id uuid, lead_id uuid, number_id uuid, template_id uuid,
    direction text, type text, source text, status text, is_out boolean, has_arrived boolean, error_code int,
    pricing jsonb, price_class text, estimated_cost numeric, actual_cost numeric, currency text,
    provider_at timestamptz
);
create function private.stats_messages(p_days private.stats_day[]) returns setof private.stats_message
language plpgsql stable rows 10000 set search_path = '' set plan_cache_mode = 'force_custom_plan' set jit = 'off' as $$
begin
    return query
    select d.tenant_id, d.day, d.timezone, m.*
    from unnest(p_days) d
    cross join lateral (
        select m.id, m.chat_id, m.lead_id, m.number_id, m.template_id, m.direction, m.type, m.source, m.status,
            m.status in ('sent', 'delivered', 'read', 'played'), m.status in ('delivered', 'read', 'played'),
            m.error_code, m.pricing, m.price_class, m.estimated_cost, m.actual_cost, m.currency, m.provider_at
        from public.messages m
        where m.tenant_id = d.tenant_id
            -- an hour more at both ends: a midnight that comes twice, or never, is either of two moments
            and m.provider_at >= (d.day::timestamp at time zone d.timezone) - interval '1 hour'
            and m.provider_at < ((d.day + 1)::timestamp at time zone d.timezone) + interval '1 hour'
            and (m.provider_at at time zone d.timezone)::date = d.day
        offset 0
    ) as m;
end
$$;

-- Count these days anew. A day without messages has no row.
create function private.stats_count(p_days private.stats_day[]) returns void
language plpgsql set search_path = '' set jit = 'off' as $$
begin
    delete from public.message_stats_daily s
    using unnest(p_days) d
    where s.tenant_id = d.tenant_id and s.day = d.day;

    insert into public.message_stats_daily (tenant_id, day, number_id, timezone, inbound, outbound, pending, sent,
        delivered, read, played, failed, skipped, canceled, unknown, sources, price_classes, error_codes, costs,
        responses, response_seconds, response_p50, response_p90, last_inbound_at, counted_at)
    with turns as (
        select m.*, m.is_out and m.source in ('agent', 'staff', 'manual', 'api') as is_answer,
            lag(m.direction) over in_chat as before, lag(m.provider_at) over in_chat as before_at
        from private.stats_messages(p_days) m
        -- of the same second: the question before the answer
        window in_chat as (
            partition by m.tenant_id, m.day, m.chat_id, m.is_out or m.direction = 'inbound'
            order by m.provider_at, m.direction, m.id)
    ),
    told as materialized (
        select t.*, t.status in ('read', 'played') as is_read,
            case when t.is_answer and coalesce(t.before, earlier.direction) = 'inbound'
                then extract(epoch from t.provider_at - coalesce(t.before_at, earlier.provider_at)) end as seconds
        from turns t
        left join lateral (
            select p.direction, p.provider_at
            from public.messages p
            where t.is_answer and t.before is null
                and p.tenant_id = t.tenant_id and p.chat_id = t.chat_id and p.provider_at < t.provider_at
                and (p.direction = 'inbound' or p.status in ('sent', 'delivered', 'read', 'played'))
            order by p.provider_at desc, p.direction desc, p.id desc
            limit 1
        ) as earlier on true
    ),
    counted as (
        select
            t.tenant_id, t.day, t.number_id, t.timezone,
            count(*) filter (where t.direction = 'inbound') as inbound,
            count(*) filter (where t.direction = 'outbound') as outbound,
            count(*) filter (where t.status in ('queued', 'sending')) as pending,
            count(*) filter (where t.status = 'sent') as sent,
            count(*) filter (where t.status = 'delivered') as delivered,
            count(*) filter (where t.status = 'read') as read,
            count(*) filter (where t.status = 'played') as played,
            count(*) filter (where t.status = 'failed') as failed,
            count(*) filter (where t.status = 'skipped') as skipped,
            count(*) filter (where t.status = 'canceled') as canceled,
            count(*) filter (where t.status = 'unknown') as unknown,
            count(t.seconds) as responses, coalesce(sum(t.seconds), 0) as response_seconds,
            percentile_cont(0.5) within group (order by t.seconds) as response_p50,
            percentile_cont(0.9) within group (order by t.seconds) as response_p90,
            max(t.provider_at) filter (where t.direction = 'inbound') as last_inbound_at
        from told t
        group by t.tenant_id, t.day, t.number_id, t.timezone
    ),
    by_source as (
        select s.tenant_id, s.day, s.number_id, jsonb_object_agg(s.source, s.counts) as counts
        from (
            select t.tenant_id, t.day, t.number_id, t.source, jsonb_build_object(
                'outbound', count(*), 'arrived', count(*) filter (where t.has_arrived),
                'read', count(*) filter (where t.is_read),
                'failed', count(*) filter (where t.status = 'failed')) as counts
            from told t
            where t.direction = 'outbound'
            group by t.tenant_id, t.day, t.number_id, t.source
        ) as s
        group by s.tenant_id, s.day, s.number_id
    ),
    by_class as (
        select s.tenant_id, s.day, s.number_id, jsonb_object_agg(s.price_class, s.messages) as counts
        from (
            select t.tenant_id, t.day, t.number_id, t.price_class, count(*) as messages
            from told t
            where t.is_out and t.price_class is not null
            group by t.tenant_id, t.day, t.number_id, t.price_class
        ) as s
        group by s.tenant_id, s.day, s.number_id
    ),
    by_error as (
        select s.tenant_id, s.day, s.number_id, jsonb_object_agg(s.code, s.messages) as counts
        from (
            select t.tenant_id, t.day, t.number_id, coalesce(t.error_code::text, 'none') as code, count(*) as messages
            from told t
            where t.status = 'failed'
            group by t.tenant_id, t.day, t.number_id, coalesce(t.error_code::text, 'none')
        ) as s
        group by s.tenant_id, s.day, s.number_id
    ),
    by_currency as (
        select s.tenant_id, s.day, s.number_id, jsonb_object_agg(s.currency, s.costs) as costs
        from (
            select t.tenant_id, t.day, t.number_id, t.currency, jsonb_build_object(
                'estimated', coalesce(sum(t.estimated_cost), 0), 'actual', coalesce(sum(t.actual_cost), 0)) as costs
            from told t
            where t.is_out and t.currency is not null
            group by t.tenant_id, t.day, t.number_id, t.currency
        ) as s
        group by s.tenant_id, s.day, s.number_id
    )
    select c.tenant_id, c.day, c.number_id, c.timezone, c.inbound, c.outbound, c.pending, c.sent, c.delivered, c.read,
        c.played, c.failed, c.skipped, c.canceled, c.unknown, coalesce(s.counts, '{}'), coalesce(p.counts, '{}'),
        coalesce(e.counts, '{}'), coalesce(b.costs, '{}'), c.responses, c.response_seconds, c.response_p50,
        c.response_p90, c.last_inbound_at, (select private.clock())
    from counted c
    left join by_source s using (tenant_id, day, number_id)
    left join by_class p using (tenant_id, day, number_id)
    left join by_error e using (tenant_id, day, number_id)
    left join by_currency b using (tenant_id, day, number_id);
end
$$;

-- Every hour: count the days that were touched, latest first, for p_seconds at most; the others wait for the next
-- call. Returns how many days it counted. Who comes while another counts leaves it to them: two counts of one day
-- could end in the order in which they did not begin.
create function public.stats_refresh(p_seconds int default 60) returns int
language plpgsql set search_path = '' as $$
declare
    v_until timestamptz := clock_timestamp() + make_interval(secs => p_seconds);
    v_days private.stats_day[];
    v_done int := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('private.stats_refresh')) then
        return 0;
    end if;
    v_days := private.stats_days_take();
    while v_done < cardinality(v_days) and (v_done = 0 or clock_timestamp() < v_until) loop
        perform private.stats_count(v_days[v_done + 1 : v_done + 50]);
        perform private.costs_count(v_days[v_done + 1 : v_done + 50]);
        v_done := least(v_done + 50, cardinality(v_days));
    end loop;
    perform private.stats_days_mark(v_days[v_done + 1 :]);
    return v_done;
end
$$;

-- These days are to be counted again.
create function private.stats_days_mark(p_days private.stats_day[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into private.stats_touches (tenant_id, hour_at)
    select d.tenant_id, date_bin(
        '1 hour', (d.day + interval '12 hours') at time zone d.timezone, '2000-01-01 00:00:00+00')
    from unnest(p_days) d;
end
$$;

-- For operators: have all days of a business counted again, or those between two dates of its clock. The next
-- stats_refresh() does it. Returns how many days that are.
create function public.stats_recount(p_tenant_id uuid, p_from date default null, p_to date default null) returns int
language plpgsql set search_path = '' as $$
declare
    v_days private.stats_day[] := array(
        select (u.id, d.day, u.timezone)::private.stats_day
        from public.users u
        cross join lateral (
            select min(m.provider_at) as first_at, max(m.provider_at) as last_at
            from public.messages m
            where m.tenant_id = u.id
        ) as told
        cross join lateral generate_series(
            coalesce(p_from, (told.first_at at time zone u.timezone)::date),
            coalesce(p_to, (told.last_at at time zone u.timezone)::date), interval '1 day') as d (day)
        where u.id = p_tenant_id and u.tenant_id = u.id);
begin
    perform private.stats_days_mark(v_days);
    return cardinality(v_days);
end
$$;
grant execute on function private.stats_days_take(), private.stats_messages(private.stats_day[]),
    private.stats_count(private.stats_day[]), private.stats_days_mark(private.stats_day[]),
    public.stats_refresh(int), public.stats_recount(uuid, date, date) to service_role;


-- sql/87_costs.sql

-- Costs: what messages were expected to cost, what they did cost, what free entry points and free quotas saved, and
-- what those that wait will cost. Amounts of different currencies are never added up.

-- costs_daily: what went out on a day of the business's clock, by category and currency. Counted with
-- message_stats_daily, from the messages themselves: each has one price, however often it is told.
create table public.costs_daily (
    tenant_id uuid,
    day date,
    number_id uuid,
    category text,
    currency text,
    messages int not null,
    delivered int not null,
    unpriced int not null,
    estimated numeric(14, 6) not null,
    actual numeric(14, 6) not null,
    saved_free_entry numeric(14, 6) not null,
    saved_free_quota numeric(14, 6) not null,
    is_verified boolean not null,
    constraint costs_daily_pkey primary key (tenant_id, day, number_id, category, currency),
    constraint costs_daily_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade,
    constraint costs_daily_currency_check check (currency ~ '^[A-Z]{3}$'),
    constraint costs_daily_unpriced_check check (unpriced <= delivered and delivered <= messages)
);
comment on table public.costs_daily is 'What the messages of a day cost, by number, category and currency.';
comment on column public.costs_daily.category is
    'service, utility, marketing, authentication, or none (no provider charges for it); what the provider said, else '
    'what we expected.';
comment on column public.costs_daily.currency is 'XXX: no rate is known, so no currency.';
comment on column public.costs_daily.messages is 'Those that went out; what failed is not among them.';
comment on column public.costs_daily.unpriced is 'Delivered, and nobody has told what they cost: not in actual.';
comment on column public.costs_daily.estimated is 'As expected when they were sent, also of what was not delivered.';
comment on column public.costs_daily.actual is 'Of delivered messages, by what the provider said of their price.';
comment on column public.costs_daily.saved_free_entry is
    'List price, then in force, of what cost nothing because the customer came from an ad.';
comment on column public.costs_daily.saved_free_quota is
    'List price, then in force, of what was within the free messages of the month, or free in an open window.';
comment on column public.costs_daily.is_verified is
    'Every rate behind these amounts was compared with the provider''s list; false: they are estimates.';

-- what its foreign key asks for
create index costs_daily_tenant_id_number_id_day_idx on public.costs_daily (tenant_id, number_id, day);

alter table public.costs_daily enable row level security;
grant select on public.costs_daily to authenticated;
grant select, insert, update, delete on public.costs_daily to service_role;
create policy costs_daily_select_member on public.costs_daily for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

create view public.costs_monthly with (security_invoker = true) as
select
    c.tenant_id, date_trunc('month', c.day)::date as month, c.number_id, c.category, c.currency,
    sum(c.messages) as messages, sum(c.delivered) as delivered, sum(c.unpriced) as unpriced,
    sum(c.estimated) as estimated, sum(c.actual) as actual, sum(c.saved_free_entry) as saved_free_entry,
    sum(c.saved_free_quota) as saved_free_quota, bool_and(c.is_verified) as is_verified
from public.costs_daily c
group by c.tenant_id, date_trunc('month', c.day)::date, c.number_id, c.category, c.currency;
comment on view public.costs_monthly is 'costs_daily by calendar month of the business''s clock.';
grant select on public.costs_monthly to authenticated, service_role;
create trigger costs_monthly_refuse_write instead of insert or update or delete on public.costs_monthly
    for each row execute function private.refuse_write();

-- What a message is charged as, or would be if nothing made it free: what the provider said, else what we expected,
-- else what the message is.
create function private.cost_category(p_pricing jsonb, p_price_class text, p_type text, p_template_category text)
returns text
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(
        nullif(private.price_category(p_pricing ->> 'category'), 'referral_conversion'),
        nullif(nullif(private.price_category(p_price_class), 'referral_conversion'), 'free_entry_point'),
        case p_type when 'template' then coalesce(p_template_category, 'marketing') else 'service' end);
end
$$;

-- Why a delivered message cost nothing: free_entry, free_quota (or the open window, as it was before October 2026), or
-- null when it is charged. Where the provider says nothing, as we expected: p_expected without its provider's own fee.
create function private.cost_waived_by(p_pricing jsonb, p_price_class text, p_expected numeric) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case
        when p_price_class = 'none' then null
        when p_pricing ->> 'type' = 'free_entry_point' or p_pricing ->> 'category' = 'referral_conversion'
            or p_pricing is null and p_price_class = 'free_entry_point' then 'free_entry'
        when coalesce(p_pricing ->> 'type' = 'regular', (p_pricing ->> 'billable')::boolean, p_expected > 0, true)
            then null
        else 'free_quota'
    end;
end
$$;

-- Count the costs of these days anew.
create function private.costs_count(p_days private.stats_day[]) returns void
language plpgsql set search_path = '' set jit = 'off' as $$
begin
    delete from public.costs_daily c
    using unnest(p_days) d
    where c.tenant_id = d.tenant_id and c.day = d.day;

    insert into public.costs_daily (tenant_id, day, number_id, category, currency, messages, delivered, unpriced,
        estimated, actual, saved_free_entry, saved_free_quota, is_verified)
    with told as materialized (
        select m.*, k.category, left(l.phone, 6) as prefix, n.provider = 'twilio' as has_fee,
            (m.provider_at at time zone n.timezone)::date as priced_on
        from private.stats_messages(p_days) m
        -- by key, however many leads there are
        cross join lateral (
            select x.phone from public.customer_leads x where x.tenant_id = m.tenant_id and x.id = m.lead_id limit 1
        ) as l
        join public.whatsapp_numbers n on n.tenant_id = m.tenant_id and n.id = m.number_id
        left join lateral (
            select x.category from public.message_templates x
            where x.tenant_id = m.tenant_id and x.id = m.template_id
            limit 1
        ) as t on true
        cross join lateral private.cost_category(m.pricing, m.price_class, m.type, t.category) as k (category)
        where m.direction = 'outbound' and m.is_out and (m.price_class is not null or m.pricing is not null)
    ),
    rates as materialized (
        select d.*, r.amount, r.currency, coalesce(fee.amount, 0) as fee,
            d.category = 'none' or coalesce(r.is_verified, false) and coalesce(fee.is_verified, true) as is_verified
        from (select distinct t.prefix, t.category, t.priced_on, t.has_fee from told t) as d
        left join lateral private.price_of(d.prefix, d.category, d.priced_on) as r on true
        left join lateral private.price_of('', 'twilio_fee', d.priced_on) as fee on d.has_fee
    ),
    valued as (
        select t.*, r.amount, r.currency as rate_currency, r.is_verified,
            case when t.has_arrived then private.cost_waived_by(t.pricing, t.price_class, t.estimated_cost - r.fee) end
                as waived_by
        from told t
        join rates r on r.category = t.category and r.priced_on = t.priced_on and r.has_fee = t.has_fee
            and r.prefix is not distinct from t.prefix
    ),
    entries as (
        select v.tenant_id, v.day, v.number_id, v.category, coalesce(v.currency, v.rate_currency, 'XXX') as currency,
            1 as messages, v.has_arrived::int as delivered,
            (v.has_arrived and v.actual_cost is null and v.category <> 'none')::int as unpriced,
            coalesce(v.estimated_cost, 0) as estimated, coalesce(v.actual_cost, 0) as actual,
            0 as saved_free_entry, 0 as saved_free_quota, v.is_verified
        from valued v
        union all
        -- in the currency of the list, which may be another one by now
        select v.tenant_id, v.day, v.number_id, v.category, v.rate_currency, 0, 0, 0, 0, 0,
            case v.waived_by when 'free_entry' then v.amount else 0 end,
            case v.waived_by when 'free_quota' then v.amount else 0 end, v.is_verified
        from valued v
        where v.waived_by is not null and v.amount > 0
    )
    select e.tenant_id, e.day, e.number_id, e.category, e.currency, sum(e.messages), sum(e.delivered), sum(e.unpriced),
        sum(e.estimated), sum(e.actual), sum(e.saved_free_entry), sum(e.saved_free_quota), bool_and(e.is_verified)
    from entries e
    group by e.tenant_id, e.day, e.number_id, e.category, e.currency;
end
$$;
grant execute on function private.cost_category(jsonb, text, text, text),
    private.cost_waived_by(jsonb, text, numeric), private.costs_count(private.stats_day[]) to service_role;

-- What the messages that wait in the outbox will cost, those for later included: each as it is charged when its time
-- comes, by the rates known for that day, while the number's free messages of that month last. At most: what the send
-- decision refuses by then costs nothing. month: of the business's clock.
create function public.cost_forecast()
returns table (
    number_id uuid, category text, month date, currency text, messages bigint, free_entry bigint, free_quota bigint,
    estimated numeric, is_verified boolean
)
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return query
    with waiting as materialized (
        select
            o.number_id, s.at, o.position, n.provider, left(l.phone, 6) as prefix,
            (s.at at time zone n.timezone)::date as priced_on,
            date_trunc('month', s.at at time zone u.timezone)::date as month,
            case when n.provider = 'whapi' then 'none' when m.type = 'template' then coalesce(t.category, 'marketing')
                else 'service' end as category,
            n.provider <> 'whapi' and (
                c.free_entry_until > s.at or c.reply_by >= s.at) is true as is_free_entry,
            case when p.service_month = date_trunc('month', s.at at time zone n.timezone)
                then p.service_count else 0 end as used
        from public.outbox o
        -- by key, however many messages there are
        cross join lateral (
            select x.type, x.template_id from public.messages x
            where x.tenant_id = o.tenant_id and x.id = o.message_id
            limit 1
        ) as m
        cross join lateral (
            select x.lead_id, x.free_entry_until, private.free_entry_reply_by(x) as reply_by from public.chats x
            where x.tenant_id = o.tenant_id and x.id = o.chat_id
            limit 1
        ) as c
        cross join lateral (
            select x.phone from public.customer_leads x where x.tenant_id = o.tenant_id and x.id = c.lead_id limit 1
        ) as l
        join public.whatsapp_numbers n on n.tenant_id = o.tenant_id and n.id = o.number_id
        join public.users u on u.id = o.tenant_id
        left join public.message_templates t on t.tenant_id = o.tenant_id and t.id = m.template_id
        left join public.number_pacing p on p.tenant_id = o.tenant_id and p.number_id = o.number_id
        cross join lateral (select greatest(o.due_at, v_now) as at) as s
        -- what is unknown may have gone out already
        where o.state <> 'unknown'
    ),
    placed as (
        select w.*,
            w.category = 'service' and not w.is_free_entry and w.used + row_number() over (
                partition by w.number_id, date_trunc('month', w.priced_on), w.category, w.is_free_entry
                order by w.at, w.position) <= 1000 as is_free_quota
        from waiting w
    ),
    rates as materialized (
        select d.*, coalesce(r.amount, 0) as amount, coalesce(r.currency, fee.currency, 'XXX') as currency,
            coalesce(fee.amount, 0) as fee,
            d.category = 'none' or coalesce(r.is_verified, false) and coalesce(fee.is_verified, true) as is_verified
        from (select distinct w.prefix, w.category, w.priced_on, w.provider from waiting w) as d
        left join lateral private.price_of(d.prefix, d.category, d.priced_on) as r on true
        left join lateral private.price_of('', 'twilio_fee', d.priced_on) as fee on d.provider = 'twilio'
    )
    select w.number_id, w.category, w.month, r.currency, count(*), count(*) filter (where w.is_free_entry),
        count(*) filter (where w.is_free_quota),
        sum(r.fee + case when w.is_free_entry or w.is_free_quota then 0 else r.amount end), bool_and(r.is_verified)
    from placed w
    join rates r on r.category = w.category and r.priced_on = w.priced_on and r.provider = w.provider
        and r.prefix is not distinct from w.prefix
    group by w.number_id, w.category, w.month, r.currency
    order by w.month, w.number_id, w.category, r.currency;
end
$$;
grant execute on function public.cost_forecast() to authenticated;


-- sql/88_sequence_stats.sql

-- Statistics of sequences: counted from the history of steps and the messages they became, whenever they are asked for.

-- A step that was run, what became of its message, and when the customer wrote next, within three days.
create view public.sequence_runs with (security_invoker = true) as
select
    h.tenant_id, h.sequence_id, h.version, h.enrollment_id, h.step_key, h.position, h.outcome, h.reason, h.planned_at,
    h.at, h.pending_manual_id, h.message_id, m.chat_id, m.status, m.sent_at, m.delivered_at, m.read_at, m.failed_at,
    r.replied_at, m.currency, m.estimated_cost, m.actual_cost
from public.sequence_history as h
left join public.messages as m on m.tenant_id = h.tenant_id and m.id = h.message_id
left join lateral (
    select a.provider_at as replied_at
    from public.messages as a
    where a.tenant_id = m.tenant_id and a.chat_id = m.chat_id and a.direction = 'inbound' and a.provider_at > m.sent_at
        and a.provider_at <= m.sent_at + interval '72 hours'
    order by a.provider_at
    limit 1
) as r on m.sent_at is not null;
comment on view public.sequence_runs is 'Every step that was run for a customer, with the fate of its message.';
grant select on public.sequence_runs to authenticated, service_role;
create trigger sequence_runs_refuse_write instead of insert or update or delete on public.sequence_runs
    for each row execute function private.refuse_write();

-- What became of a step, in all versions. sent: by us or by a person; manual: given to a person, of which done were
-- sent by one; cost: {currency: {"estimated", "actual"}} of what was sent.
create view public.sequence_step_stats with (security_invoker = true) as
select
    c.tenant_id, c.sequence_id, c.step_key, max(c.version) as version, max(c.position) as position,
    sum(c.sent)::bigint as sent, sum(c.delivered)::bigint as delivered, sum(c.read)::bigint as read,
    sum(c.failed)::bigint as failed, sum(c.replied_24h)::bigint as replied_24h,
    sum(c.replied_72h)::bigint as replied_72h, sum(c.skipped)::bigint as skipped, sum(c.manual)::bigint as manual,
    sum(c.done)::bigint as done, sum(c.stopped)::bigint as stopped,
    coalesce(
        jsonb_object_agg(c.currency, jsonb_build_object('estimated', c.estimated_cost, 'actual', c.actual_cost))
            filter (where c.currency is not null and c.sent > 0), '{}') as cost
from (
    select
        r.tenant_id, r.sequence_id, r.step_key, r.currency, max(r.version) as version,
        (array_agg(r.position order by r.version desc))[1] as position,
        count(*) filter (where r.sent_at is not null) as sent,
        count(*) filter (where r.delivered_at is not null or r.read_at is not null) as delivered,
        count(*) filter (where r.read_at is not null) as read,
        count(*) filter (where r.status = 'failed') as failed,
        count(*) filter (where r.replied_at <= r.sent_at + interval '24 hours') as replied_24h,
        count(*) filter (where r.replied_at is not null) as replied_72h,
        count(*) filter (where r.outcome = 'skipped') as skipped,
        count(*) filter (where r.pending_manual_id is not null) as manual,
        count(*) filter (where r.outcome = 'done') as done,
        count(*) filter (where r.outcome = 'stopped') as stopped,
        coalesce(sum(r.estimated_cost) filter (where r.sent_at is not null), 0) as estimated_cost,
        coalesce(sum(r.actual_cost), 0) as actual_cost
    from public.sequence_runs as r
    group by r.tenant_id, r.sequence_id, r.step_key, r.currency
) as c
group by c.tenant_id, c.sequence_id, c.step_key;
comment on view public.sequence_step_stats is 'How each step of each sequence did, in all its versions.';
grant select on public.sequence_step_stats to authenticated, service_role;
create trigger sequence_step_stats_refuse_write instead of insert or update or delete on public.sequence_step_stats
    for each row execute function private.refuse_write();

-- How a sequence did. Customers are counted by where they are; replied_24h and replied_72h are customers who wrote so
-- soon after some step, the rest are steps.
create view public.sequence_stats with (security_invoker = true) as
select
    s.tenant_id, s.id as sequence_id, s.name, s.is_active, s.deleted_at,
    coalesce(e.enrolled, 0) as enrolled, coalesce(e.active, 0) as active, coalesce(e.paused, 0) as paused,
    coalesce(e.completed, 0) as completed, coalesce(e.stopped, 0) as stopped, coalesce(e.replied, 0) as replied,
    coalesce(e.blocked, 0) as blocked, coalesce(e.opted_out, 0) as opted_out,
    coalesce(w.replied_24h, 0) as replied_24h, coalesce(w.replied_72h, 0) as replied_72h,
    coalesce(w.sent, 0) as sent, coalesce(w.delivered, 0) as delivered, coalesce(w.read, 0) as read,
    coalesce(w.failed, 0) as failed, coalesce(w.skipped, 0) as skipped, coalesce(w.manual, 0) as manual,
    coalesce(w.done, 0) as done, coalesce(k.cost, '{}') as cost
from public.sequences as s
left join (
    select
        n.tenant_id, n.sequence_id, count(*) as enrolled, count(*) filter (where n.status = 'active') as active,
        count(*) filter (where n.status = 'paused') as paused,
        count(*) filter (where n.status = 'completed') as completed,
        count(*) filter (where n.status = 'stopped') as stopped,
        count(*) filter (where n.status = 'replied') as replied,
        count(*) filter (where n.status = 'blocked') as blocked,
        count(*) filter (where n.status = 'opted_out') as opted_out
    from public.sequence_enrollments as n
    group by n.tenant_id, n.sequence_id
) as e on e.tenant_id = s.tenant_id and e.sequence_id = s.id
left join (
    select
        r.tenant_id, r.sequence_id, count(*) filter (where r.sent_at is not null) as sent,
        count(*) filter (where r.delivered_at is not null or r.read_at is not null) as delivered,
        count(*) filter (where r.read_at is not null) as read,
        count(*) filter (where r.status = 'failed') as failed,
        count(*) filter (where r.outcome = 'skipped') as skipped,
        count(*) filter (where r.pending_manual_id is not null) as manual,
        count(*) filter (where r.outcome = 'done') as done,
        count(distinct r.enrollment_id) filter (where r.replied_at <= r.sent_at + interval '24 hours') as replied_24h,
        count(distinct r.enrollment_id) filter (where r.replied_at is not null) as replied_72h
    from public.sequence_runs as r
    group by r.tenant_id, r.sequence_id
) as w on w.tenant_id = s.tenant_id and w.sequence_id = s.id
left join (
    select
        c.tenant_id, c.sequence_id,
        jsonb_object_agg(c.currency, jsonb_build_object('estimated', c.estimated_cost, 'actual', c.actual_cost))
            as cost
    from (
        select
            r.tenant_id, r.sequence_id, r.currency, coalesce(sum(r.estimated_cost), 0) as estimated_cost,
            coalesce(sum(r.actual_cost), 0) as actual_cost
        from public.sequence_runs as r
        where r.sent_at is not null and r.currency is not null
        group by r.tenant_id, r.sequence_id, r.currency
    ) as c
    group by c.tenant_id, c.sequence_id
) as k on k.tenant_id = s.tenant_id and k.sequence_id = s.id;
comment on view public.sequence_stats is 'How each sequence did, those that were deleted among them.';
grant select on public.sequence_stats to authenticated, service_role;
create trigger sequence_stats_refuse_write instead of insert or update or delete on public.sequence_stats
    for each row execute function private.refuse_write();


-- sql/89_number_health.sql

-- The health of numbers: how each of them does now, and alerts when it does worse than it usually does.

create view public.number_health with (security_invoker = true) as
select
    n.tenant_id, n.id as number_id, n.display_name, n.provider, n.is_active, n.quality_rating, n.messaging_limit,
    coalesce(s.handed_1d, 0) as handed_1d, round(s.arrived_1d / s.went_1d, 4) as delivery_rate_1d,
    round(s.read_1d / nullif(s.arrived_1d, 0), 4) as read_rate_1d, round(s.failed_1d / s.handed_1d, 4) as fail_rate_1d,
    coalesce(s.handed_7d, 0) as handed_7d, round(s.arrived_7d / s.went_7d, 4) as delivery_rate_7d,
    round(s.read_7d / nullif(s.arrived_7d, 0), 4) as read_rate_7d, round(s.failed_7d / s.handed_7d, 4) as fail_rate_7d,
    coalesce(s.handed_28d, 0) as handed_28d, round(s.arrived_28d / s.went_28d, 4) as delivery_rate_28d,
    round(s.read_28d / nullif(s.arrived_28d, 0), 4) as read_rate_28d,
    round(s.failed_28d / s.handed_28d, 4) as fail_rate_28d,
    coalesce(e.errors, '[]') as top_errors_7d,
    coalesce(s.responses_7d, 0) as responses_7d,
    round(s.response_seconds_7d / s.responses_7d) as response_avg_7d, r.response_p50, r.response_p90,
    q.queued, q.scheduled, q.unknown, extract(epoch from z.now - q.oldest_at)::bigint as queue_age_seconds,
    case when p.paused_until > now() then p.paused_until end as paused_until,
    case when p.paused_until > now() then p.pause_reason end as pause_reason,
    case when p.bulk_paused_until > now() then p.bulk_paused_until end as bulk_paused_until,
    case when p.bulk_paused_until > now() then p.bulk_pause_reason end as bulk_pause_reason,
    case
        when 'channel_stopped' = any(a.kinds) then 'refused'
        when 'channel_setup' = any(a.kinds) then 'not_set_up'
        when 'token_refresh_failed' = any(a.kinds) then 'not_renewed'
        else 'ok'
    end as token_state,
    t.expires_at as token_expires_at, h.last_inbound_at as last_heard_at, a.kinds as open_alerts, s.counted_at
from public.whatsapp_numbers n
join public.users u on u.id = n.tenant_id
cross join lateral (
    select c.now, (c.now at time zone u.timezone)::date as today from (select private.clock() as now) as c
) as z
left join public.number_pacing p on p.tenant_id = n.tenant_id and p.number_id = n.id
left join public.channel_secrets t on t.tenant_id = n.tenant_id and t.number_id = n.id and t.kind = 'access_token'
cross join lateral (
    select
        nullif(sum(d.went + d.failed) filter (where d.age < 1), 0) as handed_1d,
        nullif(sum(d.went + d.failed) filter (where d.age < 7), 0) as handed_7d,
        nullif(sum(d.went + d.failed), 0) as handed_28d,
        nullif(sum(d.went) filter (where d.age < 1), 0) as went_1d,
        nullif(sum(d.went) filter (where d.age < 7), 0) as went_7d,
        nullif(sum(d.went), 0) as went_28d,
        sum(d.arrived) filter (where d.age < 1) as arrived_1d,
        sum(d.arrived) filter (where d.age < 7) as arrived_7d,
        sum(d.arrived) as arrived_28d,
        sum(d.read) filter (where d.age < 1) as read_1d,
        sum(d.read) filter (where d.age < 7) as read_7d,
        sum(d.read) as read_28d,
        sum(d.failed) filter (where d.age < 1) as failed_1d,
        sum(d.failed) filter (where d.age < 7) as failed_7d,
        sum(d.failed) as failed_28d,
        nullif(sum(d.responses) filter (where d.age < 7), 0) as responses_7d,
        sum(d.response_seconds) filter (where d.age < 7) as response_seconds_7d,
        max(d.counted_at) as counted_at
    from (
        select z.today - x.day as age, (x.sent + x.delivered + x.read + x.played)::numeric as went,
            x.delivered + x.read + x.played as arrived, (x.read + x.played)::numeric as read,
            x.failed::numeric as failed, x.responses, x.response_seconds::numeric as response_seconds, x.counted_at
        from public.message_stats_daily x
        where x.tenant_id = n.tenant_id and x.number_id = n.id and x.day > z.today - 28
    ) as d
) as s
left join lateral (
    select
        jsonb_agg(jsonb_build_object('code', c.code, 'messages', c.messages) order by c.messages desc, c.code) as errors
    from (
        select x.key as code, sum(x.value::int) as messages
        from public.message_stats_daily d
        cross join lateral jsonb_each_text(d.error_codes) as x
        where d.tenant_id = n.tenant_id and d.number_id = n.id and d.day > z.today - 7
        group by x.key
        order by sum(x.value::int) desc, x.key
        limit 5
    ) as c
) as e on true
left join lateral (
    select d.response_p50, d.response_p90
    from public.message_stats_daily d
    where d.tenant_id = n.tenant_id and d.number_id = n.id and d.day > z.today - 28 and d.responses > 0
    order by d.day desc
    limit 1
) as r on true
left join lateral (
    select d.last_inbound_at
    from public.message_stats_daily d
    where d.tenant_id = n.tenant_id and d.number_id = n.id and d.last_inbound_at is not null
    order by d.day desc
    limit 1
) as h on true
cross join lateral (
    select
        count(*) filter (where o.state <> 'unknown' and o.due_at <= z.now) as queued,
        count(*) filter (where o.state <> 'unknown' and o.due_at > z.now) as scheduled,
        count(*) filter (where o.state = 'unknown') as unknown,
        min(o.due_at) filter (where o.state <> 'unknown' and o.due_at <= z.now) as oldest_at
    from public.outbox o
    where o.tenant_id = n.tenant_id and o.number_id = n.id
) as q
cross join lateral (
    select coalesce(array_agg(distinct l.kind), '{}') as kinds
    from public.alerts l
    where l.tenant_id = n.tenant_id and l.number_id = n.id and l.resolved_at is null
) as a;
comment on view public.number_health is
    'How each number does: its rates over the last 1, 7 and 28 days of the business''s clock, today among them, as of '
    'counted_at; queue, pauses and alerts as of now.';
comment on column public.number_health.delivery_rate_1d is 'Of what went out; what failed is in fail_rate_1d.';
comment on column public.number_health.read_rate_1d is 'Of what was delivered.';
comment on column public.number_health.fail_rate_1d is 'Of handed_1d, which is what went out and what failed.';
comment on column public.number_health.response_p50 is 'Seconds, on the last day on which anybody was answered.';
comment on column public.number_health.queue_age_seconds is 'Since when the oldest message should have gone out.';
comment on column public.number_health.token_expires_at is 'Admins alone see it; null: never, or nobody said.';
grant select on public.number_health to authenticated, service_role;
create trigger number_health_refuse_write instead of insert or update or delete on public.number_health
    for each row execute function private.refuse_write();

-- Something that is wrong with a number now.
create type private.number_trouble as (
    tenant_id uuid, number_id uuid, kind text, severity text, message text, details jsonb
);

-- Is this share of so many worse than usual? By more than chance would do (three standard deviations), and by enough
-- to matter.
create function private.is_worse(p_share numeric, p_of numeric, p_usual numeric, p_margin numeric) returns boolean
language plpgsql immutable set search_path = '' as $$
declare
    -- a number that never failed is not taken to be one that cannot
    v_usual numeric := least(greatest(p_usual, 0.01), 0.99);
begin
    return p_share - v_usual >= greatest(p_margin, 3 * sqrt(v_usual * (1 - v_usual) / p_of));
end
$$;

-- Numbers that deliver or are read less, or fail more, than they usually do. Usual is what their 28 days before
-- yesterday were. Failures and deliveries: of their newest 200 messages in two days, of which an hour old those that
-- may still arrive; 20 failures or deliveries are the least that says anything. Reading takes its time: the last
-- three whole days, and a customer who never shows it never did.
create function private.numbers_worse() returns setof private.number_trouble
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' set jit = 'off' as $$
declare
    v_now timestamptz := private.clock();
begin
    return query
    with sums as materialized (
        select n.tenant_id, n.id as number_id, n.display_name, d.*
        from public.whatsapp_numbers n
        join public.users u on u.id = n.tenant_id
        cross join lateral (
            select
                sum(x.sent + x.failed) filter (where x.age < 2) as suspect,
                sum(x.went) filter (where x.age >= 2) as usual_went,
                sum(x.failed) filter (where x.age >= 2) as usual_failed,
                sum(x.sent) filter (where x.age >= 2) as usual_missing,
                sum(x.arrived) filter (where x.age between 1 and 3) as arrived,
                sum(x.read) filter (where x.age between 1 and 3) as read,
                sum(x.arrived) filter (where x.age >= 4) as usual_arrived,
                sum(x.read) filter (where x.age >= 4) as usual_read
            from (
                select (v_now at time zone u.timezone)::date - s.day as age, s.sent, s.failed,
                    s.sent + s.delivered + s.read + s.played as went, s.delivered + s.read + s.played as arrived,
                    s.read + s.played as read
                from public.message_stats_daily s
                where s.tenant_id = n.tenant_id and s.number_id = n.id
                    and s.day > (v_now at time zone u.timezone)::date - 30
            ) as x
        ) as d
        where n.is_active
    ),
    newest as (
        select s.*, l.failed, l.handed, l.missing, l.went
        from sums s
        cross join lateral (
            select
                count(*) filter (where m.status = 'failed') as failed, count(*) as handed,
                count(*) filter (where m.status = 'sent' and m.provider_at <= v_now - interval '1 hour') as missing,
                count(*) filter (where m.status <> 'failed' and m.provider_at <= v_now - interval '1 hour') as went
            from (
                select t.status, t.provider_at
                from public.messages t
                where t.tenant_id = s.tenant_id and t.provider_at between v_now - interval '2 days' and v_now
                    -- as text: the index by number leads to all messages it ever had
                    and t.number_id::text = s.number_id::text and t.direction = 'outbound'
                    and t.status in ('sent', 'delivered', 'read', 'played', 'failed')
                order by t.provider_at desc
                limit 200
            ) as m
        ) as l
        where s.suspect > 0
            -- not counted yet: it may be
            or exists (select from private.stats_touches t where t.tenant_id = s.tenant_id)
    )
    select w.tenant_id, w.number_id, w.kind, 'warning',
        format('%s: %s %s%%, usually %s%%.', w.display_name, w.words, round(100 * w.share), round(100 * w.usual)),
        jsonb_build_object('share', round(w.share, 4), 'of', w.sample, 'usual', round(w.usual, 4))
    from (
        select x.tenant_id, x.number_id, x.display_name, 'failure_spike' as kind, 'messages that fail are' as words,
            x.failed::numeric / x.handed as share, x.handed as sample,
            -- a number without a past: what is usual anywhere
            case when x.usual_went + x.usual_failed >= 50
                then x.usual_failed::numeric / (x.usual_went + x.usual_failed) else 0.05 end as usual
        from newest x
        where x.handed >= 20
        union all
        select x.tenant_id, x.number_id, x.display_name, 'delivery_drop', 'messages that do not arrive are',
            x.missing::numeric / x.went, x.went, x.usual_missing::numeric / x.usual_went
        from newest x
        where x.went >= 20 and x.usual_went >= 50
            -- that is said already
            and not exists (
                select from public.alerts a
                where a.tenant_id = x.tenant_id and a.kind = 'deliveries_missing' and a.subject = x.number_id::text
                    and a.resolved_at is null)
        union all
        select x.tenant_id, x.number_id, x.display_name, 'read_drop', 'delivered messages that nobody reads are',
            1 - x.read::numeric / x.arrived, x.arrived, 1 - x.usual_read::numeric / x.usual_arrived
        from sums x
        where x.arrived >= 50 and x.usual_arrived >= 100
    ) as w
    where private.is_worse(w.share, w.sample, w.usual, case w.kind when 'read_drop' then 0.2 else 0.1 end);
end
$$;

-- Numbers at quality YELLOW (at RED bulk rests, which is an alert of its own), and such whose queue stands still though
-- nothing stops them: people and answers for a quarter of an hour, bulk for six hours.
create function private.numbers_slow() returns setof private.number_trouble
language plpgsql stable set search_path = '' as $$
begin
    return query
    select n.tenant_id, n.id, 'quality_low', 'warning',
        format('%s: customers block or report this number (quality YELLOW); at RED bulk will rest.', n.display_name),
        '{}'::jsonb
    from public.whatsapp_numbers n
    where n.is_active and n.quality_rating = 'YELLOW';

    return query
    select q.tenant_id, q.number_id, 'queue_late', 'critical',
        format('%s: messages should have gone out since %s.', n.display_name,
            to_char(min(o.due_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')),
        '{}'::jsonb
    from private.outbox_numbers() q
    join public.whatsapp_numbers n on n.tenant_id = q.tenant_id and n.id = q.number_id and n.is_active
    left join public.number_pacing p on p.tenant_id = q.tenant_id and p.number_id = q.number_id
    cross join (values (0::smallint, interval '15 minutes'), (1::smallint, interval '15 minutes'),
        (2::smallint, interval '6 hours')) as lane (priority, patience)
    cross join lateral (
        select x.due_at, x.created_at
        from public.outbox x
        where x.tenant_id = q.tenant_id and x.number_id = q.number_id and x.state = 'queued'
            and x.priority = lane.priority
        order by x.due_at
        limit 1
    ) as o
    where o.due_at < (select private.clock()) - lane.patience and o.created_at < now() - lane.patience
        and coalesce(p.paused_until < now(), true)
        and (lane.priority < 2 or coalesce(p.bulk_paused_until < now(), true))
    group by q.tenant_id, q.number_id, n.display_name;
end
$$;

-- Every hour: alerts for numbers that are in trouble, which end when it is over. Returns how many troubles there are.
create function public.number_health_watch() returns int
language plpgsql set search_path = '' as $$
declare
    v_kinds text[] := array['failure_spike', 'delivery_drop', 'read_drop', 'quality_low', 'queue_late'];
    v_troubles private.number_trouble[] := array(
        select t from private.numbers_worse() t union all select t from private.numbers_slow() t);
begin
    perform private.alert_raise(t.tenant_id, t.kind, t.number_id::text, t.message, p_number_id => t.number_id,
        p_severity => t.severity, p_details => t.details)
    from unnest(v_troubles) t;
    perform private.alert_end(a.tenant_id, a.kind, a.subject)
    from public.alerts a
    where a.kind = any (v_kinds) and a.resolved_at is null and not exists (
        select from unnest(v_troubles) t
        where t.tenant_id = a.tenant_id and t.kind = a.kind and t.number_id = a.number_id);
    return cardinality(v_troubles);
end
$$;
grant execute on function private.is_worse(numeric, numeric, numeric, numeric), private.numbers_worse(),
    private.numbers_slow(), public.number_health_watch() to service_role;


-- sql/92_rights.sql

-- Rights: who changed what a business decides, and what it was before.

-- audit_log: a row for every change of a business's configuration, by whomever and however it was made.
create table public.audit_log (
    tenant_id uuid,
    id uuid default private.uuid7(),
    happened_at timestamptz not null,
    user_id uuid,
    action text not null,
    table_name text not null,
    row_id uuid,
    row_name text,
    before jsonb,
    after jsonb,
    constraint audit_log_pkey primary key (tenant_id, id),
    constraint audit_log_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint audit_log_user_id_fkey foreign key (tenant_id, user_id) references public.users (tenant_id, id)
);
comment on table public.audit_log is 'Who changed what. Rows are only ever added; who may, sees them.';
comment on column public.audit_log.user_id is 'null: no person of the business, but a job, or the secret key.';
comment on column public.audit_log.action is 'insert, update or delete; or what a person did by a function''s name.';
comment on column public.audit_log.row_name is 'pii: what it was called then; the name of a colleague, perhaps';
comment on column public.audit_log.before is 'pii: the columns that changed, as they were; all of a deleted row';
comment on column public.audit_log.after is 'pii: the same columns as they are since; all of a new row';

create index audit_log_tenant_id_happened_at_idx on public.audit_log (tenant_id, happened_at desc);
create index audit_log_tenant_id_table_name_row_id_idx
    on public.audit_log (tenant_id, table_name, row_id, happened_at desc);
create index audit_log_tenant_id_user_id_idx on public.audit_log (tenant_id, user_id) where user_id is not null;

alter table public.audit_log enable row level security;
grant select on public.audit_log to authenticated, service_role;
create policy audit_log_select_admin on public.audit_log for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- What a person did, where no row of a table says it.
create function private.audit(
    p_tenant_id uuid, p_action text, p_table text, p_row_id uuid, p_name text default null, p_before jsonb default null,
    p_after jsonb default null
) returns void
language sql set search_path = '' as $$
    insert into public.audit_log (
        tenant_id, happened_at, user_id, action, table_name, row_id, row_name, before, after)
    values (p_tenant_id, private.clock(), private.my_user_id(), p_action, p_table, p_row_id, p_name, p_before, p_after)
$$;

-- after insert, update or delete, for each row: what it was and what it is. Its arguments are columns that are
-- nobody's decision. Definer: nobody may write the log, and everybody's changes are in it.
create function private.audit_note() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_ignored text[] := tg_argv[0:] || array['created_at', 'updated_at'];
    v_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - v_ignored end;
    v_after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - v_ignored end;
    v_row jsonb := coalesce(v_after, v_before);
begin
    if tg_op = 'UPDATE' then
        select jsonb_object_agg(c.key, c.value), jsonb_object_agg(c.key, v_after -> c.key)
        into v_before, v_after
        from jsonb_each(v_before) c
        where c.value is distinct from v_after -> c.key;
    end if;
    if tg_op <> 'UPDATE' or v_after is not null then
        perform private.audit(
            (v_row ->> 'tenant_id')::uuid, lower(tg_op), tg_table_name,
            coalesce(v_row ->> 'id', v_row ->> 'sequence_id', v_row ->> 'tenant_id')::uuid,
            coalesce(v_row ->> 'name', v_row ->> 'display_name', v_row ->> 'business_name', v_row ->> 'email'),
            v_before, v_after);
    end if;
    return null;
end
$$;

create trigger tenant_settings_audit after insert or update or delete on public.tenant_settings
    for each row execute function private.audit_note();
create trigger users_audit after insert or update or delete on public.users
    for each row execute function private.audit_note('auth_id');
-- what providers tell about a number is no decision
create trigger whatsapp_numbers_audit
    after insert or delete or update of display_name, is_active, is_primary, auto_reply, business_hours, timezone,
    default_agent_id, rate_per_second on public.whatsapp_numbers
    for each row execute function private.audit_note('quality_rating', 'messaging_limit');
create trigger ai_agents_audit after insert or update or delete on public.ai_agents
    for each row execute function private.audit_note();
create trigger agent_prompts_audit after insert or delete or update of is_active on public.agent_prompts
    for each row execute function private.audit_note('tokens_used', 'response_quality');
create trigger sequences_audit after insert or update or delete on public.sequences
    for each row execute function private.audit_note();
create trigger sequence_triggers_audit after insert or update or delete on public.sequence_triggers
    for each row execute function private.audit_note();

-- Every day: what is older than each business wants it kept.
create function private.audit_purge() returns void
language plpgsql set search_path = '' as $$
begin
    delete from public.audit_log a
    using public.tenant_settings s
    where a.tenant_id = s.tenant_id
        and a.happened_at < (select private.clock()) - make_interval(days => s.audit_retention_days);
end
$$;


-- sql/93_sequence_files.sql

-- Sequence files: sequences as JSON that people keep, change and carry from one business to another. README says what
-- is in them; shared/sequences.schema.json says it to editors.

-- The document of a sequence, and whether it is active.
create function private.sequence_entry(p_sequence public.sequences) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return private.sequence_document(p_sequence.tenant_id, p_sequence.id)
        || jsonb_build_object('active', p_sequence.is_active);
end
$$;

-- A file of these sequences; null: of all. Importing it changes nothing.
create function private.sequences_export(p_tenant_id uuid, p_names text[]) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_missing text := (
        select string_agg(format('%L', n.name), ', ' order by n.name)
        from unnest(p_names) as n (name)
        where not exists (
            select from public.sequences s
            where s.tenant_id = p_tenant_id and s.deleted_at is null and lower(s.name) = lower(btrim(n.name))));
begin
    if v_missing is not null then
        perform private.refuse('PT404', 'no_sequence_named', jsonb_build_object('names', v_missing));
    end if;
    return jsonb_build_object('format', 'recado.sequences', 'version', 1, 'sequences', (
        select coalesce(jsonb_agg(private.sequence_entry(s) order by lower(s.name)), '[]')
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.deleted_at is null
            and (p_names is null or lower(s.name) in (select lower(btrim(n)) from unnest(p_names) n))));
end
$$;

-- Checking.

-- What is wrong with a file as such: it is not one, or one that we cannot read.
create function private.sequence_file_faults(p_file jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select c.path, c.fault
    from (
        values
            (1, 'file', case when jsonb_typeof(p_file) is distinct from 'object' then
                private.phrase('fault', 'doc_object') end),
            (2, 'format', case when p_file -> 'format' is distinct from '"recado.sequences"' then
                private.phrase('fault', 'file_format') end),
            (3, 'version', case when p_file -> 'version' is distinct from '1' then private.phrase(
                'fault', 'file_version', jsonb_build_object('version', coalesce((p_file -> 'version')::text, '?'))) end),
            (4, 'file', private.json_fault(p_file, 'object', null, null, array['format', 'version', 'sequences'])),
            (5, 'sequences', case when coalesce(jsonb_typeof(p_file -> 'sequences'), 'null') = 'null'
                then private.phrase('fault', 'doc_missing')
                else private.json_fault(p_file -> 'sequences', 'list', 0, 1000, null) end)
    ) as c (n, path, fault)
    where c.fault is not null and (c.n = 1 or jsonb_typeof(p_file) = 'object')
    order by c.n;
end
$$;

-- What is wrong with one of its sequences: paths are within it, and empty for the whole of it. What is asked later
-- makes no sense before what is asked first is mended.
create function private.sequence_entry_faults(p_tenant_id uuid, p_entry jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
declare
    v_document jsonb;
begin
    if jsonb_typeof(p_entry) <> 'object' then
        return query values ('', private.phrase('fault', 'doc_object'));
        return;
    elsif jsonb_typeof(p_entry -> 'active') <> 'boolean' then
        return query values ('.active', private.phrase('fault', 'file_boolean'));
    end if;
    v_document := jsonb_strip_nulls(p_entry - 'active');
    return query
    select case f.path when 'document' then '' else '.' || f.path end, f.fault
    from private.sequence_head_faults(v_document) f
    where f.fault is not null
    union all
    select '.' || f.path, f.fault from private.sequence_step_faults(v_document) f where f.fault is not null;
    if not found then
        return query
        select '.' || f.path, f.fault
        from private.sequence_template_faults(p_tenant_id, v_document) f
        where f.fault is not null;
    end if;
end
$$;

-- Everything that is wrong with the sequences of a file.
create function private.sequences_faults(p_tenant_id uuid, p_sequences jsonb, p_mode text)
returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select format('sequences[%s]%s', e.n - 1, f.path), f.fault
    from jsonb_array_elements(p_sequences) with ordinality as e (entry, n)
    cross join lateral private.sequence_entry_faults(p_tenant_id, e.entry) f
    union all
    select format('sequences[%s].name', e.n - 1), e.fault
    from (
        select s.n, case
            when row_number() over (partition by s.name order by s.n) > 1 then
                private.phrase('fault', 'file_name_twice')
            when p_mode = 'create' and exists (
                select from public.sequences q
                where q.tenant_id = p_tenant_id and q.deleted_at is null and lower(q.name) = s.name)
                then private.phrase('fault', 'file_name_taken') end as fault
        from (
            select n, lower(btrim(entry ->> 'name')) as name
            from jsonb_array_elements(p_sequences) with ordinality as x (entry, n)
            where jsonb_typeof(entry -> 'name') = 'string'
        ) as s
    ) as e
    where e.fault is not null;
end
$$;

-- Refuse a file with all that is wrong with it: the first in the message, all in details.
create function private.sequences_check(p_tenant_id uuid, p_file jsonb, p_mode text) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_faults jsonb;
begin
    if p_mode is null or p_mode not in ('update', 'create', 'replace', 'check') then
        perform private.refuse('PT400', 'file_mode', jsonb_build_object('mode', p_mode));
    end if;
    select jsonb_agg(jsonb_build_object('path', f.path, 'fault', f.fault)) into v_faults
    from private.sequence_file_faults(p_file) f;
    if v_faults is null then
        select jsonb_agg(jsonb_build_object('path', f.path, 'fault', f.fault)) into v_faults
        from private.sequences_faults(p_tenant_id, p_file -> 'sequences', p_mode) f;
    end if;
    if v_faults is not null then
        perform private.refuse_as('PT400', 'file',
            concat(v_faults #>> '{0,path}', ' ', v_faults #>> '{0,fault}', case when jsonb_array_length(v_faults) > 1
                then format(' (+%s)', jsonb_array_length(v_faults) - 1) end, '.'),
            private.phrase('hint', 'file'),
            jsonb_build_object('path', v_faults #> '{0,path}', 'faults', v_faults));
    end if;
end
$$;

-- Importing.

-- One sequence of a checked file: what became of it.
create function private.sequence_import(p_tenant_id uuid, p_by uuid, p_entry jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_was public.sequences;
    v_saved jsonb;
    v_is_active boolean;
begin
    select * into v_was from public.sequences s
    where s.tenant_id = p_tenant_id and s.deleted_at is null and lower(s.name) = lower(btrim(p_entry ->> 'name'));
    v_is_active := coalesce((p_entry ->> 'active')::boolean, v_was.is_active, false);
    v_saved := private.sequence_save(p_tenant_id, v_was.id, p_entry - 'active', p_by);
    if v_is_active <> coalesce(v_was.is_active, false) then
        perform private.sequence_switch(p_tenant_id, (v_saved ->> 'id')::uuid, v_is_active);
    end if;
    return jsonb_build_object('name', btrim(p_entry ->> 'name'), 'id', v_saved -> 'id', 'version', v_saved -> 'version',
        'outcome', case when v_was.id is null then 'created'
            when (v_saved ->> 'changed')::boolean or v_is_active <> v_was.is_active then 'updated'
            else 'unchanged' end);
end
$$;

-- All of a checked file, or, when anything is refused, nothing of it.
create function private.sequences_import_all(p_tenant_id uuid, p_by uuid, p_file jsonb, p_mode text) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_sequences jsonb;
    v_deleted uuid[] := case when p_mode = 'replace' then array(
        select s.id from public.sequences s
        where s.tenant_id = p_tenant_id and s.deleted_at is null and not exists (
            select from jsonb_array_elements(p_file -> 'sequences') e
            where lower(btrim(e ->> 'name')) = lower(s.name))
        order by s.id) end;
begin
    perform set_config('recado.change', 'import', true);
    perform private.sequence_remove(p_tenant_id, id) from unnest(v_deleted) id;
    select jsonb_agg(private.sequence_import(p_tenant_id, p_by, e.entry) order by e.n) into v_sequences
    from jsonb_array_elements(p_file -> 'sequences') with ordinality as e (entry, n);
    perform set_config('recado.change', '', true);
    return jsonb_build_object('mode', p_mode, 'sequences', coalesce(v_sequences, '[]'), 'deleted', (
        select coalesce(jsonb_agg(s.name order by s.name), '[]')
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.id = any(v_deleted)));
end
$$;

-- Definer's work, for the tenant given: see public.sequences_import().
create function private.sequences_import(p_tenant_id uuid, p_by uuid, p_file jsonb, p_mode text) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_answer jsonb;
begin
    perform private.sequences_check(p_tenant_id, p_file, p_mode);
    begin
        v_answer := private.sequences_import_all(p_tenant_id, p_by, p_file, p_mode);
        if p_mode = 'check' then
            raise exception using errcode = 'PT000', message = 'This was only a check.';
        end if;
    exception when sqlstate 'PT000' then null;
    end;
    return v_answer;
end
$$;

-- Definer: people may not write sequences; tenant from require_admin.
create function private.my_sequences_import(p_file jsonb, p_mode text) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return private.sequences_import(private.require_admin(), private.my_user_id(), p_file, p_mode);
end
$$;

-- Definer: asks the tables of templates and steps with one grant, the caller's seat; tenant from require_staff.
create function private.my_sequences_export(p_names text[]) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
    return private.sequences_export(private.require_staff(), p_names);
end
$$;

-- A file of all sequences, or of those named: {"format": "recado.sequences", "version": 1, "sequences": [...]}.
create function public.sequences_export(p_names text[] default null) returns jsonb
language sql stable set search_path = '' as $$
    select private.my_sequences_export(p_names)
$$;

-- Take over a file, all of it or nothing. A sequence of the same name is brought to what the file says (mode update),
-- or is refused (create); with replace those that are not in the file are deleted; check only tells. Customers on
-- their way stay on the version they have. Answers {"mode", "sequences": [{"name", "id", "version", "outcome": created,
-- updated or unchanged}], "deleted": [names]}.
create function public.sequences_import(p_document jsonb, p_mode text default 'update') returns jsonb
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.my_sequences_import(p_document, p_mode)
$$;

-- The same for machines, of whichever business.
create function public.tenant_sequences_export(p_tenant_id uuid, p_names text[] default null) returns jsonb
language sql stable set search_path = '' as $$
    select private.sequences_export(p_tenant_id, p_names)
$$;
create function public.tenant_sequences_import(p_tenant_id uuid, p_document jsonb, p_mode text default 'update')
returns jsonb
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequences_import(p_tenant_id, null, p_document, p_mode)
$$;

grant execute on function
    private.as_time(text), private.sequence_entry(public.sequences), private.sequences_export(uuid, text[]),
    private.sequence_file_faults(jsonb), private.sequence_entry_faults(uuid, jsonb),
    private.sequences_faults(uuid, jsonb, text), private.sequences_check(uuid, jsonb, text),
    private.sequence_import(uuid, uuid, jsonb), private.sequences_import_all(uuid, uuid, jsonb, text),
    private.sequences_import(uuid, uuid, jsonb, text), public.tenant_sequences_export(uuid, text[]),
    public.tenant_sequences_import(uuid, jsonb, text) to service_role;
grant execute on function private.my_sequences_export(text[]), private.my_sequences_import(jsonb, text),
    public.sequences_export(text[]), public.sequences_import(jsonb, text) to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_sequence_named', 'No hay ninguna secuencia {names}.', 'There is no sequence {names}.',
        'Não há nenhuma sequência {names}.'),
    ('hint', 'no_sequence_named', 'Tome sus nombres de sequences.', 'Read their names from sequences.',
        'Leia os seus nomes em sequences.'),
    ('refusal', 'file_mode', 'No existe el modo «{mode}».', 'There is no mode "{mode}".',
        'Não existe o modo "{mode}".'),
    ('hint', 'file_mode', 'Elija update, create, replace o check.', 'Choose update, create, replace or check.',
        'Escolha update, create, replace ou check.'),
    ('hint', 'file', 'No se importó nada. Corrija el archivo; en details está todo lo que tiene mal.',
        'Nothing was imported. Correct the file; details has everything that is wrong with it.',
        'Nada foi importado. Corrija o arquivo; em details está tudo o que tem de errado.'),
    ('fault', 'file_format', 'debe ser "recado.sequences"', 'must be "recado.sequences"',
        'deve ser "recado.sequences"'),
    ('fault', 'file_version',
        'es {version}, y aquí solo se lee la versión 1: exporte el archivo otra vez o actualice Recado',
        'is {version}, and only version 1 can be read here: export the file again, or update Recado',
        'é {version}, e aqui só se lê a versão 1: exporte o arquivo outra vez ou atualize o Recado'),
    ('fault', 'file_boolean', 'debe ser true o false', 'must be true or false', 'deve ser true ou false'),
    ('fault', 'file_name_twice', 'es el nombre de otra secuencia del archivo',
        'is the name of another sequence of the file', 'é o nome de outra sequência do arquivo'),
    ('fault', 'file_name_taken',
        'es el nombre de una secuencia que ya tiene: cámbielo o importe con el modo update',
        'is the name of a sequence that you have: rename it, or import with the mode update',
        'é o nome de uma sequência que já tem: mude-o ou importe com o modo update');


-- sql/94_restore.sql

-- The way back: what was there before each change, and every business's whole configuration of each day.

-- restore_points: what was there before a change, and every business's whole configuration of each day.
create table public.restore_points (
    tenant_id uuid,
    id uuid default private.uuid7(),
    reason text not null,
    day date,
    taken_at timestamptz not null,
    taken_by uuid,
    document jsonb not null,
    constraint restore_points_pkey primary key (tenant_id, id),
    constraint restore_points_tenant_id_day_key unique (tenant_id, day),
    constraint restore_points_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint restore_points_taken_by_fkey foreign key (tenant_id, taken_by) references public.users (tenant_id, id),
    constraint restore_points_day_check check ((reason = 'daily') = (day is not null))
);
comment on table public.restore_points is
    'Ways back: restore_point_restore() brings back what one holds. Kept for tenant_settings.restore_days.';
comment on column public.restore_points.reason is
    'daily: the backup of a day. Else what happened next: create, save, activate, deactivate, delete, import, restore.';
comment on column public.restore_points.day is 'By the business''s own clock.';
comment on column public.restore_points.document is
    'Parts of private.configuration(), without any secret; `new` names the sequences that were not there yet.';

create index restore_points_tenant_id_taken_at_idx on public.restore_points (tenant_id, taken_at desc);
create index restore_points_tenant_id_taken_by_idx
    on public.restore_points (tenant_id, taken_by) where taken_by is not null;

alter table public.restore_points enable row level security;
grant select on public.restore_points to authenticated, service_role;
create policy restore_points_select_admin on public.restore_points for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- The configuration as a document: what an admin may change is what can be brought back.

create function private.editable_columns(p_table regclass) returns text[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select a.attname::text from pg_catalog.pg_attribute a
        where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped
            and has_column_privilege('authenticated', p_table, a.attnum, 'update')
        order by a.attnum);
end
$$;

-- Only these keys of an object.
create function private.jsonb_pick(p_object jsonb, p_keys text[]) returns jsonb
language sql immutable set search_path = '' as $$
    select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(p_object) where key = any(p_keys)
$$;

create function private.settings_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select private.jsonb_pick(to_jsonb(s), private.editable_columns('public.tenant_settings'))
            - '{followup_agent_id,followup_template_id}'::text[]
            || jsonb_build_object('followup_agent', a.name, 'followup_template', case when t.id is not null
                then jsonb_build_object('name', t.name, 'language', t.language) end)
        from public.tenant_settings s
        left join public.ai_agents a on a.tenant_id = s.tenant_id and a.id = s.followup_agent_id
        left join public.message_templates t on t.tenant_id = s.tenant_id and t.id = s.followup_template_id
        where s.tenant_id = p_tenant_id);
end
$$;

create function private.agents_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return coalesce((
        select jsonb_agg(private.jsonb_pick(to_jsonb(a), private.editable_columns('public.ai_agents'))
            || jsonb_build_object('id', a.id, 'prompt', to_jsonb(p) - '{tenant_id,id,agent_id,version,trigger_reason,is_active,
                tokens_used,response_quality,created_at}'::text[]) order by a.name)
        from public.ai_agents a
        left join public.agent_prompts p on p.tenant_id = a.tenant_id and p.agent_id = a.id and p.is_active
        where a.tenant_id = p_tenant_id), '[]');
end
$$;

-- Whether a number is connected is not ours to decide: only how it is served.
create function private.numbers_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return coalesce((
        select jsonb_agg(private.jsonb_pick(to_jsonb(n), private.editable_columns('public.whatsapp_numbers'))
            - '{is_active,is_primary,default_agent_id}'::text[]
            || jsonb_build_object('id', n.id, 'phone_number', n.phone_number, 'default_agent', a.name)
            order by n.phone_number)
        from public.whatsapp_numbers n
        left join public.ai_agents a on a.tenant_id = n.tenant_id and a.id = n.default_agent_id
        where n.tenant_id = p_tenant_id and n.is_active), '[]');
end
$$;

-- As in a file, and with the ids by which they are found again whatever they are called by then.
create function private.sequences_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return coalesce((
        select jsonb_agg(private.sequence_entry(s) || jsonb_build_object('id', s.id) order by s.id)
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.deleted_at is null), '[]');
end
$$;

create function private.configuration(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return jsonb_build_object(
        'settings', private.settings_document(p_tenant_id), 'agents', private.agents_document(p_tenant_id),
        'numbers', private.numbers_document(p_tenant_id), 'sequences', private.sequences_document(p_tenant_id));
end
$$;
comment on function private.configuration(uuid) is
    'What a business has decided, without any secret: {"settings", "agents", "numbers", "sequences"}.';

-- Taking restore points.

-- The restore point of this transaction, made by the first who asks: all that one transaction changes is one change.
create function private.restore_point(p_tenant_id uuid, p_reason text, p_document jsonb default '{}') returns uuid
language plpgsql set search_path = '' as $$
declare
    v_open text[] := string_to_array(current_setting('recado.restore_point', true), ' ');
    v_id uuid := private.uuid7();
begin
    -- an id of another transaction is never here: the setting ends with its own
    if v_open[1] = p_tenant_id::text then
        return v_open[2]::uuid;
    end if;
    insert into public.restore_points (tenant_id, id, reason, taken_at, taken_by, document)
    values (p_tenant_id, v_id, coalesce(nullif(current_setting('recado.change', true), ''), p_reason), private.clock(),
        private.my_user_id(), p_document);
    perform set_config('recado.restore_point', concat_ws(' ', p_tenant_id, v_id), true);
    return v_id;
end
$$;

-- Into the restore point of this transaction goes each sequence that it changes, as it was before; of one that is new,
-- or was deleted, that it was not there.
create function private.sequence_remember(p_tenant_id uuid, p_sequence_id uuid, p_reason text) returns void
language plpgsql set search_path = '' as $$
declare
    v_sequence public.sequences;
    v_point_id uuid := private.restore_point(p_tenant_id, p_reason);
begin
    select * into v_sequence from public.sequences s
    where s.tenant_id = p_tenant_id and s.id = p_sequence_id and s.deleted_at is null;
    update public.restore_points r
    set document = r.document || case when v_sequence.id is null
        then jsonb_build_object('new', coalesce(r.document -> 'new', '[]') || to_jsonb(p_sequence_id))
        else jsonb_build_object('sequences', coalesce(r.document -> 'sequences', '[]')
            || jsonb_build_array(private.sequence_entry(v_sequence) || jsonb_build_object('id', p_sequence_id))) end
    where r.tenant_id = p_tenant_id and r.id = v_point_id
        and not coalesce(r.document -> 'new' ? p_sequence_id::text, false)
        and not coalesce(r.document -> 'sequences' @> jsonb_build_array(jsonb_build_object('id', p_sequence_id)), false);
end
$$;

-- before insert, update or delete of sequences and what belongs to them. Definer: whoever changes a sequence, there is
-- a way back.
create function private.sequence_changes() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_now jsonb := to_jsonb(new);
    v_was jsonb := to_jsonb(old);
    v_row jsonb := coalesce(v_now, v_was);
begin
    perform private.sequence_remember((v_row ->> 'tenant_id')::uuid,
        coalesce(v_row ->> 'sequence_id', v_row ->> 'id')::uuid,
        case when tg_table_name <> 'sequences' then 'save'
            when tg_op = 'INSERT' then 'create'
            when tg_op = 'DELETE' or v_now ->> 'deleted_at' is not null then 'delete'
            when v_now -> 'is_active' <> v_was -> 'is_active' and (v_now ->> 'is_active')::boolean then 'activate'
            when v_now -> 'is_active' <> v_was -> 'is_active' then 'deactivate'
            else 'save' end);
    return case tg_op when 'DELETE' then old else new end;
end
$$;
create trigger sequences_changes before insert or delete on public.sequences
    for each row execute function private.sequence_changes();
create trigger sequences_changes_update before update on public.sequences
    for each row when (old.* is distinct from new.*) execute function private.sequence_changes();
create trigger sequence_triggers_changes before insert or update or delete on public.sequence_triggers
    for each row execute function private.sequence_changes();

-- Every hour: the configuration of each business whose day has begun, once a day.
create function private.configuration_backup() returns int
language plpgsql set search_path = '' as $$
declare
    v_count int;
begin
    insert into public.restore_points (tenant_id, reason, day, taken_at, document)
    select o.id, 'daily', d.day, private.clock(), private.configuration(o.id)
    from public.users o
    cross join lateral (select ((select private.clock()) at time zone o.timezone)::date as day) as d
    where o.id = o.tenant_id and o.is_active and not exists (
        select from public.restore_points r where r.tenant_id = o.id and r.day = d.day)
    order by o.id
    on conflict on constraint restore_points_tenant_id_day_key do nothing;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Every day: what is older than each business wants it kept.
create function private.restore_points_purge() returns void
language plpgsql set search_path = '' as $$
begin
    delete from public.restore_points r
    using public.tenant_settings s
    where r.tenant_id = s.tenant_id
        and r.taken_at < (select private.clock()) - make_interval(days => s.restore_days);
end
$$;

-- Bringing back.

-- Give rows of a table the values of documents with the same key: none but the columns that admins may change.
create function private.rows_restore(p_table regclass, p_tenant_id uuid, p_key text, p_documents jsonb) returns int
language plpgsql set search_path = '' as $$
declare
    v_columns text[] := private.editable_columns(p_table);
    v_count int;
begin
    execute format(
        'update %s t set (%s) = (select %s from jsonb_populate_record(t, private.jsonb_pick(d.document, $3)) as r)'
        ' from jsonb_array_elements($2) as d (document)'
        ' where t.tenant_id = $1 and t.%4$I::text = d.document ->> %4$L',
        p_table, (select string_agg(format('%I', c), ', ') from unnest(v_columns) c),
        (select string_agg(format('r.%I', c), ', ') from unnest(v_columns) c), p_key)
    using p_tenant_id, p_documents, v_columns;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Agents that are gone come back; those made since stay, but the default one is who was it then.
create function private.agents_restore(p_tenant_id uuid, p_agents jsonb) returns int
language plpgsql strict set search_path = '' as $$
begin
    update public.ai_agents set is_default = false
    where tenant_id = p_tenant_id and is_default and p_agents @> '[{"is_default": true}]';
    -- first under names that nobody has: what they were called then may be what another of them is called now
    insert into public.ai_agents (tenant_id, id, name, is_active)
    select p_tenant_id, (a ->> 'id')::uuid, a ->> 'id', false
    from jsonb_array_elements(p_agents) a
    on conflict on constraint ai_agents_pkey do nothing;
    update public.ai_agents t set name = t.id::text
    from jsonb_array_elements(p_agents) a
    where t.tenant_id = p_tenant_id and t.id = (a ->> 'id')::uuid and t.name <> a ->> 'name';
    perform private.prompts_restore(p_tenant_id, p_agents);
    return private.rows_restore('public.ai_agents', p_tenant_id, 'id', p_agents);
exception when unique_violation then
    perform private.refuse('PT409', 'restore_agent_name');
    return null;
end
$$;

-- A prompt that was in use then is in use again, as a new version; where there was none, there is none.
create function private.prompts_restore(p_tenant_id uuid, p_agents jsonb) returns void
language plpgsql set search_path = '' as $$
declare
    v_agents uuid[];
    v_prompts jsonb[];
begin
    with replaced as (
        select (a ->> 'id')::uuid as agent_id, nullif(a -> 'prompt', 'null') as prompt
        from jsonb_array_elements(p_agents) a
        left join public.agent_prompts p
            on p.tenant_id = p_tenant_id and p.agent_id = (a ->> 'id')::uuid and p.is_active
        where nullif(a -> 'prompt', 'null') is distinct from to_jsonb(p) - '{tenant_id,id,agent_id,version,
            trigger_reason,is_active,tokens_used,response_quality,created_at}'::text[]
    )
    select array_agg(r.agent_id), array_agg(r.prompt) into v_agents, v_prompts from replaced r;
    update public.agent_prompts p set is_active = false
    where p.tenant_id = p_tenant_id and p.agent_id = any(v_agents) and p.is_active;
    insert into public.agent_prompts (
        tenant_id, agent_id, system_prompt, context_summary, business_context, version, trigger_reason)
    select p_tenant_id, r.agent_id, r.prompt ->> 'system_prompt', r.prompt ->> 'context_summary',
        r.prompt -> 'business_context', coalesce((
            select max(p.version) from public.agent_prompts p
            where p.tenant_id = p_tenant_id and p.agent_id = r.agent_id), 0) + 1, 'restore'
    from unnest(v_agents, v_prompts) as r (agent_id, prompt)
    where r.prompt is not null;
end
$$;

create function private.numbers_restore(p_tenant_id uuid, p_numbers jsonb) returns int
language plpgsql strict set search_path = '' as $$
begin
    update public.whatsapp_numbers n
    set default_agent_id = (
        select a.id from public.ai_agents a where a.tenant_id = n.tenant_id and a.name = d ->> 'default_agent')
    from jsonb_array_elements(p_numbers) d
    where n.tenant_id = p_tenant_id and n.id = (d ->> 'id')::uuid;
    return private.rows_restore('public.whatsapp_numbers', p_tenant_id, 'id', p_numbers);
end
$$;

create function private.settings_restore(p_tenant_id uuid, p_settings jsonb) returns int
language plpgsql strict set search_path = '' as $$
begin
    update public.tenant_settings s
    set followup_agent_id = (
            select a.id from public.ai_agents a
            where a.tenant_id = s.tenant_id and a.name = p_settings ->> 'followup_agent'),
        followup_template_id = (
            select t.id from public.message_templates t
            where t.tenant_id = s.tenant_id and t.name = p_settings #>> '{followup_template,name}'
                and t.language = p_settings #>> '{followup_template,language}'
            order by (t.status = 'approved') desc, t.created_at desc
            limit 1)
    where s.tenant_id = p_tenant_id;
    return private.rows_restore('public.tenant_settings', p_tenant_id, 'tenant_id',
        jsonb_build_array(p_settings || jsonb_build_object('tenant_id', p_tenant_id)));
end
$$;

-- Sequences as they were: those deleted since are there again, those made by the change are deleted. Customers on
-- their way stay on the version they have, and what they got they do not get again.
create function private.sequences_restore(p_tenant_id uuid, p_sequences jsonb, p_new jsonb) returns int
language plpgsql set search_path = '' as $$
declare
    v_entry jsonb;
begin
    perform private.sequence_remove(s.tenant_id, s.id)
    from public.sequences s
    where s.tenant_id = p_tenant_id and s.deleted_at is null and p_new ? s.id::text;
    -- under a name that nobody has: what they were called then may be what another of them is called now
    update public.sequences s set deleted_at = null, name = s.id::text
    from jsonb_array_elements(p_sequences) e
    where s.tenant_id = p_tenant_id and s.id = (e ->> 'id')::uuid
        and (s.deleted_at is not null or lower(s.name) <> lower(e ->> 'name'));
    for v_entry in select e from jsonb_array_elements(p_sequences) e loop
        perform private.sequence_switch(p_tenant_id, (private.sequence_save(p_tenant_id, (
            select s.id from public.sequences s where s.tenant_id = p_tenant_id and s.id = (v_entry ->> 'id')::uuid
        ), v_entry - '{id,active}'::text[], private.my_user_id()) ->> 'id')::uuid, (v_entry ->> 'active')::boolean);
    end loop;
    return nullif(coalesce(jsonb_array_length(p_sequences), 0) + coalesce(jsonb_array_length(p_new), 0), 0);
end
$$;

-- What of a restore point is to be brought back; a part it does not hold is refused.
create function private.restore_parts(p_point public.restore_points, p_parts text[]) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_unknown text := (
        select string_agg(part, ', ') from unnest(p_parts) part where part <> all (array(select jsonb_object_keys(p_point.document))));
begin
    if v_unknown is not null then
        perform private.refuse('PT400', 'restore_part', jsonb_build_object('part', v_unknown, 'parts', (
            select string_agg(key, ', ') from jsonb_object_keys(p_point.document - 'new') key)));
    end if;
    return case when p_parts is null then p_point.document
        when 'sequences' = any(p_parts) then private.jsonb_pick(p_point.document, p_parts || array['new'])
        else private.jsonb_pick(p_point.document, p_parts) end;
end
$$;

-- Definer: people may write neither restore points nor what no form of theirs edits; tenant from require_admin.
create function private.restore_point_restore(p_id uuid, p_parts text[]) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_admin();
    v_point public.restore_points;
    v_parts jsonb;
    v_undo_id uuid;
begin
    select * into v_point from public.restore_points r where r.tenant_id = v_tenant_id and r.id = p_id;
    if not found then
        perform private.refuse('PT404', 'no_restore_point');
    end if;
    v_parts := private.restore_parts(v_point, p_parts);
    -- sequences are added to it as they change
    v_undo_id := private.restore_point(v_tenant_id, 'restore', private.jsonb_pick(private.configuration(v_tenant_id),
        array(select key from jsonb_object_keys(v_parts - 'sequences' - 'new') key)));
    return jsonb_build_object('undo', v_undo_id, 'restored', jsonb_strip_nulls(jsonb_build_object(
        'agents', private.agents_restore(v_tenant_id, v_parts -> 'agents'),
        'settings', private.settings_restore(v_tenant_id, v_parts -> 'settings'),
        'numbers', private.numbers_restore(v_tenant_id, v_parts -> 'numbers'),
        'sequences', private.sequences_restore(v_tenant_id, v_parts -> 'sequences', v_parts -> 'new'))));
end
$$;

-- Bring back what was there before a change, or on a day: all of it, or the parts named (settings, agents, numbers,
-- sequences). What was there until now becomes a restore point itself. {"undo": its id, "restored": {part: rows}}
create function public.restore_point_restore(p_restore_point_id uuid, p_parts text[] default null) returns jsonb
language sql set search_path = '' as $$
    select private.restore_point_restore(p_restore_point_id, p_parts)
$$;
grant execute on function private.restore_point_restore(uuid, text[]), public.restore_point_restore(uuid, text[])
    to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_restore_point', 'No hay tal punto de restauración.', 'There is no such restore point.',
        'Não há tal ponto de restauração.'),
    ('hint', 'no_restore_point', 'Tome su id de restore_points.', 'Read its id from restore_points.',
        'Leia o seu id em restore_points.'),
    ('refusal', 'restore_agent_name', 'Otro agente tiene ahora el nombre de uno de los que volverían.',
        'Another agent has the name now of one that would come back.',
        'Outro agente tem agora o nome de um dos que voltariam.'),
    ('hint', 'restore_agent_name', 'Cambie el nombre de ese agente, o restaure las demás partes (p_parts).',
        'Rename that agent, or restore the other parts (p_parts).',
        'Mude o nome desse agente, ou restaure as outras partes (p_parts).'),
    ('refusal', 'restore_part', 'Este punto de restauración no contiene {part}.',
        'This restore point does not hold {part}.', 'Este ponto de restauração não contém {part}.'),
    ('hint', 'restore_part', 'Contiene {parts}.', 'It holds {parts}.', 'Contém {parts}.');


-- sql/95_schedules.sql

-- How the database calls functions: signed, after commit, and without waiting for the answer.

-- Post `p_body` to a function. Its URL (a template with {function} in it) and the signing secret are in Vault
-- as functions_url and functions_secret. The answer does not matter here: a call that is lost costs a delay,
-- since every schedule sweeps up what an earlier call missed. Returns pg_net's request id.
create function private.invoke(p_function text, p_body jsonb default '{}') returns bigint
language plpgsql volatile set search_path = '' as $$
declare
    v_url text := (select decrypted_secret from vault.decrypted_secrets where name = 'functions_url');
    v_secret text := (select decrypted_secret from vault.decrypted_secrets where name = 'functions_secret');
    v_at text := floor(extract(epoch from clock_timestamp()))::bigint::text;
begin
    if v_url is null or v_secret is null then
        raise exception using
            errcode = 'PT500',
            message = 'The database does not know where its functions are.',
            hint = 'Store functions_url (a URL with {function} in it) and functions_secret with vault.create_secret.';
    end if;
    return net.http_post(
        url := replace(v_url, '{function}', p_function),
        body := p_body,
        headers := jsonb_build_object(
            'Content-Type', 'application/json',
            'X-Recado-Timestamp', v_at,
            -- pg_net sends body::text of this very value; request headers stay readable in its queue,
            -- so they carry a signature, never the secret
            'X-Recado-Signature', 'sha256=' || encode(private.hmac_sha256(
                convert_to(v_secret, 'utf8'), convert_to(v_at || '.' || p_body::text, 'utf8')), 'hex')),
        timeout_milliseconds := 2000);
end
$$;
comment on function private.invoke(text, jsonb) is 'Calls a function of ours, signed; for schedules and wake-ups.';

-- worker_leases: loops of workers that are awake. While there is one, new work needs to wake nobody: it looks again
-- within a quarter of a second. A loop says every second that it lives; one that died is believed for five.
create table private.worker_leases (
    worker text,
    loop_id uuid,
    lease_until timestamptz not null,
    constraint worker_leases_pkey primary key (worker, loop_id)
) with (fillfactor = 50);
comment on table private.worker_leases is 'Loops of workers that are awake.';

alter table private.worker_leases enable row level security;
grant select, insert, update, delete on private.worker_leases to service_role;

-- Is there anything that a loop of this worker would do now, or soon enough to wait for it?
create function private.worker_has_work(p_worker text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return case p_worker
        when 'reply' then exists (
            select from public.pending_replies r
            where greatest(r.due_at, r.lease_until) < now() + interval '15 seconds')
        when 'deliver' then coalesce(private.outbox_next_in() < 15, false)
        when 'crm-analysis' then private.analyses_waiting()
        when 'process-sequences' then private.sequences_waiting()
        when 'daily-actions' then exists (select from private.daily_tenants(null, false)) or private.daily_waiting()
        else false
    end;
end
$$;

-- Something is due: wake the worker, unless a loop of it is awake or a call to it is already under way. To be
-- called last in a transaction that made work; a wake-up that is lost costs the time until the next sweep.
-- Definer: whoever makes work, staff included, may wake a worker, but not read Vault.
create function private.wake(p_worker text) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_url text;
begin
    -- many transactions make work at the same moment: one of them calls
    if not pg_try_advisory_xact_lock(hashtext('private.wake'), hashtext(p_worker))
        or exists (select from private.worker_leases where worker = p_worker and lease_until > clock_timestamp())
    then
        return;
    end if;
    select replace(decrypted_secret, '{function}', p_worker) into v_url
    from vault.decrypted_secrets where name = 'functions_url';
    -- pg_net deletes a request only when its round ends; a database without functions has none to wake
    if v_url is not null and not exists (select from net.http_request_queue where url = v_url) then
        perform private.invoke(p_worker);
    end if;
end
$$;
grant execute on function private.worker_has_work(text), private.wake(text) to service_role;

-- A loop is awake, for p_seconds from now.
create function public.worker_beat(p_worker text, p_loop_id uuid, p_seconds int) returns void
language sql set search_path = '' as $$
    insert into private.worker_leases as l (worker, loop_id, lease_until)
    values (p_worker, p_loop_id, clock_timestamp() + make_interval(secs => p_seconds))
    on conflict on constraint worker_leases_pkey do update set lease_until = excluded.lease_until
$$;

-- A loop goes. Who makes work meanwhile either sees its lease gone, or is seen here: the lock is the one of wake().
create function public.worker_leave(p_worker text, p_loop_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    perform pg_advisory_xact_lock(hashtext('private.wake'), hashtext(p_worker));
    delete from private.worker_leases
    where worker = p_worker and (loop_id = p_loop_id or lease_until < clock_timestamp());
    if private.worker_has_work(p_worker) then
        perform private.wake(p_worker);
    end if;
end
$$;
grant execute on function public.worker_beat(text, uuid, int), public.worker_leave(text, uuid) to service_role;

-- What watches over the work leaves traces too: they are kept as long as somebody may ask.
create function private.traces_purge() returns void
language plpgsql set search_path = '' as $$
begin
    delete from cron.job_run_details where end_time < now() - interval '7 days';
    delete from net._http_response where created < now() - interval '6 hours';
    delete from public.job_runs where tenant_id is null and started_at < now() - interval '30 days';
    delete from private.chat_pacing where free_at < now() - interval '1 day';
end
$$;

-- Schedules. Scheduling a name again replaces it. Five fields only: not every pg_cron knows seconds.
select cron.schedule('activity-flush', '* * * * *', 'select public.activity_flush()');
select cron.schedule('webhook-retry', '* * * * *', 'select public.webhook_retry()');
select cron.schedule('webhook-purge', '41 * * * *', 'select public.webhook_purge()');
select cron.schedule('numbers-watch', '7 * * * *', 'select public.numbers_watch()');
select cron.schedule('stats-refresh', '11 * * * *', 'select public.stats_refresh()');
select cron.schedule('number-health', '16 * * * *', 'select public.number_health_watch()');
select cron.schedule('outbox-sweep', '* * * * *', 'select public.outbox_sweep()');
select cron.schedule('conversations-close-idle', '*/5 * * * *', 'select public.conversations_close_idle()');
-- what no wake-up reached: lost ones, retries, work of a loop that died
select cron.schedule(
    'reply-sweep', '* * * * *', $$select private.wake('reply') where private.worker_has_work('reply')$$);
select cron.schedule(
    'deliver-sweep', '* * * * *', $$select private.wake('deliver') where private.worker_has_work('deliver')$$);
select cron.schedule(
    'crm-analysis', '*/15 * * * *',
    $$select private.wake('crm-analysis') where private.worker_has_work('crm-analysis')$$);
-- the second call revokes what the first replaced, when no worker remembers it any more
select cron.schedule('refresh-tokens', '10,40 4 * * *', $$select private.invoke('refresh-tokens')
    where exists (select from public.channel_secrets where kind <> 'webhook_secret')$$);
-- every minute: a quarter of an hour would miss businesses whose hour is the last of their day
select cron.schedule(
    'daily-actions', '* * * * *',
    $$select private.wake('daily-actions') where private.worker_has_work('daily-actions')$$);
-- hourly does as well: what was missed is caught up with
select cron.schedule(
    'process-sequences', '* * * * *',
    $$select private.wake('process-sequences') where private.worker_has_work('process-sequences')$$);
select cron.schedule('backfill', '*/10 * * * *', $$select private.wake('backfill')
    where exists (select from public.whatsapp_numbers where provider <> 'cloud_api' and is_active)$$);
select cron.schedule('detect-blocks', '23 */6 * * *', $$select private.wake('detect-blocks')
    where exists (select from public.whatsapp_numbers where is_active)$$);
select cron.schedule('sync-templates', '41 4 * * *', $$select private.wake('sync-templates')
    where exists (select from public.whatsapp_numbers where is_active and coalesce(waba_id, account_id) is not null)$$);
select cron.schedule('sequences-resume', '* * * * *', 'select private.sequences_resume()');
select cron.schedule('configuration-backup', '23 * * * *', 'select private.configuration_backup()');
select cron.schedule('restore-points-purge', '39 3 * * *', 'select private.restore_points_purge()');
select cron.schedule('audit-purge', '37 3 * * *', 'select private.audit_purge()');
select cron.schedule('traces-purge', '17 3 * * *', 'select private.traces_purge()');


-- sql/96_ops.sql

-- Operations: how the whole installation does, for whoever runs it. One call that is cheap however much there is: it
-- reads indexes, queues and the latest rows, and what it counts it counts up to a limit.

-- Of these milliseconds, the middle, what 95 of 100 stay below, and the worst; null when there are none.
create function private.ops_spread(p_milliseconds float8[]) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
    return (
        select case when count(*) > 0 then jsonb_build_object(
            'p50', round(percentile_cont(0.5) within group (order by ms)),
            'p95', round(percentile_cont(0.95) within group (order by ms)),
            'max', round(max(ms))) end
        from unnest(p_milliseconds) as ms);
end
$$;

create function private.ops_milliseconds(p_span interval) returns float8
language plpgsql immutable set search_path = '' as $$
begin
    return greatest(extract(epoch from p_span) * 1000, 0);
end
$$;

-- Deliveries of the last quarter of an hour, the latest 2,000 of them, in milliseconds, and what became of all.
-- told_to_stored: from the provider's time of a customer's message, which is in whole seconds, until we had it;
-- received_to_taken: until the database took a delivery up; taken_to_applied: its work; received_to_applied: both.
create function private.ops_webhook() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_since uuid := private.uuid7_at(now() - interval '15 minutes');
    v_answer jsonb;
begin
    with latest as materialized (
        select l.tenant_id, l.received_at, l.taken_at, l.applied_at, l.is_unmodelled
        from public.webhook_logs l
        where l.id >= v_since
        order by l.id desc
        limit 2000
    ),
    written as (
        select m.provider_at, m.created_at
        from (select distinct tenant_id from latest) as t
        cross join lateral (
            select m.provider_at, m.created_at
            from public.messages m
            where m.tenant_id = t.tenant_id and m.id >= v_since and m.direction = 'inbound'
                and m.conversation_id is not null
            order by m.id desc
            limit 100
        ) as m
    )
    select jsonb_build_object(
        'deliveries', count(*), 'is_more', count(*) = 2000,
        'unmodelled', count(*) filter (where l.is_unmodelled),
        'told_to_stored', (
            select private.ops_spread(array_agg(private.ops_milliseconds(w.created_at - w.provider_at))) from written w),
        'received_to_taken', private.ops_spread(array_agg(private.ops_milliseconds(l.taken_at - l.received_at))),
        -- one that was tried again says nothing about our speed
        'taken_to_applied', private.ops_spread(array_agg(private.ops_milliseconds(l.applied_at - l.taken_at))
            filter (where l.applied_at < l.taken_at + interval '1 minute')),
        'received_to_applied', private.ops_spread(array_agg(private.ops_milliseconds(l.applied_at - l.received_at))
            filter (where l.applied_at < l.taken_at + interval '1 minute')))
    into v_answer
    from latest l;
    return v_answer || jsonb_build_object(
        'failed', (select count(*) from (
            select from public.webhook_logs where status = 'failed' order by tenant_id limit 1000) as f),
        'dead', (select count(*) from (
            select from public.webhook_logs where status = 'dead' order by tenant_id limit 1000) as d));
end
$$;

-- What waits to be sent. Counts end at 1,000 for each number. due: it could go now; scheduled: its time has not come;
-- oldest_seconds: since when the oldest could have gone. The 100 businesses that wait longest.
create function private.ops_outbox() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return (
        with numbers as materialized (
            select n.tenant_id, lanes.*, hands.*
            from private.outbox_numbers() n
            cross join lateral (
                select sum(q.due) as due, sum(q.later) as scheduled, min(q.oldest) as oldest
                from unnest(array[0, 1, 2]::smallint []) as lane
                cross join lateral (
                    select count(*) filter (where o.due_at <= v_now) as due,
                        count(*) filter (where o.due_at > v_now) as later,
                        min(o.due_at) filter (where o.due_at <= v_now) as oldest
                    from (
                        select o.due_at from public.outbox o
                        where o.tenant_id = n.tenant_id and o.number_id = n.number_id and o.state = 'queued'
                            and o.priority = lane
                        order by o.due_at
                        limit 1000
                    ) as o
                ) as q
            ) as lanes
            cross join lateral (
                select count(*) filter (where o.state <> 'unknown') as in_hand,
                    count(*) filter (where o.state = 'unknown') as unknown
                from (
                    select o.state from public.outbox o
                    where o.tenant_id = n.tenant_id and o.number_id = n.number_id
                        and o.state in ('claimed', 'sending', 'unknown')
                    limit 1000
                ) as o
            ) as hands
        ),
        tenants as materialized (
            select tenant_id, sum(due) as due, sum(scheduled) as scheduled, sum(in_hand) as in_hand,
                sum(unknown) as unknown, round(extract(epoch from v_now - min(oldest))) as oldest_seconds
            from numbers
            group by tenant_id
        )
        select jsonb_build_object(
            'due', coalesce(sum(t.due), 0), 'scheduled', coalesce(sum(t.scheduled), 0),
            'in_hand', coalesce(sum(t.in_hand), 0), 'unknown', coalesce(sum(t.unknown), 0),
            'oldest_seconds', max(t.oldest_seconds), 'tenants', coalesce((
                select jsonb_agg(to_jsonb(w) order by w.oldest_seconds desc nulls last)
                from (select * from tenants order by oldest_seconds desc nulls last limit 100) as w), '[]'))
        from tenants t);
end
$$;

-- Chats that wait for an agent, the first 10,000. late_seconds: since when the latest should have been answered.
create function private.ops_replies() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'waiting', count(*), 'failing', count(*) filter (where r.attempts > 1),
            'late_seconds', coalesce(round(greatest(extract(epoch from now() - min(r.due_at)), 0)), 0))
        from (select attempts, due_at from public.pending_replies limit 10000) as r);
end
$$;

-- Runs of our functions in the last day, the latest 5,000, by job.
create function private.ops_runs() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(r.job, jsonb_build_object(
            'runs', r.runs, 'failures', r.failures, 'last_started_at', r.last_started_at,
            'last_error', r.errors[1], 'seconds', r.seconds)), '{}')
        from (
            select j.job, count(*) as runs, count(j.error) as failures, max(j.started_at) as last_started_at,
                array_agg(j.error order by j.started_at desc) filter (where j.error is not null) as errors,
                round(max(extract(epoch from j.finished_at - j.started_at)), 1) as seconds
            from (
                select * from public.job_runs
                where id >= private.uuid7_at(now() - interval '1 day')
                order by id desc
                limit 5000
            ) as j
            group by j.job
        ) as r);
end
$$;

-- The numbers a field of a schedule stands for: `*`, `*/15`, `7`, `10,40`, `8-18/2`.
create function private.cron_numbers(p_field text, p_from int, p_until int) returns int[]
language plpgsql immutable set search_path = '' as $$
begin
    return array(
        select distinct n
        from regexp_matches(p_field, '(?:^|,)(?:(\*)|(\d+)(?:-(\d+))?)(?:/(\d+))?(?=,|$)', 'g') as part
        cross join lateral generate_series(
            coalesce(part[2]::int, p_from),
            case when part[1] is not null then p_until else coalesce(part[3], part[2])::int end,
            coalesce(part[4]::int, 1)) as n
        order by 1);
end
$$;

-- When a schedule by minutes and hours (in UTC) was last due before p_at; null for others, and when that is more than
-- two days ago.
create function private.cron_last_due(p_schedule text, p_at timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_fields text[] := regexp_split_to_array(btrim(p_schedule), '\s+');
    v_minutes int[];
    v_hours int[];
begin
    if cardinality(v_fields) <> 5 or v_fields[3:5] <> '{*,*,*}' then
        return null;
    end if;
    v_minutes := private.cron_numbers(v_fields[1], 0, 59);
    v_hours := private.cron_numbers(v_fields[2], 0, 23);
    return (
        select max(h.at + make_interval(mins => m))
        from (
            select date_trunc('hour', p_at, 'UTC') - make_interval(hours => n) as at
            from generate_series(0, 48) as n
            where extract(hour from (p_at at time zone 'UTC') - make_interval(hours => n)) = any (v_hours)
            order by n
            limit 2
        ) as h
        cross join unnest(v_minutes) as m
        where h.at + make_interval(mins => m) <= p_at);
end
$$;

-- Schedules, by their latest 20,000 runs (a day and more): how they went, and whether one has not run though it was
-- due three minutes ago. One that was last due before the first run we know of says nothing; where none ever ran,
-- neither does one that was last due before the first business came.
create function private.ops_schedules() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    -- schedules follow business time, their runs are noted in real time
    v_ahead interval := private.clock() - now();
    v_first_at timestamptz := (select min(created_at) from public.users);
begin
    return (
        with runs as materialized (
            select d.jobid, d.status, d.return_message, d.start_time
            from cron.job_run_details d
            order by d.runid desc
            limit 20000
        )
        select coalesce(jsonb_object_agg(coalesce(j.jobname, j.jobid::text), jsonb_build_object(
            'schedule', j.schedule, 'is_active', j.active, 'last_started_at', r.last_at,
            'failures', coalesce(r.failures, 0), 'last_error', r.errors[1], 'last_due_at', due.at,
            'is_overdue', j.active and due.at is not null
                and coalesce(r.last_at, '-infinity') < due.at - interval '5 seconds'
                and coalesce(coalesce((select min(start_time) from runs), v_first_at) <= due.at, false))), '{}')
        from cron.job j
        left join (
            select jobid, max(start_time) as last_at,
                count(*) filter (where status = 'failed' and start_time > now() - interval '1 day') as failures,
                array_agg(return_message order by start_time desc)
                    filter (where status = 'failed' and start_time > now() - interval '1 day') as errors
            from runs
            group by jobid
        ) as r on r.jobid = j.jobid
        cross join lateral (
            select private.cron_last_due(j.schedule, now() + v_ahead - interval '3 minutes') - v_ahead as at
        ) as due);
end
$$;

-- Calls to our functions in the last hour. One that is not waited for any longer (timed_out) has not failed.
create function private.ops_net() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'queued', (select count(*) from (select from net.http_request_queue limit 1000) as q),
            'answered', count(*) filter (where r.status_code < 400),
            'timed_out', count(*) filter (where r.timed_out),
            'failed', count(*) filter (where r.is_failure),
            'last_failure', (array_agg(coalesce(r.error_msg, 'HTTP ' || r.status_code) order by r.created desc)
                filter (where r.is_failure))[1])
        from (
            select *, not coalesce(timed_out, false) and coalesce(status_code >= 400, true) as is_failure
            from net._http_response
            where created > now() - interval '1 hour'
            order by created desc
            limit 10000
        ) as r);
end
$$;

-- Access tokens of active numbers: those that have ended, and those that end within two weeks, the first 100.
create function private.ops_tokens() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return (
        select jsonb_build_object(
            'expired', count(*) filter (where s.expires_at <= v_now),
            'expiring', count(*) filter (where s.expires_at > v_now),
            'numbers', coalesce(jsonb_agg(jsonb_build_object('tenant_id', s.tenant_id, 'number_id', s.number_id,
                'expires_at', s.expires_at) order by s.expires_at) filter (where s.n <= 100), '[]'))
        from (
            select s.*, row_number() over (order by s.expires_at) as n
            from public.channel_secrets s
            join public.whatsapp_numbers w on w.tenant_id = s.tenant_id and w.id = s.number_id and w.is_active
            where s.kind = 'access_token' and s.expires_at < v_now + interval '14 days'
        ) as s);
end
$$;

-- Our twenty largest tables. rows is what the planner believes.
create function private.ops_tables() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(t.name, jsonb_build_object(
            'bytes', t.bytes, 'rows', t.rows, 'dead_rows', t.dead_rows, 'vacuumed_at', t.vacuumed_at)), '{}')
        from (
            select format('%s.%s', n.nspname, c.relname) as name, pg_total_relation_size(c.oid) as bytes,
                greatest(c.reltuples, 0)::bigint as rows, s.n_dead_tup as dead_rows,
                greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at
            from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname in ('public', 'private')
            left join pg_catalog.pg_stat_user_tables s on s.relid = c.oid
            where c.relkind = 'r'
            order by bytes desc
            limit 20
        ) as t);
end
$$;

-- Loops of workers that are awake, and those that died within the last day without saying so.
create function private.ops_workers() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(w.worker, jsonb_build_object('awake', w.awake, 'lost', w.lost)), '{}')
        from (
            select worker, count(*) filter (where lease_until > clock_timestamp()) as awake,
                count(*) filter (where lease_until <= clock_timestamp()) as lost
            from private.worker_leases
            where lease_until > now() - interval '1 day'
            group by worker
        ) as w);
end
$$;

-- Open alerts of all businesses by kind, of the first 10,000.
create function private.ops_alerts() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(a.kind, jsonb_build_object(
            'open', a.open, 'critical', a.critical, 'tenants', a.tenants, 'oldest_at', a.oldest_at)), '{}')
        from (
            select kind, count(*) as open, count(*) filter (where severity = 'critical') as critical,
                count(distinct tenant_id) as tenants, min(created_at) as oldest_at
            from (
                select tenant_id, kind, severity, created_at
                from public.alerts
                where resolved_at is null
                order by tenant_id, kind, subject  -- as its index has them
                limit 10000
            ) as open
            group by kind
        ) as a);
end
$$;

-- Definer: the secret key reads neither pg_cron's tables nor pg_net's. Nobody else may ask.
create function private.ops_status() returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
    return jsonb_build_object(
        'at', clock_timestamp(), 'business_time', private.clock(),
        'webhook', private.ops_webhook(), 'outbox', private.ops_outbox(), 'replies', private.ops_replies(),
        'runs', private.ops_runs(), 'schedules', private.ops_schedules(), 'net', private.ops_net(),
        'tokens', private.ops_tokens(), 'tables', private.ops_tables(), 'workers', private.ops_workers(),
        'alerts', private.ops_alerts());
end
$$;

create function public.ops_status() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return private.ops_status();
end
$$;
comment on function public.ops_status() is
    'How the installation does: {"at", "business_time", '
    '"webhook": {"deliveries", "is_more", "unmodelled", "told_to_stored", "received_to_taken", "taken_to_applied", '
    '"received_to_applied": {"p50", "p95", "max"} in ms, "failed", "dead"}, '
    '"outbox": {"due", "scheduled", "in_hand", "unknown", "oldest_seconds", "tenants": [the same of each]}, '
    '"replies": {"waiting", "failing", "late_seconds"}, '
    '"runs": {<job>: {"runs", "failures", "last_started_at", "last_error", "seconds": of the longest}}, '
    '"schedules": {<name>: {"schedule", "is_active", "last_started_at", "last_due_at", "is_overdue", "failures", '
    '"last_error"}}, "net": {"queued", "answered", "timed_out", "failed", "last_failure"}, '
    '"tokens": {"expired", "expiring", "numbers": [{"tenant_id", "number_id", "expires_at"}]}, '
    '"tables": {<name>: {"bytes", "rows", "dead_rows", "vacuumed_at"}}, "workers": {<name>: {"awake", "lost"}}, '
    '"alerts": {<kind>: {"open", "critical", "tenants", "oldest_at"}}}.';
grant execute on function private.ops_status(), public.ops_status() to service_role;
