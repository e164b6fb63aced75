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
    constraint rate_cards_category_check check (category in ('service', 'utility', 'marketing', 'authentication')),
    constraint rate_cards_amount_check check (amount >= 0),
    constraint rate_cards_currency_check check (currency ~ '^[A-Z]{3}$')
);
comment on table public.rate_cards is
    'What a delivered message costs, by market and date; the ground of every estimate.';
comment on column public.rate_cards.phone_prefix is 'First digits of the customer''s number; empty: any other market.';
comment on column public.rate_cards.is_verified is
    'False until somebody compared it with the provider''s own price list.';

alter table public.rate_cards enable row level security;
grant select on public.rate_cards to authenticated;
grant select, insert, update, delete on public.rate_cards to service_role;
create policy rate_cards_select_anyone on public.rate_cards for select to authenticated using (true);

insert into public.rate_cards (phone_prefix, market, category, valid_from, amount, currency, source) values
    ('', 'Rest of Latin America', 'marketing', '2025-07-01', 0.0740, 'USD', 'Meta price list, July 2025'),
    ('', 'Rest of Latin America', 'utility', '2025-07-01', 0.0113, 'USD', 'Meta price list, July 2025'),
    ('', 'Rest of Latin America', 'authentication', '2025-07-01', 0.0113, 'USD', 'Meta price list, July 2025'),
    ('', 'Rest of Latin America', 'service', '2025-07-01', 0, 'USD', 'Meta pricing, July 2025: free in the window'),
    ('', 'Rest of Latin America', 'service', '2026-10-01', 0.0113, 'USD', 'Meta pricing, October 2026: as utility');

-- The price of one message. No number known: the rate of any other market.
create function private.price_of(p_phone text, p_category text, p_at timestamptz)
returns table (amount numeric, currency text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select r.amount, r.currency
    from public.rate_cards r
    where r.category = p_category
        and r.phone_prefix = any (array(select left(coalesce(p_phone, ''), n) from generate_series(0, 6) as n))
        and r.valid_from <= p_at::date
    order by length(r.phone_prefix) desc, r.valid_from desc
    limit 1;
end
$$;
grant execute on function private.price_of(text, text, timestamptz) to authenticated, service_role;

-- What the provider's pricing object means in money: nothing unless the type is regular, else the list price.
create function private.message_cost(p_tenant_id uuid, p_message_id uuid, p_pricing jsonb)
returns table (amount numeric, currency text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select case when p_pricing ->> 'type' is distinct from 'regular' then 0 else r.amount end, r.currency
    from public.messages m
    join public.customer_leads l on l.tenant_id = m.tenant_id and l.id = m.lead_id
    cross join lateral private.price_of(l.phone, p_pricing ->> 'category', m.provider_at) r
    where m.tenant_id = p_tenant_id and m.id = p_message_id;
end
$$;
grant execute on function private.message_cost(uuid, uuid, jsonb) to service_role;
