-- The inbox: what providers deliver, kept as it came and applied once. webhook_receive() takes canonical events
-- (made by the webhook function) in batches of payloads, one payload being one change of one delivery.
--
-- Locks are always taken in this order, and within a table in the order of its key, so that two batches never wait
-- for each other: identities, leads, chats, conversations, pending work, outbox, messages.

create table public.webhook_logs (
    id uuid default private.uuid7(),
    tenant_id uuid,
    provider text not null,
    delivery_id text not null,
    account text,
    number text,
    field text,
    received_at timestamptz not null,
    payload jsonb,
    raw bytea,
    events jsonb,
    status text not null,
    attempts int not null default 1,
    next_attempt_at timestamptz,
    error text,
    taken_at timestamptz not null default now(),
    applied_at timestamptz,
    is_unmodelled boolean not null default false,
    constraint webhook_logs_pkey primary key (id),
    constraint webhook_logs_delivery_id_key unique (delivery_id),
    constraint webhook_logs_status_check check (status in ('applied', 'failed', 'dead')),
    constraint webhook_logs_applied_at_check check ((status = 'applied') = (applied_at is not null))
);
comment on table public.webhook_logs is
    'Every delivery that told us something new, with what became of it. Its keys have no tenant: a delivery comes '
    'before we know whose it is, and may never be anybody''s. tenant_id refers to users without a foreign key, whose '
    'check would make all deliveries of a business take turns at its owner''s row.';
comment on column public.webhook_logs.payload is 'pii: the change as the provider sent it';
comment on column public.webhook_logs.raw is 'pii: the bytes, where they could not be parsed';
comment on column public.webhook_logs.events is 'pii: the canonical events while they wait to be applied';
comment on column public.webhook_logs.taken_at is
    'When the database took it up: before, it was on its way to us and waited; until applied_at it was worked on.';
comment on column public.webhook_logs.is_unmodelled is
    'Something in it is nothing that we know, or lacks what we need of it: payload has it.';
comment on column public.webhook_logs.error is 'pii: the database may quote a value';

create index webhook_logs_tenant_id_received_at_idx on public.webhook_logs (tenant_id, received_at desc);
create index webhook_logs_tenant_id_received_at_unmodelled_idx
    on public.webhook_logs (tenant_id, received_at desc) where is_unmodelled;
create index webhook_logs_tenant_id_next_attempt_at_idx
    on public.webhook_logs (tenant_id, next_attempt_at) where status = 'failed';
-- there should be none: to be counted at any time
create index webhook_logs_tenant_id_dead_idx on public.webhook_logs (tenant_id) where status = 'dead';

alter table public.webhook_logs enable row level security;
grant select on public.webhook_logs to authenticated;
grant select, insert, update, delete on public.webhook_logs to service_role;
create policy webhook_logs_select_admin on public.webhook_logs for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- early_events: statuses, edits, revokes and reactions that came before the message they speak of, or whose
-- message we never had. They are applied when it is stored.
create table public.early_events (
    tenant_id uuid,
    number_id uuid,
    target text,
    kind text,
    detail text,
    happened_at timestamptz not null,
    body jsonb not null,
    constraint early_events_pkey primary key (tenant_id, number_id, target, kind, detail),
    constraint early_events_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id)
);
comment on table public.early_events is 'What was said about messages that are not (yet) stored.';
comment on column public.early_events.target is 'The provider''s id of the message.';
comment on column public.early_events.detail is
    'What tells two events of a kind apart; see private.event_detail().';
comment on column public.early_events.body is 'pii: the event';

alter table public.early_events enable row level security;
grant select on public.early_events to authenticated;
grant select, insert, update, delete on public.early_events to service_role;
create policy early_events_select_admin on public.early_events for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- An address of a customer: a key of lead_identities, but for its tenant.
create type private.contact_key as (kind text, scope text, value text);

