-- The way back: what was there before each change, and every business's whole configuration of each day.

-- restore_points: what was there before a change, and every business's whole configuration of each day.
create table public.restore_points (
    tenant_id uuid,
    id uuid default private.uuid7(),
    reason text not null,
    day date,
    taken_at timestamptz not null,
    taken_by uuid,
    document jsonb not null,
    constraint restore_points_pkey primary key (tenant_id, id),
    constraint restore_points_tenant_id_day_key unique (tenant_id, day),
    constraint restore_points_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint restore_points_taken_by_fkey foreign key (tenant_id, taken_by) references public.users (tenant_id, id),
    constraint restore_points_day_check check ((reason = 'daily') = (day is not null))
);
comment on table public.restore_points is
    'Ways back: restore_point_restore() brings back what one holds. Kept for tenant_settings.restore_days.';
comment on column public.restore_points.reason is
    'daily: the backup of a day. Else what happened next: create, save, activate, deactivate, delete, import, restore.';
comment on column public.restore_points.day is 'By the business''s own clock.';
comment on column public.restore_points.document is
    'Parts of private.configuration(), without any secret; `new` names the sequences that were not there yet.';

create index restore_points_tenant_id_taken_at_idx on public.restore_points (tenant_id, taken_at desc);
create index restore_points_tenant_id_taken_by_idx
    on public.restore_points (tenant_id, taken_by) where taken_by is not null;

alter table public.restore_points enable row level security;
grant select on public.restore_points to authenticated, service_role;
create policy restore_points_select_admin on public.restore_points for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- The configuration as a document: what an admin may change is what can be brought back.

create function private.editable_columns(p_table regclass) returns text[]
language plpgsql stable set search_path = '' as $$
begin
    return array(
        select a.attname::text from pg_catalog.pg_attribute a
        where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped
            and has_column_privilege('authenticated', p_table, a.attnum, 'update')
        order by a.attnum);
end
$$;

-- Only these keys of an object.
create function private.jsonb_pick(p_object jsonb, p_keys text[]) returns jsonb
language sql immutable set search_path = '' as $$
    select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(p_object) where key = any(p_keys)
$$;

create function private.settings_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select private.jsonb_pick(to_jsonb(s), private.editable_columns('public.tenant_settings'))
            - '{followup_agent_id,followup_template_id}'::text[]
            || jsonb_build_object('followup_agent', a.name, 'followup_template', case when t.id is not null
                then jsonb_build_object('name', t.name, 'language', t.language) end)
        from public.tenant_settings s
        left join public.ai_agents a on a.tenant_id = s.tenant_id and a.id = s.followup_agent_id
        left join public.message_templates t on t.tenant_id = s.tenant_id and t.id = s.followup_template_id
        where s.tenant_id = p_tenant_id);
end
$$;

