-- Message templates: what may be sent when the window is closed, and how their blanks are filled in.

create table public.message_templates (
    tenant_id uuid,
    id uuid default private.uuid7(),
    provider text not null default 'cloud_api',
    waba_id text not null,
    provider_template_id text not null,
    name text not null,
    language text not null,
    category text not null,
    correct_category text,
    status text not null,
    rejected_reason text,
    paused_until timestamptz,
    quality text,
    parameter_format text not null default 'positional',
    components jsonb not null default '[]',
    status_at timestamptz not null default 'epoch',
    category_at timestamptz not null default 'epoch',
    quality_at timestamptz not null default 'epoch',
    components_at timestamptz not null default 'epoch',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint message_templates_pkey primary key (tenant_id, id),
    -- a name is free again when its template is deleted; the provider's id never is
    constraint message_templates_provider_id_key unique (tenant_id, waba_id, provider_template_id),
    constraint message_templates_tenant_id_fkey foreign key (tenant_id) references public.users (id),
    constraint message_templates_provider_check check (provider in ('cloud_api', 'twilio')),
    constraint message_templates_category_check check (category in ('marketing', 'utility', 'authentication')),
    constraint message_templates_status_check check (status = lower(status) and status <> ''),
    constraint message_templates_parameter_format_check check (parameter_format in ('positional', 'named')),
    constraint message_templates_components_check check (jsonb_typeof(components) = 'array')
);
comment on table public.message_templates is 'Message templates as the provider last described them.';
comment on column public.message_templates.waba_id is 'The account they belong to; of Twilio its account SID.';
comment on column public.message_templates.provider_template_id is 'Graph''s id, or Twilio''s ContentSid (HX…).';
comment on column public.message_templates.correct_category is
    'What the provider thinks it is; it becomes the category, and the price, when nobody objects.';
comment on column public.message_templates.status is
    'The provider''s word in lower case: approved, pending, rejected, paused, disabled, flagged, … or deleted.';
comment on column public.message_templates.rejected_reason is
    'Why it is not approved, in the provider''s words: rejected, paused or disabled.';
comment on column public.message_templates.paused_until is 'Null where the provider did not say for how long.';
comment on column public.message_templates.components is
    'As Graph lists them: header, body, footer, buttons with their examples, blanks as {{1}} or {{name}}.';
comment on column public.message_templates.status_at is
    'Of the news it was last changed by; older news of the same kind change nothing any more.';

create index message_templates_tenant_id_name_idx on public.message_templates (tenant_id, waba_id, name, language);

create trigger message_templates_touch_updated_at before update on public.message_templates
    for each row execute function private.touch_updated_at();

alter table public.message_templates enable row level security;
grant select on public.message_templates to authenticated;
grant select, insert, update, delete on public.message_templates to service_role;
create policy message_templates_select_member on public.message_templates for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- template_listings: until when we know all about the templates of an account.
create table public.template_listings (
    tenant_id uuid,
    waba_id text,
    listed_at timestamptz not null,
    constraint template_listings_pkey primary key (tenant_id, waba_id),
    constraint template_listings_tenant_id_fkey foreign key (tenant_id) references public.users (id)
);
comment on table public.template_listings is 'When the provider last told all templates of an account.';
comment on column public.template_listings.listed_at is 'In whole seconds, as the provider dates its news.';

alter table public.template_listings enable row level security;
grant select on public.template_listings to authenticated;
grant select, insert, update, delete on public.template_listings to service_role;
create policy template_listings_select_member on public.template_listings for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- Keeping them up to date.

-- Two of the provider's words mean that it may be sent again.
create function private.template_status(p_word text) returns text
language sql immutable set search_path = '' as $$
    select case lower(p_word) when 'reinstated' then 'approved' when 'unarchived' then 'approved' else lower(p_word) end
$$;

