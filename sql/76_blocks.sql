-- Blocks: customers whom nothing reaches any more. WhatsApp never says that somebody has blocked a number; it shows in
-- messages that stay "sent" for days, one after the other, while others of the number arrive.
--
-- What speaks for a block: a message that was sent through us at least tenant_settings.block_after_hours ago, nothing
-- heard of it since. What speaks against all that were sent before it: a message that is delivered, read or played, or
-- anything from the customer. What failed, was skipped or is unknown says nothing either way, nor does what was
-- written on the phone, of which not every provider tells what became. A month of undelivered messages is looked at.

-- delivery_issues: each time a chat was taken for blocked, what for, and how that ended.
create table public.delivery_issues (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    level text not null,
    probability smallint not null generated always as (case level when 'confirmed' then 99 else 95 end) stored,
    cause text not null,
    message_count int not null,
    first_message_id uuid,
    last_message_id uuid,
    first_at timestamptz not null,
    last_at timestamptz not null,
    after_hours int not null,
    after_count int not null,
    opened_at timestamptz not null,
    confirmed_at timestamptz,
    resolved_at timestamptz,
    resolved_how text,
    resolved_by uuid,
    note text,
    constraint delivery_issues_pkey primary key (tenant_id, id),
    constraint delivery_issues_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint delivery_issues_first_message_id_fkey foreign key (tenant_id, first_message_id)
        references public.messages (tenant_id, id) on delete set null (first_message_id),
    constraint delivery_issues_last_message_id_fkey foreign key (tenant_id, last_message_id)
        references public.messages (tenant_id, id) on delete set null (last_message_id),
    constraint delivery_issues_resolved_by_fkey foreign key (tenant_id, resolved_by)
        references public.users (tenant_id, id),
    constraint delivery_issues_level_check check (level in ('probable', 'confirmed')),
    constraint delivery_issues_cause_check check (cause in (
        'likely_block', 'never_delivered', 'phone_off', 'unreachable')),
    constraint delivery_issues_resolved_how_check check (resolved_how in (
        'delivered', 'read', 'inbound', 'reactivated', 'merged')),
    constraint delivery_issues_resolved_at_check check ((resolved_at is null) = (resolved_how is null))
);
comment on table public.delivery_issues is
    'Chats that were taken for blocked: one open row each. chats.block_state says what holds now.';
comment on column public.delivery_issues.probability is 'Percent.';
comment on column public.delivery_issues.cause is
    'likely_block: it used to arrive, and to others it still does. never_delivered: nothing ever arrived there, so it '
    'may as well be a phone without WhatsApp. phone_off: the customer was away like this before and came back, or is '
    'as silent on other numbers of ours: it may well be that again. unreachable: the provider also refused some of '
    'it. The last two are never more than probable.';
comment on column public.delivery_issues.first_at is 'When the first of message_count undelivered messages was sent.';
comment on column public.delivery_issues.after_count is
    'The threshold that was reached, of messages that are after_hours old.';
comment on column public.delivery_issues.resolved_how is
    'delivered, read, inbound: the customer was reached or wrote, so it was no block or is none any more; reactivated: '
    'staff said so; merged: the chat was joined with another.';
comment on column public.delivery_issues.note is 'pii: why it was reactivated';

create unique index delivery_issues_tenant_id_chat_id_open_key
    on public.delivery_issues (tenant_id, chat_id) where resolved_at is null;
create index delivery_issues_tenant_id_chat_id_idx on public.delivery_issues (tenant_id, chat_id, opened_at desc);
create index delivery_issues_tenant_id_first_message_id_idx
    on public.delivery_issues (tenant_id, first_message_id) where first_message_id is not null;
create index delivery_issues_tenant_id_last_message_id_idx
    on public.delivery_issues (tenant_id, last_message_id) where last_message_id is not null;
create index delivery_issues_tenant_id_resolved_by_idx
    on public.delivery_issues (tenant_id, resolved_by) where resolved_by is not null;

alter table public.delivery_issues enable row level security;
grant select on public.delivery_issues to authenticated;
grant select, insert, update, delete on public.delivery_issues to service_role;
create policy delivery_issues_select_member on public.delivery_issues for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A message that speaks for a block.
create type private.undelivered as (
    tenant_id uuid, chat_id uuid, number_id uuid, message_id uuid, at timestamptz
);

-- A message that does not, because hardly anything of its number arrived then: between since and until.
create type private.spared as (
    tenant_id uuid, chat_id uuid, number_id uuid, message_id uuid, since timestamptz, until timestamptz
);

