-- What customers say about hearing from us.

-- What a whole message must be to be an opt-out, folded. What it refuses: null when it is none.
create function private.opt_out_scope(p_text text) returns text
language plpgsql immutable set search_path = '' as $$
begin
    return case when length(p_text) <= 40
        and private.fold(p_text) in ('stop', 'baja', 'dar de baja', 'darme de baja', 'unsubscribe', 'no mas mensajes')
        then 'marketing' end;
end
$$;

-- What customers say about hearing from us: keywords, and the switch inside WhatsApp.
create function private.inbox_consent(p_events private.inbox_event[], p_leads uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
    with said as (
        insert into public.consent_events (tenant_id, lead_id, kind, scope, source, evidence, happened_at)
        select
            e.tenant_id, p_leads[e.ordinality],
            case e.body ->> 'value' when 'resume' then 'opt_in' else 'opt_out' end,
            case e.kind when 'preference' then 'marketing' else private.opt_out_scope(e.body ->> 'text') end,
            case e.kind when 'preference' then 'provider' else 'keyword' end,
            e.body ->> 'text', e.at
        from unnest(p_events) with ordinality as e
        where e.kind = 'preference' and e.body ->> 'value' in ('stop', 'resume')
            or e.kind = 'message' and private.opt_out_scope(e.body ->> 'text') is not null
                and not coalesce((e.body ->> 'history')::boolean, false)
                and e.at > (select private.clock()) - interval '24 hours'
        order by e.tenant_id, p_leads[e.ordinality]
        on conflict on constraint consent_events_said_once_key do nothing
        returning tenant_id, lead_id, kind, scope, happened_at
    ),
    latest as (
        select distinct on (tenant_id, lead_id) * from said order by tenant_id, lead_id, happened_at desc
    )
    update public.customer_leads l
    set opted_out_at = case s.kind when 'opt_out' then coalesce(l.opted_out_at, s.happened_at) end,
        -- what is refused altogether stays so
        opt_out_scope = case s.kind when 'opt_out' then coalesce(l.opt_out_scope, s.scope) end
    from latest s
    where l.tenant_id = s.tenant_id and l.id = s.lead_id
        and (s.kind = 'opt_out' or l.opt_out_scope = s.scope);
end
$$;

grant execute on function
    private.opt_out_scope(text), private.inbox_consent(private.inbox_event[], uuid[])
    to service_role;
