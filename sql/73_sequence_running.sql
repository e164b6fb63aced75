-- Running sequences: what is due is claimed, judged, decided and written as a set, in one transaction. Whoever is
-- killed has done nothing; whoever runs beside gets other enrollments; the key of sequence_history sees to it that no
-- step is run twice.

-- A due enrollment on its way through a batch. act: what is to be done: send, manual, wait, hold, end, pass (the step
-- was run before), later (it is due at not_before, for now).
create type private.step_run as (
    tenant_id uuid, enrollment_id uuid, sequence_id uuid, version int, order_position int, step_key text, chat_id uuid,
    planned_at timestamptz, act text, reason text, status text, not_before timestamptz, type text, text text,
    data jsonb, template_id uuid, message_id uuid, pending_manual_id uuid, on_window_closed text
);

-- Enrollments that are due, with their chats locked: the same share for every business that has any. What somebody
-- else has in hand is left to them.
create function private.sequences_due(p_limit int) returns public.sequence_enrollments[]
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        with recursive businesses as (
            (select e.tenant_id from public.sequence_enrollments e where e.status = 'active' order by 1 limit 1)
            union all
            select following.tenant_id
            from businesses b
            cross join lateral (
                select e.tenant_id from public.sequence_enrollments e
                where e.status = 'active' and e.tenant_id > b.tenant_id
                order by 1
                limit 1
            ) as following
        ),
        busy as materialized (
            select b.tenant_id from businesses b
            where exists (
                select from public.sequence_enrollments e
                where e.tenant_id = b.tenant_id and e.status = 'active' and e.next_run_at <= v_now)
        )
        select due.enrollment
        from busy b
        cross join lateral (
            select e as enrollment
            from public.sequence_enrollments e
            join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
            where e.tenant_id = b.tenant_id and e.status = 'active' and e.next_run_at <= v_now
            order by e.next_run_at
            limit (select greatest(1, p_limit / count(*)) from busy)
            for no key update of c, e skip locked
        ) as due
        limit p_limit);
end
$$;

-- Has a conversation of the chat been closed since then, with one of these outcomes?
create function private.has_outcome(p_tenant_id uuid, p_chat_id uuid, p_since timestamptz, p_outcomes text[])
returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from public.conversations v
        where v.tenant_id = p_tenant_id and v.chat_id = p_chat_id and v.closed_at >= p_since
            and (v.outcome = any (p_outcomes) or v.outcome is not null and '*' = any (p_outcomes)));
end
$$;

-- Why an enrollment is over, by what its sequence says of its goal (completed) or of stopping (stopped); null: neither.
create function private.rule_met(
    p_lead public.customer_leads, p_tags text[], p_statuses text[], p_outcomes text[], p_chat_id uuid,
    p_since timestamptz
) returns text
language plpgsql stable set search_path = '' as $$
begin
    return case
        when p_lead.tags && p_tags then 'tag'
        when array[p_lead.lead_status, p_lead.profile_status] && p_statuses then 'status'
        when p_outcomes <> '{}' and private.has_outcome(p_lead.tenant_id, p_chat_id, p_since, p_outcomes) then 'outcome'
    end;
end
$$;

-- What is to be done with due enrollments, before anything is asked of the send decision: act is send where that has to
-- be asked. A step counts its delay from when the one before really went out; while that one waits in the outbox, so
-- does this one.
create function private.steps_judged(p_due public.sequence_enrollments[]) returns private.step_run[]
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
declare
    v_now timestamptz := private.clock();
    v_next timestamptz[] := private.steps_due(array(
        select (e.tenant_id, e.chat_id, e.sequence_id, e.version, e.position,
            case when m.status in ('queued', 'sending') then v_now
                else coalesce(m.sent_at, e.last_step_at, e.enrolled_at) end)::private.step_ask
        from unnest(p_due) with ordinality as e
        left join public.messages m on m.tenant_id = e.tenant_id and m.id = e.last_message_id
        order by e.ordinality));
