-- Sending by people: what staff ask for is checked whole, decided, and put into the outbox, or refused in plain words.

create type private.send_request as (
    chat_id uuid, lead_id uuid, number_id uuid, type text, content text, template_id uuid, parameters jsonb,
    media jsonb, reply_to text, send_at timestamptz, is_forced boolean, expected_cost numeric, currency text,
    idempotency_key text
);

-- Refuse: the sentence and the hint are for people, details ({"reason", …} as text) for programs.
create function private.send_refuse(
    p_code text, p_reason text, p_message text, p_hint text, p_details jsonb default '{}'
) returns void
language plpgsql stable set search_path = '' as $$
begin
    raise exception using errcode = p_code, message = p_message, hint = p_hint,
        detail = (jsonb_strip_nulls(p_details) || jsonb_build_object('reason', p_reason))::text;
end
$$;

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
        perform private.send_refuse('PT400', 'idempotency_key', 'The idempotency key is empty or too long.',
            'Use 1 to 200 characters, new for each message: a uuid.');
    end if;
    perform pg_advisory_xact_lock(hashtextextended(format('messages.idempotency_key %s %s', p_tenant_id, p_key), 0));
    select m.id, m.request_hash into v_message
    from public.messages m
    where m.tenant_id = p_tenant_id and m.idempotency_key = p_key;
    if v_message.request_hash <> p_hash then
        perform private.send_refuse('PT409', 'idempotency_conflict',
            'Another message was sent with this idempotency key.', 'Use a new key for each message.',
            jsonb_build_object('message_id', v_message.id));
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
        perform private.send_refuse('PT404', 'no_chat', 'There is no such chat.',
            'Give p_chat_id from inbox_list(), or p_lead_id and p_number_id of your business to begin one.');
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
    if coalesce(btrim(p_request.content, E' \n\r\t'), '') = '' then
        perform private.send_refuse('PT400', 'empty', 'The message has no text.', 'Give it in p_content.');
    elsif length(p_request.content) > v_longest then
        perform private.send_refuse('PT400', 'too_long', format('The text is too long: %s characters, at most %s.',
            length(p_request.content), v_longest), 'Send it in parts.', jsonb_build_object('longest', v_longest));
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
        perform private.send_refuse('PT409', 'templates_unsupported', 'Numbers of Whapi have no templates.',
            'Write a text: it may be sent at any time.');
    end if;
    select * into v_template
    from public.message_templates t
    where t.tenant_id = p_number.tenant_id and t.id = p_request.template_id;
    if not found then
        perform private.send_refuse('PT404', 'no_template', 'There is no such template.',
            'Give p_template_id from message_templates.');
    elsif (v_template.provider, v_template.waba_id) is distinct from (p_number.provider,
        case p_number.provider when 'twilio' then p_number.account_id else p_number.waba_id end)
    then
        perform private.send_refuse('PT409', 'template_of_other_account', format(
            'The template %s belongs to another WhatsApp account than %s.', v_template.name, p_number.display_name),
            'Choose one whose waba_id is that of the number.');
    end if;
    v_filled := private.template_message(v_template, p_request.parameters);
    if v_filled ? 'reason' then
        perform private.send_refuse(case v_filled ->> 'reason' when 'template_parameters' then 'PT400' else 'PT409' end,
            v_filled ->> 'reason', v_filled ->> 'message', v_filled ->> 'hint');
    end if;
    return jsonb_build_object('content', v_filled -> 'text', 'template_id', v_template.id,
        'data', jsonb_build_object('category', v_template.category, 'template', jsonb_build_object(
            'name', v_template.name, 'language', v_template.language, 'category', v_template.category,
            'provider_template_id', v_template.provider_template_id, 'components', v_filled -> 'components',
            'variables', v_filled -> 'variables', 'parameters', coalesce(p_request.parameters, '{}'))));
end
$$;

-- p_media: {"link"} or {"id"}, with filename, mime and size where known; or {"media_id"} of a file of ours.
create function private.compose_media(p_number public.whatsapp_numbers, p_request private.send_request)
returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_media jsonb := case when p_request.media ? 'media_id'
        then private.media_reference(p_number, p_request.media) else p_request.media end;
    v_fault text := private.media_fault(p_request.type, v_media);
