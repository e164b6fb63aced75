-- Faults: what was done, the rule that must see it, the object it must name; then how it is done.

-- a table without RLS -> 0001_rls_enabled: public.faulty_notes
create table public.faulty_notes (
    tenant_id uuid, id uuid default private.uuid7(),
    constraint faulty_notes_pkey primary key (tenant_id, id),
    constraint faulty_notes_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);

-- a table nobody declared -> access_objects: public.faulty_notes
create table public.faulty_notes (
    tenant_id uuid, id uuid default private.uuid7(),
    constraint faulty_notes_pkey primary key (tenant_id, id),
    constraint faulty_notes_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);

-- a policy for anon -> 0002_policy_roles: plans_select_anon on public.plans
create policy plans_select_anon on public.plans for select to anon using (true);

-- a policy that says no role -> 0002_policy_roles: plans_select_all on public.plans
create policy plans_select_all on public.plans for select using (true);

-- a second policy -> 0003_policy_overlap: public.customer_leads for select to authenticated
create policy customer_leads_select_all on public.customer_leads
    for select to authenticated using (true);

-- for all beside for select -> 0003_policy_overlap: public.chats for select to authenticated
create policy chats_all_member on public.chats to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- a policy for every tenant -> 0004_policy_tenant: customer_leads_select_all on public.customer_leads
create policy customer_leads_select_all on public.customer_leads
    for select to authenticated using (true);

-- a policy with a way around the tenant -> 0004_policy_tenant: chats_select_member on public.chats
alter policy chats_select_member on public.chats
    using (tenant_id = (select private.my_tenant_id()) or unread_count = 0);

-- a check for every tenant -> 0004_policy_tenant: conversations_update_member on public.conversations
alter policy conversations_update_member on public.conversations with check (true);

-- a policy that calls a function for each row -> policy_per_row: chats_select_member on public.chats
alter policy chats_select_member on public.chats
    using (tenant_id = private.my_tenant_id());

-- a policy that asks the settings for each row -> policy_per_row: chats_select_member on public.chats
alter policy chats_select_member on public.chats
    using (tenant_id::text = current_setting('request.jwt.claims', true));

-- a policy that looks something up for each row -> policy_per_row: chats_select_member on public.chats
alter policy chats_select_member on public.chats
    using (exists (
        select from public.users u where u.tenant_id = chats.tenant_id and u.auth_id = (select auth.uid())));

-- a policy that passes a column to a function -> policy_per_row: users_select_member on public.users
alter policy users_select_member on public.users using ((select private.is_timezone(users.timezone)));

-- a check that calls a function for each row -> policy_per_row: conversations_update_member on public.conversations
alter policy conversations_update_member on public.conversations
    with check (tenant_id = private.my_tenant_id());

-- a function without search_path -> 0005_function_search_path: private.faulty()
create function private.faulty() returns int
language sql as 'select 1';

-- a function with a search_path of names -> 0005_function_search_path: public.faulty()
create function public.faulty() returns int
language sql set search_path = public as 'select 1';

-- a trigger function without search_path -> 0005_function_search_path: private.faulty()
create function private.faulty() returns trigger
language plpgsql as 'begin return new; end';

-- execute left to everybody -> 0006_function_execute: public.faulty()
create function public.faulty() returns int
language sql set search_path = '' as 'select 1';
grant execute on function public.faulty() to public;

-- execute for anon -> 0006_function_execute: public.me()
grant execute on function public.me() to anon;

-- execute for people where only the service may -> access_execute: public.plan_set
grant execute on function public.plan_set(uuid, text) to authenticated;

-- execute that the service has lost -> access_execute: public.plan_set
revoke execute on function public.plan_set(uuid, text) from service_role;

-- a helper opened to people -> access_execute: private.alert_raise
grant execute on function private.alert_raise(uuid, text, text, text, uuid, uuid, text, jsonb) to authenticated;

-- a function nobody declared -> access_objects: public.faulty
create function public.faulty() returns int
language sql set search_path = '' as 'select 1';

-- a definer function in public -> 0007_function_definer: public.faulty()
create function public.faulty() returns int
language sql security definer set search_path = '' as 'select 1';
grant execute on function public.faulty() to authenticated;

-- a definer function without a reason -> 0007_function_definer: private.faulty()
create function private.faulty() returns int
language sql security definer set search_path = '' as 'select 1';

-- an overload -> 0008_function_overload: public.me
create function public.me(p_x int) returns int
language sql set search_path = '' as 'select 1';

-- an rpc that believes the tenant it is told -> 0009_function_tenant_argument: public.faulty(uuid)
create function public.faulty(p_tenant_id uuid) returns int
language sql set search_path = '' as 'select 1';
grant execute on function public.faulty(uuid) to authenticated;

-- a view of its owner -> 0010_view_invoker: public.faulty_view
create view public.faulty_view as select id from public.users;

