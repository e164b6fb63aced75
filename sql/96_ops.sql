-- Operations: how the whole installation does, for whoever runs it. One call that is cheap however much there is: it
-- reads indexes, queues and the latest rows, and what it counts it counts up to a limit.

-- Of these milliseconds, the middle, what 95 of 100 stay below, and the worst; null when there are none.
create function private.ops_spread(p_milliseconds float8[]) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
    return (
        select case when count(*) > 0 then jsonb_build_object(
            'p50', round(percentile_cont(0.5) within group (order by ms)),
            'p95', round(percentile_cont(0.95) within group (order by ms)),
            'max', round(max(ms))) end
        from unnest(p_milliseconds) as ms);
end
$$;

create function private.ops_milliseconds(p_span interval) returns float8
language plpgsql immutable set search_path = '' as $$
begin
    return greatest(extract(epoch from p_span) * 1000, 0);
end
$$;

-- Deliveries of the last quarter of an hour, the latest 2,000 of them, in milliseconds, and what became of all.
-- told_to_stored: from the provider's time of a customer's message, which is in whole seconds, until we had it;
-- received_to_taken: until the database took a delivery up; taken_to_applied: its work; received_to_applied: both.
create function private.ops_webhook() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_since uuid := private.uuid7_at(now() - interval '15 minutes');
    v_answer jsonb;
begin
    with latest as materialized (
        select l.tenant_id, l.received_at, l.taken_at, l.applied_at, l.is_unmodelled
        from public.webhook_logs l
        where l.id >= v_since
        order by l.id desc
        limit 2000
    ),
    written as (
        select m.provider_at, m.created_at
        from (select distinct tenant_id from latest) as t
        cross join lateral (
            select m.provider_at, m.created_at
            from public.messages m
            where m.tenant_id = t.tenant_id and m.id >= v_since and m.direction = 'inbound'
                and m.conversation_id is not null
            order by m.id desc
            limit 100
        ) as m
    )
    select jsonb_build_object(
        'deliveries', count(*), 'is_more', count(*) = 2000,
        'unmodelled', count(*) filter (where l.is_unmodelled),
        'told_to_stored', (
            select private.ops_spread(array_agg(private.ops_milliseconds(w.created_at - w.provider_at))) from written w),
        'received_to_taken', private.ops_spread(array_agg(private.ops_milliseconds(l.taken_at - l.received_at))),
        -- one that was tried again says nothing about our speed
        'taken_to_applied', private.ops_spread(array_agg(private.ops_milliseconds(l.applied_at - l.taken_at))
            filter (where l.applied_at < l.taken_at + interval '1 minute')),
        'received_to_applied', private.ops_spread(array_agg(private.ops_milliseconds(l.applied_at - l.received_at))
            filter (where l.applied_at < l.taken_at + interval '1 minute')))
    into v_answer
    from latest l;
    return v_answer || jsonb_build_object(
        'failed', (select count(*) from (
            select from public.webhook_logs where status = 'failed' order by tenant_id limit 1000) as f),
        'dead', (select count(*) from (
            select from public.webhook_logs where status = 'dead' order by tenant_id limit 1000) as d));
end
$$;

