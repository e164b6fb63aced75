-- What providers say about accounts, numbers and templates, rather than about messages. Account-level deliveries name
-- no number: they go to every number of the account, in whichever business, or to the one whose phone they name.

-- account_news: the last thing said about each subject, so that an older one undoes nothing and the same one again
-- changes nothing.
create table private.account_news (
    tenant_id uuid,
    subject text,
    happened_at timestamptz not null,
    said jsonb not null,
    constraint account_news_pkey primary key (tenant_id, subject),
    constraint account_news_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
comment on table private.account_news is 'The last that was said about each subject of a business''s accounts.';
comment on column private.account_news.said is
    'pii: may name who asked for it. Two that are of the same second are ordered by it.';

alter table private.account_news enable row level security;
grant select, insert, update, delete on private.account_news to service_role;

create index whatsapp_numbers_waba_id_idx on public.whatsapp_numbers (waba_id) where is_active;

-- One thing said about one number. topic: what it may contradict.
create type private.account_event as (
    tenant_id uuid, number_id uuid, account text, topic text, subject text, at timestamptz, said jsonb
);

-- What is new of these, each subject's last word only; noted, so that it is new once.
create function private.account_news_take(p_events private.account_event[]) returns private.account_event[]
language plpgsql set search_path = '' as $$
declare
    v_news private.account_event[];
begin
    with latest as (
        select distinct on (e.tenant_id, e.topic, e.number_id) e.*
        from unnest(p_events) e
        order by e.tenant_id, e.topic, e.number_id, e.at desc, e.said desc
    ),
    taken as (
        insert into private.account_news as n (tenant_id, subject, happened_at, said)
        select l.tenant_id, concat_ws(' ', l.topic, l.number_id), l.at, l.said
        from latest l
        order by 1, 2
        on conflict on constraint account_news_pkey do update
        set happened_at = excluded.happened_at, said = excluded.said
        where (n.happened_at, n.said) < (excluded.happened_at, excluded.said)
        returning n.tenant_id, n.subject
    )
    select array_agg((l.tenant_id, l.number_id, l.account, l.topic, l.subject, l.at, l.said)::private.account_event
        order by l.at, l.tenant_id, l.topic, l.number_id)
    into v_news
    from latest l
    join taken t on t.tenant_id = l.tenant_id and t.subject = concat_ws(' ', l.topic, l.number_id);
    return coalesce(v_news, '{}');
end
$$;

-- Whom the account-level payloads of a batch are about.
create function private.accounts_route(p_payloads private.inbox_payload[]) returns private.account_event[]
language plpgsql stable set search_path = '' as $$
declare
    v_latest timestamptz := private.clock() + interval '5 minutes';
begin
    return array(
        select (
            n.tenant_id, n.id, p.scope,
            case e.body ->> 'subject'
                when 'account' then private.account_topic(e.body #>> '{data,event}')
                when 'alert' then concat_ws(' ', 'alert', e.body #>> '{data,type}')
                when 'security' then concat_ws(' ', 'security', e.body #>> '{data,event}')
                else e.body ->> 'subject' end,
            e.body ->> 'subject', least((e.body ->> 'at')::timestamptz, v_latest),
            coalesce(nullif(e.body -> 'data', 'null'), '{}'))::private.account_event
        from unnest(p_payloads) p
        cross join lateral jsonb_array_elements(p.events) as e (body)
        cross join lateral (
            select w.tenant_id, w.id from public.whatsapp_numbers w
            where w.provider = p.provider and w.waba_id = p.scope and w.is_active
                and e.body #>> '{data,phone}' is null
            union all
            select w.tenant_id, w.id from public.whatsapp_numbers w
            where w.provider = p.provider and w.phone_number = e.body #>> '{data,phone}' and w.is_active
        ) as n
        where p.number_id is null and not p.is_known and e.body ->> 'kind' = 'account');
end
$$;

-- Events that take each other back are about one topic.
create function private.account_topic(p_event text) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case
        when p_event in ('partner_removed', 'partner_added', 'partner_app_installed', 'partner_app_uninstalled',
            'account_offboarded', 'account_reconnected', 'account_deleted') then 'connection'
        when p_event = 'disabled_update' then 'ban'
        else p_event
    end;
end
$$;

-- Apply the account-level payloads of a batch.
create function private.inbox_accounts(p_payloads private.inbox_payload[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_events private.account_event[] := private.accounts_route(p_payloads);
    v_news private.account_event[];
begin
    perform private.template_event(t.tenant_id, t.account, t.at, t.subject, t.said)
    from (
        select distinct e.tenant_id, e.account, e.at, e.subject, e.said
        from unnest(v_events) e
        where e.subject like 'template\_%'
        order by e.tenant_id, e.at, e.subject, e.said
    ) as t;

    v_news := private.account_news_take(array(select e from unnest(v_events) e where e.subject not like 'template\_%'));
    perform private.number_limits_apply(v_events);
    perform private.number_quality_apply(e) from unnest(v_news) e where e.subject = 'number_quality';
    perform private.number_names_apply(e) from unnest(v_news) e where e.subject in ('number_name', 'number_username');
    perform private.account_state_apply(e) from unnest(v_news) e where e.subject = 'account';
    perform private.account_alerts_apply(e) from unnest(v_news) e where e.subject in ('alert', 'review', 'security');
end
$$;

-- How many customers a number may write to outside windows in 24 hours: two subjects tell, the last of them holds.
create function private.number_limits_apply(p_events private.account_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_news private.account_event[] := private.account_news_take(array(
        select (e.tenant_id, e.number_id, e.account, 'limit', e.subject, e.at,
            jsonb_build_object('limit', e.said -> 'limit'))::private.account_event
        from unnest(p_events) e
        where e.subject in ('number_quality', 'capability') and e.said ? 'limit'));
begin
    update public.whatsapp_numbers n set messaging_limit = (e.said ->> 'limit')::int
    from unnest(v_news) e
    where n.tenant_id = e.tenant_id and n.id = e.number_id
        and n.messaging_limit is distinct from (e.said ->> 'limit')::int;
end
$$;

-- Older webhooks tell the quality by an event; a change of it pauses bulk, or lets it go on (see
-- private.number_quality_changed).
create function private.number_quality_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_quality text := coalesce(upper(p_event.said ->> 'quality'), case p_event.said ->> 'event'
        when 'flagged' then 'RED' when 'downgrade' then 'RED' when 'unflagged' then 'GREEN' end);
begin
    update public.whatsapp_numbers set quality_rating = v_quality
    where tenant_id = p_event.tenant_id and id = p_event.number_id and quality_rating is distinct from v_quality
        and v_quality is not null;
end
$$;

-- The name that customers see, and the username.
create function private.number_names_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
begin
    if p_event.subject = 'number_username' then
        update public.whatsapp_numbers
        set username = case p_event.said ->> 'status' when 'approved' then p_event.said ->> 'username' end
        where tenant_id = p_event.tenant_id and id = p_event.number_id
            and p_event.said ->> 'status' in ('approved', 'deleted');
    elsif p_event.said ->> 'decision' = 'approved' then
        update public.whatsapp_numbers set display_name = left(p_event.said ->> 'name', 200)
        where tenant_id = p_event.tenant_id and id = p_event.number_id and btrim(p_event.said ->> 'name') <> '';
        perform private.alert_end(p_event.tenant_id, 'number_name_refused', p_event.number_id::text);
    elsif p_event.said ->> 'decision' = 'rejected' then
        perform private.alert_raise(p_event.tenant_id, 'number_name_refused', p_event.number_id::text,
            concat_ws(': ', 'The name of the number was refused', p_event.said ->> 'name', p_event.said ->> 'reason'),
            p_number_id => p_event.number_id);
    end if;
end
$$;

-- What an event of the account does to its numbers: stop (nothing can be sent), mend, rest (no bulk until it is over),
-- warn, or nothing.
create function private.account_effect(p_said jsonb) returns text
language plpgsql immutable set search_path = '' as $$
declare
    v_reason text := upper(coalesce(p_said ->> 'reason', ''));
begin
    return case p_said ->> 'event'
        when 'partner_removed' then 'stop'
        when 'partner_app_uninstalled' then 'stop'
        when 'account_offboarded' then 'stop'
        when 'account_deleted' then 'stop'
        when 'partner_added' then 'mend'
        when 'partner_app_installed' then 'mend'
        when 'account_reconnected' then 'mend'
        when 'disabled_update' then case
            when v_reason like '%REINSTATE%' then 'mend' when v_reason like '%SCHEDULE%' then 'warn' else 'stop' end
        when 'account_restriction' then case
            when v_reason like '%CUSTOMER_INITIATED%' then 'stop' when v_reason like '%BIZ_INITIATED%' then 'rest'
            else 'warn' end
        when 'account_violation' then 'warn'
    end;
end
$$;

create function private.account_state_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_effect text := private.account_effect(p_event.said);
    v_words text := format('The account: %s',
        concat_ws(', ', p_event.said ->> 'event', nullif(p_event.said ->> 'reason', '')));
    v_subject text := concat_ws(' ', p_event.topic, p_event.number_id);
begin
    if v_effect = 'stop' then
        perform private.channel_stop(p_event.tenant_id, p_event.number_id, v_words,
            jsonb_build_object('account_event', p_event.topic));
    elsif v_effect = 'rest' then
        perform private.bulk_pause(
            p_event.tenant_id, p_event.number_id, private.restriction_end(p_event), 'restricted', v_words);
    elsif v_effect = 'warn' then
        perform private.alert_raise(p_event.tenant_id, 'account_warning', v_subject, v_words,
            p_number_id => p_event.number_id);
    elsif v_effect = 'mend' then
        perform private.alert_end(p_event.tenant_id, 'account_warning', v_subject);
        perform private.channel_mend(a.tenant_id, a.number_id)
        from public.alerts a
        where a.tenant_id = p_event.tenant_id and a.kind = 'channel_stopped' and a.subject = p_event.number_id::text
            and a.resolved_at is null and a.details ->> 'account_event' = p_event.topic;
    end if;
end
$$;

-- A restriction says when it ends; where it does not, a day is taken.
create function private.restriction_end(p_event private.account_event) returns timestamptz
language plpgsql immutable set search_path = '' as $$
begin
    return coalesce(
        (
            select max(to_timestamp((r ->> 'expiration')::bigint))
            from jsonb_path_query(p_event.said, '$.details.restriction_info[*]') as r
            where r ->> 'expiration' ~ '^\d{9,11}$'),
        p_event.at + interval '24 hours');
end
$$;

create function private.account_alerts_apply(p_event private.account_event) returns void
language plpgsql set search_path = '' as $$
declare
    v_said jsonb := p_event.said;
    v_subject text := concat_ws(' ', p_event.topic, p_event.number_id);
    v_is_over boolean := coalesce(
        v_said ->> 'decision' = 'approved' or v_said ->> 'status' in ('none', 'resolved', 'inactive'), false);
begin
    if v_is_over then
        perform private.alert_end(p_event.tenant_id, 'account_warning', v_subject);
    else
        perform private.alert_raise(p_event.tenant_id, 'account_warning', v_subject,
            concat_ws(' ', p_event.subject, v_said ->> 'type', v_said ->> 'event', v_said ->> 'decision',
                v_said ->> 'message'),
            p_number_id => p_event.number_id,
            p_severity => case v_said ->> 'severity' when 'critical' then 'critical' when 'informational' then 'info'
                else 'warning' end);
    end if;
end
$$;

-- A provider reports that something is wrong with a number, and with no message of it.
create function private.inbox_problems(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.alert_raise(n.tenant_id, 'provider_problem', concat_ws(' ', n.number_id, n.said ->> 'code'),
        coalesce(n.said ->> 'message', 'The provider reports a problem.'), p_number_id => n.number_id)
    from unnest(private.account_news_take(array(
        select (e.tenant_id, e.number_id, null, concat_ws(' ', 'problem', e.body ->> 'code'), 'problem', e.at,
            jsonb_build_object('code', e.body -> 'code', 'message', e.body -> 'message'))::private.account_event
        from unnest(p_events) e))) n;
end
$$;

grant execute on function
    private.account_news_take(private.account_event[]), private.accounts_route(private.inbox_payload[]),
    private.account_topic(text), private.inbox_accounts(private.inbox_payload[]),
    private.number_limits_apply(private.account_event[]), private.number_quality_apply(private.account_event),
    private.number_names_apply(private.account_event), private.account_effect(jsonb),
    private.account_state_apply(private.account_event), private.restriction_end(private.account_event),
    private.account_alerts_apply(private.account_event), private.inbox_problems(private.inbox_event[])
    to service_role;
