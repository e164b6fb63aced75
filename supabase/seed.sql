-- Demo data: two businesses and their people, password `recado-demo`. Runs again without harm.
-- Each domain has its section; find a business by its owner's e-mail, as the last lines of section 1 do.

do $$
begin
    -- our platform has a schema of its own, the CLI's Docker stack a secret everybody knows
    if to_regnamespace('local') is null
        and coalesce(current_setting('app.settings.jwt_secret', true), '') not like 'super-secret-jwt-token%'
    then
        raise exception 'This is not a local platform: the demo data has a public password and stays off it.';
    end if;
end
$$;

-- 1. Tenancy ---------------------------------------------------------------------------------------------------------

-- An owner signs up, and the sign-up makes the business; a colleague is invited first, and takes the seat.
create or replace function pg_temp.demo_sign_up(p_id uuid, p_email text, p_meta jsonb) returns void
language plpgsql set search_path = '' as $$
declare
    v_column text;
begin
    insert into auth.users (
        instance_id, id, aud, role, email, encrypted_password, email_confirmed_at,
        raw_app_meta_data, raw_user_meta_data, created_at, updated_at)
    values (
        '00000000-0000-0000-0000-000000000000', p_id, 'authenticated', 'authenticated', p_email,
        '$2a$10$fNDX.gU.WIiRbnNYQvrVOenrTmpJVlaO6ly6ef8Y/onD7bxgh9e3a', now(),
        '{"provider": "email", "providers": ["email"]}', p_meta, now(), now())
    on conflict do nothing;

    insert into auth.identities (id, provider_id, user_id, provider, identity_data, last_sign_in_at, created_at, updated_at)
    select u.id, u.id::text, u.id, 'email',
        jsonb_build_object('sub', u.id, 'email', u.email, 'email_verified', true), now(), now(), now()
    from auth.users u where u.id = p_id
    on conflict do nothing;

    -- the hosted auth server cannot read a null in these, and gives them no default; the local one has none of them
    for v_column in
        select a.attname from pg_catalog.pg_attribute a
        where a.attrelid = 'auth.users'::regclass and not a.attisdropped
            and a.attname in ('confirmation_token', 'recovery_token', 'email_change', 'email_change_token_new')
    loop
        execute format('update auth.users set %1$I = '''' where id = $1 and %1$I is null', v_column) using p_id;
    end loop;
end
$$;

select pg_temp.demo_sign_up(
    'd0000000-0000-4000-8000-000000000001', 'dr.perez@clinica.example',
    '{"name": "Dr. Pérez", "business_name": "Clínica Dental"}');
select pg_temp.demo_sign_up(
    'd0000000-0000-4000-8000-000000000002', 'admin@laplaza.example',
    '{"name": "Laura Medina", "business_name": "Restaurante La Plaza"}');

insert into public.users (tenant_id, role, email, name)
select u.id, 'agent', 'recepcion@clinica.example', 'Recepción'
from public.users u
where u.email = 'dr.perez@clinica.example' and u.id = u.tenant_id
    and not exists (select from public.users taken where taken.email = 'recepcion@clinica.example');
select pg_temp.demo_sign_up(
    'd0000000-0000-4000-8000-000000000003', 'recepcion@clinica.example', '{"name": "Recepción"}');

select public.plan_set(u.id, case u.email when 'dr.perez@clinica.example' then 'pro' else 'basic' end)
from public.users u
where u.email in ('dr.perez@clinica.example', 'admin@laplaza.example') and u.id = u.tenant_id;
