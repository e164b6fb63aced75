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
    applied_at timestamptz,
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
comment on column public.webhook_logs.error is 'pii: the database may quote a value';

create index webhook_logs_tenant_id_received_at_idx on public.webhook_logs (tenant_id, received_at desc);
create index webhook_logs_tenant_id_next_attempt_at_idx
    on public.webhook_logs (tenant_id, next_attempt_at) where status = 'failed';

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
    'What tells two events of a kind apart: a status, or the event''s own id.';
comment on column public.early_events.body is 'pii: the event';

alter table public.early_events enable row level security;
grant select on public.early_events to authenticated;
grant select, insert, update, delete on public.early_events to service_role;
create policy early_events_select_admin on public.early_events for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- An address of a customer: a key of lead_identities, but for its tenant.
create type private.contact_key as (kind text, scope text, value text);

-- A payload of a batch, routed.
create type private.inbox_payload as (
    position int, tenant_id uuid, number_id uuid, provider text, scope text, is_known boolean, events jsonb
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

-- Whom an event's addresses lead to, and whether that is already known of all of them.
create type private.lead_found as (lead_id uuid, is_complete boolean);

-- A contact's addresses; a business-scoped user id comes first.
create function private.contact_keys(p_contact jsonb, p_provider text, p_scope text) returns private.contact_key[]
language plpgsql immutable set search_path = '' as $$
declare
    v_keys private.contact_key[] := array[]::private.contact_key[];
begin
    if p_contact ->> 'bsuid' <> '' then
        v_keys := v_keys || ('bsuid', p_scope, p_contact ->> 'bsuid')::private.contact_key;
    end if;
    if p_contact ->> 'phone' <> '' then
        v_keys := v_keys || ('phone', '', p_contact ->> 'phone')::private.contact_key;
    end if;
    if p_contact ->> 'chat_id' <> '' then
        v_keys := v_keys || ('chat_id', p_provider, p_contact ->> 'chat_id')::private.contact_key;
    end if;
    if p_contact ->> 'parent_bsuid' <> '' then
        v_keys := v_keys || ('parent_bsuid', '', p_contact ->> 'parent_bsuid')::private.contact_key;
    end if;
    if p_contact ->> 'username' <> '' then
        v_keys := v_keys || ('username', '', lower(p_contact ->> 'username'))::private.contact_key;
    end if;
    return v_keys;
end
$$;

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
    v_payloads private.inbox_payload[];
begin
    select array_agg((
            b.position, n.tenant_id, n.id, b.body ->> 'provider',
            coalesce(n.portfolio_id, n.waba_id, b.body ->> 'account', ''),
            b.copy > 1 or l.id is not null, coalesce(b.body -> 'events', '[]'))::private.inbox_payload
        order by b.position)
    into v_payloads
    from (
        select position, body, row_number() over (partition by body ->> 'delivery_id' order by position) as copy
        from jsonb_array_elements(p_batch) with ordinality as batch (body, position)
    ) as b
    left join public.whatsapp_numbers n
        on n.provider = b.body ->> 'provider' and n.provider_number_id = b.body ->> 'number' and n.is_active
    left join public.webhook_logs l on l.delivery_id = b.body ->> 'delivery_id';
    return v_payloads;
end
$$;

-- Would this event change that message? Asked before anything is written.
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
            or p_message.pricing is null and jsonb_typeof(p_body -> 'pricing') = 'object')
        when 'edit' then
            coalesce(p_message.edited_at <> p_at, true)
            and not coalesce(p_message.previous @> jsonb_build_array(jsonb_build_object('at', p_at)), false)
        when 'revoke' then p_message.revoked_at is null
        when 'reaction' then
            coalesce((p_message.reactions #>> array[p_body ->> 'by', 'at'])::timestamptz < p_at, true)
        -- message or echo: it is stored, that is all there is to know
        else false
    end;
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
                order by t.position, t.n) as copy,
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
                least((ev.body ->> 'at')::timestamptz, v_latest) as at,
                coalesce(ev.body ->> 'target', ev.body ->> 'id') as about,
                coalesce(ev.body ->> 'status', ev.body ->> 'id', '') as detail,
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

-- The lead of each event, null where no address is known.
create function private.leads_find(p_events private.inbox_event[]) returns private.lead_found[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select (
            case when f.is_complete then f.lead_id else private.lead_decide(p_events[o.ordinality]) end, f.is_complete
        )::private.lead_found
        from unnest(p_events) with ordinality as o
        cross join lateral (
            select (array_agg(i.lead_id))[1] as lead_id, count(i.lead_id) = count(*) and count(distinct i.lead_id) = 1
                as is_complete
            from unnest(o.keys) as k
            left join lateral (
                select li.lead_id
                from public.lead_identities li
                where li.tenant_id = o.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
                    and li.valid_to = 'infinity' and li.valid_from <= o.at
                limit 1
            ) as i on true
        ) as f
        order by o.ordinality);
end
$$;

-- The lead of an event whose addresses are not all known, or not of one lead: the surest kind decides. An address
-- leads to whom it belonged at the time.
create function private.lead_decide(p_event private.inbox_event) returns uuid
language plpgsql stable set search_path = '' as $$
begin
    return (
        select i.lead_id
        from unnest(p_event.keys) with ordinality as k (kind, scope, value, rank)
        cross join lateral (
            select li.lead_id
            from public.lead_identities li
            where li.tenant_id = p_event.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
                and li.valid_to > p_event.at
            order by li.valid_to
            limit 1
        ) as i
        -- usernames change hands: one says who it is only where nothing else does
        where (k.kind <> 'username' or cardinality(p_event.keys) = 1)
            -- a phone that now comes with another user id was given to somebody else, for all we know
            and not (k.kind = 'phone' and p_event.keys[1].kind = 'bsuid' and exists (
                select from public.lead_identities other
                where other.tenant_id = p_event.tenant_id and other.lead_id = i.lead_id
                    and other.kind = 'bsuid' and other.scope = p_event.scope and other.valid_to = 'infinity'
                    and other.value <> p_event.keys[1].value))
        order by k.rank
        limit 1);
end
$$;

-- New leads for events without one. Of those that share an address only the first makes a lead, and another
-- transaction may have been faster: who is left out finds the lead on the next look.
create function private.leads_create(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
    with wanted as (
        select e.ordinality as n, e.tenant_id, e.at, e.body -> 'contact' as contact, k.kind, k.scope, k.value,
            min(e.ordinality) over (partition by e.tenant_id, k.kind, k.scope, k.value) as first_n
        from unnest(p_events) with ordinality as e
        cross join lateral unnest(e.keys) as k
        where p_leads[e.ordinality] is null
    ),
    born as materialized (
        select n, tenant_id, at, contact, private.uuid7() as lead_id
        from wanted
        group by n, tenant_id, at, contact
        having bool_and(first_n = n)
    ),
    identified as (
        insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
        select b.tenant_id, w.kind, w.scope, w.value, b.at, b.lead_id
        from born b
        join wanted w using (n)
        order by b.tenant_id, w.kind, w.scope, w.value
        on conflict do nothing
        returning lead_id
    )
    insert into public.customer_leads (tenant_id, id, phone, chat_id, name, user_name)
    select tenant_id, lead_id, contact ->> 'phone', contact ->> 'chat_id', nullif(contact ->> 'profile_name', ''),
        coalesce(nullif(contact ->> 'username', ''), nullif(contact ->> 'profile_name', ''))
    from born
    where lead_id in (select lead_id from identified)
    order by tenant_id, lead_id;
end
$$;

-- Addresses a known lead had not shown before; those of another lead go to a person to decide.
create function private.leads_learn(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
    with seen as materialized (
        select distinct on (e.tenant_id, k.kind, k.scope, k.value)
            e.tenant_id, k.kind, k.scope, k.value, e.at, p_leads[e.ordinality] as lead_id, i.lead_id as holder
        from unnest(p_events) with ordinality as e
        cross join lateral unnest(e.keys) as k
        left join lateral (
            select li.lead_id from public.lead_identities li
            where li.tenant_id = e.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
                and li.valid_to = 'infinity'
            limit 1
        ) as i on true
        where i.lead_id is distinct from p_leads[e.ordinality]
        order by e.tenant_id, k.kind, k.scope, k.value, e.ordinality
    ),
    learned as (
        insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
        select tenant_id, kind, scope, value, at, lead_id
        from seen
        where holder is null
            -- an address given up is not taken back by a message that was sent before
            and not exists (
                select from public.lead_identities old
                where old.tenant_id = seen.tenant_id and old.kind = seen.kind and old.scope = seen.scope
                    and old.value = seen.value and old.valid_to > seen.at)
        order by tenant_id, kind, scope, value
        on conflict do nothing
    )
    insert into public.lead_merge_candidates (tenant_id, lead_id, other_lead_id, reason, evidence)
    select distinct on (tenant_id, least(lead_id, holder), greatest(lead_id, holder))
        tenant_id, least(lead_id, holder), greatest(lead_id, holder), 'shared_' || kind,
        jsonb_build_object(kind, value)
    from seen
    where holder <> lead_id and kind <> 'username'
    order by tenant_id, least(lead_id, holder), greatest(lead_id, holder), kind
    on conflict do nothing;
end
$$;

-- name: once, from the profile; user_name: as last seen, never emptied; chat_id: once.
create function private.leads_rename(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.customer_leads l
    set name = case when l.name is null or l.name = l.phone then coalesce(n.profile_name, l.name) else l.name end,
        user_name = coalesce(n.user_name, l.user_name),
        chat_id = coalesce(l.chat_id, n.chat_id)
    from (
        select held.tenant_id, held.id, s.profile_name, s.user_name, s.chat_id
        from (
            select distinct on (e.tenant_id, p_leads[e.ordinality])
                e.tenant_id, p_leads[e.ordinality] as lead_id,
                nullif(e.body #>> '{contact,profile_name}', '') as profile_name,
                coalesce(nullif(e.body #>> '{contact,username}', ''), nullif(e.body #>> '{contact,profile_name}', ''))
                    as user_name,
                nullif(e.body #>> '{contact,chat_id}', '') as chat_id
            from unnest(p_events) with ordinality as e
            where e.kind = 'message'
            order by e.tenant_id, p_leads[e.ordinality], e.ordinality desc
        ) as s
        join public.customer_leads held on held.tenant_id = s.tenant_id and held.id = s.lead_id
        where s.user_name is distinct from held.user_name and s.user_name is not null
            or (held.name is null or held.name = held.phone) and s.profile_name is distinct from held.name
                and s.profile_name is not null
            or held.chat_id is null and s.chat_id is not null
        order by held.tenant_id, held.id
        for no key update of held
    ) as n
    where l.tenant_id = n.tenant_id and l.id = n.id;
end
$$;

-- The lead of each event, made if need be.
create function private.inbox_leads(p_events private.inbox_event[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_found private.lead_found[] := private.leads_find(p_events);
    v_leads uuid[] := array(select f.lead_id from unnest(v_found) f);
    v_rounds int := 0;
begin
    while array_position(v_leads, null) is not null loop
        if v_rounds = 5 then
            raise exception using errcode = 'PT400', message = 'An event names no customer.',
                hint = 'Its contact needs a phone, bsuid, chat_id or username.';
        end if;
        perform private.leads_create(p_events, v_leads);
        v_found := private.leads_find(p_events);
        v_leads := array(select f.lead_id from unnest(v_found) f);
        v_rounds := v_rounds + 1;
    end loop;
    if exists (select from unnest(v_found) f where not f.is_complete) then
        perform private.leads_learn(p_events, v_leads);
    end if;
    perform private.leads_rename(p_events, v_leads);
    return v_leads;
end
$$;

-- A customer moved to another number, or WhatsApp gave them another id: addresses close and open, the lead stays.
create function private.inbox_identities(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_event private.inbox_event;
    v_old private.contact_key[];
    v_new private.contact_key[];
    v_lead_id uuid;
begin
    foreach v_event in array p_events loop
        v_old := private.contact_keys(v_event.body -> 'from', v_event.provider, v_event.scope);
        v_new := private.contact_keys(v_event.body -> 'to', v_event.provider, v_event.scope);
        select i.lead_id into v_lead_id
        from unnest(v_old || v_new) with ordinality as k (kind, scope, value, rank)
        join public.lead_identities i
            on i.tenant_id = v_event.tenant_id and i.kind = k.kind and i.scope = k.scope and i.value = k.value
            and i.valid_to = 'infinity'
        order by k.rank
        limit 1;
        continue when not found;
        update public.lead_identities i set valid_to = v_event.at
        from unnest(v_old) as k
        where i.tenant_id = v_event.tenant_id and i.lead_id = v_lead_id and i.valid_to = 'infinity'
            and i.valid_from < v_event.at
            and (i.kind, i.scope, i.value) = (k.kind, k.scope, k.value) and not k = any (v_new);
        v_event.keys := v_new;
        perform private.leads_learn(array[v_event], array[v_lead_id]);
    end loop;
end
$$;

-- What a whole message must be to be an opt-out, folded. What it refuses: null when it is none.
create function private.opt_out_scope(p_text text) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case when length(p_text) <= 40
        and private.fold(p_text) in ('stop', 'baja', 'dar de baja', 'darme de baja', 'unsubscribe', 'no mas mensajes')
        then 'marketing' end;
end
$$;

-- What customers say about hearing from us: keywords, and the switch inside WhatsApp.
create function private.inbox_consent(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
    with said as (
        insert into public.consent_events (tenant_id, lead_id, kind, scope, source, evidence, happened_at)
        select
            e.tenant_id, p_leads[e.ordinality],
            case e.body ->> 'value' when 'resume' then 'opt_in' else 'opt_out' end,
            case e.kind when 'preference' then 'marketing' else private.opt_out_scope(e.body ->> 'text') end,
            case e.kind when 'preference' then 'provider' else 'keyword' end,
            e.body ->> 'text', e.at
        from unnest(p_events) with ordinality as e
        where e.kind = 'preference' and e.body ->> 'value' in ('stop', 'resume')
            or e.kind = 'message' and private.opt_out_scope(e.body ->> 'text') is not null
                and not coalesce((e.body ->> 'history')::boolean, false)
                and e.at > (select private.clock()) - interval '24 hours'
        order by e.tenant_id, p_leads[e.ordinality]
        on conflict on constraint consent_events_said_once_key do nothing
        returning tenant_id, lead_id, kind, scope, happened_at
    ),
    latest as (
        select distinct on (tenant_id, lead_id) * from said order by tenant_id, lead_id, happened_at desc
    )
    update public.customer_leads l
    set opted_out_at = case s.kind when 'opt_out' then coalesce(l.opted_out_at, s.happened_at) end,
        -- what is refused altogether stays so
        opt_out_scope = case s.kind when 'opt_out' then coalesce(l.opt_out_scope, s.scope) end
    from latest s
    where l.tenant_id = s.tenant_id and l.id = s.lead_id
        and (s.kind = 'opt_out' or l.opt_out_scope = s.scope);
end
$$;

create function private.chats_find(p_events private.inbox_event[], p_leads uuid[]) returns uuid[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select c.id
        from unnest(p_events) with ordinality as e
        left join lateral (
            select id from public.chats
            where tenant_id = e.tenant_id and number_id = e.number_id and lead_id = p_leads[e.ordinality]
            limit 1
        ) c on true
        order by e.ordinality);
end
$$;

create function private.chats_create(p_events private.inbox_event[], p_leads uuid[], p_chats uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.chats (tenant_id, number_id, lead_id, last_interaction_at)
    select e.tenant_id, e.number_id, p_leads[e.ordinality], min(e.at)
    from unnest(p_events) with ordinality as e
    where p_chats[e.ordinality] is null
    group by e.tenant_id, e.number_id, p_leads[e.ordinality]
    order by e.tenant_id, e.number_id, p_leads[e.ordinality]
    on conflict on constraint chats_tenant_id_number_id_lead_id_key do nothing;
end
$$;

-- The chat of each event, made if need be; all of them locked.
create function private.inbox_chats(p_events private.inbox_event[], p_leads uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_chats uuid[] := private.chats_find(p_events, p_leads);
begin
    if array_position(v_chats, null) is not null then
        perform private.chats_create(p_events, p_leads, v_chats);
        v_chats := private.chats_find(p_events, p_leads);
    end if;
    perform from public.chats c
    join (select distinct e.tenant_id, v_chats[e.ordinality] as id from unnest(p_events) with ordinality as e) as w
        on c.tenant_id = w.tenant_id and c.id = w.id
    order by c.tenant_id, c.id
    for no key update of c;
    return v_chats;
end
$$;

-- The open conversation of each event's chat, opened if need be; null for history and calls. After a silence the
-- next message begins a new one, whether or not the sweep has been by.
create function private.inbox_conversations(p_events private.inbox_event[], p_chats uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_silent record;
begin
    for v_silent in
        select v.tenant_id, array_agg(v.id) as ids
        from (
            select e.tenant_id, p_chats[e.ordinality] as chat_id, min(e.at) as at
            from unnest(p_events) with ordinality as e
            where e.kind <> 'call' and not coalesce((e.body ->> 'history')::boolean, false)
            group by e.tenant_id, p_chats[e.ordinality]
        ) as first
        join public.chats c on c.tenant_id = first.tenant_id and c.id = first.chat_id
        cross join lateral (
            select * from public.conversations
            where tenant_id = c.tenant_id and chat_id = c.id and status = 'open'
            limit 1
        ) v
        where first.at > greatest(c.last_interaction_at, v.reopened_at) + make_interval(hours => (
            select conversation_idle_hours from public.tenant_settings where tenant_id = c.tenant_id))
        group by v.tenant_id
    loop
        perform private.conversations_finish(v_silent.tenant_id, v_silent.ids);
    end loop;

    return private.conversations_open(p_events, p_chats);
end
$$;

create function private.conversations_open(p_events private.inbox_event[], p_chats uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_conversations uuid[];
begin
    with wanted as materialized (
        select e.ordinality as n, e.tenant_id, p_chats[e.ordinality] as chat_id, e.at, v.id
        from unnest(p_events) with ordinality as e
        left join lateral (
            select id from public.conversations
            where tenant_id = e.tenant_id and chat_id = p_chats[e.ordinality] and status = 'open'
            limit 1
        ) v on true
        where e.kind <> 'call' and not coalesce((e.body ->> 'history')::boolean, false)
    ),
    opened as (
        insert into public.conversations (tenant_id, chat_id, opened_at)
        select tenant_id, chat_id, min(at)
        from wanted
        where id is null
        group by tenant_id, chat_id
        returning tenant_id, chat_id, id
    )
    select array_agg(coalesce(w.id, o.id) order by n)
    into v_conversations
    from generate_subscripts(p_events, 1) as n
    left join wanted w using (n)
    left join opened o on o.tenant_id = w.tenant_id and o.chat_id = w.chat_id;
    return v_conversations;
end
$$;

-- Store the messages among the events. Returns those that were stored, and the calls.
create function private.inbox_store(
    p_events private.inbox_event[], p_leads uuid[], p_chats uuid[], p_conversations uuid[]
) returns private.inbox_message[]
language plpgsql set search_path = '' as $$
declare
    v_live_after timestamptz := private.clock() - interval '24 hours';
    -- in order, since messages of the same second are shown in the order of their ids
    v_ids uuid[] := array(select private.uuid7() from unnest(p_events) order by 1);
    v_stored private.inbox_message[];
begin
    with stored as (
        insert into public.messages (
            tenant_id, id, chat_id, conversation_id, lead_id, number_id, direction, role, source, type, content,
            data, is_forwarded, wa_message_id, reply_to, referral, raw, status, sent_at, provider_at)
        select
            e.tenant_id, v_ids[e.ordinality], p_chats[e.ordinality], p_conversations[e.ordinality],
            p_leads[e.ordinality], e.number_id, k.direction, k.role, k.source,
            coalesce(e.body ->> 'type', 'unknown'), e.body ->> 'text',
            nullif(e.body -> 'data', 'null'), coalesce((e.body #>> '{context,forwarded}')::boolean, false),
            e.id, e.body #>> '{context,id}', nullif(e.body -> 'referral', 'null'), nullif(e.body -> 'raw', 'null'),
            k.status, case when e.kind = 'echo' then e.at end, e.at
        from unnest(p_events) with ordinality as e
        join (values
            ('message', 'inbound', 'user', 'customer', 'received'),
            ('echo', 'outbound', 'human', 'manual', 'sent')
        ) as k (kind, direction, role, source, status) on k.kind = e.kind
        order by e.ordinality
        on conflict on constraint messages_tenant_id_number_id_wa_message_id_key do nothing
        returning id
    )
    select array_agg((
            e.position, e.tenant_id, e.number_id, p_leads[e.ordinality], p_chats[e.ordinality],
            p_conversations[e.ordinality], s.id, e.id, e.kind, e.body ->> 'type', e.at, h.is_history,
            not h.is_history and e.at > v_live_after, e.body)::private.inbox_message
        order by e.ordinality)
    into v_stored
    from unnest(p_events) with ordinality as e
    cross join lateral (select coalesce((e.body ->> 'history')::boolean, false) as is_history) as h
    left join stored s on s.id = v_ids[e.ordinality]
    where s.id is not null or e.kind = 'call' and e.body ->> 'direction' = 'inbound';
    return coalesce(v_stored, '{}');
end
$$;

create function private.inbox_media(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.media (
        tenant_id, message_id, provider_media_id, mime, sha256, size, filename, url, is_voice, is_animated)
    select s.tenant_id, s.message_id, f ->> 'id', f ->> 'mime', f ->> 'sha256', (f ->> 'size')::bigint,
        f ->> 'filename', f ->> 'url', coalesce((f ->> 'voice')::boolean, false),
        coalesce((f ->> 'animated')::boolean, false)
    from unnest(p_stored) s
    cross join lateral nullif(s.body -> 'media', 'null') as f
    where jsonb_typeof(f) = 'object';
end
$$;

-- Chats and conversations after their new messages. The customer alone opens the window; a person who writes from
-- the phone silences the agent for a while.
create function private.inbox_touch(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.chats c
    set last_inbound_at = greatest(c.last_inbound_at, t.inbound_at),
        last_outbound_at = greatest(c.last_outbound_at, t.outbound_at),
        last_interaction_at = greatest(c.last_interaction_at, t.inbound_at, t.outbound_at),
        window_expires_at = greatest(c.window_expires_at, t.opened_at + interval '24 hours'),
        unread_count = c.unread_count + t.unread,
        agent_paused_until = greatest(c.agent_paused_until, t.taken_over_at + make_interval(mins => (
            select human_takeover_minutes from public.tenant_settings where tenant_id = c.tenant_id))),
        referral = case when t.referral_at > coalesce(c.referral_at, '-infinity') then t.referral else c.referral end,
        referral_at = greatest(c.referral_at, t.referral_at)
    from (
        select
            m.tenant_id, m.chat_id,
            max(m.at) filter (where m.kind <> 'echo') as inbound_at,
            max(m.at) filter (where m.kind = 'echo') as outbound_at,
            max(m.at) filter (where m.kind <> 'echo' and not m.is_history) as opened_at,
            max(m.at) filter (where m.kind = 'echo' and m.is_live) as taken_over_at,
            count(*) filter (where m.kind = 'message' and not m.is_history) as unread,
            max(m.at) filter (where jsonb_typeof(m.body -> 'referral') = 'object') as referral_at,
            (array_agg(m.body -> 'referral' order by m.at desc)
                filter (where jsonb_typeof(m.body -> 'referral') = 'object'))[1] as referral
        from unnest(p_stored) m
        group by m.tenant_id, m.chat_id
    ) as t
    where c.tenant_id = t.tenant_id and c.id = t.chat_id;

    update public.conversations v
    set message_count = v.message_count + t.messages
    from (
        select m.tenant_id, m.conversation_id, count(*) as messages
        from unnest(p_stored) m
        where m.message_id is not null and m.conversation_id is not null
        group by m.tenant_id, m.conversation_id
    ) as t
    where v.tenant_id = t.tenant_id and v.id = t.conversation_id;
end
$$;

-- What had been said about messages before they came.
create function private.early_events_take(p_stored private.inbox_message[]) returns private.inbox_event[]
language plpgsql set search_path = '' as $$
declare
    v_events private.inbox_event[];
begin
    with taken as (
        delete from public.early_events x
        using unnest(p_stored) s
        where x.tenant_id = s.tenant_id and x.number_id = s.number_id and x.target = s.wa_message_id
        returning s.position, x.tenant_id, x.number_id, x.kind, x.body ->> 'id' as id, x.happened_at,
            s.message_id, x.body
    )
    select coalesce(array_agg((
        position, tenant_id, number_id, null, null, kind, id, happened_at, null, message_id, body
    )::private.inbox_event), '{}')
    into v_events
    from taken;
    return v_events;
end
$$;

-- Statuses only move forwards, each keeps the time it was reported for, and a failure counts only while nothing
-- says that the message arrived.
create function private.inbox_statuses(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_order text[] := array[
        'skipped', 'canceled', 'unknown', 'queued', 'sending', 'sent', 'failed', 'delivered', 'read', 'played'];
begin
    delete from public.outbox o
    using (
        select d.tenant_id, d.message_id
        from public.outbox d
        join unnest(p_events) e on e.tenant_id = d.tenant_id and e.target_id = d.message_id
        order by d.tenant_id, d.message_id
        for update of d
    ) as done
    where o.tenant_id = done.tenant_id and o.message_id = done.message_id;

    perform from public.messages m
    join unnest(p_events) e on m.tenant_id = e.tenant_id and m.id = e.target_id
    order by m.tenant_id, m.id
    for no key update of m;

    update public.messages m
    set status = v_order[greatest(array_position(v_order, m.status), s.rank)],
        wa_message_id = coalesce(m.wa_message_id, s.wa_message_id),
        sent_at = least(m.sent_at, s.sent_at),
        delivered_at = least(m.delivered_at, s.delivered_at),
        read_at = least(m.read_at, s.read_at),
        played_at = least(m.played_at, s.played_at),
        failed_at = least(m.failed_at, s.failed_at),
        error_code = coalesce(m.error_code, (s.error ->> 'code')::int),
        error_message = coalesce(
            m.error_message, nullif(concat_ws(': ', s.error ->> 'title', s.error ->> 'details'), '')),
        pricing = coalesce(m.pricing, s.pricing),
        price_class = coalesce(s.pricing ->> 'category', m.price_class),
        actual_cost = coalesce(m.actual_cost, c.amount),
        currency = case when m.actual_cost is null then coalesce(c.currency, m.currency) else m.currency end
    from (
        select
            e.tenant_id, e.target_id, min(e.id) as wa_message_id,
            max(array_position(v_order, e.body ->> 'status')) as rank,
            min(e.at) filter (where e.body ->> 'status' = 'sent') as sent_at,
            min(e.at) filter (where e.body ->> 'status' = 'delivered') as delivered_at,
            min(e.at) filter (where e.body ->> 'status' = 'read') as read_at,
            min(e.at) filter (where e.body ->> 'status' = 'played') as played_at,
            min(e.at) filter (where e.body ->> 'status' = 'failed') as failed_at,
            (array_agg(e.body -> 'error') filter (where jsonb_typeof(e.body -> 'error') = 'object'))[1] as error,
            (array_agg(e.body -> 'pricing' order by e.at)
                filter (where jsonb_typeof(e.body -> 'pricing') = 'object'))[1] as pricing
        from unnest(p_events) e
        group by e.tenant_id, e.target_id
    ) as s
    left join lateral private.message_cost(s.tenant_id, s.target_id, s.pricing) c on s.pricing is not null
    where m.tenant_id = s.tenant_id and m.id = s.target_id and m.direction = 'outbound';

    update public.chats c
    set free_entry_until = greatest(c.free_entry_until, (e.body #>> '{conversation,expires_at}')::timestamptz)
    from unnest(p_events) e
    join public.messages m on m.tenant_id = e.tenant_id and m.id = e.target_id
    where e.body #>> '{conversation,expires_at}' is not null
        and e.body #>> '{conversation,origin}' = 'referral_conversion'
        and c.tenant_id = m.tenant_id and c.id = m.chat_id;
end
$$;

-- What the provider's pricing object means in money: nothing unless the type is regular, else the list price.
create function private.message_cost(p_tenant_id uuid, p_message_id uuid, p_pricing jsonb)
returns table (amount numeric, currency text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select case when p_pricing ->> 'type' is distinct from 'regular' then 0 else r.amount end, r.currency
    from public.messages m
    join public.customer_leads l on l.tenant_id = m.tenant_id and l.id = m.lead_id
    cross join lateral private.price_of(l.phone, p_pricing ->> 'category', m.provider_at) r
    where m.tenant_id = p_tenant_id and m.id = p_message_id;
end
$$;

-- Edits and revokes keep every earlier text, in the order of its time, in whatever order they arrive.
create function private.inbox_rewrite(p_event private.inbox_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_message public.messages;
    v_versions jsonb;
    v_current jsonb;
begin
    select * into v_message
    from public.messages m
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id
    for no key update;
    v_versions := coalesce(v_message.previous, '[]');
    if v_message.revoked_at is null then
        v_versions := v_versions || jsonb_build_object(
            'at', coalesce(v_message.edited_at, v_message.provider_at), 'content', v_message.content);
    end if;
    if p_event.kind = 'edit' then
        v_versions := v_versions || jsonb_build_object('at', p_event.at, 'content', p_event.body ->> 'text');
    end if;
    v_versions := (
        select jsonb_agg(version order by (version ->> 'at')::timestamptz)
        from jsonb_array_elements(v_versions) as version);
    v_current := v_versions -> -1;
    update public.messages m
    set revoked_at = case p_event.kind when 'revoke' then p_event.at else m.revoked_at end,
        edited_at = case p_event.kind when 'edit' then greatest(m.edited_at, p_event.at) else m.edited_at end,
        content = case when p_event.kind = 'edit' and m.revoked_at is null then v_current ->> 'content' end,
        previous = case when p_event.kind = 'edit' and m.revoked_at is null then v_versions - -1 else v_versions end
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id;
end
$$;

create function private.inbox_react(p_event private.inbox_event) returns void
language plpgsql set search_path = '' as $$
begin
    update public.messages m
    set reactions = coalesce(m.reactions, '{}') || jsonb_build_object(
        p_event.body ->> 'by', jsonb_build_object('emoji', p_event.body ->> 'emoji', 'at', p_event.at))
    where m.tenant_id = p_event.tenant_id and m.id = p_event.target_id
        and coalesce((m.reactions #>> array[p_event.body ->> 'by', 'at'])::timestamptz < p_event.at, true);
end
$$;

-- Apply what was said about messages; keep it where the message is not there.
create function private.inbox_changes(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_known private.inbox_event[];
    v_event private.inbox_event;
begin
    select array_agg((
            e.position, e.tenant_id, e.number_id, e.provider, e.scope, e.kind, e.id, e.at, e.keys,
            coalesce(e.target_id, m.id), e.body)::private.inbox_event
        order by e.tenant_id, coalesce(e.target_id, m.id), e.at)
    into v_known
    from unnest(p_events) e
    left join public.messages m
        on e.target_id is null and m.tenant_id = e.tenant_id and m.number_id = e.number_id
        and m.wa_message_id = coalesce(e.body ->> 'target', e.id);

    insert into public.early_events (tenant_id, number_id, target, kind, detail, happened_at, body)
    select e.tenant_id, e.number_id, coalesce(e.body ->> 'target', e.id), e.kind,
        coalesce(e.body ->> 'status', e.id, ''), e.at, e.body
    from unnest(v_known) e
    where e.target_id is null
    order by 1, 2, 3, 4, 5
    on conflict do nothing;

    v_known := array(select e from unnest(v_known) e where e.target_id is not null);
    perform private.inbox_statuses(array(select e from unnest(v_known) e where e.kind = 'status'));
    foreach v_event in array v_known loop
        if v_event.kind in ('edit', 'revoke') then
            perform private.inbox_rewrite(v_event);
        elsif v_event.kind = 'reaction' then
            perform private.inbox_react(v_event);
        end if;
    end loop;
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
    v_leads uuid[];
    v_chats uuid[];
    v_stored private.inbox_message[] := array[]::private.inbox_message[];
begin
    perform private.inbox_identities(v_identities);
    if cardinality(v_talk) > 0 then
        v_leads := private.inbox_leads(v_talk);
        perform private.inbox_consent(v_talk, v_leads);
        v_chats := private.inbox_chats(v_talk, v_leads);
        v_stored := private.inbox_store(
            v_talk, v_leads, v_chats, private.inbox_conversations(v_talk, v_chats));
        perform private.inbox_touch(v_stored);
        perform private.inbox_media(v_stored);
        perform private.activity_note(v_stored);
        perform private.replies_await(v_stored);
        v_changes := v_changes || private.early_events_take(v_stored);
    end if;
    if cardinality(v_changes) > 0 then
        perform private.inbox_changes(v_changes);
    end if;
    return v_stored;
end
$$;

-- Why a payload cannot be applied though nothing is wrong with the database; null when it can.
create function private.inbox_obstacle(p_body jsonb, p_number_id uuid) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case
        when p_body ->> 'error' is not null then p_body ->> 'error'
        when p_number_id is null and jsonb_array_length(p_body -> 'events') > 0
            then format('No active number %s of %s.', coalesce(p_body ->> 'number', '(none)'), p_body ->> 'provider')
    end;
end
$$;

-- Keep payloads and what became of them. What could be parsed may be applied later: the number may be connected
-- tomorrow, the fault may be ours.
create function private.inbox_log(p_bodies jsonb[], p_tenants uuid[], p_errors text[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.webhook_logs (
        tenant_id, provider, delivery_id, account, number, field, received_at, payload, raw, events, status, error,
        applied_at, next_attempt_at)
    select
        l.tenant_id, l.body ->> 'provider', l.body ->> 'delivery_id', l.body ->> 'account', l.body ->> 'number',
        l.body ->> 'field', (l.body ->> 'received_at')::timestamptz, nullif(l.body -> 'payload', 'null'),
        decode(l.body ->> 'raw', 'base64'), case when l.error is not null then l.body -> 'events' end,
        case when l.error is null then 'applied' when l.body ->> 'error' is null then 'failed' else 'dead' end,
        l.error, case when l.error is null then now() end,
        case when l.error is not null and l.body ->> 'error' is null then now() + interval '1 minute' end
    from unnest(p_bodies, p_tenants, p_errors) as l (body, tenant_id, error)
    order by l.body ->> 'delivery_id'
    on conflict on constraint webhook_logs_delivery_id_key do nothing;
end
$$;

-- What became of each payload of a batch that was applied as a set: logged if it is new, and answered.
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
            || case when o.is_live then '{"wake": ["reply"]}' else '{}' end::jsonb order by o.position),
        array_agg(o.body order by o.position) filter (where not o.is_known),
        array_agg(o.tenant_id order by o.position) filter (where not o.is_known),
        array_agg(o.obstacle order by o.position) filter (where not o.is_known)
    into v_answers, v_bodies, v_tenants, v_errors
    from (
        select
            p.position, b.body, p.tenant_id, private.inbox_obstacle(b.body, p.number_id) as obstacle,
            jsonb_array_length(p.events) as told, coalesce(e.messages, 0) as messages,
            coalesce(s.stored, 0) as stored, coalesce(s.is_live, false) as is_live,
            case when p.number_id is null then jsonb_array_length(p.events) else coalesce(e.news, 0) end as news,
            p.is_known or (e.news is null and p.number_id is not null and jsonb_array_length(p.events) > 0) as is_known
        from unnest(p_payloads) p
        join jsonb_array_elements(p_batch) with ordinality as b (body, position) on b.position = p.position
        left join (
            select position, count(*) as news, count(*) filter (where kind in ('message', 'echo')) as messages
            from unnest(p_events)
            group by position
        ) as e on e.position = p.position
        left join (
            select position, count(message_id) as stored, bool_or(is_live and kind = 'message') as is_live
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
    return private.inbox_settle(p_batch, v_payloads, v_events, v_stored);
end
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
    when deadlock_detected then raise;
    when others then
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
        when deadlock_detected then raise;
        -- one at a time, so that a bad payload harms no other
        when others then
            return (
                select coalesce(jsonb_agg(private.inbox_take_alone(body) order by position), '[]')
                from jsonb_array_elements(p_batch) with ordinality as batch (body, position));
    end;
end
$$;

-- Apply a kept payload once more. True when it is applied now (or was before); safe to repeat.
create function public.webhook_replay(p_log_id uuid) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_log public.webhook_logs;
    v_payloads private.inbox_payload[];
    v_error text;
begin
    select * into v_log from public.webhook_logs where id = p_log_id for update;
    if not found then
        raise exception using errcode = 'PT404', message = 'There is no such delivery.',
            hint = 'Pass webhook_logs.id.';
    end if;
    if v_log.status = 'applied' then
        return true;
    end if;
    begin
        v_payloads := private.inbox_route(jsonb_build_array(jsonb_build_object(
            'provider', v_log.provider, 'number', v_log.number, 'account', v_log.account, 'events', v_log.events)));
        v_error := private.inbox_obstacle(
            jsonb_build_object('provider', v_log.provider, 'number', v_log.number, 'events', v_log.events,
                'error', case when v_log.events is null or v_log.events = '[]' then v_log.error end),
            v_payloads[1].number_id);
        if v_error is null then
            perform private.inbox_apply(private.inbox_fresh(v_payloads));
        end if;
    exception
        when deadlock_detected then raise;
        when others then get stacked diagnostics v_error = message_text;
    end;
    update public.webhook_logs
    set status = case when v_error is null then 'applied' when attempts >= 8 then 'dead' else 'failed' end,
        tenant_id = coalesce(v_payloads[1].tenant_id, tenant_id),
        attempts = attempts + 1,
        error = v_error,
        events = case when v_error is not null then events end,
        applied_at = case when v_error is null then now() end,
        -- 2, 8, 32 minutes … and then once a day
        next_attempt_at = case when v_error is not null and attempts < 8
            then now() + least(interval '1 minute' * 2 * 4 ^ (attempts - 1), interval '1 day') end
    where id = p_log_id;
    return v_error is null;
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

-- Early events whose message has come since: its transaction and theirs did not see each other.
create function private.early_events_late(p_limit int) returns private.inbox_event[]
language plpgsql set search_path = '' as $$
declare
    v_events private.inbox_event[];
begin
    with late as (
        select x.tenant_id, x.number_id, x.target, x.kind, x.detail, m.id as message_id
        from public.early_events x
        join public.messages m
            on m.tenant_id = x.tenant_id and m.number_id = x.number_id and m.wa_message_id = x.target
        order by x.tenant_id, x.number_id, x.target
        limit p_limit
        for update of x skip locked
    ),
    taken as (
        delete from public.early_events x
        using late
        where (x.tenant_id, x.number_id, x.target, x.kind, x.detail)
            = (late.tenant_id, late.number_id, late.target, late.kind, late.detail)
        returning x.*, late.message_id
    )
    select coalesce(array_agg((
        0, tenant_id, number_id, null, null, kind, coalesce(body ->> 'id', ''), happened_at, null, message_id, body
    )::private.inbox_event), '{}')
    into v_events
    from taken;
    return v_events;
end
$$;

-- These run with the rights of service_role, the only one who may call webhook_receive() and its sisters.
grant execute on function
    private.contact_keys(jsonb, text, text), private.as_uuid(text), private.inbox_route(jsonb),
    private.changes_message(public.messages, text, timestamptz, jsonb),
    private.inbox_fresh(private.inbox_payload[]), private.lead_decide(private.inbox_event),
    private.leads_find(private.inbox_event[]),
    private.leads_create(private.inbox_event[], uuid[]), private.leads_learn(private.inbox_event[], uuid[]),
    private.leads_rename(private.inbox_event[], uuid[]), private.inbox_leads(private.inbox_event[]),
    private.inbox_identities(private.inbox_event[]), private.opt_out_scope(text),
    private.inbox_consent(private.inbox_event[], uuid[]), private.chats_find(private.inbox_event[], uuid[]),
    private.chats_create(private.inbox_event[], uuid[], uuid[]), private.inbox_chats(private.inbox_event[], uuid[]),
    private.inbox_conversations(private.inbox_event[], uuid[]),
    private.conversations_open(private.inbox_event[], uuid[]),
    private.inbox_store(private.inbox_event[], uuid[], uuid[], uuid[]), private.inbox_media(private.inbox_message[]),
    private.inbox_touch(private.inbox_message[]), private.early_events_take(private.inbox_message[]),
    private.early_events_late(int), private.inbox_statuses(private.inbox_event[]),
    private.message_cost(uuid, uuid, jsonb), private.inbox_rewrite(private.inbox_event),
    private.inbox_react(private.inbox_event), private.inbox_changes(private.inbox_event[]),
    private.inbox_apply(private.inbox_event[]), private.inbox_obstacle(jsonb, uuid),
    private.inbox_log(jsonb[], uuid[], text[]),
    private.inbox_settle(jsonb, private.inbox_payload[], private.inbox_event[], private.inbox_message[]),
    private.inbox_take(jsonb), private.inbox_take_alone(jsonb), private.forget_early_plans(),
    public.webhook_receive(jsonb), public.webhook_replay(uuid), public.webhook_retry(int)
    to service_role;
