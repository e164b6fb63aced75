-- Two leads that are one person become one: what they share is joined, what contradicts itself has a rule.

-- Point every row that refers to one row of p_table at another, in all tables but p_except. Where a table says a thing
-- once for each such row and both have it said, what the other says stands.
create function private.references_move(
    p_table regclass, p_tenant_id uuid, p_from uuid, p_to uuid, p_except regclass[] default '{}'
) returns void
language plpgsql set search_path = '' as $$
declare
    v_reference record;
begin
    for v_reference in
        select k.conrelid::regclass as referring, a.attname as name
        from pg_catalog.pg_constraint k
        cross join lateral unnest(k.conkey, k.confkey) as c (referring, referred)
        join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = c.referring
        join pg_catalog.pg_attribute r on r.attrelid = k.confrelid and r.attnum = c.referred
        where k.contype = 'f' and k.confrelid = p_table and r.attname = 'id' and k.conrelid <> all (p_except)
        order by 1, 2
    loop
        begin
            execute format('update %s set %I = $3 where tenant_id = $1 and %2$I = $2', v_reference.referring,
                v_reference.name)
            using p_tenant_id, p_from, p_to;
        exception
            when unique_violation then
                perform private.reference_move_each(
                    v_reference.referring, v_reference.name, p_tenant_id, p_from, p_to);
        end;
    end loop;
end
$$;

create function private.reference_move_each(
    p_referring regclass, p_column name, p_tenant_id uuid, p_from uuid, p_to uuid
) returns void
language plpgsql set search_path = '' as $$
declare
    v_row tid;
begin
    for v_row in execute format('select ctid from %s where tenant_id = $1 and %I = $2', p_referring, p_column)
        using p_tenant_id, p_from
    loop
        begin
            execute format('update %s set %I = $1 where ctid = $2', p_referring, p_column) using p_to, v_row;
        exception
            when unique_violation then
                execute format('delete from %s where ctid = $1', p_referring) using v_row;
        end;
    end loop;
end
$$;

-- One chat of two on the same number, both locked: the first stays, with the later window and everything that was in
-- the other.
create function private.chats_join(p_tenant_id uuid, p_chat_id uuid, p_other_id uuid) returns void
language plpgsql set search_path = '' as $$
declare
    v_chat public.chats;
    v_other public.chats;
    v_over uuid;
begin
    select * into v_chat from public.chats where tenant_id = p_tenant_id and id = p_chat_id;
    select * into v_other from public.chats where tenant_id = p_tenant_id and id = p_other_id;
    v_over := case when v_other.last_inbound_at > v_chat.last_inbound_at then p_chat_id else p_other_id end;

    perform private.conversations_finish(p_tenant_id, array(
        select id from public.conversations
        where tenant_id = p_tenant_id and chat_id = p_other_id and status = 'open'
            and exists (
                select from public.conversations
                where tenant_id = p_tenant_id and chat_id = p_chat_id and status = 'open')), 'silence');
    update public.messages set lead_id = v_chat.lead_id, chat_id = p_chat_id
    where tenant_id = p_tenant_id and lead_id = v_other.lead_id and chat_id = p_other_id;

    delete from public.pending_replies o
    using public.pending_replies r
    where r.tenant_id = p_tenant_id and r.chat_id = p_chat_id and o.tenant_id = p_tenant_id and o.chat_id = p_other_id;
    if found then
        -- whoever works on an answer has not seen the other half
        update public.pending_replies set fragments = fragments + 1
        where tenant_id = p_tenant_id and chat_id = p_chat_id;
    end if;
    update public.alerts a set subject = p_chat_id::text
    where a.tenant_id = p_tenant_id and a.subject = p_other_id::text and not exists (
        select from public.alerts b
        where b.tenant_id = p_tenant_id and b.kind = a.kind and b.subject = p_chat_id::text and b.resolved_at is null);
    -- what the customer did last tells whether they have blocked us
    perform private.blocks_clear(array[(p_tenant_id, v_over)::private.chat_ref], 'merged');
    delete from public.unreachable_chats where tenant_id = p_tenant_id and chat_id = v_over;
    perform private.enrollments_join(
        (p_tenant_id, p_chat_id)::private.chat_ref, (p_tenant_id, p_other_id)::private.chat_ref);
    -- a chat has one open thread
    update public.ai_threads set closed_at = private.clock()
    where tenant_id = p_tenant_id and chat_id = p_other_id and closed_at is null and exists (
        select from public.ai_threads t
        where t.tenant_id = p_tenant_id and t.chat_id = p_chat_id and t.closed_at is null);
    perform private.references_move('public.chats', p_tenant_id, p_other_id, p_chat_id);
    delete from public.chats where tenant_id = p_tenant_id and id = p_other_id;

    update public.chats
    set last_inbound_at = greatest(v_chat.last_inbound_at, v_other.last_inbound_at),
        last_outbound_at = greatest(v_chat.last_outbound_at, v_other.last_outbound_at),
        last_interaction_at = greatest(v_chat.last_interaction_at, v_other.last_interaction_at),
        window_expires_at = greatest(v_chat.window_expires_at, v_other.window_expires_at),
        free_entry_until = greatest(v_chat.free_entry_until, v_other.free_entry_until),
        free_entry_reply_by = greatest(v_chat.free_entry_reply_by, v_other.free_entry_reply_by),
        is_free_entry_confirmed = v_chat.is_free_entry_confirmed or v_other.is_free_entry_confirmed,
        news_since = least(v_chat.news_since, v_other.news_since),
        agent_paused_until = greatest(v_chat.agent_paused_until, v_other.agent_paused_until),
        referral = case when (v_other.referral_at, v_other.referral) > (v_chat.referral_at, v_chat.referral)
            or v_chat.referral_at is null then v_other.referral else v_chat.referral end,
        referral_at = greatest(v_chat.referral_at, v_other.referral_at),
        block_state = case when v_over = p_chat_id then v_other.block_state else v_chat.block_state end,
        reach_state = case when v_over = p_chat_id then v_other.reach_state else v_chat.reach_state end,
        thread_id = coalesce(v_chat.thread_id, v_other.thread_id),
        unread_count = v_chat.unread_count + v_other.unread_count
    where tenant_id = p_tenant_id and id = p_chat_id;
    perform private.conversations_regroup(p_tenant_id, p_chat_id, '-infinity');
    perform private.replies_cancel(array[(p_tenant_id, p_chat_id)::private.chat_ref]);
