-- Sending by people: what staff ask for is checked whole, decided, and put into the outbox, or refused in plain words.

create type private.send_request as (
    chat_id uuid, lead_id uuid, number_id uuid, type text, content text, template_id uuid, parameters jsonb,
    media jsonb, reply_to text, send_at timestamptz, is_forced boolean, expected_cost numeric, currency text,
    idempotency_key text, reason text, pending_id uuid
);

-- The message as people see it, with what was decided about it.
create function private.message_shown(p_tenant_id uuid, p_message_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(m) - '{raw,request_hash}'::text[] || jsonb_build_object('decision', jsonb_build_object(
        'verdict', m.send_verdict, 'reason', m.send_reason, 'price_class', m.price_class,
        'estimated_cost', m.estimated_cost, 'currency', m.currency,
        'not_before', (
            select o.due_at from public.outbox o where o.tenant_id = m.tenant_id and o.message_id = m.id)))
    from public.messages m
    where m.tenant_id = p_tenant_id and m.id = p_message_id
$$;

-- The message that this key stands for already; null when it is new. Requests with the same key take turns.
create function private.message_of_key(p_tenant_id uuid, p_key text, p_hash text) returns uuid
language plpgsql set search_path = '' as $$
declare
    v_message record;
begin
    if p_key is null then
        return null;
    elsif length(p_key) not between 1 and 200 then
        perform private.refuse('PT400', 'idempotency_key');
    end if;
    perform pg_advisory_xact_lock(hashtextextended(format('messages.idempotency_key %s %s', p_tenant_id, p_key), 0));
    select m.id, m.request_hash into v_message
    from public.messages m
    where m.tenant_id = p_tenant_id and m.idempotency_key = p_key;
    if v_message.request_hash <> p_hash then
        perform private.refuse(
            'PT409', 'idempotency_conflict', p_details => jsonb_build_object('message_id', v_message.id));
    end if;
    return v_message.id;
end
$$;

-- The chat to write into, locked; a lead without one on that number gets it.
create function private.send_chat(p_tenant_id uuid, p_request private.send_request) returns public.chats
language plpgsql set search_path = '' as $$
declare
    v_chat public.chats;
begin
    if p_request.chat_id is null then
        insert into public.chats (tenant_id, number_id, lead_id, last_interaction_at)
        select p_tenant_id, n.id, l.id, (select private.clock())
        from public.whatsapp_numbers n
        join public.customer_leads l on l.tenant_id = n.tenant_id
        where n.tenant_id = p_tenant_id and n.id = p_request.number_id and l.id = p_request.lead_id
        on conflict on constraint chats_tenant_id_number_id_lead_id_key do nothing;
    end if;
    select * into v_chat
    from public.chats c
    where c.tenant_id = p_tenant_id
        and case when p_request.chat_id is null
            then c.number_id = p_request.number_id and c.lead_id = p_request.lead_id
            else c.id = p_request.chat_id and c.number_id = coalesce(p_request.number_id, c.number_id)
                and c.lead_id = coalesce(p_request.lead_id, c.lead_id) end
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_chat');
    end if;
    return v_chat;
end
$$;

-- What each type is made of: {"content", "data", "template_id"}. Whatever cannot be sent is refused here.

create function private.compose_text(p_number public.whatsapp_numbers, p_request private.send_request) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_longest int := case p_number.provider when 'twilio' then 1600 else 4096 end;
begin
    if private.is_blank(p_request.content) then
        perform private.refuse('PT400', 'empty');
    elsif length(p_request.content) > v_longest then
        perform private.refuse('PT400', 'too_long',
            jsonb_build_object('length', length(p_request.content), 'longest', v_longest),
            jsonb_build_object('longest', v_longest));
    end if;
    return jsonb_build_object('content', p_request.content);
end
$$;

create function private.compose_template(p_number public.whatsapp_numbers, p_request private.send_request)
returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_template public.message_templates;
    v_filled jsonb;
begin
    if p_number.provider = 'whapi' then
        perform private.refuse('PT409', 'templates_unsupported');
    end if;
    select * into v_template
    from public.message_templates t
    where t.tenant_id = p_number.tenant_id and t.id = p_request.template_id;
    if not found then
        perform private.refuse('PT404', 'no_template');
    elsif (v_template.provider, v_template.waba_id) is distinct from (p_number.provider,
        case p_number.provider when 'twilio' then p_number.account_id else p_number.waba_id end)
    then
        perform private.refuse('PT409', 'template_of_other_account',
            jsonb_build_object('name', v_template.name, 'number', p_number.display_name));
    end if;
    v_filled := private.template_message(v_template, p_request.parameters);
    if v_filled ? 'reason' then
        perform private.refuse_as(case v_filled ->> 'reason' when 'template_parameters' then 'PT400' else 'PT409' end,
            v_filled ->> 'reason', v_filled ->> 'message', v_filled ->> 'hint');
    end if;
    return jsonb_build_object('content', v_filled -> 'text', 'template_id', v_template.id,
        'data', private.template_data(v_template, v_filled, p_request.parameters));
end
$$;

-- p_media: {"link"} or {"id"}, with filename, mime and size where known; or {"media_id"} of a file of ours.
create function private.compose_media(p_number public.whatsapp_numbers, p_request private.send_request)
returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_label text := private.phrase('label', p_request.type);
    v_media jsonb := case when p_request.media ->> 'media_id' is not null
        then private.media_reference(p_number, p_request) else p_request.media end;
    v_fault text := coalesce(
        private.media_fault(v_label, p_request.type, v_media),
        private.phrase('fault', case
            when p_number.provider = 'twilio' and v_media ->> 'link' is null then 'file_twilio_link'
            when p_request.content is not null and p_request.type in ('audio', 'sticker') then 'file_no_text'
            when p_number.provider = 'twilio' and p_request.content <> '' and p_request.type <> 'image'
                then 'file_twilio_text'
            when length(p_request.content) > 1024 then 'file_text_long'
        end, jsonb_build_object('label', v_label, 'length', length(p_request.content))));
begin
    if v_fault is not null then
        perform private.refuse('PT400', 'media',
            jsonb_build_object('fault', upper(left(v_fault, 1)) || substr(v_fault, 2)));
    end if;
    return jsonb_build_object('content', p_request.content, 'data',
        jsonb_build_object('media', v_media - '{filename,mime,size}'::text[])
        || jsonb_strip_nulls(jsonb_build_object('filename', v_media -> 'filename', 'mime', v_media -> 'mime')));
end
$$;

-- A file that was sent or received before, as the provider knows it: as long as it is kept there, on the number it
-- came to. What was asked for besides a file name stays, to be refused.
create function private.media_reference(p_number public.whatsapp_numbers, p_request private.send_request)
returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_file jsonb;
begin
    select jsonb_build_object('id', f.provider_media_id, 'mime', f.mime, 'size', f.size, 'filename',
        case when p_request.type = 'document' then f.filename end)
    into v_file
    from public.media f
    join public.messages m on m.tenant_id = f.tenant_id and m.id = f.message_id
    where f.tenant_id = p_number.tenant_id and f.id::text = lower(p_request.media ->> 'media_id')
        and m.number_id = p_number.id and f.provider_media_id is not null
        and coalesce(f.expires_at, m.provider_at + interval '7 days')
            > greatest((select private.clock()), p_request.send_at);
    if not found then
        perform private.refuse('PT409', 'media_gone');
    end if;
    return jsonb_strip_nulls(v_file) || (p_request.media - 'media_id');
end
$$;

-- What belongs to another type than the one asked for.
create function private.send_misfits(p_request private.send_request) returns text
language sql immutable set search_path = '' as $$
    select concat_ws(', ',
        case when p_request.type <> 'template' and p_request.template_id is not null then 'p_template_id' end,
        case when p_request.type <> 'template' and p_request.parameters is not null then 'p_parameters' end,
        case when p_request.type in ('text', 'template') and p_request.media is not null then 'p_media' end,
        case when p_request.type = 'template' and p_request.content is not null then 'p_content' end)
$$;

-- The provider's id of the message that is quoted; p_reply_to is that id, or ours.
create function private.send_quote(p_chat public.chats, p_reply_to text) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_quoted public.messages;
begin
    if p_reply_to is null then
        return null;
    elsif p_reply_to ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        select * into v_quoted from public.messages m
        where m.tenant_id = p_chat.tenant_id and m.id = p_reply_to::uuid and m.chat_id = p_chat.id;
    else
        select * into v_quoted from public.messages m
        where m.tenant_id = p_chat.tenant_id and m.number_id = p_chat.number_id and m.wa_message_id = p_reply_to
            and m.chat_id = p_chat.id;
    end if;
    if v_quoted.id is null then
        perform private.refuse('PT404', 'no_quoted_message');
    elsif v_quoted.wa_message_id is null then
        perform private.refuse('PT409', 'quote_not_sent');
    end if;
    return v_quoted.wa_message_id;
end
$$;

-- A moment that a person or their program wrote: 2026-11-21T15:30, by the caller's own clock unless it has an offset.
create function private.moment_read(p_written text) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_zone text;
begin
    if p_written is null then
        return null;
    elsif p_written !~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?( ?(Z|[+-]\d\d(:?\d\d)?))?$' then
        perform private.refuse('PT400', 'moment');
    elsif p_written ~ ':.*[Z+-]' then
        return p_written::timestamptz;
    end if;
    select u.timezone into v_zone from public.users u where u.id = private.my_user_id();
    return p_written::timestamp at time zone v_zone;
exception
    when datetime_field_overflow or invalid_datetime_format or invalid_parameter_value then
        perform private.refuse('PT400', 'moment');
        return null;
end
$$;

-- The moment to send at by the business clock; what has passed is now: null.
create function private.send_time(p_send_at timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if p_send_at > v_now + interval '1 year' then
        perform private.refuse('PT400', 'send_at');
    end if;
    return case when p_send_at > v_now then p_send_at end;
end
$$;

create function private.send_compose(p_chat public.chats, p_request private.send_request) returns private.outgoing
language plpgsql stable set search_path = '' as $$
declare
    v_number public.whatsapp_numbers;
    v_misfits text := private.send_misfits(p_request);
    v_made jsonb;
begin
    if v_misfits <> '' then
        perform private.refuse('PT400', 'misfit', jsonb_build_object('type', p_request.type, 'arguments', v_misfits));
    elsif private.chat_address(p_chat.tenant_id, p_chat.id) is null then
        perform private.refuse('PT409', 'no_address');
    end if;
    select * into v_number from public.whatsapp_numbers n where n.tenant_id = p_chat.tenant_id and n.id = p_chat.number_id;
    v_made := case
        when p_request.type = 'text' then private.compose_text(v_number, p_request)
        when p_request.type = 'template' then private.compose_template(v_number, p_request)
        when p_request.type in ('image', 'audio', 'video', 'document', 'sticker')
            then private.compose_media(v_number, p_request)
    end;
    if v_made is null then
        perform private.refuse('PT400', 'type', jsonb_build_object('type', p_request.type));
    end if;
    return private.outgoing(p_chat.tenant_id, p_chat.id, 'staff', 'staff', 'human', v_made ->> 'content',
        p_request.type, p_data => v_made -> 'data', p_send_at => private.send_time(p_request.send_at),
        p_author_id => private.my_user_id(), p_template_id => (v_made ->> 'template_id')::uuid,
        p_reply_to => private.send_quote(p_chat, p_request.reply_to));
end
$$;

-- The decision, and what a refusal of it says.

-- The decision about a message of staff. One that is to go out when its window will be closed needs a template.
create function private.send_decide(p_message private.outgoing, p_is_forced boolean) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_decision jsonb;
begin
    select to_jsonb(d) - 'ref' into v_decision
    from private.send_decisions(array[(private.uuid7(), p_message.tenant_id, p_message.chat_id, 'staff',
        p_message.type = 'template', p_message.data ->> 'category', p_message.template_id,
        p_is_forced)::private.send_candidate]) d;
    if v_decision ->> 'verdict' = 'send' and p_message.type <> 'template' and not p_is_forced and exists (
        select from public.chats c
        join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
        where c.tenant_id = p_message.tenant_id and c.id = p_message.chat_id and n.provider <> 'whapi'
            and c.window_expires_at <= p_message.send_at
    ) then
        v_decision := v_decision || '{"verdict": "template", "reason": "window_will_be_closed"}';
    end if;
    return v_decision;
end
$$;

-- Refuse what was decided against, in the words of send_preview(): the caller's language, and by their clock.
-- p_can_force: a person may overrule it.
create function private.send_forbid(p_chat public.chats, p_decision jsonb, p_can_force boolean) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_reader public.users;
begin
    select * into v_reader from public.users where id = private.my_user_id();
    perform private.refuse_as('PT409', p_decision ->> 'reason',
        private.send_sentence(p_chat, p_decision, p_can_force, v_reader) || '.',
        coalesce(nullif(concat_ws(' ',
            case when p_decision ->> 'verdict' = 'template' or p_decision ->> 'reason' like 'template\_%'
                then private.phrase('hint', 'choose_template') else private.phrase('hint', p_decision ->> 'reason') end,
            case when p_can_force then private.phrase('hint', 'force') end), ''), private.phrase('hint', 'nothing')),
        p_decision || jsonb_build_object('window_expires_at', p_chat.window_expires_at, 'can_force', p_can_force));
end
$$;

-- The cost of a decision as the reader is told it: USD 0.0125, or that nobody knows it.
create function private.cost_words(p_decision jsonb) returns text
language plpgsql stable set search_path = '' as $$
begin
    return case when p_decision ->> 'estimated_cost' is null then private.phrase('label', 'cost_unknown')
        else (p_decision ->> 'currency') || ' ' || trim_scale((p_decision ->> 'estimated_cost')::numeric)
            || case p_decision ->> 'is_verified' when 'false' then private.phrase('label', 'cost_unverified') else '' end end;
end
$$;

-- Who forces a message agrees to its cost as they were shown it; it may have changed since.
create function private.send_consent(p_request private.send_request, p_decision jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_cost numeric := round((p_decision ->> 'estimated_cost')::numeric, 6);
    v_words jsonb := jsonb_build_object('cost', private.cost_words(p_decision),
        'shown', p_request.currency || ' ' || trim_scale(p_request.expected_cost));
begin
    if round(p_request.expected_cost, 6) = v_cost and upper(p_request.currency) = p_decision ->> 'currency'
        or v_cost is null and p_request.expected_cost is null
    then
        return;
    elsif p_request.expected_cost is null or p_request.currency is null then
        perform private.refuse('PT400', 'cost_not_shown', v_words, p_decision);
    end if;
    perform private.refuse('PT409', 'cost_changed', v_words, p_decision);
end
$$;

-- The decision that lets this message out, {"is_forced": true} when it took force; or a refusal.
create function private.send_permit(
    p_chat public.chats, p_message private.outgoing, p_request private.send_request
) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_decision jsonb := private.send_decide(p_message, false);
    v_forced jsonb;
begin
    if v_decision ->> 'verdict' not in ('send', 'wait') then
        v_forced := private.send_decide(p_message, true) || '{"is_forced": true}';
        if v_forced ->> 'verdict' not in ('send', 'wait') or not coalesce(p_request.is_forced, false) then
            perform private.send_forbid(p_chat, v_decision, v_forced ->> 'verdict' in ('send', 'wait'));
        end if;
        v_decision := v_forced;
    end if;
    if p_request.is_forced then
        perform private.send_consent(p_request, v_decision);
    end if;
    return v_decision;
end
$$;

-- What was decided stays with the message; the outbox asks again when it goes out.
create function private.message_decided(p_tenant_id uuid, p_message_id uuid, p_decision jsonb) returns void
language sql set search_path = '' as $$
    update public.messages
    set send_verdict = p_decision ->> 'verdict', send_reason = p_decision ->> 'reason',
        price_class = p_decision ->> 'price_class', estimated_cost = (p_decision ->> 'estimated_cost')::numeric,
        currency = p_decision ->> 'currency'
    where tenant_id = p_tenant_id and id = p_message_id
$$;

-- A person writes: the chat has a session, and the agent is silent for a while.
create function private.staff_takes_over(p_tenant_id uuid, p_chat_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.conversations (tenant_id, chat_id, opened_at)
    values (p_tenant_id, p_chat_id, private.clock())
    on conflict (tenant_id, chat_id) where status = 'open' do nothing;
    update public.chats c
    set agent_paused_until = greatest(
        c.agent_paused_until, (select private.clock()) + make_interval(mins => s.human_takeover_minutes))
    from public.tenant_settings s
    where c.tenant_id = p_tenant_id and c.id = p_chat_id and s.tenant_id = c.tenant_id;
end
$$;

-- Definer: staff may not write messages, outbox or chats; tenant from require_staff.
create function private.message_send(p_request private.send_request) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_hash text := encode(sha256(convert_to((to_jsonb(p_request) - 'idempotency_key')::text, 'utf8')), 'hex');
    v_id uuid := private.message_of_key(v_tenant_id, p_request.idempotency_key, v_hash);
    v_chat public.chats;
    v_message private.outgoing;
    v_decision jsonb;
begin
    if v_id is not null then
        return private.message_shown(v_tenant_id, v_id);
    end if;
    v_chat := private.send_chat(v_tenant_id, p_request);
    if length(p_request.reason) > 500 then
        perform private.refuse('PT400', 'force_reason');
    elsif p_request.pending_id is not null and not exists (
        select from public.pending_manual p
        where p.tenant_id = v_tenant_id and p.id = p_request.pending_id and p.chat_id = v_chat.id and p.status = 'open'
    ) then
        perform private.refuse('PT404', 'no_pending_manual');
    end if;
    v_message := private.send_compose(v_chat, p_request);
    v_decision := private.send_permit(v_chat, v_message, p_request);
    if v_decision ? 'is_forced' then
        v_message.forced_by := private.my_user_id();
    end if;

    if v_message.send_at is null then
        perform private.staff_takes_over(v_tenant_id, v_chat.id);
    end if;
    v_id := (private.outbox_enqueue(array[v_message]))[1];
    update public.messages m
    set idempotency_key = p_request.idempotency_key,
        request_hash = case when p_request.idempotency_key is not null then v_hash end,
        scheduled_at = v_message.send_at,
        consented_cost = case when v_decision ? 'is_forced' then p_request.expected_cost end,
        forced_reason = case when v_decision ? 'is_forced' then nullif(btrim(p_request.reason), '') end
    where m.tenant_id = v_tenant_id and m.id = v_id;
    perform private.message_decided(v_tenant_id, v_id, v_decision);
    perform private.manual_send_note(
        v_tenant_id, v_chat.id, v_id, v_message.content, private.my_user_id(), p_request.pending_id);
    return private.message_shown(v_tenant_id, v_id);
end
$$;

-- A message of ours on its way or not, with its chat locked.
create function private.message_locked(p_tenant_id uuid, p_message_id uuid) returns public.messages
language plpgsql set search_path = '' as $$
declare
    v_message public.messages;
begin
    perform from public.chats c
    where c.tenant_id = p_tenant_id and c.id = (
        select m.chat_id from public.messages m where m.tenant_id = p_tenant_id and m.id = p_message_id)
    for no key update;
    select * into v_message from public.messages m where m.tenant_id = p_tenant_id and m.id = p_message_id;
    if not found then
        perform private.refuse('PT404', 'no_message');
    elsif v_message.direction = 'inbound' then
        perform private.refuse('PT409', 'received');
    end if;
    return v_message;
end
$$;

-- {"state": how it stands with a message, in the caller's words}; what is still queued here is in a worker's hands.
create function private.message_state(p_message public.messages) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return jsonb_build_object('state', private.phrase('label', 'message_' || p_message.status));
end
$$;

create function private.message_cancel(p_message_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_message public.messages := private.message_locked(private.require_staff(), p_message_id);
begin
    if cardinality(private.outbox_cancel(v_message.tenant_id, array[p_message_id])) = 0 then
        perform private.refuse('PT409', 'not_queued', private.message_state(v_message),
            jsonb_build_object('status', v_message.status));
    end if;
    perform private.pending_reopen(v_message.tenant_id, p_message_id);
    return private.message_shown(v_message.tenant_id, p_message_id);
end
$$;

-- Once more, as it was written, under the rules that hold now. p_force: a person has compared a message whose fate
-- nobody knows with the phone, and says that it did not arrive.
create function private.message_retry(p_message_id uuid, p_force boolean) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_message public.messages := private.message_locked(private.require_staff(), p_message_id);
    v_chat public.chats;
    v_template public.message_templates;
    v_decision jsonb;
begin
    if v_message.status not in ('failed', 'skipped', 'canceled', 'unknown') then
        perform private.refuse('PT409', 'not_failed', private.message_state(v_message),
            jsonb_build_object('status', v_message.status));
    elsif v_message.status = 'unknown' and not coalesce(p_force, false) then
        perform private.refuse('PT409', 'unknown');
    end if;
    select * into v_template from public.message_templates t
    where t.tenant_id = v_message.tenant_id and t.id = v_message.template_id;
    if private.template_obstacle(v_template) is not null and v_template.id is not null then
        perform private.refuse_as('PT409', 'template_' || v_template.status, private.template_obstacle(v_template),
            private.phrase('hint', 'template_status'));
    end if;
    select * into v_chat from public.chats c where c.tenant_id = v_message.tenant_id and c.id = v_message.chat_id;
    v_decision := private.send_decide(private.outgoing(v_message.tenant_id, v_message.chat_id, 'staff',
        v_message.source, v_message.role, v_message.content, v_message.type, v_message.data,
        p_template_id => v_message.template_id), v_message.forced_by is not null);
    if v_decision ->> 'verdict' not in ('send', 'wait') then
        perform private.send_forbid(v_chat, v_decision, false);
    end if;
    perform private.staff_takes_over(v_message.tenant_id, v_message.chat_id);
    perform private.outbox_requeue(v_message.tenant_id, array[p_message_id]);
    update public.messages set scheduled_at = null where tenant_id = v_message.tenant_id and id = p_message_id
        and scheduled_at is not null;
    perform private.message_decided(v_message.tenant_id, p_message_id, v_decision);
    perform private.failures_over(
        array[(v_message.tenant_id, v_message.chat_id)::private.chat_ref], private.my_user_id());
    return private.message_shown(v_message.tenant_id, p_message_id);
end
$$;
grant execute on function private.message_send(private.send_request), private.message_cancel(uuid),
    private.message_retry(uuid, boolean), private.moment_read(text) to authenticated;

-- What staff call. Each answers with the message as it is then, and its `decision`; a refusal stores nothing.

-- p_type text: p_content. template: p_template_id, p_parameters (see 22_templates.sql). image, audio, video, document,
-- sticker: p_media {"link" | "id" | "media_id", "filename", "mime", "size"}, with p_content as its text. To p_chat_id,
-- or to p_lead_id on p_number_id. p_send_at (ISO 8601, without an offset by the caller's clock) schedules it. p_force,
-- with the cost that was shown, overrules what a person may overrule; p_reason: why, in their words. p_idempotency_key:
-- asking again with the same key answers with the same message. p_pending_id: the entry of pending_manual that is done
-- with it; without one, an entry or a step of the chat that says much the same.
create function public.message_send(
    p_chat_id uuid default null, p_type text default 'text', p_content text default null,
    p_template_id uuid default null, p_parameters jsonb default null, p_media jsonb default null,
    p_reply_to text default null, p_send_at text default null, p_force boolean default false,
    p_expected_cost numeric default null, p_currency text default null, p_idempotency_key text default null,
    p_lead_id uuid default null, p_number_id uuid default null, p_reason text default null,
    p_pending_id uuid default null
) returns jsonb
language sql set search_path = '' as $$
    select private.message_send((p_chat_id, p_lead_id, p_number_id, p_type, p_content, p_template_id, p_parameters,
        p_media, p_reply_to, private.moment_read(p_send_at), p_force, p_expected_cost, p_currency, p_idempotency_key,
        p_reason, p_pending_id)::private.send_request)
$$;

create function public.message_cancel(p_message_id uuid) returns jsonb
language sql set search_path = '' as $$
    select private.message_cancel(p_message_id)
$$;

create function public.message_retry(p_message_id uuid, p_force boolean default false) returns jsonb
language sql set search_path = '' as $$
    select private.message_retry(p_message_id, p_force)
$$;
grant execute on function
    public.message_send(
        uuid, text, text, uuid, jsonb, jsonb, text, text, boolean, numeric, text, text, uuid, uuid, text, uuid),
    public.message_cancel(uuid), public.message_retry(uuid, boolean)
    to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'idempotency_key', 'La clave de idempotencia está vacía o es demasiado larga.',
        'The idempotency key is empty or too long.', 'A chave de idempotência está vazia ou é longa demais.'),
    ('hint', 'idempotency_key', 'Use de 1 a 200 caracteres, nuevos en cada mensaje: un uuid.',
        'Use 1 to 200 characters, new for each message: a uuid.',
        'Use de 1 a 200 caracteres, novos em cada mensagem: um uuid.'),
    ('refusal', 'idempotency_conflict', 'Con esta clave de idempotencia ya se envió otro mensaje.',
        'Another message was sent with this idempotency key.',
        'Com esta chave de idempotência já se enviou outra mensagem.'),
    ('hint', 'idempotency_conflict', 'Use una clave nueva para cada mensaje.', 'Use a new key for each message.',
        'Use uma chave nova para cada mensagem.'),
    ('refusal', 'empty', 'El mensaje no tiene texto.', 'The message has no text.', 'A mensagem não tem texto.'),
    ('hint', 'empty', 'Escríbalo en p_content.', 'Give it in p_content.', 'Escreva-o em p_content.'),
    ('refusal', 'too_long', 'El texto es demasiado largo: {length} caracteres, como mucho {longest}.',
        'The text is too long: {length} characters, at most {longest}.',
        'O texto é longo demais: {length} caracteres, no máximo {longest}.'),
    ('hint', 'too_long', 'Envíelo en partes.', 'Send it in parts.', 'Envie-o em partes.'),
    ('refusal', 'templates_unsupported', 'Los números de Whapi no tienen plantillas.',
        'Numbers of Whapi have no templates.', 'Os números da Whapi não têm modelos.'),
    ('hint', 'templates_unsupported', 'Escriba un texto: se puede enviar en cualquier momento.',
        'Write a text: it may be sent at any time.', 'Escreva um texto: pode ser enviado a qualquer momento.'),
    ('refusal', 'no_template', 'No hay tal plantilla.', 'There is no such template.', 'Não há tal modelo.'),
    ('hint', 'no_template', 'Tome su id de message_templates.', 'Read its id from message_templates.',
        'Leia o seu id em message_templates.'),
    ('refusal', 'template_of_other_account', 'La plantilla {name} es de otra cuenta de WhatsApp que {number}.',
        'The template {name} belongs to another WhatsApp account than {number}.',
        'O modelo {name} é de outra conta do WhatsApp que {number}.'),
    ('hint', 'template_of_other_account', 'Elija una de la misma cuenta (waba_id) que el número.',
        'Choose one whose waba_id is that of the number.', 'Escolha um da mesma conta (waba_id) que o número.'),
    ('refusal', 'media', '{fault}.', '{fault}.', '{fault}.'),
    ('hint', 'media', 'p_media indica el archivo; su texto, si lo tiene, va en p_content.',
        'p_media names the file; its text, if it has one, is p_content.',
        'p_media indica o arquivo; o seu texto, se o tiver, vai em p_content.'),
    ('refusal', 'media_gone', 'WhatsApp ya no tiene este archivo, o no para este número, o no lo tendrá a esa hora.',
        'WhatsApp has this file no more, or not for this number, or will not have it by then.',
        'O WhatsApp já não tem este arquivo, ou não para este número, ou não o terá a essa hora.'),
    ('hint', 'media_gone',
        'Un archivo se puede reenviar mientras el proveedor lo guarda, desde el número al que llegó. Use un enlace.',
        'A file can be sent on while its provider keeps it, from the number it came to. Give a link to it instead.',
        'Um arquivo pode ser reenviado enquanto o provedor o guarda, do número ao qual chegou. Use um link.'),
    ('refusal', 'no_quoted_message', 'El mensaje que se cita no está en este chat.',
        'The message to be quoted is not in this chat.', 'A mensagem citada não está neste chat.'),
    ('hint', 'no_quoted_message', 'p_reply_to es id o wa_message_id de un mensaje del mismo chat.',
        'p_reply_to is id or wa_message_id of a message of the same chat.',
        'p_reply_to é id ou wa_message_id de uma mensagem do mesmo chat.'),
    ('refusal', 'quote_not_sent', 'El mensaje que se cita todavía no se ha enviado.',
        'The message to be quoted has not been sent yet.', 'A mensagem citada ainda não foi enviada.'),
    ('hint', 'quote_not_sent', 'Espere a que se envíe.', 'Wait until it is sent.', 'Espere que seja enviada.'),
    ('refusal', 'moment', 'Esto no es una fecha con hora.', 'This is no date with a time.',
        'Isto não é uma data com hora.'),
    ('hint', 'moment', 'Escríbala como 2026-11-21T15:30, con desfase (-05:00) si no es la de su reloj.',
        'Write it as 2026-11-21T15:30, with an offset (-05:00) unless it is by your own clock.',
        'Escreva-a como 2026-11-21T15:30, com desvio (-05:00) se não for a do seu relógio.'),
    ('refusal', 'send_at', 'Un mensaje se puede programar como mucho con un año de antelación.',
        'A message can be scheduled for one year ahead at most.',
        'Uma mensagem pode ser agendada com um ano de antecedência no máximo.'),
    ('hint', 'send_at', 'Elija un p_send_at anterior.', 'Choose an earlier p_send_at.',
        'Escolha um p_send_at anterior.'),
    ('refusal', 'misfit', 'Un mensaje de tipo {type} no lleva {arguments}.',
        'A message of type {type} takes no {arguments}.',
        'Uma mensagem do tipo {type} não leva {arguments}.'),
    ('hint', 'misfit', 'Quítelo o elija otro p_type.', 'Leave it out, or choose another p_type.',
        'Retire-o ou escolha outro p_type.'),
    ('refusal', 'no_address', 'Este cliente no tiene dirección en WhatsApp.',
        'This customer has no address on WhatsApp.',
        'Este cliente não tem endereço no WhatsApp.'),
    ('hint', 'no_address', 'Primero debe escribirle a usted.', 'They must write to you first.',
        'Primeiro ele deve escrever-lhe.'),
    ('refusal', 'type', 'No existe el tipo de mensaje «{type}».', 'There is no type "{type}" of message.',
        'Não existe o tipo de mensagem «{type}».'),
    ('hint', 'type', 'Elija text, template, image, audio, video, document o sticker.',
        'Choose text, template, image, audio, video, document or sticker.',
        'Escolha text, template, image, audio, video, document ou sticker.'),
    ('refusal', 'force_reason', 'El motivo es demasiado largo: como mucho 500 caracteres.',
        'The reason is too long: at most 500 characters.', 'O motivo é longo demais: no máximo 500 caracteres.'),
    ('hint', 'force_reason', 'Resúmalo en p_reason.', 'Sum it up in p_reason.', 'Resuma-o em p_reason.'),
    ('label', 'cost_unknown', 'desconocido', 'not known', 'desconhecido'),
    ('label', 'cost_unverified', ' (tarifa sin verificar)', ' (unverified rate)', ' (tarifa não verificada)'),
    ('refusal', 'cost_not_shown', 'Quien fuerza un mensaje debe haber visto su costo estimado: {cost}.',
        'Who forces a message must have seen its estimated cost: {cost}.',
        'Quem força uma mensagem deve ter visto o seu custo estimado: {cost}.'),
    ('hint', 'cost_not_shown', 'Muéstrelo y envíelo en p_expected_cost y p_currency.',
        'Show it, then send it along as p_expected_cost and p_currency.',
        'Mostre-o e envie-o em p_expected_cost e p_currency.'),
    ('refusal', 'cost_changed', 'El costo estimado es ahora {cost}, ya no {shown}.',
        'The estimated cost is now {cost}, no longer {shown}.', 'O custo estimado agora é {cost}, já não {shown}.'),
    ('hint', 'cost_changed', 'Muestre el nuevo y envíe otra vez con él.', 'Show the new one, and send again with it.',
        'Mostre o novo e envie de novo com ele.'),
    ('refusal', 'no_message', 'No hay tal mensaje.', 'There is no such message.', 'Não há tal mensagem.'),
    ('hint', 'no_message', 'Tome su id de messages_list().', 'Read its id from messages_list().',
        'Leia o seu id em messages_list().'),
    ('refusal', 'received', 'Este mensaje lo escribió el cliente.', 'The customer wrote this message.',
        'Esta mensagem foi escrita pelo cliente.'),
    ('hint', 'received', 'Solo los suyos se pueden cancelar o enviar otra vez.',
        'Only your own can be canceled or sent again.', 'Só as suas podem ser canceladas ou enviadas de novo.'),
    ('refusal', 'not_queued', 'Este mensaje no se puede cancelar: {state}.',
        'This message cannot be canceled: {state}.',
        'Esta mensagem não pode ser cancelada: {state}.'),
    ('hint', 'not_queued', 'Solo se puede cancelar lo que espera.', 'Only what waits can be canceled.',
        'Só se pode cancelar o que espera.'),
    ('refusal', 'not_failed', 'No hay nada que repetir: {state}.', 'There is nothing to repeat: {state}.',
        'Não há nada para repetir: {state}.'),
    ('hint', 'not_failed', 'Solo se puede enviar otra vez lo que falló, se omitió o se canceló.',
        'Only what failed, was skipped or canceled can be sent again.',
        'Só se pode enviar de novo o que falhou, foi omitido ou cancelado.'),
    ('refusal', 'unknown', 'Nadie sabe si este mensaje se envió.', 'Nobody knows whether this message was sent.',
        'Ninguém sabe se esta mensagem foi enviada.'),
    ('hint', 'unknown', 'Compare con el teléfono; si no llegó, repítalo con p_force.',
        'Compare with the phone; if it did not arrive, repeat it with p_force.',
        'Compare com o telefone; se não chegou, repita-a com p_force.'),
    ('label', 'message_queued', 'espera o se está enviando', 'it waits or is being sent',
        'espera ou está a ser enviada'),
    ('label', 'message_sending', 'se está enviando', 'it is being sent', 'está a ser enviada'),
    ('label', 'message_sent', 'ya se envió', 'it is sent', 'já foi enviada'),
    ('label', 'message_delivered', 'ya se entregó', 'it is delivered', 'já foi entregue'),
    ('label', 'message_read', 'el cliente ya lo leyó', 'it is read', 'o cliente já a leu'),
    ('label', 'message_played', 'el cliente ya lo escuchó', 'it is played', 'o cliente já a ouviu'),
    ('label', 'message_failed', 'su envío falló', 'it failed', 'o envio falhou'),
    ('label', 'message_skipped', 'no se envió', 'it was skipped', 'não foi enviada'),
    ('label', 'message_canceled', 'ya está cancelado', 'it is canceled already', 'já está cancelada'),
    ('label', 'message_unknown', 'no se sabe si se envió', 'it is unknown whether it was sent',
        'não se sabe se foi enviada');
