-- What bench/decisions.py decides about: businesses with two numbers each, and chats in every state in the shares of an
-- ordinary day. Sizes come as settings bench.candidates and bench.tenants.

create schema bench;
grant usage on schema bench to postgres;
alter schema bench owner to postgres;
set role postgres;

insert into public.users (id, tenant_id, role, email, crm_plan, max_messages_per_month)
select md5('t' || n)::uuid, md5('t' || n)::uuid, 'admin', 'owner' || n || '@bench.example', 'enterprise',
    case n % 4 when 0 then 100000 end
from generate_series(1, current_setting('bench.tenants')::int) n;

insert into public.tenant_settings (tenant_id, business_name, quiet_hours)
select md5('t' || n)::uuid, 'Business ' || n,
    case when n % 2 = 0 then '{"from": "21:00", "to": "08:00"}'::jsonb end
from generate_series(1, current_setting('bench.tenants')::int) n;

insert into public.whatsapp_numbers (tenant_id, id, provider, phone_number, provider_number_id, waba_id, portfolio_id,
    display_name, timezone, business_hours, messaging_limit, quality_rating)
select md5('t' || n)::uuid, md5('n' || n || '.' || m)::uuid, (array['cloud_api', 'cloud_api', 'twilio', 'whapi'])[n % 4 + 1],
    (57300000000 + n * 10 + m)::text, (900000000000000 + n * 10 + m)::text, 'W' || n, 'P' || n, 'Number ' || n,
    'America/Bogota', case when n % 3 = 0 then '{"from": "07:00", "to": "20:00"}'::jsonb end,
    case when n % 2 = 0 then 2000 end, 'GREEN'
from generate_series(1, current_setting('bench.tenants')::int) n, generate_series(0, 1) m;

insert into public.number_pacing (tenant_id, number_id)
select tenant_id, id from public.whatsapp_numbers;

insert into public.message_templates (tenant_id, id, provider, waba_id, provider_template_id, name, language, category,
    status)
select md5('t' || n)::uuid, md5('m' || n)::uuid, 'cloud_api', 'W' || n, 'm' || n, 'reminder', 'es',
    (array['marketing', 'utility'])[n % 2 + 1], case when n % 10 = 0 then 'paused' else 'approved' end
from generate_series(1, current_setting('bench.tenants')::int) n;

insert into public.customer_leads (tenant_id, id, phone, opted_out_at, opt_out_scope)
select md5('t' || n % current_setting('bench.tenants')::int + 1)::uuid, md5('l' || n)::uuid,
    (array['57', '57', '57', '52', '34', '56'])[n % 6 + 1] || (3000000000 + n),
    case when n % 25 = 0 then now() end, case when n % 25 = 0 then 'marketing' end
from generate_series(1, current_setting('bench.candidates')::int) n;

insert into public.chats (tenant_id, id, lead_id, number_id, last_interaction_at, window_expires_at, block_state)
select md5('t' || t)::uuid, md5('c' || n)::uuid, md5('l' || n)::uuid, md5('n' || t || '.' || n % 2)::uuid, now(),
    now() + (n % 100 - 50) * interval '20 minutes', case when n % 40 = 0 then 'probable' else 'none' end
from generate_series(1, current_setting('bench.candidates')::int) n
cross join lateral (select n % current_setting('bench.tenants')::int + 1 as t) as of;

create table bench.few as
select (md5('r' || n)::uuid, md5('t' || t)::uuid, md5('c' || n)::uuid,
    (array['sequence', 'sequence', 'daily_action', 'call_followup', 'reply', 'staff'])[n % 6 + 1], n % 3 = 0,
    null, case when n % 3 = 0 then md5('m' || t)::uuid end, false)::private.send_candidate as candidate
from generate_series(1, current_setting('bench.candidates')::int) n
cross join lateral (select n % current_setting('bench.tenants')::int + 1 as t) as of;

create table bench.candidates as select array_agg(f.candidate) as candidates from bench.few f;
delete from bench.few where ctid not in (select ctid from bench.few limit 200);
