-- The ledger's tables and their guards. payments.events is the log and the truth; accounts, entries and balances are
-- projections of it, written in the same database transaction by payments.project_events and by nothing else.
-- Errors carry a SQLSTATE of class LV; src/errors.ts and docs/errors.md list them.
-- book_id is part of every key: each book sums to zero by itself and can live on a server of its own. It comes last,
-- because PostgreSQL, as long as it believes a table empty, takes any index that begins with what it looks for: it looked
-- for an event by book alone, and went on reading the whole log for as long as the connection kept the plan.

create schema if not exists payments;

create table payments.books (
  book_id integer constraint books_pkey primary key,
  name text not null constraint books_name_key unique,
  created_at timestamptz not null default clock_timestamp()
);
insert into payments.books (book_id, name) values (1, 'main');

create table payments.account_types (
  type text constraint account_types_pkey primary key,
  normal_side text not null constraint account_types_normal_side_values check (normal_side in ('debit', 'credit')),
  description text not null
);

comment on table payments.account_types is
  'The chart of accounts. Entries are signed, debit positive and credit negative, whatever the type; the normal side only says which sign reads as a positive balance.';

-- The first seven are the plan's. The others have no place among them: what the platform gives away is neither fee nor
-- revenue, a hand''s correction is not trade, and what the old history cannot explain must stay visible by itself.
insert into payments.account_types (type, normal_side, description) values
  ('cash', 'credit', 'what a holder has with us: a wallet, our debt to them'),
  ('escrow', 'credit', 'money held for a deal until it is released or refunded'),
  ('receivable', 'debit', 'what others owe us, the card processor above all'),
  ('payable', 'credit', 'what we owe others, such as an organiser''s share of ticket sales'),
  ('revenue', 'credit', 'what we earned'),
  ('fees', 'debit', 'what the processor keeps'),
  ('taxes', 'credit', 'taxes collected and owed'),
  ('contra_revenue', 'debit', 'credits granted beyond what was paid for them'),
  ('adjustments', 'debit', 'corrections made by an administrator'),
  ('suspense', 'debit', 'what the old history cannot explain, one account per cause');

create sequence payments.events_position_seq as bigint;

create table payments.events (
  position bigint not null,
  recorded_at timestamptz not null,
  effective_at timestamptz not null,
  -- For reading below the snapshot horizon; means nothing on another server, so the leaf hash leaves it out.
  xid xid8 not null default pg_current_xact_id(),
  event_id uuid not null,
  -- No foreign key, which would look the book up for every event: accounts have one, and events need accounts.
  book_id integer not null,
  type text not null constraint events_type_values check (type in ('account.opened', 'transaction.posted', 'note.recorded')),
  created_by text not null,
  idempotency_scope text,
  idempotency_key text,
  request_hash bytea,
  payload jsonb not null,
  leaf_hash bytea not null,
  constraint events_pkey primary key (position, book_id),
  constraint events_event_id_key unique (event_id, book_id),
  constraint events_idempotency_whole check ((idempotency_scope is null) = (idempotency_key is null))
);
create unique index events_idempotency_key on payments.events (idempotency_key, idempotency_scope, book_id)
  where idempotency_key is not null;

comment on table payments.events is 'The append-only log. Replaying it in order of position rebuilds accounts, entries and balances exactly.';
comment on column payments.events.event_id is 'The id of what the event brought about: the account, or the transaction.';
comment on column payments.events.effective_at is 'When it happened in the world; recorded_at is when we wrote it down.';
comment on column payments.events.request_hash is 'SHA-256 of the request as it came; null where the event was imported, not asked for.';
comment on column payments.events.leaf_hash is 'payments.event_leaf_hash over every column but xid.';

create table payments.accounts (
  id uuid not null,
  created_at timestamptz not null,
  event_position bigint not null,
  organization_id uuid,
  user_id uuid,
  book_id integer not null constraint accounts_book_id_fkey references payments.books,
  type text not null constraint accounts_type_fkey references payments.account_types,
  currency text not null constraint accounts_currency_fkey references ref.currencies,
  name text not null constraint accounts_name_format check (name ~ '^[a-z0-9][a-z0-9_.:-]{0,99}$'),
  constraint accounts_pkey primary key (id, book_id),
  constraint accounts_one_owner check (organization_id is null or user_id is null),
  constraint accounts_natural_key unique nulls not distinct (organization_id, user_id, type, currency, name, book_id)
);
create index accounts_user_id on payments.accounts (user_id, book_id) where user_id is not null;