-- Chats that may have to be marked: enough messages in them are old enough and undelivered. Reads nothing else.
create function private.blocks_suspected() returns private.chat_ref[]
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        select (s.tenant_id, u.chat_id)::private.chat_ref
        from public.tenant_settings s
        cross join lateral (
            select m.chat_id, count(*) as messages
            from public.messages m
            where m.tenant_id = s.tenant_id and m.awaits_delivery and m.provider_at > v_now - interval '30 days'
                and m.provider_at <= v_now - make_interval(hours => s.block_after_hours)
            group by m.chat_id
            having count(*) >= s.block_probable_count
        ) as u
        join public.chats c on c.tenant_id = s.tenant_id and c.id = u.chat_id
        where c.block_state = 'none' or c.block_state = 'probable' and u.messages >= s.block_confirmed_count);
end
$$;

-- Of these chats, the messages that speak for a block: undelivered, old enough, and after the last sign of life. An
-- earlier issue that ended is one, so that what was disproved or reactivated is not held against the customer again.
create function private.blocks_evidence(p_chats private.chat_ref[]) returns private.undelivered[]
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
declare
    v_now timestamptz := private.clock();
begin
    return array(
        select (m.tenant_id, m.chat_id, c.number_id, m.id, coalesce(m.sent_at, m.provider_at))::private.undelivered
        from unnest(p_chats) k
        join public.tenant_settings s on s.tenant_id = k.tenant_id
        cross join lateral (
            select * from public.chats c where c.tenant_id = k.tenant_id and c.id = k.chat_id limit 1
        ) as c
        left join lateral (
            select greatest(l.provider_at, l.delivered_at, l.read_at, l.played_at) as at
            from public.messages l
            where l.tenant_id = k.tenant_id and l.chat_id = k.chat_id
                and (l.direction = 'inbound' or l.status in ('delivered', 'read', 'played'))
            order by l.provider_at desc
            limit 1
        ) as life on true
        left join lateral (
            select max(i.resolved_at) as at
            from public.delivery_issues i
            where i.tenant_id = k.tenant_id and i.chat_id = k.chat_id
        ) as ended on true
        cross join lateral (
            select * from public.messages m
            where m.tenant_id = k.tenant_id and m.chat_id = k.chat_id and m.awaits_delivery
                and m.provider_at > coalesce(
                    greatest(life.at, ended.at, c.last_inbound_at), v_now - interval '30 days')
                and m.provider_at > v_now - interval '30 days'
                and coalesce(m.sent_at, m.provider_at) <= v_now - make_interval(hours => s.block_after_hours)
            -- an expression of many rows makes the key look dear
            offset 0
        ) as m);
end
$$;

-- Does this number tell us at all what was delivered? Meta always does. Whapi and Twilio do where their account is set
-- up for it, which shows in what they have told: of a number that never did, nobody can say who has blocked it.
create function private.reports_delivery(p_tenant_id uuid, p_number_id uuid) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from public.whatsapp_numbers n
        where n.tenant_id = p_tenant_id and n.id = p_number_id and n.provider = 'cloud_api'
    ) or exists (
        select from (
            select m.number_id, m.status, m.direction
            from public.messages m
            where m.tenant_id = p_tenant_id and m.provider_at > (select private.clock()) - interval '90 days'
            order by m.provider_at desc
            limit 20000
        ) as m
        where m.number_id = p_number_id and m.direction = 'outbound' and m.status in ('delivered', 'read', 'played'));
end
$$;

-- How many of a number's sends between two moments arrived, and how many did not: in either case as chats and quarters
-- of a day, so that one chat with many messages does not count for many. Arrived is counted to a little more than
-- p_enough.
create function private.deliveries_between(
    p_tenant_id uuid, p_number_id uuid, p_since timestamptz, p_until timestamptz, p_enough int
) returns table (arrived int, missing int, missing_chats int)
language plpgsql stable rows 1 set search_path = '' set enable_bitmapscan = 'off' as $$
begin
    return query
    select a.units::int, u.units::int, u.chats::int
    from (
        select count(*) as units
        from (
            select distinct m.chat_id, date_bin('6 hours', m.provider_at, '2000-01-01 00:00:00+00')
            from (
                select t.chat_id, t.provider_at
                from (
                    select * from public.messages m
                    where m.tenant_id = p_tenant_id and m.provider_at >= p_since and m.provider_at < p_until
                    -- else all messages of the number are read
                    order by m.provider_at
                    offset 0
                ) as t
                where t.number_id = p_number_id and t.direction = 'outbound'
                    and t.status in ('delivered', 'read', 'played')
                limit 3 * p_enough + 20
            ) as m
        ) as d
    ) as a,
    (
        select count(*) as units, count(distinct d.chat_id) as chats
        from (
            select distinct t.chat_id, date_bin('6 hours', t.provider_at, '2000-01-01 00:00:00+00')
            from (
                select * from public.messages m
                where m.tenant_id = p_tenant_id and m.awaits_delivery
                    and m.provider_at >= p_since and m.provider_at < p_until
                offset 0
            ) as t
            where t.number_id = p_number_id
        ) as d
    ) as u;
