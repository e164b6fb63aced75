-- Backfill: Whapi and Twilio give a delivery up after a while, or at once; so their own lists of messages are read,
-- from where they were read last. What they hold goes through webhook_receive(), which has most of it already.

-- backfills: how far the list of each number was read. Business time, as the provider's times are; due_at, leases and
-- pauses are real time.
create table private.backfills (
    tenant_id uuid,
    number_id uuid,
    read_until timestamptz not null,
    due_at timestamptz not null default now(),
    failures int not null default 0,
    claim uuid,
    lease_until timestamptz,
    constraint backfills_pkey primary key (tenant_id, number_id),
    constraint backfills_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id) on delete cascade
);
comment on table private.backfills is 'How far a provider''s own list of messages was read, by number.';
comment on column private.backfills.read_until is 'Everything the provider had until then was taken.';

alter table private.backfills enable row level security;
grant select, insert, update, delete on private.backfills to service_role;

-- Take numbers whose list is due, for p_lease_seconds: {"claim", "now", "numbers": [{"tenant_id", "number_id",
-- "provider", "provider_number_id", "phone_number", "account_id", "token", "since"}]}. For memory only.
create function public.backfill_claim(p_limit int default 10, p_lease_seconds int default 300) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_claim uuid := private.uuid7();
    v_now timestamptz := private.clock();
    v_numbers jsonb;
begin
    -- a number begins with its connection: what came before is not this business's to read
    insert into private.backfills (tenant_id, number_id, read_until)
    select n.tenant_id, n.id, greatest(n.created_at, v_now - interval '1 day')
    from public.whatsapp_numbers n
    where n.provider in ('whapi', 'twilio') and n.is_active
    order by n.tenant_id, n.id
    on conflict on constraint backfills_pkey do nothing;

    with due as materialized (
        select b.tenant_id, b.number_id
        from private.backfills b
        join public.whatsapp_numbers n on n.tenant_id = b.tenant_id and n.id = b.number_id
        where n.is_active and b.due_at <= clock_timestamp() and coalesce(b.lease_until < clock_timestamp(), true)
        order by b.due_at, b.tenant_id, b.number_id
        limit p_limit
        for update of b skip locked
    ),
    taken as (
        update private.backfills b
        set claim = v_claim, lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from due
        where b.tenant_id = due.tenant_id and b.number_id = due.number_id
        returning b.tenant_id, b.number_id, b.read_until
    )
    select jsonb_agg(jsonb_build_object(
        'tenant_id', t.tenant_id, 'number_id', t.number_id, 'since', t.read_until, 'provider', n.provider,
        'provider_number_id', n.provider_number_id, 'phone_number', n.phone_number, 'account_id', n.account_id,
        'token', (
            select v.decrypted_secret
            from public.channel_secrets s
            join vault.decrypted_secrets v on v.id = s.secret_id
            where s.tenant_id = t.tenant_id and s.number_id = t.number_id and s.kind = 'access_token')))
    into v_numbers
    from taken t
    join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id;
    return jsonb_build_object('claim', v_claim, 'now', v_now, 'numbers', coalesce(v_numbers, '[]'));
end
$$;

-- A list was read until then; p_is_done: to its end, so that it is due in ten minutes, with the last five read once
-- more (a message may be listed later than it is dated). False: somebody else has the number in hand by now.
create function public.backfill_settle(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_read_until timestamptz, p_is_done boolean
) returns boolean
language plpgsql set search_path = '' as $$
begin
    update private.backfills b
    set read_until = greatest(b.read_until, p_read_until - case when p_is_done then interval '5 minutes' else '0' end),
        due_at = clock_timestamp() + case when p_is_done then interval '10 minutes' else '0' end,
        failures = 0, claim = null, lease_until = null
    where b.tenant_id = p_tenant_id and b.number_id = p_number_id and b.claim = p_claim;
    if found then
        perform private.alert_end(p_tenant_id, 'backfill_failed', p_number_id::text);
    end if;
    return found;
end
$$;

-- A list could not be read: again in 10, 20, 40 … minutes, six hours at most, or when the provider says. Staff hear of
-- a refusal at once, of what may pass by itself the third time. False: as above.
create function public.backfill_fail(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_problem text, p_is_temporary boolean,
    p_retry_after_seconds int default null
) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_failures int;
begin
    update private.backfills b
    set failures = b.failures + 1, claim = null, lease_until = null,
        due_at = clock_timestamp() + greatest(
            make_interval(secs => p_retry_after_seconds),
            least(interval '10 minutes' * 2 ^ least(b.failures, 10), interval '6 hours'))
    where b.tenant_id = p_tenant_id and b.number_id = p_number_id and b.claim = p_claim
    returning b.failures into v_failures;
    if v_failures >= 3 or not p_is_temporary then
        perform private.alert_raise(
            p_tenant_id, 'backfill_failed', p_number_id::text, p_problem, p_number_id => p_number_id);
    end if;
    return v_failures is not null;
end
$$;

grant execute on function
    public.backfill_claim(int, int), public.backfill_settle(uuid, uuid, uuid, timestamptz, boolean),
    public.backfill_fail(uuid, uuid, uuid, text, boolean, int)
    to service_role;
