-- Ground for every domain: the private schema, what nobody gets by default, and the helpers all tables use.
-- Runs as role postgres (not a superuser) on Postgres 15 to 18.

-- Helpers live here. The schema is never exposed by the Data API; a function used by a policy or a trigger
-- needs no USAGE on it, one called by a SECURITY INVOKER function in public does.
create schema private;
comment on schema private is 'Helpers of the product; never exposed by the Data API.';
grant usage on schema private to authenticated, service_role;

-- Postgres gives EXECUTE on every new function to PUBLIC; only the global form takes that away.
alter default privileges for role postgres revoke execute on functions from public;
-- Projects older than 2026-10-30 give the API roles everything in public, newer ones nothing: here it is nothing.
alter default privileges for role postgres in schema public
    revoke all on tables from anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    revoke all on sequences from anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    revoke all on functions from anon, authenticated, service_role;

-- Hosted projects have both extensions to offer; the local platform brings schemas of the same names instead.
do $$
begin
    if to_regnamespace('cron') is null then
        create extension pg_cron;
    end if;
    if to_regnamespace('net') is null then
        create extension pg_net with schema extensions;
    end if;
end
$$;

-- A time-ordered id (RFC 9562, version 7). Never page by it: ids made in the same millisecond have no order.
-- plpgsql, because a pinned search_path stops a SQL function from being inlined: 2.4 us a call against 4.0.
create function private.uuid7() returns uuid
language plpgsql volatile parallel safe set search_path = '' as $$
begin
    -- 48 bits of milliseconds over a random v4, whose version bits 0100 become 0111
    return encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid;
end
$$;
grant execute on function private.uuid7() to authenticated, service_role;

-- The first id of a moment: whatever private.uuid7() made since then is not below it.
create function private.uuid7_at(p_at timestamptz) returns uuid
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return encode(
        substring(int8send((extract(epoch from p_at) * 1000)::bigint) from 3) || '\x70008000000000000000'::bytea,
        'hex')::uuid;
end
$$;
grant execute on function private.uuid7_at(timestamptz) to service_role;

-- The clock of business rules. Hosted it is now(); the local platform replaces it with one that can be moved
-- forwards. Leases, backoff and pacing use real time and never call this. Write (select private.clock()).
create function private.clock() returns timestamptz
language sql stable parallel safe set search_path = '' as $$
    select now()
$$;
grant execute on function private.clock() to authenticated, service_role;

-- Has a text nothing that anybody could see? Blanks of every width, marks of direction, fillers and the like are not.
create function private.is_blank(p_text text) returns boolean
language plpgsql immutable parallel safe set search_path = '' as $$
begin
    return coalesce(p_text, '') !~ ('[^\s\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f'
        || '\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb'
        || '\U000e0000-\U000e0fff]');
end
$$;
grant execute on function private.is_blank(text) to service_role;

-- before update: every table with an updated_at column has this trigger.
create function private.touch_updated_at() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.updated_at := now();
    return new;
end
$$;

-- HMAC-SHA256 (RFC 2104) from the builtin sha256(): pgcrypto is not everywhere.
create function private.hmac_sha256(p_key bytea, p_message bytea) returns bytea
language plpgsql immutable strict parallel safe set search_path = '' as $$
declare
    v_key bytea := case when length(p_key) > 64 then sha256(p_key) else p_key end;
    v_inner bytea;
    v_outer bytea;
begin
    v_key := v_key || decode(repeat('00', 64 - length(v_key)), 'hex');
    v_inner := v_key;
    v_outer := v_key;
    for i in 0..63 loop
        v_inner := set_byte(v_inner, i, get_byte(v_key, i) # 54);
        v_outer := set_byte(v_outer, i, get_byte(v_key, i) # 92);
    end loop;
    return sha256(v_outer || sha256(v_inner || p_message));
end
$$;

-- instead of writes to a view that sums up: without it they would be errors of the server, not refusals.
create function private.refuse_write() returns trigger
language plpgsql set search_path = '' as $$
begin
    raise exception using errcode = 'PT403', message = format('%I only sums up: it cannot be written.', tg_table_name),
        hint = 'Write to the tables it is made of.';
end
$$;
grant execute on function private.refuse_write() to authenticated, service_role;
