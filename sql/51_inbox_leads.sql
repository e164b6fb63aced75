-- Whose is an event: leads found by their addresses, made, and followed when their addresses change.

-- Brazil, Argentina and Mexico write a mobile number in two ways, with or without a digit that says so: this is the one
-- form for both. Null for all other numbers, landlines among them: their digits tell, but for Mexico, where no landline
-- was ever written with the 1.
create function private.mobile_key(p_phone text) returns text
language plpgsql immutable strict set search_path = '' as $$
begin
    return case
        -- what follows the area code begins with 6 to 9 in a mobile, and with 2 to 5 in a landline
        when p_phone ~ '^55[1-9]{2}9?[6-9]\d{7}$' then left(p_phone, 4) || '9' || right(p_phone, 8)
        when p_phone ~ '^521?[2-9]\d{9}$' then '52' || right(p_phone, 10)
        -- and with 4 in a landline; area codes have two digits, or three if they are one of these, or else four
        when p_phone ~ '^549?[1-3]\d{9}$' and right(p_phone, 10) !~ (
            '^(11|2(20|21|23|30|36|37|49|6[01346]|80|9[14789])|3(36|4[12358]|5[138]|6[24]|7[069]|8[013578]))4'
            || '|^(?!11|2(20|21|23|30|36|37|49|6[01346]|80|9[14789])|3(36|4[12358]|5[138]|6[24]|7[069]|8[013578]))\d{4}4')
            then '549' || right(p_phone, 10)
    end;
end
$$;

-- A contact's addresses, the surest first: a business-scoped user id. Usernames change hands, so one counts only
-- where it is all we are told.
create function private.contact_keys(p_contact jsonb, p_provider text, p_scope text) returns private.contact_key[]
language plpgsql immutable set search_path = '' as $$
declare
    v_keys private.contact_key[] := array[]::private.contact_key[];
    v_phone text := p_contact ->> 'phone';
    v_mobile text := case when left(v_phone, 2) in ('52', '54', '55') then private.mobile_key(v_phone) end;