end
$$;

-- The chats of two leads, locked in the order of their ids: those on the same number are joined, the others change
-- hands, and their messages with them.
create function private.lead_chats_join(p_tenant_id uuid, p_lead_id uuid, p_other_id uuid) returns void
language plpgsql set search_path = '' as $$
declare
    v_pair record;
begin
    perform from public.chats
    where tenant_id = p_tenant_id and lead_id in (p_lead_id, p_other_id)
    order by id
    for update;
    for v_pair in
        select c.id, o.id as other_id
        from public.chats c
        join public.chats o on o.tenant_id = c.tenant_id and o.number_id = c.number_id and o.lead_id = p_other_id
        where c.tenant_id = p_tenant_id and c.lead_id = p_lead_id
        order by c.id
    loop
        perform private.chats_join(p_tenant_id, v_pair.id, v_pair.other_id);
    end loop;
    update public.chats set lead_id = p_lead_id where tenant_id = p_tenant_id and lead_id = p_other_id;
end
$$;

-- When a message of this lead last brought a name; see customer_leads.user_name.
create function private.last_named_at(p_tenant_id uuid, p_lead_id uuid) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
    return (
        select max(m.provider_at)
        from public.messages m
        where m.tenant_id = p_tenant_id and m.lead_id = p_lead_id and m.is_named);
end
$$;

-- What is written about the surviving lead. p_own: the one whose own details win where both have some.
create function private.lead_details_join(
    p_lead public.customer_leads, p_other public.customer_leads, p_own public.customer_leads
) returns void
language plpgsql set search_path = '' as $$
declare
    v_more public.customer_leads := case when p_own.id = p_lead.id then p_other else p_lead end;
    v_named public.customer_leads := case
        when p_own.name is not null and p_own.name_source is null and p_own.name is distinct from p_own.phone then p_own
        when v_more.name is not null and v_more.name_source is null and v_more.name is distinct from v_more.phone
            then v_more
        when private.takes_name(p_lead, p_other.named_at, case p_other.name_source when 'profile' then p_other.name end)
            or p_lead.name is null and p_other.name is not null
            or p_lead.name_source = 'contacts' and p_other.name_source = 'contacts' and p_other.named_at > p_lead.named_at
            then p_other
        else p_lead
    end;
