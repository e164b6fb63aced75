-- The send decision in words, for people who are about to write.

-- Every reason of private.send_decisions() as a sentence. reason: why it does not go out now, or simply goes; warning:
-- it may go, but; note: what comes after, which is price and free entry point; hint: what to do.
insert into private.phrases (kind, reason, es, en, pt) values
    ('reason', 'window_open', 'La ventana está abierta hasta {until}', 'The window is open until {until}',
        'A janela está aberta até {until}'),
    ('reason', 'no_window', 'Este número no tiene ventana: se puede escribir siempre',
        'This number has no window: you may write at any time', 'Este número não tem janela: pode escrever sempre'),
    ('reason', 'template', 'La ventana está cerrada; sale como plantilla',
        'The window is closed; it goes out as a template', 'A janela está fechada; sai como modelo'),
    ('reason', 'number_inactive', 'El número de este chat está desactivado', 'The number of this chat is switched off',
        'O número deste chat está desativado'),
    ('reason', 'opted_out', 'El cliente pidió que no le escriban', 'This customer asked not to be written to',
        'O cliente pediu que não lhe escrevam'),
    ('reason', 'opted_out_of_marketing', 'El cliente no quiere recibir promociones',
        'This customer does not want marketing', 'O cliente não quer receber promoções'),
    ('warning', 'opted_out_of_marketing', 'Atención: el cliente no quiere recibir promociones',
        'Note that this customer does not want marketing', 'Atenção: o cliente não quer receber promoções'),
    ('reason', 'blocked', 'El cliente bloqueó este número: nada de lo último le llegó',
        'This customer has blocked the number: nothing of late has reached them',
        'O cliente bloqueou este número: nada do que foi enviado chegou'),
    ('warning', 'blocked', 'Atención: el cliente bloqueó este número y es probable que no le llegue',
        'Note that this customer has blocked the number: it will hardly reach them',
        'Atenção: o cliente bloqueou este número e é provável que não chegue'),
    ('reason', 'probably_blocked', 'Es probable que el cliente haya bloqueado este número; se revisa otra vez {until}',
        'This customer has probably blocked the number; it is looked at again {until}',
        'É provável que o cliente tenha bloqueado este número; verifica-se de novo {until}'),
    ('warning', 'probably_blocked', 'Atención: es probable que el cliente haya bloqueado este número',
        'Note that this customer has probably blocked the number',
        'Atenção: é provável que o cliente tenha bloqueado este número'),
    ('reason', 'unreachable', 'WhatsApp no encuentra a este cliente: sus últimos mensajes no se pudieron entregar',
        'WhatsApp cannot reach this customer: the last messages could not be delivered',
        'O WhatsApp não encontra este cliente: as últimas mensagens não puderam ser entregues'),
    ('warning', 'unreachable', 'Atención: WhatsApp no encontró a este cliente las últimas veces',
        'Note that WhatsApp could not reach this customer the last times',
        'Atenção: o WhatsApp não encontrou este cliente nas últimas vezes'),
    ('reason', 'human_takeover', 'Una persona atiende este chat; el agente calla',
        'A person has taken this chat over; the agent is silent',
        'Uma pessoa atende este chat; o agente fica em silêncio'),
    ('warning', 'human_takeover', 'Atención: una persona atiende este chat',
        'Note that a person has taken this chat over',
        'Atenção: uma pessoa atende este chat'),
    ('reason', 'templates_unsupported', 'Este número no admite plantillas', 'This number cannot send templates',
        'Este número não envia modelos'),
    ('reason', 'window_closed', 'La ventana se cerró hace {ago}; hace falta una plantilla',
        'The window closed {ago} ago; a template is needed', 'A janela fechou há {ago}; é preciso um modelo'),
    ('reason', 'window_never_open', 'El cliente aún no ha escrito a este número; hace falta una plantilla',
        'This customer has not written to this number yet; a template is needed',
        'O cliente ainda não escreveu para este número; é preciso um modelo'),
    ('reason', 'window_will_be_closed', 'A esa hora la ventana estará cerrada; hace falta una plantilla',
        'The window will be closed by then; a template is needed',
        'A essa hora a janela estará fechada; é preciso um modelo'),
    ('reason', 'text_blank', 'El texto queda vacío: no se sabe nada de lo que lleva de este cliente',
        'The text is empty: nothing that it says of this customer is known',
        'O texto fica vazio: nada do que diz deste cliente é conhecido'),
    ('reason', 'template_missing', 'La plantilla no es de la cuenta de este número',
        'The template is not of this number''s account', 'O modelo não é da conta deste número'),
    ('reason', 'template_rejected', 'WhatsApp rechazó la plantilla; elija otra',
        'WhatsApp has rejected the template; choose another', 'O WhatsApp rejeitou o modelo; escolha outro'),
    ('reason', 'template_paused', 'WhatsApp puso la plantilla en pausa por su calidad; elija otra',
        'WhatsApp has paused the template for its quality; choose another',
        'O WhatsApp pausou o modelo pela qualidade; escolha outro'),
    ('reason', 'template_pending', 'WhatsApp aún no ha aprobado la plantilla',
        'WhatsApp has not approved the template yet', 'O WhatsApp ainda não aprovou o modelo'),
    ('reason', 'template_disabled', 'La plantilla ya no se puede usar; elija otra',
        'The template can no longer be used; choose another', 'O modelo já não pode ser usado; escolha outro'),
    ('reason', 'marketing_to_us', 'WhatsApp no entrega promociones a números de Estados Unidos',
        'WhatsApp delivers no marketing to numbers of the United States',
        'O WhatsApp não entrega promoções a números dos Estados Unidos'),
    ('reason', 'number_paused', 'El número está en pausa; se intenta otra vez {until}',
        'The number is paused; it is tried again {until}', 'O número está em pausa; tenta-se de novo {until}'),
    ('reason', 'number_stopped',
        'El número está detenido y el mensaje espera: un administrador debe conectarlo otra vez',
        'The number is stopped and the message waits: an admin must connect it again',
        'O número está parado e a mensagem espera: um administrador deve conectá-lo de novo'),
    ('reason', 'bulk_paused', 'Los envíos masivos de este número están en pausa; se intenta otra vez {until}',
        'Bulk messages of this number are paused; it is tried again {until}',
        'Os envios em massa deste número estão em pausa; tenta-se de novo {until}'),
    ('reason', 'quality_low', 'La calidad del número es baja y sus envíos masivos esperan; se revisa otra vez {until}',
        'The number''s quality is low and its bulk messages wait; it is looked at again {until}',
        'A qualidade do número é baixa e os envios em massa esperam; verifica-se de novo {until}'),
    ('warning', 'quality_low', 'Atención: la calidad del número es baja', 'Note that the number''s quality is low',
        'Atenção: a qualidade do número é baixa'),
    ('reason', 'quiet_hours', 'Para el cliente son horas de descanso; sale {until}',
        'These are quiet hours for the customer; it goes out {until}',
        'São horas de descanso para o cliente; sai {until}'),
    ('warning', 'quiet_hours', 'Atención: para el cliente son horas de descanso',
        'Note that these are quiet hours for the customer', 'Atenção: são horas de descanso para o cliente'),
    ('reason', 'outside_business_hours', 'El negocio está cerrado; sale {until}',
        'The business is closed; it goes out {until}', 'O negócio está fechado; sai {until}'),
    ('warning', 'outside_business_hours', 'Atención: el negocio está cerrado', 'Note that the business is closed',
        'Atenção: o negócio está fechado'),
    ('reason', 'hours_never_open', 'El horario del negocio cae siempre en las horas de descanso del cliente',
        'The business is open only in the customer''s quiet hours',
        'O horário do negócio cai sempre nas horas de descanso do cliente'),
    ('warning', 'hours_never_open', 'Atención: el negocio está cerrado o para el cliente son horas de descanso',
        'Note that the business is closed, or these are quiet hours for the customer',
        'Atenção: o negócio está fechado ou são horas de descanso para o cliente'),
    ('reason', 'plan_quota', 'Se agotaron los mensajes que el plan incluye este mes',
        'The messages the plan includes this month are used up', 'Acabaram as mensagens que o plano inclui neste mês'),
    ('reason', 'messaging_limit', 'Se alcanzó el límite de clientes que WhatsApp permite en 24 horas; sale {until}',
        'The customers WhatsApp allows in 24 hours are reached; it goes out {until}',
        'Foi atingido o limite de clientes que o WhatsApp permite em 24 horas; sai {until}'),
    ('hint', 'choose_template', 'Elija una plantilla (p_type y p_template_id).',
        'Choose a template (p_type and p_template_id).', 'Escolha um modelo (p_type e p_template_id).'),
    ('hint', 'force', 'Para enviarlo de todos modos, use p_force con el costo que se muestra.',
        'To send it all the same, use p_force with the cost shown.',
        'Para enviar mesmo assim, use p_force com o custo mostrado.'),
    ('hint', 'number_inactive', 'Un administrador puede activarlo otra vez.', 'An admin may switch it on again.',
        'Um administrador pode ativá-lo de novo.'),
    ('hint', 'opted_out', 'Si el cliente cambió de opinión, regístrelo con consent_record.',
        'If the customer thinks otherwise now, note it with consent_record.',
        'Se o cliente mudou de ideia, registe-o com consent_record.'),
    ('hint', 'marketing_to_us', 'Elija una plantilla de utilidad.', 'Choose a utility template.',
        'Escolha um modelo de utilidade.'),
    ('hint', 'plan_quota', 'Cambie a un plan mayor o espere al mes próximo.',
        'Change to a larger plan, or wait until next month.', 'Mude para um plano maior ou espere pelo próximo mês.'),
    ('hint', 'nothing', 'No se puede hacer nada al respecto.', 'Nothing can be done about it.',
        'Não há nada a fazer.'),
    ('note', 'price', 'costo estimado {cost}', 'estimated cost {cost}', 'custo estimado {cost}'),
    ('note', 'price_unverified', 'costo estimado {cost} (tarifa sin verificar)',
        'estimated cost {cost} (unverified rate)', 'custo estimado {cost} (tarifa não verificada)'),
    ('note', 'price_unknown', 'no se conoce el costo', 'the cost is not known', 'o custo não é conhecido'),
    ('note', 'price_none', 'sin costo por mensaje', 'no cost per message', 'sem custo por mensagem'),
    ('note', 'free_entry_point', 'sin costo: el cliente vino de un anuncio',
        'at no cost: the customer came from an ad', 'sem custo: o cliente veio de um anúncio'),
    ('note', 'reply_by', 'responda antes de {reply_by} y 72 horas serán sin costo',
        'answer by {reply_by} and 72 hours will be at no cost', 'responda até {reply_by} e 72 horas serão sem custo'),
    ('refusal', 'purpose', 'No existe el propósito «{purpose}».', 'There is no purpose "{purpose}".',
        'Não existe o propósito «{purpose}».'),
    ('hint', 'purpose', 'Es reply, staff, sequence, daily_action o call_followup.',
        'It is reply, staff, sequence, daily_action or call_followup.',
        'É reply, staff, sequence, daily_action ou call_followup.');

