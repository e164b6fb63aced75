-- Sequences and people: what customers and staff do changes what a sequence does next.

-- What was just written, by customers or on phones, as far as sequences and the queue care. Most of it they do not:
-- a batch for whose chats nothing waits costs this one query, a look by key for each message.
create function private.sequences_heed(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_is_enrolled boolean;
    v_has_echoes boolean;
begin
    select bool_or(k.is_enrolled), bool_or(m.kind = 'echo')
    into v_is_enrolled, v_has_echoes
    from unnest(p_stored) m
    left join lateral (
        select true as is_enrolled from public.sequence_enrollments e
        where e.tenant_id = m.tenant_id and e.chat_id = m.chat_id and e.status in ('active', 'paused')
        limit 1
    ) as k on true
    where m.is_live and m.kind in ('message', 'echo');
    if v_is_enrolled then
        perform private.sequences_replied(p_stored);
    end if;
    if v_has_echoes then
        perform private.manual_sends_note(p_stored);
    end if;
end
$$;

-- Customers: who writes is not written to by a sequence, until that is to go on.

-- What customers have just written pauses the sequences of their chats, or ends them where they never go on; silence
-- is counted anew.
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

-- Steps that waited for a person, whose entries have ended: what became of them, and with which message. The step
-- after it counts its delay from when it really went.
create function private.steps_dealt_with(p_entries public.pending_manual[]) returns void
language plpgsql set search_path = '' as $$
begin
    with ended as (
        update public.sequence_history h
        set outcome = case e.status when 'done' then 'done' else 'skipped' end,
            reason = case when e.status = 'dismissed' then 'dismissed' when e.done_by is null then 'phone'
                else 'staff' end,
            message_id = coalesce(e.message_id, h.message_id), at = e.done_at
        from unnest(p_entries) e
        where e.source = 'sequence' and h.tenant_id = e.tenant_id and h.pending_manual_id = e.id
            and h.outcome = 'manual'
        returning h.tenant_id, h.enrollment_id, h.position, h.outcome, h.at, e.message_id
    )
    update public.sequence_enrollments n
    set last_step_at = e.at, last_message_id = e.message_id
    from ended e
    where e.outcome = 'done' and n.tenant_id = e.tenant_id and n.id = e.enrollment_id and n.position = e.position + 1
        and n.status in ('active', 'paused');
end
$$;

-- Past the step that an enrollment would run next: p_outcome done (with what a person sent instead) or skipped. The
-- step after it counts from now; after the last one the enrollment is completed.
create function private.step_past(
    p_enrollment public.sequence_enrollments, p_outcome text, p_reason text, p_message_id uuid
) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_due_at timestamptz := (private.steps_due(array[(p_enrollment.tenant_id, p_enrollment.chat_id,
        p_enrollment.sequence_id, p_enrollment.version, p_enrollment.position + 1, v_now)::private.step_ask]))[1];
begin
    insert into public.sequence_history (tenant_id, enrollment_id, step_key, sequence_id, version, position, outcome,
        reason, message_id, planned_at, at)
    select s.tenant_id, p_enrollment.id, s.key, s.sequence_id, s.version, s.order_position, p_outcome, p_reason,
        p_message_id, p_enrollment.next_run_at, v_now
    from public.sequence_steps s
    where s.tenant_id = p_enrollment.tenant_id and s.sequence_id = p_enrollment.sequence_id
        and s.version = p_enrollment.version and s.order_position = p_enrollment.position
    on conflict on constraint sequence_history_pkey do nothing;
    update public.sequence_enrollments e
    set position = e.position + 1, next_run_at = coalesce(v_due_at, e.next_run_at), waits_for = null,
        last_step_at = v_now, last_message_id = p_message_id,
        status = case when v_due_at is null then 'completed' else e.status end,
        reason = case when v_due_at is null then 'done' else e.reason end,
        changed_at = case when v_due_at is null then v_now else e.changed_at end
    where e.tenant_id = p_enrollment.tenant_id and e.id = p_enrollment.id;
end
$$;

-- A step that waits in the outbox is not sent by us any more: a person has sent it, as that message.
create function private.step_overtaken(p_tenant_id uuid, p_queued_id uuid, p_reason text, p_message_id uuid)
returns void
language plpgsql set search_path = '' as $$
begin
    if cardinality(private.outbox_cancel(p_tenant_id, array[p_queued_id])) = 0 then
        return;
    end if;
    update public.sequence_history h
    set outcome = 'done', reason = p_reason, message_id = p_message_id, at = (select private.clock())
    where h.tenant_id = p_tenant_id and h.message_id = p_queued_id;
    update public.sequence_enrollments e set last_message_id = p_message_id
    where e.tenant_id = p_tenant_id and e.last_message_id = p_queued_id;
end
$$;

-- What of a chat waits to be sent: entries of the queue (pending), steps in the outbox that nobody has begun to send
-- (queued: the message), and the step that comes next (next: the enrollment).
create function private.sends_waiting(p_tenant_id uuid, p_chat_id uuid) returns table (kind text, id uuid, words text)
language plpgsql stable rows 2 set search_path = '' as $$
begin
    return query
    select 'pending', p.id, coalesce(nullif(m.content, ''), p.text)
    from public.pending_manual p
    left join public.sequence_history h on h.tenant_id = p.tenant_id and h.pending_manual_id = p.id
    left join public.messages m on m.tenant_id = h.tenant_id and m.id = h.message_id
    where p.tenant_id = p_tenant_id and p.chat_id = p_chat_id and p.status = 'open'
    union all
    select 'queued', m.id, m.content
    from public.outbox o
    join public.messages m on m.tenant_id = o.tenant_id and m.id = o.message_id
    where o.tenant_id = p_tenant_id and o.chat_id = p_chat_id and o.purpose = 'sequence' and o.state = 'queued'
    union all
    select 'next', e.id, private.placeholders_fill(s.text, private.placeholder_values(l, n, b.business_name))
    from public.sequence_enrollments e
    join public.sequence_steps s on s.tenant_id = e.tenant_id and s.sequence_id = e.sequence_id
        and s.version = e.version and s.order_position = e.position
    join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    join public.tenant_settings b on b.tenant_id = e.tenant_id
    where e.tenant_id = p_tenant_id and e.chat_id = p_chat_id and e.status in ('active', 'paused');
end
$$;

-- Which of these a text is; none: nothing is like it, or it cannot be told which.
create function private.send_meant(p_tenant_id uuid, p_chat_id uuid, p_text text) returns table (kind text, id uuid)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select m.kind, m.id
    from (
        select w.kind, w.id, l.likeness, lead(l.likeness) over (order by l.likeness desc) as runner_up,
            row_number() over (order by l.likeness desc) as place
        from private.sends_waiting(p_tenant_id, p_chat_id) w
        cross join lateral private.text_likeness(w.words, p_text) as l (likeness)
        where l.likeness is not null
    ) as m
    where m.place = 1 and m.likeness >= 0.65
        and coalesce(m.runner_up < case m.likeness when 1 then 1 else m.likeness - 0.1 end, true);
end
$$;

-- A person has sent a message, p_done_by or somebody on the phone: what of its chat waits and is like it, or is
-- p_pending_id, is done.
create function private.manual_send_note(
    p_tenant_id uuid, p_chat_id uuid, p_message_id uuid, p_text text, p_done_by uuid, p_pending_id uuid default null
) returns void
language plpgsql set search_path = '' as $$
declare
    v_reason text := case when p_done_by is null then 'phone' else 'staff' end;
    v_meant record;
begin
    if p_pending_id is not null then
        select 'pending' as kind, p_pending_id as id into v_meant;
    else
        select * into v_meant from private.send_meant(p_tenant_id, p_chat_id, p_text);
    end if;
    if v_meant.kind = 'pending' then
        perform private.pendings_end(
            array[(p_tenant_id, v_meant.id, p_message_id, p_done_by)::private.pending_end], 'done');
    elsif v_meant.kind = 'queued' then
        perform private.step_overtaken(p_tenant_id, v_meant.id, v_reason, p_message_id);
    elsif v_meant.kind = 'next' then
        perform private.step_past(e, 'done', v_reason, p_message_id)
        from private.enrollments_live(array[(p_tenant_id, p_chat_id)::private.chat_ref]) e;
    end if;
end
$$;

-- The same for what was just written on phones, in chats for which anything waits.
create function private.manual_sends_note(p_stored private.inbox_message[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.manual_send_note(m.tenant_id, m.chat_id, m.message_id, m.body ->> 'text', null)
    from (
        select s.tenant_id, s.chat_id, s.message_id, s.body
        from unnest(p_stored) s
        cross join lateral (
            select 1 from public.sequence_enrollments e
            where e.tenant_id = s.tenant_id and e.chat_id = s.chat_id and e.status in ('active', 'paused')
            union all
            select 1 from public.pending_manual p
            where p.tenant_id = s.tenant_id and p.chat_id = s.chat_id and p.status = 'open'
            union all
            select 1 from public.outbox o
            where o.tenant_id = s.tenant_id and o.chat_id = s.chat_id and o.purpose = 'sequence' and o.state = 'queued'
            limit 1
        ) as waits
        -- what took the place of a queued message has no conversation here: that message was meant
        where s.kind = 'echo' and s.is_live and s.conversation_id is not null and s.body ->> 'text' <> ''
        order by s.at, s.message_id
    ) as m;
end
$$;

-- A message that had ended an entry was canceled before it went out: the entry waits again. Another step that it was
-- sent for is past, and was not sent.
create function private.pending_reopen(p_tenant_id uuid, p_message_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    with reopened as (
        update public.pending_manual p
        set status = 'open', sent_manually = false, done_at = null, done_by = null, message_id = null
        where p.tenant_id = p_tenant_id and p.message_id = p_message_id
        returning p.id
    )
    update public.sequence_history h
    set outcome = 'manual', reason = 'canceled', message_id = null
    from reopened r
    where h.tenant_id = p_tenant_id and h.pending_manual_id = r.id;
    update public.sequence_history h set outcome = 'skipped', reason = 'canceled'
    where h.tenant_id = p_tenant_id and h.message_id = p_message_id and h.outcome = 'done';
end
$$;

grant execute on function private.sequences_heed(private.inbox_message[]),
    private.sequences_replied(private.inbox_message[]), private.sequences_resume(),
    private.steps_dealt_with(public.pending_manual[]),
    private.step_past(public.sequence_enrollments, text, text, uuid),
    private.step_overtaken(uuid, uuid, text, uuid), private.sends_waiting(uuid, uuid),
    private.send_meant(uuid, uuid, text), private.manual_send_note(uuid, uuid, uuid, text, uuid, uuid),
    private.manual_sends_note(private.inbox_message[]), private.pending_reopen(uuid, uuid) to service_role;

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
    limit greatest(least(p_limit, 500), 0);
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

-- Send an entry of the queue as it stands, with the file of its step, through message_send(): refused, scheduled and
-- forced like any message of staff. p_template_id: send that instead, where the window is closed.
create function public.pending_manual_send(
    p_id uuid, p_content text default null, p_template_id uuid default null, p_parameters jsonb default null,
    p_force boolean default false, p_expected_cost numeric default null, p_currency text default null,
    p_idempotency_key text default null, p_reason text default null
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_entry record;
begin
    -- an answer that got lost is asked for again when the entry is no longer open
    select p.chat_id, coalesce(p_content, case when s.media is null then p.text else s.words end) as content,
        case when p_template_id is not null then 'template' when s.media is null then 'text' else s.type end as type,
        s.media
    into v_entry
    from public.pending_manual p
    left join lateral (
        select t.type, t.media, m.content as words
        from public.sequence_history h
        join public.sequence_steps t on t.tenant_id = h.tenant_id and t.sequence_id = h.sequence_id
            and t.version = h.version and t.key = h.step_key
        left join public.messages m on m.tenant_id = h.tenant_id and m.id = h.message_id
        where h.tenant_id = p.tenant_id and h.pending_manual_id = p.id
        limit 1
    ) as s on true
    where p.tenant_id = v_tenant_id and p.id = p_id;
    if not found then
        perform private.refuse('PT404', 'no_pending_manual');
    end if;
    return private.message_send((v_entry.chat_id, null, null, v_entry.type,
        case when p_template_id is null then v_entry.content end, p_template_id, p_parameters,
        case when p_template_id is null then v_entry.media end, null, null, p_force, p_expected_cost, p_currency,
        p_idempotency_key, p_reason, p_id)::private.send_request);
end
$$;
grant execute on function
    public.pending_manual_send(uuid, text, uuid, jsonb, boolean, numeric, text, text, text) to authenticated;

-- Staff and enrollments. Each answers with the enrollment as it is then; who did it is in audit_log.

-- An enrollment of the caller's business, with its chat locked; refused when it is over, unless that does not matter.
create function private.enrollment_locked(p_id uuid, p_may_be_over boolean default false)
returns public.sequence_enrollments
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
    v_enrollment public.sequence_enrollments;
begin
    perform from public.chats c
    where c.tenant_id = v_tenant_id and c.id = (
        select e.chat_id from public.sequence_enrollments e where e.tenant_id = v_tenant_id and e.id = p_id)
    for no key update;
    select * into v_enrollment from public.sequence_enrollments e where e.tenant_id = v_tenant_id and e.id = p_id
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_enrollment');
    elsif v_enrollment.status not in ('active', 'paused') and not p_may_be_over then
        perform private.refuse('PT409', 'enrollment_over', jsonb_build_object('status', v_enrollment.status),
            jsonb_build_object('status', v_enrollment.status));
    end if;
    return v_enrollment;
end
$$;

-- Note what a person did, and answer with the enrollment as it is now.
create function private.enrollment_noted(p_action text, p_was public.sequence_enrollments)
returns public.sequence_enrollments
language plpgsql set search_path = '' as $$
declare
    v_now public.sequence_enrollments;
begin
    select * into v_now from public.sequence_enrollments e where e.tenant_id = p_was.tenant_id and e.id = p_was.id;
    perform private.audit(p_was.tenant_id, p_action, 'sequence_enrollments', p_was.id,
        p_before => jsonb_build_object('status', p_was.status, 'reason', p_was.reason, 'position', p_was.position),
        p_after => jsonb_build_object('status', v_now.status, 'reason', v_now.reason, 'position', v_now.position));
    return v_now;
end
$$;

-- A person's word holds whatever it was paused for before: neither silence nor anything else resumes it.
create function private.enrollment_pause(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    perform private.enrollments_hold(array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], 'staff');
    update public.sequence_enrollments e set reason = 'staff'
    where e.tenant_id = v_was.tenant_id and e.id = p_id and e.reason <> 'staff';
    return private.enrollment_noted('enrollment_pause', v_was);
end
$$;

create function private.enrollment_resume(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    if v_was.status = 'active' then
        return v_was;
    elsif not exists (
        select from public.sequences s where s.tenant_id = v_was.tenant_id and s.id = v_was.sequence_id and s.is_active
    ) then
        perform private.refuse('PT409', 'sequence_inactive');
    end if;
    perform private.enrollments_release(array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], v_was.reason);
    return private.enrollment_noted('enrollment_resume', v_was);
end
$$;

create function private.enrollment_stop(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    perform private.enrollments_end(array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], 'stopped', 'staff');
    return private.enrollment_noted('enrollment_stop', v_was);
end
$$;

create function private.enrollment_skip(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id);
begin
    perform private.step_past(v_was, 'skipped', 'staff', null);
    return private.enrollment_noted('enrollment_skip', v_was);
end
$$;

-- History is never run again: a new enrollment begins, in the version of today.
create function private.enrollment_restart(p_id uuid) returns public.sequence_enrollments
language plpgsql security definer set search_path = '' as $$
declare
    v_was public.sequence_enrollments := private.enrollment_locked(p_id, p_may_be_over => true);
    v_obstacle text;
    v_new public.sequence_enrollments;
begin
    if v_was.status in ('active', 'paused') then
        perform private.enrollments_end(
            array[(v_was.tenant_id, v_was.chat_id)::private.chat_ref], 'stopped', 'restarted');
    end if;
    v_obstacle := (private.enrollments_add(array[(v_was.tenant_id, v_was.sequence_id, (
        select c.lead_id from public.chats c where c.tenant_id = v_was.tenant_id and c.id = v_was.chat_id
    ), v_was.chat_id, 'staff', private.my_user_id(), true)::private.enrollment_ask]))[1];
    if v_obstacle is not null then
        perform private.refuse('PT409', 'no_restart', jsonb_build_object('obstacle', v_obstacle),
            jsonb_build_object('obstacle', v_obstacle));
    end if;
    select * into v_new from public.sequence_enrollments e
    where e.tenant_id = v_was.tenant_id and e.chat_id = v_was.chat_id and e.status in ('active', 'paused');
    return private.enrollment_noted('enrollment_restart', v_new);
end
$$;

create function public.enrollment_pause(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_pause(p_enrollment_id)
$$;
create function public.enrollment_resume(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_resume(p_enrollment_id)
$$;
-- Past the step that comes next, whose successor counts from now.
create function public.enrollment_skip(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_skip(p_enrollment_id)
$$;
-- From the first step, in a new enrollment: the answer. The old one ends.
create function public.enrollment_restart(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_restart(p_enrollment_id)
$$;
create function public.enrollment_stop(p_enrollment_id uuid) returns public.sequence_enrollments
language sql set search_path = '' as $$
    select private.enrollment_stop(p_enrollment_id)
$$;
grant execute on function
    private.enrollment_pause(uuid), private.enrollment_resume(uuid), private.enrollment_skip(uuid),
    private.enrollment_restart(uuid), private.enrollment_stop(uuid), public.enrollment_pause(uuid),
    public.enrollment_resume(uuid), public.enrollment_skip(uuid), public.enrollment_restart(uuid),
    public.enrollment_stop(uuid)
    to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_enrollment', 'No hay tal inscripción.', 'There is no such enrollment.', 'Não há tal inscrição.'),
    ('hint', 'no_enrollment', 'Tome su id de sequence_enrollments.', 'Read its id from sequence_enrollments.',
        'Leia o seu id em sequence_enrollments.'),
    ('refusal', 'enrollment_over', 'Esta inscripción ya terminó: está {status}.',
        'This enrollment is over: it is {status}.', 'Esta inscrição já terminou: está {status}.'),
    ('hint', 'enrollment_over', 'Para empezar de nuevo use enrollment_restart().',
        'Use enrollment_restart() to begin anew.', 'Para começar de novo use enrollment_restart().'),
    ('refusal', 'sequence_inactive', 'Esta secuencia está desactivada.', 'This sequence is switched off.',
        'Esta sequência está desativada.'),
    ('hint', 'sequence_inactive', 'Un administrador la activa con sequence_set_active().',
        'An admin switches it on with sequence_set_active().', 'Um administrador a ativa com sequence_set_active().'),
    ('refusal', 'no_restart', 'No puede empezar de nuevo: {obstacle}.', 'It cannot begin anew: {obstacle}.',
        'Não pode começar de novo: {obstacle}.'),
    ('hint', 'no_restart', 'Los motivos son los de sequence_enroll().', 'The reasons are those of sequence_enroll().',
        'Os motivos são os de sequence_enroll().');
