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