end
$$;

-- Was this an outage of the number, rather than customers who block it? More than half of what it sent is missing,
-- from five customers or more, and three times as much as at the same time of the four weeks before. Of a new number,
-- which has no such weeks, more than 60 %. A small business needs only three customers, if not one message arrived in
-- five days though most did before.
create function private.is_outage(p_tenant_id uuid, p_number_id uuid, p_since timestamptz, p_until timestamptz)
returns boolean
language plpgsql stable set search_path = '' as $$
declare
    v_now record;
    v_before record;
    v_missing numeric;
    v_normal numeric;
begin
    select * into v_now from private.deliveries_between(p_tenant_id, p_number_id, p_since, p_until, 2000);
    select sum(d.arrived) as arrived, sum(d.missing) as missing into v_before
    from generate_series(1, 4) as week
    cross join lateral private.deliveries_between(
        p_tenant_id, p_number_id, p_since - week * interval '7 days', p_until - week * interval '7 days', 50) d;
    v_missing := v_now.missing::numeric / (v_now.missing + v_now.arrived);
    v_normal := v_before.missing::numeric / nullif(v_before.missing + v_before.arrived, 0);
    if coalesce(v_before.missing + v_before.arrived < 20, true) then
        return v_now.missing_chats >= 5 and v_missing > 0.6;
    end if;
    return v_now.missing_chats >= 5 and v_missing > greatest(0.5, least(0.9, 3 * v_normal))
        or v_now.missing_chats >= 3 and v_now.arrived = 0 and v_normal < 0.2
        and p_until - p_since >= interval '5 days';
end
$$;

-- Stretches of time in which enough of a number's sends are missing to ask whether it was an outage: those to five
-- customers in a day, else in three, else to three in five days. They overlap by half, so that no outage hides between
-- two. Nearly all are left out at once: as many customers got something as did not, or of five days, anybody did.
create function private.outages_suspected(p_numbers uuid[], p_tenants uuid[], p_since timestamptz)
returns table (tenant_id uuid, number_id uuid, since timestamptz, until timestamptz)
-- no bitmaps: of what arrived only the first few are read
language plpgsql stable rows 100 set search_path = '' set plan_cache_mode = 'force_custom_plan' set work_mem = '64MB'
set enable_bitmapscan = 'off' as $$
#variable_conflict use_column
declare
    v_begin timestamptz := timestamptz '2000-01-01 00:00:00+00';
begin
    return query
    with halves as materialized (
        -- a chat counts once in half a day, however much it was sent; what was sent last may still arrive
        select distinct m.tenant_id, m.number_id, m.chat_id,
            floor(extract(epoch from m.provider_at - v_begin) / 43200)::bigint as half
        from (select distinct t from unnest(p_tenants) t) as t
        cross join lateral (
            select * from public.messages m
            where m.tenant_id = t and m.awaits_delivery and m.provider_at >= p_since
                and m.provider_at < private.clock() - interval '6 hours'
            offset 0
        ) as m
        where m.number_id = any (p_numbers)
    ),
    stretches as materialized (
        select h.tenant_id, h.number_id, k.size, b.first, count(*) as missing, array_agg(h.half) as halves
        from halves h
        cross join (values (2, 5), (6, 5), (10, 3)) as k (size, least)
        cross join lateral (values
            (h.half - h.half % (k.size / 2)), (h.half - h.half % (k.size / 2) - k.size / 2)) as b (first)
        group by h.tenant_id, h.number_id, k.size, k.least, b.first
        having count(distinct h.chat_id) >= k.least
    ),
    narrowest as (
        select distinct s.tenant_id, s.number_id, s.size, s.first, s.missing
        from stretches s
        cross join lateral unnest(s.halves) as half
        where not exists (
            select from stretches n
            where n.number_id = s.number_id and n.size < s.size and half between n.first and n.first + n.size - 1)
    )
    select n.tenant_id, n.number_id, w.since, w.until
    from narrowest n
    cross join lateral (
        select v_begin + n.first * interval '12 hours' as since,
            v_begin + (n.first + n.size) * interval '12 hours' as until
    ) as w
    cross join lateral (
        select count(distinct x.chat_id) as chats
        from (
            select m.chat_id
            from (
                select * from public.messages m
                where m.tenant_id = n.tenant_id and m.provider_at >= w.since and m.provider_at < w.until
                -- else all messages of the number are read
                order by m.provider_at
                offset 0
            ) as m
            where m.number_id = n.number_id and m.direction = 'outbound'
                and m.status in ('delivered', 'read', 'played')
            limit case when n.size = 10 then 1 else 10 * n.missing + 50 end
        ) as x
    ) as arrived
    where arrived.chats < case when n.size = 10 then 1 else n.missing end;
