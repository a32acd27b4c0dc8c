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
  ends_event_id bigint constraint events_ends_event_id_fkey references console.events,
  actor text not null,
  -- How he is known: on this machine, by a password, by what a proxy says; or not, as whoever tries to sign in.
  known_by text not null constraint events_known_by_way check (known_by in ('local', 'password', 'proxy', 'nobody')),
  address text,
  action text not null,
  -- What it was done to, as its page is called.
  subject text,
  outcome text not null constraint events_outcome_known check (outcome in ('began', 'done', 'refused', 'failed')),
  -- What was asked for, without secrets.
  input jsonb not null default '{}' constraint events_input_object check (jsonb_typeof(input) = 'object'),
  -- What came of it, in words.
  message text,
  constraint events_began_ends_nothing check (ends_event_id is null or outcome <> 'began')
);
create unique index events_ended_once on console.events (ends_event_id);
create index events_actor_idx on console.events (actor, event_id);

comment on table console.events is 'Every action of the console, appended only. input and message have ids, figures and what failed, and no passwords.';

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

-- Trigger: a verification begins at work; what it is of stays; what has ended is never rewritten; nothing is taken away.
create function console.keep_verifications() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' and new.state = 'running' or tg_op = 'UPDATE' and old.state = 'running'
    and (new.verification_id, new.asked_by, new.book_id, new.since_seal, new.independently, new.begun_at)
      is not distinct from (old.verification_id, old.asked_by, old.book_id, old.since_seal, old.independently, old.begun_at)
  then
    return new;
  end if;
  raise exception 'verification %, which is %, is kept as it is: % is refused', coalesce(old.verification_id, new.verification_id), coalesce(old.state, new.state), tg_op
    using errcode = 'LV009';
end $$;

create trigger verifications_kept before insert or update or delete on console.verifications
  for each row execute function console.keep_verifications();
alter table console.verifications enable always trigger verifications_kept;
create trigger verifications_not_emptied before truncate on console.verifications
  for each statement execute function console.refuse_change();
alter table console.verifications enable always trigger verifications_not_emptied;

-- After how long a verification that writes nothing down counts as broken off.
create function console.silence() returns interval language sql immutable as $$ select interval '30 seconds' $$;

-- ------------------------------------------------------------------------------------- what an application's tables hold
-- The reader may read none of the application's tables, and where tenants are kept apart their policies would show it nothing. These answer
-- as the owner what the pages ask of them, and no more: ids and figures. Where a policy would hide a row from the owner too, the server
-- refuses (row_security off): nobody is shown fewer rows than there are.

-- The rows of an installed machine in one state, by id. p_state: null for rows that are not taken in yet. p_after: only higher ids.
create function console.rows_in_state(p_machine text, p_state text, p_after uuid, p_limit integer) returns setof uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
declare
  v_table constant text := (
    select format('%I.%I', n.nspname, c.relname)
    from states.machines m join pg_class c on c.oid = m.relation join pg_namespace n on n.oid = c.relnamespace where m.name = p_machine);
  v_type constant text := (select m.state_type from states.machines m where m.name = p_machine);
begin
  if v_table is not null then
    return query execute format(
      'select t.id from %s t where t.state %s and ($1 is null or t.id > $1) order by t.id limit $2', v_table,
      case when p_state is null then 'is null' else format('= %L::%s', p_state, v_type) end)
    using p_after, p_limit;
  end if;
end $$;

-- The same rows, each with its last change and the account that is kept for it, which says what it has (minor units, positive on the credit
-- side). As the owner too: the policies of the ledger, asked for each account, took three times as long as all the rest. p_account_type: of the
-- account that is kept; null for a machine that keeps none.
create function console.standing_rows(p_machine text, p_account_type text, p_state text, p_after uuid, p_limit integer)
returns table (id uuid, last_state text, changed_at timestamptz, changed_by text, event text, account_id uuid, currency text, cents bigint, account_status text)
language sql stable security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
  select r.id, h.to_state, h.changed_at, h.changed_by, h.event, k.account_id, k.currency, k.cents, k.status
  from console.rows_in_state(p_machine, p_state, p_after, p_limit) as r (id)
  left join lateral (
    select x.to_state, x.changed_at, x.changed_by, x.event from states.history x
    where x.subject_id = r.id and x.machine = p_machine order by x.id desc limit 1
  ) h on true
  left join lateral (
    select l.event_id as account_id, b.currency, -b.balance_cents as cents, b.status
    from states.ledger_events l
    cross join lateral (
      select x.currency, x.balance_cents, x.status from payments.balances x where x.account_id = l.event_id and x.book_id = 1 limit 1
    ) b
    where l.subject_id = r.id and l.machine = p_machine
      and exists (select from payments.accounts a where a.id = l.event_id and a.book_id = 1 and a.type = p_account_type)
    order by b.balance_cents, l.history_id desc
    limit 1
  ) k on true
  order by r.id
$$;

