-- Leads: the customers of a business, and the addresses by which we recognise them.

-- Words to compare: no accents, no capitals, one blank where anything but a letter or digit was. The classes are
-- spelt out, because [[:alnum:]] depends on the database's locale.
create function private.fold(p_text text) returns text
language sql immutable parallel safe set search_path = '' as $$
    select btrim(regexp_replace(
        lower(regexp_replace(normalize(p_text, nfkd), '[\u0300-\u036f]', '', 'g')),
        '[\s\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u2000-\u206f\u3000-\u303f\ufe00-\ufe0f]+', ' ', 'g'))
$$;
grant execute on function private.fold(text) to authenticated, service_role;

create table public.customer_leads (
    tenant_id uuid,
    id uuid default private.uuid7(),
    phone text,
    chat_id text,
    name text,
    name_source text,
    named_at timestamptz,
    user_name text,
    label1 text,
    label2 text,
    label3 text,
    email text,
    company text,
    customer_type text,
    business_category text,
    tags text[] not null default '{}',
    lead_status text not null default 'new',
    lead_grade text not null default 'C',
    qualification_score int not null default 0,
    assigned_to uuid,
    last_activity timestamptz,
    thread_id uuid,
    thread_token_count bigint not null default 0,
    profile_status text,
    next_action text,
    next_action_at timestamptz,
    priority smallint not null default 2,
    timezone text,
    opted_out_at timestamptz,
    opt_out_scope text,
    metadata jsonb not null default '{}',
    is_active boolean not null default true,
    merged_into uuid,
    merged_at timestamptz,
    merged_by uuid,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint customer_leads_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint customer_leads_assigned_to_fkey foreign key (tenant_id, assigned_to)
        references public.users (tenant_id, id),
    constraint customer_leads_merged_by_fkey foreign key (tenant_id, merged_by) references public.users (tenant_id, id),
    constraint customer_leads_phone_check check (phone ~ '^[1-9]\d{7,14}$'),
    constraint customer_leads_name_source_check check (name_source in ('profile', 'contacts')),
    constraint customer_leads_timezone_check check (private.is_timezone(timezone)),
    constraint customer_leads_priority_check check (priority between 1 and 5),
    constraint customer_leads_qualification_score_check check (qualification_score between 0 and 100),
    constraint customer_leads_opt_out_check check (
        (opted_out_at is null) = (opt_out_scope is null) and opt_out_scope in ('all', 'marketing'))
) with (fillfactor = 80);
comment on table public.customer_leads is 'The customers of a business, whether or not they ever bought.';
comment on column public.customer_leads.phone is
    'pii: the first phone known, digits without +; it never changes: current addresses are in lead_identities.';
comment on column public.customer_leads.chat_id is 'pii: the provider''s first id of the chat; set once.';
comment on column public.customer_leads.name is
    'pii: of the customer''s first profile, else of the phone''s address book, until staff write another.';
comment on column public.customer_leads.name_source is 'Where the name is from; null: from staff, or there is none.';
comment on column public.customer_leads.named_at is
    'When that was said: of two profiles the earlier gives the name, of two entries of the address book the later.';
comment on column public.customer_leads.user_name is
    'pii: username or profile name as of the last webhook that had one.';
comment on column public.customer_leads.label1 is 'pii: label of the provider''s chat list, as the staff gave it';
comment on column public.customer_leads.label2 is 'pii: see label1';
comment on column public.customer_leads.label3 is 'pii: see label1';
comment on column public.customer_leads.tags is 'pii: the business''s own words for the customer';
comment on column public.customer_leads.profile_status is
    'pii: what became of the customer; one of tenant_settings.crm_statuses.';
comment on column public.customer_leads.email is 'pii: e-mail';
comment on column public.customer_leads.company is 'pii: company';
comment on column public.customer_leads.next_action is 'pii: may quote the customer';
comment on column public.customer_leads.metadata is 'pii: whatever the business keeps about the customer';
comment on column public.customer_leads.last_activity is 'Written once per quiet period, by activity_flush().';
comment on column public.customer_leads.thread_id is 'The AI thread used last, in whichever chat.';
comment on column public.customer_leads.thread_token_count is 'Tokens of every AI run for this customer; never reset.';
comment on column public.customer_leads.merged_into is
    'The lead that this one turned out to be; whatever referred to it now refers there.';
