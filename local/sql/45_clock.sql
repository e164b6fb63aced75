-- Business time of this machine: how far it is ahead of real time. Schedules follow it, and so does
-- private.clock() once 90_clock.sql has run.

create table local.clock (
    only_row boolean primary key default true check (only_row),
    ahead interval not null default '0'
);
insert into local.clock default values;
grant select on local.clock to public;
grant update (ahead) on local.clock to postgres;

-- Move the clock forwards; schedules missed on the way fire once, at once. Returns the new time.
create function local.clock_advance(p_by interval) returns timestamptz
language plpgsql set search_path = '' as $$
declare
    v_ahead interval;
begin
    if p_by is null or now() + p_by < now() then
        raise exception using errcode = '22023', message = 'The clock only moves forwards.',
            hint = 'Pass an interval that is not negative; for an earlier time start with a new data directory.';
    end if;
    -- kept in seconds: a month ahead must not grow or shrink when real time enters another month
    update local.clock
    set ahead = make_interval(secs => extract(epoch from now() + ahead + p_by - now())::float8)
    returning ahead into v_ahead;
    perform pg_notify('cron', '');
    return now() + v_ahead;
end
$$;
revoke execute on function local.clock_advance(interval) from public;
grant execute on function local.clock_advance(interval) to postgres;