end
$$;

-- An outage in which nothing arrived at all lasts from the last arrival before it to the first one after.
create function private.outage_bounds(
    p_tenant_id uuid, p_number_id uuid, inout p_since timestamptz, inout p_until timestamptz
)
language plpgsql stable set search_path = '' set enable_bitmapscan = 'off' as $$
declare
    v_last timestamptz;
    v_first timestamptz;
begin
    select max(m.at) filter (where m.at < p_until), min(m.at) filter (where m.at >= p_since) into v_last, v_first
    from (
        select m.provider_at as at, m.number_id, m.direction, m.status
        from public.messages m
        where m.tenant_id = p_tenant_id and m.provider_at >= p_since - interval '5 days'
            and m.provider_at < p_until + interval '5 days'
        offset 0
    ) as m
    where m.number_id = p_number_id and m.direction = 'outbound' and m.status in ('delivered', 'read', 'played');
    if coalesce(v_last < p_since, true) and coalesce(v_first >= p_until, true) then
        p_since := coalesce(v_last, p_since - interval '5 days');
        p_until := coalesce(v_first, p_until + interval '5 days');
    end if;
end
$$;

-- Since the last message of a number that arrived, five customers or more are missing two or more each: an outage that
-- began in the middle of a busy hour, which no stretch shows that is cut by the clock. One message each is not enough:
-- those who come last in a round have that.
create function private.outages_since_last(p_evidence private.undelivered[])
returns table (tenant_id uuid, number_id uuid, since timestamptz, until timestamptz)
language plpgsql stable rows 10 set search_path = '' as $$
#variable_conflict use_column
begin
    return query
    select r.tenant_id, r.number_id, min(r.since), max(r.until)
    from (
        select n.tenant_id, n.number_id, e.chat_id, min(e.at) as since, max(e.at) + interval '1 second' as until
        from (
            select x.tenant_id, x.number_id, max(x.at) as at
            from unnest(p_evidence) x
            group by x.tenant_id, x.number_id
            having count(distinct x.chat_id) >= 5
        ) as n
        left join lateral (
            select m.provider_at
            from (
                select * from public.messages m
                where m.tenant_id = n.tenant_id and m.provider_at > n.at - interval '5 days'
                order by m.provider_at desc
                offset 0
            ) as m
            where m.number_id = n.number_id and m.direction = 'outbound'
                and m.status in ('delivered', 'read', 'played')
            limit 1
        ) as arrived on true
        join unnest(p_evidence) e on e.tenant_id = n.tenant_id and e.number_id = n.number_id
            and e.at > coalesce(arrived.provider_at, n.at - interval '5 days')
        group by n.tenant_id, n.number_id, e.chat_id
        having count(*) >= 2
    ) as r
    group by r.tenant_id, r.number_id
    having count(*) >= 5;
end
$$;

-- Of messages that speak for a block, those that were sent while hardly anything of their number arrived.
create function private.outages_spare(p_evidence private.undelivered[]) returns private.spared[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        with outages as materialized (
            select o.tenant_id, o.number_id, b.p_since as since, b.p_until as until from (
                select array_agg(distinct e.number_id) as numbers, array_agg(distinct e.tenant_id) as tenants,
                    min(e.at) - interval '7 days' as since
                from unnest(p_evidence) e
            ) as asked
            cross join lateral (
                select * from private.outages_suspected(asked.numbers, asked.tenants, asked.since)
                union all
                select * from private.outages_since_last(p_evidence)
            ) as o
            cross join lateral private.outage_bounds(o.tenant_id, o.number_id, o.since, o.until) b
            where private.is_outage(o.tenant_id, o.number_id, o.since, o.until)
        )
        select (e.tenant_id, e.chat_id, e.number_id, e.message_id, min(o.since), max(o.until))::private.spared
        from unnest(p_evidence) e
        join outages o on o.tenant_id = e.tenant_id and o.number_id = e.number_id
            and e.at >= o.since and e.at < o.until
        group by e.tenant_id, e.chat_id, e.number_id, e.message_id);
end
$$;

-- What these messages make of their chats, as rows of delivery_issues that are not stored; each with why nothing
-- arrives there, as far as that can be told.
create function private.blocks_judged(p_evidence private.undelivered[]) returns setof public.delivery_issues
language plpgsql stable rows 100 set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
declare
    v_now timestamptz := private.clock();