-- How long, roughly: 5 min, 3 h, 2 días.
create function private.span_words(p_span interval, p_locale text) returns text
language plpgsql immutable set search_path = '' as $$
declare
    v_seconds numeric := extract(epoch from p_span);
begin
    return case
        when v_seconds < 3600 then greatest(ceil(v_seconds / 60), 1) || ' min'
        when v_seconds < 48 * 3600 then floor(v_seconds / 3600) || ' h'
        else floor(v_seconds / 86400) || case split_part(p_locale, '-', 1)
            when 'en' then ' days' when 'pt' then ' dias' else ' días' end
    end;
end
$$;

-- A moment by the reader's clock: 15:30 today, else with its day.
create function private.moment_words(p_at timestamptz, p_timezone text, p_locale text, p_now timestamptz) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_local timestamp := p_at at time zone p_timezone;
begin
    return to_char(v_local, case
        when v_local::date = (p_now at time zone p_timezone)::date then 'HH24:MI'
        when split_part(p_locale, '-', 1) = 'en' then 'FMDD Mon HH24:MI'
        else 'DD/MM HH24:MI' end);
end
$$;

-- A decision about a chat as a sentence, in the reader's language and by their clock: why, and what it costs.
-- p_decision: a row of send_decisions() as jsonb. What can be sent in the end, if only by force, is told its cost.
create function private.send_sentence(
    p_chat public.chats, p_decision jsonb, p_can_force boolean, p_reader public.users
) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
    v_reason text := case
        when p_decision ->> 'reason' = 'window_closed' and p_chat.window_expires_at is null then 'window_never_open'
        when p_decision ->> 'reason' = 'number_paused' and exists (
            select from public.number_pacing p
            where p.tenant_id = p_chat.tenant_id and p.number_id = p_chat.number_id and p.paused_until = 'infinity')
            then 'number_stopped'
        else p_decision ->> 'reason' end;
    v_kind text := case when p_decision ->> 'verdict' = 'send' and v_reason not in ('window_open', 'no_window', 'template')
        then 'warning' else 'reason' end;
    v_until timestamptz := coalesce((p_decision ->> 'not_before')::timestamptz, p_chat.window_expires_at);
    v_cost numeric := (p_decision ->> 'estimated_cost')::numeric;
    v_price text := case
        when p_decision ->> 'price_class' = 'none' then 'price_none'
        when p_decision ->> 'price_class' = 'free_entry_point' and v_cost = 0 then 'free_entry_point'
        when v_cost is null then 'price_unknown'
        when (p_decision ->> 'is_verified')::boolean then 'price'
        else 'price_unverified' end;