-- a materialized view -> 0010_view_invoker: public.faulty_view
create materialized view public.faulty_view as select id from public.users;

-- a view that sums up and does not refuse writes -> 0024_view_writes: public.faulty_view
create view public.faulty_view with (security_invoker = true) as
select tenant_id, count(*) as people from public.users group by tenant_id;

-- a foreign key without index -> 0011_foreign_key_index: faulty_notes_lead_id_fkey on public.faulty_notes
create table public.faulty_notes (
    tenant_id uuid, id uuid default private.uuid7(), lead_id uuid,
    constraint faulty_notes_lead_id_fkey foreign key (tenant_id, lead_id) references public.customer_leads,
    constraint faulty_notes_pkey primary key (tenant_id, id),
    constraint faulty_notes_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);

-- a foreign key whose index leaves rows out -> 0011_foreign_key_index: faulty_notes_lead_id_fkey on public.faulty_notes
create table public.faulty_notes (
    tenant_id uuid, id uuid, lead_id uuid, status text,
    constraint faulty_notes_lead_id_fkey foreign key (tenant_id, lead_id) references public.customer_leads
);
create index faulty_notes_idx on public.faulty_notes (tenant_id, lead_id) where status = 'sent';

-- a foreign key without tenant -> 0012_foreign_key_tenant: media_author_id_fkey on public.media
alter table public.users add constraint users_x_key unique (id, tenant_id);
alter table public.media
    add author_id uuid,
    add constraint media_author_id_fkey foreign key (author_id) references public.users (id);

-- a foreign key with the tenant in the wrong place -> 0012_foreign_key_tenant: media_author_id_fkey on public.media
alter table public.users add constraint users_x_key unique (id, tenant_id);
alter table public.media
    add author_id uuid,
    add constraint media_author_id_fkey foreign key (author_id, tenant_id) references public.users (id, tenant_id);

-- a reference the database does not check -> 0013_reference_without_key: public.media.lead_id
alter table public.media add lead_id uuid;

-- a table without tenant -> 0014_tenant_column: public.faulty_notes
create table public.faulty_notes (id uuid default private.uuid7(), constraint faulty_notes_pkey primary key (id));

-- a key that is shared between tenants -> 0015_tenant_leads: public.message_templates_name_key
alter table public.message_templates add constraint message_templates_name_key unique (name);

-- an index over all tenants -> 0015_tenant_leads: public.messages_status_idx
create index messages_status_idx on public.messages (status);

-- a grant to anon -> 0016_grants_to_strangers: public.plans
grant select on public.plans to anon;

-- a grant of a column to everybody -> 0016_grants_to_strangers: public.plans.name
grant select (name) on public.plans to public;

-- the private schema opened to anon -> 0016_grants_to_strangers: schema private
grant usage on schema private to anon;

-- a grant of everything -> 0017_grants_beyond_rows: public.chats
grant all on public.chats to authenticated;

-- a grant of one verb too many -> access_grants: public.chats
grant delete on public.chats to authenticated;

-- a wide column grant -> access_grants: public.customer_leads
grant update on public.customer_leads to authenticated;

-- a column too many -> access_grants: public.users
grant update (crm_plan) on public.users to authenticated;

-- a grant that is missing -> access_grants: public.chats
revoke select on public.chats from authenticated;

-- a table without comment -> 0018_comments: public.faulty_notes
create table public.faulty_notes (
    tenant_id uuid, id uuid default private.uuid7(),
    constraint faulty_notes_pkey primary key (tenant_id, id),
    constraint faulty_notes_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);

-- a view without comment -> 0018_comments: public.faulty_view
create view public.faulty_view with (security_invoker = true) as select id from public.users;

-- personal data that does not say so -> 0019_personal_data: public.media.customer_phone
alter table public.media add customer_phone text;

-- a column for anything that does not say so -> 0019_personal_data: public.media.anything
alter table public.media add anything jsonb;

-- updated_at that nobody updates -> 0020_updated_at: public.faulty_notes
create table public.faulty_notes (
    tenant_id uuid, id uuid default private.uuid7(), updated_at timestamptz not null default now(),
    constraint faulty_notes_pkey primary key (tenant_id, id),
    constraint faulty_notes_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);

-- updated_at whose trigger is off -> 0020_updated_at: public.media
alter table public.media disable trigger media_touch_updated_at;

-- an id from elsewhere -> 0021_ids: public.media.id
alter table public.media alter id set default gen_random_uuid();

-- a time without zone -> 0022_types: public.media.seen_at
alter table public.media add seen_at timestamp;

-- money as a float -> 0022_types: public.media.price
alter table public.media add price float;

-- a name without its table -> 0023_names: size_positive on public.media
alter table public.media add constraint size_positive check (size >= 0);

-- a policy without its command -> 0023_names: members on public.chats
alter policy chats_select_member on public.chats rename to members;