-- A payload of a batch, routed. ahead: of the times of its events, business time.
create type private.inbox_payload as (
    position int, tenant_id uuid, number_id uuid, provider text, scope text, is_known boolean, events jsonb,
    ahead interval
);

-- An event nobody told us before. target_id: the message a status, edit, revoke or reaction is about, if stored.
create type private.inbox_event as (
    position int, tenant_id uuid, number_id uuid, provider text, scope text, kind text, id text, at timestamptz,
    keys private.contact_key [], target_id uuid, body jsonb
);

-- A message just stored, or a call. Only a live one sets anything off: not history, not older than the window.
create type private.inbox_message as (
    position int, tenant_id uuid, number_id uuid, lead_id uuid, chat_id uuid, conversation_id uuid, message_id uuid,
    wa_message_id text, kind text, type text, at timestamptz, is_history boolean, is_live boolean, body jsonb
);

-- A message that refuses to hear from us; is_first: the refusal began with it.
create type private.refusal as (
    tenant_id uuid, number_id uuid, wa_message_id text, lead_id uuid, is_first boolean
);

-- Whom an event's addresses lead to, and whether that is already known of all of them.
create type private.lead_found as (lead_id uuid, is_complete boolean);

create function private.as_uuid(p_text text) returns uuid
language plpgsql immutable strict set search_path = '' as $$
begin
    return case when p_text ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then p_text::uuid end;
end
$$;

-- Whose is each payload, and have we had this delivery already?
create function private.inbox_route(p_batch jsonb) returns private.inbox_payload[]
language plpgsql stable set search_path = '' as $$
declare
    v_ahead interval := private.clock() - now();
    v_payloads private.inbox_payload[];
begin
    select array_agg((
            b.position, n.tenant_id, n.id, b.body ->> 'provider',
            coalesce(n.portfolio_id, n.waba_id, b.body ->> 'account', ''),
            b.copy > 1 or l.id is not null, coalesce(b.body -> 'events', '[]'),
            -- Twilio posts no times: the webhook dated these by the clock on its wall
            case when b.body ->> 'provider' = 'twilio' and b.body ->> 'field' <> 'backfill' then v_ahead
                else interval '0' end)::private.inbox_payload
        order by b.position)
    into v_payloads
    from (
        select position, body, row_number() over (partition by body ->> 'delivery_id' order by position) as copy
        from jsonb_array_elements(p_batch) with ordinality as batch (body, position)
    ) as b
    -- by key, one payload after the other: a join would read all numbers
    left join lateral (
        select w.tenant_id, w.id, w.portfolio_id, w.waba_id
        from public.whatsapp_numbers w
        where w.provider = b.body ->> 'provider' and w.provider_number_id = b.body ->> 'number' and w.is_active
        limit 1
    ) as n on true
    left join lateral (
        select k.id from public.webhook_logs k where k.delivery_id = b.body ->> 'delivery_id' limit 1
    ) as l on true;
    return v_payloads;
end
$$;

