-- All that an endpoint may be asked to be, its end, and its secrets, encrypted.
--
--   endpoint: enabled ──▶ disabled, with a reason ──▶ enabled …
--                └──────────────┴──▶ deleted: it stays, for its deliveries to name it, and is sent nothing
--
--   secret: current ──rotated──▶ ending, valid until expires_at ──▶ gone at the next rotation
--
-- outbox.endpoints.secret, in plain text, is empty from now on: the first worker or command that has a key moves what it finds there.

-- Whether they are headers that may be sent beside those of our own: an object of strings, its names in lower case, so that none is twice.
-- headers: of an endpoint. Returns true or false. Locks nothing.
create function outbox.are_headers(headers jsonb) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog
return (
  select case when jsonb_typeof(headers) <> 'object' then false else (
    select count(*) <= 32 and coalesce(bool_and(
      key ~ '^[a-z0-9!#$%&''*+.^_`|~-]{1,100}$' and key !~ '^(webhook|svix|proxy)-'
      and key not in ('host', 'content-length', 'content-type', 'content-encoding', 'connection', 'keep-alive', 'te', 'trailer',
        'transfer-encoding', 'upgrade', 'expect')
      and jsonb_typeof(value) = 'string'
      and value #>> '{}' ~ '^([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?$' and length(value #>> '{}') <= 1000
    ), true)
    from jsonb_each(headers)
  ) end
);

-- Whether they are waits after failed attempts, in milliseconds: at most 20, of a second to seven days.
-- delays: of an endpoint. Returns true or false. Locks nothing.
create function outbox.are_retry_delays(delays integer[]) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog
return (
  select cardinality(delays) <= 20 and coalesce(array_ndims(delays), 1) = 1
    and coalesce(bool_and(coalesce(delay between 1000 and 604800000, false)), true)
  from unnest(delays) as delay
);

alter table outbox.endpoints
  add column description text,
  add column headers jsonb not null default '{}',
  add column rate_per_second integer,
  add column retry_delays_ms integer[],
  add column deleted_at timestamptz,
  alter column secret drop not null,
  add constraint endpoints_url_without_user check (url !~ '^[^:]*://[^/?#]*@'),
  add constraint endpoints_url_without_fragment check (url !~ '#'),
  add constraint endpoints_url_is_ascii check (url ~ '^[\x21-\x7e]*$'),
  add constraint endpoints_description_size check (length(description) between 1 and 500),
  add constraint endpoints_headers_format check (outbox.are_headers(headers)),
  add constraint endpoints_filter_size check (octet_length(filter::text) <= 8192),
  add constraint endpoints_rate_per_second_range check (rate_per_second between 1 and 10000),
  add constraint endpoints_retry_delays_ms_range check (outbox.are_retry_delays(retry_delays_ms)),
  add constraint endpoints_disabled_reason_size check (length(disabled_reason) between 1 and 500),
  add constraint endpoints_deleted_is_disabled check (deleted_at is null or not enabled);

comment on column outbox.endpoints.secret is 'In plain text, as until 0042: moved into outbox.endpoint_secrets by the next worker that has a key.';
comment on column outbox.endpoints.headers is 'Sent with every message, in plain text here; those of a message come after them.';
comment on column outbox.endpoints.rate_per_second is 'How many attempts may begin in a second; null: as many as there are places.';
comment on column outbox.endpoints.retry_delays_ms is 'The waits after the first, second, … failed attempt; null: those of the worker, {}: none, one attempt is all.';
comment on column outbox.endpoints.deleted_at is 'Since when it is sent nothing. The row stays, because deliveries and attempts name it.';

create table outbox.endpoint_secrets (
  id uuid not null default gen_random_uuid(),
  endpoint_id uuid not null,
  kind text not null,
  encrypted bytea not null,
  key_id text not null,
  public_key text,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  constraint endpoint_secrets_pkey primary key (id),
  constraint endpoint_secrets_endpoint_fkey foreign key (endpoint_id) references outbox.endpoints (id) on delete cascade,
  constraint endpoint_secrets_kind_known check (kind in ('v1', 'v1a')),
  -- Nonce and tag are 28 bytes, a secret 24 to 64.
  constraint endpoint_secrets_encrypted_size check (octet_length(encrypted) between 52 and 92),
  constraint endpoint_secrets_key_id_format check (key_id ~ '^[0-9a-f]{16}$'),
  constraint endpoint_secrets_public_key_of_v1a check ((kind = 'v1a') = (public_key is not null)),
  constraint endpoint_secrets_public_key_format check (public_key ~ '^whpk_[A-Za-z0-9+/]{43}=$'),
  constraint endpoint_secrets_expires_after_created check (expires_at >= created_at)
);

comment on table outbox.endpoint_secrets is 'What requests are signed with: one that is current, and for a while the one before it.';
comment on column outbox.endpoint_secrets.kind is 'v1: HMAC-SHA256; v1a: ed25519. As Standard Webhooks names them.';
comment on column outbox.endpoint_secrets.encrypted is 'Nonce, tag and text of AES-256-GCM, bound to the endpoint and the kind.';
comment on column outbox.endpoint_secrets.key_id is 'Which key of OUTBOX_ENCRYPTION_KEY: a digest of it.';
comment on column outbox.endpoint_secrets.expires_at is 'Until when it signs too; null: it is current.';

create unique index endpoint_secrets_one_current on outbox.endpoint_secrets (endpoint_id) where expires_at is null;
create unique index endpoint_secrets_one_ending on outbox.endpoint_secrets (endpoint_id) where expires_at is not null;

-- A change of secrets is a change of the endpoint: a worker asks for its version alone. Returns null. Locks the endpoint's row.
create function outbox.count_version_of_secrets() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  update outbox.endpoints set version = version where id in (old.endpoint_id, new.endpoint_id);
  return null;
end
$$;

create trigger endpoint_secrets_count_version after insert or update or delete on outbox.endpoint_secrets
for each row execute function outbox.count_version_of_secrets();

select outbox.keep_from_guests();
