-- Delivery: what workers claim, at the pace of each number, and how sends end.

-- An errand in a worker's hands.
create type private.errand as (tenant_id uuid, message_id uuid, chat_id uuid, number_id uuid, send_at timestamptz);

-- What pacing lets out within the next second: the same share for every number that has anything queued, one message
-- of a chat at a time and in their order. Rows and pacing are locked; a number another worker is busy with waits.
create function private.errands_due(p_limit int) returns private.errand[]
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    return array(
        with recursive numbers as (
            (select o.tenant_id, o.number_id from public.outbox o where o.state = 'queued' order by 1, 2 limit 1)
            union all
            select following.tenant_id, following.number_id
            from numbers
            cross join lateral (
                select o.tenant_id, o.number_id
                from public.outbox o
                where o.state = 'queued' and (o.tenant_id, o.number_id) > (numbers.tenant_id, numbers.number_id)
                order by 1, 2
                limit 1
            ) as following
        ),
        paced as materialized (
            select p.tenant_id, p.number_id, greatest(p.next_slot_at, v_now) as slot_at, n.rate_per_second as rate,
                least(
                    (select greatest(1, p_limit / count(*)) from numbers),
                    floor(n.rate_per_second * extract(epoch from v_now + interval '1 second'
                        - greatest(p.next_slot_at, v_now)))) as share
            from numbers
            join public.whatsapp_numbers n on n.tenant_id = numbers.tenant_id and n.id = numbers.number_id
            join public.number_pacing p on p.tenant_id = n.tenant_id and p.number_id = n.id
            where p.next_slot_at < v_now + interval '1 second' and coalesce(p.paused_until <= v_now, true)
            order by p.tenant_id, p.number_id
            for no key update of p skip locked
        )
        select (
            due.tenant_id, due.message_id, due.chat_id, due.number_id,
            paced.slot_at + make_interval(secs => (
                row_number() over (partition by due.tenant_id, due.number_id order by due.priority, due.position) - 1
            )::float8 / paced.rate))::private.errand
        from paced
        cross join lateral (
            select o.tenant_id, o.message_id, o.chat_id, o.number_id, o.priority, o.position
            from public.outbox o
            where o.tenant_id = paced.tenant_id and o.number_id = paced.number_id and o.state = 'queued'
                and o.not_before <= v_now
                and not exists (
                    select from public.outbox e
                    where e.tenant_id = o.tenant_id and e.chat_id = o.chat_id and e.position < o.position
                        and e.state <> 'unknown' and e.not_before <= v_now)
            order by o.priority, o.not_before, o.position
            limit greatest(paced.share, 0)
            for update of o skip locked
        ) as due
        limit p_limit);
end
$$;

