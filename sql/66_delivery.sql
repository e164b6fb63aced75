-- Delivery: what workers claim, at the pace of each number, and how sends end.

-- An errand on its way through a claim. spacing: between two slots of its number, the first of which is slot_at;
-- is_reserve: its slot is one that bulk cannot take; rests_until: its chat has used up the pair limit; the rest is
-- what the send decision said.
create type private.errand as (
    tenant_id uuid, message_id uuid, chat_id uuid, number_id uuid, slot_at timestamptz, spacing interval,
    is_reserve boolean, rests_until timestamptz, verdict text, reason text, not_before timestamptz, price_class text,
    estimated_cost numeric, currency text
);

-- What a number may send in the next second or so: `urgent` messages, of which `bulk` may be bulk.
create type private.number_slots as (
    slot_at timestamptz, spacing interval, urgent int, bulk int, is_reserve boolean
);

-- Messages a second that we may hand to a number's provider now. Meta allows 80 (20 beside the Business app, 1,000
-- after an upgrade) and counts what customers write as well; Twilio allows 80; Whapi names no limit and asks for one
-- message after the other.
create function private.number_rate(p_number public.whatsapp_numbers, p_pacing public.number_pacing) returns float8
language plpgsql stable set search_path = '' as $$
declare
    v_ceiling float8 := case p_number.provider
        when 'whapi' then 1
        when 'twilio' then 80
        else case when p_number.is_coexistence then 20 when p_number.rate_per_second > 80 then 1000 else 80 end
    end;
    v_level float8 := coalesce(greatest(0, p_pacing.slow_level - floor(
        extract(epoch from clock_timestamp() - p_pacing.slowed_at) / 30)), 0);
begin
    if p_number.provider = 'cloud_api' then
        v_ceiling := v_ceiling - private.number_inbound(p_number.tenant_id, p_number.id);
    end if;
    return greatest(least(p_number.rate_per_second, v_ceiling), 1) / 2 ^ v_level;
end
$$;

-- Messages a second that customers wrote to a number, these last two seconds. Ids are in the order of their time, so
-- the newest of the tenant are next to each other; two thousand tell enough.
create function private.number_inbound(p_tenant_id uuid, p_number_id uuid) returns float8
language plpgsql stable set search_path = '' as $$
declare
    v_since uuid := private.uuid7_at(clock_timestamp() - interval '2 seconds');
begin
    return (
        select count(*) filter (where m.direction = 'inbound' and m.number_id = p_number_id) / 2.0
        from (
            select direction, number_id from public.messages
            where tenant_id = p_tenant_id and id >= v_since
            order by id desc
            limit 2000
        ) as m);
end
$$;

-- The slots of a number from p_from on. A worker gets those of one second, and comes back 0.4 s before they end;
-- until then nobody else gets any, and later only after a break in which what it still has goes out or comes back.
-- Slots are 5 % wider than the rate asks for: clocks and networks are not exact, and every second counts. Of that, 4 %
-- are a reserve that lets answers pass bulk which has its slots already (from 20 a second on: below, it would be
-- too much of a second).
create function private.number_slots(
    p_number public.whatsapp_numbers, p_pacing public.number_pacing, p_worker uuid, p_from timestamptz
) returns private.number_slots
language plpgsql stable set search_path = '' as $$
declare
    v_rate float8;
    v_slots private.number_slots;
    v_is_mine boolean := p_pacing.holder is not distinct from p_worker;
    v_since timestamptz := case when v_is_mine then p_from + interval '400 ms' else clock_timestamp() end;
    v_bulk boolean := coalesce(p_pacing.bulk_paused_until <= clock_timestamp(), true)
        and p_pacing.bulk_slot_at <= p_from;
