-- The console: who may look, who is signed in, what was done there, and which verifications were made.

create schema console;

-- Whoever signs in with a password. One who is disabled stays, for what he did bears his name.
create table console.users (
  name text constraint users_pkey primary key constraint users_name_shape check (name ~ '^[a-z0-9][a-z0-9._@+-]{0,99}$'),
  roles text[] not null constraint users_roles_known check (roles <@ array['viewer', 'operator', 'finance'] and cardinality(roles) > 0),
  -- scrypt: its parameters, salt and hash, as src/console/access/passwords.ts writes them.
  password_hash text not null,
  created_at timestamptz not null default clock_timestamp(),
  disabled_at timestamptz
);

comment on table console.users is 'Who signs in to the console with a password. Nobody but the owner reads or writes it.';

-- A session is known by the hash of what its browser holds: whoever reads this table cannot take one over.
create table console.sessions (
  token_hash bytea constraint sessions_pkey primary key constraint sessions_token_hash_length check (length(token_hash) = 32),
  user_name text not null constraint sessions_user_name_fkey references console.users,
  created_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null
);
create index sessions_user_name_idx on console.sessions (user_name);
create index sessions_expires_at_idx on console.sessions (expires_at);

-- What was done through the console, as it was asked for and as it ended. An action that has begun and not ended was broken off.
-- lint: allow lock-without-timeout because its reference is to itself, which nobody knows yet
create table console.events (
  event_id bigint generated always as identity constraint events_pkey primary key,
  recorded_at timestamptz not null default clock_timestamp(),
  -- Of the event that it ends.
  began bigint constraint events_began_fkey references console.events,
  actor text not null,
  -- How he is known: local, password or proxy.
  known_by text not null constraint events_known_by_known check (known_by in ('local', 'password', 'proxy', 'nobody')),
  address text,
  action text not null,
  -- What it was done to, as its page is called.
  subject text,
  outcome text not null constraint events_outcome_known check (outcome in ('began', 'done', 'refused', 'failed')),
  -- What was asked for, without secrets.
  input jsonb not null default '{}' constraint events_input_object check (jsonb_typeof(input) = 'object'),
  -- What came of it, in words.
  message text,
  constraint events_end_something check ((began is null) or outcome <> 'began')
);
create unique index events_began_once on console.events (began);
create index events_actor_idx on console.events (actor, event_id);

comment on table console.events is 'Every action of the console, appended only. input and message have ids and figures, no secrets.';

create function console.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'console.% is appended to only: % is refused', tg_table_name, tg_op using errcode = 'LV009';
end $$;

create trigger events_append_only before update or delete or truncate on console.events
  for each statement execute function console.refuse_change();
alter table console.events enable always trigger events_append_only;

-- Verifications of the books that were asked for here or recorded by liventix books verify --record, and what came of them.
create table console.verifications (
  verification_id bigint generated always as identity constraint verifications_pkey primary key,
  asked_by text not null,
  -- Null: all of them.
  book_id integer,
  since_seal bigint,
  independently boolean not null default false,
  begun_at timestamptz not null default clock_timestamp(),
  -- Written while it is at work: one that is silent for longer than console.silence() was broken off.
  heard_at timestamptz not null default clock_timestamp(),
  progress jsonb,
  ended_at timestamptz,
  --  running ─▶ balances | differs | undecided (a check could not be made) | failed (by an error) | broken_off
  state text not null default 'running'
    constraint verifications_state_known check (state in ('running', 'balances', 'differs', 'undecided', 'failed', 'broken_off')),
  -- The certificate as it was written, and its SHA-256; of one that failed, why.
  certificate text,
  certificate_sha256 text constraint verifications_sha256_shape check (certificate_sha256 ~ '^[0-9a-f]{64}$'),
  failure text,
  constraint verifications_end_when_ended check ((state = 'running') = (ended_at is null)),
  constraint verifications_certified check ((certificate is not null) = (state in ('balances', 'differs', 'undecided')) and (certificate is null) = (certificate_sha256 is null))
);
-- Two people who press the same button verify once.
create unique index verifications_one_running on console.verifications ((true)) where state = 'running';