comment on table payments.accounts is 'Owned by an organization, by a user, or by the platform (neither). Owners are ids without a foreign key: their tables move between schemas.';

-- Wide columns first by alignment, so that a row carries no padding.
create table payments.entries (
  id bigint not null,
  event_position bigint not null,
  account_seq bigint not null,
  amount_cents bigint not null constraint entries_amount_not_zero check (amount_cents <> 0),
  balance_after_cents bigint not null,
  effective_at timestamptz not null,
  created_at timestamptz not null,
  account_id uuid not null,
  transaction_id uuid not null,
  book_id integer not null,
  currency text not null,
  created_by text not null,
  reference_type text,
  reference_id text,
  description text,
  metadata jsonb not null,
  constraint entries_pkey primary key (id, book_id),
  constraint entries_account_seq_key unique (account_id, account_seq, book_id)
);
create index entries_transaction_id on payments.entries (transaction_id, book_id);
create index entries_reference on payments.entries (reference_id, reference_type, book_id) where reference_id is not null;

comment on column payments.entries.id is 'event_position * 1024 + the leg''s number, so that a replay gives every entry the id it had.';
comment on column payments.entries.amount_cents is 'Signed minor units of the currency: debit positive, credit negative.';
comment on column payments.entries.account_seq is 'Order within the account, from 1, without gaps: history is ordered by it, never by a timestamp.';
comment on column payments.entries.balance_after_cents is 'Sum of the account''s amounts up to and with this entry.';

create table payments.balances (
  balance_cents bigint not null default 0,
  last_seq bigint not null default 0,
  account_id uuid not null,
  book_id integer not null,
  constraint balances_pkey primary key (account_id, book_id)
) with (fillfactor = 50);

comment on table payments.balances is 'The sum of each account''s entries, kept for speed; posting locks these rows. Signed like entries.';

-- What others read: an account with its balance in the sign its holder expects.
create view payments.account_balances with (security_invoker = true) as
select a.book_id, a.id as account_id, a.type, a.currency, a.name, a.user_id, a.organization_id,
       case t.normal_side when 'debit' then b.balance_cents else -b.balance_cents end as balance_cents,
       b.last_seq as entries
from payments.accounts a
join payments.account_types t using (type)
join payments.balances b on (b.book_id, b.account_id) = (a.book_id, a.id);

comment on view payments.account_balances is 'balance_cents is positive on the account type''s normal side.';

