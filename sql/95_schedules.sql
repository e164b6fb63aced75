-- How the database calls functions: signed, after commit, and without waiting for the answer.

-- Post `p_body` to a function. Its URL (a template with {function} in it) and the signing secret are in Vault
-- as functions_url and functions_secret. The answer does not matter here: a call that is lost costs a delay,
-- since every schedule sweeps up what an earlier call missed. Returns pg_net's request id.
create function private.invoke(p_function text, p_body jsonb default '{}') returns bigint
language plpgsql volatile set search_path = '' as $$
declare
    v_url text := (select decrypted_secret from vault.decrypted_secrets where name = 'functions_url');
    v_secret text := (select decrypted_secret from vault.decrypted_secrets where name = 'functions_secret');
    v_at text := floor(extract(epoch from clock_timestamp()))::bigint::text;
begin
    if v_url is null or v_secret is null then
        raise exception using
            errcode = 'PT500',
            message = 'The database does not know where its functions are.',
            hint = 'Store functions_url (a URL with {function} in it) and functions_secret with vault.create_secret.';
    end if;
    return net.http_post(
        url := replace(v_url, '{function}', p_function),
        body := p_body,
        headers := jsonb_build_object(
            'Content-Type', 'application/json',
            'X-Recado-Timestamp', v_at,
            -- pg_net sends body::text of this very value; request headers stay readable in its queue,
            -- so they carry a signature, never the secret
            'X-Recado-Signature', 'sha256=' || encode(private.hmac_sha256(
                convert_to(v_secret, 'utf8'), convert_to(v_at || '.' || p_body::text, 'utf8')), 'hex')),
        timeout_milliseconds := 2000);
end
$$;
comment on function private.invoke(text, jsonb) is 'Calls a function of ours, signed; for schedules and wake-ups.';

-- worker_leases: loops of workers that are awake. While there is one, new work needs to wake nobody: it looks again
-- within a quarter of a second. A loop says every second that it lives; one that died is believed for five.
create table private.worker_leases (
    worker text,
    loop_id uuid,
    lease_until timestamptz not null,
    constraint worker_leases_pkey primary key (worker, loop_id)
) with (fillfactor = 50);
comment on table private.worker_leases is 'Loops of workers that are awake.';

alter table private.worker_leases enable row level security;
grant select, insert, update, delete on private.worker_leases to service_role;

