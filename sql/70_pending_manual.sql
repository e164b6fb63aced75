-- What a person has to send: messages that the rules keep machines from sending.

create table public.pending_manual (
    tenant_id uuid,
    id uuid default private.uuid7(),
    chat_id uuid not null,
    source text not null,
    reason text not null,
    priority smallint not null default 2,
    text text not null,
    added_at timestamptz not null,
    status text not null default 'open',
    sent_manually boolean not null default false,
    done_at timestamptz,
    done_by uuid,
    message_id uuid,
    constraint pending_manual_pkey primary key (tenant_id, id),
    constraint pending_manual_chat_id_fkey foreign key (tenant_id, chat_id) references public.chats (tenant_id, id)
        on delete cascade,
    constraint pending_manual_done_by_fkey foreign key (tenant_id, done_by) references public.users (tenant_id, id),
    constraint pending_manual_message_id_fkey foreign key (tenant_id, message_id)
        references public.messages (tenant_id, id) on delete set null (message_id),
    constraint pending_manual_source_check check (source in ('sequence', 'daily_action', 'call_followup')),
    constraint pending_manual_priority_check check (priority between 1 and 5),
    constraint pending_manual_status_check check (status in ('open', 'done', 'dismissed')),
    constraint pending_manual_done_at_check check ((status = 'open') = (done_at is null))
);
comment on table public.pending_manual is 'Messages ready to be sent by a person, and what became of them.';
comment on column public.pending_manual.text is 'pii: names the customer, and may quote them';
comment on column public.pending_manual.reason is 'Why no machine may send it: a reason of private.send_decisions().';
comment on column public.pending_manual.priority is 'The higher, the sooner.';
comment on column public.pending_manual.sent_manually is 'A person sent it, here or on the phone.';
comment on column public.pending_manual.done_by is 'null: it was written on the phone, by whomever.';
comment on column public.pending_manual.message_id is 'What was sent, where that is known.';

create index pending_manual_tenant_id_chat_id_idx on public.pending_manual (tenant_id, chat_id);
create index pending_manual_tenant_id_open_idx
    on public.pending_manual (tenant_id, priority desc, added_at) where status = 'open';
create index pending_manual_tenant_id_done_by_idx
    on public.pending_manual (tenant_id, done_by) where done_by is not null;
create index pending_manual_tenant_id_message_id_idx
    on public.pending_manual (tenant_id, message_id) where message_id is not null;

alter table public.pending_manual enable row level security;
grant select on public.pending_manual to authenticated;
grant select, insert, update, delete on public.pending_manual to service_role;
create policy pending_manual_select_member on public.pending_manual for select to authenticated
    using (tenant_id = (select private.my_tenant_id()));

-- A text as a part of a URL (RFC 3986): all but the unreserved characters as percent and hex.
create function private.url_encode(p_text text) returns text
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return (
        select string_agg(case when letter ~ '[A-Za-z0-9._~-]' then letter else
            regexp_replace(upper(encode(convert_to(letter, 'utf8'), 'hex')), '(..)', '%\1', 'g') end, '' order by n)
        from regexp_split_to_table(p_text, '') with ordinality as letters (letter, n));
end
$$;

-- What became of entries: p_status done, with what was sent and by whom where that is known, or dismissed.
create type private.pending_end as (tenant_id uuid, id uuid, message_id uuid, done_by uuid);

-- End those that are open. Whoever calls it has their chats locked. Returns them as they are now.
create function private.pendings_end(p_ends private.pending_end[], p_status text) returns setof public.pending_manual
language plpgsql set search_path = '' as $$
declare
    v_entries public.pending_manual[];
begin
    with ended as (
        update public.pending_manual p
        set status = p_status, sent_manually = p_status = 'done', done_at = (select private.clock()),
            done_by = e.done_by, message_id = e.message_id
        from unnest(p_ends) e
        where p.tenant_id = e.tenant_id and p.id = e.id and p.status = 'open'
        returning p.*
    )
    select array_agg(ended::public.pending_manual) into v_entries from ended;
    perform private.daily_dealt_with(e.tenant_id, e.chat_id) from unnest(v_entries) e where e.source = 'daily_action';
    perform private.steps_dealt_with(v_entries);
    return query select e.* from unnest(v_entries) e;
end
$$;