-- Errands that are not to be run: later, or never. Those for a person to decide are shown to one.
create function private.errands_refuse(p_errands private.errand[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_refused record;
begin
    for v_refused in
        with decided as materialized (
            select o.tenant_id, o.message_id, o.chat_id, o.purpose, d.*
            from private.errand_decisions(p_errands) d
            join public.outbox o on o.message_id = d.ref
            join unnest(p_errands) e on e.tenant_id = o.tenant_id and e.message_id = o.message_id
        ),
        later as (
            update public.outbox o set not_before = d.not_before
            from decided d
            where d.verdict = 'wait' and o.tenant_id = d.tenant_id and o.message_id = d.message_id
        ),
        refused as (
            delete from public.outbox o
            using decided d
            where d.verdict in ('template', 'manual', 'never') and o.tenant_id = d.tenant_id
                and o.message_id = d.message_id
            returning d.*
        ),
        noted as (
            update public.messages m
            set status = 'skipped', send_verdict = r.verdict, send_reason = r.reason
            from refused r
            where m.tenant_id = r.tenant_id and m.id = r.message_id
        )
        select * from refused r where r.verdict in ('template', 'manual') and r.purpose in ('reply', 'staff')
    loop
        perform private.flag_for_person(v_refused.tenant_id, v_refused.chat_id, 'not_sent',
            format('A message was not sent: %s.', v_refused.reason));
    end loop;
end
$$;

-- send_decisions for errands: ref is the message's id.
create function private.errand_decisions(p_errands private.errand[])
returns table (
    ref uuid, verdict text, reason text, not_before timestamptz, price_class text, estimated_cost numeric, currency text
)
language plpgsql stable set search_path = '' as $$
begin
    return query select d.* from private.send_decisions(array(
        select (e.message_id, e.tenant_id, e.chat_id, o.purpose, m.type = 'template', m.data ->> 'category',
            m.template_id, m.forced_by is not null)::private.send_candidate
        from unnest(p_errands) e
        join public.outbox o on o.tenant_id = e.tenant_id and o.message_id = e.message_id
        join public.messages m on m.tenant_id = e.tenant_id and m.id = e.message_id
    )) d;
end
$$;

-- Where a chat's messages go: every current address of its lead by its kind, {"phone": …, "bsuid": …}.
create function private.chat_address(p_tenant_id uuid, p_chat_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_object_agg(i.kind, i.value order by i.valid_from)
        from public.chats c
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        join public.lead_identities i
            on i.tenant_id = c.tenant_id and i.lead_id = c.lead_id and i.valid_to = 'infinity'
            and (i.kind <> 'bsuid' or i.scope in (n.portfolio_id, n.waba_id, ''))
        where c.tenant_id = p_tenant_id and c.id = p_chat_id);
end
$$;

-- Take messages to send, for p_lease_seconds: {"claim", "messages": [{…, "send_at": its slot}], "next_in_ms": until
-- something else may be due, null when the outbox is empty}. The send decision is asked once more for each.
create function public.outbox_claim(p_limit int default 50, p_lease_seconds int default 30) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_claim uuid := private.uuid7();
    v_errands private.errand[];
    v_messages jsonb;
begin
    perform public.outbox_sweep();
    insert into public.number_pacing (tenant_id, number_id)
    select distinct o.tenant_id, o.number_id from public.outbox o
    where o.state = 'queued' and not exists (
        select from public.number_pacing p where p.tenant_id = o.tenant_id and p.number_id = o.number_id)
    order by 1, 2
    on conflict do nothing;
    v_errands := private.errands_due(p_limit);
    if cardinality(v_errands) > 0 then
        perform private.errands_refuse(v_errands);
        v_messages := private.errands_take(v_errands, v_claim, p_lease_seconds);
    end if;
    return jsonb_build_object('claim', v_claim, 'messages', coalesce(v_messages, '[]'), 'next_in_ms', (
        select case when count(*) > 0 then greatest(0, ceil(extract(
            epoch from min(greatest(o.not_before, p.next_slot_at - interval '1 second')) - clock_timestamp())
            * 1000)) end
        from public.outbox o
        left join public.number_pacing p on p.tenant_id = o.tenant_id and p.number_id = o.number_id
        where o.state = 'queued' and coalesce(p.paused_until <= now(), true)));
end
$$;

-- Mark errands as taken, move their numbers' pacing on, and say all that sending them needs.
create function private.errands_take(p_errands private.errand[], p_claim uuid, p_lease_seconds int) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_messages jsonb;
begin
    with taken as materialized (
        update public.outbox o
        set state = 'claimed', claim = p_claim, attempts = o.attempts + 1,
            lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from unnest(p_errands) e, private.errand_decisions(p_errands) d
        where o.tenant_id = e.tenant_id and o.message_id = e.message_id
            and d.ref = e.message_id and d.verdict = 'send'
        returning o.*, e.send_at, d.reason, d.price_class, d.estimated_cost, d.currency
    ),
    noted as (
        update public.messages m
        set send_verdict = 'send', send_reason = t.reason, price_class = t.price_class,
            estimated_cost = t.estimated_cost, currency = t.currency
        from taken t
        where m.tenant_id = t.tenant_id and m.id = t.message_id
    ),
    paced as (
        update public.number_pacing p
        set next_slot_at = s.last_slot_at + make_interval(secs => 1.0 / n.rate_per_second)
        from (
            select tenant_id, number_id, max(send_at) as last_slot_at from taken group by tenant_id, number_id
        ) as s
        join public.whatsapp_numbers n on n.tenant_id = s.tenant_id and n.id = s.number_id
        where p.tenant_id = s.tenant_id and p.number_id = s.number_id
    )
    select jsonb_agg(jsonb_build_object(
        'tenant_id', t.tenant_id, 'message_id', t.message_id, 'chat_id', t.chat_id, 'purpose', t.purpose,
        'attempts', t.attempts, 'send_at', t.send_at, 'provider', n.provider, 'number_id', n.id,
        'provider_number_id', n.provider_number_id, 'to', private.chat_address(t.tenant_id, t.chat_id),
        'type', m.type, 'content', m.content, 'data', m.data, 'reply_to', m.reply_to) order by t.send_at)
    into v_messages
    from taken t
    join public.messages m on m.tenant_id = t.tenant_id and m.id = t.message_id
    join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id;
    return v_messages;
end
$$;

-- About to send: commit this before the provider is called, with [{"tenant_id", "message_id"}, …]. Answers the ids
-- that are still yours; send no other.
create function public.outbox_intent(p_claim uuid, p_items jsonb, p_lease_seconds int default 120) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_ids uuid[];
begin
    with mine as (
        select o.tenant_id, o.message_id
        from jsonb_to_recordset(p_items) as i (tenant_id uuid, message_id uuid)
        join public.outbox o on o.tenant_id = i.tenant_id and o.message_id = i.message_id
        where o.claim = p_claim and o.state = 'claimed' and o.lease_until > now()
        order by o.tenant_id, o.message_id
        for update of o
    ),
    intended as (
        update public.outbox o
        set state = 'sending', lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from mine
        where o.tenant_id = mine.tenant_id and o.message_id = mine.message_id
        returning o.tenant_id, o.message_id
    ),
    noted as (
        update public.messages m set status = 'sending'
        from intended i
        where m.tenant_id = i.tenant_id and m.id = i.message_id and m.status in ('queued', 'sending')
    )
    select coalesce(array_agg(message_id), '{}') into v_ids from intended;
    return v_ids;
end
$$;

-- Give back what was claimed and not begun.
create function public.outbox_release(p_claim uuid) returns int
language plpgsql set search_path = '' as $$
declare
    v_count int;
begin
    update public.outbox o set state = 'queued', claim = null, lease_until = null, attempts = o.attempts - 1
    from (
        select tenant_id, message_id from public.outbox
        where claim = p_claim and state = 'claimed'
        order by tenant_id, message_id for update
    ) as mine
    where o.tenant_id = mine.tenant_id and o.message_id = mine.message_id;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- How a send ended, as the worker tells it.
create type private.send_result as (
    tenant_id uuid, message_id uuid, chat_id uuid, number_id uuid, purpose text, attempts int, outcome text,
    wa_message_id text, error_code int, error_message text, retry_after_seconds numeric
);

-- Tell how sends ended: [{"tenant_id", "message_id", "outcome", "wa_message_id", "error_code", "error_message",
-- "retry_after_seconds"}]. outcome: see shared/senders/base.py. Only errands of this claim are touched; answers how
-- many that were.
create function public.outbox_settle(p_claim uuid, p_results jsonb) returns int
language plpgsql set search_path = '' as $$
declare
    v_results private.send_result[];
begin
    -- chats before outbox before messages, each in order, as the inbox does
    perform from public.chats c
    join (
        select distinct o.tenant_id, o.chat_id
        from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid)
        join public.outbox o on o.tenant_id = r.tenant_id and o.message_id = r.message_id and o.claim = p_claim
    ) as w on c.tenant_id = w.tenant_id and c.id = w.chat_id
    order by c.tenant_id, c.id
    for no key update of c;

    v_results := array(
        select (o.tenant_id, o.message_id, o.chat_id, o.number_id, o.purpose, o.attempts, r.outcome, r.wa_message_id,
            r.error_code, r.error_message, r.retry_after_seconds)::private.send_result
        from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid, outcome text, wa_message_id text,
            error_code int, error_message text, retry_after_seconds numeric)
        join public.outbox o on o.tenant_id = r.tenant_id and o.message_id = r.message_id
        where o.claim = p_claim and o.state in ('sending', 'unknown')
        order by o.tenant_id, o.message_id
        for update of o);

    perform private.sends_done(array(select r from unnest(v_results) r where r.outcome = 'sent'));
    perform private.sends_again(array(
        select r from unnest(v_results) r
        where r.outcome in ('slow_number', 'slow_pair', 'stop_channel') or r.outcome = 'retry' and r.attempts < 6));
    perform private.sends_failed(array(
        select r from unnest(v_results) r
        where r.outcome in ('needs_template', 'opted_out', 'unreachable', 'invalid', 'pause_bulk')
            or r.outcome = 'retry' and r.attempts >= 6));
    perform private.sends_unknown(array(select r from unnest(v_results) r where r.outcome = 'unknown'));
    return cardinality(v_results);