begin
    v_fault := case
        when v_fault is not null then v_fault
        when p_number.provider = 'twilio' and v_media ->> 'link' is null then 'must have a link: Twilio takes nothing else'
        when p_request.content is not null and p_request.type in ('audio', 'sticker') then 'cannot have a text with it'
        when p_number.provider = 'twilio' and p_request.content <> '' and p_request.type <> 'image'
            then 'cannot have a text with it on Twilio: send that as its own message'
        when length(p_request.content) > 1024 then format('has too long a text: %s characters, at most 1024',
            length(p_request.content))
    end;
    if v_fault is not null then
        perform private.send_refuse('PT400', 'media', format('The %s %s.', p_request.type, v_fault),
            'p_media names the file; its text, if it has one, is p_content.');
    end if;
    return jsonb_build_object('content', p_request.content, 'data',
        jsonb_build_object('media', v_media - '{filename,mime,size}'::text[])
        || jsonb_strip_nulls(jsonb_build_object('filename', v_media -> 'filename', 'mime', v_media -> 'mime')));
end
$$;

-- A file that was sent or received before, as the provider knows it: for seven days, on the number it came to.
create function private.media_reference(p_number public.whatsapp_numbers, p_media jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_file jsonb;
begin
    select jsonb_build_object('id', f.provider_media_id, 'mime', f.mime, 'size', f.size, 'filename', f.filename)
    into v_file
    from public.media f
    join public.messages m on m.tenant_id = f.tenant_id and m.id = f.message_id
    where f.tenant_id = p_number.tenant_id and f.id::text = lower(p_media ->> 'media_id')
        and m.number_id = p_number.id and f.provider_media_id is not null
        and m.provider_at > (select private.clock()) - interval '7 days';
    if not found then
        perform private.send_refuse('PT409', 'media_gone', 'WhatsApp has this file no more, or not for this number.',
            'Files can be sent on for 7 days, from the number they came to. Give a link to it instead.');
    end if;
    return jsonb_strip_nulls(case p_media ->> 'filename' is null when true then v_file
        else v_file || jsonb_build_object('filename', p_media -> 'filename') end);
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
        perform private.send_refuse('PT404', 'no_quoted_message', 'The message to be quoted is not in this chat.',
            'p_reply_to is id or wa_message_id of a message of the same chat.');
    elsif v_quoted.wa_message_id is null then
        perform private.send_refuse('PT409', 'quote_not_sent', 'The message to be quoted has not been sent yet.',
            'Wait until it is sent.');
    end if;
    return v_quoted.wa_message_id;
end
$$;

-- The moment to send at by the business clock; what has passed is now: null.
create function private.send_time(p_send_at timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    if p_send_at > v_now + interval '1 year' then
        perform private.send_refuse('PT400', 'send_at', 'A message can be scheduled for one year ahead at most.',
            'Choose an earlier p_send_at.');
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
        perform private.send_refuse('PT400', 'misfit', format('A message of type %s takes no %s.', p_request.type,
            v_misfits), 'Leave it out, or choose another p_type.');
    elsif private.chat_address(p_chat.tenant_id, p_chat.id) is null then
        perform private.send_refuse('PT409', 'no_address', 'This customer has no address on WhatsApp.',
            'They must write to you first.');
    end if;
    select * into v_number from public.whatsapp_numbers n where n.tenant_id = p_chat.tenant_id and n.id = p_chat.number_id;
    v_made := case
        when p_request.type = 'text' then private.compose_text(v_number, p_request)
        when p_request.type = 'template' then private.compose_template(v_number, p_request)
        when p_request.type in ('image', 'audio', 'video', 'document', 'sticker')
            then private.compose_media(v_number, p_request)
    end;
    if v_made is null then
        perform private.send_refuse('PT400', 'type', format('There is no type %L of message.', p_request.type),
            'Choose text, template, image, audio, video, document or sticker.');
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
    perform private.send_refuse('PT409', p_decision ->> 'reason',
        private.send_sentence(p_chat, p_decision, p_can_force, v_reader) || '.',
        coalesce(nullif(concat_ws(' ',
            case when p_decision ->> 'verdict' = 'template' or p_decision ->> 'reason' like 'template\_%'
                then private.send_phrase('hint', 'choose_template', v_reader.locale, '{}') end,
            case when p_can_force then private.send_phrase('hint', 'force', v_reader.locale, '{}') end), ''),
            private.send_phrase('hint', 'nothing', v_reader.locale, '{}')),
        p_decision || jsonb_build_object('window_expires_at', p_chat.window_expires_at, 'can_force', p_can_force));
end
$$;

create function private.cost_words(p_decision jsonb) returns text
language sql immutable set search_path = '' as $$
    select (p_decision ->> 'currency') || ' ' || round((p_decision ->> 'estimated_cost')::numeric, 4)
        || case p_decision ->> 'is_verified' when 'false' then ' (unverified rate)' else '' end
$$;

-- Who forces a message agrees to its cost as they were shown it; it may have changed since.
create function private.send_consent(p_request private.send_request, p_decision jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_cost numeric := round((p_decision ->> 'estimated_cost')::numeric, 6);
    v_words text := coalesce(private.cost_words(p_decision), 'not known');
begin
    if round(p_request.expected_cost, 6) = v_cost and upper(p_request.currency) = p_decision ->> 'currency'
        or v_cost is null and p_request.expected_cost is null
    then
        return;
    elsif p_request.expected_cost is null or p_request.currency is null then
        perform private.send_refuse('PT400', 'cost_not_shown',
            format('Who forces a message must have seen its estimated cost, which is %s.', v_words),
            'Show it, then send it along as p_expected_cost and p_currency.', p_decision);
    end if;
    perform private.send_refuse('PT409', 'cost_changed', format('The estimated cost is now %s, no longer %s %s.',
        v_words, p_request.currency, p_request.expected_cost), 'Show the new one, and send again with it.', p_decision);
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
        consented_cost = case when v_decision ? 'is_forced' then p_request.expected_cost end
    where m.tenant_id = v_tenant_id and m.id = v_id;
    perform private.message_decided(v_tenant_id, v_id, v_decision);
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
        perform private.send_refuse('PT404', 'no_message', 'There is no such message.',
            'Read its id from messages_list().');
    elsif v_message.direction = 'inbound' then
        perform private.send_refuse('PT409', 'received', 'The customer wrote this message.',
            'Only your own can be canceled or sent again.');
    end if;
    return v_message;
end
$$;

create function private.message_cancel(p_message_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_message public.messages := private.message_locked(private.require_staff(), p_message_id);
begin
    if cardinality(private.outbox_cancel(v_message.tenant_id, array[p_message_id])) = 0 then
        perform private.send_refuse('PT409', 'not_queued', format('This message cannot be canceled: it is %s.',
            case v_message.status when 'queued' then 'being sent' when 'sending' then 'being sent'
                when 'unknown' then 'unknown whether it was sent' when 'canceled' then 'canceled already'
                else v_message.status end),
            'Only what waits can be canceled.', jsonb_build_object('status', v_message.status));
    end if;
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
        perform private.send_refuse('PT409', 'not_failed', format('There is nothing to repeat: this message is %s.',
            v_message.status), 'Only what failed, was skipped or canceled can be sent again.',
            jsonb_build_object('status', v_message.status));
    elsif v_message.status = 'unknown' and not coalesce(p_force, false) then
        perform private.send_refuse('PT409', 'unknown', 'Nobody knows whether this message was sent.',
            'Compare with the phone; if it did not arrive, repeat it with p_force.');
    end if;
    select * into v_template from public.message_templates t
    where t.tenant_id = v_message.tenant_id and t.id = v_message.template_id;
    if private.template_obstacle(v_template) is not null and v_template.id is not null then
        perform private.send_refuse('PT409', 'template_' || v_template.status, private.template_obstacle(v_template),
            'Send another template instead.');
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
    return private.message_shown(v_message.tenant_id, p_message_id);
end
$$;
grant execute on function private.message_send(private.send_request), private.message_cancel(uuid),
    private.message_retry(uuid, boolean) to authenticated;

-- What staff call. Each answers with the message as it is then, and its `decision`; a refusal stores nothing.

-- p_type text: p_content. template: p_template_id, p_parameters (see 22_templates.sql). image, audio, video, document,
-- sticker: p_media {"link" | "id" | "media_id", "filename", "mime", "size"}, with p_content as its text. To p_chat_id,
-- or to p_lead_id on p_number_id. p_send_at schedules it. p_force, with the cost that was shown, overrules what a
-- person may overrule. p_idempotency_key: asking again with the same key answers with the same message.
create function public.message_send(
    p_chat_id uuid default null, p_type text default 'text', p_content text default null,
    p_template_id uuid default null, p_parameters jsonb default null, p_media jsonb default null,
    p_reply_to text default null, p_send_at timestamptz default null, p_force boolean default false,
    p_expected_cost numeric default null, p_currency text default null, p_idempotency_key text default null,
    p_lead_id uuid default null, p_number_id uuid default null
) returns jsonb
language sql set search_path = '' as $$
    select private.message_send((p_chat_id, p_lead_id, p_number_id, p_type, p_content, p_template_id, p_parameters,
        p_media, p_reply_to, p_send_at, p_force, p_expected_cost, p_currency, p_idempotency_key)::private.send_request)
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
        uuid, text, text, uuid, jsonb, jsonb, text, timestamptz, boolean, numeric, text, text, uuid, uuid),
    public.message_cancel(uuid), public.message_retry(uuid, boolean)
    to authenticated;
