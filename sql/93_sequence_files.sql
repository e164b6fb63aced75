-- Sequence files: sequences as JSON that people keep, change and carry from one business to another. README says what
-- is in them; shared/sequences.schema.json says it to editors.

-- The document of a sequence, and whether it is active.
create function private.sequence_entry(p_sequence public.sequences) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return private.sequence_document(p_sequence.tenant_id, p_sequence.id)
        || jsonb_build_object('active', p_sequence.is_active);
end
$$;

-- A file of these sequences; null: of all. Importing it changes nothing.
create function private.sequences_export(p_tenant_id uuid, p_names text[]) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_missing text := (
        select string_agg(format('%L', n.name), ', ' order by n.name)
        from unnest(p_names) as n (name)
        where not exists (
            select from public.sequences s
            where s.tenant_id = p_tenant_id and s.deleted_at is null and lower(s.name) = lower(btrim(n.name))));
begin
    if v_missing is not null then
        perform private.refuse('PT404', 'no_sequence_named', jsonb_build_object('names', v_missing));
    end if;
    return jsonb_build_object('format', 'recado.sequences', 'version', 1, 'sequences', (
        select coalesce(jsonb_agg(private.sequence_entry(s) order by lower(s.name)), '[]')
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.deleted_at is null
            and (p_names is null or lower(s.name) in (select lower(btrim(n)) from unnest(p_names) n))));
end
$$;

-- Checking.