-- Is there anything that a loop of this worker would do now, or soon enough to wait for it?
create function private.worker_has_work(p_worker text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return case p_worker
        when 'reply' then exists (
            select from public.pending_replies r
            where greatest(r.due_at, r.lease_until) < now() + interval '15 seconds')
        when 'deliver' then coalesce(private.outbox_next_in() < 15, false)
        when 'crm-analysis' then private.analyses_waiting()
        when 'process-sequences' then private.sequences_waiting()
        when 'daily-actions' then exists (select from private.daily_tenants(null, false)) or private.daily_waiting()
        else false
    end;
end
$$;

-- Something is due: wake the worker, unless a loop of it is awake or a call to it is already under way. To be
-- called last in a transaction that made work; a wake-up that is lost costs the time until the next sweep.
-- Definer: whoever makes work, staff included, may wake a worker, but not read Vault.
create function private.wake(p_worker text) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_url text;
begin
    -- many transactions make work at the same moment: one of them calls
    if not pg_try_advisory_xact_lock(hashtext('private.wake'), hashtext(p_worker))
        or exists (select from private.worker_leases where worker = p_worker and lease_until > clock_timestamp())
    then
        return;
    end if;
    select replace(decrypted_secret, '{function}', p_worker) into v_url
    from vault.decrypted_secrets where name = 'functions_url';
    -- pg_net deletes a request only when its round ends; a database without functions has none to wake
    if v_url is not null and not exists (select from net.http_request_queue where url = v_url) then
        perform private.invoke(p_worker);
    end if;
end
$$;
grant execute on function private.worker_has_work(text), private.wake(text) to service_role;

-- A loop is awake, for p_seconds from now.
create function public.worker_beat(p_worker text, p_loop_id uuid, p_seconds int) returns void
language sql set search_path = '' as $$
    insert into private.worker_leases as l (worker, loop_id, lease_until)
    values (p_worker, p_loop_id, clock_timestamp() + make_interval(secs => p_seconds))
    on conflict on constraint worker_leases_pkey do update set lease_until = excluded.lease_until
$$;

-- A loop goes. Who makes work meanwhile either sees its lease gone, or is seen here: the lock is the one of wake().
create function public.worker_leave(p_worker text, p_loop_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    perform pg_advisory_xact_lock(hashtext('private.wake'), hashtext(p_worker));
    delete from private.worker_leases
    where worker = p_worker and (loop_id = p_loop_id or lease_until < clock_timestamp());
    if private.worker_has_work(p_worker) then
        perform private.wake(p_worker);
    end if;
end
$$;
grant execute on function public.worker_beat(text, uuid, int), public.worker_leave(text, uuid) to service_role;

-- What watches over the work leaves traces too: they are kept as long as somebody may ask.
create function private.traces_purge() returns void
language plpgsql set search_path = '' as $$
begin
    delete from cron.job_run_details where end_time < now() - interval '7 days';
    delete from net._http_response where created < now() - interval '6 hours';
    delete from public.job_runs where tenant_id is null and started_at < now() - interval '30 days';
    delete from private.chat_pacing where free_at < now() - interval '1 day';
end
$$;

-- Schedules. Scheduling a name again replaces it. Five fields only: not every pg_cron knows seconds.
select cron.schedule('activity-flush', '* * * * *', 'select public.activity_flush()');
select cron.schedule('webhook-retry', '* * * * *', 'select public.webhook_retry()');
select cron.schedule('webhook-purge', '41 * * * *', 'select public.webhook_purge()');
select cron.schedule('numbers-watch', '7 * * * *', 'select public.numbers_watch()');
select cron.schedule('stats-refresh', '11 * * * *', 'select public.stats_refresh()');
select cron.schedule('number-health', '16 * * * *', 'select public.number_health_watch()');
select cron.schedule('outbox-sweep', '* * * * *', 'select public.outbox_sweep()');
select cron.schedule('conversations-close-idle', '*/5 * * * *', 'select public.conversations_close_idle()');
-- what no wake-up reached: lost ones, retries, work of a loop that died
select cron.schedule(
    'reply-sweep', '* * * * *', $$select private.wake('reply') where private.worker_has_work('reply')$$);
select cron.schedule(
    'deliver-sweep', '* * * * *', $$select private.wake('deliver') where private.worker_has_work('deliver')$$);
select cron.schedule(
    'crm-analysis', '*/15 * * * *',
    $$select private.wake('crm-analysis') where private.worker_has_work('crm-analysis')$$);
-- the second call revokes what the first replaced, when no worker remembers it any more
select cron.schedule('refresh-tokens', '10,40 4 * * *', $$select private.invoke('refresh-tokens')
    where exists (select from public.channel_secrets where kind <> 'webhook_secret')$$);
-- every minute: a quarter of an hour would miss businesses whose hour is the last of their day
select cron.schedule(
    'daily-actions', '* * * * *',
    $$select private.wake('daily-actions') where private.worker_has_work('daily-actions')$$);
-- hourly does as well: what was missed is caught up with
select cron.schedule(
    'process-sequences', '* * * * *',
    $$select private.wake('process-sequences') where private.worker_has_work('process-sequences')$$);
select cron.schedule('backfill', '*/10 * * * *', $$select private.wake('backfill')
    where exists (select from public.whatsapp_numbers where provider <> 'cloud_api' and is_active)$$);
select cron.schedule('detect-blocks', '23 */6 * * *', $$select private.wake('detect-blocks')
    where exists (select from public.whatsapp_numbers where is_active)$$);
select cron.schedule('sync-templates', '41 4 * * *', $$select private.wake('sync-templates')
    where exists (select from public.whatsapp_numbers where is_active and coalesce(waba_id, account_id) is not null)$$);
select cron.schedule('sequences-resume', '* * * * *', 'select private.sequences_resume()');
select cron.schedule('configuration-backup', '23 * * * *', 'select private.configuration_backup()');
select cron.schedule('restore-points-purge', '39 3 * * *', 'select private.restore_points_purge()');
select cron.schedule('audit-purge', '37 3 * * *', 'select private.audit_purge()');
select cron.schedule('traces-purge', '17 3 * * *', 'select private.traces_purge()');
