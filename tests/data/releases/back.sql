-- The way back of next.sql, which is a release like any other: it goes out after the functions were rolled back.
set lock_timeout = '5s';

drop function public.analysis_release(uuid, text, int);
alter function public.analysis_release_before(uuid, text) rename to analysis_release;
drop table public.shoes;
alter table public.customer_leads drop column shoe_size;
