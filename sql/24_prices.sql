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
