-- Phrases: whatever the database tells people, in their own language. Each domain adds its own beside its functions.

create table private.phrases (
    kind text,
    reason text,
    es text not null,
    en text not null,
    pt text not null,
    constraint phrases_pkey primary key (kind, reason),
    constraint phrases_kind_check check (
        kind in ('refusal', 'hint', 'fault', 'label', 'reason', 'warning', 'note'))
);
comment on table private.phrases is
    'Sentences for people, by language; {names} in them are filled in. A refusal has a hint of the same reason.';
comment on column private.phrases.kind is
    'refusal: why something was not done; hint: what to do; fault: what is wrong with a value; label: how a thing is '
    'called; reason, warning, note: of the send decision.';

alter table private.phrases enable row level security;
grant select on private.phrases to authenticated, service_role;
create policy phrases_select_anyone on private.phrases for select to authenticated using (true);

-- The caller's language; null when nobody of a business calls.
create function private.my_locale() returns text
language plpgsql stable set search_path = '' as $$
begin
    return (select u.locale from public.users u where u.id = (select private.my_user_id()));
end
$$;

-- A phrase with its names filled in, in the caller's language unless another is given. Spanish where we do not speak
-- it, or do not know it.
create function private.phrase(
    p_kind text, p_reason text, p_values jsonb default '{}', p_locale text default private.my_locale()
) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_phrase text;
    v_name text;
    v_value text;
begin
    select case split_part(p_locale, '-', 1) when 'en' then p.en when 'pt' then p.pt else p.es end into v_phrase
    from private.phrases p
    where p.kind = p_kind and p.reason = p_reason;
    for v_name, v_value in select * from jsonb_each_text(p_values) loop
        v_phrase := replace(v_phrase, '{' || v_name || '}', coalesce(v_value, ''));
    end loop;
    return v_phrase;
end
$$;

-- Refuse in these words: sentence and hint are for people, details ({"reason", …} as text) for programs.
create function private.refuse_as(
    p_code text, p_reason text, p_message text, p_hint text, p_details jsonb default '{}'
) returns void
language plpgsql stable set search_path = '' as $$
begin
    raise exception using errcode = p_code, message = p_message, hint = p_hint,
        detail = (jsonb_strip_nulls(p_details) || jsonb_build_object('reason', p_reason))::text;
end
$$;

-- Refuse in the phrases of this reason, in the caller's language unless another is given.
create function private.refuse(
    p_code text, p_reason text, p_values jsonb default '{}', p_details jsonb default '{}',
    p_locale text default private.my_locale()
) returns void
language plpgsql stable set search_path = '' as $$
begin
    perform private.refuse_as(p_code, p_reason, private.phrase('refusal', p_reason, p_values, p_locale),
        private.phrase('hint', p_reason, p_values, p_locale), p_details);
end
$$;
grant execute on function private.my_locale(), private.phrase(text, text, jsonb, text),
    private.refuse_as(text, text, text, text, jsonb), private.refuse(text, text, jsonb, jsonb, text)
    to authenticated, service_role;

