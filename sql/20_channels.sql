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
