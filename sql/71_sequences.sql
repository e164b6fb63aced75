-- Sequences: messages that follow each other, days apart, for everybody who was enrolled. Steps of a version never
-- change: who edits a sequence makes a new version, and enrollments stay on theirs until they are moved.

create table public.sequences (
    tenant_id uuid,
    id uuid default private.uuid7(),
    name text not null,
    description text,
    goal text,
    goal_tags text[] not null default '{}',
    goal_statuses text[] not null default '{}',
    goal_outcomes text[] not null default '{}',
    stop_tags text[] not null default '{}',
    stop_statuses text[] not null default '{}',
    stop_outcomes text[] not null default '{}',
    after_reply text not null default 'manual',
    resume_after_hours int,
    priority smallint not null default 2,
    version int not null default 1,
    is_active boolean not null default false,
    deleted_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint sequences_pkey primary key (tenant_id, id),
    constraint sequences_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint sequences_name_check check (btrim(name) <> '' and length(name) <= 200),
    constraint sequences_description_check check (length(description) <= 2000),
    constraint sequences_goal_check check (length(goal) <= 2000),
    constraint sequences_after_reply_check check (
        after_reply in ('never', 'silence', 'manual') and (after_reply = 'silence') = (resume_after_hours is not null)),
    constraint sequences_resume_after_hours_check check (resume_after_hours between 1 and 8760),
    constraint sequences_priority_check check (priority between 1 and 5),
    constraint sequences_deleted_at_check check (deleted_at is null or not is_active)
);
comment on table public.sequences is 'Sequences of messages. What is here holds at once for everybody enrolled.';
comment on column public.sequences.goal is 'What it is for, in the business''s words.';
comment on column public.sequences.goal_tags is 'A lead with one of them is done: the enrollment is completed.';
comment on column public.sequences.goal_statuses is 'The same for lead_status and profile_status.';
comment on column public.sequences.goal_outcomes is
    'The same for the outcome of a conversation that was closed since the enrollment; * is any outcome.';
comment on column public.sequences.stop_tags is 'A lead with one of them gets no more: the enrollment is stopped.';
comment on column public.sequences.stop_statuses is 'The same for lead_status and profile_status.';
comment on column public.sequences.stop_outcomes is 'The same for the outcome of a conversation, as goal_outcomes.';
comment on column public.sequences.after_reply is
    'When the customer has written it goes on never, after resume_after_hours of silence, or when staff say so.';
comment on column public.sequences.priority is 'Of what a person has to send; the higher, the sooner.';
comment on column public.sequences.version is 'Of the steps that new enrollments get.';
comment on column public.sequences.is_active is 'Only then is anybody enrolled, and anything sent.';

-- Names are free again when a sequence is deleted.
create unique index sequences_tenant_id_name_key on public.sequences (tenant_id, lower(name)) where deleted_at is null;

create trigger sequences_touch_updated_at before update on public.sequences
    for each row execute function private.touch_updated_at();

alter table public.sequences enable row level security;
grant select on public.sequences to authenticated;
grant select, insert, update, delete on public.sequences to service_role;
create policy sequences_select_member on public.sequences for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

create table public.sequence_versions (
    tenant_id uuid,
    sequence_id uuid,
    version int,
    published_at timestamptz not null default now(),
    published_by uuid,
    constraint sequence_versions_pkey primary key (tenant_id, sequence_id, version),
    constraint sequence_versions_sequence_id_fkey foreign key (tenant_id, sequence_id)
        references public.sequences (tenant_id, id) on delete cascade,
    constraint sequence_versions_published_by_fkey foreign key (tenant_id, published_by)
        references public.users (tenant_id, id),
    constraint sequence_versions_version_check check (version >= 1)
);
comment on table public.sequence_versions is 'Every edition of a sequence''s steps; what is published stays as it is.';

create index sequence_versions_tenant_id_published_by_idx
    on public.sequence_versions (tenant_id, published_by) where published_by is not null;

alter table public.sequence_versions enable row level security;
grant select on public.sequence_versions to authenticated;
grant select, insert, update, delete on public.sequence_versions to service_role;
create policy sequence_versions_select_member on public.sequence_versions for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