create function private.agents_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return coalesce((
        select jsonb_agg(private.jsonb_pick(to_jsonb(a), private.editable_columns('public.ai_agents'))
            || jsonb_build_object('id', a.id, 'prompt', to_jsonb(p) - '{tenant_id,id,agent_id,version,trigger_reason,is_active,
                tokens_used,response_quality,created_at}'::text[]) order by a.name)
        from public.ai_agents a
        left join public.agent_prompts p on p.tenant_id = a.tenant_id and p.agent_id = a.id and p.is_active
        where a.tenant_id = p_tenant_id), '[]');
end
$$;

-- Whether a number is connected is not ours to decide: only how it is served.
create function private.numbers_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return coalesce((
        select jsonb_agg(private.jsonb_pick(to_jsonb(n), private.editable_columns('public.whatsapp_numbers'))
            - '{is_active,is_primary,default_agent_id}'::text[]
            || jsonb_build_object('id', n.id, 'phone_number', n.phone_number, 'default_agent', a.name)
            order by n.phone_number)
        from public.whatsapp_numbers n
        left join public.ai_agents a on a.tenant_id = n.tenant_id and a.id = n.default_agent_id
        where n.tenant_id = p_tenant_id and n.is_active), '[]');
end
$$;

-- As in a file, and with the ids by which they are found again whatever they are called by then.
create function private.sequences_document(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return coalesce((
        select jsonb_agg(private.sequence_entry(s) || jsonb_build_object('id', s.id) order by s.id)
        from public.sequences s
        where s.tenant_id = p_tenant_id and s.deleted_at is null), '[]');
end
$$;

create function private.configuration(p_tenant_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return jsonb_build_object(
        'settings', private.settings_document(p_tenant_id), 'agents', private.agents_document(p_tenant_id),
        'numbers', private.numbers_document(p_tenant_id), 'sequences', private.sequences_document(p_tenant_id));
end
$$;
comment on function private.configuration(uuid) is
    'What a business has decided, without any secret: {"settings", "agents", "numbers", "sequences"}.';

-- Taking restore points.

-- The restore point of this transaction, made by the first who asks: all that one transaction changes is one change.
create function private.restore_point(p_tenant_id uuid, p_reason text, p_document jsonb default '{}') returns uuid
language plpgsql set search_path = '' as $$
declare
    v_open text[] := string_to_array(current_setting('recado.restore_point', true), ' ');
    v_id uuid := private.uuid7();
begin
    -- an id of another transaction is never here: the setting ends with its own
    if v_open[1] = p_tenant_id::text then
        return v_open[2]::uuid;
    end if;
    insert into public.restore_points (tenant_id, id, reason, taken_at, taken_by, document)
    values (p_tenant_id, v_id, coalesce(nullif(current_setting('recado.change', true), ''), p_reason), private.clock(),
        private.my_user_id(), p_document);
    perform set_config('recado.restore_point', concat_ws(' ', p_tenant_id, v_id), true);
    return v_id;
end
$$;

-- Into the restore point of this transaction goes each sequence that it changes, as it was before; of one that is new,
-- or was deleted, that it was not there.
create function private.sequence_remember(p_tenant_id uuid, p_sequence_id uuid, p_reason text) returns void
language plpgsql set search_path = '' as $$
declare
    v_sequence public.sequences;
    v_point_id uuid := private.restore_point(p_tenant_id, p_reason);
begin
    select * into v_sequence from public.sequences s
    where s.tenant_id = p_tenant_id and s.id = p_sequence_id and s.deleted_at is null;
    update public.restore_points r
    set document = r.document || case when v_sequence.id is null
        then jsonb_build_object('new', coalesce(r.document -> 'new', '[]') || to_jsonb(p_sequence_id))
        else jsonb_build_object('sequences', coalesce(r.document -> 'sequences', '[]')
            || jsonb_build_array(private.sequence_entry(v_sequence) || jsonb_build_object('id', p_sequence_id))) end
    where r.tenant_id = p_tenant_id and r.id = v_point_id
        and not coalesce(r.document -> 'new' ? p_sequence_id::text, false)
        and not coalesce(r.document -> 'sequences' @> jsonb_build_array(jsonb_build_object('id', p_sequence_id)), false);
end
$$;

-- before insert, update or delete of sequences and what belongs to them. Definer: whoever changes a sequence, there is
-- a way back.
create function private.sequence_changes() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_now jsonb := to_jsonb(new);
    v_was jsonb := to_jsonb(old);
    v_row jsonb := coalesce(v_now, v_was);
begin
    perform private.sequence_remember((v_row ->> 'tenant_id')::uuid,
        coalesce(v_row ->> 'sequence_id', v_row ->> 'id')::uuid,
        case when tg_table_name <> 'sequences' then 'save'
            when tg_op = 'INSERT' then 'create'
            when tg_op = 'DELETE' or v_now ->> 'deleted_at' is not null then 'delete'
            when v_now -> 'is_active' <> v_was -> 'is_active' and (v_now ->> 'is_active')::boolean then 'activate'
            when v_now -> 'is_active' <> v_was -> 'is_active' then 'deactivate'
            else 'save' end);
    return case tg_op when 'DELETE' then old else new end;
end
$$;
create trigger sequences_changes before insert or delete on public.sequences
    for each row execute function private.sequence_changes();
create trigger sequences_changes_update before update on public.sequences
    for each row when (old.* is distinct from new.*) execute function private.sequence_changes();
create trigger sequence_triggers_changes before insert or update or delete on public.sequence_triggers
    for each row execute function private.sequence_changes();

-- Every hour: the configuration of each business whose day has begun, once a day.
create function private.configuration_backup() returns int
language plpgsql set search_path = '' as $$
declare
    v_count int;
begin
    insert into public.restore_points (tenant_id, reason, day, taken_at, document)
    select o.id, 'daily', d.day, private.clock(), private.configuration(o.id)
    from public.users o
    cross join lateral (select ((select private.clock()) at time zone o.timezone)::date as day) as d
    where o.id = o.tenant_id and o.is_active and not exists (
        select from public.restore_points r where r.tenant_id = o.id and r.day = d.day)
    order by o.id
    on conflict on constraint restore_points_tenant_id_day_key do nothing;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Every day: what is older than each business wants it kept.
create function private.restore_points_purge() returns void
language plpgsql set search_path = '' as $$
begin
    delete from public.restore_points r
    using public.tenant_settings s
    where r.tenant_id = s.tenant_id
        and r.taken_at < (select private.clock()) - make_interval(days => s.restore_days);
end
$$;

-- Bringing back.

-- Give rows of a table the values of documents with the same key: none but the columns that admins may change.
create function private.rows_restore(p_table regclass, p_tenant_id uuid, p_key text, p_documents jsonb) returns int
language plpgsql set search_path = '' as $$
declare
    v_columns text[] := private.editable_columns(p_table);
    v_count int;
begin
    execute format(
        'update %s t set (%s) = (select %s from jsonb_populate_record(t, private.jsonb_pick(d.document, $3)) as r)'
        ' from jsonb_array_elements($2) as d (document)'
        ' where t.tenant_id = $1 and t.%4$I::text = d.document ->> %4$L',
        p_table, (select string_agg(format('%I', c), ', ') from unnest(v_columns) c),
        (select string_agg(format('r.%I', c), ', ') from unnest(v_columns) c), p_key)
    using p_tenant_id, p_documents, v_columns;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Agents that are gone come back; those made since stay, but the default one is who was it then.
create function private.agents_restore(p_tenant_id uuid, p_agents jsonb) returns int
language plpgsql strict set search_path = '' as $$
begin
    update public.ai_agents set is_default = false
    where tenant_id = p_tenant_id and is_default and p_agents @> '[{"is_default": true}]';
    -- first under names that nobody has: what they were called then may be what another of them is called now
    insert into public.ai_agents (tenant_id, id, name, is_active)
    select p_tenant_id, (a ->> 'id')::uuid, a ->> 'id', false
    from jsonb_array_elements(p_agents) a
    on conflict on constraint ai_agents_pkey do nothing;
    update public.ai_agents t set name = t.id::text
    from jsonb_array_elements(p_agents) a
    where t.tenant_id = p_tenant_id and t.id = (a ->> 'id')::uuid and t.name <> a ->> 'name';
    perform private.prompts_restore(p_tenant_id, p_agents);
    return private.rows_restore('public.ai_agents', p_tenant_id, 'id', p_agents);
exception when unique_violation then
    perform private.refuse('PT409', 'restore_agent_name');
    return null;
end
$$;

-- A prompt that was in use then is in use again, as a new version; where there was none, there is none.
create function private.prompts_restore(p_tenant_id uuid, p_agents jsonb) returns void
language plpgsql set search_path = '' as $$
declare
    v_agents uuid[];
    v_prompts jsonb[];
begin
    with replaced as (
        select (a ->> 'id')::uuid as agent_id, nullif(a -> 'prompt', 'null') as prompt
        from jsonb_array_elements(p_agents) a
        left join public.agent_prompts p
            on p.tenant_id = p_tenant_id and p.agent_id = (a ->> 'id')::uuid and p.is_active
        where nullif(a -> 'prompt', 'null') is distinct from to_jsonb(p) - '{tenant_id,id,agent_id,version,
            trigger_reason,is_active,tokens_used,response_quality,created_at}'::text[]
    )
    select array_agg(r.agent_id), array_agg(r.prompt) into v_agents, v_prompts from replaced r;
    update public.agent_prompts p set is_active = false
    where p.tenant_id = p_tenant_id and p.agent_id = any(v_agents) and p.is_active;
    insert into public.agent_prompts (
        tenant_id, agent_id, system_prompt, context_summary, business_context, version, trigger_reason)
    select p_tenant_id, r.agent_id, r.prompt ->> 'system_prompt', r.prompt ->> 'context_summary',
        r.prompt -> 'business_context', coalesce((
            select max(p.version) from public.agent_prompts p
            where p.tenant_id = p_tenant_id and p.agent_id = r.agent_id), 0) + 1, 'restore'
    from unnest(v_agents, v_prompts) as r (agent_id, prompt)
    where r.prompt is not null;
end
$$;

create function private.numbers_restore(p_tenant_id uuid, p_numbers jsonb) returns int
language plpgsql strict set search_path = '' as $$
begin
    update public.whatsapp_numbers n
    set default_agent_id = (
        select a.id from public.ai_agents a where a.tenant_id = n.tenant_id and a.name = d ->> 'default_agent')
    from jsonb_array_elements(p_numbers) d
    where n.tenant_id = p_tenant_id and n.id = (d ->> 'id')::uuid;
    return private.rows_restore('public.whatsapp_numbers', p_tenant_id, 'id', p_numbers);
end
$$;

create function private.settings_restore(p_tenant_id uuid, p_settings jsonb) returns int
language plpgsql strict set search_path = '' as $$
begin
    update public.tenant_settings s
    set followup_agent_id = (
            select a.id from public.ai_agents a
            where a.tenant_id = s.tenant_id and a.name = p_settings ->> 'followup_agent'),
        followup_template_id = (
            select t.id from public.message_templates t
            where t.tenant_id = s.tenant_id and t.name = p_settings #>> '{followup_template,name}'
                and t.language = p_settings #>> '{followup_template,language}'
            order by (t.status = 'approved') desc, t.created_at desc
            limit 1)
    where s.tenant_id = p_tenant_id;
    return private.rows_restore('public.tenant_settings', p_tenant_id, 'tenant_id',
        jsonb_build_array(p_settings || jsonb_build_object('tenant_id', p_tenant_id)));
end
$$;

-- Sequences as they were: those deleted since are there again, those made by the change are deleted. Customers on
-- their way stay on the version they have, and what they got they do not get again.
create function private.sequences_restore(p_tenant_id uuid, p_sequences jsonb, p_new jsonb) returns int
language plpgsql set search_path = '' as $$
declare
    v_entry jsonb;
begin
    perform private.sequence_remove(s.tenant_id, s.id)
    from public.sequences s
    where s.tenant_id = p_tenant_id and s.deleted_at is null and p_new ? s.id::text;
    -- under a name that nobody has: what they were called then may be what another of them is called now
    update public.sequences s set deleted_at = null, name = s.id::text
    from jsonb_array_elements(p_sequences) e
    where s.tenant_id = p_tenant_id and s.id = (e ->> 'id')::uuid
        and (s.deleted_at is not null or lower(s.name) <> lower(e ->> 'name'));
    for v_entry in select e from jsonb_array_elements(p_sequences) e loop
        perform private.sequence_switch(p_tenant_id, (private.sequence_save(p_tenant_id, (
            select s.id from public.sequences s where s.tenant_id = p_tenant_id and s.id = (v_entry ->> 'id')::uuid
        ), v_entry - '{id,active}'::text[], private.my_user_id()) ->> 'id')::uuid, (v_entry ->> 'active')::boolean);
    end loop;
    return nullif(coalesce(jsonb_array_length(p_sequences), 0) + coalesce(jsonb_array_length(p_new), 0), 0);
end
$$;

-- What of a restore point is to be brought back; a part it does not hold is refused.
create function private.restore_parts(p_point public.restore_points, p_parts text[]) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_unknown text := (
        select string_agg(part, ', ') from unnest(p_parts) part where part <> all (array(select jsonb_object_keys(p_point.document))));
begin
    if v_unknown is not null then
        perform private.refuse('PT400', 'restore_part', jsonb_build_object('part', v_unknown, 'parts', (
            select string_agg(key, ', ') from jsonb_object_keys(p_point.document - 'new') key)));
    end if;
    return case when p_parts is null then p_point.document
        when 'sequences' = any(p_parts) then private.jsonb_pick(p_point.document, p_parts || array['new'])
        else private.jsonb_pick(p_point.document, p_parts) end;
end
$$;

-- Definer: people may write neither restore points nor what no form of theirs edits; tenant from require_admin.
create function private.restore_point_restore(p_id uuid, p_parts text[]) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_admin();
    v_point public.restore_points;
    v_parts jsonb;
    v_undo_id uuid;
begin
    select * into v_point from public.restore_points r where r.tenant_id = v_tenant_id and r.id = p_id;
    if not found then
        perform private.refuse('PT404', 'no_restore_point');
    end if;
    v_parts := private.restore_parts(v_point, p_parts);
    -- sequences are added to it as they change
    v_undo_id := private.restore_point(v_tenant_id, 'restore', private.jsonb_pick(private.configuration(v_tenant_id),
        array(select key from jsonb_object_keys(v_parts - 'sequences' - 'new') key)));
    return jsonb_build_object('undo', v_undo_id, 'restored', jsonb_strip_nulls(jsonb_build_object(
        'agents', private.agents_restore(v_tenant_id, v_parts -> 'agents'),
        'settings', private.settings_restore(v_tenant_id, v_parts -> 'settings'),
        'numbers', private.numbers_restore(v_tenant_id, v_parts -> 'numbers'),
        'sequences', private.sequences_restore(v_tenant_id, v_parts -> 'sequences', v_parts -> 'new'))));
end
$$;

-- Bring back what was there before a change, or on a day: all of it, or the parts named (settings, agents, numbers,
-- sequences). What was there until now becomes a restore point itself. {"undo": its id, "restored": {part: rows}}
create function public.restore_point_restore(p_restore_point_id uuid, p_parts text[] default null) returns jsonb
language sql set search_path = '' as $$
    select private.restore_point_restore(p_restore_point_id, p_parts)
$$;
grant execute on function private.restore_point_restore(uuid, text[]), public.restore_point_restore(uuid, text[])
    to authenticated;

insert into private.phrases (kind, reason, es, en, pt) values
    ('refusal', 'no_restore_point', 'No hay tal punto de restauración.', 'There is no such restore point.',
        'Não há tal ponto de restauração.'),
    ('hint', 'no_restore_point', 'Tome su id de restore_points.', 'Read its id from restore_points.',
        'Leia o seu id em restore_points.'),
    ('refusal', 'restore_agent_name', 'Otro agente tiene ahora el nombre de uno de los que volverían.',
        'Another agent has the name now of one that would come back.',
        'Outro agente tem agora o nome de um dos que voltariam.'),
    ('hint', 'restore_agent_name', 'Cambie el nombre de ese agente, o restaure las demás partes (p_parts).',
        'Rename that agent, or restore the other parts (p_parts).',
        'Mude o nome desse agente, ou restaure as outras partes (p_parts).'),
    ('refusal', 'restore_part', 'Este punto de restauración no contiene {part}.',
        'This restore point does not hold {part}.', 'Este ponto de restauração não contém {part}.'),
    ('hint', 'restore_part', 'Contiene {parts}.', 'It holds {parts}.', 'Contém {parts}.');