-- What waits to be sent. Counts end at 1,000 for each number. due: it could go now; scheduled: its time has not come;
-- oldest_seconds: since when the oldest could have gone. The 100 businesses that wait longest.
create function private.ops_outbox() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return (
        with numbers as materialized (
            select n.tenant_id, lanes.*, hands.*
            from private.outbox_numbers() n
            cross join lateral (
                select sum(q.due) as due, sum(q.later) as scheduled, min(q.oldest) as oldest
                from unnest(array[0, 1, 2]::smallint []) as lane
                cross join lateral (
                    select count(*) filter (where o.due_at <= v_now) as due,
                        count(*) filter (where o.due_at > v_now) as later,
                        min(o.due_at) filter (where o.due_at <= v_now) as oldest
                    from (
                        select o.due_at from public.outbox o
                        where o.tenant_id = n.tenant_id and o.number_id = n.number_id and o.state = 'queued'
                            and o.priority = lane
                        order by o.due_at
                        limit 1000
                    ) as o
                ) as q
            ) as lanes
            cross join lateral (
                select count(*) filter (where o.state <> 'unknown') as in_hand,
                    count(*) filter (where o.state = 'unknown') as unknown
                from (
                    select o.state from public.outbox o
                    where o.tenant_id = n.tenant_id and o.number_id = n.number_id
                        and o.state in ('claimed', 'sending', 'unknown')
                    limit 1000
                ) as o
            ) as hands
        ),
        tenants as materialized (
            select tenant_id, sum(due) as due, sum(scheduled) as scheduled, sum(in_hand) as in_hand,
                sum(unknown) as unknown, round(extract(epoch from v_now - min(oldest))) as oldest_seconds
            from numbers
            group by tenant_id
        )
        select jsonb_build_object(
            'due', coalesce(sum(t.due), 0), 'scheduled', coalesce(sum(t.scheduled), 0),
            'in_hand', coalesce(sum(t.in_hand), 0), 'unknown', coalesce(sum(t.unknown), 0),
            'oldest_seconds', max(t.oldest_seconds), 'tenants', coalesce((
                select jsonb_agg(to_jsonb(w) order by w.oldest_seconds desc nulls last)
                from (select * from tenants order by oldest_seconds desc nulls last limit 100) as w), '[]'))
        from tenants t);
end
$$;

-- Chats that wait for an agent, the first 10,000. late_seconds: since when the latest should have been answered.
create function private.ops_replies() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'waiting', count(*), 'failing', count(*) filter (where r.attempts > 1),
            'late_seconds', coalesce(round(greatest(extract(epoch from now() - min(r.due_at)), 0)), 0))
        from (select attempts, due_at from public.pending_replies limit 10000) as r);
end
$$;

-- Runs of our functions in the last day, the latest 5,000, by job.
create function private.ops_runs() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(r.job, jsonb_build_object(
            'runs', r.runs, 'failures', r.failures, 'last_started_at', r.last_started_at,
            'last_error', r.errors[1], 'seconds', r.seconds)), '{}')
        from (
            select j.job, count(*) as runs, count(j.error) as failures, max(j.started_at) as last_started_at,
                array_agg(j.error order by j.started_at desc) filter (where j.error is not null) as errors,
                round(max(extract(epoch from j.finished_at - j.started_at)), 1) as seconds
            from (
                select * from public.job_runs
                where id >= private.uuid7_at(now() - interval '1 day')
                order by id desc
                limit 5000
            ) as j
            group by j.job
        ) as r);
end
$$;

-- The numbers a field of a schedule stands for: `*`, `*/15`, `7`, `10,40`, `8-18/2`.
create function private.cron_numbers(p_field text, p_from int, p_until int) returns int[]
language plpgsql immutable set search_path = '' as $$
begin
    return array(
        select distinct n
        from regexp_matches(p_field, '(?:^|,)(?:(\*)|(\d+)(?:-(\d+))?)(?:/(\d+))?(?=,|$)', 'g') as part
        cross join lateral generate_series(
            coalesce(part[2]::int, p_from),
            case when part[1] is not null then p_until else coalesce(part[3], part[2])::int end,
            coalesce(part[4]::int, 1)) as n
        order by 1);
end
$$;