-- What has ended is never rewritten, and nothing is taken away.
create function console.keep_verifications() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'UPDATE' and old.state = 'running' then
    return new;
  end if;
  raise exception 'verification % has ended (%): % is refused', old.verification_id, old.state, tg_op using errcode = 'LV009';
end $$;

create trigger verifications_kept before update or delete on console.verifications
  for each row execute function console.keep_verifications();
alter table console.verifications enable always trigger verifications_kept;
create trigger verifications_not_emptied before truncate on console.verifications
  for each statement execute function console.refuse_change();
alter table console.verifications enable always trigger verifications_not_emptied;

-- After how long a verification that writes nothing down counts as broken off.
create function console.silence() returns interval language sql immutable as $$ select interval '30 seconds' $$;

-- Makes the role that the console reads as, where there is none, and lets it read what its pages show and nothing else; called again,
-- it adds what is new. For the owner. Returns whether anything was to be done.
-- Raises insufficient_privilege where the caller may not create roles, and the role is not there or not his to be.
-- Locks: an advisory lock until the end of the database transaction, because two consoles start at once.
create function console.install_reader() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_reader constant name := 'liventix_reader';
  v_relation regclass;
  v_function regprocedure;
  v_book integer;
  v_may_be_it boolean;
  v_done boolean := false;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.console.reader'));
  if to_regrole(v_reader) is null then
    -- Roles are of the server, and another of its databases may be making this one.
    begin
      execute format('create role %I nologin noinherit', v_reader);
    exception when duplicate_object or unique_violation then null;
    end;
    v_done := true;
  end if;
  -- From 16 on whoever made a role is a member who may not be it. Before, the word is not known.
  if current_setting('server_version_num')::integer >= 160000 then
    v_may_be_it := pg_has_role(current_user, v_reader, 'set');
  else
    v_may_be_it := pg_has_role(current_user, v_reader, 'member');
  end if;
  if not v_may_be_it then
    execute format('grant %I to current_user', v_reader);
    v_done := true;
  end if;

  execute format('grant usage on schema payments, ref, public, outbox, replay, states, console to %I', v_reader);
  for v_relation in
    select c.oid from pg_class c
    where not c.relispartition and c.relkind in ('r', 'p', 'v', 'm')
      and (c.relnamespace = any (array['payments', 'ref', 'outbox', 'replay', 'states']::regnamespace[])
        -- By name: what an application keeps in public is none of the console's affair.
        or c.oid = any (array['public.outbox', 'console.events', 'console.verifications']::regclass[]))
      and c.relname not in ('endpoint_secrets', 'book_grants')
      and not has_table_privilege(v_reader, c.oid, 'select')
  loop
    execute format('grant select on %s to %I', v_relation, v_reader);
    v_done := true;
  end loop;

  -- Reads alone: what posts, delivers or changes anything is not among them. What raises the errors of reads changes nothing.
  for v_function in
    select p.oid from pg_proc p
    where (p.provolatile in ('s', 'i') or p.proname in ('raise_code', 'raise_period_code')) and p.prokind = 'f'
      and p.pronamespace = any (array['payments', 'outbox', 'replay', 'states', 'console']::regnamespace[])
      and not p.prosecdef and not has_function_privilege(v_reader, p.oid, 'execute')
  loop
    execute format('grant execute on function %s to %I', v_function, v_reader);
    v_done := true;
  end loop;

  for v_book in select b.book_id from payments.books b where not exists (
    select from payments.book_grants g where g.book_id = b.book_id and g.grantee = v_reader)
  loop
    insert into payments.book_grants (book_id, grantee, may_post) values (v_book, v_reader, false);
    v_done := true;
  end loop;
  return v_done;
end $$;

do $$
declare
  v_role text;
begin
  for v_role in select 'public' union all select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on all functions in schema console from %s', v_role);
    execute format('revoke all on all tables in schema console from %s', v_role);
    execute format('revoke all on schema console from %s', v_role);
  end loop;
end $$;
