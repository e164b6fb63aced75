-- Delivery health: what somebody should look at.

-- alert_kinds: every kind of alert, what it is about, and how it is told to staff who do not read English.
create table public.alert_kinds (
    kind text,
    meaning text not null,
    subject text not null,
    texts jsonb not null,
    constraint alert_kinds_pkey primary key (kind),
    constraint alert_kinds_subject_check check (subject in ('number', 'chat', 'message', 'template', 'account', 'job')),
    constraint alert_kinds_texts_check check (texts ? 'es')
);
comment on table public.alert_kinds is 'What alerts there are: their meaning, and their words by language.';
comment on column public.alert_kinds.subject is 'What alerts.subject names: by our id, where it has one.';
comment on column public.alert_kinds.texts is '{"es": "…", "pt": "…"} by language; English is what the raiser says.';

alter table public.alert_kinds enable row level security;
grant select on public.alert_kinds to authenticated;
grant select, insert, update, delete on public.alert_kinds to service_role;
create policy alert_kinds_select_anyone on public.alert_kinds for select to authenticated using (true);

insert into public.alert_kinds (kind, subject, meaning, texts) values
    ('channel_stopped', 'number', 'The provider refuses the whole number; nothing of it is sent until it is mended.',
        '{"es": "El proveedor ya no acepta este número y no se envía nada. Vuelve a conectarlo.",
          "pt": "O provedor já não aceita este número e nada é enviado. Conecte-o de novo."}'),
    ('channel_setup', 'number', 'The number is connected, but its provider was not told where to deliver.',
        '{"es": "El número está conectado, pero todavía no recibe mensajes. Vuelve a conectarlo.",
          "pt": "O número está conectado, mas ainda não recebe mensagens. Conecte-o de novo."}'),
    ('token_refresh_failed', 'number', 'The access token could not be checked or replaced; it still works.',
        '{"es": "No se pudo renovar el acceso de este número. Si no se resuelve solo, vuelve a conectarlo.",
          "pt": "Não foi possível renovar o acesso deste número. Se não se resolver, conecte-o de novo."}'),
    ('bulk_paused', 'number', 'The provider limits the number for its quality: bulk rests, answers and staff go on.',
        '{"es": "WhatsApp limita este número por su calidad: los envíos masivos esperan; las respuestas siguen.",
          "pt": "O WhatsApp limita este número pela qualidade: os envios em massa esperam; as respostas seguem."}'),
    ('bulk_failed', 'number', 'Messages of sequences, daily actions or calls could not be sent.',
        '{"es": "Hay mensajes automáticos de este número que no se pudieron enviar. Se pueden reintentar.",
          "pt": "Há mensagens automáticas deste número que não puderam ser enviadas. Podem ser repetidas."}'),
    ('backfill_failed', 'number', 'The provider''s list of messages cannot be read; what an outage lost stays lost.',
        '{"es": "No se pudo revisar si faltan mensajes de este número. Si hubo un corte, míralos en el teléfono.",
          "pt": "Não foi possível ver se faltam mensagens deste número. Se houve um corte, veja-as no telefone."}'),
    ('templates_not_listed', 'account', 'The provider did not tell the templates of an account; those known go on.',
        '{"es": "No se pudo actualizar la lista de plantillas de una cuenta de WhatsApp.",
          "pt": "Não foi possível atualizar a lista de modelos de uma conta do WhatsApp."}'),
    ('send_failed', 'chat', 'A reply or a message of staff could not be sent.',
        '{"es": "Un mensaje no se pudo enviar.",
          "pt": "Uma mensagem não pôde ser enviada."}'),
    ('send_unknown', 'chat', 'Nobody knows whether a message was sent; it is not sent again.',
        '{"es": "No se sabe si un mensaje llegó a salir. Revisa el chat antes de repetirlo.",
          "pt": "Não se sabe se uma mensagem chegou a sair. Veja o chat antes de repeti-la."}'),
    ('not_sent', 'chat', 'The rules of WhatsApp or of the business keep a message back; a person decides.',
        '{"es": "Un mensaje no se envió y espera la decisión de una persona.",
          "pt": "Uma mensagem não foi enviada e espera a decisão de uma pessoa."}'),
    ('no_agent', 'chat', 'A customer waits and there is no agent who could answer.',
        '{"es": "Un cliente espera y no hay agente que le responda.",
          "pt": "Um cliente espera e não há agente que lhe responda."}'),
    ('reply_failed', 'chat', 'The agent could not answer.',
        '{"es": "El agente no pudo responder a un cliente.",
          "pt": "O agente não conseguiu responder a um cliente."}'),
    ('deliveries_missing', 'number',
        'Hardly anything this number sends is reported as delivered: nobody is taken for having blocked it.',
        '{"es": "Casi nada de lo que envía este número llega. Mientras dure, no se detectan bloqueos.",
          "pt": "Quase nada do que este número envia chega. Enquanto durar, não se detectam bloqueios."}'),
    ('customers_blocked', 'number', 'Customers seem to have blocked the number; each is in delivery_issues.',
        '{"es": "Parece que hay clientes que bloquearon este número. Míralos en los problemas de entrega.",
          "pt": "Parece que há clientes que bloquearam este número. Veja-os nos problemas de entrega."}'),
    ('account_warning', 'account', 'The provider warns about the account, restricts or judges it.',
        '{"es": "WhatsApp avisa de un problema con la cuenta. Mira los detalles en el administrador de Meta.",
          "pt": "O WhatsApp avisa de um problema com a conta. Veja os detalhes no gerenciador da Meta."}'),
    ('number_name_refused', 'number', 'The name that customers see was refused.',
        '{"es": "WhatsApp rechazó el nombre visible de este número.",
          "pt": "O WhatsApp rejeitou o nome visível deste número."}'),
    ('number_silent', 'number', 'A number that usually receives messages at this time has received none.',
        '{"es": "Este número suele recibir mensajes a estas horas y no llega ninguno. Revisa su conexión.",
          "pt": "Este número costuma receber mensagens a estas horas e não chega nenhuma. Verifique a conexão."}'),
    ('failure_spike', 'number', 'Far more of its messages fail than usually do; details has the shares.',
        '{"es": "Fallan muchos más mensajes de este número que de costumbre. Mira los errores en su estado.",
          "pt": "Falham muito mais mensagens deste número do que de costume. Veja os erros no seu estado."}'),
    ('delivery_drop', 'number', 'Far fewer of its messages arrive than usually do, an hour after they were sent.',
        '{"es": "Llegan muchos menos mensajes de este número que de costumbre.",
          "pt": "Chegam muito menos mensagens deste número do que de costume."}'),
    ('read_drop', 'number', 'Far fewer of its delivered messages are read than usually are.',
        '{"es": "Los clientes leen muchos menos mensajes de este número que de costumbre.",
          "pt": "Os clientes leem muito menos mensagens deste número do que de costume."}'),
    ('quality_low', 'number', 'Meta judges its quality YELLOW: at RED its bulk rests.',
        '{"es": "La calidad de este número bajó: hay clientes que lo bloquean o denuncian. Envía con más cuidado.",
          "pt": "A qualidade deste número baixou: há clientes que o bloqueiam ou denunciam. Envie com mais cuidado."}'),
    ('queue_late', 'number', 'Messages that should have gone out wait, though nothing is known that stops them.',
        '{"es": "Hay mensajes de este número que deberían haber salido y siguen en cola.",
          "pt": "Há mensagens deste número que deveriam ter saído e continuam na fila."}'),
    ('provider_problem', 'number', 'The provider reports a problem with the number.',
        '{"es": "El proveedor informa de un problema con este número.",
          "pt": "O provedor informa um problema com este número."}'),
    ('model_barred', 'job', 'The model''s provider wants money, or does not know our key; the job waits.',
        '{"es": "El proveedor del modelo de IA no acepta consultas; el análisis o los seguimientos esperan.",
          "pt": "O provedor do modelo de IA não aceita consultas; a análise ou os acompanhamentos esperam."}'),
    ('delivery_lost', 'message', 'A delivery of the provider could not be applied, and is not tried any more.',
        '{"es": "Algo que envió el proveedor no se pudo guardar. Se puede reintentar desde el registro.",
          "pt": "Algo que o provedor enviou não pôde ser guardado. Pode ser repetido a partir do registro."}');

