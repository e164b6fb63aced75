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