-- When a schedule by minutes and hours (in UTC) was last due before p_at; null for others, and when that is more than
-- two days ago.
create function private.cron_last_due(p_schedule text, p_at timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_fields text[] := regexp_split_to_array(btrim(p_schedule), '\s+');
    v_minutes int[];
    v_hours int[];
begin
    if cardinality(v_fields) <> 5 or v_fields[3:5] <> '{*,*,*}' then
        return null;
    end if;
    v_minutes := private.cron_numbers(v_fields[1], 0, 59);
    v_hours := private.cron_numbers(v_fields[2], 0, 23);
    return (
        select max(h.at + make_interval(mins => m))
        from (
            select date_trunc('hour', p_at, 'UTC') - make_interval(hours => n) as at
            from generate_series(0, 48) as n
            where extract(hour from (p_at at time zone 'UTC') - make_interval(hours => n)) = any (v_hours)
            order by n
            limit 2
        ) as h
        cross join unnest(v_minutes) as m
        where h.at + make_interval(mins => m) <= p_at);
end
$$;

-- Schedules, by their latest 20,000 runs (a day and more): how they went, and whether one has not run though it was
-- due three minutes ago. One that was last due before the first run we know of says nothing; where none ever ran,
-- neither does one that was last due before the first business came.
create function private.ops_schedules() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    -- schedules follow business time, their runs are noted in real time
    v_ahead interval := private.clock() - now();
    v_first_at timestamptz := (select min(created_at) from public.users);
begin
    return (
        with runs as materialized (
            select d.jobid, d.status, d.return_message, d.start_time
            from cron.job_run_details d
            order by d.runid desc
            limit 20000
        )
        select coalesce(jsonb_object_agg(coalesce(j.jobname, j.jobid::text), jsonb_build_object(
            'schedule', j.schedule, 'is_active', j.active, 'last_started_at', r.last_at,
            'failures', coalesce(r.failures, 0), 'last_error', r.errors[1], 'last_due_at', due.at,
            'is_overdue', j.active and due.at is not null
                and coalesce(r.last_at, '-infinity') < due.at - interval '5 seconds'
                and coalesce(coalesce((select min(start_time) from runs), v_first_at) <= due.at, false))), '{}')
        from cron.job j
        left join (
            select jobid, max(start_time) as last_at,
                count(*) filter (where status = 'failed' and start_time > now() - interval '1 day') as failures,
                array_agg(return_message order by start_time desc)
                    filter (where status = 'failed' and start_time > now() - interval '1 day') as errors
            from runs
            group by jobid
        ) as r on r.jobid = j.jobid
        cross join lateral (
            select private.cron_last_due(j.schedule, now() + v_ahead - interval '3 minutes') - v_ahead as at
        ) as due);
end
$$;

-- Calls to our functions in the last hour. One that is not waited for any longer (timed_out) has not failed.
create function private.ops_net() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'queued', (select count(*) from (select from net.http_request_queue limit 1000) as q),
            'answered', count(*) filter (where r.status_code < 400),
            'timed_out', count(*) filter (where r.timed_out),
            'failed', count(*) filter (where r.is_failure),
            'last_failure', (array_agg(coalesce(r.error_msg, 'HTTP ' || r.status_code) order by r.created desc)
                filter (where r.is_failure))[1])
        from (
            select *, not coalesce(timed_out, false) and coalesce(status_code >= 400, true) as is_failure
            from net._http_response
            where created > now() - interval '1 hour'
            order by created desc
            limit 10000
        ) as r);
end
$$;

-- Access tokens of active numbers: those that have ended, and those that end within two weeks, the first 100.
create function private.ops_tokens() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return (
        select jsonb_build_object(
            'expired', count(*) filter (where s.expires_at <= v_now),
            'expiring', count(*) filter (where s.expires_at > v_now),
            'numbers', coalesce(jsonb_agg(jsonb_build_object('tenant_id', s.tenant_id, 'number_id', s.number_id,
                'expires_at', s.expires_at) order by s.expires_at) filter (where s.n <= 100), '[]'))
        from (
            select s.*, row_number() over (order by s.expires_at) as n
            from public.channel_secrets s
            join public.whatsapp_numbers w on w.tenant_id = s.tenant_id and w.id = s.number_id and w.is_active
            where s.kind = 'access_token' and s.expires_at < v_now + interval '14 days'
        ) as s);
