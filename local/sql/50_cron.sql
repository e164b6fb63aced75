-- pg_cron where the server has loaded it for this database, else a stand-in of the same tables, functions and
-- grants, whose jobs local/cron.py runs. One block, because only plpgsql can choose.

do $cron$
begin
    if 'pg_cron' = any (string_to_array(replace(current_setting('shared_preload_libraries'), ' ', ''), ','))
        and current_setting('cron.database_name', true) = current_database()
    then
        create extension pg_cron with schema pg_catalog;
        grant usage on schema cron to postgres with grant option;
        grant all on all tables in schema cron to postgres with grant option;
        revoke all on cron.job from postgres;
        grant select on cron.job to postgres with grant option;
        return;
    end if;

    create schema cron;

    create table cron.job (
        jobid bigserial primary key,
        schedule text not null,
        command text not null,
        nodename text not null default 'localhost',
        nodeport int not null default inet_server_port(),
        database text not null default current_database(),
        username text not null default current_user,
        active boolean not null default true,
        jobname text,
        scheduled_at timestamptz not null,  -- ours alone: the business time from which the schedule counts
        constraint jobname_username_uniq unique (jobname, username)
    );

    create table cron.job_run_details (
        jobid bigint,
        runid bigserial primary key,
        job_pid int,
        database text,
        username text,
        command text,
        status text,
        return_message text,
        start_time timestamptz,
        end_time timestamptz
    );

    -- 'N seconds', or five fields of *, numbers, names and ranges, with steps over * and ranges only.
    create function cron._is_schedule(p_schedule text) returns boolean
    language sql immutable set search_path = '' as $$
        with limits (n, low, high, names) as (values
            (1, 0, 59, null), (2, 0, 23, null), (3, 1, 31, null),
            (4, 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}'::text[]),
            (5, 0, 7, '{sun,mon,tue,wed,thu,fri,sat}')
        ),
        fields as (
            select n, field
            from unnest(regexp_split_to_array(lower(btrim(p_schedule)), '\s+')) with ordinality as _ (field, n)
        ),
        items as (
            select n, low, high, names, regexp_match(
                item, '^(?:(\*)|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([0-9]{1,2}))?$') as part
            from fields left join limits using (n), unnest(string_to_array(field, ',')) as item
            where not (n = 3 and field = '$')  -- the last day of the month
        ),
        numbers as (
            select items.*, number[1] as first, number[case when part[3] is null then 1 else 2 end] as last
            from items, lateral (
                select array_agg(coalesce(
                    array_position(names, word) - 1 + low,
                    case when word ~ '^[0-9]{1,2}$' then word::int end) order by i)
                from unnest(part[2:3]) with ordinality as _ (word, i)
            ) as _ (number)
        )
        select p_schedule ~* '^\s*([1-9]|[1-5][0-9])\s+seconds?\s*$'
            or (select count(*) = 5 from fields)
            and not exists (
                select from numbers
                where (part[1] is not null or first >= low and first <= last and last <= high) is not true
                    or part[4]::int = 0
                    or part[4] is not null and part[1] is null and part[3] is null
            )
    $$;

    create function cron._take_schedule() returns trigger
    language plpgsql set search_path = '' as $$
    begin
        if not cron._is_schedule(new.schedule) then
            raise exception using errcode = '22023', message = format('invalid schedule: %s', new.schedule),
                hint = 'Use cron format (e.g. 5 4 * * *), or interval format ''[1-59] seconds''.';
        end if;
        new.scheduled_at := now() + (select ahead from local.clock);
        return new;
    end
    $$;
    create trigger take_schedule before insert or update on cron.job
    for each row execute function cron._take_schedule();

    create function cron._wake_worker() returns trigger
    language plpgsql set search_path = '' as $$
    begin
        notify cron;
        return null;
    end
    $$;
    create trigger wake_worker after insert or update or delete on cron.job
    for each statement execute function cron._wake_worker();

    -- Definer, because postgres may not write cron.job; the callers below pass who they are.
    create function cron._schedule(
        p_name text, p_schedule text, p_command text, p_database text, p_username text, p_active boolean
    ) returns bigint
    language sql security definer set search_path = '' as $$
        insert into cron.job (jobname, schedule, command, database, username, active)
        values (p_name, p_schedule, p_command, p_database, p_username, p_active)
        on conflict on constraint jobname_username_uniq do update
        set schedule = excluded.schedule, command = excluded.command
        returning jobid
    $$;

    create function cron.schedule(schedule text, command text) returns bigint
    language sql set search_path = '' as $$
        select cron._schedule(null, schedule, command, current_database(), current_user, true)
    $$;

    create function cron.schedule(job_name text, schedule text, command text) returns bigint
    language sql set search_path = '' as $$
        select cron._schedule(job_name, schedule, command, current_database(), current_user, true)
    $$;

    create function cron.schedule_in_database(
        job_name text, schedule text, command text, database text, username text default null,
        active boolean default true
    ) returns bigint
    language sql set search_path = '' as $$
        select cron._schedule(job_name, schedule, command, database, coalesce(username, current_user), active)
    $$;

    -- A null keeps what is there.
    create function cron.alter_job(
        job_id bigint, schedule text default null, command text default null, database text default null,
        username text default null, active boolean default null
    ) returns void
    language plpgsql security definer set search_path = '' as $$
    begin
        update cron.job as j
        set schedule = coalesce(alter_job.schedule, j.schedule),
            command = coalesce(alter_job.command, j.command),
            database = coalesce(alter_job.database, j.database),
            username = coalesce(alter_job.username, j.username),
            active = coalesce(alter_job.active, j.active)
        where j.jobid = job_id;
        if not found then
            raise exception using errcode = 'XX000',
                message = format('Job %s does not exist or you don''t own it', job_id);
        end if;
    end
    $$;

    create function cron.unschedule(job_id bigint) returns boolean
    language plpgsql security definer set search_path = '' as $$
    begin
        delete from cron.job where jobid = job_id;
        if not found then
            raise exception using errcode = 'XX000',
                message = format('could not find valid entry for job ''%s''', job_id);
        end if;
        return true;
    end
    $$;

    create function cron.unschedule(job_name text) returns boolean
    language plpgsql security definer set search_path = '' as $$
    begin
        delete from cron.job where jobname = job_name;
        if not found then
            raise exception using errcode = 'XX000',
                message = format('could not find valid entry for job ''%s''', job_name);
        end if;
        return true;
    end
    $$;

    -- Functions keep their EXECUTE for everybody, as pg_cron's do: without USAGE nobody else gets that far.
    grant usage on schema cron to postgres with grant option;
    grant select on cron.job to postgres with grant option;
    grant all on cron.job_run_details to postgres with grant option;
end
$cron$;
