-- Sequences and people: what customers and staff do changes what a sequence does next.

-- Customers: who writes is not written to by a sequence, until that is to go on.

-- What customers have just written pauses the sequences of their chats, or ends them where they never go on; silence
-- is counted anew. Costs chats without an enrollment one look-up by key in a batch's only query.
create function private.sequences_replied(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_paused private.chat_ref[];
    v_ended private.chat_ref[];
begin
    with written as (
        select m.tenant_id, m.chat_id, max(m.at) as at
        from unnest(p_stored) m
        where m.kind = 'message' and m.is_live
        group by m.tenant_id, m.chat_id
    ),
    noted as (
        update public.sequence_enrollments e
        set replied_at = greatest(e.replied_at, w.at)
        from written w
        cross join lateral (
            select l.id from public.sequence_enrollments l
            where l.tenant_id = w.tenant_id and l.chat_id = w.chat_id and l.status in ('active', 'paused')
            limit 1
        ) as k
        where e.tenant_id = w.tenant_id and e.id = k.id
        returning e.tenant_id, e.chat_id, e.sequence_id
    )
    select
        array_agg((n.tenant_id, n.chat_id)::private.chat_ref) filter (where s.after_reply <> 'never'),
        array_agg((n.tenant_id, n.chat_id)::private.chat_ref) filter (where s.after_reply = 'never')
    into v_paused, v_ended
    from noted n
    join public.sequences s on s.tenant_id = n.tenant_id and s.id = n.sequence_id;
    if v_paused is not null then
        perform private.enrollments_hold(v_paused, 'replied');
    end if;
    if v_ended is not null then
        perform private.enrollments_end(v_ended, 'replied', 'replied');
    end if;
end
$$;

-- Every minute: what a reply has paused goes on after so many hours in which the customer wrote nothing. Returns how
-- many enrollments do.
create function private.sequences_resume() returns int
language plpgsql set search_path = '' as $$
declare
    v_silent private.chat_ref[];
begin
    select array_agg((e.tenant_id, e.chat_id)::private.chat_ref)
    into v_silent
    from public.sequences s
    cross join lateral (
        select w.tenant_id, w.chat_id from public.sequence_enrollments w
        where w.tenant_id = s.tenant_id and w.sequence_id = s.id and w.status = 'paused' and w.reason = 'replied'
            and w.replied_at <= private.clock() - make_interval(hours => s.resume_after_hours)
        for no key update of w skip locked
    ) as e
    where s.after_reply = 'silence' and s.is_active;
    if v_silent is not null then
        perform private.enrollments_release(v_silent, 'replied');
    end if;
    return coalesce(cardinality(v_silent), 0);
end
$$;

-- People: what they send by hand needs no machine, nor anybody else, to be sent again.

-- Steps that waited for a person, whose entries have ended: what became of them, and with which message. The next
-- step counts from now where nothing of the sequence has happened since.
create function private.steps_dealt_with(p_entries public.pending_manual[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.sequence_history h
    set outcome = case e.status when 'done' then 'done' else 'skipped' end,
        reason = case when e.status = 'dismissed' then 'dismissed' when e.done_by is null then 'phone' else 'staff' end,
        message_id = coalesce(e.message_id, h.message_id), at = e.done_at
    from unnest(p_entries) e
    where e.source = 'sequence' and h.tenant_id = e.tenant_id and h.pending_manual_id = e.id and h.outcome = 'manual';
end
$$;

-- What was just written on the phone ends the entries that it was.
create function private.manual_sends_note(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_done private.pending_end[];
begin
    select array_agg(distinct (m.tenant_id, p.id, m.message_id, null)::private.pending_end)
    into v_done
    from unnest(p_stored) m
    cross join lateral (
        select o.chat_id from public.pending_manual o
        where o.tenant_id = m.tenant_id and o.chat_id = m.chat_id and o.status = 'open'
        limit 1
    ) as waits
    cross join lateral private.pending_match(m.tenant_id, m.chat_id, m.body ->> 'text') as p (id)
    where m.kind = 'echo' and m.is_live and p.id is not null;
    if v_done is not null then
        perform private.pendings_end(v_done, 'done');
    end if;
end
$$;
grant execute on function private.sequences_replied(private.inbox_message[]), private.sequences_resume(),
    private.steps_dealt_with(public.pending_manual[]), private.manual_sends_note(private.inbox_message[])
    to service_role;

-- The queue as a person works through it: the urgent first, then the oldest. wa_link: for the phone that the customer
-- has now; null where none is known. of_type and media: of a step that is more than a text.
create function public.pending_manual_list(p_limit int default 100, p_source text default null) returns table (
    id uuid, chat_id uuid, source text, reason text, priority smallint, text text, added_at timestamptz,
    lead_id uuid, lead_name text, lead_phone text, window_open boolean, window_expires_at timestamptz,
    free_entry_until timestamptz, wa_link text, sequence_id uuid, sequence_name text, enrollment_id uuid,
    step_key text, step_position int, of_type text, media jsonb
)
language plpgsql stable rows 100 set search_path = '' as $$
begin
    return query
    select
        p.id, p.chat_id, p.source, p.reason, p.priority, p.text, p.added_at, l.id,
        coalesce(l.name, l.user_name, now.phone), now.phone,
        coalesce(c.window_expires_at > (select private.clock()), false) or n.provider = 'whapi', c.window_expires_at,
        c.free_entry_until, 'https://wa.me/' || now.phone || '?text=' || coalesce(private.url_encode(p.text), ''),
        h.sequence_id, q.name, h.enrollment_id, h.step_key, h.position, coalesce(s.type, 'text'), s.media
    from public.pending_manual p
    join public.chats c on c.tenant_id = p.tenant_id and c.id = p.chat_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    cross join lateral private.lead_phone_now(l.tenant_id, l.id, l.phone) as now (phone)
    left join lateral (
        select * from public.sequence_history r
        where r.tenant_id = p.tenant_id and r.pending_manual_id = p.id and p.source = 'sequence'
        limit 1
    ) as h on true
    left join public.sequences q on q.tenant_id = h.tenant_id and q.id = h.sequence_id
    left join public.sequence_steps s
        on s.tenant_id = h.tenant_id and s.sequence_id = h.sequence_id and s.version = h.version and s.key = h.step_key
    where p.status = 'open' and (p_source is null or p.source = p_source)
    order by p.priority desc, p.added_at, p.id
    limit least(p_limit, 500);
end
$$;

-- The phone by which a lead is reached now. A lead's own phone is the first one known: another may have taken its
-- place since, or none.
create function private.lead_phone_now(p_tenant_id uuid, p_lead_id uuid, p_first text) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_phones record;
begin
    select count(*) as known, max(i.value) filter (where i.valid_to = 'infinity') as now into v_phones
    from public.lead_identities i
    where i.tenant_id = p_tenant_id and i.lead_id = p_lead_id and i.kind = 'phone';
    return case when v_phones.known = 0 then p_first else v_phones.now end;
end
$$;
grant execute on function private.lead_phone_now(uuid, uuid, text), public.pending_manual_list(int, text)
    to authenticated;
