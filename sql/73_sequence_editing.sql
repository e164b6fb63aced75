-- Writing sequences: a document is checked whole, and each fault is told with its place. What people edit and what
-- they import goes the same way.

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_sequence', 'No hay tal secuencia.', 'There is no such sequence.', 'Não há tal sequência.'),
    ('hint', 'no_sequence', 'Tome su id de sequences; una borrada ya no se puede cambiar.',
        'Read its id from sequences; one that was deleted cannot be changed.',
        'Leia o seu id em sequences; uma apagada já não se pode mudar.'),
    ('refusal', 'sequence_name', 'name: ya hay otra secuencia que se llama «{name}».',
        'name: another sequence is called "{name}" already.', 'name: já há outra sequência que se chama "{name}".'),
    ('hint', 'sequence_name', 'Elija otro nombre.', 'Choose another name.', 'Escolha outro nome.'),
    ('refusal', 'sequence_switch', 'Falta p_is_active.', 'p_is_active is missing.', 'Falta p_is_active.'),
    ('hint', 'sequence_switch', 'Diga true o false.', 'Say true or false.', 'Diga true ou false.'),
    ('hint', 'sequence_document', 'Corrija el documento y guárdelo otra vez: no se ha cambiado nada.',
        'Correct the document and save it again: nothing of it was changed.',
        'Corrija o documento e salve-o outra vez: nada foi mudado.'),
    ('hint', 'sequence_placeholders', 'Los campos son {{{known}}} y {{metadata.…}}; en {{name|amigo}} lo segundo va si '
        'falta lo primero.', 'Placeholders are {{{known}}} and {{metadata.…}}; of {{name|friend}} the second stands '
        'where the first is not known.', 'Os campos são {{{known}}} e {{metadata.…}}; em {{name|amigo}} vai o segundo '
        'se falta o primeiro.'),
    ('fault', 'doc_missing', 'falta', 'is missing', 'falta'),
    ('fault', 'doc_text', 'debe ser un texto', 'must be a text', 'deve ser um texto'),
    ('fault', 'doc_integer', 'debe ser un número entero', 'must be a whole number', 'deve ser um número inteiro'),
    ('fault', 'doc_list', 'debe ser una lista', 'must be a list', 'deve ser uma lista'),
    ('fault', 'doc_object', 'debe ser un objeto', 'must be an object', 'deve ser um objeto'),
    ('fault', 'doc_empty', 'está vacío', 'is empty', 'está vazio'),
    ('fault', 'doc_long', 'es demasiado largo: {length} caracteres, como mucho {to}',
        'is too long: {length} characters, at most {to}', 'é longo demais: {length} caracteres, no máximo {to}'),
    ('fault', 'doc_choice', 'es {value}; debe ser uno de {words}', 'is {value}; it must be one of {words}',
        'é {value}; deve ser um de {words}'),
    ('fault', 'doc_time', 'debe ser una hora del día: HH:MM', 'must be a time of day: HH:MM',
        'deve ser uma hora do dia: HH:MM'),
    ('fault', 'doc_moment', 'debe ser una fecha', 'must be a time', 'deve ser uma data'),
    ('fault', 'doc_range', 'es {value}; debe ser de {from} a {to}', 'is {value}; it must be from {from} to {to}',
        'é {value}; deve ser de {from} a {to}'),
    ('fault', 'doc_items', 'tiene {length} elementos; debe tener de {from} a {to}',
        'has {length} items; it must have from {from} to {to}', 'tem {length} elementos; deve ter de {from} a {to}'),
    ('fault', 'doc_words', 'debe ser una lista de 100 textos cortos como mucho',
        'must be a list of at most 100 short texts', 'deve ser uma lista de no máximo 100 textos curtos'),
    ('fault', 'doc_keys', 'tiene una clave desconocida: {keys}; puede tener {words}',
        'has an unknown key: {keys}; it may have {words}', 'tem uma chave desconhecida: {keys}; pode ter {words}'),
    ('fault', 'doc_span', 'debe ser {"days", "hours", "minutes"}, en números enteros',
        'must be {"days", "hours", "minutes"}, whole numbers',
        'deve ser {"days", "hours", "minutes"}, números inteiros'),
    ('fault', 'doc_minutes', 'son {length} minutos; debe ser de {from} a {to}',
        'is {length} minutes; it must be from {from} to {to}', 'são {length} minutos; deve ser de {from} a {to}'),
    ('fault', 'doc_unasked', 'no le corresponde', 'does not belong there', 'não lhe corresponde'),
    ('fault', 'doc_key', 'debe ser de letras, cifras, puntos y guiones',
        'must be of letters, digits, dots, dashes and underscores', 'deve ser de letras, algarismos, pontos e traços'),
    ('fault', 'doc_key_twice', 'es la clave de otro paso también', 'is the key of another step too',
        'é a chave de outro passo também'),
    ('fault', 'doc_nothing', 'no tiene nada que enviar: text, media o template',
        'has nothing to send: text, media or template', 'não tem nada para enviar: text, media ou template'),
    ('fault', 'doc_two_times', 'tiene at y before_window_closes a la vez', 'has both at and before_window_closes',
        'tem at e before_window_closes ao mesmo tempo'),
    ('fault', 'doc_audio', 'tiene un texto, que no puede ir con un audio', 'has a text, which cannot go with audio',
        'tem um texto, que não pode ir com um áudio'),
    ('fault', 'doc_two_bodies', 'tiene una plantilla junto a su texto: use on_window_closed: use_template o quite una',
        'has a template beside its own text: say on_window_closed: use_template, or leave one out',
        'tem um modelo junto ao seu texto: use on_window_closed: use_template ou tire um deles'),
    ('fault', 'doc_template_none', 'no es una de las plantillas del negocio: {template}',
        'is not one of the business''s templates: {template}', 'não é um dos modelos do negócio: {template}'),
    ('fault', 'doc_template_many', 'puede ser una de varias: diga su idioma y su cuenta, o su id',
        'may be one of several: say its language and account, or its id',
        'pode ser um de vários: diga o idioma e a conta, ou o id'),
    ('fault', 'doc_placeholder', 'tiene un campo desconocido: {unknown}', 'has an unknown placeholder: {unknown}',
        'tem um campo desconhecido: {unknown}'),
    ('fault', 'doc_placeholder_open', 'tiene un campo que no se cierra o no se abre: {{name}}',
        'has a placeholder that is not closed, or not opened: {{name}}',
        'tem um campo que não se fecha ou não se abre: {{name}}');