begin
    return query
    select
        r.tenant_id, private.uuid7(), r.chat_id, v.level, null::smallint, k.cause, r.messages, r.ids[1],
        r.ids[r.messages], r.first_at, r.last_at, s.block_after_hours,
        case v.level when 'confirmed' then s.block_confirmed_count else s.block_probable_count end,
        v_now, case v.level when 'confirmed' then v_now end, null::timestamptz, null, null::uuid, null
    from (
        select e.tenant_id, e.chat_id, count(*)::int as messages, min(e.at) as first_at, max(e.at) as last_at,
            array_agg(e.message_id order by e.at, e.message_id) as ids
        from unnest(p_evidence) e
        group by e.tenant_id, e.chat_id
    ) as r
    join public.tenant_settings s on s.tenant_id = r.tenant_id
    cross join lateral (
        select * from public.chats c where c.tenant_id = r.tenant_id and c.id = r.chat_id limit 1
    ) as c
    cross join lateral (
        select
            -- the phone is on: another number of ours reached it
            bool_or(m.direction = 'inbound' or m.status in ('delivered', 'read', 'played')) as is_reached,
            bool_or(m.awaits_delivery and m.provider_at < v_now - interval '24 hours') as is_silent
        from public.chats o
        cross join lateral (
            select * from public.messages m
            where m.tenant_id = o.tenant_id and m.chat_id = o.id and m.provider_at >= r.first_at
            offset 0
        ) as m
        where o.tenant_id = r.tenant_id and o.lead_id = c.lead_id and o.id <> r.chat_id
    ) as elsewhere
    cross join lateral (
        select
            bool_or(m.status = 'failed' and m.provider_at >= r.first_at
                and private.is_unreachable(m.tenant_id, m.number_id, m.error_code)) as is_refused,
            bool_or(m.direction = 'inbound' or m.status in ('delivered', 'read', 'played')) as was_reached,
            bool_or(m.delivered_at > coalesce(m.sent_at, m.provider_at) + interval '24 hours') as was_away
        from (
            select * from public.messages m
            where m.tenant_id = r.tenant_id and m.chat_id = r.chat_id
            order by m.provider_at desc
            limit 50
        ) as m
    ) as here
    cross join lateral (
        select case
            when here.is_refused then 'unreachable'
            when elsewhere.is_reached then 'likely_block'
            when here.was_away or elsewhere.is_silent or exists (
                select from public.delivery_issues i
                where i.tenant_id = r.tenant_id and i.chat_id = r.chat_id and i.resolved_how in ('delivered', 'read'))
                then 'phone_off'
            when here.was_reached or c.last_inbound_at is not null then 'likely_block'
            else 'never_delivered'
        end as cause
        offset 0
    ) as k
    cross join lateral (
        select case when r.messages >= s.block_confirmed_count and k.cause not in ('phone_off', 'unreachable')
            then 'confirmed' else 'probable' end as level
    ) as v
    where r.messages >= s.block_probable_count;
end
$$;

-- Mark chats as these issues say; what they are marked with already, or worse, stays. Their chats are locked. Answers
-- the issues that are new or grew worse.
create function private.blocks_mark(p_issues public.delivery_issues[]) returns setof public.delivery_issues
language plpgsql rows 100 set search_path = '' as $$
declare
    v_marked public.delivery_issues[];
begin
    if cardinality(p_issues) = 0 then
        return;
    end if;
    with marked as (
        insert into public.delivery_issues as i (
            tenant_id, id, chat_id, level, cause, message_count, first_message_id, last_message_id, first_at, last_at,
            after_hours, after_count, opened_at, confirmed_at)
        select j.tenant_id, j.id, j.chat_id, j.level, j.cause, j.message_count, j.first_message_id, j.last_message_id,
            j.first_at, j.last_at, j.after_hours, j.after_count, j.opened_at, j.confirmed_at
        from unnest(p_issues) j
        order by j.tenant_id, j.chat_id
        on conflict (tenant_id, chat_id) where resolved_at is null do update
        set level = excluded.level, cause = excluded.cause, message_count = excluded.message_count,
            last_message_id = excluded.last_message_id, last_at = excluded.last_at, after_hours = excluded.after_hours,
            after_count = excluded.after_count, confirmed_at = excluded.confirmed_at
        where i.level = 'probable' and excluded.level = 'confirmed'
        returning i.*
    )
    select coalesce(array_agg(m::public.delivery_issues), '{}') into v_marked from marked m;

    update public.chats c set block_state = j.level
    from unnest(v_marked) j
    where c.tenant_id = j.tenant_id and c.id = j.chat_id;
    perform private.enrollments_hold(array(
        select (j.tenant_id, j.chat_id)::private.chat_ref from unnest(v_marked) j where j.level = 'probable'),
    'probably_blocked');
    perform private.enrollments_hold(array(
        select (j.tenant_id, j.chat_id)::private.chat_ref from unnest(v_marked) j where j.level = 'confirmed'), 'blocked');
    return query select * from unnest(v_marked);