begin
    update public.customer_leads
    set name = v_named.name, name_source = v_named.name_source, named_at = v_named.named_at,
        user_name = case
            when p_other.user_name is not null and coalesce(
                private.last_named_at(p_other.tenant_id, p_other.id)
                > private.last_named_at(p_lead.tenant_id, p_lead.id), p_lead.user_name is null)
                then p_other.user_name else p_lead.user_name end,
        phone = coalesce(p_lead.phone, p_other.phone), chat_id = coalesce(p_lead.chat_id, p_other.chat_id),
        label1 = coalesce(p_own.label1, v_more.label1), label2 = coalesce(p_own.label2, v_more.label2),
        label3 = coalesce(p_own.label3, v_more.label3), email = coalesce(p_own.email, v_more.email),
        company = coalesce(p_own.company, v_more.company),
        customer_type = coalesce(p_own.customer_type, v_more.customer_type),
        business_category = coalesce(p_own.business_category, v_more.business_category),
        tags = array(select tag from unnest(p_own.tags || v_more.tags) as t (tag) group by tag order by tag),
        lead_status = p_own.lead_status, lead_grade = p_own.lead_grade,
        qualification_score = greatest(p_own.qualification_score, v_more.qualification_score),
        assigned_to = coalesce(p_own.assigned_to, v_more.assigned_to),
        profile_status = coalesce(p_own.profile_status, v_more.profile_status),
        next_action = case when p_own.next_action_at is not null or v_more.next_action_at is null
            then coalesce(p_own.next_action, v_more.next_action) else v_more.next_action end,
        next_action_at = coalesce(p_own.next_action_at, v_more.next_action_at),
        priority = greatest(p_own.priority, v_more.priority),
        last_activity = greatest(p_own.last_activity, v_more.last_activity),
        thread_id = case when v_more.last_activity > p_own.last_activity then v_more.thread_id
            else coalesce(p_own.thread_id, v_more.thread_id) end,
        thread_token_count = p_own.thread_token_count + v_more.thread_token_count,
        -- the strictest refusal
        opt_out_scope = case when 'all' in (p_own.opt_out_scope, v_more.opt_out_scope) then 'all'
            else coalesce(p_own.opt_out_scope, v_more.opt_out_scope) end,
        opted_out_at = least(p_own.opted_out_at, v_more.opted_out_at),
        metadata = v_more.metadata || p_own.metadata,
        is_active = true
    where tenant_id = p_lead.tenant_id and id = p_lead.id;
end
$$;

-- Make one lead of two: p_lead stays and has everything, p_other is put away and says where it went. Rows that say a
-- thing once for each lead are joined first. p_own: whose details win; p_by: who decided it.
create function private.leads_join(p_lead public.customer_leads, p_other public.customer_leads, p_own uuid, p_by uuid)
returns void
language plpgsql set search_path = '' as $$
declare
    v_tenant_id uuid := p_lead.tenant_id;
begin
    perform private.lead_details_join(
        p_lead, p_other, case p_own when p_other.id then p_other else p_lead end);
    perform private.lead_chats_join(v_tenant_id, p_lead.id, p_other.id);

    insert into public.pending_activity as p (tenant_id, lead_id, last_activity_at, token_count, thread_id)
    select tenant_id, p_lead.id, last_activity_at, token_count, thread_id
    from public.pending_activity where tenant_id = v_tenant_id and lead_id = p_other.id
    on conflict on constraint pending_activity_pkey do update
    set last_activity_at = greatest(p.last_activity_at, excluded.last_activity_at),
        token_count = p.token_count + excluded.token_count, thread_id = coalesce(p.thread_id, excluded.thread_id);
    delete from public.pending_activity where tenant_id = v_tenant_id and lead_id = p_other.id;
    perform private.merge_candidates_join(v_tenant_id, p_lead.id, p_other.id, p_by);
    perform private.references_move(
        'public.customer_leads', v_tenant_id, p_other.id, p_lead.id, array['public.lead_merge_candidates'::regclass]);

    update public.customer_leads
    set is_active = false, merged_into = p_lead.id, merged_at = now(), merged_by = p_by
    where tenant_id = v_tenant_id and id = p_other.id;
    perform private.refusal_keep(p_lead, p_other);
end
$$;

-- What either of them refused stays refused, whatever the other said before. Where the statements of both do not add up
-- to that, it becomes a statement of its own: only what the customer says from now on takes it back.
create function private.refusal_keep(p_lead public.customer_leads, p_other public.customer_leads) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.consents_fold(array[p_lead.tenant_id], array[p_lead.id]);
    perform private.consents_record(array[(
        l.tenant_id, l.id, 'opt_out', s.scope, 'merge', null, private.clock())::private.consent])
    from (select min(scope) from unnest(array[p_lead.opt_out_scope, p_other.opt_out_scope]) as scope) as s (scope)
    join public.customer_leads l on l.tenant_id = p_lead.tenant_id and l.id = p_lead.id
    where s.scope is not null and coalesce(l.opt_out_scope > s.scope, true);  -- all comes before marketing
end
$$;