-- Placeholders: {{name}}, or {{name|amigo}} with what stands there when the name is not known.

-- What a placeholder may be called; besides these {{metadata.…}} with a key of customer_leads.metadata.
create function private.placeholder_names() returns text[]
language sql immutable set search_path = '' as $$
    select array['name', 'first_name', 'user_name', 'phone', 'email', 'company', 'customer_type', 'status', 'label1',
        'label2', 'label3', 'next_action', 'business', 'number']
$$;

-- What is wrong with the placeholders of a text; null: nothing.
create function private.placeholder_fault(p_text text) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_unknown text := (
        select string_agg(format('{{%s}}', p.name), ', ')
        from regexp_matches(p_text, '\{\{([^{}|]*)(?:\|[^{}]*)?\}\}', 'g') as m
        cross join lateral (select btrim(m[1]) as name) as p
        where p.name <> all (private.placeholder_names()) and p.name !~ '^metadata\.\S+$');
begin
    return case
        when v_unknown <> '' then private.phrase(
            'fault', 'doc_placeholder', jsonb_build_object('unknown', v_unknown))
        when regexp_replace(p_text, '\{\{([^{}|]*)(\|[^{}]*)?\}\}', '', 'g') ~ '\{\{|\}\}'
            then private.phrase('fault', 'doc_placeholder_open')
    end;
end
$$;

-- A text with its placeholders filled in. p_is_json: it is JSON, and stays it. Word by word, since it is done for every
-- message: a regular expression takes five times as long.
create function private.placeholders_fill(p_text text, p_values jsonb, p_is_json boolean default false) returns text
language plpgsql immutable set search_path = '' as $$
declare
    v_filled text := '';
    v_rest text := p_text;
    v_from int := position('{{' in p_text);
    v_blank text;
    v_value text;
