-- Stands in for the columns that 0040 brings; goes when that is there.
alter table public.outbox add column organization_id uuid, add column ordering_key text;
