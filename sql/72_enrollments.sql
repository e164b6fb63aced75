-- Enrollments: customers on their way through a sequence, and what became of each step.
-- Whoever changes an enrollment has its chat locked, or takes enrollments in the order of their ids.

create table public.sequence_enrollments (
    tenant_id uuid,
    id uuid default private.uuid7(),
    sequence_id uuid not null,
    version int not null,
    chat_id uuid not null,
    position int not null default 1,
    next_run_at timestamptz not null,
    status text not null default 'active',
    reason text,
    waits_for text,
    last_step_at timestamptz,
    last_message_id uuid,
    replied_at timestamptz,
    source text not null,
    enrolled_at timestamptz not null,
    enrolled_by uuid,
    changed_at timestamptz not null,
    constraint sequence_enrollments_pkey primary key (tenant_id, id),
    constraint sequence_enrollments_version_fkey foreign key (tenant_id, sequence_id, version)
        references public.sequence_versions (tenant_id, sequence_id, version),
    constraint sequence_enrollments_chat_id_fkey foreign key (tenant_id, chat_id)
        references public.chats (tenant_id, id) on delete cascade,
    constraint sequence_enrollments_enrolled_by_fkey foreign key (tenant_id, enrolled_by)
        references public.users (tenant_id, id),
    constraint sequence_enrollments_position_check check (position >= 1),
    constraint sequence_enrollments_status_check check (
        status in ('active', 'paused', 'completed', 'stopped', 'replied', 'blocked', 'opted_out')),
    constraint sequence_enrollments_reason_check check ((status = 'active') = (reason is null)),
    constraint sequence_enrollments_source_check check (
        source in ('staff', 'new_lead', 'ad', 'keyword', 'tag', 'status'))
) with (fillfactor = 70);
comment on table public.sequence_enrollments is
    'Who is in which sequence, how far, and when the next step is due. A chat is in one at a time.';
comment on column public.sequence_enrollments.position is 'Of the step that comes next; past the last one: none.';
comment on column public.sequence_enrollments.next_run_at is 'Business time; it keeps its value while paused.';
comment on column public.sequence_enrollments.reason is 'Why it is paused, or how it ended.';
comment on column public.sequence_enrollments.waits_for is
    'Why the step that is due has not been run yet: a reason of private.send_decisions(), or previous_step.';
comment on column public.sequence_enrollments.last_message_id is 'Of the last step that was put into the outbox.';
comment on column public.sequence_enrollments.replied_at is
    'When the customer last wrote while it was not over; also on one that goes on, or is paused for another reason.';
comment on column public.sequence_enrollments.source is 'Staff, or the kind of trigger.';
comment on column public.sequence_enrollments.changed_at is 'Business time of the last change of status.';

-- One at a time; also what a chat is looked up by.
create unique index sequence_enrollments_tenant_id_chat_id_live_key
    on public.sequence_enrollments (tenant_id, chat_id) where status in ('active', 'paused');
create index sequence_enrollments_tenant_id_chat_id_idx on public.sequence_enrollments (tenant_id, chat_id);
create index sequence_enrollments_tenant_id_sequence_id_version_idx
    on public.sequence_enrollments (tenant_id, sequence_id, version, status);
create index sequence_enrollments_tenant_id_enrolled_by_idx
    on public.sequence_enrollments (tenant_id, enrolled_by) where enrolled_by is not null;
-- What a reply has paused, in the order in which it may go on.
create index sequence_enrollments_tenant_id_sequence_id_replied_at_idx
    on public.sequence_enrollments (tenant_id, sequence_id, replied_at) where status = 'paused' and reason = 'replied';
-- What is due: of a business, and whether there is anything at all.
create index sequence_enrollments_tenant_id_next_run_at_idx
    on public.sequence_enrollments (tenant_id, next_run_at) where status = 'active';
create index sequence_enrollments_next_run_at_idx
    on public.sequence_enrollments (next_run_at) where status = 'active';

