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