comment on column public.customer_leads.timezone is
    'The customer''s clock, where the business knows better than the country of the number; see calling_codes.';
comment on column public.customer_leads.opted_out_at is
    'Since when the customer has refused; this and opt_out_scope are what consent_events come to, in order of time.';
comment on column public.customer_leads.opt_out_scope is 'What the customer refuses: all messages, or marketing.';

create index customer_leads_tenant_id_phone_idx on public.customer_leads (tenant_id, phone);
create index customer_leads_tenant_id_assigned_to_idx
    on public.customer_leads (tenant_id, assigned_to) where assigned_to is not null;
create index customer_leads_tenant_id_thread_id_idx
    on public.customer_leads (tenant_id, thread_id) where thread_id is not null;
create index customer_leads_tenant_id_merged_into_idx
    on public.customer_leads (tenant_id, merged_into) where merged_into is not null;
create index customer_leads_tenant_id_merged_by_idx
    on public.customer_leads (tenant_id, merged_by) where merged_by is not null;
-- After the indexes: while there are no statistics the planner finds them as good for an id, and takes the youngest.
alter table public.customer_leads add constraint customer_leads_pkey primary key (tenant_id, id);
alter table public.customer_leads add constraint customer_leads_merged_into_fkey
    foreign key (tenant_id, merged_into) references public.customer_leads (tenant_id, id);

-- A name that comes without its time is the staff's, and stays.
create function private.lead_named_by_staff() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.name_source := null;
    new.named_at := null;
    return new;
end
$$;
create trigger customer_leads_named_by_staff before update of name on public.customer_leads
    for each row when (new.name is distinct from old.name and new.named_at is not distinct from old.named_at)
    execute function private.lead_named_by_staff();
create trigger customer_leads_touch_updated_at before update on public.customer_leads
    for each row execute function private.touch_updated_at();

alter table public.customer_leads enable row level security;
grant select, update (name, label1, label2, label3, email, company, customer_type, business_category, tags,
    lead_status, lead_grade, qualification_score, assigned_to, profile_status, next_action, next_action_at, priority,
    timezone, metadata, is_active) on public.customer_leads to authenticated;
grant select, insert, update, delete on public.customer_leads to service_role;
create policy customer_leads_select_member on public.customer_leads for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));
create policy customer_leads_update_user on public.customer_leads for update to authenticated
    using (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) in ('admin', 'user'))
    with check (tenant_id = (select private.my_tenant_id()) and (select private.my_role()) in ('admin', 'user'));

-- lead_identities: one address for one span of time. valid_to is infinity while it holds, so the primary key both
-- finds a customer and makes sure that an address leads to one customer only.
create table public.lead_identities (
    tenant_id uuid,
    kind text,
    scope text,
    value text,
    valid_to timestamptz default 'infinity',
    valid_from timestamptz not null,
    lead_id uuid not null,
    constraint lead_identities_pkey primary key (tenant_id, kind, scope, value, valid_to),
    constraint lead_identities_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint lead_identities_kind_check check (
        kind in ('phone', 'mobile', 'bsuid', 'parent_bsuid', 'chat_id', 'username')),
    constraint lead_identities_value_check check (value <> '' and length(value) <= 256)
);
comment on table public.lead_identities is 'Addresses of a lead, with the time for which they held.';
comment on column public.lead_identities.value is 'pii: phone, business-scoped user id, provider chat id or username';
comment on column public.lead_identities.scope is
    'Where the value means something: the portfolio of a business-scoped user id, the provider of a chat id.';

comment on column public.lead_identities.kind is
    'mobile: the one form of a mobile number that its country writes in two; see private.mobile_key().';
comment on column public.lead_identities.valid_from is 'The first time it was seen, whoever had it then.';

create index lead_identities_tenant_id_lead_id_idx on public.lead_identities (tenant_id, lead_id);