-- How many rows of an installed machine are in each of its states, in the order of the states; rows that are not taken in yet come last, with
-- null. p_most: of each state it is counted so far, which an index on `state` makes short; null: to the end, in one pass.
create function console.count_states(p_machine text, p_most bigint) returns table (state text, rows bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
declare
  v_table constant text := (
    select format('%I.%I', n.nspname, c.relname)
    from states.machines m join pg_class c on c.oid = m.relation join pg_namespace n on n.oid = c.relnamespace where m.name = p_machine);
  v_type constant regtype := (select m.state_type::regtype from states.machines m where m.name = p_machine);
begin
  if v_table is null then
    return;
  elsif p_most is null then
    return query execute format(
      'select s.state, coalesce(c.rows, 0)
       from (select e.enumlabel::text as state, e.enumsortorder as nth from pg_enum e where e.enumtypid = $1 union all select null, null) s
       left join (select t.state::text as state, count(*) as rows from %s t group by 1) c on c.state is not distinct from s.state
       order by s.nth', v_table) using v_type;
    return;
  end if;
  for state in select e.enumlabel from pg_enum e where e.enumtypid = v_type order by e.enumsortorder loop
    execute format('select count(*) from (select from %s t where t.state = %L::%s limit $1) r', v_table, state, v_type) into rows using p_most;
    return next;
  end loop;
  state := null;
  execute format('select count(*) from (select from %s t where t.state is null limit $1) r', v_table) into rows using p_most;
  return next;
end $$;

-- The old platform's wallet table of a name, where the backfill finds it (src/replay/legacy.ts); null where there is none.
create function console.legacy_table(p_name text) returns regclass
language sql stable set search_path = pg_catalog, pg_temp
return (
  select c.oid::regclass
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p') and c.relname = p_name and n.nspname in ('public', 'payments', 'organizations')
    and p_name in ('wallets', 'wallet_transactions', 'org_wallets', 'org_wallet_transactions')
  order by array_position(array['public', 'payments', 'organizations'], n.nspname::text)
  limit 1);

-- The wallet table of a source.
create function console.wallets_of_source(p_source text) returns regclass
language sql stable set search_path = pg_catalog, pg_temp
return console.legacy_table(case p_source when 'wallet_transactions' then 'wallets' when 'org_wallet_transactions' then 'org_wallets' end);

-- How many rows a source has, counted as far as p_most; null where its table is gone.
create function console.count_legacy_rows(p_source text, p_most bigint) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
declare
  v_table constant regclass := console.legacy_table(p_source);
  v_rows bigint;
begin
  if v_table is not null then
    execute format('select count(*) from (select from %s limit $1) r', v_table) into v_rows using p_most;
  end if;
  return v_rows;
end $$;

-- How many wallets of a source that are still there are kept by whom (legacy or ledger), of p_most at most.
create function console.count_wallets(p_book_id integer, p_source text, p_most bigint) returns table (mode text, wallets bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
declare
  v_table constant regclass := console.wallets_of_source(p_source);
begin
  if v_table is not null then
    return query execute format(
      'select r.mode, count(*)
       from (
         select r.mode from replay.wallets r join %s w on w.id = r.wallet_id where r.book_id = $1 and r.source = $2 limit $3
       ) r
       group by r.mode', v_table) using p_book_id, p_source, p_most;
  end if;
end $$;

-- Wallets of a source, by id, with what their rows come to: all that the old tables say of them. p_owner_id: one owner's alone. p_after: only
-- higher ids. unknown_cents: what rows of a type that no flow is known for come to, too much and too little added up. findings: rows that the
-- flows do not explain, by cause.
create function console.legacy_wallets(p_book_id integer, p_source text, p_owner_id uuid, p_after uuid, p_limit integer)
returns table (wallet_id uuid, owner_id uuid, balance_cents bigint, rows bigint, rows_cents bigint, unknown_cents bigint, findings jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
declare
  v_wallets constant regclass := console.wallets_of_source(p_source);
  v_rows constant regclass := console.legacy_table(p_source);
  v_is_org constant boolean := p_source = 'org_wallet_transactions';
begin
  if v_wallets is null or v_rows is null then
    return;
  end if;
  return query execute format(
    'select w.id, w.%3$I, w.balance_credits::bigint, h.rows, h.cents, h.unknown, f.by_cause
     from (select * from %1$s w where ($3 is null or w.id > $3) and ($4 is null or w.%3$I = $4) order by w.id limit $5) w
     cross join lateral (
       select count(*) as rows, coalesce(sum(t.credits_delta), 0)::bigint as cents, coalesce(sum(abs(t.credits_delta::bigint)) filter (
                where t.credits_delta <> 0 and (t.%4$I in (''purchase'', ''refund'', ''spend'', ''adjustment'', ''promo'')) is not true), 0)::bigint as unknown
       from %2$s t where t.wallet_id = w.id
     ) h
     cross join lateral (
       select coalesce(jsonb_object_agg(c.cause, c.rows), ''{}'') as by_cause
       from (
         select f.cause, count(*) as rows
         from %2$s t
         cross join lateral (
           select f.cause from replay.findings f where f.book_id = $1 and f.source = $2 and f.legacy_id = t.id limit 1
         ) f
         where t.wallet_id = w.id
         group by f.cause
       ) c
     ) f
     order by w.id',
    v_wallets, v_rows, case when v_is_org then 'org_id' else 'user_id' end, case when v_is_org then 'transaction_type' else 'type' end)
  using p_book_id, p_source, p_after, p_owner_id, p_limit;
end $$;

-- The names of the headers that an endpoint's requests bear, in order: whoever may not read their values may read these. Parameters: the endpoint's
-- id. Null where there is no such endpoint. Locks nothing.
create function outbox.header_names(p_endpoint uuid) returns text[]
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select array(select jsonb_object_keys(e.headers) order by 1) from outbox.endpoints e where e.id = p_endpoint
$$;

-- The role that the console reads this database as: roles are the server's, and what one may read of this database is nobody's affair in another.
create function console.reader() returns name language sql stable set search_path = pg_catalog, pg_temp as $$
  select left('liventix_reader_' || current_database(), 63)::name
$$;

-- Makes the role that the console reads as, where there is none, and lets it read what its pages show and nothing else; called again,
-- it adds what is new. For the owner. Returns whether anything was to be done.
-- Raises insufficient_privilege where the caller may not create roles, and the role is not there or not his to be.
-- Locks: an advisory lock until the end of the database transaction, because two consoles start at once.
create function console.install_reader() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_reader constant name := console.reader();
  v_ledger constant name[] := array['account_balances', 'account_changes', 'account_slots', 'account_types', 'accounts', 'balances', 'books',
    'entries', 'events', 'hold_entries', 'holds', 'periods', 'reversals', 'seal_tiles', 'seals'];
  v_outbox constant name[] := array['attachments', 'attempts', 'deliveries', 'endpoint_health', 'legacy_letters', 'relay', 'topics'];
  -- Not secret nor headers, whose values may be passwords: their names are read through outbox.header_names.
  v_of_endpoints constant name[] := array['id', 'url', 'topics', 'timeout_ms', 'max_in_flight', 'enabled', 'disabled_at', 'disabled_reason',
    'created_at', 'organization_id', 'ordered', 'filter', 'version', 'description', 'rate_per_second', 'retry_delays_ms', 'deleted_at'];
  v_schema regnamespace;
  v_relation regclass;
  v_function regprocedure;
  v_book integer;
  v_may_be_it boolean;
  v_column name;
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

  foreach v_schema in array array['payments', 'ref', 'public', 'outbox', 'replay', 'states', 'console']::regnamespace[] loop
    -- A grant that changes nothing still has every session plan anew.
    if not has_schema_privilege(v_reader, v_schema, 'usage') then
      execute format('grant usage on schema %s to %I', v_schema, v_reader);
      v_done := true;
    end if;
  end loop;
  for v_relation in
    select c.oid from pg_class c
    where not c.relispartition and c.relkind in ('r', 'p', 'v', 'm')
      and (c.relnamespace = any (array['ref', 'replay', 'states']::regnamespace[])
        -- By name: secrets are not among them, nor what an application keeps in these schemas, as its wallets in payments.
        or c.relnamespace = 'payments'::regnamespace and c.relname = any (v_ledger)
        or c.relnamespace = 'outbox'::regnamespace and c.relname = any (v_outbox)
        or c.oid = any (array['public.outbox', 'console.events', 'console.verifications']::regclass[]))
      and not has_table_privilege(v_reader, c.oid, 'select')
  loop
    execute format('grant select on %s to %I', v_relation, v_reader);
    v_done := true;
  end loop;

  for v_column in
    select a.attname from pg_attribute a
    where a.attrelid = 'outbox.endpoints'::regclass and a.attname = any (v_of_endpoints)
      and not has_column_privilege(v_reader, a.attrelid, a.attnum, 'select')
  loop
    execute format('grant select (%I) on outbox.endpoints to %I', v_column, v_reader);
    v_done := true;
  end loop;

  -- Reads alone: what posts, delivers or changes anything is not among them. What raises the errors of reads changes nothing; what runs as the
  -- owner was made for it, in this schema.
  for v_function in
    select p.oid from pg_proc p
    where (p.provolatile in ('s', 'i') or p.proname in ('raise_code', 'raise_period_code')) and p.prokind = 'f'
      and p.pronamespace = any (array['payments', 'outbox', 'replay', 'states', 'console']::regnamespace[])
      and (not p.prosecdef or p.pronamespace = 'console'::regnamespace or p.oid = 'outbox.header_names(uuid)'::regprocedure)
      and not has_function_privilege(v_reader, p.oid, 'execute')
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
    execute format('revoke all on function outbox.header_names(uuid) from %s', v_role);
    execute format('revoke all on all tables in schema console from %s', v_role);
    execute format('revoke all on schema console from %s', v_role);
  end loop;
end $$;