begin
    if p_contact ->> 'bsuid' <> '' then
        v_keys := v_keys || ('bsuid', p_scope, p_contact ->> 'bsuid')::private.contact_key;
    end if;
    if v_phone <> '' then
        v_keys := v_keys || ('phone', '', v_phone)::private.contact_key;
    end if;
    if v_mobile is not null then
        v_keys := v_keys || ('mobile', '', v_mobile)::private.contact_key;
    end if;
    if p_contact ->> 'chat_id' <> '' then
        v_keys := v_keys || ('chat_id', p_provider, p_contact ->> 'chat_id')::private.contact_key;
    end if;
    if p_contact ->> 'parent_bsuid' <> '' then
        v_keys := v_keys || ('parent_bsuid', '', p_contact ->> 'parent_bsuid')::private.contact_key;
    end if;
    if p_contact ->> 'username' <> '' and cardinality(v_keys) = 0 then
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
        -- a phone that now comes with another user id was given to somebody else, for all we know
        where not (
            k.kind in ('phone', 'mobile') and p_event.keys[1].kind = 'bsuid' and exists (
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
declare
    v_born uuid[];
begin
    with wanted as (
        select e.ordinality as n, e.tenant_id, e.at, e.kind = 'message' as is_theirs, e.body -> 'contact' as contact,
            k.kind, k.scope, k.value, min(e.ordinality) over (partition by e.tenant_id, k.kind, k.scope, k.value) as first_n
        from unnest(p_events) with ordinality as e
        cross join lateral unnest(e.keys) as k
        where p_leads[e.ordinality] is null
    ),
    born as materialized (
        select n, tenant_id, at, contact, private.uuid7() as lead_id,
            case when is_theirs then nullif(contact ->> 'profile_name', '') end as name,
            case when is_theirs
                then coalesce(nullif(contact ->> 'username', ''), nullif(contact ->> 'profile_name', '')) end as user_name
        from wanted
        group by n, tenant_id, at, is_theirs, contact
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
    ),
    made as (
        insert into public.customer_leads (
            tenant_id, id, phone, chat_id, name, name_source, named_at, user_name)
        select tenant_id, lead_id, contact ->> 'phone', contact ->> 'chat_id', name,
            case when name is not null then 'profile' end, case when name is not null then at end, user_name
        from born
        where lead_id in (select lead_id from identified)
        order by tenant_id, lead_id
        returning id
    )
    select array_agg(id) into v_born from made;
    perform private.leads_name_from_book(v_born, p_events);
end
$$;

-- Addresses a lead had not shown before, or not as early; those of another lead go to a person to decide. Answers
-- whether a lead has a new address, by which other events may be known.
create function private.leads_learn(p_events private.inbox_event[], p_leads uuid[]) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_learned uuid[];
begin
    with seen as materialized (
        select distinct on (e.tenant_id, k.kind, k.scope, k.value)
            e.tenant_id, k.kind, k.scope, k.value, e.at, p_leads[e.ordinality] as lead_id, i.lead_id as holder,
            i.valid_to
        from unnest(p_events) with ordinality as e
        cross join lateral unnest(e.keys) as k
        left join lateral (
            select li.lead_id, li.valid_from, li.valid_to
            from public.lead_identities li
            where li.tenant_id = e.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
                and li.valid_to > e.at
            order by li.valid_to
            limit 1
        ) as i on true
        where p_leads[e.ordinality] is not null and coalesce(i.valid_from > e.at, true)
        order by e.tenant_id, k.kind, k.scope, k.value, e.at
    ),
    earlier as (
        update public.lead_identities li
        set valid_from = s.at
        from seen s
        where li.tenant_id = s.tenant_id and li.kind = s.kind and li.scope = s.scope and li.value = s.value
            and li.valid_to = s.valid_to
    ),
    learned as (
        insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
        select tenant_id, kind, scope, value, at, lead_id
        from seen
        where holder is null
        order by tenant_id, kind, scope, value
        on conflict do nothing
        returning lead_id
    )
    select array_agg(distinct lead_id) into v_learned from learned;

    insert into public.lead_merge_candidates (tenant_id, lead_id, other_lead_id, reason, evidence)
    select distinct on (e.tenant_id, least(w.lead_id, i.lead_id), greatest(w.lead_id, i.lead_id))
        e.tenant_id, least(w.lead_id, i.lead_id), greatest(w.lead_id, i.lead_id), 'shared_' || k.kind,
        jsonb_build_object(k.kind, k.value)
    from unnest(p_events) with ordinality as e
    cross join lateral unnest(e.keys) as k
    cross join lateral (select p_leads[e.ordinality] as lead_id) as w
    cross join lateral (
        select li.lead_id
        from public.lead_identities li
        where li.tenant_id = e.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
            and li.valid_to > e.at
        order by li.valid_to
        limit 1
    ) as i
    where w.lead_id <> i.lead_id and k.kind <> 'username'
    order by e.tenant_id, least(w.lead_id, i.lead_id), greatest(w.lead_id, i.lead_id), k.kind
    on conflict do nothing;

    perform private.leads_name_from_book(v_learned, p_events);
    return v_learned is not null;
end
$$;

-- What a customer's messages say about them. name: of the first profile, unless staff gave another; user_name: of the
-- last, never emptied; phone and chat_id: once.
create function private.leads_rename(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_leads uuid[] := array(
        select distinct held.id
        from unnest(p_events) with ordinality as e
        cross join lateral (
            select * from public.customer_leads
            where tenant_id = e.tenant_id and id = p_leads[e.ordinality]
            limit 1
        ) as held
        where held.phone is null and e.body #>> '{contact,phone}' <> ''
            or held.chat_id is null and e.body #>> '{contact,chat_id}' <> ''
            or e.kind = 'message' and (
                private.shown_name(e.body -> 'contact') <> coalesce(held.user_name, '')
                or e.body #>> '{contact,profile_name}' <> ''
                    and private.takes_name(held, e.at, e.body #>> '{contact,profile_name}')));
begin
    if cardinality(v_leads) = 0 then
        return;
    end if;
    update public.customer_leads l
    set name = case when n.is_first then n.name else l.name end,
        name_source = case when n.is_first then 'profile' else l.name_source end,
        named_at = case when n.is_first then n.named_at else l.named_at end,
        user_name = case when n.is_last then n.user_name else l.user_name end,
        phone = coalesce(l.phone, n.phone),
        chat_id = coalesce(l.chat_id, n.chat_id)
    from (
        select held.id, s.*, private.takes_name(held, s.named_at, s.name) as is_first,
            s.user_name is not null
                and not private.has_later_name(held.tenant_id, held.id, s.last_at, s.last_id) as is_last
        from (
            select
                e.tenant_id, p_leads[e.ordinality] as lead_id,
                (array_agg(c.name order by e.at, c.name) filter (where c.name is not null))[1] as name,
                min(e.at) filter (where c.name is not null) as named_at,
                (array_agg(c.user_name order by e.at desc, e.id desc)
                    filter (where c.user_name is not null))[1] as user_name,
                (array_agg(e.id order by e.at desc, e.id desc) filter (where c.user_name is not null))[1] as last_id,
                max(e.at) filter (where c.user_name is not null) as last_at,
                (array_agg(c.phone order by e.at) filter (where c.phone is not null))[1] as phone,
                (array_agg(c.chat_id order by e.at) filter (where c.chat_id is not null))[1] as chat_id
            from unnest(p_events) with ordinality as e
            cross join lateral (
                select nullif(e.body #>> '{contact,phone}', '') as phone,
                    nullif(e.body #>> '{contact,chat_id}', '') as chat_id,
                    case e.kind when 'message' then nullif(e.body #>> '{contact,profile_name}', '') end as name,
                    case e.kind when 'message' then private.shown_name(e.body -> 'contact') end as user_name
            ) as c
            where p_leads[e.ordinality] = any (v_leads)
            group by e.tenant_id, p_leads[e.ordinality]
        ) as s
        join public.customer_leads held on held.tenant_id = s.tenant_id and held.id = s.lead_id
        order by held.tenant_id, held.id
        for no key update of held
    ) as n
    where l.tenant_id = n.tenant_id and l.id = n.id
        and (n.is_first or n.is_last and l.user_name is distinct from n.user_name
            or l.phone is null and n.phone is not null or l.chat_id is null and n.chat_id is not null);
end
$$;

-- Is this name, from a profile seen at that time, the one for a lead that has had another or none?
create function private.takes_name(p_lead public.customer_leads, p_at timestamptz, p_name text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
    return p_name is not null and (
        p_lead.name is null or p_lead.name = p_lead.phone or p_lead.name_source = 'contacts'
        or p_lead.name_source = 'profile' and (p_at, p_name) < (p_lead.named_at, p_lead.name));
end
$$;

-- Did a later message of the lead bring a name? Asked only where the name is another.
create function private.has_later_name(p_tenant_id uuid, p_lead_id uuid, p_at timestamptz, p_wa_message_id text)
returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select
        from public.chats c
        cross join lateral (
            select m.provider_at, m.wa_message_id
            from public.messages m
            where m.tenant_id = c.tenant_id and m.chat_id = c.id and m.provider_at >= p_at and m.is_named
            order by m.provider_at desc, m.id desc
        ) as later
        where c.tenant_id = p_tenant_id and c.lead_id = p_lead_id
            and (later.provider_at, later.wa_message_id) > (p_at, p_wa_message_id));
end
$$;

-- What a contact shows as its name: the username, else that of the profile.
create function private.shown_name(p_contact jsonb) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(nullif(p_contact ->> 'username', ''), nullif(p_contact ->> 'profile_name', ''));
end
$$;

-- Leads without a name of their own are called as in the address book, after its last change. p_events say which
-- businesses the leads are of.
create function private.leads_name_from_book(p_leads uuid[], p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.customer_leads l
    set name = b.name, name_source = 'contacts', named_at = b.changed_at
    from (
        select held.tenant_id, held.id, entry.name, entry.changed_at
        from (select distinct e.tenant_id from unnest(p_events) e) as t
        join public.customer_leads held on held.tenant_id = t.tenant_id and held.id = any (p_leads)
        cross join lateral (
            select a.name, a.changed_at
            from public.lead_identities i
            join public.address_book a
                on a.tenant_id = i.tenant_id and a.kind = i.kind and a.scope = i.scope and a.value = i.value
            where i.tenant_id = held.tenant_id and i.lead_id = held.id
            order by a.changed_at desc, a.name
            limit 1
        ) as entry
        where (held.name is null or held.name = held.phone or held.name_source = 'contacts')
            and (held.name_source is distinct from 'contacts' or held.named_at < entry.changed_at)
            and (held.name_source = 'contacts' or entry.name is not null)
        order by held.tenant_id, held.id
        for no key update of held
    ) as b
    where l.tenant_id = b.tenant_id and l.id = b.id;
end
$$;

-- Entries of address books: kept, and the names of leads that have none. Nobody becomes a lead by them.
create function private.inbox_contacts(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_leads uuid[];
begin
    insert into public.address_book as a (tenant_id, kind, scope, value, name, changed_at)
    select distinct on (e.tenant_id, k.kind, k.scope, k.value)
        e.tenant_id, k.kind, k.scope, k.value,
        case when e.body ->> 'action' = 'add' then nullif(e.body ->> 'name', '') end, e.at
    from unnest(p_events) e
    cross join lateral unnest(e.keys) as k
    where k.kind <> 'username'
    order by e.tenant_id, k.kind, k.scope, k.value, e.at desc, e.body ->> 'name'
    on conflict on constraint address_book_pkey do update
    set name = excluded.name, changed_at = excluded.changed_at
    where a.changed_at < excluded.changed_at;

    select array_agg(distinct i.lead_id)
    into v_leads
    from unnest(p_events) e
    cross join lateral unnest(e.keys) as k
    cross join lateral (
        select li.lead_id
        from public.lead_identities li
        where li.tenant_id = e.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
    ) as i;
    perform private.leads_name_from_book(v_leads, p_events);
end
$$;

-- The lead of each event, made if need be. One event may teach an address by which the next is known.
create function private.inbox_leads(p_events private.inbox_event[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_found private.lead_found[];
    v_leads uuid[];
    v_has_learned boolean;
begin
    for v_round in 1 .. 100 loop
        v_found := private.leads_find(p_events);
        v_leads := array(select f.lead_id from unnest(v_found) f);
        v_has_learned := exists (select from unnest(v_found) f where f.lead_id is not null and not f.is_complete)
            and private.leads_learn(p_events, v_leads);
        if array_position(v_leads, null) is null then
            perform private.leads_rename(p_events, v_leads);
            return v_leads;
        elsif not v_has_learned then
            perform private.leads_create(p_events, v_leads);
        end if;
    end loop;
    raise exception using errcode = 'PT400', message = 'An event names no customer.',
        hint = 'Its contact needs a phone, bsuid, chat_id or username.';
end
$$;

-- A customer moved to another number, or WhatsApp gave them another id: addresses close and open, the lead stays.
-- Told before anything else of theirs, it makes the lead that their messages will find.
create function private.inbox_identities(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_event private.inbox_event;
    v_old private.contact_key[];
    v_new private.contact_key[];
    v_lead_id uuid;
begin
    foreach v_event in array array(select e from unnest(p_events) e order by e.at) loop
        v_old := private.contact_keys(v_event.body -> 'from', v_event.provider, v_event.scope);
        v_new := private.contact_keys(v_event.body -> 'to', v_event.provider, v_event.scope);
        continue when cardinality(v_new) = 0;
        v_event.keys := v_new;
        v_event.body := jsonb_build_object('contact', v_event.body -> 'to' || coalesce(v_event.body -> 'from', '{}'));
        v_lead_id := private.lead_before(v_event, v_old);
        if v_lead_id is null then
            v_lead_id := (private.inbox_leads(array[v_event]))[1];
        end if;
        perform private.leads_rename(array[v_event], array[v_lead_id]);
        perform private.addresses_end(v_event, v_old, v_lead_id);
        perform private.leads_learn(array[v_event], array[v_lead_id]);
    end loop;
end
$$;

-- Whose were these addresses when the event happened, or at last?
create function private.lead_before(p_event private.inbox_event, p_keys private.contact_key[]) returns uuid
language plpgsql stable set search_path = '' as $$
begin
    return (
        select i.lead_id
        from unnest(p_keys) with ordinality as k (kind, scope, value, rank)
        cross join lateral (
            select li.lead_id
            from public.lead_identities li
            where li.tenant_id = p_event.tenant_id and li.kind = k.kind and li.scope = k.scope and li.value = k.value
            order by li.valid_to < p_event.at, abs(extract(epoch from least(li.valid_to, '9999-01-01') - p_event.at))
            limit 1
        ) as i
        order by k.rank
        limit 1);
end
$$;

-- These addresses are not the lead's any more, nor those of another that may be the same person; that they were is
-- known from now on, if it was not.
create function private.addresses_end(
    p_event private.inbox_event, p_keys private.contact_key[], p_lead_id uuid
) returns void
language plpgsql set search_path = '' as $$
begin
    update public.lead_identities i set valid_to = p_event.at
    from unnest(p_keys) as k
    where i.tenant_id = p_event.tenant_id and i.valid_to = 'infinity' and i.valid_from <= p_event.at
        and (i.lead_id = p_lead_id or exists (
            select from public.lead_merge_candidates c
            where c.tenant_id = i.tenant_id and c.status = 'open' and c.lead_id = least(i.lead_id, p_lead_id)
                and c.other_lead_id = greatest(i.lead_id, p_lead_id)))
        and (i.kind, i.scope, i.value) = (k.kind, k.scope, k.value) and not k = any (p_event.keys);

    insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, valid_to, lead_id)
    select p_event.tenant_id, k.kind, k.scope, k.value, p_event.at, p_event.at, p_lead_id
    from unnest(p_keys) as k
    where not k = any (p_event.keys) and not exists (
        select from public.lead_identities i
        where i.tenant_id = p_event.tenant_id and i.kind = k.kind and i.scope = k.scope and i.value = k.value
            and i.valid_to >= p_event.at)
    order by k.kind, k.scope, k.value
    on conflict do nothing;
end
$$;

grant execute on function
    private.mobile_key(text), private.contact_keys(jsonb, text, text), private.lead_decide(private.inbox_event),
    private.leads_find(private.inbox_event[]), private.leads_create(private.inbox_event[], uuid[]),
    private.leads_learn(private.inbox_event[], uuid[]), private.leads_rename(private.inbox_event[], uuid[]),
    private.takes_name(public.customer_leads, timestamptz, text),
    private.has_later_name(uuid, uuid, timestamptz, text), private.shown_name(jsonb),
    private.leads_name_from_book(uuid[], private.inbox_event[]), private.inbox_contacts(private.inbox_event[]),
    private.inbox_leads(private.inbox_event[]), private.inbox_identities(private.inbox_event[]),
    private.lead_before(private.inbox_event, private.contact_key[]),
    private.addresses_end(private.inbox_event, private.contact_key[], uuid)
    to service_role;