alter table public.lead_identities enable row level security;
grant select on public.lead_identities to authenticated;
grant select, insert, update, delete on public.lead_identities to service_role;
create policy lead_identities_select_member on public.lead_identities for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- address_book: what the phone of a number calls people. Nobody becomes a lead by being in it.
create table public.address_book (
    tenant_id uuid,
    kind text,
    scope text,
    value text,
    name text,
    changed_at timestamptz not null,
    constraint address_book_pkey primary key (tenant_id, kind, scope, value),
    constraint address_book_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
comment on table public.address_book is
    'Entries of the address books of the business''s phones, for the names of leads that have none.';
comment on column public.address_book.value is 'pii: as in lead_identities';
comment on column public.address_book.name is 'pii: the business''s name for the person; null: the entry was removed.';
comment on column public.address_book.changed_at is 'By the phone; an older change does not undo a newer one.';

alter table public.address_book enable row level security;
grant select on public.address_book to authenticated;
grant select, insert, update, delete on public.address_book to service_role;
create policy address_book_select_member on public.address_book for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- lead_merge_candidates: two leads that may be one person; a person decides.
create table public.lead_merge_candidates (
    tenant_id uuid,
    lead_id uuid,
    other_lead_id uuid,
    reason text not null,
    evidence jsonb not null default '{}',
    status text not null default 'open',
    created_at timestamptz not null default now(),
    resolved_at timestamptz,
    resolved_by uuid,
    constraint lead_merge_candidates_pkey primary key (tenant_id, lead_id, other_lead_id),
    constraint lead_merge_candidates_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint lead_merge_candidates_other_lead_id_fkey foreign key (tenant_id, other_lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint lead_merge_candidates_resolved_by_fkey foreign key (tenant_id, resolved_by)
        references public.users (tenant_id, id),
    -- a pair is written one way only
    constraint lead_merge_candidates_other_lead_id_check check (lead_id < other_lead_id),
    constraint lead_merge_candidates_status_check check (status in ('open', 'merged', 'dismissed'))
);
comment on table public.lead_merge_candidates is 'Pairs of leads whose addresses contradict each other.';
comment on column public.lead_merge_candidates.evidence is 'pii: the addresses that met';

create index lead_merge_candidates_tenant_id_other_lead_id_idx
    on public.lead_merge_candidates (tenant_id, other_lead_id);
create index lead_merge_candidates_tenant_id_resolved_by_idx
    on public.lead_merge_candidates (tenant_id, resolved_by) where resolved_by is not null;

alter table public.lead_merge_candidates enable row level security;
grant select on public.lead_merge_candidates to authenticated;
grant select, insert, update, delete on public.lead_merge_candidates to service_role;
create policy lead_merge_candidates_select_member on public.lead_merge_candidates for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- consent_events: every opt-out and opt-in ever said; customer_leads holds the result.
create table public.consent_events (
    tenant_id uuid,
    id uuid default private.uuid7(),
    lead_id uuid not null,
    kind text not null,
    scope text not null,
    source text not null,
    evidence text,
    happened_at timestamptz not null,
    created_at timestamptz not null default now(),
    constraint consent_events_pkey primary key (tenant_id, id),
    -- said once, however often it is delivered
    constraint consent_events_said_once_key unique (tenant_id, lead_id, source, kind, scope, happened_at),
    constraint consent_events_lead_id_fkey foreign key (tenant_id, lead_id)
        references public.customer_leads (tenant_id, id) on delete cascade,
    constraint consent_events_kind_check check (kind in ('opt_out', 'opt_in')),
    constraint consent_events_scope_check check (scope in ('all', 'marketing')),
    constraint consent_events_source_check check (source in ('keyword', 'provider', 'staff', 'merge'))
);
comment on table public.consent_events is 'Opt-outs and opt-ins in the order they were said; only ever added to.';
comment on column public.consent_events.evidence is 'pii: the customer''s own words';

alter table public.consent_events enable row level security;
grant select on public.consent_events to authenticated;
grant select, insert on public.consent_events to service_role;
create policy consent_events_select_member on public.consent_events for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- The names by which the source systems' front ends know a customer.
create view public.client_view with (security_invoker = true) as
select
    phone as phone_number, name, user_name, label1, label2, label3, chat_id, last_activity, thread_id,
    thread_token_count, profile_status,
    next_action as proxima_accion, next_action_at as fecha_proxima_accion, priority as prioridad
from public.customer_leads
where is_active;
comment on view public.client_view is 'customer_leads under the names of ClientView, for front ends that know those.';
grant select on public.client_view to authenticated, service_role;