create table public.sequence_steps (
    tenant_id uuid,
    sequence_id uuid,
    version int,
    order_position int,
    key text not null,
    delay_minutes int not null default 0,
    local_time time,
    window_margin_minutes int,
    type text not null,
    text text,
    media jsonb,
    template_id uuid,
    parameters jsonb,
    on_window_closed text not null default 'skip_to_manual',
    constraint sequence_steps_pkey primary key (tenant_id, sequence_id, version, order_position),
    constraint sequence_steps_key_key unique (tenant_id, sequence_id, version, key),
    constraint sequence_steps_version_fkey foreign key (tenant_id, sequence_id, version)
        references public.sequence_versions (tenant_id, sequence_id, version) on delete cascade,
    constraint sequence_steps_template_id_fkey foreign key (tenant_id, template_id)
        references public.message_templates (tenant_id, id),
    constraint sequence_steps_order_position_check check (order_position >= 1),
    constraint sequence_steps_key_check check (key ~ '^[A-Za-z0-9_.-]{1,64}$'),
    constraint sequence_steps_delay_minutes_check check (delay_minutes between 0 and 527040),
    constraint sequence_steps_window_margin_minutes_check check (window_margin_minutes between 1 and 1380),
    constraint sequence_steps_timing_check check (local_time is null or window_margin_minutes is null),
    constraint sequence_steps_type_check check (
        case type when 'text' then text is not null and media is null
            when 'template' then template_id is not null and text is null and media is null
            else type in ('image', 'audio', 'video', 'document') and media is not null end),
    constraint sequence_steps_on_window_closed_check check (
        on_window_closed in ('skip_to_manual', 'use_template', 'wait', 'stop')
        and (on_window_closed <> 'use_template' or template_id is not null))
);
comment on table public.sequence_steps is
    'The steps of an edition. A step is due delay_minutes after the one before, then at local_time if it has one, or '
    'not later than window_margin_minutes before the window closes.';
comment on column public.sequence_steps.key is 'The same step in every edition, as the business calls it.';
comment on column public.sequence_steps.local_time is 'By the customer''s clock: the first such time after the delay.';
comment on column public.sequence_steps.window_margin_minutes is
    'Just before the window closes: so long before it, or earlier where many close together.';
comment on column public.sequence_steps.text is 'With placeholders; see private.placeholder_names().';
comment on column public.sequence_steps.template_id is
    'What is sent as a step of type template, or in its place when the window is closed.';
comment on column public.sequence_steps.parameters is 'Of the template, whose texts may have placeholders.';

create index sequence_steps_tenant_id_template_id_idx
    on public.sequence_steps (tenant_id, template_id) where template_id is not null;

alter table public.sequence_steps enable row level security;
grant select on public.sequence_steps to authenticated;
grant select, insert, update, delete on public.sequence_steps to service_role;
create policy sequence_steps_select_member on public.sequence_steps for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- sequence_triggers: what enrolls customers by itself.
create table public.sequence_triggers (
    tenant_id uuid,
    sequence_id uuid,
    kind text,
    value text default '',
    constraint sequence_triggers_pkey primary key (tenant_id, sequence_id, kind, value),
    constraint sequence_triggers_sequence_id_fkey foreign key (tenant_id, sequence_id)
        references public.sequences (tenant_id, id) on delete cascade,
    constraint sequence_triggers_kind_check check (
        case when kind in ('new_lead') then value = '' when kind = 'ad' then true
            else kind in ('keyword', 'tag', 'status') and value <> '' end),
    constraint sequence_triggers_value_check check (length(value) <= 200)
);
comment on table public.sequence_triggers is 'What enrolls a customer in a sequence who never was in it.';
comment on column public.sequence_triggers.value is
    'keyword: a word or phrase within a message; tag, status: what the lead gets; ad: its id, or empty for any.';

alter table public.sequence_triggers enable row level security;
grant select on public.sequence_triggers to authenticated;
grant select, insert, update, delete on public.sequence_triggers to service_role;
create policy sequence_triggers_select_member on public.sequence_triggers for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