begin
    return array(
        select (e.tenant_id, e.id, e.sequence_id, e.version, e.position, st.key, e.chat_id, e.next_run_at, j.verdict[1],
            j.verdict[2], j.verdict[3],
            case when j.verdict[1] = 'later' then greatest(due.at, v_now + interval '1 minute') end,
            st.type,
            -- here and not in a function: it would be handed three whole rows for every message
            case when position('{{' in st.text) > 0
                then private.placeholders_fill(st.text, private.placeholder_values(l, n, b.business_name))
                else st.text end,
            case when st.media is not null then jsonb_build_object('media', st.media - '{filename,mime}'::text[])
                || st.media - '{link,id}'::text[] end,
            st.template_id, null, null, st.on_window_closed)::private.step_run
        from unnest(p_due) with ordinality as e
        join unnest(v_next) with ordinality as due (at, turn) on due.turn = e.ordinality
        join public.sequences s on s.tenant_id = e.tenant_id and s.id = e.sequence_id
        join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.tenant_settings b on b.tenant_id = e.tenant_id
        left join public.sequence_steps st on st.tenant_id = e.tenant_id and st.sequence_id = e.sequence_id
            and st.version = e.version and st.order_position = e.position
        left join public.messages m on m.tenant_id = e.tenant_id and m.id = e.last_message_id
        cross join lateral (
            select
                case when s.goal_tags || s.goal_statuses || s.goal_outcomes <> '{}' then private.rule_met(
                    l, s.goal_tags, s.goal_statuses, s.goal_outcomes, e.chat_id, e.enrolled_at) end as goal,
                case when s.stop_tags || s.stop_statuses || s.stop_outcomes <> '{}' then private.rule_met(
                    l, s.stop_tags, s.stop_statuses, s.stop_outcomes, e.chat_id, e.enrolled_at) end as stop
        ) as r
        cross join lateral (
            select case
                when s.deleted_at is not null then array['end', 'sequence_deleted', 'stopped']
                when not s.is_active then array['hold', 'sequence_inactive']
                when not l.is_active then array['end', 'lead_inactive', 'stopped']
                when r.goal is not null then array['end', 'goal_' || r.goal, 'completed']
                when r.stop is not null then array['end', 'stop_' || r.stop, 'stopped']
                when st.key is null then array['end', 'done', 'completed']
                when exists (
                    select from public.sequence_history h
                    where h.tenant_id = e.tenant_id and h.enrollment_id = e.id and h.step_key = st.key)
                    then array['pass']
                when m.status in ('queued', 'sending') then array['later', 'previous_step']
                when due.at > v_now and (m.id is not null or st.window_margin_minutes is not null)
                    then array['later', null]
                else array['send']
            end as verdict
        ) as j
        order by e.ordinality);
end
$$;

-- Parameters of the template of a step, filled in for a customer.
create function private.step_parameters(p_run private.step_run) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select private.placeholders_fill(
            st.parameters::text, private.placeholder_values(l, n, b.business_name), true)::jsonb
        from public.sequence_steps st
        join public.chats c on c.tenant_id = st.tenant_id and c.id = p_run.chat_id
        join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.tenant_settings b on b.tenant_id = c.tenant_id
        where st.tenant_id = p_run.tenant_id and st.sequence_id = p_run.sequence_id and st.version = p_run.version
            and st.order_position = p_run.order_position);
end
$$;