begin
    return concat_ws('; ',
        private.phrase(v_kind, v_reason, jsonb_build_object(
            'ago', private.span_words(v_now - p_chat.window_expires_at, p_reader.locale),
            'until', private.moment_words(v_until, p_reader.timezone, p_reader.locale, v_now)), p_reader.locale),
        case when p_decision ->> 'verdict' <> 'never' or p_can_force then private.phrase('note', v_price,
            jsonb_build_object('cost', (p_decision ->> 'currency') || ' ' || trim_scale(v_cost)), p_reader.locale) end,
        case when private.free_entry_reply_by(p_chat) > v_now and p_decision ->> 'verdict' = 'send'
            then private.phrase('note', 'reply_by', jsonb_build_object('reply_by', private.moment_words(
                p_chat.free_entry_reply_by, p_reader.timezone, p_reader.locale, v_now)), p_reader.locale) end);
end
$$;

-- What would become of a message, before it is written: {"verdict", "reason", "is_warning", "sentence", "not_before",
-- "can_force", "window": {"is_open", "expires_at"}, "free_entry": {"until", "reply_by"}, "price": {"class",
-- "estimated_cost", "currency", "is_verified"}}. The sentence is in the caller's language and by their clock; all costs
-- are estimates. p_type template without a template: any. can_force: p_force would send it.
create function public.send_preview(
    p_chat_id uuid, p_type text default 'text', p_template_id uuid default null, p_purpose text default 'staff',
    p_force boolean default false
) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_reader public.users;
    v_chat public.chats;
    v_decision jsonb;
    v_forced jsonb;
    v_can_force boolean;
