-- Message templates: what may be sent when the window is closed.

create table public.message_templates (
    tenant_id uuid,
    id uuid default private.uuid7(),
    waba_id text not null,
    provider_template_id text,
    name text not null,
    language text not null,
    category text not null,
    status text not null,
    quality text,
    reason text,
    components jsonb not null default '[]',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint message_templates_pkey primary key (tenant_id, id),
    constraint message_templates_tenant_id_waba_id_name_language_key unique (tenant_id, waba_id, name, language),
    constraint message_templates_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint message_templates_category_check check (category in ('marketing', 'utility', 'authentication')),
    constraint message_templates_status_check check (status = lower(status) and status <> '')
);
comment on table public.message_templates is 'Message templates as the provider last described them.';
comment on column public.message_templates.status is
    'The provider''s word in lower case: approved, rejected, paused, …';

create trigger message_templates_touch_updated_at before update on public.message_templates
    for each row execute function private.touch_updated_at();

alter table public.message_templates enable row level security;
grant select on public.message_templates to authenticated;
grant select, insert, update, delete on public.message_templates to service_role;
create policy message_templates_select_member on public.message_templates for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
