-- Columns that hold personal data say so in their comment, `pii: …`: exports and erasures are made from it. A column
-- is held to be one when its name says so, or when it takes anything (jsonb, bytea).
select
    format('%s.%s', c.oid::regclass, a.attname) as object,
    format('comment on column %s.%I is ''pii: …''; or say in exceptions.toml why it is not about a person',
        c.oid::regclass, a.attname) as fix
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid
where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and c.relkind in ('r', 'p')
    and coalesce(col_description(c.oid, a.attnum), '') not like 'pii: _%'
    and (
        t.typname in ('jsonb', 'bytea', 'inet')
        -- text and lists of it, where a closed list of words allows no other
        or t.typcategory in ('S', 'A')
        and a.attname ~ ('(^|_)(phone|mobile|e?mail|(user|first|last|full|file)?_?name|address|street|city|birth\w*'
            || '|gender|label\d?|tags|notes?|content|text|body|raw|payload|profile|summary|transcript|message'
            || '|error|details?|evidence|referral|previous|intent|value|next_action|url|ip|latitude|longitude'
            || '|document\w*)($|_)')
        and not exists (
            select from pg_catalog.pg_constraint k
            where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum]
                and pg_get_constraintdef(k.oid) ~ '= ANY \(\(?ARRAY\['))
