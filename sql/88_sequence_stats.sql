-- Statistics of sequences: counted from the history of steps and the messages they became, whenever they are asked for.

-- A step that was run, what became of its message, and when the customer wrote next, within three days.
create view public.sequence_runs with (security_invoker = true) as
select
    h.tenant_id, h.sequence_id, h.version, h.enrollment_id, h.step_key, h.position, h.outcome, h.reason, h.planned_at,
    h.at, h.pending_manual_id, h.message_id, m.chat_id, m.status, m.sent_at, m.delivered_at, m.read_at, m.failed_at,
    r.replied_at, m.currency, m.estimated_cost, m.actual_cost
from public.sequence_history as h
left join public.messages as m on m.tenant_id = h.tenant_id and m.id = h.message_id
left join lateral (
    select a.provider_at as replied_at
    from public.messages as a
    where a.tenant_id = m.tenant_id and a.chat_id = m.chat_id and a.direction = 'inbound' and a.provider_at > m.sent_at
        and a.provider_at <= m.sent_at + interval '72 hours'
    order by a.provider_at
    limit 1
) as r on m.sent_at is not null;
comment on view public.sequence_runs is 'Every step that was run for a customer, with the fate of its message.';
grant select on public.sequence_runs to authenticated, service_role;
create trigger sequence_runs_refuse_write instead of insert or update or delete on public.sequence_runs
    for each row execute function private.refuse_write();

-- What became of a step, in all versions. sent: by us or by a person; manual: given to a person, of which done were
-- sent by one; cost: {currency: {"estimated", "actual"}} of what was sent.
create view public.sequence_step_stats with (security_invoker = true) as
select
    c.tenant_id, c.sequence_id, c.step_key, max(c.version) as version, max(c.position) as position,
    sum(c.sent)::bigint as sent, sum(c.delivered)::bigint as delivered, sum(c.read)::bigint as read,
    sum(c.failed)::bigint as failed, sum(c.replied_24h)::bigint as replied_24h,
    sum(c.replied_72h)::bigint as replied_72h, sum(c.skipped)::bigint as skipped, sum(c.manual)::bigint as manual,
    sum(c.done)::bigint as done, sum(c.stopped)::bigint as stopped,
    coalesce(
        jsonb_object_agg(c.currency, jsonb_build_object('estimated', c.estimated_cost, 'actual', c.actual_cost))
            filter (where c.currency is not null and c.sent > 0), '{}') as cost
from (
    select
        r.tenant_id, r.sequence_id, r.step_key, r.currency, max(r.version) as version,
        (array_agg(r.position order by r.version desc))[1] as position,
        count(*) filter (where r.sent_at is not null) as sent,
        count(*) filter (where r.delivered_at is not null or r.read_at is not null) as delivered,
        count(*) filter (where r.read_at is not null) as read,
        count(*) filter (where r.status = 'failed') as failed,
        count(*) filter (where r.replied_at <= r.sent_at + interval '24 hours') as replied_24h,
        count(*) filter (where r.replied_at is not null) as replied_72h,
        count(*) filter (where r.outcome = 'skipped') as skipped,
        count(*) filter (where r.pending_manual_id is not null) as manual,
        count(*) filter (where r.outcome = 'done') as done,
        count(*) filter (where r.outcome = 'stopped') as stopped,
        coalesce(sum(r.estimated_cost) filter (where r.sent_at is not null), 0) as estimated_cost,
        coalesce(sum(r.actual_cost), 0) as actual_cost
    from public.sequence_runs as r
    group by r.tenant_id, r.sequence_id, r.step_key, r.currency
) as c
group by c.tenant_id, c.sequence_id, c.step_key;
comment on view public.sequence_step_stats is 'How each step of each sequence did, in all its versions.';
grant select on public.sequence_step_stats to authenticated, service_role;
create trigger sequence_step_stats_refuse_write instead of insert or update or delete on public.sequence_step_stats
    for each row execute function private.refuse_write();

-- How a sequence did. Customers are counted by where they are; replied_24h and replied_72h are customers who wrote so
-- soon after some step, the rest are steps.
create view public.sequence_stats with (security_invoker = true) as
select
    s.tenant_id, s.id as sequence_id, s.name, s.is_active, s.deleted_at,
    coalesce(e.enrolled, 0) as enrolled, coalesce(e.active, 0) as active, coalesce(e.paused, 0) as paused,
    coalesce(e.completed, 0) as completed, coalesce(e.stopped, 0) as stopped, coalesce(e.replied, 0) as replied,
    coalesce(e.blocked, 0) as blocked, coalesce(e.opted_out, 0) as opted_out,
    coalesce(w.replied_24h, 0) as replied_24h, coalesce(w.replied_72h, 0) as replied_72h,
    coalesce(w.sent, 0) as sent, coalesce(w.delivered, 0) as delivered, coalesce(w.read, 0) as read,
    coalesce(w.failed, 0) as failed, coalesce(w.skipped, 0) as skipped, coalesce(w.manual, 0) as manual,
    coalesce(w.done, 0) as done, coalesce(k.cost, '{}') as cost
from public.sequences as s
left join (
    select
        n.tenant_id, n.sequence_id, count(*) as enrolled, count(*) filter (where n.status = 'active') as active,
        count(*) filter (where n.status = 'paused') as paused,
        count(*) filter (where n.status = 'completed') as completed,
        count(*) filter (where n.status = 'stopped') as stopped,
        count(*) filter (where n.status = 'replied') as replied,
        count(*) filter (where n.status = 'blocked') as blocked,
        count(*) filter (where n.status = 'opted_out') as opted_out
    from public.sequence_enrollments as n
    group by n.tenant_id, n.sequence_id
) as e on e.tenant_id = s.tenant_id and e.sequence_id = s.id
left join (
    select
        r.tenant_id, r.sequence_id, count(*) filter (where r.sent_at is not null) as sent,
        count(*) filter (where r.delivered_at is not null or r.read_at is not null) as delivered,
        count(*) filter (where r.read_at is not null) as read,
        count(*) filter (where r.status = 'failed') as failed,
        count(*) filter (where r.outcome = 'skipped') as skipped,
        count(*) filter (where r.pending_manual_id is not null) as manual,
        count(*) filter (where r.outcome = 'done') as done,
        count(distinct r.enrollment_id) filter (where r.replied_at <= r.sent_at + interval '24 hours') as replied_24h,
        count(distinct r.enrollment_id) filter (where r.replied_at is not null) as replied_72h
    from public.sequence_runs as r
    group by r.tenant_id, r.sequence_id
) as w on w.tenant_id = s.tenant_id and w.sequence_id = s.id
left join (
    select
        c.tenant_id, c.sequence_id,
        jsonb_object_agg(c.currency, jsonb_build_object('estimated', c.estimated_cost, 'actual', c.actual_cost))
            as cost
    from (
        select
            r.tenant_id, r.sequence_id, r.currency, coalesce(sum(r.estimated_cost), 0) as estimated_cost,
            coalesce(sum(r.actual_cost), 0) as actual_cost
        from public.sequence_runs as r
        where r.sent_at is not null and r.currency is not null
        group by r.tenant_id, r.sequence_id, r.currency
    ) as c
    group by c.tenant_id, c.sequence_id
) as k on k.tenant_id = s.tenant_id and k.sequence_id = s.id;
comment on view public.sequence_stats is 'How each sequence did, those that were deleted among them.';
grant select on public.sequence_stats to authenticated, service_role;
create trigger sequence_stats_refuse_write instead of insert or update or delete on public.sequence_stats
    for each row execute function private.refuse_write();
