-- Token checks: refresh_tokens takes the numbers of Meta in hand, one by one, and tells what it found. A token goes
-- through here in steps, each a transaction of its own, so that a run may die after any of them: the new token is
-- kept beside the old one (offer), takes its place when it is proven (adopt), and the old one is revoked later, when
-- no worker remembers it any more (drop).

-- Take numbers nobody has looked at since p_since (null: since now), for p_lease_seconds: {"claim", "now",
-- "numbers": [{"tenant_id", "number_id", "provider_number_id", "waba_id", "issued_at", "expires_at", "token",
-- "next_token"?: from a run that died, "old_token"?: may be revoked now}]}. For memory only.
create function public.token_checks_claim(
    p_since timestamptz default null, p_limit int default 20, p_lease_seconds int default 120
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_claim uuid := private.uuid7();
    v_now timestamptz := private.clock();
    v_numbers jsonb;
begin
    with due as materialized (
        select s.tenant_id, s.number_id
        from public.channel_secrets s
        join public.whatsapp_numbers n on n.tenant_id = s.tenant_id and n.id = s.number_id
        where s.kind = 'access_token' and n.provider = 'cloud_api' and n.is_active
            and coalesce(s.checked_at < coalesce(p_since, v_now), true)
            and coalesce(s.lease_until < clock_timestamp(), true)
        order by s.checked_at nulls first, s.tenant_id, s.number_id
        limit p_limit
        for update of s skip locked
    ),
    taken as (
        update public.channel_secrets s
        set claim = v_claim, checked_at = v_now,
            lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from due
        where s.tenant_id = due.tenant_id and s.number_id = due.number_id and s.kind = 'access_token'
        returning s.tenant_id, s.number_id, s.issued_at, s.expires_at
    )
    select jsonb_agg(to_jsonb(t) || jsonb_build_object(
        'provider_number_id', n.provider_number_id, 'waba_id', n.waba_id) || (
            select jsonb_object_agg(replace(s.kind, 'access_token', 'token'), v.decrypted_secret)
            from public.channel_secrets s
            join vault.decrypted_secrets v on v.id = s.secret_id
            where s.tenant_id = t.tenant_id and s.number_id = t.number_id
                and (s.kind in ('access_token', 'next_token')
                    or s.kind = 'old_token' and s.replaced_at <= v_now - interval '10 minutes')))
    into v_numbers
    from taken t
    join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id;
    return jsonb_build_object('claim', v_claim, 'now', v_now, 'numbers', coalesce(v_numbers, '[]'));
end
$$;

-- Is the number still in the hands of this claim? Then until the end of the transaction.
create function private.token_check_is_mine(p_tenant_id uuid, p_number_id uuid, p_claim uuid) returns boolean
language plpgsql set search_path = '' as $$
begin
    perform from public.channel_secrets
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'access_token' and claim = p_claim
        and lease_until > clock_timestamp()
    for update;
    return found;
end
$$;

-- Keep a token that was just issued, beside the one in use. False: somebody else has the number in hand by now, or it
-- was connected with another token; then forget the new one.
create function public.token_offer(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_token text, p_expires_at timestamptz
) returns boolean
language plpgsql set search_path = '' as $$
begin
    if not private.token_check_is_mine(p_tenant_id, p_number_id, p_claim) then
        return false;
    end if;
    perform private.channel_secret_put(
        p_tenant_id, p_number_id, 'next_token', p_token, private.clock(), p_expires_at);
    return true;
end
$$;

-- The offered token was proven: it is the one in use from now on. Workers that remember the old one may go on with
-- it for some minutes.
create function public.token_adopt(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_issued_at timestamptz, p_expires_at timestamptz
) returns boolean
language plpgsql set search_path = '' as $$
begin
    if not private.token_check_is_mine(p_tenant_id, p_number_id, p_claim) then
        return false;
    end if;
    delete from public.channel_secrets
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'old_token';
    update public.channel_secrets set kind = 'old_token', replaced_at = private.clock(), claim = null
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'access_token';
    update public.channel_secrets
    set kind = 'access_token', issued_at = p_issued_at, expires_at = p_expires_at, claim = p_claim,
        lease_until = clock_timestamp() + interval '1 minute'
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'next_token';
    if not found then
        raise exception using errcode = 'PT409', message = 'No token was offered for this number.',
            hint = 'Call token_offer first.';
    end if;
    return true;
end
$$;

-- Forget a token that is of no use: an old_token that is revoked, a next_token that does not work.
create function public.token_drop(p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_kind text) returns boolean
language plpgsql set search_path = '' as $$
begin
    if p_kind is null or p_kind not in ('old_token', 'next_token') then
        raise exception using errcode = 'PT400', message = format('A token of kind %L is not dropped.', p_kind),
            hint = 'Choose old_token or next_token.';
    end if;
    delete from public.channel_secrets
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = p_kind
        and private.token_check_is_mine(p_tenant_id, p_number_id, p_claim);
    return found;
end
$$;

-- How the check of a number ended. p_result: good (the alert about it is over) | failed (it works, but was not checked
-- or replaced: an alert, critical in the last three days) | dead (Meta takes it no more: the channel stops).
create function public.token_check_settle(
    p_claim uuid, p_tenant_id uuid, p_number_id uuid, p_result text, p_problem text default null,
    p_issued_at timestamptz default null, p_expires_at timestamptz default null
) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_expires_at timestamptz;
begin
    if not private.token_check_is_mine(p_tenant_id, p_number_id, p_claim) then
        return false;
    end if;
    update public.channel_secrets
    set claim = null, lease_until = null,
        issued_at = case p_result when 'good' then coalesce(p_issued_at, issued_at) else issued_at end,
        expires_at = case p_result when 'good' then p_expires_at else expires_at end
    where tenant_id = p_tenant_id and number_id = p_number_id and kind = 'access_token'
    returning expires_at into v_expires_at;
    if p_result = 'failed' then
        perform private.alert_raise(p_tenant_id, 'token_refresh_failed', p_number_id::text, p_problem,
            p_number_id => p_number_id, p_details => jsonb_build_object('expires_at', v_expires_at),
            p_severity => case when v_expires_at < private.clock() + interval '3 days' then 'critical' else 'warning' end);
        return true;
    end if;
    perform private.alert_end(p_tenant_id, 'token_refresh_failed', p_number_id::text);
    if p_result = 'dead' then
        perform private.channel_stop(p_tenant_id, p_number_id, p_problem, '{"code": 190}');
    end if;
    return true;
end
$$;
grant execute on function
    public.token_checks_claim(timestamptz, int, int), private.token_check_is_mine(uuid, uuid, uuid),
    public.token_offer(uuid, uuid, uuid, text, timestamptz),
    public.token_adopt(uuid, uuid, uuid, timestamptz, timestamptz), public.token_drop(uuid, uuid, uuid, text),
    public.token_check_settle(uuid, uuid, uuid, text, text, timestamptz, timestamptz)
    to service_role;