create table public.alerts (
    tenant_id uuid,
    id uuid default private.uuid7(),
    kind text not null,
    severity text not null default 'warning',
    subject text not null default '',
    number_id uuid,
    chat_id uuid,
    message text not null,
    details jsonb not null default '{}',
    occurrences int not null default 1,
    created_at timestamptz not null default now(),
    last_at timestamptz not null default now(),
    resolved_at timestamptz,
    resolved_by uuid,
    constraint alerts_pkey primary key (tenant_id, id),
    constraint alerts_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint alerts_number_id_fkey foreign key (tenant_id, number_id)
        references public.whatsapp_numbers (tenant_id, id),
    constraint alerts_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint alerts_resolved_by_fkey foreign key (tenant_id, resolved_by) references public.users (tenant_id, id),
    constraint alerts_severity_check check (severity in ('info', 'warning', 'critical'))
);
comment on table public.alerts is 'What somebody should look at; the same trouble again is counted, not repeated.';
comment on column public.alerts.subject is 'What it is about, so that the same trouble is known again.';
comment on column public.alerts.message is 'pii: an error may quote the customer';
comment on column public.alerts.details is 'pii: an error may quote the customer';

create unique index alerts_tenant_id_kind_subject_open_key
    on public.alerts (tenant_id, kind, subject) where resolved_at is null;
create index alerts_tenant_id_number_id_idx on public.alerts (tenant_id, number_id) where number_id is not null;
create index alerts_tenant_id_chat_id_idx on public.alerts (tenant_id, chat_id) where chat_id is not null;
create index alerts_tenant_id_resolved_by_idx on public.alerts (tenant_id, resolved_by) where resolved_by is not null;