begin
    select * into v_chat from public.chats c where c.tenant_id = v_tenant_id and c.id = p_chat_id;
    if not found then
        perform private.refuse('PT404', 'no_chat');
    elsif p_template_id is not null and not exists (
        select from public.message_templates t where t.tenant_id = v_tenant_id and t.id = p_template_id
    ) then
        perform private.refuse('PT404', 'no_template');
    elsif p_purpose is null or p_purpose not in ('reply', 'staff', 'sequence', 'daily_action', 'call_followup') then
        perform private.refuse('PT400', 'purpose', jsonb_build_object('purpose', p_purpose));
    end if;
    select * into v_reader from public.users u where u.id = private.my_user_id();

    select jsonb_object_agg(d.ref = v_chat.id, to_jsonb(d)) into v_decision
    from private.send_decisions(array[
        (v_chat.id, v_tenant_id, v_chat.id, p_purpose, p_type = 'template', null, p_template_id, p_force),
        (v_tenant_id, v_tenant_id, v_chat.id, p_purpose, p_type = 'template', null, p_template_id, true)
    ]::private.send_candidate[]) d;
    v_forced := v_decision -> 'false';
    v_decision := v_decision -> 'true';
    v_can_force := v_decision ->> 'verdict' <> 'send' and v_forced ->> 'verdict' = 'send';
    return jsonb_build_object(
        'verdict', v_decision -> 'verdict', 'reason', v_decision -> 'reason',
        'is_warning', v_decision ->> 'verdict' = 'send'
            and v_decision ->> 'reason' not in ('window_open', 'no_window', 'template'),
        'sentence', private.send_sentence(v_chat, v_decision, v_can_force, v_reader),
        'not_before', v_decision -> 'not_before',
        'can_force', v_can_force,
        'window', jsonb_build_object(
            'is_open', coalesce(v_chat.window_expires_at > private.clock(), false),
            'expires_at', v_chat.window_expires_at),
        'free_entry', jsonb_build_object('until', v_chat.free_entry_until, 'reply_by',
            case when private.free_entry_reply_by(v_chat) > private.clock() then v_chat.free_entry_reply_by end),
        'price', jsonb_build_object('class', v_decision -> 'price_class',
            'estimated_cost', v_decision -> 'estimated_cost', 'currency', v_decision -> 'currency',
            'is_verified', v_decision -> 'is_verified'));
end
$$;

grant execute on function
    private.span_words(interval, text),
    private.moment_words(timestamptz, text, text, timestamptz),
    private.send_sentence(public.chats, jsonb, boolean, public.users) to authenticated, service_role;
grant execute on function public.send_preview(uuid, text, uuid, text, boolean) to authenticated;
