-- Tokens of channels: how a worker that is about to call a provider gets them. They go nowhere else.

-- Access tokens of [{"tenant_id", "number_id"}, …]: [{"tenant_id", "number_id", "token"}, …]. A number without one
-- is left out. Not for people: only the secret key may ask.
create function public.channel_tokens(p_numbers jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'tenant_id', s.tenant_id, 'number_id', s.number_id, 'token', v.decrypted_secret)), '[]')
        from jsonb_to_recordset(p_numbers) as n (tenant_id uuid, number_id uuid)
        join public.channel_secrets s on s.tenant_id = n.tenant_id and s.number_id = n.number_id
        join vault.decrypted_secrets v on v.id = s.secret_id
        where s.kind = 'access_token');
end
$$;
grant execute on function public.channel_tokens(jsonb) to service_role;

-- What a delivery to /<provider>/<our id of the number> is checked with: {"tenant_id", "provider",
-- "provider_number_id", "account_id", "secrets": […]}; null when there is no such active number. Whapi: the secrets
-- of its header; Twilio: the account's auth tokens, and its key for the newer signature. For memory only.
create function public.channel_webhook_keys(p_number_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object(
            'tenant_id', n.tenant_id, 'provider', n.provider, 'provider_number_id', n.provider_number_id,
            'account_id', n.account_id, 'secrets', (
                select coalesce(jsonb_agg(v.decrypted_secret), '[]')
                from public.channel_secrets s
                join vault.decrypted_secrets v on v.id = s.secret_id
                where s.tenant_id = n.tenant_id and s.number_id = n.id
                    and (s.kind = 'webhook_secret' or n.provider = 'twilio' and s.kind = 'access_token')))
        from public.whatsapp_numbers n
        where n.id = p_number_id and n.is_active);
end
$$;
grant execute on function public.channel_webhook_keys(uuid) to service_role;