-- What is wrong with a file as such: it is not one, or one that we cannot read.
create function private.sequence_file_faults(p_file jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select c.path, c.fault
    from (
        values
            (1, 'file', case when jsonb_typeof(p_file) is distinct from 'object' then
                private.phrase('fault', 'doc_object') end),
            (2, 'format', case when p_file -> 'format' is distinct from '"recado.sequences"' then
                private.phrase('fault', 'file_format') end),
            (3, 'version', case when p_file -> 'version' is distinct from '1' then private.phrase(
                'fault', 'file_version', jsonb_build_object('version', coalesce((p_file -> 'version')::text, '?'))) end),
            (4, 'file', private.json_fault(p_file, 'object', null, null, array['format', 'version', 'sequences'])),
            (5, 'sequences', case when coalesce(jsonb_typeof(p_file -> 'sequences'), 'null') = 'null'
                then private.phrase('fault', 'doc_missing')
                else private.json_fault(p_file -> 'sequences', 'list', 0, 1000, null) end)
    ) as c (n, path, fault)
    where c.fault is not null and (c.n = 1 or jsonb_typeof(p_file) = 'object')
    order by c.n;
end
$$;

-- What is wrong with one of its sequences: paths are within it, and empty for the whole of it. What is asked later
-- makes no sense before what is asked first is mended.
create function private.sequence_entry_faults(p_tenant_id uuid, p_entry jsonb) returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
declare
    v_document jsonb;
begin
    if jsonb_typeof(p_entry) <> 'object' then
        return query values ('', private.phrase('fault', 'doc_object'));
        return;
    elsif jsonb_typeof(p_entry -> 'active') <> 'boolean' then
        return query values ('.active', private.phrase('fault', 'file_boolean'));
    end if;
    v_document := jsonb_strip_nulls(p_entry - 'active');
    return query
    select case f.path when 'document' then '' else '.' || f.path end, f.fault
    from private.sequence_head_faults(v_document) f
    where f.fault is not null
    union all
    select '.' || f.path, f.fault from private.sequence_step_faults(v_document) f where f.fault is not null;
    if not found then
        return query
        select '.' || f.path, f.fault
        from private.sequence_template_faults(p_tenant_id, v_document) f
        where f.fault is not null;
    end if;
end
$$;

-- Everything that is wrong with the sequences of a file.
create function private.sequences_faults(p_tenant_id uuid, p_sequences jsonb, p_mode text)
returns table (path text, fault text)
language plpgsql stable rows 1 set search_path = '' as $$
begin
    return query
    select format('sequences[%s]%s', e.n - 1, f.path), f.fault
    from jsonb_array_elements(p_sequences) with ordinality as e (entry, n)
    cross join lateral private.sequence_entry_faults(p_tenant_id, e.entry) f
    union all
    select format('sequences[%s].name', e.n - 1), e.fault
    from (
        select s.n, case
            when row_number() over (partition by s.name order by s.n) > 1 then
                private.phrase('fault', 'file_name_twice')
            when p_mode = 'create' and exists (
                select from public.sequences q
                where q.tenant_id = p_tenant_id and q.deleted_at is null and lower(q.name) = s.name)
                then private.phrase('fault', 'file_name_taken') end as fault
        from (
            select n, lower(btrim(entry ->> 'name')) as name
            from jsonb_array_elements(p_sequences) with ordinality as x (entry, n)
            where jsonb_typeof(entry -> 'name') = 'string'
        ) as s
    ) as e
    where e.fault is not null;
end
$$;

-- Refuse a file with all that is wrong with it: the first in the message, all in details.
create function private.sequences_check(p_tenant_id uuid, p_file jsonb, p_mode text) returns void
language plpgsql stable set search_path = '' as $$
declare
    v_faults jsonb;
begin
    if p_mode is null or p_mode not in ('update', 'create', 'replace', 'check') then
        perform private.refuse('PT400', 'file_mode', jsonb_build_object('mode', p_mode));
    end if;
    select jsonb_agg(jsonb_build_object('path', f.path, 'fault', f.fault)) into v_faults
    from private.sequence_file_faults(p_file) f;
    if v_faults is null then
        select jsonb_agg(jsonb_build_object('path', f.path, 'fault', f.fault)) into v_faults
        from private.sequences_faults(p_tenant_id, p_file -> 'sequences', p_mode) f;
    end if;
    if v_faults is not null then
        perform private.refuse_as('PT400', 'file',
            concat(v_faults #>> '{0,path}', ' ', v_faults #>> '{0,fault}', case when jsonb_array_length(v_faults) > 1
                then format(' (+%s)', jsonb_array_length(v_faults) - 1) end, '.'),
            private.phrase('hint', 'file'),
            jsonb_build_object('path', v_faults #> '{0,path}', 'faults', v_faults));
    end if;
end
$$;

-- Importing.

-- One sequence of a checked file: what became of it.
create function private.sequence_import(p_tenant_id uuid, p_by uuid, p_entry jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_was public.sequences;
    v_saved jsonb;
    v_is_active boolean;
begin
    select * into v_was from public.sequences s
    where s.tenant_id = p_tenant_id and s.deleted_at is null and lower(s.name) = lower(btrim(p_entry ->> 'name'));
    v_is_active := coalesce((p_entry ->> 'active')::boolean, v_was.is_active, false);
    v_saved := private.sequence_save(p_tenant_id, v_was.id, p_entry - 'active', p_by);
    if v_is_active <> coalesce(v_was.is_active, false) then
        perform private.sequence_switch(p_tenant_id, (v_saved ->> 'id')::uuid, v_is_active);
    end if;
    return jsonb_build_object('name', btrim(p_entry ->> 'name'), 'id', v_saved -> 'id', 'version', v_saved -> 'version',
        'outcome', case when v_was.id is null then 'created'
            when (v_saved ->> 'changed')::boolean or v_is_active <> v_was.is_active then 'updated'
            else 'unchanged' end);
end
$$;

-- All of a checked file, or, when anything is refused, nothing of it.
create function private.sequences_import_all(p_tenant_id uuid, p_by uuid, p_file jsonb, p_mode text) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_sequences jsonb;
    v_deleted uuid[] := case when p_mode = 'replace' then array(
        select s.id from public.sequences s
        where s.tenant_id = p_tenant_id and s.deleted_at is null and not exists (
            select from jsonb_array_elements(p_file -> 'sequences') e
            where lower(btrim(e ->> 'name')) = lower(s.name))
        order by s.id) end;
begin
    perform set_config('recado.change', 'import', true);
    perform private.sequence_remove(p_tenant_id, id) from unnest(v_deleted) id;
    select jsonb_agg(private.sequence_import(p_tenant_id, p_by, e.entry) order by e.n) into v_sequences
    from jsonb_array_elements(p_file -> 'sequences') with ordinality as e (entry, n);
    perform set_config('recado.change', '', true);
    return jsonb_build_object('mode', p_mode, 'sequences', coalesce(v_sequences, '[]'), 'deleted', (
        select coalesce(jsonb_agg(s.name order by s.name), '[]')
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.id = any(v_deleted)));
end
$$;

-- Definer's work, for the tenant given: see public.sequences_import().
create function private.sequences_import(p_tenant_id uuid, p_by uuid, p_file jsonb, p_mode text) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_answer jsonb;
begin
    perform private.sequences_check(p_tenant_id, p_file, p_mode);
    begin
        v_answer := private.sequences_import_all(p_tenant_id, p_by, p_file, p_mode);
        if p_mode = 'check' then
            raise exception using errcode = 'PT000', message = 'This was only a check.';
        end if;
    exception when sqlstate 'PT000' then null;
    end;
    return v_answer;
end
$$;

-- Definer: people may not write sequences; tenant from require_admin.
create function private.my_sequences_import(p_file jsonb, p_mode text) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return private.sequences_import(private.require_admin(), private.my_user_id(), p_file, p_mode);
end
$$;

-- Definer: asks the tables of templates and steps with one grant, the caller's seat; tenant from require_staff.
create function private.my_sequences_export(p_names text[]) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
    return private.sequences_export(private.require_staff(), p_names);
end
$$;

-- A file of all sequences, or of those named: {"format": "recado.sequences", "version": 1, "sequences": [...]}.
create function public.sequences_export(p_names text[] default null) returns jsonb
language sql stable set search_path = '' as $$
    select private.my_sequences_export(p_names)
$$;

-- Take over a file, all of it or nothing. A sequence of the same name is brought to what the file says (mode update),
-- or is refused (create); with replace those that are not in the file are deleted; check only tells. Customers on
-- their way stay on the version they have. Answers {"mode", "sequences": [{"name", "id", "version", "outcome": created,
-- updated or unchanged}], "deleted": [names]}.
create function public.sequences_import(p_document jsonb, p_mode text default 'update') returns jsonb
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.my_sequences_import(p_document, p_mode)
$$;

-- The same for machines, of whichever business.
create function public.tenant_sequences_export(p_tenant_id uuid, p_names text[] default null) returns jsonb
language sql stable set search_path = '' as $$
    select private.sequences_export(p_tenant_id, p_names)
$$;
create function public.tenant_sequences_import(p_tenant_id uuid, p_document jsonb, p_mode text default 'update')
returns jsonb
language sql set search_path = '' set statement_timeout = '60s' as $$
    select private.sequences_import(p_tenant_id, null, p_document, p_mode)
$$;

grant execute on function
    private.as_time(text), private.sequence_entry(public.sequences), private.sequences_export(uuid, text[]),
    private.sequence_file_faults(jsonb), private.sequence_entry_faults(uuid, jsonb),
    private.sequences_faults(uuid, jsonb, text), private.sequences_check(uuid, jsonb, text),
    private.sequence_import(uuid, uuid, jsonb), private.sequences_import_all(uuid, uuid, jsonb, text),
    private.sequences_import(uuid, uuid, jsonb, text), public.tenant_sequences_export(uuid, text[]),
    public.tenant_sequences_import(uuid, jsonb, text) to service_role;
grant execute on function private.my_sequences_export(text[]), private.my_sequences_import(jsonb, text),
    public.sequences_export(text[]), public.sequences_import(jsonb, text) to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_sequence_named', 'No hay ninguna secuencia {names}.', 'There is no sequence {names}.',
        'Não há nenhuma sequência {names}.'),
    ('hint', 'no_sequence_named', 'Tome sus nombres de sequences.', 'Read their names from sequences.',
        'Leia os seus nomes em sequences.'),
    ('refusal', 'file_mode', 'No existe el modo «{mode}».', 'There is no mode "{mode}".',
        'Não existe o modo "{mode}".'),
    ('hint', 'file_mode', 'Elija update, create, replace o check.', 'Choose update, create, replace or check.',
        'Escolha update, create, replace ou check.'),
    ('hint', 'file', 'No se importó nada. Corrija el archivo; en details está todo lo que tiene mal.',
        'Nothing was imported. Correct the file; details has everything that is wrong with it.',
        'Nada foi importado. Corrija o arquivo; em details está tudo o que tem de errado.'),
    ('fault', 'file_format', 'debe ser "recado.sequences"', 'must be "recado.sequences"',
        'deve ser "recado.sequences"'),
    ('fault', 'file_version',
        'es {version}, y aquí solo se lee la versión 1: exporte el archivo otra vez o actualice Recado',
        'is {version}, and only version 1 can be read here: export the file again, or update Recado',
        'é {version}, e aqui só se lê a versão 1: exporte o arquivo outra vez ou atualize o Recado'),
    ('fault', 'file_boolean', 'debe ser true o false', 'must be true or false', 'deve ser true ou false'),
    ('fault', 'file_name_twice', 'es el nombre de otra secuencia del archivo',
        'is the name of another sequence of the file', 'é o nome de outra sequência do arquivo'),
    ('fault', 'file_name_taken',
        'es el nombre de una secuencia que ya tiene: cámbielo o importe con el modo update',
        'is the name of a sequence that you have: rename it, or import with the mode update',
        'é o nome de uma sequência que já tem: mude-o ou importe com o modo update');