alter table public.sequence_enrollments enable row level security;
grant select on public.sequence_enrollments to authenticated;
grant select, insert, update, delete on public.sequence_enrollments to service_role;
create policy sequence_enrollments_select_member on public.sequence_enrollments for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- sequence_history: each step that was run. Its key is why no step is run twice.
create table public.sequence_history (
    tenant_id uuid,
    enrollment_id uuid,
    step_key text,
    sequence_id uuid not null,
    version int not null,
    position int not null,
    outcome text not null,
    reason text,
    message_id uuid,
    pending_manual_id uuid,
    planned_at timestamptz not null,
    at timestamptz not null,
    constraint sequence_history_pkey primary key (tenant_id, enrollment_id, step_key),
    constraint sequence_history_enrollment_id_fkey foreign key (tenant_id, enrollment_id)
        references public.sequence_enrollments (tenant_id, id) on delete cascade,
    constraint sequence_history_message_id_fkey foreign key (tenant_id, message_id)
        references public.messages (tenant_id, id),
    constraint sequence_history_pending_manual_id_fkey foreign key (tenant_id, pending_manual_id)
        references public.pending_manual (tenant_id, id) on delete set null (pending_manual_id),
    constraint sequence_history_outcome_check check (outcome in ('sent', 'manual', 'done', 'skipped', 'stopped'))
);
comment on table public.sequence_history is 'What became of each step of each enrollment, and why.';
comment on column public.sequence_history.outcome is
    'sent: put into the outbox, whose message tells its fate; manual: given to a person; done: a person sent it; '
    'skipped: passed over; stopped: the sequence ended instead.';
comment on column public.sequence_history.reason is 'Of the send decision, or what staff said.';
comment on column public.sequence_history.message_id is 'What was sent; of a manual step the message that was skipped.';
comment on column public.sequence_history.planned_at is 'When it was due.';

create index sequence_history_tenant_id_message_id_idx
    on public.sequence_history (tenant_id, message_id) where message_id is not null;
create index sequence_history_tenant_id_pending_manual_id_idx
    on public.sequence_history (tenant_id, pending_manual_id) where pending_manual_id is not null;
-- What statistics of a sequence read.
create index sequence_history_tenant_id_sequence_id_idx on public.sequence_history (tenant_id, sequence_id, at);

alter table public.sequence_history enable row level security;
grant select on public.sequence_history to authenticated;
grant select, insert, update, delete on public.sequence_history to service_role;
create policy sequence_history_select_member on public.sequence_history for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A step of an enrollment that waits in the outbox, taken back: nothing of it has gone out.
create type private.message_ref as (tenant_id uuid, message_id uuid);

-- Take steps back whose messages will not be sent: the enrollment is again where it was before, the step due at once.
-- One that was over because of it goes on, unless its chat is in another by now.
create function private.steps_take_back(p_messages private.message_ref[]) returns void
language plpgsql set search_path = '' as $$
begin
    with held as materialized (
        select e.tenant_id, e.id, h.step_key, h.message_id, h.position
        from unnest(p_messages) m
        join public.sequence_history h on h.tenant_id = m.tenant_id and h.message_id = m.message_id
        join public.sequence_enrollments e on e.tenant_id = h.tenant_id and e.id = h.enrollment_id
        where e.status in ('active', 'paused') or e.status = 'completed' and not exists (
            select from public.sequence_enrollments o
            where o.tenant_id = e.tenant_id and o.chat_id = e.chat_id and o.status in ('active', 'paused'))
        order by e.tenant_id, e.id
        for no key update of e
    ),
    forgotten as (
        delete from public.sequence_history h
        using held w
        where h.tenant_id = w.tenant_id and h.enrollment_id = w.id and h.step_key = w.step_key
    ),
    canceled as (
        update public.messages m set status = 'canceled'
        from held w
        where m.tenant_id = w.tenant_id and m.id = w.message_id
    )
    update public.sequence_enrollments e
    set position = least(e.position, w.position), next_run_at = (select private.clock()), waits_for = null,
        last_message_id = null, status = case e.status when 'completed' then 'active' else e.status end,
        reason = case when e.status <> 'completed' then e.reason end
    from held w
    where e.tenant_id = w.tenant_id and e.id = w.id;
end
$$;

