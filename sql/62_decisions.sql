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
    for v_moment in
        select p_at
        union
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

-- Something that may be sent. ref is the asker's own id for it. template_id: the template it is made of, if that is
-- known; is_forced: a member of staff has decided that it goes out against the rules.
create type private.send_candidate as (
    ref uuid, tenant_id uuid, chat_id uuid, purpose text, is_template boolean, category text, template_id uuid,
    is_forced boolean
);

-- May these be sent now, and what would it cost? The one place that knows. Verdicts: send, wait (until not_before, by
-- private.clock(); then ask again), template (only as a template), manual (a person must decide), never. Every reason
-- is in private.send_phrases(), said in words; with the verdict send any but window_open, no_window and template is a
-- warning. is_forced overrides what a person may judge: a refusal of marketing, a block, a takeover, hours and quality;
-- the message goes out with that as its warning. Nobody overrides a refusal of all messages, what the provider would
-- not deliver anyway, or the plan. Where only so many may go (plan, Meta's messaging limit), the first ones asked for
-- get the places.
create function private.send_decisions(p_candidates private.send_candidate[])
returns table (
    ref uuid, verdict text, reason text, not_before timestamptz, price_class text, estimated_cost numeric,
    currency text, is_verified boolean
)
-- planned for what is asked: one preview and a hundred thousand steps of sequences want other joins
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
#variable_conflict use_column
declare
    v_now timestamptz := private.clock();
    v_look_again timestamptz := v_now + interval '1 hour';
begin
    return query
    with facts as materialized (
        select
            k.ordinality as n, k.ref, k.tenant_id, c.number_id, c.lead_id, k.purpose,
            k.purpose not in ('reply', 'staff') as is_bulk,
            k.is_forced is true as is_forced,
            n.provider, n.is_active, n.timezone as number_zone, n.messaging_limit, n.quality_rating,
            coalesce(n.portfolio_id, n.waba_id, n.id::text) as portfolio,
            (v_now at time zone n.timezone)::date as today,
            coalesce(left(l.phone, 6), hidden.prefix, '') as prefix, l.timezone as lead_zone, l.opt_out_scope,
            c.block_state, c.agent_paused_until > v_now as is_taken_over,
            -- the answer that opens it is free already
            c.free_entry_until > v_now or private.free_entry_reply_by(c) >= v_now as is_free_entry,
            n.provider = 'whapi' or c.window_expires_at > v_now and not (
                -- what was written before the number came to the API opened no window
                n.is_coexistence
                and c.window_expires_at < date_trunc('second', n.created_at) + interval '24 hours') as is_open,
            k.is_template is true as is_template,
            coalesce(t.category, k.category, 'marketing') as category,
            case when k.template_id is null then 'approved'
                when t.provider = n.provider and t.waba_id = case n.provider
                    when 'twilio' then n.account_id else n.waba_id end then t.status
                else 'missing' end as template_status,
            s.quiet_hours is not null or n.business_hours is not null as has_hours,
            p.paused_until > now() as is_paused, p.paused_until, p.bulk_paused_until > now() as is_bulk_paused,
            p.bulk_paused_until,
            case when p.service_month >= date_trunc('month', v_now at time zone n.timezone) then p.service_count
                else 0 end as service_count
        from unnest(p_candidates) with ordinality as k
        join public.chats c on c.tenant_id = k.tenant_id and c.id = k.chat_id
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.tenant_settings s on s.tenant_id = c.tenant_id
        left join public.number_pacing p on p.tenant_id = c.tenant_id and p.number_id = c.number_id
        left join public.message_templates t on t.tenant_id = k.tenant_id and t.id = k.template_id
        -- who hides their phone shows their country all the same
        left join lateral (
            select min(g.prefix) as prefix
            from public.lead_identities i
            join public.calling_codes g on g.country = split_part(i.value, '.', 1)
            where l.phone is null and i.tenant_id = l.tenant_id and i.lead_id = l.id and i.kind = 'bsuid'
                and i.valid_to = 'infinity'
        ) as hidden on l.phone is null
    ),
    places as materialized (
        select d.prefix, g.country, g.timezone
        from (select distinct f.prefix from facts f) as d
        left join lateral (
            select * from public.calling_codes g
            where g.prefix in (left(d.prefix, 1), left(d.prefix, 2), left(d.prefix, 3), left(d.prefix, 4))
            order by length(g.prefix) desc
            limit 1
        ) as g on true
    ),
    placed as (
        select f.*, coalesce(f.lead_zone, g.timezone, f.number_zone) as zone, g.country
        from facts f
        join places g on g.prefix = f.prefix
    ),
    hours as materialized (
        select d.number_id, d.zone, o.open_at,
            case when o.open_at is null then 'hours_never_open'
                when private.is_quiet(s.quiet_hours, d.zone, v_now) then 'quiet_hours'
                else 'outside_business_hours' end as reason
        from (select distinct p.tenant_id, p.number_id, p.zone from placed p where p.is_bulk and p.has_hours) as d
        join public.tenant_settings s on s.tenant_id = d.tenant_id
        join public.whatsapp_numbers n on n.tenant_id = d.tenant_id and n.id = d.number_id
        cross join lateral private.first_open(
            s.quiet_hours, d.zone, n.business_hours, n.timezone, v_now) as o (open_at)
        where o.open_at is distinct from v_now
    ),
    ruled as materialized (
        select
            p.n, p.ref, p.tenant_id, p.lead_id, p.purpose, p.portfolio, p.messaging_limit, p.prefix, p.provider,
            p.today,
            case
                when not p.is_active then 'number_inactive'
                when p.opt_out_scope = 'all' then 'opted_out'
                when not p.is_forced and p.opt_out_scope = 'marketing'
                    and (p.is_bulk or p.is_template and p.category = 'marketing') then 'opted_out_of_marketing'
                when not p.is_forced and p.is_bulk and p.block_state = 'confirmed' then 'blocked'
                when not p.is_forced and p.purpose = 'reply' and p.is_taken_over then 'human_takeover'
                when p.is_template and p.provider = 'whapi' then 'templates_unsupported'
                when not p.is_template and p.is_open is not true then 'window_closed'
                when p.is_template and p.template_status not in ('approved', 'flagged', 'reinstated', 'unarchived')
                    then case
                        when p.template_status in ('missing', 'rejected', 'paused')
                            then 'template_' || p.template_status
                        when p.template_status in ('pending', 'in_appeal') then 'template_pending'
                        else 'template_disabled'
                    end
                when p.is_template and p.category = 'marketing' and p.country = 'US' then 'marketing_to_us'
                when p.is_paused then 'number_paused'
                when p.is_bulk and p.is_bulk_paused then 'bulk_paused'
                when not p.is_forced and p.is_bulk and p.block_state = 'probable' then 'probably_blocked'
                when not p.is_forced and p.is_bulk and p.quality_rating = 'RED' and p.provider <> 'whapi'
                    then 'quality_low'
                when not p.is_forced then h.reason
            end as held,
            case
                when p.opt_out_scope = 'marketing'
                    and (p.purpose <> 'reply' or p.is_template and p.category = 'marketing')
                    then 'opted_out_of_marketing'
                when p.purpose <> 'reply' and p.block_state = 'confirmed' then 'blocked'
                when p.purpose = 'reply' and p.is_taken_over then 'human_takeover'
                when p.purpose <> 'reply' and p.block_state = 'probable' then 'probably_blocked'
                when p.purpose <> 'reply' and p.quality_rating = 'RED' and p.provider <> 'whapi' then 'quality_low'
                when h.reason is not null then h.reason
                when p.provider = 'whapi' then 'no_window'
                when p.is_open then 'window_open'
                else 'template'
            end as noted,
            case
                when p.is_paused then p.paused_until
                when p.is_bulk and p.is_bulk_paused then p.bulk_paused_until
            end as paused_until,
            h.open_at,
            p.is_template and p.is_open is not true as is_outreach,
            case
                when p.provider = 'whapi' then 'none'
                when p.is_free_entry then 'free_entry_point'
                when p.is_template then p.category
                when p.is_open then 'service'
                -- what it would take: a template, of the cheaper kind
                else 'utility'
            end as class,
            p.is_open and (
                not p.is_template and p.today >= '2026-10-01' and p.service_count < 1000
                or p.is_template and p.category = 'utility' and p.today < '2026-10-01') is true as is_free
        from placed p
        left join hours h on p.is_bulk and h.number_id = p.number_id and h.zone = p.zone
    ),
    quotas as (
        select d.tenant_id, greatest(l.max_messages_per_month - coalesce(m.sent, 0), 0) as places,
            (o.month + interval '1 month') at time zone u.timezone as renewed_at
        from (select distinct r.tenant_id from ruled r where r.held is null and r.purpose <> 'reply') as d
        join public.users u on u.id = d.tenant_id
        cross join lateral private.tenant_limits(d.tenant_id) as l
        cross join lateral date_trunc('month', v_now at time zone u.timezone) as o (month)
        left join lateral (
            select sum(s.sent) as sent from public.monthly_sends s
            where s.tenant_id = d.tenant_id and s.month = o.month::date
        ) as m on true
        where l.max_messages_per_month is not null
    ),
    over_plan as (
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
    over_tier as (
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
        select d.prefix, d.class, d.today, d.provider, r.amount, coalesce(r.currency, fee.currency) as currency,
            coalesce(fee.amount, 0) as fee, r.is_verified, coalesce(fee.is_verified, true) as is_fee_verified
        from (select distinct r.prefix, r.class, r.today, r.provider from ruled r) as d
        left join lateral private.price_of(d.prefix, d.class, d.today) as r on true
        left join lateral private.price_of('', d.provider || '_fee', d.today) as fee on d.provider = 'twilio'
    )
    select
        r.ref,
        case
            when v.reason is null then 'send'
            when v.reason = 'window_closed' then case when r.purpose in ('reply', 'sequence') then 'manual'
                else 'template' end
            when v.reason in ('number_inactive', 'opted_out', 'opted_out_of_marketing', 'blocked', 'human_takeover',
                'templates_unsupported', 'marketing_to_us') then 'never'
            -- a person who writes now does not mean next month
            when v.reason = 'plan_quota' and r.purpose = 'staff' then 'never'
            when v.reason = 'hours_never_open' or v.reason like 'template\_%' then 'manual'
            else 'wait'
        end,
        coalesce(v.reason, r.noted),
        case
            when v.reason in ('number_paused', 'bulk_paused') then case when isfinite(r.paused_until)
                then v_now + (r.paused_until - now()) else v_look_again end
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
    join rates x on x.prefix = r.prefix and x.class = r.class and x.today = r.today and x.provider = r.provider;
end
$$;

grant execute on function
    private.hours_edges(jsonb, text, text, timestamptz), private.is_quiet(jsonb, text, timestamptz),
    private.first_open(jsonb, text, jsonb, text, timestamptz), private.send_decisions(private.send_candidate[])
    to authenticated, service_role;
grant execute on function private.free_entry_open(private.sent[]), private.sends_noted(private.sent[]) to service_role;