end
$$;

-- These chats are not blocked (any more): their open issues end, for p_how of delivery_issues.resolved_how, and what
-- was paused for them goes on. Free for chats that are not marked. Locks the chats first.
create function private.blocks_clear(
    p_chats private.chat_ref[], p_how text, p_by uuid default null, p_note text default null
) returns void
language plpgsql set search_path = '' as $$
declare
    v_cleared private.chat_ref[];
begin
    with marked as (
        select c.tenant_id, c.id
        from public.chats c
        join (select distinct k.tenant_id, k.chat_id from unnest(p_chats) k) as w
            on c.tenant_id = w.tenant_id and c.id = w.chat_id
        where c.block_state <> 'none'
        order by c.tenant_id, c.id
        for no key update of c
    ),
    cleared as (
        update public.chats c set block_state = 'none'
        from marked m
        where c.tenant_id = m.tenant_id and c.id = m.id
        returning c.tenant_id, c.id
    )
    select array_agg((tenant_id, id)::private.chat_ref order by tenant_id, id) into v_cleared from cleared;
    if v_cleared is null then
        return;
    end if;
    update public.delivery_issues i
    set resolved_at = (select private.clock()), resolved_how = p_how, resolved_by = p_by, note = p_note
    from unnest(v_cleared) k
    where i.tenant_id = k.tenant_id and i.chat_id = k.chat_id and i.resolved_at is null;
    perform private.enrollments_release(v_cleared, 'probably_blocked');
    perform private.enrollments_release(v_cleared, 'blocked');
end
$$;

-- The customers of marked chats were heard of: what is later than the first message that spoke for a block, ends it.
create function private.blocks_disprove(p_signs private.life_sign[]) returns void
language plpgsql set search_path = '' as $$
begin
    -- a message that was read says more than that it was delivered, and one of theirs more than that
    perform private.blocks_clear(array_agg((l.tenant_id, l.chat_id)::private.chat_ref), l.how)
    from (
        select distinct on (s.tenant_id, s.chat_id) s.tenant_id, s.chat_id, s.how
        from unnest(p_signs) s
        where not exists (
            select from public.delivery_issues i
            where i.tenant_id = s.tenant_id and i.chat_id = s.chat_id and i.resolved_at is null and i.first_at > s.at)
        order by s.tenant_id, s.chat_id, array_position(array['inbound', 'read', 'delivered'], s.how)
    ) as l
    group by l.how;
end
$$;

-- Marks that no longer hold: a sign of life came in the very moment in which the chat was marked.
create function private.blocks_heal() returns int
language plpgsql set search_path = '' as $$
declare
    v_signs private.life_sign[];
begin
    select array_agg((i.tenant_id, i.chat_id, l.at, l.how)::private.life_sign)
    into v_signs
    from public.delivery_issues i
    cross join lateral (
        select greatest(m.provider_at, m.delivered_at, m.read_at, m.played_at) as at,
            case when m.direction = 'inbound' then 'inbound' when m.status = 'delivered' then 'delivered'
                else 'read' end as how
        from public.messages m
        where m.tenant_id = i.tenant_id and m.chat_id = i.chat_id
            and (m.direction = 'inbound' or m.status in ('delivered', 'read', 'played'))
            and m.provider_at >= i.first_at
        order by m.provider_at desc
        limit 1
    ) as l
    where i.resolved_at is null;
    perform private.blocks_disprove(v_signs);
    return coalesce(cardinality(v_signs), 0);
end
$$;

-- Has anything arrived that this number sent from then on?
create function private.arrives_since(p_tenant_id uuid, p_number_id uuid, p_since timestamptz) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from (
            select m.number_id, m.direction, m.status from public.messages m
            where m.tenant_id = p_tenant_id and m.provider_at > p_since
            offset 0
        ) as m
        where m.number_id = p_number_id and m.direction = 'outbound' and m.status in ('delivered', 'read', 'played'));
end
$$;

-- Tell staff of numbers whose deliveries are missing: one alert for each, which ends when something arrives that was
-- sent later, or nothing is missing any more. An outage that is found when it is over is told until the next run.
create function private.outages_alert(p_spared private.spared[]) returns int
language plpgsql set search_path = '' as $$
declare
    v_outage record;
    v_outages int := 0;