begin
    if p_pacing.next_slot_at <= v_since then
        v_rate := private.number_rate(p_number, p_pacing);
        v_slots.spacing := make_interval(secs => 1 / (0.95 * v_rate));
        -- a number that was idle has nothing to keep apart from: its first message goes at once
        v_slots.slot_at := case when p_pacing.next_slot_at < p_from - interval '1 second'
            then least(p_from, clock_timestamp())
            else greatest(p_from, p_pacing.next_slot_at + (case when v_is_mine then 0 else 0.25 end) * interval '1 s')
        end;
        v_slots.urgent := greatest(1, floor(
            extract(epoch from p_from + interval '1 second' - v_slots.slot_at) * 0.95 * v_rate));
        v_slots.bulk := case
            when not v_bulk then 0 when p_number.provider = 'whapi' then 1 else v_slots.urgent end;
        v_slots.is_reserve := false;
    elsif p_pacing.reserve_slot_at <= p_from then
        v_rate := private.number_rate(p_number, p_pacing);
        v_slots := (p_from, make_interval(secs => 1 / (0.04 * v_rate)), case when v_rate >= 20 then 1 else 0 end, 0,
            true)::private.number_slots;
    else
        v_slots := (p_from, null, 0, 0, false)::private.number_slots;
    end if;
    return v_slots;
end
$$;

-- Numbers that have anything in the outbox, found by leaping from one to the next.
create function private.outbox_numbers() returns table (tenant_id uuid, number_id uuid)
language plpgsql stable set search_path = '' as $$
begin
    return query
    with recursive numbers as (
        (select o.tenant_id, o.number_id from public.outbox o order by 1, 2 limit 1)
        union all
        select following.tenant_id, following.number_id
        from numbers
        cross join lateral (
            select o.tenant_id, o.number_id
            from public.outbox o
            where (o.tenant_id, o.number_id) > (numbers.tenant_id, numbers.number_id)
            order by 1, 2
            limit 1
        ) as following
    )
    select numbers.tenant_id, numbers.number_id from numbers;
end
$$;

-- When the first message of that priority may go that no failure holds back; null: there is none.
create function private.queue_due_at(p_tenant_id uuid, p_number_id uuid, p_priority smallint) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
    return (
        select o.due_at from public.outbox o
        where o.tenant_id = p_tenant_id and o.number_id = p_number_id and o.state = 'queued'
            and o.priority = p_priority and coalesce(o.not_before <= clock_timestamp(), true)
        order by o.due_at
        limit 1);
end
$$;

-- What pacing lets out within the next second: the same share for every business, and within it for every number
-- that has anything due; one message of a chat at a time, in their order. Rows and pacing are locked; a number that
-- another worker is busy with waits.
create function private.errands_due(p_limit int, p_worker uuid, p_lead interval) returns private.errand[]
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := clock_timestamp();
    v_clock timestamptz := private.clock();
begin
    return array(
        with ready as materialized (
            select p.tenant_id, p.number_id, n.provider, s.*
            from private.outbox_numbers() q
            join public.number_pacing p on p.tenant_id = q.tenant_id and p.number_id = q.number_id
            join public.whatsapp_numbers n on n.tenant_id = p.tenant_id and n.id = p.number_id
            cross join lateral private.number_slots(n, p, p_worker, v_now + p_lead) s
            where coalesce(p.paused_until <= v_now, true) and (
                s.urgent > 0 and (
                    private.queue_due_at(p.tenant_id, p.number_id, 0::smallint) <= v_clock
                    or private.queue_due_at(p.tenant_id, p.number_id, 1::smallint) <= v_clock)
                or s.bulk > 0 and private.queue_due_at(p.tenant_id, p.number_id, 2::smallint) <= v_clock)
            order by p.tenant_id, p.number_id
            for no key update of p skip locked
        ),
        shared as (
            select
                r.*,
                greatest(1, p_limit / (select count(distinct ready.tenant_id) from ready)
                    / count(*) over (partition by r.tenant_id)) as share,
                row_number() over (partition by r.tenant_id order by r.slot_at) as turn
            from ready r
        ),
        due as (
            select
                o.*, s.slot_at, s.spacing, s.is_reserve, s.turn,
                case when s.provider <> 'whapi' then pair.rests_until end as rests_until,
                least(s.share, greatest(s.urgent, s.bulk)) as quota,
                row_number() over (
                    partition by o.tenant_id, o.number_id order by o.priority, o.due_at, o.position) as n
            from shared s
            cross join lateral (values (0::smallint, s.urgent), (1::smallint, s.urgent), (2::smallint, s.bulk))
                as lane (priority, quota)
            cross join lateral (
                select o.tenant_id, o.message_id, o.chat_id, o.number_id, o.priority, o.due_at, o.position
                from public.outbox o
                where o.tenant_id = s.tenant_id and o.number_id = s.number_id and o.state = 'queued'
                    and o.priority = lane.priority and o.due_at <= v_clock
                    and coalesce(o.not_before <= v_now, true)
                    -- what is before it in its chat; bulk may have to wait, and holds up neither people nor answers
                    and not exists (
                        select from public.outbox e
                        where e.tenant_id = o.tenant_id and e.chat_id = o.chat_id and e.position < o.position
                            and case e.state
                                when 'unknown' then false
                                when 'queued' then e.due_at <= v_clock and (e.priority < 2 or o.priority = 2)
                                else true
                            end)
                order by o.due_at, o.position
                limit least(lane.quota, s.share)
                for update of o skip locked
            ) as o
            left join lateral private.chat_rests_until(o.tenant_id, o.chat_id, v_now) pair (rests_until) on true
        )
        select (d.tenant_id, d.message_id, d.chat_id, d.number_id, d.slot_at, d.spacing, d.is_reserve, d.rests_until,
            null, null, null, null, null, null)::private.errand
        from due d
        where d.n <= d.quota
        order by d.turn, d.slot_at, d.number_id, d.n
        limit p_limit);
