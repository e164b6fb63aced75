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
