-- What customers say about hearing from us: keywords, the switch inside WhatsApp, what staff are told.

-- consent_keywords: what a whole message must be to be a refusal, or its end. Businesses add their own in
-- tenant_settings. Phrases are folded: case, accents and punctuation do not matter.
create table public.consent_keywords (
    phrase text,
    language text,
    kind text not null,
    scope text not null,
    is_only_after_bulk boolean not null default false,
    constraint consent_keywords_pkey primary key (phrase, language),
    constraint consent_keywords_phrase_check check (phrase = private.fold(phrase) and length(phrase) between 2 and 60),
    constraint consent_keywords_language_check check (language in ('es', 'en', 'pt')),
    constraint consent_keywords_kind_check check (kind in ('opt_out', 'opt_in')),
    constraint consent_keywords_scope_check check (scope in ('all', 'marketing'))
);
comment on table public.consent_keywords is
    'Whole messages that refuse promotions (scope marketing) or all messages, or that take it back.';
comment on column public.consent_keywords.is_only_after_bulk is
    'The word means something else in a business: it counts within a day of a bulk message, if nothing was sent since.';

alter table public.consent_keywords enable row level security;
grant select on public.consent_keywords to authenticated;
grant select, insert, update, delete on public.consent_keywords to service_role;
create policy consent_keywords_select_anyone on public.consent_keywords for select to authenticated using (true);

insert into public.consent_keywords (language, kind, scope, is_only_after_bulk, phrase)
select v.language, v.kind, v.scope, v.is_only_after_bulk, unnest(string_to_array(v.phrases, ', '))
from (values
    ('es', 'opt_out', 'marketing', false,
        'stop, baja, dar de baja, darme de baja, dame de baja, deme de baja, denme de baja, quiero darme de baja, '
        'quiero la baja, desuscribir, desuscribirme, desuscribirse, cancelar suscripcion, anular suscripcion, '
        'no mas mensajes, no mas promociones, no mas publicidad, no quiero publicidad, no quiero promociones, '
        'no quiero mas mensajes, no quiero mas promociones, no quiero mas publicidad, no enviar mas, no envien mas, '
        'sacame de la lista, saquenme de la lista, borrame de la lista, borrenme de la lista'),
    ('es', 'opt_out', 'marketing', true,
        'cancelar, cancela, cancelen, alto, salir, parar, para, pare, paren, basta, basta ya, fin, detener, terminar, '
        'quitar, quitame, eliminar, eliminame, borrar, borrame, remover, retirar'),
    ('es', 'opt_out', 'all', false,
        'baja total, no me escriban mas, no me escriba mas, no me escribas mas, no me vuelvan a escribir, '
        'no me vuelva a escribir, no me vuelvas a escribir, no me contacten mas, no me contacten, no me contacte mas, '
        'no me manden mas mensajes, no me envien mas mensajes, dejen de escribirme, deje de escribirme, '
        'deja de escribirme, dejen de molestar, no quiero que me escriban, no quiero que me escriban mas'),
    ('es', 'opt_in', 'all', false,
        'alta, dar de alta, darme de alta, dame de alta, quiero el alta, suscribir, suscribirme, '
        'quiero recibir promociones, quiero recibir mensajes, volver a recibir'),
    ('en', 'opt_out', 'marketing', false,
        'stop, unsubscribe, unsubscribe me, opt out, optout, no more messages, no more promotions, no more ads, '
        'stop promotions, remove me, remove me from the list, take me off the list'),
    ('en', 'opt_out', 'marketing', true, 'cancel, end, quit, exit, remove, enough, no more'),
    ('en', 'opt_out', 'all', false,
        'stop all, stopall, do not contact me, don t contact me, do not message me, don t message me, '
        'do not text me, don t text me, stop messaging me, stop texting me, stop writing me, stop contacting me, '
        'never message me again, leave me alone'),
    ('en', 'opt_in', 'all', false, 'start, unstop, subscribe, opt in, optin, resubscribe'),
    ('pt', 'opt_out', 'marketing', false,
        'stop, descadastrar, descadastre, me descadastre, descadastro, cancelar inscricao, cancelar assinatura, '
        'nao quero mais receber, nao quero mais mensagens, nao quero promocoes, chega de mensagens, '
        'me tira da lista, me tire da lista, me remova da lista'),
    ('pt', 'opt_out', 'marketing', true, 'sair, parar, para, pare, cancelar, cancela, fim, remover, chega, encerrar'),
    ('pt', 'opt_out', 'all', false,
        'nao me mande mais mensagens, nao me mandem mais mensagens, nao me escreva mais, nao me escrevam mais, '
        'pare de me mandar mensagens, parem de me mandar mensagens, pare de me escrever, nao entre mais em contato, '
        'nao entrem mais em contato, nao me contate mais'),
    ('pt', 'opt_in', 'all', false, 'voltar a receber, quero receber, quero receber promocoes, reativar, inscrever')
) as v (language, kind, scope, is_only_after_bulk, phrases);