-- What becomes of a step, given what the send decision says. One that is to be tried again is spread, since many wait
-- for the same moment: an hour where places are few, else five minutes.
create function private.step_ruled(
    p_run private.step_run, p_verdict text, p_reason text, p_not_before timestamptz, p_now timestamptz
) returns private.step_run
language plpgsql immutable set search_path = '' as $$
begin
    p_run.reason := p_reason;
    if p_verdict = 'send' then
        p_run.act := 'send';
    elsif p_verdict = 'wait' then
        p_run.act := 'wait';
        p_run.not_before := greatest(p_not_before, p_now) + private.chat_share(p_run.chat_id)
            * case when p_reason in ('messaging_limit', 'plan_quota') then interval '1 hour' else interval '5 minutes' end;
    elsif p_verdict = 'never' and p_reason in ('blocked', 'number_inactive') then
        p_run.act := 'hold';
    elsif p_verdict = 'never' then
        p_run.act := 'end';
        p_run.status := case when p_reason like 'opted\_out%' then 'opted_out' else 'stopped' end;
    elsif p_reason = 'window_closed' and p_run.on_window_closed = 'wait' then
        -- a message of the customer brings it forward
        p_run.act := 'wait';
        p_run.not_before := p_now + interval '1 day' * (1 + private.chat_share(p_run.chat_id));
    elsif p_reason = 'window_closed' and p_run.on_window_closed = 'stop' then
        p_run.act := 'end';
        p_run.status := 'stopped';
    else
        p_run.act := 'manual';
    end if;
    return p_run;
end
$$;

-- The same runs, with what the send decision says of them. p_as_template: as the template of the step.
create function private.steps_decided(p_runs private.step_run[], p_as_template boolean) returns private.step_run[]
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        select private.step_ruled(r::private.step_run, case when b.is_blank then 'manual' else d.verdict end,
            case when b.is_blank then 'text_blank' else d.reason end, d.not_before, v_now)
        from unnest(p_runs) r
        join private.send_decisions(array(
            select (r.enrollment_id, r.tenant_id, r.chat_id, 'sequence', p_as_template, null,
                case when p_as_template then r.template_id end, false)::private.send_candidate
            from unnest(p_runs) r)) d on d.ref = r.enrollment_id
        -- a text of placeholders alone, none of which is known
        cross join lateral (
            select d.verdict = 'send' and not p_as_template and r.type = 'text' and r.text !~ '\S' as is_blank) as b);
end
$$;

-- Those to be sent as templates, filled in. What cannot be is for a person.
create function private.steps_as_templates(p_runs private.step_run[]) returns private.step_run[]
language plpgsql stable set search_path = '' as $$
declare
    v_run private.step_run;
    v_runs private.step_run[] := array[]::private.step_run[];
    v_template public.message_templates;
    v_parameters jsonb;
    v_filled jsonb;
begin
    foreach v_run in array p_runs loop
        select * into v_template from public.message_templates t
        where t.tenant_id = v_run.tenant_id and t.id = v_run.template_id;
        v_parameters := private.step_parameters(v_run);
        v_filled := private.template_message(v_template, v_parameters);
        if v_filled ? 'reason' then
            v_run.act := 'manual';
            v_run.reason := v_filled ->> 'reason';
        elsif v_run.act = 'send' then
            v_run.type := 'template';
            v_run.text := v_filled ->> 'text';
            v_run.data := private.template_data(v_template, v_filled, v_parameters);
        else
            v_run.text := coalesce(v_run.text, v_filled ->> 'text');
        end if;
        v_runs := v_runs || v_run;
    end loop;
    return v_runs;
end
$$;

-- Ask the send decision about all that is to be sent: each as it is, and where the window is closed as its template, if
-- it has one for that.
create function private.steps_settled(p_runs private.step_run[]) returns private.step_run[]
language plpgsql stable set search_path = '' as $$
declare
    v_runs private.step_run[] := private.steps_decided(
        array(select r from unnest(p_runs) r where r.act = 'send' and r.type <> 'template'), false);
    v_templates private.step_run[] := array(select r from unnest(p_runs) r where r.act = 'send' and r.type = 'template')
        || array(
            select r from unnest(v_runs) r
            where r.act = 'manual' and r.reason = 'window_closed' and r.on_window_closed = 'use_template');
begin
    if cardinality(v_templates) > 0 then
        v_templates := private.steps_decided(v_templates, true);
        v_runs := array(
                select r from unnest(v_runs) r
                where not (r.act = 'manual' and r.reason = 'window_closed' and r.on_window_closed = 'use_template'))
            || array(select r from unnest(v_templates) r where r.act not in ('send', 'manual'))
            || private.steps_as_templates(array(select r from unnest(v_templates) r where r.act in ('send', 'manual')));
    end if;
    return v_runs || array(select r from unnest(p_runs) r where r.act <> 'send');
