-- The functions that books verify asks, kept as they are written here.
--
-- PostgreSQL keeps the body of a function that begins with RETURN as a tree, and writes it out in the words of its own version: nothing
-- that could be compared with what the migrations say. A body in quotes is kept as text, whatever the version, and is taken into the
-- statements that call it just the same. Nothing else changes.

-- As in 0003.
create or replace function payments.event_leaf_hash(
  p_book_id integer, p_position bigint, p_event_id uuid, p_effective_at timestamptz, p_recorded_at timestamptz,
  p_type text, p_created_by text, p_scope text, p_key text, p_request_hash bytea, p_payload jsonb
) returns bytea
-- Stable, not immutable, because convert_to is: otherwise PostgreSQL would not inline it, at four times the cost.
language sql stable parallel safe as $$
  select sha256(
  '\x00'::bytea || int4send(p_book_id) || int8send(p_position) || uuid_send(p_event_id)
  || timestamptz_send(p_effective_at) || timestamptz_send(p_recorded_at)
  || int4send(octet_length(p_type)) || convert_to(p_type, 'UTF8')
  || int4send(octet_length(p_created_by)) || convert_to(p_created_by, 'UTF8')
  || coalesce(int4send(octet_length(p_scope)) || convert_to(p_scope, 'UTF8'), int4send(-1))
  || coalesce(int4send(octet_length(p_key)) || convert_to(p_key, 'UTF8'), int4send(-1))
  || coalesce(int4send(octet_length(p_request_hash)) || p_request_hash, int4send(-1))
  || convert_to(p_payload::text, 'UTF8')
)
$$;

-- As in 0008.
create or replace function payments.try_uuid(p_text text) returns uuid
language sql immutable parallel safe as $$
  select case when p_text like '________-____-____-____-____________' and p_text ~ '^[0-9a-fA-F-]*$' and length(replace(p_text, '-', '')) = 32
  then p_text::uuid end
$$;

-- As in 0003.
create or replace function payments.try_amount(p_text text) returns bigint
language sql immutable parallel safe as $$
  select case when length(p_text) between 1 and 20 and translate(ltrim(p_text, '-'), '0123456789', '') = '' and p_text !~~ '--%' and p_text <> '-'
    and p_text::numeric between -9223372036854775807 and 9223372036854775807
  then p_text::bigint end
$$;

-- As in 0003.
create or replace function payments.entries_of(p_transaction jsonb) returns jsonb
language sql immutable parallel safe as $$
  select case when jsonb_typeof(p_transaction -> 'entries') = 'array' then p_transaction -> 'entries' else '[]'::jsonb end
$$;

-- As in 0010.
create or replace function payments.instant_text(p_at timestamptz) returns text
language sql stable parallel safe as $$
  select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- As in 0010.
create or replace function payments.certificate_text(p_certificate jsonb) returns text
language sql stable parallel safe as $$
  select concat(
  'liventix period certificate ', p_certificate ->> 'version', E'\n',
  'book ', p_certificate ->> 'book', E'\n',
  'from ', coalesce(p_certificate ->> 'from', 'the beginning'), E'\n',
  'until ', p_certificate ->> 'until', E'\n',
  (select string_agg(format(E'%s %s debit %s credit %s balance %s\n', b.value ->> 'currency', b.value ->> 'type',
            b.value ->> 'debit_cents', b.value ->> 'credit_cents', b.value ->> 'balance_cents'),
            '' order by b.value ->> 'currency' collate "C", b.value ->> 'type' collate "C")
   from jsonb_array_elements(case jsonb_typeof(p_certificate -> 'balances') when 'array' then p_certificate -> 'balances' end) as b),
  'transactions ', p_certificate ->> 'transactions', E'\n',
  'entries ', p_certificate ->> 'entries', E'\n',
  'events ', p_certificate ->> 'events', E'\n',
  'last position ', p_certificate ->> 'last_position', E'\n')
$$;

-- As in 0010.
create or replace function payments.certificate_hash(p_certificate jsonb) returns bytea
language sql stable parallel safe as $$
  select sha256(convert_to(payments.certificate_text(p_certificate), 'UTF8'))
$$;