-- Of people, seats and numbers.
insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_seat', 'Usted no forma parte de ningún negocio.', 'You hold no seat in a business.',
        'Você não faz parte de nenhum negócio.'),
    ('hint', 'no_seat', 'Pida a un administrador del negocio que le invite.',
        'Ask an admin of the business to invite you.', 'Peça a um administrador do negócio que o convide.'),
    ('refusal', 'not_admin', 'Solo un administrador del negocio puede hacer esto.',
        'Only an admin of the business may do this.', 'Só um administrador do negócio pode fazer isto.'),
    ('hint', 'not_admin', 'Pídaselo al dueño o a un administrador.', 'Ask the owner or an admin.',
        'Peça ao dono ou a um administrador.'),
    ('refusal', 'role', 'No existe el rol «{role}».', 'There is no role "{role}".', 'Não existe a função "{role}".'),
    ('hint', 'role', 'Elija admin, user o agent.', 'Choose admin, user or agent.', 'Escolha admin, user ou agent.'),
    ('refusal', 'no_colleague', 'No hay tal persona en su negocio.', 'There is no such person in your business.',
        'Não há tal pessoa no seu negócio.'),
    ('hint', 'no_colleague', 'Sus colegas activos están en la tabla users.',
        'Your active colleagues are in the table users.', 'Os seus colegas ativos estão na tabela users.'),
    ('refusal', 'owner', 'Al dueño no se le puede quitar ni cambiar el rol.',
        'The owner can be neither removed nor given another role.',
        'O dono não pode ser removido nem receber outra função.'),
    ('hint', 'owner', 'Traspase antes el negocio con ownership_transfer.',
        'Hand the business over first, with ownership_transfer.',
        'Transfira antes o negócio com ownership_transfer.'),
    ('refusal', 'email', 'Esto no es una dirección de correo.', 'This is not an e-mail address.',
        'Isto não é um endereço de e-mail.'),
    ('hint', 'email', 'Escríbala como nombre@ejemplo.com.', 'Write it as name@example.com.',
        'Escreva-o como nome@exemplo.com.'),
    ('refusal', 'is_colleague', 'Esta persona ya está en su negocio, o ya fue invitada.',
        'This person is in your business already, or invited.',
        'Esta pessoa já está no seu negócio ou já foi convidada.'),
    ('hint', 'is_colleague', 'Use staff_change_role para darle otro rol.',
        'Use staff_change_role to give them another role.', 'Use staff_change_role para lhe dar outra função.'),
    ('refusal', 'is_elsewhere', 'Esta persona pertenece a otro negocio.', 'This person belongs to another business.',
        'Esta pessoa pertence a outro negócio.'),
    ('hint', 'is_elsewhere', 'Cada persona trabaja en un solo negocio: debe dejar el otro o usar otro correo.',
        'One person works for one business: they must leave the other, or use another e-mail.',
        'Cada pessoa trabalha num só negócio: tem de deixar o outro ou usar outro e-mail.'),
    ('refusal', 'yourself', 'No puede quitarse a sí mismo.', 'You cannot remove yourself.',
        'Você não pode remover a si mesmo.'),
    ('hint', 'yourself', 'Pídaselo a otro administrador.', 'Ask another admin.', 'Peça a outro administrador.'),
    ('refusal', 'not_owner', 'Solo el dueño puede traspasar el negocio.', 'Only the owner may hand the business over.',
        'Só o dono pode transferir o negócio.'),
    ('hint', 'not_owner', 'Pídaselo al dueño.', 'Ask the owner to do it.', 'Peça ao dono que o faça.'),
    ('refusal', 'is_owner', 'El negocio ya es suyo.', 'The business is yours already.', 'O negócio já é seu.'),
    ('hint', 'is_owner', 'Indique el colega que debe tenerlo.', 'Name the colleague who shall have it.',
        'Indique o colega que o deve ter.'),
    ('refusal', 'not_signed_up', 'Esta persona todavía no se ha registrado.', 'This person has not signed up yet.',
        'Esta pessoa ainda não se registou.'),
    ('hint', 'not_signed_up', 'Traspase el negocio cuando haya aceptado la invitación.',
        'Hand the business over once they have accepted the invitation.',
        'Transfira o negócio quando ela tiver aceitado o convite.'),
    ('refusal', 'plan_whatsapp_numbers',
        'Números de WhatsApp en el plan {plan}: {limit} como mucho, y este sería el {count}.',
        'WhatsApp numbers in the plan {plan}: {limit} at most, and this would be number {count}.',
        'Números de WhatsApp no plano {plan}: {limit} no máximo, e este seria o {count}.'),
    ('hint', 'plan_whatsapp_numbers', 'Desactive otro número o cambie a un plan mayor.',
        'Deactivate another number, or change to a larger plan.', 'Desative outro número ou mude para um plano maior.'),
    ('refusal', 'plan_ai_agents', 'Agentes en el plan {plan}: {limit} como mucho, y este sería el {count}.',
        'Agents in the plan {plan}: {limit} at most, and this would be number {count}.',
        'Agentes no plano {plan}: {limit} no máximo, e este seria o {count}.'),
    ('hint', 'plan_ai_agents', 'Desactive otro agente o cambie a un plan mayor.',
        'Deactivate another agent, or change to a larger plan.', 'Desative outro agente ou mude para um plano maior.'),
    ('refusal', 'number_disconnected', 'Este número está desconectado.', 'This number is disconnected.',
        'Este número está desconectado.'),
    ('hint', 'number_disconnected', 'Conéctelo de nuevo con su token: connect-number.',
        'Connect it again with its token: connect-number.', 'Conecte-o de novo com o seu token: connect-number.'),
    ('refusal', 'number_taken', 'Este número ya está conectado.', 'This number is already connected.',
        'Este número já está conectado.'),
    ('hint', 'number_taken',
        'Un número sirve a un negocio a través de un proveedor: desconéctelo donde esté activo.',
        'One number serves one business through one provider: disconnect it where it is active.',
        'Um número serve a um negócio através de um provedor: desconecte-o onde estiver ativo.'),
    ('refusal', 'no_number', 'No hay tal número en su negocio.', 'There is no such number in your business.',
        'Não há tal número no seu negócio.'),
    ('hint', 'no_number', 'Tome su id de whatsapp_numbers.', 'Read its id from whatsapp_numbers.',
        'Leia o seu id em whatsapp_numbers.');

