-- Connecting: how a number becomes a business's own, and how it stops being it. Whoever calls channel_connect has
-- proven with the token that the number is theirs; here it is decided whether they may have it.

-- The business of a member of staff who may connect numbers; its numbers are then nobody else's to change.
create function private.connecting_tenant(p_admin_id uuid) returns uuid
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid;
begin
    select tenant_id into v_tenant_id from public.users where id = p_admin_id and is_active and role = 'admin';
    if not found then
        perform private.refuse(
            'PT403', 'not_admin', p_locale => (select u.locale from public.users u where u.id = p_admin_id));
    end if;
    perform from public.users where id = v_tenant_id for no key update;
    return v_tenant_id;
end
$$;

-- Put a secret into Vault, or in the place of the one that is there.
create function private.channel_secret_put(
    p_tenant_id uuid, p_number_id uuid, p_kind text, p_secret text,
    p_issued_at timestamptz default null, p_expires_at timestamptz default null
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.channel_secrets as s (
        tenant_id, number_id, kind, secret_id, issued_at, expires_at, checked_at)
    values (p_tenant_id, p_number_id, p_kind, vault.create_secret(p_secret, null, p_kind || ' ' || p_number_id),
        p_issued_at, p_expires_at, private.clock())
    on conflict on constraint channel_secrets_pkey do update
    set secret_id = excluded.secret_id, issued_at = excluded.issued_at, expires_at = excluded.expires_at,
        checked_at = excluded.checked_at, claim = null, lease_until = null;
end
$$;

-- The number's row, active: its own of earlier, else a new one. Null when it is active for somebody else.
create function private.number_take(p_tenant_id uuid, p_number jsonb) returns uuid
language plpgsql set search_path = '' as $$
declare
    v public.whatsapp_numbers := jsonb_populate_record(null::public.whatsapp_numbers, p_number);
    v_id uuid;
begin
    update public.whatsapp_numbers n
    set phone_number = v.phone_number, waba_id = v.waba_id, account_id = v.account_id, is_active = true,
        quality_rating = v.quality_rating, messaging_limit = v.messaging_limit, is_coexistence = v.is_coexistence,
        rate_per_second = case when v.is_coexistence then 20 else n.rate_per_second end,
        connected_at = private.clock()
    where n.tenant_id = p_tenant_id and n.id = (
        select o.id from public.whatsapp_numbers o
        where o.tenant_id = p_tenant_id and o.provider = v.provider and o.provider_number_id = v.provider_number_id
        order by o.is_active desc, o.updated_at desc limit 1)
    returning n.id into v_id;
    if not found then
        insert into public.whatsapp_numbers (
            tenant_id, provider, phone_number, provider_number_id, waba_id, account_id, display_name, quality_rating,
            messaging_limit, is_coexistence, rate_per_second, timezone, connected_at, is_primary)
        select p_tenant_id, v.provider, v.phone_number, v.provider_number_id, v.waba_id, v.account_id,
            coalesce(left(nullif(btrim(v.display_name), ''), 200), '+' || v.phone_number), v.quality_rating,
            v.messaging_limit, v.is_coexistence, case v.provider when 'whapi' then 1 else 20 end, u.timezone,
            private.clock(), not exists (
                select from public.whatsapp_numbers o where o.tenant_id = p_tenant_id and o.is_primary)
        from public.users u where u.id = p_tenant_id
        returning id into v_id;
    end if;
    return v_id;
exception when unique_violation then
    return null;
end
$$;

-- Its messages may go out again, and whatever was wrong with it is over.
create function private.channel_mend(p_tenant_id uuid, p_number_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.number_pacing as p (tenant_id, number_id) values (p_tenant_id, p_number_id)
    on conflict on constraint number_pacing_pkey do update set paused_until = null, pause_reason = null;
    perform private.alert_end(p_tenant_id, kind, p_number_id::text)
    from unnest(array['channel_stopped', 'token_refresh_failed']) as kind;
    perform private.wake('deliver');
end
$$;

-- Nothing of the number goes out until somebody mends it. One alert, however often it is found.
create function private.channel_stop(p_tenant_id uuid, p_number_id uuid, p_message text, p_details jsonb default '{}')
returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.number_pacing as p (tenant_id, number_id, paused_until, pause_reason)
    values (p_tenant_id, p_number_id, 'infinity', 'stop_channel')
    on conflict on constraint number_pacing_pkey do update
    set paused_until = excluded.paused_until, pause_reason = excluded.pause_reason;
    perform private.alert_raise(p_tenant_id, 'channel_stopped', p_number_id::text, p_message,
        p_number_id => p_number_id, p_severity => 'critical', p_details => p_details);
end
$$;

-- Connect a number, or connect it anew: the new token takes the place of the old one, and a stopped channel goes on.
-- p_number: {"provider", "phone_number", "provider_number_id", "waba_id"?, "account_id"?, "display_name",
-- "quality_rating"?, "messaging_limit"?, "is_coexistence"}; p_admin_id: the admin who does it. Answers
-- {"number_id", "needs_sync": the Business app was never asked for its history, "webhook_secret": Whapi only}.
-- Refuses with PT402 over the plan, PT409 when the number is active elsewhere. The same call again changes nothing.
create function public.channel_connect(
    p_admin_id uuid, p_number jsonb, p_token text,
    p_issued_at timestamptz default null, p_expires_at timestamptz default null
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.connecting_tenant(p_admin_id);
    v_number_id uuid := private.number_take(v_tenant_id, p_number || jsonb_build_object(
        'is_coexistence', coalesce(p_number -> 'is_coexistence', 'false')));
begin
    if v_number_id is null then
        perform private.refuse(
            'PT409', 'number_taken', p_locale => (select u.locale from public.users u where u.id = p_admin_id));
    end if;
    delete from public.channel_secrets
    where tenant_id = v_tenant_id and number_id = v_number_id and kind in ('next_token', 'old_token');
    perform private.channel_secret_put(v_tenant_id, v_number_id, 'access_token', p_token, p_issued_at, p_expires_at);
    -- one that is in use stays: deliveries under way carry it
    perform private.channel_secret_put(v_tenant_id, v_number_id, 'webhook_secret', private.secret_make())
    where p_number ->> 'provider' = 'whapi' and not exists (
        select from public.channel_secrets s
        where s.tenant_id = v_tenant_id and s.number_id = v_number_id and s.kind = 'webhook_secret');
    perform private.channel_mend(v_tenant_id, v_number_id);
    return jsonb_build_object(
        'number_id', v_number_id,
        'needs_sync', (
            select n.is_coexistence and n.app_synced_at is null from public.whatsapp_numbers n
            where n.tenant_id = v_tenant_id and n.id = v_number_id),
        'webhook_secret', (
            select v.decrypted_secret
            from public.channel_secrets s
            join vault.decrypted_secrets v on v.id = s.secret_id
            where s.tenant_id = v_tenant_id and s.number_id = v_number_id and s.kind = 'webhook_secret'));
end
$$;

-- 64 hexadecimal digits nobody can guess: the random bits of two uuids are 244.
create function private.secret_make() returns text
language sql volatile set search_path = '' as $$
    select encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'utf8')), 'hex')