end
$$;

-- Our twenty largest tables. rows is what the planner believes.
create function private.ops_tables() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(t.name, jsonb_build_object(
            'bytes', t.bytes, 'rows', t.rows, 'dead_rows', t.dead_rows, 'vacuumed_at', t.vacuumed_at)), '{}')
        from (
            select format('%s.%s', n.nspname, c.relname) as name, pg_total_relation_size(c.oid) as bytes,
                greatest(c.reltuples, 0)::bigint as rows, s.n_dead_tup as dead_rows,
                greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at
            from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname in ('public', 'private')
            left join pg_catalog.pg_stat_user_tables s on s.relid = c.oid
            where c.relkind = 'r'
            order by bytes desc
            limit 20
        ) as t);
end
$$;

-- Loops of workers that are awake, and those that died within the last day without saying so.
create function private.ops_workers() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(w.worker, jsonb_build_object('awake', w.awake, 'lost', w.lost)), '{}')
        from (
            select worker, count(*) filter (where lease_until > clock_timestamp()) as awake,
                count(*) filter (where lease_until <= clock_timestamp()) as lost
            from private.worker_leases
            where lease_until > now() - interval '1 day'
            group by worker
        ) as w);
end
$$;

-- Open alerts of all businesses by kind, of the first 10,000.
create function private.ops_alerts() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_object_agg(a.kind, jsonb_build_object(
            'open', a.open, 'critical', a.critical, 'tenants', a.tenants, 'oldest_at', a.oldest_at)), '{}')
        from (
            select kind, count(*) as open, count(*) filter (where severity = 'critical') as critical,
                count(distinct tenant_id) as tenants, min(created_at) as oldest_at
            from (
                select tenant_id, kind, severity, created_at
                from public.alerts
                where resolved_at is null
                order by tenant_id, kind, subject  -- as its index has them
                limit 10000
            ) as open
            group by kind
        ) as a);
end
$$;

-- Definer: the secret key reads neither pg_cron's tables nor pg_net's. Nobody else may ask.
create function private.ops_status() returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
    return jsonb_build_object(
        'at', clock_timestamp(), 'business_time', private.clock(),
        'webhook', private.ops_webhook(), 'outbox', private.ops_outbox(), 'replies', private.ops_replies(),
        'runs', private.ops_runs(), 'schedules', private.ops_schedules(), 'net', private.ops_net(),
        'tokens', private.ops_tokens(), 'tables', private.ops_tables(), 'workers', private.ops_workers(),
        'alerts', private.ops_alerts());
end
$$;

create function public.ops_status() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return private.ops_status();
end
$$;
comment on function public.ops_status() is
    'How the installation does: {"at", "business_time", '
    '"webhook": {"deliveries", "is_more", "unmodelled", "told_to_stored", "received_to_taken", "taken_to_applied", '
    '"received_to_applied": {"p50", "p95", "max"} in ms, "failed", "dead"}, '
    '"outbox": {"due", "scheduled", "in_hand", "unknown", "oldest_seconds", "tenants": [the same of each]}, '
    '"replies": {"waiting", "failing", "late_seconds"}, '
    '"runs": {<job>: {"runs", "failures", "last_started_at", "last_error", "seconds": of the longest}}, '
    '"schedules": {<name>: {"schedule", "is_active", "last_started_at", "last_due_at", "is_overdue", "failures", '
    '"last_error"}}, "net": {"queued", "answered", "timed_out", "failed", "last_failure"}, '
    '"tokens": {"expired", "expiring", "numbers": [{"tenant_id", "number_id", "expires_at"}]}, '
    '"tables": {<name>: {"bytes", "rows", "dead_rows", "vacuumed_at"}}, "workers": {<name>: {"awake", "lost"}}, '
    '"alerts": {<kind>: {"open", "critical", "tenants", "oldest_at"}}}.';
grant execute on function private.ops_status(), public.ops_status() to service_role;