-- Take back what sequences have in the outbox for these chats and nobody has begun to send.
create function private.steps_recall(p_chats private.chat_ref[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_messages private.message_ref[];
begin
    with mine as (
        select o.tenant_id, o.message_id
        from unnest(p_chats) c
        cross join lateral (
            select * from public.outbox o
            where o.tenant_id = c.tenant_id and o.chat_id = c.chat_id and o.purpose = 'sequence' and o.state = 'queued'
            offset 0
        ) as k
        join public.outbox o on o.tenant_id = k.tenant_id and o.message_id = k.message_id
        order by o.tenant_id, o.message_id
        for update of o
    ),
    gone as (
        delete from public.outbox o
        using mine m
        where o.tenant_id = m.tenant_id and o.message_id = m.message_id and o.state = 'queued'
        returning o.tenant_id, o.message_id
    ),
    noted as (
        update public.messages m set status = 'canceled'
        from gone g
        where m.tenant_id = g.tenant_id and m.id = g.message_id
    )
    select array_agg((tenant_id, message_id)::private.message_ref) into v_messages from gone;
    if v_messages is not null then
        perform private.steps_take_back(v_messages);
    end if;
end
$$;

-- The live enrollments of these chats, locked in the order of their ids.
create function private.enrollments_live(p_chats private.chat_ref[]) returns setof public.sequence_enrollments
language plpgsql set search_path = '' as $$
begin
    return query
    select e.*
    from (select distinct c.tenant_id, c.chat_id from unnest(p_chats) c) as w
    cross join lateral (
        select l.id from public.sequence_enrollments l
        where l.tenant_id = w.tenant_id and l.chat_id = w.chat_id and l.status in ('active', 'paused')
        limit 1
    ) as k
    join public.sequence_enrollments e on e.tenant_id = w.tenant_id and e.id = k.id
    order by e.tenant_id, e.id
    for no key update of e;
end
$$;

-- Active enrollments of these chats pause, for that reason: replied, staff, probably_blocked, blocked, ... A step that
-- waits in the outbox is taken back. Those that are paused already stay so for their own reason.
create function private.enrollments_hold(p_chats private.chat_ref[], p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.steps_recall(p_chats);
    update public.sequence_enrollments e
    set status = 'paused', reason = p_reason, changed_at = (select private.clock())
    from private.enrollments_live(p_chats) l
    where l.status = 'active' and e.tenant_id = l.tenant_id and e.id = l.id;
end
$$;

-- Those paused for that reason go on: what was due meanwhile is due now, once, and what waited for a window is tried.
-- Whose customer has written meanwhile is paused for that, unless it is staff or the silence that lets it go on.
create function private.enrollments_release(p_chats private.chat_ref[], p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
    update public.sequence_enrollments e
    set status = case when h.is_heard then 'paused' else 'active' end,
        reason = case when h.is_heard then 'replied' end, changed_at = k.now,
        waits_for = case when h.is_heard then e.waits_for end,
        next_run_at = case when h.is_heard then e.next_run_at
            when e.waits_for is not null then k.now else greatest(e.next_run_at, k.now) end
    from private.enrollments_live(p_chats) l
    cross join private.clock() k (now)
    cross join lateral (
        select p_reason not in ('replied', 'staff') and coalesce(l.replied_at >= l.changed_at, false) as is_heard) as h
    where l.status = 'paused' and l.reason = p_reason and e.tenant_id = l.tenant_id and e.id = l.id;
end
$$;

-- Enrollments of these chats that are not over end: p_status is completed, stopped, replied, blocked or opted_out.
create function private.enrollments_end(p_chats private.chat_ref[], p_status text, p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.steps_recall(p_chats);
    update public.sequence_enrollments e
    set status = p_status, reason = p_reason, changed_at = (select private.clock()), waits_for = null
    from private.enrollments_live(p_chats) l
    where e.tenant_id = l.tenant_id and e.id = l.id;
end
$$;

-- Two chats become one, the other's enrollment with it: one stays, that of p_chat.
create function private.enrollments_join(p_chat private.chat_ref, p_other private.chat_ref) returns void
language plpgsql set search_path = '' as $$
begin
    if exists (
        select from public.sequence_enrollments e
        where e.tenant_id = p_chat.tenant_id and e.chat_id = p_chat.chat_id and e.status in ('active', 'paused')
    ) then
        perform private.enrollments_end(array[p_other], 'stopped', 'merged');
    end if;
end
$$;

grant execute on function
    private.steps_take_back(private.message_ref[]), private.steps_recall(private.chat_ref[]),
    private.enrollments_live(private.chat_ref[]), private.enrollments_hold(private.chat_ref[], text),
    private.enrollments_release(private.chat_ref[], text), private.enrollments_end(private.chat_ref[], text, text)
    to service_role;
