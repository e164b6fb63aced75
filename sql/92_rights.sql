-- Rights: who changed what a business decides, and what it was before.

-- audit_log: a row for every change of a business's configuration, by whomever and however it was made.
create table public.audit_log (
    tenant_id uuid,
    id uuid default private.uuid7(),
    happened_at timestamptz not null,
    user_id uuid,
    action text not null,
    table_name text not null,
    row_id uuid,
    row_name text,
    before jsonb,
    after jsonb,
    constraint audit_log_pkey primary key (tenant_id, id),
    constraint audit_log_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint audit_log_user_id_fkey foreign key (tenant_id, user_id) references public.users (tenant_id, id)
);
comment on table public.audit_log is 'Who changed what. Rows are only ever added; who may, sees them.';
comment on column public.audit_log.user_id is 'null: no person of the business, but a job, or the secret key.';
comment on column public.audit_log.action is 'insert, update or delete; or what a person did by a function''s name.';
comment on column public.audit_log.row_name is 'pii: what it was called then; the name of a colleague, perhaps';
comment on column public.audit_log.before is 'pii: the columns that changed, as they were; all of a deleted row';
comment on column public.audit_log.after is 'pii: the same columns as they are since; all of a new row';

create index audit_log_tenant_id_happened_at_idx on public.audit_log (tenant_id, happened_at desc);
create index audit_log_tenant_id_table_name_row_id_idx
    on public.audit_log (tenant_id, table_name, row_id, happened_at desc);
create index audit_log_tenant_id_user_id_idx on public.audit_log (tenant_id, user_id) where user_id is not null;

alter table public.audit_log enable row level security;
grant select on public.audit_log to authenticated, service_role;
create policy audit_log_select_admin on public.audit_log for select to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) = 'admin');

-- What a person did, where no row of a table says it.
create function private.audit(
    p_tenant_id uuid, p_action text, p_table text, p_row_id uuid, p_name text default null, p_before jsonb default null,
    p_after jsonb default null
) returns void
language sql set search_path = '' as $$
    insert into public.audit_log (
        tenant_id, happened_at, user_id, action, table_name, row_id, row_name, before, after)
    values (p_tenant_id, private.clock(), private.my_user_id(), p_action, p_table, p_row_id, p_name, p_before, p_after)
$$;

-- after insert, update or delete, for each row: what it was and what it is. Its arguments are columns that are
-- nobody's decision. Definer: nobody may write the log, and everybody's changes are in it.
create function private.audit_note() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_ignored text[] := tg_argv[0:] || array['created_at', 'updated_at'];
    v_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - v_ignored end;
    v_after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - v_ignored end;
    v_row jsonb := coalesce(v_after, v_before);
begin
    if tg_op = 'UPDATE' then
        select jsonb_object_agg(c.key, c.value), jsonb_object_agg(c.key, v_after -> c.key)
        into v_before, v_after
        from jsonb_each(v_before) c
        where c.value is distinct from v_after -> c.key;
    end if;
    if tg_op <> 'UPDATE' or v_after is not null then
        perform private.audit(
            (v_row ->> 'tenant_id')::uuid, lower(tg_op), tg_table_name,
            coalesce(v_row ->> 'id', v_row ->> 'sequence_id', v_row ->> 'tenant_id')::uuid,
            coalesce(v_row ->> 'name', v_row ->> 'display_name', v_row ->> 'business_name', v_row ->> 'email'),
            v_before, v_after);
    end if;
    return null;
end
$$;

create trigger tenant_settings_audit after insert or update or delete on public.tenant_settings
    for each row execute function private.audit_note();
create trigger users_audit after insert or update or delete on public.users
    for each row execute function private.audit_note('auth_id');
-- what providers tell about a number is no decision
create trigger whatsapp_numbers_audit
    after insert or delete or update of display_name, is_active, is_primary, auto_reply, business_hours, timezone,
    default_agent_id, rate_per_second on public.whatsapp_numbers
    for each row execute function private.audit_note('quality_rating', 'messaging_limit');
create trigger ai_agents_audit after insert or update or delete on public.ai_agents
    for each row execute function private.audit_note();
create trigger agent_prompts_audit after insert or delete or update of is_active on public.agent_prompts
    for each row execute function private.audit_note('tokens_used', 'response_quality');
create trigger sequences_audit after insert or update or delete on public.sequences
    for each row execute function private.audit_note();
create trigger sequence_triggers_audit after insert or update or delete on public.sequence_triggers
    for each row execute function private.audit_note();

-- Every day: what is older than each business wants it kept.
create function private.audit_purge() returns void
language plpgsql set search_path = '' as $$
begin
    delete from public.audit_log a
    using public.tenant_settings s
    where a.tenant_id = s.tenant_id
        and a.happened_at < (select private.clock()) - make_interval(days => s.audit_retention_days);
end
$$;