$$;

-- What came of telling the provider where to deliver: its address, or the problem (then somebody should look).
-- p_synced: the Business app was asked for its contacts and history.
create function public.channel_setup_settle(
    p_admin_id uuid, p_number_id uuid, p_webhook_url text default null, p_problem text default null,
    p_synced boolean default false
) returns void
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.connecting_tenant(p_admin_id);
begin
    update public.whatsapp_numbers
    set webhook_url = coalesce(p_webhook_url, webhook_url),
        app_synced_at = case when p_synced then coalesce(app_synced_at, private.clock()) else app_synced_at end
    where tenant_id = v_tenant_id and id = p_number_id;
    if p_problem is not null then
        perform private.alert_raise(v_tenant_id, 'channel_setup', p_number_id::text, p_problem,
            p_number_id => p_number_id);
    else
        perform private.alert_end(v_tenant_id, 'channel_setup', p_number_id::text);
    end if;
end
$$;
grant execute on function
    private.connecting_tenant(uuid), private.number_take(uuid, jsonb), private.secret_make(),
    private.channel_secret_put(uuid, uuid, text, text, timestamptz, timestamptz),
    private.channel_mend(uuid, uuid), private.channel_stop(uuid, uuid, text, jsonb),
    public.channel_connect(uuid, jsonb, text, timestamptz, timestamptz),
    public.channel_setup_settle(uuid, uuid, text, text, boolean)
    to service_role;

-- The caller's number, locked.
create function private.number_lock(p_number_id uuid) returns public.whatsapp_numbers
language plpgsql set search_path = '' as $$
declare
    v_number public.whatsapp_numbers;
    v_tenant_id uuid := private.require_admin();
begin
    select * into v_number from public.whatsapp_numbers
    where tenant_id = v_tenant_id and id = p_number_id
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_number');
    end if;
    return v_number;
end
$$;

-- Definer: people may write neither numbers nor secrets.
create function private.number_disconnect(p_number_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_number public.whatsapp_numbers := private.number_lock(p_number_id);
begin
    update public.whatsapp_numbers set is_active = false, is_primary = false, webhook_url = null
    where tenant_id = v_number.tenant_id and id = v_number.id;
    delete from public.channel_secrets where tenant_id = v_number.tenant_id and number_id = v_number.id;
    insert into public.number_pacing as p (tenant_id, number_id, paused_until, pause_reason)
    values (v_number.tenant_id, v_number.id, 'infinity', 'disconnected')
    on conflict on constraint number_pacing_pkey do update
    set paused_until = excluded.paused_until, pause_reason = excluded.pause_reason;
    perform private.alert_end(v_number.tenant_id, kind, v_number.id::text)
    from unnest(array['channel_stopped', 'channel_setup', 'token_refresh_failed']) as kind;
end
$$;

-- Definer: people may not write pacing.
create function private.number_resume(p_number_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_number public.whatsapp_numbers := private.number_lock(p_number_id);
begin
    if not v_number.is_active then
        perform private.refuse('PT409', 'number_disconnected');
    end if;
    perform private.channel_mend(v_number.tenant_id, v_number.id);
end
$$;
grant execute on function private.number_disconnect(uuid), private.number_resume(uuid) to authenticated;

-- Give a number up: its tokens are forgotten, nothing is sent or received any more, what it said stays. Another
-- business may connect it then; connecting it here again goes on where it ended.
create function public.number_disconnect(p_number_id uuid) returns void
language sql set search_path = '' as $$
    select private.number_disconnect(p_number_id)
$$;

-- A stopped number goes on with the token it has: for what was mended at the provider (a payment, a restriction).
create function public.number_resume(p_number_id uuid) returns void
language sql set search_path = '' as $$
    select private.number_resume(p_number_id)
$$;
grant execute on function public.number_disconnect(uuid), public.number_resume(uuid) to authenticated;