-- A statement about hearing from us.
create type private.consent as (
    tenant_id uuid, lead_id uuid, kind text, scope text, source text, evidence text, happened_at timestamptz
);

-- Keep statements, each once, and bring their leads up to date. Returns the leads who from now on refuse something and
-- did not before.
create function private.consents_record(p_said private.consent[]) returns uuid[]
language plpgsql set search_path = '' as $$
begin
    insert into public.consent_events (tenant_id, lead_id, kind, scope, source, evidence, happened_at)
    select s.tenant_id, s.lead_id, s.kind, s.scope, s.source, s.evidence, s.happened_at
    from unnest(p_said) s
    order by s.tenant_id, s.lead_id, s.source, s.kind, s.scope, s.happened_at
    on conflict on constraint consent_events_said_once_key do nothing;
    return private.consents_fold(
        array(select s.tenant_id from unnest(p_said) s), array(select s.lead_id from unnest(p_said) s));
end
$$;

-- What leads' statements come to, in the order of their time whatever that of their arrival. A refusal stands until it
-- is taken back later: one of marketing by any opt-in, one of all messages only by an opt-in to all. At the same moment
-- the refusal counts. opted_out_at is the first refusal that stands; what is refused altogether goes before marketing.
-- Returns the leads who refuse something and did not before.
create function private.consents_fold(p_tenants uuid[], p_leads uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
    v_began uuid[];
begin
    -- locked before it is read: who comes second sees what the first one added
    perform from public.customer_leads l
    join (select distinct * from unnest(p_tenants, p_leads) as k (tenant_id, id)) as w using (tenant_id, id)
    order by l.tenant_id, l.id
    for no key update of l;

    with folded as (
        select w.tenant_id, w.id, min(o.happened_at) as since, min(o.scope) as scope  -- all comes before marketing
        from (select distinct * from unnest(p_tenants, p_leads) as k (tenant_id, id)) as w
        left join public.consent_events o
            on o.tenant_id = w.tenant_id and o.lead_id = w.id and o.kind = 'opt_out' and not exists (
                select from public.consent_events i
                where i.tenant_id = o.tenant_id and i.lead_id = o.lead_id and i.kind = 'opt_in'
                    and i.happened_at > o.happened_at and i.scope in ('all', o.scope))
        group by w.tenant_id, w.id
    ),
    changed as (
        update public.customer_leads l set opted_out_at = f.since, opt_out_scope = f.scope
        from folded f
        join public.customer_leads before on before.tenant_id = f.tenant_id and before.id = f.id
        where l.tenant_id = f.tenant_id and l.id = f.id
            and (l.opted_out_at, l.opt_out_scope) is distinct from (f.since, f.scope)
        returning l.id, before.opt_out_scope is null as began
    )
    select coalesce(array_agg(c.id) filter (where c.began), '{}') into v_began from changed c;
    return v_began;
end
$$;

-- A message as keywords are compared: null where it is too long to be one.
create function private.consent_phrase(p_text text) returns text
language plpgsql immutable set search_path = '' as $$
begin
    if p_text is null or length(p_text) > 60 then
        return null;
    end if;
    -- a word with a hand or a face beside it is that word
    return coalesce(
        nullif(private.fold(regexp_replace(p_text, '[\u2190-\u2bff\U0001f000-\U0001faff]', ' ', 'g')), ''),
        private.fold(p_text));
end
$$;

-- Which events of customers are statements about hearing from us, by whole messages: the tenant's own words go first.
create function private.consents_said(p_events private.inbox_event[], p_live_after timestamptz)
returns table (ordinality bigint, kind text, scope text, is_only_after_bulk boolean)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    with phrases as materialized (
        select e.ordinality, e.tenant_id, private.consent_phrase(e.body ->> 'text') as phrase
        from unnest(p_events) with ordinality as e
        where e.kind = 'message' and e.at > p_live_after and (e.body ->> 'history')::boolean is not true
    ),
    own as materialized (
        select s.tenant_id, w.kind, w.scope, private.fold(w.word) as phrase
        from (select distinct p.tenant_id from phrases p where p.phrase is not null) as d
        join public.tenant_settings s on s.tenant_id = d.tenant_id
        cross join lateral (
            select 'opt_out' as kind, 'marketing' as scope, unnest(s.opt_out_keywords) as word
            union all
            select 'opt_in', 'all', unnest(s.opt_in_keywords)
        ) as w
    )
    select distinct on (p.ordinality) p.ordinality, k.kind, k.scope, k.is_only_after_bulk
    from phrases p
    cross join lateral (
        select o.kind, o.scope, false as is_only_after_bulk, 1 as n
        from own o
        where o.tenant_id = p.tenant_id and o.phrase = p.phrase
        union all
        select k.kind, k.scope, k.is_only_after_bulk, 2
        from public.consent_keywords k
        where k.phrase = p.phrase
    ) as k
    where p.phrase is not null
    order by p.ordinality, k.n, k.is_only_after_bulk, k.kind desc;
end
$$;

-- Was the last thing we sent to that customer, within a day before, something they had not asked for? Somebody may have
-- written from the phone in between, in this very batch.
create function private.follows_bulk(
    p_tenant_id uuid, p_number_id uuid, p_lead_id uuid, p_at timestamptz, p_echoes timestamptz[]
) returns boolean
language plpgsql stable set search_path = '' as $$
begin
    return exists (
        select from (
            select m.source, m.type, m.data, m.sent_at
            from public.chats c
            join public.messages m on m.tenant_id = c.tenant_id and m.chat_id = c.id
            where c.tenant_id = p_tenant_id and c.number_id = p_number_id and c.lead_id = p_lead_id
                and m.direction = 'outbound' and m.sent_at <= p_at and m.provider_at > p_at - interval '2 days'
            order by m.sent_at desc
            limit 1
        ) as sent
        where sent.sent_at > p_at - interval '1 day'
            and (sent.source in ('sequence', 'daily_action')
                or sent.type = 'template' and sent.data ->> 'category' = 'marketing')
            and not exists (select from unnest(p_echoes) e where e between sent.sent_at and p_at));
end
$$;

-- The statements among events: keywords and the switch inside WhatsApp. Returns the messages that are refusals.
create function private.inbox_consent(p_events private.inbox_event[], p_leads uuid[]) returns private.refusal[]
language plpgsql set search_path = '' as $$
declare
    v_live_after timestamptz := private.clock() - interval '24 hours';
    v_said private.consent[];
    v_refusals private.refusal[];
    v_began uuid[];
begin
    select
        array_agg((e.tenant_id, p_leads[e.ordinality], s.kind, s.scope, s.source, e.body ->> 'text', e.at)
            ::private.consent),
        array_agg((e.tenant_id, e.number_id, e.id, p_leads[e.ordinality], null)::private.refusal order by e.at)
            filter (where s.kind = 'opt_out' and s.source = 'keyword')
    into v_said, v_refusals
    from unnest(p_events) with ordinality as e
    join (
        select w.ordinality, w.kind, w.scope, 'keyword' as source
        from private.consents_said(p_events, v_live_after) w
        join unnest(p_events) with ordinality as said on said.ordinality = w.ordinality
        where not w.is_only_after_bulk or private.follows_bulk(
            said.tenant_id, said.number_id, p_leads[said.ordinality], said.at, array(
                select x.at from unnest(p_events) with ordinality as x
                where x.kind = 'echo' and x.tenant_id = said.tenant_id and x.number_id = said.number_id
                    and p_leads[x.ordinality] = p_leads[said.ordinality]))
        union all
        select p.ordinality, case p.body ->> 'value' when 'stop' then 'opt_out' else 'opt_in' end, 'marketing', 'provider'
        from unnest(p_events) with ordinality as p
        where p.kind = 'preference' and p.body ->> 'value' in ('stop', 'resume', 'signup')
    ) as s on s.ordinality = e.ordinality;
    if v_said is null then
        return array[]::private.refusal[];
    end if;
    v_began := private.consents_record(v_said);
    return array(
        select (r.tenant_id, r.number_id, r.wa_message_id, r.lead_id,
            r.lead_id = any(v_began) and row_number() over (partition by r.lead_id order by r.ordinality) = 1
        )::private.refusal
        from unnest(v_refusals) with ordinality as r);
end
$$;

-- Sends that failed because the customer refuses marketing.
create function private.consents_of_failures(p_events private.inbox_event[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_said private.consent[];
begin
    select array_agg((e.tenant_id, m.lead_id, 'opt_out', 'marketing', 'provider',
        'error ' || (e.body #>> '{error,code}'), e.at)::private.consent)
    into v_said
    from unnest(p_events) e
    join public.messages m on m.tenant_id = e.tenant_id and m.id = e.target_id
    where e.kind = 'status' and private.is_refusal(e.body);
    if v_said is not null then
        perform private.consents_record(v_said);
    end if;
end
$$;

-- Tell customers, once, that their refusal was understood. It goes out as if a colleague had written it: a takeover of
-- the chat must not hold it up. Who refuses all messages gets none, not even this.
create function private.opt_outs_confirm(p_stored private.inbox_message[], p_refusals private.refusal[]) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.outbox_enqueue(array_agg(private.outgoing(
        m.tenant_id, m.chat_id, 'staff', 'api', 'system', s.opt_out_confirmation) order by m.tenant_id, m.chat_id))
    from unnest(p_refusals) r
    join unnest(p_stored) m
        on m.tenant_id = r.tenant_id and m.number_id = r.number_id and m.wa_message_id = r.wa_message_id
    join public.customer_leads l
        on l.tenant_id = r.tenant_id and l.id = r.lead_id and l.opt_out_scope = 'marketing'
    join public.tenant_settings s on s.tenant_id = r.tenant_id
    where r.is_first and s.opt_out_confirmation is not null
    having count(*) > 0;
end
$$;

grant execute on function
    private.consents_record(private.consent[]), private.consents_fold(uuid[], uuid[]),
    private.consent_phrase(text), private.consents_said(private.inbox_event[], timestamptz),
    private.follows_bulk(uuid, uuid, uuid, timestamptz, timestamptz[]),
    private.inbox_consent(private.inbox_event[], uuid[]), private.consents_of_failures(private.inbox_event[]),
    private.opt_outs_confirm(private.inbox_message[], private.refusal[])
    to service_role;

-- The chats of a lead, locked in the order of their ids.
create function private.chats_locked(p_tenant_id uuid, p_lead_id uuid) returns private.chat_ref[]
language plpgsql set search_path = '' as $$
begin
    return array(
        select (c.tenant_id, c.id)::private.chat_ref from public.chats c
        where c.tenant_id = p_tenant_id and c.lead_id = p_lead_id
        order by c.id
        for no key update);
end
$$;

-- Definer: staff may not write consent events, only report what a customer told them.
create function private.consent_record(p_lead_id uuid, p_kind text, p_scope text, p_evidence text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    if p_kind is null or p_kind not in ('opt_out', 'opt_in') or p_scope is null or p_scope not in ('all', 'marketing') then
        perform private.refuse('PT400', 'consent');
    elsif private.is_blank(p_evidence) or length(p_evidence) > 2000 then
        perform private.refuse('PT400', 'consent_evidence', '{"longest": 2000}');
    end if;
    perform from public.customer_leads where tenant_id = v_tenant_id and id = p_lead_id;
    if not found then
        perform private.refuse('PT404', 'no_lead');
    end if;
    if p_kind = 'opt_out' then
        perform private.enrollments_end(private.chats_locked(v_tenant_id, p_lead_id), 'opted_out', 'opted_out');
    end if;
    perform private.consents_record(array[(
        v_tenant_id, p_lead_id, p_kind, p_scope, 'staff', p_evidence, private.clock())::private.consent]);
    return (
        select jsonb_build_object('opted_out_at', l.opted_out_at, 'opt_out_scope', l.opt_out_scope)
        from public.customer_leads l
        where l.tenant_id = v_tenant_id and l.id = p_lead_id);
end
$$;

-- Staff report what a customer told them, with how and when; answers {"opted_out_at", "opt_out_scope"} as they are now.
create function public.consent_record(p_lead_id uuid, p_kind text, p_scope text, p_evidence text) returns jsonb
language sql set search_path = '' as $$
    select private.consent_record(p_lead_id, p_kind, p_scope, p_evidence)
$$;
grant execute on function private.consent_record(uuid, text, text, text),
    public.consent_record(uuid, text, text, text) to authenticated;