begin
    while v_from > 0 loop
        v_blank := substr(v_rest, v_from + 2, position('}}' in v_rest) - v_from - 2);
        v_value := nullif(btrim(p_values #>> string_to_array(btrim(split_part(v_blank, '|', 1)), '.')), '');
        if v_value is null then
            v_value := btrim(substr(v_blank, length(split_part(v_blank, '|', 1)) + 2));
        elsif p_is_json then
            v_value := to_json(v_value)::text;
            v_value := substr(v_value, 2, length(v_value) - 2);
        end if;
        v_filled := v_filled || substr(v_rest, 1, v_from - 1) || v_value;
        v_rest := substr(v_rest, position('}}' in v_rest) + 2);
        v_from := position('{{' in v_rest);
    end loop;
    return v_filled || v_rest;
end
$$;

-- {placeholder: value} of a lead, for messages from that number.
create function private.placeholder_values(
    p_lead public.customer_leads, p_number public.whatsapp_numbers, p_business text
) returns jsonb
language plpgsql immutable set search_path = '' as $$
declare
    v_name text := coalesce(nullif(p_lead.name, p_lead.phone), p_lead.user_name);
begin
    return jsonb_build_object('name', v_name, 'first_name', split_part(btrim(v_name), ' ', 1),
        'user_name', p_lead.user_name, 'phone', p_lead.phone, 'email', p_lead.email, 'company', p_lead.company,
        'customer_type', p_lead.customer_type, 'status', coalesce(p_lead.profile_status, p_lead.lead_status),
        'label1', p_lead.label1, 'label2', p_lead.label2, 'label3', p_lead.label3, 'next_action', p_lead.next_action,
        'business', p_business, 'number', p_number.display_name, 'metadata', p_lead.metadata);
end
$$;

-- Documents.

-- What is wrong with a value, given what it should be; null: nothing, or it is left out. kind: text (from..to
-- characters), integer, list (from..to items), words (a list of texts), choice and object (of those words), time,
-- span ({"days", "hours", "minutes"}: from..to minutes), moment.
create function private.json_fault(p_value jsonb, p_kind text, p_from int, p_to int, p_words text[]) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_type text := coalesce(jsonb_typeof(p_value), 'null');
    v_text text := p_value #>> '{}';
    v_fault text := case
        when v_type = 'null' then null
        when p_kind in ('text', 'choice', 'time', 'moment') and v_type <> 'string' then 'text'
        when p_kind = 'integer' and (v_type <> 'number' or v_text !~ '^-?\d{1,9}$') then 'integer'
        when p_kind in ('list', 'words') and v_type <> 'array' then 'list'
        when p_kind in ('object', 'span') and v_type <> 'object' then 'object'
        when p_kind = 'text' and length(btrim(v_text, E' \t\r\n')) < p_from then 'empty'
        when p_kind = 'text' and length(v_text) > p_to then 'long'
        when p_kind = 'choice' and v_text <> all (p_words) then 'choice'
        when p_kind = 'time' and v_text !~ '^([01]\d|2[0-3]):[0-5]\d$' then 'time'
        when p_kind = 'moment' and private.as_time(v_text) is null then 'moment'
        when p_kind = 'integer' and v_text::int not between p_from and p_to then 'range'
        when p_kind = 'list' and jsonb_array_length(p_value) not between p_from and p_to then 'items'
        when p_kind = 'words' and (jsonb_array_length(p_value) > 100 or p_value @? 'strict $[*] ? (@.type() != "string"
            || @ like_regex "^\\s*$" || @ like_regex "^.{201}")') then 'words'
        when p_kind = 'object' and exists (select from jsonb_object_keys(p_value) k where k <> all (p_words)) then 'keys'
        when p_kind = 'span' and (p_value - '{days,hours,minutes}'::text[] <> '{}'
            or p_value @? 'strict $.* ? (@.type() != "number" || @ < 0 || @ > 600000 || @.floor() != @)') then 'span'
        when p_kind = 'span' and private.span_minutes(p_value) not between p_from and p_to then 'minutes'
    end;
begin
    return private.phrase('fault', 'doc_' || v_fault, jsonb_build_object('value', v_text, 'from', p_from, 'to', p_to,
        'words', array_to_string(p_words, ', '), 'length', case v_fault
            when 'long' then length(v_text) when 'items' then jsonb_array_length(p_value)
            when 'minutes' then private.span_minutes(p_value) end,
        'keys', case v_fault when 'keys' then (
            select string_agg(k, ', ') from jsonb_object_keys(p_value) k where k <> all (p_words)) end));
end
$$;

create function private.span_minutes(p_span jsonb) returns int
language sql immutable set search_path = '' as $$
    select coalesce((p_span ->> 'days')::numeric * 1440, 0)::int + coalesce((p_span ->> 'hours')::numeric * 60, 0)::int
        + coalesce((p_span ->> 'minutes')::numeric, 0)::int
$$;

-- A value as it must be an array to be looked into; whatever is wrong with it is told elsewhere.
create function private.json_items(p_value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
    select case jsonb_typeof(p_value) when 'array' then p_value else '[]' end
$$;

-- What is wrong with a document but its steps, in the order in which it is read.
create function private.sequence_head_faults(p_document jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select c.path, coalesce(
        case when c.is_required and coalesce(jsonb_typeof(c.value), 'null') = 'null' then private.phrase('fault', 'doc_missing') end,
        private.json_fault(c.value, c.kind, c.at_least, c.at_most, c.words)) as fault
    from (
        values
            (1, 'document', p_document, true, 'object', null, null, array['format', 'name', 'description', 'priority',
                'goal', 'stop', 'on_reply', 'triggers', 'steps']),
            (2, 'name', p_document -> 'name', true, 'text', 1, 200, null),
            (3, 'description', p_document -> 'description', false, 'text', 0, 2000, null),
            (4, 'priority', p_document -> 'priority', false, 'integer', 1, 5, null),
            (5, 'goal', p_document -> 'goal', false, 'object', null, null,
                array['description', 'tags', 'statuses', 'outcomes']),
            (6, 'goal.description', p_document #> '{goal,description}', false, 'text', 0, 2000, null),
            (7, 'goal.tags', p_document #> '{goal,tags}', false, 'words', null, null, null),
            (8, 'goal.statuses', p_document #> '{goal,statuses}', false, 'words', null, null, null),
            (9, 'goal.outcomes', p_document #> '{goal,outcomes}', false, 'words', null, null, null),
            (10, 'stop', p_document -> 'stop', false, 'object', null, null, array['tags', 'statuses', 'outcomes']),
            (11, 'stop.tags', p_document #> '{stop,tags}', false, 'words', null, null, null),
            (12, 'stop.statuses', p_document #> '{stop,statuses}', false, 'words', null, null, null),
            (13, 'stop.outcomes', p_document #> '{stop,outcomes}', false, 'words', null, null, null),
            (14, 'on_reply', p_document -> 'on_reply', false, 'object', null, null, array['resume', 'hours']),
            (15, 'on_reply.resume', p_document #> '{on_reply,resume}', p_document ? 'on_reply', 'choice', null, null,
                array['never', 'silence', 'manual']),
            (16, 'on_reply.hours', p_document #> '{on_reply,hours}', p_document #>> '{on_reply,resume}' = 'silence',
                'integer', 1, 8760, null),
            (17, 'triggers', p_document -> 'triggers', false, 'list', 0, 100, null),
            (18, 'steps', p_document -> 'steps', true, 'list', 1, 100, null)
    ) as c (n, path, value, is_required, kind, at_least, at_most, words)
    union all
    select format('triggers[%s]%s', t.n - 1, c.path), coalesce(
        case when c.is_required and coalesce(jsonb_typeof(c.value), 'null') = 'null' then private.phrase('fault', 'doc_missing')
            when c.path = '.value' and t.item ->> 'on' = 'new_lead' and c.value is not null then
                private.phrase('fault', 'doc_unasked') end,
        private.json_fault(c.value, c.kind, 1, 200, c.words))
    from jsonb_array_elements(private.json_items(p_document -> 'triggers')) with ordinality as t (item, n)
    cross join lateral (
        values
            ('', t.item, true, 'object', array['on', 'value']),
            ('.on', t.item -> 'on', true, 'choice', array['new_lead', 'ad', 'keyword', 'tag', 'status']),
            ('.value', t.item -> 'value', t.item ->> 'on' in ('keyword', 'tag', 'status'), 'text', null)
    ) as c (path, value, is_required, kind, words);
end
$$;

-- What is wrong with the form of its steps.
create function private.sequence_step_faults(p_document jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select format('steps[%s]%s', s.n - 1, c.path), coalesce(
        case when c.is_required and coalesce(jsonb_typeof(c.value), 'null') = 'null' then private.phrase('fault', 'doc_missing') end,
        private.json_fault(c.value, c.kind, c.at_least, c.at_most, c.words),
        case when c.path in ('.text', '.template.parameters') then private.placeholder_fault(c.value #>> '{}')
            when c.path = '.key' and c.value #>> '{}' !~ '^[A-Za-z0-9_.-]{1,64}$' then
                private.phrase('fault', 'doc_key')
            when c.path = '.key' and (
                select count(*) from jsonb_array_elements(p_document -> 'steps') o where o -> 'key' = c.value) > 1
                then private.phrase('fault', 'doc_key_twice')
            when c.path = '.media' and c.value is not null then btrim(private.media_fault(
                '', c.value ->> 'type', c.value - 'type')) end)
    from jsonb_array_elements(private.json_items(p_document -> 'steps')) with ordinality as s (item, n)
    cross join lateral (
        values
            ('', s.item, true, 'object', null, null, array['key', 'after', 'at', 'before_window_closes', 'text', 'media',
                'template', 'on_window_closed']),
            ('.key', s.item -> 'key', false, 'text', 1, 64, null),
            ('.after', s.item -> 'after', false, 'span', 0, 527040, null),
            ('.at', s.item -> 'at', false, 'time', null, null, null),
            ('.before_window_closes', s.item -> 'before_window_closes', false, 'span', 1, 1380, null),
            ('.text', s.item -> 'text', false, 'text', 1, case when s.item ? 'media' then 1024 else 4096 end, null),
            ('.media.type', s.item #> '{media,type}', s.item ? 'media', 'choice', null, null,
                array['image', 'audio', 'video', 'document']),
            ('.media', s.item -> 'media', false, 'object', null, null, array['type', 'link', 'id', 'filename', 'mime']),
            ('.template', s.item -> 'template', s.item ->> 'on_window_closed' = 'use_template', 'object', null, null,
                array['id', 'name', 'language', 'account', 'parameters']),
            ('.template.parameters', s.item #> '{template,parameters}', false, 'object', null, null,
                array['header', 'body', 'buttons']),
            ('.on_window_closed', s.item -> 'on_window_closed', false, 'choice', null, null,
                array['skip_to_manual', 'use_template', 'wait', 'stop'])
    ) as c (path, value, is_required, kind, at_least, at_most, words)
    union all
    select format('steps[%s]', s.n - 1),
        case
            when not s.item ?| array['text', 'media', 'template'] then private.phrase('fault', 'doc_nothing')
            when s.item ? 'at' and s.item ? 'before_window_closes' then private.phrase('fault', 'doc_two_times')
            when s.item ? 'text' and s.item #>> '{media,type}' = 'audio' then private.phrase('fault', 'doc_audio')
            when s.item ?| array['text', 'media'] and s.item ? 'template'
                and s.item ->> 'on_window_closed' is distinct from 'use_template' then
                private.phrase('fault', 'doc_two_bodies')
        end
    from jsonb_array_elements(private.json_items(p_document -> 'steps')) with ordinality as s (item, n)
    where jsonb_typeof(s.item) = 'object';
end
$$;

-- The template that a document means: by our id, or by name and language.
create function private.template_meant(p_tenant_id uuid, p_template jsonb) returns setof public.message_templates
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select t.*
    from public.message_templates t
    where t.tenant_id = p_tenant_id and t.status <> 'deleted'
        and case when p_template ->> 'id' is not null then t.id::text = lower(p_template ->> 'id')
            else t.name = p_template ->> 'name' and t.language = coalesce(p_template ->> 'language', t.language)
                and t.waba_id = coalesce(p_template ->> 'account', t.waba_id) end
    limit 2;
end
$$;

-- What is wrong with the templates of its steps: they are not there, or are not filled in.
create function private.sequence_template_faults(p_tenant_id uuid, p_document jsonb)
returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select format('steps[%s].template', s.n - 1),
        case
            when count(t.id) = 0 then private.phrase('fault', 'doc_template_none', jsonb_build_object('template',
                concat_ws(', ', s.item #>> '{template,name}', s.item #>> '{template,language}',
                    s.item #>> '{template,id}')))
            when count(t.id) > 1 then private.phrase('fault', 'doc_template_many')
            else min(private.template_faults(t, coalesce(private.placeholders_fill(
                s.item #>> '{template,parameters}', '{}'::jsonb || (
                    select jsonb_object_agg(n, 'x') from unnest(private.placeholder_names()) n), true)::jsonb, '{}')))
        end
    from jsonb_array_elements(p_document -> 'steps') with ordinality as s (item, n)
    left join lateral private.template_meant(p_tenant_id, s.item -> 'template') t on true
    where s.item ? 'template'
    group by s.n, s.item;
end
$$;

-- Refuse a document for its first fault.
create function private.sequence_check(p_tenant_id uuid, p_document jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_fault record;
begin
    select * into v_fault from private.sequence_head_faults(p_document) f where f.fault is not null limit 1;
    if not found then
        select * into v_fault from private.sequence_step_faults(p_document) f where f.fault is not null limit 1;
    end if;
    if not found then
        select * into v_fault from private.sequence_template_faults(p_tenant_id, p_document) f
        where f.fault is not null limit 1;
    end if;
    if found then
        perform private.refuse_as('PT400', 'sequence_document', format('%s %s.', v_fault.path, v_fault.fault),
            private.phrase('hint', case when v_fault.fault like '%{{%' then 'sequence_placeholders'
                else 'sequence_document' end, jsonb_build_object(
                'known', array_to_string(private.placeholder_names(), '}}, {{'))),
            jsonb_build_object('path', v_fault.path));
    end if;
end
$$;

create function private.json_words(p_words jsonb) returns text[]
language sql immutable set search_path = '' as $$
    select array(select btrim(w) from jsonb_array_elements_text(private.json_items(p_words)) as w)
$$;

-- The steps of a checked document, as rows of that version. A step without a key is a new one.
create function private.sequence_steps_of(
    p_tenant_id uuid, p_sequence_id uuid, p_version int, p_document jsonb
) returns setof public.sequence_steps
language plpgsql volatile rows 10 set search_path = '' as $$
begin
    return query
    select p_tenant_id, p_sequence_id, p_version, s.n::int,
        coalesce(s.item ->> 'key', left(replace(gen_random_uuid()::text, '-', ''), 12)),
        private.span_minutes(s.item -> 'after'), (s.item ->> 'at')::time,
        nullif(private.span_minutes(s.item -> 'before_window_closes'), 0),
        coalesce(s.item #>> '{media,type}', case when s.item ? 'text' then 'text' else 'template' end),
        s.item ->> 'text', (s.item -> 'media') - 'type', t.id, jsonb_strip_nulls(s.item #> '{template,parameters}'),
        coalesce(s.item ->> 'on_window_closed', 'skip_to_manual')
    from jsonb_array_elements(p_document -> 'steps') with ordinality as s (item, n)
    left join lateral private.template_meant(p_tenant_id, s.item -> 'template') t on s.item ? 'template'
    order by s.n;
end
$$;

-- The row of a checked document; what it does not say is as when it is new.
create function private.sequence_row_of(p_row public.sequences, p_document jsonb) returns public.sequences
language plpgsql immutable set search_path = '' as $$
begin
    p_row.name := btrim(p_document ->> 'name');
    p_row.description := p_document ->> 'description';
    p_row.goal := p_document #>> '{goal,description}';
    p_row.goal_tags := private.json_words(p_document #> '{goal,tags}');
    p_row.goal_statuses := private.json_words(p_document #> '{goal,statuses}');
    p_row.goal_outcomes := private.json_words(p_document #> '{goal,outcomes}');
    p_row.stop_tags := private.json_words(p_document #> '{stop,tags}');
    p_row.stop_statuses := private.json_words(p_document #> '{stop,statuses}');
    p_row.stop_outcomes := private.json_words(p_document #> '{stop,outcomes}');
    p_row.after_reply := coalesce(p_document #>> '{on_reply,resume}', 'manual');
    p_row.resume_after_hours := case p_row.after_reply when 'silence'
        then (p_document #>> '{on_reply,hours}')::int end;
    p_row.priority := coalesce((p_document ->> 'priority')::smallint, 2);
    return p_row;
end
$$;

-- The sequence, locked.
create function private.sequence_locked(p_tenant_id uuid, p_sequence_id uuid) returns public.sequences
language plpgsql set search_path = '' as $$
declare
    v_sequence public.sequences;
begin
    select * into v_sequence from public.sequences
    where tenant_id = p_tenant_id and id = p_sequence_id and deleted_at is null
    for no key update;
    if not found then
        perform private.refuse('PT404', 'no_sequence');
    end if;
    return v_sequence;
end
$$;

-- Save a document as a sequence: a new one (p_sequence_id null; not active yet), or in place of what it says now. Steps
-- that differ make a new version, which nobody is moved to. Answers {"id", "version", "changed"}; what is as it was
-- changes nothing.
create function private.sequence_save(p_tenant_id uuid, p_sequence_id uuid, p_document jsonb, p_by uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_was public.sequences;
    v_row public.sequences;
    v_has_new_steps boolean;
    v_has_new_triggers boolean;
begin
    -- what is null is not said
    p_document := jsonb_strip_nulls(p_document);
    perform private.sequence_check(p_tenant_id, p_document);
    if p_sequence_id is null then
        v_row.tenant_id := p_tenant_id;
        v_row.id := private.uuid7();
        v_row.version := 0;
        v_row.is_active := false;
        v_row.created_at := now();
        v_row.updated_at := now();
        v_row := private.sequence_row_of(v_row, p_document);
        insert into public.sequences select v_row.*;
    else
        v_was := private.sequence_locked(p_tenant_id, p_sequence_id);
        v_row := private.sequence_row_of(v_was, p_document);
    end if;
    v_has_new_steps := private.sequence_steps_publish(v_row, p_document, p_by);
    v_has_new_triggers := private.sequence_triggers_set(v_row, p_document);
    v_row.version := v_row.version + v_has_new_steps::int;
    if v_row is distinct from v_was then
        update public.sequences
        set (name, description, goal, goal_tags, goal_statuses, goal_outcomes, stop_tags, stop_statuses, stop_outcomes,
            after_reply, resume_after_hours, priority, version)
            = (select v_row.name, v_row.description, v_row.goal, v_row.goal_tags, v_row.goal_statuses,
                v_row.goal_outcomes, v_row.stop_tags, v_row.stop_statuses, v_row.stop_outcomes, v_row.after_reply,
                v_row.resume_after_hours, v_row.priority, v_row.version)
        where tenant_id = p_tenant_id and id = v_row.id;
    end if;
    return jsonb_build_object('id', v_row.id, 'version', v_row.version,
        'changed', v_row is distinct from v_was or v_has_new_triggers);
exception when unique_violation then
    perform private.refuse(
        'PT409', 'sequence_name', jsonb_build_object('name', v_row.name), '{"path": "name"}');
    return null;
end
$$;

-- Publish the steps as the version after the row's, if they differ from that one. Answers whether they did.
create function private.sequence_steps_publish(p_row public.sequences, p_document jsonb, p_by uuid) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_steps public.sequence_steps[] := array(select s from private.sequence_steps_of(
        p_row.tenant_id, p_row.id, p_row.version, p_document) s);
    v_was public.sequence_steps[] := array(
        select s from public.sequence_steps s
        where s.tenant_id = p_row.tenant_id and s.sequence_id = p_row.id and s.version = p_row.version
        order by s.order_position);
begin
    if v_steps = v_was then
        return false;
    end if;
    insert into public.sequence_versions (tenant_id, sequence_id, version, published_by)
    values (p_row.tenant_id, p_row.id, p_row.version + 1, p_by);
    insert into public.sequence_steps
    select s.tenant_id, s.sequence_id, p_row.version + 1, s.order_position, s.key, s.delay_minutes, s.local_time,
        s.window_margin_minutes, s.type, s.text, s.media, s.template_id, s.parameters, s.on_window_closed
    from unnest(v_steps) s;
    return true;
end
$$;

-- Make the triggers those of the document. Answers whether any changed.
create function private.sequence_triggers_set(p_row public.sequences, p_document jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_changed boolean;
begin
    with wanted as (
        select distinct t ->> 'on' as kind, coalesce(btrim(t ->> 'value'), '') as value
        from jsonb_array_elements(private.json_items(p_document -> 'triggers')) t
    ),
    gone as (
        delete from public.sequence_triggers t
        where t.tenant_id = p_row.tenant_id and t.sequence_id = p_row.id
            and not exists (select from wanted w where w.kind = t.kind and w.value = t.value)
        returning 1
    ),
    added as (
        insert into public.sequence_triggers (tenant_id, sequence_id, kind, value)
        select p_row.tenant_id, p_row.id, w.kind, w.value from wanted w
        on conflict on constraint sequence_triggers_pkey do nothing
        returning 1
    )
    select exists (select from gone) or exists (select from added) into v_changed;
    return v_changed;
end
$$;

-- Minutes as a span of a document.
create function private.span_of(p_minutes int) returns jsonb
language sql immutable set search_path = '' as $$
    select jsonb_strip_nulls(jsonb_build_object('hours', nullif(p_minutes / 60, 0), 'minutes', nullif(p_minutes % 60, 0)))
$$;

-- The document of a sequence, as it is now: saving it changes nothing.
create function private.sequence_document(p_tenant_id uuid, p_sequence_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_strip_nulls(jsonb_build_object(
            'name', s.name, 'description', s.description, 'priority', s.priority,
            'goal', jsonb_build_object('description', s.goal, 'tags', s.goal_tags, 'statuses', s.goal_statuses,
                'outcomes', s.goal_outcomes),
            'stop', jsonb_build_object('tags', s.stop_tags, 'statuses', s.stop_statuses, 'outcomes', s.stop_outcomes),
            'on_reply', jsonb_build_object('resume', s.after_reply, 'hours', s.resume_after_hours),
            'triggers', (
                select coalesce(jsonb_agg(jsonb_build_object('on', t.kind, 'value', nullif(t.value, ''))
                    order by t.kind, t.value), '[]')
                from public.sequence_triggers t
                where t.tenant_id = s.tenant_id and t.sequence_id = s.id),
            'steps', (
                select jsonb_agg(jsonb_build_object(
                    'key', p.key, 'after', private.span_of(p.delay_minutes), 'at', to_char(p.local_time, 'HH24:MI'),
                    'before_window_closes', case when p.window_margin_minutes is not null
                        then private.span_of(p.window_margin_minutes) end,
                    'text', p.text, 'media', p.media || jsonb_build_object('type', p.type),
                    'template', case when t.id is not null then jsonb_build_object('name', t.name,
                        'language', t.language, 'parameters', p.parameters, 'account', case when exists (
                            select from public.message_templates o
                            where o.tenant_id = t.tenant_id and o.name = t.name and o.language = t.language
                                and o.waba_id <> t.waba_id and o.status <> 'deleted') then t.waba_id end) end,
                    'on_window_closed', p.on_window_closed) order by p.order_position)
                from public.sequence_steps p
                left join public.message_templates t on t.tenant_id = p.tenant_id and t.id = p.template_id
                where p.tenant_id = s.tenant_id and p.sequence_id = s.id and p.version = s.version)))
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.id = p_sequence_id);
end
$$;

-- What admins do. Definer: people may not write sequences.
create function private.sequence_edit(p_sequence_id uuid, p_document jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return private.sequence_save(private.require_admin(), p_sequence_id, p_document, private.my_user_id());
end
$$;

-- The chats that are in a sequence now.
create function private.sequence_chats(p_tenant_id uuid, p_sequence_id uuid) returns private.chat_ref[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select (e.tenant_id, e.chat_id)::private.chat_ref from public.sequence_enrollments e
        where e.tenant_id = p_tenant_id and e.sequence_id = p_sequence_id and e.status in ('active', 'paused'));
end
$$;

-- Switch a sequence on or off: everybody in it goes on, or pauses. Answers with the sequence.
create function private.sequence_switch(p_tenant_id uuid, p_sequence_id uuid, p_is_active boolean)
returns public.sequences
language plpgsql set search_path = '' as $$
declare
    v_sequence public.sequences := private.sequence_locked(p_tenant_id, p_sequence_id);
    v_chats private.chat_ref[] := private.sequence_chats(p_tenant_id, p_sequence_id);
begin
    if v_sequence.is_active = p_is_active then
        return v_sequence;
    end if;
    update public.sequences set is_active = p_is_active
    where tenant_id = p_tenant_id and id = p_sequence_id
    returning * into v_sequence;
    if p_is_active then
        perform private.enrollments_release(v_chats, 'sequence_inactive');
    else
        perform private.enrollments_hold(v_chats, 'sequence_inactive');
    end if;
    return v_sequence;
end
$$;

-- Delete a sequence: everybody in it stops, its history stays.
create function private.sequence_remove(p_tenant_id uuid, p_sequence_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.sequence_locked(p_tenant_id, p_sequence_id);
    update public.sequences set is_active = false, deleted_at = private.clock()
    where tenant_id = p_tenant_id and id = p_sequence_id;
    delete from public.sequence_triggers where tenant_id = p_tenant_id and sequence_id = p_sequence_id;
    perform private.enrollments_end(
        private.sequence_chats(p_tenant_id, p_sequence_id), 'stopped', 'sequence_deleted');
end
$$;

-- Definer: people may not write sequences.
create function private.sequence_set_active(p_sequence_id uuid, p_is_active boolean) returns public.sequences
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_admin();
begin
    if p_is_active is null then
        perform private.refuse('PT400', 'sequence_switch');
    end if;
    return private.sequence_switch(v_tenant_id, p_sequence_id, p_is_active);
end
$$;

-- Definer: people may not write sequences.
create function private.sequence_delete(p_sequence_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
begin
    perform private.sequence_remove(private.require_admin(), p_sequence_id);
end
$$;

-- Save a sequence from its document (README: Sequences), a new one or an existing one; see private.sequence_save().
create function public.sequence_save(p_document jsonb, p_sequence_id uuid default null) returns jsonb
language sql set search_path = '' as $$
    select private.sequence_edit(p_sequence_id, p_document)
$$;

-- Switched off, everybody in it pauses, and goes on where they were when it is switched on again.
create function public.sequence_set_active(p_sequence_id uuid, p_is_active boolean) returns public.sequences
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequence_set_active(p_sequence_id, p_is_active)
$$;

-- Everybody in it stops. Its history stays.
create function public.sequence_delete(p_sequence_id uuid) returns void
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequence_delete(p_sequence_id)
$$;

grant execute on function private.placeholder_names(), private.placeholder_fault(text),
    private.placeholders_fill(text, jsonb, boolean),
    private.placeholder_values(public.customer_leads, public.whatsapp_numbers, text),
    private.json_fault(jsonb, text, int, int, text[]), private.span_minutes(jsonb), private.json_items(jsonb),
    private.sequence_head_faults(jsonb), private.sequence_step_faults(jsonb), private.template_meant(uuid, jsonb),
    private.sequence_template_faults(uuid, jsonb), private.sequence_check(uuid, jsonb), private.json_words(jsonb),
    private.sequence_steps_of(uuid, uuid, int, jsonb), private.sequence_row_of(public.sequences, jsonb),
    private.sequence_locked(uuid, uuid), private.sequence_save(uuid, uuid, jsonb, uuid),
    private.sequence_steps_publish(public.sequences, jsonb, uuid),
    private.sequence_triggers_set(public.sequences, jsonb), private.span_of(int),
    private.sequence_document(uuid, uuid), private.sequence_chats(uuid, uuid),
    private.sequence_switch(uuid, uuid, boolean), private.sequence_remove(uuid, uuid)
    to service_role;
grant execute on function private.sequence_edit(uuid, jsonb), private.sequence_set_active(uuid, boolean),
    private.sequence_delete(uuid), public.sequence_save(jsonb, uuid), public.sequence_set_active(uuid, boolean),
    public.sequence_delete(uuid) to authenticated;