-- Of customers and conversations.
insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_chat', 'No hay tal chat.', 'There is no such chat.', 'Não há tal chat.'),
    ('hint', 'no_chat',
        'Tome su id de inbox_list(); para empezar uno, indique p_lead_id y p_number_id de su negocio.',
        'Read its id from inbox_list(); to begin one, give p_lead_id and p_number_id of your business.',
        'Leia o seu id em inbox_list(); para começar um, indique p_lead_id e p_number_id do seu negócio.'),
    ('refusal', 'no_conversation', 'No hay tal conversación.', 'There is no such conversation.',
        'Não há tal conversa.'),
    ('hint', 'no_conversation', 'Tome su id de inbox_list() o conversations.',
        'Read its id from inbox_list() or conversations.', 'Leia o seu id em inbox_list() ou conversations.'),
    ('refusal', 'conversation_closed', 'Esta conversación ya está cerrada.', 'This conversation is closed already.',
        'Esta conversa já está fechada.'),
    ('hint', 'conversation_closed', 'Use conversation_reopen() para seguir con ella.',
        'Use conversation_reopen() to go on with it.', 'Use conversation_reopen() para continuá-la.'),
    ('refusal', 'conversation_open', 'Este chat ya tiene una conversación abierta.',
        'This chat has an open conversation already.', 'Este chat já tem uma conversa aberta.'),
    ('hint', 'conversation_open', 'Siga en ella o ciérrela antes.', 'Go on there, or close it first.',
        'Continue nela ou feche-a antes.'),
    ('refusal', 'leads_role', 'Su rol no permite cambiar clientes.', 'Your role may not change leads.',
        'A sua função não permite alterar clientes.'),
    ('hint', 'leads_role', 'Pida a un administrador el rol user.', 'Ask an admin for the role user.',
        'Peça a um administrador a função user.'),
    ('refusal', 'no_lead', 'No hay tal cliente.', 'There is no such customer.', 'Não há tal cliente.'),
    ('hint', 'no_lead', 'Tome su id de customer_leads.', 'Read its id from customer_leads.',
        'Leia o seu id em customer_leads.'),
    ('refusal', 'one_lead', 'Es un solo cliente.', 'That is one customer.', 'É um só cliente.'),
    ('hint', 'one_lead', 'Indique dos clientes distintos de customer_leads.',
        'Pass two different customers of customer_leads.', 'Indique dois clientes diferentes de customer_leads.'),
    ('refusal', 'no_two_leads', 'No existen esos dos clientes.', 'There are no two such customers.',
        'Não existem esses dois clientes.'),
    ('hint', 'no_two_leads', 'Indique dos clientes distintos de su negocio.',
        'Pass two different customers of your business.', 'Indique dois clientes diferentes do seu negócio.'),
    ('refusal', 'merge_keep', 'Los datos que se conservan no son de ninguno de los dos clientes.',
        'The details to keep are of neither customer.', 'Os dados a manter não são de nenhum dos dois clientes.'),
    ('hint', 'merge_keep', 'Indique uno de los dos ids en p_keep, o nada.',
        'Pass one of the two ids as p_keep, or nothing.', 'Indique um dos dois ids em p_keep, ou nada.'),
    ('refusal', 'no_merge_candidate', 'Nadie tomó a estos dos por un mismo cliente.',
        'Nobody took these two for one customer.', 'Ninguém tomou estes dois pelo mesmo cliente.'),
    ('hint', 'no_merge_candidate', 'Los pares que esperan están en lead_merge_candidates.',
        'Read lead_merge_candidates for the pairs that wait.', 'Os pares que esperam estão em lead_merge_candidates.'),
    ('refusal', 'consent', 'Esto no dice si el cliente quiere recibir mensajes.',
        'This is no statement about hearing from us.', 'Isto não diz se o cliente quer receber mensagens.'),
    ('hint', 'consent', 'p_kind es opt_out u opt_in; p_scope es marketing o all.',
        'p_kind is opt_out or opt_in, p_scope is marketing or all.',
        'p_kind é opt_out ou opt_in; p_scope é marketing ou all.'),
    ('refusal', 'consent_evidence',
        'Hace falta una prueba de lo que dijo el cliente, de {longest} caracteres como mucho.',
        'A statement needs its evidence, of {longest} characters at most.',
        'É preciso uma prova do que o cliente disse, com no máximo {longest} caracteres.'),
    ('hint', 'consent_evidence', 'Diga en p_evidence cuándo y cómo lo dijo.',
        'Say in p_evidence when and how the customer told you.', 'Diga em p_evidence quando e como ele o disse.'),
    ('refusal', 'no_pending_manual', 'No hay tal mensaje pendiente.', 'There is no such open entry.',
        'Não há tal mensagem pendente.'),
    ('hint', 'no_pending_manual', 'Tome su id de pending_manual_list(); quizá alguien ya lo atendió.',
        'Read its id from pending_manual_list(); somebody may have dealt with it meanwhile.',
        'Leia o seu id em pending_manual_list(); talvez alguém já o tenha tratado.'),
    ('refusal', 'no_alert', 'No hay tal alerta.', 'There is no such alert.', 'Não há tal alerta.'),
    ('hint', 'no_alert', 'Tome su id de alerts.', 'Read its id from alerts.', 'Leia o seu id em alerts.');