-- Take over what the provider listed at that time: [{"provider_template_id", "name", "language", "category",
-- "correct_category", "status", "rejected_reason", "quality", "parameter_format", "components"}]. Only what differs
-- is written, nothing that news younger than the listing said is undone, and when the listing is complete, what is
-- not in it is deleted. Answers {"added", "changed", "deleted"}.
create function public.templates_apply(
    p_tenant_id uuid, p_provider text, p_waba_id text, p_listed_at timestamptz, p_templates jsonb,
    p_is_complete boolean default true
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_at timestamptz := date_trunc('second', p_listed_at);
    v_counts jsonb;
begin
    -- listings of one account take turns
    insert into public.template_listings as l (tenant_id, waba_id, listed_at)
    values (p_tenant_id, p_waba_id, case when p_is_complete then v_at else 'epoch' end)
    on conflict on constraint template_listings_pkey do update set listed_at = greatest(
        l.listed_at, excluded.listed_at);

    with listed as materialized (
        select distinct on (t.provider_template_id) t.*
        from jsonb_populate_recordset(null::public.message_templates, p_templates) t
        order by t.provider_template_id
    ),
    written as (
        insert into public.message_templates as m (
            tenant_id, provider, waba_id, provider_template_id, name, language, category, correct_category, status,
            rejected_reason, quality, parameter_format, components)
        select p_tenant_id, p_provider, p_waba_id, t.provider_template_id, t.name, t.language, t.category,
            t.correct_category, private.template_status(t.status), t.rejected_reason, t.quality,
            coalesce(t.parameter_format, 'positional'), coalesce(t.components, '[]')
        from listed t
        order by t.provider_template_id
        on conflict on constraint message_templates_provider_id_key do update
        set name = excluded.name, language = excluded.language, parameter_format = excluded.parameter_format,
            category = case when m.category_at > v_at then m.category else excluded.category end,
            correct_category = case when m.category_at > v_at
                then m.correct_category else excluded.correct_category end,
            status = case when m.status_at > v_at then m.status else excluded.status end,
            -- a listing has a reason for rejected templates only
            rejected_reason = case when m.status_at > v_at or m.status = excluded.status
                then coalesce(excluded.rejected_reason, m.rejected_reason) else excluded.rejected_reason end,
            paused_until = case when m.status_at > v_at or m.status = excluded.status then m.paused_until end,
            quality = case when m.quality_at > v_at then m.quality else excluded.quality end,
            components = case when m.components_at > v_at then m.components else excluded.components end
        where (m.name, m.language, m.parameter_format)
                is distinct from (excluded.name, excluded.language, excluded.parameter_format)
            or m.category_at <= v_at
                and (m.category, m.correct_category) is distinct from (excluded.category, excluded.correct_category)
            or m.status_at <= v_at and (m.status <> excluded.status
                or excluded.rejected_reason is not null and m.rejected_reason is distinct from excluded.rejected_reason)
            or m.quality_at <= v_at and m.quality is distinct from excluded.quality
            or m.components_at <= v_at and m.components <> excluded.components
        returning m.xmax = 0 as is_new
    ),
    gone as (
        update public.message_templates m set status = 'deleted', status_at = v_at, paused_until = null
        where p_is_complete and m.tenant_id = p_tenant_id and m.waba_id = p_waba_id and m.status <> 'deleted'
            and m.status_at <= v_at
            and not exists (select from listed t where t.provider_template_id = m.provider_template_id)
        returning m.id
    )
    select jsonb_build_object(
        'added', count(*) filter (where is_new), 'changed', count(*) filter (where not is_new),
        'deleted', (select count(*) from gone))
    into v_counts
    from written;
    perform private.alert_end(p_tenant_id, 'templates_not_listed', p_waba_id);
    return v_counts;
end
$$;

-- The listing could not be had; one alert until it can.
create function public.templates_fail(p_tenant_id uuid, p_waba_id text, p_problem text) returns void
language plpgsql set search_path = '' as $$
begin
    perform private.alert_raise(p_tenant_id, 'templates_not_listed', p_waba_id,
        'The templates of a WhatsApp account could not be listed: ' || p_problem);
end
$$;

-- The accounts whose templates are to be listed, of one business or all: {"now", "accounts": [{"tenant_id",
-- "provider", "waba_id", "numbers": [{"tenant_id", "number_id"}, …], any of whose tokens will do}]}.
create function public.template_accounts(p_tenant_id uuid default null) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return (
        select jsonb_build_object('now', (select private.clock()), 'accounts', coalesce(jsonb_agg(to_jsonb(a)), '[]'))
        from (
            select n.tenant_id, n.provider, k.waba_id,
                jsonb_agg(jsonb_build_object('tenant_id', n.tenant_id, 'number_id', n.id) order by n.id) as numbers
            from public.whatsapp_numbers n
            cross join lateral (
                select case n.provider when 'cloud_api' then n.waba_id when 'twilio' then n.account_id end as waba_id
            ) as k
            where n.is_active and k.waba_id is not null and n.tenant_id = coalesce(p_tenant_id, n.tenant_id)
            group by n.tenant_id, n.provider, k.waba_id
        ) as a);
end
$$;
grant execute on function
    public.templates_apply(uuid, text, text, timestamptz, jsonb, boolean), public.templates_fail(uuid, text, text),
    public.template_accounts(uuid)
    to service_role;

-- Ask for a listing, soon: when a number was connected, or the provider speaks of a template we do not know.
-- Definer: whoever connects a number, or takes in what the provider says, may not read Vault.
create function private.templates_refresh(p_tenant_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
begin
    -- a database without functions has none to call
    if exists (select from vault.decrypted_secrets where name = 'functions_url') then
        perform private.invoke('sync-templates', jsonb_build_object('tenant_id', p_tenant_id));
    end if;
end
$$;

-- Definer: an admin who switches a number on has no right to the function behind it.
create function private.number_connected() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    perform private.templates_refresh(new.tenant_id);
    return null;
end
$$;
create trigger whatsapp_numbers_list_templates
    after insert or update of is_active, waba_id, account_id on public.whatsapp_numbers
    for each row when (new.is_active
        and case new.provider when 'cloud_api' then new.waba_id when 'twilio' then new.account_id end is not null)
    execute function private.number_connected();

-- What the provider said about a template, by webhook: p_subject is template_status, template_quality,
-- template_category or template_components. News come late and in any order: older ones change nothing.
create function private.template_event(
    p_tenant_id uuid, p_waba_id text, p_at timestamptz, p_subject text, p_data jsonb
) returns void
language plpgsql set search_path = '' as $$
declare
    v_template public.message_templates;
    v_listed_at timestamptz;
begin
    select * into v_template
    from public.message_templates m
    where m.tenant_id = p_tenant_id and m.waba_id = p_waba_id
        and (m.provider_template_id = p_data ->> 'template_id'
            or p_data ->> 'template_id' is null and m.name = p_data ->> 'name' and m.language = p_data ->> 'language')
    order by m.status = 'deleted'
    limit 1
    for no key update;
    if not found then
        perform private.template_unknown(p_tenant_id, p_waba_id, p_at, p_subject, p_data);
        return;
    end if;
    select l.listed_at into v_listed_at
    from public.template_listings l
    where l.tenant_id = p_tenant_id and l.waba_id = p_waba_id;

    if p_at < v_listed_at then
        return;
    elsif p_subject = 'template_status' and p_at >= v_template.status_at then
        update public.message_templates
        set status = private.template_status(p_data ->> 'status'), status_at = p_at,
            rejected_reason = p_data ->> 'reason', paused_until = private.template_pause_ends(p_data, p_at)
        where tenant_id = p_tenant_id and id = v_template.id and p_data ->> 'status' <> '';
    elsif p_subject = 'template_quality' and p_at >= v_template.quality_at then
        update public.message_templates set quality = upper(p_data ->> 'quality'), quality_at = p_at
        where tenant_id = p_tenant_id and id = v_template.id;
    elsif p_subject = 'template_category' and p_at >= v_template.category_at then
        update public.message_templates
        set category = case when c.word in ('marketing', 'utility', 'authentication') then c.word else category end,
            correct_category = p_data ->> 'correct', category_at = p_at
        from (select lower(p_data ->> 'category') as word) as c
        where tenant_id = p_tenant_id and id = v_template.id;
    elsif p_subject = 'template_components' and p_at >= v_template.components_at then
        -- it tells texts and buttons only: a header's file stays, and the listing will have the whole
        update public.message_templates
        set components_at = p_at, components = p_data -> 'components' || jsonb_path_query_array(
            v_template.components, '$[*] ? (@.type like_regex "^header$" flag "i" && @.format <> "TEXT")')
        where tenant_id = p_tenant_id and id = v_template.id and jsonb_typeof(p_data -> 'components') = 'array';
        perform private.templates_refresh(p_tenant_id);
    end if;
end
$$;

-- A template made after the last listing: kept with what is known of it until the next one, which comes at once.
create function private.template_unknown(
    p_tenant_id uuid, p_waba_id text, p_at timestamptz, p_subject text, p_data jsonb
) returns void
language plpgsql set search_path = '' as $$
begin
    insert into public.message_templates (tenant_id, waba_id, provider_template_id, name, language, category, status,
        rejected_reason, paused_until, status_at)
    select p_tenant_id, p_waba_id, p_data ->> 'template_id', p_data ->> 'name', p_data ->> 'language',
        case when c.word in ('marketing', 'utility', 'authentication') then c.word else 'marketing' end,
        private.template_status(p_data ->> 'status'), p_data ->> 'reason',
        private.template_pause_ends(p_data, p_at), p_at
    from (select lower(p_data ->> 'category') as word) as c
    where p_subject = 'template_status' and p_data ->> 'status' <> '' and p_data ->> 'template_id' <> ''
        and p_data ->> 'name' <> '' and p_data ->> 'language' <> ''
    on conflict on constraint message_templates_provider_id_key do nothing;
    perform private.templates_refresh(p_tenant_id);
end
$$;

-- Meta pauses a template for three hours, then for six, and then disables it.
create function private.template_pause_ends(p_data jsonb, p_at timestamptz) returns timestamptz
language sql immutable set search_path = '' as $$
    select case
        when lower(p_data ->> 'status') is distinct from 'paused' then null
        when p_data ->> 'reason' ilike '%first%' then p_at + interval '3 hours'
        when p_data ->> 'reason' ilike '%second%' then p_at + interval '6 hours'
    end
$$;
grant execute on function
    private.template_status(text), private.templates_refresh(uuid), private.number_connected(),
    private.template_event(uuid, text, timestamptz, text, jsonb),
    private.template_unknown(uuid, text, timestamptz, text, jsonb), private.template_pause_ends(jsonb, timestamptz)
    to service_role;

-- Filling them in. Parameters are {"header": …, "body": …, "buttons": {"0": …}}, each part only where there is a
-- blank: texts as ["Ana", "10:00"] or {"name": "Ana"}; a header's file as {"link": "https://…"} or {"id": …}, with
-- "filename" for a document, its place as {"latitude", "longitude", "name", "address"}; a button by its position:
-- what completes its URL, the payload of a quick reply, a code to copy, or the action of a Flow.

-- What is wrong with a file that is named, not sent along, in the caller's words; null: nothing. By Meta's table of
-- media. p_label: how the file is called there.
create function private.media_fault(p_label text, p_kind text, p_media jsonb) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_mimes text[];
    v_bytes bigint;
    v_fault text;
begin
    select l.mimes, l.bytes into v_mimes, v_bytes
    from (values
        ('image', array['image/jpeg', 'image/png'], 5 * 1024 * 1024),
        ('audio', array['audio/aac', 'audio/amr', 'audio/mpeg', 'audio/mp4', 'audio/ogg'], 16 * 1024 * 1024),
        ('video', array['video/mp4', 'video/3gpp'], 16 * 1024 * 1024),
        ('document', array['application/pdf', 'text/plain', 'application/msword', 'application/vnd.ms-excel',
            'application/vnd.ms-powerpoint', 'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
            'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
            'application/vnd.openxmlformats-officedocument.presentationml.presentation'], 100 * 1024 * 1024),
        ('sticker', array['image/webp'], 500 * 1024)
    ) as l (kind, mimes, bytes)
    where l.kind = p_kind;
    v_fault := case
        when jsonb_typeof(p_media) is distinct from 'object' then 'file_missing'
        when p_media - '{id,link,filename,mime,size}'::text[] <> '{}' then 'file_keys'
        when (p_media - 'size') @? 'strict $.* ? (@.type() != "string" && @.type() != "null")' then 'file_not_text'
        when coalesce(p_media ->> 'id', '') <> '' and p_media ->> 'link' is not null
            or coalesce(p_media ->> 'id', p_media ->> 'link', '') = '' then 'file_link_or_id'
        when p_media ->> 'link' !~ '^https://[^\s/?#@]+([/?#]\S*)?$' then 'file_https'
        when length(p_media ->> 'link') > 2000 then 'file_link_long'
        when p_media ->> 'filename' is not null and p_kind <> 'document' then 'file_name'
        when length(p_media ->> 'filename') > 240 then 'file_name_long'
        when lower(btrim(split_part(p_media ->> 'mime', ';', 1))) <> all (v_mimes) then 'file_mime'
        when p_media ->> 'size' !~ '^\d{1,18}$' then 'file_size'
        when (p_media ->> 'size')::bigint > v_bytes then 'file_large'
    end;
    return private.phrase('fault', v_fault, jsonb_build_object(
        'label', p_label, 'mime', p_media ->> 'mime', 'mimes', array_to_string(v_mimes, ', '),
        'size', p_media ->> 'size', 'most', v_bytes,
        'keys', case v_fault when 'file_keys' then (
            select string_agg(k, ', ') from jsonb_object_keys(p_media - '{id,link,filename,mime,size}'::text[]) as k) end));
end
$$;

-- The blanks of a text in order: {{1}}, {{name}}.
create function private.template_blanks(p_text text) returns text[]
language sql immutable set search_path = '' as $$
    select array(select b[1] from regexp_matches(p_text, '\{\{\s*(\w+)\s*\}\}', 'g') as b)
$$;

-- A text with its blanks filled in from {blank: value}.
create function private.template_fill(p_text text, p_values jsonb) returns text
language sql immutable set search_path = '' as $$
    select string_agg(concat(p.words, p_values ->> p.blank), '' order by p.n)
    from rows from (
        unnest(regexp_split_to_array(p_text, '\{\{\s*\w+\s*\}\}')), unnest(private.template_blanks(p_text))
    ) with ordinality as p (words, blank, n)
$$;

-- What a template asks for. part: header, body or button; key: the blank, or the button's position; kind: what has
-- to be given. A kind of unsupported is a part that we cannot fill in.
create function private.template_slots(p_template public.message_templates)
returns table (part text, key text, kind text, is_required boolean)
language plpgsql stable rows 5 set search_path = '' as $$
begin
    if p_template.provider = 'twilio' then  -- its variables are numbered through all parts
        return query
        select distinct 'body', b, 'text', true
        from unnest(private.template_blanks(p_template.components::text)) as b;
        return;
    end if;
    return query
    with components as (
        select lower(c ->> 'type') as type, lower(coalesce(c ->> 'format', 'text')) as format, c ->> 'text' as text,
            c -> 'buttons' as buttons
        from jsonb_array_elements(p_template.components) as c
    )
    select distinct c.type, b, 'text', true
    from components c
    cross join unnest(private.template_blanks(c.text)) as b
    where c.type = 'body' or c.type = 'header' and c.format = 'text'
    union all
    select 'header', '', case when c.format in ('image', 'video', 'document', 'location')
        then c.format else 'unsupported' end, true
    from components c
    where c.type = 'header' and c.format <> 'text'
    union all
    select c.type, '', 'unsupported', true
    from components c
    where c.type not in ('header', 'body', 'footer', 'buttons')
    union all
    select 'button', (b.position - 1)::text, k.kind, k.kind not in ('payload', 'action')
    from components c
    cross join jsonb_array_elements(c.buttons) with ordinality as b (button, position)
    cross join lateral (
        select case lower(b.button ->> 'type')
            when 'url' then case when cardinality(private.template_blanks(b.button ->> 'url')) > 0 then 'url' end
            when 'quick_reply' then 'payload'
            when 'copy_code' then 'code'
            when 'otp' then 'url'
            when 'flow' then 'action'
            when 'mpm' then 'unsupported'
            when 'order_details' then 'unsupported'
        end as kind
    ) as k
    where c.type = 'buttons' and k.kind is not null;
end
$$;

-- What was given for its blanks, a row for each; null values are not given. A file or a place is one value.
create function private.template_given(p_template public.message_templates, p_parameters jsonb)
returns table (part text, key text, value jsonb)
language plpgsql stable rows 5 set search_path = '' as $$
begin
    return query
    with parts as (
        select case p.part when 'buttons' then 'button' else p.part end as part, p.value,
            case when p.part = 'header' and exists (
                select from private.template_slots(p_template) s where s.part = 'header' and s.key = '')
                then 'whole' else jsonb_typeof(p.value) end as type
        from jsonb_each(p_parameters) as p (part, value)
    )
    select p.part, g.key, g.value
    from parts p
    cross join lateral (
        select '' as key, p.value
        where p.type not in ('array', 'object')
        union all
        select (i.n - (p.part = 'button')::int)::text, i.value
        from jsonb_array_elements(case p.type when 'array' then p.value else '[]' end) with ordinality as i (value, n)
        union all
        select e.key, e.value
        from jsonb_each(case p.type when 'object' then p.value else '{}' end) as e
    ) as g
    where jsonb_typeof(g.value) <> 'null';
end
$$;

-- What is wrong with the value of a blank, in the caller's words; null: nothing.
create function private.template_value_fault(p_label text, p_kind text, p_value jsonb) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_text text := p_value #>> '{}';
    v_longest int := case p_kind when 'text' then 1024 when 'url' then 2000 when 'payload' then 256 when 'code' then 15 end;
begin
    if p_kind in ('image', 'video', 'document') then
        return private.media_fault(p_label, p_kind, p_value);
    end if;
    return private.phrase('fault', case
        when p_kind = 'location' then case when coalesce(jsonb_typeof(p_value -> 'latitude') <> 'number'
            or jsonb_typeof(p_value -> 'longitude') <> 'number', true) then 'not_place' end
        when p_kind = 'action' then case when jsonb_typeof(p_value) <> 'object' then 'not_action' end
        when jsonb_typeof(p_value) not in ('string', 'number') then 'not_text'
        when private.is_blank(v_text) then 'empty'
        when length(v_text) > v_longest then 'long'
        when p_kind = 'text' and v_text ~ '[\n\r\t]| {5,}' then 'lines'
    end, jsonb_build_object('label', p_label, 'length', length(v_text), 'longest', v_longest));
end
$$;

-- Everything wrong with parameters, each named, as one sentence's list; null: nothing.
create function private.template_faults(p_template public.message_templates, p_parameters jsonb) returns text
language plpgsql stable set search_path = '' as $$
begin
    return (
        select string_agg(f.fault, '; ' order by f.rank, f.part, length(f.key), f.key)
        from (
            select case coalesce(s.part, g.part) when 'header' then 1 when 'body' then 2 else 3 end as rank,
                coalesce(s.part, g.part) as part, coalesce(s.key, g.key) as key,
                case
                    when g.value is null then case when s.is_required
                        then private.phrase('fault', 'missing', jsonb_build_object('label', l.label)) end
                    when s.kind is null then private.phrase('fault', 'unasked', jsonb_build_object('label', l.label))
                    else private.template_value_fault(l.label, s.kind, g.value)
                end as fault
            from private.template_slots(p_template) s
            full join private.template_given(p_template, p_parameters) g on g.part = s.part and g.key = s.key
            cross join lateral (
                select private.template_label(coalesce(s.part, g.part), coalesce(s.key, g.key)) as label) as l
        ) as f
        where f.fault is not null);
end
$$;

-- How a blank is called: body parameter 2, button 0, header.
create function private.template_label(p_part text, p_key text) returns text
language plpgsql stable set search_path = '' as $$
begin
    return coalesce(
        private.phrase('label', case when p_part in ('header', 'body') and p_key <> '' then p_part || '_blank' else p_part end,
            jsonb_build_object('key', p_key)),
        concat_ws(' ', p_part, nullif(p_key, '')));
end
$$;

-- The parts that we cannot fill in, in the caller's words; null: none.
create function private.template_unsupported(p_template public.message_templates) returns text
language plpgsql stable set search_path = '' as $$
begin
    return (
        select string_agg(distinct coalesce(private.phrase('label', 'part_' || p.name), p.name), ', ')
        from private.template_slots(p_template) s
        cross join lateral (
            select case s.part
                when 'button' then (
                    select lower(c #>> array['buttons', s.key, 'type'])
                    from jsonb_array_elements(p_template.components) as c
                    where lower(c ->> 'type') = 'buttons')
                when 'header' then (
                    select 'header_' || lower(c ->> 'format')
                    from jsonb_array_elements(p_template.components) as c
                    where lower(c ->> 'type') = 'header')
                else s.part end as name
        ) as p
        where s.kind = 'unsupported');
end
$$;

-- Why a template may not be sent now, whatever it is filled in with; null: it may. Flagged ones still may.
create function private.template_obstacle(p_template public.message_templates) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_reader public.users;
begin
    if p_template.status in ('approved', 'flagged')
        or p_template.status = 'paused' and p_template.paused_until <= (select private.clock())
    then
        return null;
    end if;
    select * into v_reader from public.users where id = private.my_user_id();
    return private.phrase('refusal', 'template_status', jsonb_build_object(
        'name', p_template.name, 'language', p_template.language,
        'status', coalesce(
            private.phrase('label', 'status_' || p_template.status),
            private.phrase('label', 'status', jsonb_build_object('status', replace(p_template.status, '_', ' ')))),
        'until', case when p_template.paused_until is not null then ' ' || private.phrase('label', 'until',
            jsonb_build_object('until', private.moment_words(p_template.paused_until,
                coalesce(v_reader.timezone, 'UTC'), v_reader.locale, private.clock()))) end,
        'why', ': ' || p_template.rejected_reason));
end
$$;

-- The template filled in, before anybody calls the provider: {"components": what Graph wants, "text": as the
-- customer will read it, "variables": {"1": …}, what Twilio wants}. Or why not: {"reason", "message", "hint"}.
create function private.template_message(p_template public.message_templates, p_parameters jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_given jsonb := coalesce(nullif(p_parameters, 'null'), '{}');
    v_obstacle text := private.template_obstacle(p_template);
    v_parts text := private.template_unsupported(p_template);
    v_names jsonb := jsonb_build_object('name', p_template.name, 'language', p_template.language);
    v_fault text;
    v_filled jsonb;
begin
    if v_obstacle is not null then
        return jsonb_build_object('reason', 'template_' || p_template.status, 'message', v_obstacle,
            'hint', private.phrase('hint', 'template_status'));
    elsif v_parts is not null then
        return jsonb_build_object('reason', 'template_unsupported',
            'message', private.phrase('refusal',
        'template_unsupported', v_names || jsonb_build_object('parts', v_parts)),
            'hint', private.phrase('hint', 'template_unsupported'));
    elsif jsonb_typeof(v_given) <> 'object' then
        v_fault := private.phrase('fault', 'not_parameters');
    elsif p_template.components = '[]' then
        v_fault := private.phrase('fault', 'text_unknown');
    else
        v_fault := private.template_faults(p_template, v_given);
    end if;
    if v_fault is null then
        v_filled := private.template_filled(p_template, v_given);
        v_fault := coalesce(
            private.template_length_fault('header', v_filled ->> 'header', 60),
            private.template_length_fault('body', v_filled ->> 'body', 1024));
    end if;
    if v_fault is not null then
        return jsonb_build_object('reason', 'template_parameters',
            'message', private.phrase('refusal',
        'template_parameters', v_names || jsonb_build_object('fault', v_fault)),
            'hint', private.template_hint(p_template));
    end if;
    return jsonb_build_object('components', v_filled -> 'components', 'variables', v_filled -> 'variables',
        'text', concat_ws(E'\n\n', v_filled ->> 'header', v_filled ->> 'body', v_filled ->> 'footer'));
end
$$;

-- messages.data of a template that was filled in.
create function private.template_data(p_template public.message_templates, p_filled jsonb, p_parameters jsonb)
returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
    return jsonb_build_object('category', p_template.category, 'template', jsonb_build_object(
        'name', p_template.name, 'language', p_template.language, 'category', p_template.category,
        'provider_template_id', p_template.provider_template_id, 'components', p_filled -> 'components',
        'variables', p_filled -> 'variables', 'parameters', coalesce(p_parameters, '{}')));
end
$$;

-- A part that becomes too long with its blanks filled in.
create function private.template_length_fault(p_part text, p_text text, p_longest int) returns text
language plpgsql stable set search_path = '' as $$
begin
    return case when length(p_text) > p_longest then private.phrase('fault', p_part || '_long', jsonb_build_object(
        'length', length(p_text), 'longest', p_longest)) end;
end
$$;

-- What to give, in a sentence.
create function private.template_hint(p_template public.message_templates) returns text
language plpgsql stable set search_path = '' as $$
declare
    v_needs text;
begin
    select string_agg(
        concat(private.template_label(s.part, s.key), ' (' || nullif(s.kind, 'text') || ')'), ', '
        order by case s.part when 'header' then 1 when 'body' then 2 else 3 end, length(s.key), s.key)
    into v_needs
    from private.template_slots(p_template) s
    where s.is_required;
    return case when v_needs is null then private.phrase('hint', 'template_needs_nothing')
        else private.phrase('hint', 'template_needs', jsonb_build_object('needs', v_needs)) end;
end
$$;

-- The template with valid parameters: texts by part, components and variables.
create function private.template_filled(p_template public.message_templates, p_parameters jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    v_values jsonb;
    v_components jsonb;
begin
    select
        jsonb_object_agg(f.part, f.values) filter (where f.part in ('header', 'body')),
        jsonb_agg(
            jsonb_build_object('type', f.part, 'parameters', f.parameters)
            || case f.part when 'button' then jsonb_build_object('index', f.key, 'sub_type', case f.kind
                when 'payload' then 'quick_reply' when 'code' then 'copy_code' when 'action' then 'flow' else f.kind end)
                else '{}' end
            order by case f.part when 'header' then 1 when 'body' then 2 else 3 end, f.key)
    into v_values, v_components
    from (
        select g.part, case g.part when 'button' then g.key else '' end as key, min(s.kind) as kind,
            jsonb_object_agg(g.key, g.value #>> '{}') as values,
            jsonb_agg(private.template_parameter(
                s.kind, case p_template.parameter_format when 'named' then g.key end, g.value)
                order by length(g.key), g.key) as parameters
        from private.template_slots(p_template) s
        join private.template_given(p_template, p_parameters) g on g.part = s.part and g.key = s.key
        group by g.part, case g.part when 'button' then g.key else '' end
    ) as f;
    return (
        select jsonb_object_agg(lower(c ->> 'type'), private.template_fill(
            c ->> 'text', coalesce(v_values -> lower(c ->> 'type'), '{}')))
        from jsonb_array_elements(p_template.components) as c
        where lower(c ->> 'type') in ('header', 'body', 'footer') and c ->> 'text' is not null
    ) || jsonb_build_object('components', coalesce(v_components, '[]'), 'variables', coalesce(v_values -> 'body', '{}'));
end
$$;

-- A parameter as Graph wants it. p_name: of a blank with a name.
create function private.template_parameter(p_kind text, p_name text, p_value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
    select case
        when p_kind = 'text' then jsonb_strip_nulls(jsonb_build_object(
            'type', 'text', 'parameter_name', p_name, 'text', p_value #>> '{}'))
        when p_kind = 'url' then jsonb_build_object('type', 'text', 'text', p_value #>> '{}')
        when p_kind = 'payload' then jsonb_build_object('type', 'payload', 'payload', p_value #>> '{}')
        when p_kind = 'code' then jsonb_build_object('type', 'coupon_code', 'coupon_code', p_value #>> '{}')
        else jsonb_build_object('type', p_kind, p_kind, p_value - '{mime,size}'::text[])
    end
$$;
grant execute on function
    private.media_fault(text, text, jsonb), private.template_blanks(text), private.template_fill(text, jsonb),
    private.template_slots(public.message_templates), private.template_given(public.message_templates, jsonb),
    private.template_value_fault(text, text, jsonb), private.template_faults(public.message_templates, jsonb),
    private.template_label(text, text), private.template_unsupported(public.message_templates),
    private.template_obstacle(public.message_templates), private.template_length_fault(text, text, int),
    private.template_message(public.message_templates, jsonb), private.template_hint(public.message_templates),
    private.template_data(public.message_templates, jsonb, jsonb),
    private.template_filled(public.message_templates, jsonb), private.template_parameter(text, text, jsonb)
    to service_role;

insert into private.phrases (kind, reason, es, en, pt) values
    ('label', 'header', 'el encabezado', 'header', 'o cabeçalho'),
    ('label', 'header_blank', 'el parámetro {key} del encabezado', 'header parameter {key}',
        'o parâmetro {key} do cabeçalho'),
    ('label', 'body_blank', 'el parámetro {key} del texto', 'body parameter {key}', 'o parâmetro {key} do texto'),
    ('label', 'button', 'el botón {key}', 'button {key}', 'o botão {key}'),
    ('label', 'image', 'la imagen', 'the image', 'a imagem'),
    ('label', 'audio', 'el audio', 'the audio', 'o áudio'),
    ('label', 'video', 'el video', 'the video', 'o vídeo'),
    ('label', 'document', 'el documento', 'the document', 'o documento'),
    ('label', 'sticker', 'el sticker', 'the sticker', 'a figurinha'),
    ('label', 'part_carousel', 'un carrusel', 'a carousel', 'um carrossel'),
    ('label', 'part_limited_time_offer', 'una oferta por tiempo limitado', 'a limited-time offer',
        'uma oferta por tempo limitado'),
    ('label', 'part_mpm', 'un botón de varios productos', 'a button of several products',
        'um botão de vários produtos'),
    ('label', 'part_order_details', 'un botón de pago', 'a button to pay an order', 'um botão de pagamento'),
    ('label', 'part_header_product', 'un producto como encabezado', 'a product as its header',
        'um produto como cabeçalho'),
    ('label', 'until', 'hasta {until}', 'until {until}', 'até {until}'),
    ('label', 'status', 'está «{status}» para WhatsApp', 'is {status} by WhatsApp', 'está «{status}» no WhatsApp'),
    ('label', 'status_pending', 'todavía no está aprobada por WhatsApp', 'is not approved yet by WhatsApp',
        'ainda não foi aprovado pelo WhatsApp'),
    ('label', 'status_in_appeal', 'está en apelación y sin aprobar por WhatsApp',
        'is under appeal, and not approved by WhatsApp', 'está em recurso e não foi aprovado pelo WhatsApp'),
    ('label', 'status_rejected', 'fue rechazada por WhatsApp', 'is rejected by WhatsApp',
        'foi rejeitado pelo WhatsApp'),
    ('label', 'status_paused', 'fue puesta en pausa por WhatsApp', 'is paused by WhatsApp',
        'foi pausado pelo WhatsApp'),
    ('label', 'status_disabled', 'fue desactivada por WhatsApp', 'is disabled by WhatsApp',
        'foi desativado pelo WhatsApp'),
    ('label', 'status_deleted', 'fue eliminada de WhatsApp', 'is deleted by WhatsApp', 'foi eliminado do WhatsApp'),
    ('refusal', 'template_status', 'La plantilla {name} ({language}) {status}{until}{why}.',
        'The template {name} ({language}) {status}{until}{why}.', 'O modelo {name} ({language}) {status}{until}{why}.'),
    ('hint', 'template_status', 'Elija otra plantilla o espere a que esta se apruebe.',
        'Choose another template, or wait until this one is approved.',
        'Escolha outro modelo ou espere que este seja aprovado.'),
    ('refusal', 'template_unsupported', 'Recado no puede enviar la plantilla {name} ({language}): contiene {parts}.',
        'Recado cannot send the template {name} ({language}): it contains {parts}.',
        'O Recado não pode enviar o modelo {name} ({language}): contém {parts}.'),
    ('hint', 'template_unsupported', 'Elija una plantilla de texto, archivo y botones.',
        'Choose a template of text, file and buttons.', 'Escolha um modelo de texto, arquivo e botões.'),
    ('refusal', 'template_parameters', 'La plantilla {name} ({language}) no se puede enviar: {fault}.',
        'The template {name} ({language}) cannot be sent: {fault}.',
        'O modelo {name} ({language}) não pode ser enviado: {fault}.'),
    ('hint', 'template_needs', 'Necesita {needs}.', 'It needs {needs}.', 'Precisa de: {needs}.'),
    ('hint', 'template_needs_nothing', 'No lleva parámetros.', 'It takes no parameters.', 'Não leva parâmetros.');

-- What is wrong with a value.
insert into private.phrases (kind, reason, es, en, pt) values
    ('fault', 'missing', 'falta {label}', '{label} is missing', 'falta {label}'),
    ('fault', 'unasked', 'no tiene {label}', '{label} is not in it', 'não tem {label}'),
    ('fault', 'not_parameters', 'sus parámetros deben ser un objeto', 'its parameters must be an object',
        'os seus parâmetros devem ser um objeto'),
    ('fault', 'text_unknown', 'todavía no se conoce su texto', 'its text is not known yet',
        'o seu texto ainda não é conhecido'),
    ('fault', 'header_long', 'el encabezado queda demasiado largo: {length} caracteres, como mucho {longest}',
        'the header becomes too long: {length} characters, at most {longest}',
        'o cabeçalho fica longo demais: {length} caracteres, no máximo {longest}'),
    ('fault', 'body_long', 'el texto queda demasiado largo: {length} caracteres, como mucho {longest}',
        'the body becomes too long: {length} characters, at most {longest}',
        'o texto fica longo demais: {length} caracteres, no máximo {longest}'),
    ('fault', 'not_place', '{label} debe ser un lugar: {"latitude", "longitude", "name", "address"}',
        '{label} must be a place: {"latitude", "longitude", "name", "address"}',
        '{label} deve ser um lugar: {"latitude", "longitude", "name", "address"}'),
    ('fault', 'not_action', '{label} debe ser un objeto: {"flow_token", "flow_action_data"}',
        '{label} must be an object: {"flow_token", "flow_action_data"}',
        '{label} deve ser um objeto: {"flow_token", "flow_action_data"}'),
    ('fault', 'not_text', '{label} debe ser un texto', '{label} must be a text', '{label} deve ser um texto'),
    ('fault', 'empty', '{label} no contiene nada', '{label} is empty', '{label} não contém nada'),
    ('fault', 'long', '{label} es demasiado largo: {length} caracteres, como mucho {longest}',
        '{label} is too long: {length} characters, at most {longest}',
        '{label} é longo demais: {length} caracteres, no máximo {longest}'),
    ('fault', 'lines',
        '{label} tiene un salto de línea, un tabulador o cinco espacios seguidos, que WhatsApp no acepta',
        '{label} has a line break, a tab or five spaces in a row, which WhatsApp refuses',
        '{label} tem uma quebra de linha, um tabulador ou cinco espaços seguidos, que o WhatsApp não aceita'),
    ('fault', 'file_missing', '{label} debe indicar un archivo: {"link": "https://…"} o {"id": …}',
        '{label} must name a file: {"link": "https://…"} or {"id": …}',
        '{label} deve indicar um arquivo: {"link": "https://…"} ou {"id": …}'),
    ('fault', 'file_keys', '{label} trae algo que no se conoce: {keys}', '{label} has an unknown key: {keys}',
        '{label} traz algo desconhecido: {keys}'),
    ('fault', 'file_not_text', '{label} trae un id, link, filename o mime que no es un texto',
        '{label} has an id, link, filename or mime that is not a text',
        '{label} traz um id, link, filename ou mime que não é um texto'),
    ('fault', 'file_link_or_id', '{label} debe traer "link" o "id", uno de los dos',
        '{label} must have "link" or "id", one of them', '{label} deve trazer "link" ou "id", um dos dois'),
    ('fault', 'file_https', '{label} debe tener un enlace que empiece por https://',
        '{label} must have a link that begins with https://', '{label} deve ter um link que comece por https://'),
    ('fault', 'file_link_long', '{label} tiene un enlace de más de 2000 caracteres',
        '{label} has a link of more than 2000 characters', '{label} tem um link de mais de 2000 caracteres'),
    ('fault', 'file_name', '{label} trae un nombre de archivo, que solo llevan los documentos',
        '{label} has a file name, which only documents have',
        '{label} traz um nome de arquivo, que só os documentos têm'),
    ('fault', 'file_name_long', '{label} tiene un nombre de archivo de más de 240 caracteres',
        '{label} has a file name of more than 240 characters',
        '{label} tem um nome de arquivo de mais de 240 caracteres'),
    ('fault', 'file_mime', '{label} es {mime}, que WhatsApp no acepta así; acepta {mimes}',
        '{label} is {mime}, which WhatsApp does not take as such; it takes {mimes}',
        '{label} é {mime}, que o WhatsApp não aceita assim; aceita {mimes}'),
    ('fault', 'file_size', '{label} tiene un tamaño que no es un número de bytes',
        '{label} has a size that is not a number of bytes', '{label} tem um tamanho que não é um número de bytes'),
    ('fault', 'file_large', '{label} es demasiado grande: {size} bytes, como mucho {most}',
        '{label} is too large: {size} bytes, at most {most}',
        '{label} é grande demais: {size} bytes, no máximo {most}'),
    ('fault', 'file_twilio_link', '{label} debe tener un enlace: Twilio no acepta otra cosa',
        '{label} must have a link: Twilio takes nothing else',
        '{label} deve ter um link: a Twilio não aceita outra coisa'),
    ('fault', 'file_no_text', '{label} no puede llevar texto', '{label} cannot have a text with it',
        '{label} não pode levar texto'),
    ('fault', 'file_twilio_text', '{label} no puede llevar texto en Twilio: envíelo como mensaje aparte',
        '{label} cannot have a text with it on Twilio: send that as its own message',
        '{label} não pode levar texto na Twilio: envie-o como mensagem à parte'),
    ('fault', 'file_text_long', '{label} lleva un texto demasiado largo: {length} caracteres, como mucho 1024',
        '{label} has too long a text: {length} characters, at most 1024',
        '{label} leva um texto longo demais: {length} caracteres, no máximo 1024');