-- Definer: staff may not write the queue, only say what became of an entry.
create function private.pending_manual_end(p_id uuid, p_status text) returns public.pending_manual
language plpgsql security definer set search_path = '' as $$
declare
    v_tenant_id uuid := private.require_staff();
    v_entry public.pending_manual;
begin
    perform private.pending_locked(v_tenant_id, p_id);
    select * into v_entry
    from private.pendings_end(array[(v_tenant_id, p_id, null, private.my_user_id())::private.pending_end], p_status);
    return v_entry;
end
$$;

-- An open entry, with its lead and chat locked.
create function private.pending_locked(p_tenant_id uuid, p_id uuid) returns public.pending_manual
language plpgsql set search_path = '' as $$
declare
    v_entry public.pending_manual;
    v_lead_id uuid;
begin
    select c.lead_id into v_lead_id
    from public.pending_manual p
    join public.chats c on c.tenant_id = p.tenant_id and c.id = p.chat_id
    where p.tenant_id = p_tenant_id and p.id = p_id;
    perform from public.customer_leads where tenant_id = p_tenant_id and id = v_lead_id for no key update;
    perform from public.chats c
    where c.tenant_id = p_tenant_id and c.id = (
        select p.chat_id from public.pending_manual p where p.tenant_id = p_tenant_id and p.id = p_id)
    for no key update;
    select * into v_entry
    from public.pending_manual p
    where p.tenant_id = p_tenant_id and p.id = p_id and p.status = 'open';
    if not found then
        perform private.refuse('PT404', 'no_pending_manual');
    end if;
    return v_entry;
end
$$;

-- A person has sent it by hand; or decided that nobody shall. Each answers with the entry as it is now.
create function public.pending_manual_done(p_id uuid) returns public.pending_manual
language sql set search_path = '' as $$
    select private.pending_manual_end(p_id, 'done')
$$;
create function public.pending_manual_dismiss(p_id uuid) returns public.pending_manual
language sql set search_path = '' as $$
    select private.pending_manual_end(p_id, 'dismissed')
$$;

grant execute on function private.url_encode(text), private.pending_manual_end(uuid, text),
    public.pending_manual_done(uuid), public.pending_manual_dismiss(uuid) to authenticated;
grant execute on function private.pendings_end(private.pending_end[], text) to service_role;

-- Was it this that a person wrote? Texts are compared by their words: case, accents, punctuation, blanks and emoji do
-- not matter, and what was changed a little is still the same.

-- The words, and the groups of three letters they are made of: as those of pg_trgm, without the extension.
create function private.trigrams(p_text text) returns text[]
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return array(
        select distinct substr(w.padded, n, 3)
        from regexp_split_to_table(left(p_text, 4096), ' ') as word
        cross join lateral (select '  ' || word || ' ' as padded) as w
        cross join lateral generate_series(1, length(w.padded) - 2) as n
        where word <> '');
end
$$;

create function private.plain_words(p_text text) returns text
language plpgsql immutable strict parallel safe set search_path = '' as $$
begin
    return private.fold(regexp_replace(p_text, '[\u2190-\u2bff\U0001f000-\U0001faff]', ' ', 'g'));
end
$$;

-- From 0 to 1: how much of both texts is in common; 0.8 at least when nearly all that is wanted was written, whatever
-- was added, and it is long enough to be told from a greeting.
create function private.text_likeness(p_wanted text, p_written text) returns numeric
language plpgsql immutable strict parallel safe set search_path = '' as $$
declare
    v_wanted text := private.plain_words(p_wanted);
    v_written text := private.plain_words(p_written);
    v_these text[] := private.trigrams(v_wanted);
    v_those text[] := private.trigrams(v_written);
    v_common numeric;
begin
    if v_wanted = v_written then
        return case when v_wanted = '' then 0 else 1 end;
    elsif cardinality(v_these) = 0 or cardinality(v_those) = 0 then
        return 0;
    end if;
    v_common := (select count(*) from unnest(v_these) t where t = any(v_those));
    return least(0.99, greatest(
        v_common / (cardinality(v_these) + cardinality(v_those) - v_common),
        case when length(v_wanted) >= 25 and v_common >= 0.9 * cardinality(v_these) then 0.8 end));
end
$$;

grant execute on function private.trigrams(text), private.plain_words(text), private.text_likeness(text, text)
    to service_role;
