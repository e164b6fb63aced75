-- Whose is an event: leads found by their addresses, made, and followed when their addresses change.

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

grant execute on function
    private.contact_keys(jsonb, text, text), private.lead_decide(private.inbox_event),
    private.leads_find(private.inbox_event[]), private.leads_create(private.inbox_event[], uuid[]),
    private.leads_learn(private.inbox_event[], uuid[]), private.leads_rename(private.inbox_event[], uuid[]),
    private.inbox_leads(private.inbox_event[]), private.inbox_identities(private.inbox_event[])
    to service_role;
