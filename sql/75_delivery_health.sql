-- Delivery health: what somebody should look at.

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

create function private.alert_raise(
    p_tenant_id uuid, p_kind text, p_subject text, p_message text, p_number_id uuid default null,
    p_chat_id uuid default null, p_severity text default 'warning'
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.alerts as a (tenant_id, kind, subject, message, number_id, chat_id, severity)
    values (p_tenant_id, p_kind, p_subject, p_message, p_number_id, p_chat_id, p_severity)
    on conflict (tenant_id, kind, subject) where resolved_at is null do update
    set occurrences = a.occurrences + 1, last_at = now(), message = excluded.message;
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
grant execute on function private.alert_raise(uuid, text, text, text, uuid, uuid, text),
    private.flag_for_person(uuid, uuid, text, text) to service_role;

-- Definer: staff may not write alerts, only say that one is dealt with.
create function private.alert_resolve(p_alert_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
begin
    update public.alerts set resolved_at = coalesce(resolved_at, now()), resolved_by = private.my_user_id()
    where tenant_id = v_tenant_id and id = p_alert_id;
    if not found then
        raise exception using errcode = 'PT404', message = 'There is no such alert.', hint = 'Read its id from alerts.';
    end if;
end
$$;
create function public.alert_resolve(p_alert_id uuid) returns void
language sql set search_path = '' as $$
    select private.alert_resolve(p_alert_id)
$$;
grant execute on function private.alert_resolve(uuid), public.alert_resolve(uuid) to authenticated;