-- The pair is decided; whom else the second lead might have been, the first now may be.
create function private.merge_candidates_join(p_tenant_id uuid, p_lead_id uuid, p_other_id uuid, p_by uuid)
returns void
language plpgsql set search_path = '' as $$
begin
    with moved as (
        delete from public.lead_merge_candidates
        where tenant_id = p_tenant_id and p_other_id in (lead_id, other_lead_id)
            and p_lead_id not in (lead_id, other_lead_id)
        returning *, case lead_id when p_other_id then other_lead_id else lead_id end as third_id
    )
    insert into public.lead_merge_candidates (
        tenant_id, lead_id, other_lead_id, reason, evidence, status, created_at, resolved_at, resolved_by)
    select p_tenant_id, least(p_lead_id, third_id), greatest(p_lead_id, third_id), reason, evidence, status,
        created_at, resolved_at, resolved_by
    from moved
    on conflict on constraint lead_merge_candidates_pkey do nothing;
    update public.lead_merge_candidates
    set status = 'merged', resolved_at = now(), resolved_by = p_by
    where tenant_id = p_tenant_id and lead_id = least(p_lead_id, p_other_id)
        and other_lead_id = greatest(p_lead_id, p_other_id);
end
$$;

-- Two leads of the caller's business, locked, as what they have been merged into if they have; the earlier first.
create function private.leads_locked(p_tenant_id uuid, p_lead_id uuid, p_other_lead_id uuid)
returns public.customer_leads[]
language plpgsql set search_path = '' as $$
begin
    perform from public.lead_identities
    where tenant_id = p_tenant_id and lead_id in (p_lead_id, p_other_lead_id)
    order by kind, scope, value, valid_to
    for update;
    return array(
        select l
        from public.customer_leads l
        where l.tenant_id = p_tenant_id and l.id in (
            select coalesce(merged_into, id) from public.customer_leads
            where tenant_id = p_tenant_id and id in (p_lead_id, p_other_lead_id))
        order by l.id
        for update);
end
$$;

create function private.require_user() returns uuid
language plpgsql stable set search_path = '' as $$
begin
    if coalesce(private.my_role() not in ('admin', 'user'), true) then
        perform private.refuse('PT403', 'leads_role');
    end if;
    return private.my_tenant_id();
end
$$;
grant execute on function private.require_user() to authenticated;

-- Definer: staff may not write chats, messages and addresses.
create function private.lead_merge(p_lead_id uuid, p_other_lead_id uuid, p_keep uuid) returns public.customer_leads
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
    v_leads public.customer_leads[] := private.leads_locked(v_tenant_id, p_lead_id, p_other_lead_id);
    v_lead public.customer_leads;
begin
    if p_lead_id = p_other_lead_id then
        perform private.refuse('PT400', 'one_lead');
    elsif (select count(*) from public.customer_leads
            where tenant_id = v_tenant_id and id in (p_lead_id, p_other_lead_id)) < 2
    then
        perform private.refuse('PT404', 'no_two_leads');
    elsif p_keep not in (p_lead_id, p_other_lead_id) then
        perform private.refuse('PT400', 'merge_keep');
    end if;
    if cardinality(v_leads) = 2 then
        perform private.leads_join(v_leads[1], v_leads[2], p_keep, private.my_user_id());
    end if;
    select * into v_lead from public.customer_leads where tenant_id = v_tenant_id and id = (v_leads[1]).id;
    return v_lead;
end
$$;

-- Definer: staff may not write lead_merge_candidates.
create function private.lead_merge_dismiss(p_lead_id uuid, p_other_lead_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_user();
begin
    if p_lead_id = p_other_lead_id then
        perform private.refuse('PT400', 'one_lead');
    end if;
    update public.lead_merge_candidates
    set status = 'dismissed', resolved_at = now(), resolved_by = private.my_user_id()
    where tenant_id = v_tenant_id and status = 'open' and lead_id = least(p_lead_id, p_other_lead_id)
        and other_lead_id = greatest(p_lead_id, p_other_lead_id);
    if not found and not exists (
        select from public.lead_merge_candidates
        where tenant_id = v_tenant_id and lead_id = least(p_lead_id, p_other_lead_id)
            and other_lead_id = greatest(p_lead_id, p_other_lead_id)
    ) then
        perform private.refuse('PT404', 'no_merge_candidate');
    end if;
end
$$;
grant execute on function private.lead_merge(uuid, uuid, uuid), private.lead_merge_dismiss(uuid, uuid)
    to authenticated;

-- Two leads are the same person. Answers the one that stays: the earlier, with the addresses, chats and messages of
-- both, the later window, the strictest opt-out. p_keep: whose name, e-mail, labels … win where both have some; else
-- those of the one that stays. Said again, it changes nothing.
create function public.lead_merge(p_lead_id uuid, p_other_lead_id uuid, p_keep uuid default null)
returns public.customer_leads language sql set search_path = '' as $$
    select private.lead_merge(p_lead_id, p_other_lead_id, p_keep)
$$;

-- They are not; the pair will not be asked about again.
create function public.lead_merge_dismiss(p_lead_id uuid, p_other_lead_id uuid) returns void
language sql set search_path = '' as $$
    select private.lead_merge_dismiss(p_lead_id, p_other_lead_id)
$$;
grant execute on function public.lead_merge(uuid, uuid, uuid), public.lead_merge_dismiss(uuid, uuid) to authenticated;
