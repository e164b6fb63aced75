-- Moving to a new version: nobody is moved by an edit. Who is moved goes on at the step that comes next there.

-- Where everybody who is in an older version of a sequence would go on: the first step of the new one that they have
-- not had, and that is still before them (by its key), or is new and comes after what they have had. to_position null:
-- nothing is left.
create function private.sequence_moves(p_sequence public.sequences) returns table (
    enrollment_id uuid, version int, from_key text, to_position int, to_key text
)
language plpgsql stable set search_path = '' as $$
begin
    return query
    select e.id, e.version, o.key, n.order_position, n.key
    from public.sequence_enrollments e
    left join public.sequence_steps o on o.tenant_id = e.tenant_id and o.sequence_id = e.sequence_id
        and o.version = e.version and o.order_position = e.position
    left join lateral (
        select s.order_position, s.key
        from public.sequence_steps s
        left join public.sequence_steps was on was.tenant_id = s.tenant_id and was.sequence_id = s.sequence_id
            and was.version = e.version and was.key = s.key
        where s.tenant_id = e.tenant_id and s.sequence_id = e.sequence_id and s.version = p_sequence.version
            and not exists (
                select from public.sequence_history h
                where h.tenant_id = e.tenant_id and h.enrollment_id = e.id and h.step_key = s.key)
            and case when was.key is not null then was.order_position >= e.position
                else s.order_position > coalesce((
                    select max(d.order_position)
                    from public.sequence_history h
                    join public.sequence_steps d on d.tenant_id = s.tenant_id and d.sequence_id = s.sequence_id
                        and d.version = s.version and d.key = h.step_key
                    where h.tenant_id = e.tenant_id and h.enrollment_id = e.id), 0) end
        order by s.order_position
        limit 1
    ) as n on true
    where e.tenant_id = p_sequence.tenant_id and e.sequence_id = p_sequence.id and e.version < p_sequence.version
        and e.status in ('active', 'paused');
end
$$;

-- Definer: people may not write enrollments; tenant from require_admin.
create function private.sequence_move(p_sequence_id uuid, p_dry_run boolean) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_sequence public.sequences := private.sequence_locked(private.require_admin(), p_sequence_id);
    v_told jsonb;
begin
    -- nobody runs their steps meanwhile
    perform from public.sequence_enrollments e
    where e.tenant_id = v_sequence.tenant_id and e.sequence_id = p_sequence_id and e.status in ('active', 'paused')
    order by e.id
    for no key update;
    select jsonb_build_object('version', v_sequence.version, 'enrollments', coalesce(sum(g.n), 0),
        'steps', coalesce(jsonb_agg(jsonb_build_object('version', g.version, 'from', g.from_key, 'to', g.to_key,
            'enrollments', g.n) order by g.version, g.from_key, g.to_key), '[]'))
    into v_told
    from (
        select m.version, m.from_key, m.to_key, count(*) as n
        from private.sequence_moves(v_sequence) m
        group by m.version, m.from_key, m.to_key
    ) as g;
    if p_dry_run is not true then
        perform private.enrollments_to_version(v_sequence);
    end if;
    return v_told;
end
$$;

-- Move them. When the next step is due is reckoned anew, from when the last one went out.
create function private.enrollments_to_version(p_sequence public.sequences) returns void
language plpgsql set search_path = '' as $$
declare
    v_ids uuid[];
    v_positions int[];
    v_asks private.step_ask[];
begin
    select array_agg(e.id order by e.id), array_agg(m.to_position order by e.id),
        array_agg((e.tenant_id, e.chat_id, e.sequence_id, p_sequence.version, m.to_position,
            coalesce(g.sent_at, e.last_step_at, e.enrolled_at))::private.step_ask order by e.id)
    into v_ids, v_positions, v_asks
    from private.sequence_moves(p_sequence) m
    join public.sequence_enrollments e on e.tenant_id = p_sequence.tenant_id and e.id = m.enrollment_id
    left join public.messages g on g.tenant_id = e.tenant_id and g.id = e.last_message_id;

    update public.sequence_enrollments e
    set version = p_sequence.version, waits_for = null,
        -- past the last step: the next run says that it is over
        position = coalesce(w.position, (
            select max(s.order_position) + 1 from public.sequence_steps s
            where s.tenant_id = p_sequence.tenant_id and s.sequence_id = p_sequence.id
                and s.version = p_sequence.version)),
        next_run_at = coalesce(w.due_at, (select private.clock()))
    from unnest(v_ids, v_positions, private.steps_due(v_asks)) as w (id, position, due_at)
    where e.tenant_id = p_sequence.tenant_id and e.id = w.id;
end
$$;

-- Move everybody in it to the version that new ones get. Answers {"version", "enrollments", "steps": [{"version",
-- "from", "to": keys of the step that was next and of the one that now is, null: none, "enrollments"}]}. p_dry_run:
-- only say what would be.
create function public.sequence_move(p_sequence_id uuid, p_dry_run boolean default false) returns jsonb
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequence_move(p_sequence_id, p_dry_run)
$$;
grant execute on function private.sequence_move(uuid, boolean), public.sequence_move(uuid, boolean) to authenticated;
