-- Demo data: three businesses and their people, password `recado-demo`. Runs again without harm.
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
select pg_temp.demo_sign_up(
    'd0000000-0000-4000-8000-000000000004', 'admin@pulso.example',
    '{"name": "Sofía Duarte", "business_name": "Gimnasio Pulso"}');

insert into public.users (tenant_id, role, email, name)
select u.id, 'agent', 'recepcion@clinica.example', 'Recepción'
from public.users u
where u.email = 'dr.perez@clinica.example' and u.id = u.tenant_id
    and not exists (select from public.users taken where taken.email = 'recepcion@clinica.example');
select pg_temp.demo_sign_up(
    'd0000000-0000-4000-8000-000000000003', 'recepcion@clinica.example', '{"name": "Recepción"}');

select public.plan_set(u.id, case u.email when 'admin@laplaza.example' then 'basic' else 'pro' end)
from public.users u
where u.email in ('dr.perez@clinica.example', 'admin@laplaza.example', 'admin@pulso.example') and u.id = u.tenant_id;

-- 2. Agents ----------------------------------------------------------------------------------------------------------

insert into public.ai_agents (
    tenant_id, name, description, is_default, personality_prompt, business_prompt, objectives_prompt,
    trigger_keywords, active_hours)
select u.tenant_id, a.name, a.description, a.is_default, a.personality, a.business, a.objectives, a.keywords, a.hours
from (values
    ('dr.perez@clinica.example', 'DrBot', 'Citas y preguntas de odontología', true,
        'Eres DrBot, el asistente de la Clínica Dental. Hablas con calidez, en frases cortas y sin tecnicismos.',
        'La Clínica Dental atiende de lunes a viernes de 8:00 a 18:00 y los sábados de 8:00 a 13:00. '
        'Una limpieza cuesta 120.000 pesos y dura 45 minutos; la valoración es gratis.',
        'Entiende qué necesita el paciente, propón una cita y confirma nombre, día y hora.',
        array['cita', 'dolor', 'limpieza'], null::jsonb),
    ('dr.perez@clinica.example', 'Urgencias', 'Fuera del horario de la clínica', false,
        'Eres el asistente de urgencias de la Clínica Dental. Hablas con calma y vas al grano.',
        'De 18:00 a 8:00 hay un odontólogo de guardia. Si hay sangrado que no para, fiebre alta o dificultad para '
        'respirar, el paciente debe ir a un hospital.',
        'Averigua qué tan grave es, di qué hacer mientras tanto y ofrece la guardia.',
        array['urgencia', 'dolor fuerte', 'emergencia'], '{"from": "18:00", "to": "08:00"}'),
    ('admin@laplaza.example', 'ChefBot', 'Reservas, pedidos y la carta', true,
        'Eres ChefBot, el anfitrión del Restaurante La Plaza. Eres alegre y breve.',
        'La Plaza abre todos los días de 12:00 a 22:00. El plato del día cuesta 28.000 pesos. Hay domicilios en un '
        'radio de 4 kilómetros.',
        'Toma reservas (personas, día y hora) y pedidos, y responde preguntas sobre la carta.',
        array['reserva', 'delivery', 'menú', 'plato'], null),
    ('admin@pulso.example', 'CoachBot', 'Planes, clases y horarios', true,
        'Eres CoachBot, el asistente del Gimnasio Pulso. Animas sin presionar y vas al grano.',
        'El Gimnasio Pulso abre de lunes a sábado de 5:00 a 22:00. El mes cuesta 110.000 pesos y la primera clase es '
        'gratis.',
        'Entiende qué busca la persona, ofrece una clase de prueba y confirma nombre, día y hora.',
        array['clase', 'plan', 'horario'], null)
) as a (email, name, description, is_default, personality, business, objectives, keywords, hours)
join public.users u on u.email = a.email and u.id = u.tenant_id
on conflict do nothing;

-- 3. Channels --------------------------------------------------------------------------------------------------------

insert into public.whatsapp_numbers (
    tenant_id, provider, phone_number, provider_number_id, waba_id, portfolio_id, display_name, is_primary,
    default_agent_id)
select u.tenant_id, 'cloud_api', n.phone_number, n.provider_number_id, n.waba_id, n.portfolio_id, n.display_name,
    n.is_primary, a.id
from (values
    ('dr.perez@clinica.example', '57301111111', '100000000000001', '200000000000001', '300000000000001', 'Citas', true,
        'DrBot'),
    ('dr.perez@clinica.example', '57302222222', '100000000000002', '200000000000001', '300000000000001', 'Urgencias',
        false, 'Urgencias'),
    ('admin@laplaza.example', '57303333333', '100000000000003', '200000000000002', '300000000000002', 'La Plaza', true,
        'ChefBot')
) as n (email, phone_number, provider_number_id, waba_id, portfolio_id, display_name, is_primary, agent)
join public.users u on u.email = n.email and u.id = u.tenant_id
join public.ai_agents a on a.tenant_id = u.tenant_id and a.name = n.agent
where not exists (
    select from public.whatsapp_numbers known
    where known.provider_number_id = n.provider_number_id and known.is_active)
on conflict do nothing;

-- the simulator of Graph takes these
insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)
select n.tenant_id, n.id, 'access_token', vault.create_secret('demo-token-' || n.provider_number_id)
from public.whatsapp_numbers n
where n.provider_number_id in ('100000000000001', '100000000000002', '100000000000003')
    and not exists (
        select from public.channel_secrets s
        where s.tenant_id = n.tenant_id and s.number_id = n.id and s.kind = 'access_token');

-- Two providers beside Meta, with ids that keep the URLs of their webhooks.
insert into public.whatsapp_numbers (
    tenant_id, id, provider, phone_number, provider_number_id, account_id, display_name, is_primary, default_agent_id)
select u.tenant_id, n.id, n.provider, n.phone_number, n.provider_number_id, n.account_id, n.display_name, n.is_primary,
    a.id
from (values
    ('5a000000-0000-4000-8000-000000000004'::uuid, 'whapi', '57304444444', 'PULSO-WHAPI', null, 'Pulso', true),
    ('5a000000-0000-4000-8000-000000000005', 'twilio', '57305555555', 'whatsapp:+57305555555',
        'AC00000000000000000000000000000005', 'Pulso Ventas', false)
) as n (id, provider, phone_number, provider_number_id, account_id, display_name, is_primary)
join public.users u on u.email = 'admin@pulso.example' and u.id = u.tenant_id
join public.ai_agents a on a.tenant_id = u.tenant_id and a.name = 'CoachBot'
where not exists (
    select from public.whatsapp_numbers known
    where known.provider_number_id = n.provider_number_id and known.is_active)
on conflict do nothing;

-- their simulators take these tokens, and Whapi's sends that header
insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)
select n.tenant_id, n.id, s.kind, vault.create_secret(s.secret)
from (values
    ('PULSO-WHAPI', 'access_token', 'demo-token-PULSO-WHAPI'),
    ('PULSO-WHAPI', 'webhook_secret', 'demo-secret-PULSO-WHAPI'),
    ('whatsapp:+57305555555', 'access_token', 'demo-token-AC00000000000000000000000000000005')
) as s (provider_number_id, kind, secret)
join public.whatsapp_numbers n on n.provider_number_id = s.provider_number_id
where not exists (
    select from public.channel_secrets known
    where known.tenant_id = n.tenant_id and known.number_id = n.id and known.kind = s.kind);