end
$$;

-- Put what is to be sent into the outbox.
create function private.steps_send(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.outbox_enqueue(array_agg(private.outgoing(r.tenant_id, r.chat_id, 'sequence', 'sequence',
        'assistant', r.text, r.type, r.data, p_template_id => case r.type when 'template' then r.template_id end,
        p_message_id => r.message_id) order by r.tenant_id, r.chat_id))
    from unnest(p_runs) r
    where r.act = 'send'
    having count(*) > 0;
end
$$;

-- Give to people what no machine may send: the message is kept as one that was skipped, and its text is in the queue.
create function private.steps_to_people(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.messages (tenant_id, id, chat_id, conversation_id, lead_id, number_id, direction, role, source,
        type, content, data, template_id, status, send_verdict, send_reason, provider_at)
    select r.tenant_id, r.message_id, c.id, v.id, c.lead_id, c.number_id, 'outbound', 'assistant', 'sequence', r.type,
        r.text, r.data, case r.type when 'template' then r.template_id end, 'skipped', 'manual', r.reason,
        (select private.clock())
    from unnest(p_runs) r
    join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
    left join public.conversations v on v.tenant_id = c.tenant_id and v.chat_id = c.id and v.status = 'open'
    where r.act = 'manual';

    insert into public.pending_manual (tenant_id, id, chat_id, source, reason, priority, text, added_at)
    select r.tenant_id, r.pending_manual_id, r.chat_id, 'sequence', r.reason, s.priority,
        concat_ws(E'\n', nullif(r.text, ''), r.data #>> '{media,link}'), (select private.clock())
    from unnest(p_runs) r
    join public.sequences s on s.tenant_id = r.tenant_id and s.id = r.sequence_id
    where r.act = 'manual';
end
$$;

-- Note what became of each step.
create function private.steps_note(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.sequence_history (tenant_id, enrollment_id, step_key, sequence_id, version, position, outcome,
        reason, message_id, pending_manual_id, planned_at, at)
    select r.tenant_id, r.enrollment_id, r.step_key, r.sequence_id, r.version, r.order_position,
        case r.act when 'send' then 'sent' when 'manual' then 'manual' else 'stopped' end, r.reason, r.message_id,
        r.pending_manual_id, r.planned_at, (select private.clock())
    from unnest(p_runs) r
    where r.act in ('send', 'manual') or r.act = 'end' and r.reason = 'window_closed';
end
$$;

-- Move enrollments on: past a step that was run, to the time when it is tried again, or to their end.
create function private.enrollments_move(p_runs private.step_run[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_next timestamptz[] := private.steps_due(array(
        select (r.tenant_id, r.chat_id, r.sequence_id, r.version, r.order_position + 1, v_now)::private.step_ask
        from unnest(p_runs) with ordinality as r
        order by r.ordinality));
begin
    update public.sequence_enrollments e
    set position = case when w.is_run then r.order_position + 1 else e.position end,
        next_run_at = case when w.is_run then coalesce(n.due_at, e.next_run_at)
            when r.act = 'pass' then v_now else coalesce(r.not_before, e.next_run_at) end,
        waits_for = case when r.act in ('wait', 'later') then r.reason end,
        last_step_at = case when r.act in ('send', 'manual') then v_now else e.last_step_at end,
        last_message_id = case r.act when 'send' then r.message_id when 'manual' then null else e.last_message_id end,
        status = s.status,
        reason = case when s.status = 'active' then null when w.is_run then 'done' else r.reason end,
        changed_at = case when s.status = 'active' then e.changed_at else v_now end
    from unnest(p_runs) with ordinality as r
    join unnest(v_next) with ordinality as n (due_at, turn) on n.turn = r.ordinality
    cross join lateral (select r.act in ('send', 'manual', 'pass') as is_run) as w
    cross join lateral (
        select case
            when w.is_run and n.due_at is null then 'completed'
            when r.act = 'hold' then 'paused'
            when r.act = 'end' then r.status
            else 'active'
        end as status
    ) as s
    where e.tenant_id = r.tenant_id and e.id = r.enrollment_id;
end
$$;

-- Run up to p_limit enrollments that are due. Answers how many there were and what became of them: {"claimed", "send",
-- "manual", "wait", "later", "hold", "end", "pass"}, those that are not nothing; "closed", for the log, as
-- private.steps_closed() has it.
create function public.sequences_process(p_limit int default 1000) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_runs private.step_run[] := private.steps_judged(private.sequences_due(p_limit));
begin
    if cardinality(v_runs) = 0 then
        return '{"claimed": 0}'::jsonb;
    end if;
    v_runs := private.steps_settled(v_runs);
    v_runs := array(
        select (r.tenant_id, r.enrollment_id, r.sequence_id, r.version, r.order_position, r.step_key, r.chat_id,
            r.planned_at, r.act, r.reason, r.status, r.not_before, r.type, r.text, r.data, r.template_id,
            case when r.act in ('send', 'manual') then private.uuid7() end,
            case when r.act = 'manual' then private.uuid7() end, r.on_window_closed)::private.step_run
        from unnest(v_runs) r);
    perform private.steps_to_people(v_runs);
    perform private.steps_send(v_runs);
    perform private.steps_note(v_runs);
    perform private.enrollments_move(v_runs);
    return (
        select jsonb_object_agg(g.act, g.n)
        from (
            select r.act, count(*) as n from unnest(v_runs) r group by r.act
            union all
            select 'claimed', cardinality(v_runs)
        ) as g) || private.steps_closed(v_runs);
end
$$;

-- Steps that could not be sent since their windows had closed: {"closed": [{"tenant_id", "number_id", "count", …, a few
-- of their "chat_ids"}]}; {} where there are none.
create function private.steps_closed(p_runs private.step_run[]) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select case when count(*) = 0 then '{}' else jsonb_build_object('closed', jsonb_agg(to_jsonb(n))) end
        from (
            select c.tenant_id, c.number_id, 'window_closed' as reason, count(*) as count,
                (array_agg(c.id))[:20] as chat_ids
            from unnest(p_runs) r
            join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
            where r.reason = 'window_closed' and r.act in ('manual', 'end')
            group by c.tenant_id, c.number_id
        ) as n);
end
$$;

-- after update of whatsapp_numbers: one that is active again. Definer: the admin who switches it on may not write
-- enrollments.
create function private.number_resumes_sequences() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.enrollments_release(array(
        select (e.tenant_id, e.chat_id)::private.chat_ref
        from public.sequence_enrollments e
        join public.chats c on c.tenant_id = e.tenant_id and c.id = e.chat_id
        where e.tenant_id = new.tenant_id and e.status = 'paused' and e.reason = 'number_inactive'
            and c.number_id = new.id), 'number_inactive');
    return null;
end
$$;
create trigger whatsapp_numbers_resume_sequences after update of is_active on public.whatsapp_numbers
    for each row when (new.is_active and not old.is_active) execute function private.number_resumes_sequences();

-- Is anything due? One look into an index, however many enrollments there are.
create function private.sequences_waiting() returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from public.sequence_enrollments e
        where e.status = 'active' and e.next_run_at <= (select private.clock()));
end
$$;

grant execute on function
    private.sequences_due(int), private.has_outcome(uuid, uuid, timestamptz, text[]),
    private.rule_met(public.customer_leads, text[], text[], text[], uuid, timestamptz),
    private.steps_judged(public.sequence_enrollments[]),
    private.step_parameters(private.step_run),
    private.step_ruled(private.step_run, text, text, timestamptz, timestamptz),
    private.steps_decided(private.step_run[], boolean), private.steps_as_templates(private.step_run[]),
    private.steps_settled(private.step_run[]), private.steps_send(private.step_run[]),
    private.steps_to_people(private.step_run[]), private.steps_note(private.step_run[]),
    private.steps_closed(private.step_run[]),
    private.enrollments_move(private.step_run[]), private.sequences_waiting(), public.sequences_process(int)
    to service_role;
