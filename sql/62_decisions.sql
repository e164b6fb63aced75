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