begin
    perform private.alert_end(a.tenant_id, a.kind, a.subject)
    from public.alerts a
    where a.kind = 'deliveries_missing' and a.resolved_at is null and (
        private.arrives_since(a.tenant_id, a.number_id, (a.details ->> 'until')::timestamptz)
        or not exists (
            select from unnest(p_spared) s where s.tenant_id = a.tenant_id and s.number_id = a.number_id));

    for v_outage in
        select s.tenant_id, s.number_id, s.since, s.chats, (
            -- the last that is missing
            select max(m.provider_at)
            from public.messages m
            where m.tenant_id = s.tenant_id and m.awaits_delivery and m.number_id = s.number_id
                and m.provider_at >= s.since and m.provider_at < s.until) as until
        from (
            select x.tenant_id, x.number_id, min(x.since) as since, max(x.until) as until,
                count(distinct x.chat_id) as chats
            from unnest(p_spared) x
            group by x.tenant_id, x.number_id
        ) as s
        order by s.tenant_id, s.number_id
    loop
        v_outages := v_outages + 1;
        continue when exists (
            select from public.alerts a
            where a.tenant_id = v_outage.tenant_id and a.kind = 'deliveries_missing'
                and a.subject = v_outage.number_id::text and (a.details ->> 'until')::timestamptz >= v_outage.since
                and ((a.details ->> 'until')::timestamptz >= v_outage.until
                    or private.arrives_since(v_outage.tenant_id, v_outage.number_id, v_outage.until)));
        perform private.alert_raise(v_outage.tenant_id, 'deliveries_missing', v_outage.number_id::text,
            format('Hardly anything sent since %s is reported as delivered, to %s customers: nobody is taken for having '
                'blocked this number meanwhile.', to_char(v_outage.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
            v_outage.chats),
            p_number_id => v_outage.number_id, p_severity => 'critical', p_details => jsonb_build_object(
                'since', v_outage.since, 'until', v_outage.until, 'chats', v_outage.chats));
    end loop;
    return v_outages;
end
$$;

-- Find who has blocked us, and mark their chats: {"marked": [{"tenant_id", "chat_id", "number_id", "level",
-- "cause"}], "spared", "outages", "healed"}. Any number may run at once, and any may die: each mark is made once.
create function public.blocks_detect() returns jsonb
language plpgsql set search_path = '' set jit = 'off' as $$
declare
    v_healed int := private.blocks_heal();
    v_chats private.chat_ref[] := private.blocks_suspected();
    v_evidence private.undelivered[] := private.blocks_evidence(v_chats);
    v_spared private.spared[];
    v_outages int;
    v_marked jsonb;
begin
    if cardinality(v_evidence) = 0 then
        return jsonb_build_object(
            'marked', jsonb_build_array(), 'spared', 0, 'outages', private.outages_alert('{}'), 'healed', v_healed);
    end if;
    -- where nothing is ever told, nothing is missing
    v_evidence := array(
        select e
        from unnest(v_evidence) e
        join (
            select d.*
            from (select distinct x.tenant_id, x.number_id from unnest(v_evidence) x) as d
            where private.reports_delivery(d.tenant_id, d.number_id)
            offset 0
        ) as n on n.tenant_id = e.tenant_id and n.number_id = e.number_id);
    v_spared := private.outages_spare(v_evidence);
    v_outages := private.outages_alert(v_spared);

    v_chats := array(
        select (e.tenant_id, e.chat_id)::private.chat_ref
        from unnest(private.undelivered_but(v_evidence, v_spared)) e
        join public.tenant_settings s on s.tenant_id = e.tenant_id
        group by e.tenant_id, e.chat_id
        having count(*) >= min(s.block_probable_count));
    perform from public.chats c
    join unnest(v_chats) k on c.tenant_id = k.tenant_id and c.id = k.chat_id
    order by c.tenant_id, c.id
    for no key update of c;
    -- what has come meanwhile counts
    v_evidence := private.undelivered_but(private.blocks_evidence(v_chats), v_spared);
    select coalesce(jsonb_agg(jsonb_build_object(
        'tenant_id', m.tenant_id, 'chat_id', m.chat_id, 'number_id', c.number_id, 'level', m.level, 'cause', m.cause)
        order by m.tenant_id, m.chat_id), '[]')
    into v_marked
    from private.blocks_mark(array(select j from private.blocks_judged(v_evidence) j)) m
    join public.chats c on c.tenant_id = m.tenant_id and c.id = m.chat_id;
    perform private.blocks_alert(v_marked);
    return jsonb_build_object('marked', v_marked, 'spared', (
        select count(distinct (s.tenant_id, s.chat_id)) from unnest(v_spared) s),
    'outages', v_outages, 'healed', v_healed);
end
$$;

create function private.undelivered_but(p_evidence private.undelivered[], p_spared private.spared[])
returns private.undelivered[]
language plpgsql immutable set search_path = '' as $$
begin
    return array(
        select e
        from unnest(p_evidence) e
        where not exists (
            select from unnest(p_spared) s where s.tenant_id = e.tenant_id and s.message_id = e.message_id));
end
$$;

-- One alert of a number for those newly marked.
create function private.blocks_alert(p_marked jsonb) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.alert_raise(m.tenant_id, 'customers_blocked', m.number_id::text,
        format('%s customers seem to have blocked this number.', count(*)), p_number_id => m.number_id,
        p_severity => 'info', p_details => jsonb_build_object('chats', count(*)))
    from jsonb_to_recordset(p_marked) as m (tenant_id uuid, number_id uuid)
    group by m.tenant_id, m.number_id
    order by m.tenant_id, m.number_id;
end
$$;

grant execute on function
    private.blocks_suspected(), private.blocks_evidence(private.chat_ref[]), private.reports_delivery(uuid, uuid),
    private.deliveries_between(uuid, uuid, timestamptz, timestamptz, int),
    private.is_outage(uuid, uuid, timestamptz, timestamptz), private.outages_suspected(uuid[], uuid[], timestamptz),
    private.outages_since_last(private.undelivered[]),
    private.outage_bounds(uuid, uuid, timestamptz, timestamptz),
    private.outages_spare(private.undelivered[]),
    private.blocks_judged(private.undelivered[]),
    private.blocks_mark(public.delivery_issues[]), private.blocks_clear(private.chat_ref[], text, uuid, text),
    private.blocks_disprove(private.life_sign[]), private.blocks_heal(), private.arrives_since(uuid, uuid, timestamptz),
    private.outages_alert(private.spared[]),
    private.undelivered_but(private.undelivered[], private.spared[]), private.blocks_alert(jsonb),
    public.blocks_detect() to service_role;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'block_note', 'Hace falta una nota, de {longest} caracteres como máximo.',
        'This takes a note, of {longest} characters at most.',
        'É preciso uma nota, de no máximo {longest} caracteres.'),
    ('hint', 'block_note', 'Diga en p_note por qué se le vuelve a escribir.',
        'Say in p_note why this customer is written to again.', 'Diga em p_note por que se volta a escrever.');

