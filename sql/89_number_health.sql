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
