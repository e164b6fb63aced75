-- The send decision: may this be sent, now, to that customer, and what would it cost?

-- Something that may be sent. ref is the asker's own id for it. template_id: the template it is made of, if that is
-- known; is_forced: a member of staff has decided that it goes out against the rules.
create type private.send_candidate as (
    ref uuid, tenant_id uuid, chat_id uuid, purpose text, is_template boolean, category text, template_id uuid,
    is_forced boolean
);

-- May these be sent now, and what would it cost? The one place that knows. Verdicts: send, wait (until not_before),
-- template (only as a template), manual (a person must decide), never.
create function private.send_decisions(p_candidates private.send_candidate[])
returns table (
    ref uuid, verdict text, reason text, not_before timestamptz, price_class text, estimated_cost numeric, currency text
)
language plpgsql stable set search_path = '' as $$
declare
    v_now timestamptz := private.clock();
begin
    return query
    select
        k.ref, d.verdict, d.reason,
        case d.verdict when 'wait' then coalesce(p.paused_until, now() + interval '1 hour') end,
        f.price_class, case when f.price_class in ('free_entry_point', 'none') then 0 else r.amount end, r.currency
    from unnest(p_candidates) k
    join public.chats c on c.tenant_id = k.tenant_id and c.id = k.chat_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    left join public.number_pacing p on p.tenant_id = c.tenant_id and p.number_id = c.number_id
    cross join lateral (
        select
            k.purpose not in ('reply', 'staff') as is_bulk,
            n.provider = 'whapi' or coalesce(c.window_expires_at > v_now, false) as is_window_open
    ) w
    cross join lateral (
        select v.verdict, v.reason
        from (values
            (1, not n.is_active, 'never', 'number_inactive'),
            (2, l.opt_out_scope = 'all', 'never', 'opted_out'),
            (3, w.is_bulk and l.opt_out_scope = 'marketing', 'never', 'opted_out_of_marketing'),
            (4, w.is_bulk and c.block_state = 'confirmed', 'never', 'blocked'),
            (5, k.purpose = 'reply' and c.agent_paused_until > v_now, 'never', 'human_takeover'),
            (6, not w.is_window_open and k.is_template is not true,
                case when k.purpose in ('reply', 'sequence') then 'manual' else 'template' end, 'window_closed'),
            (7, w.is_bulk and c.block_state = 'probable', 'wait', 'probably_blocked'),
            (8, p.paused_until > now(), 'wait', p.pause_reason),
            (9, true, 'send', case when w.is_window_open then 'window_open' else 'template' end)
        ) as v (rank, applies, verdict, reason)
        where v.applies
        order by v.rank
        limit 1
    ) d
    cross join lateral (
        select case
            when n.provider = 'whapi' then 'none'
            when c.free_entry_until > v_now then 'free_entry_point'
            when k.is_template then coalesce(k.category, 'marketing')
            else 'service'
        end as price_class
    ) f
    left join lateral private.price_of(l.phone, f.price_class, v_now) r on true;
end
$$;
grant execute on function private.send_decisions(private.send_candidate[]) to service_role;