-- Definer: staff may not write chats and issues.
create function private.block_reactivate(p_chat_id uuid, p_note text) returns boolean
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
    v_chat public.chats;
begin
    if private.is_blank(p_note) or length(p_note) > 2000 then
        perform private.refuse('PT400', 'block_note', '{"longest": 2000}');
    end if;
    select * into v_chat from public.chats where tenant_id = v_tenant_id and id = p_chat_id for no key update;
    if not found then
        perform private.refuse('PT404', 'no_chat');
    elsif v_chat.block_state = 'none' and v_chat.reach_state = 'ok' then
        return false;
    end if;
    perform private.blocks_clear(
        array[(v_tenant_id, p_chat_id)::private.chat_ref], 'reactivated', private.my_user_id(), btrim(p_note));
    perform private.reach_restore(
        array[(v_tenant_id, p_chat_id)::private.chat_ref], 'reactivated', private.my_user_id(), btrim(p_note));
    return true;
end
$$;

-- Staff write to a chat again that was taken for blocked or unreachable: what was paused goes on. The messages that
-- spoke for it do not count again. False: nothing held them back.
create function public.block_reactivate(p_chat_id uuid, p_note text) returns boolean
language sql set search_path = '' as $$
    select private.block_reactivate(p_chat_id, p_note)
$$;
grant execute on function private.block_reactivate(uuid, text), public.block_reactivate(uuid, text) to authenticated;

-- How good the detection is, per number, threshold and cause. disproved: the customer was reached, or wrote, after all.
create view public.block_detection_quality with (security_invoker = true) as
select
    i.tenant_id, c.number_id, i.after_hours, i.after_count, i.level, i.cause,
    count(*) as marked,
    count(*) filter (where i.resolved_at is null) as open,
    count(*) filter (where i.resolved_how in ('delivered', 'read', 'inbound')) as disproved,
    count(*) filter (where i.resolved_how in ('delivered', 'read')) as disproved_by_delivery,
    count(*) filter (where i.resolved_how = 'inbound') as disproved_by_customer,
    count(*) filter (where i.resolved_how = 'reactivated') as reactivated,
    round(count(*) filter (where i.resolved_how in ('delivered', 'read', 'inbound'))::numeric / count(*), 4)
        as disproved_rate
from public.delivery_issues i
join public.chats c on c.tenant_id = i.tenant_id and c.id = i.chat_id
group by i.tenant_id, c.number_id, i.after_hours, i.after_count, i.level, i.cause;
comment on view public.block_detection_quality is
    'Chats that were taken for blocked, and how many of them were not, by number, threshold, level and cause.';
grant select on public.block_detection_quality to authenticated, service_role;
create trigger block_detection_quality_refuse_write
    instead of insert or update or delete on public.block_detection_quality
    for each row execute function private.refuse_write();