-- Raises one of our codes with its SQLSTATE. The message says what, which id and both values; the hint what to do.
create function payments.raise_code(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'LEDGER_INVALID' then 'LV001'
      when 'LEDGER_UNBALANCED' then 'LV002'
      when 'LEDGER_CURRENCY_UNKNOWN' then 'LV003'
      when 'LEDGER_CURRENCY_MISMATCH' then 'LV004'
      when 'LEDGER_ACCOUNT_UNKNOWN' then 'LV005'
      when 'LEDGER_AMOUNT_INVALID' then 'LV006'
      when 'LEDGER_AMOUNT_OVERFLOW' then 'LV007'
      when 'LEDGER_IDEMPOTENCY_CONFLICT' then 'LV008'
      when 'LEDGER_APPEND_ONLY' then 'LV009'
      when 'LEDGER_BOOK_UNKNOWN' then 'LV010'
      when 'LEDGER_ACCOUNT_TYPE_UNKNOWN' then 'LV011'
    end;
end $$;

-- Guards. They hold for every writer, the tables' owner included, and also where session_replication_role is replica.

create function payments.refuse_change() returns trigger
language plpgsql as $$
begin
  perform payments.raise_code('LEDGER_APPEND_ONLY', format(
    '%s of payments.%s refused: the ledger is append-only. Post a reversal instead.', tg_op, tg_table_name));
  return null;
end $$;

create trigger events_append_only before update or delete or truncate on payments.events
  for each statement execute function payments.refuse_change();
create trigger entries_append_only before update or delete or truncate on payments.entries
  for each statement execute function payments.refuse_change();
create trigger accounts_append_only before update or delete or truncate on payments.accounts
  for each statement execute function payments.refuse_change();
create trigger account_types_append_only before update or delete or truncate on payments.account_types
  for each statement execute function payments.refuse_change();
create trigger balances_not_removed before delete or truncate on payments.balances
  for each statement execute function payments.refuse_change();

-- Every INSERT into entries carries whole transactions: each sums to zero per currency, each entry belongs to an event
-- of the log and is in its account's currency. One look at all new rows; a row trigger would cost a quarter of the speed.
create function payments.check_new_entries() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select s.account_id, s.currency, s.account_currency into v_fault
  from (
    select d.account_id, d.currency,
           (select a.currency from payments.accounts a where a.book_id = d.book_id and a.id = d.account_id) as account_currency
    from (select distinct e.book_id, e.account_id, e.currency from new_entries e) d
    offset 0
  ) s
  where s.account_currency is distinct from s.currency
  limit 1;
  if found and v_fault.account_currency is null then
    perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist: open it first.', v_fault.account_id));
  elsif found then
    perform payments.raise_code('LEDGER_CURRENCY_MISMATCH', format(
      'An entry in %s on account %s, which holds %s.', v_fault.currency, v_fault.account_id, v_fault.account_currency));
  end if;

  select s.transaction_id, s.imbalance into v_fault
  from (
    select c.book_id, c.event_position, c.transaction_id, min(c.first_id) as first_id, max(c.last_id) as last_id,
           sum(c.legs) as legs, min(format('%s %s', c.cents, c.currency)) filter (where c.cents <> 0) as imbalance
    from (
      select e.book_id, e.event_position, e.transaction_id, e.currency, sum(e.amount_cents) as cents,
             min(e.id) as first_id, max(e.id) as last_id, count(*) as legs
      from new_entries e
      group by e.book_id, e.event_position, e.transaction_id, e.currency
    ) c
    group by c.book_id, c.event_position, c.transaction_id
  ) s
  where s.imbalance is not null
    -- Leg 1 and all up to the last: each id is there once, so nothing can be slipped in beside them later.
    or s.first_id <> s.event_position * 1024 + 1
    or s.last_id <> s.event_position * 1024 + s.legs
    or s.transaction_id is distinct from (
      select v.event_id from payments.events v
      where v.book_id = s.book_id and v.position = s.event_position and v.type = 'transaction.posted')
  order by s.imbalance
  limit 1;
  if found and v_fault.imbalance is not null then
    perform payments.raise_code('LEDGER_UNBALANCED', format(
      'Transaction %s sums to %s; every transaction must sum to zero per currency, in one INSERT.',
      v_fault.transaction_id, v_fault.imbalance));
  elsif found then
    perform payments.raise_code('LEDGER_INVALID', format(
      'Transaction %s has no event in the log that says so: post it with payments.post_transaction.', v_fault.transaction_id));
  end if;
  return null;
end $$;

create trigger entries_whole_transactions after insert on payments.entries
  referencing new table as new_entries for each statement execute function payments.check_new_entries();

-- A balance is what its account's last entry says, and zero before the first. Together with the entries' own guard: money
-- moves by entries and by nothing else.
create function payments.check_changed_balances() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select c.account_id, c.balance_cents, c.last_seq into v_fault
  from changed c
  -- By exact numbers, never by order: each is one look into the index, however many entries the account has.
  where c.balance_cents is distinct from case when c.last_seq = 0 then 0 else (
      select n.balance_after_cents from payments.entries n
      where n.book_id = c.book_id and n.account_id = c.account_id and n.account_seq = c.last_seq) end
    or (
      select n.id from payments.entries n
      where n.book_id = c.book_id and n.account_id = c.account_id and n.account_seq = c.last_seq + 1) is not null
  limit 1;
  if found then
    perform payments.raise_code('LEDGER_APPEND_ONLY', format(
      'A balance of %s after %s entries refused for account %s: its last entry says otherwise. Post a transaction instead.',
      v_fault.balance_cents, v_fault.last_seq, v_fault.account_id));
  end if;
  return null;
end $$;

create trigger balances_start_at_entries after insert on payments.balances
  referencing new table as changed for each statement execute function payments.check_changed_balances();
create trigger balances_follow_entries after update on payments.balances
  referencing new table as changed for each statement execute function payments.check_changed_balances();

alter table payments.events enable always trigger events_append_only;
alter table payments.entries enable always trigger entries_append_only;
alter table payments.entries enable always trigger entries_whole_transactions;
alter table payments.accounts enable always trigger accounts_append_only;
alter table payments.account_types enable always trigger account_types_append_only;
alter table payments.balances enable always trigger balances_not_removed;
alter table payments.balances enable always trigger balances_start_at_entries;
alter table payments.balances enable always trigger balances_follow_entries;
