-- What the full database of bench/schema.py holds: business 0, whose numbers receive the load (the second of them
-- from very many chats), and others with a past. Sizes come as settings bench.tenants, .per_tenant and .crowd.

insert into auth.users (id, aud, role, email, email_confirmed_at)
select md5('a' || n)::uuid, 'authenticated', 'authenticated', 'owner' || n || '@bench.example', now()
from generate_series(0, current_setting('bench.tenants')::int) n;

insert into public.users (id, tenant_id, auth_id, role, email, crm_plan, max_agents, max_whatsapp_numbers)
select md5('t' || n)::uuid, md5('t' || n)::uuid, md5('a' || n)::uuid, 'admin', 'owner' || n || '@bench.example',
    'enterprise', null, 5 from generate_series(0, current_setting('bench.tenants')::int) n;

insert into public.tenant_settings (tenant_id, business_name)
select md5('t' || n)::uuid, 'Business ' || n from generate_series(0, current_setting('bench.tenants')::int) n;

insert into public.whatsapp_numbers (tenant_id, id, provider, phone_number, provider_number_id, waba_id,
    display_name)
select md5('t' || n)::uuid, md5('n' || n)::uuid, 'cloud_api', (57300000000 + n)::text,
    case n when 0 then '100000000000001' else (900000000000000 + n)::text end, 'W' || n, 'Number ' || n
from generate_series(0, current_setting('bench.tenants')::int) n
union all select md5('t0')::uuid, md5('crowd')::uuid, 'cloud_api', '57309999999', '100000000000002', 'W0',
    'Crowd';

insert into public.customer_leads (tenant_id, id, phone, name)
select md5('t' || n)::uuid, md5('l' || n || '.' || c)::uuid, (573200000000 + c)::text, 'Customer ' || c
from generate_series(1, current_setting('bench.tenants')::int) n,
    generate_series(1, greatest(current_setting('bench.per_tenant')::int / 20, 1)) c
union all
select md5('t0')::uuid, md5('l0.' || c)::uuid, '5731' || lpad(c::text, 8, '0'), 'Customer ' || c
from generate_series(0, current_setting('bench.crowd')::int - 1) c;

insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
select tenant_id, 'phone', '', phone, now() - interval '90 days', id from public.customer_leads
union all
select tenant_id, 'bsuid', 'W0', 'CO.' || phone, now() - interval '90 days', id
from public.customer_leads where tenant_id = md5('t0')::uuid;

insert into public.chats (tenant_id, id, lead_id, number_id, last_inbound_at, last_interaction_at,
    window_expires_at)
select l.tenant_id, md5('c' || l.id)::uuid, l.id, n.id, at, at, at + interval '1 day'
from (select *, now() - random() * interval '60 days' as at from public.customer_leads) l
join public.whatsapp_numbers n on n.tenant_id = l.tenant_id and n.id <> md5('n0')::uuid;

insert into public.conversations (tenant_id, id, chat_id, opened_at, message_count)
select tenant_id, md5('v' || id)::uuid, id, last_interaction_at - interval '1 hour', 20 from public.chats;

insert into public.messages (tenant_id, chat_id, conversation_id, lead_id, number_id, direction, role, source,
    type, content, wa_message_id, status, provider_at)
select c.tenant_id, c.id, md5('v' || c.id)::uuid, c.lead_id, c.number_id,
    case m % 2 when 0 then 'inbound' else 'outbound' end, case m % 2 when 0 then 'user' else 'assistant' end,
    case m % 2 when 0 then 'customer' else 'agent' end, 'text', 'Mensaje de prueba número ' || m,
    'wamid.' || c.id || '.' || m, case m % 2 when 0 then 'received' else 'read' end,
    c.last_interaction_at - m * interval '3 minutes'
from generate_series(0, 19) m, public.chats c where c.tenant_id <> md5('t0')::uuid
union all
select c.tenant_id, c.id, md5('v' || c.id)::uuid, c.lead_id, c.number_id, 'inbound', 'user', 'customer', 'text',
    'Mensaje de prueba', 'wamid.' || c.id, 'received', c.last_interaction_at
from public.chats c where c.tenant_id = md5('t0')::uuid;

-- one message in twenty is a picture
update public.messages set type = 'image' where wa_message_id like 'wamid.%.4';
insert into public.media (tenant_id, message_id, provider_media_id, mime)
select tenant_id, id, wa_message_id, 'image/jpeg' from public.messages where type = 'image';
