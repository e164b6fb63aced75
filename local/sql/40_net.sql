-- Stand-in for pg_net: the same functions, tables and grants; local/net.py sends what is queued.

create schema net;

create domain net.http_method as text check (value in ('GET', 'POST', 'DELETE'));

create unlogged table net.http_request_queue (
    id bigserial,
    method net.http_method not null,
    url text not null,
    headers jsonb,
    body bytea,
    timeout_milliseconds int not null
);

create unlogged table net._http_response (
    id bigint,
    status_code int,
    content_type text,
    headers jsonb,
    content text,
    timed_out boolean,
    error_msg text,
    created timestamptz not null default now()
);
create index on net._http_response (created);

-- Percent-encoded: all but the unreserved characters of RFC 3986.
create function net._urlencode_string(string text) returns text
language sql immutable strict set search_path = '' as $$
    select string_agg(
        case
            when c ~ '[A-Za-z0-9_.~-]' then c
            else regexp_replace(upper(encode(convert_to(c, 'utf8'), 'hex')), '(..)', '%\1', 'g')
        end, '' order by n)
    from unnest(string_to_array(string, null)) with ordinality as _ (c, n)
$$;

-- Queue a request and wake the worker once the caller commits; an insert alone wakes nobody, as hosted.
create function net._enqueue(
    p_method text, p_url text, p_params jsonb, p_headers jsonb, p_body jsonb, p_timeout int
) returns bigint
language sql set search_path = '' as $$
    select pg_notify('net', '');
    insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
    select
        p_method,
        p_url || coalesce(case when strpos(p_url, '?') > 0 then '&' else '?' end || string_agg(
            net._urlencode_string(key) || '=' || net._urlencode_string(value), '&'), ''),
        p_headers,
        convert_to(p_body::text, 'utf8'),
        p_timeout
    from jsonb_each_text(p_params)
    returning id
$$;

create function net.http_get(
    url text, params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds int default 5000
) returns bigint
language sql set search_path = '' as $$
    select net._enqueue('GET', url, params, headers, null, timeout_milliseconds)
$$;

create function net.http_post(
    url text, body jsonb default '{}', params jsonb default '{}',
    headers jsonb default '{"Content-Type": "application/json"}', timeout_milliseconds int default 5000
) returns bigint
language plpgsql set search_path = '' as $$
declare
    v_type text := (select value from jsonb_each_text(headers) where lower(key) = 'content-type' limit 1);
begin
    if body is null then
        raise exception 'body must not be null';
    elsif v_type <> 'application/json' then
        raise exception 'Content-Type header must be "application/json"';
    elsif v_type is null then
        headers := coalesce(headers, '{}') || '{"Content-Type": "application/json"}';
    end if;
    return net._enqueue('POST', url, params, headers, body, timeout_milliseconds);
end
$$;

create function net.http_delete(
    url text, params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds int default 5000,
    body jsonb default null
) returns bigint
language sql set search_path = '' as $$
    select net._enqueue('DELETE', url, params, headers, body, timeout_milliseconds)
$$;

grant usage on schema net to public;
grant all on all tables in schema net to public;
grant all on all sequences in schema net to public;

-- How the worker misbehaves while a row is here: a request is dropped, sent twice, or sent late.
create table local.net_faults (
    kind text primary key check (kind in ('drop', 'double', 'stall')),
    probability real not null default 1 check (probability between 0 and 1),
    remaining int check (remaining >= 0),
    milliseconds int not null default 1000 check (milliseconds >= 0),
    happened int not null default 0
);
comment on column local.net_faults.remaining is 'How many more requests it may hit; null is no limit.';
comment on column local.net_faults.milliseconds is 'How long a stalled request waits before it is sent.';
grant all on local.net_faults to postgres;