end
$$;

create function private.sends_done(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    delete from public.outbox o
    using unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id;
    -- a status may have been faster than the provider's answer
    update public.messages m
    set wa_message_id = coalesce(m.wa_message_id, r.wa_message_id), sent_at = coalesce(m.sent_at, v_now),
        status = case when m.status in ('queued', 'sending', 'unknown') then 'sent' else m.status end
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id;
    update public.chats c
    set last_outbound_at = greatest(c.last_outbound_at, v_now),
        last_interaction_at = greatest(c.last_interaction_at, v_now)
    from (select distinct r.tenant_id, r.chat_id from unnest(p_results) r) as s
    where c.tenant_id = s.tenant_id and c.id = s.chat_id;
    perform private.inbox_changes(private.early_events_take(array(
        select (0, r.tenant_id, r.number_id, null, r.chat_id, null, r.message_id, r.wa_message_id, 'echo', null, v_now,
            false, false, null)::private.inbox_message
        from unnest(p_results) r)));
end
$$;

-- Nobody can tell whether it went out: a status may, else a person is asked. The chat's next message need not wait.
create function private.sends_unknown(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.outbox o set state = 'unknown'
    from unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id and o.state = 'sending';
    update public.messages m set status = 'unknown', error_message = r.error_message
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status = 'sending';
end
$$;

-- Queue again, after a pause that fits what the provider said. Whatever slows a number or stops it, slows or stops
-- all its messages.
create function private.sends_again(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.number_pacing p
    set paused_until = greatest(p.paused_until, s.until), pause_reason = s.outcome
    from (
        select distinct on (r.tenant_id, r.number_id) r.tenant_id, r.number_id, r.outcome,
            case r.outcome when 'stop_channel' then 'infinity'
                else now() + make_interval(secs => coalesce(r.retry_after_seconds, 30)) end as until
        from unnest(p_results) r
        where r.outcome in ('slow_number', 'stop_channel')
        order by r.tenant_id, r.number_id, r.outcome desc
    ) as s
    where p.tenant_id = s.tenant_id and p.number_id = s.number_id;

    perform private.alert_raise(r.tenant_id, 'channel_stopped', r.number_id::text,
        format('The provider refuses this number: %s', r.error_message), p_number_id => r.number_id,
        p_severity => 'critical')
    from unnest(p_results) r
    where r.outcome = 'stop_channel';

    update public.outbox o
    set state = 'queued', claim = null, lease_until = null,
        not_before = now() + case when r.outcome in ('retry', 'slow_pair')
            then make_interval(secs => coalesce(
                r.retry_after_seconds, case r.outcome when 'retry' then 2 else 4 end ^ least(o.attempts, 6))
                * (1 + random() / 4))
            else interval '0' end
    from unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id;

    update public.messages m set status = 'queued'
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status in ('sending', 'unknown');
end
$$;

-- It will not be sent. What the provider knew better than we do is learnt; answers that did not arrive are shown to
-- a person.
create function private.sends_failed(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.chats c set window_expires_at = least(c.window_expires_at, (select private.clock()))
    from unnest(p_results) r
    where r.outcome = 'needs_template' and c.tenant_id = r.tenant_id and c.id = r.chat_id;

    delete from public.outbox o
    using unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id;

    update public.messages m
    set status = 'failed', failed_at = (select private.clock()), error_code = r.error_code,
        error_message = r.error_message
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status in ('queued', 'sending', 'unknown');

    perform private.flag_for_person(r.tenant_id, r.chat_id, 'send_failed',
        format('A message could not be sent: %s', coalesce(r.error_message, r.outcome)))
    from unnest(p_results) r
    where r.purpose in ('reply', 'staff');

    insert into public.consent_events (tenant_id, lead_id, kind, scope, source, evidence, happened_at)
    select r.tenant_id, c.lead_id, 'opt_out', 'marketing', 'provider', r.error_message, (select private.clock())
    from unnest(p_results) r
    join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
    where r.outcome = 'opted_out'
    on conflict on constraint consent_events_said_once_key do nothing;
    update public.customer_leads l
    set opted_out_at = coalesce(l.opted_out_at, (select private.clock())),
        opt_out_scope = coalesce(l.opt_out_scope, 'marketing')
    from unnest(p_results) r
    join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
    where r.outcome = 'opted_out' and l.tenant_id = c.tenant_id and l.id = c.lead_id;
end
$$;

grant execute on function
    private.errands_due(int), private.errands_refuse(private.errand[]), private.errand_decisions(private.errand[]),
    private.errands_take(private.errand[], uuid, int), private.chat_address(uuid, uuid),
    private.sends_done(private.send_result[]), private.sends_unknown(private.send_result[]),
    private.sends_again(private.send_result[]), private.sends_failed(private.send_result[]),
    public.outbox_claim(int, int), public.outbox_intent(uuid, jsonb, int), public.outbox_release(uuid),
    public.outbox_settle(uuid, jsonb)
    to service_role;