alter table public.alerts enable row level security;
grant select on public.alerts to authenticated;
grant select, insert, update, delete on public.alerts to service_role;
create policy alerts_select_member on public.alerts for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- How bad, in order.
create function private.severity_rank(p_severity text) returns int
language sql immutable set search_path = '' as $$
    select array_position(array['info', 'warning', 'critical'], p_severity)
$$;

-- What staff read about an incident, in the language of the business's owner; p_message is what it is in English.
create function private.alert_text(p_tenant_id uuid, p_kind text, p_message text) returns text
language plpgsql stable set search_path = '' as $$
begin
    return coalesce(
        (select coalesce(k.texts ->> u.locale, k.texts ->> split_part(u.locale, '-', 1))
        from public.users u
        join public.alert_kinds k on k.kind = p_kind
        where u.id = p_tenant_id),
        p_message);
end
$$;

-- Somebody should look at this. While it is open, the same again is counted in the same row, which keeps the worst
-- severity and the latest words. p_message: English, and the provider's own words; it stays in details as `reason`.
create function private.alert_raise(
    p_tenant_id uuid, p_kind text, p_subject text, p_message text, p_number_id uuid default null,
    p_chat_id uuid default null, p_severity text default 'warning', p_details jsonb default '{}'
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.alerts as a (
        tenant_id, kind, subject, message, details, number_id, chat_id, severity, created_at, last_at)
    values (
        p_tenant_id, p_kind, p_subject, private.alert_text(p_tenant_id, p_kind, p_message),
        p_details || jsonb_build_object('reason', p_message), p_number_id, p_chat_id, p_severity,
        private.clock(), private.clock())
    on conflict (tenant_id, kind, subject) where resolved_at is null do update
    set occurrences = a.occurrences + 1, last_at = excluded.last_at, message = excluded.message,
        details = a.details || excluded.details,
        severity = case when private.severity_rank(excluded.severity) > private.severity_rank(a.severity)
            then excluded.severity else a.severity end;
end
$$;

-- The trouble is over by itself: nobody resolved it, so resolved_by stays empty.
create function private.alert_end(p_tenant_id uuid, p_kind text, p_subject text) returns void
language plpgsql set search_path = '' as $$
begin
    update public.alerts set resolved_at = private.clock()
    where tenant_id = p_tenant_id and kind = p_kind and subject = p_subject and resolved_at is null;
end
$$;

-- Alerts about single messages of these chats end when none of that kind is left. p_by: who has dealt with it.
create function private.failures_over(p_chats private.chat_ref[], p_by uuid default null) returns void
language plpgsql set search_path = '' as $$
begin
    update public.alerts a set resolved_at = private.clock(), resolved_by = p_by
    from unnest(p_chats) c
    where a.tenant_id = c.tenant_id and a.subject = c.chat_id::text and a.resolved_at is null
        and a.kind in ('send_failed', 'send_unknown', 'not_sent')
        and not exists (
            select from public.messages m
            where m.tenant_id = c.tenant_id and m.chat_id = c.chat_id and m.direction = 'outbound'
                and m.provider_at > a.created_at - interval '2 days'
                and m.status = case a.kind
                    when 'send_failed' then 'failed' when 'send_unknown' then 'unknown' else 'skipped' end
                and coalesce(m.failed_at >= a.created_at, true));
end
$$;

-- A person must look at this chat: its conversation says so, and an alert.
create function private.flag_for_person(p_tenant_id uuid, p_chat_id uuid, p_kind text, p_message text) returns void
language plpgsql set search_path = '' as $$
begin
    update public.conversations set requires_attention = true
    where tenant_id = p_tenant_id and chat_id = p_chat_id and status = 'open';
    perform private.alert_raise(p_tenant_id, p_kind, p_chat_id::text, p_message, p_chat_id => p_chat_id);
end
$$;
grant execute on function private.severity_rank(text), private.alert_text(uuid, text, text),
    private.alert_raise(uuid, text, text, text, uuid, uuid, text, jsonb), private.alert_end(uuid, text, text),
    private.failures_over(private.chat_ref[], uuid),
    private.flag_for_person(uuid, uuid, text, text) to service_role;

-- Definer: staff may not write alerts, only say that one is dealt with.
create function private.alert_resolve(p_alert_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    update public.alerts
    set resolved_by = case when resolved_at is null then private.my_user_id() else resolved_by end,
        resolved_at = coalesce(resolved_at, private.clock())
    where tenant_id = v_tenant_id and id = p_alert_id;
    if not found then
        perform private.refuse('PT404', 'no_alert');
    end if;
end
$$;
create function public.alert_resolve(p_alert_id uuid) returns void
language sql set search_path = '' as $$
    select private.alert_resolve(p_alert_id)
$$;
grant execute on function private.alert_resolve(uuid), public.alert_resolve(uuid) to authenticated;
