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