end
$$;

-- Until when this chat has used up the pair limit; null when a message may go within a second from p_now.
create function private.chat_rests_until(p_tenant_id uuid, p_chat_id uuid, p_now timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
    return (
        select p.free_at from private.chat_pacing p
        where p.tenant_id = p_tenant_id and p.chat_id = p_chat_id and p.free_at > p_now
            and not (p.burst_count < 45 and p_now + interval '1.5 seconds' < p.burst_at + interval '6 seconds'));
end
$$;

-- Errands with what the send decision says of each.
create function private.errands_decided(p_errands private.errand[]) returns private.errand[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select (e.tenant_id, e.message_id, e.chat_id, e.number_id, e.slot_at, e.spacing, e.is_reserve, e.rests_until,
            d.verdict, d.reason, d.not_before, d.price_class, d.estimated_cost, d.currency)::private.errand
        from unnest(p_errands) with ordinality as e
        join private.send_decisions(array(
            select (e.message_id, e.tenant_id, e.chat_id, o.purpose, m.type = 'template', m.data ->> 'category',
                m.template_id, m.forced_by is not null)::private.send_candidate
            from unnest(p_errands) e
            join public.outbox o on o.tenant_id = e.tenant_id and o.message_id = e.message_id
            join public.messages m on m.tenant_id = e.tenant_id and m.id = e.message_id
        )) d on d.ref = e.message_id
        order by e.ordinality);
end
$$;

-- Errands whose chats rest: not before they may go. Nobody looks at them again until then.
create function private.errands_rest(p_errands private.errand[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.outbox o set not_before = e.rests_until
    from unnest(p_errands) e
    where o.tenant_id = e.tenant_id and o.message_id = e.message_id;
end
$$;

-- Errands that are not to be run now: later, or never. What was decided is noted, and those that only a person can
-- go on with are shown to one.
create function private.errands_refuse(p_errands private.errand[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_refused record;
begin
    -- asked again within a day, whatever it was that they were to wait for
    update public.outbox o
    set due_at = least(coalesce(e.not_before, k.now + interval '1 hour'), k.now + interval '1 day')
    from unnest(p_errands) e, private.clock() k (now)
    where e.verdict = 'wait' and o.tenant_id = e.tenant_id and o.message_id = e.message_id;

    update public.messages m
    set status = case e.verdict when 'wait' then m.status else 'skipped' end, send_verdict = e.verdict,
        send_reason = e.reason, price_class = e.price_class, estimated_cost = e.estimated_cost, currency = e.currency
    from unnest(p_errands) e
    where m.tenant_id = e.tenant_id and m.id = e.message_id;

    -- its sequence says what becomes of a step instead
    perform private.steps_take_back(array(
        select (o.tenant_id, o.message_id)::private.message_ref
        from unnest(p_errands) e
        join public.outbox o on o.tenant_id = e.tenant_id and o.message_id = e.message_id
        where e.verdict <> 'wait' and o.purpose = 'sequence'));
    for v_refused in
        delete from public.outbox o
        using unnest(p_errands) e
        where e.verdict <> 'wait' and o.tenant_id = e.tenant_id and o.message_id = e.message_id
        returning o.tenant_id, o.chat_id, o.purpose, e.verdict, e.reason
    loop
        if v_refused.verdict in ('template', 'manual')
            and v_refused.purpose in ('reply', 'staff', 'daily_action', 'call_followup')
        then
            perform private.flag_for_person(v_refused.tenant_id, v_refused.chat_id, 'not_sent',
                format('A message was not sent: %s.', v_refused.reason));
        end if;
    end loop;
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

-- Take messages to send, for p_lease_seconds: {"claim", "now", "messages": [{…, "send_at": its slot, "spacing":
-- seconds between two slots of its number}], "next_in_ms": until something else may be due, null when time alone
-- brings nothing, "unknown": sends of lost workers that nobody can tell about, "closed": what may not go as it is
-- since its window has closed, for the log}. The send decision is asked once more for each. p_worker: who asks, since
-- a busy number stays with one; p_lead_ms: what it needs before it can send.
create function public.outbox_claim(
    p_limit int default 50, p_lease_seconds int default 30, p_worker uuid default null, p_lead_ms int default 0
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_claim uuid := private.uuid7();
    v_unknown int := private.outbox_reclaim();
    v_lead interval := make_interval(secs => p_lead_ms / 1000.0);
    v_errands private.errand[] := private.errands_due(p_limit, p_worker, v_lead);
    v_messages jsonb;
    v_closed jsonb;
begin
    if cardinality(v_errands) > 0 then
        perform private.errands_rest(array(select e from unnest(v_errands) e where e.rests_until is not null));
        v_errands := private.errands_decided(array(select e from unnest(v_errands) e where e.rests_until is null));
        perform private.errands_refuse(array(select e from unnest(v_errands) e where e.verdict <> 'send'));
        select jsonb_agg(jsonb_build_object('tenant_id', e.tenant_id, 'number_id', e.number_id, 'chat_id', e.chat_id,
            'message_id', e.message_id, 'reason', e.reason))
        into v_closed
        from unnest(v_errands) e
        where e.reason = 'window_closed';
        v_messages := private.errands_take(
            array(select e from unnest(v_errands) e where e.verdict = 'send'), v_claim, p_lease_seconds, p_worker);
    end if;
    return jsonb_build_object(
        'claim', v_claim, 'messages', coalesce(v_messages, '[]'), 'unknown', v_unknown,
        'closed', coalesce(v_closed, '[]'),
        'next_in_ms', case when v_messages is null then ceil(private.outbox_next_in(p_worker, v_lead) * 1000) else 0 end,
        'now', clock_timestamp());
end
$$;

-- Mark errands as taken, give them their slots, move pacing on, and say all that sending them needs.
create function private.errands_take(p_errands private.errand[], p_claim uuid, p_lease_seconds int, p_worker uuid)
returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_messages jsonb;
begin
    with slotted as materialized (
        select e.*,
            e.slot_at + e.spacing
                * (row_number() over (partition by e.tenant_id, e.number_id order by e.ordinality) - 1) as send_at
        from unnest(p_errands) with ordinality as e
    ),
    taken as materialized (
        update public.outbox o
        set state = 'claimed', claim = p_claim, attempts = o.attempts + 1, not_before = null,
            lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from slotted s
        where o.tenant_id = s.tenant_id and o.message_id = s.message_id
        returning o.tenant_id, o.message_id, o.chat_id, o.number_id, o.purpose, o.priority, o.attempts, s.send_at,
            s.spacing, s.is_reserve, s.reason, s.price_class, s.estimated_cost, s.currency
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
        set next_slot_at = coalesce(s.next_slot_at, p.next_slot_at),
            holder = case when s.next_slot_at is null then p.holder else p_worker end,
            reserve_slot_at = coalesce(s.reserve_slot_at, p.reserve_slot_at),
            bulk_slot_at = coalesce(s.bulk_slot_at, p.bulk_slot_at),
            service_month = s.month,
            service_count = s.services + case p.service_month when s.month then p.service_count else 0 end
        from (
            select
                t.tenant_id, t.number_id,
                max(t.send_at + t.spacing) filter (where not t.is_reserve) as next_slot_at,
                max(t.send_at + t.spacing) filter (where t.is_reserve) as reserve_slot_at,
                -- whoever did not write first gets at most two messages a minute through Whapi, not like clockwork
                max(t.send_at + interval '30 seconds' * (1 + random() / 4))
                    filter (where t.priority = 2 and n.provider = 'whapi') as bulk_slot_at,
                date_trunc('month', private.clock() at time zone min(n.timezone))::date as month,
                count(*) filter (where t.price_class = 'service' and t.attempts = 1) as services
            from taken t
            join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id
            group by t.tenant_id, t.number_id
        ) as s
        where p.tenant_id = s.tenant_id and p.number_id = s.number_id
    ),
    owed as (
        insert into private.chat_pacing as p (tenant_id, chat_id, burst_at, burst_count, free_at)
        select t.tenant_id, t.chat_id, t.send_at, 1, t.send_at + interval '6 seconds'
        from taken t
        order by t.tenant_id, t.chat_id
        on conflict on constraint chat_pacing_pkey do update
        set burst_at = case when p.free_at <= excluded.burst_at then excluded.burst_at else p.burst_at end,
            burst_count = case when p.free_at <= excluded.burst_at then 1 else p.burst_count + 1 end,
            free_at = greatest(p.free_at, excluded.burst_at) + interval '6 seconds'
    )
    select jsonb_agg(jsonb_build_object(
        'tenant_id', t.tenant_id, 'message_id', t.message_id, 'chat_id', t.chat_id, 'number_id', n.id,
        'provider', n.provider, 'provider_number_id', n.provider_number_id, 'account_id', n.account_id,
        'waba_id', n.waba_id, 'phone_number', n.phone_number, 'purpose', t.purpose, 'attempts', t.attempts,
        'send_at', t.send_at, 'spacing', extract(epoch from case when t.is_reserve then interval '0' else t.spacing end),
        'to', private.chat_address(t.tenant_id, t.chat_id), 'type', m.type, 'content', m.content, 'data', m.data,
        'reply_to', m.reply_to) order by t.send_at)
    into v_messages
    from taken t
    join public.messages m on m.tenant_id = t.tenant_id and m.id = t.message_id
    join public.whatsapp_numbers n on n.tenant_id = t.tenant_id and n.id = t.number_id;
    return v_messages;
end
$$;

-- Seconds until something may be due for that worker; null when time alone brings nothing.
create function private.outbox_next_in(p_worker uuid default null, p_lead interval default '0') returns float8
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := clock_timestamp();
    v_clock timestamptz := private.clock();
    v_seconds float8;
begin
    select least(
        min(greatest(
            0,
            extract(epoch from o.due_at - v_clock),
            extract(epoch from nullif(p.next_slot_at, '-infinity') - v_now)
                - extract(epoch from p_lead) - case when p.holder = p_worker then 0.4 else 0 end,
            extract(epoch from p.paused_until - v_now),
            case when lane.priority = 2 then extract(epoch from p.bulk_paused_until - v_now) end,
            case when lane.priority = 2 then extract(epoch from nullif(p.bulk_slot_at, '-infinity') - v_now) end)),
        (select extract(epoch from min(not_before) - v_now) from public.outbox where not_before > v_now))
    into v_seconds
    from private.outbox_numbers() q
    join public.number_pacing p on p.tenant_id = q.tenant_id and p.number_id = q.number_id
    cross join (values (0::smallint), (1::smallint), (2::smallint)) as lane (priority)
    cross join lateral private.queue_due_at(p.tenant_id, p.number_id, lane.priority) o (due_at)
    where o.due_at is not null and p.paused_until is distinct from 'infinity'
        and (lane.priority < 2 or p.bulk_paused_until is distinct from 'infinity');
    return v_seconds;
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

-- How a send ended, as the worker tells it. is_ours: the errand is still there, else a status was faster.
create type private.send_result as (
    tenant_id uuid, message_id uuid, chat_id uuid, number_id uuid, purpose text, attempts int, is_ours boolean,
    outcome text, wa_message_id text, error_code int, error_message text, retry_after_seconds numeric
);

-- Tell how sends ended: [{"tenant_id", "message_id", "outcome", "wa_message_id", "error_code", "error_message",
-- "retry_after_seconds"}]. outcome: sent | unknown (nobody can tell) | late (not begun) | retry |
-- slow_number | slow_pair | pause_bulk | needs_template | opted_out | unreachable | invalid | stop_channel. Only
-- errands of this claim are touched; answers how many that were.
create function public.outbox_settle(p_claim uuid, p_results jsonb) returns int
language plpgsql set search_path = '' as $$
declare
    v_results private.send_result[];
begin
    -- chats before outbox before messages, each in order, as the inbox does
    perform from public.chats c
    join (
        select distinct m.tenant_id, m.chat_id
        from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid)
        join public.messages m on m.tenant_id = r.tenant_id and m.id = r.message_id
    ) as w on c.tenant_id = w.tenant_id and c.id = w.chat_id
    order by c.tenant_id, c.id
    for no key update of c;

    v_results := array(
        with mine as (
            select o.*
            from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid)
            join public.outbox o on o.tenant_id = r.tenant_id and o.message_id = r.message_id
            order by o.tenant_id, o.message_id
            for update of o
        )
        select (m.tenant_id, m.id, m.chat_id, m.number_id, o.purpose, o.attempts, o.message_id is not null, r.outcome,
            r.wa_message_id, r.error_code, r.error_message, r.retry_after_seconds)::private.send_result
        from jsonb_to_recordset(p_results) as r (tenant_id uuid, message_id uuid, outcome text, wa_message_id text,
            error_code int, error_message text, retry_after_seconds numeric)
        join public.messages m on m.tenant_id = r.tenant_id and m.id = r.message_id
        left join mine o on o.tenant_id = m.tenant_id and o.message_id = m.id
        where o.claim = p_claim and (o.state in ('sending', 'unknown') or o.state = 'claimed' and r.outcome = 'late')
            or o.message_id is null and r.outcome = 'sent' and m.status in ('sent', 'delivered', 'read', 'played')
        order by m.tenant_id, m.id);

    perform private.sends_done(array(select r from unnest(v_results) r where r.outcome = 'sent'));
    perform private.sends_unknown(array(select r from unnest(v_results) r where r.outcome = 'unknown'));
    perform private.sends_failed(array(
        select r from unnest(v_results) r
        where r.outcome in ('pause_bulk', 'needs_template', 'opted_out', 'unreachable', 'invalid')
            or r.outcome in ('retry', 'slow_pair') and r.attempts >= 6));
    perform private.sends_again(array(
        select r from unnest(v_results) r
        where r.outcome in ('late', 'slow_number', 'stop_channel')
            or r.outcome in ('retry', 'slow_pair') and r.attempts < 6));
    perform private.sends_slow(array(
        select r from unnest(v_results) r
        where r.outcome in ('slow_number', 'slow_pair', 'pause_bulk', 'stop_channel')));
    return cardinality(v_results);
end
$$;

create function private.sends_done(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if cardinality(p_results) = 0 then
        return;
    end if;
    delete from public.outbox o
    using unnest(p_results) r
    where r.is_ours and o.tenant_id = r.tenant_id and o.message_id = r.message_id;
    -- a status may have been faster than the provider's answer; a scheduled message belongs where it was sent
    update public.messages m
    set wa_message_id = coalesce(m.wa_message_id, r.wa_message_id), sent_at = coalesce(m.sent_at, v_now),
        provider_at = case when v_now > m.provider_at + interval '1 minute' then v_now else m.provider_at end,
        status = case when m.status in ('queued', 'sending', 'unknown') then 'sent' else m.status end
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id;
    update public.chats c
    set last_outbound_at = greatest(c.last_outbound_at, v_now),
        last_interaction_at = greatest(c.last_interaction_at, v_now),
        news_since = coalesce(c.news_since, case when s.is_talk then v_now end)
    from (
        -- what was sent to many is no reason to read a conversation again
        select r.tenant_id, r.chat_id, bool_or(r.purpose in ('reply', 'staff')) as is_talk
        from unnest(p_results) r
        group by r.tenant_id, r.chat_id
    ) as s
    where c.tenant_id = s.tenant_id and c.id = s.chat_id;
    perform private.sends_noted(array(
        select (r.tenant_id, r.message_id, v_now)::private.sent from unnest(p_results) r where r.is_ours));
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
    update public.outbox o set state = 'unknown', unknown_at = (select private.clock())
    from unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id and o.state = 'sending';
    update public.messages m set status = 'unknown', error_message = r.error_message
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status = 'sending';
end
$$;

-- Queue again. Only a try that failed for reasons of its own counts, and only that waits by itself: whatever slows
-- or stops a number or a pair does so for all its messages.
create function private.sends_again(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
begin
    update public.outbox o
    set state = 'queued', claim = null, lease_until = null, unknown_at = null,
        attempts = o.attempts - case when r.outcome in ('retry', 'slow_pair') then 0 else 1 end,
        not_before = case r.outcome when 'retry' then now() + make_interval(
            secs => coalesce(r.retry_after_seconds, 2 ^ least(o.attempts, 6)) * (1 + random() / 4)) end
    from unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id;

    update public.messages m set status = 'queued'
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status in ('sending', 'unknown');
end
$$;

-- What refusals mean for the other messages of a number, or of a chat. Numbers first, in order, as a claim does.
create function private.sends_slow(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_stopped record;
begin
    if cardinality(p_results) = 0 then
        return;
    end if;
    perform from public.number_pacing p
    join (select distinct r.tenant_id, r.number_id from unnest(p_results) r) as s
        on p.tenant_id = s.tenant_id and p.number_id = s.number_id
    order by p.tenant_id, p.number_id
    for no key update of p;

    -- sends that were on their way together are refused together: one step in five seconds
    update public.number_pacing p
    set paused_until = greatest(p.paused_until, now() + make_interval(secs => s.pause)), pause_reason = 'slow_number',
        slow_level = case when p.slowed_at > now() - interval '5 seconds' then p.slow_level
            else least(5, 1 + coalesce(
                greatest(0, p.slow_level - floor(extract(epoch from now() - p.slowed_at) / 30)), 0)) end,
        slowed_at = case when p.slowed_at > now() - interval '5 seconds' then p.slowed_at else now() end
    from (
        select r.tenant_id, r.number_id, max(coalesce(r.retry_after_seconds, 1))::float8 as pause
        from unnest(p_results) r
        where r.outcome = 'slow_number'
        group by r.tenant_id, r.number_id
    ) as s
    where p.tenant_id = s.tenant_id and p.number_id = s.number_id;

    for v_stopped in
        select distinct on (r.tenant_id, r.number_id, r.outcome)
            r.tenant_id, r.number_id, r.outcome, coalesce(r.error_message, r.error_code::text, 'no reason given') as why
        from unnest(p_results) r
        where r.outcome in ('stop_channel', 'pause_bulk')
    loop
        if v_stopped.outcome = 'stop_channel' then
            perform private.channel_stop(v_stopped.tenant_id, v_stopped.number_id,
                format('The provider refuses this number: %s', v_stopped.why));
        else
            perform private.bulk_pause(v_stopped.tenant_id, v_stopped.number_id, now() + interval '24 hours', 'spam',
                format('The provider limits this number for its quality, so bulk rests for a day: %s', v_stopped.why));
        end if;
    end loop;

    -- 4^n seconds; a pair that was left alone for ten minutes begins anew
    insert into private.chat_pacing as p (tenant_id, chat_id, burst_at, burst_count, free_at, refusals)
    select distinct r.tenant_id, r.chat_id, now(), 45, now() + interval '1 second', 1
    from unnest(p_results) r
    where r.outcome = 'slow_pair'
    order by 1, 2
    on conflict on constraint chat_pacing_pkey do update
    set burst_count = 45,
        free_at = now() + make_interval(secs => 4 ^ case
            when p.free_at < now() - interval '10 minutes' then 0 else least(p.refusals, 5) end),
        refusals = case when p.free_at < now() - interval '10 minutes' then 1 else p.refusals + 1 end;
end
$$;

-- Bulk of this number rests until then; people and answers go on. One alert.
create function private.bulk_pause(
    p_tenant_id uuid, p_number_id uuid, p_until timestamptz, p_reason text, p_message text
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.number_pacing as p (tenant_id, number_id, bulk_paused_until, bulk_pause_reason)
    values (p_tenant_id, p_number_id, p_until, p_reason)
    on conflict on constraint number_pacing_pkey do update
    set bulk_paused_until = greatest(p.bulk_paused_until, p_until), bulk_pause_reason = p_reason;
    perform private.alert_raise(p_tenant_id, 'bulk_paused', p_number_id::text, p_message,
        p_number_id => p_number_id, p_severity => 'critical');
end
$$;

-- Bulk goes on, whatever it rested for.
create function private.bulk_resume(p_tenant_id uuid, p_number_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    update public.number_pacing set bulk_paused_until = null, bulk_pause_reason = null
    where tenant_id = p_tenant_id and number_id = p_number_id;
    perform private.alert_end(p_tenant_id, 'bulk_paused', p_number_id::text);
    perform private.wake('deliver');
end
$$;

-- Meta judges a number by what customers do with its messages: at RED, bulk rests until it is better.
create function private.number_quality_changed() returns trigger
language plpgsql set search_path = '' as $$
begin
    if new.quality_rating = 'RED' then
        perform private.bulk_pause(new.tenant_id, new.id, 'infinity', 'quality',
            'Customers block or report this number (quality RED), so bulk rests until Meta judges it better.');
    elsif exists (
        select from public.number_pacing p
        where p.tenant_id = new.tenant_id and p.number_id = new.id and p.bulk_pause_reason = 'quality')
    then
        perform private.bulk_resume(new.tenant_id, new.id);
    end if;
    return null;
end
$$;
create trigger whatsapp_numbers_quality after update of quality_rating on public.whatsapp_numbers
    for each row when (new.quality_rating is distinct from old.quality_rating)
    execute function private.number_quality_changed();

-- It will not be sent. What the provider knew better than we do is learnt. Staff see it: a chat whose answer did not
-- arrive is shown to a person, and failures in bulk are counted in one alert of the number.
create function private.sends_failed(p_results private.send_result[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if cardinality(p_results) = 0 then
        return;
    end if;
    update public.chats c set window_expires_at = least(c.window_expires_at, v_now)
    from unnest(p_results) r
    where r.outcome = 'needs_template' and c.tenant_id = r.tenant_id and c.id = r.chat_id;

    delete from public.outbox o
    using unnest(p_results) r
    where o.tenant_id = r.tenant_id and o.message_id = r.message_id;

    update public.messages m
    set status = 'failed', failed_at = v_now, error_code = r.error_code,
        error_message = coalesce(r.error_message, r.outcome)
    from unnest(p_results) r
    where m.tenant_id = r.tenant_id and m.id = r.message_id and m.status in ('queued', 'sending', 'unknown');

    perform private.flag_for_person(r.tenant_id, r.chat_id, 'send_failed',
        format('A message could not be sent: %s', coalesce(r.error_message, r.outcome)))
    from unnest(p_results) r
    where r.purpose in ('reply', 'staff');
    perform private.alert_raise(r.tenant_id, 'bulk_failed', r.number_id::text,
        format('Messages could not be sent; the latest: %s', max(coalesce(r.error_message, r.outcome))),
        p_number_id => r.number_id)
    from unnest(p_results) r
    where r.purpose not in ('reply', 'staff')
    group by r.tenant_id, r.number_id;

    perform private.reach_judge(array(
        select (r.tenant_id, r.chat_id)::private.chat_ref from unnest(p_results) r where r.outcome = 'unreachable'));

    if exists (select from unnest(p_results) r where r.outcome = 'opted_out') then
        perform private.consents_record(array(
            select (r.tenant_id, c.lead_id, 'opt_out', 'marketing', 'provider', r.error_message, v_now)::private.consent
            from unnest(p_results) r
            join public.chats c on c.tenant_id = r.tenant_id and c.id = r.chat_id
            where r.outcome = 'opted_out'));
    end if;
end
$$;

grant execute on function
    private.number_rate(public.whatsapp_numbers, public.number_pacing), private.number_inbound(uuid, uuid),
    private.number_slots(public.whatsapp_numbers, public.number_pacing, uuid, timestamptz), private.outbox_numbers(),
    private.queue_due_at(uuid, uuid, smallint), private.errands_due(int, uuid, interval),
    private.chat_rests_until(uuid, uuid, timestamptz), private.errands_decided(private.errand[]),
    private.errands_rest(private.errand[]), private.errands_refuse(private.errand[]), private.chat_address(uuid, uuid),
    private.errands_take(private.errand[], uuid, int, uuid), private.outbox_next_in(uuid, interval),
    private.sends_done(private.send_result[]), private.sends_unknown(private.send_result[]),
    private.sends_again(private.send_result[]), private.sends_slow(private.send_result[]),
    private.sends_failed(private.send_result[]), private.bulk_pause(uuid, uuid, timestamptz, text, text),
    private.bulk_resume(uuid, uuid), public.outbox_claim(int, int, uuid, int), public.outbox_intent(uuid, jsonb, int),
    public.outbox_settle(uuid, jsonb)
    to service_role;