-- Does a message of this type only say that there is one, whose content may follow under the same id?
create function private.is_stand_in(p_type text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(p_type in ('media_placeholder', 'unsupported'), false);
end
$$;

-- Did this send fail because the customer refuses marketing? Said so inside WhatsApp (131050), or to Twilio (21610).
create function private.is_refusal(p_body jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(p_body #>> '{error,code}' in ('131050', '21610'), false);
end
$$;

-- Would this event change that message? Asked before anything is written. The answer, like all that changes do, must
-- not depend on the order in which they come: of two that speak of the same second, the greater text decides.
create function private.changes_message(p_message public.messages, p_kind text, p_at timestamptz, p_body jsonb)
returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return case p_kind
        when 'status' then p_message.direction = 'outbound' and (
            p_message.wa_message_id is null
            or coalesce(p_at < case p_body ->> 'status'
                when 'sent' then p_message.sent_at
                when 'delivered' then p_message.delivered_at
                when 'read' then p_message.read_at
                when 'played' then p_message.played_at
                when 'failed' then p_message.failed_at
                else '-infinity'
            end, true)
            or p_body ->> 'status' = 'failed' and p_at = p_message.failed_at
                and coalesce(p_body #>> '{error,code}', '') < coalesce(p_message.error_code::text, '')
            -- what a customer refuses counts, though another failure was told first
            or private.is_refusal(p_body) and (p_message.error_code::text, p_message.failed_at)
                is distinct from (p_body #>> '{error,code}', p_at)
            or private.is_first_pricing(p_message.pricing, p_at, p_body -> 'pricing'))
        when 'edit' then
            not private.message_versions(p_message) @> jsonb_build_array(
                jsonb_build_object('at', p_at, 'content', p_body -> 'text'))
        when 'revoke' then coalesce(p_at < p_message.revoked_at, true)
        when 'reaction' then
            coalesce(
                ((p_message.reactions #>> array[p_body ->> 'by', 'at'])::timestamptz,
                    coalesce(p_message.reactions #>> array[p_body ->> 'by', 'emoji'], ''))
                < (p_at, coalesce(p_body ->> 'emoji', '')), true)
        -- it is stored, that is all there is to know
        else p_kind in ('message', 'echo')
            and private.is_stand_in(p_message.type) and not private.is_stand_in(p_body ->> 'type')
    end;
end
$$;

-- Is this what the provider first said about the price? messages.pricing has the time in "at".
create function private.is_first_pricing(p_known jsonb, p_at timestamptz, p_told jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return jsonb_typeof(p_told) = 'object' and coalesce(
        (p_at, p_told) < ((p_known ->> 'at')::timestamptz, p_known - 'at'), true);
end
$$;

-- Every text a message has had: the original, then its edits in the order of their times.
create function private.message_versions(p_message public.messages) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(p_message.previous, '[]') || case when p_message.revoked_at is null
        then jsonb_build_array(jsonb_build_object(
            'at', coalesce(p_message.edited_at, p_message.provider_at), 'content', p_message.content))
        else '[]' end;
end
$$;

-- What tells two events about one message apart: its own id, or of statuses all they say: the same one may be told at
-- two times, or once with its price and once without.
create function private.event_detail(p_body jsonb) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case p_body ->> 'kind' when 'status' then concat_ws(' ', p_body ->> 'status', md5(p_body::text))
        else coalesce(p_body ->> 'id', '') end;
end
$$;

-- The events of a batch that tell us something new, each once, in order. Only reads: a batch of nothing but
-- duplicates ends here.
create function private.inbox_fresh(p_payloads private.inbox_payload[]) returns private.inbox_event[]
language plpgsql stable set search_path = '' as $$
declare
    v_latest timestamptz := private.clock() + interval '5 minutes';
    v_events private.inbox_event[];
begin
    select array_agg((
            e.position, e.tenant_id, e.number_id, e.provider, e.scope, e.kind, e.id, e.at,
            private.contact_keys(e.body -> 'contact', e.provider, e.scope), e.target_id, e.body)::private.inbox_event
        order by e.position, e.n)
    into v_events
    from (
        select
            t.*, coalesce((stored.message).id, ours.id) as target_id,
            row_number() over (
                partition by t.tenant_id, t.number_id, t.kind, t.id, t.about, t.detail,
                    case when t.id is null then (t.position, t.n) end
                order by private.is_stand_in(t.body ->> 'type'), t.position, t.n) as copy,
            case
                when (stored.message).id is not null
                    then private.changes_message(stored.message, t.kind, t.at, t.body)
                when ours.id is not null then true
                when t.kind in ('status', 'edit', 'revoke', 'reaction') then not exists (
                    select from public.early_events x
                    where x.tenant_id = t.tenant_id and x.number_id = t.number_id and x.target = t.about
                        and x.kind = t.kind and x.detail = t.detail)
                else true
            end as is_news
        from (
            select
                p.position, ev.n, p.tenant_id, p.number_id, p.provider, p.scope, ev.body,
                ev.body ->> 'kind' as kind, ev.body ->> 'id' as id,
                least((ev.body ->> 'at')::timestamptz + p.ahead, v_latest) as at,
                coalesce(ev.body ->> 'target', ev.body ->> 'id') as about,
                private.event_detail(ev.body) as detail,
                private.as_uuid(ev.body ->> 'callback') as callback
            from unnest(p_payloads) p
            cross join lateral jsonb_array_elements(p.events) with ordinality as ev (body, n)
            where p.number_id is not null and not p.is_known
            -- worked out before the look-ups: an expression to compare with makes a key look dear to the planner
            offset 0
        ) as t
        left join lateral (
            select m as message from public.messages m
            where m.tenant_id = t.tenant_id and m.number_id = t.number_id and m.wa_message_id = t.about
            limit 1
        ) as stored on true
        -- a status may come before the provider's answer has told us its id
        left join lateral (
            select m.id, m.number_id from public.messages m
            where m.tenant_id = t.tenant_id and m.id = t.callback
            limit 1
        ) as ours on ours.number_id = t.number_id
    ) as e
    where e.copy = 1 and e.is_news;
    return coalesce(v_events, '{}');
end
$$;

-- Apply fresh events as one set. Returns the messages stored.
create function private.inbox_apply(p_events private.inbox_event[]) returns private.inbox_message[]
language plpgsql set search_path = '' as $$
declare
    v_talk private.inbox_event[] := array(
        select e from unnest(p_events) e where e.kind in ('message', 'echo', 'call', 'preference'));
    v_changes private.inbox_event[] := array(
        select e from unnest(p_events) e where e.kind in ('status', 'edit', 'revoke', 'reaction'));
    v_identities private.inbox_event[] := array(select e from unnest(p_events) e where e.kind = 'identity');
    v_asides private.inbox_event[] := array(
        select e from unnest(p_events) e where e.kind in ('contact_sync', 'problem'));
    v_leads uuid[];
    v_chats uuid[];
    v_conversations uuid[];
    v_answered private.chat_ref[];
    v_adopted private.inbox_message[];
    v_refusals private.refusal[];
    v_stored private.inbox_message[] := array[]::private.inbox_message[];
begin
    if cardinality(v_identities) > 0 then
        perform private.inbox_identities(v_identities);
    end if;
    if cardinality(v_asides) > 0 then
        perform private.inbox_contacts(array(select e from unnest(v_asides) e where e.kind = 'contact_sync'));
        perform private.inbox_problems(array(select e from unnest(v_asides) e where e.kind = 'problem'));
    end if;
    if cardinality(v_talk) > 0 then
        v_leads := private.inbox_leads(v_talk);
        v_refusals := private.inbox_consent(v_talk, v_leads);
        v_chats := private.inbox_chats(v_talk, v_leads);
        v_conversations := private.inbox_conversations(v_talk, v_chats);
        v_adopted := private.inbox_adopt(v_talk, v_leads, v_chats);
        v_stored := private.inbox_store(v_talk, v_leads, v_chats, v_conversations) || v_adopted;
        v_stored := v_stored || private.inbox_fill(v_talk, v_stored);
        v_answered := private.inbox_touch(v_stored);
        perform private.inbox_media(v_stored);
        perform private.activity_note(v_stored);
        if cardinality(v_refusals) > 0 then
            perform private.enrollments_end(array(
                select distinct (m.tenant_id, m.chat_id)::private.chat_ref
                from unnest(v_stored) m
                join unnest(v_refusals) r on r.tenant_id = m.tenant_id and r.lead_id = m.lead_id
            ), 'opted_out', 'opted_out');
        end if;
        perform private.sequences_heed(v_stored);
        if cardinality(v_refusals) = 0 then
            perform private.replies_await(v_stored);
        else
            -- a refusal is confirmed, not discussed
            perform private.opt_outs_confirm(v_stored, v_refusals);
            perform private.replies_await(array(
                select m from unnest(v_stored) m where not exists (
                    select from unnest(v_refusals) r
                    where r.tenant_id = m.tenant_id and r.number_id = m.number_id
                        and r.wa_message_id = m.wa_message_id)));
        end if;
        perform private.replies_cancel(v_answered);
        perform private.sequences_trigger(v_stored);
        v_changes := v_changes || private.early_events_take(v_stored);
    end if;
    if cardinality(v_changes) > 0 then
        perform private.inbox_changes(v_changes);
    end if;
    return v_stored;
end
$$;

-- Why a payload cannot be applied though nothing is wrong with the database; null when it can. What names no number
-- is about an account: applied wherever it is connected, and kept in any case.
create function private.inbox_obstacle(p_body jsonb, p_number_id uuid) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case
        when p_body ->> 'error' is not null then p_body ->> 'error'
        when p_number_id is null and jsonb_array_length(p_body -> 'events') > 0 and (
            p_body ->> 'number' is not null or jsonb_path_exists(
                p_body, '$.events[*] ? (@.kind != "account" && @.kind != "problem" && @.kind != "other")'))
            then format('No active number %s of %s.', coalesce(p_body ->> 'number', '(none)'), p_body ->> 'provider')
    end;
end
$$;

-- The only business with numbers of an account; null where there are none, or several.
create function private.account_tenant(p_provider text, p_account text) returns uuid
language plpgsql stable set search_path = '' as $$
begin
    return (
        select (array_agg(distinct n.tenant_id))[1]
        from public.whatsapp_numbers n
        where n.provider = p_provider and n.waba_id = p_account and n.is_active
        having count(distinct n.tenant_id) = 1);
end
$$;

-- Keep payloads and what became of them. What could be parsed may be applied later: the number may be connected
-- tomorrow, the fault may be ours.
create function private.inbox_log(p_bodies jsonb[], p_tenants uuid[], p_errors text[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.webhook_logs (
        tenant_id, provider, delivery_id, account, number, field, received_at, payload, raw, events, status, error,
        applied_at, next_attempt_at, is_unmodelled)
    select
        case when l.body ->> 'number' is null
            then private.account_tenant(l.body ->> 'provider', l.body ->> 'account') else l.tenant_id end,
        l.body ->> 'provider', l.body ->> 'delivery_id', l.body ->> 'account', l.body ->> 'number',
        l.body ->> 'field', (l.body ->> 'received_at')::timestamptz, nullif(l.body -> 'payload', 'null'),
        decode(l.body ->> 'raw', 'base64'), case when l.error is not null then l.body -> 'events' end,
        case when l.error is null then 'applied' when l.body ->> 'error' is null then 'failed' else 'dead' end,
        l.error, case when l.error is null then clock_timestamp() end,
        case when l.error is not null and l.body ->> 'error' is null then now() + interval '1 minute' end,
        jsonb_path_exists(l.body, '$.events[*] ? (@.kind == "other")')
    from unnest(p_bodies, p_tenants, p_errors) as l (body, tenant_id, error)
    order by l.body ->> 'delivery_id'
    on conflict on constraint webhook_logs_delivery_id_key do nothing;
end
$$;

-- What became of each payload of a batch that was applied as a set: logged if it is new, and answered.
-- "product_events" are what the function's log says of it; of ids, a few will do.
create function private.inbox_settle(
    p_batch jsonb, p_payloads private.inbox_payload[], p_events private.inbox_event[],
    p_stored private.inbox_message[]
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_answers jsonb;
    v_bodies jsonb[];
    v_tenants uuid[];
    v_errors text[];
begin
    select
        jsonb_agg(jsonb_build_object(
            'status', case when o.is_known then 'duplicate' when o.obstacle is null then 'applied' else 'failed' end,
            'stored', o.stored,
            'repeated', case when o.is_known then o.told else o.told - o.news + o.messages - o.stored end,
            'error', case when not o.is_known then o.obstacle end)
            || case when o.is_live then '{"wake": ["reply"]}' else '{}' end::jsonb
            || case when o.received is null and o.failures is null then '{}' else jsonb_build_object(
                'product_events', coalesce(o.received, '[]') || coalesce(o.failures, '[]')) end
            order by o.position),
        array_agg(o.body order by o.position) filter (where not o.is_known),
        array_agg(o.tenant_id order by o.position) filter (where not o.is_known),
        array_agg(o.obstacle order by o.position) filter (where not o.is_known)
    into v_answers, v_bodies, v_tenants, v_errors
    from (
        select
            p.position, b.body, p.tenant_id, private.inbox_obstacle(b.body, p.number_id) as obstacle,
            case when s.message_ids is not null then jsonb_build_object(
                'event', 'whatsapp.message.received', 'tenant_id', p.tenant_id, 'number_id', p.number_id,
                'provider', p.provider, 'count', cardinality(s.message_ids),
                'message_ids', s.message_ids[:20], 'chat_ids', s.chat_ids[:20]) end as received,
            e.failures,
            jsonb_array_length(p.events) as told, coalesce(e.messages, 0) as messages,
            coalesce(s.stored, 0) as stored, coalesce(s.is_live, false) as is_live,
            case when p.number_id is null then jsonb_array_length(p.events) else coalesce(e.news, 0) end as news,
            p.is_known or (e.news is null and p.number_id is not null and jsonb_array_length(p.events) > 0) as is_known
        from unnest(p_payloads) p
        join jsonb_array_elements(p_batch) with ordinality as b (body, position) on b.position = p.position
        left join (
            select position, count(*) as news, count(*) filter (where kind in ('message', 'echo')) as messages,
                jsonb_agg(jsonb_build_object(
                    'event', 'whatsapp.send.failed', 'tenant_id', tenant_id, 'number_id', number_id,
                    'provider', provider, 'count', 1, 'message_ids', array[target_id],
                    'error_code', body #> '{error,code}'))
                    filter (where kind = 'status' and target_id is not null and body ->> 'status' = 'failed')
                    as failures
            from unnest(p_events)
            group by position
        ) as e on e.position = p.position
        left join (
            select position, count(message_id) as stored, bool_or(is_live and kind = 'message') as is_live,
                -- neither histories nor content that came later
                array_agg(message_id) filter (where kind = 'message' and conversation_id is not null) as message_ids,
                array_agg(chat_id) filter (where kind = 'message' and conversation_id is not null) as chat_ids
            from unnest(p_stored)
            group by position
        ) as s on s.position = p.position
        offset 0  -- every column worked out once
    ) as o;
    if v_bodies is not null then
        perform private.inbox_log(v_bodies, v_tenants, v_errors);
    end if;
    return coalesce(v_answers, '[]');
end
$$;

-- Take a batch as one set: all of it, or an exception.
create function private.inbox_take(p_batch jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_payloads private.inbox_payload[] := private.inbox_route(p_batch);
    v_events private.inbox_event[] := private.inbox_fresh(v_payloads);
    v_stored private.inbox_message[] := array[]::private.inbox_message[];
begin
    if cardinality(v_events) > 0 then
        v_stored := private.inbox_apply(v_events);
    end if;
    if exists (select from unnest(v_payloads) p where p.number_id is null) then
        perform private.inbox_accounts(v_payloads);
    end if;
    return private.inbox_settle(p_batch, v_payloads, v_events, v_stored);
end
$$;

-- Whether an error says nothing of what was to be stored: the disk is full, the server goes away, two transactions met.
-- It is raised again, and whoever delivers is not told that all is well, and delivers again. Memory is not among
-- these: what takes too much of it always will.
create function private.is_passing(p_sqlstate text) returns boolean
language sql immutable set search_path = '' as $$
    select left(p_sqlstate, 2) in ('40', '53', '57', '58') and p_sqlstate <> '53200' or p_sqlstate = '55P03'
$$;

-- Take one payload that spoilt its batch, or keep it with its error.
create function private.inbox_take_alone(p_body jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_error text;
    v_tenant_id uuid;
begin
    return private.inbox_take(jsonb_build_array(p_body)) -> 0;
exception
    when others then
        if private.is_passing(sqlstate) then
            raise;
        end if;
        get stacked diagnostics v_error = message_text;
        select n.tenant_id into v_tenant_id
        from public.whatsapp_numbers n
        where n.provider = p_body ->> 'provider' and n.provider_number_id = p_body ->> 'number' and n.is_active;
        -- received_at may be what is wrong with it
        perform private.inbox_log(
            array[p_body || jsonb_build_object('received_at', now())], array[v_tenant_id], array[v_error]);
        return jsonb_build_object('status', 'failed', 'stored', 0, 'repeated', 0, 'error', v_error);
end
$$;

-- Plans made while the tables were all but empty take any index that begins with the tenant, and go on reading all
-- of its rows until autovacuum looks at the table for the first time: up to a minute of a busy first day. So a
-- session plans anew whenever the messages have doubled.
create function private.forget_early_plans() returns void
language plpgsql set search_path = '' as $$
declare
    v_size bigint := pg_relation_size('public.messages');
begin
    if v_size >= 2 * coalesce(nullif(current_setting('recado.planned_size', true), ''), '0')::bigint then
        discard plans;
        perform set_config('recado.planned_size', v_size::text, false);
    end if;
end
$$;

-- Take a batch of payloads; one answer each, in their order. After it has returned, and its transaction committed,
-- the provider may be told that all is well: whatever could not be applied is kept. A deadlock, should there ever
-- be one, is for the caller to try again.
-- Every event is a look-up by key, and is planned as one for good, not by what the tables held when this session
-- began. (For the same reason look-ups by key stand in lateral subqueries with a limit: they cannot become a join
-- that reads a table.)
create function public.webhook_receive(p_batch jsonb) returns jsonb
language plpgsql set search_path = ''
set plan_cache_mode = 'force_generic_plan' set enable_seqscan = 'off' set jit = 'off' as $$
begin
    if jsonb_typeof(p_batch) is distinct from 'array' then
        raise exception using errcode = 'PT400', message = 'p_batch must be an array of payloads.',
            hint = 'Send one object per change of a delivery.';
    end if;
    perform private.forget_early_plans();
    begin
        return private.inbox_take(p_batch);
    exception
        -- one at a time, so that a bad payload harms no other
        when others then
            if private.is_passing(sqlstate) then
                raise;
            end if;
            return (
                select coalesce(jsonb_agg(private.inbox_take_alone(body) order by position), '[]')
                from jsonb_array_elements(p_batch) with ordinality as batch (body, position));
    end;
end
$$;

-- What is in these payloads, applied if it is news; the reason why not, else null.
create function private.inbox_reapply(p_body jsonb) returns text
language plpgsql set search_path = '' as $$
declare
    v_payloads private.inbox_payload[] := private.inbox_route(jsonb_build_array(p_body));
    v_error text := private.inbox_obstacle(p_body, v_payloads[1].number_id);
begin
    if v_error is null then
        perform private.inbox_apply(private.inbox_fresh(v_payloads));
        perform private.inbox_accounts(v_payloads);
    end if;
    return v_error;
exception
    when others then
        if private.is_passing(sqlstate) then
            raise;
        end if;
        get stacked diagnostics v_error = message_text;
        return v_error;
end
$$;

-- Apply a kept payload once more: true when it is applied now, or was before. Its events are kept until they are
-- applied; p_events are those that the function reads in the payload of an applied one, or reads better. However
-- often and in whatever order this is done, what is known already changes nothing.
create function public.webhook_replay(p_log_id uuid, p_events jsonb default null) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_log public.webhook_logs;
    v_events jsonb;
    v_error text;
begin
    select * into v_log from public.webhook_logs where id = p_log_id for update;
    if not found then
        raise exception using errcode = 'PT404', message = 'There is no such delivery.',
            hint = 'Pass webhook_logs.id.';
    end if;
    v_events := coalesce(p_events, v_log.events);
    if v_log.status = 'applied' and v_events is null then
        return true;
    end if;
    v_error := private.inbox_reapply(jsonb_build_object(
        'provider', v_log.provider, 'number', v_log.number, 'account', v_log.account, 'events', v_events,
        'error', case when v_events is null or v_events = '[]' then v_log.error end));
    -- what is dead stays so until it can be applied
    if v_log.status = 'failed' or v_log.status = 'dead' and v_error is null then
        perform private.webhook_log_settle(v_log, v_events, v_error);
    end if;
    return v_error is null;
end
$$;

-- What became of a kept payload that was tried again: 2, 8, 32 minutes … and then once a day, eight times in all.
create function private.webhook_log_settle(p_log public.webhook_logs, p_events jsonb, p_error text) returns void
language plpgsql set search_path = '' as $$
declare
    v_is_dead boolean := p_error is not null and p_log.attempts >= 8;
    v_tenant_id uuid := (private.inbox_route(jsonb_build_array(jsonb_build_object(
        'provider', p_log.provider, 'number', p_log.number))))[1].tenant_id;
begin
    update public.webhook_logs
    set status = case when p_error is null then 'applied' when v_is_dead then 'dead' else 'failed' end,
        tenant_id = coalesce(v_tenant_id, tenant_id),
        attempts = attempts + 1,
        error = p_error,
        events = case when p_error is not null then p_events end,
        applied_at = case when p_error is null then now() end,
        next_attempt_at = case when p_error is not null and not v_is_dead
            then now() + least(interval '1 minute' * 2 * 4 ^ (attempts - 1), interval '1 day') end
    where id = p_log.id;
    if v_is_dead and coalesce(v_tenant_id, p_log.tenant_id) is not null then
        perform private.alert_raise(coalesce(v_tenant_id, p_log.tenant_id), 'delivery_lost', p_log.id::text,
            format('A delivery of the provider could not be applied: %s', p_error));
    end if;
end
$$;

-- The sweep: try again what failed and is due, and what was said about messages stored in the very moment.
-- Returns how many payloads it applied.
create function public.webhook_retry(p_limit int default 100) returns int
language plpgsql set search_path = '' as $$
declare
    v_log_id uuid;
    v_applied int := 0;
begin
    for v_log_id in
        select id from public.webhook_logs
        where status = 'failed' and next_attempt_at <= now()
        order by next_attempt_at
        limit p_limit
        for update skip locked
    loop
        v_applied := v_applied + public.webhook_replay(v_log_id)::int;
    end loop;
    perform private.inbox_changes(private.early_events_late(p_limit));
    return v_applied;
end
$$;

-- These run with the rights of service_role, the only one who may call webhook_receive() and its sisters.
grant execute on function
    private.as_uuid(text), private.inbox_route(jsonb),
    private.is_refusal(jsonb), private.changes_message(public.messages, text, timestamptz, jsonb),
    private.event_detail(jsonb), private.is_stand_in(text), private.is_first_pricing(jsonb, timestamptz, jsonb),
    private.message_versions(public.messages),
    private.inbox_fresh(private.inbox_payload[]), private.inbox_apply(private.inbox_event[]),
    private.inbox_obstacle(jsonb, uuid), private.inbox_log(jsonb[], uuid[], text[]),
    private.inbox_settle(jsonb, private.inbox_payload[], private.inbox_event[], private.inbox_message[]),
    private.inbox_take(jsonb), private.inbox_take_alone(jsonb), private.is_passing(text),
    private.forget_early_plans(),
    private.account_tenant(text, text),
    private.inbox_reapply(jsonb), private.webhook_log_settle(public.webhook_logs, jsonb, text),
    public.webhook_receive(jsonb), public.webhook_replay(uuid, jsonb), public.webhook_retry(int)
    to service_role;
